# SPDX-License-Identifier: Apache-2.0
"""One real net worker behind net_tool, and small servers that answer exactly the bytes that a test gives them."""
import json
import os
import pathlib
import queue
import socket
import ssl
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build")).resolve()
TOOL = BUILD / "tests" / "net" / "net_tool"


class Net:
    """A net worker as the gateway sees it."""

    def __init__(self, scratch, faults=None, args=(), env=None):
        environment = {k: v for k, v in os.environ.items() if k != "SPILLWAY_FAULTS"}
        environment.update(env or {})
        if faults:
            environment["SPILLWAY_FAULTS"] = faults
        self.scratch = scratch
        self.log = open(scratch / f"net-{time.monotonic_ns()}.log", "w+b")
        self.process = subprocess.Popen([TOOL, BUILD / "spillway", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env=environment)
        self.next_id = 0
        self.lines = queue.Queue()
        self.answers = {}
        threading.Thread(target=self._read, daemon=True).start()
        self.card = self.lines.get(timeout=60)
        assert self.card.get("ready"), self.card

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put({"ended": True})

    def tell(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def start(self, op, **command):
        self.next_id += 1
        if op == "fetch":
            command.setdefault("output_file", str(self.scratch / f"out-{self.next_id}"))
        for key in ("body", "tensor"):
            if key in command:
                path = self.scratch / f"{key}-{self.next_id}"
                path.write_bytes(command.pop(key))
                command[key + "_file"] = str(path)
        self.tell(id=self.next_id, op=op, **command)
        return self.next_id

    def wait(self, number, seconds=60):
        end = time.monotonic() + seconds
        while number not in self.answers:
            answer = self.lines.get(timeout=max(end - time.monotonic(), 0.01))
            assert "id" in answer, f"{answer}\n{self.log_text()}"
            self.answers[answer["id"]] = answer
        answer = self.answers.pop(number)
        path = self.scratch / f"out-{number}"
        answer["bytes"] = path.read_bytes() if path.exists() else b""
        return answer

    def run(self, op, **command):
        return self.wait(self.start(op, **command))

    def config(self, text, serial=1):
        self.tell(op="config", serial=serial, text=text)

    def log_text(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        log = self.log_text()
        assert "ERROR: AddressSanitizer" not in log and "WARNING: ThreadSanitizer" not in log and "runtime error" not in log, log


class Scripted:
    """Answers each connection with a script: script(connection, request_head, number). Counts what came."""

    def __init__(self, script, tls=None):
        self.script, self.tls = script, tls
        self.heads, self.connections = [], 0
        self.stopping = False
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self.stopping:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            connection.settimeout(30)
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as stream:
                while True:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        line = stream.readline()
                        if not line:
                            return
                        head += line
                    text = head.decode("latin-1")
                    length = next((int(l.split(":")[1]) for l in text.split("\r\n") if l.lower().startswith("content-length:")), 0)
                    request = Request(text, stream.read(length))
                    self.heads.append(request)
                    if self.script(connection, request, len(self.heads)) is not True:
                        return
        except (OSError, ssl.SSLError, ValueError):
            pass

    def stop(self):
        self.stopping = True
        self.socket.close()


class Request:
    def __init__(self, head, body):
        self.head, self.body = head, body
        self.method, self.target, _ = head.split("\r\n")[0].split(" ", 2)
        self.headers = {k.strip().lower(): v.strip() for k, v in
                        (line.split(":", 1) for line in head.split("\r\n")[1:] if ":" in line)}


def reply(status=200, body=b"", headers=(), keep=True):
    """A script that sends one whole answer."""
    def script(connection, request, number):
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return keep
    return script
