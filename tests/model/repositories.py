# SPDX-License-Identifier: Apache-2.0
"""Model repositories for tests: Triton's quick-start models by name, with their configurations' fields and, where weights
would have to be downloaded, a generated ONNX of the same inputs and outputs.

    path = repositories.quick_start(directory)             # all of them
    repositories.write(directory, "m", model, config)      # one of one's own
"""
import os

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

OPSET = [helper.make_opsetid("", 17)]


def model(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=OPSET, ir_version=8)


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, shape)


def add_sub(dtype=T.INT32, batch="N"):
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""
    shape = [batch, 16]
    nodes = [helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
    return model(nodes, [value(f"INPUT{i}", dtype, shape) for i in (0, 1)], [value(f"OUTPUT{i}", dtype, shape) for i in (0, 1)])


def add_sub_cast(kind):
    """The same over a type that Add does not take (int8), or over texts that are numbers."""
    shape = ["N", 16]
    nodes = [helper.make_node("Cast", [f"INPUT{i}"], [f"i{i}"], to=T.INT32) for i in (0, 1)]
    nodes += [helper.make_node("Add", ["i0", "i1"], ["o0"]), helper.make_node("Sub", ["i0", "i1"], ["o1"])]
    nodes += [helper.make_node("Cast", [f"o{i}"], [f"OUTPUT{i}"], to=kind) for i in (0, 1)]
    return model(nodes, [value(f"INPUT{i}", kind, shape) for i in (0, 1)], [value(f"OUTPUT{i}", kind, shape) for i in (0, 1)])


def sequence(corrid=False):
    """OUTPUT = INPUT, + 1 at the start; what the quick start's sequence models compute, with CORRID added at the end."""
    names = ["START", "READY"] + (["END"] if corrid else [])
    inputs = [value("INPUT", T.INT32, ["N", 1])] + [value(name, T.INT32, ["N", 1]) for name in names]
    nodes = [helper.make_node("Add", ["INPUT", "START"], ["sum" if corrid else "OUTPUT"])]
    if corrid:
        inputs.append(value("CORRID", T.UINT64, ["N", 1]))
        nodes += [helper.make_node("Cast", ["CORRID"], ["id"], to=T.INT32), helper.make_node("Mul", ["id", "END"], ["last"]),
                  helper.make_node("Add", ["sum", "last"], ["OUTPUT"])]
    return model(nodes, inputs, [value("OUTPUT", T.INT32, ["N", 1])])


def classifier(input_name, output_name, shape, output_shape):
    """A mean per picture, repeated: the shapes of a classifier without its weights."""
    count = int(np.prod(output_shape))
    scale = numpy_helper.from_array(np.linspace(0, 1, count, dtype=np.float32).reshape(output_shape), "scale")
    one = numpy_helper.from_array(np.array([1], dtype=np.int64), "one")
    nodes = [helper.make_node("ReduceMean", [input_name], ["mean"], keepdims=0), helper.make_node("Reshape", ["mean", "one"], ["flat"]),
             helper.make_node("Mul", ["scale", "flat"], [output_name])]
    return model(nodes, [value(input_name, T.FLOAT, shape)], [value(output_name, T.FLOAT, output_shape)], [scale, one])


def ports(kind, names, dtype, dims):
    body = ",\n".join(f'  {{\n    name: "{n}"\n    data_type: {dtype}\n    dims: [ {", ".join(map(str, dims))} ]\n  }}' for n in names)
    return f"{kind} [\n{body}\n]\n"


def head(name, batch=8, backend='platform: "onnxruntime_onnx"'):
    return f'name: "{name}"\n{backend}\nmax_batch_size: {batch}\n'


def pair(name, dtype):
    return head(name) + ports("input", ["INPUT0", "INPUT1"], dtype, [16]) + ports("output", ["OUTPUT0", "OUTPUT1"], dtype, [16])


def control(name, kind, typed="int32_false_true: [ 0, 1 ]"):
    return f'    {{\n      name: "{name}"\n      control [ {{ kind: CONTROL_SEQUENCE_{kind}\n {typed} }} ]\n    }}'


def sequence_config(name, strategy, controls, rest):
    one = ports("input", ["INPUT"], "TYPE_INT32", [1]) + ports("output", ["OUTPUT"], "TYPE_INT32", [1])
    return head(name) + "sequence_batching {\n" + strategy + "  control_input [\n" + ",\n".join(controls) + "\n  ]\n}\n" + one + rest


def image(name, input_name, form, dims, output_name, count, output_shape, labels):
    shape = ", ".join(map(str, dims))
    return (f'name: "{name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size : 0\ninput [\n  {{\n    name: "{input_name}"\n'
            f"    data_type: TYPE_FP32\n    format: {form}\n    dims: [ {shape} ]\n    reshape {{ shape: [ 1, {shape} ] }}\n  }}\n]\n"
            f'output [\n  {{\n    name: "{output_name}"\n    data_type: TYPE_FP32\n    dims: [ {count} ]\n'
            f'    reshape {{ shape: [ {", ".join(map(str, output_shape))} ] }}\n    label_filename: "{labels}"\n  }}\n]\n')


def write(directory, name, onnx_model=None, config=None, version=1, files=()):
    base = os.path.join(directory, name)
    os.makedirs(os.path.join(base, str(version)), exist_ok=True)
    if onnx_model is not None:
        onnx.save(onnx_model, os.path.join(base, str(version), "model.onnx"))
    if config is not None:
        with open(os.path.join(base, "config.pbtxt"), "w", encoding="utf-8") as file:
            file.write(config)
    for file_name, text in dict(files).items():
        with open(os.path.join(base, file_name), "w", encoding="utf-8") as file:
            file.write(text)
    return base


def quick_start(directory):
    """The repositories of Triton's quick start (server commit a23c395e): the same names, fields, inputs and outputs."""
    write(directory, "simple", add_sub(), pair("simple", "TYPE_INT32"))
    write(directory, "simple_int8", add_sub_cast(T.INT8), pair("simple_int8", "TYPE_INT8"))
    write(directory, "simple_string", add_sub_cast(T.STRING), pair("simple_string", "TYPE_STRING"))
    write(directory, "simple_sequence", sequence(),
          sequence_config("simple_sequence", "", [control("START", "START"), control("READY", "READY")],
                          "instance_group [\n  {\n    kind: KIND_CPU\n  }\n]\n"))
    write(directory, "simple_dyna_sequence", sequence(True),
          sequence_config("simple_dyna_sequence",
                          "    max_sequence_idle_microseconds: 10000000\n    oldest {\n      max_candidate_sequences: 1024\n"
                          "      max_queue_delay_microseconds: 10000\n    }\n",
                          [control("START", "START"), control("END", "END"), control("READY", "READY"),
                           control("CORRID", "CORRID", "data_type: TYPE_UINT64")],
                          'parameters [\n  {\n    key: "execute_delay_ms"\n    value: { string_value: "3" }\n  }\n]\n'
                          "instance_group [\n  {\n    count: 2\n    kind: KIND_CPU\n  }\n]\n"))
    write(directory, "densenet_onnx", classifier("data_0", "fc6_1", [1, 3, 224, 224], [1, 1000, 1, 1]),
          image("densenet_onnx", "data_0", "FORMAT_NCHW", [3, 224, 224], "fc6_1", 1000, [1, 1000, 1, 1], "densenet_labels.txt"),
          files={"densenet_labels.txt": "".join(f"class {i}\n" for i in range(1000))})
    write(directory, "inception_onnx",
          classifier("input:0", "InceptionV3/Predictions/Softmax:0", [1, 299, 299, 3], [1, 1001]),
          image("inception_onnx", "input:0", "FORMAT_NHWC", [299, 299, 3], "InceptionV3/Predictions/Softmax:0", 1001, [1, 1001],
                "inception_labels.txt"),
          files={"inception_labels.txt": "\n".join(f"class {i}" for i in range(1001))})
    return directory


QUICK_START = ["simple", "simple_int8", "simple_string", "simple_sequence", "simple_dyna_sequence", "densenet_onnx", "inception_onnx"]
