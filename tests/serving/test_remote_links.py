# SPDX-License-Identifier: Apache-2.0
"""A KServe server as a link of infer: tensors go there and come back as if they had been computed here, and when it is down, or
answers nonsense, the next link has them. The far server is a Spillway, or a double that lies."""
import http.server
import json
import os
import tempfile
import threading

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
import tritonclient.http as httpclient

import served_house as house

CONFIG = """
name: "%s" backend: "identity" max_batch_size: %d
input [ { name: "BYTES_IN" data_type: TYPE_STRING dims: [ -1 ] }, { name: "FLOATS" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "BYTES_OUT" data_type: TYPE_STRING dims: [ -1 ] }, { name: "SAME" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""
FRONT = """
workers: [codec0, cpu0, net0]
remotes:
  far: {kind: kserve, url: 'http://127.0.0.1:%d'}
  liar: {kind: kserve, url: 'http://127.0.0.1:%d', response_limit: 1MiB}
chains:
  infer:
    links:
      - {name: far, retries: 0, breaker: {consecutive_failures: 1000}}
      - {name: liar, retries: 0, breaker: {consecutive_failures: 1000}}
      - cpu0
"""


class Liar(http.server.BaseHTTPRequestHandler):
    """Answers every inference with `say`: (status, headers, body)."""
    protocol_version = "HTTP/1.1"
    say = (500, {}, b"{}")
    calls = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).calls += 1
        status, headers, body = type(self).say
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def served():
    with tempfile.TemporaryDirectory(prefix="spillway-remote-links-") as folder:
        for name, batch in (("plain", 0), ("batched", 4)):
            house.write(f"{folder}/models/{name}/config.pbtxt", CONFIG % (name, batch))
            os.makedirs(f"{folder}/models/{name}/1")
        liar = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
        liar.handle_error = lambda *args: None  # a connection that is reset because its answer is too long
        threading.Thread(target=liar.serve_forever, daemon=True).start()
        servers = []
        try:
            back = house.Server(f"{folder}/models", args=["--data-dir", f"{folder}/back"])
            servers.append(back)
            house.write(f"{folder}/front.yaml", FRONT % (back.port, liar.server_port))
            front = house.Server(f"{folder}/models", workers="codec0,cpu0,net0",
                                 args=["--config", f"{folder}/front.yaml", "--data-dir", f"{folder}/front"])
            servers.append(front)
            back.wait_models(["plain", "batched"])
            front.wait_models(["plain", "batched"])
            yield front, back
        finally:
            liar.shutdown()
            for server in servers:
                if server.process.poll() is None:
                    server.stop()


def ask(server, name, rows=None, count=5, binary=True, limit=None):
    """Both tensors there and back; True when they are equal."""
    rng = np.random.default_rng(count)
    shape = [count] if rows is None else [rows, count]
    floats = rng.standard_normal(shape).astype(np.float32)
    words = np.array([f"w{i}-é".encode() * (i % 3) for i in range(floats.size)], dtype=np.object_).reshape(shape)
    with httpclient.InferenceServerClient(server.address, network_timeout=20) as client:
        inputs = [httpclient.InferInput("FLOATS", shape, "FP32"), httpclient.InferInput("BYTES_IN", shape, "BYTES")]
        inputs[0].set_data_from_numpy(floats, binary_data=binary)
        inputs[1].set_data_from_numpy(words, binary_data=binary)
        outputs = [httpclient.InferRequestedOutput("SAME", binary_data=binary), httpclient.InferRequestedOutput("BYTES_OUT", binary_data=binary)]
        answer = client.infer(name, inputs, outputs=outputs[:limit])
    same = np.array_equal(answer.as_numpy("SAME"), floats)
    got = [w if isinstance(w, bytes) else w.encode() for w in answer.as_numpy("BYTES_OUT").ravel()] if limit is None else None
    return same and (got is None or got == list(words.ravel()))


def count(server, name):
    stats = json.loads(server.get(f"/v2/models/{name}/stats")[1])["model_stats"][0]
    return stats["inference_stats"]["success"]["count"]


def test_tensors_go_far_and_come_back(served):
    front, back = served
    before = count(back, "plain"), count(back, "batched")
    assert ask(front, "plain")
    assert ask(front, "plain", binary=False)
    assert ask(front, "plain", count=300000)  # over a megabyte each way, in memfds here
    assert ask(front, "plain", count=20000, binary=False)  # unpacked by the codec first
    assert ask(front, "plain", limit=1)
    assert ask(front, "batched", rows=3, count=7)
    assert (count(back, "plain"), count(back, "batched")) == (before[0] + 5, before[1] + 1)
    links = {link["name"]: link for link in json.loads(front.get("/v1/links")[1])["links"] if link["task"] == "infer"}
    assert set(links) == {"far", "liar", "cpu0"}


def tensor(name, datatype, shape, size):
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def lie(outputs, binary, header=None):
    text = json.dumps({"model_name": "plain", "outputs": outputs}).encode()
    return 200, {"Inference-Header-Content-Length": str(len(text) if header is None else header)}, text + binary


FLOATS, WORDS = tensor("SAME", "FP32", [5], 20), tensor("BYTES_OUT", "BYTES", [5], 25)
GOOD = bytes(20) + b"\1\0\0\0x" * 5
LIES = {
    "an error": (500, {}, b'{"error": "no"}'),
    "not found": (404, {}, b'{"error": "unknown model"}'),
    "no header length": (200, {}, b"{}"),
    "a header longer than all": lie([FLOATS, WORDS], GOOD, 100000),
    "no JSON": (200, {"Inference-Header-Content-Length": "5"}, b"hello"),
    "a tensor is missing": lie([FLOATS], bytes(20)),
    "a tensor twice": lie([FLOATS, FLOATS, WORDS], bytes(20) + GOOD),
    "fewer bytes than said": lie([FLOATS, WORDS], GOOD[:30]),
    "another size than the shape's": lie([tensor("SAME", "FP32", [6], 20), WORDS], GOOD),
    "a negative size": lie([tensor("SAME", "FP32", [5], -20), WORDS], GOOD),
    "a negative side": lie([tensor("SAME", "FP32", [-5], 20), WORDS], GOOD),
    "a type that is none": lie([tensor("SAME", "FP33", [5], 20), WORDS], GOOD),
    "too many sides": lie([tensor("SAME", "FP32", [1] * 9, 4), WORDS], GOOD),
    "outputs that are no list": (200, {"Inference-Header-Content-Length": "14"}, b'{"outputs": 1}'),
    "more than the limit": lie([FLOATS, WORDS], GOOD + bytes(2 << 20)),
}


def test_a_far_server_that_is_down_or_lies_costs_no_answer(served):
    front, back = served
    back.stop()
    for what, Liar.say in LIES.items():
        calls = Liar.calls
        assert ask(front, "plain"), what
        assert Liar.calls == calls + 1, what
    Liar.say = lie([tensor("other", "FP32", [1], 4), FLOATS, WORDS], bytes(4) + GOOD)
    assert not ask(front, "plain")  # nothing to find wrong with it: that is what the remote says the answer is
