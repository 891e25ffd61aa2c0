#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Dense optical flow beside OpenCV's calcOpticalFlowFarneback, same run, same frames, one core, the two taking turns.

  pair      two frames are expanded, then their flow: what OpenCV does at each call
  sequence  the next frame is expanded, then its flow: what a video costs, frame by frame

Frames are those of a clip under SPILLWAY_ASSETS, upscaled (the rows say from what); without it, moved noise.
usage: bench/flow.py [--build DIR] [--rounds N] [--sizes 360 720 1080] [--levels scalar avx2 avx512] [--json FILE]"""
import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEVELS = ["scalar", "avx2", "avx512"]
SIZES = {360: (640, 360), 720: (1280, 720), 1080: (1920, 1080)}
ARGUMENTS = (0.5, 3, 15, 3, 5, 1.2, 0)


def load(build):
    lib = ctypes.CDLL(str(build / "tests/kernels/libspillway_kernels_test.so"))
    lib.kt_flow_new.restype = ctypes.c_void_p
    lib.kt_flow_new.argtypes = [ctypes.c_double] + [ctypes.c_int] * 4 + [ctypes.c_double] + [ctypes.c_int] * 3
    lib.kt_flow_expand.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    lib.kt_flow_pair.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return lib


def frames(w, h, count=4):
    """(grey frames, where they come from)"""
    assets = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT / "../shared/assets"))
    clip = assets / "media/video/car-detection.mp4"
    capture = cv2.VideoCapture(str(clip))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 60)
    found = [capture.read()[1] for _ in range(count)]
    if found[0] is None:
        noise = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (h + 16, w + 16), dtype=np.uint8), (0, 0), 2)
        noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
        return [np.ascontiguousarray(noise[i:i + h, 2 * i:2 * i + w]) for i in range(count)], "moved noise"
    size = f"{found[0].shape[1]}x{found[0].shape[0]}"
    grey = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_BGR2GRAY), (w, h), interpolation=cv2.INTER_CUBIC) for f in found]
    return grey, f"{clip.name}, upscaled from {size}"


class Ours:
    def __init__(self, lib, level, w, h):
        self.lib, self.level, self.at = lib, level, 0
        self.flow = lib.kt_flow_new(*ARGUMENTS[:6], 0, w, h)
        self.out = np.zeros((2, h, w), np.float32)

    def pair(self, a, b):
        self.lib.kt_force(LEVELS.index(self.level))
        self.lib.kt_flow_expand(self.flow, 0, a.ctypes.data, a.strides[0])
        self.lib.kt_flow_expand(self.flow, 1, b.ctypes.data, b.strides[0])
        self.lib.kt_flow_pair(self.flow, 0, None, self.out.ctypes.data)

    def sequence(self, _a, b):
        self.lib.kt_force(LEVELS.index(self.level))
        self.at ^= 1
        self.lib.kt_flow_expand(self.flow, self.at, b.ctypes.data, b.strides[0])
        self.lib.kt_flow_pair(self.flow, self.at ^ 1, None, self.out.ctypes.data)


def measure(entries, grey, rounds):
    """{name: [ms of CPU time]}: on an idle machine that is the wall clock, and a busy one disturbs it less. They take turns."""
    times = {name: [] for name in entries}
    for i in range(rounds + 1):
        a, b = grey[i % (len(grey) - 1)], grey[i % (len(grey) - 1) + 1]
        for name, run in entries.items():
            begun = time.process_time_ns()
            run(a, b)
            if i:  # the first round warms up
                times[name].append((time.process_time_ns() - begun) / 1e6)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.environ.get("SPILLWAY_BUILD", ROOT / "build"), type=pathlib.Path)
    parser.add_argument("--rounds", default=9, type=int)
    parser.add_argument("--sizes", default=list(SIZES), type=int, nargs="+", choices=list(SIZES))
    parser.add_argument("--levels", default=LEVELS[1:], nargs="+", choices=LEVELS)
    parser.add_argument("--json", type=pathlib.Path, help="write the rows there too")
    arguments = parser.parse_args()

    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    cv2.setNumThreads(1)
    lib = load(arguments.build)
    levels = [level for level in arguments.levels if lib.kt_force(LEVELS.index(level))]
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}, {model}, core {core}, load {os.getloadavg()[0]:.1f}; OpenCV {cv2.__version__}, one thread; "
          f"arguments {ARGUMENTS}")
    rows = []
    for size in arguments.sizes:
        w, h = SIZES[size]
        grey, source = frames(w, h)
        ours = {level: Ours(lib, level, w, h) for level in levels}
        entries = {("pair", "OpenCV"): lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, *ARGUMENTS)}
        for level, o in ours.items():
            entries["pair", level] = o.pair
            entries["sequence", level] = o.sequence
        times = measure(entries, grey, arguments.rounds)
        peer = times["pair", "OpenCV"]
        print(f"\n{size}p ({source}){'':4}\n{'':28}{'median ms':>12}{'best ms':>10}{'times OpenCV':>15}{'by best':>10}")
        for (kind, name), list_of in times.items():
            ratio, by_best = statistics.median(peer) / statistics.median(list_of), min(peer) / min(list_of)
            print(f"  {kind:10}{name:16}{statistics.median(list_of):12.1f}{min(list_of):10.1f}{ratio:14.2f}x{by_best:9.2f}x")
            rows.append({"size": size, "source": source, "kind": kind, "name": name, "median_ms": statistics.median(list_of),
                         "best_ms": min(list_of), "times_opencv": ratio, "times_opencv_by_best": by_best, "rounds": len(list_of)})
    if arguments.json:
        arguments.json.write_text(json.dumps({"commit": commit, "machine": model, "opencv": cv2.__version__, "rows": rows},
                                             indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
