# SPDX-License-Identifier: Apache-2.0
"""libspillway as a user's program sees it: the header alone, the symbols, the example, a program built elsewhere."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", TREE / "build"))
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", TREE.parent / "shared/assets")) / "media/images"
LIBRARY = BUILD / "src/embed"
HEADERS = ["spillway.h", "spillway_engine.h"]


def sh(*words, **keywords):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False, **keywords)


@pytest.fixture(scope="module")
def library():
    path = LIBRARY / "libspillway.so"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


@pytest.fixture(scope="module")
def pictures():
    if not ASSETS.is_dir():
        pytest.skip(f"no pictures at {ASSETS} (SPILLWAY_ASSETS)")
    if not (TREE / "var/models/efficientnet-lite0/1/model.onnx").exists():
        pytest.skip("var/models has no efficientnet-lite0; `make model` fetches it")
    return [ASSETS / name for name in ("zebra.jpeg", "bee.jpeg", "kitten_224.png", "peacock.jpeg")]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("compiler, language, standard", [
    ("cc", "c", "c11"), ("cc", "c", "c17"), ("c++", "c++", "c++17"), ("c++", "c++", "c++20"), ("clang-14", "c", "c11"),
    ("clang++-14", "c++", "c++17"),
])
def test_the_header_compiles_alone(header, compiler, language, standard):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    done = sh(compiler, f"-std={standard}", "-x", language, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
              f"-I{TREE}/include", "-", input=f"#include <{header}>\n#include <{header}>\n")
    assert done.returncode == 0, done.stderr


def test_it_shows_what_the_header_declares_and_no_more(library):
    declared = set(re.findall(r"\b(spillway_[a-z_]+)\(", re.sub(r"/\*.*?\*/", "", (TREE / "include/spillway.h").read_text(),
                                                                flags=re.S)))
    shown = [line.split()[-1] for line in sh("nm", "-D", "--defined-only", library).stdout.splitlines()]
    assert sorted(f"{name}@@SPILLWAY_0.1" for name in declared) == sorted(name for name in shown if "@@" in name)
    assert [name for name in shown if "@@" not in name] == ["SPILLWAY_0.1"]
    assert "libspillway.so.0" in sh("readelf", "-d", library).stdout


def test_it_carries_no_decoder_and_no_engine(library):
    linked = sh("ldd", library).stdout
    for name in ("onnxruntime", "avcodec", "jpeg", "webp", "spng", "curl", "microhttpd"):
        assert name not in linked


def test_the_example(pictures):
    example = BUILD / "examples/embed"
    if not example.exists():
        pytest.skip(f"{example} is not built")
    done = sh(example, TREE / "var/models", *pictures)
    assert done.returncode == 0, done.stderr
    for label in ("zebra (340)", "bee (309)", "tabby (281)", "peacock (84)"):
        assert label in done.stdout
    assert "infer: images[150528] of zeros gives logits[0] = " in done.stdout
    done = sh(example, TREE / "var/models", pictures[0], "/none.jpg", TREE / "meson.build")
    assert done.returncode == 1 and "zebra (340)" in done.stdout
    assert "/none.jpg: cannot be read" in done.stderr and "meson.build: invalid: " in done.stderr
    assert sh(example).returncode == 2
    done = sh(example, "/none", pictures[0])
    assert done.returncode == 1 and "cannot open a model: not_found" in done.stderr


def test_a_program_built_elsewhere_finds_its_plug_ins(library, pictures, tmp_path):
    if "san" in sh("ldd", library).stdout:
        pytest.skip("a library with sanitizers needs a program with them")
    program = tmp_path / "embed"
    done = sh("cc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", f"-I{TREE}/include",
              TREE / "examples/embed.c", "-o", program, f"-L{LIBRARY}", "-lspillway", "-lpthread")
    assert done.returncode == 0, done.stderr
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPILLWAY_")} | {"LD_LIBRARY_PATH": str(LIBRARY)}
    done = sh(program, TREE / "var/models", *pictures, cwd=tmp_path, env=environment)
    assert done.returncode == 0 and "zebra (340)" in done.stdout, done.stderr


def test_it_answers_what_the_program_answers(library, run, pictures):
    """The command is built on the same calls; this holds the two builds of them together."""
    example = BUILD / "examples/embed"
    said = sh(example, TREE / "var/models", pictures[0]).stdout
    told = json.loads(run("classify", "--json", pictures[0]).stdout)["predictions"][0]
    assert f"{told['label']} ({told['class_id']}) {100 * told['probability']:.1f} %" in said
