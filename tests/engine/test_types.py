# SPDX-License-Identifier: Apache-2.0
"""Each type of the ABI through a run, scalars and tensors without elements, free dimensions, outputs whose size only the run
knows, strings with any bytes, inputs and outputs that are absent, and what does not cross the ABI."""
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cases


def build(where, name, nodes, inputs, outputs, opset=17):
    graph = helper.make_graph(nodes, name, inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = where / f"{name}.onnx"
    onnx.save(model, path)
    return path


def info(name, number, dims):
    return helper.make_tensor_value_info(name, number, dims)


def identity(where, number, dims, name=None):
    return build(where, name or f"identity{number}", [helper.make_node("Identity", ["x"], ["y"])], [info("x", number, dims)],
                 [info("y", number, dims)])


def run(where, *jobs):
    return cases.engine_answers(list(jobs), where)


def sample(number, shape):
    if number == cases.STRING:
        return np.array([bytes([i % 256]) * (i % 5) for i in range(int(np.prod(shape)))], object).reshape(shape)
    raw = np.arange(int(np.prod(shape))) % 2 if number == TensorProto.BOOL else np.arange(int(np.prod(shape)))
    return raw.astype(helper.tensor_dtype_to_np_dtype(number)).reshape(shape)


def test_each_type_goes_through_with_free_dimensions_and_without_elements(tmp_path):
    shapes, jobs, wanted = [(2, 3), (1, 1), (0, 3), (4, 0)], [], []
    for number in sorted(cases.CROSSING):
        model = identity(tmp_path, number, ["batch", "n"])
        for shape in shapes:
            jobs.append((model, [sample(number, shape)]))
            wanted.append(sample(number, shape))
    for (model, _), got, want in zip(jobs, run(tmp_path, *jobs), wanted):
        assert not isinstance(got, Exception), (model, want.shape, got)
        assert cases.same(got[0], want), (model, want.shape)


def test_scalars_and_ports_of_unknown_rank(tmp_path):
    scalar, anything = identity(tmp_path, 1, [], "scalar"), identity(tmp_path, 8, None, "anything")
    one, text = np.array(1.5, np.float32), np.array([[b"a", b""]], object)
    got = run(tmp_path, (scalar, [one]), (anything, [text]))
    assert cases.same(got[0][0], one) and cases.same(got[1][0], text)


def test_outputs_whose_size_only_the_run_knows(tmp_path):
    model = build(tmp_path, "nonzero", [helper.make_node("NonZero", ["x"], ["y"])], [info("x", 1, ["n"])], [info("y", 7, [1, "k"])])
    for x in (np.array([0, 3, 0, 4], np.float32), np.zeros(5, np.float32), np.zeros(0, np.float32)):
        got, = run(tmp_path, (model, [x]))
        assert cases.same(got[0], np.array(np.nonzero(x), np.int64)), x


def test_strings_hold_any_bytes_and_sizes(tmp_path):
    model = identity(tmp_path, 8, ["n"])
    texts = [b"", b"\0", b"a\0b", bytes(range(256)), b"x" * 70000, "schön".encode(), b""]
    many = [str(i).encode() * (i % 7) for i in range(5000)]
    got = run(tmp_path, (model, [np.array(texts, object)]), (model, [np.array(many, object)]))
    assert got[0][0].tolist() == texts and got[1][0].tolist() == many


@pytest.mark.parametrize("name,shape,data", [
    ("a length beyond the end", (1,), b"\x05\0\0\0abcd"), ("a length of 4 GiB", (2,), b"\xff\xff\xff\xffab"),
    ("too few", (2,), b"\x01\0\0\0a"), ("too many", (1,), b"\x01\0\0\0a\x01\0\0\0b"), ("half a length", (1,), b"\x01\0"),
    ("bytes for nothing", (0,), b"\0"), ("no bytes", (1,), b"")])
def test_a_string_tensor_that_does_not_add_up_is_invalid(tmp_path, name, shape, data):
    got, = run(tmp_path, (identity(tmp_path, 8, ["n"]), [(8, shape, data)]))
    assert str(got).startswith("invalid x: "), got


def test_an_absent_input_is_refused_and_an_unwanted_output_left_out(tmp_path):
    model = build(tmp_path, "two", [helper.make_node("Neg", ["a"], ["p"]), helper.make_node("Abs", ["b"], ["q"])],
                  [info("a", 1, ["n"]), info("b", 1, ["n"])], [info("p", 1, ["n"]), info("q", 1, ["n"])])
    a, b = np.array([1, 2], np.float32), np.array([-3], np.float32)
    got = run(tmp_path, (model, [a, None]), (model, [a, b], "!0"), (model, [a, b], "!1"), (model, [a, b], "!0", "!1"))
    assert str(got[0]).startswith("invalid b: the model needs this input")
    assert got[1][0] is None and cases.same(got[1][1], -b)
    assert cases.same(got[2][0], -a) and got[2][1] is None
    assert str(got[3]).startswith("invalid")


def test_what_does_not_cross_is_unsupported_unless_it_is_left_out(tmp_path):
    sequence = helper.make_tensor_sequence_value_info("s", 1, ["n"])
    inner = helper.make_node("SequenceConstruct", ["x"], ["s"])
    out = build(tmp_path, "out", [inner, helper.make_node("Neg", ["x"], ["y"])], [info("x", 1, ["n"])], [sequence, info("y", 1, ["n"])])
    into = build(tmp_path, "in", [helper.make_node("SequenceLength", ["s"], ["y"])], [sequence], [info("y", 7, [])])
    x = np.array([1, 2], np.float32)
    got = run(tmp_path, (out, [x]), (out, [x], "!0"), (into, [x]))
    assert str(got[0]).startswith("unsupported s is no tensor")
    assert got[1][0] is None and cases.same(got[1][1], -x)
    assert str(got[2]).startswith("unsupported s is no tensor")


def test_types_and_shapes_that_are_not_the_models_are_invalid(tmp_path):
    model = identity(tmp_path, 1, [2, "n"])
    good = np.zeros((2, 3), np.float32)
    bad = [good.astype(np.float64), good[0], good[:1], (1, (2, 3), b"\0" * 23), (1, (2, 1 << 61), b"\0" * 8), (8, (2, 3), b"\0" * 24)]
    answers = run(tmp_path, *[(model, [b]) for b in bad], (model, [good]))
    assert all(str(a).startswith("invalid x: ") for a in answers[:-1]), answers
    assert cases.same(answers[-1][0], good)
