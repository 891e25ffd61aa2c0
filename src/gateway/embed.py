#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns a file into a C header with one char array: embed.py IN OUT SYMBOL. Run by meson; needs nothing but Python."""
import sys

source, target, symbol = sys.argv[1:4]
data = open(source, "rb").read()
lines = ["/* Made from %s; do not edit. */" % source.rsplit("/", 1)[-1], "static const char %s[] = {" % symbol]
for start in range(0, len(data), 24):
    lines.append("".join("%d," % (b if b < 128 else b - 256) for b in data[start:start + 24]))
lines.append("0};")
open(target, "w").write("\n".join(lines) + "\n")
