# SPDX-License-Identifier: Apache-2.0
"""A thousand malformed uploads to the real program: each gets a 4xx with a reason, the server lives, memory stays flat."""
import concurrent.futures
import io
import os
import random
import struct
import zlib

import pytest
import requests

from conftest import SANITIZED
from test_gateway_http import form, form_headers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODELS = os.environ.get("SPILLWAY_MODELS", os.path.join(ROOT, "var", "models"))


def pictures():
    np = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[0:90, 0:120]
    noise = np.random.default_rng(3).integers(0, 60, (90, 120, 3))
    picture = image.fromarray(((np.stack([x + y, 2 * x, 255 - y], 2) + noise) % 256).astype(np.uint8))
    for name, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
                          ("GIF", {}), ("BMP", {}), ("TIFF", {})):
        out = io.BytesIO()
        picture.save(out, name, **options)
        yield name, out.getvalue()


def bombs():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for w, h in ((65000, 65000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (65001, 1000), (0, 0), (0, 10)):
        yield b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        yield b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, min(w, 2**31 - 1), min(h, 2**31 - 1), 1, 24, 0, 0, 0, 0, 0, 0) + b"\0" * 900
        if w < 65536:
            yield b"GIF89a" + struct.pack("<HHBBB", w, min(h, 65535), 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, w, min(h, 65535), 0) + b"\x02\x01\x44\0;"
            yield (b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, min(h, 65535), w, 3) + b"\x01\x22\0\x02\x11\1\x03\x11\1" +
                   b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0" + b"\0" * 100)


def uploads():
    """(what, body, headers) of a thousand requests, none of which holds a whole picture."""
    rng = random.Random(11)
    files = list(pictures())
    octets = {"Content-Type": "application/octet-stream"}
    yield "empty", b"", octets
    yield "100 MB", b"\xff\xd8" + b"\0" * 100_000_000, octets
    for junk in (b"x", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"%PDF-1.7\n", b"PK\3\4" + b"\0" * 100, b"\x7fELF" + b"\0" * 100,
                 b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<?xml version='1.0'?>", b"\0" * 100_000, b"ftypheic" * 10,
                 b"\0\0\0\x20ftypmp42" + b"\0" * 64, b"#EXTM3U\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n",
                 b"RIFF\x10\0\0\0WAVEfmt ", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"GIF89a",
                 b"BM", b"P6 4 4 255\n" + b"\0" * 48, b"id=picture&x=1"):
        yield "junk", junk, octets
        yield "junk in a form", form([("image", junk)]), form_headers()
    for bomb in bombs():
        yield "bomb", bomb, octets
    for what in ("text/plain", "application/json", "video/mp4", "multipart/mixed; boundary=a", "imagejpeg", "application/x-www-form-urlencoded"):
        yield "media type", files[0][1], {"Content-Type": what}
    whole = form([("top_k", 3), ("image", files[0][1])])
    for _ in range(150):
        yield "cut form", whole[:rng.randrange(1, len(whole) - 4)], form_headers()
    count = 0
    while True:
        for name, data in files:
            # Headers are cut at every byte in turn, the rest anywhere up to nine tenths of the file.
            cut = count % 700 + 1 if count % 2 else rng.randrange(1, len(data) * 9 // 10)
            count += 1
            body = data[:min(cut, len(data) * 9 // 10)]
            yield ("cut %s" % name, body, octets) if count % 3 else ("cut %s in a form" % name, form([("file", body)]), form_headers())


def test_a_thousand_malformed_uploads(spillway):
    if not os.path.isdir(MODELS) or not os.listdir(MODELS):
        pytest.skip("no model in " + MODELS)
    server = spillway("--workers", "codec0,cpu0", "--model-repository", MODELS)
    server.wait_for(lambda h: h["ready"] or any(w["state"] in ("quarantined", "backoff") for w in h["workers"]), "workers decide", 60)
    health = server.health()
    if not health["ready"]:
        pytest.skip("no house here: " + "; ".join("%s %s" % (w["name"], w["reason"]) for w in health["workers"]))
    session = requests.Session()
    good = next(iter(pictures()))[1]
    assert session.post(server.url + "/infer", data=good, headers={"Content-Type": "image/jpeg"}, timeout=60).status_code == 200

    def send(item):
        what, body, headers = item
        reply = requests.post(server.url + "/infer", data=body, headers=headers, timeout=60)
        problem = reply.json()
        ok = 400 <= reply.status_code < 500 and reply.status_code != 429 and problem.get("code") and len(problem.get("error", "")) > 10
        return None if ok else (what, reply.status_code, body[:60], len(body), reply.text[:300])

    source = uploads()
    resident = 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for part in range(4):
            wrong = [w for w in pool.map(send, [next(source) for _ in range(250)]) if w]
            assert not wrong, "%d wrong, first: %s" % (len(wrong), wrong[:5])
            if part == 0:
                resident = server.resident_bytes()
    after = server.health()
    assert after["requests_open"] == 0
    assert [w["restarts"] for w in after["workers"]] == [w["restarts"] for w in health["workers"]], after["workers"]
    assert SANITIZED or server.resident_bytes() < resident + 4 * 1024 * 1024, (resident, server.resident_bytes())
    assert session.post(server.url + "/infer", data=good, headers={"Content-Type": "image/jpeg"}, timeout=60).status_code == 200
