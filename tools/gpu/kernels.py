# SPDX-License-Identifier: Apache-2.0
"""Parts without a server: what is there, every kernel against its scalar twin, the kernels' benches, the engine alone."""
import pathlib
import re
import subprocess
import sys

from gpu.house import command, json_rows

LIBRARIES = [("driver", ["libcuda.so.1"]), ("nvidia-ml", ["libnvidia-ml.so.1"]), ("nvcuvid", ["libnvcuvid.so.1"]),
             ("nvjpeg", ["libnvjpeg.so.13", "libnvjpeg.so.12"]), ("cudnn", ["libcudnn.so.9"]),
             ("cublas", ["libcublas.so.13", "libcublas.so.12"]), ("cufft", ["libcufft.so.12", "libcufft.so.11"]),
             ("nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"])]
ENGINE_BENCH = "bench-gpu-ort"
ENGINE_MODELS = [("resnet50", {}), ("resnet50-half", {"half": True}), ("resnet18", {"depth": 18})]


def loads(names, env):
    """What the dynamic linker says of each name, asked by a process of its own that has the environment."""
    code = ("import ctypes, sys\nfor name in sys.argv[1:]:\n"
            " try: ctypes.CDLL(name, ctypes.RTLD_GLOBAL); print(name, 'ok', sep='\\t', flush=True)\n"
            " except OSError as error: print(name, str(error).replace('\\n', ' '), sep='\\t', flush=True)\n")
    done = subprocess.run([sys.executable, "-c", code, *names], env=env, capture_output=True, text=True, timeout=120, check=False)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)


def unresolved(path, env):
    """What a provider of ONNX Runtime's lacks, "ok" for nothing. It must not be opened: its constructors crash where ONNX Runtime did
    not load it. The loader says what it would miss; the host that it calls comes with libonnxruntime_providers_shared.so."""
    try:
        told = subprocess.run(["ldd", "-r", str(path)], env=env, capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        return str(error)
    lines = re.findall(r"^\s*(\S+ => not found)$|^(undefined symbol: (?!Provider_GetHost\b).*|.*: version `.*)$", told.stdout + told.stderr, re.M)
    return "; ".join(" ".join(filter(None, line)).strip() for line in lines[:8]) or ("ok" if told.returncode == 0 else told.stderr.strip())


def wanted(house):
    """What the pack's engine wants of this machine (tools/gpu-pack): {library: "ok" or why not}."""
    found = loads(house.manifest.get("wants", []), house.env)
    if found:
        print(f"gpu-check: the pack is for CUDA {house.manifest.get('cuda')}: "
              + ", ".join(name if told == "ok" else f"{name} MISSING" for name, told in found.items()), flush=True)
    return found


def there(house):
    """What the pack wants, the driver's and CUDA's libraries, whether ours load, and what doctor says."""
    wants = wanted(house)
    found = loads([name for _, names in LIBRARIES for name in names], house.env)
    libraries = {what: next((name for name in names if found.get(name) == "ok"), None) for what, names in LIBRARIES}
    print("gpu-check: " + ", ".join(f"{what} {name or 'MISSING'}" for what, name in libraries.items()), flush=True)
    own = sorted((p for p in house.files("lib/*") if re.match(r"lib(spillway_|onnxruntime)", p.name)),
                 key=lambda p: ("providers" in p.name, "providers_shared" not in p.name, p.name))
    provider = re.compile(r"libonnxruntime_providers_(?!shared)")
    told = {pathlib.Path(k).name: v for k, v in loads([str(p) for p in own if not provider.match(p.name)], house.env).items()}
    told |= {p.name: unresolved(p, house.env) for p in own if provider.match(p.name)}
    failures = [f"{p.name} does not load: {told.get(p.name, 'the process ended')}" for p in own if told.get(p.name) != "ok"]
    failures += [f"the pack wants {name}: {why}" for name, why in wants.items() if why != "ok"]
    for failure in failures:
        print(f"gpu-check: {failure}", flush=True)
    result = {"good": not failures, "libraries": libraries, "loads": told, "notes": failures}
    if house.has("bin/spillway"):
        status, out, _, _ = command([house.pack / "bin/spillway", "doctor"], house.env, house.clock, 60)
        result["doctor"] = {"status": status, "output": out[-6000:]}
    return result


def run_test(house, name, env=None, prefix=(), most=150):
    """One test program: its TAP lines counted. `prefix`: what runs it."""
    status, out, err, seconds = command([*prefix, house.pack / "bin" / name], env or house.env, house.clock, most)
    lines = re.findall(r"^(ok|not ok) \d+ - (.*)$", out, re.M)
    skipped = [text for word, text in lines if word == "ok" and "# SKIP" in text]
    result = {"name": name, "seconds": round(seconds, 2), "passed": sum(w == "ok" for w, _ in lines) - len(skipped),
              "failed": [text for word, text in lines if word == "not ok"], "skipped": skipped, "status": status}
    result["good"] = status == 0 and not result["failed"] and result["passed"] > 0
    if not result["good"]:
        result["output"] = (out + err)[-4000:] if status is not None else "no time was left"
    return result


def twins(house):
    names = house.manifest["tests"]
    if not names:
        return None
    tests = []
    for name in names:
        tests.append(run_test(house, name))
        last = tests[-1]
        print(f"gpu-check: {name}: {last['passed']} passed, {len(last['failed'])} failed, {len(last['skipped'])} skipped, "
              f"{last['seconds']} s{'' if last['good'] else ' - NOT GOOD'}", flush=True)
    return {"good": all(t["good"] for t in tests), "tests": tests}


def run_bench(house, words, most=150):
    status, out, err, seconds = command([house.pack / "bin" / words[0], *words[1:]], house.env, house.clock, most)
    rows = json_rows(out)
    bench = {"name": words[0], "arguments": [str(w) for w in words[1:]], "seconds": round(seconds, 2), "status": status,
             "good": status == 0 and bool(rows)}
    if not bench["good"]:
        bench["output"] = (out + err)[-4000:] if status is not None else "no time was left"
    print(f"gpu-check: {words[0]}: {len(rows)} rows, {bench['seconds']} s{'' if bench['good'] else ' - NOT GOOD'}", flush=True)
    return bench, rows


# What a rehearsal asks of a bench: the smallest that goes through all of it.
SMALL = {"bench-gpu-flow": ["1", "40x24"], "bench-gpu-nms": ["1", "60", "4"], "bench-gpu-prep": ["1", "2", "64x48"],
         "bench-gpu-pipe": ["1", "2", "64x48"]}


def kernels(house):
    asked = [words for words in house.manifest["benches"] if words[0] != ENGINE_BENCH]
    if not asked:
        return None
    result = {"benches": [], "rows": []}
    for words in asked:
        if house.simulated:
            words = [words[0], *SMALL.get(words[0], ["1"])]
        elif words[0] == "bench-gpu-nms":
            words = [*words[:2], *house.head(8400, 80)]
        bench, rows = run_bench(house, words)
        result["benches"].append(bench)
        result["rows"] += rows
    result["good"] = all(b["good"] for b in result["benches"])
    return result


def engine(house):
    """Plain ONNX Runtime, tensors on the device: what a server can come near to, (a)."""
    if not house.has(f"bin/{ENGINE_BENCH}") or "SPILLWAY_ONNXRUNTIME" not in house.env:
        return None
    result = {"benches": [], "rows": [], "notes": []}
    for name, how in ENGINE_MODELS:
        try:
            model = house.model(name, **how)
        except OSError as error:
            result["notes"].append(str(error))
            continue
        bench, rows = run_bench(house, [ENGINE_BENCH, model, *(["1", "1", "2"] if house.simulated else ["50", "1", "8", "32"])], most=90)
        result["benches"].append(bench)
        for row in rows:
            row["model"] = name
            row["batch"] = int(re.search(r"batch (\d+)", row["case"])[1]) if re.search(r"batch (\d+)", row["case"]) else 0
            row["case"] += f", {name}"
        result["rows"] += rows
    result["good"] = bool(result["benches"]) and all(b["good"] for b in result["benches"])
    return result


def best_rate(house, model):
    """(a): pictures a second of the engine alone, the best batch; None where it was not measured."""
    rates = [1e6 * row["batch"] / row["median_us"] for row in house.rows() if row.get("bench") == "ort" and row.get("model") == model
             and row["batch"] and row["median_us"]]
    return max(rates, default=None)


def alone_us(house, model):
    """The engine's time for a batch of one, in microseconds."""
    return next((row["median_us"] for row in house.rows() if row.get("bench") == "ort" and row.get("model") == model and row["batch"] == 1), None)
