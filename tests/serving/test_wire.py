# SPDX-License-Identifier: Apache-2.0
"""kserve/wire.c against protobuf's own encoder and parser: random ModelInferRequests, cut into pieces anywhere, and broken
ones, each of which must be read as protobuf reads it or be refused."""
import json
import os
import pathlib
import random
import struct
import subprocess

import pytest

service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[all] is not installed")
ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
FULL = os.environ.get("SPILLWAY_FULL") == "1"
TYPES = {  # name -> (contents field, struct format, lowest, highest)
    "BOOL": ("bool_contents", "?", 0, 1), "UINT8": ("uint_contents", "B", 0, 255), "UINT16": ("uint_contents", "H", 0, 65535),
    "UINT32": ("uint_contents", "I", 0, 2**32 - 1), "UINT64": ("uint64_contents", "Q", 0, 2**64 - 1),
    "INT8": ("int_contents", "b", -128, 127), "INT16": ("int_contents", "h", -32768, 32767),
    "INT32": ("int_contents", "i", -2**31, 2**31 - 1), "INT64": ("int64_contents", "q", -2**63, 2**63 - 1),
    "FP32": ("fp32_contents", "f", -8, 8), "FP64": ("fp64_contents", "d", -8, 8), "BYTES": ("bytes_contents", None, 0, 0),
}


class Tool:
    def __init__(self):
        self.process = subprocess.Popen([BUILD / "tests/serving/wire_tool"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, message, pieces):
        self.process.stdin.write(struct.pack("<II", len(message), pieces) + message)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the tool died with %s of %s" % (self.process.wait(), message.hex())
        return json.loads(line)


@pytest.fixture(scope="module")
def tool():
    tool = Tool()
    yield tool
    tool.process.stdin.close()
    assert tool.process.wait(20) == 0
    tool.process.stdout.close()


def values_of(chance, kind, count):
    field, form, low, high = TYPES[kind]
    if kind == "BYTES":
        return [chance.randbytes(chance.randrange(0, 40)) for _ in range(count)]
    if form in "fd":
        return [chance.randrange(low * 1024, high * 1024) / 1024 for _ in range(count)]
    return [chance.choice((low, high, chance.randint(low, high))) for _ in range(count)]


def packed(kind, values):
    if kind == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack("<%d%s" % (len(values), TYPES[kind][1]), *values)


def any_request(chance):
    request = service_pb2.ModelInferRequest(model_name="model%d" % chance.randrange(9), model_version=chance.choice(["", "1", "12"]),
                                            id=chance.choice(["", "some id", "\u00e9\u4e16"]))
    raw, expected = chance.random() < 0.5, []
    for i in range(chance.randrange(0, 5)):
        kind = chance.choice(list(TYPES))
        shape = [chance.randrange(0, 6) for _ in range(chance.randrange(0, 4))]
        count = 1
        for side in shape:
            count *= side
        values = values_of(chance, kind, count)
        tensor = request.inputs.add(name="in%d" % i, datatype=kind, shape=shape)
        if chance.random() < 0.2:
            tensor.parameters["shared_memory_region"].string_param = "region %d" % i
            tensor.parameters["shared_memory_byte_size"].int64_param = 100 + i
            tensor.parameters["shared_memory_offset"].int64_param = 3 * i
            expected.append(None)
            continue
        if raw:
            request.raw_input_contents.append(packed(kind, values))
        else:
            getattr(tensor.contents, TYPES[kind][0]).extend(values)
            tensor.contents.SetInParent()
        expected.append(packed(kind, values))
    for i in range(chance.randrange(0, 3)):
        output = request.outputs.add(name="out%d" % i)
        if chance.random() < 0.5:
            output.parameters["classification"].int64_param = 3
        if chance.random() < 0.3:
            output.parameters["shared_memory_region"].string_param = "there"
            output.parameters["shared_memory_byte_size"].int64_param = 64
    if chance.random() < 0.5:
        request.parameters["sequence_id"].int64_param = chance.randrange(1, 2**40)
        request.parameters["sequence_start"].bool_param = True
    elif chance.random() < 0.5:
        request.parameters["sequence_id"].string_param = "text"
        request.parameters["sequence_end"].bool_param = True
    if chance.random() < 0.5:
        request.parameters["priority"].uint64_param = 2
        request.parameters["timeout"].int64_param = 1000
        request.parameters["mine"].string_param = "x" * 90
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request, expected


def hold(request, expected, got):
    """What the reader found, against protobuf's own view of the request."""
    assert "error" not in got, got
    number = request.parameters["sequence_id"].int64_param if "sequence_id" in request.parameters else 0
    text = request.parameters["sequence_id"].string_param if "sequence_id" in request.parameters else ""
    assert (got["model"], got["version"], got["id"]) == (request.model_name, request.model_version, request.id)
    assert (got["sequence_id"], got["sequence_text"]) == (number, text)
    assert got["start"] == ("sequence_start" in request.parameters) and got["end"] == ("sequence_end" in request.parameters)
    assert got["final"] == ("triton_enable_empty_final_response" in request.parameters)
    assert got["priority"] == (2 if got["final"] else 0) and got["timeout"] == (1000 if got["final"] else 0)
    assert len(got["inputs"]) == len(request.inputs) and len(got["outputs"]) == len(request.outputs)
    response = service_pb2.ModelInferResponse.FromString(bytes.fromhex(got["response"]))
    assert (response.model_name, response.model_version, response.id) == (request.model_name, request.model_version, request.id)
    assert len(response.raw_output_contents) == len(response.outputs) == len(request.inputs)
    for i, tensor in enumerate(request.inputs):
        mine, back = got["inputs"][i], response.outputs[i]
        assert (mine["name"], mine["datatype"], mine["shape"]) == (tensor.name, tensor.datatype, list(tensor.shape))
        assert (back.name, back.datatype, list(back.shape)) == (tensor.name, tensor.datatype, list(tensor.shape))
        if expected[i] is None:
            assert mine["region"] == "region %d" % i and (mine["offset"], mine["bytes"]) == (3 * i, 100 + i)
            assert back.parameters["shared_memory_region"].string_param == "region %d" % i
            assert back.parameters["shared_memory_byte_size"].int64_param == 100 + i
            assert response.raw_output_contents[i] == b""
        else:
            assert bytes.fromhex(mine["data"]) == expected[i] == response.raw_output_contents[i]
    for i, output in enumerate(request.outputs):
        assert got["outputs"][i]["name"] == output.name
        assert got["outputs"][i]["classes"] == (3 if "classification" in output.parameters else 0)
        assert got["outputs"][i]["region"] == ("there" if "shared_memory_region" in output.parameters else "")


def test_random_requests_are_read_as_protobuf_wrote_them(tool):
    chance = random.Random(5)
    for i in range(5000 if FULL else 1000):
        request, expected = any_request(chance)
        message = request.SerializeToString()
        hold(request, expected, tool.read(message, chance.choice((1, 1, 2, 5, 40, min(4000, len(message) + 1)))))


def test_fields_in_another_order_and_unpacked_lists(tool):
    """What protobuf allows and its own writers do not do."""
    head = service_pb2.ModelInferRequest(model_name="m").SerializeToString()
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="a", datatype="INT64").SerializeToString()
    unpacked = b"\x18\x05" + b"\x18\x07"  # int64_contents 5, 7, one by one
    body = b"\x2a" + bytes([len(unpacked)]) + unpacked + tensor + b"\x18\x02"  # contents, name, datatype, shape 2 unpacked
    got = tool.read(b"\x2a" + bytes([len(body)]) + body + head, 7)
    assert got["model"] == "m" and got["inputs"][0]["shape"] == [2]
    assert bytes.fromhex(got["inputs"][0]["data"]) == struct.pack("<qq", 5, 7)


def refused(tool, change, words):
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="a", datatype="INT8", shape=[2])
    change(request)
    got = tool.read(request.SerializeToString(), 3)
    assert words in got.get("error", ""), got


def test_what_is_wrong_is_said(tool):
    def set_typed(request, *values):
        request.inputs[0].contents.int_contents.extend(values)

    def both(request):
        set_typed(request, 1, 2)
        request.raw_input_contents.append(b"12")

    def other_type(request):
        request.inputs[0].contents.fp32_contents.extend([1, 2])

    def half(request):
        request.inputs[0].datatype = "FP16"
        set_typed(request, 1, 2)

    def huge(request):
        del request.inputs[0].shape[:]
        request.inputs[0].shape.extend([2**40, 2**40])
        set_typed(request, 1)

    refused(tool, lambda r: None, "unable to find data for input tensor 'a' for model 'm' in request")
    refused(tool, both, "contents field must not be specified when using raw_input_contents for 'a'")
    refused(tool, lambda r: set_typed(r, 1, 2, 3), "more contents than its shape")
    refused(tool, lambda r: set_typed(r, 1), "1 elements of contents, its shape says 2")
    refused(tool, lambda r: set_typed(r, 1, 128), "element 1 of its contents does not fit the type INT8")
    refused(tool, other_type, "unexpected explicit tensor data for input tensor 'a'")
    refused(tool, half, "must come in raw_input_contents")
    refused(tool, huge, "more elements than can be counted")
    refused(tool, lambda r: r.raw_input_contents.extend([b"12", b"3"]), "2 raw_input_contents came with 1 inputs")
    refused(tool, lambda r: setattr(r.inputs[0], "datatype", "INT9"), "has the datatype 'INT9', which is none")
    refused(tool, lambda r: r.inputs[0].shape.extend([-1]), "negative")
    refused(tool, lambda r: r.inputs[0].shape.extend([1] * 9), "more than 8 dimensions")
    refused(tool, lambda r: setattr(r, "model_name", "m" * 200), "model_name has 200 bytes")
    refused(tool, lambda r: r.inputs.extend([r.inputs[0]] * 70), "at most 64 inputs")
    refused(tool, lambda r: setattr(r.parameters["priority"], "string_param", "1"), "parameter 'priority' must be")
    refused(tool, lambda r: setattr(r.parameters["triton_x"], "int64_param", 1), "reserved for Triton")


def test_mutated_requests(tool):
    """Broken ones are refused, or are still requests: then protobuf reads them the same way."""
    chance = random.Random(6)
    for _ in range(10000 if FULL else 1500):
        message = bytearray(any_request(chance)[0].SerializeToString())
        for _ in range(chance.randrange(1, 4)):
            if not message:
                break
            at = chance.randrange(len(message))
            what = chance.randrange(4)
            if what == 0:
                message[at] ^= 1 << chance.randrange(8)
            elif what == 1:
                del message[at:at + chance.randrange(1, 9)]
            elif what == 2:
                message[at:at] = chance.randbytes(chance.randrange(1, 9))
            else:
                del message[at:]
        got = tool.read(bytes(message), chance.randrange(1, 20))
        if "error" in got:
            continue
        try:
            same = service_pb2.ModelInferRequest.FromString(bytes(message))
        except Exception:  # invalid UTF-8 in a text: ours does not look there
            continue
        assert same.model_name == got["model"] and len(same.inputs) == len(got["inputs"])
