# SPDX-License-Identifier: Apache-2.0
"""Who may do what over gRPC: the same tokens, scopes and rates as over HTTP; and how a server stops that speaks it."""
import hashlib
import json
import re
import threading
import time
import urllib.request

import kserve_house
import numpy as np
import pytest

grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient[all] is not installed")
import grpc as channel_api  # noqa: E402
from tritonclient.grpc import service_pb2  # noqa: E402

SERVICE = "/inference.GRPCInferenceService/"
SCOPES = {"infer": {"ModelInfer", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"},
          "admin": {"RepositoryModelLoad", "RepositoryModelUnload"}, "infer admin": {"SystemSharedMemoryStatus"},
          "": {"ServerLive", "ServerReady", "ModelReady"},
          "infer admin metrics": {"ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex",
                                  "TraceSetting", "LogSettings", "CudaSharedMemoryStatus"}}


def token(name, scopes, more=""):
    return "  - {name: %s, sha256: %s, scopes: [%s], tenant: acme%s}\n" % (
        name, hashlib.sha256(("secret-" + name).encode()).hexdigest(), scopes, more)


CONFIG = "tokens:\n" + token("infer", "infer") + token("admin", "admin") + token("metrics", "metrics") + token(
    "slow", "infer", ", rate_per_s: 0.001, burst: 3") + token("old", "infer, admin", ", expires: 2001-01-01")


@pytest.fixture(scope="module")
def server():
    server = kserve_house.Server(CONFIG, grpc="inline")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def code(server):
    """code(method, token) -> the status code's name, of an empty message."""
    channel = channel_api.insecure_channel("127.0.0.1:%d" % server.grpc_port)

    def ask(method, secret=None, message=b"", path=SERVICE):
        metadata = [("authorization", secret)] if secret else []
        try:
            channel.unary_unary(path + method)(message, timeout=20, metadata=metadata)
            return "OK"
        except channel_api.RpcError as error:
            return error.code().name

    yield ask
    channel.close()


def test_scopes_are_those_of_http(code):
    for needed, methods in SCOPES.items():
        for method in methods:
            for name in ("infer", "admin", "metrics"):
                got = code(method, "Bearer secret-" + name)
                allowed = not needed or name in needed.split()
                assert (got not in ("UNAUTHENTICATED", "PERMISSION_DENIED")) == allowed, (method, name, got)
            for secret in (None, "Bearer nobody", "Basic abc", "Bearer secret-old"):
                assert (code(method, secret) == "UNAUTHENTICATED") == bool(needed), (method, secret)
    assert code("Check", path="/grpc.health.v1.Health/") == "OK"


def test_settings_are_read_by_many_and_changed_by_admins(code):
    change = service_pb2.LogSettingsRequest()
    change.settings["log_info"].bool_param = True
    for name, expected in (("infer", "PERMISSION_DENIED"), ("metrics", "PERMISSION_DENIED"), ("admin", "OK")):
        assert code("LogSettings", "Bearer secret-" + name, change.SerializeToString()) == expected


def test_rates_count_each_request_of_a_stream(server):
    client = grpc.InferenceServerClient("127.0.0.1:%d" % server.grpc_port)
    item = grpc.InferInput("INPUT0", [1, 2], "FP32")
    item.set_data_from_numpy(np.zeros((1, 2), np.float32))
    answers, done = [], threading.Event()

    def take(result, error):
        answers.append(error)
        if len(answers) == 6:
            done.set()

    client.start_stream(take, headers={"authorization": "Bearer secret-slow"})
    for _ in range(6):
        client.async_stream_infer("identity_FP32", [item])
    assert done.wait(20)
    client.stop_stream()
    client.close()
    assert [error is None for error in answers].count(True) == 3
    assert all("may ask 0.001 times a second" in error.message() for error in answers if error)


def wait_until_submitted(server, count):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % server.metrics_port, timeout=20) as reply:
            if re.search(r"^fake_submitted_total %d$" % count, reply.read().decode(), re.M):
                return
        time.sleep(0.01)
    raise AssertionError("never were %d submitted" % count)


def test_a_drain_answers_what_was_accepted_and_ends_idle_streams():
    server = kserve_house.Server(grpc="inline")
    client = grpc.InferenceServerClient("127.0.0.1:%d" % server.grpc_port)
    slow = grpc.InferInput("INPUT0", [1, 9], "UINT8")
    slow.set_data_from_numpy(np.frombuffer(b"SLEEP=900", np.uint8).reshape(1, 9))
    results, streamed, idle = [], [], []
    begun, answered = threading.Event(), threading.Event()
    call = client.async_infer("identity_UINT8", [slow], lambda result, error: results.append(error) or answered.set())
    client.start_stream(lambda result, error: streamed.append((result, error)) or begun.set())
    client.async_stream_infer("identity_UINT8", [slow])
    other = grpc.InferenceServerClient("127.0.0.1:%d" % server.grpc_port)
    quick = grpc.InferInput("INPUT0", [1, 1], "UINT8")
    quick.set_data_from_numpy(np.zeros((1, 1), np.uint8))
    first = threading.Event()
    other.start_stream(lambda result, error: idle.append(error) or first.set())
    other.async_stream_infer("identity_UINT8", [quick])
    assert first.wait(20)
    wait_until_submitted(server, 3)  # what has not come yet has not been accepted
    server.process.terminate()
    assert begun.wait(20) and streamed[0][1] is None
    server.process.wait(20)  # by itself, though the idle stream was never closed by its client; another signal would cut
    server.stop()
    assert answered.wait(20)
    client.stop_stream()
    other.stop_stream()
    for c in (client, other):
        c.close()
    assert call is not None and results == [None] and idle[0] is None


def test_the_access_log_tells_of_calls(tmp_path):
    log = tmp_path / "access.log"
    server = kserve_house.Server("access_log: %s\n" % log, grpc="inline")
    with grpc.InferenceServerClient("127.0.0.1:%d" % server.grpc_port) as client:
        item = grpc.InferInput("INPUT0", [1, 2], "FP32")
        item.set_data_from_numpy(np.zeros((1, 2), np.float32))
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        client.infer("identity_FP32", [item], headers={"x-request-id": "mine", "traceparent": "00-%s-00f067aa0ba902b7-01" % trace})
        with pytest.raises(Exception):
            client.infer("none", [item])
    server.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    asked = [line for line in lines if line.get("route") == "ModelInfer"]
    assert len(asked) == 2 and asked[0]["request_id"] == "mine" and trace in json.dumps(asked[0])
    assert asked[0]["status"] == 0 and asked[0]["model"] == "identity_FP32" and asked[1]["status"] == 5
