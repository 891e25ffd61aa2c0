# SPDX-License-Identifier: Apache-2.0
"""What people see of `analyze`, `compare` and `cost --video`: last lines, exit codes, what is said of bad input."""
import json
import subprocess

import pytest


@pytest.fixture(scope="module")
def short(cut):
    return cut("bottle-detection.mp4", frames=60, size="96x54", gop=30)


@pytest.fixture(scope="module")
def report(short, program, tmp_path_factory):
    out = tmp_path_factory.mktemp("short") / "deep" / "report"
    done = subprocess.run([program, "analyze", str(short), "-o", str(out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def run(program):
    return lambda *words: subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_the_last_lines(report):
    lines = {line.split(" ")[0]: line for line in report[1].splitlines()}
    assert list(lines) == ["mode", "device", "chunks", "analysed", "time", "cost", "report"]
    assert lines["mode"].split() == ["mode", "cpu"] and "cpu0 (cpu)" in lines["device"]
    assert lines["analysed"] == "analysed 60 of 60 frames" and lines["cost"].split()[1].startswith("$")


def test_the_files(report):
    out = report[0]
    assert {path.name for path in out.iterdir()} == {"report.json", "run.json", "frames.csv", "frames.npz", "report.html", "key"}
    story = json.loads((out / "run.json").read_text())
    assert {"time_s", "device", "rate", "cost", "attempts", "stages", "fps", "links", "mode"} <= set(story)
    told = json.loads((out / "report.json").read_text())
    assert told["frames_analyzed"] == 60 and not {"time_s", "cost", "device"} & set(told)
    assert len(list((out / "key").glob("*.png"))) > 0
    assert len((out / "frames.csv").read_text().splitlines()) == 61


def test_json_is_run_json(analyze, short):
    run = analyze(short, "--json")
    assert json.loads(run.text) == run.run() and not run.complaint


def test_compare(run, report, analyze, short, tmp_path):
    out = report[0]
    same = run("compare", out, out / "report.json")
    assert same.returncode == 0 and "same" in same.stdout
    other = analyze(short, "--set", "canny_low=20").good()
    differ = run("compare", out, other.out)
    assert differ.returncode == 1 and "canny_low" in differ.stdout and differ.stdout.count("\n") == 1
    assert run("compare", "-q", out, other.out).stdout == ""
    (tmp_path / "text").write_text("no report")
    for bad in (tmp_path / "text", tmp_path / "nowhere", tmp_path):
        done = run("compare", out, bad)
        assert done.returncode == 2 and done.stderr.startswith("spillway compare: "), bad


def test_cost_of_a_video(run, report):
    out = report[0]
    table = json.loads(run("cost", "--video", out, "--device", "l4=600,t4=250", "--json").stdout)
    assert table["frames"] == 60
    measured, l4, t4 = table["devices"]
    assert measured["device"] == "cpu0" and measured["measured"] and measured["per_hour"] == 0.05
    assert l4["time_s"] == pytest.approx(0.1) and l4["per_hour"] == 0.2 and t4["time_s"] == pytest.approx(0.24)
    hour = json.loads(run("cost", "--frames", 108000, "--device", "l4=600", "--json").stdout)["devices"][0]
    assert hour["time_s"] == 180 and hour["cost"] == pytest.approx(0.01)
    text = run("cost", "--video", out / "run.json").stdout
    assert "cpu0 (measured)" in text and "cheapest  cpu0, and the quickest" in text


@pytest.mark.parametrize("words", [["--video", "/nowhere"], ["--frames", "100"], ["--frames", "100", "--device", "l4"],
                                   ["--frames", "100", "--device", "abacus=3"], ["--frames", "100", "--device", "l4=0"]])
def test_bad_costs(run, words):
    done = run("cost", *words)
    assert done.returncode in (1, 2) and done.stderr.startswith("spillway cost: ") and not done.stdout


def test_bad_input(run, short, tmp_path):
    out = tmp_path / "report"
    for code, said, words in [
            (2, "did you mean", [short, "--set", "cany_low=20"]), (2, "NAME=VALUE", [short, "--set", "canny_low"]),
            (2, "canny_low", [short, "--set", "canny_low=many"]), (2, "curl", ["https://example.org/film.mp4"]),
            (3, "No such file", [tmp_path / "nowhere.mp4"]), (1, "directory", [tmp_path]), (2, "preset", [short, "--preset", "best"]),
            (3, "link", [short, "--link", "cpu7", "--workers", "cpu0"]), (2, "VIDEO", [])]:
        done = run("analyze", *words, "-o", out)
        assert done.returncode == code and said in done.stderr, (words, done)
        assert not done.stdout and not (out / "report.json").exists()
    assert run("analyze", short, "-o", short).returncode == 1  # a file stands there


def test_a_device_that_is_not_there(run, short, tmp_path):
    done = run("analyze", short, "-o", tmp_path / "report", "--link", "cuda0")
    assert done.returncode == 3 and "nobody here can compute: cuda0: " in done.stderr, done
