# SPDX-License-Identifier: Apache-2.0
"""Every variant of every format decodes to Pillow's pixels, to the bit (16-bit samples: v >> 8)."""
import numpy as np
import pytest

import pictures
from decoder import ASSETS, BUILD, Decoder, pillow_rgb


@pytest.fixture(scope="module")
def decode(tmp_path_factory):
    if not (BUILD / "tests/media/media_decode_tool").exists():
        pytest.skip("media_decode_tool is not built")
    decoder = Decoder(tmp_path_factory.mktemp("decode"))
    yield decoder
    assert decoder.close() == 0


# Pillow reads them, we refuse them with a clear error (docs/known-limits.md).
KNOWN_LIMITS = ("tiff_float",)


def difference(got, want):
    if got.shape != want.shape:
        return f"shape {got.shape}, Pillow {want.shape}"
    delta = np.abs(got.astype(int) - want.astype(int))
    if not delta.any():
        return None
    return f"{np.count_nonzero(delta.any(axis=2))} of {got.shape[0] * got.shape[1]} pixels differ, by up to {delta.max()}"


@pytest.mark.parametrize("format", list(pictures.FORMATS))
def test_variants_equal_pillow(decode, format):
    wrong, count = [], 0
    for name, data, reference in pictures.all_pictures(format):
        want = pillow_rgb(data) if reference is None else reference
        answer, got = decode(data)
        count += 1
        if name.startswith(KNOWN_LIMITS):
            if answer.get("code") != "unsupported_variant":
                wrong.append(f"{name}: {answer}")
        elif isinstance(want, Exception):
            if got is not None:
                wrong.append(f"{name}: decoded, but Pillow says {want!r}")
        elif got is None:
            wrong.append(f"{name}: {answer['code']}: {answer['message']}")
        elif (text := difference(got, want)):
            wrong.append(f"{name}: {text}")
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong)
    print(f"{format}: {count} variants equal")


def test_assets_equal_pillow(decode):
    files = sorted(p for d in ("images", "ocr") for p in (ASSETS / "media" / d).glob("*.*")
                   if p.suffix in (".jpg", ".jpeg", ".png", ".tif"))
    if not files:
        pytest.skip(f"no asset pictures under {ASSETS}")
    for path in files:
        data = path.read_bytes()
        answer, got = decode(data)
        assert got is not None, f"{path.name}: {answer}"
        assert difference(got, pillow_rgb(data)) is None, path.name


@pytest.mark.parametrize("short_side,scale", [(300, 1), (93, 1), (92, 2), (47, 2), (46, 4), (24, 4),
                                              (23, 8), (1, 8)])
def test_fast_shrinks_jpeg_only(decode, short_side, scale):
    rgb = pictures.scene(275, 183)
    answer, got = decode(pictures.turbojpeg(rgb, 2), fast=short_side)
    assert answer["scale"] == scale
    assert got.shape == (-(-183 // scale), -(-275 // scale), 3)
    answer, got = decode(pictures.png_file(rgb, 2, 8), fast=short_side)
    assert answer["scale"] == 1 and (got == rgb).all()
