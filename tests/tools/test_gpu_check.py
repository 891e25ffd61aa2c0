# SPDX-License-Identifier: Apache-2.0
"""gpu-check without a GPU: all of its parts against the tests' stand-ins, from the real programs; and what it makes of what parts find: a
number is passed only by a published row beside a peer that was there, a part that breaks costs nothing of the others."""
import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared" / "assets"))
SHIM = BUILD / "tests/shim/libspillway_cuda_shim.so"
ENGINE = BUILD / "tests/engine/gpu/libspillway_standin_ort.so.1"
NVJPEG = BUILD / "tests/media/gpu/libnvjpeg.so.13"
sys.path.insert(0, str(ROOT / "tools"))
from test_gpu_tools import load  # noqa: E402

gpu_check = load("gpu-check")
from gpu import clips, mission, peers, report, sanitizer, server  # noqa: E402


# --- all of it, on the stand-ins -------------------------------------------------------------------------------------------------

FILES = {"bin": ["spillway", "tests/kernels/cuda/test_cuda_pipe", "bench/gpu/bench-gpu-flow", "bench/gpu/bench-gpu-nms", "bench/gpu/bench-gpu-ort",
                 "bench/gpu/bench-gpu-pipe"],
         "lib": ["src/media/libspillway_media.so", "src/engine/onnxruntime/libspillway_engine_onnxruntime.so"]}


@pytest.fixture(name="whole")
def whole_pack(tmp_path):
    """What both packs have, unpacked, with links to what was built here."""
    if os.environ.get("SPILLWAY_SANITIZER"):
        pytest.skip("once without a sanitizer is enough")
    picture = ASSETS / "media/images/bee.jpeg"
    for path in (SHIM, ENGINE, NVJPEG, picture, *(BUILD / name for names in FILES.values() for name in names)):
        if not path.exists():
            pytest.skip(f"no {path.name} here")
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg to make a clip")
    pack = tmp_path / "pack"
    for folder, names in FILES.items():
        (pack / folder).mkdir(parents=True)
        for name in names:
            (pack / folder / pathlib.Path(name).name).symlink_to(BUILD / name)
    (pack / "clips").mkdir()
    shutil.copy(picture, pack / "clips")
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc=size=66x34:rate=25", "-frames:v", "12", "-c:v", "libx264",
                    "-pix_fmt", "yuv420p", pack / "clips/test.mp4"], check=True, timeout=60)
    benches = [[name, "200"] for name in ("bench-gpu-flow", "bench-gpu-nms", "bench-gpu-ort", "bench-gpu-pipe")]
    (pack / "manifest.json").write_text(json.dumps({"part": "AB", "commit": "none", "arch": 90, "tests": ["test_cuda_pipe"], "benches": benches}))
    tool = tmp_path / "tools/compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nwhile [ "${1#/}" = "$1" ]; do shift; done\n"$@" && echo "ERROR SUMMARY: 0 errors"\n')
    tool.chmod(0o755)
    return tmp_path


def test_a_rehearsal_goes_through_every_part(whole, monkeypatch, capsys):
    monkeypatch.setenv("SPILLWAY_ONNXRUNTIME", str(ENGINE))
    monkeypatch.setenv("SPILLWAY_NVJPEG_LIBRARY", str(NVJPEG))
    monkeypatch.setenv("PATH", f"{whole / 'tools'}:{os.environ['PATH']}")
    monkeypatch.setenv("OUT", str(whole / "out"))
    (whole / "out").mkdir()
    status = gpu_check.main([str(whole / "pack"), "--simulated", str(SHIM), "--results", str(whole / "results"), "--soak", "1"])
    told = capsys.readouterr().out
    result = json.loads((whole / "results/gpu-simulated-AB.json").read_text())
    parts = result["parts"]
    assert status == 0 and result["good"], told
    assert list(parts) == list(gpu_check.PARTS)
    ways = {(m.get("model"), m.get("from")) for m in parts["server"]["measured"]}
    assert {("resnet50-half", "jpeg"), ("resnet18", "jpeg"), ("resnet50-half", "shared memory"), ("resnet50", "links"),
            ("resnet50-half", "nvjpeg")} <= ways
    assert all(run["answered"] and not run["errors"] for m in parts["server"]["measured"] for run in m.get("runs", []))
    assert len(parts["server"]["rows"]) == 6 and all(row["achieved"] > 0 for row in parts["server"]["rows"] + parts["clips"]["rows"])
    assert parts["clips"]["measured"][0]["equal"] and parts["soak"]["measured"][0]["flat"] and len(parts["soak"]["measured"][0]["runs"]) == 3
    assert [run["errors"] for run in parts["sanitizer"]["runs"]] == [0, 0, 0]
    # Nothing of it counts.
    assert result["rows"] == [] and {row["why"] for row in result["unpublished"]} == {"simulated"}
    assert {(g["verdict"], g["why"]) for g in result["goals"]} == {("not verified", "simulated")}
    assert sorted(p.name for p in (whole / "out").iterdir()) == ["gpu-simulated-AB.json", "gpu-simulated-AB.md"]
    assert not list(pathlib.Path("/dev/shm").glob(f"spillway-check-{os.getpid()}"))


# --- the table -------------------------------------------------------------------------------------------------------------------

def kernel(bench, case, us, **more):
    return {"bench": bench, "case": case, "simulated": False, "floor_us": us / 2, "median_us": us, "share": 0.5} | more


def peer(name, case, us, **more):
    return {"peer": name, "version": "1", "case": case, "median_us": us} | more


def loaded(model, way, rates, **more):
    runs = [{"concurrency": c, "requests_per_s": r, "p50_us": 2000.0, "p99_us": 4000.0, "errors": 0} for c, r in rates]
    return {"model": model, "from": way, "runs": runs, "stage_ms": {"preprocess": 0.4}, "device_bytes": 3_000_000_000} | more


ROWS = [kernel("prep", "32 x 1280x720 to 224x224 f32", 50), kernel("prep", "resize 224x224 RGB8, 32 of 1280x720", 40),
        kernel("nms", "a picture, class-wise", 30), kernel("pipe", "32 of 1280x720", 90, hidden=0.93),
        *(kernel("ort", f"batch 32, {m}", us, model=m, batch=32) for m, us in (("resnet50", 8000), ("resnet50-half", 3200)))]
PARTS = {"cpu": {"good": True, "peers": [peer("cv2.resize", "resize", 590, threads=1), peer("numpy", "fused", 501, threads=1),
                                         peer("cv2.dnn", "fused", 499, threads=16)]},
         "server": {"good": True, "measured": [loaded("resnet50-half", "jpeg", [(1, 400), (64, 8100)], bound_img_s=10000.0),
                                               loaded("resnet50-half", "shared memory", [(64, 8900)], engine_img_s=10000.0)]}}


def verdicts(parts=None, rows=None, simulated=False):
    return {g["goal"]: g for g in mission.table(PARTS if parts is None else parts, ROWS if rows is None else rows, simulated)}


def test_the_table_says_what_is_reached():
    told = verdicts()
    assert told["fused pre-processing, 32 x 1280x720 -> 224x224 f32"]["verdict"] == "pass"
    assert told["resize, over OpenCV on the CPU"]["verdict"] == "FAIL"  # 590 us are no 15 x 40
    fused = told["fused pre-processing, over OpenCV + numpy on the CPU"]
    assert fused["verdict"] == "FAIL" and "cv2.dnn (1, threads: 16) 499 us" in fused["ours"]  # the fastest peer counts
    assert told["copies hidden"]["verdict"] == "pass" and told["ResNet-50 from JPEG"]["verdict"] == "pass"
    assert told["(c) JPEG over HTTP, of min(engine alone, cores / decode)"]["verdict"] == "pass"
    assert told["(b) u8 224x224 by shared memory, of the engine alone"]["verdict"] == "FAIL"
    assert told["device memory of a server"]["verdict"] == "pass"
    half = told["ResNet-50 FP16 against eager FP32, batch 32"]
    assert half["verdict"] == "FAIL" and "2.50x" in half["ours"] and "torch was not there" in half["ours"]


def test_what_was_not_there_is_not_passed():
    told = verdicts()
    assert told["INT8, a picture"] == {"goal": "INT8, a picture", "aim": "1.2 ms", "ours": "", "verdict": "not verified", "why": "TensorRT has not run"}
    assert told["NMS, a picture's usual output, over OpenCV/numpy on the CPU"]["why"] == "peer not there"
    assert told["fused pre-processing, ahead of torchvision on the GPU"]["why"] == "peer not there"
    assert told["normalise, over OpenCV/numpy on the CPU"]["why"] == "no published row of bench prep"
    assert told["ResNet-50 from JPEG, concurrency 1"]["why"] == "no server was loaded"  # of the f32 model
    assert {g["verdict"] for g in verdicts({}, []).values()} == {"not verified"}
    assert {g["why"] for g in verdicts(simulated=True).values()} == {"simulated"}


def test_a_server_with_errors_passes_nothing():
    parts = copy.deepcopy(PARTS)
    parts["server"]["measured"][0]["runs"][1]["errors"] = 1
    told = verdicts(parts)
    assert told["ResNet-50 from JPEG"]["why"] == "resnet50-half: there were errors; resnet50: no server was loaded"
    assert told["(b) u8 224x224 by shared memory, of the engine alone"]["verdict"] == "FAIL"


def test_a_row_of_another_shape_verifies_nothing():
    rows = [{"bench": "nms", "case": "a picture", "median_us": None}]
    assert verdicts(rows=rows)["NMS, a picture's usual output"]["verdict"] == "not verified"
    parts = {"server": {"good": True, "measured": [{"model": "resnet50", "from": "jpeg", "runs": []}]}}
    assert verdicts(parts)["ResNet-50 from JPEG, concurrency 1"]["verdict"] == "not verified"


def test_rows_are_published_with_floor_achieved_and_share():
    assert report.why_not_published(ROWS[0]) is None
    assert report.why_not_published(kernel("nms", "x", 4, share=None, floor_us=None)) == "no floor_us, share"
    assert report.why_not_published(kernel("nms", "x", 4, simulated=True)) == report.why_not_published(ROWS[0], simulated=True) == "simulated"
    rate = {"bench": "server", "case": "x", "unit": "img/s", "floor": 10.0, "achieved": 9.0, "share": 0.9}
    assert report.why_not_published(rate) is None and report.why_not_published(rate | {"floor": None}) == "no floor"


def test_the_whole_result_as_markdown():
    result = {"part": "A", "commit": "c", "time": "t", "device": {"name": "H"}, "device_after": {}, "simulated": False, "rows": ROWS, "unpublished": [],
              "parts": {name: part | {"seconds": 1.0} for name, part in PARTS.items()}, "goals": list(verdicts().values())}
    text = report.markdown(result)
    assert "| prep | 32 x 1280x720 to 224x224 f32 | 25 | 50 | nan | 50 % |" in text and "not verified: TensorRT has not run" in text
    assert "| cv2.dnn | 1 | fused | 16 | 499 |" in text
    assert "cv2.dnn | 1 |" not in report.markdown(result | {"simulated": True})


def test_the_table_of_two_results(tmp_path, capsys):
    device = {"device": {"name": "H100"}, "simulated": False}
    for name, parts, rows in (("A", {"cpu": PARTS["cpu"]}, ROWS[:4]), ("B", {"server": PARTS["server"]}, ROWS[4:])):
        (tmp_path / name).write_text(json.dumps(device | {"parts": parts, "rows": rows}))
    (tmp_path / "other").write_text(json.dumps(device | {"device": {"name": "T4"}, "parts": {}, "rows": []}))
    assert gpu_check.main(["--table", str(tmp_path / "A"), str(tmp_path / "B")]) == 0
    told = capsys.readouterr().out
    assert told.count("| pass |") == sum(g["verdict"] == "pass" for g in verdicts().values()) > 5
    assert gpu_check.main(["--table", str(tmp_path / "A"), str(tmp_path / "other")]) == 2


# --- parts -----------------------------------------------------------------------------------------------------------------------

class House:
    """As little of a house as a part needs."""
    simulated, soak_s = False, 300

    def __init__(self, tmp_path, **more):
        self.pack = self.scratch = tmp_path
        self.clock, self.env, self.parts = gpu_check.house.Clock(60), dict(os.environ), {}
        self.manifest = {"part": "A", "commit": "c", "arch": 90, "tests": ["one"], "benches": [["bench-gpu-nms"]]}
        self.__dict__.update(more)

    def rows(self):
        return [row for part in self.parts.values() for row in part.get("rows", [])]

    def head(self, *_):
        return []

    def files(self, *patterns):
        return sorted(p for pattern in patterns for p in self.pack.glob(pattern))

    def has(self, *names):
        return all((self.pack / name).exists() for name in names)


def test_a_part_that_breaks_costs_nothing_of_the_others(tmp_path, monkeypatch, capsys):
    def breaks(of):
        raise ZeroDivisionError("as it may be")
    monkeypatch.setattr(gpu_check, "PARTS", {"first": lambda of: {"good": True, "rows": ROWS[:1]}, "second": breaks, "none": lambda of: None,
                                             "third": lambda of: {"good": True, "rows": ROWS[2:3]}})
    written = []
    result = gpu_check.check(House(tmp_path), None, lambda r: written.append(copy.deepcopy(r)))
    assert list(result["parts"]) == ["first", "second", "third"] and not result["good"] and len(result["rows"]) == 2
    assert [len(r["rows"]) for r in written] == [1, 1, 2]  # each is written when it is found
    assert "as it may be" in result["parts"]["second"]["notes"][0] and "BROKE" in capsys.readouterr().out


def test_a_rate_is_held_against_its_bound():
    assert server.rate_row("x", 200.0, 150.0, "(a)")["share"] == 0.75
    assert report.why_not_published(server.rate_row("x", None, 150.0, "(a)")) == "no floor, share"


class Answering:
    """A server that answers as one with a GPU would."""
    port, start_s, card = 0, 1.0, {"detail": "all well"}

    def __init__(self, house, models, workers="", pixels=False, config=None):
        self.decode = "exact"

    def ask(self, *_):
        stages = {"queue": 0.1, "decode": 2.0, "preprocess": 0.2, "inference": 1.0, "postprocess": 0.1, "total": 3.4}
        return 200, {"provider": self.provider, "latency_ms": stages, "decode": self.decode, "attempts": []}

    provider = "cuda0"

    def held(self):
        return 1000

    def restarts(self):
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_pictures_are_held_against_engine_and_decoder(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"x" * 10)
    monkeypatch.setattr(server, "Server", Answering)
    monkeypatch.setattr(server, "load", lambda server, path, c, *_: {"concurrency": c, "requests_per_s": 100.0 * c ** 0.5, "p50_us": 4000.0,
                                                                     "p99_us": 4500.0, "answered": 9, "errors": c == 256})
    monkeypatch.setattr(server.os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(server, "Memory", lambda _: gpu_check.house.Memory(True))
    rows = [kernel("ort", "b1", 1000, model="resnet50", batch=1), kernel("ort", "b32", 4000, model="resnet50", batch=32)]
    of, result = House(tmp_path, parts={"engine": {"rows": rows}}), {"rows": [], "measured": [], "notes": []}
    assert server.from_jpeg(of, "resnet50", tmp_path / "a.jpg", result) is False  # at 256 there was an error
    rate, latency = result["rows"]
    assert (rate["floor"], rate["achieved"], rate["share"]) == (2000.0, 1600.0, 0.8)  # 4 cores / 2 ms; the engine alone would do 8,000
    assert (latency["floor"], latency["achieved"]) == (pytest.approx(3000.0), 4000.0)
    assert result["measured"][0]["stage_ms"]["preprocess"] == 0.2 and result["measured"][0]["engine_img_s"] == 8000.0
    assert server.by_nvjpeg(of, tmp_path / "a.jpg", result) and "nvJPEG was not used" in result["notes"][-1]
    monkeypatch.setattr(Answering, "provider", "cpu0")
    with pytest.raises(server.Broken):
        server.from_jpeg(of, "resnet50", tmp_path / "a.jpg", result)


def test_the_usual_picture_is_taken(tmp_path):
    (tmp_path / "clips").mkdir()
    assert server.jpeg_of(House(tmp_path)) is None
    for name, size in (("a.jpg", 1), ("b.jpeg", 30), ("c.jpg", 20)):
        (tmp_path / "clips" / name).write_bytes(bytes(size))
    assert server.jpeg_of(House(tmp_path)).name == "c.jpg"
    (tmp_path / "clips/coco.jpg").write_bytes(b"")
    assert server.jpeg_of(House(tmp_path)).name == "coco.jpg"


def test_memory_that_grows_is_not_flat():
    filling = [(i, min(i, 20) * 10_000_000) for i in range(100)]
    assert server.flat(filling) == (0, True)
    assert server.flat([(i, 1_000_000_000 + 2_000_000 * i) for i in range(100)])[1] is False
    assert server.flat([(0, 5)]) == (None, False)


def test_what_the_sanitizer_finds_is_a_failure(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    monkeypatch.setattr(sanitizer, "where", lambda: str(tool))

    def says(text):
        tool.write_text(f"#!/bin/sh\n{text}\n")
        tool.chmod(0o755)
        return sanitizer.sanitizer(House(tmp_path))
    found = says('test "$SPILLWAY_SANITIZER" && test -z "$SPILLWAY_FULL" && echo "ERROR SUMMARY: 3 errors"; exit 99')
    assert not found["good"] and found["runs"][0]["errors"] == 3
    assert says('echo "ERROR SUMMARY: 0 errors"')["good"]
    refused = says('echo "Error: Device not supported"; exit 1')
    assert refused["good"] and len(refused["runs"]) == 1 and "refuses" in refused["notes"][0]
    assert mission.table({"sanitizer": refused}, [], False)[-2]["verdict"] == "not verified"
    monkeypatch.setattr(sanitizer, "where", lambda: None)
    assert sanitizer.sanitizer(House(tmp_path))["notes"] == ["compute-sanitizer is not here"]


def test_peers_that_are_not_there_are_told(tmp_path):
    def python(*_, **__):
        return 0, '{"peer": "torch", "case": "all", "absent": "no such module"}\nwarnings\n', "", 0.1
    found = peers.torch_kernels(House(tmp_path, python=python))
    assert found["good"] and found["notes"] == ["torch: all: not there: no such module"]
    late = peers.torch_kernels(House(tmp_path, python=lambda *_, **__: (124, '{"peer": "a", "version": "1", "case": "fused", "median_us": 4}\n{"pe', "", 90)))
    assert late["good"] and late["peers"][0]["median_us"] == 4 and "ended with 124" in late["notes"][0]


def test_a_real_heads_numbers_are_boxes(tmp_path):
    if not (ASSETS / "models/yolox_nano.onnx").exists():
        pytest.skip("no yolox_nano.onnx here")
    import make_head
    import numpy as np
    from gpu import cpu_peers
    assert make_head.main([str(tmp_path / "head.f32")]) == 0
    corners, score, label = cpu_peers.head(np, 8400, tmp_path / "head.f32")
    kept = cpu_peers.nms_numpy(np, corners, score, 0.3, 0.45, label.astype(np.float32))
    assert {1, 7, 16} <= set(label[kept].tolist())  # a bicycle, a truck, a dog
    assert 3 <= len(kept) < 8 < (score > 0.3).sum() < 100


def test_reports_that_differ_are_a_failure(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "clips").mkdir()
    for name in ("bin/spillway", "lib/libspillway_media.so", "clips/a.mp4", "clips/b.mp4"):
        (tmp_path / name).write_bytes(b"")

    def analyze(house, clip, link):
        if clip.stem == "b":
            raise ValueError("cuda0: analyze ended with 1")
        out = tmp_path / link
        out.mkdir()
        for name in clips.COMPARED:
            (out / name).write_text(link if name == "frames.csv" else "same")
        return {"links": [{"link": "cuda0"}], "video": {"width": 4, "height": 4}, "frames_analyzed": 3, "fps": 30.0, "stages": {"decode_s": 0.05}}, out
    monkeypatch.setattr(clips, "analyze", analyze)
    found = clips.clips(House(tmp_path))
    assert not found["good"] and found["notes"][0] == "a.mp4: frames.csv of cuda0 and cpu0 differ" and "analyze ended" in found["notes"][1]
    assert found["rows"][0]["share"] == pytest.approx(0.5) and found["measured"][0]["equal"] is False
