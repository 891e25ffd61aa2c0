# SPDX-License-Identifier: Apache-2.0
"""`spillway results export` against a store of SQLite."""
import csv
import io
import json
import os
import pathlib
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", TREE / "build"))
COUNT = 450


def export(*words):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPILLWAY_")}
    return subprocess.run([str(BUILD / "spillway"), "results", *map(str, words)], capture_output=True, text=True, timeout=60,
                          env=environment, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store") / "data"
    subprocess.run([str(BUILD / "tests/store/put_results"), str(directory), str(COUNT)], check=True, timeout=60)
    return directory


def lines(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_document_is_a_line_newest_first(store):
    found = lines(export("export", "--data-dir", store))
    assert [d["id"] for d in found] == [f"r{i:05d}" for i in reversed(range(COUNT))]
    assert found[0]["document"] == {"n": COUNT - 1, "name": 'café, "x"'}
    assert found[0]["task"] == "classify" and found[0]["fallback"] is False


def test_csv_survives_a_reader(store):
    done = export("export", "--data-dir", store, "--format=csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert len(rows) == COUNT
    assert rows[-1]["text"] == 'a "quoted", text\nof two lines 0'
    assert json.loads(rows[-1]["document"]) == {"n": 0, "name": 'café, "x"'}
    assert rows[-1]["fallback"] == "true"


def test_filters(store):
    assert len(lines(export("export", "--data-dir", store, "--task", "detect"))) == COUNT // 2
    assert len(lines(export("export", "--data-dir", store, "--fallback", "yes"))) == COUNT // 10
    assert len(lines(export("export", "--data-dir", store, "--limit", 7))) == 7
    assert len(lines(export("export", "--data-dir", store, "--from", "2026-01-01T01:00:00Z", "--to", "1767232800000"))) == 60
    assert len(lines(export("export", "--data-dir", store, "--from", "2026-01-02"))) == 0
    assert [d["id"] for d in lines(export("export", "--data-dir", store, "--text", "LINES 123"))] == ["r00123"]
    assert lines(export("export", "--data-dir", store, "--tenant", "nobody")) == []


def test_to_a_file(store, tmp_path):
    target = tmp_path / "out.jsonl"
    done = export("export", "--data-dir", store, "--output", target)
    assert done.returncode == 0 and done.stdout == ""
    assert len(target.read_text().splitlines()) == COUNT


def test_by_configuration(store, tmp_path):
    config = tmp_path / "spillway.yaml"
    config.write_text(f"data_dir: {store}\n")
    assert len(lines(export("export", "--config", config, "--limit", 3))) == 3


@pytest.mark.parametrize("words, code, what", [
    (["export", "--format", "xml"], 2, "jsonl or csv"),
    (["export", "--from", "yesterday"], 2, "2026-11-01"),
    (["export", "--fallback", "maybe"], 2, "yes or no"),
    (["import"], 2, "export"),
    ([], 2, "export"),
    (["export", "--data-dir", "/nowhere/at/all"], 3, "no results"),
    (["export", "--output", "/nowhere/out"], 1, "cannot write"),
    (["export", "--output", "/dev/full"], 1, "cannot write"),
])
def test_what_is_wrong_is_said(words, code, what, store):
    if "--output" in words:
        words = [*words, "--data-dir", str(store)]
    done = export(*words)
    assert done.returncode == code, done.stderr
    assert what in done.stderr
