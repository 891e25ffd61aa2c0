# SPDX-License-Identifier: Apache-2.0
"""Files that are no pictures, or no longer: cut, empty, of the wrong type, lying about their size, built as bombs.

`malformed()` yields (name, bytes): each must be refused. `flipped(seed, count)` yields pictures with a few bits or bytes
changed: they may be refused or decode, but never harm. Used here and by the gateway's upload test."""
import io
import struct
import zlib

import numpy as np
from PIL import Image

import pictures
from pictures import bmp_file, exif_with, png_chunk, png_file, saved, scene, tiff_of, turbojpeg


def bases():
    """One picture of each kind of structure, and how many of its last bytes carry no pixel."""
    rgb = scene(64, 48)
    picture = Image.fromarray(rgb)
    cmyk = Image.fromarray(np.dstack([rgb, rgb[..., :1]]), "CMYK")
    rgba = Image.fromarray(np.dstack([rgb, rgb[..., :1]]))
    quantised = picture.quantize(32)
    frames = [Image.fromarray(scene(64, 48, s)) for s in (2, 3)]
    yield "jpeg", turbojpeg(rgb, 2), 0
    yield "jpeg_444", turbojpeg(rgb, 0), 0
    yield "jpeg_progressive", saved(picture, "JPEG", progressive=True), 0
    yield "jpeg_restarts", saved(picture, "JPEG", restart_marker_blocks=2), 0
    yield "jpeg_cmyk", saved(cmyk, "JPEG"), 0
    yield "jpeg_exif", saved(picture, "JPEG", exif=exif_with(6)), 0
    yield "png", png_file(rgb, 2, 8, idat_bytes=512), 0
    yield "png_adam7", png_file(rgb, 2, 8, True), 0
    yield "png_palette", saved(quantised, "PNG", transparency=3), 0
    yield "png_exif", png_file(rgb, 2, 8, extra=[(b"eXIf", exif_with(6)[6:])]), 0
    yield "webp_lossy", saved(picture, "WEBP"), 0
    yield "webp_lossless", saved(picture, "WEBP", lossless=True), 0
    yield "webp_alpha", saved(rgba, "WEBP"), 0
    yield "webp_animated", saved(picture, "WEBP", save_all=True, append_images=frames), 0
    yield "gif", saved(quantised, "GIF"), 2
    yield "gif_transparent", saved(quantised, "GIF", transparency=3), 2
    yield "bmp", saved(picture, "BMP"), 0
    yield "bmp_palette", saved(quantised, "BMP"), 0
    yield "bmp_rle", bmp_file(bytes([64, 4, 0, 0]) * 47 + bytes([64, 9, 0, 1]), 8, 64, 48, 1, palette=bytes(64), colors=16), 0
    yield "tiff", saved(picture, "TIFF"), 0
    yield "tiff_lzw", saved(picture, "TIFF", compression="tiff_lzw"), 0
    yield "tiff_packbits", saved(picture, "TIFF", compression="packbits"), 0
    yield "tiff_deflate", saved(picture, "TIFF", compression="tiff_adobe_deflate"), 0
    yield "tiff_predictor", tiff_of(rgb, 8, 2, 8, 2), 0
    yield "tiff_jpeg", saved(picture, "TIFF", compression="jpeg"), 0


def cuts():
    for name, data, tail in bases():
        last = len(data) - 1 - tail
        places = set(range(0, min(24, last))) | {last - i for i in range(6)}
        places |= {int(p) for p in np.linspace(24, last, 24)}
        for place in sorted(p for p in places if 0 <= p <= last):
            yield f"cut_{name}_{place}", data[:place]


def wrong_types():
    yield "empty", b""
    for n in (1, 2, 3, 8, 100, 5000):
        yield f"zeros_{n}", bytes(n)
        yield f"ones_{n}", b"\xff" * n
        yield f"text_{n}", (b"This is not a picture. " * 300)[:n]
    yield "html", b"<!DOCTYPE html><html><img src=cat.jpg></html>"
    yield "svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "json", b'{"image": "cat.jpg"}'
    yield "pdf", b"%PDF-1.7\n" + bytes(200)
    yield "zip", b"PK\x03\x04" + bytes(200)
    yield "gzip", b"\x1f\x8b\x08" + bytes(200)
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(200)
    yield "mp4", b"\0\0\0\x18ftypmp42" + bytes(200)
    yield "heic", b"\0\0\0\x18ftypheic" + bytes(200)
    yield "avif", b"\0\0\0\x18ftypavif" + bytes(200)
    yield "wav", b"RIFF\x24\0\0\0WAVEfmt " + bytes(200)
    yield "avi", b"RIFF\x24\0\0\0AVI LIST" + bytes(200)
    yield "jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200)
    yield "psd", b"8BPS\0\1" + bytes(200)
    yield "ico", b"\0\0\1\0\1\0" + bytes(200)
    yield "m3u8", b"#EXTM3U\n#EXT-X-VERSION:3\nfile:///etc/passwd\n"
    yield "concat", b"ffconcat version 1.0\nfile /etc/passwd\n"
    rng = np.random.default_rng(2)
    for i in range(60):
        yield f"noise_{i}", rng.integers(0, 256, int(rng.integers(1, 4000)), np.uint8).tobytes()
    magics = [b"\xff\xd8\xff", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\0\0WEBP", b"RIFF\x40\0\0\0WEBPVP8 ",
              b"GIF89a", b"GIF87a", b"BM", b"II*\0", b"MM\0*", b"II+\0"]
    for i, magic in enumerate(magics):
        yield f"magic_{i}", magic
        for n in (4, 40, 400):
            yield f"magic_zeros_{i}_{n}", magic + bytes(n)
            yield f"magic_ones_{i}_{n}", magic + b"\xff" * n
            yield f"magic_noise_{i}_{n}", magic + rng.integers(0, 256, n, np.uint8).tobytes()


HUGE = [(65535, 65535), (60000, 60000), (65500, 1000), (1, 65535), (65535, 2000), (30000, 30000)]


def jpeg_sized(data, width, height):
    parts = [(m, b[:5] + struct.pack(">HH", height, width) + b[9:] if m in (0xC0, 0xC2) else b)
             for m, b in pictures.jpeg_segments(data)]
    return pictures.jpeg_join(parts)


def bombs():
    rgb = scene(16, 16)
    jpeg, progressive = turbojpeg(rgb, 2), saved(Image.fromarray(rgb), "JPEG", progressive=True)
    webp = saved(Image.fromarray(rgb), "WEBP", exif=exif_with(6))
    gif = saved(Image.fromarray(rgb).quantize(8), "GIF")
    for w, h in HUGE:
        yield f"bomb_jpeg_{w}x{h}", jpeg_sized(jpeg, w, h)
        yield f"bomb_jpeg_progressive_{w}x{h}", jpeg_sized(progressive, w, h)
        ihdr = struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
        small = zlib.compress(bytes(1000))
        yield (f"bomb_png_{w}x{h}", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", ihdr) + png_chunk(b"IDAT", small) +
               png_chunk(b"IEND", b""))
        at = gif.index(b"\x2c", 13 + 3 * 8)
        yield f"bomb_gif_{w}x{h}", gif[:at + 5] + struct.pack("<HH", w, h) + gif[at + 9:]
        yield f"bomb_bmp_{w}x{h}", bmp_file(bytes(100), 24, w, h)
        yield f"bomb_bmp_rle_{w}x{h}", bmp_file(bytes([255, 1] * 50), 8, w, h, 1, palette=bytes(1024))
        tags = {256: (4, [w]), 257: (4, [h]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 277: (3, [3]), 278: (4, [h])}
        yield f"bomb_tiff_{w}x{h}", pictures.tiff_file(tags, [bytes(100)])
        tags[259] = (3, [8])
        yield f"bomb_tiff_deflate_{w}x{h}", pictures.tiff_file(tags, [zlib.compress(bytes(100000))])
        tags[259] = (3, [5])
        yield f"bomb_tiff_lzw_{w}x{h}", pictures.tiff_file(tags, [b"\x80\x00\x08\x04"])
        canvas = struct.pack("<I", w - 1)[:3] + struct.pack("<I", h - 1)[:3]
        yield f"bomb_webp_{w}x{h}", webp[:24] + canvas + webp[30:]
    for w, h in [(2 ** 31 - 1, 2 ** 31 - 1), (2 ** 32 - 1, 1), (0, 0), (0, 5), (5, 0)]:
        ihdr = struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
        yield (f"bomb_png_{w}x{h}", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", ihdr) + png_chunk(b"IDAT", zlib.compress(b"")) +
               png_chunk(b"IEND", b""))
        tags = {256: (4, [w]), 257: (4, [h]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1]), 278: (4, [1])}
        yield f"bomb_tiff_{w}x{h}", pictures.tiff_file(tags, [bytes(100)])
        yield f"bomb_bmp_{w}x{h}", (bmp_file(bytes(100), 24, 1, 1)[:18] + struct.pack("<II", w, h) +
                                    bmp_file(bytes(100), 24, 1, 1)[26:])
    for w, h in [(0, 5), (5, 0), (0, 0)]:
        yield f"bomb_jpeg_{w}x{h}", jpeg_sized(jpeg, w, h)
    # A progressive file whose last scan comes again and again.
    body = progressive[:-2]
    scan = body[body.rindex(b"\xff\xda"):]
    yield "bomb_scans", body + scan * 3000 + b"\xff\xd9"
    # Tags that claim four milliards of values, and a directory that is its own value.
    for tag in (258, 273, 279, 320, 338):
        entry = struct.pack("<HHII", tag, 4, 2 ** 32 - 1, 8)
        yield f"bomb_tiff_tag_{tag}", b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
    yield "bomb_tiff_directory", b"II*\0\x08\0\0\0\xff\xff" + bytes(200)
    yield "bomb_tiff_strips", pictures.tiff_file({256: (4, [60000]), 257: (4, [1000]), 258: (3, [8]), 259: (3, [5]),
                                                 262: (3, [1]), 277: (3, [1]), 278: (4, [1])}, [b"\x80"] * 1000)
    # Chunks that unpack to 100 MB stand before nothing: the picture itself is missing.
    packed = zlib.compress(bytes(100_000_000), 9)
    ihdr = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    for kind, head in [(b"zTXt", b"Raw profile type exif\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"), (b"iCCP", b"x\0\0")]:
        yield (f"bomb_png_{kind.decode()}", b"\x89PNG\r\n\x1a\n" + ihdr + png_chunk(kind, head + packed) +
               png_chunk(b"IEND", b""))
    yield "bomb_png_idat", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 9, 8, 2, 0, 0, 0)) + \
        png_chunk(b"IDAT", zlib.compress(b"\x05" * 1_000_000)) + png_chunk(b"IEND", b"")


def bad_fields():
    """Header fields with values that do not exist."""
    rgb = scene(16, 16)
    for color, bits in [(0, 3), (0, 0), (0, 32), (1, 8), (2, 4), (3, 16), (4, 1), (5, 8), (6, 2), (7, 8), (255, 8)]:
        ihdr = struct.pack(">IIBBBBB", 16, 16, bits, color, 0, 0, 0)
        yield (f"field_png_{color}_{bits}", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", ihdr) +
               png_chunk(b"IDAT", zlib.compress(bytes(5000))) + png_chunk(b"IEND", b""))
    for i in range(3):
        ihdr = struct.pack(">IIBB", 16, 16, 8, 2) + bytes(7 if j == i else 0 for j in range(3))
        yield (f"field_png_method_{i}", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", ihdr) +
               png_chunk(b"IDAT", zlib.compress(bytes(5000))) + png_chunk(b"IEND", b""))
    png = png_file(rgb, 2, 8)
    yield "field_png_crc", png[:-20] + bytes([png[-20] ^ 1]) + png[-19:]
    yield "field_png_filter", png_file(rgb, 2, 8, filters=(0,)).replace(b"IDAT", b"IDAT")[:-12 - 4]
    yield "field_png_no_palette", png_file(rgb[..., :1], 3, 8)
    yield "field_png_no_idat", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)) + \
        png_chunk(b"IEND", b"")
    jpeg = turbojpeg(rgb, 2)
    parts = pictures.jpeg_segments(jpeg)
    for marker, name in [(0xDB, "quantisation"), (0xC0, "frame")]:
        yield f"field_jpeg_no_{name}", pictures.jpeg_join([p for p in parts if p[0] != marker])
    for bits in (1, 7, 9, 12, 16):
        yield f"field_jpeg_bits_{bits}", pictures.jpeg_join(
            [(m, b[:4] + bytes([bits]) + b[5:] if m == 0xC0 else b) for m, b in parts])
    for components in (0, 2, 5, 255):
        yield f"field_jpeg_components_{components}", pictures.jpeg_join(
            [(m, b[:9] + bytes([components]) + b[10:] if m == 0xC0 else b) for m, b in parts])
    for sof in (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF):
        yield f"field_jpeg_sof_{sof:x}", pictures.jpeg_join(
            [(m, b[:1] + bytes([sof]) + b[2:] if m == 0xC0 else b) for m, b in parts])
    bmp = saved(Image.fromarray(rgb), "BMP")
    for size in (0, 11, 39, 41, 200, 2 ** 32 - 1):
        yield f"field_bmp_header_{size}", bmp[:14] + struct.pack("<I", size) + bmp[18:]
    for bits in (0, 2, 3, 7, 15, 33, 64, 65535):
        yield f"field_bmp_bits_{bits}", bmp[:28] + struct.pack("<H", bits) + bmp[30:]
    for compression in (1, 2, 4, 5, 6, 11, 2 ** 32 - 1):
        yield f"field_bmp_compression_{compression}", bmp[:30] + struct.pack("<I", compression) + bmp[34:]
    yield "field_bmp_offset", bmp[:10] + struct.pack("<I", 2 ** 32 - 1) + bmp[14:]
    yield "field_bmp_colors", bmp_file(bytes(1000), 8, 16, 16, palette=bytes(100), colors=70000)
    grey = rgb[..., :1]
    for tag, values in [(259, (0, 6, 7, 9, 34712, 50000)), (262, (4, 6, 8, 9, 32845)), (258, (0, 3, 12, 24, 32, 64)),
                        (277, (0, 5, 7, 100)), (339, (2, 3, 4)), (266, (0, 3))]:
        for value in values:
            yield f"field_tiff_{tag}_{value}", tiff_of(grey, 8, 1, **{f"t{tag}": (3, [value])})
    yield "field_tiff_predictor", tiff_of(grey, 8, 1, 8, t317=(3, [3]))
    gif = saved(Image.fromarray(rgb).quantize(8), "GIF")
    at = gif.index(b"\x2c", 13 + 3 * 8)
    for bits in (0, 12, 13, 255):
        yield f"field_gif_bits_{bits}", gif[:at + 10] + bytes([bits]) + gif[at + 11:]
    yield "field_gif_no_frame", gif[:13 + 3 * 8] + b";"
    yield "field_gif_empty_data", gif[:at + 11] + b"\0;"
    webp = saved(Image.fromarray(rgb), "WEBP")
    yield "field_webp_signature", webp[:23] + b"\0\0\0" + webp[26:]
    yield "field_webp_empty", b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0"
    yield "field_webp_unknown", b"RIFF\x14\0\0\0WEBPABCD\x08\0\0\0" + bytes(8)


def malformed():
    for part in (wrong_types, cuts, bombs, bad_fields):
        yield from part()


def flipped(seed, count):
    rng = np.random.default_rng(seed)
    sources = list(bases())
    for i in range(count):
        name, data, _ = sources[i % len(sources)]
        data = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            # Half of the changes go to the first bytes, where the structure is.
            place = int(rng.integers(0, min(len(data), 120) if rng.random() < 0.5 else len(data)))
            data[place] = data[place] ^ (1 << int(rng.integers(0, 8))) if rng.random() < 0.6 else int(rng.integers(0, 256))
        yield f"flip_{name}_{seed}_{i}", bytes(data)
