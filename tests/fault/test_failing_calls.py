# SPDX-License-Identifier: Apache-2.0
"""Every allocation, write, mapping and send of the gateway fails once, in turn: each request gets the right answer or a
clean error, and the server lives on."""
import collections
import http.client
import json
import struct
import time

import house
import pytest

CLASSES = {"allocation": 1, "write": 2, "mapping": 3, "send": 4}


class Control:
    """The page that failing_calls.c maps: class, countdown, failed."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(struct.pack("<qqq", 0, 0, 0))
        self.file = open(path, "r+b", buffering=0)

    def arm(self, kind, nth):
        self.file.seek(0)
        self.file.write(struct.pack("<qq", 0, nth))
        self.file.seek(0)
        self.file.write(struct.pack("<q", kind))

    def disarm(self):
        self.file.seek(0)
        self.file.write(struct.pack("<q", 0))

    def failed(self):
        self.file.seek(16)
        return struct.unpack("<q", self.file.read(8))[0]


@pytest.fixture
def failing(start, tmp_path, monkeypatch):
    module = house.BUILD / "tests" / "fault" / "failing_calls.so"
    if not module.exists():
        pytest.skip("failing_calls.so is not built (sanitizer builds have their own malloc)")
    control = Control(tmp_path / "control")
    monkeypatch.setenv("LD_PRELOAD", str(module))
    monkeypatch.setenv("SPILLWAY_FAILING_CALLS", str(control.path))
    config = tmp_path / "spillway.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\ncache: {{memory: 1MiB}}\n")
    server = start(args=["--log-level", "error", "--config", config])
    monkeypatch.delenv("LD_PRELOAD")
    return server, control


def ask(server, method, path, body, headers):
    """(status, text), or ("closed", why) when no answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionError, http.client.HTTPException) as e:
        return "closed", str(e)
    finally:
        connection.close()


def sweep(server, control, kind, most, request, is_right):
    """Fails the 1st, 2nd, ... call of `kind` during the request until there are no more; what came of each."""
    seen = collections.Counter()
    idle = 0
    for nth in range(1, most + 1):
        before = control.failed()
        control.arm(CLASSES[kind], nth)
        status, text = ask(server, *request)
        control.disarm()
        hit = control.failed() > before
        if status in (200, 202):
            assert is_right(text), (kind, nth, text[:300])
        elif status != "closed":
            assert 400 <= status < 600 and json.loads(text)["error"], (kind, nth, status, text[:300])
        seen[status] += 1
        assert server.process.poll() is None, (kind, nth, server.log_text())
        status, text = ask(server, *request)
        assert status in (200, 202) and is_right(text), (kind, nth, "the next request", status, text[:300])
        idle = 0 if hit else idle + 1
        if idle == 3:
            break
    return seen


@pytest.mark.parametrize("kind", list(CLASSES))
@pytest.mark.parametrize("what", ["noop", "classify"])
def test_the_nth_call_fails(failing, labels, kind, what):
    server, control = failing
    if what == "noop":
        body = bytes(range(256)) * 128
        request = ("POST", "/infer?task=noop", body, {"Content-Type": "application/octet-stream"})
        is_right = lambda text: text == body
    else:
        path, label = max(labels.items(), key=lambda item: item[0].stat().st_size)  # the largest: a body in a memfd
        request = ("POST", "/infer", path.read_bytes(), {"Content-Type": "image/jpeg", "Cache-Control": "no-store"})
        is_right = lambda text: json.loads(text)["predictions"][0]["label"] == label
    seen = sweep(server, control, kind, 400 if house.FULL else 80, request, is_right)
    print(f"{what}, {kind}: {control.failed()} calls failed; answers: {dict(seen)}")
    if kind == "allocation" or what == "classify":  # a warm no-op maps nothing
        assert control.failed() > 0, "nothing was made to fail: is failing_calls.so in the gateway?"
    server.wait_idle()


@pytest.mark.parametrize("kind", list(CLASSES))
def test_the_nth_call_fails_while_a_job_is_accepted(failing, kind):
    """What was answered 202 is done in the end, whichever call failed before, in the loop or in the store's thread."""
    server, control = failing
    accepted = set()

    def is_right(text):
        accepted.add(json.loads(text)["id"])
        return True

    body = bytes(range(256)) * 128
    request = ("POST", "/v1/jobs?task=noop", body, {"Content-Type": "application/octet-stream"})
    seen = sweep(server, control, kind, 400 if house.FULL else 60, request, is_right)
    print(f"job, {kind}: {control.failed()} calls failed; answers: {dict(seen)}")
    assert control.failed() > 0 or kind == "mapping"
    end = time.monotonic() + 60
    for job in accepted:
        while True:
            status, text = server.get(f"/v1/jobs/{job}")
            state = json.loads(text)
            if status == 200 and state["status"] == "done":
                break
            assert state.get("status") != "failed" and time.monotonic() < end, f"{status} {state}"
            time.sleep(0.05)
