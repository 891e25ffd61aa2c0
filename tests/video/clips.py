# SPDX-License-Identifier: Apache-2.0
"""What the video tests share: clips cut from the assets by ffmpeg, and runs of `spillway analyze`."""
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
PROGRAM = BUILD / "spillway"
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared" / "assets")) / "media" / "video"
FULL = os.environ.get("SPILLWAY_FULL") == "1"  # whole clips at their size instead of short small ones
SLOW = bool(os.environ.get("SPILLWAY_SANITIZER"))
# Where several tests take the same way through the program, a sanitizer sees it once.
once = pytest.mark.skipif(SLOW, reason="a sanitizer sees another test of this kind")
NAMES = ["big_buck_bunny_small.mp4", "bottle-detection.mp4", "car-detection.mp4"]


def asset(name):
    path = ASSETS / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


def ffmpeg(*words):
    done = subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, words)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def make(name, path, frames=200, size="160x90", gop=48, extra=()):
    """The first frames of an asset (looped if it has fewer), small, with B frames and a key frame every `gop` frames."""
    ffmpeg("-stream_loop", 9, "-i", asset(name), "-frames:v", frames, "-vf", f"scale={size.replace('x', ':')}", "-an", "-c:v", "libx264",
           "-preset", "veryfast", "-g", gop, "-keyint_min", gop, "-sc_threshold", 0, "-bf", 2, "-pix_fmt", "yuv420p", *extra, path)
    return path


def count_frames(path):
    """ffprobe's nb_read_frames: how many its decoder gives."""
    done = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_frames", "-show_entries", "stream=nb_read_frames",
                           "-of", "csv=p=0", str(path)], capture_output=True, text=True, timeout=300)
    found = re.search(r"\d+", done.stdout)
    return int(found[0]) if found else 0


class Run:
    """One `spillway analyze`. It is its own process group, so that whatever it left behind can be seen and ended."""

    def __init__(self, clip, out, words=(), env=None, seconds=1200 if FULL else 240):
        environment = {k: v for k, v in os.environ.items() if k not in ("SPILLWAY_FAULTS", "SPILLWAY_SIM", "SPILLWAY_CPU")}
        environment.update(env or {})
        self.out = pathlib.Path(out)
        self.seconds = seconds
        self.process = subprocess.Popen([str(PROGRAM), "analyze", str(clip), "-o", str(out), *map(str, words)], env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
        self.text = self.complaint = ""

    def wait(self):
        try:
            self.text, self.complaint = self.process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.text, self.complaint = self.process.communicate()
            pytest.fail(f"analyze hung: {self.text}\n{self.complaint}")
        self.code = self.process.returncode
        return self

    def kept(self):
        return sorted(self.out.glob(".parts/*/*.part"))

    def wait_kept(self, count, seconds=120):
        """Until so many chunks are kept; False when it ended before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(self.kept()) >= count:
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        pytest.fail("no chunk was finished")

    def workers(self, kind=None):
        """Pids of its worker processes (of a kind: "cpu", "codec")."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
                line = (path.parent / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError, ValueError):
                continue
            if parent == self.process.pid and b"worker" in line[1:2]:
                if not kind or any(re.fullmatch(rf"{kind}\d+", word.decode(errors="replace")) for word in line):
                    found.append(int(path.parent.name))
        return sorted(found)

    def good(self):
        assert self.code == 0, f"{self.text}\n{self.complaint}"
        return self

    def report_bytes(self):
        return (self.good().out / "report.json").read_bytes()

    def report(self):
        return json.loads(self.report_bytes())

    def run(self):
        return json.loads((self.good().out / "run.json").read_text())
