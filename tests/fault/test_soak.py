# SPDX-License-Identifier: Apache-2.0
"""One soak over all links with every kind of fault at once: a simulated GPU, the CPU, another Spillway behind a flaky
provider; workers killed, crashed, stopped; memory and sticky errors of the device; 429, 500, silence, halves, resets and
refusals of the provider; Redis going away and coming back; writes of the stores failing; slow clients. Nothing may be
lost, nothing wrong, no job done twice; memory and descriptors stay flat.

SPILLWAY_FULL=1: 200,000 requests, 24,000 of them classifications; else a small one."""
import collections
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import flaky
import house
import pytest

CLASSIFY, NOOP, JOBS = (24_000, 176_000, 400) if house.FULL else (900, 4_000, 12)
SIM = "sim0:memory=400MiB,item=8MiB,latency=1ms+0.2ms,fault=oom@n=40;oom@n=200;sticky@n=400"

CONFIG = """
workers: [codec0, sim0, cpu0, net0]
data_dir: {data}
chains:
  classify:
    retry_budget: {{percent: 50, per_s: 50, most: 500}}
    links:
      - name: sim0
        when: ["header X-Way != remote", "header X-Way != cpu"]
        breaker: {{open: 500ms, open_max: 2s}}
      - name: house-b
        timeout: 1500ms
        when: ["header X-Way != cpu"]
        breaker: {{open: 500ms, open_max: 2s}}
      - name: cpu0
remotes:
  house-b: {{kind: spillway, url: "http://127.0.0.1:{port}"}}
cache: {{memory: 16MiB, redis: "redis://127.0.0.1:{redis}", ttl: 2s}}
jobs: {{allow_private_webhooks: true, concurrency: 4, webhook_secret: {{env: SOAK_WEBHOOK_SECRET}}}}
results: {{all: false}}
"""


class Redis:
    """A real redis-server that can be taken away and brought back on the same port."""

    def __init__(self, directory):
        self.directory = directory
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.process = None
        self.up()

    def up(self):
        self.process = subprocess.Popen(["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "",
                                         "--dir", str(self.directory)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def down(self):
        self.process.kill()
        self.process.wait()


class Webhooks:
    """Takes webhooks and counts them by event id; every fourth first delivery is answered 503."""

    def __init__(self):
        self.seen, self.lock = collections.defaultdict(list), threading.Lock()
        hooks = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with hooks.lock:
                    first = not hooks.seen[body["id"]]
                    hooks.seen[body["id"]].append(self.headers["X-Spillway-Event-Id"])
                    code = 503 if first and len(hooks.seen) % 4 == 0 else 204
                self.send_response(code)
                self.end_headers()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Trouble(threading.Thread):
    """One fault at a time, drawn from a seed, until stopped; what it did is counted."""

    def __init__(self, server, provider, redis, seed):
        super().__init__(daemon=True)
        self.server, self.provider, self.redis, self.rng = server, provider, redis, random.Random(seed)
        self.did, self.ended = collections.Counter(), threading.Event()

    def signal(self, name, number):
        pid = self.server.worker(name)["pid"]
        try:
            if pid > 0:
                os.kill(pid, number)
                self.did[f"{signal.Signals(number).name} {name}"] += 1
        except ProcessLookupError:
            pass

    def one(self):
        what = self.rng.choice(["kill", "kill", "crash", "stop", "provider", "redis", "slow"])
        name = self.rng.choice(["codec0", "sim0", "cpu0", "net0"])
        if what == "kill":
            self.signal(name, signal.SIGKILL)
        elif what == "crash":
            self.signal(name, self.rng.choice([signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT]))
        elif what == "stop":
            self.signal(name, signal.SIGSTOP)
        elif what == "provider":
            self.provider.down = True
            self.ended.wait(1)
            self.provider.down = False
            self.did["provider away 1 s"] += 1
        elif what == "redis":
            self.redis.down()
            self.ended.wait(0.7)
            self.redis.up()
            self.did["redis away 0.7 s"] += 1
        else:
            self.slow_client()

    def slow_client(self):
        """Promises a body and drips; reads nothing."""
        try:
            s = socket.create_connection(("127.0.0.1", self.server.port), timeout=5)
            s.sendall(b"POST /infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(10):
                s.sendall(b"x" * 10)
                if self.ended.wait(0.1):
                    break
            s.close()
            self.did["slow client"] += 1
        except OSError:
            pass

    def run(self):
        while not self.ended.wait(self.rng.uniform(0.2, 0.9)):
            self.one()

    def stop(self):
        self.ended.set()
        self.join(30)


class Jobs(threading.Thread):
    """Submits jobs in a steady trickle; what was answered 202 is remembered."""

    def __init__(self, server, pictures, hook, count):
        super().__init__(daemon=True)
        self.server, self.pictures, self.hook, self.count = server, pictures, hook, count
        self.accepted, self.refused = {}, collections.Counter()

    def submit(self, index):
        path, label = self.pictures[index % len(self.pictures)]
        body = house.with_comment(path.read_bytes(), index)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request("POST", f"/v1/jobs?task=classify&webhook={self.hook}", body,
                               {"Content-Type": "image/jpeg", "Idempotency-Key": f"soak-{index}"})
            answer = connection.getresponse()
            data = json.loads(answer.read())
            if answer.status == 202:
                self.accepted[data["id"]] = label
            else:
                self.refused[answer.status] += 1
            return answer.status
        finally:
            connection.close()

    def run(self):
        for index in range(self.count):
            while self.submit(index) in (429, 503):  # a store that failed a write says so, and may be asked again
                time.sleep(0.1)
            time.sleep(0.05)


def descriptors(server):
    return len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))


def check_jobs(server, jobs, hooks, seconds):
    """Each accepted job is done, right, stored once; its webhook came, always with the same id."""
    end = time.monotonic() + seconds
    for job, label in jobs.accepted.items():
        while True:
            status, body = server.get(f"/v1/jobs/{job}")
            state = json.loads(body)
            if status == 200 and state["status"] == "done" and hooks.seen.get(job):
                break
            assert time.monotonic() < end, f"job {job}: {state} {hooks.seen.get(job)}"
            time.sleep(0.1)
        assert state["result"]["predictions"][0]["label"] == label, state
        while (found := server.get(f"/v1/results/{job}"))[0] == 503:  # one of the failures that are made
            assert time.monotonic() < end, found
        assert found[0] == 200, found
        assert len(set(hooks.seen[job])) == 1, hooks.seen[job]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_all_links_all_faults(labels, tmp_path, monkeypatch):
    seed = int(os.environ.get("SPILLWAY_SEED", "11"))
    print("seed", seed)
    monkeypatch.setenv("SOAK_WEBHOOK_SECRET", "soak")
    pictures = [(p, label) for p, label in labels.items() if p.suffix == ".jpeg"]
    hooks = Webhooks()
    with contextlib.ExitStack() as ends:
        redis = Redis(tmp_path)
        ends.callback(redis.down)
        back = ends.enter_context(house.Server(tmp_path))
        provider = flaky.FlakyHouse(back.port, share=0.25, seed=seed)
        ends.callback(provider.stop)
        config = tmp_path / "spillway.yaml"
        config.write_text(CONFIG.format(data=tmp_path / "data", port=provider.port, redis=redis.port))
        server = house.Server(tmp_path, workers="codec0,sim0,cpu0,net0", faults="store.sqlite:fail@p=0.01,store.write:fail@p=0.2", seed=seed, sim=SIM,
                              args=["--config", config])
        ends.callback(server.stop, 40)
        soak(server, provider, redis, hooks, labels, pictures, seed)


def soak(server, provider, redis, hooks, labels, pictures, seed):
    server.wait_ready()
    # What is allocated once, like a slot's output memory, is allocated now.
    house.result(house.load(server, labels, 200, concurrency=32, extra=["--header", "Cache-Control: no-store"]))
    memory_kib, open_files = server.memory_kib(), descriptors(server)
    trouble, jobs = Trouble(server, provider, redis, seed), Jobs(server, pictures, hooks.url, JOBS)
    trouble.start()
    jobs.start()
    fresh = ["--header", "Cache-Control: no-store"]
    ways = {way: house.load(server, labels, CLASSIFY // 4, concurrency=4, extra=[*fresh, "--header", f"X-Way: {way}"])
            for way in ("gpu", "remote", "cpu")}
    ways["cached"] = house.load(server, labels, CLASSIFY // 4, concurrency=4)
    noop = subprocess.Popen([str(house.PROGRAM), "bench", server.url + "/infer?task=noop", "--body-bytes", "700",
                             "--requests", str(NOOP), "--concurrency", "8", "--timeout", "60", "--json"],
                            stdout=subprocess.PIPE, text=True)
    server.clients.append(noop)
    results = {way: house.result(client, 3000) for way, client in {**ways, "noop": noop}.items()}
    jobs.join(600)
    trouble.stop()
    for way, r in results.items():
        print(f"{way}: {r['ok']} of {r['issued']} right, {r['throughput_rps']:.0f}/s, p50 {r['latency_us']['p50'] / 1e3:.1f} ms, "
              f"p99 {r['latency_us']['p99'] / 1e3:.1f} ms, slowest {r['latency_us']['max'] / 1e3:.0f} ms")
    print("faults:", dict(trouble.did), "| provider:", dict(provider.did))
    for r in results.values():
        house.assert_all_right(r)
    assert sum(r["ok"] for r in results.values()) == CLASSIFY + NOOP
    server.wait_ready()
    check_jobs(server, jobs, hooks, 120)
    print(f"jobs: {len(jobs.accepted)} accepted, refused meanwhile {dict(jobs.refused)}, all done once, "
          f"{sum(map(len, hooks.seen.values()))} webhooks")
    assert len(jobs.accepted) == JOBS
    server.wait_idle()
    now_kib, now_files = server.memory_kib(), descriptors(server)
    print(f"memory {memory_kib} -> {now_kib} KiB, descriptors {open_files} -> {now_files}")
    assert now_files <= open_files + 16, "descriptors are left open"
    assert now_kib <= memory_kib * 1.25 + 32 * 1024, "memory grew"


def test_one_link_down(labels, tmp_path):
    """How much slower the next link answers when the one before it is away, silent or dying: printed, never judged."""
    requests = 2_000 if house.FULL else 120
    with contextlib.ExitStack() as ends:
        back = ends.enter_context(house.Server(tmp_path))
        provider = flaky.FlakyHouse(back.port, share=0)
        ends.callback(provider.stop)
        config = tmp_path / "spillway.yaml"
        config.write_text(f"""
workers: [codec0, sim0, cpu0, net0]
chains:
  classify:
    links:
      - {{name: house-b, when: "header X-Way == remote", timeout: 1s}}
      - {{name: sim0, when: "header X-Way == gpu"}}
      - cpu0
remotes:
  house-b: {{kind: spillway, url: "http://127.0.0.1:{provider.port}"}}
""")
        server = house.Server(tmp_path, workers="codec0,sim0,cpu0,net0", args=["--config", config])
        ends.callback(server.stop, 40)
        server.wait_ready()

        def measure(what, way, meanwhile=None):
            client = house.load(server, labels, requests, concurrency=4, extra=["--header", f"X-Way: {way}"])
            while meanwhile and client.poll() is None:
                meanwhile()
            r = house.result(client)
            house.assert_all_right(r, requests)
            print(f"{what}: p50 {r['latency_us']['p50'] / 1e3:.1f} ms, p99 {r['latency_us']['p99'] / 1e3:.1f} ms, "
                  f"slowest {r['latency_us']['max'] / 1e3:.1f} ms")

        def kill_sim():
            pid = server.worker("sim0")["pid"]
            if pid > 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

        measure("the next link by itself (cpu0)", "cpu")
        measure("sim0 killed as soon as it is up", "gpu", kill_sim)
        server.wait_ready()
        os.kill(server.worker("sim0")["pid"], signal.SIGSTOP)
        measure("sim0 stopped", "gpu")
        provider.down = True
        measure("remote resets every connection", "remote")
        provider.down, provider.share, provider.faults = False, 1, ("silent",)
        measure("remote silent, link timeout 1 s", "remote")
