# SPDX-License-Identifier: Apache-2.0
"""Drives build/tests/media/media_video_tool: one process, many questions."""
import json
import os
import select
import subprocess

from decoder import ASSETS, BUILD  # noqa: F401

CLIPS = [ASSETS / "media/video" / name for name in ("big_buck_bunny_small.mp4", "bottle-detection.mp4", "car-detection.mp4")]
SANITIZED = os.environ.get("SPILLWAY_SANITIZER") or "san" in BUILD.name
LOOKAHEAD, DAMAGED, KEY = 1, 2, 4


class VideoTool:
    """Its answers are JSON; after `seconds` without one it is taken for hung and killed."""

    def __init__(self, seconds=300, **more):
        self.seconds = seconds
        environment = dict(os.environ, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "allocator_may_return_null=1"), **more)
        self.process = subprocess.Popen([BUILD / "tests/media/media_video_tool"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=environment)

    def __call__(self, *words):
        self.process.stdin.write((" ".join(str(word) for word in words) + "\n").encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], self.seconds)
        if not ready:
            self.process.kill()
        line = self.process.stdout.readline()
        assert line, f"{words}: the tool {'hangs' if not ready else 'died'} (exit {self.process.wait()})"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def ffmpeg(*words, **more):
    return subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *[str(word) for word in words]], check=True, timeout=120,
                          stdout=subprocess.PIPE, **more).stdout


def probe_frames(path, *more):
    """ffprobe's frames of the first video stream, in the order in which they are shown."""
    out = subprocess.run(["ffprobe", "-v", "quiet", *more, "-select_streams", "v:0", "-show_frames", "-show_entries",
                          "frame=pts,best_effort_timestamp,key_frame,width,height", "-of", "json", str(path)], check=True, timeout=120,
                         stdout=subprocess.PIPE).stdout
    return json.loads(out)["frames"]


def frames_of(answer):
    """[number, pts, hash, flags] of all segments, without the lookahead frames."""
    return [frame for segment in answer["segments"] for frame in segment["frames"] if not frame[3] & LOOKAHEAD]
