# SPDX-License-Identifier: Apache-2.0
"""Small videos of many kinds, and damaged copies of them: bits flipped, ends cut off, headers wrong, pieces missing, doubled or
swapped. What is made depends on the seed alone."""
import random

from video_tool import ffmpeg

SOURCE = ("-f", "lavfi", "-i", "testsrc2=size=80x64:rate=25:duration=4.4")

# Two runs each, where the kind has key frames to begin at.
KINDS = {
    "h264.mp4": ("-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-bf", "2", "-crf", "30"),
    "h264.mkv": ("-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-crf", "30", "-x264-params", "open-gop=1:slices=2"),
    "h264.ts": ("-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-crf", "30"),
    "h264.avi": ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-bf", "0", "-crf", "32"),
    "h264.h264": ("-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-crf", "30"),
    "hevc.mp4": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=50:pools=1", "-crf", "32"),
    "vp8.webm": ("-c:v", "libvpx", "-g", "50", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "60k"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-g", "50", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "60k"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-g", "50", "-bf", "2", "-q:v", "12"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-g", "25", "-bf", "2", "-q:v", "12"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-g", "25", "-bf", "2", "-q:v", "12"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "20", "-t", "2.2"),
    "flv1.flv": ("-c:v", "flv", "-g", "50", "-q:v", "12"),
    "theora.ogv": ("-c:v", "libtheora", "-g", "50", "-q:v", "3"),
    "anim.gif": ("-c:v", "gif", "-t", "2.2"),
    "raw.y4m": ("-pix_fmt", "yuv420p", "-t", "0.4"),
}


def make_whole(directory):
    """{kind: path}, made once."""
    paths = {}
    for kind, words in KINDS.items():
        paths[kind] = directory / kind
        colours = () if kind == "anim.gif" or "-pix_fmt" in words else ("-pix_fmt", "yuv420p")
        ffmpeg(*SOURCE, *words, *colours, "-flags", "+bitexact", "-fflags", "+bitexact", "-threads", "1", paths[kind])
    return paths


def flip_bits(data, rng):
    for _ in range(rng.choice((1, 2, 5, 20, 200))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data, rng):
    del data[rng.randrange(len(data)):]


def cut_front(data, rng):
    del data[:rng.randrange(1, max(2, len(data) // 2))]


def wrong_header(data, rng):
    for _ in range(rng.randrange(1, 12)):
        data[rng.randrange(min(len(data), 800))] = rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))


def wrong_tail(data, rng):
    for _ in range(rng.randrange(1, 12)):
        data[len(data) - 1 - rng.randrange(min(len(data), 3000))] = rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))


def hole(data, rng):
    at = rng.randrange(len(data))
    for i in range(at, min(len(data), at + rng.randrange(1, 2000))):
        data[i] = 0


def missing_piece(data, rng):
    at = rng.randrange(len(data))
    del data[at:at + rng.randrange(1, 1500)]


def doubled_piece(data, rng):
    at = rng.randrange(len(data))
    data[at:at] = data[at:at + rng.randrange(1, 1500)]


def swapped_pieces(data, rng):
    size = rng.randrange(1, max(2, len(data) // 4))
    a, b = sorted((rng.randrange(len(data) - size + 1), rng.randrange(len(data) - size + 1)))
    if a + size <= b:
        data[a:a + size], data[b:b + size] = data[b:b + size], data[a:a + size]


def big_number(data, rng):
    at = rng.randrange(max(1, min(len(data), 4000) - 4))
    data[at:at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\x10\0\0\0", b"\0\xff\xff\xff"))


DAMAGES = (flip_bits, flip_bits, flip_bits, cut, cut_front, wrong_header, wrong_header, wrong_tail, hole, missing_piece, doubled_piece,
           swapped_pieces, big_number, big_number)


def damaged(whole, seed, count):
    """`count` pairs of a name and bytes."""
    contents = {kind: path.read_bytes() for kind, path in whole.items()}
    kinds = sorted(contents)
    for i in range(count):
        rng = random.Random(f"{seed} {i}")
        kind = kinds[i % len(kinds)]
        damage = rng.choice(DAMAGES)
        data = bytearray(contents[kind])
        damage(data, rng)
        yield f"{i} {kind} {damage.__name__}", bytes(data)
