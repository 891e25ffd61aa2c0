#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What GPU code a library holds: walks the fat binaries in its section .nv_fatbin.

usage: fatbin.py LIBRARY          prints each kind and architecture with its number of images and bytes

    fat binary   u32 magic 0xBA55ED50 | u16 version | u16 header bytes | u64 bytes behind the header
    image        u16 kind (1 PTX, 2 machine code) | ... | u32 header bytes at 4 | u64 payload bytes at 8 | u32 packed bytes at 16 |
                 u32 arch at 28 | u64 flags at 40 | u64 bytes before packing at 56 | payload

Fat binaries lie one behind the other, padded to 8 bytes; all numbers are little-endian. A payload is an ELF file, or one packed by
Zstandard (nvcc 13's habit) or LZ4. Imported by tests and by tools/gpu-pack.
"""
import ctypes
import re
import struct
import sys
from collections import namedtuple

MAGIC = 0xBA55ED50
PTX, SASS = 1, 2

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
UNPACKED_MAX = 1 << 28

# offset, bytes: of the payload in the file; header: where its header begins
Image = namedtuple("Image", "kind arch offset bytes header")


def section(data, name):
    """(offset, bytes) of an ELF64 section; None when there is none."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit little-endian ELF file")
    table, = struct.unpack_from("<Q", data, 40)
    entry_bytes, count, names_index = struct.unpack_from("<HHH", data, 58)

    def header(index):
        name_at, _, _, _, offset, size = struct.unpack_from("<IIQQQQ", data, table + index * entry_bytes)
        return name_at, offset, size
    names_at = header(names_index)[1]
    wanted = name.encode() + b"\0"
    for index in range(count):
        name_at, offset, size = header(index)
        if bytes(data[names_at + name_at:names_at + name_at + len(wanted)]) == wanted:
            return offset, size
    return None


def images(data):
    """Every image of every fat binary, in the order of the file."""
    where = section(data, ".nv_fatbin")
    if not where:
        return
    at, end = where[0], where[0] + where[1]
    while at + 16 <= end:
        magic, _, header_bytes, size = struct.unpack_from("<IHHQ", data, at)
        if magic != MAGIC:
            if any(data[at:at + 8]):
                raise ValueError(f"no fat binary at {at:#x}")
            at += 8  # padding
            continue
        inner, stop = at + header_bytes, at + header_bytes + size
        if stop > end:
            raise ValueError(f"the fat binary at {at:#x} leaves its section")
        while inner + 32 <= stop:
            kind, = struct.unpack_from("<H", data, inner)
            image_header, payload = struct.unpack_from("<IQ", data, inner + 4)
            arch, = struct.unpack_from("<I", data, inner + 28)
            if image_header < 32 or inner + image_header + payload > stop:
                raise ValueError(f"the image at {inner:#x} leaves its fat binary")
            yield Image(kind, arch, inner + image_header, payload, inner)
            inner += image_header + payload
        at = stop + -stop % 8


def mark(data, image, arch):
    """Writes another architecture into an image's header."""
    struct.pack_into("<I", data, image.header + 28, arch)


def code(data, image):
    """The ELF file of a machine code image; None where it is packed in a way that this machine cannot undo."""
    payload = bytes(data[image.offset:image.offset + image.bytes])
    if payload[:4] != ZSTD_MAGIC:
        return payload if payload[:4] == b"\x7fELF" else None
    packed, = struct.unpack_from("<I", data, image.header + 16)
    size, = struct.unpack_from("<Q", data, image.header + 56)
    try:
        unpack = ctypes.CDLL("libzstd.so.1").ZSTD_decompress
    except OSError:
        return None
    if not 0 < size <= UNPACKED_MAX or packed > image.bytes:
        return None
    unpack.restype = ctypes.c_size_t
    unpack.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    out = ctypes.create_string_buffer(size)
    return out.raw if unpack(out, size, payload, packed) == size else None


def kernels(data, image):
    """The mangled names of an image's kernels, as its sections have them; [] where it cannot be read."""
    return re.findall(rb"\0\.text\.([^\0]+)", code(data, image) or b"")


def names(data):
    """{"sm_90": (images, bytes), "compute_120": ...}"""
    found = {}
    for image in images(data):
        name = f"{'compute' if image.kind == PTX else 'sm'}_{image.arch}"
        count, size = found.get(name, (0, 0))
        found[name] = (count + 1, size + image.bytes)
    return found


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        data = memoryview(file.read())
    for name, (count, size) in sorted(names(data).items(), key=lambda item: (item[0][0], int(item[0].split("_")[1]))):
        print(f"{name:12} {count:5} images {size:12} bytes")


if __name__ == "__main__":
    main()
