# SPDX-License-Identifier: Apache-2.0
"""`spillway pull` and `spillway models` against a server of our own on loopback: resume, digests, refusals."""
import hashlib
import http.server
import json
import os
import pty
import signal
import subprocess
import threading

import pytest

CONTENT = bytes((i * 7919 >> 3) & 0xFF for i in range(700_000))
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Paths choose the behaviour; `asked` collects (path, Range header) of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.cuts = {}  # path -> how many more answers break off in the middle
        self.gate = threading.Event()  # /slow waits for it in the middle
        self.half_sent = threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        asked_range = self.headers.get("Range")
        self.server.asked.append((self.path, asked_range))
        path = self.path
        if path.startswith("/status/"):
            return self.send_error(int(path.split("/")[2]))
        if path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if path == "/to-a-file-url":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = CONTENT + b"more" if path.startswith("/longer") else CONTENT[:-5] if path == "/shorter" else CONTENT
        if path == "/changed":
            content = b"x" + CONTENT[1:]
        start = 0
        if asked_range and path != "/no-range":
            start = int(asked_range.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        if path != "/longer-unannounced":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cuts.get(path, 0) > 0:
            self.server.cuts[path] -= 1
            body = body[: min(len(body) // 2, 200_000)]
            self.close_connection = True
        if path == "/slow":
            self.wfile.write(body[:300_000])
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.gate.wait(30)
            body = body[300_000:]
        try:
            self.wfile.write(body)
        except OSError:
            pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def world(run, server, tmp_path):
    """pull(path) with a catalogue of one entry whose URL is that path of the server."""

    class World:
        repository = tmp_path / "models"
        part = repository / ".m.onnx.part"
        model = repository / "m" / "1" / "model.onnx"

        def catalogue(self, path="/file", **changes):
            entry = {"name": "m", "title": "M", "licence": "Apache-2.0", "url": server.url(path), "sha256": DIGEST,
                     "bytes": len(CONTENT), "labels": "labels.txt",
                     "settings": {"task": "classify", "precision": "fp32", "labels": "labels.txt"}}
            entry.update(changes)
            entry = {key: value for key, value in entry.items() if value is not None}
            file = tmp_path / "catalogue.json"
            file.write_text(json.dumps({"version": 1, "models": [entry]}))
            (tmp_path / "labels.txt").write_text("tench\ngoldfish\n")
            return file

        def words(self, path="/file", **changes):
            return ["pull", "m", "--model-repository", str(self.repository), "--catalogue", str(self.catalogue(path, **changes))]

        def pull(self, path="/file", *more, **changes):
            return run(*self.words(path, **changes), *more)

    return World()


def report(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_arrives_with_settings_and_labels(world, server):
    done = world.pull()
    assert done.returncode == 0 and done.stderr == ""
    assert "m: 700.0 kB, sha256 checked" in done.stdout
    assert world.model.read_bytes() == CONTENT
    assert json.loads((world.repository / "m/spillway.json").read_text())["task"] == "classify"
    assert (world.repository / "m/labels.txt").read_text() == "tench\ngoldfish\n"
    assert sorted(p.name for p in world.repository.iterdir()) == ["m"]
    assert server.asked == [("/file", None)]


def test_what_is_here_is_not_downloaded_again(world, server):
    world.pull()
    done = world.pull()
    assert done.returncode == 0 and "already here" in done.stdout
    assert len(server.asked) == 1
    assert report(world.pull("/file", "--json"))["already_here"] is True


def test_a_damaged_file_is_replaced(world):
    world.pull()
    world.model.write_bytes(b"damaged")
    assert report(world.pull("/file", "--json"))["already_here"] is False
    assert world.model.read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_where_it_broke(world, server):
    server.cuts["/file"] = 2
    told = report(world.pull("/file", "--json"))
    assert told["requests"] == 3 and told["resumed_from"] == 0
    assert world.model.read_bytes() == CONTENT
    ranges = [asked for _, asked in server.asked]
    assert ranges == [None, "bytes=200000-", "bytes=400000-"]


def test_an_interrupted_download_goes_on(world, server, program):
    process = subprocess.Popen([program, *world.words("/slow")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert server.half_sent.wait(30)
    try:
        while world.part.stat().st_size == 0:  # it is being written
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    server.gate.set()
    had = world.part.stat().st_size
    assert 0 < had < len(CONTENT) and not world.model.exists()
    told = report(world.pull("/file", "--json"))
    assert told["resumed_from"] == had and told["bytes"] == len(CONTENT)
    assert server.asked[-1] == ("/file", f"bytes={had}-")
    assert world.model.read_bytes() == CONTENT and not world.part.exists()


def leave_part(world, content):
    world.repository.mkdir(exist_ok=True)
    world.part.write_bytes(content)


def test_a_server_without_range_sends_all_again(world, server):
    leave_part(world, CONTENT[:1000])
    told = report(world.pull("/no-range", "--json"))
    assert told["resumed_from"] == 0 and world.model.read_bytes() == CONTENT
    assert server.asked == [("/no-range", "bytes=1000-")]


def test_a_part_that_is_complete_needs_no_request(world, server):
    leave_part(world, CONTENT)
    assert report(world.pull("/file", "--json"))["requests"] == 0
    assert world.model.read_bytes() == CONTENT and server.asked == []


def test_a_part_that_is_too_long_is_begun_again(world):
    leave_part(world, CONTENT + b"x")
    assert report(world.pull("/file", "--json"))["resumed_from"] == 0
    assert world.model.read_bytes() == CONTENT


def test_a_complete_part_of_unknown_length_survives_416(world, server):
    leave_part(world, CONTENT)
    told = report(world.pull("/file", "--json", bytes=None))
    assert told["requests"] == 2 and world.model.read_bytes() == CONTENT


def test_a_part_of_another_file_is_found_out_and_removed(world):
    leave_part(world, b"y" * 1000)
    done = world.pull()
    assert done.returncode == 1 and "wrong sha256" in done.stderr and DIGEST in done.stderr
    assert not world.part.exists() and not world.model.exists()
    assert world.pull().returncode == 0 and world.model.read_bytes() == CONTENT


@pytest.mark.parametrize("path, changes, said", [
    ("/changed", {}, "wrong sha256"),
    ("/file", {"sha256": "0" * 64}, "wrong sha256"),
    ("/longer", {}, "the server's file has 700004 bytes, the catalogue says 700000"),
    ("/shorter", {}, "the server's file has 699995 bytes, the catalogue says 700000"),
    ("/longer-unannounced", {}, "more than the 700000 bytes"),
])
def test_the_wrong_file_is_removed(world, path, changes, said):
    done = world.pull(path, **changes)
    assert done.returncode == 1 and said in done.stderr and done.stdout == ""
    assert list(world.repository.iterdir()) == []


@pytest.mark.parametrize("path, said", [
    ("/status/404", "the server has no such file (404)"),
    ("/status/410", "the server has no such file (410)"),
    ("/status/403", "the server refused access (403)"),
    ("/status/500", "the server answered 500"),
    ("/to-a-file-url", "file"),
])
def test_refusals_of_the_server(world, server, path, said):
    done = world.pull(path)
    assert done.returncode == 1 and said in done.stderr
    assert list(world.repository.iterdir()) == [] and len(server.asked) == 1


def test_redirects_are_followed(world):
    assert world.pull("/redirect").returncode == 0 and world.model.read_bytes() == CONTENT


def test_a_server_that_is_not_there(world):
    done = world.pull(url="http://127.0.0.1:1/m.onnx")
    assert done.returncode == 1 and "127.0.0.1:1" in done.stderr


@pytest.mark.parametrize("changes, code, said", [
    ({"url": "file:///etc/passwd"}, 1, "file"),
    ({"url": None}, 1, "has no url"),
    ({"url": None, "package": "p==1", "converter": "tools/c.py"}, 3, "made from the package p==1 by tools/c.py"),
    ({"sha256": None}, 1, "has no sha256"),
    ({"sha256": "ABC"}, 1, "has no sha256"),
    ({"settings": None}, 1, "has no settings"),
    ({"labels": "../labels.txt"}, 1, "must stand beside it"),
    ({"labels": "none.txt"}, 1, "cannot read the labels"),
    ({"name": "n"}, 3, "the catalogue has no model 'm', did you mean 'n'?"),
])
def test_entries_that_cannot_be_pulled(world, server, changes, code, said):
    done = world.pull("/file", **changes)
    assert done.returncode == code and said in done.stderr and server.asked == []
    assert not world.repository.exists() or list(world.repository.iterdir()) == []


def test_names_stay_inside_the_repository(run, world, tmp_path):
    done = run("pull", "../m", "--model-repository", world.repository, "--catalogue", world.catalogue(name="../m"))
    assert done.returncode == 1 and "is no name for a model" in done.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("text, code, said", [
    (None, 3, "cannot read the catalogue"),
    ("{\n", 1, "line 2"),
    ("[]", 1, "is no catalogue of version 1"),
    ('{"version": 2, "models": []}', 1, "is no catalogue of version 1"),
    ('{"version": 1, "models": [{}]}', 1, "entry 0 of the catalogue has no name"),
])
def test_catalogues_that_are_none(run, tmp_path, text, code, said):
    file = tmp_path / "c.json"
    if text is not None:
        file.write_text(text)
    done = run("pull", "m", "--model-repository", tmp_path / "models", "--catalogue", file)
    assert done.returncode == code and said in done.stderr


def test_two_pulls_at_once(world, server, program):
    process = subprocess.Popen([program, *world.words("/slow")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert server.half_sent.wait(30)
        done = world.pull("/file")
        assert done.returncode == 1 and "another process is downloading" in done.stderr
        server.gate.set()
        assert process.wait(30) == 0 and world.model.read_bytes() == CONTENT
    finally:
        process.kill()
        process.wait()


def test_a_directory_that_cannot_be_made(run, world, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("pull", "m", "--model-repository", tmp_path / "file" / "models", "--catalogue", world.catalogue())
    assert done.returncode == 1 and "cannot make the directory" in done.stderr


def on_a_terminal(program, words):
    """Runs with stderr on a pseudo-terminal; returns (exit code, what was written there)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return process.wait(30), shown.decode()


def test_the_bar_is_for_terminals_only(world, program, server):
    assert world.pull().stderr == ""
    world.model.unlink()
    code, shown = on_a_terminal(program, world.words())
    assert code == 0
    assert "m [" in shown and "700 kB" in shown and "/s" in shown
    assert shown.endswith("\r\x1b[K"), "the line is wiped at the end"


def test_models_lists_the_repository(run, world):
    world.pull()
    (world.repository / "empty").mkdir()
    broken = world.repository / "broken"
    (broken / "3").mkdir(parents=True)
    (broken / "3/model.onnx").write_bytes(b"x")
    (broken / "11").mkdir()
    (broken / "11/model.onnx").write_bytes(b"xy")
    (broken / "spillway.json").write_text('{"task":\n')
    (world.repository / ".hidden").mkdir()
    done = run("models", "--json", "--model-repository", world.repository)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["repository"] == str(world.repository)
    by_name = {model["name"]: model for model in told["models"]}
    assert list(by_name) == ["broken", "empty", "m"]
    assert by_name["m"] == {"name": "m", "versions": [1], "task": "classify", "precision": "fp32", "bytes": 700000,
                            "sha256": DIGEST, "labels": 2, "path": str(world.model), "problem": ""}
    assert by_name["broken"]["versions"] == [3, 11] and by_name["broken"]["bytes"] == 2
    assert "spillway.json line" in by_name["broken"]["problem"]
    assert by_name["empty"]["problem"] == "no version has a model.onnx"
    table = run("models", env={"SPILLWAY_MODELS": str(world.repository)}).stdout
    assert f"models in {world.repository}" in table and DIGEST[:12] in table and "700.0 kB" in table


def test_models_of_an_empty_and_of_no_repository(run, tmp_path):
    done = run("models", "--model-repository", tmp_path)
    assert done.returncode == 0 and "no models in" in done.stdout and "spillway pull NAME" in done.stdout
    done = run("models", "--model-repository", tmp_path / "none")
    assert done.returncode == 3 and "cannot read the model repository" in done.stderr and "No such file" in done.stderr


def test_models_of_the_catalogue(run, world):
    told = json.loads(run("models", "--catalogue", "--json", "--model-repository", world.repository).stdout)
    assert any(model["name"] == "efficientnet-lite0" and model["licence"] for model in told["models"])
    file = world.catalogue()
    world.pull()
    done = run("models", "--catalogue", "--model-repository", world.repository, env={"SPILLWAY_CATALOGUE": str(file)})
    assert done.returncode == 0 and "yes" in done.stdout and "classify" in done.stdout
