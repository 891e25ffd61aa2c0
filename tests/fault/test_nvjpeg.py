# SPDX-License-Identifier: Apache-2.0
"""decode=nvjpeg in a whole server, without a GPU: the device is the tests' stand-in (tests/shim), nvJPEG another (tests/media/gpu),
whose pixels are a little brighter than ours. Who asks for it is told that it was used; who does not is not affected; whatever it
does not take, fails at or dies of is decoded the ordinary way."""
import io
import json
import os
import subprocess

import house
import pytest
from PIL import Image

from test_cuda import gpu, once, post_to  # noqa: F401: gpu is a fixture

NVJPEG = house.BUILD / "tests" / "media" / "gpu" / "libnvjpeg.so.13"


@pytest.fixture
def serve(start, tmp_path, gpu):  # noqa: F811
    if not NVJPEG.exists():
        pytest.skip(f"no {NVJPEG.name} in this build")

    def serve(env=None, workers="codec0,cuda0", config=""):
        path = tmp_path / "nvjpeg.yaml"
        path.write_text("nvjpeg: true\ncache: {ttl: 1h, memory: 1MiB}\n" + config)
        return start(workers=workers, env={**gpu, "SPILLWAY_NVJPEG_LIBRARY": str(NVJPEG), **(env or {})},
                     args=["--data-dir", tmp_path / "data", "--config", path])
    return serve


def ask(server, body, decode="nvjpeg"):
    status, answer = post_to(server, f"/infer?decode={decode}", body)
    assert status == 200, answer
    return answer


def jpeg(picture, **how):
    out = io.BytesIO()
    picture.save(out, "JPEG", **how)
    return out.getvalue()


def best(answer):
    return [(p["class_id"], p["probability"]) for p in answer["predictions"]]


def fallbacks(server):
    """Reason: how many."""
    lines = server.get("/metrics")[1].decode().splitlines()
    found = [line for line in lines if line.startswith("spillway_nvjpeg_fallbacks_total{")]
    return {line.split('reason="')[1].split('"')[0]: int(float(line.split()[-1])) for line in found}


@pytest.fixture
def zebra(labels):
    path = next(path for path in labels if path.name == "zebra.jpeg")
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((260, 260))  # the stand-in counts every pixel
    return picture, labels[path]


def test_who_asks_for_it_is_told_and_what_it_does_not_take_goes_the_ordinary_way(serve, zebra):
    server = serve(config="guard: {per_mille: 1000}\n", workers="codec0,cuda0,cpu0")
    assert server.worker("cuda0")["nvjpeg"] == "nvJPEG 13.0.0 (libnvjpeg.so.13)"
    picture, label = zebra
    plain = jpeg(picture)
    exact, other = ask(server, plain, "exact"), ask(server, plain)
    assert (exact["decode"], other["decode"]) == ("exact", "nvjpeg")
    assert other["provider"] == "cuda0" and other["latency_ms"]["decode"] > 0 and len(other["attempts"]) == 1, other
    assert exact["predictions"][0]["label"] == other["predictions"][0]["label"] == label
    assert best(exact) != best(other)
    for answer, decode in (exact, "exact"), (other, "nvjpeg"):  # kept apart
        again = ask(server, plain, decode)
        assert again["cache"] == "hit" and again["decode"] == decode and best(again) == best(answer)

    turned = Image.Exif()
    turned[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    taken = [jpeg(picture, exif=upright), jpeg(picture.convert("L")), jpeg(picture, subsampling=0), plain + b"\0" * 50,
             jpeg(picture.resize((83, 61)), quality=100)]
    for body in taken:
        assert ask(server, body)["decode"] == "nvjpeg"
    refused = {"progressive": jpeg(picture, progressive=True), "colours": jpeg(picture.convert("CMYK")),
               "turned": jpeg(picture, exif=turned), "unusual": plain[:20] + b"\0" + plain[20:]}
    for body in refused.values():
        answer, want = ask(server, body), ask(server, body, "exact")
        assert answer["decode"] == "exact" and best(answer) == best(want)
        assert [a["status"] for a in answer["attempts"]][0] == "unsupported", answer
    png = io.BytesIO()
    picture.save(png, "PNG")
    assert ask(server, png.getvalue())["decode"] == "exact"
    assert post_to(server, "/infer?decode=nvjpeg", plain[:-100])[0] == post_to(server, "/infer", plain[:-100])[0] == 400
    assert fallbacks(server) == {**dict.fromkeys(refused, 1), "damaged": 1}
    assert server.metric("spillway_nvjpeg_decoded_total") == 1 + len(taken)
    assert server.metric("spillway_guard_mismatches_total") == 0 and server.restarts() == 0


@once
@pytest.mark.parametrize("end", ["abort", "sticky"])
def test_each_call_fails_once_and_then_it_dies_and_no_request_is_lost(serve, zebra, end):
    """No other link is there to take over. At last the process crashes, or its device fails for good."""
    calls = ["nvjpegJpegStateCreate:2:5", "nvjpegGetImageInfo:1:3", "nvjpegGetImageInfo:3:8", "nvjpegDecode:1:6", "nvjpegDecode:2:5",
             "nvjpegDecode:3:4", f"nvjpegDecode:5:{end}"]
    server = serve({"SPILLWAY_STANDIN_NVJPEG": ",".join(calls)})
    picture, label = zebra
    pid, seen = server.worker("cuda0")["pid"], []
    for i in range(30):
        answer = ask(server, house.with_comment(jpeg(picture), i))
        assert answer["predictions"][0]["label"] == label
        seen.append(answer["decode"])
        if server.restarts():
            break
    assert "nvjpeg" in seen and seen[-1] == "exact", seen
    counted = fallbacks(server)
    assert counted["refused"] == 2 and counted["failed"] == 2 and counted["memory"] == 1 and counted["died"] == 1, counted
    assert server.metric("spillway_poisoned_requests_total") == 0
    server.wait_worker_ready("cuda0", pid)
    assert server.worker("cuda0")["nvjpeg"].startswith("off: the worker ended while it decoded a file")
    answer = ask(server, house.with_comment(jpeg(picture), 99))
    assert answer["decode"] == "exact" and answer["provider"] == "cuda0" and server.restarts() == 1


@once
@pytest.mark.parametrize("env, why", [
    ({"SPILLWAY_NVJPEG_LIBRARY": "/nowhere/libnvjpeg.so.13"}, "off: no nvJPEG: /nowhere/libnvjpeg.so.13: cannot open"),
    pytest.param({"SPILLWAY_STANDIN_NVJPEG": "nvjpegCreateSimple:1:7"}, "off: nvJPEG: no decoder: code 7",
                 marks=pytest.mark.skipif(not house.FULL, reason="the same way as without a library: SPILLWAY_FULL=1 runs it")),
])
def test_where_it_is_not_the_start_says_why_and_nobody_is_refused(serve, zebra, gpu, env, why):  # noqa: F811
    server = serve(env)
    told = subprocess.run([house.PROGRAM, "doctor", "--json"], env={**os.environ, **gpu, **env}, capture_output=True, timeout=60)
    assert env.get("SPILLWAY_NVJPEG_LIBRARY", "") in json.loads(told.stdout)["cuda"]["nvjpeg"]["detail"]
    assert server.worker("cuda0")["nvjpeg"].startswith(why), server.worker("cuda0")
    assert "nvJPEG is off" in server.log_text()
    answer = ask(server, jpeg(zebra[0]))
    assert answer["decode"] == "exact" and answer["predictions"][0]["label"] == zebra[1] and not fallbacks(server)
