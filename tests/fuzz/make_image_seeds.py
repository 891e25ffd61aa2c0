#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the image fuzz targets (tests/fuzz/corpus/*): a few small pictures of each structure.
Run by hand after a change to tests/media/pictures.py; the seeds are kept in the repository, and a crasher that fuzzing
finds is put beside them as crash_WHAT."""
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "media"))
from pictures import (XMP, bmp_file, exif_with, gif_file, png_file, saved, scene, tiff_of, turbojpeg)  # noqa: E402

rgb = scene(12, 9)
picture = Image.fromarray(rgb)
rgba = Image.fromarray(np.dstack([rgb, rgb[..., :1]]))
cmyk = Image.fromarray(np.dstack([rgb, rgb[..., :1]]), "CMYK")
index = np.arange(12 * 9).reshape(9, 12, 1) % 4
table = bytes(range(12))

SEEDS = {
    "jpeg": {
        "420": turbojpeg(rgb, 2, 30), "grey": turbojpeg(rgb, 3, 30), "411": turbojpeg(rgb, 5, 30),
        "progressive": saved(picture, "JPEG", progressive=True, quality=20), "cmyk": saved(cmyk, "JPEG", quality=20),
        "turned": saved(picture, "JPEG", quality=20, exif=exif_with(6)),
        "xmp_restarts": saved(picture, "JPEG", quality=20, xmp=XMP % 8, restart_marker_blocks=1),
    },
    "png": {
        "rgb": png_file(rgb, 2, 8), "adam7": png_file(rgb, 2, 8, True), "grey16": png_file(rgb[..., :1] * np.uint16(257), 0, 16),
        "palette2": png_file(index, 3, 2, palette=table, extra=[(b"tRNS", b"\0\x80")]),
        "turned": png_file(rgb, 2, 8, extra=[(b"eXIf", exif_with(5)[6:])]),
        "xmp": png_file(index, 0, 2, extra=[(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP % 7))]),
        "profile": png_file(index, 0, 2, True, extra=[(b"tEXt", b"Raw profile type exif\0\nexif\n  38\n" +
                                                       exif_with(3).hex().encode() + b"\n")]),
        "alpha": png_file(np.asarray(rgba), 6, 8),
    },
    "webp": {
        "lossy": saved(picture, "WEBP", quality=10), "lossless": saved(picture, "WEBP", lossless=True),
        "alpha": saved(rgba, "WEBP", quality=10), "turned": saved(picture, "WEBP", quality=10, exif=exif_with(7)),
        "animated": saved(picture, "WEBP", quality=10, save_all=True, append_images=[Image.fromarray(scene(12, 9, 4))]),
    },
    "gif": {
        "plain": saved(picture.quantize(8), "GIF"), "transparent": saved(picture.quantize(8), "GIF", transparency=2),
        "offset": gif_file(index[..., 0], (20, 15), (3, 4), 5, True, colors=4),
        "interlaced": gif_file(index[..., 0], (12, 9), (0, 0), None, False, True, colors=4),
        "comment": saved(picture.quantize(4), "GIF", comment=b"hello"),
    },
    "bmp": {
        "rgb": saved(picture, "BMP"), "one": saved(picture.convert("1"), "BMP"),
        "palette4": bmp_file(bytes(range(72)), 4, 12, 9, palette=bytes(range(64))),
        "fields": bmp_file(bytes(216), 16, 12, 9, 3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
        "rle8": bmp_file(bytes([12, 4, 0, 0]) * 8 + bytes([3, 7, 0, 5, 1, 2, 3, 4, 5, 0, 0, 2, 1, 0, 3, 9, 0, 1]), 8, 12, 9, 1,
                         palette=bytes(64), colors=16),
        "rle4": bmp_file(bytes([12, 0x4F, 0, 0]) * 8 + bytes([12, 0x12, 0, 1]), 4, 12, 9, 2, palette=bytes(range(64))),
    },
    "tiff": {
        "rgb": saved(picture, "TIFF"), "lzw": saved(picture, "TIFF", compression="tiff_lzw"),
        "packbits": saved(picture, "TIFF", compression="packbits"),
        "deflate16": tiff_of(rgb * np.uint16(257), 16, 2, 8, 2, rows=4, big_endian=True),
        "fax4": saved(picture.convert("1"), "TIFF", compression="group4"),
        "fax3": saved(picture.convert("1"), "TIFF", compression="group3"),
        "planar": tiff_of(rgb, 8, 2, planar=True, rows=4), "palette": tiff_of(index, 2, 3, t320=(3, list(range(12)))),
        "jpeg": saved(picture, "TIFF", compression="jpeg", quality=20),
        "turned": tiff_of(rgb, 8, 2, t274=(3, [6])), "cmyk": tiff_of(np.asarray(cmyk), 8, 5),
    },
}

SEEDS["image"] = {f"{target}_{name}": data for target, name in
                  [("jpeg", "turned"), ("png", "turned"), ("webp", "turned"), ("gif", "comment"), ("bmp", "one"), ("tiff", "turned")]
                  for data in [SEEDS[target][name]]}

if __name__ == "__main__":
    for target, seeds in SEEDS.items():
        directory = HERE / "corpus" / target
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (directory / name).write_bytes(data)
    print(sum(len(s) for s in SEEDS.values()), "seeds,", sum(len(d) for s in SEEDS.values() for d in s.values()), "bytes")
