# SPDX-License-Identifier: Apache-2.0
"""What nvcc made of the CUDA plug-in: code for every architecture, no kernel that spills registers."""
import glob
import importlib.util
import json
import os
import re
import struct

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.environ.get("SPILLWAY_BUILD", os.path.join(ROOT, "build"))
PLUGIN = os.path.join(BUILD, "src/kernels/cuda/libspillway_cuda.so")

# A kernel may spill only with a reason: part of its mangled name -> why, and how many bytes.
MAY_SPILL = {}

needs_plugin = pytest.mark.skipif(not os.path.exists(PLUGIN), reason="the CUDA plug-in is not built: no nvcc, or a sanitizer build")


def load_fatbin():
    spec = importlib.util.spec_from_file_location("fatbin", os.path.join(ROOT, "tools/fatbin.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FATBIN = load_fatbin()


def chosen_archs():
    with open(os.path.join(BUILD, "meson-info/intro-buildoptions.json"), encoding="utf-8") as file:
        return next(option["value"] for option in json.load(file) if option["name"] == "gpu_archs").split()


@needs_plugin
def test_every_kernel_file_has_code_for_every_architecture():
    with open(PLUGIN, "rb") as file:
        found = FATBIN.names(memoryview(file.read()))
    archs = chosen_archs()
    assert set(found) == {f"sm_{arch}" for arch in archs} | {f"compute_{archs[-1]}"}
    assert len({count for count, _ in found.values()}) == 1, found  # as many images of each: no file was left out


KERNEL = re.compile(r"Compiling entry function '([^']+)' for 'sm_(\d+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def kernels_of(report):
    """[(name, arch, spilled bytes)] of one ptxas report."""
    kernels, name = [], None
    with open(report, encoding="utf-8") as file:
        for line in file:
            if match := KERNEL.search(line):
                name = match.groups()
            elif (match := SPILL.search(line)) and name:
                kernels.append((name[0], name[1], int(match[2]) + int(match[3])))
                name = None
    return kernels


@needs_plugin
def test_no_kernel_spills():
    reports = glob.glob(os.path.join(BUILD, "src/kernels/cuda/*.ptxas.txt"))
    kernels = [kernel for report in reports for kernel in kernels_of(report)]
    assert {kernel[1] for kernel in kernels} == set(chosen_archs())
    assert any("canary" in kernel[0] for kernel in kernels)
    spilled = [f"{name} for sm_{arch}: {size} bytes" for name, arch, size in kernels
               if size and not any(part in name for part in MAY_SPILL)]
    assert not spilled


# ---- the walk itself ----

def elf_with(payload):
    """The smallest ELF file with `payload` as its section .nv_fatbin."""
    names = b"\0.shstrtab\0.nv_fatbin\0"
    table = 64 + len(payload) + len(names)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 1)

    def section(name_at, offset, size):
        return struct.pack("<IIQQQQIIQQ", name_at, 1, 0, 0, offset, size, 0, 0, 1, 0)
    return (header + payload + names + bytes(64) + section(1, 64 + len(payload), len(names)) + section(11, 64, len(payload)))


def image(kind, arch, payload):
    return struct.pack("<HHIQ", kind, 1, 64, len(payload)) + bytes(12) + struct.pack("<I", arch) + bytes(32) + payload


def fat(*members):
    inner = b"".join(members)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(inner)) + inner


def test_the_walk_finds_every_image():
    first = fat(image(2, 75, b"a" * 24), image(1, 120, b"b" * 8))
    data = elf_with(first + bytes(8) + fat(image(2, 75, b"c" * 16)))
    assert FATBIN.names(data) == {"sm_75": (2, 40), "compute_120": (1, 8)}
    assert [data[i.offset:i.offset + i.bytes] for i in FATBIN.images(data)] == [b"a" * 24, b"b" * 8, b"c" * 16]


@pytest.mark.parametrize("payload", [
    fat(image(2, 75, b"a" * 24))[:-8],                     # cut off
    b"junkjunkjunkjunk" + fat(image(2, 75, b"a" * 24)),
    fat(struct.pack("<HHIQ", 2, 1, 64, 1 << 40) + bytes(48)),
])
def test_the_walk_refuses_what_it_does_not_understand(payload):
    with pytest.raises(ValueError):
        list(FATBIN.images(elf_with(payload)))


def test_a_library_without_gpu_code_has_none():
    with open(os.path.join(BUILD, "spillway"), "rb") as file:
        assert FATBIN.names(memoryview(file.read())) == {}
