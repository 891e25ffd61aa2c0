# SPDX-License-Identifier: Apache-2.0
"""The analysis on a GPU through the whole program: the same report as the CPU's, also when the device fails in the middle; and a GPU
without its kernels is passed over, with the reason. The GPU is the tests' stand-in (tests/shim), ONNX Runtime's GPU build another
(tests/engine/gpu), its decoder a third (tests/media/gpu)."""
import os

import clips
import pytest

SHIM = clips.BUILD / "tests" / "shim" / "libspillway_cuda_shim.so"
ENGINE = clips.BUILD / "tests" / "engine" / "gpu" / "libspillway_standin_ort.so.1"


def who(run):
    return {link["link"]: link["chunks"] for link in run.run()["links"]}


@pytest.fixture
def gpu():
    for path in (SHIM, ENGINE):
        if not path.exists():
            pytest.skip(f"no {path.name} in this build")
    return {"SPILLWAY_CUDA_LIBRARY": str(SHIM), "SPILLWAY_ONNXRUNTIME": str(ENGINE)}


@pytest.fixture(scope="session")
def film(cut):
    """Three segments; odd sides."""
    return cut("car-detection.mp4", frames=60 if clips.SLOW else 110, size="66x34", gop=24 if clips.SLOW else 48)


@pytest.fixture(scope="session")
def report(film, program, tmp_path_factory):
    return clips.Run(film, tmp_path_factory.mktemp("cpu") / "report", ("--link", "cpu0")).wait().report_bytes()


def test_the_same_report(analyze, film, report, gpu):
    run = analyze(film, "--workers", "codec0,cuda0", "--link", "cuda0", "--chunks", 2, env={**gpu, "SPILLWAY_SHIM_THREADS": "shuffled"})
    assert run.report_bytes() == report
    assert set(who(run)) == {"cuda0"} and run.run()["mode"] == "gpu"


@clips.once
def test_the_same_report_from_memory_that_is_staged(analyze, film, report, gpu):
    refused = {"SPILLWAY_SHIM_FAIL": "cudaHostRegister:1:801:1000"}
    run = analyze(film, "--workers", "codec0,cuda0", "--link", "cuda0", env={**gpu, **refused, "SPILLWAY_SHIM_BLOCKS": "reverse"})
    assert run.report_bytes() == report
    assert set(who(run)) == {"cuda0"}


@clips.once
def test_the_same_report_without_graphs(analyze, film, report, gpu):
    refused = {"SPILLWAY_SHIM_FAIL": "cudaStreamBeginCapture:1:801:1000000"}
    run = analyze(film, "--workers", "codec0,cuda0", "--link", "cuda0", env={**gpu, **refused})
    assert run.report_bytes() == report
    assert set(who(run)) == {"cuda0"}


@pytest.mark.parametrize("fault", [
    pytest.param({"SPILLWAY_SHIM_FAIL": "run:copy:90:700"}, id="sticky"),
    pytest.param({"SPILLWAY_SHIM_FAIL": "cudaGraphLaunch:60:701"}, id="a graph"),
    pytest.param({"SPILLWAY_SHIM_FAIL": "cudaLaunchKernel:20:701"}, id="a launch", marks=clips.once),
    pytest.param({"SPILLWAY_SHIM_FAIL": "cudaMemcpyAsync:50:1"}, id="a copy", marks=clips.once),
    pytest.param({"SPILLWAY_SHIM_FAIL": "cudaMallocFromPoolAsync:6:2:100000"}, id="no memory", marks=clips.once),
])
def test_a_device_that_fails_in_the_middle(analyze, film, report, gpu, fault):
    run = analyze(film, "--workers", "codec0,cuda0,cpu0", "--preset", "gpu-for-all", "--chunks", 3, env={**gpu, **fault})
    assert run.report_bytes() == report
    assert "cpu0" in who(run), who(run)
    assert any(attempt["link"] == "cuda0" for attempt in run.run()["attempts"]), run.run()["attempts"]


@clips.once
def test_a_gpu_without_the_engines_provider_analyses_all_the_same(analyze, film, report, gpu):
    run = analyze(film, "--workers", "codec0,cuda0", "--link", "cuda0", env={"SPILLWAY_CUDA_LIBRARY": gpu["SPILLWAY_CUDA_LIBRARY"]})
    assert run.report_bytes() == report
    assert set(who(run)) == {"cuda0"} and run.run()["mode"] == "gpu"


@clips.once
def test_a_gpu_without_its_kernels_is_passed_over(analyze, film, report, gpu, tmp_path):
    bare = {**gpu, "SPILLWAY_CUDA_LIBRARY": str(tmp_path / "libspillway_cuda.so")}
    run = analyze(film, "--workers", "codec0,cuda0,cpu0", "--preset", "gpu-for-all", env=bare)
    assert run.report_bytes() == report
    assert set(who(run)) == {"cpu0"}
    run = analyze(film, "--workers", "codec0,cuda0", "--link", "cuda0", env=bare)
    assert run.code == 3 and "cuda0: no videos: " in run.complaint and "libspillway_cuda.so" in run.complaint, (run.code, run.complaint)


@pytest.fixture
def decoding_gpu(gpu, tmp_path):
    """It also decodes; with the names of what says how many pictures it gave, and how many of them stayed on it."""
    if clips.SLOW:
        pytest.skip("the driver's stand-ins are not built for a process of another sanitizer")
    fakes = clips.BUILD / "tests" / "media" / "gpu"
    return {**gpu, "SPILLWAY_NVDEC": "0", "LD_LIBRARY_PATH": f"{fakes}:{os.environ.get('LD_LIBRARY_PATH', '')}".strip(":"),
            "SPILLWAY_FAKE_NVDEC_LOG": str(tmp_path / "decoded"), "SPILLWAY_FAKE_CUDA_LOG": str(tmp_path / "stayed")}


def counted(env):
    return [os.path.getsize(env[name]) if os.path.exists(env[name]) else 0
            for name in ("SPILLWAY_FAKE_NVDEC_LOG", "SPILLWAY_FAKE_CUDA_LOG")]


def test_frames_that_never_leave_the_gpu(analyze, film, report, decoding_gpu):
    run = analyze(film, "--workers", "codec0,cuda0", "--link", "cuda0", "--chunks", 2, env=decoding_gpu)
    assert run.report_bytes() == report
    assert set(who(run)) == {"cuda0"}
    decoded, stayed = counted(decoding_gpu)
    assert decoded >= 110 and stayed >= 110, (decoded, stayed)


# What the tests of single pieces (tests/task/analyze_cuda.c, tests/media/test_nvdec.py) show too is tried in whole only when there is time.
full = pytest.mark.skipif(not clips.FULL, reason="SPILLWAY_FULL=1 runs it")


@full
def test_frames_of_full_range_stay_too(analyze, cut, decoding_gpu):
    clip = cut("car-detection.mp4", frames=60, size="66x34", gop=24, extra=("-color_range", "pc", "-vf", "scale=66:34:out_range=pc"))
    expected = analyze(clip, "--link", "cpu0").report_bytes()
    assert analyze(clip, "--workers", "codec0,cuda0", "--link", "cuda0", env=decoding_gpu).report_bytes() == expected
    assert counted(decoding_gpu)[1] >= 60


@pytest.mark.parametrize("more, stay", [
    pytest.param({"SPILLWAY_SHIM_FAIL": "cudaIpcGetMemHandle:1:801:1000"}, range(1), id="none is shared", marks=full),
    pytest.param({"SPILLWAY_SHIM_FAIL": "cudaMalloc:1:2:1000"}, range(1), id="no memory for it", marks=full),
    pytest.param({"SPILLWAY_FAKE_CUDA": "closed"}, range(1), id="none is opened"),
    pytest.param({"SPILLWAY_FAKE_NVDEC": "none"}, range(1), id="not a stream for it", marks=full),
    pytest.param({"SPILLWAY_FAKE_NVDEC": "conceal@40"}, range(30, 60), id="from the middle on not"),
])
def test_frames_that_come_over_the_host(analyze, film, report, decoding_gpu, more, stay):
    run = analyze(film, "--workers", "codec0,cuda0", "--link", "cuda0", "--chunks", 1, env={**decoding_gpu, **more})
    assert run.report_bytes() == report
    assert set(who(run)) == {"cuda0"}
    assert counted(decoding_gpu)[1] in stay


@pytest.mark.parametrize("fault", [
    pytest.param({"SPILLWAY_FAKE_CUDA": "copy@30"}, id="decoding"),
    pytest.param({"SPILLWAY_SHIM_FAIL": "cudaGraphLaunch:60:701"}, id="analysing", marks=full),
])
def test_a_gpu_that_decodes_and_fails(analyze, film, report, decoding_gpu, fault):
    run = analyze(film, "--workers", "codec0,cuda0,cpu0", "--preset", "gpu-for-all", "--chunks", 3, env={**decoding_gpu, **fault})
    assert run.report_bytes() == report
    assert "cpu0" in who(run), who(run)
    assert counted(decoding_gpu)[1] > 0
