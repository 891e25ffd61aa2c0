# SPDX-License-Identifier: Apache-2.0
"""compute-sanitizer over the twins' small shapes: memcheck first, then racecheck and synccheck. Where the tool is missing or refuses the
device that is said, and nothing failed; what it finds is a failure; a test that it does not finish in time is said."""
import pathlib
import re
import shutil

from gpu.house import Clock, command

TOOLS = ["memcheck", "racecheck", "synccheck"]
FOUND = 99  # its exit status when it found something
REFUSES = re.compile(r"device not supported|not supported on|unable to (?:attach|connect)|Failed to initialize|error 999", re.I)
EACH_S, ALL_S = 60, 150


def where():
    return shutil.which("compute-sanitizer") or next((str(p) for p in [pathlib.Path("/usr/local/cuda/bin/compute-sanitizer")] if p.exists()), None)


def sanitizer(house):
    names, tool = house.manifest["tests"], where()
    if not names:
        return None
    if not tool:
        return {"good": True, "notes": ["compute-sanitizer is not here"], "runs": []}
    env = dict(house.env, SPILLWAY_SANITIZER="compute-sanitizer")
    env.pop("SPILLWAY_FULL", None)
    result, clock = {"good": True, "runs": [], "notes": []}, Clock(ALL_S, house.clock)
    for check in TOOLS:
        for name in names:
            words = [tool, "--tool", check, "--error-exitcode", FOUND, "--print-limit", 10, house.pack / "bin" / name]
            status, out, err, seconds = command(words, env, clock, EACH_S)
            errors = re.search(r"ERROR SUMMARY: (\d+) error", out + err)
            run = {"tool": check, "name": name, "status": status, "seconds": round(seconds, 1), "errors": int(errors[1]) if errors else None}
            result["runs"].append(run)
            if status is not None and REFUSES.search(out + err):
                result["notes"].append(f"compute-sanitizer refuses this device: {(out + err)[-300:]}")
                return result
            if status == 124 or status is None:
                result["notes"].append(f"{check}: {name}: {'not begun, no time was left' if status is None else f'not finished in {seconds:.0f} s'}")
            elif status != 0:
                result["good"] = False
                run["output"] = (out + err)[-4000:]
            print(f"gpu-check: {check}: {name}: {'well' if status == 0 else status}, {seconds:.1f} s", flush=True)
    return result
