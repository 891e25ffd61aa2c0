#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unpacks one Debian package of a later suite into a directory, installing nothing.

usage: debian_package_of_suite.py SUITE PACKAGE DIRECTORY

The source is the machine's own: the entry that serves this release's `main` (deb822 or one-line form) is copied with
only its suite changed, so mirror, proxy and Signed-By stay what the machine's owner chose, and apt checks signatures as
always. Lists and archives lie in a scratch directory; apt's own state is not touched.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile


def release():
    with open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VERSION_CODENAME="):
                return line.split("=", 1)[1].strip().strip('"')
    raise SystemExit("/etc/os-release names no release")


def fields_of(stanza):
    """{lower-case key: value} of a deb822 stanza, continuation lines joined."""
    fields, key = {}, None
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace() and key:
            fields[key] += "\n" + line
        elif ":" in line:
            key, value = line.split(":", 1)
            key = key.strip().lower()
            fields[key] = value.strip()
    return fields


def deb822_entry(text, old, new):
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = fields_of(stanza)
        if (fields.get("enabled", "yes").lower() in ("no", "false") or "deb" not in fields.get("types", "").split()
                or old not in fields.get("suites", "").split() or "main" not in fields.get("components", "").split()):
            continue
        fields.update(types="deb", suites=new, components="main")
        return "".join(f"{key}: {value}\n" for key, value in fields.items())
    return None


def one_line_entry(text, old, new):
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.split("#", 1)[0])
        if match and match[3] == old and "main" in match[4].split():
            return f"deb {match[1] or ''}{match[2]} {new} main\n"
    return None


def source_entry(old, new, root="/etc/apt"):
    """(file suffix, text) of the private source, or None."""
    for path in [f"{root}/sources.list", *sorted(glob.glob(f"{root}/sources.list.d/*"))]:
        kind = os.path.splitext(path)[1]
        if kind not in (".list", ".sources") or not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = (deb822_entry if kind == ".sources" else one_line_entry)(text, old, new)
        if found:
            return kind, found
    return None


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    suite, package, directory = sys.argv[1:]
    entry = source_entry(release(), suite)
    if not entry:
        raise SystemExit(f"no apt source of this machine serves {release()} main, so {package} of {suite} cannot be "
                         f"fetched; install {package} by hand")
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("lists/partial", "cache/archives/partial", "out"):
            os.makedirs(os.path.join(scratch, name))
        source = os.path.join(scratch, "later" + entry[0])
        with open(source, "w", encoding="utf-8") as file:
            file.write(entry[1])
        options = []
        for option in (f"Dir::Etc::sourcelist={source}", "Dir::Etc::sourceparts=-", f"Dir::State::Lists={scratch}/lists",
                       f"Dir::Cache={scratch}/cache", "Acquire::Languages=none", "Acquire::Retries=2",
                       f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}"):
            options += ["-o", option]
        subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
        subprocess.run(["apt-get", "-qq", *options, "download", package], check=True, cwd=f"{scratch}/out")
        deb, = glob.glob(f"{scratch}/out/*.deb")
        subprocess.run(["dpkg", "-x", deb, directory], check=True)


if __name__ == "__main__":
    main()
