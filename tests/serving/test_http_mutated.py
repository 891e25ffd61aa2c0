# SPDX-License-Identifier: Apache-2.0
"""Messages that nobody meant: each is answered with an error or a right result, or, where it is no HTTP any more, the connection
is closed; none ends the server, hangs, or leaves something behind.

SPILLWAY_MUTATIONS says how many (default 2,000; the full size is 10,000), SPILLWAY_TEST_SEED which."""
import copy
import gzip
import json
import os
import random
import socket
import time
import zlib

import kserve_house
import pytest
import requests

COUNT = int(os.environ.get("SPILLWAY_MUTATIONS", "2000"))
SEED = int(os.environ.get("SPILLWAY_TEST_SEED", time.time_ns() & 0xffffffff))


def real_server(folder):
    """The same models by the identity back end, in a worker."""
    import served_house
    for name, ports, kind, dims in (("simple", 2, "INT32", 16), ("identity_FP32", 1, "FP32", -1), ("identity_BYTES", 1, "STRING", -1)):
        text = 'backend: "identity" max_batch_size: 8\n'
        for i in range(ports):
            for side, word in (("input", "INPUT"), ("output", "OUTPUT")):
                text += f'{side} [ {{ name: "{word}{i}" data_type: TYPE_{kind} dims: [{dims}] }} ]\n'
        served_house.write(f"{folder}/{name}/config.pbtxt", text)
        os.makedirs(f"{folder}/{name}/1")
    server = served_house.Server(str(folder))
    server.wait_models(["simple", "identity_FP32", "identity_BYTES"])
    return server


@pytest.fixture(scope="module", params=["echo", "real"])
def server(request, tmp_path_factory):
    if request.param == "echo":
        server = kserve_house.Server("cache: {memory: 1MiB}\n")
    else:
        server = real_server(tmp_path_factory.mktemp("repository"))
    server.real = request.param == "real"
    server.health = lambda: requests.get(f"http://127.0.0.1:{server.port}/healthz", timeout=10).json()
    yield server
    server.stop()


class Connection:
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.buffer = b""

    def more(self):
        got = self.sock.recv(65536)
        if not got:
            raise EOFError
        self.buffer += got

    def reply(self):
        """(status, headers, body); EOFError when it was closed instead."""
        while True:
            while b"\r\n\r\n" not in self.buffer:
                self.more()
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            if status >= 200:
                break
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
        while len(self.buffer) < int(headers["content-length"]):
            self.more()
        body, self.buffer = self.buffer[:int(headers["content-length"])], self.buffer[int(headers["content-length"]):]
        return status, headers, body

    def close(self):
        self.sock.close()


def request(path, body, headers=None, method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), body


def infer_json():
    return {"id": "1", "parameters": {"priority": 1, "timeout": 10, "sequence_id": 3, "sequence_start": True},
            "inputs": [{"name": "INPUT0", "shape": [1, 16], "datatype": "INT32", "data": list(range(16))},
                       {"name": "INPUT1", "shape": [1, 16], "datatype": "INT32", "data": [list(range(16))]}],
            "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1", "parameters": {"classification": 2}}]}


def infer_binary():
    return {"inputs": [{"name": "INPUT0", "shape": [2, 5], "datatype": "FP32", "parameters": {"binary_data_size": 40}}],
            "outputs": [{"name": "OUTPUT0"}]}


def infer_strings():
    return {"inputs": [{"name": "INPUT0", "shape": [1, 3], "datatype": "BYTES", "parameters": {"binary_data_size": 21}}]}


def infer_shared():
    return {"inputs": [{"name": "INPUT0", "shape": [1, 2], "datatype": "FP32",
                        "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 0}}]}


VALUES = [None, True, False, 0, -1, 1, 2**31, 2**63, -2**63, 2**64, 1e308, 0.5, "", "a", "INPUT0", "\u0000", "\ud83d\ude00", [], {}, [[]],
          [0], {"a": 1}, "x" * 300, [1] * 100, "NaN", [None]]


def places(tree, path=()):
    yield path
    if isinstance(tree, dict):
        for key in tree:
            yield from places(tree[key], path + (key,))
    elif isinstance(tree, list):
        for i in range(min(len(tree), 4)):
            yield from places(tree[i], path + (i,))


def change_tree(rng, tree):
    """Another value, one member less, or one more."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        path = rng.choice(list(places(tree)))
        if not path:
            continue
        at = tree
        for key in path[:-1]:
            at = at[key]
        what = rng.random()
        if what < 0.6:
            at[path[-1]] = copy.deepcopy(rng.choice(VALUES))
        elif what < 0.8:
            del at[path[-1]]
        elif isinstance(at, dict):
            at[rng.choice(["data", "name", "shape", "parameters", "odd", "binary_data_size"])] = copy.deepcopy(rng.choice(VALUES))
        else:
            at.append(copy.deepcopy(rng.choice(VALUES)))
    return tree


def change_bytes(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        what, at = rng.random(), rng.randrange(len(data)) if data else 0
        if not data:
            break
        if what < 0.4:
            data[at] = rng.randrange(256)
        elif what < 0.6:
            del data[at:at + rng.randrange(1, 20)]
        elif what < 0.8:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 10)))
        elif what < 0.9:
            data[at:at] = data[at:at + 30]
        else:
            del data[at:]
    return bytes(data)


def make(rng):
    """A message in order but for one thing."""
    kind = rng.randrange(9)
    if kind == 0:
        tree, path, tail = infer_json(), "/v2/models/simple/infer", b""
    elif kind == 1:
        tree, path, tail = infer_binary(), "/v2/models/identity_FP32/infer", bytes(40)
    elif kind == 2:
        tree, path, tail = infer_strings(), "/v2/models/identity_BYTES/versions/1/infer", b"\x03\0\0\0abc\x00\0\0\0\x06\0\0\0abcdef"
    elif kind == 3:
        tree, path, tail = infer_shared(), "/v2/models/identity_FP32/infer", b""
    elif kind == 4:
        tree, path, tail = {"key": "/none", "offset": 0, "byte_size": 64}, "/v2/systemsharedmemory/region/r/register", b""
    elif kind == 5:
        tree, path, tail = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "1"}, "/v2/trace/setting", b""
    elif kind == 6:
        tree, path, tail = {"log_info": True, "log_verbose_level": 0}, "/v2/logging", b""
    elif kind == 7:
        tree, path, tail = {"parameters": {"config": "{}"}}, "/v2/repository/models/simple/load", b""
    else:
        tree, path, tail = {"ready": True}, "/v2/repository/index", b""
    headers = {}
    wants_header_length = kind in (1, 2)
    what = rng.random()
    if what < 0.5:
        tree = change_tree(rng, tree)
    text = json.dumps(tree).encode()
    header_bytes = len(text)
    if what >= 0.5:
        text = change_bytes(rng, text)
        header_bytes = rng.choice([header_bytes, len(text)])
    if what > 0.9:
        header_bytes = rng.choice([0, 1, -1, 10**12, len(text) + len(tail), len(text) + 1, "x", ""])
        wants_header_length = True
    body = text + (change_bytes(rng, tail) if rng.random() < 0.3 else tail)
    if wants_header_length:
        headers["Inference-Header-Content-Length"] = header_bytes
    squeeze = rng.random()
    if squeeze < 0.15:
        body = gzip.compress(body) if squeeze < 0.07 else zlib.compress(body)
        headers["Content-Encoding"] = rng.choice(["gzip", "deflate", "gzip", "deflate", "br"])
        if rng.random() < 0.5:
            body = change_bytes(rng, body)
    if rng.random() < 0.1:
        headers["Accept-Encoding"] = rng.choice(["gzip", "deflate", "gzip;q=0", "*"])
    if rng.random() < 0.05:
        path = path.replace(rng.choice(path), rng.choice(["", "%", "%00", "%2f", "/", "x" * 200]), 1)
    return request(path, body, headers)


def check(status, headers, body, message, real):
    # The real server's models may not be loaded and let go by request: 503, as Triton says.
    assert 200 <= status < 600 and status != 500 and (status != 503 or (real and b"/load HTTP" in message.encode())), (status, body, message)
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    elif headers.get("content-encoding") == "deflate":
        body = zlib.decompress(body)
    if status != 200 and headers.get("content-type", "").startswith("application/json"):
        assert isinstance(json.loads(body)["error"], str), message
    elif status == 200 and body:
        json.loads(body[:int(headers.get("inference-header-content-length", len(body)))])


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def settled(server, before):
    """Connections that were just closed take a moment to go; a slot's output memory stays with it."""
    until = time.monotonic() + 10
    while descriptors(server) > before + 2 and time.monotonic() < until:
        time.sleep(0.02)
    return descriptors(server) <= before + 2


def test_bodies(server):
    rng = random.Random(SEED)
    before = descriptors(server)
    connection = Connection(server.port)
    good = 0
    for i in range(COUNT * 3 // 4):
        head, body = make(rng)
        message = f"seed {SEED}, number {i}: {head + body!r:.2000}"
        try:
            connection.sock.sendall(head + body)
            status, headers, answer = connection.reply()
        except (EOFError, ConnectionError):  # a broken request line or framing
            connection.close()
            connection = Connection(server.port)
            continue
        except TimeoutError:
            pytest.fail("no answer: " + message)
        check(status, headers, answer, message, server.real)
        good += status == 200
        if headers.get("connection") == "close":
            connection.close()
            connection = Connection(server.port)
    connection.close()
    assert good > 0 and server.process.poll() is None
    assert settled(server, before)


def test_heads_and_framing(server):
    """Many at once: what waits for the rest of a message is found by a sweep only."""
    rng = random.Random(SEED + 1)
    before = descriptors(server)
    for begin in range(0, COUNT // 4, 100):
        open_ones = []
        for i in range(begin, min(begin + 100, COUNT // 4)):
            head, body = make(rng)
            data = (change_bytes(rng, head) + body[:rng.randrange(len(body) + 1)] if rng.random() < 0.8 else
                    (head + body)[:rng.randrange(len(head) + len(body))])
            connection = Connection(server.port)
            open_ones.append((i, data, connection))
            try:
                connection.sock.sendall(data)
                connection.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # closed already
        for i, data, connection in open_ones:
            try:
                status, _, _ = connection.reply()
                assert 200 <= status < 600
            except (EOFError, ConnectionError, KeyError, ValueError):
                pass  # libmicrohttpd's own pages, or no page at all
            except TimeoutError:
                pytest.fail(f"neither answered nor closed: seed {SEED}, number {i}: {data!r:.2000}")
            finally:
                connection.close()
    assert server.process.poll() is None
    assert settled(server, before)
    if server.real:
        assert all(w["state"] == "ready" and w["restarts"] == 0 for w in server.health()["workers"])


def test_memory_stays(server):
    """The same again costs nothing."""
    if os.environ.get("SPILLWAY_SANITIZER"):
        pytest.skip("a sanitizer's memory is its own")

    def resident():
        with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def round_of(count, seed):
        rng = random.Random(seed)
        connection = Connection(server.port)
        for _ in range(count):
            head, body = make(rng)
            try:
                connection.sock.sendall(head + body)
                if connection.reply()[1].get("connection") == "close":
                    raise EOFError
            except (EOFError, ConnectionError):
                connection.close()
                connection = Connection(server.port)
        connection.close()

    round_of(300, 5)
    before = resident()
    round_of(600, 5)
    assert resident() - before < 4 << 20
