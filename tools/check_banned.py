#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calls that have a safer twin, text that a reader cannot see, files without an SPDX line, files too long to read.

A line that must use a banned call says why in a comment with the words `allowed: REASON`.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BANNED = {
    "strcpy": "snprintf", "strcat": "sp_buf", "stpcpy": "snprintf", "strncat": "sp_buf",
    "sprintf": "snprintf", "vsprintf": "vsnprintf", "gets": "fgets", "atoi": "strtol", "atol": "strtol",
    "atoll": "strtoll", "atof": "strtod", "alloca": "an arena", "strtok": "strspn/strcspn", "system": "posix_spawn",
    "popen": "posix_spawn", "tmpnam": "mkostemp", "mktemp": "mkostemp", "vfork": "posix_spawn", "longjmp": "a status",
    "setjmp": "a status", "rand": "a seeded generator", "srand": "a seeded generator", "usleep": "the loop's timers",
}
CALL = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
# Zero-width and direction-changing characters, soft hyphen, BOM, odd spaces, tag characters.
INVISIBLE = re.compile("[\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f"
                       "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
# libjpeg leaves its calls by longjmp only; the harness leaves a test by it.
EXEMPT = {"src/media/": {"setjmp", "longjmp"}, "tests/harness/": {"setjmp", "longjmp"}}
LINES_MAX = 1000


def tracked(root=ROOT):
    out = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                         stdout=subprocess.PIPE, check=True).stdout
    return [name for name in out.decode().split("\0") if name and os.path.isfile(os.path.join(root, name))]


def strip_comments(text):
    """Comments and strings become spaces; lines stay where they are."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def problems_of(name, data):
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return [] if b"\0" in data[:4096] or name.startswith("tests/") else [f"{name}: not UTF-8"]
    found = []
    if "\0" in text:
        return found
    for number, line in enumerate(text.split("\n"), 1):
        for pattern, what in ((INVISIBLE, "an invisible character"), (CONTROL, "a control character")):
            match = pattern.search(line)
            if match and not name.startswith(("tests/fuzz/corpus/", "tests/data/")):
                found.append(f"{name}:{number}: {what}, U+{ord(match[0]):04X}")
    if name.endswith((".c", ".h", ".cu", ".inc", ".cuh")):
        if "SPDX-License-Identifier: Apache-2.0" not in text[:200]:
            found.append(f"{name}:1: no SPDX line")
        if text.count("\n") > LINES_MAX:
            found.append(f"{name}: {text.count(chr(10))} lines; a file over {LINES_MAX} usually holds two ideas")
        lines = text.split("\n")
        exempt = set().union(*(calls for prefix, calls in EXEMPT.items() if name.startswith(prefix)))
        for number, line in enumerate(strip_comments(text).split("\n"), 1):
            for match in CALL.finditer(line):
                call = match[1]
                if call not in exempt and "allowed:" not in lines[number - 1]:
                    found.append(f"{name}:{number}: {call}; use {BANNED[call]}")
    return found


def main():
    found = []
    for name in tracked():
        with open(os.path.join(ROOT, name), "rb") as file:
            found += problems_of(name, file.read())
    print("\n".join(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
