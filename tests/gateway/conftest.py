# SPDX-License-Identifier: Apache-2.0
"""Servers for the gateway's tests: the gateway over a scripted house (fake_house.c), and the real program."""
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import tempfile
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("SPILLWAY_BUILD", os.path.join(ROOT, "build")))
SANITIZED = bool(os.environ.get("SPILLWAY_SANITIZER"))  # memory is theirs then, not ours
OCTETS = {"Content-Type": "application/octet-stream"}


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Raw:
    """A socket that sends what it is told to and reads replies by their framing, interim ones apart."""

    def __init__(self, port, timeout=30):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.buffer = b""
        self.interim = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def _line_end(self, mark):
        while mark not in self.buffer:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError("closed after %r" % self.buffer[:200])
            self.buffer += more
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def reply(self, head_only=False):
        head = self._line_end(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in head[1:])}
        if status < 200:
            self.interim.append(status)
            return self.reply(head_only)
        size = 0 if head_only else int(headers["content-length"])
        while len(self.buffer) < size:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError("closed inside a body")
            self.buffer += more
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return Reply(status, headers, body)

    def closed(self):
        """True when the server has closed and nothing is left to read."""
        try:
            return not self.buffer and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


def post(path, body, headers=None):
    lines = ["POST %s HTTP/1.1" % path, "Host: localhost", "Content-Length: %d" % len(body)]
    for key, value in {**OCTETS, **(headers or {})}.items():
        lines.append("%s: %s" % (key, value))
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Server:
    def __init__(self, command, env=None, http=r"http (\d+)", metrics=r"metrics (\d+)"):
        self.data = tempfile.TemporaryDirectory(prefix="spillway-test-")
        self.log = tempfile.TemporaryFile(prefix="spillway-test-log-")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log,
                                        env={**os.environ, "FAKE_DATA": self.data.name, **(env or {})})
        text, until = "", time.monotonic() + 20
        selector = selectors.DefaultSelector()
        selector.register(self.process.stdout, selectors.EVENT_READ)
        while not (re.search(http, text) and re.search(metrics, text)):
            if not selector.select(max(0, until - time.monotonic())):
                raise TimeoutError("no port printed: " + text)
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                raise RuntimeError("ended at start with %s: %s" % (self.process.wait(), text))
            text += more.decode()
        selector.close()
        self.text = text
        self.port = int(re.search(http, text).group(1))
        self.metrics_port = int(re.search(metrics, text).group(1))
        self.url = "http://127.0.0.1:%d" % self.port

    def raw(self):
        return Raw(self.port)

    def ask(self, request, head_only=False):
        with self.raw() as sock:
            sock.send(request)
            return sock.reply(head_only)

    def get(self, path, method="GET"):
        return self.ask(("%s %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, path)).encode(), method == "HEAD")

    def post(self, path, body, headers=None):
        return self.ask(post(path, body, headers))

    def health(self):
        return self.get("/healthz").json()

    def wait_for(self, test, what, seconds=10):
        """Waits for a state, never for a time; fails after `seconds`, which only a broken server needs."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            reply = self.get("/healthz")
            health = reply.json()
            if reply.status != 429 and test(health):  # 429: connections just closed are still counted
                return health
            time.sleep(0.01)
        raise AssertionError("never happened: %s; last seen %s" % (what, health))

    def resident_bytes(self):
        with open("/proc/%d/statm" % self.process.pid) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, seconds=20):
        return self.process.wait(seconds)

    def last_words(self):
        """The end of its log, where an abort or a sanitizer says why."""
        end = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), 8192, max(0, end - 8192)).decode(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.data.cleanup()


def fake(*args, env=None):
    path = os.path.join(BUILD, "tests/gateway/fake_gateway")
    if not os.path.exists(path):
        pytest.skip("tests/gateway/fake_gateway is not built")
    return Server([path, *args], env=env)


@pytest.fixture(scope="module")
def gateway():
    server = fake()
    yield server
    alive = server.process.poll() is None
    server.stop()
    assert alive, "the gateway died with %s\n%s" % (server.process.returncode, server.last_words())
    assert server.process.returncode == 0, "%s\n%s" % (server.process.returncode, server.last_words())


@pytest.fixture
def own_gateway():
    """Gateways of a test's own: own_gateway("127.0.0.1", "1500", env={...})."""
    servers = []

    def make(*args, env=None):
        servers.append(fake(*args, env=env))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
    for server in servers:  # a leak or a race that a sanitizer saw ends it with another code
        assert server.process.returncode in (0, -9), "%s\n%s" % (server.process.returncode, server.last_words())


@pytest.fixture
def spillway(tmp_path):
    """The real program: spillway("--workers", "noop0")."""
    servers = []

    def make(*args):
        path = os.path.join(BUILD, "spillway")
        if not os.path.exists(path):
            pytest.skip("the program is not built")
        servers.append(Server([path, "serve", "--http-port", "0", "--grpc-port", "-1", "--metrics-port", "0", "--drain-delay", "0",
                               "--data-dir", str(tmp_path / "data"), *args],
                              http=r"on http://127\.0\.0\.1:(\d+)", metrics=r"metrics on http://127\.0\.0\.1:(\d+)"))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
