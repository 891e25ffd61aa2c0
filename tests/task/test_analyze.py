# SPDX-License-Identifier: Apache-2.0
"""The files of a video's report, as the programs that people use read them: JSON, CSV, numpy.load, an HTML parser."""
import csv
import html.parser
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared/assets")).resolve()
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


# ---- frames in, records out ----

W, H, COUNT = 160, 120, 40
SPEED = (2.0, 1.0)  # px a frame of the square
CUT = 25  # the last frame of the first scene


def film():
    """A textured square over a textured ground, a dark spot that never moves, and another scene from CUT + 1 on."""
    rng = np.random.default_rng(6)

    def texture(h, w, low, high):
        coarse = rng.uniform(low, high, (h // 8 + 2, w // 8 + 2))
        y, x = np.mgrid[0:h, 0:w] / 8.0
        y0, x0 = y.astype(int), x.astype(int)
        fy, fx = y - y0, x - x0
        return (coarse[y0, x0] * (1 - fy) * (1 - fx) + coarse[y0, x0 + 1] * (1 - fy) * fx + coarse[y0 + 1, x0] * fy * (1 - fx) +
                coarse[y0 + 1, x0 + 1] * fy * fx)

    grounds, square = [texture(H, W, 80, 115), texture(H, W, 205, 240)], texture(48, 48, 100, 255)
    frames = []
    for i in range(COUNT):
        frame = grounds[i > CUT].copy()
        if i <= CUT:
            x, y = 20 + int(SPEED[0] * i), 30 + int(SPEED[1] * i)
            frame[y:y + 48, x:x + 48] = square
        frame[10:14, 140:144] = 0
        frames.append(frame.round().clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def analyse(directory, frames, piece=24, level=""):
    directory.mkdir(parents=True, exist_ok=True)
    count, height, width = frames.shape
    subprocess.run([TOOL, "grey", directory, str(width), str(height), str(piece)], input=frames.tobytes(), check=True, timeout=120,
                   env=dict(os.environ, SPILLWAY_CPU=level) if level else None, stderr=subprocess.DEVNULL)
    return directory


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    return analyse(tmp_path_factory.mktemp("film"), film())


def test_what_is_in_the_film_is_in_the_report(analysed):
    document = json.loads((analysed / "report.json").read_text())
    arrays = np.load(analysed / "frames.npz")
    assert [(scene["first_frame"], scene["last_frame"]) for scene in document["scenes"]] == [(0, CUT), (CUT + 1, COUNT - 1)]
    track = max(document["tracks"], key=lambda t: t["frames_seen"])
    assert track["first_frame"] == 0 and track["last_frame"] == CUT - 1
    moved = np.subtract(track["end"], track["begin"]) / (CUT - 1)
    assert np.allclose(moved, SPEED, atol=0.25), moved
    assert abs(track["flow_mean"] - np.hypot(*SPEED)) < 0.4
    inside = slice(0, CUT)
    assert (arrays["direction_e"][inside] > 0.8).all()  # 26.6 degrees down from east
    boxes = arrays["motion_boxes"]
    for i in range(CUT):
        x0, y0, x1, y1 = boxes[boxes[:, 0] == i][0][1:5]
        x, y = 20 + SPEED[0] * i, 30 + SPEED[1] * i
        assert x0 <= x + 4 and y0 <= y + 4 and x1 >= x + 44 and y1 >= y + 44 and (x1 - x0) < 80 and (y1 - y0) < 80, i
    assert [d["place"] for d in document["defects"]] == ["lens"]
    assert np.allclose(document["defects"][0]["centre"], (141.5, 11.5), atol=0.5)
    assert arrays["has_pair"].sum() == COUNT - 1
    assert arrays["flow_mean"][CUT + 1:].max() == 0 and arrays["difference"][CUT + 1:].max() == 0
    last = film()[-1].astype(float)
    assert abs(arrays["mean"][-1] - last.mean()) < 1.1e-3 and abs(arrays["deviation"][-1] - last.std()) < 1.1e-3


def test_measures_equal_opencv(analysed):
    cv2 = pytest.importorskip("cv2")
    arrays = np.load(analysed / "frames.npz")
    for i, frame in enumerate(film()):
        laplace = cv2.Laplacian(frame, cv2.CV_64F, ksize=1)
        assert abs(arrays["sharpness"][i] - laplace.var()) < 2e-3
        assert arrays["edges"][i] == np.count_nonzero(cv2.Canny(frame, 15, 60))


@pytest.mark.parametrize("piece, level", [(1, ""), (2, "avx2"), (7, "scalar"), (23, "avx512")])
def test_pieces_and_cpu_levels_give_the_same_bytes(analysed, tmp_path, piece, level):
    again = analyse(tmp_path, film(), piece, level)
    for name in ("report.json", "frames.csv", "frames.npz", "report.html"):
        assert (again / name).read_bytes() == (analysed / name).read_bytes(), name


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (17, 13), (640, 3)])
def test_frames_of_any_size(tmp_path, size):
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (5, size[1], size[0]), dtype=np.uint8)
    document = json.loads((analyse(tmp_path, frames) / "report.json").read_text())
    assert document["frames_analyzed"] == 5


# ---- a file, with its pictures ----

CLIPS = ["big_buck_bunny_small.mp4", "bottle-detection.mp4", "car-detection.mp4"]
PIECE = 24


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A piece of each clip, one behind the other, analysed from the file, with the film."""
    clips = [ASSETS / "media/video" / name for name in CLIPS]
    if not all(clip.exists() for clip in clips) or not shutil.which("ffmpeg"):
        pytest.skip("no clips (SPILLWAY_ASSETS) or no ffmpeg")
    directory = tmp_path_factory.mktemp("joined")
    parts = "".join(f"[{i}:v]trim=start_frame=60:end_frame={60 + PIECE},scale=160:120,setsar=1,setpts=N/25/TB[p{i}];"
                    for i in range(len(clips)))
    order = "".join(f"[p{i}]" for i in range(len(clips)))
    subprocess.run(["ffmpeg", "-v", "error", *[word for clip in clips for word in ("-i", clip)], "-filter_complex",
                    f"{parts}{order}concat=n={len(clips)}:v=1[out]", "-map", "[out]", "-r", "25", "-threads", "1",
                    directory / "joined.mp4"], check=True, timeout=60)
    subprocess.run([TOOL, "video", directory, directory / "joined.mp4", "overlay"], check=True, timeout=180,
                   stderr=subprocess.DEVNULL)
    return directory


def test_joined_clips_are_cut_where_they_were_joined(joined):
    document = json.loads((joined / "report.json").read_text())
    assert document["frames_analyzed"] == document["frame_count"] == 3 * PIECE
    assert [scene["first_frame"] for scene in document["scenes"]] == [0, PIECE, 2 * PIECE]
    for track in document["tracks"]:
        assert track["first_frame"] // PIECE == track["last_frame"] // PIECE


def test_key_frames_are_drawn_and_the_film_has_every_frame(joined):
    document = json.loads((joined / "report.json").read_text())
    assert len(document["key_frames"]) == 8
    for key in document["key_frames"]:
        with Image.open(joined / key["picture"]) as picture:
            assert picture.size == (160, 120) and picture.mode == "RGB"
            assert picture.getpixel((0, 0)) == (20, 22, 26)  # the label's bar
    assert len(list((joined / "key").iterdir())) == 8
    if shutil.which("ffprobe") and (joined / "overlay.mp4").exists():
        told = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0",
                               joined / "overlay.mp4"], capture_output=True, text=True, check=True, timeout=60)
        assert told.stdout.strip() == str(3 * PIECE)
