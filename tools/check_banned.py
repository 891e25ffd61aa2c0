#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calls that have a safer twin, arguments that a macro evaluates twice and that may differ, text that a reader cannot see,
files without an SPDX line, files too long to read.

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
# These evaluate an argument twice. Between two readings a clock goes on and an atomic changes: the result may be beyond the
# very bound that the macro was to keep (a sleep until a moment just past had a negative length, and never ended).
TWICE = re.compile(r"\b(SP_MIN|SP_MAX|SP_CLAMP|SP_ALIGN_UP)\s*\(")
CHANGES = re.compile(r"\b(\w*(?:clock|random|progress|unix_ms)\w*|atomic_\w+|time|recv|read|write|send)\s*\(|\+\+|--|(?<![=!<>])=(?!=)")
# Zero-width and direction-changing characters, soft hyphen, BOM, odd spaces, tag characters.
INVISIBLE = re.compile("[\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f"
                       "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
# libjpeg leaves its calls by longjmp only; the harness leaves a test by it.
EXEMPT = {"src/media/": {"setjmp", "longjmp"}, "tests/media/gpu/": {"setjmp", "longjmp"}, "tests/harness/": {"setjmp", "longjmp"}}
LINES_MAX = 1000


def tracked(root=ROOT):
    out = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                         stdout=subprocess.PIPE, check=True).stdout
    return [name for name in out.decode().split("\0") if name and os.path.isfile(os.path.join(root, name))]


def strip_comments(text):
    """Comments and strings become spaces; lines stay where they are."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def arguments(text, begin):
    """What stands between the parenthesis that ends at `begin` and its partner."""
    depth, end = 1, begin
    while depth and end < len(text):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return text[begin:end - 1]


def twice_evaluated(name, text):
    for macro in TWICE.finditer(text):
        line_begin = text.rfind("\n", 0, macro.start()) + 1
        if text[line_begin:].lstrip().startswith("#"):
            continue
        change = CHANGES.search(arguments(text, macro.end()))
        if change:
            number = text.count("\n", 0, macro.start()) + 1
            yield f"{name}:{number}: {macro[1]} evaluates `{change[0]}` twice; put the value into a variable first"


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
        stripped = strip_comments(text)
        found += twice_evaluated(name, stripped)
        for number, line in enumerate(stripped.split("\n"), 1):
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
