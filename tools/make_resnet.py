#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A ResNet-18 or -50 as an ONNX file, with random weights: what it answers means nothing, what it costs is right. For machines without
a network, where the real one's 98 MiB cannot be carried (tools/gpu-check). The architecture with the stride on the 3x3 convolution
and batch normalisation folded into the convolutions, as in files that are exported for inference: ResNet-50 has 53 convolutions,
25.5 million weights, 4.1 GFLOP (multiply-adds) a picture. Needs onnx and numpy.

    tools/make_resnet.py OUT.onnx [--depth 18|50] [--half] [--pixels] [--width 64]

--pixels: the input is UINT8 [N, 224, 224, 3], normalised in the model, and the output is f32 (a served model's tensors)
--width 8: the same graph with an eighth of the channels, for rehearsals"""
import argparse
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Graph:
    def __init__(self, dtype):
        self.nodes, self.weights, self.random, self.dtype = [], [], np.random.default_rng(50), dtype

    def add(self, op, inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(self.dtype), name))
        return name

    def weight(self, shape, scale):
        return self.constant(self.random.standard_normal(shape, np.float32) * np.float32(scale))

    def conv(self, x, channels_in, channels, kernel, stride=1, relu=True, gain=1.0):
        w = self.weight((channels, channels_in, kernel, kernel), gain * (2.0 / (channels_in * kernel * kernel)) ** 0.5)
        b = self.weight((channels,), 0.01)
        pad = kernel // 2
        y = self.add("Conv", [x, w, b], kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[pad] * 4)
        return self.add("Relu", [y]) if relu else y

    # The gains: so that sums of sixteen blocks stay in a half's range.
    def bottleneck(self, x, channels_in, width, stride):
        y = self.conv(x, channels_in, width, 1)
        y = self.conv(y, width, width, 3, stride)
        y = self.conv(y, width, 4 * width, 1, relu=False, gain=0.25)
        return self.join(x, y, channels_in, 4 * width, stride)

    def basic(self, x, channels_in, width, stride):
        y = self.conv(x, channels_in, width, 3, stride)
        y = self.conv(y, width, width, 3, relu=False, gain=0.25)
        return self.join(x, y, channels_in, width, stride)

    def join(self, x, y, channels_in, channels, stride):
        if stride != 1 or channels_in != channels:
            x = self.conv(x, channels_in, channels, 1, stride, relu=False, gain=0.7)
        return self.add("Relu", [self.add("Add", [y, x])])

    def pixels(self, x, kind):
        """UINT8 NHWC to what the first convolution takes."""
        y = self.add("Transpose", [self.add("Cast", [x], to=kind)], perm=[0, 3, 1, 2])
        mean, std = (self.constant(np.array(v, np.float32).reshape(1, 3, 1, 1)) for v in (MEAN, STD))
        return self.add("Div", [self.add("Sub", [y, mean]), std])


def resnet(depth=50, half=False, pixels=False, width=64):
    graph, kind = Graph(np.float16 if half else np.float32), TensorProto.FLOAT16 if half else TensorProto.FLOAT
    x = graph.conv(graph.pixels("input", kind) if pixels else "input", 3, width, 7, 2)
    x = graph.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    block, wider, channels = (graph.basic, 1, width) if depth == 18 else (graph.bottleneck, 4, width)
    for stage, blocks in enumerate(BLOCKS[depth]):
        for number in range(blocks):
            x = block(x, channels, width << stage, 2 if stage and not number else 1)
            channels = wider * (width << stage)
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    last = "logits" if half and pixels else "output"
    graph.nodes.append(helper.make_node("Gemm", [x, graph.weight((1000, channels), 0.02), graph.weight((1000,), 0.01)], [last], transB=1))
    if last != "output":
        graph.nodes.append(helper.make_node("Cast", [last], ["output"], to=TensorProto.FLOAT))
    inputs = [helper.make_tensor_value_info("input", TensorProto.UINT8, ["N", 224, 224, 3]) if pixels else
              helper.make_tensor_value_info("input", kind, ["N", 3, 224, 224])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT if pixels else kind, ["N", 1000])]
    model = helper.make_model(helper.make_graph(graph.nodes, f"resnet{depth}", inputs, outputs, graph.weights),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--depth", type=int, choices=sorted(BLOCKS), default=50)
    parser.add_argument("--half", action="store_true", help="f16 weights, input and output")
    parser.add_argument("--pixels", action="store_true")
    parser.add_argument("--width", type=int, default=64)
    args = parser.parse_args(argv)
    onnx.save(resnet(args.depth, args.half, args.pixels, args.width), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
