#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A ResNet-50 as an ONNX file, with random weights: what it answers means nothing, what it costs is right. For machines without a
network, where the real one's 98 MiB cannot be carried (tools/gpu-check). The architecture with the stride on the 3x3 convolution
and batch normalisation folded into the convolutions, as in files that are exported for inference: 53 convolutions, 25.5 million
weights, 4.1 GFLOP (multiply-adds) a picture. Needs onnx and numpy.

    tools/make_resnet50.py OUT.onnx [--half]"""
import argparse
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    def __init__(self, dtype):
        self.nodes, self.weights, self.random, self.dtype = [], [], np.random.default_rng(50), dtype

    def add(self, op, inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def weight(self, shape, scale):
        name = f"w{len(self.weights)}"
        values = (self.random.standard_normal(shape, np.float32) * np.float32(scale)).astype(self.dtype)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x, channels_in, channels, kernel, stride=1, relu=True, gain=1.0):
        w = self.weight((channels, channels_in, kernel, kernel), gain * (2.0 / (channels_in * kernel * kernel)) ** 0.5)
        b = self.weight((channels,), 0.01)
        pad = kernel // 2
        y = self.add("Conv", [x, w, b], kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[pad] * 4)
        return self.add("Relu", [y]) if relu else y

    def bottleneck(self, x, channels_in, width, stride):
        y = self.conv(x, channels_in, width, 1)
        y = self.conv(y, width, width, 3, stride)
        y = self.conv(y, width, 4 * width, 1, relu=False, gain=0.25)  # so that sums of sixteen blocks stay in a half's range
        if stride != 1 or channels_in != 4 * width:
            x = self.conv(x, channels_in, 4 * width, 1, stride, relu=False, gain=0.7)
        return self.add("Relu", [self.add("Add", [y, x])])


def resnet50(half=False):
    graph, kind = Graph(np.float16 if half else np.float32), TensorProto.FLOAT16 if half else TensorProto.FLOAT
    x = graph.conv("input", 3, 64, 7, 2)
    x = graph.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            x = graph.bottleneck(x, channels, width, stride if block == 0 else 1)
            channels = 4 * width
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    graph.nodes.append(helper.make_node("Gemm", [x, graph.weight((1000, channels), 0.02), graph.weight((1000,), 0.01)], ["output"], transB=1))
    inputs = [helper.make_tensor_value_info("input", kind, ["N", 3, 224, 224])]
    outputs = [helper.make_tensor_value_info("output", kind, ["N", 1000])]
    model = helper.make_model(helper.make_graph(graph.nodes, "resnet50", inputs, outputs, graph.weights),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--half", action="store_true", help="f16 weights, input and output")
    args = parser.parse_args(argv)
    onnx.save(resnet50(args.half), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
