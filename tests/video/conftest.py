# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the video tests; each skip says why."""
import shutil
import sys

import pytest

sys.path.insert(0, __file__.rsplit("/", 1)[0])
import clips  # noqa: E402


@pytest.fixture(scope="session")
def program():
    if not clips.PROGRAM.exists():
        pytest.skip(f"{clips.PROGRAM} is not built")
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg to make clips with")
    return str(clips.PROGRAM)


@pytest.fixture(scope="session")
def cut(program, tmp_path_factory):
    """cut("car-detection.mp4", frames=660, size="160x90", gop=48) -> a small clip of an asset, made once."""
    directory = tmp_path_factory.mktemp("clips")
    made = {}

    def make(asset, **how):
        key = (asset, *sorted(how.items()))
        if key not in made:
            made[key] = clips.make(asset, directory / f"{len(made)}.mp4", **how)
        return made[key]

    return make


@pytest.fixture
def analyze(program, tmp_path):
    """analyze(clip, "--chunks", 2, env={...}) -> a Run; its report lies in a directory of its own."""
    count = 0

    def run(clip, *words, **keywords):
        nonlocal count
        count += 1
        return clips.Run(clip, keywords.pop("out", tmp_path / f"report{count}"), words, **keywords).wait()

    return run


@pytest.fixture(scope="session")
def clip(cut):
    """The clip of most tests: more than ten segments, each a run of its own."""
    frames = 1300 if clips.FULL else 250 if clips.SLOW else 520
    return cut("car-detection.mp4", frames=frames, size="768x432" if clips.FULL else "96x54", gop=48)


@pytest.fixture(scope="session")
def expected(clip, program, tmp_path_factory):
    """Its report.json."""
    return clips.Run(clip, tmp_path_factory.mktemp("first") / "report").wait().report_bytes()
