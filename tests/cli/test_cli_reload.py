# SPDX-License-Identifier: Apache-2.0
"""SIGHUP against a real server with requests in flight: the new file holds, or the old one stays; no request fails."""
import http.client
import json
import pathlib
import signal
import socket
import threading
import time

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "deploy/spillway.yaml"
ONE = "metrics_port: -1\nworkers: [noop0, noop1]\nchains:\n  noop:\n    links: [{}]\n"


class Load:
    """A few clients that ask for no-ops without a pause, and remember what was wrong with an answer."""

    def __init__(self, port, clients=3):
        self.port, self.answers, self.wrong, self.stopping = port, 0, [], False
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping = True
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()

    def ask(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            while not self.stopping:
                connection.request("POST", "/infer?task=noop", b"x" * 100)
                response = connection.getresponse()
                body = response.read()
                if response.status != 200 or body != b"x" * 100:
                    self.wrong.append((response.status, body))
                self.answers += 1
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(error)


def link_of(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("POST", "/infer?task=noop", b"x")
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.headers["X-Spillway-Link"]


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come to pass"
        time.sleep(0.01)


def test_a_reload_moves_the_traffic_and_fails_nobody(serve, tmp_path):
    file = tmp_path / "spillway.yaml"
    file.write_text(ONE.format("noop0"))
    with serve("--config", file, ports=("--http-port", "0")) as served:
        until(lambda: served.get("/readyz")[0] == 200)
        with Load(served.port) as load:
            for turn in range(1, 9):
                wanted = f"noop{turn % 2}"
                file.write_text(ONE.format(wanted))
                served.process.send_signal(signal.SIGHUP)
                until(lambda: link_of(served) == wanted)
                seen = load.answers
                until(lambda: load.answers > seen + 20)
            # Mistakes: all are told, and what was there stays.
            file.write_text("metrics_port: -1\nworkers: [noop0, noop1]\nchains:\n  noop:\n    links: [noop7]\n  nop: {}\nbnid: x\n")
            served.process.send_signal(signal.SIGHUP)
            seen = load.answers
            until(lambda: load.answers > seen + 50)
            assert link_of(served) == "noop0"
            file.unlink()
            served.process.send_signal(signal.SIGHUP)
            seen = load.answers
            until(lambda: load.answers > seen + 50)
            # A change that needs a restart: said, and the rest is taken over.
            file.write_text(ONE.format("noop1").replace("noop0, noop1", "noop0, noop1, noop2") + "spin_us: 7\n")
            served.process.send_signal(signal.SIGHUP)
            until(lambda: link_of(served) == "noop1")
        assert load.wrong == [] and load.answers > 300
    assert served.process.returncode == 0
    assert served.errors.count("configuration reloaded") == 9
    assert served.errors.count("configuration not taken over, the old one stays") == 2
    for said in ("spillway.yaml:5: chains.noop.links[0].name: no worker or remote is named 'noop7'; did you mean noop0?",
                 "spillway.yaml:6: chains.nop: links is missing", "spillway.yaml:6: chains.nop: no such task; did you mean noop?",
                 "spillway.yaml:7: bnid: unknown key; did you mean bind?", "No such file", '"keys":"workers, spin_us"'):
        assert said in served.errors, said


def test_a_request_that_is_open_keeps_its_chain(serve, tmp_path):
    file = tmp_path / "spillway.yaml"
    file.write_text(ONE.format("noop0"))
    with serve("--config", file, ports=("--http-port", "0")) as served:
        until(lambda: served.get("/readyz")[0] == 200)
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as early:
            early.sendall(b"POST /infer?task=noop HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab")
            # It is open once its first bytes have been taken in; the house counts it.
            until(lambda: json.loads(served.get("/healthz")[1])["requests_open"] == 1)
            file.write_text(ONE.format("noop1"))
            served.process.send_signal(signal.SIGHUP)
            until(lambda: link_of(served) == "noop1")
            early.sendall(b"cd")
            answer = b""
            while part := early.recv(65536):
                answer += part
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\nabcd")
    assert b"X-Spillway-Link: noop0\r\n" in answer


def test_a_new_token_is_let_in_and_a_removed_one_is_not(serve, run, tmp_path):
    file = tmp_path / "spillway.yaml"
    made = [run("token", "new", "--name", f"t{i}").stdout.split("\n", 2) for i in range(2)]
    lines = ["tokens:\n" + rest for _, _, rest in made]

    def status(served, token):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        connection.request("POST", "/infer?task=noop", b"x", {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status

    file.write_text(ONE.format("noop0") + lines[0])
    with serve("--config", file, ports=("--http-port", "0")) as served:
        until(lambda: status(served, made[0][0]) == 200)
        assert status(served, made[1][0]) == 401 and status(served, "sw_nobody") == 401
        file.write_text(ONE.format("noop0") + lines[1])
        served.process.send_signal(signal.SIGHUP)
        until(lambda: status(served, made[1][0]) == 200)
        assert status(served, made[0][0]) == 401
    assert not any(token in served.errors for token, _, _ in made)


def test_the_example_serves_as_it_stands(serve, tmp_path):
    with serve("--config", EXAMPLE, "--data-dir", tmp_path, "--workers", "codec0,cuda0,cpu0,noop0,net0",
               "--model-repository", tmp_path) as served:
        until(lambda: served.get("/healthz")[0] == 200)
        answer = json.loads(served.get("/healthz")[1])
        assert [worker["name"] for worker in answer["workers"]][:5] == ["codec0", "cuda0", "cpu0", "noop0", "net0"]
    assert served.process.returncode == 0


def test_many_signals_at_once(serve, tmp_path):
    file = tmp_path / "spillway.yaml"
    file.write_text(ONE.format("noop0"))
    with serve("--config", file, ports=("--http-port", "0")) as served:
        until(lambda: served.get("/readyz")[0] == 200)
        with Load(served.port, clients=2) as load:
            for turn in range(200):
                served.process.send_signal(signal.SIGHUP)
            file.write_text(ONE.format("noop1"))
            served.process.send_signal(signal.SIGHUP)
            until(lambda: link_of(served) == "noop1")
            until(lambda: load.answers > 100)
        assert load.wrong == []


def test_without_a_file_the_signal_does_nothing(serve):
    with serve("--workers", "noop0") as served:
        until(lambda: served.get("/readyz")[0] == 200)
        served.process.send_signal(signal.SIGHUP)
        assert served.get("/healthz")[0] == 200
    assert "without a configuration file" in served.errors and served.process.returncode == 0


def test_the_log_level_is_followed_at_once(serve, tmp_path):
    file = tmp_path / "spillway.yaml"
    file.write_text("log_level: error\n" + ONE.format("noop0"))
    with serve("--config", file, ports=("--http-port", "0")) as served:
        until(lambda: served.get("/readyz")[0] == 200)
        file.write_text("log_level: info\n" + ONE.format("noop1"))
        served.process.send_signal(signal.SIGHUP)
        until(lambda: link_of(served) == "noop1")
    assert "configuration reloaded" in served.errors
