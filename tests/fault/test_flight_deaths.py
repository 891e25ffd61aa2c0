# SPDX-License-Identifier: Apache-2.0
"""The answer cache and single-flight over real workers: a worker that is killed in mid-batch, a real model's answers."""
import json
import http.client
import threading

import pytest

from house import ASSETS, MODEL, PICTURES, Server, post

CACHE = "cache: {memory: 16MiB}\n"


@pytest.fixture
def cached(tmp_path):
    def make(workers, faults=None):
        path = tmp_path / "spillway.yaml"
        path.write_text(CACHE)
        return Server(tmp_path, workers=workers, faults=faults, args=("--config", path))
    return make


def at_once(server, body, count):
    """The same question on `count` connections; (status, header, body) of each."""
    replies, barrier = [], threading.Barrier(count)

    def one():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.connect()
        barrier.wait()
        connection.request("POST", "/infer?task=noop&cache=1", body, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        replies.append((answer.status, answer.getheader("X-Spillway-Cache"), answer.read()))
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(90)
    return replies


def test_worker_of_the_computation_is_killed(cached):
    with cached("noop0", "noop0/worker.batch:kill@n=2") as server:
        assert at_once(server, b"warm", 1)[0][0] == 200  # each new process counts anew, so only the second batch dies
        replies = at_once(server, b"one question", 40)
        assert [r[0] for r in replies] == [200] * 40 and {r[2] for r in replies} == {b"one question"}
        words = [r[1] for r in replies]
        assert words.count("miss") == 1 and set(words) <= {"miss", "shared", "hit"}
        assert server.restarts() == 1
        server.wait_idle()


def test_picture_is_computed_once_by_the_model(cached):
    if not MODEL.exists():
        pytest.skip(f"{MODEL} is not there: make model")
    picture = ASSETS / "media" / "images" / PICTURES[0]
    if not picture.exists():
        pytest.skip(f"{picture} is not there")
    with cached("codec0,cpu0") as server:
        first, second = (post(server, picture.read_bytes()) for _ in range(2))
        assert first[0] == second[0] == 200
        assert (first[1]["cache"], second[1]["cache"]) == ("miss", "hit")
        for key in ("predictions", "model", "model_version", "engine", "provider", "device", "precision"):
            assert first[1][key] == second[1][key], key
        assert second[1]["attempts"] == [] and second[1]["cost_usd"] == 0
        again = post(server, picture.read_bytes(), headers={"Cache-Control": "no-store"})
        assert again[1]["cache"] == "off" and again[1]["predictions"] == first[1]["predictions"]
        json.dumps(again)
