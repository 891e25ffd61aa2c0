# SPDX-License-Identifier: Apache-2.0
"""ONNX's own backend tests as Python values, what Python's onnxruntime makes of them, and runs through the engine ABI.
Used by the tests of this directory and by those that send the cases through a server."""
import os
import subprocess
import tarfile

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SPILLWAY_BUILD", os.path.join(ROOT, "build"))
ASSETS = os.path.abspath(os.environ.get("SPILLWAY_ASSETS", os.path.join(ROOT, "..", "shared", "assets")))
ARCHIVE = os.path.join(ASSETS, "models", "onnx_backend_tests.tar.gz")
TOOL = os.path.join(BUILD, "tests", "engine", "run_tool")
STRING = 8
CROSSING = {1, 2, 3, 4, 5, 6, 7, STRING, 9, 10, 11, 12, 13, 16}  # types that the ABI carries
RANDOM = ("test_bernoulli", "test_random", "test_multinomial", "test_training_dropout")  # their answers are a matter of luck

onnxruntime.set_default_logger_severity(4)


def extract(where):
    """The case directories, below `where`."""
    with tarfile.open(ARCHIVE) as archive:
        names = sorted(n for n in archive.getnames() if n.endswith("/model.onnx"))
        kept = {os.path.dirname(n) for n in names}
        for member in archive.getmembers():
            case = next((k for k in (os.path.dirname(member.name), os.path.dirname(os.path.dirname(member.name))) if k in kept), None)
            if case and member.isfile() and ".." not in member.name and not member.name.startswith("/"):
                target = where / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())
    return sorted(str(where / k) for k in kept)


def tensor(path):
    """The array of a stored tensor, or None for a sequence or optional."""
    message = onnx.TensorProto()
    try:
        with open(path, "rb") as file:
            message.ParseFromString(file.read())
        return numpy_helper.to_array(message) if message.data_type in CROSSING else None
    except Exception:  # a SequenceProto read as a TensorProto fails in many ways, all meaning the same
        return None


def stored(case, kind):
    directory = os.path.join(case, "test_data_set_0")
    found = []
    while os.path.exists(os.path.join(directory, f"{kind}_{len(found)}.pb")):
        found.append(tensor(os.path.join(directory, f"{kind}_{len(found)}.pb")))
    return found


def dtype_number(array):
    return STRING if array.dtype.kind in "OSU" else int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def pack(array):
    """The bytes of a tensor as they cross the ABI and KServe's binary extension."""
    if dtype_number(array) != STRING:
        return np.ascontiguousarray(array).tobytes()
    texts = [t if isinstance(t, bytes) else str(t).encode() for t in array.reshape(-1)]
    return b"".join(len(t).to_bytes(4, "little") + t for t in texts)


def unpack(data, number, shape):
    if number != STRING:
        return np.frombuffer(data, onnx.helper.tensor_dtype_to_np_dtype(number)).reshape(shape)
    texts, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at:at + 4], "little")
        texts.append(data[at + 4:at + 4 + length])
        at += 4 + length
    return np.array(texts, object).reshape(shape)


def own_answer(model, inputs, threads=1):
    """Python's onnxruntime: its outputs, or the exception."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        values = {p.name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(a, 16) if a.dtype.name == "bfloat16" else a
                  for p, a in zip(session.get_inputs(), inputs)}
        if not any(a.dtype.name == "bfloat16" for a in inputs) and not any("bfloat16" in p.type for p in session.get_outputs()):
            return session.run(None, values)
        values = {k: v if isinstance(v, onnxruntime.OrtValue) else onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in values.items()}
        names = [p.name for p in session.get_outputs()]
        got = session.run_with_ort_values(names, values)
        return [np.array(v.numpy()).view(onnx.helper.tensor_dtype_to_np_dtype(16)) if "bfloat16" in v.data_type() else v.numpy() for v in got]
    except Exception as error:  # of many types, none of them exported
        return error


def same(got, want):
    """Equal to the last bit (NaN equals NaN)."""
    if got.shape != want.shape or dtype_number(got) != dtype_number(want):
        return False
    return pack(got) == pack(want) or (dtype_number(got) != STRING and np.array_equal(
        got.astype(np.float64), want.astype(np.float64), equal_nan=True))


def close(got, want):
    """As ONNX's own runner compares: its default tolerances."""
    if got.shape != want.shape or dtype_number(got) != dtype_number(want):
        return False
    if want.dtype == bool or dtype_number(want) == STRING:
        return pack(got) == pack(want)
    return np.allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-3,
                       atol=1e-3 if want.dtype.itemsize <= 2 else 1e-5, equal_nan=True)


def right(got, want):
    return not isinstance(got, Exception) and len(got) == len(want) and all(close(g, w) for g, w in zip(got, want))


class EngineError(Exception):
    pass


def tool_lines(jobs, where):
    lines = []
    for i, job in enumerate(jobs):
        words = [str(job[0]), str(where / str(i))]
        for k, array in enumerate(job[1]):
            number, shape, data = array if isinstance(array, tuple) else (0, (), b"") if array is None else \
                (dtype_number(array), array.shape, pack(array))
            path = where / f"{i}-in-{k}.bin"
            path.write_bytes(data)
            words.append("-" if array is None else f"{number}:{','.join(map(str, shape))}:{path}")
        lines.append(" ".join(words + list(job[2:])))
    return "\n".join(lines) + "\n"


def engine_answers(jobs, where, engine="onnxruntime", env=None):
    """Runs (model, inputs[, further words]) through the engine ABI; a list of outputs or an EngineError for each. An input
    that is None is absent, one that is (number, shape, bytes) goes as it is; an output that was not wanted is None."""
    done = subprocess.run([TOOL, engine], input=tool_lines(jobs, where), capture_output=True, text=True, timeout=300,
                          env={**os.environ, **(env or {})})
    answers = done.stdout.splitlines()
    assert done.returncode == 0 and len(answers) == len(jobs), (done.returncode, len(answers), done.stderr)
    return [read_answer(line, where / str(i)) for i, line in enumerate(answers)]


def read_answer(line, prefix):
    words = line.split()
    if words[0] != "ok":
        return EngineError(line)
    outputs = []
    for k, word in enumerate(words[1:]):
        number, _, dims = word.partition(":")
        shape = tuple(int(d) for d in dims.split(",")) if dims else ()
        outputs.append(None if word == "-" else unpack(open(f"{prefix}-{k}.bin", "rb").read(), int(number), shape))
    return outputs
