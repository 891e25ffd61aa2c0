#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The best an OpenCV user can do: the measures of `spillway analyze` with cv2, one process a chunk.

    peer.py CLIP [--processes 2] [--threads 1]

Decodes by cv2.VideoCapture; per frame Canny, top-hat and black-hat with their regions, histogram, Laplacian variance; per pair
Farneback, the motion mask opened and closed with its regions, directions by octant. Arrays are reused where cv2 takes a dst. Prints
one JSON object: wall seconds, frames, seconds by stage (summed over the processes)."""
import argparse
import json
import multiprocessing
import time

import cv2
import numpy as np

TOPHAT = cv2.getStructuringElement(cv2.MORPH_RECT, (15, 15))
OPEN = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
CLOSE = cv2.getStructuringElement(cv2.MORPH_RECT, (5, 5))


def regions(mask, weights, least):
    """Area, box, centre and mean weight of the twelve largest."""
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    order = [i for i in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1 if stats[i, cv2.CC_STAT_AREA] >= least][:12]
    told = []
    for i in order:
        x, y, w, h, area = stats[i]
        part = labels[y:y + h, x:x + w] == i
        told.append((int(area), int(x), int(y), int(w), int(h), *centres[i], float(weights[y:y + h, x:x + w][part].mean())))
    return count - 1, told


class Clock:
    def __init__(self):
        self.sums = {}
        self.since = time.perf_counter()

    def lap(self, stage):
        now = time.perf_counter()
        self.sums[stage] = self.sums.get(stage, 0.0) + now - self.since
        self.since = now


def alone(grey, clock):
    mean, deviation = cv2.meanStdDev(grey)
    histogram = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    laplace = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0] ** 2
    clock.lap("measures")
    edges = cv2.countNonZero(cv2.Canny(grey, 15, 60))
    clock.lap("edges")
    spots = cv2.max(cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, TOPHAT), cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, TOPHAT))
    mask = cv2.threshold(spots, 40, 255, cv2.THRESH_BINARY)[1]
    defects = regions(mask, spots, 4)
    clock.lap("morphology")
    return {"mean": mean[0, 0], "deviation": deviation[0, 0], "sharpness": laplace, "edges": edges, "defects": defects,
            "dark": histogram[:16].sum(), "bright": histogram[240:].sum()}, histogram


def pair(grey, following, histogram, next_histogram, clock):
    flow = cv2.calcOpticalFlowFarneback(grey, following, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    clock.lap("flow")
    magnitude, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    mask = cv2.threshold(magnitude, 1, 255, cv2.THRESH_BINARY)[1].astype(np.uint8)
    moving = cv2.countNonZero(mask)
    octants = np.bincount((angle[mask > 0] * (8 / (2 * np.pi))).astype(np.intp) & 7, weights=magnitude[mask > 0], minlength=8)
    mean, deviation = cv2.meanStdDev(magnitude)
    said = {"flow": cv2.mean(flow)[:2], "flow_mean": mean[0, 0], "flow_deviation": deviation[0, 0], "flow_max": cv2.minMaxLoc(magnitude)[1],
            "moving": moving, "octants": octants.tolist(), "difference": cv2.mean(cv2.absdiff(grey, following))[0],
            "histogram_distance": float(np.abs(histogram - next_histogram).sum())}
    clock.lap("measures")
    mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, OPEN), cv2.MORPH_CLOSE, CLOSE)
    said["motion"] = regions(mask, magnitude, 64) if cv2.countNonZero(mask) else (0, [])
    clock.lap("morphology")
    return said


def chunk(job):
    """Frames [begin, end) of the clip, and the one behind the last for its pair."""
    path, begin, end, threads = job
    cv2.setNumThreads(threads)
    film = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    if begin:
        film.set(cv2.CAP_PROP_POS_FRAMES, begin)
    clock, records, before = Clock(), [], None
    for number in range(begin, end + 1):
        good, picture = film.read()
        if not good:
            break
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        clock.lap("extract")
        record, histogram = alone(grey, clock) if number < end else ({}, cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel())
        if before is not None:
            before[2].update(pair(before[0], grey, before[1], histogram, clock))
        if number < end:
            records.append(record)
        before = (grey, histogram, record)
    return len(records), clock.sums


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("clip")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    total = int(cv2.VideoCapture(options.clip).get(cv2.CAP_PROP_FRAME_COUNT))
    edges = [total * i // options.processes for i in range(options.processes + 1)]
    jobs = [(options.clip, a, b, options.threads) for a, b in zip(edges, edges[1:])]
    begun = time.perf_counter()
    if options.processes == 1:
        done = [chunk(jobs[0])]
    else:
        with multiprocessing.get_context("fork").Pool(options.processes) as pool:
            done = pool.map(chunk, jobs)
    wall = time.perf_counter() - begun
    stages = {}
    for _, sums in done:
        for stage, seconds in sums.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    print(json.dumps({"wall_s": wall, "frames": sum(count for count, _ in done), "stages": stages, "cv2": cv2.__version__}))


if __name__ == "__main__":
    main()
