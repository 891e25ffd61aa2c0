#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A shared library in the place of another: it has the name, and the symbols that some files want of it, and behind each function an
instruction that ends the process. For libraries that a program is linked to and never calls, as libavcodec is to thirty encoders: the
loader insists on them, and they are most of the bytes that would have to travel (tools/gpu-pack).

    wanted(paths)                              (symbol, version) that these files leave to others
    make(path, wanted, into)                   writes the stand-in of `path` that has what is wanted of it; how many symbols"""
import re
import subprocess

# name or number, value, size, type, binding, visibility, section, symbol[@[@]version]
LINE = re.compile(r" *\d+: [0-9a-f]+ +(\w+) +(\w+) +(\w+) +\w+ +(\w+) +([^\s@]+)(?:@+(\S+))?")


class Refused(Exception):
    """There can be no stand-in; the message says why."""


def symbols(path):
    """(name, version or "", type, bytes, defined here) of each dynamic symbol that other files may see."""
    told = subprocess.run(["readelf", "--dyn-syms", "--wide", str(path)], capture_output=True, text=True, check=True).stdout
    for line in filter(None, map(LINE.match, told.splitlines())):
        size, kind, binding, section, name, version = line.groups()
        if binding != "LOCAL":
            yield name, version or "", kind, int(size, 0), section != "UND"


def wanted(paths):
    return {(name, version) for path in paths for name, version, _, _, defined in symbols(path) if not defined}


def soname(path):
    told = subprocess.run(["readelf", "--dynamic", "--wide", str(path)], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\(SONAME\)[^[]*\[([^]]+)\]", told)
    return found.group(1) if found else path.name


def make(path, names, into):
    text, data, versions = [".text"], [".data"], {}
    for name, version, kind, size, defined in symbols(path):
        # A version that the file does not ask for is asked for when the library has no versions: then none is written.
        if not defined or kind not in ("FUNC", "IFUNC", "OBJECT", "NOTYPE") or (name, version) not in names and (name, "") not in names:
            continue
        if name in versions.get(version, ()):
            continue
        if any(name in others for others in versions.values()):
            raise Refused(f"{path}: {name} has two versions")
        versions.setdefault(version, []).append(name)
        if kind == "OBJECT":
            data += [".balign 32", f".globl {name}", f".type {name}, @object", f".size {name}, {size}", f"{name}: .zero {max(size, 1)}"]
        else:
            text += [f".globl {name}", f".type {name}, @function", f"{name}: .byte 0x0f, 0x0b"] # ud2
    script = into.with_suffix(".map")
    source = into.with_suffix(".s")
    source.write_text("\n".join([*text, *data, '.section .note.GNU-stack,"",@progbits', ""]))
    script.write_text("".join(f"{version} {{ global: {'; '.join(of)}; }};\n" for version, of in sorted(versions.items()) if version))
    command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{soname(path)}", "-o", str(into), str(source)]
    if any(versions):
        command.append(f"-Wl,--version-script={script}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    source.unlink()
    script.unlink()
    if done.returncode != 0:
        raise Refused(f"{path}: no stand-in: {done.stderr.strip()[-500:]}")
    return sum(len(of) for of in versions.values())
