# SPDX-License-Identifier: Apache-2.0
"""Operations on grey planes against OpenCV 5 (numpy where it has none), to the byte, at every level of this CPU.
SPILLWAY_FULL=1 compares 10,000 pictures with Canny and 10,000 with morphology instead of a few hundred."""
import ctypes
import os
import pathlib
import random
import sys

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="opencv is not installed (tools/setup)")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import planes

ROOT = planes.ROOT
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT / "../shared/assets"))
SEED = int(os.environ.get("SPILLWAY_TEST_SEED", random.randrange(1 << 31)))
PICTURES = 10000 if os.environ.get("SPILLWAY_FULL") == "1" else 60 if os.environ.get("SPILLWAY_SANITIZER") else 300
OPS = [cv2.MORPH_ERODE, cv2.MORPH_DILATE, cv2.MORPH_OPEN, cv2.MORPH_CLOSE, cv2.MORPH_GRADIENT, cv2.MORPH_TOPHAT,
       cv2.MORPH_BLACKHAT]
SHAPES = [cv2.MORPH_RECT, cv2.MORPH_CROSS, cv2.MORPH_ELLIPSE]


@pytest.fixture(scope="module", params=planes.LEVELS)
def kernels(request):
    k = planes.Planes(planes.library_for_tests())
    if not k.force(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield k
    k.force("scalar")


def frames():
    """A few real frames, grey."""
    found = []
    for path in sorted((ASSETS / "media/video").glob("*.mp4")):
        video = cv2.VideoCapture(str(path))
        for _ in range(3):
            for _ in range(20):
                ok, frame = video.read()
            if ok:
                found.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    return found


FRAMES = frames()


def side(rng):
    return int(rng.integers(1, [4, 20, 70, 200][rng.integers(0, 4)] + 1))


def picture(rng, w=None, h=None):
    """A picture of any size and kind: noise, plateaus, lines, blurred noise, a piece of a real frame; any row stride."""
    w, h = w or side(rng), h or side(rng)
    kind = rng.integers(0, 7)
    if kind == 0:
        made = rng.integers(0, 256, (h, w), np.uint8)
    elif kind == 1:
        made = rng.integers(120, 124, (h, w)).astype(np.uint8)
    elif kind == 2:
        made = ((rng.random((h, w)) < 0.1) * 255).astype(np.uint8)
    elif kind == 3:
        made = np.kron(rng.integers(0, 256, (h // 8 + 1, w // 8 + 1)), np.ones((8, 8)))[:h, :w].astype(np.uint8)
    elif kind == 4 or not FRAMES:
        made = np.ascontiguousarray(cv2.GaussianBlur(rng.integers(0, 256, (h, w), np.uint8), (0, 0), 1.5))
    else:
        frame = FRAMES[rng.integers(0, len(FRAMES))]
        y, x = rng.integers(0, max(frame.shape[0] - h, 0) + 1), rng.integers(0, max(frame.shape[1] - w, 0) + 1)
        made = frame[y:y + h, x:x + w]
    out = np.empty((made.shape[0], made.shape[1] + int(rng.integers(0, 3))), np.uint8)[:, :made.shape[1]]
    out[:] = made
    return out


def same(got, expected, what):
    if got.shape == expected.shape and (got == expected).all():
        return
    y, x = np.argwhere(got != expected)[0]
    raise AssertionError(f"SPILLWAY_TEST_SEED={SEED}: {what} of {got.shape[1]} x {got.shape[0]}: {np.count_nonzero(got != expected)} "
                         f"pixels differ, the first at x {x}, y {y}: {got[y, x]}, OpenCV has {expected[y, x]}")


def test_canny_equals_opencv(kernels):
    rng = np.random.default_rng(SEED)
    for i in range(PICTURES):
        p = picture(rng)
        low, high = [(15, 60), (50, 100), (0, 0), (5, 400)][rng.integers(0, 4)] if i % 3 else rng.uniform(-5, 700, 2)
        if i % 4:
            aperture, l2 = 3, False
        else:
            aperture, l2 = int(rng.choice([3, 5, 7])), bool(rng.integers(0, 2))
            scale = {3: 1, 5: 8, 7: 60}[aperture]
            low, high = low * scale, high * scale
        same(kernels.canny(p, low, high, aperture, l2), cv2.Canny(p, low, high, apertureSize=aperture, L2gradient=l2),
             f"canny({low}, {high}, {aperture}, l2 {l2})")


def test_canny_of_whole_frames(kernels):
    if not FRAMES:
        pytest.skip("SPILLWAY_ASSETS has no media/video")
    for frame in FRAMES:
        for size in (1, 2):
            p = frame if size == 1 else cv2.resize(frame, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC)
            same(kernels.canny(p, 15, 60), cv2.Canny(p, 15, 60), "canny(15, 60)")


def maze(w, h, turn):
    """One long strip that winds through the picture, strong in one corner only: what hysteresis has to walk."""
    p = np.full((h, w), 100, np.float32)
    for i, y in enumerate(range(4, h - 10, 12)):
        p[y:y + 6, 6:w - 6] = 112
        x = w - 12 if (i + turn) % 2 else 6
        p[y:min(y + 18, h - 6), x:x + 6] = 112
    p[4:10, 6:40] += np.linspace(60, 0, 34)[:w - 6]
    return cv2.GaussianBlur(p, (5, 5), 1.1).clip(0, 255).astype(np.uint8)


def test_canny_walks_mazes(kernels):
    rng = np.random.default_rng(SEED)
    walked = 0
    for i in range(12):
        p = maze(int(rng.integers(60, 400)), int(rng.integers(60, 400)), i % 2)
        for q in (p, p.T, p[::-1], p[:, ::-1]):
            q = np.ascontiguousarray(q)
            edges = cv2.Canny(q, 15, 120)
            walked += (edges == cv2.Canny(q, 15, 15)).all()
            same(kernels.canny(q, 15, 120), edges, "canny of a maze")
    assert walked > 4  # of these the whole strip hangs together


def test_morphology_equals_opencv(kernels):
    rng = np.random.default_rng(SEED + 1)
    for i in range(PICTURES):
        p = picture(rng)
        op, shape = int(rng.integers(0, 7)), int(rng.integers(0, 3))
        most = [4, 9, 63][rng.integers(0, 3)]
        kw, kh = int(rng.integers(1, most + 1)), int(rng.integers(1, most + 1))
        iterations = 1 if rng.integers(0, 2) else int(rng.integers(1, 5 if i % 50 else 33))
        expected = cv2.morphologyEx(p, OPS[op], cv2.getStructuringElement(SHAPES[shape], (kw, kh)), iterations=iterations)
        same(kernels.morph(p, op, shape, kw, kh, iterations, in_place=bool(rng.integers(0, 2))), expected,
             f"op {op}, shape {shape}, {kw} x {kh}, {iterations} times")


@pytest.mark.parametrize("w, h", [(16384, 2), (2, 16384), (1, 3000), (3000, 1)])
def test_long_and_thin(kernels, w, h):
    rng = np.random.default_rng(SEED + 9)
    p = rng.integers(100, 200, (h, w)).astype(np.uint8)
    same(kernels.canny(p, 15, 60), cv2.Canny(p, 15, 60), "canny")
    for op, shape, kw, kh in ((planes.CLOSE, 0, 5, 5), (planes.OPEN, 0, 63, 63), (planes.TOPHAT, 2, 9, 9), (planes.GRADIENT, 1, 3, 3)):
        expected = cv2.morphologyEx(p, OPS[op], cv2.getStructuringElement(SHAPES[shape], (kw, kh)))
        same(kernels.morph(p, op, shape, kw, kh), expected, f"op {op}")
    same(kernels.gaussian(p, 31, 5), cv2.GaussianBlur(p, (31, 31), 5), "gaussian")
    same(kernels.box(p, 99), cv2.blur(p, (99, 99), borderType=cv2.BORDER_REFLECT_101), "box")


def test_structuring_elements_of_all_sizes(kernels):
    """One bright pixel, dilated, is the element mirrored."""
    p = np.zeros((129, 131), np.uint8)
    p[64, 65] = 200
    for shape in range(3):
        for kw, kh in [(k, k) for k in range(1, 64)] + [(k, 64 - k) for k in range(1, 64)]:
            element = cv2.getStructuringElement(SHAPES[shape], (kw, kh))
            same(kernels.morph(p, planes.DILATE, shape, kw, kh), cv2.dilate(p, element), f"element {shape}, {kw} x {kh}")


def test_gaussian_equals_opencv(kernels):
    rng = np.random.default_rng(SEED + 2)
    for i in range(PICTURES):
        p = picture(rng)
        ksize, sigma = 2 * int(rng.integers(0, 16)) + 1, 0 if i % 3 == 0 else float(rng.uniform(0.05, 12))
        same(kernels.gaussian(p, ksize, sigma), cv2.GaussianBlur(p, (ksize, ksize), sigma), f"gaussian {ksize}, {sigma}")


def test_box_equals_opencv(kernels):
    rng = np.random.default_rng(SEED + 3)
    for _ in range(PICTURES):
        p = picture(rng)
        ksize = int(rng.integers(1, [8, 18, 64, 256][rng.integers(0, 4)]))
        same(kernels.box(p, ksize), cv2.blur(p, (ksize, ksize), borderType=cv2.BORDER_REFLECT_101), f"box {ksize}")


def test_sobel_equals_opencv(kernels):
    rng = np.random.default_rng(SEED + 4)
    for i in range(PICTURES):
        p = picture(rng)
        aperture, reflect = int(rng.choice([3, 5, 7])) if i % 2 else 3, bool(rng.integers(0, 2))
        border = cv2.BORDER_REFLECT_101 if reflect else cv2.BORDER_REPLICATE
        dx, dy = kernels.sobel(p, aperture, reflect)
        same(dx, cv2.Sobel(p, cv2.CV_16S, 1, 0, ksize=aperture, borderType=border), f"dx, aperture {aperture}, reflect {reflect}")
        same(dy, cv2.Sobel(p, cv2.CV_16S, 0, 1, ksize=aperture, borderType=border), f"dy, aperture {aperture}, reflect {reflect}")


def test_regions_equal_opencv(kernels):
    rng = np.random.default_rng(SEED + 5)
    for i in range(PICTURES):
        p = picture(rng)
        density = rng.uniform(0, 1)
        mask = ((rng.random(p.shape) < density) * rng.integers(1, 256)).astype(np.uint8) if i % 2 else cv2.threshold(
            p, int(rng.integers(0, 256)), 255, cv2.THRESH_BINARY)[1]
        count, labels, stats, centroids = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask), connectivity=8)
        least = int(rng.integers(0, 6))
        expected = []
        ys, xs = np.nonzero(labels)
        first = {}
        for y, x in zip(ys.tolist(), xs.tolist()):
            first.setdefault(int(labels[y, x]), x)
        for n in range(1, count):
            x, y, w, h, area = (int(v) for v in stats[n])
            if area >= least:
                sums = [round(c * area) for c in centroids[n]]
                weight = int(p[labels == n].sum()) if count < 200 else None
                expected.append((-area, y, x, first[n], w, h, *sums, weight))
        expected.sort(key=lambda e: e[:4])
        for capacity in (1 << 14, int(rng.integers(0, 9))):
            total, found = kernels.regions(mask, p, least, capacity)
            assert total == len(expected), f"SPILLWAY_TEST_SEED={SEED}, picture {i}"
            assert len(found) == min(total, capacity)
            for r, e in zip(found, expected):
                got = (-r.area, r.y0, r.x0, e[3], r.x1 - r.x0, r.y1 - r.y0, r.sum_x, r.sum_y, r.weight if e[8] is not None else None)
                assert got == e, f"SPILLWAY_TEST_SEED={SEED}, picture {i}"
            if total > len(found) == capacity > 0:
                assert all(-f[0] <= found[-1].area for f in expected[capacity:])


def test_measures(kernels):
    rng = np.random.default_rng(SEED + 6)
    for _ in range(PICTURES // 2):
        p = picture(rng)
        m, wide = kernels.measure(p), p.astype(np.int64)
        laplace = cv2.Laplacian(p, cv2.CV_16S, ksize=1, borderType=cv2.BORDER_REFLECT_101).astype(np.int64)
        assert list(m.histogram) == np.bincount(p.ravel(), minlength=256).tolist()
        assert (m.sum, m.sum_squares) == (wide.sum(), (wide * wide).sum())
        assert (m.laplace_sum, m.laplace_squares) == (laplace.sum(), (laplace * laplace).sum())
        q = picture(rng, p.shape[1], p.shape[0])
        if q.shape == p.shape:
            a, b = planes.plane(p), planes.plane(q)
            assert kernels.lib.kp_difference(ctypes.byref(a), ctypes.byref(b)) == int(np.abs(wide - q).sum())
            for call, expected in ((kernels.lib.kp_or, p | q), (kernels.lib.kp_and, p & q)):
                out = kernels.like(p)
                call(ctypes.byref(planes.plane(out)), ctypes.byref(a), ctypes.byref(b))
                same(kernels.bare(out), expected, "or, and")
        assert kernels.lib.kp_nonzero(ctypes.byref(planes.plane(p))) == np.count_nonzero(p)
        t, out = int(rng.integers(0, 256)), kernels.like(p)
        kernels.lib.kp_threshold(ctypes.byref(planes.plane(out)), ctypes.byref(planes.plane(p)), t)
        same(kernels.bare(out), ((p > t) * 255).astype(np.uint8), f"threshold {t}")


def test_grey(kernels):
    y = np.arange(256, dtype=np.uint8)
    out = np.empty(256, np.uint8)
    at = lambda a: ctypes.c_void_p(a.ctypes.data)
    kernels.lib.kp_grey_y8(at(out), at(y), 256, 1)
    exact = np.clip(np.floor((y.astype(np.float64) - 16) * 255 / 219 + 0.5), 0, 255)
    assert (out == exact).all() and out[16] == 0 and out[235] == 255
    kernels.lib.kp_grey_y8(at(out), at(y), 256, 0)
    assert (out == y).all()
    for bits in range(9, 17):
        deep = np.arange(1 << bits, dtype=np.uint16)
        got = np.empty(deep.size, np.uint8)
        kernels.lib.kp_grey_y16(at(got), at(deep), deep.size, bits, 0)
        assert (got == np.minimum((deep.astype(np.int64) + (1 << (bits - 9))) >> (bits - 8), 255)).all()
        kernels.lib.kp_grey_y16(at(got), at(deep), deep.size, bits, 1)
        assert (got == exact[np.minimum((deep.astype(np.int64) + (1 << (bits - 9))) >> (bits - 8), 255)]).all()
    rng = np.random.default_rng(SEED + 7)
    for step in (3, 4):
        rgb = rng.integers(0, 256, (17, 301, step), np.uint8)
        got = np.empty((17, 301), np.uint8)
        kernels.lib.kp_grey_rgb8(at(got), at(rgb), got.size, step, 0, 1, 2)
        same(got, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY if step == 3 else cv2.COLOR_RGBA2GRAY), "grey of RGB")


def flow_in_numpy(dx, dy, threshold):
    """What plane.h says, in other words."""
    def whole(v):
        with np.errstate(all="ignore"):
            r = np.rint(v * np.float32(1024)).astype(np.float64)
        return np.clip(np.nan_to_num(r, nan=0.0, posinf=2.0 ** 24, neginf=-2.0 ** 24), -2.0 ** 24, 2.0 ** 24).astype(np.int64)
    with np.errstate(all="ignore"):
        m = whole(np.sqrt(dx * dx + dy * dy))
    moving = m > threshold
    octant = np.zeros(dx.shape, int)
    upper = (dy > 0) | ((dy == 0) & (dx > 0))
    x, y = np.where(upper, dx, -dx), np.where(upper, dy, -dy)
    octant = np.where(x > 0, np.where(y < x, 0, 1), np.where(-x < y, 2, 3)) + np.where(upper, 0, 4)
    return (whole(dx).sum(), whole(dy).sum(), m.sum(), ((m >> 4) ** 2).sum(), m.max(), moving.sum(),
            [m[moving & (octant == k)].sum() for k in range(8)]), moving


def test_flow_measure(kernels):
    rng = np.random.default_rng(SEED + 8)
    odd = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0, -0.0, 16384, -20000, 1e-40], np.float32)
    for i in range(60):
        w, h = side(rng), side(rng)
        dx, dy = (rng.normal(0, 3, (h, w + 3)).astype(np.float32)[:, :w] for _ in range(2))
        if i % 3 == 0:
            for v in (dx, dy):
                v[rng.random(v.shape) < 0.2] = rng.choice(odd)
        mask, threshold = kernels.like(dx), int(rng.integers(0, 5000))
        m = kernels.flow(dx, dy, threshold, mask)
        expected, moving = flow_in_numpy(dx, dy, threshold)
        got = (m.sum_dx, m.sum_dy, m.sum_magnitude, m.sum_squares, m.max_magnitude, m.moving, list(m.direction))
        assert got == expected, f"SPILLWAY_TEST_SEED={SEED}, field {i}"
        same(kernels.bare(mask), (moving * 255).astype(np.uint8), "mask of a flow")


def test_octants_begin_in_the_east(kernels):
    """The eight borders themselves: an octant holds its first one."""
    for k, (x, y) in enumerate([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]):
        m = kernels.flow(np.full((1, 1), x, np.float32), np.full((1, 1), y, np.float32), 0)
        assert [v > 0 for v in m.direction] == [n == k for n in range(8)]
