# SPDX-License-Identifier: Apache-2.0
"""Start, drain and end."""
import os
import resource
import signal
import subprocess
import threading
import time

import pytest

from conftest import BUILD, SANITIZED, Raw, post


class Load:
    """Clients that send one request after another, on kept connections, until the server is gone."""

    def __init__(self, server, count):
        self.server, self.answered, self.lost = server, 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def client(self, number):
        for turn in range(1 << 30):
            try:
                sock = Raw(self.server.port)
            except ConnectionError:
                return  # refused: the listener is closed, nothing was accepted, nothing is lost
            with sock:
                if not self.use(sock, number, turn):
                    return

    def use(self, sock, number, turn):
        for step in range(1000):
            body = b"SLEEP=%d, %d/%d/%d" % (step % 7, number, turn, step)
            try:
                sock.send(post("/infer?task=noop" if step % 2 else "/infer", body))
                reply = sock.reply()
            except (EOFError, OSError) as error:  # cut, reset, or no answer in 30 s
                self.lost.append((number, turn, step, repr(error)))
                return False
            with self.lock:
                self.answered += 1
            if reply.status != 200 or (step % 2 and reply.body != body):
                self.lost.append((number, turn, step, reply.status, reply.body[:200]))
            if reply.headers.get("connection") == "close":
                break
            if step % 50 == 49:
                break  # a new connection now and then, so that some are in the backlog
        return True

    def join(self):
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_under_load_loses_none(own_gateway, number):
    for turn in range(3):
        server = own_gateway()
        load = Load(server, 8)
        while load.answered < 300:
            assert not load.lost, load.lost
            time.sleep(0.005)
        server.signal(number)
        load.join()
        assert server.wait() == 0
        assert not load.lost, (load.answered, load.lost)


def test_draining_tells_balancers_first(own_gateway):
    server = own_gateway("127.0.0.1", "1500")
    with server.raw() as kept:
        kept.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.reply().status == 200
        server.signal()
        server.wait_for(lambda h: h["draining"], "draining")
        assert server.get("/healthz").status == 200
        reply = server.get("/readyz")
        assert reply.status == 503 and reply.json()["code"] == "draining" and reply.headers["retry-after"]
        assert server.post("/infer", b"still served").status == 200
        kept.send(post("/infer?task=noop", b"x"))
        reply = kept.reply()
        assert reply.status == 200 and reply.headers["connection"] == "close" and kept.closed()
    assert server.wait() == 0


def test_an_accepted_request_is_finished(own_gateway):
    server = own_gateway()
    with server.raw() as working, server.raw() as uploading, server.raw() as silent:
        working.send(post("/infer", b"SLEEP=1500, slow"))
        request = post("/infer?task=noop", b"x" * 100000)
        uploading.send(request[:50000])
        server.wait_for(lambda h: h["requests_open"] == 2, "both are open")
        server.signal()
        time.sleep(0.2)  # the listener closes meanwhile; earlier or later makes no difference to what must hold
        uploading.send(request[50000:])
        assert uploading.reply().status == 200
        assert working.reply().status == 200
        assert silent.closed()
    assert server.wait() == 0


def test_a_second_signal_stops_at_once(own_gateway):
    server = own_gateway()
    with server.raw() as sock, server.raw() as uploading, server.raw() as headers, server.raw() as idle:
        sock.send(post("/infer", b"SLEEP=25000, very slow"))
        uploading.send(post("/infer", b"x" * 100000)[:50000])
        headers.send(b"POST /infer HTTP/1.1\r\nHost:")
        idle.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.reply().status == 200
        server.wait_for(lambda h: h["requests_open"] == 2, "they are open")
        server.signal()
        time.sleep(0.1)
        assert server.process.poll() is None
        server.signal()
        reply = sock.reply()
        assert reply.status == 503 and reply.json()["code"] == "stopped"
        assert uploading.closed() and headers.closed() and idle.closed()
    assert server.wait() == 0


def test_running_out_of_descriptors_is_survived(own_gateway):
    server = own_gateway()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (40, 40))
    socks = [server.raw() for _ in range(60)]
    for sock in socks[:3]:
        sock.send(post("/infer?task=noop", b"x"))
        assert sock.reply().status == 200
    for sock in socks[:30]:
        sock.__exit__()
    for sock in socks[30:]:  # waited in the backlog
        sock.send(post("/infer?task=noop", b"x"))
        assert sock.reply().status == 200
        sock.__exit__()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "example.org", "::ffff:127.0.0.1"])
def test_only_loopback_is_bound(address):
    out = subprocess.run([os.path.join(BUILD, "tests/gateway/fake_gateway"), address], capture_output=True, text=True, timeout=30)
    assert out.returncode == 1 and ("refusing to listen" in out.stderr or "no IP address" in out.stderr), out


@pytest.mark.parametrize("address, host", [("::1", "[::1]"), ("127.3.2.1", "127.3.2.1"), ("localhost", "127.0.0.1")])
def test_other_loopback_addresses(own_gateway, address, host):
    try:
        server = own_gateway(address)
    except RuntimeError:
        if address == "::1":
            pytest.skip("no IPv6 loopback here")
        raise
    out = subprocess.run(["curl", "-sS", "-m", "30", "-g", "http://%s:%d/readyz" % (host, server.port)], capture_output=True, text=True)
    assert '"ready":true' in out.stdout, out


def test_a_taken_port_is_named(own_gateway, tmp_path):
    server = own_gateway()
    program = os.path.join(BUILD, "spillway")
    if not os.path.exists(program):
        pytest.skip("the program is not built")
    out = subprocess.run([program, "serve", "--http-port", str(server.port), "--grpc-port", "-1", "--metrics-port", "0", "--workers", "noop0"],
                         capture_output=True, text=True, timeout=30)
    assert out.returncode != 0 and str(server.port) in out.stderr and "in use" in out.stderr, out


# ---- the real program, with a worker that does nothing ----

def test_the_real_program_echoes_and_drains(spillway):
    server = spillway("--workers", "noop0")
    body = bytes(range(256)) * 4
    reply = server.post("/infer?task=noop", body)
    assert reply.status == 200 and reply.body == body and reply.headers["x-spillway-link"] == "noop0"
    assert reply.headers["x-spillway-attempts"] == "noop0=ok"
    load = Load(server, 4)
    load_start = time.monotonic()
    while load.answered < 50 and time.monotonic() - load_start < 30:
        time.sleep(0.005)
    server.signal()
    load.join()
    assert server.wait() == 0
    # Classify has no link in this house: those are answered 503, none is cut.
    assert all(len(entry) == 5 and entry[3] == 503 for entry in load.lost), load.lost[:5]


def test_health_is_there_before_workers_are(spillway):
    start = time.monotonic()
    server = spillway("--workers", "noop0")
    assert server.health()["status"] == "live"
    print("first /healthz %.0f ms after exec, this test's Python included" % ((time.monotonic() - start) * 1e3))
    if not SANITIZED:
        assert server.resident_bytes() < 24 * 1024 * 1024


def test_requests_wait_for_workers_that_are_still_starting(spillway):
    server = spillway("--workers", "noop0")
    for worker in server.health()["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    reply = server.post("/infer?task=noop", b"after the kill")
    assert reply.status == 200 and reply.body == b"after the kill", reply.body
