# SPDX-License-Identifier: Apache-2.0
"""The benches of the GPU's kernels run through on the stand-in for a GPU, and print rows that can be read."""
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
SHIM = BUILD / "tests/shim/libspillway_cuda_shim.so"


@pytest.mark.parametrize("program, arguments, rows", [("bench-gpu-flow", ["2", "70x40", "33x21"], 8),
                                                       ("bench-gpu-nms", ["2", "300", "5"], 4),
                                                       ("bench-gpu-prep", ["2", "2", "50x40"], 10)])
def test_a_bench_prints_its_rows(program, arguments, rows):
    if not SHIM.exists():
        pytest.skip("no stand-in for a GPU in this build")
    env = dict(os.environ, SPILLWAY_CUDA_LIBRARY=str(SHIM))
    done = subprocess.run([BUILD / "bench/gpu" / program, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == rows
    for row in found:
        assert row["simulated"] is True and row["bytes"] > 0 and row["repeats"] == 2 and row["median_us"] >= row["best_us"]
        assert {"bench", "case", "device", "floor_us", "share"} <= row.keys()
    assert len({row["case"] for row in found}) == rows


def test_the_engines_peer_prints_its_rows(tmp_path):
    """Plain ONNX Runtime, over the stand-in for its GPU build."""
    program, library = BUILD / "bench/gpu/bench-gpu-ort", BUILD / "tests/engine/gpu/libspillway_standin_ort.so.1"
    if not SHIM.exists() or not program.exists() or not library.exists():
        pytest.skip("no stand-in for a GPU or for ONNX Runtime's GPU build in this build")
    import onnx
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]),
                                   opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    env = dict(os.environ, SPILLWAY_CUDA_LIBRARY=str(SHIM), SPILLWAY_ONNXRUNTIME=str(library))
    done = subprocess.run([program, tmp_path / "model.onnx", "2", "1", "3"], env=env, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    size = (tmp_path / "model.onnx").stat().st_size
    assert [(row["case"], row["bytes"]) for row in rows] == [("plain ONNX Runtime, batch 1", size + 16),
                                                             ("plain ONNX Runtime, batch 3", size + 48)]


@pytest.mark.skipif(bool(os.environ.get("SPILLWAY_SANITIZER")), reason="a sanitizer makes the stand-in slow; the clip is in the plain build's run")
def test_a_real_pair_flows_as_on_the_cpu(tmp_path):
    """bench-gpu-flow compares before it times: two frames of a film, on the scales that it has."""
    clip = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT / "../shared/assets")) / "media/video/car-detection.mp4"
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed (tools/setup)")
    if not SHIM.exists() or not clip.exists():
        pytest.skip("no stand-in for a GPU in this build, or no car-detection.mp4")
    film = cv2.VideoCapture(str(clip))
    film.set(cv2.CAP_PROP_POS_FRAMES, 40)
    paths = [tmp_path / "first.grey", tmp_path / "second.grey"]
    for path in paths:
        grey = cv2.cvtColor(film.read()[1], cv2.COLOR_BGR2GRAY)
        path.write_bytes(cv2.resize(grey, (320, 180), interpolation=cv2.INTER_AREA).tobytes())
    env = dict(os.environ, SPILLWAY_CUDA_LIBRARY=str(SHIM), SPILLWAY_SHIM_THREADS="reverse")
    done = subprocess.run([BUILD / "bench/gpu/bench-gpu-flow", "1", f"320x180:{paths[0]},{paths[1]}"], env=env, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "320x180, scales 3" in done.stdout
