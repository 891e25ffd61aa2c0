#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the video fuzz target (tests/fuzz/corpus/video): a dozen frames of 32 x 32 pixels in each container and codec
that is common, and the index of one. Run by hand; the seeds are kept (tests/data/PROVENANCE.md), and a crasher that fuzzing finds is put
beside them as crash_WHAT."""
import pathlib
import subprocess

OUT = pathlib.Path(__file__).resolve().parent / "corpus/video"
SOURCE = ("-f", "lavfi", "-i", "testsrc=size=32x32:rate=25")
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "40", "-x264-params", "info=0", "-pix_fmt", "yuv420p")
SEEDS = {
    "h264.mp4": (*X264, "-bf", "2", "-frames:v", "12"),
    "open.mkv": (*X264, "-bf", "2", "-g", "6", "-flags", "-cgop", "-frames:v", "14"),
    "h264.h264": (*X264, "-frames:v", "6"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", "2", "-q:v", "31", "-frames:v", "6"),
    "vp8.ivf": ("-c:v", "libvpx", "-b:v", "5k", "-frames:v", "6"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", "-q:v", "31", "-bf", "1", "-frames:v", "5"),
    "flv1.flv": ("-c:v", "flv", "-q:v", "31", "-frames:v", "4"),
    "moving.gif": ("-vf", "scale=8:8", "-frames:v", "4"),
    "raw.y4m": ("-vf", "scale=8:8", "-pix_fmt", "yuv420p", "-frames:v", "3"),
}

OUT.mkdir(parents=True, exist_ok=True)
for name, words in SEEDS.items():
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *SOURCE, *words, "-fflags", "+bitexact", "-threads", "1", OUT / name], check=True)
for path in sorted(OUT.iterdir()):
    print(path.name, path.stat().st_size)
