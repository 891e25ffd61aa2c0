# SPDX-License-Identifier: Apache-2.0
"""Several GPUs, and served models on a GPU, without one. Scheduling is shown on simulated devices (worker kind "sim"); what the CUDA
provider is asked for, on the stand-in for ONNX Runtime's GPU build (tests/engine/gpu), whose record is read."""
import concurrent.futures
import json
import os
import re
import signal
import tempfile
import time

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")

import served_house as house
from served_house import onnx
from test_ensembles import config, steps
from test_spread import infer, leases, stats

node = onnx.helper.make_node
STANDIN = os.path.join(house.BUILD, "tests/engine/gpu/libspillway_standin_ort.so.1")
X = ([("X", "FP32", ["n", 4])], [("Y", "FP32", ["n", 4])])
PORTS = ([("X", "FP32", [4])], [("Y", "FP32", [4])])
ANYWHERE = 'backend: "onnxruntime"\ndynamic_batching { }\n'


def add_model(repository, name, factor, more):
    """Y = softmax(X * factor)."""
    house.model(os.path.join(repository, name, "1/model.onnx"), *X,
                [node("Mul", ["X", "f"], ["m"]), node("Softmax", ["m"], ["Y"], axis=1)],
                [onnx.numpy_helper.from_array(np.array(factor, np.float32), "f")])
    house.write(os.path.join(repository, name, "config.pbtxt"), config(name, *PORTS, more))


def want(x, factor):
    e = np.exp(x * np.float32(factor) - np.max(x * np.float32(factor), axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def close(answer, x, factor):
    return np.allclose(answer.as_numpy("Y"), want(x, factor), atol=1e-6)


def rows(count, seed=1):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def index(server):
    return {m["name"]: m for m in json.loads(server.post("/v2/repository/index")[1])}


def workers(server):
    return {w["name"]: w for w in json.loads(server.get("/healthz")[1])["workers"]}


# --- simulated devices -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def simulated():
    with tempfile.TemporaryDirectory(prefix="spillway-gpus-") as repository:
        group = lambda text: ANYWHERE + f"instance_group [ {{ {text} }} ]\n"
        add_model(repository, "both", 2, group("kind: KIND_GPU"))
        add_model(repository, "first", 3, group("kind: KIND_GPU gpus: [ 0 ]"))
        add_model(repository, "second", 4, group("kind: KIND_GPU gpus: [ 1 ] count: 2"))
        add_model(repository, "named", 5, group("gpus: [ 1 ]"))
        add_model(repository, "nowhere", 6, group("kind: KIND_GPU gpus: [ 5 ]"))
        house.write(os.path.join(repository, "stages/config.pbtxt"),
                    config("stages", *PORTS, steps(("first", {"X": "X"}, {"Y": "t"}), ("second", {"X": "t"}, {"Y": "Y"}))))
        os.makedirs(os.path.join(repository, "stages/1"))
        server = house.Server(repository, workers="codec0,sim0,sim1", env={"SPILLWAY_SIM": "latency=4ms"},
                              args=("--model-control-mode", "explicit", "--load-model", "*"))
        try:
            server.wait_models(["both", "first", "second", "named", "stages"])
            yield server
        finally:
            server.stop()


def crowd(server, model, factor, count=60):
    """`count` requests, sixteen at once; those that are wrong."""
    def one(seed):
        x = rows(1 + seed % 3, seed)
        return not close(infer(server, model, {"X": x}), x, factor)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return sum(pool.map(one, range(count)))


def both_ready(server):
    """Until each device has the model that both should have."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        before = leases(server, "sim0"), leases(server, "sim1")
        crowd(server, "both", 2, 16)
        if leases(server, "sim0") > before[0] and leases(server, "sim1") > before[1]:
            return
        time.sleep(0.1)
    pytest.fail(f"only one of the devices works: {server.log_text()}")


def test_two_devices_share_a_models_load(simulated):
    both_ready(simulated)
    before = [leases(simulated, link) for link in ("sim0", "sim1")]
    assert crowd(simulated, "both", 2, 120) == 0
    shares = [leases(simulated, link) - b for link, b in zip(("sim0", "sim1"), before)]
    assert sum(shares) >= 120 and min(shares) >= 20, shares


@pytest.mark.parametrize("model, factor, link, other", [("first", 3, "sim0", "sim1"), ("second", 4, "sim1", "sim0"),
                                                        ("named", 5, "sim1", "sim0")])
def test_a_model_goes_to_its_own_devices_only(simulated, model, factor, link, other):
    before = leases(simulated, link), leases(simulated, other)
    assert crowd(simulated, model, factor, 30) == 0
    assert leases(simulated, link) >= before[0] + 30 and leases(simulated, other) == before[1]


def test_a_device_that_nobody_has_is_named(simulated):
    status, body = simulated.post("/v2/repository/models/nowhere/load", b"{}")
    assert status == 501 and "asks for other devices" in json.loads(body)["error"], body


def test_the_stages_of_an_ensemble_lie_on_two_devices(simulated):
    before = leases(simulated, "sim0"), leases(simulated, "sim1")
    x = rows(3)
    answer = infer(simulated, "stages", {"X": x})
    assert np.allclose(answer.as_numpy("Y"), want(want(x, 3), 4), atol=1e-6)
    assert leases(simulated, "sim0") > before[0] and leases(simulated, "sim1") > before[1]


def test_one_device_dies_and_the_other_takes_over(simulated):
    both_ready(simulated)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        wrong = pool.submit(crowd, simulated, "both", 2, 150)
        for _ in range(3):
            pid = simulated.worker_pid("sim0")
            if pid:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.15)
        assert wrong.result() == 0
    both_ready(simulated)  # it comes back, with its models


# --- the CUDA provider, on the stand-in -------------------------------------------------------------------------------------------

class Gpu:
    """A server with CUDA workers on the stand-in, and its record."""

    def __init__(self, words="", workers="codec0,cuda0", gpus=1, args=(), **models):
        if not os.path.exists(STANDIN):
            pytest.skip("the stand-in for ONNX Runtime's GPU build is not built: its header was not there")
        self.folder = tempfile.TemporaryDirectory(prefix="spillway-standin-")
        repository = os.path.join(self.folder.name, "models")
        for name, factor in (models or {"m": 2}).items():
            add_model(repository, name, factor, ANYWHERE)
        self.record_path = os.path.join(self.folder.name, "record")
        self.server = house.Server(
            repository, workers=workers, args=("--model-control-mode", "explicit", "--load-model", "*", *args),
            env={"SPILLWAY_ONNXRUNTIME": STANDIN, "SPILLWAY_STANDIN_ORT_LOG": self.record_path, "SPILLWAY_STANDIN_ORT": words,
                 "SPILLWAY_STANDIN_GPUS": str(gpus),
                 "SPILLWAY_CUDA_LIBRARY": "/nonexistent"})  # the provider alone: a real one would ask the stand-in's driver for more

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop()
        self.folder.cleanup()

    def told(self, text):
        """The first line of the server's log with that text, which may still be on its way."""
        end = time.monotonic() + 60
        while time.monotonic() < end and text not in self.server.log_text():
            time.sleep(0.05)
        line = next((line for line in self.server.log_text().splitlines() if text in line), None)
        assert line, f"nobody says {text!r}: {self.server.log_text()}"
        return json.loads(line)

    def record(self):
        with open(self.record_path, encoding="utf-8") as file:
            return file.read()


def test_batches_are_filled_up_to_buckets_that_were_warmed():
    with Gpu() as gpu:
        gpu.server.wait_models(["m"])
        warm = [int(n) for n in re.findall(r"^run rows=(\d+)", gpu.record(), re.M)]
        assert warm == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8]
        for count, bucket in ((1, 1), (3, 4), (5, 8), (8, 8)):
            x = rows(count, count)
            answer = infer(gpu.server, "m", {"X": x})
            assert close(answer, x, 2) and answer.as_numpy("Y").shape == (count, 4)
            assert re.findall(r"^run rows=(\d+)", gpu.record(), re.M)[-1] == str(bucket)
        assert crowd(gpu.server, "m", 2, 60) == 0
        assert set(re.findall(r"^run rows=(\d+)", gpu.record(), re.M)) == {"1", "2", "4", "8"}
        used = stats(gpu.server, "m")["memory_usage"]
        assert [(u["type"], u["id"]) for u in used] == [("GPU", 0)] and used[0]["byte_size"] > 0


def test_nodes_on_the_cpu_are_told():
    with Gpu(words="host=Softmax") as gpu:
        gpu.server.wait_models(["m"])
        line = gpu.told("nodes are on the CPU")
        assert line["worker"] == "cuda0" and line["operators"] == "Softmax 1" and line["on_cpu"] == 1 and line["nodes"] == 2


def test_nodes_on_the_cpu_are_refused(tmp_path):
    yaml = tmp_path / "spillway.yaml"
    yaml.write_text("refuse_cpu_nodes: true\n")
    with Gpu(words="host=Softmax", workers="codec0,cuda0,cpu0", args=("--config", str(yaml))) as gpu:
        gpu.server.wait_models(["m"])  # the CPU has it: no device is needed for that
        gpu.told("assigned to the default CPU EP")
        x = rows(2)
        assert close(infer(gpu.server, "m", {"X": x}), x, 2)
        assert leases(gpu.server, "cuda0") == 0 and leases(gpu.server, "cpu0") > 0


def test_a_batch_that_the_gpu_has_no_memory_for_is_halved():
    with Gpu(words="oom>4") as gpu:
        gpu.server.wait_models(["m"])  # the bucket of 8 did not fit when it was warmed: no failure
        x = rows(4)
        assert close(infer(gpu.server, "m", {"X": x}), x, 2)
        assert crowd(gpu.server, "m", 2, 40) == 0


def test_each_gpu_is_a_worker_and_sees_itself_alone():
    with Gpu(workers="codec0,cuda0,cuda1,cuda2", gpus=2) as gpu:
        gpu.server.wait_models(["m"])
        end = time.monotonic() + 60
        state = workers(gpu.server)
        while time.monotonic() < end and (state["cuda1"]["state"] != "ready" or not state["cuda2"]["reason"]):
            time.sleep(0.05)
            state = workers(gpu.server)
        assert state["cuda0"]["state"] == state["cuda1"]["state"] == "ready", state
        assert state["cuda2"]["state"] != "ready" and "no GPU" in state["cuda2"]["reason"], state["cuda2"]
        shown = [open(f"/proc/{state[name]['pid']}/environ", "rb").read() for name in ("cuda0", "cuda1")]
        assert all(b"CUDA_VISIBLE_DEVICES=" not in text for text in shown)  # set inside: the supervisor's is untouched
        assert "device_id=1" not in gpu.record()  # inside, it is always the first


def test_a_sticky_error_ends_the_process_and_nothing_is_lost():
    with Gpu(words="sticky@30", workers="codec0,cuda0,cpu0") as gpu:
        gpu.server.wait_models(["m"])
        end = time.monotonic() + 60
        while time.monotonic() < end and "illegal memory access" not in gpu.server.log_text():
            assert crowd(gpu.server, "m", 2, 80) == 0  # the last one may be answered before the process has ended
        assert "illegal memory access" in gpu.server.log_text()


# --- our kernels and the engine on one stream, both on stand-ins -------------------------------------------------------------------

MODELS = os.environ.get("SPILLWAY_MODELS", os.path.join(house.ROOT, "var/models"))
SHIM = os.path.join(house.BUILD, "tests/shim/libspillway_cuda_shim.so")
ASSETS = os.environ.get("SPILLWAY_ASSETS", os.path.join(os.path.dirname(house.ROOT), "shared/assets"))


@pytest.mark.skipif(bool(os.environ.get("SPILLWAY_SANITIZER")), reason="the plain build shows it; tests/task/worker_cuda.c has the sanitizers")
def test_a_picture_is_answered_on_the_device_as_on_the_cpu(tmp_path):
    """Pixels go in, classes come out: prepared, run as a captured graph and ranked on one stream, in the stream's order."""
    picture = os.path.join(ASSETS, "media/images/bee.jpeg")
    for needed in (STANDIN, SHIM, MODELS, picture):
        if not os.path.exists(needed):
            pytest.skip(f"there is no {needed}")
    said, record = {}, str(tmp_path / "record")
    gpu = {"SPILLWAY_ONNXRUNTIME": STANDIN, "SPILLWAY_STANDIN_ORT_LOG": record, "SPILLWAY_CUDA_LIBRARY": SHIM, "SPILLWAY_SHIM_FOREIGN": "1"}
    for worker, env in (("cuda0", gpu), ("cpu0", {})):
        server = house.Server(MODELS, workers=f"codec0,{worker}", env=env, args=("--model", "efficientnet-lite0"))
        try:
            end = time.monotonic() + 60
            while workers(server)[worker]["state"] != "ready" and time.monotonic() < end:
                time.sleep(0.05)
            with open(picture, "rb") as file:
                status, body = server.post("/infer", file.read(), {"Content-Type": "image/jpeg"})
            said[worker] = json.loads(body)
            assert status == 200 and said[worker]["provider"] == worker, body
            detail = workers(server)[worker]["detail"]
        finally:
            server.stop()
        if worker == "cuda0":
            assert "pixels in, classes out" in detail and " 0 on the CPU" in detail, detail
            with open(record, encoding="utf-8") as file:
                runs = re.findall(r"^run rows=(\d+) graph=(\S+) sync=0 device=2/2$", file.read(), re.M)
            graphs = {size: {graph for rows_, graph in runs if rows_ == size} for size, _ in runs}
            assert "1" in graphs and all(len(g) == 1 and "-1" not in g for g in graphs.values()), graphs  # one for each size
    assert said["cuda0"]["predictions"] == said["cpu0"]["predictions"]
