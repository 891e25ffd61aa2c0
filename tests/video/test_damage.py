# SPDX-License-Identifier: Apache-2.0
"""Damaged and truncated videos: a partial report that says what was lost, or a clear error; the same bytes however often, by
however many chunks."""
import random

import clips
import pytest


@pytest.fixture(scope="module")
def sound(cut):
    return cut("bottle-detection.mp4", frames=200, size="128x72", gop=50, extra=("-movflags", "+faststart"))


@pytest.mark.parametrize("kind", ["flips", pytest.param("hole", marks=clips.once), "cut"])
def test_what_can_be_decoded_is_reported(analyze, sound, tmp_path, kind):
    data = bytearray(sound.read_bytes())
    begin = len(data) // 2  # behind the index, which faststart puts at the front
    dice = random.Random(7)
    if kind == "flips":
        for _ in range(40):
            data[dice.randrange(begin, len(data))] ^= 1 << dice.randrange(8)
    elif kind == "hole":
        data[begin:begin + 3000] = bytes(3000)
    else:
        del data[begin:]
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    runs = [analyze(damaged, "--chunks", chunks) for chunks in (1, 4)]
    assert [run.code for run in runs] == [0, 0], runs[0].complaint
    assert runs[0].report_bytes() == runs[1].report_bytes()
    report, story = runs[0].report(), runs[0].run()
    assert 0 < report["frames_analyzed"] <= 200
    lost = story["frames_total"] - report["frames_analyzed"]
    assert ("lost" in runs[0].text) == (lost > 0)
    if kind == "cut":
        assert report["frames_analyzed"] < 200


@pytest.mark.parametrize("content", [b"", b"no video at all, only words\n" * 100, b"\0\0\0\x18ftypisom" + bytes(400)])
def test_what_is_no_video_is_a_clear_error(analyze, tmp_path, content):
    path = tmp_path / "none.mp4"
    path.write_bytes(content)
    run = analyze(path)
    assert run.code == 1 and not run.text
    assert run.complaint.startswith("spillway analyze: ") and run.complaint.count("\n") == 1
    assert not (run.out / "report.json").exists()


def test_music_has_no_picture(analyze, program, tmp_path):
    path = tmp_path / "sound.mp4"
    clips.ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", path)
    run = analyze(path)
    assert run.code == 1 and "video" in run.complaint
