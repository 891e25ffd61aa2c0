# SPDX-License-Identifier: Apache-2.0
"""A stand-in for another Spillway: right answers to the bodies it has learnt, or what POST /mode/NAME tells it to."""
import hashlib
import http.server
import json
import threading
import time

HANG_S = 20
MODES = ["right", "429", "500", "503", "hang", "half", "garbage", "safety", "reset", "slow"]


class RemoteDouble(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.mode, self.counts, self.lock = {}, "right", {}, threading.Lock()
        self.coming, self.met = [], False
        self.released = threading.Event()  # ends what hangs
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def learn(self, body, answer):
        self.answers[hashlib.sha256(body).digest()] = answer

    def set_mode(self, mode):
        """The next mode begins once the one before has been met: a breaker that is open at the wrong time takes nothing
        from the test."""
        assert mode in MODES, mode
        with self.lock:
            self.coming.append(mode)
            self.advance()

    def advance(self):
        while self.coming and (self.mode == "right" or self.met):
            self.released.set()
            self.released = threading.Event()
            self.mode, self.met = self.coming.pop(0), False

    def meet(self):
        """What this request meets."""
        with self.lock:
            mode, self.met = self.mode, True
            self.counts[mode] = self.counts.get(mode, 0) + 1
            self.advance()
            return mode, self.released

    def stop(self):
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the game


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_POST(self):
        body = self.body()
        if self.path.startswith("/mode/"):
            self.server.set_mode(self.path.removeprefix("/mode/"))
            return self.reply(200, b"{}")
        mode, released = self.server.meet()
        if mode == "hang":
            released.wait(HANG_S)
            self.close_connection = True
            return None
        if mode == "reset":
            self.close_connection = True
            return None
        if mode in ("429", "500", "503"):
            return self.problem(int(mode), {"429": "no_slot", "500": "internal", "503": "no_link"}[mode], retry_after=1)
        if mode == "safety":
            return self.problem(422, "safety_blocked")
        if mode == "slow":
            time.sleep(0.2)
        answer = self.server.answers.get(hashlib.sha256(body).digest())
        if answer is None:
            return self.problem(500, "unlearnt")
        text = json.dumps(answer).encode()
        if mode == "garbage":
            text = text[:len(text) // 2] + b"\xff}" + text[len(text) // 2:]
        self.reply(200, text, cut=len(text) // 2 if mode == "half" else None)

    def problem(self, status, code, retry_after=None):
        document = {"type": "about:blank", "title": code, "status": status, "detail": code, "error": code, "code": code,
                    "provider": None, "attempts": []}
        self.reply(status, json.dumps(document).encode(), [("Retry-After", str(retry_after))] if retry_after else [])

    def reply(self, status, text, headers=(), cut=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_):
        pass
