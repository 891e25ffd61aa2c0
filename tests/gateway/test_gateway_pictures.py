# SPDX-License-Identifier: Apache-2.0
"""The real program on real pictures: the right label, by every way to send one, and every reply names who answered."""
import json
import os
import subprocess

import pytest
import requests

from test_gateway_http import check_named, form, form_headers
from test_gateway_malformed import MODELS, ROOT

ASSETS = os.environ.get("SPILLWAY_ASSETS", os.path.join(os.path.dirname(ROOT), "shared", "assets"))
PICTURES = {"fish.png": "tench", "zebra.jpeg": "zebra", "golden_retriever.jpeg": "golden retriever"}


@pytest.fixture
def house(spillway):
    if not os.path.isdir(os.path.join(ASSETS, "media", "images")):
        pytest.skip("no pictures in " + ASSETS)
    if not os.path.isdir(MODELS) or not os.listdir(MODELS):
        pytest.skip("no model in " + MODELS)
    server = spillway("--workers", "codec0,cpu0", "--model-repository", MODELS)
    health = server.wait_for(lambda h: h["ready"] or any(w["state"] in ("quarantined", "backoff") for w in h["workers"]),
                             "workers decide", 60)
    if not health["ready"]:
        pytest.skip("no house here: " + "; ".join("%s %s" % (w["name"], w["reason"]) for w in health["workers"]))
    return server


def picture(name):
    with open(os.path.join(ASSETS, "media", "images", name), "rb") as file:
        return file.read()


def test_pictures_are_classified_however_they_are_sent(house):
    for name, label in PICTURES.items():
        data = picture(name)
        answers = [
            requests.post(house.url + "/infer", files={"image": (name, data)}, timeout=60).json(),
            requests.post(house.url + "/infer", files={"file": (name, data)}, data={"top_k": "5", "decode": "exact"}, timeout=60).json(),
            requests.post(house.url + "/infer", data=data, headers={"Content-Type": "image/jpeg"}, timeout=60).json(),
            requests.post(house.url + "/infer", data=iter([data[:1000], data[1000:]]), headers={"Content-Type": "application/octet-stream"},
                          timeout=60).json(),
        ]
        path = os.path.join(ASSETS, "media", "images", name)
        out = subprocess.run(["curl", "-sS", "-m", "60", "-F", "image=@" + path, house.url + "/infer"], capture_output=True, text=True)
        answers.append(json.loads(out.stdout))
        for answer in answers:
            assert answer["predictions"][0]["label"] == label, answer
            assert answer["predictions"] == answers[0]["predictions"], "the same picture, another answer"
            assert answer["provider"] == "cpu0" and [a["link"] for a in answer["attempts"]] == ["codec0", "cpu0"]
            times = answer["latency_ms"]
            assert times["decode"] > 0 and times["inference"] > 0 and times["total"] >= times["inference"]
            assert answer["throughput"] > 0 and answer["batch_size"] >= 1


def test_every_reply_of_the_real_house_names_who_answered(house):
    data = picture("zebra.jpeg")
    walk = {
        "infer": (200, house.post("/infer", data, {"Content-Type": "image/jpeg"})),
        "form": (200, house.post("/infer?decode=fast", form([("image", data)]), form_headers())),
        "noop": (200, house.post("/infer?task=noop", b"echo")),
        "truncated": (400, house.post("/infer", data[:5000])),
        "no picture": (415, house.post("/infer", b"id;name\n1;a\n")),
        "no such model": (404, house.post("/infer?model=resnet9000", data)),
        "healthz": (200, house.get("/healthz")),
        "readyz": (200, house.get("/readyz")),
        "metrics": (200, house.get("/metrics")),
        "landing": (200, house.get("/")),
    }
    for what, (status, reply) in walk.items():
        assert reply.status == status, (what, reply.status, reply.body[:300])
        check_named(reply, what)
    assert walk["form"][1].json()["decode"] == "fast" and walk["infer"][1].json()["decode"] == "exact"
    assert walk["noop"][1].body == b"echo"
    assert walk["truncated"][1].headers["x-spillway-attempts"].startswith("codec0=invalid")
