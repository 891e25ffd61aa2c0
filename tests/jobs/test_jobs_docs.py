# SPDX-License-Identifier: Apache-2.0
"""The curl lines of docs/jobs.md and docs/video-api.md do what they say."""
import re
import shutil
import subprocess

import pytest

import jobhouse


def test_the_curl_lines_of_the_documentation_work(serve, tmp_path):
    picture = jobhouse.ASSETS / "media" / "images" / "zebra.jpeg"
    if not shutil.which("curl") or not picture.exists():
        pytest.skip("curl or the zebra is not there (SPILLWAY_ASSETS)")
    if not (jobhouse.MODELS / "efficientnet-lite0" / "1" / "model.onnx").exists():
        pytest.skip("the default model is not there (make model)")
    server = serve(workers="codec0,cpu0,net0").ready()
    shutil.copy(picture, tmp_path / "cat.jpg")
    text = (jobhouse.ROOT / "docs" / "jobs.md").read_text()
    known = re.search(r"job-[0-9a-f]{13}-[0-9a-f]{16}", text)[0]
    lines = [c for block in re.findall(r"```sh\n(.*?)```", text, re.S)
             for c in re.findall(r"^curl .*?(?<!\\)$(?:\n  .*)*", block, re.M)]
    assert len(lines) >= 10
    name = None
    for line in lines:
        script = f"S=http://127.0.0.1:{server.port}\n" + line.replace(known, str(name)).replace("/ID", f"/{name}")
        if "-X DELETE" in line:
            server.wait_job(name)
        done = subprocess.run(["bash", "-c", script.replace("curl ", "curl -sS --fail-with-body ", 1)], cwd=tmp_path, text=True,
                              capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if name is None or ("-X DELETE" in line and "jobs" in line):  # the next lines need one that is there
            reply = done if name is None else subprocess.run(
                ["curl", "-sS", "--data-binary", "@cat.jpg", "-H", "Content-Type: image/jpeg", f"{server.url}/v1/jobs?task=classify"],
                cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True)
            name = re.search(r"job-[0-9a-f]{13}-[0-9a-f]{16}", reply.stdout)[0]
            server.wait_job(name)


def test_the_curl_lines_about_videos_work(serve, tmp_path):
    film = jobhouse.ASSETS / "media" / "video" / "big_buck_bunny_small.mp4"
    if not shutil.which("curl") or not shutil.which("ffmpeg") or not film.exists():
        pytest.skip("curl, ffmpeg or the clip is not there (SPILLWAY_ASSETS)")
    server = serve(workers="codec0,cpu0,net0").ready()
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(film), "-an", "-vf", "scale=160:-2", "-frames:v", "30", str(tmp_path / "film.mp4")],
                   check=True, timeout=60)
    text = (jobhouse.ROOT / "docs" / "video-api.md").read_text()
    known = re.search(r"job-[0-9a-f]{13}-[0-9a-f]{16}", text)[0]
    lines = [c for block in re.findall(r"```sh\n(.*?)```", text, re.S)
             for c in re.findall(r"^curl .*?(?<!\\)$(?:\n  .*)*", block, re.M)]
    assert len(lines) >= 10
    name, seen = None, []
    for line in lines:
        script = f"S=http://127.0.0.1:{server.port}\n" + line.replace(known, str(name))
        done = subprocess.run(["bash", "-c", script.replace("curl ", "curl -sS --fail-with-body ", 1)], cwd=tmp_path, text=True,
                              capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        seen.append(done.stdout)
        if name is None:
            name = re.search(r"job-[0-9a-f]{13}-[0-9a-f]{16}", done.stdout)[0]
            assert server.wait_job(name)["status"] == "done"
    assert (tmp_path / "report.json").read_text().startswith("{") and (tmp_path / "frames.csv").exists()
    assert any('"status":"done"' in s and "shop-17" in s and "4711" in s for s in seen)  # who waited
