# SPDX-License-Identifier: Apache-2.0
"""The gRPC transport alone (libspillway_rpc.so) under an echo, with gRPC's own Python client: both ways to drive it."""
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import threading
import zlib

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


# --- compressed messages ---------------------------------------------------------------------------------------------------

LIMIT = 8 << 20
KINDS = {"gzip": (grpc.Compression.Gzip, 31), "deflate": (grpc.Compression.Deflate, 15)}


def packed(data, kind, level=6):
    squeeze = zlib.compressobj(level, zlib.DEFLATED, KINDS[kind][1])
    return squeeze.compress(data) + squeeze.flush()


def passed(echo, kind, messages):
    """What the server says to these bytes when they are marked as compressed: (code, bytes, words) each."""
    got = subprocess.run([TOOL, "pass", str(echo.port), "/a.b/Echo", kind], timeout=120, check=True, stdout=subprocess.PIPE,
                         input=b"".join(struct.pack("<I", len(m)) + m for m in messages))
    answers = [line.split(" ", 2) for line in got.stdout.decode(errors="replace").splitlines()]
    assert len(answers) == len(messages)
    return [(int(code), int(size), words) for code, size, words in answers]


def resident_most(echo):
    status = pathlib.Path("/proc/%d/status" % echo.process.pid).read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_of_every_size(echo, kind):
    """Both sides of what is unpacked at once (16 KiB), of zeros and of noise, up to the limit itself."""
    sizes = (1, 1024, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 300_000)
    noise = [random.Random(size).randbytes(size // 2) + bytes(size - size // 2) for size in sizes]
    for body in [bytes(size) for size in sizes] + noise + [bytes(LIMIT)]:
        assert echo.unary("Echo", body, compression=KINDS[kind][0]) == body
    assert passed(echo, kind, [packed(b"", kind), packed(b"x" * 70_000, kind, 0)]) == [(0, 0, ""), (0, 70_000, "")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_stream_keeps_its_order(echo, kind):
    sent = [b"%d" % i * (40_000 if i % 7 == 0 else 10) for i in range(60)]
    call = echo.channel.stream_stream("/a.b/Many")
    assert list(call(iter(sent), timeout=20, compression=KINDS[kind][0])) == sent


def test_many_compressed_at_once(echo):
    """More than there are lanes, small ones between them."""
    bodies = [random.Random(i).randbytes(1000) * (600 if i % 2 else 1) for i in range(48)]
    futures = [echo.channel.unary_unary("/a.b/Echo").future(body, timeout=60, compression=grpc.Compression.Gzip) for body in bodies]
    assert [future.result() for future in futures] == bodies


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_compressed_bytes(echo, kind):
    small, large = packed(bytes(range(256)) * 8, kind), packed(random.Random(3).randbytes(200_000), kind)
    bad = [b"", b"\0", b"plain text", small[:-1], large[:-1], large[:100_000], small + b"x", large + small, small[:4],
           packed(b"x" * 1000, "gzip" if kind == "deflate" else "deflate")]
    chance = random.Random(17)
    for whole in (small, large):
        for _ in range(30):
            at = chance.randrange(10, len(whole))
            bad.append(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1:])
    for code, _, words in passed(echo, kind, bad):
        assert (code, words) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "the compressed message is damaged")
    assert echo.unary("Echo", b"still there") == b"still there"


@pytest.mark.parametrize("kind", KINDS)
def test_bombs_cost_no_memory(echo, kind):
    """One byte over the limit, 32 MiB from 32 KiB, and what takes long to say nothing: empty blocks."""
    refused = (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], 0, "the compressed message unpacks to more than the limit of 8388608 bytes")
    bomb = packed(bytes(32 << 20), kind)
    empty = packed(b"", kind, 0)
    head = 10 if kind == "gzip" else 2
    silent = empty[:head] + b"\0\0\0\xff\xff" * 400_000 + empty[head:]
    assert passed(echo, kind, [packed(bytes(LIMIT + 1), kind), bomb, silent]) == [refused, refused, (0, 0, "")]
    before = resident_most(echo)
    calls = [subprocess.Popen([TOOL, "pass", str(echo.port), "/a.b/Echo", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
             for _ in range(6)]
    sent = struct.pack("<I", len(bomb)) + bomb
    for call in calls:
        call.stdin.write(sent)
        call.stdin.close()
    for call in calls:
        words = call.stdout.read().decode().splitlines()
        call.stdout.close()
        assert call.wait(60) == 0 and words == ["%d %d %s" % refused]
    if not os.environ.get("SPILLWAY_SANITIZER"):  # whose own memory is counted there too
        assert resident_most(echo) - before < 4 * LIMIT + (16 << 20)  # four lanes, and what the library holds


def test_clients_that_leave_while_theirs_is_unpacked(echo):
    body = bytes(LIMIT // 2)
    for i in range(8):
        call = echo.channel.unary_unary("/a.b/Echo").future(body, timeout=20, compression=grpc.Compression.Gzip)
        if i % 2:
            threading.Event().wait(0.004 * i)
        call.cancel()
    assert echo.unary("Echo", body, compression=grpc.Compression.Gzip) == body


def test_a_stop_with_one_half_unpacked():
    server = Echo("inline")
    calls = [server.channel.unary_unary("/a.b/Echo").future(bytes(1 << 20), timeout=20, compression=grpc.Compression.Gzip)
             for _ in range(8)]
    assert calls[0].result() == bytes(1 << 20)
    assert server.stop() == 0
