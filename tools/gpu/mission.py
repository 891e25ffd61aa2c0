# SPDX-License-Identifier: Apache-2.0
"""What is aimed at on an H100 and what came out: one line a number, "pass", "FAIL" or "not verified" with the reason. Only published rows
count (report.py); a peer that was not there passes nothing."""
import re

GIB = 1024 ** 3


class Missing(Exception):
    """Not verified; the message says why."""


class Found:
    """What a run, or several of one device, has found."""

    def __init__(self, parts, rows, simulated):
        self.parts, self.rows, self.simulated = parts, rows, simulated
        self.peers = [p for part in parts.values() for p in part.get("peers", [])]
        self.measured = [m for part in parts.values() for m in part.get("measured", [])]

    def kernel(self, bench, pattern):
        """Microseconds."""
        for row in self.rows:
            if row.get("bench") == bench and re.search(pattern, row["case"]):
                return row["median_us"]
        raise Missing(f"no published row of bench {bench}")

    def peer(self, case, names=r"cv2|numpy"):
        """(microseconds, who): the fastest of the peers that did it."""
        there = [p for p in self.peers if p["case"] == case and "median_us" in p and re.search(names, p["peer"])]
        if not there:
            raise Missing("peer not there")
        best = min(there, key=lambda p: p["median_us"])
        return best["median_us"], f"{best['peer']} ({best['version']}{', threads: ' + str(best['threads']) if 'threads' in best else ''})"

    def served(self, model, way="jpeg"):
        for m in self.measured:
            if m.get("model") == model and m.get("from") == way:
                if any(run["errors"] for run in m["runs"]):
                    raise Missing("there were errors")
                return m
        raise Missing("no server was loaded")

    def alone(self, model, batch=None):
        """Pictures a second of the engine alone, the best batch or this one."""
        rates = [1e6 * r["batch"] / r["median_us"] for r in self.rows if r.get("bench") == "ort" and r.get("model") == model
                 and batch in (None, r["batch"])]
        if not rates:
            raise Missing("no published row of the engine alone")
        return max(rates)


def at_most(most_us, bench, pattern):
    def judge(found):
        us = found.kernel(bench, pattern)
        return f"{us:.4g} us", us <= most_us
    return judge


def times(factor, bench, pattern, case, names=r"cv2|numpy"):
    def judge(found):
        us, (peer_us, who) = found.kernel(bench, pattern), found.peer(case, names)
        return f"{peer_us / us:.3g}x: {us:.4g} us, {who} {peer_us:.4g} us", peer_us >= factor * us
    return judge


def hidden(found):
    shares = [row["hidden"] for row in found.rows if row.get("bench") == "pipe" and isinstance(row.get("hidden"), (int, float))]
    if not shares:
        raise Missing("no published row of bench pipe")
    return f"{100 * min(shares):.0f} %", min(shares) >= 0.9


def latency(model, p50_ms, p99_ms):
    def judge(found):
        run = next(r for r in found.served(model)["runs"] if r["concurrency"] == 1)
        return f"p50 {run['p50_us'] / 1e3:.2f} ms, p99 {run['p99_us'] / 1e3:.2f} ms", run["p50_us"] < 1e3 * p50_ms and run["p99_us"] < 1e3 * p99_ms
    return judge


def throughput(*models):
    def judge(found):
        served, why = [], []
        for model in models:
            try:
                served.append((max(r["requests_per_s"] for r in found.served(model)["runs"]), model))
            except Missing as error:
                why.append(f"{model}: {error}")
        if not served:
            raise Missing("; ".join(why))
        best, model = max(served)
        return f"{best:.0f} img/s ({model})", best >= 2000
    return judge


def share(model, way, least):
    def judge(found):
        m = found.served(model, way)
        bound = m.get("bound_img_s") or m.get("engine_img_s")
        if not bound:
            raise Missing("the engine alone was not measured")
        reached = max(r.get("img_s", r["requests_per_s"]) for r in m["runs"])
        return f"{100 * reached / bound:.0f} % ({reached:.0f} of {bound:.0f} img/s)", reached >= least * bound
    return judge


def in_the_server(found):
    ms = found.served("resnet50")["stage_ms"].get("preprocess", 0)
    if ms <= 0:
        raise Missing("the worker does not say it apart")
    return f"{ms:.3g} ms", ms <= 4


def half_against_eager(found):
    """The same batch for both; eager f32 of PyTorch, or plain ONNX Runtime in f32."""
    ours = found.alone("resnet50-half", 32)
    eager = [1e6 * p["batch"] / p["median_us"] for p in found.peers if p["peer"] == "torch eager" and p.get("precision") == "f32"
             and p.get("batch") == 32 and "median_us" in p]
    theirs, who = (eager[0], "torch eager f32") if eager else (found.alone("resnet50", 32), "plain ONNX Runtime f32, torch was not there")
    return f"{ours / theirs:.2f}x: {ours:.0f} img/s, {who} {theirs:.0f}", ours >= 5 * theirs


def beside_compile(found):
    best = [(1e6 * p["batch"] / p["median_us"], p["precision"]) for p in found.peers if p["peer"] == "torch.compile" and "median_us" in p]
    if not best:
        raise Missing("peer not there")
    rate, precision = max(best)
    ours = found.alone("resnet50-half")
    return f"{ours:.0f} img/s, torch.compile {precision} {rate:.0f}", None


def memory(found):
    most = [m["device_bytes"] for m in found.measured if m.get("model", "").startswith("resnet") and m.get("device_bytes")]
    if not most:
        raise Missing("no server was loaded, or NVML is missing")
    return f"{max(most) / GIB:.2f} GiB", max(most) <= 4e9


def soaked(found):
    for m in found.measured:
        if m.get("from") == "soak":
            errors = sum(run["errors"] for run in m["runs"])
            if m["seconds"] < 300:
                raise Missing(f"{m['seconds']:g} s only")
            return f"growth {m['growth_bytes']} bytes, {errors} errors, {m['restarts']} restarts", m["flat"] and not errors and not m["restarts"]
    raise Missing("no soak in this run")


def sanitized(found):
    part = found.parts.get("sanitizer")
    runs = [run for run in (part or {}).get("runs", []) if run["status"] not in (None, 124)]
    if not runs or any("refuses" in note for note in part["notes"]):
        raise Missing("; ".join((part or {}).get("notes", []))[:120] or "not in this run")
    return f"{len(runs)} runs of {len(part['runs'])} asked for", part["good"]


def twins(found):
    part = found.parts.get("twins")
    if not part:
        raise Missing("not in this run")
    return f"{sum(t['passed'] for t in part['tests'])} tests", part["good"]


def clips(found):
    told = [m["equal"] for m in found.measured if "clip" in m]
    if not told:
        raise Missing("no clips in this run")
    return f"{sum(told)} of {len(told)} clips equal", all(told)


def never(why):
    def judge(_):
        raise Missing(why)
    return judge


FUSED = r"^32 x 1280x720 to 224x224 f32$"
PICTURE, ONE_CLASS = r"^a picture", r"^all in one class"
GOALS = [
    ("every twin bit-equal to scalar", "equal", twins),
    ("clips: report of cuda0 = report of cpu0", "equal bytes", clips),
    ("resize, over OpenCV on the CPU", "15x", times(15, "prep", r"^resize 224x224 RGB8, 32 of 1280x720", "resize")),
    ("normalise, over OpenCV/numpy on the CPU", "27x", times(27, "prep", r"^normalise 224x224 f32, 32 of", "normalise")),
    ("fused pre-processing, over OpenCV + numpy on the CPU", "10x", times(10, "prep", FUSED, "fused")),
    ("NMS, a picture's usual output, over OpenCV/numpy on the CPU", "50x", times(50, "nms", PICTURE, "nms, a picture")),
    ("NMS, 8,400 boxes in one class, over OpenCV/numpy on the CPU", "50x", times(50, "nms", ONE_CLASS, "nms, one class")),
    ("pre-processing of a 1280x720 picture, the kernel", "4 ms", at_most(4000, "prep", r"^224x224 f32, one picture")),
    ("pre-processing of a picture, in the server", "4 ms", in_the_server),
    ("fused pre-processing, 32 x 1280x720 -> 224x224 f32", "51 us", at_most(51, "prep", FUSED)),
    ("fused pre-processing, ahead of torchvision on the GPU", "1x", times(1, "prep", FUSED, "fused", "torchvision")),
    ("NMS, a picture's usual output", "80 us", at_most(80, "nms", PICTURE)),
    ("NMS, 8,400 boxes in one class", "200 us", at_most(200, "nms", ONE_CLASS)),
    ("NMS, multi-label .001, 30,000 candidates", "600 us", at_most(600, "nms", r"^all labels")),
    ("NMS, a picture's usual output, ahead of torchvision", "1x", times(1, "nms", PICTURE, "nms, a picture", "torchvision")),
    ("NMS, 8,400 boxes in one class, ahead of torchvision", "1x", times(1, "nms", ONE_CLASS, "nms, one class", "torchvision")),
    ("Farneback, 1080p, a pair", "1 ms", at_most(1000, "flow", r"1920x1080.*pair, in sequence")),
    ("copies hidden", "90 %", hidden),
    ("ResNet-18 from JPEG, concurrency 1", "p50 < 50 ms, p99 < 5 ms", latency("resnet18", 50, 5)),
    ("ResNet-50 from JPEG, concurrency 1", "p50 < 50 ms, p99 < 5 ms", latency("resnet50", 50, 5)),
    ("ResNet-18 from JPEG", "2,000 img/s", throughput("resnet18")),
    ("ResNet-50 from JPEG", "2,000 img/s", throughput("resnet50-half", "resnet50")),
    ("(b) u8 224x224 by shared memory, of the engine alone", "90 %", share("resnet50-half", "shared memory", 0.9)),
    ("(c) JPEG over HTTP, of min(engine alone, cores / decode)", "80 %", share("resnet50-half", "jpeg", 0.8)),
    ("ResNet-50 FP16 against eager FP32, batch 32", "5x", half_against_eager),
    ("ResNet-50 alone beside torch.compile", "said", beside_compile),
    ("device memory of a server", "4 GB", memory),
    ("INT8, a picture", "1.2 ms", never("TensorRT has not run")),
    ("compute-sanitizer on small shapes", "nothing found", sanitized),
    ("soak of 5 minutes", "memory flat, no error", soaked),
]


def table(parts, rows, simulated):
    """[{"goal", "aim", "ours", "verdict"}]; a rehearsal verifies nothing."""
    found, told = Found(parts, rows, simulated), []
    for goal, aim, judge in GOALS:
        line = {"goal": goal, "aim": aim, "ours": "", "verdict": "not verified"}
        try:
            if simulated:
                raise Missing("simulated")
            line["ours"], passed = judge(found)
            line["verdict"] = "said" if passed is None else "pass" if passed else "FAIL"
        except Missing as error:
            line["why"] = str(error)
        except (LookupError, TypeError, ValueError, StopIteration, ZeroDivisionError) as error:  # a row of another shape verifies nothing
            line["why"] = f"{type(error).__name__}: {error}"
        told.append(line)
    return told
