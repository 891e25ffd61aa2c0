# SPDX-License-Identifier: Apache-2.0
"""Videos as jobs: how they come in, what is told of them, what they leave, and that no death costs a frame."""
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import zipfile

import pytest

import jobhouse
from jobhouse import until

V = "/v1/videos/analyses"
SLOW = bool(os.environ.get("SPILLWAY_SANITIZER"))
FRAMES = 300  # a segment is at least 48 of them, so 6
WORKERS = "codec0,cpu0"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """clip(frames, size) -> path; key frames every 25."""
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed (tools/packages.txt)")
    directory = tmp_path_factory.mktemp("clips")

    def make(frames, size="80x60" if SLOW else "160x120"):
        path = directory / f"{frames}-{size}.mp4"
        if not path.exists():
            subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25", "-frames:v", str(frames),
                            "-g", "25", "-pix_fmt", "yuv420p", str(path)], check=True, timeout=60)
        return path
    return make


@pytest.fixture
def serve(serve, tmp_path):
    """Without a classifier, whose loading takes longer than a short clip."""
    (tmp_path / "none").mkdir()
    return lambda *args, **kw: serve(*args, models=tmp_path / "none", **kw)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not jobhouse.PROGRAM.exists():
        pytest.skip(f"{jobhouse.PROGRAM} is not built")
    started = jobhouse.Server(tmp_path_factory.mktemp("videos") / "server", workers="codec0,cpu0,net0",
                              models=tmp_path_factory.mktemp("none")).ready()
    yield started
    assert started.stop() == 0
    assert "over 100 us" not in started.log_text()


def post(server, body, query="", headers=None, content_type="video/mp4"):
    return server.ask("POST", V + query, body, {"Content-Type": content_type, **(headers or {})}, timeout=120)


def post_json(server, fields):
    return post(server, json.dumps(fields), content_type="application/json")


def report(server, name):
    reply = server.ask("GET", f"{V}/{name}/report.json")
    assert reply.status == 200, reply
    return reply.body


def same(job, got, want):
    """Byte for byte; else the first difference, and who computed it."""
    if got == want:
        return
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    pytest.fail(f"reports differ at byte {at}: {got[at - 200:at + 60]!r} and {want[at - 200:at + 60]!r}; {job['result']['run']}")


def done(server, reply):
    assert reply.status == 202, reply
    job = server.wait_job(reply.json()["id"])
    assert job["status"] == "done", (job, server.log_text())
    return job


@pytest.fixture(scope="module")
def first(server, clips):
    """(job, report.json) of a clip of 60 frames, handed in as it is."""
    job = done(server, post(server, clips(60).read_bytes(), "?client_id=me"))
    return job, report(server, job["id"])


def test_a_video_is_analysed_and_its_report_served(server, first):
    job, text = first
    assert job["task"] == "analyze" and job["client_id"] == "me"
    result = job["result"]
    assert result["frames_analyzed"] == result["frames_total"] == 60
    assert json.loads(text)["frames_analyzed"] == 60
    assert result["run"]["frames_analyzed"] == 60 and result["run"]["device"] and "cost" in result["run"]
    names = [f["name"] for f in result["files"]]
    assert names[0] == "report.json" and {"frames.csv", "report.html"} <= set(names)
    for file in result["files"]:
        reply = server.ask("GET", file["url"])
        assert reply.status == 200 and len(reply.body) == file["bytes"], file
        assert reply.headers["x-content-type-options"] == "nosniff"
        if file["name"] == "frames.npz":
            assert zipfile.ZipFile(io.BytesIO(reply.body)).testzip() is None
        if file["name"] == "frames.csv":
            assert reply.body.count(b"\n") == 61
    listed = server.ask("GET", V).json()["jobs"]
    assert job["id"] in [j["id"] for j in listed] and {j["task"] for j in listed} == {"analyze"}


def test_the_command_writes_the_same_report(first, clips, tmp_path):
    run = subprocess.run([jobhouse.PROGRAM, "analyze", clips(60), "-o", tmp_path / "out", "--quiet"], capture_output=True, text=True,
                         timeout=120, check=False, cwd=tmp_path)
    assert run.returncode == 0, run
    assert (tmp_path / "out" / "report.json").read_bytes() == first[1]


def test_an_overlay_is_made_when_asked_for(server, clips):
    job = done(server, post(server, clips(30).read_bytes(), "?overlay=true"))
    film = next((f for f in job["result"]["files"] if f["name"] == "overlay.mp4"), None)
    assert film, job["result"]["files"]
    reply = server.ask("GET", film["url"])
    assert reply.headers["content-type"] == "video/mp4" and reply.body[4:8] == b"ftyp"


def test_ranges_of_a_file(server, first):
    job, text = first
    path = f"{V}/{job['id']}/files/report.json"

    def ask(value):
        return server.ask("GET", path, headers={"Range": value})
    size = len(text)
    for value, want in (("bytes=0-9", text[:10]), ("bytes=10-", text[10:]), ("bytes=-7", text[-7:]), (f"bytes=5-{size * 2}", text[5:])):
        reply = ask(value)
        assert reply.status == 206 and reply.body == want, value
        assert reply.headers["content-range"].endswith(f"/{size}")
    assert ask(f"bytes={size}-").status == 416
    assert ask("bytes=9-3").status == 200 and ask("lines=1-2").status == 200
    assert server.ask("HEAD", path).headers["content-length"] == str(size)
    assert server.ask("GET", f"{V}/{job['id']}/files/none.txt").status == 404
    assert server.ask("GET", f"{V}/{job['id']}/files/key/../report.json").status == 404


def test_the_same_video_comes_in_many_ways(server, first, clips):
    """A form, a chunked body, /v1/jobs: one report."""
    bytes_ = clips(60).read_bytes()
    body, content_type = jobhouse.form({"client_id": "x", "chunks": "3", "metadata": '{"a": 1}', "mine": "left alone"}, bytes_)
    ids = [post(server, body, content_type=content_type), post(server, bytes_, "?chunks=1", content_type="application/octet-stream"),
           server.submit(bytes_, "task=analyze&chunks=2"),
           server.ask("POST", "/v1/jobs", *(lambda b, t: (b, {"Content-Type": t}))(*jobhouse.form({"task": "analyze"}, bytes_)))]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", V, iter([bytes_[i:i + 1000] for i in range(0, len(bytes_), 1000)]),
                       {"Content-Type": "video/mp4", "Transfer-Encoding": "chunked"}, encode_chunked=True)
    ids.append(jobhouse.Reply(connection.getresponse()))
    connection.close()
    for reply in ids:
        job = done(server, reply)
        same(job, report(server, job["id"]), first[1])
    assert server.job(ids[0].json()["id"])["metadata"] == {"a": 1}


def test_parameters_are_checked_before_the_body(server):
    for query, word in (("?chunks=0", "chunks"), ("?canny_low=-1", "canny_low"), ("?winsiz=9", "winsize"), ("?overlay=maybe", "overlay"),
                        ("?task=classify", "/v1/jobs"), ("?wait=1000", "wait")):
        reply = post(server, b"x", query)
        assert reply.status == 400 and word in reply.json()["error"], (query, reply)
    for fields, word in (({"parameters": {"winsiz": 9}, "video_url": "https://example.com/a"}, "winsize"),
                         ({"video_url": "https://example.com/a", "canny_low": 3}, "parameters"),
                         ({"chunks": 3}, "video_url"), ({"video_url": "ftp://x/y"}, "http")):
        reply = post_json(server, fields)
        assert reply.status == 400 and word in reply.json()["error"], (fields, reply)
    assert post(server, b"", "").status == 400
    assert post(server, b"x", content_type="image/png").status == 415
    body, content_type = jobhouse.form({"chunks": "4"})
    assert post(server, body, content_type=content_type).status == 400
    body, content_type = jobhouse.form({"client_id": "a"}, b"abc" * 1000)
    reply = post(server, body[:-20], content_type=content_type)
    assert reply.status == 400 and reply.json()["code"] == "truncated_form"


def test_too_large_is_said_at_once(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        s.sendall(f"POST {V} HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\nContent-Length: {2 << 30}\r\n"
                  "Expect: 100-continue\r\n\r\n".encode())
        assert b" 413 " in s.recv(4096)


def test_memory_stays_where_it_is_and_nothing_is_left(server):
    """64 MiB go to disk, not to memory; who hangs up in the middle leaves no file behind."""
    def rss():
        status = open(f"/proc/{server.process.pid}/status").read()
        return int(status.split("VmRSS:")[1].split()[0])
    before = rss()
    bodies = server.directory / "var" / "data" / "bodies"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
        s.sendall(f"POST {V} HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\nContent-Length: {100 << 20}\r\n\r\n".encode())
        piece = bytes(1 << 20)
        for _ in range(64):
            s.sendall(piece)
        until(lambda: any(p.stat().st_size >= 32 << 20 for p in bodies.glob(".up-*")), "half of it is on disk")
        if not SLOW:
            assert rss() - before < 16 * 1024, (before, rss())
    until(lambda: not list(bodies.glob(".up-*")), "the file is gone")


def test_who_waits_gets_the_finished_job(server, clips):
    bytes_ = clips(30).read_bytes()
    reply = post(server, bytes_, "?wait=60")
    assert reply.status == 200 and reply.json()["status"] == "done", reply
    assert reply.headers["content-location"] == f"{V}/{reply.json()['id']}"
    reply = post(server, bytes_, "", {"Prefer": "wait=60"})
    assert reply.status == 200 and reply.json()["result"]["frames_analyzed"] == 30
    body, content_type = jobhouse.form({"sync": "true", "client_id": "z"}, bytes_)
    assert post(server, body, content_type=content_type).json()["client_id"] == "z"


def test_idempotency_covers_the_bytes(server, clips):
    bytes_ = clips(30).read_bytes()
    key = {"Idempotency-Key": "once"}
    one, two = post(server, bytes_, "", key), post(server, bytes_, "", key)
    assert one.json()["id"] == two.json()["id"] and two.json()["existed"]
    assert post(server, bytes_ + b"x", "", key).status == 409
    assert post(server, bytes_, "?chunks=2", key).status == 409


def test_progress_is_told(server, clips):
    reply = post(server, clips(FRAMES).read_bytes(), "?chunks=4")
    events = server.events(reply.json()["id"])
    told = [data["analysis"] for kind, data in events if kind == "job.progress"]
    assert told and events[-1][0] == "job.done"
    counts = [t["frames_done"] for t in told]
    assert counts == sorted(counts) and told[-1]["frames_total"] in (FRAMES, None)
    assert set(told[0]) == {"phase", "frames_done", "frames_total", "fps", "eta_s", "chunks_done", "chunks_total", "segments_kept"}


def test_what_is_no_video_fails_with_a_reason(server):
    job = server.wait_job(post(server, b"this is no video at all" * 100).json()["id"])
    assert job["status"] == "failed" and job["error"]["code"], job
    path = f"{V}/{job['id']}/report.json"
    assert server.ask("GET", path).status == 404
    assert server.ask("DELETE", f"{V}/{job['id']}").json()["status"] == "erased"
    assert server.ask("GET", path).status == 404


def test_cancel_and_erase(server, clips):
    reply = post(server, clips(FRAMES, "320x240").read_bytes())
    name = reply.json()["id"]
    until(lambda: server.job(name).get("analysis", {}).get("chunks_total"), "its chunks are out")
    assert server.ask("GET", f"{V}/{name}/report.json").status == 409
    assert server.ask("DELETE", f"{V}/{name}").json()["status"] == "cancelled"
    assert server.job(name)["status"] == "cancelled"
    short = done(server, post(server, clips(30).read_bytes()))["id"]
    bodies = server.directory / "var" / "data" / "bodies"
    assert (bodies / f"{short}_r").exists()
    assert server.ask("DELETE", f"{V}/{short}").json()["status"] == "erased"
    assert not list(bodies.glob(f"{short}*")) and not list(bodies.glob(f"{name}*"))


def test_private_addresses_are_refused(server, clips, receive):
    files = receive()
    files.files["/clip.mp4"] = clips(30).read_bytes()
    job = server.wait_job(post_json(server, {"video_url": files.url + "/clip.mp4"}).json()["id"])
    assert job["status"] == "failed" and "private" in json.dumps(job["error"]).lower(), job


def test_a_video_is_fetched_and_its_webhook_told(serve, clips, receive, first):
    files, hook = receive(), receive()
    files.files["/clip.mp4"] = clips(60).read_bytes()
    server = serve(workers="codec0,cpu0,net0", config="fetch:\n  allow_private: true\n  limit: 32MiB\njobs:\n  allow_private_webhooks: true\n").ready()
    reply = post_json(server, {"video_url": files.url + "/clip.mp4", "client_id": "shop", "metadata": {"n": 7}, "chunks": 2,
                               "webhook": hook.url + "/hook", "parameters": {"winsize": 15}})
    job = done(server, reply)
    assert report(server, job["id"]) == first[1]
    until(lambda: hook.deliveries, "the webhook comes")
    told = hook.deliveries[0][2]
    assert told["event"] == "job.done" and told["client_id"] == "shop" and told["metadata"] == {"n": 7}
    assert told["result"]["frames_analyzed"] == 60
    assert server.ask("GET", told["result"]["report"]).body == first[1]
    gone = server.wait_job(post_json(server, {"video_url": files.url + "/none.mp4"}).json()["id"])
    assert gone["status"] == "failed" and "404" in gone["error"]["error"]


TOKENS = """
tokens:
  - {name: a, tenant: a, scopes: [infer], sha256: %s}
  - {name: b, tenant: b, scopes: [infer], sha256: %s}
"""


def test_tenants_see_their_own(serve, clips):
    import hashlib
    server = serve(workers=WORKERS, config=TOKENS % tuple(hashlib.sha256(t).hexdigest() for t in (b"secret-a", b"secret-b")))
    a, b = ({"Authorization": f"Bearer secret-{n}"} for n in "ab")
    until(lambda: server.ask("GET", "/readyz").status == 200, "ready")
    reply = post(server, clips(30).read_bytes(), "?wait=60", a)
    assert reply.status == 200, reply
    path = f"{V}/{reply.json()['id']}"
    assert server.ask("GET", path + "/report.json", headers=a).status == 200
    for method, at in (("GET", ""), ("GET", "/report.json"), ("GET", "/files/frames.csv"), ("GET", "/events"), ("DELETE", "")):
        assert server.ask(method, path + at, headers=b).status == 404, at
        assert server.ask(method, path + at).status == 401
    assert server.ask("GET", V, headers=b).json()["jobs"] == []


@pytest.mark.skipif(SLOW, reason="SPILLWAY_FAULTS of a sanitizer build are tested in tests/store")
def test_a_full_disk_is_told(serve, clips):
    server = serve(workers=WORKERS, faults="store.write:fail")
    reply = post(server, clips(30).read_bytes())
    if reply.status == 202:
        pytest.skip("this build has no fault points (-Dfaults=true)")
    assert reply.status == 503 and reply.json()["code"] == "disk_full" and "free some space" in reply.json()["error"]
    assert server.ask("GET", V).json()["jobs"] == []


# --- deaths ---------------------------------------------------------------------------------------------------------------


def test_a_killed_server_goes_on_where_it_was(serve, server, clips):
    clip = clips(FRAMES).read_bytes()
    whole = report(server, done(server, post(server, clip))["id"])
    mine = serve(workers=WORKERS).ready()
    name = post(mine, clip, "?chunks=8").json()["id"]
    bodies = mine.directory / "var" / "data" / "bodies"
    until(lambda: list(bodies.glob(f"{name}_p*")), "a chunk is kept")
    mine.kill()
    kept = len(list(bodies.glob(f"{name}_p*")))
    mine.start()
    job = mine.wait_job(name)
    assert job["status"] == "done", (job, mine.log_text())
    run = job["result"]["run"]
    assert run["segments_kept"] >= kept >= 1 and run["frames_analyzed"] == FRAMES
    assert run["frames_kept"] + sum(link["frames"] for link in run["links"]) == FRAMES  # nothing was computed twice
    assert report(mine, name) == whole
    assert not list(bodies.glob(f"{name}_p*")) and job["attempts"] == 1


def test_a_killed_worker_costs_nothing(serve, server, clips):
    clip = clips(FRAMES).read_bytes()
    mine = serve(workers=WORKERS).ready()
    name = post(mine, clip, "?chunks=8").json()["id"]
    until(lambda: mine.job(name).get("analysis", {}).get("frames_done", 0) > 10, "it works")
    worker = next(w for w in mine.ask("GET", "/healthz").json()["workers"] if w["name"] == "cpu0")
    os.kill(worker["pid"], 9)
    job = mine.wait_job(name)
    assert job["status"] == "done" and job["attempts"] == 1, job
    again = done(server, post(server, clip, "?chunks=2"))
    assert report(mine, name) == report(server, again["id"])


# --- several servers --------------------------------------------------------------------------------------------------------


def shared(redis, serve, count, renew_ms=300):
    config = f"jobs:\n  redis: {redis.url}\n  durability: memory\n"
    return [serve(f"s{redis.port}-{i}", workers=WORKERS, config=config, env={"SPILLWAY_JOBS_RENEW_MS": str(renew_ms)}) for i in range(count)]


def redis_say(redis, *words):
    return subprocess.run(["redis-cli", "-p", str(redis.port), *words], text=True, capture_output=True, timeout=20, check=True).stdout


def test_servers_share_a_video(redis, serve, server, clips):
    """Four, then two, then one of them: the same bytes, and any of them has the report."""
    clip = clips(3 * FRAMES if jobhouse.FULL else FRAMES).read_bytes()
    whole = report(server, done(server, post(server, clip))["id"])
    servers = shared(redis(), serve, 2 if SLOW else 4)
    for s in servers:
        s.ready()
    while servers:
        name = post(servers[0], clip, "?chunks=6").json()["id"]
        job = servers[-1].wait_job(name)
        assert job["status"] == "done", (job, [s.log_text() for s in servers])
        for s in servers:
            assert report(s, name) == whole
        run = job["result"]["run"]
        assert run["frames_analyzed"] == run["frames_total"]
        if len(servers) == 1:  # a machine that is too busy to renew a lease takes the job twice, and keeps what it had
            assert run["frames_kept"] == 0 or job["attempts"] > 1, job
        elif jobhouse.FULL:  # a short clip may be through before the others have it
            assert run["frames_kept"] > 0
        assert servers[0].ask("DELETE", f"{V}/{name}").status == 200
        assert report_status(servers[-1], name) == 404
        for s in servers[len(servers) // 2:]:
            assert s.stop() == 0
        servers = servers[:len(servers) // 2]


def report_status(server, name):
    return server.ask("GET", f"{V}/{name}/report.json").status


def test_one_of_the_servers_is_killed(redis, serve, server, clips):
    clip = clips(FRAMES).read_bytes()
    whole = report(server, done(server, post(server, clip))["id"])
    shop = redis()
    servers = shared(shop, serve, 2)
    for s in servers:
        s.ready()
    name = post(servers[0], clip, "?chunks=8").json()["id"]
    until(lambda: int(redis_say(shop, "llen", f"spillway:jobs:parts:{name}")) >= 2, "two chunks are kept")
    owner = redis_say(shop, "hget", f"spillway:jobs:job:{name}", "owner").strip()
    victim = next(s for s in servers if f"-{s.process.pid}-" in owner)  # the one that has the job
    victim.kill()
    left = [s for s in servers if s is not victim]
    job = left[0].wait_job(name)
    assert job["status"] == "done" and job["attempts"] == 1, (job, [s.log_text() for s in left])
    for s in left:
        assert report(s, name) == whole
    keys = redis_say(shop, "keys", "spillway:jobs:p*").split() + redis_say(shop, "keys", "spillway:jobs:open").split()
    assert keys == []  # parts and body are gone with its end
