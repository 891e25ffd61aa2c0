# SPDX-License-Identifier: Apache-2.0
"""Every frame is analysed, and report.json is the same bytes whoever computed it: any number of chunks, threads, processes,
any level of the CPU, killed or not."""
import os
import signal
import time

import clips
import pytest


def cpu_levels():
    flags = open("/proc/cpuinfo", encoding="utf-8").read()
    return ["scalar"] + (["avx2"] if " avx2 " in flags else []) + (["avx512"] if " avx512bw " in flags else [])


@pytest.mark.parametrize("name", clips.NAMES)
def test_every_frame_is_analysed(analyze, cut, name):
    path = clips.asset(name) if clips.FULL else cut(name, frames=90, size="160x120", gop=30)
    run = analyze(path).good()
    count = clips.count_frames(path)
    assert run.report()["frames_analyzed"] == count > 0
    assert f"analysed {count} of {count} frames" in run.text


@pytest.mark.parametrize("chunks", [pytest.param(1, marks=clips.once), pytest.param(2, marks=clips.once), 7])
def test_chunks_change_nothing(analyze, clip, expected, chunks):
    run = analyze(clip, "--chunks", chunks)
    assert run.report_bytes() == expected
    assert run.run()["chunks"] == chunks or clips.SLOW  # that clip has five segments


@clips.once
def test_threads_change_nothing(analyze, clip, expected):
    for threads in (1, 2):
        assert analyze(clip, "--threads", threads).report_bytes() == expected


@clips.once
def test_levels_of_the_cpu_change_nothing(analyze, cut):
    clip = cut("bottle-detection.mp4", frames=300 if clips.FULL else 30, size="640x360" if clips.FULL else "96x54", gop=30)
    reports = {level: analyze(clip, env={"SPILLWAY_CPU": level}).report_bytes() for level in cpu_levels()}
    assert len(set(reports.values())) == 1, {level: len(report) for level, report in reports.items()}


@pytest.mark.parametrize("workers", [pytest.param("cpu0", marks=clips.once), "cpu0,cpu1", pytest.param("cpu0,cpu1,cpu2,cpu3", marks=clips.once)])
def test_a_killed_worker_costs_nothing(program, tmp_path, clip, expected, workers):
    """kill -9 of a worker in the middle, and again of its successor."""
    run = clips.Run(clip, tmp_path / "report", ["--workers", f"codec0,{workers}", "--chunks", 6])
    killed = 0
    for kept in (1, 2):
        if run.wait_kept(kept):
            for pid in run.workers("cpu")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
    run.wait()
    assert run.report_bytes() == expected
    assert killed, "it was over before a worker could be killed"


def test_a_killed_command_goes_on_where_it_was(program, tmp_path, clip, expected):
    run = clips.Run(clip, tmp_path / "report")
    assert run.wait_kept(3), "it was over before it could be killed"
    run.process.kill()
    run.wait()
    kept = len(run.kept())
    assert kept >= 3 and not (run.out / "report.json").exists()
    again = clips.Run(clip, run.out).wait()
    assert again.report_bytes() == expected
    story = again.run()
    assert story["segments_kept"] >= kept
    assert story["frames_kept"] + sum(link["frames"] for link in story["links"]) == story["frames_analyzed"]
    assert sum(link["segments"] for link in story["links"]) + story["segments_kept"] == story["video"]["segments"]
    assert not (run.out / ".parts").exists()


def test_a_stopped_command_says_how_to_go_on(program, tmp_path, clip, expected):
    run = clips.Run(clip, tmp_path / "report")
    assert run.wait_kept(2), "it was over before it could be stopped"
    workers = run.workers()
    run.process.send_signal(signal.SIGINT)
    run.wait()
    assert run.code == 1 and "goes on from there" in run.complaint and not run.text
    end = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in workers) and time.monotonic() < end:
        time.sleep(0.01)
    assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}/exe")], "workers outlived the command"
    assert clips.Run(clip, run.out).wait().report_bytes() == expected


@clips.once
def test_kept_chunks_of_another_question_are_not_taken(program, tmp_path, clip, expected):
    run = clips.Run(clip, tmp_path / "report", ["--set", "canny_low=20"])
    assert run.wait_kept(2)
    run.process.kill()
    run.wait()
    again = clips.Run(clip, run.out).wait()
    assert again.run()["segments_kept"] == 0
    assert again.report_bytes() == expected


def test_damaged_kept_chunks_are_computed_again(program, tmp_path, clip, expected):
    run = clips.Run(clip, tmp_path / "report")
    assert run.wait_kept(3)
    run.process.kill()
    run.wait()
    kept = run.kept()
    data = bytearray(kept[0].read_bytes())
    data[len(data) // 2] ^= 1
    kept[0].write_bytes(data)
    kept[1].write_bytes(kept[1].read_bytes()[:-8])
    assert clips.Run(clip, run.out).wait().report_bytes() == expected


def test_standard_input_is_a_video_too(program, tmp_path, clip, expected):
    import subprocess

    with open(clip, "rb") as file:
        done = subprocess.run([program, "analyze", "-", "-o", str(tmp_path / "report"), "--quiet"], stdin=file, capture_output=True, text=True,
                              timeout=120)
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr
    assert (tmp_path / "report" / "report.json").read_bytes() == expected
