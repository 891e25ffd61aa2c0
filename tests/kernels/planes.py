# SPDX-License-Identifier: Apache-2.0
"""plane.h through ctypes, for test_plane.py and bench/video/planes.py: numpy arrays in, numpy arrays out."""
import ctypes
import os
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
LIBRARY = BUILD / "tests/kernels/libspillway_kernels_test.so"
LEVELS = ["scalar", "avx2", "avx512"]
ERODE, DILATE, OPEN, CLOSE, GRADIENT, TOPHAT, BLACKHAT = range(7)
RECT, CROSS, ELLIPSE = range(3)


def library_for_tests():
    """Where the library is; skips the test that asks when Python cannot load it."""
    import pytest

    if not LIBRARY.exists():
        pytest.skip(f"{LIBRARY} is not built")
    if any(mark in LIBRARY.read_bytes() for mark in (b"__asan_init", b"__tsan_init")):
        pytest.skip("a sanitizer's library cannot be loaded into Python; test_kernels runs instrumented")
    return LIBRARY


class Plane(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("w", ctypes.c_int32), ("h", ctypes.c_int32), ("stride", ctypes.c_uint64)]


class Region(ctypes.Structure):
    _fields_ = [("x0", ctypes.c_int32), ("y0", ctypes.c_int32), ("x1", ctypes.c_int32), ("y1", ctypes.c_int32),
                ("area", ctypes.c_uint32), ("sum_x", ctypes.c_uint64), ("sum_y", ctypes.c_uint64),
                ("weight", ctypes.c_uint64)]


class PlaneMeasure(ctypes.Structure):
    _fields_ = [("histogram", ctypes.c_uint32 * 256), ("sum", ctypes.c_uint64), ("sum_squares", ctypes.c_uint64),
                ("laplace_sum", ctypes.c_int64), ("laplace_squares", ctypes.c_uint64)]


class FlowMeasure(ctypes.Structure):
    _fields_ = [("sum_dx", ctypes.c_int64), ("sum_dy", ctypes.c_int64), ("sum_magnitude", ctypes.c_int64),
                ("sum_squares", ctypes.c_int64), ("max_magnitude", ctypes.c_uint32), ("moving", ctypes.c_uint32),
                ("direction", ctypes.c_int64 * 8)]


def plane(array):
    """An array of rows (any row stride) as a plane. The array has to outlive it."""
    assert array.dtype == np.uint8 and array.strides[1] == 1
    return Plane(array.ctypes.data, array.shape[1], array.shape[0], array.strides[0])


class Planes:
    def __init__(self, path=LIBRARY):
        self.lib = ctypes.CDLL(str(path))
        self.lib.kp_scratch_new.restype = ctypes.c_void_p
        self.lib.kp_difference.restype = self.lib.kp_nonzero.restype = ctypes.c_uint64
        self.lib.kt_level.restype = ctypes.c_char_p
        self.scratch = None
        self.size = (0, 0)

    def force(self, level):
        return bool(self.lib.kt_force(LEVELS.index(level)))

    def room(self, picture, exact=True):
        """A scratch for this picture's size and no more."""
        h, w = picture.shape
        if self.size != (w, h):
            if self.scratch:
                self.lib.kp_scratch_free(ctypes.c_void_p(self.scratch))
            self.scratch = self.lib.kp_scratch_new(w, h)
            assert self.scratch
            self.size = (w, h)
        return ctypes.c_void_p(self.scratch)

    def like(self, picture):
        """An uninitialised result with guard columns behind each row; `bare` checks and removes them."""
        return np.full((picture.shape[0], picture.shape[1] + 16), 0xA5, np.uint8)[:, :picture.shape[1]]

    @staticmethod
    def bare(out):
        assert (out.base[:, out.shape[1]:] == 0xA5).all(), "wrote beyond its row"
        return out

    def gaussian(self, picture, ksize, sigma):
        out = self.like(picture)
        self.lib.kp_gaussian(ctypes.byref(plane(out)), ctypes.byref(plane(picture)), ksize, ctypes.c_double(sigma),
                             self.room(picture))
        return self.bare(out)

    def box(self, picture, ksize):
        out = self.like(picture)
        self.lib.kp_box(ctypes.byref(plane(out)), ctypes.byref(plane(picture)), ksize, self.room(picture))
        return self.bare(out)

    def sobel(self, picture, aperture, reflect):
        dx, dy = np.empty(picture.shape, np.int16), np.empty(picture.shape, np.int16)
        self.lib.kp_sobel(ctypes.c_void_p(dx.ctypes.data), ctypes.c_void_p(dy.ctypes.data), ctypes.byref(plane(picture)),
                          aperture, int(reflect), self.room(picture))
        return dx, dy

    def canny(self, picture, low, high, aperture=3, l2=False):
        out = self.like(picture)
        self.lib.kp_canny(ctypes.byref(plane(out)), ctypes.byref(plane(picture)), ctypes.c_double(low),
                          ctypes.c_double(high), aperture, int(l2), self.room(picture))
        return self.bare(out)

    def morph(self, picture, op, shape, kw, kh, iterations=1, in_place=False):
        out = self.like(picture)
        if in_place:
            out[:] = picture
        self.lib.kp_morph(ctypes.byref(plane(out)), ctypes.byref(plane(out if in_place else picture)), op, shape, kw, kh,
                          iterations, self.room(picture))
        return self.bare(out)

    def regions(self, mask, weights=None, min_area=0, capacity=1 << 16):
        found = (Region * max(capacity, 1))()
        total = self.lib.kp_regions(ctypes.byref(plane(mask)), None if weights is None else ctypes.byref(plane(weights)),
                                    ctypes.c_uint32(min_area), found, capacity, self.room(mask))
        return total, [found[i] for i in range(min(total, capacity))]

    def measure(self, picture):
        m = PlaneMeasure()
        self.lib.kp_measure(ctypes.byref(plane(picture)), ctypes.byref(m))
        return m

    def flow(self, dx, dy, threshold, mask=None):
        m = FlowMeasure()
        self.lib.kp_flow(ctypes.c_void_p(dx.ctypes.data), ctypes.c_void_p(dy.ctypes.data),
                         ctypes.c_size_t(dx.strides[0] // 4), dx.shape[1], dx.shape[0], ctypes.c_uint32(threshold),
                         None if mask is None else ctypes.byref(plane(mask)), ctypes.byref(m))
        return m
