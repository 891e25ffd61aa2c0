# SPDX-License-Identifier: Apache-2.0
"""Video files against ffprobe and ffmpeg: every frame, its timestamp and its luma; and the same frames whoever reads them, in
whatever order, with any number of threads."""
import os
import random

import numpy as np
import pytest

from field_coded import field_coded_h264
from video_tool import BUILD, CLIPS, LOOKAHEAD, SANITIZED, VideoTool, ffmpeg, frames_of, probe_frames


FULL = os.environ.get("SPILLWAY_FULL")


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


def raw_of(path, pixel_format):
    return np.frombuffer(ffmpeg("-noautorotate", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt",
                                pixel_format, "-"), np.uint8)


def luma_of(path, index):
    """ffmpeg's luma planes [frames, height, width] of an 8-bit YUV video, not rotated."""
    height, width = index["coded_height"], index["coded_width"]
    planes = raw_of(path, index["pixel_format"]).reshape(index["frames"], -1)[:, :height * width].reshape(-1, height, width)
    return limited_to_full()[planes] if index["limited"] else planes


def grey_of(tool, path, index, directory, threads=1):
    answer = tool("grey", threads, path, directory / "grey.raw")
    assert answer["status"] == "ok", answer
    return np.fromfile(directory / "grey.raw", np.uint8).reshape(-1, index["height"], index["width"])


def check_segments(tool, path, index, ways=4, seed=1):
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
    random.Random(seed).shuffle(order)
    shuffled = tool("frames", 2, ",".join(map(str, order)), path)
    assert sorted(shuffled["segments"], key=lambda segment: segment["segment"]) == whole["segments"], path
    if ways > 1:
        for threads in (2, 3):
            assert tool("frames", threads, "all", path) == whole, (path, threads)
        backwards = tool("frames", 1, ",".join(map(str, range(len(order))[::-1])), path)
        assert backwards["segments"][::-1] == whole["segments"], path
        assert tool("frames", 1, order[0], path)["segments"] == [whole["segments"][order[0]]], path
    return whole


def check_grey(tool, path, index, directory):
    """Our planes are ffmpeg's samples, through the range table, shifted down, or weighed, and turned."""
    kind, height, width = index["pixel_format"], index["coded_height"], index["coded_width"]
    if kind in ("yuv420p", "yuvj420p", "yuv422p", "nv12", "gray"):
        planes = raw_of(path, kind).reshape(index["frames"], -1)[:, :height * width].reshape(-1, height, width)
    elif kind.endswith("p10le"):
        wide = raw_of(path, kind).view(np.uint16).reshape(index["frames"], -1)[:, :height * width].reshape(-1, height, width)
        planes = np.minimum((wide.astype(np.int32) + 2) >> 2, 255).astype(np.uint8)
    elif kind == "yuyv422":
        planes = raw_of(path, kind).reshape(-1, height, width, 2)[..., 0]
    else:
        colours = raw_of(path, "rgb24").reshape(-1, height, width, 3).astype(np.int64)
        planes = (colours @ np.array([9798, 19235, 3735]) + 16384 >> 15).astype(np.uint8)
    planes = limited_to_full()[planes] if index["limited"] else planes
    planes = planes[:, :, ::-1] if index["mirrored"] else planes
    planes = np.rot90(planes, -index["rotation"] // 90, axes=(1, 2))
    ours = grey_of(tool, path, index, directory)
    assert ours.shape == planes.shape and (ours == planes).all(), path


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_real_clips(tool, tmp_path, path):
    if not path.exists():
        pytest.skip(f"{path} is not there")
    index = tool("index", path)
    assert index["status"] == "ok", index
    frames = probe_frames(path)
    assert index["frames"] == len(frames) and index["has_times"] and not index["notes"]
    assert index["pts"] == [frame["pts"] for frame in frames]
    if not SANITIZED:
        check_grey(tool, path, index, tmp_path)
    if not SANITIZED and (FULL or index["frames"] < 200):
        check_segments(tool, path, index, ways=4 if FULL else 1)


def lavfi(seconds=4.4, size="80x64", rate=25):
    return "-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"


X264 = ("-c:v", "libx264", "-preset", "veryfast")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params")
VFR = ("-vf", "select='not(mod(n,3))+gt(n,70)'", "-fps_mode", "vfr")
OPEN = "open-gop=1:b-pyramid=normal:keyint=50:min-keyint=50:scenecut=0"
# What ffmpeg makes them with; then how many runs there are (0 = not looked at) and whether the container has timestamps.
MADE = {
    "b-frames.mp4": ((*lavfi(), *X264, "-g", "50", "-bf", "3", "-pix_fmt", "yuv420p"), 3, True),
    "open.mp4": ((*lavfi(), *X264, "-g", "50", "-bf", "3", "-x264-params", OPEN, "-pix_fmt", "yuv420p"), 3, True),
    "open.ts": ((*lavfi(), *X264, "-g", "50", "-bf", "3", "-x264-params", OPEN, "-pix_fmt", "yuv420p"), 3, True),
    "mbaff.ts": ((*lavfi(), *X264, "-g", "50", "-flags", "+ildct+ilme", "-x264-params", "interlaced=1", "-pix_fmt", "yuv420p"), 3, True),
    "refresh.mkv": ((*lavfi(), *X264, "-g", "30", "-x264-params", "intra-refresh=1", "-pix_fmt", "yuv420p"), 1, True),
    "no-pts.avi": ((*lavfi(), *X264, "-g", "50", "-bf", "0", "-pix_fmt", "yuv420p"), 3, True),
    "counted.avi": ((*lavfi(), *X264, "-g", "50", "-bf", "2", "-pix_fmt", "yuv420p"), 1, False),
    "counted.h264": ((*lavfi(), *X264, "-g", "50", "-bf", "2", "-pix_fmt", "yuv420p"), 1, False),
    "open-hevc.mp4": ((*lavfi(), *X265, "log-level=none:keyint=50:open-gop=1:bframes=3", "-pix_fmt", "yuv420p"), 3, True),
    "radl.mkv": ((*lavfi(), *X265, "log-level=none:keyint=50:open-gop=0:bframes=3:radl=2", "-pix_fmt", "yuv420p"), 3, True),
    "hevc.ts": ((*lavfi(), *X265, "log-level=none:keyint=50", "-pix_fmt", "yuv420p"), 3, True),
    "hevc10.mp4": ((*lavfi(2), *X265, "log-level=none:keyint=50", "-pix_fmt", "yuv420p10le"), 0, True),
    "alt-ref.webm": ((*lavfi(), "-c:v", "libvpx", "-g", "50", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "100k", "-deadline",
                      "realtime", "-cpu-used", "8"), 3, True),
    "vp9.webm": ((*lavfi(), "-c:v", "libvpx-vp9", "-g", "50", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "100k", "-cpu-used",
                  "8"), 3, True),
    "av1.mp4": ((*lavfi(3), "-c:v", "libsvtav1", "-preset", "12", "-g", "50"), 2, True),
    "mpeg2.ts": ((*lavfi(), "-c:v", "mpeg2video", "-bf", "2", "-g", "25"), 3, True),
    "mpeg1.mpg": ((*lavfi(), "-c:v", "mpeg1video", "-bf", "2", "-g", "25"), 0, False),
    "mpeg4.mkv": ((*lavfi(), "-c:v", "mpeg4", "-bf", "2", "-g", "50"), 3, True),
    "mpeg4.avi": ((*lavfi(), "-c:v", "mpeg4", "-bf", "0", "-g", "50"), 3, True),
    "jpeg.avi": ((*lavfi(3), "-c:v", "mjpeg"), 2, True),
    "flv1.flv": ((*lavfi(), "-c:v", "flv", "-g", "50"), 3, True),
    "moving.gif": ((*lavfi(2), "-c:v", "gif"), 1, True),
    "theora.ogv": ((*lavfi(2), "-c:v", "libtheora", "-g", "50"), 1, True),
    "vfr.mkv": ((*lavfi(6), *VFR, *X264, "-g", "50", "-pix_fmt", "yuv420p"), 0, True),
    "vfr.mp4": ((*lavfi(6), *VFR, *X264, "-g", "50", "-pix_fmt", "yuv420p"), 0, True),
    "full.mp4": ((*lavfi(2), *X264, "-pix_fmt", "yuvj420p", "-color_range", "pc"), 0, True),
    "deep444.mp4": ((*lavfi(1), *X264, "-pix_fmt", "yuv444p10le"), 0, True),
    "prores.mov": ((*lavfi(1), "-c:v", "prores"), 0, True),
    "ffv1-422.mkv": ((*lavfi(1), "-c:v", "ffv1", "-pix_fmt", "yuv422p"), 0, True),
    "ffv1-grey.mkv": ((*lavfi(1), "-c:v", "ffv1", "-pix_fmt", "gray"), 0, True),
    "ffv1-rgb.mkv": ((*lavfi(1), "-c:v", "ffv1", "-pix_fmt", "bgr0"), 0, True),
    "rgb.mp4": ((*lavfi(1), "-c:v", "libx264rgb", "-qp", "10", "-preset", "ultrafast"), 0, True),
    "nv12.mkv": ((*lavfi(1), "-c:v", "rawvideo", "-pix_fmt", "nv12"), 0, True),
    "yuyv.avi": ((*lavfi(1), "-c:v", "rawvideo", "-pix_fmt", "yuyv422"), 0, True),
    "palette.avi": ((*lavfi(3), "-c:v", "rawvideo", "-pix_fmt", "pal8"), 2, True),
    "odd.mkv": ((*lavfi(1, "83x61"), "-c:v", "ffv1", "-pix_fmt", "yuv420p"), 0, True),
    "raw.y4m": ((*lavfi(1), "-pix_fmt", "yuv420p"), 0, True),
    "sound.mp4": ((*lavfi(), "-f", "lavfi", "-i", "sine=duration=4", *X264, "-g", "50", "-c:a", "aac", "-pix_fmt", "yuv420p"), 3, True),
    "sound.ts": ((*lavfi(), "-f", "lavfi", "-i", "sine=duration=4", *X264, "-g", "50", "-c:a", "aac", "-pix_fmt", "yuv420p"), 3, True),
}
SAMPLES = sorted(MADE) if not SANITIZED else ["alt-ref.webm", "counted.avi", "open.ts", "open-hevc.mp4", "palette.avi", "vfr.mkv"]


@pytest.mark.parametrize("name", SAMPLES)
def test_made_clips(tool, tmp_path, name):
    words, runs, has_times = MADE[name]
    path = tmp_path / name
    if name == "av1.mp4" and b"libsvtav1" not in ffmpeg("-encoders"):
        pytest.skip("this ffmpeg has no libsvtav1")
    ffmpeg(*words, path)
    index = tool("index", path)
    assert index["status"] == "ok", index
    frames = probe_frames(path)
    assert index["frames"] == len(frames)
    assert index["has_times"] == has_times and (not has_times or not index["notes"]), index["notes"]
    if has_times:
        assert index["pts"] == [frame["best_effort_timestamp"] for frame in frames]
    assert index["variable_rate"] == name.startswith("vfr")
    assert not runs or len(index["runs"]) == runs or (runs == 3 and len(index["runs"]) == 2), index["runs"]
    check_grey(tool, path, index, tmp_path)
    check_segments(tool, path, index)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """110 frames of H.264 with B-frames, key frames at 0, 50 and 100."""
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    ffmpeg(*MADE["b-frames.mp4"][0], path)
    return path


def test_edit_list(tool, tmp_path, plain):
    """A cut that copies: the frames before the edit's begin are decoded and not shown."""
    ffmpeg("-ss", "1.3", "-i", plain, "-c", "copy", tmp_path / "edit.mp4")
    index = tool("index", tmp_path / "edit.mp4")
    frames = probe_frames(tmp_path / "edit.mp4")
    assert index["frames"] == len(frames) < 110 and index["pts"] == [frame["pts"] for frame in frames]
    check_grey(tool, tmp_path / "edit.mp4", index, tmp_path)
    check_segments(tool, tmp_path / "edit.mp4", index)


def test_field_pairs(tool, tmp_path):
    """Every field a packet of its own: 220 packets are 110 frames."""
    (tmp_path / "fields.h264").write_bytes(field_coded_h264(110, 50))
    ffmpeg("-fflags", "+genpts", "-r", "50", "-i", tmp_path / "fields.h264", "-c", "copy", tmp_path / "fields.ts")
    for name, runs in (("fields.h264", 1), ("fields.ts", 3)):
        index = tool("index", tmp_path / name)
        frames = probe_frames(tmp_path / name)
        assert index["frames"] == len(frames) == 110 and len(index["runs"]) == runs, name
        if index["has_times"]:
            assert index["pts"] == [frame["pts"] for frame in frames] and index["rate"] == [25, 1]
        check_grey(tool, tmp_path / name, index, tmp_path)
        check_segments(tool, tmp_path / name, index)


def matrix_patched(path, matrix):
    """The file with another display matrix in its track header (16.16 numbers a b c d)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # behind version and flags, times, number, duration, layer, volume
    for place, value in zip((0, 1, 3, 4), matrix):
        data[at + 4 * place:at + 4 * place + 4] = (value & 0xffffffff).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("matrix, rotation, mirrored", [
    ((1, 0, 0, 1), 0, 0), ((0, 1, -1, 0), 90, 0), ((-1, 0, 0, -1), 180, 0), ((0, -1, 1, 0), 270, 0),
    ((-1, 0, 0, 1), 0, 1), ((1, 0, 0, -1), 180, 1), ((0, 1, 1, 0), 270, 1), ((0, -1, -1, 0), 90, 1)])
def test_display_matrix(tool, tmp_path, plain, matrix, rotation, mirrored):
    path = tmp_path / "turned.mp4"
    path.write_bytes(matrix_patched(plain, [v << 16 for v in matrix]))
    index = tool("index", path)
    assert (index["rotation"], index["mirrored"]) == (rotation, mirrored)
    assert (index["width"], index["height"]) == ((64, 80) if rotation % 180 else (80, 64))
    if not SANITIZED:
        check_grey(tool, path, index, tmp_path)
    # The meaning of the matrix itself, on the first frame: x' = a x + c y, y' = b x + d y.
    stored = luma_of(plain, dict(index, rotation=0))[0]
    a, b, c, d = matrix
    shown = grey_of(tool, path, index, tmp_path)[0]
    y, x = np.mgrid[0:64, 0:80]
    to_x, to_y = a * x + c * y, b * x + d * y
    want = np.empty_like(shown)
    want[to_y - to_y.min(), to_x - to_x.min()] = stored
    assert (shown == want).all()


def test_other_angles_are_noted(tool, tmp_path, plain):
    path = tmp_path / "oblique.mp4"
    path.write_bytes(matrix_patched(plain, [46341, 46341, -46341, 46341]))
    index = tool("index", path)
    assert index["rotation"] == 0 and "display matrix" in index["notes"][0]


def test_pictures(tool, tmp_path, plain):
    """RGB within rounding of ffmpeg's, in any order, turned as the planes are."""
    index = tool("index", plain)
    assert tool("picture", "3,60,59,0,109,3", plain, tmp_path / "rgb.raw")["status"] == "ok"
    ours = np.fromfile(tmp_path / "rgb.raw", np.uint8).reshape(-1, 64, 80, 3).astype(int)
    theirs = np.frombuffer(ffmpeg("-i", plain, "-fps_mode", "passthrough", "-sws_flags", "neighbor+accurate_rnd+full_chroma_int",
                                  "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), np.uint8).reshape(-1, 64, 80, 3)[[3, 60, 59, 0, 109, 3]]
    off = np.abs(ours - theirs)
    print(f"RGB beside swscale's: mean {off.mean():.3f}, max {off.max()}")
    assert off.mean() < 1.5 and (ours[0] == ours[5]).all()
    assert tool("picture", index["frames"], plain, tmp_path / "rgb.raw")["status"] == "not_found"


def test_film_and_png(tool, tmp_path, plain):
    assert tool("film", plain, tmp_path / "film.mp4")["status"] == "ok"
    frames = probe_frames(tmp_path / "film.mp4")
    assert len(frames) == 20 and frames[0]["width"] == 80
    from PIL import Image
    tool("picture", "0", plain, tmp_path / "rgb.raw")
    with Image.open(tmp_path / "film.mp4.png") as image:
        assert image.mode == "RGB" and image.tobytes() == (tmp_path / "rgb.raw").read_bytes()
    film = np.frombuffer(ffmpeg("-i", tmp_path / "film.mp4", "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), np.uint8)
    assert np.abs(film.astype(int) - np.fromfile(tmp_path / "rgb.raw", np.uint8)).mean() < 12


# --- files that are not whole, or not what they seem ---

def test_cut_in_the_middle_of_a_group(tool, tmp_path):
    """A recording that begins anywhere: what cannot be decoded is left out, and said."""
    ffmpeg(*MADE["open.ts"][0], tmp_path / "whole.ts")
    data = (tmp_path / "whole.ts").read_bytes()
    (tmp_path / "late.ts").write_bytes(data[len(data) // 4 // 188 * 188:])
    index = tool("index", tmp_path / "late.ts")
    assert index["status"] == "ok" and 0 < index["frames"] < 110
    assert any("before the first key frame" in note for note in index["notes"]), index["notes"]
    whole = check_segments(tool, tmp_path / "late.ts", index)
    last = tool("frames", 1, "all", tmp_path / "whole.ts")
    assert frames_of(whole)[-1][2] == frames_of(last)[-1][2]


def test_truncated(tool, tmp_path, plain):
    data = plain.read_bytes()
    ffmpeg("-i", plain, "-c", "copy", "-movflags", "+faststart", tmp_path / "fast.mp4")
    fast = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(fast[:len(fast) * 2 // 3])
    index = tool("index", tmp_path / "cut.mp4")
    assert index["status"] == "ok" and 0 < index["frames"] < 110 and "ends early" in index["notes"][0], index
    (tmp_path / "cut.mp4").write_bytes(data[:len(data) * 2 // 3])  # its table of contents was at the end
    answer = tool("index", tmp_path / "cut.mp4")
    assert (answer["status"], answer["code"]) == ("invalid", "corrupt"), answer


def test_size_changes(tool, tmp_path):
    """Frames of another size in the middle are lost, with the reason; the rest is there."""
    for size in ("80x64", "96x64"):
        ffmpeg(*lavfi(2, size), *X264, "-g", "50", "-pix_fmt", "yuv420p", "-bsf:v", "h264_mp4toannexb", tmp_path / f"{size}.ts")
    (tmp_path / "both.ts").write_bytes((tmp_path / "80x64.ts").read_bytes() + (tmp_path / "96x64.ts").read_bytes())
    index = tool("index", tmp_path / "both.ts")
    answer = tool("frames", 1, "all", tmp_path / "both.ts")
    lost = [segment for segment in answer["segments"] if segment["lost"]]
    assert index["frames"] == 100 and len(frames_of(answer)) == 50 and sum(segment["lost"] for segment in lost) == 50
    assert "96 x 64" in lost[0]["reason"] and "80 x 64" in lost[0]["reason"]
    assert tool("frames", 2, "all", tmp_path / "both.ts") == answer


def test_clock_set_back(tool, tmp_path, plain):
    """Two recordings glued together: their timestamps go on."""
    ffmpeg("-i", plain, "-c", "copy", tmp_path / "one.ts")
    (tmp_path / "two.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 2)
    index = tool("index", tmp_path / "two.ts")
    assert index["frames"] == 220 and index["has_times"], index["notes"]
    assert all(a < b for a, b in zip(index["pts"], index["pts"][1:]))
    check_segments(tool, tmp_path / "two.ts", index)


def test_clock_runs_over(tool, tmp_path, plain):
    """A transport stream's clock has 33 bits: 26.5 hours."""
    ffmpeg("-i", plain, "-c", "copy", "-output_ts_offset", "95441", tmp_path / "over.ts")
    index = tool("index", tmp_path / "over.ts")
    assert index["pts"] == [frame["pts"] for frame in probe_frames(tmp_path / "over.ts")] and len(index["runs"]) == 3
    assert index["pts"][0] < 0 < index["pts"][-1]  # libav counts from where it runs over
    check_segments(tool, tmp_path / "over.ts", index)


def test_damaged_frames_are_told(tool, tmp_path):
    """A hole in one group of pictures: later runs are whole, and the hole has a reason."""
    ffmpeg(*lavfi(8), *X264, "-g", "50", "-bf", "2", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", tmp_path / "whole.mp4")
    data = bytearray((tmp_path / "whole.mp4").read_bytes())
    at = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[at:at + 3000] = bytes(3000)
    (tmp_path / "hole.mp4").write_bytes(data)
    whole, hole = (tool("frames", 1, "all", tmp_path / name) for name in ("whole.mp4", "hole.mp4"))
    assert tool("frames", 2, "all", tmp_path / "hole.mp4") == hole
    wrong = [segment for segment in hole["segments"] if segment["reason"]]
    assert 1 <= len(wrong) <= 2 and sum(segment["lost"] + segment["damaged"] for segment in wrong) > 0, wrong
    same = [a["segment"] for a, b in zip(whole["segments"], hole["segments"]) if a == b]
    assert len(same) >= len(whole["segments"]) - 2


@pytest.mark.parametrize("name, data, status, code", [
    ("empty", b"", "invalid", "unknown_format"),
    ("text", b"This is no video at all.\n" * 100, "invalid", "unknown_format"),
    ("playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n", "invalid", "unknown_format"),
    ("concat", b"ffconcat version 1.0\nfile '/etc/passwd'\nduration 1\n", "invalid", "unknown_format"),
    ("sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n", "invalid", "unknown_format"),
    ("dash", b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>" * 5, "invalid", "unknown_format")])
def test_no_video(tool, tmp_path, name, data, status, code):
    (tmp_path / name).write_bytes(data)
    answer = tool("index", tmp_path / name)
    assert (answer["status"], answer["code"]) == (status, code) and answer["message"], answer


def test_sound_and_covers_are_no_video(tool, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "sound.m4a")
    ffmpeg(*lavfi(0.1), "-frames:v", "1", tmp_path / "cover.jpg")
    ffmpeg("-i", tmp_path / "sound.m4a", "-i", tmp_path / "cover.jpg", "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0",
           "attached_pic", tmp_path / "cover.m4a")
    for name in ("sound.m4a", "cover.m4a"):
        answer = tool("index", tmp_path / name)
        assert (answer["status"], answer["code"]) == ("invalid", "no_video"), answer
    assert "cover" in answer["message"]


def test_memory_stays_small(tool, tmp_path):
    """A video of 60 MB is not held."""
    if SANITIZED:
        pytest.skip("sanitizers keep freed blocks")
    ffmpeg(*lavfi(8, "640x480"), "-c:v", "rawvideo", "-pix_fmt", "yuv420p", tmp_path / "large.avi")
    fresh = VideoTool()
    index = fresh("index", tmp_path / "large.avi")
    assert index["frames"] == 200
    fresh("frames", 1, index["segments"][-1][0], tmp_path / "large.avi")
    with open(f"/proc/{fresh.process.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(f"peak resident {peak // 1024} MiB for a file of {(tmp_path / 'large.avi').stat().st_size >> 20} MiB")
    assert peak < 60 * 1024
    assert fresh.close() == 0
