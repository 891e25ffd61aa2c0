#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch and torchvision take on this GPU for the same work: one JSON row a case, flushed as it comes, so that a run that is
ended keeps what it had. What cannot be imported is a row with "absent".

    tools/gpu/torch_peers.py [--part prep,nms,resnet,compile] [--repeats 200] [--head FILE] [--device cuda|cpu --small]

prep: torchvision's antialiased resize and normalise, u8 to f32, inputs over 200 MB in turn. nms: torchvision.ops from device scores to
kept indices. resnet: ResNet-50 as torchvision has it, eager, f32 without TF32, f16. compile: the same by torch.compile, in f16 and
f32; f16 with the channels last, which is its fast way. Weights are random: what it costs does not depend on them. Times are by CUDA events around each call."""
import argparse
import json
import pathlib
import sys
import time

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224


def say(**row):
    print(json.dumps(row), flush=True)


class Bench:
    def __init__(self, torch, vision, device, repeats):
        self.torch, self.vision, self.device, self.repeats = torch, vision, device, repeats

    def time(self, call):
        """(median, best) in microseconds; call(i) is the i-th."""
        for i in range(min(10, self.repeats)):
            call(i)
        times = []
        if self.device != "cuda":
            for i in range(self.repeats):
                begun = time.perf_counter_ns()
                call(i)
                times.append((time.perf_counter_ns() - begun) / 1000)
        else:
            self.torch.cuda.synchronize()
            for i in range(self.repeats):
                begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                call(i)
                end.record()
                end.synchronize()
                times.append(1000 * begin.elapsed_time(end))
        times.sort()
        return times[len(times) // 2], times[0]

    def row(self, peer, case, call, **more):
        try:
            median_us, best_us = self.time(call)
        except Exception as error:  # one that fails must not cost the others
            say(peer=peer, case=case, absent=f"{type(error).__name__}: {error}"[:400], **more)
            return
        say(peer=peer, version=f"torch {self.torch.__version__}" + (f", torchvision {self.vision.__version__}" if self.vision else ""),
            case=case, median_us=round(median_us, 2), best_us=round(best_us, 2), **more)


def prep(bench, small):
    torch, functional = bench.torch, bench.vision.transforms.v2.functional
    count, h, w = (2, 48, 64) if small else (32, 720, 1280)
    batches = [torch.randint(0, 256, (count, 3, h, w), dtype=torch.uint8, device=bench.device) for _ in range(1 if small else 3)]
    mean, std = (torch.tensor(v, device=bench.device).view(3, 1, 1) * 255 for v in (MEAN, STD))
    small_ones = [torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, device=bench.device) for _ in batches]

    def resized(i, dtype):
        return functional.resize(batches[i % len(batches)].to(dtype), [SIDE, SIDE], antialias=True)

    with torch.inference_mode():
        bench.row("torchvision", "resize", lambda i: resized(i, torch.uint8))
        bench.row("torchvision", "normalise", lambda i: (small_ones[i % len(small_ones)].float() - mean) / std)
        bench.row("torchvision, u8 to the end", "fused", lambda i: (resized(i, torch.uint8).float() - mean) / std)
        bench.row("torchvision, f32 from the start", "fused", lambda i: (resized(i, torch.float32) - mean) / std)


def nms(bench, small, path=None):
    torch, ops, n = bench.torch, bench.vision.ops, 100 if small else 8400
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    import cpu_peers
    import numpy as np
    picture = [torch.from_numpy(a).to(bench.device) for a in cpu_peers.head(np, n, path)]
    loose = [torch.from_numpy(a).to(bench.device) for a in cpu_peers.scattered(np, n)]

    def of_picture(_):
        boxes, score, label = picture
        index = torch.nonzero(score > 0.3).squeeze(1)
        return index[ops.batched_nms(boxes[index], score[index], label[index], 0.45)]

    with torch.inference_mode():
        bench.row("torchvision.ops.batched_nms", "nms, a picture", of_picture)
        bench.row("torchvision.ops.nms", "nms, one class", lambda _: ops.nms(loose[0], loose[1], 0.45))


def network(bench, half, small):
    torch = bench.torch
    model = bench.vision.models.resnet18(weights=None) if small else bench.vision.models.resnet50(weights=None)
    model = model.eval().to(bench.device)
    return model.half().to(memory_format=torch.channels_last) if half else model


def pictures(bench, batch, half):
    torch = bench.torch
    tensor = torch.rand(batch, 3, SIDE, SIDE, device=bench.device, dtype=torch.float16 if half else torch.float32)
    return tensor.to(memory_format=torch.channels_last) if half else tensor


def resnet(bench, small, compiled=False):
    torch = bench.torch
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    sizes = [1] if small else [32] if compiled else [1, 8, 32, 64]
    for half in ([False] if small else [True, False]):
        with torch.inference_mode():
            model, name = network(bench, half, small), "f16" if half else "f32"
            if compiled:
                begun, model = time.monotonic(), torch.compile(model, mode="reduce-overhead")
            for batch in sizes:
                x = pictures(bench, batch, half)
                more = {"batch": batch, "precision": name}
                if compiled:
                    model(x)
                    more["compile_s"] = round(time.monotonic() - begun, 1)
                bench.row("torch.compile" if compiled else "torch eager", f"ResNet-50, {name}, batch {batch}", lambda i, m=model, x=x: m(x), **more)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="prep,nms,resnet,compile")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--head", help="as cpu_peers.py")
    parser.add_argument("--small", action="store_true", help="tiny sizes: a rehearsal")
    args = parser.parse_args(argv)
    try:
        import torch
        import torchvision
        import torchvision.transforms.v2.functional  # noqa: F401
    except Exception as error:  # not there, or two that do not fit each other
        say(peer="torch, torchvision", case="all", absent=f"{type(error).__name__}: {error}"[:400])
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        say(peer="torch", case="all", absent="it sees no GPU")
        return 0
    bench = Bench(torch, torchvision, args.device, args.repeats)
    parts = {"prep": prep, "nms": lambda b, s: nms(b, s, args.head), "resnet": resnet, "compile": lambda b, s: resnet(b, s, compiled=True)}
    for name in args.part.split(","):
        try:
            parts[name](bench, args.small)
        except Exception as error:  # one part must not cost the next
            say(peer="torch", case=name, absent=f"{type(error).__name__}: {error}"[:400])
    return 0


if __name__ == "__main__":
    sys.exit(main())
