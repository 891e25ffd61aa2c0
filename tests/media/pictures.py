# SPDX-License-Identifier: Apache-2.0
"""Test pictures of every variant that the decoders read, made here by Pillow, by libjpeg-turbo through ctypes (chroma
layouts that Pillow does not write) and by the small writers below (PNG, BMP and TIFF variants that nobody writes).

`all_pictures()` yields (name, file bytes, reference). The reference is None where Pillow reads the same file, else the
RGB array that the file must give."""
import ctypes
import ctypes.util
import io
import struct
import zlib

import numpy as np
from PIL import Image


def scene(width, height, seed=1):
    """A picture with gradients, edges and noise, so that every coefficient and filter has something to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x * 7 + y * 13) % 256], axis=2)
    rgb = rgb + rng.integers(-20, 20, rgb.shape) + ((x // 9 + y // 7) % 2 * 40)[..., None]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def saved(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def exif_with(orientation, little=True, kind=3):
    order = "<" if little else ">"
    head = (b"II*\0" if little else b"MM\0*") + struct.pack(order + "I", 8)
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    entries = [struct.pack(order + "HHI", 0x010F, 2, 4) + b"abc\0",
               struct.pack(order + "HHI", 0x0112, kind, 1) + value]
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", 0)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


# ---------------------------------------------------------------------------------------------------------- JPEG

def turbojpeg(rgb, subsampling, quality=85, flags=0):
    """libturbojpeg's own numbers: 0 = 4:4:4, 1 = 4:2:2, 2 = 4:2:0, 3 = grey, 4 = 4:4:0, 5 = 4:1:1."""
    name = ctypes.util.find_library("turbojpeg") or "libturbojpeg.so.0"
    library = ctypes.CDLL(name)
    library.tjInitCompress.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.tjInitCompress())
    data, size = ctypes.c_void_p(), ctypes.c_ulong()
    rgb = np.ascontiguousarray(rgb)
    status = library.tjCompress2(handle, rgb.ctypes.data_as(ctypes.c_void_p), rgb.shape[1], 0, rgb.shape[0], 0,
                                 ctypes.byref(data), ctypes.byref(size), subsampling, quality, flags)
    assert status == 0
    out = ctypes.string_at(data, size.value)
    library.tjFree(data)
    library.tjDestroy(handle)
    return out


def jpeg_segments(data):
    """[(marker, whole segment)], the scan and all behind it as the last."""
    at, out = 2, []
    while True:
        marker = data[at + 1]
        if marker == 0xDA:
            return out + [(marker, data[at:])]
        length = struct.unpack(">H", data[at + 2:at + 4])[0]
        out.append((marker, data[at:at + 2 + length]))
        at += 2 + length


def jpeg_join(segments):
    return b"\xff\xd8" + b"".join(body for _, body in segments)


def jpeg_pictures():
    for w, h in [(1, 1), (7, 5), (8, 8), (16, 16), (17, 33), (275, 183), (100, 64)]:
        for subsampling in range(6):
            yield f"jpeg_{w}x{h}_ss{subsampling}", turbojpeg(scene(w, h), subsampling), None
    picture = Image.fromarray(scene(123, 77))
    for quality in (1, 30, 75, 95, 100):
        yield f"jpeg_q{quality}", saved(picture, "JPEG", quality=quality), None
    for subsampling in (0, 1, 2):
        yield f"jpeg_progressive_{subsampling}", saved(picture, "JPEG", progressive=True, subsampling=subsampling), None
    yield "jpeg_optimised", saved(picture, "JPEG", optimize=True), None
    yield "jpeg_restarts", saved(picture, "JPEG", restart_marker_blocks=3), None
    yield "jpeg_restart_rows", saved(picture, "JPEG", restart_marker_rows=1, progressive=True), None
    yield "jpeg_rgb", saved(picture, "JPEG", keep_rgb=True), None
    yield "jpeg_grey", saved(picture.convert("L"), "JPEG"), None
    yield "jpeg_grey_progressive", saved(picture.convert("L"), "JPEG", progressive=True), None

    cmyk = np.dstack([scene(61, 45, 3), scene(61, 45, 4)[..., :1]])
    for progressive in (False, True):
        base = saved(Image.fromarray(cmyk, "CMYK"), "JPEG", progressive=progressive)
        kind = "progressive" if progressive else "baseline"
        yield f"jpeg_cmyk_{kind}", base, None
        parts = jpeg_segments(base)
        yield f"jpeg_cmyk_no_adobe_{kind}", jpeg_join([p for p in parts if p[0] != 0xEE]), None
        ycck = [(m, b[:-1] + b"\x02" if m == 0xEE else b) for m, b in parts]
        yield f"jpeg_ycck_{kind}", jpeg_join(ycck), None
    for orientation in (6, 3):
        yield f"jpeg_cmyk_turned_{orientation}", saved(Image.fromarray(cmyk, "CMYK"), "JPEG",
                                                       exif=exif_with(orientation)), None

    for orientation in range(0, 10):
        for size in [(37, 21), (150, 131), (1, 9)]:
            rgb = Image.fromarray(scene(*size))
            yield f"jpeg_exif_{orientation}_{size[0]}", saved(rgb, "JPEG", exif=exif_with(orientation)), None
    small = Image.fromarray(scene(19, 11))
    yield "jpeg_exif_big_endian", saved(small, "JPEG", exif=exif_with(6, little=False)), None
    yield "jpeg_exif_long", saved(small, "JPEG", exif=exif_with(5, kind=4)), None
    yield "jpeg_xmp", saved(small, "JPEG", xmp=XMP % 8), None
    yield "jpeg_xmp_and_exif", saved(small, "JPEG", xmp=XMP % 8, exif=exif_with(3)), None
    yield "jpeg_xmp_and_exif_without", saved(small, "JPEG", xmp=XMP % 8, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"), None
    plain = saved(small, "JPEG")
    yield "jpeg_junk_behind", plain + b"some trailing bytes", None
    yield "jpeg_padded_markers", plain[:2] + b"\xff\xff\xff" + plain[2:], None


# ----------------------------------------------------------------------------------------------------------- PNG

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_rows(samples, bits, filters):
    """Rows of samples [h, w, channels] packed and filtered, filter types taken in turn from `filters`."""
    height, width, channels = samples.shape
    if height == 0 or width == 0:
        return b""
    if bits == 16:
        packed = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif bits == 8:
        packed = samples.astype(np.uint8).reshape(height, -1)
    else:
        flat = samples.reshape(height, -1).astype(np.uint8)
        unpacked = ((flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(height, -1)
        packed = np.packbits(unpacked.astype(np.uint8), axis=1)
    step = max(1, channels * bits // 8)
    out, above = [], np.zeros(packed.shape[1], np.int32)
    for y in range(height):
        row = packed[y].astype(np.int32)
        left = np.concatenate([np.zeros(step, np.int32), row])[:len(row)]
        corner = np.concatenate([np.zeros(step, np.int32), above])[:len(row)]
        kind = filters[y % len(filters)]
        guess = left + above - corner
        pa, pb, pc = abs(guess - left), abs(guess - above), abs(guess - corner)
        paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, above, corner))
        predicted = [0, left, above, (left + above) // 2, paeth][kind]
        out.append(bytes([kind]) + ((row - predicted) & 255).astype(np.uint8).tobytes())
        above = row
    return b"".join(out)


def png_file(samples, color, bits, interlaced=False, palette=None, extra=(), filters=(0, 1, 2, 3, 4), idat_bytes=4096,
             behind=()):
    height, width = samples.shape[:2]
    if interlaced:
        raw = b"".join(png_rows(samples[y0::dy, x0::dx], bits, filters) for x0, y0, dx, dy in ADAM7)
    else:
        raw = png_rows(samples, bits, filters)
    packed = zlib.compress(raw, 6)
    out = [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))]
    out += [png_chunk(*e) for e in extra if e[0] in (b"gAMA", b"iCCP", b"cHRM")]
    if palette is not None:
        out.append(png_chunk(b"PLTE", palette))
    out += [png_chunk(*e) for e in extra if e[0] not in (b"gAMA", b"iCCP", b"cHRM")]
    out += [png_chunk(b"IDAT", packed[i:i + idat_bytes]) for i in range(0, len(packed), idat_bytes)]
    out += [png_chunk(*e) for e in behind]
    return b"".join(out + [png_chunk(b"IEND", b"")])


def png_pictures():
    rng = np.random.default_rng(5)
    palette = rng.integers(0, 256, 768, np.uint8).tobytes()
    for color, depths in [(0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))]:
        for bits in depths:
            for interlaced in (False, True):
                for w, h in [(1, 1), (5, 3), (33, 18), (70, 66)]:
                    samples = rng.integers(0, 2 ** bits, (h, w, CHANNELS[color]))
                    pal = palette[:3 * 2 ** bits] if color == 3 else None
                    # 16-bit is v >> 8 by definition; Pillow clips the grey ones.
                    high = None
                    if bits == 16:
                        s = (samples >> 8).astype(np.uint8)
                        high = s[..., :3] if color in (2, 6) else np.repeat(s[..., :1], 3, axis=2)
                    yield (f"png_c{color}_{bits}{'_adam7' if interlaced else ''}_{w}x{h}",
                           png_file(samples, color, bits, interlaced, pal), high)
    index = rng.integers(0, 16, (20, 31, 1))
    yield "png_palette_trns", png_file(index, 3, 8, palette=palette[:48], extra=[(b"tRNS", bytes(range(0, 160, 10)))]), None
    yield "png_palette_trns_one", png_file(index, 3, 8, palette=palette[:48], extra=[(b"tRNS", b"\xff\xff\0")]), None
    yield "png_palette_short", png_file(index, 3, 8, palette=palette[:30]), None
    yield "png_palette_short_4", png_file(index, 3, 4, palette=palette[:15]), None
    yield "png_grey_trns", png_file(index, 0, 4, extra=[(b"tRNS", b"\0\x03")]), None
    rgb = scene(40, 30)
    yield "png_rgb_trns", png_file(rgb, 2, 8, extra=[(b"tRNS", b"\0\x03\0\x03\0\x03")]), None
    yield "png_rgb_plte", png_file(rgb, 2, 8, palette=palette[:30]), None
    yield "png_gamma_text", png_file(rgb, 2, 8, extra=[
        (b"gAMA", struct.pack(">I", 100000)), (b"tEXt", b"Comment\0hello"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 5000)), (b"prVt", b"123")]), None
    yield "png_tiny_idats", png_file(rgb, 2, 8, idat_bytes=1), None
    yield "png_empty_idats", png_file(rgb, 2, 8).replace(b"IEND", b"IEND"), None
    yield "png_junk_behind", png_file(rgb, 2, 8) + b"trailing", None
    for orientation in range(0, 10):
        turn = (b"eXIf", exif_with(orientation)[6:])
        yield f"png_exif_{orientation}", png_file(rgb, 2, 8, extra=[turn]), None
        yield f"png_exif_adam7_{orientation}", png_file(scene(150, 133), 2, 8, True, extra=[turn]), None
        yield f"png_exif_big_{orientation}", png_file(scene(301, 133), 2, 8, extra=[turn]), None
    yield "png_exif_behind", png_file(rgb, 2, 8, behind=[(b"eXIf", exif_with(6)[6:])]), None
    grey16 = rng.integers(0, 65536, (9, 14, 1))
    yield ("png_exif_grey16", png_file(grey16, 0, 16, extra=[(b"eXIf", exif_with(6)[6:])]),
           np.rot90(np.repeat((grey16 >> 8).astype(np.uint8), 3, axis=2), -1))
    raw = exif_with(8)
    profile = b"\nexif\n%8d\n" % len(raw) + b"\n".join(raw.hex().encode()[i:i + 72] for i in range(0, len(raw) * 2, 72)) + b"\n"
    yield "png_raw_profile", png_file(rgb, 2, 8, extra=[(b"tEXt", b"Raw profile type exif\0" + profile)]), None
    yield "png_raw_profile_z", png_file(rgb, 2, 8, extra=[
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))]), None
    yield "png_xmp", png_file(rgb, 2, 8, extra=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6)]), None
    yield "png_xmp_z", png_file(rgb, 2, 8, extra=[
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP % 7))]), None
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        yield f"png_pillow_{mode}", saved(Image.fromarray(rgb).convert(mode), "PNG"), None


# ---------------------------------------------------------------------------------------------------------- WebP

def webp_pictures():
    for w, h in [(1, 1), (2, 2), (15, 9), (16, 16), (150, 101), (275, 183)]:
        rgb = scene(w, h)
        rgba = np.dstack([rgb, scene(w, h, 9)[..., 0]])
        for name, options in [("lossy", dict(quality=60)), ("lossless", dict(lossless=True)),
                              ("exact", dict(lossless=True, exact=True)), ("q5", dict(quality=5, method=0))]:
            yield f"webp_{name}_{w}x{h}", saved(Image.fromarray(rgb), "WEBP", **options), None
            yield f"webp_{name}_alpha_{w}x{h}", saved(Image.fromarray(rgba), "WEBP", **options), None
    hole = np.dstack([scene(60, 40), np.full((40, 60), 255, np.uint8)])
    hole[10:20, 10:30, 3] = 0
    yield "webp_hole", saved(Image.fromarray(hole), "WEBP", lossless=True, exact=True), None
    yield "webp_hole_lossy", saved(Image.fromarray(hole), "WEBP", quality=80, alpha_quality=50), None
    yield "webp_grey", saved(Image.fromarray(scene(40, 30)).convert("L"), "WEBP"), None
    rgb = Image.fromarray(scene(120, 70))
    for orientation in range(0, 10):
        yield f"webp_exif_{orientation}", saved(rgb, "WEBP", quality=70, exif=exif_with(orientation)), None
    yield "webp_xmp", saved(rgb, "WEBP", quality=70, xmp=XMP % 6), None
    frames = [Image.fromarray(scene(64, 48, s)) for s in (1, 2, 3)]
    for lossless in (False, True):
        yield f"webp_animated_{lossless}", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:],
                                                 lossless=lossless), None
    clear = Image.new("RGBA", (64, 48), (200, 100, 50, 0))
    clear.paste(frames[0].crop((0, 0, 30, 20)).convert("RGBA"), (10, 8))
    yield "webp_animated_small_frame", saved(clear, "WEBP", save_all=True, append_images=[frames[1].convert("RGBA")],
                                             lossless=True), None


# ----------------------------------------------------------------------------------------------------------- GIF

def gif_pictures():
    for w, h in [(1, 1), (9, 5), (64, 48), (275, 183)]:
        picture = Image.fromarray(scene(w, h))
        for colors in (2, 4, 16, 200, 256):
            yield f"gif_{colors}_{w}x{h}", saved(picture.quantize(colors), "GIF"), None
        yield f"gif_grey_{w}x{h}", saved(picture.convert("L"), "GIF"), None
        yield f"gif_plain_{w}x{h}", saved(picture.convert("1"), "GIF", interlace=0), None
    palette = Image.fromarray(scene(64, 48)).quantize(32)
    yield "gif_transparent", saved(palette, "GIF", transparency=3), None
    yield "gif_comment", saved(palette, "GIF", comment=b"hello" * 100), None
    frames = [Image.fromarray(scene(64, 48, s)).quantize(64) for s in (1, 2, 3)]
    yield "gif_animated", saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0), None
    base = saved(palette, "GIF", interlace=0)
    yield "gif_87a", b"GIF87a" + base[6:], None
    yield "gif_trailer_missing", base[:-1], None
    # A first frame smaller than its screen, with and without a transparent colour, with a local palette too.
    for transparent in (None, 5):
        for local in (False, True):
            yield f"gif_offset_{transparent}_{local}", gif_file(np.arange(20 * 10).reshape(10, 20) % 16, (40, 30), (7, 9),
                                                                transparent, local), None
    yield "gif_outside", gif_file(np.arange(200).reshape(10, 20) % 16, (15, 8), (3, 4), None, False), None
    yield "gif_interlaced", gif_file(np.arange(20 * 37).reshape(37, 20) % 16, (20, 37), (0, 0), None, False, True), None
    yield "gif_two_byte_palette", gif_file(np.arange(200).reshape(10, 20) % 16, (20, 10), (0, 0), None, False, colors=4), None


def gif_codes(codes, size):
    """Packs LZW codes: a clear code before every literal keeps the width fixed."""
    bits, count, out = 0, 0, bytearray()
    for code in codes:
        bits |= code << count
        count += size
        while count >= 8:
            out.append(bits & 255)
            bits >>= 8
            count -= 8
    out.append(bits & 255)
    return bytes(out)


def gif_file(index, screen, place, transparent, local, interlaced=False, colors=16):
    rng = np.random.default_rng(7)
    table = rng.integers(0, 256, 3 * colors, np.uint8).tobytes()
    size = colors.bit_length() - 2
    h, w = index.shape
    if interlaced:
        order = [*range(0, h, 8), *range(4, h, 8), *range(2, h, 4), *range(1, h, 2)]
        index = index[order]
    clear = 16
    codes = []
    for value in index.reshape(-1):
        codes += [clear, int(value)]
    packed = gif_codes(codes + [clear + 1], 5)
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80 | size, 2, 0) + table
    if transparent is not None:
        out += b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    flags = (0x80 | size if local else 0) | (0x40 if interlaced else 0)
    out += b"\x2c" + struct.pack("<HHHHB", *place, w, h, flags)
    if local:
        out += table[::-1]
    out += b"\x04" + b"".join(bytes([len(packed[i:i + 255])]) + packed[i:i + 255] for i in range(0, len(packed), 255))
    return out + b"\0\x3b"


# ----------------------------------------------------------------------------------------------------------- BMP

def bmp_file(pixels, bits, width, height, compression=0, palette=b"", masks=b"", header=40, top_down=False, colors=0):
    size = 14 + header + len(masks) * (header == 40) + len(palette)
    info = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, len(pixels),
                       0, 0, colors, 0)
    info += (masks + bytes(header))[:header - 40] if header > 40 else masks
    return b"BM" + struct.pack("<IHHI", size + len(pixels), 0, 0, size) + info + palette + pixels


def packed_rows(samples, bits):
    """Rows of one sample a pixel, each padded to four bytes."""
    out = []
    for row in samples:
        if bits == 16:
            data = row.astype("<u2").tobytes()
        elif bits == 32:
            data = row.astype("<u4").tobytes()
        elif bits == 8:
            data = row.astype(np.uint8).tobytes()
        else:
            data = np.packbits(((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).reshape(-1)).tobytes()
        out.append(data + bytes(-len(data) % 4))
    return b"".join(out)


def bmp_pictures():
    rng = np.random.default_rng(11)
    for w, h in [(1, 1), (5, 3), (33, 17), (100, 64)]:
        picture = Image.fromarray(scene(w, h))
        for mode in ("1", "L", "P", "RGB", "RGBA"):
            yield f"bmp_{mode}_{w}x{h}", saved(picture.convert(mode), "BMP"), None
    w, h = 21, 13
    table = b"".join(bytes(rng.integers(0, 256, 3, np.uint8)) + b"\0" for _ in range(256))
    for bits in (1, 4, 8):
        samples = rng.integers(0, 2 ** bits, (h, w))
        for top_down in (False, True):
            yield (f"bmp_palette_{bits}_{top_down}",
                   bmp_file(packed_rows(samples, bits), bits, w, h, palette=table[:4 * 2 ** bits], top_down=top_down), None)
    yield "bmp_colors_used", bmp_file(packed_rows(rng.integers(0, 20, (h, w)), 8), 8, w, h, palette=table[:80], colors=20), None
    any16, any32 = rng.integers(0, 65536, (h, w)), rng.integers(0, 2 ** 32, (h, w))
    yield "bmp_555", bmp_file(packed_rows(any16, 16), 16, w, h), None
    yield "bmp_32", bmp_file(packed_rows(any32, 32), 32, w, h), None
    for name, masks in [("565", (0xF800, 0x7E0, 0x1F)), ("555", (0x7C00, 0x3E0, 0x1F))]:
        yield f"bmp_fields_{name}", bmp_file(packed_rows(any16, 16), 16, w, h, 3, masks=struct.pack("<III", *masks)), None
    for name, masks in [("bgrx", (0xFF0000, 0xFF00, 0xFF, 0)), ("rgbx", (0xFF, 0xFF00, 0xFF0000, 0)),
                        ("bgra", (0xFF0000, 0xFF00, 0xFF, 0xFF000000)), ("xbgr", (0xFF000000, 0xFF0000, 0xFF00, 0)),
                        ("abgr", (0xFF000000, 0xFF0000, 0xFF00, 0xFF)), ("rgba", (0xFF, 0xFF00, 0xFF0000, 0xFF000000))]:
        yield (f"bmp_fields_{name}", bmp_file(packed_rows(any32, 32), 32, w, h, 3, masks=struct.pack("<IIII", *masks),
                                              header=108), None)
    rle8 = bytes([3, 7, 0, 5, 1, 2, 3, 4, 5, 0, 13, 9, 0, 0]) + bytes([21, 4, 0, 0]) * (h - 2) + bytes([5, 6, 0, 2, 3, 0, 13, 8, 0, 1])
    yield "bmp_rle8", bmp_file(rle8, 8, w, h, 1, palette=table[:64], colors=16), None
    rle4 = bytes([21, 0x4F, 0, 0]) * (h - 1) + bytes([8, 0x12, 0, 7, 0x12, 0x34, 0x56, 0x70, 6, 0xAB, 0, 1])
    yield "bmp_rle4", bmp_file(rle4, 4, w, h, 2, palette=table[:64]), None
    core = struct.pack("<IHHHH", 12, w, h, 1, 24)
    rows = b"".join(bytes(rng.integers(0, 256, w * 3, np.uint8)) + bytes(-w * 3 % 4) for _ in range(h))
    yield "bmp_core", b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + core + rows, None


# ---------------------------------------------------------------------------------------------------------- TIFF

def tiff_file(tags, strips, big_endian=False):
    """tags: {tag: (type, [values])}; strip offsets and counts are filled in."""
    order = ">" if big_endian else "<"
    sizes = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II"}
    at, offsets = 8, []
    body = b""
    for strip in strips:
        offsets.append(at)
        body += strip + bytes(-len(strip) % 2)
        at = 8 + len(body)
    tags = dict(tags)
    tiled = 322 in tags
    tags[324 if tiled else 273] = (4, offsets)
    tags[325 if tiled else 279] = (4, [len(s) for s in strips])
    entries, extra = [], b""
    extra_at = at + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, values = tags[tag]
        data = b"".join(struct.pack(order + sizes[kind], *(v if kind == 5 else (v,))) for v in values)
        if len(data) > 4:
            value = struct.pack(order + "I", extra_at + len(extra))
            extra += data + bytes(-len(data) % 2)
        else:
            value = data + bytes(4 - len(data))
        entries.append(struct.pack(order + "HHI", tag, kind, len(values)) + value)
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "I", at)
    return head + body + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4) + extra


def tiff_of(samples, bits, photometric, compression=1, predictor=1, rows=7, big_endian=False, planar=False, **more):
    height, width, channels = samples.shape
    planes = [samples[..., c:c + 1] for c in range(channels)] if planar else [samples]
    strips = []
    for plane in planes:
        for y in range(0, height, rows):
            part = plane[y:y + rows]
            if predictor == 2:
                part = np.concatenate([part[:, :1], (part[:, 1:].astype(np.int64) - part[:, :-1]) % 2 ** bits], axis=1)
            if bits == 16:
                data = part.astype(">u2" if big_endian else "<u2").tobytes()
            elif bits == 8:
                data = part.astype(np.uint8).tobytes()
            else:
                flat = part.reshape(part.shape[0], -1)
                unpacked = ((flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
                data = np.packbits(unpacked.reshape(part.shape[0], -1), axis=1).tobytes()
            strips.append(zlib.compress(data) if compression in (8, 32946) else data)
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [compression]),
            262: (3, [photometric]), 277: (3, [channels]), 278: (3, [rows]), 284: (3, [2 if planar else 1])}
    if predictor != 1:
        tags[317] = (3, [predictor])
    for tag, value in more.items():
        tags[int(tag[1:])] = value
    return tiff_file(tags, strips, big_endian)


def jpeg_in_tiff(rgb, photometric, rows=16):
    """Strips of JPEG data; Pillow's own writer only knows YCbCr with shared tables."""
    picture = Image.fromarray(rgb)
    strips = [picture.crop((0, y, rgb.shape[1], min(y + rows, rgb.shape[0]))) for y in range(0, rgb.shape[0], rows)]
    strips = [saved(s, "JPEG", keep_rgb=photometric == 2, subsampling=0 if photometric == 2 else 2) for s in strips]
    tags = {256: (4, [rgb.shape[1]]), 257: (4, [rgb.shape[0]]), 258: (3, [8] * 3), 259: (3, [7]), 262: (3, [photometric]),
            277: (3, [3]), 278: (3, [rows]), 284: (3, [1])}
    if photometric == 6:
        tags[530] = (3, [2, 2])
    return tiff_file(tags, strips)


def tiff_pictures():
    rng = np.random.default_rng(13)
    for w, h in [(1, 1), (33, 17), (100, 64)]:
        picture = Image.fromarray(scene(w, h))
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK"):
            for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate"):
                yield f"tiff_{mode}_{compression}_{w}x{h}", saved(picture.convert(mode), "TIFF", compression=compression), None
        for compression in ("group3", "group4", "tiff_ccitt"):
            yield f"tiff_1_{compression}_{w}x{h}", saved(picture.convert("1"), "TIFF", compression=compression), None
        yield f"tiff_jpeg_{w}x{h}", saved(picture, "TIFF", compression="jpeg", quality=80), None
        yield f"tiff_jpeg_rgb_{w}x{h}", jpeg_in_tiff(scene(w, h), 2), None
        yield f"tiff_jpeg_ycbcr_{w}x{h}", jpeg_in_tiff(scene(w, h), 6), None
        yield f"tiff_jpeg_grey_{w}x{h}", saved(picture.convert("L"), "TIFF", compression="jpeg", quality=80), None
    for big_endian in (False, True):
        for bits in (1, 2, 4, 8, 16):
            grey = rng.integers(0, 2 ** bits, (17, 23, 1))
            for photometric in (0, 1):
                high = None
                if bits == 16:
                    eight = (grey >> 8).astype(np.uint8)
                    high = np.repeat(eight if photometric else 255 - eight, 3, axis=2)
                yield f"tiff_grey_{bits}_{photometric}_{big_endian}", tiff_of(grey, bits, photometric, big_endian=big_endian), high
        rgb16 = rng.integers(0, 65536, (17, 23, 3))
        yield f"tiff_rgb16_{big_endian}", tiff_of(rgb16, 16, 2, big_endian=big_endian), (rgb16 >> 8).astype(np.uint8)
        yield (f"tiff_rgb16_deflate_{big_endian}", tiff_of(rgb16, 16, 2, 8, 2, big_endian=big_endian),
               (rgb16 >> 8).astype(np.uint8))
    rgb = scene(45, 31)
    yield "tiff_predictor", tiff_of(rgb, 8, 2, 8, 2), None
    yield "tiff_planar", tiff_of(rgb, 8, 2, planar=True), None
    for bits in (1, 2, 4, 8):
        index = rng.integers(0, 2 ** bits, (17, 23, 1))
        table = [int(v) for v in rng.integers(0, 65536, 3 * 2 ** bits)]
        yield f"tiff_palette_{bits}", tiff_of(index, bits, 3, t320=(3, table)), None
    for orientation in range(1, 9):
        yield f"tiff_turned_{orientation}", tiff_of(rgb, 8, 2, t274=(3, [orientation])), None
    alpha = np.dstack([rgb, scene(45, 31, 2)[..., :1]])
    for extra in (0, 1, 2):
        yield f"tiff_rgba_{extra}", tiff_of(alpha, 8, 2, t338=(3, [extra])), None
    cmyk = np.dstack([scene(61, 45, 3), scene(61, 45, 4)[..., :1]])
    yield "tiff_cmyk", tiff_of(cmyk, 8, 5), None
    tiles = [rgb[y:y + 16, x:x + 16] for y in (0, 16) for x in (0, 16, 32)]
    tiles = [np.pad(t, ((0, 16 - t.shape[0]), (0, 16 - t.shape[1]), (0, 0))).tobytes() for t in tiles]
    yield "tiff_tiled", tiff_file({256: (4, [45]), 257: (4, [31]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]),
                                   277: (3, [3]), 322: (3, [16]), 323: (3, [16])}, tiles), None
    pages = [Image.fromarray(scene(40, 30, s)) for s in (1, 2)]
    yield "tiff_pages", saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw"), None
    floats = Image.fromarray(rng.random((10, 12), np.float32) * 300, "F")
    yield "tiff_float", saved(floats, "TIFF"), None


FORMATS = {"jpeg": jpeg_pictures, "png": png_pictures, "webp": webp_pictures, "gif": gif_pictures, "bmp": bmp_pictures,
           "tiff": tiff_pictures}


def all_pictures(format):
    yield from FORMATS[format]()
