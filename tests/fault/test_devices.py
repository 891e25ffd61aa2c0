# SPDX-License-Identifier: Apache-2.0
"""What GPUs do to a server, on a machine without one: the simulated device (docs/internals/device-faults.md) runs out of
memory, fails for good, hangs, is not there. No request is lost, each answer is right, attempts[] name the cause."""
import http.client
import json
import os
import re
import signal
import time

import house
import pytest

BOTH = "codec0,sim0,cpu0"
TWO = "codec0,sim0,sim1"  # where only the fault matters: sim1 has none, and is ready sooner than a CPU that is measured


def bodies(labels):
    return [(p.read_bytes(), label) for p, label in labels.items() if p.suffix == ".jpeg"]


def crowd(server, labels, count, threads=8, timeout_ms=60000):
    """`count` requests, each checked; the answers in order."""
    pictures, answers = bodies(labels), [None] * count

    def one(i):
        picture, label = pictures[i % len(pictures)]
        status, answer = house.post(server, house.with_comment(picture, i),
                                    headers={"X-Spillway-Timeout-Ms": str(timeout_ms)})
        assert status == 200, (status, answer)
        assert answer["predictions"][0]["label"] == label
        answers[i] = answer

    house.Crowd(one, count, threads).join(240)
    return answers


def device(server, name):
    return server.worker(name)


def crowd_until_it_fails(server, labels, link, count):
    """Crowds until `link` has failed some attempt: how many runs a device gets is the scheduler's business."""
    for _ in range(20):
        answers = crowd(server, labels, count, threads=12)
        if failures(answers, link):
            return failures(answers, link)
    pytest.fail(f"{link} never failed: {server.health()}")


def wait_for(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def device_events(server, until, seconds=20):
    """Events of kind device.* from the server's first on, up to the one of kind `until`: [(kind, data)]."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=seconds)
    found = []
    try:
        connection.request("GET", "/v1/events", headers={"Last-Event-ID": "0"})
        stream = connection.getresponse()
        assert stream.status == 200, stream.read()
        kind, data = "", {}
        while not found or found[-1][0] != until:
            line = stream.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and kind.startswith("device."):
                found.append((kind, data))
                kind = ""
        return found
    finally:
        connection.close()


def by_link(answers):
    counts = {}
    for a in answers:
        counts[a["provider"]] = counts.get(a["provider"], 0) + 1
    return counts


def failures(answers, link):
    """[(status, reason)] of the failed attempts at `link`."""
    return [(t["status"], t["reason"]) for a in answers for t in a.get("attempts", [])
            if t["link"] == link and t["status"] != "ok"]


def test_a_batch_that_does_not_fit_is_halved(start, labels):
    server = start(workers="codec0,sim0", sim="sim0:memory=60MiB,model=20MiB,item=15MiB")  # two items fit
    answers = crowd(server, labels, 60, threads=16)
    assert by_link(answers) == {"sim0": 60}
    assert max(a["batch_size"] for a in answers) <= 2


def test_a_batch_that_does_not_fit_on_a_crowded_device(start, labels):
    """Another process takes the memory for a while: singles, not even those, then full batches again."""
    server = start(workers=BOTH, sim="sim0:memory=100MiB,model=20MiB,item=10MiB,fault=oom=65MiB@n=2&for=6;oom@n=10&for=4")
    said = crowd_until_it_fails(server, labels, "sim0", 40)
    assert all(status == "nomem" for status, _ in said), said
    assert all("asked 10.0 MiB, free 0.0 MiB" in reason for _, reason in said), said
    runs, alone = server.metric("spillway_oom_runs_total"), server.metric("spillway_oom_alone_total")
    assert runs >= alone > 0
    assert server.metric("spillway_device_batch_limit") < 8 or runs == alone, "what fits is remembered"
    assert server.restarts() == 0


def test_a_model_that_does_not_fit(tmp_path, labels):
    """Three tries, then left alone; memory comes back and so does it."""
    hog = tmp_path / "hog"
    hog.touch()
    server = house.Server(tmp_path, workers=TWO, sim=f"sim0:memory=100MiB,fault=oom=90MiB@if={hog}",
                          env={"SPILLWAY_DEVICE_PAUSE_MS": "300"})
    try:
        server.wait_worker_ready("sim1")
        wait_for(lambda: device(server, "sim0")["state"] == "quarantined")
        sim = device(server, "sim0")
        assert sim["code"] == "oom" and "asked" in sim["reason"] and "free" in sim["reason"] and sim["remedy"], sim
        assert sim["restarts"] >= 3 and sim.get("retry_in_s", 0) <= 20, sim
        answers = crowd(server, labels, 10)
        assert by_link(answers) == {"sim1": 10}
        hog.unlink()
        server.wait_worker_ready("sim0")
        assert by_link(crowd(server, labels, 10)).get("sim0", 0) > 0
        assert server.metric("spillway_device_quarantined") == 0
        assert server.metric("spillway_device_quarantines_total") >= 1
        events = device_events(server, "device.returned")
        kinds = [kind for kind, _ in events]
        assert kinds[:4] == ["device.fault"] * 3 + ["device.quarantined"] and kinds.count("device.quarantined") == 1, kinds
        told = events[3][1]["data"]
        assert told["worker"] == "sim0" and told["code"] == "oom" and told["remedy"] and told["retry_in_s"] > 0, told
    finally:
        server.stop()


def test_devices_that_are_not_there_and_one_that_comes_back(tmp_path, labels):
    causes = {"no_gpu": "no GPU", "no_driver": "no driver", "no_library": "library missing", "mismatch": "driver/CUDA mismatch"}
    gone = tmp_path / "gone"
    gone.touch()
    names = {f"sim{i}": cause for i, cause in enumerate(causes)}
    server = house.Server(tmp_path, workers=",".join(["codec0", *names, "cpu0"]),
                          sim=" ".join(f"{name}:probe={cause}@if={gone if name == 'sim1' else '/proc'}"
                                       for name, cause in names.items()),
                          env={"SPILLWAY_DEVICE_PAUSE_MS": "50"})
    try:
        server.wait_worker_ready("cpu0")
        wait_for(lambda: all(device(server, name)["restarts"] >= 3 for name in names), 120)  # tried again and again
        for name, cause in names.items():
            sims = []
            wait_for(lambda: sims.append(device(server, name)) or sims[-1]["state"] == "quarantined", 60)  # noqa: B023
            sim = sims[-1]
            assert sim["code"] == cause and causes[cause] in sim["reason"] and sim["remedy"], sim
        assert by_link(crowd(server, labels, 6, threads=2)) == {"cpu0": 6}
        log = server.log_path.read_text()
        assert log.count("worker cannot start") == 4 and log.count("worker died") == 4, log  # said once, not each time
        gone.unlink()
        server.wait_worker_ready("sim1")
        assert by_link(crowd(server, labels, 10)).get("sim1", 0) > 0
    finally:
        server.stop()


def test_a_sticky_error_ends_the_worker_and_no_request(start, labels):
    server = start(workers=TWO, sim="sim0:item=1MiB,batch=4,fault=sticky@n=4")
    pid = device(server, "sim0")["pid"]
    said = crowd_until_it_fails(server, labels, "sim0", 40)
    assert all(status == "unavailable" and "sticky error" in reason for status, reason in said), said
    assert server.metric("spillway_device_faults_total") >= 1
    if device(server, "sim0")["state"] == "ready":
        assert device(server, "sim0")["pid"] != pid


def test_a_device_that_breaks_again_and_again_is_left_alone(start, labels):
    """Three in a row: a pause; requests go on elsewhere; then it is back."""
    server = start(workers=TWO, sim="sim0:batch=2,fault=sticky@n=1", env={"SPILLWAY_DEVICE_PAUSE_MS": "3000"})
    end = time.monotonic() + 120
    while device(server, "sim0")["state"] != "quarantined":
        assert time.monotonic() < end, server.health()
        crowd(server, labels, 6, threads=3)
    sim = device(server, "sim0")
    assert sim["code"] == "sticky" and sim["remedy"] and sim["restarts"] >= 3, sim
    assert server.metric("spillway_device_quarantines_total") >= 1
    answers = crowd(server, labels, 3, threads=2)
    if device(server, "sim0")["restarts"] == sim["restarts"]:  # the pause was not over meanwhile
        assert by_link(answers) == {"sim1": 3}
    server.wait_worker_ready("sim0")


def test_a_device_that_hangs(start, labels, tmp_path):
    stuck = tmp_path / "stuck"
    stuck.touch()
    server = start(workers=TWO, sim=f"sim0:fault=hang@n=2&if={stuck}")
    pictures, answers = bodies(labels), []

    def one(i):
        picture, label = pictures[i % len(pictures)]
        status, answer = house.post(server, house.with_comment(picture, i), headers={"X-Spillway-Timeout-Ms": "60000"})
        assert status == 200 and answer["predictions"][0]["label"] == label, (status, answer)
        answers.append(answer)

    while not failures(answers, "sim0"):
        running, enough = house.Crowd(one, 24), len(answers) + 24
        wait_for(lambda: device(server, "sim0")["restarts"] or len(answers) >= enough or running.failures)  # noqa: B023
        if device(server, "sim0")["restarts"]:
            stuck.unlink(missing_ok=True)  # once is enough
        running.join()
    assert any("hung" in reason for _, reason in failures(answers, "sim0")), failures(answers, "sim0")
    assert server.metric("spillway_device_faults_total") >= 1
    assert server.metric("spillway_poisoned_requests_total") == 0


def test_a_device_answers_as_the_cpu_does_and_is_spared_when_hot(start, labels, tmp_path):
    """It says that it is hot; the CPU has the requests; after a while without news it is tried again."""
    hot = tmp_path / "hot"
    server = start(workers=BOTH, sim=f"sim0:memory=200MiB,item=8MiB,latency=1ms+0.5ms,fault=throttle=3@if={hot}",
                   env={"SPILLWAY_SAMPLE_MS": "200"})
    answers = crowd(server, labels, 4, threads=1)
    assert by_link(answers) == {"sim0": 4} and {a["device"] for a in answers} == {"sim"}
    assert device(server, "sim0")["max_batch"] == 8 and "throttled" not in device(server, "sim0")
    hot.touch()
    crowd(server, labels, 1, threads=1)
    assert device(server, "sim0")["throttled"]
    answers = crowd(server, labels, 4, threads=1)
    assert by_link(answers) == {"cpu0": 4} and {a["device"] for a in answers} == {"cpu"}
    assert server.metric("spillway_link_skipped_total") >= 4
    hot.unlink()
    wait_for(lambda: "throttled" not in device(server, "sim0"))
    assert by_link(crowd(server, labels, 4, threads=1)) == {"sim0": 4}


def test_the_device_dies_with_64_requests_in_flight(start, labels, tmp_path, record_property):
    """Printed: how long after its death the CPU's answers came, beside what 64 take the CPU anyway. Correctness decides."""
    gone = tmp_path / "gone"
    server = start(workers=BOTH, sim=f"sim0:latency=5s,batch=32,probe=no_driver@if={gone}")
    pictures, took = bodies(labels), []

    def one(i):
        picture, label = pictures[i % len(pictures)]
        status, answer = house.post(server, house.with_comment(picture, i), headers={"X-Spillway-Timeout-Ms": "60000"})
        took.append(time.monotonic())
        assert status == 200 and answer["predictions"][0]["label"] == label, (status, answer)
        assert answer["provider"] == "cpu0", answer

    crowd_of_64 = house.Crowd(one, 64, 64)
    wait_for(lambda: device(server, "sim0")["in_flight"] == 64)
    gone.touch()  # it does not come back
    died = time.monotonic()
    os.kill(device(server, "sim0")["pid"], signal.SIGKILL)
    crowd_of_64.join()
    first, last = min(took) - died, max(took) - died
    assert len(took) == 64 and first > 0
    took.clear()
    began = time.monotonic()
    house.Crowd(one, 64, 64).join()  # the same work, with nobody dying
    alone = max(took) - began
    print(f"\nsim0 died with 64 requests in flight: first answer of the CPU after {first * 1e3:.0f} ms, all 64 after "
          f"{last * 1e3:.0f} ms; 64 take the CPU {alone * 1e3:.0f} ms anyway: {(last - alone) * 1e3:+.0f} ms")
    record_property("first_answer_after_death_ms", round(first * 1e3))
    record_property("last_answer_after_death_ms", round(last * 1e3))
    record_property("cpu_own_time_ms", round(alone * 1e3))


def test_an_unexpected_error_is_logged_with_its_place_once(start, labels):
    """In the sandboxed codec worker, too."""
    server = start(workers=TWO, faults="sim0/worker.batch:fail@every=2,codec0/worker.batch:fail@n=5")
    crowd(server, labels, 30)
    lines = [json.loads(l) for l in server.log_text().splitlines() if '"unexpected error"' in l]
    assert sorted(l["component"] for l in lines) == ["codec0", "sim0"], lines
    for line in lines:
        assert re.fullmatch(r"worker/worker\.c:\d+", line["where"]) and "worker.batch" in line["reason"]
        assert line["backtrace"].count(" < ") >= 1, line
    assert server.restarts() == 0


def test_a_script_that_cannot_be_read_is_said(tmp_path, labels):
    server = house.Server(tmp_path, workers="noop0,sim0", sim="sim0:memory=200MB")
    try:
        wait_for(lambda: device(server, "sim0")["state"] == "quarantined")
        assert "'200MB' is no number of bytes" in device(server, "sim0")["reason"]
    finally:
        server.stop()
