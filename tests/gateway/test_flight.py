# SPDX-License-Identifier: Apache-2.0
"""The answer cache and single-flight: what is computed once, kept, shared, and what never is. The fake house holds GATE
requests until an OPEN one comes, so nothing here depends on time."""
import re
import signal
import threading
import time

import pytest

import conftest

ASK = "/infer?task=noop&cache=1"


@pytest.fixture
def cached(own_gateway, tmp_path):
    """cached(yaml): a gateway with an answer cache."""
    def make(yaml="cache: {memory: 1MiB, ttl: 1h}\n"):
        path = tmp_path / "spillway.yaml"
        path.write_text(yaml)
        return own_gateway(env={"FAKE_CONFIG": str(path)})
    return make


def metric(server, name):
    found = re.findall(r"^%s ([0-9.e+-]+)$" % re.escape(name), server.get("/metrics").body.decode(), re.M)
    return int(float(found[0])) if found else 0


def submitted(server):
    return metric(server, "fake_submitted_total")


def until(test, what, seconds=10):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "never happened: " + what
        time.sleep(0.01)


def asked(server, body, count, path=ASK, headers=None):
    """`count` connections that have sent the same question."""
    socks = [server.raw() for _ in range(count)]
    for sock in socks:
        sock.send(conftest.post(path, body, headers))
    return socks


def collect(socks):
    replies = []
    for sock in socks:
        replies.append(sock.reply())
        sock.sock.close()
    return replies


def waiting(server, shared):
    until(lambda: metric(server, "fake_gated") >= 1 and metric(server, 'spillway_cache_total{result="shared"}') == shared,
          "%d wait" % shared)


def words(replies):
    return sorted(r.headers["x-spillway-cache"] for r in replies)


def test_second_time_is_a_hit(cached):
    server = cached()
    first = server.post(ASK, b"hello")
    second = server.post(ASK, b"hello")
    assert (first.body, second.body) == (b"hello", b"hello")
    assert words([first, second]) == ["hit", "miss"]
    assert submitted(server) == 1
    assert second.headers["x-spillway-link"] == "cpu0"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert metric(server, "spillway_cache_bytes") > 5


def test_pictures_are_kept_and_forms_have_the_same_key_as_raw_bodies(cached):
    server = cached()
    body = b"PIXELS=" + bytes(range(256)) * 1200  # hashed in pieces
    raw = server.post("/infer?top_k=2", body, {"Content-Type": "image/jpeg"})
    form = (b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x\"\r\n\r\n" + body +
            b"\r\n--b\r\nContent-Disposition: form-data; name=\"top_k\"\r\n\r\n2\r\n--b--\r\n")
    formed = server.post("/infer", form, {"Content-Type": "multipart/form-data; boundary=b"})
    assert raw.status == formed.status == 200, (raw.body, formed.body)
    a, b = raw.json(), formed.json()
    assert (a["cache"], b["cache"]) == ("miss", "hit")
    assert a["predictions"] == b["predictions"] and a["model"] == b["model"] and a["provider"] == b["provider"]
    assert b["cost_usd"] == 0 and b["latency_ms"]["total"] > 0
    assert submitted(server) == 1


@pytest.mark.parametrize("path, body, headers", [
    (ASK + "&top_k=3", b"hello", None), (ASK + "&model=other", b"hello", None), (ASK + "&decode=fast", b"hello", None),
    (ASK + "&decode=nvjpeg", b"hello", None),
    (ASK + "&local_only=1", b"hello", None), (ASK, b"hello ", None),
])
def test_another_question_is_another_key(cached, path, body, headers):
    server = cached()
    server.post(ASK, b"hello")
    assert server.post(path, body, headers).headers["x-spillway-cache"] == "miss"
    assert submitted(server) == 2


def test_tenants_do_not_share(cached):
    server = cached("cache: {memory: 1MiB}\ntrusted_peers: [127.0.0.1]\n")
    for tenant in ("a", "b"):
        reply = server.post(ASK, b"hello", {"X-Spillway-Tenant": tenant})
        assert reply.headers["x-spillway-cache"] == "miss"
    assert server.post(ASK, b"hello", {"X-Spillway-Tenant": "a"}).headers["x-spillway-cache"] == "hit"


def test_what_is_never_kept(cached, own_gateway):
    server = cached()
    cases = [("/infer?task=noop", b"hello", None, "off"), (ASK, b"SIMPLER", None, "miss"),
             (ASK, b"FAIL=1,truncated,bad", None, "miss"), (ASK, b"FAIL=11,gone,gone", None, "miss"),
             (ASK, b"one", {"Cache-Control": "no-store"}, "off"), ("/infer?task=noop&cache=0", b"two", None, "off"),
             (ASK + "&link=cpu0", b"three", None, "off")]
    for path, body, headers, word in cases:
        before = submitted(server)
        for _ in range(2):
            assert server.post(path, body, headers).headers["x-spillway-cache"] == word, (path, body)
        assert submitted(server) == before + 2, (path, body)
    plain = own_gateway()
    assert plain.post(ASK, b"hello").headers["x-spillway-cache"] == "off"
    assert plain.post(ASK, b"hello").headers["x-spillway-cache"] == "off"


def test_no_cache_asks_anew_and_keeps_the_answer(cached):
    server = cached()
    assert server.post(ASK, b"hello", {"Cache-Control": "max-age=0, No-Cache"}).headers["x-spillway-cache"] == "miss"
    assert server.post(ASK, b"hello", {"Cache-Control": "no-cache"}).headers["x-spillway-cache"] == "miss"
    assert server.post(ASK, b"hello").headers["x-spillway-cache"] == "hit"
    assert submitted(server) == 2


def test_size_is_bounded(cached):
    server = cached("cache: {memory: 64KiB}\n")
    for i in range(64):
        server.post(ASK, b"%04d" % i + b"x" * 4000)
    assert 0 < metric(server, "spillway_cache_bytes") <= 64 * 1024
    assert server.post(ASK, b"0063" + b"x" * 4000).headers["x-spillway-cache"] == "hit"
    assert server.post(ASK, b"0000" + b"x" * 4000).headers["x-spillway-cache"] == "miss"


def test_answers_grow_old(cached):
    server = cached("cache: {memory: 1MiB, ttl: 1s}\n")
    server.post(ASK, b"hello")
    until(lambda: server.post(ASK, b"hello").headers["x-spillway-cache"] == "miss", "too old")


def test_a_hundred_at_once_are_computed_once(cached):
    server = cached()
    socks = asked(server, b"GATE hundred", 100)
    waiting(server, 99)
    assert server.health()["requests_open"] == 2  # one is computed, one stands by
    server.post("/infer?task=noop", b"OPEN")
    replies = collect(socks)
    assert [r.status for r in replies] == [200] * 100 and {r.body for r in replies} == {b"GATE hundred"}
    assert words(replies) == ["miss"] + ["shared"] * 99
    assert len({r.headers["x-request-id"] for r in replies}) == 100
    assert submitted(server) == 1
    assert server.post(ASK, b"GATE hundred").headers["x-spillway-cache"] == "hit"
    server.wait_for(lambda h: h["requests_open"] == 0, "all closed")


def test_the_first_hangs_up_and_the_others_are_answered(cached):
    server = cached()
    socks = asked(server, b"GATE leader", 1)
    until(lambda: metric(server, "fake_gated") == 1, "leader")
    socks += asked(server, b"GATE leader", 3)
    waiting(server, 3)
    socks[0].sock.close()
    until(lambda: server.health()["connections"] <= 4, "hang-up seen")
    server.post("/infer?task=noop", b"OPEN")
    replies = collect(socks[1:])
    assert [r.status for r in replies] == [200] * 3
    assert submitted(server) == 1
    assert server.health()["leases_out"] == 0  # the fake house's count of cancellations


def test_all_hang_up_and_the_work_ends(cached):
    server = cached()
    socks = asked(server, b"GATE nobody", 5)
    waiting(server, 4)
    for sock in socks:
        sock.sock.close()
    server.wait_for(lambda h: h["requests_open"] == 0, "cancelled")
    assert server.health()["leases_out"] == 1 and metric(server, "fake_gated") == 0
    threading.Timer(0.1, lambda: server.post("/infer?task=noop", b"OPEN")).start()
    assert server.post(ASK, b"GATE nobody", {"X-Spillway-Timeout-Ms": "8000"}).headers["x-spillway-cache"] == "miss"


def test_failure_that_may_pass_is_tried_again_for_who_waits(cached):
    server = cached()
    socks = asked(server, b"GATE again", 10)
    waiting(server, 9)
    server.post("/infer?task=noop", b"OPENFAIL")
    until(lambda: metric(server, "spillway_flight_promotions_total") == 1, "second try")
    until(lambda: metric(server, "fake_gated") == 1, "second try waits")
    server.post("/infer?task=noop", b"OPEN")
    assert [r.status for r in collect(socks)] == [200] * 10
    assert submitted(server) == 2


def test_failure_of_the_second_try_is_everybodys(cached):
    server = cached()
    socks = asked(server, b"GATE twice", 4)
    waiting(server, 3)
    server.post("/infer?task=noop", b"OPENFAIL")
    until(lambda: metric(server, "spillway_flight_promotions_total") == 1 and metric(server, "fake_gated") == 1, "second")
    server.post("/infer?task=noop", b"OPENFAIL")
    assert [r.status for r in collect(socks)] == [503] * 4
    assert submitted(server) == 2


def test_failure_that_stays_is_everybodys_at_once(cached):
    server = cached()
    socks = asked(server, b"GATE bad", 4)
    waiting(server, 3)
    server.post("/infer?task=noop", b"OPENBAD")
    assert [r.status for r in collect(socks)] == [400] * 4
    assert submitted(server) == 1
    assert metric(server, "spillway_cache_bytes") == 0


def test_each_keeps_its_own_deadline(cached):
    server = cached()
    long = asked(server, b"GATE deadline", 1)
    until(lambda: metric(server, "fake_gated") == 1, "leader")
    short = asked(server, b"GATE deadline", 2, headers={"X-Spillway-Timeout-Ms": "50"})
    replies = collect(short)
    assert [r.status for r in replies] == [504] * 2 and replies[0].json()["code"] == "deadline"
    server.post("/infer?task=noop", b"OPEN")
    assert collect(long)[0].status == 200


def test_link_that_is_quarantined_takes_its_answers_along(cached):
    server = cached()
    server.post(ASK, b"hello")
    assert server.post(ASK, b"hello").headers["x-spillway-cache"] == "hit"
    server.post("/infer?task=noop", b"EVENT=link.quarantined|link/cpu0|-|1")
    assert server.post(ASK, b"hello").headers["x-spillway-cache"] == "miss"
    # An answer that was under way may be the bad link's: it is given, but not kept.
    socks = asked(server, b"GATE late", 1)
    until(lambda: metric(server, "fake_gated") == 1, "under way")
    server.post("/infer?task=noop", b"EVENT=link.quarantined|link/cpu0|-|1")
    server.post("/infer?task=noop", b"OPEN")
    assert collect(socks)[0].status == 200
    threading.Timer(0.1, lambda: server.post("/infer?task=noop", b"OPEN")).start()
    assert server.post(ASK, b"GATE late").headers["x-spillway-cache"] == "miss"


def test_stop_with_many_waiting(cached):
    server = cached()
    socks = asked(server, b"GATE stop", 20)
    waiting(server, 19)
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGINT)
    assert {r.status for r in collect(socks)} == {503}
    assert server.wait() == 0
