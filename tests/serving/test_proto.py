# SPDX-License-Identifier: Apache-2.0
"""src/kserve/inference.proto against the descriptors that Triton's own client brings: every message, field, number, type and
enumeration value of ours must be theirs, and every one of theirs must be ours, but for the messages that kserve/wire.c knows."""
import pathlib
import re

import pytest

service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[all] is not installed")
from tritonclient.grpc import model_config_pb2  # noqa: E402

PROTO = pathlib.Path(__file__).resolve().parents[2] / "src/kserve/inference.proto"
BY_HAND = {"ModelInferRequest", "ModelInferResponse", "ModelStreamInferResponse", "InferTensorContents", "InferParameter"}
SCALARS = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}


def ours():
    """{"Message.Inner": {(label, type, name, number, oneof)}} and {"Enum": {(name, number)}}."""
    messages, enums, path, oneof = {}, {}, [], None
    text = re.sub(r"//[^\n]*", "", PROTO.read_text())
    for token in re.finditer(r"message (\w+) \{|enum (\w+) \{([^}]*)\}|oneof (\w+) \{|(repeated )?(\w+) (\w+) = (\d+);|\}", text):
        message, enum, values, choice, repeated, kind, name, number = token.groups()
        if message:
            path.append(message)
            messages[".".join(path)] = set()
        elif enum:
            enums[".".join([*path, enum])] = {(n, int(v)) for n, v in re.findall(r"(\w+) = (\d+);", values)}
        elif choice:
            oneof = choice
        elif name:
            messages[".".join(path)].add((bool(repeated), kind, name, int(number), oneof))
        elif oneof:
            oneof = None
        else:
            path.pop()
    assert not path
    return messages, enums


def theirs():
    messages, enums = {}, {}

    def walk(message, path):
        path = [*path, message.name]
        messages[".".join(path)] = {
            (field.is_repeated, SCALARS.get(field.type) or (field.message_type or field.enum_type).name, field.name, field.number,
             field.containing_oneof.name if field.containing_oneof else None) for field in message.fields}
        for enum in message.enum_types:
            enums[".".join([*path, enum.name])] = {(value.name, value.number) for value in enum.values}
        for inner in message.nested_types:
            walk(inner, path)

    for module in (service_pb2, model_config_pb2):
        for message in module.DESCRIPTOR.message_types_by_name.values():
            if message.name not in BY_HAND:
                walk(message, [])
        for enum in module.DESCRIPTOR.enum_types_by_name.values():
            enums[enum.name] = {(value.name, value.number) for value in enum.values}
    return messages, enums


def test_messages_fields_and_enumerations_are_the_clients_own():
    mine, my_enums = ours()
    known, known_enums = theirs()
    assert my_enums == known_enums
    assert sorted(mine) == sorted(known)
    for name, fields in known.items():
        assert mine[name] == fields, name
