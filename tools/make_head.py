#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real YOLOX head's numbers for bench-gpu-nms: the model at 640x640 (it is made for 416x416; its convolutions take any size) sees
one picture, and what it says is written as f32 [8400][85], little-endian. tools/gpu-check gives them to the bench and its peers when a
pack has them as clips/yolox-head.f32. Needs onnx, onnxruntime, numpy and cv2 where the pack is made.

    tools/make_head.py OUT.f32 [--model yolox_nano.onnx] [--picture yolox_dog.jpg]"""
import argparse
import os
import pathlib
import sys

import cv2
import numpy as np
import onnx
import onnxruntime

ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", pathlib.Path(__file__).resolve().parents[1].parent / "shared/assets"))
SIDE, GREY = 640, 114


def head(model_path, picture_path):
    model = onnx.load(model_path)
    for size in model.graph.input[0].type.tensor_type.shape.dim[2:4]:
        size.dim_value = SIDE
    model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # shapes that it had written down for 416
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    picture = cv2.imread(str(picture_path))
    scale = min(SIDE / picture.shape[0], SIDE / picture.shape[1])
    small = cv2.resize(picture, (int(picture.shape[1] * scale), int(picture.shape[0] * scale)))
    boxed = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    boxed[:small.shape[0], :small.shape[1]] = small
    return session.run(None, {model.graph.input[0].name: boxed.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--model", default=str(ASSETS / "models/yolox_nano.onnx"))
    parser.add_argument("--picture", default=str(ASSETS / "media/images/yolox_dog.jpg"))
    args = parser.parse_args(argv)
    numbers = head(args.model, args.picture)
    numbers.astype("<f4").tofile(args.out)
    print(f"{args.out}: {numbers.shape[0]} x {numbers.shape[1]}, {int(((numbers[:, 4:5] * numbers[:, 5:]).max(1) > 0.3).sum())} boxes over .3")
    return 0


if __name__ == "__main__":
    sys.exit(main())
