# SPDX-License-Identifier: Apache-2.0
"""Workers die, stop, spin, starve and crash under load; no request is lost and no answer is wrong.

SPILLWAY_FULL=1 runs the full numbers (10,000 requests, 100 kills; 1,000 crashers)."""
import io
import os
import random
import signal
import subprocess
import sys
import time

import house
import pytest
from PIL import Image


def kill_at_random(server, kills, seed, done):
    """SIGKILLs codec0 and cpu0 in turn at random moments of their being ready; returns [(name, pid)]. They are left alone for
    about as long as they took to start, so that on a slow machine too something is done between two kills within 30 s."""
    rng = random.Random(seed)
    killed = []
    last = {"codec0": 0, "cpu0": 0}  # a pid may be listed for a moment after its death: each is counted once
    while len(killed) < kills and not done():
        name = rng.choice(["codec0", "cpu0"])
        begin = time.monotonic()
        pid = server.wait_worker_ready(name, other_than_pid=last[name])
        time.sleep(rng.uniform(0, max(0.25, time.monotonic() - begin)))
        try:
            os.kill(pid, signal.SIGKILL)
            killed.append((name, pid))
            last[name] = pid
        except ProcessLookupError:
            pass  # it is ours no more: another reason ended it
    return killed


def test_kill_9_under_load_loses_nothing(start, labels, record_property):
    requests, kills = (10_000, 100) if house.FULL else (1_500, 20)
    seed = int(os.environ.get("SPILLWAY_SEED", "3"))
    print("seed", seed)
    server = start()
    client = house.load(server, labels, requests)
    killed = kill_at_random(server, kills, seed, lambda: client.poll() is not None)
    r = house.result(client)
    record_property("kills", len(killed))
    record_property("throughput_rps", r["throughput_rps"])
    print(f"{len(killed)} kills in {r['window_s']:.1f} s, {r['ok']} right answers, p50 {r['latency_us']['p50']:.0f} us, "
          f"max {r['latency_us']['max']:.0f} us")
    house.assert_all_right(r, requests)
    assert len(killed) == kills, "the requests were over before the kills were"
    assert {name for name, _ in killed} == {"codec0", "cpu0"}
    server.wait_ready()
    assert server.restarts() >= kills
    server.wait_idle()


def test_both_workers_killed_at_once(start, labels):
    server = start()
    client = house.load(server, labels, 400)
    for _ in range(3):
        time.sleep(0.2)
        for name in ("codec0", "cpu0"):
            os.kill(server.wait_worker_ready(name), signal.SIGKILL)
    house.assert_all_right(house.result(client), 400)


@pytest.mark.parametrize("name", ["codec0", "cpu0"])
def test_a_stopped_worker(start, labels, name):
    server = start()
    pid = server.wait_worker_ready(name)
    client = house.load(server, labels, 400)
    time.sleep(0.3)
    os.kill(pid, signal.SIGSTOP)
    house.assert_all_right(house.result(client), 400)
    server.wait_worker_ready(name, other_than_pid=pid)


def test_a_worker_in_a_busy_loop(start, labels):
    """Each incarnation's 150th item spins for ever. Bodies differ: a hang makes what was in hand suspect."""
    server = start(faults="worker.batch:spin@n=150")
    pictures = [(p.read_bytes(), label) for p, label in labels.items() if p.suffix == ".jpeg"]

    def one(i):
        picture, label = pictures[i % len(pictures)]
        status, answer = house.post(server, house.with_comment(picture, i), headers={"X-Spillway-Timeout-Ms": "60000"})
        assert status == 200, (status, answer)
        assert answer["predictions"][0]["label"] == label

    house.Crowd(one, 400).join(240)
    assert server.restarts() >= 2, "no worker hung: the fault point was not reached"


def test_starved_workers(start, labels):
    """Workers at the lowest priority beside hogs: slow, and not to be taken for hung."""
    server = start()
    for name in ("codec0", "cpu0"):
        os.setpriority(os.PRIO_PROCESS, server.worker(name)["pid"], 19)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
    try:
        house.assert_all_right(house.result(house.load(server, labels, 60)), 60)
        assert server.restarts() == 0, "a starved worker was taken for a hung one"
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_a_crasher_costs_two_workers_and_no_good_request(start, labels):
    crashers, good = (1_000, 3_000) if house.FULL else (200, 600)
    server = start(faults="codec.decode:segv@body-prefix=GIF89a")  # the good ones are no GIFs
    client = house.load(server, labels, good, concurrency=6)
    crasher = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(crasher, "GIF")
    assert crasher.getvalue().startswith(b"GIF8")
    body = b"GIF89a" + crasher.getvalue()[6:]

    def one(i):
        status, answer = house.post(server, body)
        assert status == 422 and "crashed_decoder" in str(answer), (status, answer)

    house.Crowd(one, crashers, threads=2).join()
    house.assert_all_right(house.result(client), good)
    assert server.restarts() <= 2


def test_a_crashed_worker_is_ready_again_soon(start, record_property):
    """The time is reported; only a gross failure fails (timing decides no test)."""
    server = start()
    took = {"codec0": [], "cpu0": []}
    for _ in range(5):
        for name in took:
            server.wait_ready()
            assert house.post(server, next(iter(server_pictures())))[0] == 200  # completed a batch: no back-off
            pid = server.wait_worker_ready(name)
            begin = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            server.wait_worker_ready(name, other_than_pid=pid)
            took[name].append(time.monotonic() - begin)
    for name, times in took.items():
        record_property(f"{name}_ready_again_ms", round(max(times) * 1e3))
        print(f"{name} ready again after ms: {[round(t * 1e3) for t in times]}")
        assert max(times) < (20 if house.SANITIZED else 5)


def server_pictures():
    for name in house.PICTURES:
        yield (house.ASSETS / "media" / "images" / name).read_bytes()


def test_a_late_worker_changes_no_answer(start, labels):
    """Two device workers; now and then one sleeps past the link timeout and wakes after its lease was taken over."""
    server = start(workers="codec0,cpu0,cpu1", faults="engine.run:sleep=1200@every=40", args=["--link-timeout-ms", 300])
    house.assert_all_right(house.result(house.load(server, labels, 800 if not house.FULL else 5_000)))
    server.wait_idle()
    assert server.metric("spillway_stale_completions_total") > 0, "no completion came late: nothing was tested"
