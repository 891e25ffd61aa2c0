# SPDX-License-Identifier: Apache-2.0
"""The files of a video's report, as the programs that people use read them: JSON, CSV, numpy.load, an HTML parser."""
import csv
import html.parser
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
TOOL = BUILD / "tests/task/analyze_tool"
VOID = {"meta", "img", "br", "link", "input"}


def make(directory, frames):
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run([TOOL, "made", directory, str(frames)], check=True, timeout=60)
    return directory


@pytest.fixture(scope="module", params=[1, 50, 1500])
def report(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("report"), request.param), request.param


def test_json_csv_and_npz_say_the_same(report):
    directory, frames = report
    document = json.loads((directory / "report.json").read_text())
    table = document["frames"]
    assert document["frames_analyzed"] == document["frame_count"] == len(table["rows"]) == frames
    assert len(table["columns"]) == len(table["units"])
    with open(directory / "frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    arrays = np.load(directory / "frames.npz", allow_pickle=False)
    assert len(rows) == frames
    for c, (name, unit) in enumerate(zip(table["columns"], table["units"])):
        if unit == "regions":
            continue
        divisor = int(unit[2:].split()[0]) if unit.startswith("1/") else 1
        exact = np.array([row[c] for row in table["rows"]])
        assert arrays[name].dtype == (np.float64 if divisor > 1 else np.int64), name
        assert np.array_equal(arrays[name], exact / divisor if divisor > 1 else exact), name
        digits = len(rows[0][name].partition(".")[2])
        assert np.allclose([float(row[name]) for row in rows], exact / divisor, rtol=0, atol=0.5000001 * 10.0 ** -digits), name
    flat = [[row[0], *box] for row in table["rows"] for box in row[table["columns"].index("motion")]]
    assert arrays["motion_boxes"].tolist() == flat
    assert arrays["defect_boxes"].shape[1] == 9
    assert set(arrays.files) == set(table["columns"]) - {"motion", "defects"} | {"motion_boxes", "defect_boxes"}


def test_totals_and_marks_follow_from_the_rows(report):
    directory, frames = report
    document = json.loads((directory / "report.json").read_text())
    columns, rows = document["frames"]["columns"], document["frames"]["rows"]
    column = {name: [row[c] for row in rows] for c, name in enumerate(columns)}
    totals = document["totals"]
    assert totals["pairs"] == sum(column["has_pair"])
    assert totals["frames_blurred"] == sum(column["blurred"])
    inside = [pair and not cut for pair, cut in zip(column["has_pair"], column["cut"])]
    assert totals["motion_regions"] == sum(count for count, counts in zip(column["motion_regions"], inside) if counts)
    assert abs(totals["mean"] - np.mean(column["mean"]) / 1000) < 1e-3
    assert len(document["scenes"]) == sum(column["cut"]) + 1 == totals["scenes"]
    keys = [entry["frame"] for entry in document["key_frames"]]
    assert keys == sorted(keys) == [number for number, chosen in zip(column["frame"], column["key_frame"]) if chosen]
    assert len(keys) == min(8, frames)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(report):
    directory, frames = report
    source = (directory / "report.html").read_text("ascii")
    page = Page()
    page.feed(source)
    page.close()
    assert page.open == []
    assert page.links and all(link.startswith("key/") and link.endswith(".png") for link in page.links)
    assert "url(" not in source and "<script" not in source and "@import" not in source
    text = "".join(page.text)
    assert f"Analysed {frames} of {frames} frames" in text
    assert 'odd: <b>"quoted"</b> & cut' in text  # as text, not as a tag
    assert source.count("<svg") == 6 and len(source) < 2_000_000


def test_the_tool_compares(tmp_path):
    a, b = make(tmp_path / "a", 40), make(tmp_path / "b", 41)
    equal = subprocess.run([TOOL, "compare", a / "report.json", a / "report.json"], capture_output=True, text=True, timeout=20)
    assert (equal.returncode, equal.stdout.strip()) == (0, "equal")
    differ = subprocess.run([TOOL, "compare", a / "report.json", b / "report.json"], capture_output=True, text=True, timeout=20)
    assert differ.returncode == 1 and differ.stdout.strip()
