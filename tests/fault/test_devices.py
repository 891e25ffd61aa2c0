# SPDX-License-Identifier: Apache-2.0
"""What GPUs do to a server, on a machine without one: the simulated device (docs/internals/device-faults.md) runs out of
memory, fails for good, hangs, is not there. No request is lost, each answer is right, attempts[] name the cause."""
import os
import pathlib
import signal
import time

import house
import pytest

BOTH = "codec0,sim0,cpu0"


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


def by_link(answers):
    counts = {}
    for a in answers:
        counts[a["provider"]] = counts.get(a["provider"], 0) + 1
    return counts


def failures(answers, link):
    """[(status, reason)] of the failed attempts at `link`."""
    return [(t["status"], t["reason"]) for a in answers for t in a.get("attempts", [])
            if t["link"] == link and t["status"] != "ok"]


def test_a_device_answers_as_the_cpu_does(start, labels):
    server = start(workers=BOTH, sim="sim0:memory=200MiB,item=8MiB,latency=2ms+0.5ms")
    answers = crowd(server, labels, 40)
    print(answers[0])
    assert by_link(answers).get("sim0", 0) > 0
    assert {a["device"] for a in answers} <= {"sim", "cpu"}
    assert device(server, "sim0")["max_batch"] == 8


def test_a_batch_that_does_not_fit_is_halved(start, labels):
    server = start(workers="codec0,sim0", sim="sim0:memory=60MiB,model=20MiB,item=15MiB")  # two items fit
    answers = crowd(server, labels, 60, threads=16)
    assert by_link(answers) == {"sim0": 60}
    assert max(a["batch_size"] for a in answers) <= 2
