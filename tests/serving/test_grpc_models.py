# SPDX-License-Identifier: Apache-2.0
"""Real models behind gRPC: the stock client's answers equal onnxruntime's own, over unary calls, streams and shared memory;
models come and go under load; perf_analyzer drives all of it."""
import os
import queue
import shutil
import tempfile
import threading

import numpy as np
import pytest

grpc = pytest.importorskip("tritonclient.grpc", reason="the set-up's Python has no tritonclient")
ort = pytest.importorskip("onnxruntime", reason="the set-up's Python has no onnxruntime")

import served_house as house  # noqa: E402
from served_house import onnx  # noqa: E402
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

ASSETS = os.path.abspath(os.environ.get("SPILLWAY_ASSETS", os.path.join(house.ROOT, "..", "shared", "assets")))
SQUEEZENET = os.path.join(ASSETS, "models", "light_squeezenet.onnx")
node = onnx.helper.make_node
SEQUENCE = """max_batch_size: 4
sequence_batching { direct { } max_sequence_idle_microseconds: 5000000
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } ] },
                  { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] } ] } ] }
"""
ENSEMBLE = """platform: "ensemble"
max_batch_size: 8
input [ { name: "A" data_type: TYPE_INT32 dims: [16] }, { name: "B" data_type: TYPE_INT32 dims: [16] } ]
output [ { name: "C" data_type: TYPE_INT32 dims: [16] } ]
ensemble_scheduling { step [
  { model_name: "simple" model_version: -1 input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
    output_map { key: "OUTPUT0" value: "sum" } output_map { key: "OUTPUT1" value: "difference" } },
  { model_name: "simple" model_version: -1 input_map { key: "INPUT0" value: "sum" } input_map { key: "INPUT1" value: "difference" }
    output_map { key: "OUTPUT0" value: "C" } } ] }
"""


@pytest.fixture(scope="module")
def repository():
    with tempfile.TemporaryDirectory(prefix="spillway-repository-") as folder:
        house.model(f"{folder}/simple/1/model.onnx", [(f"INPUT{i}", "INT32", ["n", 16]) for i in (0, 1)],
                    [(f"OUTPUT{i}", "INT32", ["n", 16]) for i in (0, 1)],
                    [node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])])
        house.write(f"{folder}/simple/config.pbtxt", "max_batch_size: 8\ndynamic_batching { }\n")
        house.model(f"{folder}/words/1/model.onnx", [("X", "STRING", ["n"])], [("Y", "STRING", ["n"])], [node("Identity", ["X"], ["Y"])])
        house.model(f"{folder}/sequence/1/model.onnx", [(n, "INT32", ["n", 1]) for n in ("INPUT", "START", "READY")],
                    [("OUTPUT", "INT32", ["n", 1])], [node("Add", ["INPUT", "START"], ["a"]), node("Add", ["a", "READY"], ["OUTPUT"])])
        house.write(f"{folder}/sequence/config.pbtxt", SEQUENCE)
        house.write(f"{folder}/both/config.pbtxt", ENSEMBLE)
        os.makedirs(f"{folder}/both/1")
        if os.path.exists(SQUEEZENET):
            os.makedirs(f"{folder}/squeezenet/1")
            shutil.copy(SQUEEZENET, f"{folder}/squeezenet/1/model.onnx")
        yield folder


@pytest.fixture(scope="module")
def server(repository):
    server = house.Server(repository, args=("--model-control-mode", "explicit", "--load-model", "*"), grpc=True)
    server.wait_models(sorted(os.listdir(repository)))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server):
    client = grpc.InferenceServerClient(server.grpc_address)
    yield client
    client.close()


def tensor(name, array):
    item = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    item.set_data_from_numpy(array)
    return item


def session(repository, name):
    ort.set_default_logger_severity(4)
    return ort.InferenceSession(f"{repository}/{name}/1/model.onnx", providers=["CPUExecutionProvider"])


def pair(seed=1, rows=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(-2**20, 2**20, (rows, 16), dtype=np.int32) for _ in range(2)]


def test_answers_are_onnxruntimes_own(client, repository):
    x, y = pair()
    got = client.infer("simple", [tensor("INPUT0", x), tensor("INPUT1", y)])
    want = session(repository, "simple").run(None, {"INPUT0": x, "INPUT1": y})
    assert all((got.as_numpy(f"OUTPUT{i}") == want[i]).all() for i in (0, 1))
    words = np.array([[b""], ["\u00e9".encode()], [b"x" * 3000]], dtype=np.object_)
    assert (client.infer("words", [tensor("X", words)]).as_numpy("Y") == words).all()
    got = client.infer("both", [tensor("A", x), tensor("B", y)])
    assert (got.as_numpy("C") == 2 * x).all()


def test_a_real_model(client, repository):
    if not os.path.exists(SQUEEZENET):
        pytest.skip("SPILLWAY_ASSETS has no light_squeezenet.onnx")
    image = np.random.default_rng(2).random((1, 3, 224, 224), dtype=np.float32)
    want = session(repository, "squeezenet").run(None, {"data_0": image})[0]
    got = client.infer("squeezenet", [tensor("data_0", image)]).as_numpy("softmaxout_1")
    assert got.shape == want.shape and np.abs(got - want).max() <= 1e-6
    top = client.infer("squeezenet", [tensor("data_0", image)], outputs=[grpc.InferRequestedOutput("softmaxout_1", class_count=2)])
    best = [int(text.decode().split(":")[1]) for text in top.as_numpy("softmaxout_1").reshape(-1)[:2]]
    assert best == list(np.argsort(-want.reshape(-1))[:2])


def test_the_whole_configuration_comes_back(client):
    config = client.get_model_config("sequence").config
    assert config.sequence_batching.control_input[0].control[0].int32_false_true == [0, 1]
    assert config.sequence_batching.WhichOneof("strategy_choice") == "direct" and config.max_batch_size == 4
    steps = client.get_model_config("both").config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["simple", "simple"] and steps[1].input_map["INPUT0"] == "sum"
    config = client.get_model_config("simple").config
    assert config.HasField("dynamic_batching") and config.instance_group[0].count >= 1
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("INPUT0", 8, [16]), ("INPUT1", 8, [16])]


def test_sequences_over_a_stream(server):
    client, answers = grpc.InferenceServerClient(server.grpc_address), queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for i in range(4):
        for sequence in (11, 12, 13):
            client.async_stream_infer("sequence", [tensor("INPUT", np.array([[sequence]], np.int32))], request_id=f"{sequence} {i}",
                                      sequence_id=sequence, sequence_start=i == 0, sequence_end=i == 3)
    for _ in range(12):
        result, error = answers.get(timeout=30)
        assert error is None
        sequence, i = map(int, result.get_response().id.split())
        assert result.as_numpy("OUTPUT").item() == sequence + (i == 0) + 1
    client.stop_stream()
    client.close()


def test_models_come_and_go_under_load(server, client):
    stop, failures, asked = threading.Event(), [], []

    def load():
        with grpc.InferenceServerClient(server.grpc_address, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as mine:
            x, y = pair(3, 1)
            while not stop.is_set():
                try:
                    assert (mine.infer("simple", [tensor("INPUT0", x), tensor("INPUT1", y)]).as_numpy("OUTPUT0") == x + y).all()
                    asked.append(1)
                except Exception as error:  # told by the test's own thread
                    failures.append(error)
                    return

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            client.load_model("simple")
        with pytest.raises(InferenceServerException):
            client.load_model("simple", config='{"max_batch_size": "many"}')
        client.unload_model("words")
        client.load_model("words")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures and asked
    assert client.is_model_ready("simple") and client.is_model_ready("words")


@pytest.mark.parametrize("how", [["-m", "simple", "--shared-memory", "system", "--output-shared-memory-size", "1024"],
                                 ["-m", "both", "-b", "2", "--async", "--streaming"],
                                 ["-m", "sequence", "--async", "--streaming", "--sequence-length", "5", "--sequence-id-range", "1:999"]],
                         ids=["shared-memory", "streaming", "sequences"])
def test_perf_analyzer(server, how):
    said = house.perf_analyzer("-i", "grpc", "-u", server.grpc_address, "--concurrency-range", "3", *how)
    assert "Throughput" in said and "rror" not in said.replace("Failed to obtain", ""), said
