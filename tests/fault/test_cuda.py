# SPDX-License-Identifier: Apache-2.0
"""A worker "cuda0" in a whole server, without a GPU: its device is the tests' stand-in (tests/shim: slow, and out of order wherever
order is not asked for), its engine's provider another (tests/engine/gpu). Pictures of all sizes in one batch are answered as by
the CPU; a device that is killed, that fails, that is not there costs no request and says why."""
import os
import signal
import sys
import threading

import house
import pytest

SHIM = house.BUILD / "tests" / "shim" / "libspillway_cuda_shim.so"
ENGINE = house.BUILD / "tests" / "engine" / "gpu" / "libspillway_standin_ort.so.1"
PLUGIN = house.BUILD / "src" / "kernels" / "cuda" / "libspillway_cuda.so"
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
def test_without_a_driver_the_link_is_skipped_and_says_so(labels, gpu, tmp_path):
    if not PLUGIN.exists():
        pytest.skip(f"no {PLUGIN.name} in this build")
    server = house.Server(tmp_path, workers="codec0,cuda0,cpu0", env={**gpu, "SPILLWAY_CUDA_LIBRARY": str(PLUGIN), "SPILLWAY_DEVICE_PAUSE_MS": "60000"},
                          args=["--data-dir", tmp_path / "data"])
    try:
        server.wait_worker_ready("cpu0")
        assert len(by(crowd(server, labels, 4, 2), "cpu0")) == 4
        worker = server.worker("cuda0")
        if worker["state"] == "ready":
            pytest.skip("this machine has a GPU")
        assert worker["reason"].startswith("no driver: ") and worker["code"] == "no_driver" and "driver" in worker["remedy"], worker
    finally:
        server.stop()
