# SPDX-License-Identifier: Apache-2.0
"""ONNX's own conformance cases through the engine ABI. An operator that ONNX Runtime does not have is counted apart with
its message; a wrong shape or type is a failure, and so is a wrong number, unless Python's onnxruntime gives the very same
one: then it is the engine that departs from ONNX's stored answer, and those cases are listed."""
import os
import subprocess
import tarfile

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SPILLWAY_BUILD", os.path.join(ROOT, "build"))
ASSETS = os.path.abspath(os.environ.get("SPILLWAY_ASSETS", os.path.join(ROOT, "..", "shared", "assets")))
ARCHIVE = os.path.join(ASSETS, "models", "onnx_backend_tests.tar.gz")
TOOL = os.path.join(BUILD, "tests", "engine", "run_tool")
CROSSING = {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13}  # types that the ABI carries and numpy has
RANDOM = ("bernoulli", "random", "dropout_default_ratio", "training_dropout")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    if not os.path.exists(ARCHIVE):
        pytest.skip(f"SPILLWAY_ASSETS has no models/onnx_backend_tests.tar.gz ({ASSETS})")
    where = tmp_path_factory.mktemp("conformance")
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
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def engines_own_answer(case, inputs):
    session = onnxruntime.InferenceSession(f"{case}/model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {port.name: array for port, array in zip(session.get_inputs(), inputs)})


def engine_fails_too(case, inputs):
    try:
        engines_own_answer(case, inputs)
    except Exception:  # of many types, none of them exported
        return True
    return False


def close(got, want):
    if want.dtype == bool:
        return np.array_equal(got, want)
    return np.allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-3,
                       atol=1e-3 if want.dtype == np.float16 else 1e-5, equal_nan=True)


def test_operators(cases, tmp_path):
    run, skipped, departs = [], {}, []
    for i, case in enumerate(cases):
        name = os.path.basename(case)
        inputs, outputs = stored(case, "input"), stored(case, "output")
        if any(word in name for word in RANDOM):
            skipped[name] = "random by definition"
        elif not outputs or any(a is None for a in inputs + outputs):
            skipped[name] = "a type that does not cross the ABI"
        else:
            words = []
            for k, array in enumerate(inputs):
                path = tmp_path / f"{i}-in-{k}.bin"
                np.ascontiguousarray(array).tofile(path)
                words.append(f"{dtype_number(array)}:{','.join(map(str, array.shape))}:{path}")
            run.append((case, inputs, outputs, tmp_path / str(i), " ".join([f"{case}/model.onnx", str(tmp_path / str(i)), *words])))
    done = subprocess.run([TOOL], input="\n".join(r[4] for r in run) + "\n", capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(run), done.stderr
    wrong = []
    for (case, inputs, outputs, prefix, _), line in zip(run, lines):
        name, words = os.path.basename(case), line.split()
        if words[0] in ("unsupported", "corrupt"):  # an operator, type or opset that this ONNX Runtime has not
            skipped[name] = line
            continue
        if words[0] == "internal" and engine_fails_too(case, inputs):
            departs.append(f"{name}: fails")
            continue
        if words[0] != "ok" or len(words) != len(outputs) + 1:
            wrong.append(f"{name}: {line}")
            continue
        for k, (word, want) in enumerate(zip(words[1:], outputs)):
            number, dims = word.split(":")
            shape = tuple(int(d) for d in dims.split(",")) if dims else ()
            got = np.fromfile(f"{prefix}-{k}.bin", want.dtype)
            if int(number) != dtype_number(want) or shape != want.shape:
                wrong.append(f"{name}: output {k} is {word}, stored {want.dtype} {want.shape}")
            elif not close(got.reshape(shape), want):
                same = np.array_equal(got.reshape(shape), engines_own_answer(case, inputs)[k])
                (departs if same else wrong).append(f"{name}: output {k} differs")
    passed = len(run) - len(wrong) - len(departs) - sum(1 for r in run if os.path.basename(r[0]) in skipped)
    print(f"{passed} cases equal, {len(departs)} where ONNX Runtime departs: {', '.join(departs)}")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    assert not wrong, "\n".join(wrong)
    assert passed > len(cases) * 2 // 3 and len(departs) < len(cases) // 50
