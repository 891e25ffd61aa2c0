# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: the real server as a process, pictures with their reference labels, a checking client."""
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
PROGRAM = BUILD / "spillway"
MODELS = pathlib.Path(os.environ.get("SPILLWAY_MODELS", ROOT / "var" / "models"))
MODEL = MODELS / "efficientnet-lite0"
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared" / "assets"))
FULL = os.environ.get("SPILLWAY_FULL") == "1"  # the full numbers instead of CI's
SANITIZED = "SPILLWAY_SANITIZER" in os.environ  # several times slower
PICTURES = ["airliner.jpeg", "bee.jpeg", "golden_retriever.jpeg", "peacock.jpeg", "zebra.jpeg", "fish.png"]


class Server:
    """`spillway serve` on free ports. Everything it started is gone after stop()."""

    def __init__(self, tmp_path, workers="codec0,cpu0", faults=None, args=(), seed=None, sim=None, env=None):
        environment = dict(os.environ)
        environment.pop("SPILLWAY_FAULTS", None)
        if faults:
            environment["SPILLWAY_FAULTS"] = faults
        environment.pop("SPILLWAY_SIM", None)
        if sim:
            environment["SPILLWAY_SIM"] = sim
            if "--config" not in map(str, args):  # its script counts runs: none of them shall be the guard's
                quiet = tmp_path / "no-guard.yaml"
                quiet.write_text("guard: {tolerance: 1}\n")
                args = [*args, "--config", quiet]
        environment.update(env or {})
        if seed is not None:
            environment["SPILLWAY_FAULTS_SEED"] = str(seed)
        self.clients = []
        self.log_path = tmp_path / f"server-{time.monotonic_ns()}.log"
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--http-port", "0", "--grpc-port", "-1", "--metrics-port", "0", "--workers", workers, "--model-repository",
             MODELS, "--drain-delay", "0", "--log-level", "warn", *map(str, args)],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        self.port = None
        for line in self.process.stdout:
            found = re.search(r"listens on http://[^:]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        assert self.port, "the server did not start: " + self.log_text()
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.wait_ready()
        return self

    def __exit__(self, *_):
        self.stop()

    def log_text(self):
        return self.log_path.read_text(errors="replace")[-4000:]

    def get(self, path, timeout=10):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def health(self):
        status, body = self.get("/healthz")
        assert status == 200
        return json.loads(body)

    def worker(self, name):
        return next(w for w in self.health()["workers"] if w["name"] == name)

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, "the server ended: " + self.log_text()
            health = self.health()
            if all(w["state"] == "ready" for w in health["workers"]):
                return
            time.sleep(0.02)
        pytest.fail(f"not ready after {seconds} s: {self.health()}\n{self.log_text()}")

    def wait_worker_ready(self, name, other_than_pid=0, seconds=30):
        """Its pid, once it is ready (again)."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            worker = self.worker(name)
            if worker["state"] == "ready" and worker["pid"] != other_than_pid:
                return worker["pid"]
            time.sleep(0.005)
        pytest.fail(f"{name} was not ready after {seconds} s: {self.health()}\n{self.log_text()}")

    def restarts(self):
        return sum(w["restarts"] for w in self.health()["workers"])

    def metric(self, name):
        """Sum over a metric's label sets."""
        text = self.get("/metrics")[1].decode()
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.M)
        return sum(map(float, found))

    def wait_idle(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            health = self.health()
            if health["requests_open"] == 0 and health["leases_out"] == 0:
                return
            time.sleep(0.05)
        pytest.fail(f"requests or leases left over: {self.health()}")

    def memory_kib(self):
        """Heap and shared memory of the gateway and each worker. Pages of files are left out: how many of them count as
        ours depends on who else has the same libraries mapped."""
        pids = [self.process.pid] + [w["pid"] for w in self.health()["workers"] if w["pid"] > 0]
        total = 0
        for pid in pids:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(n) for n in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+)", text, re.M))
        return total

    def stop(self, seconds=20):
        """SIGTERM and wait; returns the exit code. A server that has to be killed fails the test."""
        for client in self.clients:  # left over only when the test failed
            if client.poll() is None:
                client.kill()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail("the server did not end after SIGTERM: " + self.log_text())
        finally:
            self.log.close()


def references(model=MODEL):
    """{picture: its top-1 by Python onnxruntime}; bench/peers/job.py is that reference."""
    sys.path.insert(0, str(ROOT / "bench" / "peers"))
    from job import Job
    job = Job(model, threads=2)
    found = {}
    for name in PICTURES:
        path = ASSETS / "media" / "images" / name
        found[path] = job.answer(path.read_bytes())["predictions"][0]["label"]
    return found


def load(server, labels, requests, concurrency=8, timeout=60, extra=()):
    """`spillway bench` in the background: each answer's label is checked."""
    command = [PROGRAM, "bench", server.url + "/infer", "--concurrency", concurrency, "--timeout", timeout, "--json"]
    if requests:
        command += ["--requests", requests]
    for path, label in labels.items():
        command += ["--file", path, "--expect-label", label]
    process = subprocess.Popen([str(c) for c in (*command, *extra)], stdout=subprocess.PIPE, text=True)
    server.clients.append(process)
    return process


def result(process, seconds=900 if FULL or SANITIZED else 240):
    out, _ = process.communicate(timeout=seconds)
    return json.loads(out)


def assert_all_right(r, requests=None):
    shown = {k: r[k] for k in ("issued", "answered", "ok", "wrong", "status", "errors", "samples")}
    assert r["errors"]["all"] == 0 and r["wrong"] == 0 and set(r["status"]) == {"200"}, shown
    assert r["ok"] == r["issued"] == (requests or r["issued"]), shown


def with_comment(jpeg, number):
    """The same picture in other bytes: a comment segment behind SOI. For tests that need bodies of their own."""
    text = b"spillway test %d" % number
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def post(server, body, timeout=60, headers=None, connection=None):
    """(status, JSON) of one raw-body upload."""
    own = connection or http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        own.request("POST", "/infer", body, {"Content-Type": "image/jpeg", **(headers or {})})
        answer = own.getresponse()
        data = answer.read()
        try:
            return answer.status, json.loads(data)
        except ValueError:
            return answer.status, {"raw": data.decode(errors="replace")}
    finally:
        if not connection:
            own.close()


class Crowd:
    """Threads that call work(index) with every index below `count`, a handful at a time; failures are kept."""

    def __init__(self, work, count, threads=8):
        self.work, self.count = work, count
        self.next, self.lock, self.failures = 0, threading.Lock(), []
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(threads)]
        for t in self.threads:
            t.start()

    def run(self):
        while True:
            with self.lock:
                index = self.next
                self.next += 1
            if index >= self.count:
                return
            try:
                self.work(index)
            except Exception as e:  # pylint: disable=broad-except
                with self.lock:
                    self.failures.append(f"{index}: {type(e).__name__}: {e}")

    def join(self, seconds=600):
        end = time.monotonic() + seconds
        for t in self.threads:
            t.join(max(0, end - time.monotonic()))
        assert not any(t.is_alive() for t in self.threads), "the crowd did not finish"
        assert not self.failures, f"{len(self.failures)} of {self.count}: {self.failures[:5]}"
