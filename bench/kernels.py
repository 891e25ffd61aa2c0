#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fused pre-processing against what people use today: Pillow's resize + numpy, and cv2.dnn.blobFromImage, in the same run,
on one pinned core. Best and median of many runs each; peers and levels take turns, so that a noisy neighbour hits all.

    .deps/venv/bin/python bench/kernels.py [--build build] [--seconds 1.0] [--json FILE]

`new size` makes the tables again for every picture (our worst case); the peers always do."""
import argparse
import ctypes
import json
import os
import pathlib
import platform
import statistics
import struct
import subprocess
import sys
import time

import cv2
import numpy as np
import PIL
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEVELS = ["scalar", "avx2", "avx512"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {"bilinear": (0, Image.Resampling.BILINEAR), "bicubic": (1, Image.Resampling.BICUBIC), "plain": (2, None)}


class Ours:
    def __init__(self, lib, level, kind, size, changing):
        self.lib, self.level, self.kind, self.size, self.changing = lib, level, kind, size, changing
        self.scratch = ctypes.c_void_p(lib.kt_scratch_new())
        self.out = np.empty((3, size, size), np.float32)
        self.specs = [struct.pack("<4B4H7f", FILTERS[kind][0], 1, 1, pad, size, size, size, size, 255.0, *MEAN, *STD)
                      for pad in (0, 1)]
        self.turn = 0

    def prepare(self):
        return bool(self.lib.kt_force(LEVELS.index(self.level)))

    def __call__(self, picture, _image):
        self.turn ^= self.changing  # another spec has other tables
        status = self.lib.kt_prep(self.specs[self.turn], picture.ctypes.data, picture.shape[1], picture.shape[0],
                                  picture.strides[0], self.out.ctypes.data, self.scratch, None, 0)
        assert status == 0
        return self.out


def pillow(kind, size):
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)

    def run(_picture, image):
        x = np.asarray(image.resize((size, size), FILTERS[kind][1]), np.float32) / np.float32(255)
        return np.ascontiguousarray(((x - mean) / std).transpose(2, 0, 1))
    return run


def pillow_alone(kind, size):
    return lambda _picture, image: image.resize((size, size), FILTERS[kind][1])


def blob(size):
    def run(picture, _image):
        return cv2.dnn.blobFromImage(picture, 1 / 255.0, (size, size), [255 * m for m in MEAN], swapRB=False)
    return run


def exact_and_blob(size):
    """The same pixels as ours: INTER_LINEAR_EXACT, then the conversion."""
    def run(picture, _image):
        return cv2.dnn.blobFromImage(cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR_EXACT), 1 / 255.0,
                                     (size, size), [255 * m for m in MEAN], swapRB=False)
    return run


def measure(entries, picture, image, seconds):
    """{name: [times in us]}, the entries taking turns."""
    times = {name: [] for name in entries}
    until = time.perf_counter() + seconds * len(entries)
    while time.perf_counter() < until or min(map(len, times.values())) < 3:
        for name, run in entries.items():
            if isinstance(run, Ours):
                run.prepare()
            for _ in range(3):
                begun = time.perf_counter_ns()
                run(picture, image)
                times[name].append((time.perf_counter_ns() - begun) / 1000)
    return times


def case(lib, kind, w, h, size, seconds):
    picture = np.random.default_rng(1).integers(0, 256, (h, w, 3), dtype=np.uint8)
    image = Image.fromarray(picture)
    entries = {}
    for level in LEVELS:
        if lib.kt_force(LEVELS.index(level)):
            entries[f"ours, {level}"] = Ours(lib, level, kind, size, 0)
    best_level = list(entries)[-1].split()[-1]
    entries[f"ours, {best_level}, new size"] = Ours(lib, best_level, kind, size, 1)
    if kind == "plain":
        peer = "cv2.dnn.blobFromImage"
        entries[peer] = blob(size)
        entries["cv2 INTER_LINEAR_EXACT + blob"] = exact_and_blob(size)
    else:
        peer = "Pillow resize + numpy"
        entries[peer] = pillow(kind, size)
        entries["Pillow resize alone"] = pillow_alone(kind, size)
    times = measure(entries, picture, image, seconds)
    rows = []
    print(f"\n{w}x{h} -> {size}x{size} {kind}")
    print(f"  {'':34}{'best us':>10}{'median us':>11}{'times ' + peer:>32}")
    for name, list_of in times.items():
        best, median = min(list_of), statistics.median(list_of)
        print(f"  {name:34}{best:10.1f}{median:11.1f}{min(times[peer]) / best:31.2f}x")
        rows.append({"case": f"{w}x{h} -> {size}x{size} {kind}", "name": name, "best_us": best, "median_us": median,
                     "runs": len(list_of), "times_peer": min(times[peer]) / best})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.environ.get("SPILLWAY_BUILD", ROOT / "build"), type=pathlib.Path)
    parser.add_argument("--seconds", default=1.0, type=float, help="for each row (default 1)")
    parser.add_argument("--json", type=pathlib.Path, help="write the rows there too")
    arguments = parser.parse_args()

    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    cv2.setNumThreads(1)
    lib = ctypes.CDLL(str(arguments.build / "tests/kernels/libspillway_kernels_test.so"))
    lib.kt_scratch_new.restype = ctypes.c_void_p
    lib.kt_prep.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p,
                            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}, {model}, core {core}, load {os.getloadavg()[0]:.1f}; Pillow {PIL.__version__}, OpenCV {cv2.__version__}, "
          f"numpy {np.__version__}; one thread")

    rows = []
    for kind in FILTERS:
        for w, h, size in ((1280, 720, 224), (640, 480, 224), (275, 183, 224), (4000, 3000, 224)):
            rows += case(lib, kind, w, h, size, arguments.seconds * (1 if w < 2000 else 0.5))
    if arguments.json:
        arguments.json.write_text(json.dumps({"commit": commit, "machine": model, "python": platform.python_version(),
                                              "pillow": PIL.__version__, "opencv": cv2.__version__,
                                              "flags": "meson debugoptimized, -O2", "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
