#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What OpenCV and numpy take on this machine's CPU for the work of the GPU's benches (bench/gpu/prep.c, nms.c): one JSON row a peer and
case, flushed as it comes. A peer that cannot be imported is a row with "absent". The data are as the benches': pictures of random
bytes, 8,400 x 85 numbers of a YOLOX head with a dozen boxes over the threshold for each of 30 objects, and 8,400 scattered boxes.

    tools/gpu/cpu_peers.py [--small] [--seconds 2] [--head NUMBERS.f32]

--head: a real head's numbers instead of made-up ones, f32 [8400][85] (tools/make_head.py), the same that the bench is given.
Each case runs with OpenCV's own number of threads and with one; peers allocate their results, as their users' code does."""
import argparse
import json
import os
import statistics
import sys
import time

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224


def say(**row):
    print(json.dumps(row), flush=True)


def timed(call, seconds):
    """Median microseconds of at least three calls, after one."""
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 500):
        begun = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - begun) / 1000)
    return statistics.median(times), len(times)


def row(peer, version, case, threads, call, seconds):
    try:
        median_us, runs = timed(call, seconds)
    except Exception as error:  # whatever a version of it lacks: the others count
        say(peer=peer, version=version, case=case, threads=threads, absent=f"{type(error).__name__}: {error}"[:300])
        return
    say(peer=peer, version=version, case=case, threads=threads, median_us=round(median_us, 3), runs=runs)


def nms_numpy(np, corners, score, threshold, iou, label=None, gap=4096.0):
    """As it is written everywhere: boxes of each class moved apart, then one by one in the order of their scores."""
    index = np.flatnonzero(score > threshold)
    boxes = corners[index] + (label[index, None] * gap if label is not None else 0)
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1) * (y2 - y1)
    order, kept = np.argsort(-score[index], kind="stable"), []
    while order.size:
        first, rest = order[0], order[1:]
        kept.append(first)
        w = np.minimum(x2[first], x2[rest]) - np.maximum(x1[first], x1[rest])
        h = np.minimum(y2[first], y2[rest]) - np.maximum(y1[first], y1[rest])
        inter = np.maximum(w, 0) * np.maximum(h, 0)
        order = rest[inter <= iou * (area[first] + area[rest] - inter)]
    return index[kept]


def head(np, n, path=None, classes=80):
    """(corners, best score, class) of a picture's usual output, by the law of bench/gpu/nms.c: a grid's cells in their order."""
    if path:
        n = 8400
    random, i = np.random.default_rng(8400), np.arange(n)
    level = (i >= 6400) * 1 + (i >= 8000) if n == 8400 else np.zeros(n, int)
    within, across = i - np.array([0, 6400, 8000])[level], 80 >> level if n == 8400 else np.full(n, n)
    stride = (8 << level)[:, None]
    if path:
        numbers = np.fromfile(path, "<f4").reshape(n, 5 + classes)
        place, shape, score, label = numbers[:, :2], numbers[:, 2:4], numbers[:, 4] * numbers[:, 5:].max(1), numbers[:, 5:].argmax(1)
    else:
        place, shape, label = random.uniform(0, 1, (n, 2)), random.uniform(1, 2, (n, 2)), i // 280 % classes
        score = np.where(i % 280 < 12, random.uniform(0.5, 1, n), random.uniform(0, 0.05, n)) * random.uniform(0.7, 1, n)
    centre, size = (np.stack([within % across, within // across], 1) + place) * stride, np.exp(shape) * stride
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1).astype(np.float32)
    return corners, score.astype(np.float32), label.astype(np.int32)


def scattered(np, n):
    random = np.random.default_rng(8401)
    corner = random.uniform(0, 600, (n, 2))
    return np.concatenate([corner, corner + 8 + random.uniform(0, 72, (n, 2))], 1).astype(np.float32), random.uniform(0, 1, n).astype(np.float32)


def prep(np, cv2, threads, seconds, count, w, h):
    cv_version = cv2.__version__ if cv2 else ""
    random = np.random.default_rng(720)
    pictures = [random.integers(0, 256, (h, w, 3), np.uint8) for _ in range(count)]
    small = [random.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(count)]
    scale = (1 / (255 * np.array(STD))).astype(np.float32).reshape(3, 1, 1)
    bias = (np.array(MEAN) / np.array(STD)).astype(np.float32).reshape(3, 1, 1)

    def normalise(images):
        out = np.empty((len(images), 3, SIDE, SIDE), np.float32)
        for i, image in enumerate(images):
            np.multiply(image.transpose(2, 0, 1), scale, out=out[i])
            out[i] -= bias
        return out

    row("numpy", np.__version__, "normalise", 1, lambda: normalise(small), seconds)
    if not cv2:
        return
    name = f"{count} x {w}x{h} to {SIDE}x{SIDE}"
    mean255, one_std = tuple(255 * m for m in MEAN), 1 / (255 * 0.226)
    for n in sorted({1, threads}):
        cv2.setNumThreads(n)
        row("cv2.resize, INTER_LINEAR (not antialiased)", cv_version, "resize", n,
            lambda: [cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for p in pictures], seconds)
        row("cv2.resize, INTER_AREA", cv_version, "resize", n,
            lambda: [cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures], seconds)
        row("cv2.dnn.blobFromImages (one deviation for all channels)", cv_version, "normalise", n,
            lambda: cv2.dnn.blobFromImages(small, one_std, (SIDE, SIDE), mean255, False, False), seconds)
        row("cv2.resize + numpy", cv_version, "fused", n,
            lambda: normalise([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for p in pictures]), seconds)
        row("cv2.dnn.blobFromImages (one deviation for all channels)", cv_version, "fused", n,
            lambda: cv2.dnn.blobFromImages(pictures, one_std, (SIDE, SIDE), mean255, False, False), seconds)
    say(note=f"resize, normalise, fused: {name}, a batch")


def suppression(np, cv2, seconds, n, path):
    corners, score, label = head(np, n, path)
    loose, loose_score = scattered(np, n)
    row("numpy", np.__version__, "nms, a picture", 1, lambda: nms_numpy(np, corners, score, 0.3, 0.45, label.astype(np.float32)), seconds)
    row("numpy", np.__version__, "nms, one class", 1, lambda: nms_numpy(np, loose, loose_score, 0, 0.45), seconds)
    if not cv2:
        return

    def rectangles(boxes):
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64)
    wide, loose_wide = rectangles(corners), rectangles(loose)
    row("cv2.dnn.NMSBoxesBatched", cv2.__version__, "nms, a picture", 1, lambda: cv2.dnn.NMSBoxesBatched(wide, score, label, 0.3, 0.45), seconds)
    row("cv2.dnn.NMSBoxes", cv2.__version__, "nms, one class", 1, lambda: cv2.dnn.NMSBoxes(loose_wide, loose_score, 0.0, 0.45), seconds)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a rehearsal")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--head")
    args = parser.parse_args(argv)
    try:
        import numpy as np
    except ImportError as error:
        say(peer="numpy", case="all", absent=str(error))
        return 0
    try:
        import cv2
    except ImportError as error:
        cv2 = None
        say(peer="cv2", case="all", absent=str(error))
    threads = len(os.sched_getaffinity(0))
    prep(np, cv2, threads, args.seconds, *((2, 64, 48) if args.small else (32, 1280, 720)))
    suppression(np, cv2, args.seconds, 100 if args.small else 8400, args.head)
    return 0


if __name__ == "__main__":
    sys.exit(main())
