# SPDX-License-Identifier: Apache-2.0
"""What the tests of jobs share: the real server in a directory of its own, a webhook receiver, a real redis-server."""
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import re
import selectors
import signal
import socket
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
PROGRAM = BUILD / "spillway"
MODELS = pathlib.Path(os.environ.get("SPILLWAY_MODELS", ROOT / "var" / "models"))
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared" / "assets"))
FULL = os.environ.get("SPILLWAY_FULL") == "1"
PATIENCE = 60  # seconds; only something broken waits for it
FINAL = ("done", "failed", "cancelled")


def until(test, what, seconds=PATIENCE, pause=0.01):
    """The first true value of test(); waits for a state, never for a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = test()
        if value:
            return value
        time.sleep(pause)
    pytest.fail("never happened: " + what)


class Reply:
    def __init__(self, answer):
        self.status, self.headers, self.body = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class Server:
    """`spillway serve` with its state under `directory`, which a later one may take over."""

    def __init__(self, directory, workers="noop0,noop1", config="", faults=None, env=None, port=0, models=MODELS):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.models = models
        self.workers, self.config, self.env = workers, config, dict(env or {})
        if faults:
            self.env["SPILLWAY_FAULTS"] = faults
        self.port = port
        self.start()

    def start(self):
        command = [PROGRAM, "serve", "--http-port", str(self.port), "--grpc-port", "-1", "--metrics-port", "0", "--workers", self.workers,
                   "--model-repository", self.models, "--drain-delay", "0", "--log-level", "warn", "--spin-us", "0"]
        if self.config:
            (self.directory / "spillway.yaml").write_text(self.config)
            command += ["--config", "spillway.yaml"]
        environment = {k: v for k, v in os.environ.items() if k != "SPILLWAY_FAULTS"}
        environment.update(self.env)
        self.log = open(self.directory / "server.log", "ab")
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=self.log, cwd=self.directory,
                                        env=environment)
        self.log.close()
        text, end = "", time.monotonic() + PATIENCE
        selector = selectors.DefaultSelector()
        selector.register(self.process.stdout, selectors.EVENT_READ)
        while not (found := re.search(r"listens on http://[^:]+:(\d+)", text)):
            more = os.read(self.process.stdout.fileno(), 4096) if selector.select(max(0, end - time.monotonic())) else b""
            if not more:
                self.process.kill()
                pytest.fail(f"the server did not start: {text} {self.log_text()}")
            text += more.decode()
        selector.close()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def log_text(self):
        return (self.directory / "server.log").read_text(errors="replace")[-3000:]

    def ask(self, method, path, body=None, headers=None, timeout=30):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def submit(self, body=b"hello", query="task=noop", headers=None, timeout=30):
        return self.ask("POST", "/v1/jobs?" + query, body, {"Content-Type": "application/octet-stream", **(headers or {})}, timeout)

    def submit_json(self, fields, headers=None):
        body = fields if isinstance(fields, (bytes, str)) else json.dumps(fields)
        return self.ask("POST", "/v1/jobs", body, {"Content-Type": "application/json", **(headers or {})})

    def job(self, name):
        reply = self.ask("GET", "/v1/jobs/" + name)
        assert reply.status == 200, reply
        return reply.json()

    def wait_job(self, name, *states):
        states = states or FINAL
        last = {}

        def reached():
            last.update(self.job(name))
            return last["status"] in states
        until(reached, f"job {name} {states}")
        return last

    def jobs(self, query=""):
        """All of them, page by page."""
        found, cursor = [], ""
        while True:
            page = self.ask("GET", f"/v1/jobs?limit=200&cursor={cursor}{query}").json()
            found += page["jobs"]
            cursor = page["cursor"]
            if not cursor:
                return found

    def ready(self):
        until(lambda: self.ask("GET", "/readyz").status == 200, "ready")
        return self

    def metric(self, name):
        text = self.ask("GET", "/metrics").body.decode()
        return sum(float(n) for n in re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.M))

    def events(self, name, headers=None):
        """(kind, data) of a job's stream until it ends."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=14)  # less than a heartbeat
        try:
            connection.request("GET", f"/v1/jobs/{name}/events", headers=headers or {})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            text = answer.read().decode()
        finally:
            connection.close()
        found = []
        for block in text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
            if "event" in lines:
                data = json.loads(lines["data"])
                found.append((lines["event"], data.get("data", data)))
        return found

    def children(self):
        try:
            return [int(p) for p in pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def kill(self):
        """SIGKILL of the server and of every worker, at once."""
        pids = [self.process.pid] + self.children()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process.stdout.close()

    def stop(self, seconds=30):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail("the server did not end after SIGTERM: " + self.log_text())
        finally:
            self.process.stdout.close()


class Receiver:
    """A webhook receiver (and PUT target): keeps what came, answers with `status` or what answer(count) says."""

    def __init__(self, secret=None, answer=None):
        self.secret, self.answer, self.files = secret, answer, {}
        self.deliveries, self.puts, self.bad, self.lock = [], {}, [], threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = outer.take(self.headers, body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_PUT(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with outer.lock:
                    outer.puts.setdefault(self.path, []).append((dict(self.headers), body))
                    status = outer.answer(len(outer.puts[self.path])) if outer.answer else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self):
                body = outer.files.get(self.path)
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_):
                pass  # the sender was killed

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, headers, body):
        document = json.loads(body)
        with self.lock:
            if self.secret:
                text = headers["X-Spillway-Timestamp"].encode() + b"." + body
                right = "sha256=" + hmac.new(self.secret.encode(), text, hashlib.sha256).hexdigest()
                if not hmac.compare_digest(right, headers.get("X-Spillway-Signature", "")):
                    self.bad.append((dict(headers), body))
            if headers["X-Spillway-Event-Id"] != document["id"]:
                self.bad.append((dict(headers), body))
            status = self.answer(len(self.deliveries) + 1) if self.answer else 200
            self.deliveries.append((status, headers["X-Spillway-Event-Id"], document))
            return status

    def delivered(self):
        """{job id: how often it was taken}"""
        with self.lock:
            found = {}
            for status, name, _ in self.deliveries:
                if status < 300:
                    found[name] = found.get(name, 0) + 1
            return found

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Redis:
    """A real redis-server, append-only with fsync always unless told otherwise."""

    def __init__(self, directory, appendfsync="always", port=0):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.appendfsync, self.port = appendfsync, port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", "",
             "--appendonly", "yes" if self.appendfsync else "no", "--appendfsync", self.appendfsync or "no"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def up():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as s:
                    s.sendall(b"PING\r\n")
                    return s.recv(16).startswith(b"+PONG")
            except OSError:
                return False
        until(up, "redis-server answers")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def form(fields, file=None):
    """(body, content type) of a multipart form."""
    boundary = "spillwaytestboundary"
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    if file is not None:
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode() + file + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
