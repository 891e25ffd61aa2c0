#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every header compiles alone, included twice: it brings what it needs and guards itself."""
import concurrent.futures
import glob
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-DSP_FAULTS=1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
         "-Wno-missing-field-initializers", "-fsyntax-only", "-Isrc", "-Iinclude", "-Itests/harness",
         "-Itests/shim", "-I.deps/onnxruntime/include", "-I.deps/openvino/include"]


def compile_alone(header):
    name = os.path.relpath(header, ROOT)
    source = f'#include "{name}"\n#include "{name}"\n'
    done = subprocess.run([os.environ.get("CC", "cc"), *FLAGS, "-I.", "-x", "c", "-"], cwd=ROOT, input=source, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return f"{name} does not compile alone:\n{done.stdout}" if done.returncode else ""


def main():
    headers = [path for folder in ("src", "include", "tests/harness")
               for path in sorted(glob.glob(f"{ROOT}/{folder}/**/*.h", recursive=True))]
    if not os.path.exists(f"{ROOT}/.deps/openvino/include"):  # set-up could not get it: its plug-in is not built either
        headers = [path for path in headers if "/engine/openvino/" not in path]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = [text for text in pool.map(compile_alone, headers) if text]
    print("\n".join(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
