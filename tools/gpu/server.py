# SPDX-License-Identifier: Apache-2.0
"""The packed server with a cuda worker on loopback, loaded by `spillway bench` (C, one thread): pictures as JPEG over HTTP, u8 tensors
through KServe's system shared memory, both beside what the engine does alone; and the soak, everything at once with the device's
memory watched. Only the worker cuda0 is started beside the codec: a device that fails shows as errors, no CPU helps out."""
import http.client
import json
import math
import os
import pathlib
import re
import shutil
import struct
import subprocess
import threading
import time

from gpu.house import MIB, Clock, Memory, command, end_group, median
from gpu.kernels import alone_us, best_rate

SIDE, CLASSES = 224, 1000
SETTINGS = {"task": "classify", "input": "input", "output": "output", "output_kind": "logits", "labels": "labels.txt",
            "preprocess": {"filter": "bilinear", "fit": "short_side", "resize": [256, 256], "crop": [SIDE, SIDE], "divisor": 255,
                           "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
PIXELS = f"""max_batch_size: 32
input [{{ name: "input" data_type: TYPE_UINT8 dims: [{SIDE}, {SIDE}, 3] }}]
output [{{ name: "output" data_type: TYPE_FP32 dims: [{CLASSES}] }}]
dynamic_batching {{ max_queue_delay_microseconds: 200 }}
instance_group [{{ kind: KIND_GPU count: 1 gpus: [0] }}]
"""
MODELS = {"resnet50": {}, "resnet50-half": {"half": True}, "resnet18": {"depth": 18}}
JPEG_FIRST = ["resnet50-half", "resnet50"]  # a rehearsal takes one of each kind
APART_MOST = 1e-3  # f32 without TF32: what another order of sums makes of a probability
START_S = 120  # a first start compiles, chooses convolutions and warms all buckets up


class Broken(Exception):
    """A server that does not do what it should; the message says what."""


class Server:
    """`spillway serve` on free ports of loopback, in a process group of its own; what it started is gone after stop()."""

    def __init__(self, house, models, workers="codec0,cuda0", pixels=False, config=None):
        self.house, self.log_path = house, house.scratch / f"server-{time.monotonic_ns()}.log"
        repository = make_repository(house, models, pixels)
        words = [house.pack / "bin/spillway", "serve", "--http-port", 0, "--grpc-port", -1, "--metrics-port", -1, "--drain-delay", 0,
                 "--log-level", "warn", "--workers", workers, "--model-repository", repository, "--model", models[0],
                 "--data-dir", house.scratch / "data", "--model-control-mode", "explicit"]
        words += ["--load-model", "pixels"] if pixels else []
        if config:
            (house.scratch / "spillway.yaml").write_text(config)
            words += ["--config", house.scratch / "spillway.yaml"]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([str(w) for w in words], env=house.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=log, text=True, process_group=0)
        try:
            self.wait(pixels)
        except BaseException:
            self.stop()
            raise

    def wait(self, pixels):
        clock, self.port, begun = Clock(START_S, self.house.clock), None, time.monotonic()
        silent = threading.Timer(max(clock.left(), 1), end_group, [self.process])
        silent.start()
        for line in self.process.stdout:
            found = re.search(r"listens on http://[^:]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        silent.cancel()
        if not self.port:
            raise Broken("the server did not start: " + self.log())
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        while True:
            if self.process.poll() is not None:
                raise Broken("the server ended: " + self.log())
            health = self.ask("GET", "/healthz")[1]
            if all(w["state"] == "ready" for w in health["workers"]) and (not pixels or self.ask("GET", "/v2/models/pixels/ready")[0] == 200):
                break
            if clock.left() < 0:
                raise Broken(f"not ready after {START_S} s: {[(w['name'], w['state'], w['reason']) for w in health['workers']]} {self.log()}")
            time.sleep(0.1)
        self.start_s = round(time.monotonic() - begun, 1)
        self.card = next((w for w in health["workers"] if w["name"] == "cuda0"), {})

    def log(self):
        return self.log_path.read_text(errors="replace")[-1500:]

    def ask(self, method, path, body=None, kind="application/json"):
        """(status, the answer's JSON or text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            answer = connection.getresponse()
            data = answer.read()
            try:
                return answer.status, json.loads(data)
            except ValueError:
                return answer.status, data.decode(errors="replace")
        finally:
            connection.close()

    def held(self):
        """What Spillway's own CUDA memory is, in bytes; the engine's is not in it."""
        found = re.findall(r'^spillway_cuda_memory_bytes\{worker="cuda0",what="device_reserved"\} (\d+)$', str(self.ask("GET", "/metrics")[1]), re.M)
        return int(found[0]) if found else None

    def restarts(self):
        return sum(w["restarts"] for w in self.ask("GET", "/healthz")[1]["workers"])

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        end_group(self.process)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def make_repository(house, models, pixels):
    repository = house.scratch / ("repository-" + "-".join([*models, *["pixels"] * pixels]))
    for name in models:
        how, version = MODELS[name], repository / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        place(house.model(name, **how), version / "model.onnx")
        settings = json.loads(json.dumps(SETTINGS))
        settings["preprocess"]["dtype"], settings["precision"] = ("f16", "fp16") if how.get("half") else ("f32", "fp32")
        if house.simulated:
            settings["max_batch"] = 2
        (repository / name / "spillway.json").write_text(json.dumps(settings))
        (repository / name / "labels.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    if pixels:
        (repository / "pixels/1").mkdir(parents=True, exist_ok=True)
        place(house.model("pixels-half", half=True, pixels=True), repository / "pixels/1/model.onnx")
        (repository / "pixels/config.pbtxt").write_text(PIXELS.replace("32\n", "2\n", 1) if house.simulated else PIXELS)
    return repository


def place(path, where):
    if not where.exists():
        try:
            os.link(path, where)
        except OSError:
            shutil.copy(path, where)


def load(server, path, concurrency, seconds, *more):
    """One run of the load generator: its figures, errors counted in one number."""
    house = server.house
    warm_s = 0 if house.simulated else 1
    words = [house.pack / "bin/spillway", "bench", f"http://127.0.0.1:{server.port}{path}", "--json", "--concurrency", concurrency,
             "--duration", seconds, "--warmup", warm_s, *more]
    status, out, err, _ = command(words, house.env, house.clock, seconds + warm_s + 60)
    if status is None:
        raise Broken("no time was left")
    if status not in (0, 1):
        raise Broken(f"bench ended with {status}: {err[-400:]}")
    return figures(json.loads(out))


def figures(told):
    bad = told["errors"]["all"] + told["wrong"] + sum(n for s, n in told["status"].items() if not s.startswith("2"))
    return {"concurrency": told["concurrency"], "requests_per_s": told["throughput_rps"], "p50_us": told["latency_us"]["p50"],
            "p99_us": told["latency_us"]["p99"], "answered": told["answered"], "errors": bad, "client_cpu_s": told["client_cpu_s"]}


def jpeg_of(house):
    """The pack's picture of the usual size (640x480), else the middle one of them by bytes, or None."""
    found = sorted(house.files("clips/*.jpg", "clips/*.jpeg"), key=lambda p: p.stat().st_size)
    return next((p for p in found if p.name == "coco.jpg"), found[len(found) // 2] if found else None)


def rate_row(case, bound, reached, of):
    row = {"bench": "server", "case": case, "unit": "img/s", "floor": bound, "achieved": reached, "of": of}
    return row | {"share": reached / bound} if bound else row


def from_jpeg(house, name, picture, result):
    """(c): one model, pictures as files over HTTP."""
    seconds, levels = (0.3, [2]) if house.simulated else (3, [8, 32, 64, 128, 256])
    memory = Memory(house.simulated)
    with Server(house, [name]) as server, memory.watch(server.held) as watch:
        note = f"{name}: ready after {server.start_s} s; {server.card.get('detail', '')}"
        stages, data = [], picture.read_bytes()
        for _ in range(2 if house.simulated else 40):
            status, answer = server.ask("POST", "/infer", data, "image/jpeg")
            if status != 200 or answer.get("provider") != "cuda0":
                raise Broken(f"{name}: {status} {str(answer)[:300]}")
            stages.append(answer["latency_ms"])
        stage_ms = {key: median([s[key] for s in stages]) for key in stages[0]}
        # Not the label: with random weights two classes may be nearer than the last bits of a half in another batch.
        wanted = ["--file", picture, "--expect-text", '"provider":"cuda0"']
        runs = [load(server, "/infer", 1, seconds + 2 * (not house.simulated), *wanted)]
        runs += [load(server, "/infer", c, seconds, *wanted) for c in levels]
        restarts, held = server.restarts(), server.held()
    decode_s, alone = stage_ms["decode"] / 1e3, alone_us(house, name)
    cores = len(os.sched_getaffinity(0))
    engine, best = best_rate(house, name), max(runs[1:], key=lambda r: r["requests_per_s"])
    bound = min(engine, cores / decode_s) if engine and decode_s > 0 else None
    what = f"{name} from JPEG ({picture.name}, {len(data)} bytes)"
    result["rows"].append(rate_row(f"{what}, concurrency {best['concurrency']}", bound, best["requests_per_s"], "min((a), cores / decode)"))
    latency = {"bench": "server", "case": f"{what}, concurrency 1, p50", "unit": "us", "achieved": runs[0]["p50_us"],
               "floor": alone + 1e6 * decode_s if alone else None, "of": "decode + the engine's batch of one"}
    result["rows"].append(latency | {"share": latency["floor"] / latency["achieved"]} if latency["floor"] else latency)
    result["measured"].append({"model": name, "from": "jpeg", "runs": runs, "stage_ms": stage_ms, "cores": cores, "engine_img_s": engine,
                               "bound_img_s": bound, "device_bytes": watch.most(), "held_bytes": held, "start_s": server.start_s})
    errors = sum(r["errors"] for r in runs)
    result["notes"].append(note + f"; {errors} errors, {restarts} restarts")
    print(f"gpu-check: {name} from JPEG: {best['requests_per_s']:.0f} img/s, p50 {runs[0]['p50_us']:.0f} us, p99 {runs[0]['p99_us']:.0f} us "
          f"at concurrency 1, {errors} errors", flush=True)
    return errors == 0 and restarts == 0


class Region:
    """System shared memory that holds a batch of pictures, registered with the server under the name "check"."""

    def __init__(self, server, most):
        self.server, self.batch_bytes = server, SIDE * SIDE * 3
        self.out_at, self.path = most * self.batch_bytes, pathlib.Path(f"/dev/shm/spillway-check-{os.getpid()}")
        pixels = bytes((i * 7 + i // 672) % 256 for i in range(self.batch_bytes))
        self.path.write_bytes(pixels * most + bytes(4 * CLASSES * most))
        try:
            self.ask("register", {"key": "/" + self.path.name, "offset": 0, "byte_size": self.path.stat().st_size})
        except BaseException:
            self.path.unlink()
            raise

    def ask(self, what, body):
        status, answer = self.server.ask("POST", f"/v2/systemsharedmemory/region/check/{what}", json.dumps(body))
        if status != 200:
            raise Broken(f"shared memory, {what}: {status} {answer}")

    def request(self, batch):
        """A file with the request's JSON."""
        def where(at, size):
            return {"shared_memory_region": "check", "shared_memory_offset": at, "shared_memory_byte_size": size}
        body = {"inputs": [{"name": "input", "datatype": "UINT8", "shape": [batch, SIDE, SIDE, 3], "parameters": where(0, batch * self.batch_bytes)}],
                "outputs": [{"name": "output", "parameters": where(self.out_at, batch * 4 * CLASSES)}]}
        path = self.server.house.scratch / f"request-{batch}.json"
        path.write_text(json.dumps(body))
        return path

    def check(self, batch):
        """One request; its answer must be numbers, about the same for each of the same pictures."""
        status, answer = self.server.ask("POST", "/v2/models/pixels/infer", self.request(batch).read_bytes())
        if status != 200:
            raise Broken(f"pixels: {status} {str(answer)[:300]}")
        with open(self.path, "rb") as file:
            file.seek(self.out_at)
            numbers = struct.unpack(f"<{batch * CLASSES}f", file.read(4 * batch * CLASSES))
        rows = [numbers[i:i + CLASSES] for i in range(0, len(numbers), CLASSES)]
        far = any(abs(a - b) > 0.1 for row in rows for a, b in zip(row, rows[0]))  # not equal: a kernel may sum each in its own order
        if not all(map(math.isfinite, numbers)) or len(set(numbers)) < 10 or far:
            raise Broken(f"pixels: a batch of {batch} answers what no model says")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.ask("unregister", {})
        except (Broken, OSError, http.client.HTTPException):
            pass  # a server that is gone holds nothing any more
        self.path.unlink(missing_ok=True)


def by_nvjpeg(house, picture, result):
    """The same upload for who chooses nvJPEG, which is no twin: decoded on the device, so the codec's cores bound nothing."""
    concurrency, seconds = (2, 0.3) if house.simulated else (128, 3)
    with Server(house, ["resnet50-half"], config="nvjpeg: true\n") as server:
        status, answer = server.ask("POST", "/infer?decode=nvjpeg", picture.read_bytes(), "image/jpeg")
        if status != 200:
            raise Broken(f"{status} {str(answer)[:300]}")
        if answer["decode"] != "nvjpeg":
            result["notes"].append(f"nvJPEG was not used: {server.card.get('nvjpeg', answer['attempts'])}")
            return True
        run = load(server, "/infer?decode=nvjpeg", concurrency, seconds, "--file", picture, "--expect-text", '"decode":"nvjpeg"')
    result["rows"].append(rate_row(f"resnet50-half from JPEG ({picture.name}) by nvJPEG, concurrency {concurrency}",
                                   best_rate(house, "resnet50-half"), run["requests_per_s"], "(a)"))
    result["measured"].append({"model": "resnet50-half", "from": "nvjpeg", "runs": [run]})
    print(f"gpu-check: JPEG by nvJPEG: {run['requests_per_s']:.0f} img/s, {run['errors']} errors", flush=True)
    return run["errors"] == 0


def by_shared_memory(house, result):
    """(b): u8 pictures of the model's size."""
    seconds, shapes = (0.3, [(1, 2), (2, 1)]) if house.simulated else (3, [(1, 1), (1, 64), (1, 128), (8, 16), (32, 4)])
    memory = Memory(house.simulated)
    with Server(house, ["resnet50-half"], pixels=True) as server, memory.watch(server.held) as watch:
        with Region(server, max(b for b, _ in shapes)) as region:
            runs = []
            for batch, concurrency in shapes:
                region.check(batch)
                run = load(server, "/v2/models/pixels/infer", concurrency, seconds, "--raw", "--content-type", "application/json",
                           "--file", region.request(batch))
                runs.append(run | {"batch": batch, "img_s": batch * run["requests_per_s"]})
            restarts = server.restarts()
    engine, best = best_rate(house, "resnet50-half"), max(runs, key=lambda r: r["img_s"])
    result["rows"].append(rate_row(f"ResNet-50 f16, u8 {SIDE}x{SIDE} by system shared memory, batches of {best['batch']}, concurrency "
                                   f"{best['concurrency']}", engine, best["img_s"], "(a)"))
    result["measured"].append({"model": "resnet50-half", "from": "shared memory", "runs": runs, "engine_img_s": engine,
                               "device_bytes": watch.most()})
    errors = sum(r["errors"] for r in runs)
    print(f"gpu-check: u8 tensors by shared memory: {best['img_s']:.0f} img/s, {errors} errors", flush=True)
    return errors == 0 and restarts == 0


def beside_cpu(house, picture, result):
    """The same model on cuda0 and cpu0 of one server, in turns: how far their probabilities are apart."""
    with Server(house, ["resnet50"], workers="codec0,cuda0,cpu0") as server:
        words = [house.pack / "bin/spillway", "bench", f"http://127.0.0.1:{server.port}/infer", "--links", "cuda0,cpu0", "--file", picture,
                 "--requests", 2 if house.simulated else 20, "--json"]
        status, out, err, _ = command(words, house.env, house.clock, 60)
    if status != 0:
        raise Broken(f"bench --links ended with {status}: {err[-400:]}")
    told = json.loads(out)
    result["measured"].append({"model": "resnet50", "from": "links", "told": told})
    apart = [link["largest_difference"] for link in told["links"] if link["largest_difference"] is not None]
    failed = sum(link["failed"] + link["by_others"] for link in told["links"])
    result["notes"].append(f"cuda0 and cpu0, f32: probabilities at most {max(apart, default=None)} apart, {failed} calls failed")
    return failed == 0 and bool(apart) and max(apart) <= APART_MOST


def server(house):
    if not house.has_engine():
        return None
    result = {"good": True, "rows": [], "measured": [], "notes": []}
    steps, picture = [], jpeg_of(house) if house.has("lib/libspillway_media.so") else None
    if picture:
        steps = [(name, lambda name=name: from_jpeg(house, name, picture, result)) for name in JPEG_FIRST[:1 if house.simulated else 2]]
    else:
        result["notes"].append("no rows from JPEG: the pack has no lib/libspillway_media.so or no clips/*.jpg")
    steps.append(("shared memory", lambda: by_shared_memory(house, result)))
    if picture:
        steps += [("resnet18", lambda: from_jpeg(house, "resnet18", picture, result)), ("beside the CPU", lambda: beside_cpu(house, picture, result)),
                  ("nvJPEG", lambda: by_nvjpeg(house, picture, result))]
    for name, step in steps:
        try:
            result["good"] &= step()
        except (Broken, OSError, ValueError, KeyError, http.client.HTTPException) as error:
            result["good"] = False
            result["notes"].append(f"{name}: {type(error).__name__}: {error}")
            print(f"gpu-check: server, {name}: {error} - NOT GOOD", flush=True)
    return result


def flat(samples):
    """(growth in bytes, whether that is none): the most of the last half against the most of the half before, without the first
    fifth, in which pools and arenas fill. Up to 1 % or 16 MiB is an allocator's play."""
    used = [u for _, u in samples][len(samples) // 5:]
    if len(used) < 4:
        return None, False
    before, after = max(used[:len(used) // 2]), max(used[len(used) // 2:])
    return after - before, after - before <= max(before // 100, 16 * MIB)


def soak(house):
    """Files and tensors at once for so many seconds: every answer right, no worker restarted, the device's memory flat."""
    if not house.has_engine() or not house.soak_s:
        return None
    if house.clock.left() < house.soak_s + (0 if house.simulated else 45):
        return {"good": True, "notes": [f"soak: not begun, {house.clock.left():.0f} s were left of the budget: tools/gpu-check PACK --only soak"],
                "measured": []}
    picture, memory = jpeg_of(house) if house.has("lib/libspillway_media.so") else None, Memory(house.simulated)
    with Server(house, ["resnet50-half"], pixels=True) as server, memory.watch(server.held, house.soak_s / 300) as watch:
        with Region(server, 2) as region:
            region.check(1)
            loads = [["/v2/models/pixels/infer", 8, "--raw", "--content-type", "application/json", "--file", region.request(1)],
                     ["/v2/models/pixels/infer", 2, "--raw", "--content-type", "application/json", "--file", region.request(2)]]
            loads += [["/infer", 24, *(w for p in house.files("clips/*.jpg", "clips/*.jpeg") for w in ("--file", p))]] if picture else []
            runs = together(server, loads)
            restarts = server.restarts()
    growth, is_flat = flat(watch.samples)
    errors = sum(r["errors"] for r in runs)
    result = {"good": errors == 0 and restarts == 0 and is_flat, "notes": [], "samples": watch.samples[::max(1, len(watch.samples) // 100)],
              "measured": [{"from": "soak", "seconds": house.soak_s, "runs": runs, "restarts": restarts, "device_bytes": watch.most(),
                            "growth_bytes": growth, "flat": is_flat}]}
    print(f"gpu-check: soak of {house.soak_s:g} s: {sum(r['answered'] for r in runs)} answers, {errors} errors, {restarts} restarts, memory "
          f"{'flat' if is_flat else 'NOT FLAT'} (growth {growth} bytes)", flush=True)
    return result


def together(server, loads):
    """Several load generators side by side, for as long as the soak takes."""
    house, running, runs = server.house, [], []
    try:
        for path, concurrency, *more in loads:
            words = [house.pack / "bin/spillway", "bench", f"http://127.0.0.1:{server.port}{path}", "--json", "--warmup", 0, "--duration",
                     house.soak_s, "--concurrency", concurrency, *more]
            running.append(subprocess.Popen([str(w) for w in words], env=house.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, text=True, process_group=0))
        for process in running:
            out, err = process.communicate(timeout=max(house.clock.left(), 1))
            if process.returncode not in (0, 1):
                raise Broken(f"bench ended with {process.returncode}: {err[-400:]}")
            runs.append(figures(json.loads(out)))
    finally:
        for process in running:
            end_group(process)
            process.wait()
    return runs
