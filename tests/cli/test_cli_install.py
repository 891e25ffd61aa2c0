# SPDX-License-Identifier: Apache-2.0
"""The installed program finds its plug-ins and catalogue by where it stands, not by where it was built."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", TREE / "build"))
PICTURE = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", TREE.parent / "shared/assets")) / "media/images/zebra.jpeg"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    if not shutil.which("meson") or not (BUILD / "spillway").exists():
        pytest.skip("needs meson and a build")
    root = tmp_path_factory.mktemp("root")
    done = subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild"], env=dict(os.environ, DESTDIR=str(root)),
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(root.rglob("bin/spillway"))


def call(program, *words, **env):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPILLWAY_")} | env
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, timeout=60, env=environment,
                          cwd="/", check=False)


def test_decoders_engine_and_downloads_are_found(installed):
    told = json.loads(call(installed, "doctor", "--json").stdout)
    assert told["media"]["present"] and told["downloads"]["present"], told
    engine = told["engines"][0]
    assert engine["present"] and str(BUILD) not in engine["library"], engine
    assert told["models"]["repository"] == "/var/lib/spillway/models"


def test_the_catalogue_is_found(installed):
    told = json.loads(call(installed, "models", "--catalogue", "--json").stdout)
    assert "share/spillway/models/catalogue.json" in told["catalogue"] and told["models"]


def test_it_classifies(installed):
    if not PICTURE.exists() or not (TREE / "var/models/efficientnet-lite0/1/model.onnx").exists():
        pytest.skip("needs SPILLWAY_ASSETS and var/models (`make model`)")
    done = call(installed, "classify", "--json", PICTURE, SPILLWAY_MODELS=str(TREE / "var/models"))
    assert done.returncode == 0 and json.loads(done.stdout)["predictions"][0]["label"] == "zebra", done.stderr
