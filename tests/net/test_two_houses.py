# SPDX-License-Identifier: Apache-2.0
"""Two real servers: a front house without a model of its own CPU link, and a back house that has one. One client."""
import http.server
import json
import pathlib
import socket
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))
import house  # noqa: E402
from outside import reply  # noqa: E402


def picture(name="bee.jpeg"):
    return (house.ASSETS / "media" / "images" / name).read_bytes()


@pytest.fixture(scope="module")
def back(tmp_path_factory):
    if not house.PROGRAM.exists() or not (house.MODEL / "1" / "model.onnx").exists():
        pytest.skip(f"the default model is not in {house.MODEL} (make model)")
    if not house.ASSETS.exists():
        pytest.skip(f"test pictures are not in {house.ASSETS} (SPILLWAY_ASSETS)")
    with house.Server(tmp_path_factory.mktemp("back"), workers="codec0,cpu0") as server:
        yield server


@pytest.fixture
def start_front(tmp_path):
    """start_front(remotes, links, workers=...) -> a ready front house; stopped at the end."""
    servers = []

    def start(remotes, links, workers="codec0,net0", top="", **kw):
        path = tmp_path / f"spillway-{len(servers)}.yaml"
        lines = [top, "remotes:"]
        for name, (kind, url) in remotes.items():
            lines += [f"  {name}:", f"    kind: {kind}", f"    url: {url}"]
        lines += ["chains:", "  classify:", "    links:"] + [f"      - name: {link}" for link in links]
        path.write_text("\n".join(lines) + "\n")
        server = house.Server(tmp_path, workers=workers, args=["--config", path, "--data-dir", tmp_path / f"data-{len(servers)}"], **kw)
        servers.append(server)
        server.wait_ready()
        return server

    yield start
    for server in servers:
        server.stop()


def test_front_and_back_answer_alike(back, start_front):
    front = start_front({"back": ("spillway", back.url)}, ["back"])
    for name in house.PICTURES:
        here_status, here = house.post(back, picture(name))
        status, there = house.post(front, picture(name))
        assert (here_status, status) == (200, 200), there
        assert there["predictions"] == here["predictions"]
        assert there["model"] == here["model"] and there["device"] == "cpu" and there["engine"] == here["engine"]
        assert there["provider"] == "back/cpu0"
        assert [a["link"] for a in there["attempts"]] == ["back/codec0", "back/cpu0"]
        assert all(a["status"] == "ok" for a in there["attempts"])
    status, refused = house.post(front, b"no picture")
    assert status == 415 and refused["code"] == "unknown_format", refused


def test_a_dead_back_house_is_gone_around(back, start_front):
    front = start_front({"gone": ("spillway", "http://127.0.0.1:1"), "back": ("spillway", back.url)}, ["gone", "back"])
    status, answer = house.post(front, picture())
    assert status == 200 and answer["provider"] == "back/cpu0", answer
    assert answer["attempts"][0]["link"] == "gone" and answer["attempts"][0]["status"] == "unavailable"


def test_a_local_link_catches_a_remote_that_is_down(back, start_front):
    front = start_front({"gone": ("spillway", "http://127.0.0.1:1")}, ["gone", "cpu0"], workers="codec0,cpu0,net0")
    status, answer = house.post(front, picture())
    assert status == 200 and answer["provider"] == "cpu0", answer
    assert answer["predictions"] == house.post(back, picture())[1]["predictions"]


def test_a_circle_of_houses_is_broken(back, start_front):
    """A house whose only link is itself, by a relay: the hops run out, nobody waits for the deadline."""
    relay = socket.create_server(("127.0.0.1", 0))
    target = []

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve():
        while True:
            try:
                near, _ = relay.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", target[0]))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    front = start_front({"self": ("spillway", f"http://127.0.0.1:{relay.getsockname()[1]}")}, ["self"],
                        top="trusted_peers: [127.0.0.1]")
    target.append(front.port)
    status, answer = house.post(front, picture(), headers={"X-Spillway-Timeout-Ms": "20000"})
    relay.close()
    assert status in (501, 503), answer
    assert "houses" in json.dumps(answer) or "hops" in json.dumps(answer), answer


class TroubledHouse(http.server.BaseHTTPRequestHandler):
    """A back house that cannot: says so with attempts of its own."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"status": 503, "code": "no_link", "error": "no link is left", "provider": None, "attempts": [
            {"link": "codec0", "status": "ok", "reason": "", "ms": 1}, {"link": "cuda0", "status": "nomem", "reason": "full", "ms": 2}]})
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


def test_attempts_of_a_house_that_failed_are_told(back, start_front):
    troubled = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TroubledHouse)
    threading.Thread(target=troubled.serve_forever, daemon=True).start()
    front = start_front({"troubled": ("spillway", f"http://127.0.0.1:{troubled.server_port}"), "back": ("spillway", back.url)},
                        ["troubled", "back"])
    status, answer = house.post(front, picture())
    troubled.shutdown()
    assert status == 200, answer
    links = [(a["link"], a["status"]) for a in answer["attempts"]]
    assert ("troubled/cuda0", "nomem") in links and ("troubled", "unavailable") in links and links[-1] == ("back/cpu0", "ok"), links


@pytest.mark.parametrize("fault,requests,deaths", [("kill@n=5", 30, 3), ("segv@n=5", 30, 3), ("spin@n=3", 4, 1), ("stop@n=3", 4, 1)])
def test_a_net_worker_that_dies_or_hangs_costs_nothing(back, start_front, fault, requests, deaths):
    front = start_front({"back": ("spillway", back.url)}, ["back"], faults="net0/worker.batch:" + fault)
    for i in range(requests):
        status, answer = house.post(front, house.with_comment(picture(), i))
        assert status == 200, answer
    assert front.restarts() >= deaths


def test_waiting_for_a_slow_remote_is_no_hang(start_front):
    """Longer than the watchdog's budget, and nothing happens to the worker; the no-op behind it is not held up."""
    slow = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowHouse)
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    front = start_front({"slow": ("spillway", f"http://127.0.0.1:{slow.server_port}")}, ["slow"])
    status, answer = house.post(front, b"x" * 100)
    slow.shutdown()
    assert status == 200 and answer["predictions"][0]["label"] == "late", answer
    assert front.restarts() == 0


class SlowHouse(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(3)  # the watchdog's budget is two seconds
        body = json.dumps({"predictions": [{"class_id": 1, "label": "late", "probability": 0.5}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_a_kserve_server_in_the_chain(back, start_front, scripted):
    """Decoded here, run there, ranked here; when it is down the local link has it, and the answer is the same."""
    pytest.importorskip("numpy", reason="the double computes with numpy")
    pytest.importorskip("onnxruntime", reason="the double runs the model with onnxruntime")
    sys.path.insert(0, str(house.ROOT / "bench" / "peers"))
    from job import Job
    from test_net_kserve import Double
    triton = scripted(Double(Job(house.MODEL, threads=1).infer))
    front = start_front({"triton": ("kserve", triton.url)}, ["triton", "cpu0"], workers="codec0,cpu0,net0")
    for name in house.PICTURES:
        status, there = house.post(front, picture(name))
        here = house.post(back, picture(name))[1]
        assert status == 200 and there["provider"] == "triton", there
        assert [(p["class_id"], p["label"]) for p in there["predictions"]] == [(p["class_id"], p["label"]) for p in here["predictions"]]
        assert all(abs(a["probability"] - b["probability"]) <= 1e-5 for a, b in zip(there["predictions"], here["predictions"]))
    triton.script = reply(503, b'{"error":"loading"}', keep=False)
    status, answer = house.post(front, house.with_comment(picture(), 1))
    assert status == 200 and answer["provider"] == "cpu0", answer


def test_a_remote_that_does_everything_wrong_costs_no_answer(back, start_front, scripted):
    """429, 500, half bodies, garbage, silence, a refusal: each request is answered rightly by the link behind it."""
    patience = threading.Event()

    def silent(connection, request, number):
        patience.wait(30)

    def raw(text):
        return lambda connection, request, number: connection.sendall(text)
    wrongs = [
        reply(429, b"{}", ["Retry-After: 0"]), reply(500, b"oops"), raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{\"predictions\":["),
        reply(200, b"not json"), silent, raw(b""), reply(422, json.dumps({"code": "SAFETY_BLOCKED", "error": "no"}).encode()),
        raw(b"\x15\x03\x01"), reply(302, headers=["Location: http://example.com/"]), reply(200, b'{"predictions":[{"class_id":1}]}'),
    ]
    nasty = scripted(lambda connection, request, number: wrongs[number % len(wrongs)](connection, request, number) and False)
    nasty_link = "nasty\n        timeout: 300ms\n        breaker: {consecutive_failures: 1000, failure_percent: 100}"
    front = start_front({"nasty": ("spillway", nasty.url)}, [nasty_link, "cpu0"], workers="codec0,cpu0,net0")
    right = house.post(back, picture())[1]["predictions"]
    for i in range(2 * len(wrongs)):
        status, answer = house.post(front, house.with_comment(picture(), i))
        assert status == 200 and answer["predictions"] == right and answer["provider"] == "cpu0", (i, answer)
    patience.set()
    assert len(nasty.heads) >= len(wrongs)


def by_url(server, url, **more):
    return house.post(server, json.dumps({"url": url, **more}).encode(), headers={"Content-Type": "application/json"})


def test_a_url_instead_of_a_body(back, start_front, scripted):
    """The net worker fetches, the codec decodes; unless the URL leads to this machine and nobody allowed that."""
    server = scripted(reply(200, picture()))
    remotes = {"back": ("spillway", back.url)}
    allowed = start_front(remotes, ["cpu0"], workers="codec0,cpu0,net0", top="fetch: {allow_private: true}")
    status, answer = by_url(allowed, server.url + "/cat.jpg")
    assert status == 200 and answer["predictions"] == house.post(back, picture())[1]["predictions"], answer
    status, answer = by_url(allowed, scripted(reply(404, b"gone")).url)
    assert status == 400 and answer["code"] == "fetch_failed" and "404" in answer["error"], answer
    status, answer = by_url(allowed, server.url, local_only=True)
    assert status in (400, 403), answer

    asked = len(server.heads)
    strict = start_front(remotes, ["back"], workers="codec0,net0")
    status, answer = by_url(strict, server.url + "/cat.jpg")
    assert status == 403 and answer["code"] == "private_address", answer
    assert len(server.heads) == asked
