# SPDX-License-Identifier: Apache-2.0
"""What the parts of gpu-check share: the unpacked pack, the environment of its programs, time that runs out, what the device says of
itself. It knows nothing of any part."""
import ctypes
import hashlib
import json
import lzma
import os
import pathlib
import shutil
import site
import subprocess
import sys
import tarfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


def gpu_count():
    """(how many GPUs, why none), by the driver alone: no context is made."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "libcuda.so.1 is missing (no driver)"
    count, code = ctypes.c_int(0), cuda.cuInit(0)
    if code == 0:
        code = cuda.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        return 0, f"the driver says error {code}"
    return count.value, "" if count.value else "the driver sees no GPU"


def clocks():
    """What nvidia-smi says of the first device; {} without it."""
    keys = ["name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "temperature.gpu",
            "memory.total"]
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"], capture_output=True, text=True,
                              timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [v.strip() for v in done.stdout.splitlines()[0].split(",")] if done.returncode == 0 and done.stdout.strip() else []
    return dict(zip(keys, values))


def packages():
    """Directories in which the Python packages of CUDA's libraries keep them."""
    roots = {*site.getsitepackages(), site.getusersitepackages(), *sys.path}
    return sorted({str(p) for root in roots if root for p in pathlib.Path(root).glob("nvidia/*/lib")})


def environment(pack, simulated):
    """Of the pack's programs. In a rehearsal SPILLWAY_ONNXRUNTIME names the tests' engine, also where the pack has the real one."""
    env = dict(os.environ, SPILLWAY_PLUGINS=str(pack / "lib"), SPILLWAY_CUDA_LIBRARY=str(simulated or pack / "lib/libspillway_cuda.so"))
    env["LD_LIBRARY_PATH"] = ":".join([str(pack / "lib"), *packages(), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    if (pack / "lib/libonnxruntime.so.1").exists() and not (simulated and "SPILLWAY_ONNXRUNTIME" in env):
        env["SPILLWAY_ONNXRUNTIME"] = str(pack / "lib/libonnxruntime.so.1")
    for name in ("SPILLWAY_FAULTS", "SPILLWAY_SIM", "SPILLWAY_MODELS", "SPILLWAY_SANITIZER"):
        env.pop(name, None)
    if not simulated:
        env["SPILLWAY_FULL"] = "1"
    return env


def unpack(paths, into):
    """(where it lies, the manifest), when all files are what it says. A directory is a pack that was unpacked before."""
    if len(paths) == 1 and pathlib.Path(paths[0]).is_dir():
        return pathlib.Path(paths[0]).resolve(), json.loads((pathlib.Path(paths[0]) / "manifest.json").read_text())
    whole = into / "pack.tar.xz"
    try:
        with open(whole, "wb") as file:
            for path in paths:
                with open(path, "rb") as piece:
                    shutil.copyfileobj(piece, file)
        with lzma.open(whole) as packed, tarfile.open(fileobj=packed) as tar:
            for member in tar.getmembers():
                name = pathlib.PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.issym()) or "/" in member.linkname:
                    raise ValueError(f"{member.name} has no place in a pack")
            tar.extractall(into)
            while packed.read(MIB): # to its end: a tar is over before
                pass
    finally:
        whole.unlink(missing_ok=True)
    manifest = json.loads((into / "manifest.json").read_text())
    for name, of in manifest["files"].items():
        if hashlib.sha256((into / name).read_bytes()).hexdigest() != of["sha256"]:
            raise ValueError(f"{name} is not what was packed")
    return into, manifest


class Clock:
    """Time that runs out: what does not fit any more is not begun, and says so. `within`: never past another clock's end."""

    def __init__(self, budget, within=None):
        self.end = time.monotonic() + budget
        if within:
            self.end = min(self.end, within.end)

    def left(self):
        return self.end - time.monotonic()


def command(words, env, clock, most, text=None):
    """(exit status, stdout, stderr, seconds); None = there was no time left to begin it, 124 = it was ended. What it started is
    ended with it."""
    begun, allowed = time.monotonic(), min(most, clock.left())
    if allowed < 1:
        return None, "", "", 0.0
    try:
        process = subprocess.Popen([str(w) for w in words], env=env, stdin=subprocess.PIPE if text else subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", process_group=0)
    except OSError as error:
        return 127, "", str(error), 0.0
    try:
        out, err = process.communicate(text, timeout=allowed)
        status = process.returncode
    except subprocess.TimeoutExpired:
        end_group(process)
        out, err = process.communicate()
        status = 124
    return status, out, err, time.monotonic() - begun


def end_group(process):
    """Of a process that was started in a group of its own (not a session: who ends ours must find it)."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass


def json_rows(text):
    """The lines that are JSON objects."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def median(values):
    values = sorted(values)
    return values[len(values) // 2] if values else float("nan")


class House:
    """One run: what all parts are given, and what the parts before have found."""

    def __init__(self, pack, manifest, scratch, simulated, budget, soak_s):
        self.pack, self.manifest, self.scratch, self.simulated, self.soak_s = pack, manifest, scratch, simulated, soak_s
        self.env, self.clock = environment(pack, simulated), Clock(budget)
        self.parts = {}

    def has(self, *names):
        return all((self.pack / name).exists() for name in names)

    def has_engine(self):
        return self.has("bin/spillway", "lib/libspillway_engine_onnxruntime.so") and "SPILLWAY_ONNXRUNTIME" in self.env

    def files(self, *patterns):
        return sorted(p for pattern in patterns for p in self.pack.glob(pattern))

    def head(self, *before):
        """Words for a real detector's numbers, where the pack has them."""
        return [*before, self.pack / "clips/yolox-head.f32"] if self.has("clips/yolox-head.f32") else []

    def rows(self):
        return [row for part in self.parts.values() for row in part.get("rows", [])]

    def python(self, script, *words, most):
        """A script beside this file, by this Python, without the pack's libraries in its way; as command()."""
        env = dict(os.environ, PYTHONUNBUFFERED="1")
        return command([sys.executable, pathlib.Path(__file__).parent / script, *words], env, self.clock, most)

    def model(self, name, depth=50, half=False, pixels=False):
        """An ONNX file of random weights (tools/make_resnet.py); small ones in a rehearsal. OSError: it cannot be made here."""
        path = self.scratch / "models" / f"{name}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            words = ["--depth", depth, "--width", 4 if self.simulated else 64] + ["--half"] * half + ["--pixels"] * pixels
            status, _, err, _ = self.python("../make_resnet.py", path, *words, most=120)
            if status != 0:
                path.unlink(missing_ok=True)
                raise OSError(f"no model {name}: {err[-600:] or status}")
        return path


class Memory:
    """The device's memory in use, sampled beside a load: NVML's figure for the whole device, less what was in use before. Without
    NVML (a rehearsal) what `instead` says."""

    class Info(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    def __init__(self, simulated):
        self.nvml, self.device, self.before = None, ctypes.c_void_p(), 0
        if simulated:
            return
        try:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
            if nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)) == 0:
                self.nvml = nvml
                self.before = self.used() or 0
        except (OSError, AttributeError):
            pass

    def used(self):
        info = Memory.Info()
        if not self.nvml or self.nvml.nvmlDeviceGetMemoryInfo(self.device, ctypes.byref(info)) != 0:
            return None
        return info.used

    def watch(self, instead, every_s=0.5):
        return Watch(self, instead, every_s)


class Watch(threading.Thread):
    """with memory.watch(...) as w: w.samples are (seconds, bytes) since it began."""

    def __init__(self, memory, instead, every_s):
        super().__init__(daemon=True)
        self.memory, self.instead, self.every_s, self.samples, self.done = memory, instead, every_s, [], threading.Event()

    def run(self):
        begun = time.monotonic()
        while not self.done.wait(self.every_s):
            used = self.memory.used()
            try:
                used = self.instead() if used is None else used - self.memory.before
            except (OSError, ValueError):
                continue
            if used is not None:
                self.samples.append((round(time.monotonic() - begun, 2), used))

    def most(self):
        return max((used for _, used in self.samples), default=None)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join(10)
