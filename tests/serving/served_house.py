# SPDX-License-Identifier: Apache-2.0
"""A real server over a repository that a test file makes: one server a test file."""
import glob
import http.client
import json
import os
import re
import selectors
import subprocess
import tempfile
import time

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the set-up's Python has no onnx")

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("SPILLWAY_BUILD", os.path.join(ROOT, "build")))
TYPES = {"FP32": onnx.TensorProto.FLOAT, "INT32": onnx.TensorProto.INT32, "INT64": onnx.TensorProto.INT64,
         "BOOL": onnx.TensorProto.BOOL, "STRING": onnx.TensorProto.STRING, "UINT64": onnx.TensorProto.UINT64,
         "UINT8": onnx.TensorProto.UINT8}


def model(path, inputs, outputs, nodes, initializers=()):
    """An ONNX file. `inputs`, `outputs`: (name, "FP32", dims); `nodes`: onnx.helper.make_node's."""
    info = [[onnx.helper.make_tensor_value_info(n, TYPES[t], d) for n, t, d in ports] for ports in (inputs, outputs)]
    graph = onnx.helper.make_graph(nodes, "g", *info, initializer=list(initializers))
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    onnx.save(made, path)


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


class Server:
    """`spillway serve` on free ports until stop(); with gRPC when it is asked for."""

    def __init__(self, repository, workers="codec0,cpu0", args=(), faults=None, grpc=False, env=None):
        self.folder = tempfile.TemporaryDirectory(prefix="spillway-served-")
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")
        env = {k: v for k, v in os.environ.items() if k != "SPILLWAY_FAULTS"} | (env or {})
        if faults:
            env["SPILLWAY_FAULTS"] = faults
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "spillway"), "serve", "--http-port", "0", "--grpc-port", "0" if grpc else "-1", "--metrics-port", "0",
             "--workers", workers, "--model-repository", repository, "--data-dir", self.folder.name, "--drain-delay", "0", "--log-level", "warn", *args],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        selector = selectors.DefaultSelector()
        selector.register(self.process.stdout, selectors.EVENT_READ)
        self.port, end = None, time.monotonic() + 30
        while not self.port and time.monotonic() < end and selector.select(1) is not None:
            found = re.search(r"listens on http://[^:]+:(\d+)", self.process.stdout.readline())
            self.port = int(found[1]) if found else None
            if self.process.poll() is not None:
                break
        assert self.port, self.log_text()
        self.address = f"127.0.0.1:{self.port}"
        self.grpc_address = None
        if grpc:
            found = re.match(r"gRPC on (127\.0\.0\.1:\d+)", self.process.stdout.readline())
            if not found:
                self.stop()
                pytest.skip("libspillway_rpc.so is not built: libgrpc's headers were not there")
            self.grpc_address = found[1]

    def log_text(self):
        self.log.flush()
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()[-4000:]

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path, body=b"", headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait_models(self, names, seconds=60):
        """Until each is ready; a model that cannot be says why."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log_text()
            if all(self.get(f"/v2/models/{name}/ready")[0] == 200 for name in names):
                return
            time.sleep(0.05)
        pytest.fail(f"not ready: {self.post('/v2/repository/index')}\n{self.log_text()}")

    def worker_pid(self, name):
        workers = json.loads(self.get("/healthz")[1])["workers"]
        worker = next(w for w in workers if w["name"] == name)
        return worker["pid"] if worker["state"] == "ready" else 0

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(30)
        finally:
            self.process.kill()
            text = self.log_text()
            self.process.stdout.close()
            self.log.close()
            self.folder.cleanup()
        assert code == 0, f"the server ended with {code}: {text}"


def picture(rng, width, height):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def perf_analyzer(*args):
    """What Triton's own load generator prints; three short windows, however unsteady."""
    venv = os.path.join(os.environ.get("SPILLWAY_PEERS", os.path.join(ROOT, ".deps", "peers")), "perf_analyzer", "venv")
    libraries = glob.glob(os.path.join(venv, "lib/python3*/site-packages/nvidia/cuda_runtime/lib"))
    if not libraries:
        pytest.skip("perf_analyzer is not set up (bench/peers/setup perf_analyzer)")
    done = subprocess.run([os.path.join(venv, "bin/perf_analyzer"), *args, "-p", "200", "-s", "100000", "-r", "3"],
                          env=dict(os.environ, LD_LIBRARY_PATH=libraries[0]), capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
