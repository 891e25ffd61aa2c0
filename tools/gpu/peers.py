# SPDX-License-Identifier: Apache-2.0
"""Parts that run somebody else's code beside ours, each in a process of its own: what it printed until it ended, or was ended, counts."""
from gpu.house import json_rows


def rows_of(house, script, words, most):
    status, out, err, seconds = house.python(script, *words, most=most)
    rows = json_rows(out)
    result = {"good": True, "status": status, "seconds": round(seconds, 1), "peers": [row for row in rows if "peer" in row],
              "notes": [row["note"] for row in rows if "note" in row]}
    result["notes"] += [f"{row['peer']}: {row['case']}: not there: {row['absent']}" for row in result["peers"] if "absent" in row]
    if status is None:
        result["notes"].append(f"{script}: no time was left")
    elif status != 0:  # a peer that breaks is said, and is no failure of ours
        result["notes"].append(f"{script} ended with {status}: {err[-600:]}")
    print(f"gpu-check: {script}: {sum('median_us' in row for row in rows)} rows, {seconds:.1f} s", flush=True)
    return result


def cpu(house):
    """OpenCV and numpy, in the run that times the kernels."""
    if not house.manifest["benches"] or all(words[0] == "bench-gpu-ort" for words in house.manifest["benches"]):
        return None
    return rows_of(house, "cpu_peers.py", ["--small", "--seconds", "0.01"] if house.simulated else house.head("--head"), 90)


def torch_kernels(house):
    """torchvision on the GPU, in the run that times the kernels."""
    if not house.manifest["benches"] or all(words[0] == "bench-gpu-ort" for words in house.manifest["benches"]):
        return None
    return rows_of(house, "torch_peers.py", ["--part", "prep,nms", *(small(house) or house.head("--head"))], 90)


def torch_models(house):
    """ResNet-50 eager and compiled, in the run that times the engine."""
    if not house.has("bin/bench-gpu-ort"):
        return None
    return rows_of(house, "torch_peers.py", ["--part", "resnet,compile", *small(house)], 170)


def small(house):
    return ["--small", "--device", "cpu", "--repeats", "1"] if house.simulated else []
