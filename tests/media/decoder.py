# SPDX-License-Identifier: Apache-2.0
"""Drives build/tests/media/media_decode_tool: one process, many files."""
import json
import os
import pathlib
import subprocess
import warnings

import numpy as np
from PIL import Image, ImageOps

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT / "../shared/assets"))


class Decoder:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        # Leaks are looked for elsewhere: here a report at exit would only hide which file was at fault.
        environment = dict(os.environ, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "allocator_may_return_null=1"))
        self.process = subprocess.Popen([BUILD / "tests/media/media_decode_tool"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)

    def __call__(self, data, fast=0):
        """(answer, RGB array or None)"""
        source, output = self.directory / "in.bin", self.directory / "out.rgb"
        source.write_bytes(data)
        prefix = f"fast={fast} " if fast else ""
        self.process.stdin.write(f"{prefix}{source}\t{output}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the decoder died (exit {self.process.wait()})"
        answer = json.loads(line)
        if answer["status"] != "ok":
            return answer, None
        rgb = np.fromfile(output, np.uint8).reshape(answer["height"], answer["width"], 3)
        return answer, rgb

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def pillow_rgb(data):
    """Pillow's reading of it, or the exception."""
    import io
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Exception as e:
            return e
