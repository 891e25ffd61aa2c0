# SPDX-License-Identifier: Apache-2.0
"""Routes, headers, framing and limits of the HTTP API, by raw sockets, curl, requests and urllib."""
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import requests

from conftest import OCTETS, SANITIZED, post

NAMED = ("x-request-id", "x-spillway-link", "x-spillway-device", "x-spillway-precision", "x-spillway-attempts", "x-spillway-reason")
LARGE = 40 * 1024 * 1024  # over SP_LIMIT_IMAGE_BODY_BYTES


def form(fields, boundary="xYz"):
    """(name, value) pairs; a value that is bytes is a file."""
    out = b""
    for name, value in fields:
        extra = '; filename="a.jpg"\r\nContent-Type: image/jpeg' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else str(value).encode()
        out += ('--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n' % (boundary, name, extra)).encode() + data + b"\r\n"
    return out + ("--%s--\r\n" % boundary).encode()


def form_headers(boundary="xYz"):
    return {"Content-Type": "multipart/form-data; boundary=" + boundary}


def check_named(reply, what):
    for name in NAMED:
        assert reply.headers.get(name), "%s: no %s" % (what, name)
    if reply.headers["content-type"].endswith("json"):
        body = reply.json()
        for key in ("provider", "device", "precision", "reason", "attempts"):
            assert key in body, "%s: no %s in %s" % (what, key, body)
    if reply.status >= 400:
        body = reply.json()
        assert reply.headers["content-type"] == "application/problem+json", what
        assert body["status"] == reply.status and body["title"] and body["code"], what
        assert body["error"] == body["detail"] and len(body["error"]) > 10, what
        assert body["request_id"] == reply.headers["x-request-id"], what


def test_every_reply_names_who_answered(gateway):
    walk = {
        "landing": (200, gateway.get("/")),
        "icon": (200, gateway.get("/favicon.ico")),
        "healthz": (200, gateway.get("/healthz")),
        "readyz": (200, gateway.get("/readyz")),
        "metrics": (200, gateway.get("/metrics")),
        "infer raw": (200, gateway.post("/infer", b"pixels", {"Content-Type": "image/jpeg"})),
        "infer octets": (200, gateway.post("/infer", b"pixels")),
        "infer form": (200, gateway.post("/infer", form([("image", b"pixels")]), form_headers())),
        "noop": (200, gateway.post("/infer?task=noop", b"echo")),
        "no such path": (404, gateway.get("/nothing")),
        "no such model": (404, gateway.post("/infer?model=missing", b"x")),
        "method": (405, gateway.get("/infer")),
        "method of a page": (405, gateway.post("/healthz", b"x")),
        "no length": (411, gateway.ask(b"POST /infer HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        "empty": (400, gateway.post("/infer", b"")),
        "media type": (415, gateway.post("/infer", b"x", {"Content-Type": "text/plain"})),
        "compressed": (415, gateway.post("/infer", b"x", {"Content-Encoding": "gzip"})),
        "unknown picture format": (415, gateway.post("/infer", b"FAIL=1,unknown_format,it is no picture")),
        "bad form": (400, gateway.post("/infer", b"nothing", form_headers())),
        "bad parameter": (400, gateway.post("/infer?top_k=no", b"x")),
        "expectation": (417, gateway.post("/infer", b"x", {"Expect": "a-miracle"})),
        "broken picture": (400, gateway.post("/infer", b"FAIL=1,truncated,the file ends at byte 7")),
        "too large inside": (413, gateway.post("/infer", b"FAIL=2,pixels,too many pixels")),
        "unsupported": (501, gateway.post("/infer", b"FAIL=7,,cannot".replace(b",,", b",nope,").replace(b"=7", b"=6"))),
        "no memory": (503, gateway.post("/infer", b"FAIL=7,nomem,out of memory here")),
        "busy": (429, gateway.post("/infer", b"FAIL=8,no_slot,all places are taken")),
        "deadline before it began": (504, gateway.post("/infer", b"FAIL=8,deadline,the deadline passed in the queue")),
        "poisoned": (422, gateway.post("/infer", b"FAIL=9,crashed_decoder,this body crashed decoders")),
        "poisoned model": (500, gateway.post("/infer", b"FAIL=9,crashed_model,this body crashed models")),
        "timeout": (504, gateway.post("/infer", b"FAIL=10,deadline,slow while executing")),
        "unavailable": (503, gateway.post("/infer", b"FAIL=11,no_link,no link is left for it")),
        "internal": (500, gateway.post("/infer", b"FAIL=14,bug,our own mistake")),
    }
    for what, (status, reply) in walk.items():
        assert reply.status == status, "%s: %s %s" % (what, reply.status, reply.body[:300])
        check_named(reply, what)
    assert walk["infer raw"][1].headers["x-spillway-link"] == "cpu0"
    assert walk["infer raw"][1].headers["x-spillway-attempts"] == "codec0=ok, cpu0=ok"
    assert walk["busy"][1].headers["retry-after"] == "7"
    assert walk["unavailable"][1].headers["retry-after"] == "7"
    assert walk["busy"][1].headers["x-spillway-attempts"] == "codec0=ok, cpu0=busy"
    assert walk["method"][1].headers["allow"] == "POST"
    assert walk["method of a page"][1].headers["allow"] == "GET, HEAD"
    attempts = walk["unavailable"][1].json()["attempts"]
    assert [a["link"] for a in attempts] == ["codec0", "cpu0"] and attempts[1]["reason"] == "scripted"


def test_the_answer_has_what_the_interface_promises(gateway):
    body = gateway.post("/infer", b"pixels").json()
    assert len(body["predictions"]) == 5
    assert set(body["predictions"][0]) == {"class_id", "label", "probability"}
    assert body["predictions"][1]["label"] == 'class "1"'
    assert set(body["latency_ms"]) == {"queue", "decode", "preprocess", "inference", "postprocess", "total"}
    assert body["batch_size"] == 1 and body["throughput"] == 1000 and body["model"] == "fake" and body["provider"] == "cpu0"


def test_request_id_is_echoed_or_made(gateway):
    assert gateway.post("/infer", b"x", {"X-Request-Id": "abc-123"}).headers["x-request-id"] == "abc-123"
    made = {gateway.post("/infer", b"x", {"X-Request-Id": bad}).headers["x-request-id"] for bad in ("a b", "x" * 64, '"', "{}")}
    assert len(made) == 4 and all(len(m) == 32 for m in made)


@pytest.mark.parametrize("query, fields, headers, check", [
    ("?top_k=3", [], {}, lambda a: len(a["predictions"]) == 3),
    ("", [("top_k", 7)], {}, lambda a: len(a["predictions"]) == 7),
    ("?decode=fast", [], {}, lambda a: a["decode"] == "fast"),
    ("?decode=nvjpeg", [], {}, lambda a: a["decode"] == "nvjpeg"),
    ("", [("decode", "fast")], {}, lambda a: a["decode"] == "fast"),
    ("", [], {}, lambda a: a["decode"] == "exact"),
    ("?model=other", [], {}, lambda a: a["model"] == "other"),
    ("", [("model", "other")], {}, lambda a: a["model"] == "other"),
    ("?unknown=1", [("unknown", 2)], {}, lambda a: len(a["predictions"]) == 5),
    ("?timeout_ms=500", [("timeout_ms", 200)], {"X-Spillway-Timeout-Ms": "300"}, lambda a: True),
])
def test_options_come_by_query_form_and_header(gateway, query, fields, headers, check):
    reply = gateway.post("/infer" + query, form([*fields, ("file", b"pixels")]), {**form_headers(), **headers})
    assert reply.status == 200 and check(reply.json()), reply.body
    reply = gateway.post("/infer" + query, form([("file", b"pixels"), *fields]), {**form_headers(), **headers})
    assert reply.status == 200 and check(reply.json()), reply.body


@pytest.mark.parametrize("query, headers, word", [
    ("?top_k=0", {}, "top_k"), ("?top_k=-1", {}, "top_k"), ("?top_k=101", {}, "top_k"), ("?top_k=", {}, "top_k"),
    ("?timeout_ms=0", {}, "timeout_ms"), ("?timeout_ms=1e3", {}, "timeout_ms"), ("?timeout_ms=99999999999999999999", {}, "timeout_ms"),
    ("?decode=quick", {}, "decode"), ("?model=../etc", {}, "model"), ("?task=dance", {}, "task"),
    ("", {"X-Spillway-Timeout-Ms": "soon"}, "X-Spillway-Timeout-Ms"),
])
def test_bad_options_are_named(gateway, query, headers, word):
    reply = gateway.post("/infer" + query, b"x", headers)
    assert reply.status == 400 and word in reply.json()["error"], reply.body


@pytest.mark.parametrize("name, body, content_type, code", [
    ("no boundary", form([("file", b"x")]), "multipart/form-data", "no_boundary"),
    ("empty boundary", form([("file", b"x")]), 'multipart/form-data; boundary=""', "bad_boundary"),
    ("long boundary", form([("file", b"x")]), "multipart/form-data; boundary=" + "b" * 71, "bad_boundary"),
    ("boundary with control", form([("file", b"x")]), 'multipart/form-data; boundary="a\tb"', "bad_boundary"),
    ("unclosed quote", form([("file", b"x")]), 'multipart/form-data; boundary="xYz', "no_boundary"),
    ("other boundary", form([("file", b"x")], "other"), None, "no_delimiter"),
    ("no parts", b"--xYz--\r\n", None, "no_file_field"),
    ("only other fields", form([("top_k", 3)]), None, "no_file_field"),
    ("empty file", form([("file", b"")]), None, "empty_file"),
    ("two files", form([("file", b"a"), ("image", b"b")]), None, "second_file"),
    ("bad field", form([("top_k", "x"), ("file", b"a")]), None, "bad_parameter"),
    ("cut in the delimiter", b"--xYz", None, "truncated_form"),
    ("cut in the header", b'--xYz\r\nContent-Disposition: form-data; name="fi', None, "truncated_form"),
    ("cut after the header", b'--xYz\r\nContent-Disposition: form-data; name="file"\r\n', None, "truncated_form"),
    ("cut in the content", b'--xYz\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc', None, "truncated_form"),
    ("cut in the last delimiter", form([("file", b"abc")])[:-4], None, "truncated_form"),
    ("bare line feeds", form([("file", b"abc")]).replace(b"\r\n", b"\n"), None, "bad_delimiter"),
    ("junk after the delimiter", b"--xYzjunk\r\n\r\n--xYz--", None, "bad_delimiter"),
    ("no disposition", b"--xYz\r\nContent-Type: image/jpeg\r\n\r\nabc\r\n--xYz--\r\n", None, "unnamed_part"),
    ("no name", b"--xYz\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--xYz--\r\n", None, "bad_part_header"),
    ("name without close", b'--xYz\r\nContent-Disposition: form-data; name="file\r\n\r\nabc\r\n--xYz--\r\n', None, "bad_part_header"),
    ("other disposition", b'--xYz\r\nContent-Disposition: attachment; name="file"\r\n\r\nabc\r\n--xYz--\r\n', None, "bad_part_header"),
    ("header without colon", b'--xYz\r\nnonsense\r\n\r\nabc\r\n--xYz--\r\n', None, "bad_part_header"),
    ("long header", b"--xYz\r\nX: " + b"y" * 5000 + b"\r\n\r\nabc\r\n--xYz--\r\n", None, "part_header_too_long"),
    ("many parts", form([("f%d" % i, "x") for i in range(20)]), None, "too_many_parts"),
])
def test_malformed_forms_say_what_is_wrong(gateway, name, body, content_type, code):
    reply = gateway.post("/infer", body, {"Content-Type": content_type or "multipart/form-data; boundary=xYz"})
    assert reply.status == 400, (name, reply.status, reply.body)
    assert reply.json()["code"] == code, (name, reply.body)
    check_named(reply, name)


@pytest.mark.parametrize("body, content_type", [
    (form([("file", b"x")]), 'multipart/form-data; boundary="xYz"'),
    (form([("file", b"x")]), "Multipart/Form-Data; charset=utf-8; Boundary=xYz"),
    (b"a preamble\r\n" + form([("file", b"x")]) + b"an epilogue", None),
    (form([("file", b"x")]).replace(b"--xYz\r\n", b"--xYz  \t\r\n"), None),
    (form([("file", b"a--xYz\r\n-- xYz-- \r\n--xY")]), None),
    (form([("file", b"\r\n\r\n--\r\n")]), None),
    (form([("file", b"x")]).replace(b"Content-Disposition", b"content-disposition"), None),
    (form([("file", b"x")]).replace(b'name="file"', b"name=file"), None),
    (form([("file", b"x")]).replace(b'filename="a.jpg"', b'filename="a\\";b.jpg"'), None),
])
def test_unusual_but_right_forms_are_read(gateway, body, content_type):
    reply = gateway.post("/infer", body, {"Content-Type": content_type or "multipart/form-data; boundary=xYz"})
    assert reply.status == 200, reply.body


def test_the_form_field_is_what_is_answered(gateway):
    data = bytes(range(256)) * 40
    reply = gateway.post("/infer?task=noop", form([("a", "b"), ("file", data), ("c", "d")]), form_headers())
    assert reply.status == 200 and reply.body == data


def test_real_clients_send_forms(gateway, tmp_path):
    picture = tmp_path / "a b.jpg"
    picture.write_bytes(b"\xff\xd8" + b"\0" * 70000)
    with open(picture, "rb") as file:
        reply = requests.post(gateway.url + "/infer", files={"image": file}, data={"top_k": "2"}, timeout=30)
    assert reply.status_code == 200 and len(reply.json()["predictions"]) == 2
    for extra in ([], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]):
        out = subprocess.run(["curl", "-sS", "-m", "30", "-F", "top_k=2", "-F", "image=@%s" % picture, *extra,
                              gateway.url + "/infer"], capture_output=True, text=True)
        assert out.returncode == 0 and len(json.loads(out.stdout)["predictions"]) == 2, (extra, out)
    request = urllib.request.Request(gateway.url + "/infer", data=picture.read_bytes(), headers={"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert len(json.load(reply)["predictions"]) == 5


# ---- framing ----

def chunked(parts):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def test_chunked_bodies(gateway):
    head = b"POST /infer?task=noop HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [b"a", b"bc" * 3000, b"d" * 30000]
    with gateway.raw() as sock:
        for _ in range(2):  # the second on the same connection
            sock.send(head + chunked(parts))
            reply = sock.reply()
            assert reply.status == 200 and reply.body == b"".join(parts)
    assert gateway.ask(head + chunked([])).status == 400


@pytest.mark.parametrize("lines", [
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Content-Length: 4\r\nContent-Length: 5",
    "Content-Length: 4\r\nContent-Length: 4",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity",
])
def test_ambiguous_framing_is_refused_and_closed(gateway, lines):
    with gateway.raw() as sock:
        sock.send(("POST /infer?task=noop HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n%s\r\n\r\n" % lines).encode())
        reply = sock.reply()
        assert reply.status == 400 and reply.headers["connection"] == "close", reply.body
        check_named(reply, lines)
        assert sock.closed()


@pytest.mark.parametrize("lines", ["Content-Length: -1", "Content-Length: +4", "Content-Length: 4x", "Content-Length: 99999999999999999999999"])
def test_bad_lengths_are_refused(gateway, lines):
    """By libmicrohttpd itself, whose page this is (docs/known-limits.md)."""
    with gateway.raw() as sock:
        sock.send(("POST /infer HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % lines).encode())
        text = b"".join(iter(lambda: sock.sock.recv(65536), b""))
        assert text.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ")) and b"Connection: close" in text


def test_pipelined_requests_are_answered_in_order(gateway):
    bodies = [(b"SLEEP=%d," % (30 if i % 5 == 0 else 0)) + b"%d" % i * (1 + i * 97) for i in range(40)]
    with gateway.raw() as sock:
        sender = threading.Thread(target=sock.send, args=(b"".join(post("/infer?task=noop", b) for b in bodies),))
        sender.start()
        for body in bodies:
            reply = sock.reply()
            assert reply.status == 200 and reply.body == body
        sender.join()


def test_keep_alive_survives_errors(gateway):
    with gateway.raw() as sock:
        for _ in range(3):
            for path, body, status in (("/nothing", b"x" * 50000, 404), ("/infer?top_k=x", b"y" * 50000, 400), ("/infer?task=noop", b"z", 200)):
                sock.send(post(path, body))
                assert sock.reply().status == status
        sock.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.reply().status == 200


def test_head_has_no_body(gateway):
    for path in ("/", "/healthz", "/metrics", "/nothing"):
        with gateway.raw() as sock:
            sock.send(("HEAD %s HTTP/1.1\r\nHost: localhost\r\n\r\nGET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n" % path).encode())
            assert int(sock.reply(head_only=True).headers["content-length"]) > 0
            assert sock.reply().json()["status"] == "ready"
    assert gateway.get("/infer", "HEAD").status == 405


def test_http_1_0(gateway):
    with gateway.raw() as sock:
        sock.send(b"POST /infer?task=noop HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
        reply = sock.reply()
        assert reply.status == 200 and reply.body == b"hi" and sock.closed()


def test_bytes_that_are_no_request(gateway):
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                 b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 60000 + b"\r\n\r\n", b"GET /" + b"a" * 60000 + b" HTTP/1.1\r\n\r\n"):
        with gateway.raw() as sock:
            try:
                sock.send(junk)
                sock.sock.shutdown(socket.SHUT_WR)
                while sock.sock.recv(65536):
                    pass
            except OSError:
                pass
    assert gateway.get("/healthz").status == 200


def test_metrics_port_serves_metrics_and_health_only(gateway):
    page = requests.get("http://127.0.0.1:%d/metrics" % gateway.metrics_port, timeout=30)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain; version=0.0.4")
    for series in ("spillway_requests_total{", "spillway_request_seconds_bucket{", "spillway_worker_ready{worker=\"cpu0\"} 1",
                   "spillway_loop_callback_seconds_count", "process_resident_memory_bytes", "spillway_build_info{"):
        assert series in page.text, series
    assert requests.get("http://127.0.0.1:%d/readyz" % gateway.metrics_port, timeout=30).status_code == 200
    assert requests.post("http://127.0.0.1:%d/infer" % gateway.metrics_port, data=b"x", timeout=30).status_code == 404


def test_the_page_needs_nothing_from_elsewhere(gateway):
    reply = gateway.get("/")
    text = reply.body.decode()
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    outside = text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in outside and "https://" not in outside and "/infer" in text


# ---- Expect and bodies that are too large ----

def test_expect_continue(gateway):
    head = b"POST /infer?task=noop HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nExpect: 100-continue\r\nContent-Length: "
    with gateway.raw() as sock:
        sock.send(head + b"5\r\n\r\n")
        sock.sock.settimeout(10)
        assert sock.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.send(b"hello")
        assert sock.reply().body == b"hello"
    with gateway.raw() as sock:
        sock.send(head + b"%d\r\n\r\n" % LARGE)
        reply = sock.reply()
        assert reply.status == 413 and sock.interim == [] and sock.closed()


def test_too_large_is_seen_by_raw_sockets(gateway):
    for framing in ("length", "chunks"):
        with gateway.raw() as sock:
            if framing == "length":
                sock.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % LARGE)
                for _ in range(LARGE // 65536):
                    sock.send(b"\0" * 65536)
            else:
                sock.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(LARGE // 65536):
                    sock.send(b"10000\r\n" + b"\0" * 65536 + b"\r\n")
                sock.send(b"0\r\n\r\n")
            reply = sock.reply()
            assert reply.status == 413 and reply.json()["code"] == "body_too_large", reply.body
            check_named(reply, framing)
            assert reply.headers["connection"] == "close" and sock.closed()


def test_too_large_is_seen_by_requests(gateway):
    reply = requests.post(gateway.url + "/infer", data=b"\0" * LARGE, headers=OCTETS, timeout=60)
    assert reply.status_code == 413 and "limit" in reply.json()["error"]
    reply = requests.post(gateway.url + "/infer", files={"file": b"\0" * LARGE}, timeout=60)
    assert reply.status_code == 413


def test_too_large_is_seen_by_urllib(gateway):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(gateway.url + "/infer", data=b"\0" * LARGE, headers=OCTETS), timeout=60)
    assert caught.value.code == 413 and json.load(caught.value)["code"] == "body_too_large"


def test_too_large_is_seen_by_curl(gateway, tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(LARGE)
    for extra in ([], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"]):
        out = subprocess.run(["curl", "-sS", "-m", "60", "-w", "%{http_code}", "-F", "file=@%s" % (tmp_path / "large"), *extra,
                              gateway.url + "/infer"], capture_output=True, text=True)
        assert out.returncode == 0 and out.stdout.endswith("413"), (extra, out)


def test_more_than_is_swallowed_is_answered_inside_the_body(gateway):
    resident = gateway.resident_bytes()
    size = 160 * 1024 * 1024
    with gateway.raw() as sock:
        sock.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (2 * size))
        try:
            for _ in range(size // 65536):
                sock.send(b"\0" * 65536)
        except ConnectionError:
            pass
        assert sock.reply().status == 413
    assert SANITIZED or gateway.resident_bytes() < resident + 8 * 1024 * 1024


def test_slow_clients_are_told_so(gateway):
    """All at once, since each of them takes seconds by its nature."""
    def slow_body(sock):
        sock.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000)

    def slow_header(sock):
        sock.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\n")

    def slow_too_large(sock):
        sock.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\nabc" % LARGE)

    def slow_needless(sock):
        sock.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc")

    cases = [(slow_body, 408, "slow_upload"), (slow_header, 408, "slow_headers"), (slow_too_large, 413, "body_too_large"),
             (slow_needless, 408, "slow_upload")]
    socks = []
    try:
        for start, _, _ in cases:
            socks.append(gateway.raw())
            start(socks[-1])
        for sock, (start, status, code) in zip(socks, cases):
            reply = sock.reply()
            assert reply.status == status and reply.json()["code"] == code, (start.__name__, reply.body)
            check_named(reply, start.__name__)
            assert sock.closed()
    finally:
        for sock in socks:
            sock.__exit__()


def test_a_steady_slow_upload_is_taken(gateway):
    """Above the floor, however long it lasts: 24 KiB/s for 6 s."""
    with gateway.raw() as sock:
        total = 24 * 1024 * 6
        sock.send(b"POST /infer?task=noop HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(24):
            sock.send(b"x" * (total // 24))
            time.sleep(0.25)
        assert sock.reply().status == 200


# ---- clients that go away ----

def test_a_hang_up_cancels(gateway):
    before = gateway.health()["leases_out"]  # the fake house counts cancellations there
    for how in ("close", "reset", "in the body"):
        with gateway.raw() as sock:
            request = post("/infer", b"SLEEP=60000, picture")
            sock.send(request[:-5] if how == "in the body" else request)
            gateway.wait_for(lambda h: h["requests_open"] == 1, "the request is open")
            if how == "reset":
                sock.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gateway.wait_for(lambda h: h["requests_open"] == 0, "cancelled after " + how)
    assert gateway.health()["leases_out"] == before + 3
    with gateway.raw() as sock:  # while polled instead of suspended
        sock.send(post("/infer?task=noop", b"SLEEP=60000, noop"))
    gateway.wait_for(lambda h: h["requests_open"] == 0, "cancelled while polled")


def test_half_closing_clients_get_their_answer(gateway):
    for path in ("/infer", "/infer?task=noop"):
        for ms in (0, 1, 300):
            with gateway.raw() as sock:
                sock.send(post(path, b"SLEEP=%d, picture" % ms))
                sock.sock.shutdown(socket.SHUT_WR)
                assert sock.reply().status == 200, (path, ms)
    with gateway.raw() as sock:  # no interim replies in HTTP/1.0
        sock.send(b"POST /infer HTTP/1.0\r\nContent-Length: 10\r\n\r\nSLEEP=300,")
        sock.sock.shutdown(socket.SHUT_WR)
        assert sock.reply().status == 200 and sock.interim == []


def test_a_pipelining_client_that_hangs_up(gateway):
    with gateway.raw() as sock:
        sock.send(post("/infer", b"SLEEP=60000, a") * 3)
        gateway.wait_for(lambda h: h["requests_open"] == 1, "the first is open")
    gateway.wait_for(lambda h: h["requests_open"] == 0, "cancelled")


# ---- bounds ----

def test_places_run_out_and_come_back(own_gateway):
    server = own_gateway(env={"FAKE_SLOTS": "2"})
    socks = [server.raw(), server.raw()]
    for sock in socks:
        sock.send(post("/infer", b"SLEEP=60000, x"))
    server.wait_for(lambda h: h["requests_open"] == 2, "two are open")
    reply = server.post("/infer", b"x")
    assert reply.status == 429 and reply.headers["retry-after"] == "3" and reply.json()["code"] == "no_slot"
    check_named(reply, "no place")
    for sock in socks:
        sock.__exit__()
    server.wait_for(lambda h: h["requests_open"] == 0, "both are gone")
    assert server.post("/infer", b"x").status == 200


def test_connections_from_one_address_are_limited(own_gateway):
    server = own_gateway()
    socks = [server.raw() for _ in range(512)]
    try:
        for sock in socks[:3] + socks[-3:]:
            sock.send(post("/infer?task=noop", b"x"))
            assert sock.reply().status == 200
        with server.raw() as sock:
            sock.send(post("/infer?task=noop", b"x"))
            reply = sock.reply()
            assert reply.status == 429 and reply.json()["code"] == "too_many_connections" and reply.headers["retry-after"]
            check_named(reply, "over the limit")
            assert sock.closed()
        # Another address has its own count.
        with socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=("127.0.0.2", 0)) as other:
            other.sendall(post("/infer?task=noop", b"x"))
            assert other.recv(12) == b"HTTP/1.1 200"
    finally:
        for sock in socks:
            sock.__exit__()
    server.wait_for(lambda h: h["connections"] == 1, "all are gone")
