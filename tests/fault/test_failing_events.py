# SPDX-License-Identifier: Apache-2.0
"""Every allocation and send of the gateway fails once, in turn, while a client follows the events or asks through the
cache: it gets what it asked for, a clean error or a closed connection, and the server lives on."""
import http.client
import json
import socket

import pytest

from test_failing_calls import CLASSES, failing, sweep  # noqa: F401 (a fixture)

SOCKET = ("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")


@pytest.mark.parametrize("what, kind", [("hit", "allocation"), ("flight", "allocation"), ("flight", "send")])
def test_the_nth_call_fails_in_front_of_the_house(failing, what, kind):
    server, control = failing
    body = bytes(range(256)) * 100
    headers = {"Content-Type": "application/octet-stream", **({"Cache-Control": "no-cache"} if what == "flight" else {})}
    seen = sweep(server, control, kind, 60, ("POST", "/infer?task=noop&cache=1", body, headers), lambda text: text == body)
    print(f"{what}, {kind}: {control.failed()} calls failed; answers: {dict(seen)}")
    assert control.failed() > 0
    server.wait_idle()


def follow(server, path, headers, wanted):
    """What came of a stream until `wanted` of it was seen, or its end."""
    data = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(f"GET {path}last_event_id=0-0 HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        while wanted not in data and not (data.startswith(b"HTTP/1.1 503") and data.endswith(b"}\n")):
            try:
                more = sock.recv(65536)
            except ConnectionError:
                return data
            except TimeoutError:
                raise AssertionError(f"nothing more came behind {data!r}") from None
            if not more:
                return data
            data += more
    return data


@pytest.mark.parametrize("kind", ["allocation", "send"])
@pytest.mark.parametrize("path, headers", [("/v1/events?", ""), ("/v1/events/ws?", SOCKET)], ids=["stream", "socket"])
def test_the_nth_call_fails_while_events_are_followed(failing, kind, path, headers):
    server, control = failing
    status, body = server.get("/healthz")
    assert status == 200 and json.loads(body)["connections"] >= 1
    # Something to read: a job's events.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/v1/jobs?task=noop", b"x", {"Content-Type": "application/octet-stream"})
    assert connection.getresponse().status == 202
    connection.close()
    wanted = b'"kind":"job.done"'
    assert wanted in follow(server, path, headers, wanted)
    idle = failures = 0
    for nth in range(1, 60):
        before = control.failed()
        control.arm(CLASSES[kind], nth)
        failures += wanted not in follow(server, path, headers, wanted)
        control.disarm()
        idle = 0 if control.failed() > before else idle + 1
        assert server.process.poll() is None, (kind, nth, server.log_text())
        assert wanted in follow(server, path, headers, wanted), (kind, nth)
        if idle == 3:
            break
    print(f"{kind}: {control.failed()} calls failed, {failures} streams ended early")
    assert control.failed() > 0
