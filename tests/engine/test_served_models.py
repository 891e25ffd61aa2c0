# SPDX-License-Identifier: Apache-2.0
"""Models through a real server, asked as KServe clients ask: ONNX's backend tests (the set that passes is onnxruntime's own),
every real model of the assets, OpenVINO, and Python models that answer, raise, die and hang. One server for all; models are
loaded and let go by the repository API. SPILLWAY_FULL=1 sends all 1,600 cases instead of every 160th and those with strings."""
import json
import os
import pathlib
import shutil
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cases
import served
from test_real_models import inputs_of, models

sys.path.insert(0, os.path.join(cases.ROOT, "tests", "fault"))
import house  # noqa: E402

STEP = 1 if os.environ.get("SPILLWAY_FULL") else 400 if os.environ.get("SPILLWAY_SANITIZER") else 160


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    where = tmp_path_factory.mktemp("server")
    running = house.Server(where, args=["--data-dir", where / "data", "--model-repository", repository, "--model-control-mode", "explicit"],
                           env={"SPILLWAY_PYTHON": sys.executable})
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def client(server):
    return served.Client(server.port)


def put(repository, name, source, config=""):
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    if isinstance(source, str) and source.endswith(".onnx"):
        shutil.copy(source, folder / "model.onnx")
    else:
        (folder / "model.py").write_text(textwrap.dedent(source))
    if config:
        (repository / name / "config.pbtxt").write_text(config)


def answer(client, repository, name, model, inputs):
    """The outputs in the model's order, or the exception."""
    put(repository, name, model)
    try:
        client.load(name)
        about = client.metadata(name)
        names = [port["name"] for port in about["inputs"]]
        if len(names) != len(inputs):
            raise served.Refused(0, f"{len(inputs)} inputs for {names}")
        found = dict(client.infer(name, dict(zip(names, inputs))))
        client.unload(name)
        return [found[port["name"]] for port in about["outputs"]]
    except served.Refused as error:
        return error
    finally:
        shutil.rmtree(repository / name)


def test_onnx_backend_tests_pass_where_onnxruntime_does(client, repository, tmp_path):
    if not os.path.exists(cases.ARCHIVE):
        pytest.skip(f"SPILLWAY_ASSETS has no models/onnx_backend_tests.tar.gz ({cases.ASSETS})")
    every, wrong, passed, refused, unasked = cases.extract(tmp_path), [], 0, 0, []
    for i, case in enumerate(every):
        name = os.path.basename(case)
        if i % STEP and ("string" not in name or STEP > 160):
            continue
        inputs, outputs = cases.stored(case, "input"), cases.stored(case, "output")
        if not outputs or any(a is None for a in inputs + outputs) or (name.startswith(cases.RANDOM) and "zero_ratio" not in name):
            continue
        if not inputs:
            unasked.append(name)  # a KServe request has at least one input
            continue
        got = answer(client, repository, "case", f"{case}/model.onnx", inputs)
        if cases.right(got, outputs):
            passed += 1
            continue
        own = cases.own_answer(f"{case}/model.onnx", inputs)
        if isinstance(got, Exception) and isinstance(own, Exception):
            refused += 1
        elif isinstance(got, Exception) or isinstance(own, Exception) or not all(cases.close(g, o) for g, o in zip(got, own)):
            wrong.append(f"{name}: {got if isinstance(got, Exception) else 'differs'}; onnxruntime: {repr(own)[:200]}")
    print(f"{passed} cases equal, {refused} that onnxruntime refuses too, {len(unasked)} without inputs, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert passed > (1400 if STEP == 1 else 2)


def test_real_models_answer_as_onnxruntime(client, repository):
    if not models():
        pytest.skip(f"SPILLWAY_ASSETS has no models ({cases.ASSETS})")
    for path in models()[::4 if os.environ.get("SPILLWAY_SANITIZER") else 1]:
        name = os.path.basename(path)[:-5]
        inputs = inputs_of(path)
        got = answer(client, repository, name, path, list(inputs.values()))
        assert not isinstance(got, Exception), (name, got)
        for g, w in zip(got, cases.own_answer(path, list(inputs.values()))):
            assert g.shape == w.shape and g.dtype == w.dtype, name
            if "light" not in name:  # its classes tie: on other numbers of threads rounding decides
                assert np.abs(g.astype(np.float64) - w).max() <= 1e-4 * max(1, np.abs(w.astype(np.float64)).max()), name


def test_openvino_serves_an_onnx_file(client, repository):
    path = os.path.join(cases.ASSETS, "models", "tinyvad_cnn_speech_mel.onnx")
    if not os.path.exists(path):
        pytest.skip(f"SPILLWAY_ASSETS has no models ({cases.ASSETS})")
    put(repository, "by_openvino", path, 'backend: "openvino"\ndefault_model_filename: "model.onnx"\n')
    try:
        client.load("by_openvino")
    except served.Refused as error:
        if "libspillway_engine_openvino.so" in str(error) or "library missing" in str(error):
            pytest.skip(str(error))
        raise
    inputs = inputs_of(path)
    (_, got), = client.infer("by_openvino", inputs)
    assert np.abs(got - cases.own_answer(path, list(inputs.values()))[0]).max() < 5e-4
    client.unload("by_openvino")


PYTHON = """
    import json, os, time
    import numpy as np
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def initialize(self, args):
            self.name = json.loads(args["model_config"])["name"]

        def execute(self, requests):
            responses = []
            for request in requests:
                x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
                words = pb_utils.get_input_tensor_by_name(request, "words")
                mood = int(x.reshape(-1)[0])
                if mood == 1:
                    raise ValueError("not in the mood")
                if mood == 2:
                    os._exit(9)
                while mood == 3:
                    time.sleep(1)
                pid = np.full((len(x), 1), os.getpid(), np.int64)
                said = np.array([[w.upper() for w in row] for row in words.as_numpy()], np.object_) if words else np.full((len(x), 1), b"", np.object_)
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("twice", 2 * x), pb_utils.Tensor("pid", pid),
                                                             pb_utils.Tensor("said", said)]))
            return responses
"""
CONFIG = """
    backend: "python"
    max_batch_size: 4
    input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "words" data_type: TYPE_STRING dims: [ 1 ] optional: true } ]
    output [ { name: "twice" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "pid" data_type: TYPE_INT64 dims: [ 1 ] },
             { name: "said" data_type: TYPE_STRING dims: [ 1 ] } ]
    dynamic_batching { }
"""


@pytest.fixture(scope="module")
def moody(client, repository):
    put(repository, "moody", PYTHON, textwrap.dedent(CONFIG))
    client.load("moody")
    yield client
    client.unload("moody")


def ask(client, mood=0, rows=1, words=None, **parameters):
    x = np.full((rows, 2), mood, np.float32)
    inputs = {"x": x} if words is None else {"x": x, "words": np.array(words, object).reshape(rows, 1)}
    return dict(client.infer("moody", inputs, parameters))


def test_a_python_model_answers_with_tensors_and_strings(moody):
    got = ask(moody, 5, 3, [b"a", b"\0b", b""])
    assert (got["twice"] == 10).all() and got["said"].reshape(-1).tolist() == [b"A", b"\0B", b""]
    assert ask(moody, 7)["said"].tolist() == [[b""]], "an optional input may be left out"


def test_a_python_model_in_batches_keeps_its_requests_apart(moody, server):
    def one(number):
        other = served.Client(server.port)
        return all((ask(other, 10 * number + i, 1 + i % 3, [b"%d" % number] * (1 + i % 3))["twice"] == 20 * number + 2 * i).all()
                   for i in range(10))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(one, range(1, 7)))


def test_a_python_model_that_raises_answers_so_and_goes_on(moody):
    pid = ask(moody)["pid"].tolist()
    for _ in range(20):  # as often as it likes: no breaker shuts the only link
        with pytest.raises(served.Refused, match="500 .*ValueError: not in the mood"):
            ask(moody, 1)
    assert ask(moody)["pid"].tolist() == pid


def test_a_python_model_that_dies_costs_its_run_and_not_the_worker(moody, server):
    before, pid = server.worker("cpu0")["pid"], ask(moody)["pid"].tolist()
    with pytest.raises(served.Refused, match="500 .*exit code 9"):
        ask(moody, 2)
    assert ask(moody)["pid"].tolist() != pid
    assert server.worker("cpu0")["pid"] == before


def test_a_python_model_that_hangs_is_killed_at_the_deadline_and_not_the_worker(moody, server):
    before, pid = server.worker("cpu0")["pid"], ask(moody)["pid"].tolist()
    moody.connection.request("POST", "/v2/models/moody/infer", json.dumps({"inputs": [
        {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [3, 3]}]}), {"X-Spillway-Timeout-Ms": "1500"})
    answer = moody.connection.getresponse()
    assert answer.status in (503, 504), (answer.status, answer.read())
    answer.read()
    assert ask(moody)["pid"].tolist() != pid
    assert server.worker("cpu0")["pid"] == before
