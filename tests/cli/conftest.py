# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: the program, and a way to run it."""
import os
import pathlib
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", TREE / "build"))


@pytest.fixture(scope="session")
def program():
    path = BUILD / "spillway"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return str(path)


@pytest.fixture(scope="session")
def run(program):
    """run("pull", "x", env={...}) -> CompletedProcess with text output; never waits longer than a minute."""

    def call(*words, env=None, **keywords):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPILLWAY_")}
        environment.update(env or {})
        return subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=60, env=environment,
                              stdin=subprocess.DEVNULL, **keywords)

    return call
