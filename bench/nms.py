#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Suppression of 8,400 boxes (what a YOLO at 640x640 gives) against cv2.dnn.NMSBoxes: the same boxes, the same threshold,
taking turns in one run on one pinned core, and the kept indices compared. Both start from rows of corners or of x, y, w, h
and a score each, and end with indices; ours includes filter, order and the move into planes.

    .deps/venv/bin/python bench/nms.py [--build build] [--boxes 8400] [--seconds 1.0] [--json FILE]"""
import argparse
import ctypes
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEVELS = ["scalar", "avx2", "avx512"]


def scenes(n):
    """name -> (corners, scores, score threshold): from hardly a crowd to as bad as it gets."""
    rng = np.random.default_rng(8400)
    for objects, name in ((12, "12 objects"), (300, "300 objects"), (n, "scattered")):
        centre = rng.uniform(20, 620, (objects, 2))[rng.integers(0, objects, n)] + rng.normal(0, 4, (n, 2))
        size = rng.uniform(8, 80, (objects, 2))[rng.integers(0, objects, n)] * rng.uniform(0.8, 1.25, (n, 2))
        corners = np.concatenate([centre - size / 2, centre + size / 2], 1).astype(np.float32)
        yield name + ", all pass", corners, rng.uniform(0.01, 1, n).astype(np.float32), 0.0
        yield name + ", 5 % pass", corners, (rng.uniform(0, 1, n) ** 8).astype(np.float32), 0.68


def run(lib, n, seconds):
    scratch = ctypes.c_void_p(lib.kt_nms_new(n))
    kept = np.zeros(n, np.int32)
    rows = []
    for name, corners, score, threshold in scenes(n):
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).astype(np.float64)

        def ours():
            count = lib.kt_nms(scratch, corners.ctypes.data, score.ctypes.data, None, n, ctypes.c_float(threshold),
                               ctypes.c_float(0.45), kept.ctypes.data)
            return kept[:count]

        def theirs():
            return cv2.dnn.NMSBoxes(xywh, score, threshold, 0.45)

        levels = [level for level in LEVELS if lib.kt_force(LEVELS.index(level))]
        entries = [(f"ours, {level}", ours, level) for level in levels] + [("cv2.dnn.NMSBoxes", theirs, None)]
        times = {entry[0]: [] for entry in entries}
        same = {}
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(times["cv2.dnn.NMSBoxes"]) < 3:
            for label, call, level in entries:
                if level:
                    lib.kt_force(LEVELS.index(level))
                begun = time.perf_counter_ns()
                answer = call()
                times[label].append((time.perf_counter_ns() - begun) / 1000)
                same.setdefault(label, np.array(answer).reshape(-1).tolist())
        peer = min(times["cv2.dnn.NMSBoxes"])
        print(f"\n{n} boxes, {name}: {len(same['cv2.dnn.NMSBoxes'])} kept")
        for label, of in times.items():
            equal = same[label] == same["cv2.dnn.NMSBoxes"]
            print(f"  {label:20}{min(of):10.1f} us best{statistics.median(of):10.1f} median{peer / min(of):9.1f}x"
                  f"   {'same indices' if equal else 'OTHER INDICES'}")
            rows.append({"case": name, "boxes": n, "name": label, "best_us": min(of), "median_us": statistics.median(of),
                         "times_peer": peer / min(of), "runs": len(of), "kept": len(same[label]), "same": equal})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--boxes", type=int, default=8400)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    lib = ctypes.CDLL(str(pathlib.Path(args.build) / "tests/kernels/libspillway_kernels_test.so"))
    lib.kt_nms_new.restype = ctypes.c_void_p
    lib.kt_nms.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int, ctypes.c_float, ctypes.c_float, ctypes.c_void_p]
    print(f"OpenCV {cv2.__version__}, {platform.machine()}, one core")
    rows = run(lib, args.boxes, args.seconds)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"opencv": cv2.__version__, "rows": rows}, indent=1))
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
