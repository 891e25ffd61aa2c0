# SPDX-License-Identifier: Apache-2.0
"""Video files against ffprobe and ffmpeg: every frame, its timestamp and its luma; and the same frames whoever reads them, in
whatever order, with any number of threads."""
import random

import numpy as np
import pytest

from video_tool import BUILD, CLIPS, LOOKAHEAD, SANITIZED, VideoTool, ffmpeg, frames_of, probe_frames


@pytest.fixture(scope="module")
def tool():
    if not (BUILD / "tests/media/media_video_tool").exists():
        pytest.skip("media_video_tool is not built")
    video_tool = VideoTool()
    yield video_tool
    assert video_tool.close() == 0


def limited_to_full():
    """The rule of the range expansion, by itself: (y - 16) * 255 / 219, rounded and clamped."""
    return np.clip(((np.arange(256) - 16) * 510 + 219) // 438, 0, 255).astype(np.uint8)


def luma_of(path, index):
    """ffmpeg's luma planes [frames, height, width] of an 8-bit YUV video, not rotated."""
    height, width = index["coded_height"], index["coded_width"]
    raw = np.frombuffer(ffmpeg("-noautorotate", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt",
                               index["pixel_format"], "-"), np.uint8)
    planes = raw.reshape(index["frames"], -1)[:, :height * width].reshape(-1, height, width)
    return limited_to_full()[planes] if index["limited"] else planes


def grey_of(tool, path, index, directory, threads=1):
    answer = tool("grey", threads, path, directory / "grey.raw")
    assert answer["status"] == "ok", answer
    return np.fromfile(directory / "grey.raw", np.uint8).reshape(-1, index["height"], index["width"])


def check_segments(tool, path, index, seed=1):
    """The same frames from every order of segments and every number of threads."""
    whole = tool("frames", 1, "all", path)
    assert whole["status"] == "ok", whole
    assert not any(segment["lost"] or segment["damaged"] or segment["errors"] for segment in whole["segments"]), path
    assert [frame[0] for frame in frames_of(whole)] == list(range(index["frames"]))
    assert [frame[1] for frame in frames_of(whole)] == index["pts"]
    for segment, following in zip(whole["segments"], whole["segments"][1:]):
        ahead = segment["frames"][-1]
        assert ahead[3] & LOOKAHEAD and ahead[:3] == following["frames"][0][:3], (path, segment["segment"])
    assert not whole["segments"][-1]["frames"][-1][3] & LOOKAHEAD
    order = list(range(len(whole["segments"])))
    for threads in (2, 3):
        assert tool("frames", threads, "all", path) == whole, (path, threads)
    backwards = tool("frames", 1, ",".join(map(str, reversed(order))), path)
    assert backwards["segments"][::-1] == whole["segments"], path
    random.Random(seed).shuffle(order)
    shuffled = tool("frames", 2, ",".join(map(str, order)), path)
    assert sorted(shuffled["segments"], key=lambda segment: segment["segment"]) == whole["segments"], path
    alone = order[0]
    assert tool("frames", 1, alone, path)["segments"] == [whole["segments"][alone]], path
    return whole


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_real_clips(tool, tmp_path, path):
    if not path.exists():
        pytest.skip(f"{path} is not there")
    index = tool("index", path)
    assert index["status"] == "ok", index
    frames = probe_frames(path)
    assert index["frames"] == len(frames) and index["has_times"] and not index["notes"]
    assert index["pts"] == [frame["pts"] for frame in frames]
    assert (grey_of(tool, path, index, tmp_path) == luma_of(path, index)).all()
    if not SANITIZED:
        check_segments(tool, path, index)
