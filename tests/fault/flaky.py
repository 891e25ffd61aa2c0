# SPDX-License-Identifier: Apache-2.0
"""A provider with bad days: an HTTP server in front of a real Spillway that passes requests on, or answers 429, 500 or
422, keeps silent, cuts its answer in half, or resets the connection. Which, is drawn from a seed."""
import collections
import http.client
import http.server
import json
import random
import socket
import struct
import threading
import time

FAULTS = ("429", "500", "refused", "silent", "half", "reset")


class FlakyHouse:
    def __init__(self, backend_port, share=0.3, seed=1, silent_s=3):
        self.backend_port, self.share, self.silent_s = backend_port, share, silent_s
        self.rng, self.lock = random.Random(seed), threading.Lock()
        self.did = collections.Counter()
        self.faults = FAULTS
        self.down = False  # every request is reset: the whole provider is away
        house = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def log_message(self, *_):
                pass

            def do_POST(self):
                house.serve(self)

            do_GET = do_POST

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass  # clients that went away

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.backends = threading.local()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def draw(self):
        with self.lock:
            what = "reset" if self.down else self.rng.choice(self.faults) if self.rng.random() < self.share else "passed on"
            self.did[what] += 1
            return what

    def serve(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        what = self.draw()
        if what in ("429", "500", "refused"):
            code = {"429": 429, "500": 500, "refused": 422}[what]
            problem = {"type": "about:blank", "title": what, "status": code, "code": "safety_blocked" if code == 422 else what,
                       "detail": "a bad day", "error": "a bad day"}
            self.answer(handler, code, json.dumps(problem).encode(), "application/problem+json",
                        [("Retry-After", "1")] if code == 429 else [])
        elif what == "silent":
            time.sleep(self.silent_s)
            handler.close_connection = True
        elif what == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
        else:
            self.pass_on(handler, body, half=what == "half")

    def pass_on(self, handler, body, half):
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection", "transfer-encoding")}
        backend = http.client.HTTPConnection("127.0.0.1", self.backend_port, timeout=30)
        try:
            backend.request(handler.command, handler.path, body, headers)
            answer = backend.getresponse()
            data = answer.read()
            if half:
                handler.send_response(answer.status)
                handler.send_header("Content-Type", answer.headers["Content-Type"])
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data[:len(data) // 2])
                handler.close_connection = True
                return
            again = answer.headers.get("Retry-After")
            self.answer(handler, answer.status, data, answer.headers["Content-Type"], [("Retry-After", again)] if again else [])
        except OSError:
            handler.close_connection = True
        finally:
            backend.close()

    @staticmethod
    def answer(handler, code, data, media_type, headers):
        handler.send_response(code)
        handler.send_header("Content-Type", media_type)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
