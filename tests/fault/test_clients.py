# SPDX-License-Identifier: Apache-2.0
"""Shutdown under load, clients that hang up, and memory over many requests."""
import os
import random
import signal
import socket
import struct
import time

import house
import pytest


def test_sigterm_under_load_cuts_none(start, labels):
    server = start(args=["--drain-delay", "1"])
    client = house.load(server, labels, None, extra=["--duration", 4, "--warmup", 0, "--resend-stale"])
    time.sleep(1.5)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0, server.log_text()
    r = house.result(client)
    errors = {k: v for k, v in r["errors"].items() if v and k not in ("all", "connect")}
    assert not errors, (errors, r["samples"])  # refused once it is gone; anything else was cut
    assert r["wrong"] == 0 and set(r["status"]) == {"200"}, (r["status"], r["samples"])
    assert r["ok"] > 10  # there was a load


def test_the_workers_are_gone_with_the_server(start):
    server = start()
    pids = [w["pid"] for w in server.health()["workers"]]
    assert server.stop() == 0
    for pid in pids:
        try:
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            continue
        assert state == "Z", f"worker {pid} lives on"


def test_kill_9_of_the_gateway_ends_the_workers(start):
    server = start()
    pids = [w["pid"] for w in server.health()["workers"]]
    server.process.kill()
    server.process.wait()
    end = time.monotonic() + 20
    left = pids
    while left and time.monotonic() < end:
        left = [p for p in left if alive(p)]
        time.sleep(0.05)
    assert not left, f"workers {left} outlive the gateway"


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def hang_up(server, request, rng):
    """Sends some or all of a request and goes: by FIN or by RST, at once or a little later."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as s:
        s.sendall(request[:rng.choice([rng.randrange(1, 200), rng.randrange(len(request)), len(request), len(request)])])
        time.sleep(rng.choice([0, 0, 0.001, 0.01, 0.03]))
        if rng.random() < 0.5:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_clients_that_hang_up(start, labels):
    server = start()
    path = next(iter(labels))
    picture = path.read_bytes()
    request = b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s" % (
        len(picture), picture)
    seed = 11
    print("seed", seed)
    client = house.load(server, labels, 600, concurrency=4)
    house.Crowd(lambda i: hang_up(server, request, random.Random(seed * 1000 + i)), 1_000 if house.FULL else 300).join()
    house.assert_all_right(house.result(client), 600)
    assert server.restarts() == 0
    server.wait_idle()


@pytest.mark.skipif("SPILLWAY_SANITIZER" in os.environ, reason="a sanitizer keeps freed memory: its size says nothing")
def test_memory_is_flat(start, labels, record_property):
    server = start()
    sizes = []
    for round_requests in (600, 900, 900):
        house.assert_all_right(house.result(house.load(server, labels, round_requests * (10 if house.FULL else 1))))
        server.wait_idle()
        sizes.append(server.memory_kib())
    record_property("memory_kib", sizes)
    print("KiB of heap and shared memory after each round:", sizes)
    assert sizes[2] - sizes[1] < 1024 and sizes[2] - sizes[0] < 4 * 1024, sizes
