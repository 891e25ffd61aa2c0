# SPDX-License-Identifier: Apache-2.0
"""What the benches share: starting servers, running the load generator, naming machine and commit."""
import csv
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
PROGRAM = BUILD / "spillway"
MODELS = pathlib.Path(os.environ.get("SPILLWAY_MODELS", ROOT / "var" / "models"))
MODEL = MODELS / "efficientnet-lite0"
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared" / "assets"))


def setup():
    """Where and with what a figure was measured."""
    text = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    cpu = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.M))
    git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True,
                         check=False)
    version = subprocess.run([PROGRAM, "version", "--json"], capture_output=True, text=True, check=False).stdout
    options = subprocess.run(["meson", "introspect", "--buildoptions", BUILD], capture_output=True, text=True, check=False)
    wanted = ("buildtype", "optimization", "b_ndebug", "faults", "b_sanitize")
    flags = {o["name"]: o["value"] for o in json.loads(options.stdout or "[]") if o["name"] in wanted}
    return {"commit": git.stdout.strip(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {"cpu": cpu.get("model name"), "family": cpu.get("cpu family"), "model": cpu.get("model"),
                        "stepping": cpu.get("stepping"), "cpus": len(os.sched_getaffinity(0)),
                        "kernel": platform.release(), "load_before": os.getloadavg()[0]},
            "version": json.loads(version) if version.strip() else {}, "flags": flags}


def machine_line(s):
    m = s["machine"]
    return (f"{m['cpu']} family {m['family']} model {m['model']} stepping {m['stepping']}, {m['cpus']} CPUs, kernel "
            f"{m['kernel']}, load {m['load_before']:.1f}; commit {s['commit']}; "
            + " ".join(f"{k}={v}" for k, v in s["flags"].items()))


def process_tree(pid):
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += children.get(one, [])
    return found


def resident_mib(pid):
    """Proportional set size of a process and all below it: pages that several share count once."""
    total = 0
    for one in process_tree(pid):
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", pathlib.Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)[1])
        except (FileNotFoundError, ProcessLookupError, TypeError):
            pass
    return total / 1024


def cpu_seconds(pid):
    """User and system time of a process and all below it, so far."""
    total = 0
    for one in process_tree(pid):
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total / os.sysconf("SC_CLK_TCK")


class Spillway:
    def __init__(self, workers="codec0,cpu0", args=(), prefix=()):
        self.process = subprocess.Popen(
            [str(a) for a in (*prefix, PROGRAM, "serve", "--http-port", 0, "--metrics-port", 0, "--drain-delay", 0,
                              "--log-level", "error", "--workers", workers, "--model-repository", MODELS, *args)],
            stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            found = re.search(r"listens on (http://\S+)", line)
            if found:
                self.base = found[1]
                break
        else:
            raise SystemExit("spillway did not start")
        self.pid = self.process.pid
        end = time.monotonic() + 60
        while not all(w["state"] == "ready" for w in self.health()["workers"]):
            if time.monotonic() > end:
                self.stop()
                raise SystemExit(f"spillway did not become ready: {self.health()}")
            time.sleep(0.05)
        self.info = {"name": "spillway", "workers": workers, "args": list(map(str, args)),
                     "cards": {w["name"]: {k: w.get(k) for k in ("engine", "max_batch", "executors", "detail", "sandbox")}
                               for w in self.health()["workers"]}}

    def health(self):
        with urllib.request.urlopen(self.base + "/healthz", timeout=5) as answer:
            return json.load(answer)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Peer:
    def __init__(self, name, task, instances, threads, more=()):
        self.process = subprocess.Popen(
            [str(a) for a in (ROOT / "bench/peers/run", name, "--task", task, "--instances", instances, "--threads",
                              threads, "--model", MODEL, *more)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{name} did not start")
        self.info = json.loads(line)
        self.pid = self.info["pid"]
        self.base = self.info["url"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(40)


def bench(url, *args, prefix=()):
    """One run of the load generator; its JSON."""
    done = subprocess.run([str(a) for a in (*prefix, PROGRAM, "bench", url, "--json", *args)], capture_output=True,
                          text=True, check=False)
    if done.returncode > 1:
        raise SystemExit(f"{url}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def perf_analyzer(*args):
    """One run of Triton's load generator (bench/peers/setup perf_analyzer); its rows as dicts, one a concurrency."""
    venv = pathlib.Path(os.environ.get("SPILLWAY_PEERS", ROOT / ".deps" / "peers")) / "perf_analyzer" / "venv"
    libraries = next(iter(venv.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")), None)
    if not libraries:
        raise SystemExit("perf_analyzer is not set up: bench/peers/setup perf_analyzer")
    with tempfile.TemporaryDirectory(prefix="perf-") as scratch:
        done = subprocess.run([str(a) for a in (venv / "bin/perf_analyzer", *args, "-f", f"{scratch}/rows.csv")],
                              env=dict(os.environ, LD_LIBRARY_PATH=str(libraries)), capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=600)
        rows = pathlib.Path(scratch, "rows.csv")
        if done.returncode or not rows.exists():
            raise SystemExit(f"perf_analyzer {' '.join(map(str, args))}: {(done.stdout + done.stderr).strip()[-2000:]}")
        with rows.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def median(values):
    return statistics.median(values) if values else float("nan")


def taskset(cpu):
    return ("taskset", "-c", str(cpu)) if shutil.which("taskset") else ()
