# SPDX-License-Identifier: Apache-2.0
"""Every ONNX model of the assets, fp32, fp16 and int8, through the engine ABI: Python's onnxruntime's answers to the bit, on
the same number of threads and the same input."""
import glob
import os

import numpy as np
import onnxruntime
import pytest

import cases

# What free dimensions are set to, where 1 would be no sensible input. silero's `sr` is a value, not a shape.
FREE = {"ppocr_cls": (1, 3, 48, 192), "ppocr_det": (1, 3, 96, 160), "ppocr_rec": (2, 3, 32, 100), "pyannote": (1, 1, 8000),
        "silero_vad": (1, 512), "spelling": (2,), "tinyvad": (3,)}


def models():
    return sorted(glob.glob(os.path.join(cases.ASSETS, "models", "*.onnx")))


def inputs_of(path, seed=7):
    """Random arrays that the model takes, by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    random = np.random.default_rng(seed)
    free = next((v for k, v in FREE.items() if os.path.basename(path).startswith(k)), ())
    found = {}
    for port in onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).get_inputs():
        shape = [d if isinstance(d, int) else free[i] if i < len(free) and port.name != "state" else 1 for i, d in enumerate(port.shape)]
        if port.type == "tensor(int64)":
            found[port.name] = np.full(shape, 16000, np.int64)
        else:
            found[port.name] = random.random(shape).astype(np.float16 if port.type == "tensor(float16)" else np.float32)
    return found


def test_real_models_answer_as_onnxruntime_does(tmp_path):
    if not models():
        pytest.skip(f"SPILLWAY_ASSETS has no models ({cases.ASSETS})")
    jobs = [(path, list(inputs_of(path).values())) for path in models()]
    answers = cases.engine_answers(jobs, tmp_path)
    for (path, inputs), got in zip(jobs, answers):
        want = cases.own_answer(path, inputs)
        assert not isinstance(got, Exception) and not isinstance(want, Exception), (path, got, want)
        assert len(got) == len(want) and all(cases.same(g, w) for g, w in zip(got, want)), path
        assert all(np.isfinite(g.astype(np.float32)).all() for g in got), path
    assert len(jobs) >= 15
