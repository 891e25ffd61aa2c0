# SPDX-License-Identifier: Apache-2.0
"""The events of the server as text/event-stream and over WebSocket. The fake house emits EVENT=kind|topic|tenant|count."""
import hashlib
import json
import socket
import time

import pytest

import conftest
from test_access import ask, authorization, configured, token, tokens_yaml  # noqa: F401 (a fixture)


def emit(server, kind, topic="link/cpu0", tenant="-", count=1, headers=None):
    body = ("EVENT=%s|%s|%s|%d" % (kind, topic, tenant, count)).encode()
    assert server.post("/infer?task=noop", body, headers).status == 200


class Stream(conftest.Raw):
    """A client of text/event-stream that knows chunked bodies."""

    def __init__(self, server, path="/v1/events", headers=None, version="1.1"):
        super().__init__(server.port)
        self.text, self.ended = b"", False
        head = "GET %s HTTP/%s\r\nHost: localhost\r\n" % (path, version)
        self.send((head + "".join("%s: %s\r\n" % h for h in (headers or {}).items()) + "\r\n").encode())
        lines = self._line_end(b"\r\n\r\n").decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}

    def _chunk(self):
        if "transfer-encoding" not in self.headers:
            more = self.sock.recv(65536)
            self.ended = not more
            self.text += more
            return
        size = int(self._line_end(b"\r\n"), 16)
        while len(self.buffer) < size + 2:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError("closed inside a chunk")
            self.buffer += more
        self.text += self.buffer[:size]
        self.buffer = self.buffer[size + 2:]
        self.ended = size == 0

    def block(self):
        """The next block as {field: value}; comments are under ''; None at the end."""
        while b"\n\n" not in self.text:
            if self.ended:
                return None
            self._chunk()
        block, self.text = self.text.split(b"\n\n", 1)
        return {k: v.lstrip() for k, v in (line.split(":", 1) for line in block.decode().split("\n"))}

    def event(self):
        """The next real event: (id, kind, the JSON object)."""
        while True:
            block = self.block()
            if block is None:
                return None
            if "data" in block:
                return block.get("id"), block["event"], json.loads(block["data"])


def followers(server, count):
    import re

    def now():
        text = server.get("/metrics").body.decode()
        return int(float(re.search(r"^spillway_event_followers (\S+)$", text, re.M).group(1)))
    until = time.monotonic() + 10
    while now() != count:
        assert time.monotonic() < until, now()
        time.sleep(0.01)


def test_events_come_as_they_happen(own_gateway):
    server = own_gateway()
    with Stream(server) as stream:
        assert stream.status == 200 and stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.block() == {"retry": "2000"}
        emit(server, "breaker.open", "link/far", count=3)
        seen = [stream.event() for _ in range(3)]
        assert [e[1] for e in seen] == ["breaker.open"] * 3
        assert [e[2]["data"] for e in seen] == [{"i": 0}, {"i": 1}, {"i": 2}]
        assert all(e[2]["id"] == e[0] and e[2]["topic"] == "link/far" and e[2]["kind"] == "breaker.open" for e in seen)
        numbers = [int(e[0].split("-")[1]) for e in seen]
        assert numbers == list(range(numbers[0], numbers[0] + 3))
        emit(server, "x.y")
        assert stream.event()[1] == "x.y"


def test_filters_by_topic_and_kind(own_gateway):
    server = own_gateway()
    with Stream(server, "/v1/events?topic=link/*,job/7&kind=job.*,breaker.open") as stream:
        for kind, topic in [("breaker.open", "link/a"), ("breaker.closed", "link/a"), ("job.done", "job/7"),
                            ("job.done", "job/70"), ("breaker.open", "links"), ("job.progress", "link/b")]:
            emit(server, kind, topic)
        assert [stream.event()[2]["topic"] for _ in range(3)] == ["link/a", "job/7", "link/b"]
    reply = server.get("/v1/events?topic=" + "x" * 300)
    assert reply.status == 400


def test_goes_on_after_the_last_event_id(own_gateway):
    server = own_gateway()
    with Stream(server) as stream:
        emit(server, "a.b", count=5)
        ids = [stream.event()[0] for _ in range(5)]
    emit(server, "c.d", count=2)
    for path, headers in (("/v1/events", {"Last-Event-ID": ids[2]}), ("/v1/events?last_event_id=" + ids[2], {})):
        with Stream(server, path, headers) as stream:
            assert [stream.event()[1] for _ in range(4)] == ["a.b", "a.b", "c.d", "c.d"]
    for other in ("00000000-3", "nonsense", "%s-99999" % ids[0].split("-")[0]):  # of another process: all that is kept
        with Stream(server, headers={"Last-Event-ID": other}) as stream:
            assert stream.event()[0] == ids[0]


def test_who_was_away_for_too_long_is_told_how_much_is_gone(own_gateway):
    server = own_gateway()
    with Stream(server) as stream:
        emit(server, "first.one")
        first = stream.event()[0]
    emit(server, "many.more", count=5000)
    with Stream(server, headers={"Last-Event-ID": first}) as stream:
        id_, kind, data = stream.event()
        assert kind == "events.skipped" and id_ is None and data["data"]["count"] == 5000 - 4096
        assert stream.event()[2]["data"] == {"i": 5000 - 4096}


def test_slow_reader_loses_the_oldest_and_memory_stays_bounded(own_gateway):
    server = own_gateway()
    with Stream(server) as stream:
        followers(server, 1)
        before = server.resident_bytes()
        for _ in range(12):
            emit(server, "flood.x", count=4000)
        assert server.health()["status"] == "live"
        if not conftest.SANITIZED:
            assert server.resident_bytes() - before < 24 << 20  # the ring itself is 5 MB
        numbers, skipped = [], 0
        emit(server, "last.one")
        while True:
            id_, kind, data = stream.event()
            if kind == "events.skipped":
                skipped += data["data"]["count"]
            else:
                numbers.append(int(id_.split("-")[1]))
            if kind == "last.one":
                break
        assert skipped > 0 and numbers == sorted(set(numbers))
        assert len(numbers) + skipped == 48001


def test_many_followers_get_all_of_it(own_gateway):
    server = own_gateway()
    streams = [Stream(server) for _ in range(40)]
    followers(server, 40)
    emit(server, "a.b", count=100)
    for stream in streams:
        assert [stream.event()[2]["data"]["i"] for _ in range(100)] == list(range(100))
    for stream in streams:
        stream.sock.close()
    emit(server, "b.c")
    followers(server, 0)


def test_followers_are_bounded(own_gateway):
    server = own_gateway()
    streams = [Stream(server) for _ in range(256)]
    over = server.get("/v1/events")
    assert over.status == 429 and over.json()["code"] == "too_many_streams" and int(over.headers["retry-after"]) > 0
    for stream in streams:
        stream.sock.close()
    followers(server, 0)


def test_old_http_and_head(own_gateway):
    server = own_gateway()
    with Stream(server, version="1.0") as stream:
        assert stream.status == 200 and "transfer-encoding" not in stream.headers
        emit(server, "a.b")
        assert stream.event()[1] == "a.b"
    with server.raw() as raw:
        raw.send(b"HEAD /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in raw._line_end(b"\r\n\r\n")
    followers(server, 0)


def test_tenants_see_their_own(configured):
    server = configured(tokens_yaml(token("infer"), token("admin", "[admin]"), {k: v for k, v in token("bare").items() if k != "tenant"},
                                    {**token("other"), "tenant": "zoo"}))
    streams = {name: Stream(server, headers=authorization(name)) for name in ("infer", "admin", "other")}
    with Stream(server, headers=authorization("bare")) as refused:
        assert refused.status == 403
    with Stream(server) as refused:
        assert refused.status == 401
    for tenant in ("zoo", "-", "acme"):
        emit(server, "job.done", "job/" + tenant, tenant, headers=authorization("infer"))
    assert streams["infer"].event()[2]["topic"] == "job/acme"
    assert streams["other"].event()[2]["topic"] == "job/zoo"
    assert [streams["admin"].event()[2]["topic"] for _ in range(3)] == ["job/zoo", "job/-", "job/acme"]
    for stream in streams.values():
        stream.sock.close()


def test_stop_ends_the_streams(own_gateway):
    server = own_gateway()
    stream = Stream(server)
    quiet = Stream(server)
    followers(server, 2)
    server.signal()
    assert stream.event() is None and quiet.event() is None
    assert server.wait() == 0


# --- WebSocket -------------------------------------------------------------------------------------------------------

websockets = pytest.importorskip("websockets.sync.client", reason="the Python package websockets is not installed")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.frames import Close, Frame, Opcode  # noqa: E402


def connect(server, path="/v1/events/ws", **more):
    return websockets.connect("ws://127.0.0.1:%d%s" % (server.port, path), open_timeout=20, close_timeout=20, **more)


def test_socket_has_the_same_events(own_gateway):
    server = own_gateway()
    with connect(server, "/v1/events/ws?kind=a.*") as ws, Stream(server, "/v1/events?kind=a.*") as stream:
        emit(server, "a.b", count=2)
        emit(server, "c.d")
        emit(server, "a.c")
        for _ in range(3):
            assert json.loads(ws.recv(20)) == stream.event()[2]
    with connect(server, "/v1/events/ws?last_event_id=00000000-1") as ws:
        assert [json.loads(ws.recv(20))["kind"] for _ in range(4)] == ["a.b", "a.b", "c.d", "a.c"]


def test_socket_pings_and_closes(own_gateway):
    server = own_gateway()
    with connect(server) as ws:
        for payload in (b"", b"x" * 125):
            assert ws.ping(payload).wait(20)
        ws.send("text")
        ws.send(["in ", "three ", "pieces"])
        ws.send(b"\xff" * 60000)
        emit(server, "still.here")
        assert json.loads(ws.recv(20))["kind"] == "still.here"
        ws.close(4000, "enough")
    assert ws.protocol.close_rcvd.code == 4000
    followers(server, 0)


def raw_socket(server, key="dGhlIHNhbXBsZSBub25jZQ==", **headers):
    raw = server.raw()
    lines = {"Host": "localhost", "Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": key, **{k.replace("_", "-"): v for k, v in headers.items()}}
    raw.send(("GET /v1/events/ws HTTP/1.1\r\n" + "".join("%s: %s\r\n" % h for h in lines.items() if h[1] is not None) +
              "\r\n").encode())
    return raw


def close_code(raw):
    """The code of the close frame that comes, and that the connection ends behind it."""
    data = raw.buffer
    while True:
        more = raw.sock.recv(4096)
        if not more:
            break
        data += more
    assert data[0] == 0x88, data
    return int.from_bytes(data[2:4], "big")


def masked(opcode, payload, fin=True):
    return Frame(opcode, payload, fin).serialize(mask=True)


BAD_FRAMES = [
    ("unmasked", Frame(Opcode.TEXT, b"hello").serialize(mask=False), 1002),
    ("reserved bit", b"\xc1" + masked(Opcode.TEXT, b"hello")[1:], 1002),
    ("reserved opcode", b"\x83\x80\0\0\0\0", 1002),
    ("lonely continuation", masked(Opcode.CONT, b"x"), 1002),
    ("message inside a message", masked(Opcode.TEXT, b"a", False) + masked(Opcode.TEXT, b"b"), 1002),
    ("fragmented ping", b"\x09\x80\0\0\0\0", 1002),
    ("long ping", b"\x89\xfe\0\x7e" + bytes(4 + 126), 1002),
    ("length not in its shortest form", b"\x82\xfe\0\5" + bytes(9), 1002),
    ("bad text", masked(Opcode.TEXT, b"\xff\xfe"), 1007),
    ("bad text in two", masked(Opcode.TEXT, b"\xe2\x82", False) + masked(Opcode.CONT, b"x"), 1007),
    ("too big", b"\x82\xff" + (65537).to_bytes(8, "big") + bytes(4), 1009),
    ("too big in pieces", masked(Opcode.BINARY, bytes(40000), False) + masked(Opcode.CONT, bytes(40000)), 1009),
    ("close of one byte", masked(Opcode.CLOSE, b"\3"), 1002),
    ("close with a code that is never sent", masked(Opcode.CLOSE, (1005).to_bytes(2, "big")), 1002),
    ("close", masked(Opcode.CLOSE, Close(1000, "bye").serialize()), 1000),
    ("close without a code", masked(Opcode.CLOSE, b""), 1000),
]


@pytest.mark.parametrize("data, code", [case[1:] for case in BAD_FRAMES], ids=[case[0] for case in BAD_FRAMES])
def test_socket_closes_with_the_right_code(gateway, data, code):
    for split in (len(data), 1):
        with raw_socket(gateway) as raw:
            assert b" 101 " in raw._line_end(b"\r\n\r\n")
            for at in range(0, min(len(data), 64), split):
                raw.send(data[at:at + split])
            raw.send(data[64:] if split == 1 else b"")
            assert close_code(raw) == code


def test_socket_handshake(gateway):
    good = raw_socket(gateway)
    head = good._line_end(b"\r\n\r\n").decode().lower()
    assert " 101 " in head and "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head and "upgrade: websocket" in head
    good.sock.close()
    for status, changes in [(426, {"Upgrade": None}), (426, {"Connection": "close"}), (426, {"Sec_WebSocket_Version": "8"}),
                            (400, {"key": "short"}), (400, {"key": None}), (426, {"Upgrade": "h2c"})]:
        with raw_socket(gateway, **changes) as raw:
            reply = raw.reply()
            assert reply.status == status, changes
            assert status != 426 or reply.headers["sec-websocket-version"] == "13"
    with raw_socket(gateway) as raw:  # frames in the same packet as the request
        pass
    raw = gateway.raw()
    raw.send(b"GET /v1/events/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + masked(Opcode.PING, b"early"))
    assert b" 101 " in raw._line_end(b"\r\n\r\n")
    while len(raw.buffer) < 7:
        raw.buffer += raw.sock.recv(100)
    assert raw.buffer[:7] == b"\x8a\x05early"
    raw.sock.close()


def test_socket_needs_a_token_where_there_are_tokens(configured):
    server = configured(tokens_yaml(token("infer"), token("metrics", "[metrics]")))
    for headers, status in [({}, 401), (authorization("metrics"), 403)]:
        with pytest.raises(InvalidStatus) as failed:
            connect(server, additional_headers=headers)
        assert failed.value.response.status_code == status
    with connect(server, additional_headers=authorization("infer")):
        pass
    with connect(server, "/v1/events/ws?access_token=secret-infer") as ws:
        emit(server, "job.done", "job/1", "acme", headers=authorization("infer"))
        assert json.loads(ws.recv(20))["topic"] == "job/1"


def test_sockets_that_die_are_let_go(own_gateway):
    server = own_gateway()
    for _ in range(20):
        raw = raw_socket(server)
        raw._line_end(b"\r\n\r\n")
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.sock.close()  # a reset
    followers(server, 0)
    assert server.health()["connections"] <= 2


def test_socket_that_does_not_read_is_bounded(own_gateway):
    server = own_gateway()
    raw = raw_socket(server)
    raw._line_end(b"\r\n\r\n")
    raw.sock.settimeout(0.5)
    try:
        for _ in range(2000):  # pings that nobody reads the answers of
            raw.send(masked(Opcode.PING, b"x" * 125) * 50)
    except OSError:
        pass
    if not conftest.SANITIZED:
        assert server.resident_bytes() < 64 << 20
    assert server.health()["status"] == "live"
    raw.sock.close()
    followers(server, 0)


def test_stop_says_goodbye(own_gateway):
    server = own_gateway()
    silent = raw_socket(server)
    silent._line_end(b"\r\n\r\n")
    with connect(server) as ws:
        server.signal()
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(20)
    assert closed.value.rcvd.code == 1001
    assert close_code(silent) == 1001  # does not answer the close, and is let go all the same
    assert server.wait() == 0
