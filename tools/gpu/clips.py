# SPDX-License-Identifier: Apache-2.0
"""Videos through `spillway analyze`: the pack's clips on cuda0 and on cpu0, the reports' bytes compared (motion, edges, regions, scenes:
flow, Canny and morphology of every frame), frames a second. The bound of a clip is its decoding alone, as the run itself measured it."""
import filecmp
import json
import shutil

from gpu.house import command

COMPARED = ["report.json", "frames.csv", "frames.npz"]
MOST_S = 120


def analyze(house, clip, link):
    """run.json of one analysis, with where its report lies; ValueError: it failed."""
    out = house.scratch / f"report-{clip.stem}-{link}"
    shutil.rmtree(out, ignore_errors=True)
    words = [house.pack / "bin/spillway", "analyze", clip, "-o", out, "--workers", f"codec0,{link}", "--link", link, "-q", "--json"]
    status, told, err, _ = command(words, house.env, house.clock, MOST_S)
    if status != 0:
        raise ValueError("no time was left" if status is None else f"{link}: analyze ended with {status}: {(err or told)[-600:]}")
    return json.loads(told), out


def one(house, clip, result):
    wanted, cpu = analyze(house, clip, "cpu0")
    got, gpu = analyze(house, clip, "cuda0")
    other = [name for name in COMPARED if not (cpu / name).exists() or not (gpu / name).exists()
             or not filecmp.cmp(cpu / name, gpu / name, shallow=False)]
    on_gpu = {link["link"] for link in got["links"]} == {"cuda0"}
    video, frames, decode_s = got["video"], got["frames_analyzed"], got["stages"].get("decode_s", 0)
    bound = frames / decode_s if decode_s > 0 else None
    row = {"bench": "clips", "case": f"{clip.name}, {video['width']}x{video['height']}, {frames} frames, cuda0", "unit": "frames/s",
           "floor": bound, "achieved": got["fps"], "of": "its decoding alone"}
    result["rows"].append(row | {"share": got["fps"] / bound} if bound else row)
    result["measured"].append({"clip": clip.name, "frames": frames, "cuda0_fps": got["fps"], "cpu0_fps": wanted["fps"], "cuda0": got["stages"],
                               "cpu0": wanted["stages"], "equal": not other and on_gpu})
    if other or not on_gpu:
        result["good"] = False
        result["notes"].append(f"{clip.name}: " + (f"{', '.join(other)} of cuda0 and cpu0 differ" if other else f"not on cuda0: {got['links']}"))
    print(f"gpu-check: {clip.name}: {got['fps']:.1f} frames/s on cuda0, {wanted['fps']:.1f} on cpu0, "
          f"{'OTHER REPORTS' if other else 'equal reports'}", flush=True)


def clips(house):
    found = sorted(house.files("clips/*.mp4"), key=lambda p: p.stat().st_size)
    if not found or not house.has("bin/spillway", "lib/libspillway_media.so"):
        return None
    result = {"good": True, "rows": [], "measured": [], "notes": []}
    for clip in found:
        try:
            one(house, clip, result)
        except (OSError, ValueError, KeyError) as error:
            result["good"] = False
            result["notes"].append(f"{clip.name}: {type(error).__name__}: {error}")
            print(f"gpu-check: {clip.name}: {error} - NOT GOOD", flush=True)
    return result
