# SPDX-License-Identifier: Apache-2.0
"""Ensembles whose models are in several workers: numbers equal to onnxruntime's in every form that a client may ask for, and a
worker that dies in the middle of a step costs that step alone."""
import concurrent.futures
import http.client
import json
import os
import re
import signal
import tempfile
import threading
import time

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
ort = pytest.importorskip("onnxruntime", reason="the set-up's Python has no onnxruntime")
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import served_house as house
from served_house import onnx
from test_ensembles import LABELS, config, steps

node = onnx.helper.make_node
HERE = 'instance_group [ { kind: KIND_CPU } ]\n'  # in cpu0
THERE = 'instance_group [ { kind: KIND_GPU } ]\n'  # in sim0
IO = ([("IN", "FP32", [16])], [("OUT", "FP32", [16])])
SANITIZED = bool(os.environ.get("SPILLWAY_SANITIZER"))
ROUNDS = 40 if SANITIZED else 400


def slow_model(path):
    """Y = X after COUNT products of two matrices of 400 x 400."""
    w = (np.eye(400) * 0.5).astype(np.float32)
    body = onnx.helper.make_graph(
        [node("MatMul", ["v", "W"], ["v2"]), node("Identity", ["c"], ["c2"])], "body",
        [onnx.helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", onnx.TensorProto.INT64, []), ("c", onnx.TensorProto.BOOL, []),
                                                                     ("v", onnx.TensorProto.FLOAT, [400, 400]))],
        [onnx.helper.make_tensor_value_info(n, t, s) for n, t, s in (("c2", onnx.TensorProto.BOOL, []),
                                                                     ("v2", onnx.TensorProto.FLOAT, [400, 400]))])
    house.model(path, [("X", "FP32", ["n", 16]), ("COUNT", "INT64", ["n", 1])], [("Y", "FP32", ["n", 16])],
                [node("ReduceMax", ["COUNT"], ["most"], keepdims=0), node("Loop", ["most", "", "W"], ["v"], body=body),
                 node("ReduceMin", ["v"], ["least"], keepdims=0), node("Mul", ["least", "zero"], ["nothing"]), node("Add", ["X", "nothing"], ["Y"])],
                [onnx.numpy_helper.from_array(w, "W"), onnx.numpy_helper.from_array(np.array(0, np.float32), "zero")])


def make(repository):
    rng = np.random.default_rng(5)
    arrays = {"W": rng.standard_normal((16, 16)).astype(np.float32), "three": np.array(3, np.float32)}
    first = [node("Mul", ["X", "three"], ["Y"])]
    mix = [node("MatMul", ["A", "W"], ["m"]), node("Add", ["m", "B"], ["Z"])]
    x, a_and_b = [("X", "FP32", ["n", 16])], [("A", "FP32", ["n", 16]), ("B", "FP32", ["n", 16])]
    path = lambda name: os.path.join(repository, name, "1/model.onnx")
    tensors = lambda *names: [onnx.numpy_helper.from_array(arrays[n], n) for n in names]
    house.model(path("scale"), x, [("Y", "FP32", ["n", 16])], first, tensors("three"))
    house.model(path("mix"), a_and_b, [("Z", "FP32", ["n", 16])], mix, tensors("W"))
    house.model(path("words"), [("S", "STRING", ["n", 2])], [("T", "STRING", ["n", 2])], [node("Identity", ["S"], ["T"])])
    slow_model(path("slow"))
    backend = 'backend: "onnxruntime"\ndynamic_batching { }\n'
    write = lambda name, text: house.write(os.path.join(repository, name, "config.pbtxt"), text)
    write("scale", config("scale", [("X", "FP32", [16])], [("Y", "FP32", [16])], backend + HERE))
    write("mix", config("mix", [("A", "FP32", [16]), ("B", "FP32", [16])], [("Z", "FP32", [16])], backend + THERE))
    write("words", config("words", [("S", "STRING", [2])], [("T", "STRING", [2])], backend + THERE))
    write("slow", config("slow", [("X", "FP32", [16]), ("COUNT", "INT64", [1])], [("Y", "FP32", [16])], 'backend: "onnxruntime"\n' + THERE))
    write("sum", config("sum", [("INPUT", "INT32", [1])], [("OUTPUT", "INT32", [1])], HERE + """backend: "onnxruntime"
sequence_batching { direct { } max_sequence_idle_microseconds: 5000000
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } ] } ]
  state [ { input_name: "BEFORE" output_name: "AFTER" data_type: TYPE_INT32 dims: [ 1 ] } ] }
"""))
    house.model(path("sum"), [(n, "INT32", ["n", 1]) for n in ("INPUT", "START", "BEFORE")], [(n, "INT32", ["n", 1]) for n in ("OUTPUT", "AFTER")],
                [node("Add", ["INPUT", "BEFORE"], ["OUTPUT"]), node("Identity", ["OUTPUT"], ["AFTER"])])
    house.model(path("double"), [("N", "INT32", ["n", 1])], [("M", "INT32", ["n", 1])], [node("Add", ["N", "N"], ["M"])])
    write("double", config("double", [("N", "INT32", [1])], [("M", "INT32", [1])], backend + THERE))
    chain = steps(("scale", {"X": "IN"}, {"Y": "t"}), ("mix", {"A": "t", "B": "IN"}, {"Z": "OUT"}))
    ensembles = {
        "chain": config("chain", *IO, chain),
        # OUT's labels, both tensors of the way, and one that is an output and an input at once.
        "show": config("show", IO[0], [("OUT", "FP32", [16]), ("t", "FP32", [16])], chain).replace(
            'name: "OUT" data_type: TYPE_FP32', 'name: "OUT" label_filename: "labels.txt" data_type: TYPE_FP32'),
        "diamond": config("diamond", *IO, steps(("scale", {"X": "IN"}, {"Y": "l"}), ("mix", {"A": "IN", "B": "IN"}, {"Z": "r"}),
                                                ("mix", {"A": "l", "B": "r"}, {"Z": "OUT"}))),
        "outer": config("outer", *IO, steps(("chain", {"IN": "IN"}, {"OUT": "t"}), ("scale", {"X": "t"}, {"Y": "OUT"}))),
        "wait": config("wait", [("IN", "FP32", [16]), ("COUNT", "INT64", [1])], [("OUT", "FP32", [16])],
                       steps(("scale", {"X": "IN"}, {"Y": "a"}), ("slow", {"X": "a", "COUNT": "COUNT"}, {"Y": "b"}),
                             ("scale", {"X": "b"}, {"Y": "OUT"}))),
        "texts": config("texts", [("S", "STRING", [2]), ("IN", "FP32", [16])], [("T", "STRING", [2]), ("OUT", "FP32", [16])],
                        steps(("words", {"S": "S"}, {"T": "T"}), ("scale", {"X": "IN"}, {"Y": "OUT"}))),
        "count": config("count", [("N", "INT32", [1])], [("SUM", "INT32", [1])],
                        steps(("double", {"N": "N"}, {"M": "m"}), ("sum", {"INPUT": "m"}, {"OUTPUT": "SUM"}))),
        "eye": config("eye", [("FILE", "STRING", [1])], [("OUT", "FP32", [16])],
                      steps(("spillway/preprocess", {"image": "FILE"}, {"tensor": "x"}), ("scale", {"X": "x"}, {"Y": "y"}),
                            ("mix", {"A": "y", "B": "y"}, {"Z": "OUT"})), batch=1),
    }
    for name, text in ensembles.items():
        write(name, text)
        os.makedirs(os.path.join(repository, name, "1"), exist_ok=True)
    house.write(os.path.join(repository, "show/labels.txt"), "\n".join(LABELS) + "\n")


SPREAD = ["chain", "show", "diamond", "outer", "wait", "texts", "count"]


@pytest.fixture(scope="module")
def made():
    with tempfile.TemporaryDirectory(prefix="spillway-spread-") as repository:
        make(repository)
        server = house.Server(repository, workers="codec0,cpu0,sim0", args=("--model-control-mode", "explicit", "--load-model", "*"))
        try:
            server.wait_models(SPREAD)
            server.sessions = {m: ort.InferenceSession(os.path.join(repository, m, "1/model.onnx")) for m in ("scale", "mix")}
            yield server
        finally:
            server.stop()


def reference(server, name, x):
    scale = lambda v: server.sessions["scale"].run(None, {"X": v})[0]
    mix = lambda a, b: server.sessions["mix"].run(None, {"A": a, "B": b})[0]
    chain = lambda v: mix(scale(v), v)
    return {"chain": chain, "diamond": lambda v: mix(scale(v), mix(v, v)), "outer": lambda v: scale(chain(v)),
            "wait": lambda v: scale(scale(v))}[name](x)


def infer(server, model, arrays, binary=True, outputs=None, **more):
    with httpclient.InferenceServerClient(server.address, network_timeout=60, connection_timeout=60) as client:
        tensors = []
        for name, array in arrays.items():
            tensors.append(httpclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            tensors[-1].set_data_from_numpy(array, binary_data=binary)
        return client.infer(model, tensors, outputs=outputs, **more)


def stats(server, model):
    with httpclient.InferenceServerClient(server.address) as client:
        return client.get_inference_statistics(model)["model_stats"][0]


def leases(server, link):
    """How often a link was asked for tensors."""
    found = re.search(rf'spillway_link_seconds_count{{[^}}]*link="{link}"[^}}]*task="infer"[^}}]*}} (\d+)|'
                      rf'spillway_link_seconds_count{{[^}}]*task="infer"[^}}]*link="{link}"[^}}]*}} (\d+)', server.get("/metrics")[1].decode())
    return int(found[1] or found[2]) if found else 0


@pytest.mark.parametrize("name", ["chain", "diamond", "outer"])
def test_numbers_are_onnxruntimes_own(made, name):
    rng = np.random.default_rng(7)
    for rows in (1, 3, 8):
        x = rng.standard_normal((rows, 16)).astype(np.float32)
        for binary in (True, False):
            answer = infer(made, name, {"IN": x}, binary)
            assert np.array_equal(answer.as_numpy("OUT"), reference(made, name, x))


def test_forms_and_labels(made):
    x = np.random.default_rng(8).standard_normal((2, 16)).astype(np.float32)
    x[:, 3:] = -100  # of W's columns whatever: the three labels are of the first three
    out = reference(made, "chain", x)
    answer = infer(made, "show", {"IN": x}, outputs=[httpclient.InferRequestedOutput("t", binary_data=False),
                                                     httpclient.InferRequestedOutput("OUT", class_count=16)])
    assert np.array_equal(answer.as_numpy("t"), made.sessions["scale"].run(None, {"X": x})[0])
    for row, classes in enumerate(answer.as_numpy("OUT")):
        said = [text.decode().split(":") for text in classes]
        assert [int(s[1]) for s in said] == list(np.argsort(-out[row], kind="stable"))
        assert {s[1]: s[2] for s in said if len(s) == 3 and s[2]} == {str(i): label for i, label in enumerate(LABELS)}
    answer = infer(made, "show", {"IN": x}, outputs=[httpclient.InferRequestedOutput("OUT")])
    assert np.array_equal(answer.as_numpy("OUT"), out) and answer.as_numpy("t") is None
    words = np.array([[b"", b"\xc3\xa9" * 900]], dtype=np.object_)
    answer = infer(made, "texts", {"S": words, "IN": x[:1]})
    assert (answer.as_numpy("T") == words).all() and np.array_equal(answer.as_numpy("OUT"), x[:1] * 3)


def test_bodies_that_are_unpacked_first(made):
    x = np.random.default_rng(9).standard_normal((8, 16)).astype(np.float32)
    for algorithm in ("gzip", "deflate"):
        answer = infer(made, "diamond", {"IN": x}, request_compression_algorithm=algorithm)
        assert np.array_equal(answer.as_numpy("OUT"), reference(made, "diamond", x))
        answer = infer(made, "chain", {"IN": x}, binary=False, request_compression_algorithm=algorithm)
        assert np.array_equal(answer.as_numpy("OUT"), reference(made, "chain", x))


def test_tensors_that_are_copied_on_another_thread(made):
    x = np.arange(8 * 16, dtype=np.float32).reshape(8, 16)
    words = np.array([[b"a" * 400_000, b"b" * 300_000]] * 8, dtype=np.object_)
    answer = infer(made, "texts", {"S": words, "IN": x})
    assert (answer.as_numpy("T") == words).all() and np.array_equal(answer.as_numpy("OUT"), x * 3)


def test_a_sequence_keeps_its_state(made):
    for sequence in (11, "by name"):
        want = 0
        for i, n in enumerate([5, 7, -2]):
            want += 2 * n
            answer = infer(made, "count", {"N": np.array([[n]], np.int32)}, sequence_id=sequence, sequence_start=i == 0, sequence_end=i == 2)
            assert answer.as_numpy("SUM")[0, 0] == want


def test_statistics_count_each_step(made):
    x = np.ones((2, 16), np.float32)
    names = ("diamond", "scale", "mix")
    before = {m: stats(made, m) for m in names}
    infer(made, "diamond", {"IN": x})
    after = {m: stats(made, m) for m in names}
    assert [after[m]["inference_count"] - before[m]["inference_count"] for m in names] == [2, 2, 4]
    assert [after[m]["execution_count"] - before[m]["execution_count"] for m in names] == [1, 1, 2]


def test_errors_name_the_ensemble(made):
    with pytest.raises(InferenceServerException, match="no worker has all of its models.*spillway/preprocess"):
        with httpclient.InferenceServerClient(made.address) as client:
            client.load_model("eye")
    with pytest.raises(InferenceServerException, match=r"in ensemble 'count', .*correlation ID"):
        infer(made, "count", {"N": np.array([[1]], np.int32)})
    with pytest.raises(InferenceServerException, match="unexpected shape for input 'IN'"):
        infer(made, "chain", {"IN": np.ones((1, 5), np.float32)})


def kill_in_the_second_step(made, x, count):
    """None: the step was over before its worker was killed. Else executions of the two models, and leases that were answered."""
    counts = lambda: (*[stats(made, m)["execution_count"] for m in ("scale", "slow")], leases(made, "cpu0") + leases(made, "sim0"))
    before, first, got = counts(), leases(made, "cpu0"), []
    thread = threading.Thread(target=lambda: got.append(infer(made, "wait", {"IN": x, "COUNT": count}).as_numpy("OUT")))
    thread.start()
    end = time.monotonic() + 30
    while leases(made, "cpu0") == first and time.monotonic() < end:  # the first step is over
        time.sleep(0.002)
    pid = made.worker_pid("sim0")
    late = bool(got) or not pid
    if pid:
        os.kill(pid, signal.SIGKILL)
    thread.join(90)
    assert got and np.array_equal(got[0], reference(made, "wait", x))
    made.wait_models(SPREAD)
    return None if late else [b - a for a, b in zip(before, counts())]


def test_a_death_in_the_second_step_repeats_that_step_alone(made):
    x = np.random.default_rng(10).standard_normal((1, 16)).astype(np.float32)
    infer(made, "wait", {"IN": x, "COUNT": np.array([[1]], np.int64)})
    began = time.monotonic()
    infer(made, "wait", {"IN": x, "COUNT": np.array([[20]], np.int64)})
    # Work for half a second, as fast as the machine is now: a batch that takes 2 s is taken for hung at first.
    count = np.array([[int(10 / (time.monotonic() - began)) + 5]], np.int64)
    for _ in range(20):
        seen = kill_in_the_second_step(made, x, count)
        if seen:
            # Answers: scale twice, the slow step, the last stage; a first step that ran again would be one more.
            assert seen == [2, 1, 4]
            return
    pytest.fail("the slow step was never in hand when its worker was killed")


def test_random_requests_while_workers_die(made):
    rng = np.random.default_rng(11)
    ended, wrong, right = threading.Event(), [], []

    def ask(seed):
        mine = np.random.default_rng(seed)
        while not ended.is_set():
            name = ["chain", "diamond", "outer"][mine.integers(3)]
            x = mine.standard_normal((int(mine.integers(1, 9)), 16)).astype(np.float32)
            try:
                same = np.array_equal(infer(made, name, {"IN": x}, bool(mine.integers(2))).as_numpy("OUT"), reference(made, name, x))
                (right if same else wrong).append(name)
            except Exception as err:  # noqa: BLE001: whatever a client is told is a failure here
                wrong.append(f"{name}: {err!r}")

    threads = [threading.Thread(target=ask, args=(int(seed),)) for seed in rng.integers(1 << 30, size=6)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    for kill in range(1, 7):
        while len(right) < kill * ROUNDS / 8 and time.monotonic() < end:
            time.sleep(0.01)
        pid = made.worker_pid(["cpu0", "sim0"][kill % 2])
        if pid:
            os.kill(pid, signal.SIGKILL)
    while len(right) < ROUNDS and time.monotonic() < end:
        time.sleep(0.01)
    ended.set()
    for thread in threads:
        thread.join(60)
    assert not wrong, (wrong[:5], len(right))
    assert len(right) >= ROUNDS
    made.wait_models(SPREAD)


def test_clients_that_leave_in_the_middle(made):
    for i in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=30)
        text = '{"inputs":[{"name":"IN","shape":[1,16],"datatype":"FP32","data":[%s]},{"name":"COUNT","shape":[1,1],"datatype":"INT64","data":[30]}]}'
        connection.request("POST", "/v2/models/wait/infer", text % ",".join(["1"] * 16))
        time.sleep(0.01 * i)
        connection.close()
    pending = lambda: int(re.search(r'nv_inference_pending_request_count{model="wait",version="1"} (\d+)', made.get("/metrics")[1].decode())[1])
    end = time.monotonic() + 30
    while pending() and time.monotonic() < end:
        time.sleep(0.02)
    assert pending() == 0
    x = np.ones((1, 16), np.float32)
    assert np.array_equal(infer(made, "chain", {"IN": x}).as_numpy("OUT"), reference(made, "chain", x))


def test_a_crowd_is_answered(made):
    """More at once than may be on their way: some wait, and none for ever."""
    x = np.random.default_rng(13).standard_normal((1, 16)).astype(np.float32)
    want = {name: reference(made, name, x) for name in ("chain", "diamond", "outer")}
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        def ask(i):
            name = ("chain", "diamond", "outer")[i % 3]
            return np.array_equal(infer(made, name, {"IN": x}).as_numpy("OUT"), want[name])
        assert all(pool.map(ask, range(300)))


def test_a_step_that_is_switched_under_load(made):
    ended, wrong, right = threading.Event(), [], []

    def ask():
        x = np.random.default_rng(12).standard_normal((2, 16)).astype(np.float32)
        while not ended.is_set():
            try:
                same = np.array_equal(infer(made, "outer", {"IN": x}).as_numpy("OUT"), reference(made, "outer", x))
                (right if same else wrong).append("numbers")
            except Exception as err:  # noqa: BLE001
                wrong.append(repr(err))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    with httpclient.InferenceServerClient(made.address, network_timeout=60, connection_timeout=60) as client:
        for i in range(4):
            before = len(right)
            given = client.get_model_config("mix")
            given["parameters"] = {"round": {"string_value": str(i)}}
            client.load_model("mix", config=json.dumps(given))
            end = time.monotonic() + 20
            while len(right) < before + 10 and time.monotonic() < end:
                time.sleep(0.01)
    ended.set()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong[:5]
    assert len(right) >= 40
