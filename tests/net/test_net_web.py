# SPDX-License-Identifier: Apache-2.0
"""FETCH and SEND against servers that behave, and against servers that do not."""
import os
import socket
import threading
import time

import pytest

from outside import reply

PICTURE = bytes(range(256)) * 40


def fetch(net, url, **more):
    return net.run("fetch", url=url, private_ok=True, **more)


def test_fetch_gives_the_bytes(net, scripted):
    server = scripted(reply(body=PICTURE))
    answer = fetch(net, server.url + "/cat.jpg?x=1")
    assert answer["status"] == "ok" and answer["bytes"] == PICTURE and answer["output_bytes"] == len(PICTURE)
    assert answer["sealed"], "the worker keeps the output mapped: the gateway cannot seal it"
    assert server.heads[0].method == "GET" and server.heads[0].target == "/cat.jpg?x=1"
    assert server.heads[0].headers["user-agent"].startswith("spillway/")


def test_connections_are_used_again(net, scripted):
    server = scripted(reply(body=b"x"))
    for _ in range(5):
        assert fetch(net, server.url)["status"] == "ok"
    assert len(server.heads) == 5 and server.connections == 1


def test_chunked_body(net, scripted):
    def script(connection, request, number):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        return True
    assert fetch(net, scripted(script).url)["bytes"] == b"hello world"


@pytest.mark.parametrize("status,expected", [(404, "invalid"), (403, "invalid"), (410, "invalid"), (500, "unavailable"),
                                              (503, "unavailable"), (429, "unavailable")])
def test_fetch_says_what_the_server_said(net, scripted, status, expected):
    answer = fetch(net, scripted(reply(status, b"an error page " * 5000)).url, limit=1000)
    assert (answer["status"], answer["code"]) == (expected, "fetch_failed")
    assert f"answered {status}" in answer["message"]


def test_an_empty_answer_is_no_picture(net, scripted):
    answer = fetch(net, scripted(reply(200)).url)
    assert (answer["status"], answer["code"]) == ("invalid", "fetch_failed")


def test_retry_after_in_seconds_and_as_a_date(net, scripted):
    assert fetch(net, scripted(reply(429, headers=["Retry-After: 7"])).url)["retry_after_s"] == 7
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 90 <= fetch(net, scripted(reply(503, headers=["Retry-After: " + date])).url)["retry_after_s"] <= 100
    assert fetch(net, scripted(reply(503, headers=["Retry-After: soon"])).url)["retry_after_s"] == 0
    assert fetch(net, scripted(reply(503, headers=["Retry-After: 99999999"])).url)["retry_after_s"] == 86400


def test_too_large_by_its_header_and_on_the_way(net, scripted):
    def endless(connection, request, number):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)
    for script in (reply(body=b"x" * 5001), endless):
        answer = fetch(net, scripted(script).url, limit=5000)
        assert (answer["status"], answer["code"]) == ("too_large", "body_too_large")
    assert fetch(net, scripted(reply(body=b"x" * 5000)).url, limit=5000)["status"] == "ok"


def test_endless_headers(net, scripted):
    def script(connection, request, number):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-Junk: " + b"y" * 4000 + b"\r\n")
    assert fetch(net, scripted(script).url)["status"] == "too_large"


@pytest.mark.parametrize("text", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"hello\r\n", b""])
def test_garbage_is_no_answer(net, scripted, text):
    def script(connection, request, number):
        connection.sendall(text)
    answer = fetch(net, scripted(script).url)
    assert (answer["status"], answer["code"]) == ("unavailable", "fetch_failed"), answer


def test_slow_headers_and_stalled_bodies_end_at_the_deadline(net, scripted):
    stop = threading.Event()

    def silent(connection, request, number):
        stop.wait(20)

    def drip(connection, request, number):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.05):
            connection.sendall(b"x")
    begun = time.monotonic()
    for script in (silent, drip):
        assert fetch(net, scripted(script).url, timeout_ms=400)["status"] == "timeout"
    assert time.monotonic() - begun < 15  # seconds, not the servers' patience
    stop.set()


def test_refused_connection_and_unknown_host(net):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        assert fetch(net, f"http://127.0.0.1:{nobody.getsockname()[1]}/")["status"] == "unavailable"
    answer = fetch(net, "http://no-such-host.invalid/")
    assert (answer["status"], answer["code"]) == ("invalid", "fetch_failed")


@pytest.mark.parametrize("url", ["", "cat.jpg", "ftp://127.0.0.1/x", "file:///etc/passwd", "gopher://127.0.0.1/", "http://",
                                 "http:///x", "http://[::1/", "javascript:1", "http://user:geheim@127.0.0.1/",
                                 "http://127.0.0.1:99999/"])
def test_what_is_no_url(net, url):
    answer = fetch(net, url)
    assert answer["status"] == "invalid", answer
    assert "geheim" not in answer["message"]


def test_redirects_on_the_same_host(net, scripted):
    def script(connection, request, number):
        if request.target == "/end":
            return reply(body=b"there")(connection, request, number)
        here = int(request.target[1:] or 0)
        status = [301, 302, 303, 307, 308][here % 5]
        target = "/end" if here == 4 else f"/{here + 1}"
        return reply(status, b"moved", [f"Location: {target}"])(connection, request, number)
    server = scripted(script)
    assert fetch(net, server.url + "/0")["bytes"] == b"there"
    assert len(server.heads) == 6


def test_redirects_that_are_not_followed(net, scripted, server_tls):
    other = scripted(reply(body=b"secret"))
    cases = {
        f"http://localhost:{other.port}/": "another host",
        "http://example.com/": "another host",
        "file:///etc/passwd": "no http or https URL",
        "gopher://127.0.0.1:1/": "no http or https URL",
        "/": "too often",
    }
    for location, words in cases.items():
        answer = fetch(net, scripted(reply(302, headers=[f"Location: {location}"])).url)
        assert (answer["status"], answer["code"]) == ("invalid", "fetch_failed") and words in answer["message"], answer
    assert not other.heads
    assert fetch(net, scripted(reply(302)).url)["status"] == "invalid"


def test_self_signed_tls_is_refused(net, scripted, server_tls):
    answer = fetch(net, scripted(reply(body=b"x"), tls=server_tls).url)
    assert (answer["status"], answer["code"]) == ("invalid", "fetch_failed") and "certificate" in answer["message"]


def test_local_only_sends_no_byte(net, scripted):
    server = scripted(reply(body=b"x"))
    for op in ("fetch", "send", "remote"):
        answer = net.run(op, url=server.url, private_ok=True, local_only=True, body=b"secret")
        assert (answer["status"], answer["code"]) == ("denied", "local_only")
    assert server.connections == 0


def test_many_at_once_on_one_thread(net, scripted):
    gate, lock, waiting = threading.Event(), threading.Lock(), []

    def script(connection, request, number):
        with lock:
            waiting.append(number)
            if len(waiting) == 100:
                gate.set()
        assert gate.wait(30)
        return reply(body=request.target.encode())(connection, request, number)
    server = scripted(script)
    ids = [net.start("fetch", url=f"{server.url}/{i}", private_ok=True, timeout_ms=40000) for i in range(100)]
    for i, number in enumerate(ids):
        assert net.wait(number)["bytes"] == f"/{i}".encode()
    assert net.card["window"] >= 100


def test_cancel_gives_the_lease_back(net, scripted):
    stop = threading.Event()
    server = scripted(lambda connection, request, number: stop.wait(30))
    number = net.start("fetch", url=server.url, private_ok=True, timeout_ms=60000)
    while not server.heads:
        time.sleep(0.01)
    net.tell(op="cancel", of=number)
    assert net.wait(number, 10)["status"] == "cancelled"
    stop.set()


# --- SEND ---------------------------------------------------------------------------------------------------------

def send(net, url, body=b"{}", **more):
    return net.run("send", url=url, private_ok=True, body=body, **more)


def test_send_posts_the_body_and_its_headers(net, scripted):
    server = scripted(reply(202, b"thank\nyou"))
    body = b"z" * 300000
    answer = send(net, server.url + "/hook", body, headers="X-Spillway-Signature: sha256=abc\nContent-Type: application/json\n")
    assert (answer["status"], answer["http_status"], answer["detail"]) == ("ok", 202, "thank you")
    request = server.heads[0]
    assert request.method == "POST" and request.body == body
    assert request.headers["x-spillway-signature"] == "sha256=abc" and request.headers["content-type"] == "application/json"
    assert "expect" not in request.headers


def test_send_can_put(net, scripted):
    server = scripted(reply(200))
    assert send(net, server.url, b"result", put=True)["status"] == "ok"
    assert server.heads[0].method == "PUT" and server.heads[0].body == b"result"


def test_a_long_answer_to_a_send_is_still_a_success(net, scripted):
    assert send(net, scripted(reply(200, b"x" * 100000)).url)["status"] == "ok"


@pytest.mark.parametrize("status,expected", [(400, "invalid"), (404, "invalid"), (401, "refused"), (403, "refused"),
                                              (429, "unavailable"), (500, "unavailable"), (503, "unavailable")])
def test_send_says_what_the_server_said(net, scripted, status, expected):
    answer = send(net, scripted(reply(status, headers=["Retry-After: 3"])).url)
    assert (answer["status"], answer["code"], answer["origin"], answer["origin_code"]) == (expected, "send_failed", "http", status)
    assert answer["retry_after_s"] == 3


def test_a_redirected_send_keeps_its_body_or_fails(net, scripted):
    def script(connection, request, number):
        if request.target == "/end":
            return reply(200)(connection, request, number)
        return reply(int(request.target[1:]), headers=["Location: /end"])(connection, request, number)
    for status, expected in ((307, "ok"), (308, "ok"), (301, "invalid"), (302, "invalid"), (303, "invalid")):
        server = scripted(script)
        assert send(net, f"{server.url}/{status}", b"body")["status"] == expected
        assert [r.body for r in server.heads] == [b"body"] * len(server.heads)


def test_a_kept_connection_that_was_closed_costs_nothing(net, scripted):
    """The server closes after each answer without saying so: the next body has to be sent again from its beginning."""
    server = scripted(reply(200, keep=False))
    for i in range(10):
        assert send(net, server.url, b"q" * 100000)["status"] == "ok"
        assert server.heads[-1].body == b"q" * 100000


@pytest.mark.parametrize("headers", ["Host: elsewhere\n", "Content-Length: 1\n", "Transfer-Encoding: chunked\n", "no colon\n",
                                     "X: a\rSmuggled: yes\n"])
def test_headers_that_would_change_the_message_are_refused(net, scripted, headers):
    server = scripted(reply(200))
    answer = send(net, server.url, headers=headers)
    assert (answer["status"], answer["code"]) == ("invalid", "bad_header")
    assert not server.heads


def test_what_it_cannot_do(net):
    answer = net.run("decode", body=b"x")
    assert answer["status"] == "unsupported"


# --- faults -------------------------------------------------------------------------------------------------------

def test_fault_points(start_net, scripted):
    server = scripted(reply(200, b"x"))
    net = start_net(faults="net.send:fail@n=1")
    assert send(net, server.url)["status"] == "unavailable" and not server.heads
    assert send(net, server.url)["status"] == "ok"


def test_each_curl_call_may_fail(start_net, scripted):
    """Failing each in turn: a clean error, and the next request is served."""
    server = scripted(reply(200, b"x"))
    failed = 0
    for n in range(1, 40):
        net = start_net(faults=f"net.curl:fail@n={n}")
        first, second = (send(net, server.url, headers="A: b\n") for _ in range(2))
        failed += first["status"] == "nomem"
        assert sorted((first["status"], second["status"])) in (["nomem", "ok"], ["ok", "ok"]), (n, first, second)
    assert failed >= 20


def test_nothing_piles_up(net, scripted):
    """Descriptors of the worker after hundreds of requests of all kinds are those of before, but for kept connections."""
    def count():
        return len(os.listdir(f"/proc/{net.card['pid']}/fd"))
    good, bad = scripted(reply(body=b"x" * 5000)), scripted(reply(500, keep=False))

    def round_of_all():
        for i in range(60):
            fetch(net, good.url)
            send(net, bad.url, b"y" * 100000)
            fetch(net, bad.url)
            fetch(net, good.url, limit=10)
            fetch(net, "http://10.0.0.1/")
    round_of_all()
    before = count()
    round_of_all()
    assert count() <= before + 4, (before, count())
