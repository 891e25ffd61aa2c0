# SPDX-License-Identifier: Apache-2.0
"""Operations on grey planes beside OpenCV, in one run on one core: bench/video/planes.py [--seconds S] [--level L ...]
[--json FILE]. Frames are real (SPILLWAY_ASSETS), resized once to 360p, 720p and 1080p by cv2's INTER_CUBIC, so the larger
ones are smoother than a camera's. Times are medians of calls that take turns, in milliseconds of CPU time (all calls are of one
thread, so a neighbour on the same core costs a cache miss, not a time slice); ratio = OpenCV / ours."""
import argparse
import ctypes
import json
import os
import pathlib
import platform
import sys
import time

import cv2
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/kernels"))
import planes

ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", planes.ROOT / "../shared/assets"))
SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}


def grey_frames():
    found = {}
    for path in sorted((ASSETS / "media/video").glob("*.mp4")):
        video = cv2.VideoCapture(str(path))
        for _ in range(60):
            ok, frame = video.read()
        if ok:
            found[path.stem] = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    if not found:
        sys.exit("no frames: SPILLWAY_ASSETS has no media/video/*.mp4")
    return found


def rows(k, p, q):
    """name, ours, OpenCV's (None: it has no such call)."""
    lib, by = k.lib, ctypes.byref
    src, other, out = planes.plane(p), planes.plane(q), np.empty_like(p)
    dst, room, at = planes.plane(out), k.room(p), lambda a: ctypes.c_void_p(a.ctypes.data)
    m, f = planes.PlaneMeasure(), planes.FlowMeasure()
    dx16, dy16 = np.empty(p.shape, np.int16), np.empty(p.shape, np.int16)
    rng = np.random.default_rng(1)
    dx, dy = (rng.normal(0, 2, p.shape).astype(np.float32) for _ in range(2))
    rect5, ellipse5 = np.ones((5, 5), np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    rect31, mask = np.ones((31, 31), np.uint8), cv2.threshold(cv2.absdiff(p, np.roll(p, 2, 1)), 12, 255, cv2.THRESH_BINARY)[1]
    regions, spots = (planes.Region * 4096)(), planes.plane(mask)

    def morph(op, shape, k):
        return lambda: lib.kp_morph(by(dst), by(src), op, shape, k, k, 1, room)

    def canny(low, high, aperture=3, l2=0):
        low, high = ctypes.c_double(low), ctypes.c_double(high)
        return lambda: lib.kp_canny(by(dst), by(src), low, high, aperture, l2, room)

    def cv_measures():
        cv2.calcHist([p], [0], None, [256], [0, 256])
        return cv2.meanStdDev(cv2.Laplacian(p, cv2.CV_16S))

    yield "canny 15, 60", canny(15, 60), lambda: cv2.Canny(p, 15, 60)
    yield "canny 50, 100", canny(50, 100), lambda: cv2.Canny(p, 50, 100)
    yield "canny 15, 60, L2", canny(15, 60, 3, 1), lambda: cv2.Canny(p, 15, 60, L2gradient=True)
    yield "canny 100, 400, aperture 5", canny(100, 400, 5), lambda: cv2.Canny(p, 100, 400, apertureSize=5)
    yield "close 5x5 rect", morph(planes.CLOSE, 0, 5), lambda: cv2.morphologyEx(p, cv2.MORPH_CLOSE, rect5)
    yield "dilate 5x5 rect", morph(planes.DILATE, 0, 5), lambda: cv2.dilate(p, rect5)
    yield "gradient 5x5 rect", morph(planes.GRADIENT, 0, 5), lambda: cv2.morphologyEx(p, cv2.MORPH_GRADIENT, rect5)
    yield "close 31x31 rect", morph(planes.CLOSE, 0, 31), lambda: cv2.morphologyEx(p, cv2.MORPH_CLOSE, rect31)
    yield "open 5x5 ellipse", morph(planes.OPEN, 2, 5), lambda: cv2.morphologyEx(p, cv2.MORPH_OPEN, ellipse5)
    yield "gaussian 5x5, 1.2", lambda: lib.kp_gaussian(by(dst), by(src), 5, ctypes.c_double(1.2), room), \
        lambda: cv2.GaussianBlur(p, (5, 5), 1.2)
    yield "gaussian 15x15, 2.5", lambda: lib.kp_gaussian(by(dst), by(src), 15, ctypes.c_double(2.5), room), \
        lambda: cv2.GaussianBlur(p, (15, 15), 2.5)
    yield "box 5x5", lambda: lib.kp_box(by(dst), by(src), 5, room), lambda: cv2.blur(p, (5, 5))
    yield "box 31x31", lambda: lib.kp_box(by(dst), by(src), 31, room), lambda: cv2.blur(p, (31, 31))
    yield "sobel dx and dy", lambda: lib.kp_sobel(at(dx16), at(dy16), by(src), 3, 0, room), \
        lambda: (cv2.Sobel(p, cv2.CV_16S, 1, 0), cv2.Sobel(p, cv2.CV_16S, 0, 1))
    yield "histogram and Laplacian", lambda: lib.kp_measure(by(src), by(m)), cv_measures
    yield "difference", lambda: lib.kp_difference(by(src), by(other)), lambda: cv2.norm(p, q, cv2.NORM_L1)
    yield "count of non-zero", lambda: lib.kp_nonzero(by(src)), lambda: cv2.countNonZero(p)
    yield "threshold", lambda: lib.kp_threshold(by(dst), by(src), 100), lambda: cv2.threshold(p, 100, 255, cv2.THRESH_BINARY)
    yield "range expansion", lambda: lib.kp_grey_y8(at(out), at(p), p.size, 1), None
    yield "regions", lambda: lib.kp_regions(by(spots), by(src), 20, regions, 4096, room), \
        lambda: cv2.connectedComponentsWithStats(mask, connectivity=8)
    yield "flow measure and mask", lambda: lib.kp_flow(at(dx), at(dy), ctypes.c_size_t(p.shape[1]), p.shape[1], p.shape[0], 512,
                                                      by(dst), by(f)), lambda: cv2.cartToPolar(dx, dy)
    yield "copy", lambda: lib.kp_or(by(dst), by(src), by(src)), lambda: np.copyto(out, p)


def medians(calls, seconds):
    taken = [[] for _ in calls]
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(taken[0]) < 5:
        for call, times in zip(calls, taken):
            t = time.thread_time_ns()
            call()
            times.append(time.thread_time_ns() - t)
    return [float(np.median(t)) / 1e6 for t in taken]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="per row")
    parser.add_argument("--level", action="append", choices=planes.LEVELS)
    parser.add_argument("--size", action="append", choices=list(SIZES))
    parser.add_argument("--row", help="only rows with this text in their name")
    parser.add_argument("--json")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    k, results = planes.Planes(), []
    levels = [level for level in args.level or planes.LEVELS if k.force(level)]
    frames = grey_frames()
    print(f"OpenCV {cv2.__version__}, one thread, one core; {platform.processor() or platform.machine()}")
    for size in args.size or SIZES:
        for name, frame in frames.items():
            p = cv2.resize(frame, SIZES[size], interpolation=cv2.INTER_CUBIC)
            q = np.ascontiguousarray(np.roll(p, 3, 1))
            print(f"\n{size}, {name} ({frame.shape[1]} x {frame.shape[0]} before)\n{'':28}{'OpenCV':>9}", *(f"{v:>9} ratio" for v in levels))
            for row, ours, theirs in rows(k, p, q):
                if args.row and args.row not in row:
                    continue
                def at(level, call=ours):
                    def run():
                        k.force(level)
                        call()
                    return run
                calls = [at(level) for level in levels] + ([theirs] if theirs else [])
                times = medians(calls, args.seconds)
                base = times.pop() if theirs else None
                cells = [f"{t:9.3f} {f'{base / t:5.2f}' if base else '     '}" for t in times]
                print(f"{row:28}{f'{base:9.3f}' if base else '':>9}", *cells, flush=True)
                results.append({"size": size, "clip": name, "row": row, "opencv_ms": base, **{f"{v}_ms": t for v, t in zip(levels, times)}})
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"opencv": cv2.__version__, "rows": results}, indent=1))


if __name__ == "__main__":
    main()
