# SPDX-License-Identifier: Apache-2.0
"""The kernels against the programs whose pixels they promise: Pillow's antialiased resize, OpenCV's INTER_LINEAR_EXACT,
and Pillow (or OpenCV) + numpy for the whole tensor. To the bit, at every level that this CPU has."""
import ctypes
import os
import pathlib
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="opencv is not installed (tools/setup)")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (tools/setup)")
import PIL

import planes

ROOT = pathlib.Path(__file__).resolve().parents[2]
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT / "../shared/assets"))
SEED = int(os.environ.get("SPILLWAY_TEST_SEED", random.randrange(1 << 31)))

BILINEAR, BICUBIC, PLAIN, ACROSS_FIRST = 0, 1, 2, 0x80
SHORT_SIDE, STRETCH, LETTERBOX, CORNER, BGR = 0, 1, 2, 3, 0x80
F32, F16 = 1, 10
LEVELS = ["scalar", "avx2", "avx512"]


def pillow_filter(kind):
    return {BILINEAR: Image.Resampling.BILINEAR, BICUBIC: Image.Resampling.BICUBIC}[kind]


class Kernels:
    def __init__(self, path):
        self.lib = ctypes.CDLL(str(path))
        self.lib.kt_scratch_new.restype = ctypes.c_void_p
        self.lib.kt_level.restype = ctypes.c_char_p
        self.scratch = ctypes.c_void_p(self.lib.kt_scratch_new())

    def force(self, level):
        return bool(self.lib.kt_force(LEVELS.index(level)))

    @staticmethod
    def at(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    def resize(self, kind, picture, w, h):
        out = np.empty((h, w, 3), np.uint8)
        status = self.lib.kt_resize(kind, self.at(picture), picture.shape[1], picture.shape[0],
                                    ctypes.c_size_t(picture.strides[0]), self.at(out), w, h, self.scratch)
        assert status == 0
        return out

    def tensor(self, spec, picture):
        message = ctypes.create_string_buffer(256)
        out = np.empty((3, spec["crop_h"], spec["crop_w"]), np.float16 if spec["dtype"] == F16 else np.float32)
        packed = struct.pack("<4B4H7f", spec["filter"], spec["fit"], spec["dtype"], spec.get("pad", 0), spec["resize_w"],
                             spec.get("resize_h", 0), spec["crop_w"], spec["crop_h"], spec["divisor"], *spec["mean"],
                             *spec["std"])
        assert len(packed) == self.lib.kt_spec_size()
        status = self.lib.kt_prep(packed, self.at(picture), picture.shape[1], picture.shape[0],
                                  ctypes.c_size_t(picture.strides[0]), self.at(out), self.scratch, message,
                                  ctypes.c_size_t(256))
        assert status == 0, message.value
        return out


@pytest.fixture(scope="module")
def library():
    return Kernels(planes.library_for_tests())


@pytest.fixture(params=LEVELS)
def kernels(library, request):
    if not library.force(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    return library


def resize_reference(kind, picture, w, h):
    if kind == PLAIN:
        return cv2.resize(picture, (w, h), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(Image.fromarray(picture).resize((w, h), pillow_filter(kind)))


def tensor_reference(spec, picture):
    """What a Python user writes: resize, pad, crop, then numpy in float32."""
    h, w, _ = picture.shape
    rw, rh = spec["resize_w"], spec.get("resize_h", 0)
    fit = spec["fit"] & ~BGR
    half = 0 if fit == CORNER else 1
    if fit == SHORT_SIDE:
        size = (rw, int(rw * h / w)) if w <= h else (int(rw * w / h), rw)
    elif fit == STRETCH:
        size = (rw, rh)
    elif w * rh >= h * rw:
        size = (rw, max(1, (2 * h * rw + half * w) // (2 * w)))
    else:
        size = (max(1, (2 * w * rh + half * h) // (2 * h)), rh)
    scaled = resize_reference(spec["filter"], picture, *size)
    if fit in (LETTERBOX, CORNER):
        canvas = np.full((rh, rw, 3), spec["pad"], np.uint8)
        top, left = ((rh - size[1]) // 2, (rw - size[0]) // 2) if fit == LETTERBOX else (0, 0)
        canvas[top:top + size[1], left:left + size[0]] = scaled
        scaled = canvas
    top = int(round((scaled.shape[0] - spec["crop_h"]) / 2.0))
    left = int(round((scaled.shape[1] - spec["crop_w"]) / 2.0))
    crop = scaled[top:top + spec["crop_h"], left:left + spec["crop_w"]]
    x = crop.astype(np.float32) / np.float32(spec["divisor"])
    x = (x - np.array(spec["mean"], np.float32)) / np.array(spec["std"], np.float32)
    x = x[..., ::-1] if spec["fit"] & BGR else x
    return np.ascontiguousarray(x.transpose(2, 0, 1)).astype(np.float16 if spec["dtype"] == F16 else np.float32)


def imagenet(kind=BILINEAR, dtype=F32, **changes):
    return {"filter": kind, "fit": SHORT_SIDE, "dtype": dtype, "resize_w": 256, "crop_w": 224, "crop_h": 224,
            "divisor": 255.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), **changes}


SPECS = {
    "imagenet bilinear": imagenet(BILINEAR),
    "imagenet bicubic": imagenet(BICUBIC),
    "imagenet plain": imagenet(PLAIN),
    "imagenet bilinear f16": imagenet(BILINEAR, F16),
    "efficientnet-lite0": imagenet(BICUBIC, divisor=1.0, mean=(127.0,) * 3, std=(128.0,) * 3),
    "stretch bicubic": imagenet(BICUBIC, fit=STRETCH, resize_w=224, resize_h=224),
    "stretch plain f16": imagenet(PLAIN, F16, fit=STRETCH, resize_w=224, resize_h=224),
    "letterbox plain": imagenet(PLAIN, fit=LETTERBOX, resize_w=416, resize_h=416, crop_w=416, crop_h=416, pad=114,
                                divisor=1.0, mean=(0.0,) * 3, std=(1.0,) * 3),
    "corner plain bgr": imagenet(PLAIN, fit=CORNER | BGR, resize_w=416, resize_h=300, crop_w=416, crop_h=300, pad=114),
    "stretch bilinear bgr f16": imagenet(BILINEAR, F16, fit=STRETCH | BGR, resize_w=97, resize_h=65, crop_w=97, crop_h=65),
    "letterbox bicubic cropped": imagenet(BICUBIC, fit=LETTERBOX, resize_w=301, resize_h=200, crop_w=290, crop_h=111,
                                          pad=7),
}


def random_picture(rng, w, h):
    picture = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    if rng.integers(3) == 0:  # extremes overshoot most
        picture = np.where(picture > 127, 255, 0).astype(np.uint8)
    return picture


def sizes(rng, count):
    fixed = [(1, 1, 1, 1), (1, 1, 9, 7), (2, 2, 1, 1), (7, 5, 7, 5), (7, 5, 7, 9), (7, 5, 3, 5), (1280, 720, 224, 224),
             (720, 1280, 224, 224), (640, 480, 640, 224), (33, 900, 32, 20), (900, 33, 20, 32), (5, 4000, 3, 3),
             (4000, 5, 3, 3), (3000, 2000, 224, 224), (100, 100, 99, 101), (224, 224, 224, 224), (64, 64, 512, 512)]
    yield from fixed
    for _ in range(count):
        most = int(rng.choice([6, 40, 300, 900]))
        yield tuple(int(v) for v in rng.integers(1, most + 1, 4))


@pytest.mark.parametrize("kind", [BILINEAR, BICUBIC, PLAIN], ids=["bilinear", "bicubic", "plain"])
def test_resize_equals_its_reference(kernels, kind):
    rng = np.random.default_rng(SEED)
    if kind != PLAIN and int(PIL.__version__.split(".")[0]) < 13:
        kind_asked = kind | ACROSS_FIRST
    else:
        kind_asked = kind
    for w, h, out_w, out_h in sizes(rng, 150):
        picture = random_picture(rng, w, h)
        got, expected = kernels.resize(kind_asked, picture, out_w, out_h), resize_reference(kind, picture, out_w, out_h)
        assert np.array_equal(got, expected), f"seed {SEED}: {w}x{h} -> {out_w}x{out_h}: {np.sum(got != expected)} differ"


def test_across_first_is_two_passes_in_that_order(kernels):
    """Pillow up to 12: the horizontal pass first whatever the shape."""
    rng = np.random.default_rng(SEED)
    for w, h, out_w, out_h in sizes(rng, 60):
        picture = random_picture(rng, w, h)
        for kind in (BILINEAR, BICUBIC):
            first = resize_reference(kind, picture, out_w, h)
            expected = resize_reference(kind, first, out_w, out_h)
            assert np.array_equal(kernels.resize(kind | ACROSS_FIRST, picture, out_w, out_h), expected), f"seed {SEED}"


@pytest.mark.parametrize("name", SPECS)
def test_tensor_equals_pillow_and_numpy_on_random_pictures(kernels, name):
    if int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow below 13 orders its passes differently")
    rng = np.random.default_rng(SEED)
    for _ in range(12):
        most = int(rng.choice([30, 400, 1400]))
        w, h = (int(v) for v in rng.integers(1, most, 2))
        picture = random_picture(rng, w, h)
        got, expected = kernels.tensor(SPECS[name], picture), tensor_reference(SPECS[name], picture)
        assert np.array_equal(got.view(np.uint8), expected.view(np.uint8)), f"seed {SEED}: {w}x{h}"


def asset_pictures():
    found = sorted((ASSETS / "media/images").glob("*")) + sorted((ASSETS / "media/ocr").glob("*.[jpt][pni][gf]"))
    return [path for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".tif")]


def test_tensor_equals_the_reference_on_every_asset(kernels):
    if not asset_pictures():
        pytest.skip(f"no pictures under {ASSETS} (SPILLWAY_ASSETS)")
    if int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow below 13 orders its passes differently")
    for path in asset_pictures():
        picture = np.ascontiguousarray(np.asarray(Image.open(path).convert("RGB")))
        for name, spec in SPECS.items():
            got, expected = kernels.tensor(spec, picture), tensor_reference(spec, picture)
            assert np.array_equal(got.view(np.uint8), expected.view(np.uint8)), f"{path.name}, {name}"


def test_softmax_and_topk_equal_numpy(kernels):
    rng = np.random.default_rng(SEED)
    for n in (1, 2, 31, 32, 33, 1000):
        x = (rng.standard_normal(n) * 8).astype(np.float32)
        y, index, value = np.empty_like(x), np.empty(min(5, n), np.int32), np.empty(min(5, n), np.float32)
        kernels.lib.kt_softmax(kernels.at(y), kernels.at(x), n)
        e = np.exp((x - x.max()).astype(np.float64))
        assert np.allclose(y, e / e.sum(), rtol=1e-6, atol=0)
        kernels.lib.kt_topk(kernels.at(index), kernels.at(value), kernels.at(x), n, len(index))
        assert list(index) == list(np.argsort(-x, kind="stable")[:len(index)])
        assert np.array_equal(value, x[index])


def test_suppression_keeps_what_opencv_keeps(kernels):
    """Scores in f32 on both sides; OpenCV divides in double, so a ratio within 1e-7 of the threshold could differ: the
    seeds are fixed."""
    kernels.lib.kt_nms_new.restype = ctypes.c_void_p
    for seed, n in enumerate((1, 2, 17, 300, 1999)):
        rng = np.random.default_rng(seed)
        corner = rng.uniform(0, 300, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(1, 90, (n, 2))], 1).astype(np.float32)
        score = np.round(rng.uniform(0, 1, n), 2).astype(np.float32)  # ties
        wh = np.concatenate([boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64) - boxes[:, :2]], 1)
        scratch, kept = ctypes.c_void_p(kernels.lib.kt_nms_new(n)), np.zeros(n, np.int32)
        for threshold, iou in ((0.0, 0.45), (0.25, 0.6), (0.9, 0.1)):
            count = kernels.lib.kt_nms(scratch, kernels.at(boxes), kernels.at(score), None, n, ctypes.c_float(threshold),
                                       ctypes.c_float(iou), kernels.at(kept))
            expected = cv2.dnn.NMSBoxes(wh, score, threshold, iou)
            assert kept[:count].tolist() == np.array(expected, np.int32).reshape(-1).tolist()
        kernels.lib.kt_nms_free(scratch)


@pytest.mark.parametrize("level", LEVELS)
def test_environment_masks_levels(library, level):
    if not library.force(level):
        pytest.skip(f"this CPU has no {level}")
    code = f"import ctypes; l = ctypes.CDLL({str(planes.LIBRARY)!r}); l.kt_level.restype = ctypes.c_char_p; print(l.kt_level().decode())"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "SPILLWAY_CPU": level}, capture_output=True,
                          text=True, timeout=60, check=True)
    assert done.stdout.strip().split("+")[0] == level
