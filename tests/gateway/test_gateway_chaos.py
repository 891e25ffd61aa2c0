# SPDX-License-Identifier: Apache-2.0
"""Clients that do anything at any moment; afterwards nothing may be left over and good requests must have been answered."""
import os
import random
import socket
import threading

import pytest

from conftest import post
from test_gateway_http import chunked, form, form_headers

SEED = int(os.environ.get("SPILLWAY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
SESSIONS = 400


def request(rng):
    size = rng.choice((0, 1, 10, 1000, 20000, 70000, 300000))
    body = (b"SLEEP=%d," % rng.choice((0, 0, 1, 3, 50, 60000))) * rng.randrange(2) + bytes(rng.randrange(256) for _ in range(50)) * (size // 50)
    kind = rng.randrange(8)
    if kind == 0:
        return b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % rng.choice((b"/", b"/healthz", b"/readyz", b"/metrics", b"/no"))
    if kind == 1:
        return post("/infer", form([("top_k", rng.randrange(200)), ("image", body)]), form_headers())
    if kind == 2:
        head = b"POST /infer?task=noop HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + chunked([body[i:i + 1 + rng.randrange(9000)] for i in range(0, len(body), 9000)] or [b"x"])
    if kind == 3:
        return post("/infer", body, {"Content-Type": rng.choice(("text/plain", "image/png", "multipart/form-data; boundary=q"))})
    if kind == 4:
        return post("/infer?task=noop", body, {"Expect": "100-continue"})
    if kind == 5:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))
    return post("/infer?task=noop", body or b"x")


def session(port, seed):
    rng = random.Random(seed)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2) as sock:
            data = b"".join(request(rng) for _ in range(rng.randrange(1, 5)))
            data = data[:rng.randrange(1, len(data) + 1)] if rng.randrange(3) == 0 else data
            while data:
                step = rng.choice((1, 7, 100, 5000, 100000, len(data)))
                sock.sendall(data[:step])
                data = data[step:]
                if rng.randrange(4) == 0:
                    sock.recv(rng.choice((1, 100, 100000)))
                if rng.randrange(40) == 0:
                    break
            ending = rng.randrange(4)
            if ending == 0:
                sock.shutdown(socket.SHUT_WR)
            elif ending == 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if ending != 3:
                sock.recv(100000)
    except OSError:
        pass  # closed on us, or nothing to read: both are fine here


@pytest.mark.parametrize("house", ["scripted", "real"])
def test_chaos_leaves_nothing_behind(own_gateway, spillway, house):
    print("seed", SEED)
    server = own_gateway() if house == "scripted" else spillway("--workers", "noop0")
    wrong, stop = [], threading.Event()

    def good():
        while not stop.is_set():
            body = b"good %d" % random.randrange(1 << 30)
            reply = server.post("/infer?task=noop", body)
            if reply.status not in (200, 429) or (reply.status == 200 and reply.body != body):
                wrong.append((reply.status, reply.body))

    watcher = threading.Thread(target=good)
    watcher.start()
    try:
        for first in range(0, SESSIONS, 40):
            threads = [threading.Thread(target=session, args=(server.port, SEED + first + i)) for i in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        stop.set()
        watcher.join()
    assert not wrong, (SEED, wrong[:3])
    server.wait_for(lambda h: h["requests_open"] == 0 and h["connections"] == 1, "all gone, seed %d" % SEED, 20)
    if house == "real":
        server.wait_for(lambda h: h["leases_out"] == 0, "all leases are back, seed %d" % SEED, 20)
        assert [w["restarts"] for w in server.health()["workers"]] == [0]
    server.signal()
    assert server.wait() == 0, SEED
