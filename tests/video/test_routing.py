# SPDX-License-Identifier: Apache-2.0
"""Which device analyses a video: presets, tiers, how much waits, the time of day; a GPU that fails in the middle. The GPU is a
simulated one: it computes what the CPU computes, and fails as its script says."""
import datetime

import clips
import pytest


def who(run):
    return {link["link"]: link["chunks"] for link in run.run()["links"]}


@clips.once
def test_all_on_the_gpu(analyze, clip, expected):
    run = analyze(clip, "--workers", "codec0,cpu0,sim0", "--preset", "gpu-for-all", "--link", "sim0")
    assert run.report_bytes() == expected
    assert set(who(run)) == {"sim0"} and "mode      gpu\n" in run.text and run.run()["mode"] == "gpu"
    run = analyze(clip, "--workers", "codec0,cpu0,sim0", "--preset", "gpu-for-all", "--chunks", 1)
    assert set(who(run)) == {"sim0"}
    run = analyze(clip, "--workers", "codec0,cpu0,sim0", "--preset", "cpu-only", "--chunks", 1)
    assert set(who(run)) == {"cpu0"}


@clips.once
def test_the_gpu_is_for_those_who_pay(analyze, clip, expected):
    for tier, links in (("free", {"cpu0"}), ("premium", {"sim0"})):
        run = analyze(clip, "--workers", "codec0,sim0,cpu0", "--preset", "by-tier", "--tier", tier, "--chunks", 2)
        assert run.report_bytes() == expected
        assert links <= set(who(run)) and (tier == "premium" or set(who(run)) == links)


@clips.once
def test_the_gpu_rests_when_little_waits(analyze, clip, expected):
    run = analyze(clip, "--workers", "codec0,sim0,cpu0", "--preset", "by-load")
    assert run.report_bytes() == expected
    assert set(who(run)) == {"cpu0"}


@clips.once
def test_the_gpu_helps_when_much_waits(analyze, cut, tmp_path):
    """24 chunks; the everyday device is slow, so that more than ten wait when the other one has started."""
    long = cut("car-detection.mp4", frames=1200, size="64x36", gop=48)
    config = tmp_path / "load.yaml"
    config.write_text("workers: [codec0, sim0, sim1]\nchains:\n  analyze:\n    links:\n"
                      "      - {name: sim0, when: queue_depth > 10}\n      - sim1\n")
    run = analyze(long, "--config", config, "--chunks", 24, env={"SPILLWAY_SIM": "sim1:latency=25ms"})
    assert run.report()["frames_analyzed"] == 1200
    assert who(run)["sim0"] >= 1 and who(run)["sim1"] >= 10


@clips.once
def test_a_window_of_the_day(analyze, clip, expected, tmp_path):
    now = datetime.datetime.now()
    inside = f"{now - datetime.timedelta(minutes=30):%H:%M}-{now + datetime.timedelta(minutes=30):%H:%M}"
    for condition, links in ((f"time in {inside}", {"sim0"}), (f"time not in {inside}", {"cpu0"})):
        config = tmp_path / "window.yaml"
        config.write_text("workers: [codec0, sim0, cpu0]\nchains:\n  analyze:\n    links:\n"
                          f"      - {{name: sim0, when: \"{condition}\"}}\n      - cpu0\n")
        run = analyze(clip, "--config", config, "--chunks", 1)
        assert run.report_bytes() == expected
        assert set(who(run)) == links


@pytest.mark.parametrize("fault", [pytest.param("oom@n=2&for=ever", marks=clips.once), "sticky@n=2", pytest.param("oom@every=2", marks=clips.once)])
def test_a_gpu_that_fails_in_the_middle(analyze, clip, expected, fault):
    run = analyze(clip, "--workers", "codec0,sim0,cpu0", env={"SPILLWAY_SIM": f"fault={fault}"})
    assert run.report_bytes() == expected
    story = run.run()
    assert "cpu0" in who(run)
    assert any(attempt["link"] == "sim0" for attempt in story["attempts"]), story


@clips.once
def test_what_it_cost(analyze, clip, tmp_path):
    config = tmp_path / "rates.yaml"
    config.write_text("workers: [codec0, cpu0]\nrates: {cpu0: {per_hour: 3600}}\n")  # a dollar a second
    story = analyze(clip, "--config", config).run()
    assert story["rate"] == 3600 and story["device"] == "cpu"
    assert 0 < story["cost"] <= story["time_s"] * 1.5
    assert story["cost"] == pytest.approx(sum(link["cost"] for link in story["links"]), rel=0.01)
