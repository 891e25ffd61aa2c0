# SPDX-License-Identifier: Apache-2.0
"""gpu-pack thins a library and touches nothing else in it, refuses what would not go through one call, and what it packed is what
gpu-check runs: on a made-up build whose programs are scripts, and, where they are built, on our own libraries. What gpu-check does with
what it runs: test_gpu_check.py."""
import ctypes
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
sys.path.insert(0, str(ROOT / "tools"))
import fatbin  # noqa: E402


def load(name):
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "tools" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


gpu_pack = load("gpu-pack")
gpu_check = load("gpu-check")


def image(kind, arch, payload):
    header = struct.pack("<HHIQ", kind, 1, 64, len(payload)) + bytes(12) + struct.pack("<I", arch)
    return header.ljust(64, b"\x11") + payload


def fat_binary(*images):
    body = b"".join(images)
    return struct.pack("<IHHQ", fatbin.MAGIC, 1, 16, len(body)) + body


def payload(seed, size):
    return bytes((seed * 37 + i * 11) % 255 + 1 for i in range(size))


SASS = {75: payload(1, 64), 90: payload(2, 128), 120: payload(3, 256)}
SECTION = (fat_binary(image(2, 75, SASS[75]), image(2, 90, SASS[90]), image(1, 120, payload(4, 40)))
           + bytes(8) + fat_binary(image(2, 90, payload(5, 72)), image(2, 120, SASS[120])))


def elf(section=SECTION):
    """An ELF file of four sections with nothing to run in it."""
    names = b"\0.text\0.nv_fatbin\0.shstrtab\0"
    text, fat_at = payload(9, 48), 64 + 48
    names_at = fat_at + len(section)
    table = names_at + len(names) + -(names_at + len(names)) % 8
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 4, 3)
    rows = [(0, 0, 0, 0), (1, 1, 64, 48), (7, 1, fat_at, len(section)), (18, 3, names_at, len(names))]
    sections = b"".join(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0) for name, kind, offset, size in rows)
    return (header + text + section + names).ljust(table, b"\0") + sections


def test_images_are_found():
    found = list(fatbin.images(elf()))
    assert [(i.kind, i.arch, i.bytes) for i in found] == [(2, 75, 64), (2, 90, 128), (1, 120, 40), (2, 90, 72), (2, 120, 256)]


def test_only_other_architectures_payload_is_gone():
    data = elf()
    copy, kept, gone, _ = gpu_pack.thin(data, 90)
    assert (kept, gone) == (128 + 72, 64 + 40 + 256) and len(copy) == len(data)
    rest = bytearray(copy)
    for found in fatbin.images(data):
        own = data[found.offset:found.offset + found.bytes]
        assert copy[found.offset:found.offset + found.bytes] == (own if (found.kind, found.arch) == (2, 90) else bytes(found.bytes))
        rest[found.offset:found.offset + found.bytes] = own
    assert bytes(rest) == data
    assert list(fatbin.images(copy)) == list(fatbin.images(data))


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x02\x01", elf(b"\x01" * 64), elf(fat_binary(image(2, 90, SASS[90]))[:-8]), elf(b""),
                                  elf(fat_binary(image(1, 90, SASS[90])))])
def test_what_has_no_such_code_is_refused(data):
    with pytest.raises((gpu_pack.Refused, ValueError, struct.error)):
        gpu_pack.thin(data, 90)


def test_the_size_of_a_call_is_kept():
    gpu_pack.check_size(55 << 20, 8 << 20, 64)
    with pytest.raises(gpu_pack.Refused, match="60.0 MiB"):
        gpu_pack.check_size(60 << 20, 8 << 20, 64)


def test_our_own_library_loads_when_it_is_thin(tmp_path):
    library = BUILD / "src/kernels/cuda/libspillway_cuda.so"
    if not library.exists():
        pytest.skip("no CUDA plug-in in this build")
    data = library.read_bytes()
    archs = sorted({i.arch for i in fatbin.images(data) if i.kind == fatbin.SASS})
    copy, kept, gone, _ = gpu_pack.thin(data, archs[0])
    assert kept > 0 and gone > 0
    (tmp_path / "thin.so").write_bytes(copy)
    assert ctypes.CDLL(str(tmp_path / "thin.so")).sp_cuda_api_get


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def row(**more):
    return json.dumps({"bench": "nms", "case": "a picture, class-wise", "device": "GPU", "simulated": False, "repeats": 200, "bytes": 1000,
                       "bandwidth_gb_s": 3000, "floor_us": 20.0, "median_us": 40.0, "best_us": 39.0, "share": 0.5} | more)


@pytest.fixture(name="made_up")
def made_up_build(tmp_path):
    """A build directory with a library that really loads, and scripts for programs."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    build, library = tmp_path / "build", tmp_path / "lib.so"
    numbers = ",".join(str(b) for b in SECTION)
    (tmp_path / "lib.c").write_text(f'__attribute__((section(".nv_fatbin"), used, aligned(8))) unsigned char code[] = {{{numbers}}};\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "lib.c"], check=True)
    for name in ("build/src/kernels/cuda/libspillway_cuda.so", "build/src/media/libspillway_media.so",
                 "build/src/engine/onnxruntime/libspillway_engine_onnxruntime.so", "cpu/libonnxruntime.so.1.31.1"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(library, tmp_path / name)
    script(build / "spillway", "echo doctor says well\n")
    script(build / "tests/kernels/cuda/test_cuda_core", 'test -f "$SPILLWAY_CUDA_LIBRARY" && echo "ok 1 - one"\necho "ok 2 - two # SKIP why"\necho 1..2\n')
    script(build / "bench/gpu/bench-gpu-nms", f"echo '{row()}'\necho '{row(case='all in one class', share=None, floor_us=None)}'\n"
                                              f"echo '{row(case='all in one class', simulated=True)}'\n")
    (tmp_path / "assets/media/video").mkdir(parents=True)
    (tmp_path / "assets/media/video/small.mp4").write_bytes(b"clip")
    return tmp_path


def words(made_up, part, engine="cpu"):
    return [part, "--build", str(made_up / "build"), "--output", str(made_up / "out"), "--assets", str(made_up / "assets"),
            "--onnxruntime", str(made_up / engine)]


def pack(made_up):
    assert gpu_pack.main(words(made_up, "A")) == 0
    return made_up / "out/pack-A.tar.xz"


def check(path, made_up, *more):
    library = made_up / "build/src/kernels/cuda/libspillway_cuda.so"
    return gpu_check.main([str(path), "--results", str(made_up / "results"), "--simulated", str(library), *more])


def test_what_is_packed_is_run(made_up, capsys):
    path = pack(made_up)
    first = path.read_bytes()
    assert pack(made_up).read_bytes() == first  # the same input, the same pack
    assert check(path, made_up, "--only", "there,twins,kernels") == 0
    told = capsys.readouterr().out
    assert "test_cuda_core: 1 passed, 0 failed, 1 skipped" in told and "cudnn" in told
    result = json.loads((made_up / "results/gpu-simulated-A-there-twins-kernels.json").read_text())
    assert result["good"] and result["parts"]["twins"]["tests"][0]["passed"] == 1 and "well" in result["parts"]["there"]["doctor"]["output"]
    assert result["parts"]["there"]["loads"] == dict.fromkeys(["libonnxruntime.so.1", "libonnxruntime.so.1.31.1", "libspillway_cuda.so",
                                                               "libspillway_engine_onnxruntime.so", "libspillway_media.so"], "ok")
    assert result["rows"] == [] and len(result["unpublished"]) == 3  # whatever rows say: it was a rehearsal
    assert {r["why"] for r in result["unpublished"]} == {"simulated"}
    text = (made_up / "results/gpu-simulated-A-there-twins-kernels.md").read_text()
    assert "rehearsal" in text and "3 rows" in text and "pass" not in text.replace("| passed |", "")


def test_what_fails_is_told(made_up, capsys):
    script(made_up / "build/tests/kernels/cuda/test_cuda_core", 'echo "not ok 1 - one"\nexit 1\n')
    (made_up / "build/src/media/libspillway_media.so").write_bytes(elf())
    assert check(pack(made_up), made_up, "--only", "there,twins") == 1
    told = capsys.readouterr().out
    assert "NOT GOOD" in told and "libspillway_media.so does not load" in told


def test_time_that_is_up_is_told(made_up):
    script(made_up / "build/bench/gpu/bench-gpu-nms", "sleep 60\n")
    assert check(pack(made_up), made_up, "--budget", "3", "--only", "there,kernels,soak,sanitizer") == 1
    parts = json.loads((made_up / "results/gpu-simulated-A-there-kernels-soak-sanitizer.json").read_text())["parts"]
    assert parts["kernels"]["benches"][0]["status"] == 124 and parts["there"]["good"]
    assert "no time was left" in parts["soak"]["notes"][0]


def test_a_pack_that_changed_on_its_way_is_refused(made_up, capsys):
    path = pack(made_up)
    path.write_bytes(path.read_bytes()[:-40])
    assert check(path, made_up) == 2
    assert "gpu-check:" in capsys.readouterr().err


def test_pieces_are_one_pack(made_up, capsys):
    assert gpu_pack.main([*words(made_up, "A"), "--pieces", "3", "--no-media"]) == 0
    pieces = sorted((made_up / "out").iterdir())
    assert [p.name for p in pieces] == ["pack-A.tar.xz.0", "pack-A.tar.xz.1", "pack-A.tar.xz.2"]
    assert check(pieces[0], made_up, str(pieces[1]), str(pieces[2]), "--only", "there") == 0
    result = json.loads((made_up / "results/gpu-simulated-A-there.json").read_text())
    assert list(result["parts"]["there"]["loads"]) == ["libspillway_cuda.so"]
    assert check(pieces[0], made_up, str(pieces[2])) == 2


def nvidia(directory, *names):
    directory.mkdir(exist_ok=True)
    for name in names:
        subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{name}", "-o", directory / name], check=True)


def test_the_engines_pack_has_a_thin_provider_and_makes_its_model(made_up, monkeypatch, capsys):
    """The provider is our made-up library, and like the real one does not survive being opened; the peer only looks whether it was given
    a model that can be read."""
    directory = made_up / "gpu"
    nvidia(made_up / "nvidia", "libcudart.so.13")
    directory.mkdir()
    for name in ("libonnxruntime.so.1.31.1", "libonnxruntime_providers_shared.so"):
        shutil.copy(made_up / "lib.so", directory / name)
    with (made_up / "lib.c").open("a") as file:
        file.write("void abort(void);\n__attribute__((constructor)) static void opened(void) { abort(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", directory / "libonnxruntime_providers_cuda.so", made_up / "lib.c", "-Wl,--no-as-needed",
                    made_up / "nvidia/libcudart.so.13"], check=True)
    script(made_up / "build/bench/gpu/bench-gpu-ort",
           f"test $(wc -c < $1) -gt 50000 && test -e \"$SPILLWAY_ONNXRUNTIME\" && echo '{row(bench='ort', case='plain, batch 8')}'\n")
    assert gpu_pack.main(words(made_up, "B", "gpu")) == 0

    # Without what the provider opens later it cannot work, and that is the first thing said.
    monkeypatch.setenv("LD_LIBRARY_PATH", str(made_up / "nvidia"))
    assert check(made_up / "out/pack-B.tar.xz", made_up, "--only", "there") == 1
    told = capsys.readouterr().out
    assert "for CUDA 13: libcudart.so.13, libcudnn.so.9 MISSING, libcufft.so.12" in told and "the pack wants libcudnn.so.9: " in told

    nvidia(made_up / "nvidia", "libcudnn.so.9", "libcufft.so.12")
    assert check(made_up / "out/pack-B.tar.xz", made_up, "--only", "there,engine") == 0
    parts = json.loads((made_up / "results/gpu-simulated-B-there-engine.json").read_text())["parts"]
    assert [(r["model"], r["batch"]) for r in parts["engine"]["rows"]] == [("resnet50", 8), ("resnet50-half", 8), ("resnet18", 8)]
    assert parts["there"]["loads"]["libonnxruntime.so.1"] == parts["there"]["loads"]["libonnxruntime_providers_cuda.so"] == "ok"


def test_the_made_up_resnet_is_one():
    sys.path.insert(0, str(ROOT / "tools"))
    import make_resnet
    import numpy as np
    import onnxruntime
    model = make_resnet.resnet(50)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53
    assert sum(int(np.prod(t.dims)) for t in model.graph.initializer) == 25530472
    assert sum(int(np.prod(t.dims)) for t in make_resnet.resnet(18).graph.initializer) == 11684712
    for how, shape, dtype in (({}, (1, 3, 224, 224), np.float32), ({"half": True}, (1, 3, 224, 224), np.float16),
                              ({"half": True, "pixels": True}, (1, 224, 224, 3), np.uint8), ({"pixels": True}, (1, 224, 224, 3), np.uint8)):
        session = onnxruntime.InferenceSession(make_resnet.resnet(18, width=8, **how).SerializeToString())
        answer = session.run(None, {"input": np.ones(shape, dtype)})[0]
        assert answer.shape == (1, 1000) and np.isfinite(answer).all()
        assert answer.dtype == (np.float16 if how == {"half": True} else np.float32)


def test_what_is_not_built_is_refused(made_up, capsys):
    (made_up / "build/spillway").unlink()
    assert gpu_pack.main(words(made_up, "A")) == 1
    assert "spillway is missing" in capsys.readouterr().err
    script(made_up / "build/spillway", "")
    script(made_up / "build/bench/gpu/bench-gpu-ort", "")
    assert gpu_pack.main(words(made_up, "B")) == 1 # the CPU's ONNX Runtime
    assert "libonnxruntime_providers_cuda.so (--onnxruntime)" in capsys.readouterr().err
    assert not list((made_up / "out").iterdir())


def test_without_a_gpu_nothing_is_run(tmp_path):
    if gpu_check.gpu_count()[0]:
        pytest.skip("there is a GPU here")
    done = subprocess.run([sys.executable, ROOT / "tools/gpu-check", tmp_path / "no-pack", "--results", tmp_path / "results"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 77 and "no GPU here" in done.stderr and not (tmp_path / "results").exists()
