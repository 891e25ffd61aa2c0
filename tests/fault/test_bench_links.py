# SPDX-License-Identifier: Apache-2.0
"""spillway bench --links against the real server: two workers, a slower simulated device, and who may ask it."""
import json
import subprocess

import house


def links(server, labels, names, *words):
    files = [word for path in list(labels)[:3] for word in ("--file", path)]
    done = subprocess.run([str(w) for w in (house.PROGRAM, "bench", server.url + "/infer", "--links", names, *files, "--json", *words)],
                          capture_output=True, text=True, timeout=120)
    print(done.stdout, done.stderr)
    return done.returncode, json.loads(done.stdout) if done.stdout else None


def test_the_same_pictures_through_each_link(start, labels, tmp_path):
    server = start(workers="codec0,sim0,cpu0", sim="sim0:latency=25ms", args=["--data-dir", tmp_path / "data"])
    code, table = links(server, labels, "sim0,cpu0", "--requests", 45)
    sim, cpu = table["links"]
    assert code == 0 and [sim["calls"], cpu["calls"]] == [45, 45] and sim["failed"] == cpu["failed"] == 0
    assert sim["p50_ms"] >= 25 and sim["speed_up"] == 1
    assert cpu["same_first_class"] is True and 0 <= cpu["largest_difference"] < 1e-3
    assert cpu["usd_per_1000"] > 0, "the built-in rate of a cpu"


def test_a_link_that_is_not_there(start, labels, tmp_path):
    server = start(args=["--data-dir", tmp_path / "data"])
    code, table = links(server, labels, "cpu0,cuda7", "--requests", 3)
    assert code == 1
    assert table["links"][0]["calls"] == 3 and table["links"][1]["calls"] == 0
    assert table["links"][1]["failed"] > 0 and table["links"][1]["problem"]
