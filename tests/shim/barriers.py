#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Leaves out one barrier of the CUDA kernels at a time, on the stand-in for a GPU, and says which of them no test notices.

    tests/shim/barriers.py [BUILD] [FILE.cu[:LINE] ...]

For who writes kernels; `make test` does not run it (all of them take some six minutes of a core). Nothing is compiled: the stand-in
skips the barrier that SPILLWAY_SHIM_SKIP names. A test notices it by failing, by dying, or by not ending in time. A barrier "for other
blocks" cannot be noticed, since the stand-in runs one block after the other. Exit status 1: some other one is not noticed."""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "src" / "kernels" / "cuda"
SECONDS = 60
# By how a file's name begins: the programs under BUILD/tests that are asked, until one notices.
TESTS = {
    "flow": ["kernels/cuda/test_cuda_flow"],
    "plane": ["kernels/cuda/test_cuda_plane"],
    "post_heads": ["kernels/cuda/test_cuda_post", "task/test_task_detect_cuda"],
    "post": ["kernels/cuda/test_cuda_post"],
    "sort": ["kernels/cuda/test_cuda_post"],
    "prep": ["kernels/cuda/test_cuda_prep"],
    "yuv": ["kernels/cuda/test_cuda_prep"],
    "rank": ["kernels/cuda/test_cuda_rank"],
}


def barriers(wanted):
    for path in sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")]):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            name = f"{path.name}:{number}"
            if re.search(r"^\s*__sync(threads|warp)\(", line) and (not wanted or path.name in wanted or name in wanted):
                yield name, line.strip()


def notice(program, env):
    """What one test makes of it: "" = nothing."""
    try:
        done = subprocess.run([program], env=env, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "does not end"
    failed = re.findall(r"^not ok \d+ - (\S+)", done.stdout, re.M)
    if done.returncode < 0:
        failed.append(f"dies of signal {-done.returncode}")
    if failed and f"left out: {env['SPILLWAY_SHIM_SKIP']}" not in done.stderr:
        sys.exit(f"{program} fails by itself: {', '.join(failed)}")
    return ", ".join(failed)


def main():
    arguments = sys.argv[1:]
    build = pathlib.Path(arguments.pop(0) if arguments and pathlib.Path(arguments[0]).is_dir() else ROOT / "build").resolve()
    missed = 0
    for name, line in barriers(set(arguments)):
        env = {**os.environ, "SPILLWAY_SHIM_SKIP": name, "SPILLWAY_SHIM_WHY_NOT": "",
               "SPILLWAY_CUDA_LIBRARY": str(build / "tests" / "shim" / "libspillway_cuda_shim.so")}
        tests = next((tests for begin, tests in TESTS.items() if name.startswith(begin)), [])
        told = next(filter(None, (notice(build / "tests" / test, env) for test in tests)), "")
        if not told and "for other blocks" in line:
            told = "for other blocks: cannot be noticed here"
        missed += not told
        print(f"{name:24} {told or 'NOT NOTICED: ' + line}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
