# SPDX-License-Identifier: Apache-2.0
"""TritonPythonModels through the engine ABI: right answers, strings, errors of all kinds, children that die, hang, or lose
their parent."""
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import cases

KINDS = {1: "TYPE_FP32", 2: "TYPE_UINT8", 3: "TYPE_INT8", 4: "TYPE_UINT16", 5: "TYPE_INT16", 6: "TYPE_INT32", 7: "TYPE_INT64",
         8: "TYPE_STRING", 9: "TYPE_BOOL", 10: "TYPE_FP16", 11: "TYPE_FP64", 12: "TYPE_UINT32", 13: "TYPE_UINT64"}


def port(name, number, dims=(-1,)):
    return {"name": name, "data_type": KINDS[number], "dims": list(dims)}


def make(where, name, code, inputs, outputs, **more):
    """A model's file and the words of a case that loads it."""
    folder = where / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("import json\nimport os\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n"
                                     + textwrap.dedent(code))
    config = {"name": name, "backend": "python", "max_batch_size": 0, "input": inputs, "output": outputs, **more}
    return folder / "model.py", ("model_config=" + json.dumps(config, separators=(",", ":")), f"model_name={name}", "model_version=1",
                                 f"model_repository={where / name}", f"instance_name={name}_0")


def run(where, *jobs, env=None):
    return cases.engine_answers(list(jobs), where, "python", {"SPILLWAY_PYTHON": sys.executable, **(env or {})})


def f32(*values):
    return np.array(values, np.float32)


ADD_SUB = """
    class TritonPythonModel:
        def initialize(self, args):
            assert args["model_name"] == "add_sub" and args["model_version"] == "1" and args["model_instance_kind"] == "CPU"
            assert args["model_instance_name"] == "add_sub_0_0" and os.path.isdir(args["model_repository"])
            self.config = json.loads(args["model_config"])
            self.kind = pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(self.config, "OUTPUT0")["data_type"])

        def execute(self, requests):
            responses = []
            for request in requests:
                a = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
                b = pb_utils.get_input_tensor_by_name(request, "INPUT1")
                b = np.zeros_like(a) if b is None else b.as_numpy()
                print("a model may print")
                pb_utils.Logger.log_info("and log")
                out0 = pb_utils.Tensor("OUTPUT0", (a + b).astype(self.kind))
                out1 = pb_utils.Tensor("OUTPUT1", (a - b).astype(self.kind))
                responses.append(pb_utils.InferenceResponse(output_tensors=[out1, out0]))
            return responses

        def finalize(self):
            open(os.path.join(pb_utils.get_model_dir(), "finalized"), "w").close()
"""


def test_add_sub(tmp_path):
    model, words = make(tmp_path, "add_sub", ADD_SUB, [port("INPUT0", 1), port("INPUT1", 1)], [port("OUTPUT0", 1), port("OUTPUT1", 1)])
    a, b, none = f32(1, 2, 3), f32(4, 5, 6), np.zeros(0, np.float32)
    large = np.random.default_rng(1).random(3_000_000).astype(np.float32)  # the memory grows, both ways
    got = run(tmp_path, (model, [a, b], *words), (".", [a, None]), (".", [a, b], "!0"), (".", [large, large]), (".", [none, none]),
              (".", [None, b]), (".", [a, b]))
    assert cases.same(got[0][0], a + b) and cases.same(got[0][1], a - b)
    assert cases.same(got[1][0], a), "an input that is absent is None to the model"
    assert got[2][0] is None and cases.same(got[2][1], a - b)
    assert cases.same(got[3][0], large + large)
    assert cases.same(got[4][0], none)
    assert str(got[5]).startswith("internal AttributeError: 'NoneType' object"), got[5]
    assert cases.same(got[6][0], a + b)
    assert (model.parent / "finalized").exists()


def test_the_requests_of_a_batch_come_apart(tmp_path):
    model, words = make(tmp_path, "rows", """
        class TritonPythonModel:
            def execute(self, requests):
                responses = []
                for i, request in enumerate(requests):
                    x, s = (t.as_numpy() for t in request.inputs())
                    if x[0, 0] == 99:
                        responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("99 is too much")))
                        continue
                    y = np.array([[len(requests), i, len(x)]] * len(x), np.int64)
                    if x[0, 0] == 98:
                        y = y[:, :2]
                    responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", y), pb_utils.Tensor("z", s)]))
                return responses
        """, [port("x", 1, [1]), port("s", 8, [1])], [port("y", 7, [-1]), port("z", 8, [1])], max_batch_size=8)
    x, s = np.zeros((5, 1), np.float32), np.array([[b"a"], [b"b"], [b""], [b"d"], [b"e"]], object)
    bad, odd = x.copy(), x.copy()
    bad[2], odd[2] = 99, 98
    got = run(tmp_path, (model, [x, s], *words), (".", [x, s], "rows=2+1+2"), (".", [x, s]), (".", [x, s], "rows=2+2"),
              (".", [bad, s], "rows=2+1+2"), (".", [odd, s], "rows=2+1+2"), (".", [x[:1], s[:1]], "rows=1"))
    assert got[0][0].tolist() == [[1, 0, 5]] * 5
    assert got[1][0].tolist() == [[3, 0, 2]] * 2 + [[3, 1, 1]] + [[3, 2, 2]] * 2 and got[1][1].tolist() == s.tolist()
    assert got[2][0].tolist() == [[1, 0, 5]] * 5, "it is said for one run"
    assert got[3][0].tolist() == [[1, 0, 5]] * 5, "rows that do not add up are passed over"
    assert "99 is too much" in str(got[4])
    assert "another shape or type in each response" in str(got[5])
    assert got[6][0].tolist() == [[1, 0, 1]]


def test_strings(tmp_path):
    model, words = make(tmp_path, "upper", """
        class TritonPythonModel:
            def execute(self, requests):
                x = pb_utils.get_input_tensor_by_name(requests[0], "x").as_numpy()
                assert x.dtype == np.object_ and all(isinstance(e, bytes) for e in x.reshape(-1))
                y = np.array([e.upper() for e in x.reshape(-1)], dtype=np.object_).reshape(x.shape)
                z = np.array([e.decode("latin-1") for e in x.reshape(-1)]).reshape(x.shape)  # a numpy array of str
                return [pb_utils.InferenceResponse([pb_utils.Tensor("y", y), pb_utils.Tensor("z", z)])]
        """, [port("x", 8)], [port("y", 8), port("z", 8)])
    texts = np.array([b"abc", b"", b"a\0b", bytes(range(256)), b"x" * 100000], object)
    got = run(tmp_path, (model, [texts], *words), (".", [np.array([], object)]), (".", [(8, (2,), b"\x01\0\0\0a")]))
    assert got[0][0].tolist() == [t.upper() for t in texts]
    assert got[0][1].tolist() == [t.decode("latin-1").encode() for t in texts]
    assert got[1][0].shape == (0,)
    assert str(got[2]).startswith("invalid x: string 1 of 2")


def test_each_type(tmp_path):
    numbers = sorted(KINDS)
    model, words = make(tmp_path, "echo", """
        class TritonPythonModel:
            def execute(self, requests):
                return [pb_utils.InferenceResponse([pb_utils.Tensor("o" + t.name(), t.as_numpy()) for t in requests[0].inputs()])]
        """, [port(f"x{n}", n, [-1, 2]) for n in numbers], [port(f"ox{n}", n, [-1, 2]) for n in numbers])
    from test_types import sample
    inputs = [sample(n, (3, 2)) for n in numbers]
    got, = run(tmp_path, (model, inputs, *words))
    assert all(cases.same(g, i) for g, i in zip(got, inputs)), got


MOODS = """
    import ctypes, time
    class TritonPythonModel:
        def execute(self, requests):
            mood = int(requests[0].inputs()[0].as_numpy()[0])
            out = pb_utils.Tensor("y", np.array([os.getpid()], np.int32))
            if mood == 1:
                raise ValueError("the model is in a mood")
            if mood == 2:
                return [pb_utils.InferenceResponse(error=pb_utils.TritonError("not like this", pb_utils.TritonError.INVALID_ARG))]
            if mood == 3:
                ctypes.string_at(0)
            if mood == 4:
                os._exit(7)
            if mood == 5:
                return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.zeros(1))])]
            if mood == 6:
                return []
            if mood == 7:
                return [pb_utils.InferenceResponse([])]
            if mood == 8:
                while True:
                    pass
            if mood == 9:
                requests[0].exec()
            if mood == 10:
                os.kill(os.getpid(), 9)
            if mood == 11 and os.fork() == 0:
                os.closerange(0, 3), time.sleep(5), os._exit(0)  # a child of the child holds the socket open
            if mood == 11:
                os._exit(3)
            return [pb_utils.InferenceResponse([out])]
"""


def moods(where, *wanted):
    model, words = make(where, "moods", MOODS, [port("x", 6, [1])], [port("y", 6, [1])])
    jobs = [(".", [np.array([abs(mood)], np.int32)], *(["cancel=1"] if mood < 0 else [])) for mood in wanted]
    jobs[0] = (model, *jobs[0][1:], *words)
    return run(where, *jobs)


def test_errors_are_answers_and_the_child_goes_on(tmp_path):
    got = moods(tmp_path, 0, 1, 2, 5, 6, 7, 9, 0)
    assert "internal ValueError: the model is in a mood (model.py:" in str(got[1])
    assert str(got[2]) == "invalid not like this"
    assert "output 'y' is float64, the configuration says TYPE_INT32" in str(got[3])
    assert "one InferenceResponse for each request" in str(got[4])
    assert "has no output 'y'" in str(got[5])
    assert "BLS" in str(got[6])
    assert got[0][0].tolist() == got[7][0].tolist(), "the same process all the time"


def test_a_death_costs_one_run_and_the_next_has_a_new_child(tmp_path):
    got = moods(tmp_path, 0, 3, 0, 4, 0, 10, 0)
    assert "internal the model's process was killed by signal 11" in str(got[1])
    assert "internal the model's process ended with exit code 7" in str(got[3])
    assert "signal 9" in str(got[5])
    assert len({got[i][0].tolist()[0] for i in (0, 2, 4, 6)}) == 4, got


def test_a_run_that_hangs_is_cancelled_by_killing_its_child(tmp_path):
    got = moods(tmp_path, 0, -8, 0)
    assert str(got[1]).startswith("cancelled"), got[1]
    assert got[2][0].tolist() != got[0][0].tolist()


def test_the_end_is_seen_although_a_grandchild_holds_the_socket(tmp_path):
    model, words = make(tmp_path, "moods", MOODS, [port("x", 6, [1])], [port("y", 6, [1])])
    got = run(tmp_path, (model, [np.array([11], np.int32)], *words), (".", [np.array([0], np.int32)]))
    assert "exit code 3" in str(got[0]) and not isinstance(got[1], Exception), got


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_child_dies_with_its_worker_even_in_the_midst_of_a_run(tmp_path):
    model, words = make(tmp_path, "spin", """
        class TritonPythonModel:
            def execute(self, requests):
                with open(os.path.join(os.path.dirname(__file__), "pid.new"), "w") as file:
                    file.write(str(os.getpid()))
                os.rename(file.name, file.name[:-4])
                while True:
                    pass
        """, [port("x", 6, [1])], [port("y", 6, [1])])
    lines = cases.tool_lines([(model, [np.array([1], np.int32)], *words)], tmp_path)
    worker = subprocess.Popen([cases.TOOL, "python"], stdin=subprocess.PIPE, text=True, env={**os.environ, "SPILLWAY_PYTHON": sys.executable})
    try:
        worker.stdin.write(lines)
        worker.stdin.flush()
        end = time.monotonic() + 30
        while not (model.parent / "pid").exists():
            assert time.monotonic() < end and worker.poll() is None
            time.sleep(0.02)
        pid = int((model.parent / "pid").read_text())
        assert alive(pid)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end, "the child outlived its worker"
        time.sleep(0.02)


@pytest.mark.parametrize("name,code,wanted", [
    ("raises", "class TritonPythonModel:\n    def initialize(self, args):\n        raise RuntimeError('no weights')\n    def execute(self, r):\n        pass",
     "internal RuntimeError: no weights (model.py:"),
    ("dies", "os._exit(5)", "internal the model's process ended with exit code 5"),
    ("syntax", "def (:", "internal SyntaxError"),
    ("classless", "x = 1", "corrupt "), ("idle", "class TritonPythonModel:\n    pass", "corrupt TritonPythonModel has no execute()"),
    ("module", "import no_such_module", "internal ModuleNotFoundError: No module named 'no_such_module'")])
def test_a_model_that_does_not_start_says_why(tmp_path, name, code, wanted):
    model, words = make(tmp_path, name, code, [port("x", 1)], [port("y", 1)])
    got, = run(tmp_path, (model, [f32(1)], *words))
    assert str(got).startswith(wanted), got


def test_what_is_missing_is_named(tmp_path):
    model, words = make(tmp_path, "m", ADD_SUB, [port("x", 1)], [port("y", 1)])
    bare, = run(tmp_path, (model, [f32(1)], *words[1:]))
    assert "needs its configuration" in str(bare)
    nobody, = run(tmp_path, (model, [f32(1)], *words), env={"SPILLWAY_PYTHON": "/nowhere/python"})
    assert str(nobody).startswith("unsupported /nowhere/python does not start") and "SPILLWAY_PYTHON" in str(nobody)
    missing, = run(tmp_path, (tmp_path / "m" / "1" / "other.py", [f32(1)], *words))
    assert str(missing).startswith("not_found")
    where = {"EXECUTION_ENV_PATH": {"string_value": "/nowhere/env.tar.gz"}}
    packed, = run(tmp_path, (*make(tmp_path, "packed", ADD_SUB, [port("x", 1)], [port("y", 1)], parameters=where)[:1], [f32(1)],
                             "model_config=" + json.dumps({"parameters": where}, separators=(",", ":"))))
    assert str(packed).startswith("unsupported EXECUTION_ENV_PATH"), packed


def test_a_models_own_environment_is_used(tmp_path):
    env = tmp_path / "env" / "bin"
    env.mkdir(parents=True)
    (env / "python3").write_text(f"#!/bin/sh\nIN_ITS_OWN=yes exec {sys.executable} \"$@\"\n")
    (env / "python3").chmod(0o755)
    model, words = make(tmp_path, "own", """
        class TritonPythonModel:
            def execute(self, requests):
                return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([os.environ["IN_ITS_OWN"]], np.object_))])]
        """, [port("x", 1)], [port("y", 8)], parameters={"EXECUTION_ENV_PATH": {"string_value": "$$TRITON_MODEL_DIRECTORY/../env"}})
    got, = run(tmp_path, (model, [f32(1)], *words))
    assert got[0].tolist() == [b"yes"], got
