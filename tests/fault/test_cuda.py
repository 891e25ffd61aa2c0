# SPDX-License-Identifier: Apache-2.0
"""A worker "cuda0" in a whole server, without a GPU: its device is the tests' stand-in (tests/shim: slow, and out of order wherever
order is not asked for), its engine's provider another (tests/engine/gpu). Pictures of all sizes in one batch are answered as by
the CPU; a device that is killed, that fails, that is not there costs no request and says why."""
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import house
import pytest

SHIM = house.BUILD / "tests" / "shim" / "libspillway_cuda_shim.so"
ENGINE = house.BUILD / "tests" / "engine" / "gpu" / "libspillway_standin_ort.so.1"
once = pytest.mark.skipif(bool(os.environ.get("SPILLWAY_SANITIZER")), reason="once without a sanitizer is enough")


@pytest.fixture
def gpu():
    for path in (SHIM, ENGINE):
        if not path.exists():
            pytest.skip(f"no {path.name} in this build")
    return {"SPILLWAY_CUDA_LIBRARY": str(SHIM), "SPILLWAY_ONNXRUNTIME": str(ENGINE), "SPILLWAY_DEVICE_PAUSE_MS": "200"}


@pytest.fixture
def serve(start, tmp_path):
    return lambda env, workers="codec0,cuda0,cpu0": start(workers=workers, env=env, args=["--data-dir", tmp_path / "data"])


def crowd(server, labels, count, threads=8, in_the_middle=None):
    """`count` pictures of all sizes at once, each answer's label checked: the answers."""
    pictures, answers = list(labels.items()), [None] * count
    half = threading.Event()

    def one(i):
        path, label = pictures[i % len(pictures)]
        body = path.read_bytes()
        if path.suffix == ".jpeg":
            body = house.with_comment(body, i)
        kind = {"Content-Type": "image/png"} if path.suffix == ".png" else {}
        status, answer = house.post(server, body, headers=kind)
        assert status == 200, (status, answer)
        assert answer["predictions"][0]["label"] == label, answer
        answers[i] = (path, answer)
        if i >= count // 2:
            half.set()

    running = house.Crowd(one, count, threads)
    if in_the_middle:
        assert half.wait(60)
        in_the_middle()
    running.join(120)
    return answers


def by(answers, link):
    return [(path, answer) for path, answer in answers if answer["provider"] == link]


def wanted(model=house.MODEL):
    sys.path.insert(0, str(house.ROOT / "bench" / "peers"))
    from job import Job
    job = Job(model, threads=1)
    return lambda path: job.answer(path.read_bytes())["predictions"]


def assert_same(answers):
    """Top five: the reference's classes in its order, and its probabilities but for the last bits of an engine's batches."""
    of, seen = wanted(), {}
    for path, answer in answers:
        want = seen.setdefault(path, of(path))
        assert [p["class_id"] for p in answer["predictions"]] == [p["class_id"] for p in want], (path, answer)
        assert all(abs(a["probability"] - b["probability"]) < 1e-5 for a, b in zip(answer["predictions"], want)), (path, answer)


def test_pictures_of_all_sizes_are_answered_as_by_the_cpu_and_a_kill_costs_none(serve, labels, gpu):
    server = serve({**gpu, "SPILLWAY_SHIM_THREADS": "shuffled"})
    card = server.worker("cuda0")
    assert "pixels in, classes out on shim (sm_90), which is simulated" in card["detail"], card
    assert "registered memory, copied in place" in card["detail"] and card["executors"] == 2, card
    answers = crowd(server, labels, 18)
    assert by(answers, "cuda0"), server.health()
    assert_same(answers)
    metrics = server.get("/metrics")[1].decode()
    for what in ("device", "device_high", "device_reserved", "pinned", "pinned_high"):
        assert f'spillway_cuda_memory_bytes{{worker="cuda0",what="{what}"}}' in metrics, metrics
    answers = crowd(server, labels, 18, in_the_middle=lambda: os.kill(card["pid"], signal.SIGKILL))
    assert_same(answers)
    server.wait_worker_ready("cuda0", card["pid"])
    for _ in range(20):
        if by(crowd(server, labels, 8), "cuda0"):
            break
    else:
        pytest.fail(f"cuda0 answers nothing any more: {server.health()}")


@once
def test_a_device_whose_calls_fail_costs_no_request(serve, labels, gpu):
    """The start takes some 300 copies; what comes then fails by turns, the last for good. Slots cannot be registered."""
    faults = ["cudaHostRegister:1:801:1000000", "cudaMemcpyAsync:400:2", "cudaMemcpyAsync:412:1", "cudaMemcpyAsync:424:2:3",
              "run:copy:450:700"]
    server = serve({**gpu, "SPILLWAY_SHIM_FAIL": ",".join(faults)})
    assert "registered memory refused, staging used" in server.worker("cuda0")["detail"]
    answers = []
    for _ in range(40):
        answers += crowd(server, labels, 12)
        if server.metric("spillway_device_faults_total"):
            break
    assert server.metric("spillway_device_faults_total") >= 1, server.health()
    assert by(answers, "cuda0") and by(answers, "cpu0")
    assert_same(answers)


@once
def test_without_the_plugin_the_engine_copies_by_itself(serve, labels, gpu, tmp_path):
    server = serve({**gpu, "SPILLWAY_CUDA_LIBRARY": str(tmp_path / "libspillway_cuda.so")}, "codec0,cuda0")
    card = server.worker("cuda0")
    assert "pixels prepared on the CPU, copied by the engine: SPILLWAY_CUDA_LIBRARY: " in card["detail"], card
    assert_same(crowd(server, labels, 6, 2))


@once
def test_a_device_that_is_not_there_is_skipped_and_says_so(labels, gpu, tmp_path):
    server = house.Server(tmp_path, workers="codec0,cuda0,cpu0",
                          env={**gpu, "SPILLWAY_SHIM_DEVICES": "0", "SPILLWAY_DEVICE_PAUSE_MS": "60000"},
                          args=["--data-dir", tmp_path / "data"])
    try:
        server.wait_worker_ready("cpu0")
        assert len(by(crowd(server, labels, 4, 2), "cpu0")) == 4
        worker = server.worker("cuda0")
        assert worker["reason"].startswith("no GPU: ") and worker["code"] == "no_gpu" and "GPU" in worker["remedy"], worker
    finally:
        server.stop()


@once
def test_a_gpu_without_the_engines_provider_is_for_videos_and_says_so(serve, labels, gpu):
    server = serve({"SPILLWAY_CUDA_LIBRARY": gpu["SPILLWAY_CUDA_LIBRARY"]})
    card = server.worker("cuda0")
    assert card["detail"].startswith("videos only, no models: cuda: ") and "which is simulated" in card["detail"], card
    answers = crowd(server, labels, 6, 2)
    assert len(by(answers, "cpu0")) == 6
    assert_same(answers)


DETECTORS = {
    "yolox-nano": ("yolox_nano.onnx", {"head": "yolox", "threshold": 0.3, "nms": "agnostic"}),
    "ultraface": ("ultraface-RFB-320.onnx", {"head": "ssd", "units": "fractions", "background": 0, "threshold": 0.7, "iou": 0.3}),
}


@pytest.fixture
def detectors(tmp_path):
    path = tmp_path / "models"
    for name, (asset, settings) in DETECTORS.items():
        file = house.ASSETS / "models" / asset
        if not file.exists():
            pytest.skip(f"SPILLWAY_ASSETS has no models/{asset}")
        (path / name / "1").mkdir(parents=True)
        (path / name / "1" / "model.onnx").symlink_to(file)
        (path / name / "spillway.json").write_text(json.dumps({"task": "detect", "detect": settings}))
    return path


def boxes(answer):
    """A server tells three decimals of a pixel."""
    return [(b["class_id"], b["score"], [round(x, 3) for x in b["box"]]) for b in answer["detections"]]


def assert_same_boxes(told, want):
    assert [b[:2] for b in told] == [b[:2] for b in want]
    assert all(abs(x - y) < 0.0015 for a, b in zip(told, want) for x, y in zip(a[2], b[2])), (told, want)


@once
def test_boxes_are_found_on_the_device(gpu, detectors, tmp_path):
    """Those of the command, which runs on the CPU; all of a run's tensors stay on the device."""
    pictures = [house.ASSETS / "media" / "images" / name for name in ("yolox_dog.jpg", "coco.jpg", "road1.jpg")]
    server = house.Server(tmp_path, workers="codec0,cuda0", env={**gpu, "SPILLWAY_STANDIN_ORT_LOG": str(tmp_path / "ort.log")},
                          args=["--data-dir", tmp_path / "data", "--model-repository", detectors])
    try:
        server.wait_worker_ready("cuda0")
        for model in DETECTORS:
            done = subprocess.run([house.PROGRAM, "detect", "--model-repository", detectors, "-m", model, "--json", *pictures],
                                  capture_output=True, text=True, timeout=120, check=True)
            want = {pathlib.Path(x["file"]): boxes(x) for x in map(json.loads, done.stdout.splitlines())}
            for picture in pictures:
                for _ in range(100):
                    status, answer = post_to(server, f"/v1/detect?model={model}", picture.read_bytes())
                    if status == 200:
                        break
                    time.sleep(0.1)  # it is being loaded
                assert status == 200, answer
                assert_same_boxes(boxes(answer), want[picture])
        runs = [line for line in (tmp_path / "ort.log").read_text().splitlines() if line.startswith("run ")]
        assert [line for line in runs if re.search(r"device=(\d+)/\1\b", line)], runs[-5:]
    finally:
        server.stop()


def post_to(server, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()
