#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A lower room never includes a higher one, and no room outside src/base reaches into a sibling of the same height.

The order of the rooms is the order of `subdir('src/...')` in the top meson.build, so there is one place to change.
include/ may use nothing of src/. A plug-in directory (src/engine/onnxruntime) belongs to its room.
"""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def room_order():
    with open(os.path.join(ROOT, "meson.build"), encoding="utf-8") as file:
        return re.findall(r"^subdir\('src/([a-z]+)'\)", file.read(), re.MULTILINE)


def violations(root=ROOT, order=None):
    order = order or room_order()
    found = []
    for path in sorted(glob.glob(f"{root}/src/**/*", recursive=True) + glob.glob(f"{root}/include/**/*", recursive=True)):
        if not path.endswith((".c", ".h", ".inc", ".cu", ".cuh")):
            continue
        relative = os.path.relpath(path, root)
        with open(path, encoding="utf-8") as file:
            names = INCLUDE.findall(file.read())
        parts = relative.split(os.sep)
        for name in names:
            target = name.split("/")[0] if "/" in name and name.split("/")[0] in order else None
            if parts[0] == "include":
                if target:
                    found.append(f"{relative}: a public header includes {name}")
            elif target and parts[1] not in order:
                found.append(f"{relative}: room {parts[1]} is not in the top meson.build")
            elif target and order.index(target) > order.index(parts[1]):
                found.append(f"{relative}: {parts[1]} is below {target}, but includes {name}")
    return found


if __name__ == "__main__":
    FOUND = violations()
    print("\n".join(FOUND))
    sys.exit(bool(FOUND))
