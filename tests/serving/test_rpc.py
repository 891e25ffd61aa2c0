# SPDX-License-Identifier: Apache-2.0
"""The gRPC transport alone (libspillway_rpc.so) under an echo, with gRPC's own Python client: both ways to drive it."""
import os
import pathlib
import random
import signal
import socket
import subprocess
import threading

import pytest

grpc = pytest.importorskip("grpc", reason="gRPC's Python client (tritonclient[all]) is not installed")
ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
TOOL = BUILD / "tests" / "serving" / "rpc_tool"


class Echo:
    def __init__(self, mode):
        self.process = subprocess.Popen([TOOL, "serve", mode, "50"], stdout=subprocess.PIPE, text=True)
        words = self.process.stdout.readline().split()
        assert words and words[0] == "port", "the tool did not start"
        self.port, self.mode = int(words[1]), words[2]
        self.channel = grpc.insecure_channel("127.0.0.1:%d" % self.port, options=[("grpc.max_receive_message_length", -1)])

    def unary(self, name, body, **more):
        return self.channel.unary_unary("/a.b/" + name)(body, timeout=more.pop("timeout", 20), **more)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.channel.close()
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module", params=["inline", "threaded"])
def echo(request):
    if not TOOL.exists():
        pytest.skip("libgrpc's headers were not there when this was built")
    server = Echo(request.param)
    assert server.mode == request.param
    yield server
    assert server.stop() == 0


def test_unary_of_every_size(echo):
    for size in (0, 1, 1024, 65536, 1 << 20, 8 << 20):
        body = random.Random(size).randbytes(size)
        assert echo.unary("Echo", body) == body


def test_a_message_over_the_limit_is_refused(echo):
    with pytest.raises(grpc.RpcError) as refused:
        echo.unary("Echo", bytes((8 << 20) + 1))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_stream_answers_each_message_and_ends_with_the_client(echo):
    call = echo.channel.stream_stream("/a.b/Many")
    sent = [b"%d" % i * 100 for i in range(200)]
    assert list(call(iter(sent), timeout=20)) == sent
    assert list(call(iter([]), timeout=20)) == []


def test_a_status_with_its_words_and_trailers(echo):
    with pytest.raises(grpc.RpcError) as failed:
        echo.unary("Fail", b"")
    assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert failed.value.details() == "it fails because it was asked to"
    assert ("why", "asked") in [tuple(entry) for entry in failed.value.trailing_metadata()]


def test_clients_that_cancel_or_run_out_of_time(echo):
    for _ in range(20):
        call = echo.channel.unary_unary("/a.b/Hold").future(b"x", timeout=20)
        call.cancel()
    with pytest.raises(grpc.RpcError) as late:
        echo.unary("Hold", b"x", timeout=0.05)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert echo.unary("Echo", b"still there") == b"still there"


def test_many_at_once_beyond_the_limit_of_calls(echo):
    """64 may be open; a hundred that hold on leave none, and when they go there is room again."""
    channel = grpc.insecure_channel("127.0.0.1:%d" % echo.port, options=[("grpc.use_local_subchannel_pool", 1)])
    other = grpc.insecure_channel("127.0.0.1:%d" % echo.port, options=[("grpc.use_local_subchannel_pool", 1)])
    held = [(channel if i % 2 else other).unary_unary("/a.b/Hold").future(b"x", timeout=30) for i in range(100)]
    refused = threading.Event()
    for call in held:
        call.add_done_callback(lambda done: refused.set() if done.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else None)
    assert refused.wait(20)
    for call in held:
        call.cancel()
    channel.close()
    other.close()
    futures = [echo.channel.unary_unary("/a.b/Echo").future(b"y", timeout=20, wait_for_ready=True) for _ in range(32)]
    assert [future.result() for future in futures] == [b"y"] * 32


def test_clients_that_vanish(echo):
    for _ in range(10):
        channel = grpc.insecure_channel("127.0.0.1:%d" % echo.port, options=[("grpc.use_local_subchannel_pool", 1)])
        channel.unary_unary("/a.b/Hold").future(b"x", timeout=20)
        channel.close()
    assert echo.unary("Echo", b"still there") == b"still there"


def test_garbage_on_the_port(echo):
    chance = random.Random(11)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for i in range(60):
        with socket.create_connection(("127.0.0.1", echo.port), timeout=20) as sock:
            start = [b"", preface, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", preface + b"\0\0\0\4\0\0\0\0\0"][i % 4]
            try:
                sock.sendall(start + chance.randbytes(chance.randrange(1, 2000)))
                if i % 3:
                    sock.recv(1)
            except OSError:
                pass
    assert echo.unary("Echo", b"still there") == b"still there"


def test_a_stop_answers_what_runs():
    for mode in ("inline", "threaded"):
        server = Echo(mode)
        answers = []
        open_stream = server.channel.stream_stream("/a.b/Many")
        more = threading.Event()

        def messages(more=more):
            yield b"first"
            more.wait(20)
            yield b"second"

        stream = open_stream(messages(), timeout=20)
        answers.append(next(stream))
        server.process.send_signal(signal.SIGTERM)
        more.set()
        answers.extend(stream)
        assert answers == [b"first", b"second"]
        assert server.process.wait(20) == 0
        server.channel.close()
        server.process.stdout.close()
