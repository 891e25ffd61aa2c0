# SPDX-License-Identifier: Apache-2.0
"""What tools/gpu-pack leaves behind, and what it puts in its place: stand-ins for libraries that are linked and never called, kernels that
no model of ours runs, the manifest's word on what the other machine must have. Where ONNX Runtime's GPU build lies in var/gpu: that one."""
import ctypes
import ctypes.util
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import fatbin  # noqa: E402
import stand_in  # noqa: E402
from test_gpu_tools import elf, fat_binary, image, load, payload  # noqa: E402

gpu_pack = load("gpu-pack")
GROUPS = "_ZN7cutlass13device_kernelINS_4gemm6kernel13GemmUniversalINS1_17GroupProblemShapeIiEEEEEvv"
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


def cc(path, text, *more):
    path.with_suffix(".c").write_text(text)
    subprocess.run(["cc", "-o", path, path.with_suffix(".c"), *more], check=True)
    return path


@pytest.fixture(name="linked")
def linked_program(tmp_path):
    """A program that needs libouter, which needs libcodec (with versions and data) and calls it only when asked to."""
    lib = tmp_path / "lib"
    lib.mkdir()
    script = tmp_path / "codec.map"
    script.write_text("CODEC_2 { global: encode; table; local: *; };\n")
    cc(lib / "libcodec.so.1", "int table[100] = {7};\nint encode(int x) { return x + table[0]; }\nint hidden(void) { return 1; }\n",
       "-shared", "-fPIC", "-Wl,-soname,libcodec.so.1", f"-Wl,--version-script={script}")
    cc(lib / "libouter.so.1", "extern int table[100]; int encode(int);\n"
       "int outer(int x) { return x > 100 ? encode(x) + table[1] : x * 2; }\n", "-shared", "-fPIC", "-Wl,-soname,libouter.so.1", "-Wl,-z,now",
       str(lib / "libcodec.so.1"))
    return cc(tmp_path / "program", "#include <stdlib.h>\nint outer(int);\nint main(int c, char **v) { (void)c; return outer(atoi(v[1])); }\n",
              str(lib / "libouter.so.1"), f"-Wl,-rpath-link,{lib}")


def run(program, directory, number):
    return subprocess.run([program, str(number)], env={"LD_LIBRARY_PATH": str(directory)}, capture_output=True, check=False).returncode


@needs_cc
def test_a_stand_in_is_loaded_and_ends_who_calls_it(linked, tmp_path):
    there, lib = tmp_path / "there", tmp_path / "lib"
    there.mkdir()
    assert run(linked, lib, 21) == 42 and run(linked, lib, 101) == 108
    shutil.copy(lib / "libouter.so.1", there)
    assert run(linked, there, 21) == 127  # the loader insists on the other
    wanted = stand_in.wanted([linked, lib / "libouter.so.1"])
    assert {("encode", "CODEC_2"), ("table", "CODEC_2")} <= wanted
    assert stand_in.make(lib / "libcodec.so.1", wanted, there / "libcodec.so.1") == 2
    assert sorted(p.name for p in there.iterdir()) == ["libcodec.so.1", "libouter.so.1"]
    assert run(linked, there, 21) == 42
    assert run(linked, there, 101) < 0  # a signal
    names = {(name, version) for name, version, _, _, defined in stand_in.symbols(there / "libcodec.so.1") if defined}
    assert {("encode", "CODEC_2"), ("table", "CODEC_2")} <= names and "hidden" not in {name for name, _ in names}


@needs_cc
def test_what_is_carried_and_what_gets_a_stand_in(linked, tmp_path, monkeypatch):
    import re
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    carry, stand = gpu_pack.libraries([linked], (re.compile("^libouter"), re.compile("^$")))
    assert (list(carry), list(stand)) == (["libouter.so.1"], ["libcodec.so.1"])  # none of the system's
    carry, stand = gpu_pack.libraries([linked], (re.compile("^libouter"), re.compile("^libcodec")))
    assert (sorted(carry), list(stand)) == (["libcodec.so.1", "libouter.so.1"], [])
    (tmp_path / "lib/libcodec.so.1").unlink()
    with pytest.raises(gpu_pack.Refused, match="libcodec.so.1, which this machine lacks"):
        gpu_pack.libraries([linked], (re.compile("^$"), re.compile("^$")))


def test_versions_are_compared_as_numbers(tmp_path):
    assert gpu_pack.versions([sys.executable])["GLIBC"].startswith("2.")
    assert gpu_pack.versions([tmp_path / "nothing"]) == {}


def cubin(name):
    return (b"\x7fELF" + bytes(60) + b"\0.text." + name.encode() + b"\0.nv.info\0").ljust(512, b"\x01")


def zstd(data):
    if not ctypes.util.find_library("zstd"):
        pytest.skip("no libzstd")
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(len(data) + 1024)
    size = library.ZSTD_compress(out, ctypes.c_size_t(len(out)), data, ctypes.c_size_t(len(data)), 3)
    return out.raw[:size]


def packed(arch, data):
    """A machine code image as nvcc 13 packs it, padded to 8 bytes."""
    body = zstd(data)
    padded = body + bytes(-len(body) % 8)
    header = bytearray(image(2, arch, padded)[:64])
    struct.pack_into("<I", header, 16, len(body))
    struct.pack_into("<Q", header, 56, len(data))
    return bytes(header) + padded


@pytest.mark.parametrize("make", [packed, lambda arch, data: image(2, arch, data)])
def test_kernels_that_nobody_runs_are_left(make):
    own, groups = cubin("_Z3addPf"), cubin(GROUPS)
    data = elf(fat_binary(make(80, own), make(90, own)) + bytes(-len(make(80, own) + make(90, own)) % 8) + fat_binary(make(90, groups)))
    before = list(fatbin.images(data))
    assert [fatbin.kernels(data, i) for i in before] == [[b"_Z3addPf"], [b"_Z3addPf"], [GROUPS.encode()]]
    copy, kept, gone, left = gpu_pack.thin(data, 90, gpu_pack.LEAVE)
    after = list(fatbin.images(copy))
    assert left == 1 and kept == before[1].bytes and gone == before[0].bytes + before[2].bytes
    assert [i.arch for i in after] == [80, 90, 120]  # no device of sm_90 asks for the last one
    rest = bytearray(copy)
    for old in (before[0], before[2]):
        assert not any(copy[old.offset:old.offset + old.bytes])
        rest[old.offset:old.offset + old.bytes] = data[old.offset:old.offset + old.bytes]
    fatbin.mark(rest, before[2], 90)
    assert bytes(rest) == data
    assert gpu_pack.thin(data, 90)[3] == 0 and gpu_pack.thin(data, 90)[1] == before[1].bytes + before[2].bytes


@pytest.mark.parametrize("data", [b"\x28\xb5\x2f\xfd" + payload(1, 60), b"LZ4?" + payload(2, 60), b""])
def test_code_that_cannot_be_read_is_kept(data):
    library = elf(fat_binary(image(2, 90, data or b"\x01")))
    found, = fatbin.images(library)
    assert fatbin.kernels(library, found) == []
    assert gpu_pack.thin(library, 90, gpu_pack.LEAVE)[3] == 0


def real_provider():
    version = next(line for line in (ROOT / "tools/requirements.txt").read_text().splitlines() if line.startswith("onnxruntime=="))
    path = ROOT / f"var/gpu/onnxruntime-{version.split('==')[1].split()[0]}" / "libonnxruntime_providers_cuda.so"
    if not path.exists():
        pytest.skip("ONNX Runtime's GPU build is not in var/gpu (tools/gpu-pack B brings it)")
    return path


def test_the_real_provider_says_what_it_wants(tmp_path):
    provider = real_provider()
    (tmp_path / "lib").mkdir()
    engine = gpu_pack.add_engine(gpu_pack.parse(["B", "--onnxruntime", str(provider.parent)]), tmp_path)
    assert engine["cuda"] in (12, 13) and f"libcudart.so.{engine['cuda']}" in engine["wants"] and "libcudnn.so.9" in engine["wants"]
    assert (tmp_path / "lib/libonnxruntime.so.1").exists() and not list((tmp_path / "lib").glob("*tensorrt*"))


@pytest.mark.skipif(os.environ.get("SPILLWAY_FULL") != "1", reason="568 MB of memory and seconds: SPILLWAY_FULL=1")
def test_the_real_provider_keeps_all_but_code():
    data = real_provider().read_bytes()
    copy, kept, gone, left = gpu_pack.thin(data, 90, gpu_pack.LEAVE)
    assert kept > 20e6 and left > 100 and kept + gone == sum(i.bytes for i in fatbin.images(data))
    at = 0
    for old, new in zip(fatbin.images(data), fatbin.images(copy)):
        assert copy[at:old.header + 28] == data[at:old.header + 28] and copy[old.header + 32:old.offset] == data[old.header + 32:old.offset]
        at = old.offset + old.bytes
        assert copy[old.offset:at] == (data[old.offset:at] if new.arch == old.arch == 90 else bytes(old.bytes))
        assert new._replace(arch=0) == old._replace(arch=0) and (new.arch == old.arch or new.arch == 120)
    assert copy[at:] == data[at:]
