# SPDX-License-Identifier: Apache-2.0
"""The equivalence guard against real models: a device whose probabilities are 1 % too large is taken out."""
import json
import time

import house

CHAIN = """
guard: {per_mille: %d}
chains:
  classify:
    links: [cpu0, cpu1]
"""


def link(server, name):
    status, body = server.get("/v1/links")
    assert status == 200, body
    found = json.loads(body)
    rows = found["links"] if isinstance(found, dict) else found
    return next(row for row in rows if row["task"] == "classify" and row["name"] == name)


def wait_quarantined(server, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if link(server, "cpu0")["quarantined"]:
            return link(server, "cpu0")
        time.sleep(0.05)
    return link(server, "cpu0")


def with_config(tmp_path, per_mille):
    path = tmp_path / "spillway.yaml"
    path.write_text(CHAIN % per_mille)
    return ["--config", path]


def test_golden_pictures_catch_a_link_that_is_wrong_from_the_start(start, labels, tmp_path):
    server = start(workers="codec0,cpu0,cpu1", faults="cpu0/device.answer:fail", args=with_config(tmp_path, 0))
    found = wait_quarantined(server)
    assert found["quarantined"] and "golden" in found["reason"], found
    picture = next(iter(labels))
    status, answer = house.post(server, picture.read_bytes())
    assert status == 200 and answer["provider"] == "cpu1", answer


def test_samples_catch_a_link_that_goes_wrong_later(start, labels, tmp_path):
    server = start(workers="codec0,cpu0,cpu1", faults="cpu0/device.answer:fail@from=30", args=with_config(tmp_path, 50))
    pictures = [p.read_bytes() for p in labels]
    asked = 0
    while asked < 2000 and not link(server, "cpu0")["quarantined"]:
        for _ in range(10):
            status, _ = house.post(server, house.with_comment(pictures[0], asked))
            assert status == 200
            asked += 1
        time.sleep(0.05)
    found = wait_quarantined(server)
    print(f"caught after {asked} requests: {found['reason']}")
    assert found["quarantined"] and "live" in found["reason"], found


def test_sound_links_stay(start, labels, tmp_path):
    server = start(workers="codec0,cpu0,cpu1", args=with_config(tmp_path, 1000))
    house.assert_all_right(house.result(house.load(server, labels, 60, concurrency=3)))
    server.wait_idle()
    time.sleep(0.3)
    assert server.metric("spillway_guard_checks_total") > 3
    assert server.metric("spillway_guard_mismatches_total") == 0
    assert not link(server, "cpu0")["quarantined"]
