# SPDX-License-Identifier: Apache-2.0
"""spillway chaos against a stand-in that can be made to lie, refuse and vanish: what it counts must be what happened. The
real thing runs in tests/fault/test_chaos.py."""
import http.server
import json
import threading

import pytest


class Stand(http.server.ThreadingHTTPServer):
    """Answers like POST /infer, from the `after`-th request on in the mode it was told; counts what it did."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.mode, self.after, self.every, self.seen, self.done, self.posts = "right", 0, 1, 0, 0, []
        self.allowed = True
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the game

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/infer"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.reply(200, json.dumps({"chaos": self.server.allowed, "workers": [
            {"name": "cpu0", "pid": 1, "state": "ready"}]}).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/mode/"):
            self.server.posts.append(self.path)
            return self.reply(200, b"ok")
        with self.server.lock:
            self.server.seen += 1
            odd = self.server.seen > self.server.after and self.server.seen % self.server.every == 0
            mode = self.server.mode if odd else "right"
            self.server.done += mode != "right"
        if "task=noop" in self.path:
            return self.reply(200, body if mode != "bytes" else body[::-1])
        classes = {"label": [(282, .71), (281, .2)], "drift": [(281, .7125), (282, .2)], "close": [(281, .7103), (282, .2)],
                   "simpler": [(7, .9)]}.get(mode, [(281, .71), (282, .2)])
        if mode == "half":
            self.send_response(200)
            self.send_header("Content-Length", "500")
            self.end_headers()
            self.wfile.write(b'{"provider": "cp')
            self.close_connection = True
            return
        if mode in ("500", "503", "429", "400"):
            return self.reply(int(mode), json.dumps({"error": "on purpose"}).encode())
        self.reply(200, json.dumps({"provider": "cpu0", "simpler": mode == "simpler", "predictions": [
            {"class_id": k, "label": f"c{k}", "probability": p} for k, p in classes]}).encode())

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture()
def stand():
    server = Stand()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture()
def picture(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    return tmp_path / "a.jpg"


def chaos(run, stand, picture, *words):
    done = run("chaos", stand.url, picture, "--json", "--settle", 2, *words)
    return done, json.loads(done.stdout) if done.stdout else None


def test_all_is_well(run, stand, picture):
    done, said = chaos(run, stand, picture, "--requests", 300, "-c", 4, "--noop", 50)
    assert done.returncode == 0, done.stderr + done.stdout
    assert said["sent"] == said["right"] == 300 and said["lost"] == said["wrong"] == said["shed"] == 0
    assert 90 < said["noop"] < 210 and said["links"] == {"cpu0": 300 - said["noop"]}
    assert stand.seen == 302  # and one before, one after


@pytest.mark.parametrize("mode, counted", [
    ("label", "wrong"), ("drift", "wrong"), ("bytes", "wrong"), ("500", "lost"), ("503", "lost"), ("400", "lost"),
    ("half", "lost"), ("429", "shed"), ("close", "right"), ("simpler", "simpler")])
def test_what_happened_is_what_is_counted(run, stand, picture, mode, counted):
    stand.mode, stand.after, stand.every = mode, 1, 5
    words = ["--noop", 100] if mode == "bytes" else []
    done, said = chaos(run, stand, picture, "--requests", 100, "-c", 3, *words)
    odd = 20  # every fifth of 100; the check at the end is the 102nd
    assert said["sent"] == 100
    if counted in ("wrong", "lost"):
        assert said[counted] == odd == stand.done and said["right"] == 100 - odd
        assert done.returncode == 1 and len(said["samples"]) == 5 and said["samples"][0].startswith(counted)
    else:
        assert said["lost"] == said["wrong"] == 0 and done.returncode == 0
        assert said["right"] == (100 - odd if counted == "shed" else 100)
        if counted != "right":
            assert said[counted] == odd


def test_a_wider_tolerance_forgives(run, stand, picture):
    stand.mode, stand.after = "drift", 1
    assert chaos(run, stand, picture, "--requests", 20)[0].returncode == 1
    stand.seen = 0
    assert chaos(run, stand, picture, "--requests", 20, "--tolerance", "0.003")[0].returncode == 0


def test_a_wrong_answer_after_the_end_is_seen(run, stand, picture):
    stand.mode, stand.after = "label", 51
    done, said = chaos(run, stand, picture, "--requests", 50)
    assert done.returncode == 1 and said["wrong"] == 0 and "the clean pass said c281" in said["afterwards"]


def test_the_schedule_and_its_recovery_times(run, stand, picture, tmp_path):
    switch = stand.url.replace("/infer", "/mode/")
    (tmp_path / "faults.txt").write_text(f"""# a comment
at 100ms post {switch}500#x   # and another
every 200ms from 150ms until 500ms post {switch}x
at 300ms run echo done > {tmp_path}/ran
at 200ms slow 3 for 100ms
""")
    done, said = chaos(run, stand, picture, "--script", tmp_path / "faults.txt", "--duration", "0.8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stand.posts.count("/mode/500") == 1 and stand.posts.count("/mode/x") == 2
    assert (tmp_path / "ran").read_text() == "done\n"
    assert [fault["made"] for fault in said["faults"]] == [1, 2, 1, 1] and said["faults_made"] == 5
    assert [fault["line"] for fault in said["faults"]] == [2, 3, 4, 5]
    assert all(fault["unanswered"] == 0 and fault["answer_max_ms"] > 0 for fault in said["faults"])
    assert all(fault["ready_max_ms"] is None for fault in said["faults"])  # none of them concerns a worker


def test_only_spillway_processes_get_signals(run, stand, picture):
    done, said = chaos(run, stand, picture, "--do", "at 50ms kill cpu0", "--duration", "0.3")
    assert done.returncode == 1 and "not one fault was made" in done.stderr
    assert "pid 1 is no spillway process" in said["problem"]


def test_a_server_that_does_not_allow_it(run, stand, picture):
    stand.allowed = False
    done, _ = chaos(run, stand, picture, "--requests", 5)
    assert done.returncode == 1 and "--allow-chaos" in done.stderr and stand.seen == 0


def test_an_unknown_worker(run, stand, picture):
    done, _ = chaos(run, stand, picture, "--do", "at 1s kill cuda7")
    assert done.returncode == 1 and "no worker 'cuda7'" in done.stderr


def test_a_server_that_cannot_answer_to_begin_with(run, stand, picture):
    stand.mode = "500"
    done, _ = chaos(run, stand, picture, "--requests", 5)
    assert done.returncode == 1 and "a.jpg: 500 on purpose" in done.stderr


def test_no_server(run, picture):
    done = run("chaos", "http://127.0.0.1:9/infer", picture)
    assert done.returncode == 3 and "no connection" in done.stderr


@pytest.mark.parametrize("line, said", [
    ("now kill cpu0", "--do:1: 'now' stands where at TIME or every TIME should"),
    ("at", "the line ends where a time (500ms, 5s, 2m) should stand"),
    ("at 5 kill cpu0", "'5' stands where a time"),
    ("at 5days kill cpu0", "'5days'"),
    ("at -5s kill cpu0", "'-5s'"),
    ("at 1s explode cpu0", "'explode' stands where kill, signal, stop, slow, post, run or reload should"),
    ("at 1s kill", "a worker's name, or any"),
    ("at 1s kill cpu0 now", "'now' stands where the line's end should"),
    ("at 1s stop cpu0 500ms", "'500ms' stands where for TIME should"),
    ("at 1s signal USR9 cpu0", "'USR9' stands where a signal"),
    ("at 1s slow many for 1s", "'many' stands where a number of clients"),
    ("at 1s slow 5", "for TIME should stand"),
    ("at 1s post ftp://x/", "does not begin with http://"),
    ("at 1s run", "a command should stand"),
    ("every 1ms kill cpu0", "every 10ms is the most often"),
    ("every 1s from kill cpu0", "'kill' stands where a time"),
    ("at 1s kill cpu0; at 2s kil cpu0", "--do:2: 'kil'"),
])
def test_a_bad_schedule_is_named(run, picture, line, said):
    done = run("chaos", "http://127.0.0.1:9/infer", picture, "--do", line)
    assert done.returncode == 2 and said in done.stderr, done.stderr


@pytest.mark.parametrize("words, code, said", [
    (["--duration", "long"], 2, "--duration must be a number"),
    (["--tolerance", "2"], 2, "--tolerance must be a number from 0 to 1"),
    (["--script", "x", "--do", "y"], 2, "exclude each other"),
    (["--script", "/nowhere/faults.txt"], 3, "/nowhere/faults.txt"),
    (["--noop", "101"], 2, "--noop must be a whole number from 0 to 100"),
])
def test_bad_usage(run, picture, words, code, said):
    done = run("chaos", "http://127.0.0.1:9/infer", picture, *words)
    assert done.returncode == code and said in done.stderr
