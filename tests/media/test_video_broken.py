# SPDX-License-Identifier: Apache-2.0
"""Damaged videos: an index or a clear error each, the same whoever reads them; no crash, no hang, no leak.

SPILLWAY_FULL=1 reads 2,000 files instead of 128."""
import os

import pytest

import broken_videos
from video_tool import BUILD, VideoTool

SEED = os.environ.get("SPILLWAY_TEST_SEED", "1")
COUNT = 2000 if os.environ.get("SPILLWAY_FULL") else 128
REASONS = {"corrupt", "unknown_format", "no_video", "no_decoder", "pixel_format", "video_seconds", "video_frames", "video_pixels"}


def test_damaged_files(tmp_path):
    if not (BUILD / "tests/media/media_video_tool").exists():
        pytest.skip("media_video_tool is not built")
    whole = broken_videos.make_whole(tmp_path)
    tool = VideoTool(seconds=60)
    for kind, path in whole.items():
        answer = tool("both", path)
        assert answer["status"] == "ok" and len(set(answer["hash"])) == 1, (kind, answer)
    path, answers, unlike, unclear = tmp_path / "damaged", {}, [], []
    for name, data in broken_videos.damaged(whole, SEED, COUNT):
        path.write_bytes(data)
        answer = tool("both", path)
        answers[answer["status"]] = answers.get(answer["status"], 0) + 1
        if answer["status"] == "ok":
            if len(set(answer["hash"])) != 1:  # in order; by two threads; last segment first
                unlike.append((name, answer["hash"]))
        elif answer["status"] not in ("invalid", "too_large", "unsupported") or answer["code"] not in REASONS or not answer["message"]:
            unclear.append((name, answer))
    print(f"seed {SEED}: {COUNT} files, {answers}")
    assert not unlike and not unclear
    assert answers.get("ok", 0) > COUNT // 4
    assert tool.close() == 0  # with the address sanitizer: nothing leaked
