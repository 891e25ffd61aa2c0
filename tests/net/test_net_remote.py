# SPDX-License-Identifier: Apache-2.0
"""REMOTE: another Spillway, played by a double that answers what a test wants, and by the real program."""
import json
import pathlib
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))
import house  # noqa: E402
from outside import reply  # noqa: E402

ANSWER = {
    "request_id": "r", "model": "m", "model_version": "3", "engine": "onnxruntime 1.31.1", "provider": "cuda0", "device": "cuda",
    "precision": "fp16", "reason": "died",
    "attempts": [{"link": "codec0", "status": "ok", "reason": "", "ms": 1.5},
                 {"link": "cuda1", "status": "unavailable", "reason": "worker died (signal 9)", "ms": 2},
                 {"link": "cuda0", "status": "ok", "reason": "", "ms": 3.25}],
    "predictions": [{"class_id": 7, "label": "cat", "probability": 0.75}, {"class_id": 9, "label": None, "probability": 0.125}],
    "decode": "exact", "batch_size": 4,
    "latency_ms": {"queue": 0.1, "decode": 2.0, "preprocess": 0.5, "inference": 4.0, "postprocess": 0.25, "total": 7},
}


def config(url, extra="", kind="spillway"):
    return f"remotes:\n  back:\n    kind: {kind}\n    url: {url}\n{extra}"


def ask(net, url, extra="", kind="spillway", **more):
    ask.serial += 1
    net.config(config(url, extra, kind), serial=ask.serial)
    more.setdefault("body", b"picture")
    return net.run("remote", serial=ask.serial, **more)


ask.serial = 100


def problem(status, code, words="because", attempts=(), **more):
    document = {"type": "about:blank", "title": "X", "status": status, "detail": words, "error": words, "code": code,
                "provider": "cpu0" if attempts else None, "attempts": list(attempts), **more}
    return reply(status, json.dumps(document).encode(), more.get("headers", ()))


def test_the_whole_answer_comes_over(net, scripted):
    server = scripted(reply(200, json.dumps(ANSWER).encode()))
    answer = ask(net, server.url + "/", top_k=2, model="m", fast=True, hops=1, content_type="image/jpeg", timeout_ms=9000)
    assert answer["status"] == "ok", answer
    assert answer["predictions"] == [{"class_id": 7, "label": "cat", "probability": 0.75},
                                     {"class_id": 9, "label": "", "probability": 0.125}]
    assert answer["who"] == {"link": "cuda0", "device": "cuda", "precision": "fp16", "model": "m", "version": "3",
                             "engine": "onnxruntime 1.31.1"}
    assert answer["attempts"] == ANSWER["attempts"]
    assert answer["inference_ms"] == 4.0
    request = server.heads[0]
    path, query = request.target.split("?")
    assert path == "/infer" and set(query.split("&")) == {"task=classify", "top_k=2", "decode=fast", "model=m"}
    assert request.method == "POST" and request.body == b"picture"
    assert request.headers["content-type"] == "image/jpeg" and request.headers["x-spillway-hops"] == "2"
    assert request.headers["x-request-id"].startswith("id-") and 1 <= int(request.headers["x-spillway-timeout-ms"]) <= 9000
    assert "authorization" not in request.headers and "traceparent" not in request.headers


def test_the_attempt_is_the_far_sides_parent(net, scripted):
    server = scripted(reply(200, json.dumps(ANSWER).encode()))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert ask(net, server.url, traceparent=f"00-{trace}-00f067aa0ba902b7-01", tracestate="a=b,c=d")["status"] == "ok"
    assert server.heads[0].headers["traceparent"] == f"00-{trace}-ab01020304050607-01"
    assert server.heads[0].headers["tracestate"] == "a=b,c=d"


def test_the_body_goes_straight_through(net, scripted):
    server = scripted(reply(200, json.dumps(ANSWER).encode()))
    body = bytes(i * 7 % 251 for i in range(3_000_000))
    assert ask(net, server.url, body=body)["status"] == "ok"
    assert server.heads[0].body == body


def test_a_circle_of_houses_ends(net, scripted):
    server = scripted(reply(200, json.dumps(ANSWER).encode()))
    assert ask(net, server.url, hops=3)["status"] == "ok"
    answer = ask(net, server.url, hops=4)
    assert (answer["status"], answer["code"]) == ("unsupported", "too_many_hops") and len(server.heads) == 1


@pytest.mark.parametrize("http,code,status,expected", [
    (400, "truncated", "invalid", "truncated"), (400, "corrupt", "invalid", "corrupt"), (415, "unknown_format", "invalid", "unknown_format"),
    (413, "image_pixels", "too_large", "image_pixels"), (413, "body_too_large", "unsupported", "remote_rejected"),
    (400, "bad_parameter", "unsupported", "remote_rejected"), (404, "no_such_model", "unsupported", "remote_no_model"),
    (401, "no_token", "unavailable", "remote_denied"), (403, "scope", "unavailable", "remote_denied"),
    (422, "crashed_decoder", "refused", "crashed_decoder"), (422, "", "refused", "remote_refused"),
    (429, "no_slot", "busy", "remote_busy"), (500, "internal", "unavailable", "remote_failed"),
    (500, "crashed_model", "unavailable", "crashed_model"), (501, "no_decoder", "unsupported", "remote_rejected"),
    (503, "no_link", "unavailable", "remote_failed"), (504, "deadline", "timeout", "remote_timeout"), (508, "too_many_hops", "unsupported", "too_many_hops"),
    (302, "", "unavailable", "redirect"), (204, "", "unsupported", "remote_rejected")])
def test_what_each_refusal_means(net, scripted, http, code, status, expected):
    answer = ask(net, scripted(problem(http, code)).url)
    assert (answer["status"], answer["code"]) == (status, expected), answer


def test_a_failure_brings_its_attempts(net, scripted):
    attempts = [{"link": "codec0", "status": "ok", "reason": "", "ms": 1}, {"link": "cpu0", "status": "nomem", "reason": "full", "ms": 2}]
    answer = ask(net, scripted(problem(503, "no_link", attempts=attempts, headers=["Retry-After: 4"])).url)
    assert answer["status"] == "unavailable" and answer["retry_after_s"] == 4
    assert answer["attempts"] == attempts and answer["who"]["link"] == "cpu0"


@pytest.mark.parametrize("body", [
    b"", b"{}", b"[]", b"null", b"not json", b'{"predictions":[]}', b'{"predictions":{}}', b'{"predictions":[1]}',
    b'{"predictions":[{"class_id":1}]}', b'{"predictions":[{"class_id":-1,"probability":0.5}]}',
    b'{"predictions":[{"class_id":1.5,"probability":0.5}]}', b'{"predictions":[{"class_id":1,"probability":7}]}',
    b'{"predictions":[{"class_id":99999999999,"probability":0.5}]}', b'{"predictions":[{"class_id":1,"probability":"x"}]}',
    json.dumps({"predictions": [{"class_id": 1, "probability": 0.5}] * 101}).encode(), b"[" * 100000, json.dumps(ANSWER).encode()[:-5]])
def test_an_answer_that_is_none(net, scripted, body):
    answer = ask(net, scripted(reply(200, body)).url)
    assert (answer["status"], answer["code"]) == ("corrupt", "bad_answer"), answer


def test_an_answer_has_a_size(net, scripted):
    server = scripted(reply(200, json.dumps({**ANSWER, "more": "x" * 5000}).encode()))
    answer = ask(net, server.url, "    response_limit: 2KiB\n")
    assert (answer["status"], answer["code"]) == ("unavailable", "answer_too_large")


def test_problems_that_are_no_json(net, scripted):
    answer = ask(net, scripted(reply(502, b"<html>bad gateway" + b"x" * 100000)).url)
    assert (answer["status"], answer["code"], answer["origin_code"]) == ("unavailable", "remote_failed", 502)


def test_the_key_is_sent_and_never_told(start_net, scripted, tmp_path):
    (tmp_path / "key").write_text("s3cr3t-t0ken\n")
    net = start_net(env={"BACK_KEY": "other-t0ken"})
    server = scripted(problem(401, "no_token"))
    extra = f"    keys:\n      - file: {tmp_path}/key\n      - env: BACK_KEY\n      - env: NOT_THERE_KEY\n"
    first, second = ask(net, server.url, extra, key=0), ask(net, server.url, extra, key=1)
    assert [r.headers["authorization"] for r in server.heads] == ["Bearer s3cr3t-t0ken", "Bearer other-t0ken"]
    missing = ask(net, server.url, extra, key=2)
    assert (missing["status"], missing["code"]) == ("unavailable", "remote_key") and "NOT_THERE_KEY" in missing["message"]
    assert "t0ken" not in str([first, second, missing]) + net.log_text()


def test_tls_is_verified_unless_told_otherwise(net, scripted, certificate, server_tls):
    server = scripted(reply(200, json.dumps(ANSWER).encode()), tls=server_tls)
    answer = ask(net, server.url)
    assert (answer["status"], answer["code"]) == ("unavailable", "tls_failed") and not server.heads
    assert ask(net, server.url, f"    ca_file: {certificate[0]}\n")["status"] == "ok"
    assert ask(net, server.url, "    verify_tls: false\n")["status"] == "ok"
    named = server.url.replace("127.0.0.1", "127.0.0.2")  # the certificate is for another name
    assert ask(net, named, f"    ca_file: {certificate[0]}\n")["status"] == "unavailable"
    assert ask(net, server.url)["code"] == "tls_failed"  # a kept, unverified connection is not used for it


def test_snapshots_of_the_configuration(net, scripted):
    servers = [scripted(problem(500, f"n{i}")) for i in range(6)]
    for i, server in enumerate(servers):
        net.config(config(server.url), serial=1000 + i)
    seen = [net.run("remote", serial=1000 + i, body=b"x")["code"] for i in range(6)]
    assert seen == ["no_config"] * 2 + ["remote_failed"] * 4  # the last four are kept
    net.config("remotes: [", serial=1006)
    assert net.run("remote", serial=1006, body=b"x")["code"] == "no_config"
    assert net.run("remote", serial=1005, remote=3, body=b"x")["status"] == "internal"


def test_noop_is_forwarded(net, scripted):
    headers = ["X-Spillway-Link: noop0", "X-Spillway-Device: cpu", "X-Spillway-Precision: none",
               "X-Spillway-Attempts: noop1=unavailable, noop0=ok"]
    answer = ask(net, scripted(reply(200, b"echo", headers)).url, task="noop", body=b"echo")
    assert answer["payload"] == "echo" and answer["who"]["link"] == "noop0"
    assert [(a["link"], a["status"]) for a in answer["attempts"]] == [("noop1", "unavailable"), ("noop0", "ok")]


# --- the real program ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def back(tmp_path_factory):
    if not house.PROGRAM.exists() or not (house.MODEL / "1" / "model.onnx").exists():
        pytest.skip(f"the default model is not in {house.MODEL} (make model)")
    if not house.ASSETS.exists():
        pytest.skip(f"test pictures are not in {house.ASSETS} (SPILLWAY_ASSETS)")
    with house.Server(tmp_path_factory.mktemp("back"), workers="codec0,cpu0") as server:
        yield server


def test_two_houses_answer_alike(net, back):
    for name in house.PICTURES:
        body = (house.ASSETS / "media" / "images" / name).read_bytes()
        status, direct = house.post(back, body)
        assert status == 200
        answer = ask(net, back.url, body=body, timeout_ms=30000)
        assert answer["status"] == "ok", answer
        assert [(p["class_id"], p["label"]) for p in answer["predictions"]] == \
               [(p["class_id"], p["label"]) for p in direct["predictions"]]
        assert all(abs(a["probability"] - b["probability"]) <= 1e-6
                   for a, b in zip(answer["predictions"], direct["predictions"]))
        assert answer["who"]["link"] == "cpu0" and answer["who"]["device"] == "cpu" and answer["who"]["engine"].startswith("onnx")
        assert [a["link"] for a in answer["attempts"]] == [a["link"] for a in direct["attempts"]]


def test_two_houses_refuse_alike(net, back):
    broken = (house.ASSETS / "media" / "images" / "bee.jpeg").read_bytes()[:5000]
    for body in (b"no picture at all", broken):
        status, direct = house.post(back, body)
        answer = ask(net, back.url, body=body)
        assert status in (400, 415) and (answer["status"], answer["code"]) == ("invalid", direct["code"]), (direct, answer)
    assert ask(net, back.url, body=b"x", model="no-such-model")["code"] == "remote_no_model"


def test_64_at_once_to_a_real_house(net, back):
    body = (house.ASSETS / "media" / "images" / "bee.jpeg").read_bytes()
    net.config(config(back.url), serial=77)
    ids = [net.start("remote", serial=77, body=body, timeout_ms=60000) for _ in range(64)]
    answers = [net.wait(i, 90) for i in ids]
    assert {a["status"] for a in answers} == {"ok"}
    assert len({json.dumps(a["predictions"]) for a in answers}) == 1
