# SPDX-License-Identifier: Apache-2.0
"""A GPU's decoder in libavcodec's place gives the same frames, and what it does not decode soundly is decoded again without it.
No GPU: libraries that pass for the driver's (gpu/) decode behind its interface."""
import os
import random
import subprocess

import pytest

from video_tool import BUILD, CLIPS, SANITIZED, VideoTool, ffmpeg

FAKES = BUILD / "tests/media/gpu"


def frames(path, threads, directory=None, words="", driver=FAKES, segments="all"):
    """What the tool says, and how many pictures the GPU gave."""
    log = directory / "log" if directory else None
    if log and log.exists():
        log.unlink()
    more = {} if not directory else {
        "LD_LIBRARY_PATH": f"{driver}:{os.environ.get('LD_LIBRARY_PATH', '')}".strip(":"), "SPILLWAY_FAKE_NVDEC": words,
        "SPILLWAY_FAKE_NVDEC_LOG": str(log)}
    tool = VideoTool(**more)
    answer = tool("frames", threads, segments, path)
    assert tool.close() == 0
    return answer, log.stat().st_size if log and log.exists() else 0


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Made ones: H.264 and HEVC in MP4 and as raw streams, B frames, open groups, VP9, full range, and what the GPU does not take."""
    folder = tmp_path_factory.mktemp("clips")
    source = ["-f", "lavfi", "-i", "testsrc2=size=176x128:rate=25", "-frames:v", "130"]
    made = {
        "h264.mp4": ["-c:v", "libx264", "-g", "50", "-bf", "3"],
        "h264.h264": ["-c:v", "libx264", "-g", "50", "-bf", "2"],
        "hevc.mp4": ["-c:v", "libx265", "-x265-params", "keyint=50:open-gop=1:log-level=none"],
        "full.mkv": ["-c:v", "libx264", "-g", "50", "-color_range", "pc", "-pix_fmt", "yuvj420p"],
        "vp9.webm": ["-c:v", "libvpx-vp9", "-g", "50", "-cpu-used", "8", "-deadline", "realtime"],
        "ten.mp4": ["-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "keyint=50:log-level=none"],
        "odd.mp4": ["-c:v", "libx264", "-g", "50", "-vf", "crop=175:127", "-pix_fmt", "yuv444p"],
        "mpeg4.avi": ["-c:v", "mpeg4", "-g", "50"],
    }
    for name, words in made.items():
        ffmpeg(*source, *words, folder / name)
    return folder


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "full.mkv", "vp9.webm"])
def test_the_same_frames(clips, tmp_path, name):
    whole, _ = frames(clips / name, 1)
    assert whole["status"] == "ok" and not any(segment["lost"] for segment in whole["segments"])
    got, pictures = frames(clips / name, -1, tmp_path)
    assert got == whole
    assert pictures >= 130, "the GPU decoded nothing"
    last = len(whole["segments"]) - 1
    got, _ = frames(clips / name, -1, tmp_path, segments=f"{last},0")
    assert got["segments"] == [whole["segments"][last], whole["segments"][0]]


@pytest.mark.parametrize("name", ["ten.mp4", "odd.mp4", "mpeg4.avi", "h264.h264"])  # the last has no timestamps
def test_what_it_does_not_take(clips, tmp_path, name):
    got, pictures = frames(clips / name, -1, tmp_path)
    assert got == frames(clips / name, 1)[0] and pictures == 0


@pytest.mark.parametrize("words", ["none", "create", "decode@70", "conceal@3", "conceal@90", "drop@60", "map@0", "drop@129"])
def test_what_goes_wrong_is_decoded_again(clips, tmp_path, words):
    for name in ("h264.mp4",) if SANITIZED else ("h264.mp4", "hevc.mp4"):
        got, pictures = frames(clips / name, -1, tmp_path, words)
        assert got == frames(clips / name, 1)[0]
        assert pictures < 160, "it should not have been asked again"


def test_no_driver_and_no_device(clips, tmp_path):
    whole = frames(clips / "h264.mp4", 1)[0]
    assert frames(clips / "h264.mp4", -1, tmp_path, driver=tmp_path)[0] == whole
    got, pictures = frames(clips / "h264.mp4", -2, tmp_path)  # the fake has one device
    assert got == whole and pictures == 0


@pytest.mark.parametrize("seed", range(1 if SANITIZED else 4))
def test_damaged_files(clips, tmp_path, seed):
    """A driver that conceals may conceal differently: whatever it told is not used."""
    rng = random.Random(seed)
    for name in ("h264.mp4", "hevc.mp4", "vp9.webm"):
        data = bytearray((clips / name).read_bytes())
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data) // 8, len(data))] ^= 1 << rng.randrange(8)
        path = tmp_path / name
        path.write_bytes(data)
        assert frames(path, -1, tmp_path)[0] == frames(path, 1)[0], (name, seed)


def test_a_report_of_the_command(clips, tmp_path):
    if SANITIZED:
        pytest.skip("the driver's stand-ins are not built for a process of another sanitizer")
    def analyze(name, **more):
        done = subprocess.run([BUILD / "spillway", "analyze", clips / "h264.mp4", "-o", tmp_path / name], env=dict(os.environ, **more),
                              capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return (tmp_path / name / "report.json").read_bytes()
    log = tmp_path / "log"
    gpu = {"SPILLWAY_NVDEC": "0", "SPILLWAY_FAKE_NVDEC_LOG": str(log),
           "LD_LIBRARY_PATH": f"{FAKES}:{os.environ.get('LD_LIBRARY_PATH', '')}".strip(":")}
    assert analyze("cpu") == analyze("gpu", **gpu)
    assert log.stat().st_size >= 130, "the GPU decoded nothing"


@pytest.mark.parametrize("path", CLIPS[1:2], ids=lambda path: path.stem)
def test_a_real_clip(tmp_path, path):
    if not path.exists() or SANITIZED:
        pytest.skip("a large clip shows a sanitizer no more than a small one" if SANITIZED else f"{path} is not there")
    got, pictures = frames(path, -1, tmp_path, segments="0,1")
    assert got == frames(path, 2, segments="0,1")[0] and pictures > 100
