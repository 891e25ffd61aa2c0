# SPDX-License-Identifier: Apache-2.0
"""local_only: no byte of such a request leaves this machine. The real program with a net worker, whose remote is asked
first, and a double of that remote which counts every connection and every byte that reaches it."""
import hashlib
import json
import socket
import threading

import pytest

import conftest
from test_access import tokens_yaml

PAYLOAD = b"only here " * 100


class Double:
    """Takes connections, reads what comes, answers nothing good."""

    def __init__(self):
        self.connections, self.bytes = 0, b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.settimeout(5)
                try:
                    data = b""
                    while b"\r\n\r\n" not in data or (b"POST" in data and PAYLOAD not in data):
                        more = connection.recv(65536)
                        if not more:
                            break
                        data += more
                    self.bytes += data
                    connection.sendall(b"HTTP/1.1 503 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    pass

    def stop(self):
        self.socket.close()


@pytest.fixture(scope="module")
def double():
    one = Double()
    yield one
    one.stop()


@pytest.fixture
def server(double, spillway, tmp_path):
    def make(more=""):
        path = tmp_path / "spillway.yaml"
        path.write_text("workers: [noop0, net0]\n"
                        "fetch: {allow_private: true}\n"
                        "remotes:\n  far: {kind: spillway, url: 'http://127.0.0.1:%d'}\n"
                        "chains:\n  noop: {links: [far, noop0]}\n%s" % (double.port, more))
        one = spillway("--config", str(path))
        if not more:
            one.wait_for(lambda h: all(w["state"] == "ready" for w in h["workers"]), "ready", 20)
        return one
    return make


def test_nothing_leaves_when_it_is_asked_so(server, double):
    one = server()
    ways = [("/infer?task=noop&local_only=1", {}), ("/infer?task=noop", {"X-Spillway-Local-Only": "1"}),
            ("/infer?task=noop&local_only=true&force_cpu=1", {})]
    before = double.connections
    for path, headers in ways * 5:
        reply = one.post(path, PAYLOAD, headers)
        assert reply.status == 200 and reply.body == PAYLOAD
        assert reply.headers["x-spillway-link"] == "noop0"
    assert double.connections == before
    # And the double is really asked otherwise: the test would see it.
    reply = one.post("/infer?task=noop", PAYLOAD)
    assert reply.status == 200 and reply.headers["x-spillway-link"] == "noop0"
    assert double.connections > before and PAYLOAD[:50] in double.bytes


def test_urls_are_not_fetched(server, double):
    one = server()
    body = json.dumps({"url": "http://127.0.0.1:%d/cat.jpg" % double.port}).encode()
    before = double.connections
    for path, headers in (("/infer?task=noop&local_only=1", {}), ("/infer?task=noop", {"X-Spillway-Local-Only": "1"})):
        reply = one.post(path, body, {"Content-Type": "application/json", **headers})
        assert reply.status == 403 and reply.json()["code"] == "local_only", reply.body
    inside = json.dumps({"url": "http://127.0.0.1:%d/cat.jpg" % double.port, "local_only": True}).encode()
    assert one.post("/infer?task=noop", inside, {"Content-Type": "application/json"}).status == 403
    assert double.connections == before
    reply = one.post("/infer?task=noop", body, {"Content-Type": "application/json"})
    assert reply.status >= 400 and double.connections > before, reply.body


def test_nothing_leaves_for_a_token_that_is_local_only(server, double):
    secret = "at-home"
    one = server(tokens_yaml({"name": "home", "sha256": hashlib.sha256(secret.encode()).hexdigest(), "scopes": "[infer]",
                              "local_only": "true"},
                             {"name": "watch", "sha256": hashlib.sha256(b"watch").hexdigest(), "scopes": "[metrics]"}))
    home, watch = ({"Authorization": "Bearer " + t} for t in (secret, "watch"))

    def ready():
        with one.raw() as raw:
            raw.send(("GET /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n\r\n" % watch["Authorization"]).encode())
            return all(w["state"] == "ready" for w in raw.reply().json()["workers"])

    import time
    until = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)
    before = double.connections
    for path in ("/infer?task=noop", "/infer?task=noop&local_only=0"):
        reply = one.post(path, PAYLOAD, home)
        assert reply.status == 200 and reply.headers["x-spillway-link"] == "noop0"
    url = json.dumps({"url": "http://127.0.0.1:%d/cat.jpg" % double.port, "local_only": False}).encode()
    assert one.post("/infer?task=noop", url, {"Content-Type": "application/json", **home}).status == 403
    assert double.connections == before


@pytest.mark.parametrize("body, code", [
    (b"", "bad_json"), (b"{", "bad_json"), (b"[]", "bad_json"), (b"{\"url\": 1}", "bad_json"), (b"{\"top_k\": 1}", "bad_json"),
    (b"{\"url\": \"ftp://x/\"}", "bad_url"), (b"{\"url\": \"http:///\"}", "bad_url"),
    (b"{\"url\": \"http://x/\", \"colour\": 1}", "unknown_member"), (b"{\"url\": \"http://x/\", \"top_k\": 0}", "bad_parameter"),
    (b"{\"url\": \"http://x/\", \"top_k\": [1]}", "bad_parameter"), (b"{\"url\": \"http://x/\", \"url\": \"http://x/\"}", "bad_json"),
])
def test_bad_json_is_told(gateway, body, code):
    reply = gateway.post("/infer?task=noop", body, {"Content-Type": "application/json"})
    assert reply.status == 400 and reply.json()["code"] == code, reply.body
    assert gateway.post("/infer", b"x" * 70000, {"Content-Type": "application/json"}).status == 413
