# SPDX-License-Identifier: Apache-2.0
"""Model repositories in a real server, with the stock client: Triton's quick start, control modes, reloads under load, what
happens to a model that cannot be loaded."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "serving")]
httpclient = pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
ort = pytest.importorskip("onnxruntime")
import onnx  # noqa: E402
import repositories  # noqa: E402
import served_house  # noqa: E402
from served_house import Server  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

FULL = os.environ.get("SPILLWAY_FULL") == "1"
SANITIZER = os.environ.get("SPILLWAY_SANITIZER")
PROGRAM = os.path.join(served_house.BUILD, "spillway")


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def tensor(name, array, dtype):
    made = httpclient.InferInput(name, list(array.shape), dtype)
    made.set_data_from_numpy(array)
    return made


def infer_pair(client, model, a, b, dtype, **more):
    answer = client.infer(model, [tensor("INPUT0", a, dtype), tensor("INPUT1", b, dtype)], **more)
    return answer.as_numpy("OUTPUT0"), answer.as_numpy("OUTPUT1")


def index(client):
    return {(m["name"], m.get("version", "")): (m.get("state", ""), m.get("reason", "")) for m in client.get_model_repository_index()}


# ---- Triton's quick start ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory):
    repository = repositories.quick_start(str(tmp_path_factory.mktemp("quick_start")))
    server = Server(repository)
    server.wait_models(repositories.QUICK_START)
    server.client = httpclient.InferenceServerClient(server.address)
    server.repository = repository
    yield server
    server.stop()


def test_the_quick_start_is_ready(quick_start):
    client = quick_start.client
    assert client.is_server_ready()
    assert {name for name, _ in index(client)} == set(repositories.QUICK_START)
    assert {state for state, _ in index(client).values()} == {"READY"}


@pytest.mark.parametrize("name,dtype,kind", [("simple", "INT32", np.int32), ("simple_int8", "INT8", np.int8), ("simple_string", "BYTES", np.object_)])
def test_sums_and_differences(quick_start, name, dtype, kind):
    a, b = np.arange(16).reshape(1, 16), np.full((1, 16), 3)
    one, other = (np.array([[str(v).encode() for v in row] for row in x], dtype=np.object_) if kind is np.object_ else x.astype(kind) for x in (a, b))
    total, difference = infer_pair(quick_start.client, name, one, other, dtype)
    assert np.array_equal(total.astype(np.int64), a + b) and np.array_equal(difference.astype(np.int64), a - b)


def test_sequences_of_the_quick_start(quick_start):
    client, array = quick_start.client, np.array([[5]], dtype=np.int32)

    def step(name, **flags):
        return int(client.infer(name, [tensor("INPUT", array, "INT32")], **flags).as_numpy("OUTPUT")[0, 0])

    assert step("simple_sequence", sequence_id=7, sequence_start=True) == 6
    assert step("simple_sequence", sequence_id=7, sequence_end=True) == 5
    assert step("simple_dyna_sequence", sequence_id=9, sequence_start=True) == 6
    assert step("simple_dyna_sequence", sequence_id=9) == 5
    assert step("simple_dyna_sequence", sequence_id=9, sequence_end=True) == 14  # + CORRID


@pytest.mark.parametrize("name", ["densenet_onnx", "inception_onnx"])
def test_classifiers_of_the_quick_start(quick_start, name):
    client = quick_start.client
    config, metadata = client.get_model_config(name), client.get_model_metadata(name)
    port, shape = config["input"][0], config["input"][0]["dims"]
    assert metadata["inputs"][0]["shape"] == shape and metadata["outputs"][0]["shape"] == config["output"][0]["dims"]
    picture = np.random.default_rng(1).random(shape, dtype=np.float32)
    answer = client.infer(name, [tensor(port["name"], picture, "FP32")])
    session = ort.InferenceSession(os.path.join(quick_start.repository, name, "1", "model.onnx"))
    expected = session.run(None, {port["name"]: picture.reshape(port["reshape"]["shape"])})[0]
    output = config["output"][0]
    assert np.allclose(answer.as_numpy(output["name"]), expected.reshape(output["dims"]), atol=1e-5)
    wish = httpclient.InferRequestedOutput(output["name"], class_count=2)
    best = client.infer(name, [tensor(port["name"], picture, "FP32")], outputs=[wish]).as_numpy(output["name"])
    last = output["dims"][-1] - 1
    assert best.shape == (2,) and best[0].decode().endswith(f":{last}:class {last}")


# ---- control modes -------------------------------------------------------------------------------------------------------------


def shift(by):
    """Y = X + by."""
    constant = onnx.numpy_helper.from_array(np.array([by], dtype=np.float32), "by")
    value = repositories.value
    return repositories.model([onnx.helper.make_node("Add", ["X", "by"], ["Y"])], [value("X", onnx.TensorProto.FLOAT, ["N", 4])],
                              [value("Y", onnx.TensorProto.FLOAT, ["N", 4])], [constant])


def put_shift(repository, by, name="shift", version=1):
    """In one step, as whoever deploys models should."""
    base = os.path.join(repository, name, str(version))
    os.makedirs(base, exist_ok=True)
    onnx.save(shift(by), os.path.join(base, ".new"))
    os.replace(os.path.join(base, ".new"), os.path.join(base, "model.onnx"))


def ask_shift(client, name="shift", version=""):
    x = np.zeros((1, 4), dtype=np.float32)
    return float(client.infer(name, [tensor("X", x, "FP32")], model_version=version).as_numpy("Y")[0, 0])


@pytest.fixture(scope="module")
def explicit(tmp_path_factory):
    repository, more = (str(tmp_path_factory.mktemp(name)) for name in ("explicit", "more"))
    put_shift(repository, 1)
    put_shift(repository, 1, "other")
    put_shift(more, 5, "elsewhere")
    server = Server(repository, args=["--model-repository", more, "--model-control-mode", "explicit", "--load-model", "shift",
                                      "--load-model=elsewhere"])
    server.wait_models(["shift", "elsewhere"])
    server.client = httpclient.InferenceServerClient(server.address)
    server.repository = repository
    yield server
    server.stop()


def test_explicit_serves_what_it_is_told_to(explicit):
    client = explicit.client
    assert ask_shift(client) == 1 and ask_shift(client, "elsewhere") == 5
    assert not client.is_model_ready("other") and index(client)[("other", "")] == ("", "")
    client.load_model("other")
    assert ask_shift(client, "other") == 1
    client.unload_model("other")
    assert not client.is_model_ready("other")
    assert index(client)[("other", "1")] == ("UNAVAILABLE", "unloaded")
    with pytest.raises(InferenceServerException):
        ask_shift(client, "other")
    with pytest.raises(InferenceServerException, match="no such directory"):
        client.load_model("nowhere")


def test_a_load_may_bring_its_own_configuration(explicit):
    client = explicit.client
    client.load_model("other", config=json.dumps({"backend": "onnxruntime", "max_batch_size": 2, "parameters": {"who": {"string_value": "me"}}}))
    config = client.get_model_config("other")
    assert config["max_batch_size"] == 2 and config["parameters"] == {"who": {"string_value": "me"}}
    with pytest.raises(InferenceServerException, match="max_batch: unknown field; did you mean max_batch_size"):
        client.load_model("other", config=json.dumps({"max_batch": 2}))
    assert client.get_model_config("other")["max_batch_size"] == 2
    client.load_model("other")
    assert client.get_model_config("other")["max_batch_size"] == 4
    client.unload_model("other")


def test_a_model_that_cannot_load_leaves_the_running_one(explicit):
    client = explicit.client
    path = os.path.join(explicit.repository, "shift", "1", "model.onnx")
    good = open(path, "rb").read()
    before = ask_shift(client)
    with open(path, "wb") as file:
        file.write(good[:-20])
    with pytest.raises(InferenceServerException):
        client.load_model("shift")
    state, reason = index(client)[("shift", "1")]
    assert state == "READY" and reason and ask_shift(client) == before
    with open(path, "wb") as file:
        file.write(good)
    client.load_model("shift")
    assert index(client)[("shift", "1")] == ("READY", "")


def test_versions_are_served_side_by_side(explicit):
    client = explicit.client
    for version, by in ((1, 10), (2, 20), (3, 30)):
        put_shift(explicit.repository, by, "many", version)
    repositories.write(explicit.repository, "many", None, "version_policy { specific { versions: [ 1, 3 ] } }")
    client.load_model("many")
    assert [ask_shift(client, "many", v) for v in ("", "1", "3")] == [30, 10, 30]
    with pytest.raises(InferenceServerException, match="version 2 is not found"):
        ask_shift(client, "many", "2")
    assert sorted(client.get_model_metadata("many")["versions"]) == ["1", "3"]


def tree_memory_kib(pid):
    """Proportional memory of the server and its workers."""
    children = [child for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    assert children, "a server without workers"
    total = 0
    for process in [str(pid), *children]:
        try:
            with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
                total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.MULTILINE)[1])
        except OSError:
            pass  # an inspection that has just ended
    return total


def test_reloads_under_load_fail_no_request(explicit):
    """100 reloads of a model (here fewer, unless SPILLWAY_FULL=1) while four clients ask it."""
    reloads, warm = (100, 30) if FULL else (3, 1) if SANITIZER else (10, 4)
    stop, failures, answers = threading.Event(), [], [0] * 4
    put_shift(explicit.repository, 1, "hot")
    explicit.client.load_model("hot")

    def ask(me):
        client = httpclient.InferenceServerClient(explicit.address)
        while not stop.is_set():
            try:
                value = ask_shift(client, "hot")
                if not 1 <= value <= reloads + 1:
                    failures.append(value)
                answers[me] += 1
            except Exception as exception:  # pylint: disable=broad-except
                failures.append(repr(exception))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    memory = []
    try:
        for i in range(reloads):
            put_shift(explicit.repository, 2 + i, "hot")
            explicit.client.load_model("hot")
            assert ask_shift(explicit.client, "hot") == 2 + i  # whoever asks after the call has the new one
            if i + 1 in (warm, reloads):
                time.sleep(0.5)  # what was let go is gone
                memory.append(tree_memory_kib(explicit.process.pid))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print(f"{reloads} reloads, {sum(answers)} answers, memory {memory[0]} -> {memory[1]} KiB")
    assert not failures, failures[:5]
    assert sum(answers) > reloads
    if not SANITIZER:  # one keeps freed memory: its size says nothing
        assert memory[1] < memory[0] * 1.1 + 16 * 1024, memory
    explicit.client.unload_model("hot")


def test_polling_follows_the_files(tmp_path):
    repository = str(tmp_path / "models")
    put_shift(repository, 1)
    server = Server(repository, args=["--model-control-mode", "poll", "--repository-poll-secs", "1"])
    try:
        server.wait_models(["shift"])
        client = httpclient.InferenceServerClient(server.address)
        put_shift(repository, 2)
        put_shift(repository, 3, "late")
        until(lambda: ask_shift(client) == 2 and client.is_model_ready("late"))
        shutil.rmtree(os.path.join(repository, "late"))
        until(lambda: not client.is_model_ready("late"))
        with pytest.raises(InferenceServerException, match="not allowed if polling is enabled"):
            client.load_model("shift")
    finally:
        server.stop()


# ---- the start ---------------------------------------------------------------------------------------------------------------------


def test_a_broken_model_at_the_start(tmp_path):
    repository = str(tmp_path / "models")
    put_shift(repository, 1)
    repositories.write(repository, "broken", None, "max_batch: 3\n")
    server = Server(repository)
    try:
        server.wait_models(["shift"])
        client = httpclient.InferenceServerClient(server.address)
        until(lambda: index(client).get(("broken", ""), ("", ""))[0] == "UNAVAILABLE")
        assert index(client)[("broken", "")][1] == "broken/config.pbtxt:1: max_batch: unknown field; did you mean max_batch_size?"
        assert not client.is_server_ready()  # strict readiness
    finally:
        server.stop()
    done = subprocess.run([PROGRAM, "serve", "--http-port", "0", "--metrics-port", "0", "--model-repository", repository, "--data-dir",
                           str(tmp_path / "data"), "--drain-delay", "0", "--exit-on-error=true"], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 3 and "1 of the models cannot be loaded" in done.stderr


def test_readiness_need_not_be_strict(tmp_path):
    repository = str(tmp_path / "models")
    put_shift(repository, 1)
    repositories.write(repository, "broken", None, "max_batch: 3\n")
    server = Server(repository, args=["--strict-readiness=false"])
    try:
        server.wait_models(["shift"])
        until(httpclient.InferenceServerClient(server.address).is_server_ready)
    finally:
        server.stop()


def test_options_are_checked(tmp_path):
    for option, message in ((["--model-control-mode", "expl"], "must be none, poll or explicit"), (["--load-model", "a/b"], "is no model's name")):
        done = subprocess.run([PROGRAM, "serve", "--model-repository", str(tmp_path), *option], capture_output=True, text=True, timeout=30,
                              check=False)
        assert done.returncode == 2 and message in done.stderr


def test_the_classify_model_is_served_too():
    models = os.environ.get("SPILLWAY_MODELS", os.path.join(served_house.ROOT, "var", "models"))
    path = os.path.join(models, "efficientnet-lite0", "1", "model.onnx")
    if not os.path.exists(path):
        pytest.skip(f"no {path} (make model)")
    if SANITIZER:
        pytest.skip("a large model shows a sanitizer no more than a small one")
    server = Server(models)
    try:
        server.wait_models(["efficientnet-lite0"])
        client = httpclient.InferenceServerClient(server.address)
        picture = np.random.default_rng(2).standard_normal((2, 3, 224, 224), dtype=np.float32)
        answer = client.infer("efficientnet-lite0", [tensor("images", picture, "FP32")]).as_numpy("logits")
        expected = ort.InferenceSession(path).run(None, {"images": picture})[0]
        assert np.allclose(answer, expected, atol=1e-3)
    finally:
        server.stop()
