# SPDX-License-Identifier: Apache-2.0
"""Real models behind HTTP: the stock client's answers in every form equal onnxruntime's own, and perf_analyzer drives them over
binary tensors, JSON and system shared memory."""
import os
import shutil
import tempfile

import numpy as np
import pytest

http = pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
shm = pytest.importorskip("tritonclient.utils.shared_memory", reason="no shared-memory utilities")
ort = pytest.importorskip("onnxruntime", reason="the set-up's Python has no onnxruntime")

import served_house as house  # noqa: E402
from served_house import onnx  # noqa: E402
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

ASSETS = os.path.abspath(os.environ.get("SPILLWAY_ASSETS", os.path.join(house.ROOT, "..", "shared", "assets")))
SQUEEZENET = os.path.join(ASSETS, "models", "light_squeezenet.onnx")
node = onnx.helper.make_node


@pytest.fixture(scope="module")
def repository():
    with tempfile.TemporaryDirectory(prefix="spillway-repository-") as folder:
        house.model(f"{folder}/simple/1/model.onnx", [(f"INPUT{i}", "INT32", ["n", 16]) for i in (0, 1)],
                    [(f"OUTPUT{i}", "INT32", ["n", 16]) for i in (0, 1)],
                    [node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])])
        house.write(f"{folder}/simple/config.pbtxt", "max_batch_size: 8\ndynamic_batching { }\n")
        house.model(f"{folder}/score/1/model.onnx", [("X", "FP32", ["n", 8])], [("Y", "FP32", ["n", 8])], [node("Softmax", ["X"], ["Y"])])
        house.write(f"{folder}/score/config.pbtxt", "max_batch_size: 4\nresponse_cache { enable: true }\n"
                    'output [ { name: "Y" data_type: TYPE_FP32 dims: [8] label_filename: "labels.txt" } ]\n')
        house.write(f"{folder}/score/labels.txt", "\n".join("abcdefgh") + "\n")
        house.write(f"{folder}/echo/config.pbtxt", 'backend: "identity"\nmax_batch_size: 8\n'
                    'input [ { name: "input" data_type: TYPE_UINT8 dims: [-1] } ]\noutput [ { name: "output" data_type: TYPE_UINT8 dims: [-1] } ]\n')
        os.makedirs(f"{folder}/echo/1")
        if os.path.exists(SQUEEZENET):
            os.makedirs(f"{folder}/squeezenet/1")
            shutil.copy(SQUEEZENET, f"{folder}/squeezenet/1/model.onnx")
        yield folder


@pytest.fixture(scope="module")
def server(repository):
    config = os.path.join(repository, "..", f"{os.path.basename(repository)}.yaml")
    house.write(config, "cache: {memory: 16MiB}\n")
    server = house.Server(repository, args=("--config", config))
    server.wait_models(sorted(m for m in os.listdir(repository)))
    yield server
    server.stop()
    os.unlink(config)


@pytest.fixture(scope="module")
def client(server):
    client = http.InferenceServerClient(server.address, concurrency=8)
    yield client
    client.close()


def tensor(name, array, binary=True):
    item = http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    item.set_data_from_numpy(array, binary_data=binary)
    return item


def session(repository, name):
    ort.set_default_logger_severity(4)
    return ort.InferenceSession(f"{repository}/{name}/1/model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("compress", [None, "gzip", "deflate"])
def test_every_form_of_a_small_model(client, repository, compress):
    rng = np.random.default_rng(1)
    x, y = (rng.integers(-2**31, 2**31, (3, 16), dtype=np.int32) for _ in range(2))
    want = session(repository, "simple").run(None, {"INPUT0": x, "INPUT1": y})
    for binary in (True, False):
        for out_binary in (True, False):
            outputs = [http.InferRequestedOutput(f"OUTPUT{i}", binary_data=out_binary) for i in (1, 0)]
            got = client.infer("simple", [tensor("INPUT0", x, binary), tensor("INPUT1", y, binary)], outputs=outputs,
                               request_compression_algorithm=compress, response_compression_algorithm=compress)
            for i in (0, 1):
                assert (got.as_numpy(f"OUTPUT{i}") == want[i]).all()


def test_a_real_model_in_every_form(client, repository):
    if not os.path.exists(SQUEEZENET):
        pytest.skip("SPILLWAY_ASSETS has no light_squeezenet.onnx")
    image = np.random.default_rng(2).random((1, 3, 224, 224), dtype=np.float32)
    want = session(repository, "squeezenet").run(None, {"data_0": image})[0]
    for binary in (True, False):  # 150,528 numbers as JSON go through the codec worker
        for out_binary in (True, False):
            outputs = [http.InferRequestedOutput("softmaxout_1", binary_data=out_binary)]
            got = client.infer("squeezenet", [tensor("data_0", image, binary)], outputs=outputs).as_numpy("softmaxout_1")
            assert got.shape == want.shape and np.abs(got - want).max() <= 1e-6


def test_a_real_model_through_shared_memory(client, server, repository):
    if not os.path.exists(SQUEEZENET):
        pytest.skip("SPILLWAY_ASSETS has no light_squeezenet.onnx")
    image = np.random.default_rng(3).random((1, 3, 224, 224), dtype=np.float32)
    want = session(repository, "squeezenet").run(None, {"data_0": image})[0]
    name, size = f"spillway-models-{os.getpid()}", image.nbytes + want.nbytes
    region = shm.create_shared_memory_region(name, "/" + name, size)
    try:
        shm.set_shared_memory_region(region, [image])
        client.register_system_shared_memory(name, "/" + name, size)
        given, wanted = http.InferInput("data_0", list(image.shape), "FP32"), http.InferRequestedOutput("softmaxout_1")
        given.set_shared_memory(name, image.nbytes)
        wanted.set_shared_memory(name, want.nbytes, image.nbytes)
        client.infer("squeezenet", [given], outputs=[wanted])
        got = shm.get_contents_as_numpy(region, np.float32, want.shape, offset=image.nbytes)
        assert np.abs(got - want).max() <= 1e-6
        wanted.set_shared_memory(name, want.nbytes - 4, image.nbytes)
        with pytest.raises(InferenceServerException) as failure:
            client.infer("squeezenet", [given], outputs=[wanted])
        assert failure.value.status() == "400"
        os.truncate(f"/dev/shm/{name}", 100)
        with pytest.raises(InferenceServerException, match="is shorter now"):
            client.infer("squeezenet", [given])
        os.truncate(f"/dev/shm/{name}", size)
        assert client.infer("squeezenet", [tensor("data_0", image)]).as_numpy("softmaxout_1").shape == want.shape
    finally:
        client.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(region)
    with open(f"/proc/{server.process.pid}/maps", encoding="utf-8") as maps:
        assert name not in maps.read()


def test_classification(client, repository):
    x = np.random.default_rng(4).standard_normal((2, 8)).astype(np.float32)
    want = session(repository, "score").run(None, {"X": x})[0]
    for binary in (True, False):
        got = client.infer("score", [tensor("X", x)], outputs=[http.InferRequestedOutput("Y", binary_data=binary, class_count=3)]).as_numpy("Y")
        assert got.shape == (2, 3)
        for row in range(2):
            best = np.argsort(-want[row])[:3]
            for k, text in enumerate(got[row]):
                value, index, label = (text if isinstance(text, str) else text.decode()).split(":")
                assert int(index) == best[k] and label == "abcdefgh"[best[k]] and abs(float(value) - want[row, best[k]]) < 1e-5


def test_cached_answers_and_statistics(client, repository):
    x = np.random.default_rng(5).standard_normal((1, 8)).astype(np.float32)
    want = session(repository, "score").run(None, {"X": x})[0]
    before = client.get_inference_statistics("score")["model_stats"][0]
    for _ in range(4):
        assert np.abs(client.infer("score", [tensor("X", x)]).as_numpy("Y") - want).max() < 1e-6
    after = client.get_inference_statistics("score")["model_stats"][0]
    stats = {k: after["inference_stats"][k]["count"] - before["inference_stats"][k]["count"] for k in after["inference_stats"]}
    assert (stats["success"], stats["cache_hit"], stats["cache_miss"], stats["compute_infer"], stats["fail"]) == (4, 3, 1, 1, 0)
    assert after["execution_count"] - before["execution_count"] == 1


def test_many_at_once(client, repository):
    rng = np.random.default_rng(6)
    pairs = [rng.integers(-1000, 1000, (2, 1, 16), dtype=np.int32) for _ in range(64)]
    waiting = [client.async_infer("simple", [tensor("INPUT0", x, i % 3 > 0), tensor("INPUT1", y, i % 5 > 0)]) for i, (x, y) in enumerate(pairs)]
    for (x, y), one in zip(pairs, waiting):
        got = one.get_result()
        assert (got.as_numpy("OUTPUT0") == x + y).all() and (got.as_numpy("OUTPUT1") == x - y).all()


@pytest.mark.parametrize("model, how", [
    ("echo", ()), ("echo", ("--input-tensor-format", "json", "--output-tensor-format", "json")),
    ("echo", ("--shared-memory=system", "--output-shared-memory-size=8192")), ("simple", ()),
    ("simple", ("--input-tensor-format", "json", "--output-tensor-format", "json")),
    ("simple", ("-b", "4", "--shared-memory=system", "--output-shared-memory-size=1024"))])
def test_perf_analyzer(server, model, how):
    shape = ("--shape", "input:1024") if model == "echo" else ()
    said = house.perf_analyzer("-m", model, "-u", server.address, "-i", "http", "--concurrency-range", "4", *shape, *how)
    assert "Throughput" in said and "Failed to maintain" not in said, said
