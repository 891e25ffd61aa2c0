# SPDX-License-Identifier: Apache-2.0
"""Server reflection, v1 and v1alpha: a client that knows nothing but protobuf asks what there is, builds its messages from what
it is told, and makes an inference with them. What it is told is what Triton's own client brings."""
import pathlib
import random

import kserve_house
import numpy as np
import pytest
from test_grpc_access import CONFIG

grpc = pytest.importorskip("grpc", reason="gRPC's Python client (tritonclient[all]) is not installed")
service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[all] is not installed")
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: E402
from tritonclient.grpc import model_config_pb2  # noqa: E402

BUILD = pathlib.Path(kserve_house.os.environ.get("SPILLWAY_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
SERVICES = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService"]
FILES = ["inference.proto", "grpc_service.proto", "grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto",
         "grpc/reflection/v1alpha/reflection.proto"]


def pool_of(files):
    pool = descriptor_pool.DescriptorPool()
    for data in files:
        pool.AddSerializedFile(data)
    return pool


def kind(pool, name):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


@pytest.fixture(scope="module")
def server():
    server = kserve_house.Server(CONFIG, grpc="inline")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def channel(server):
    channel = grpc.insecure_channel("127.0.0.1:%d" % server.grpc_port)
    yield channel
    channel.close()


class Asker:
    def __init__(self, channel, version):
        made = descriptor_pb2.FileDescriptorSet.FromString((BUILD / "src/kserve/descriptors.bin").read_bytes())
        package = "grpc.reflection." + version
        pool = pool_of(file.SerializeToString() for file in made.file)
        self.question, self.response = kind(pool, package + ".ServerReflectionRequest"), kind(pool, package + ".ServerReflectionResponse")
        self.channel, self.path = channel, "/" + package + ".ServerReflection/ServerReflectionInfo"

    def raw(self, messages, secret="infer"):
        metadata = [("authorization", "Bearer secret-" + secret)] if secret else []
        call = self.channel.stream_stream(self.path)(iter(messages), timeout=20, metadata=metadata)
        return [self.response.FromString(answer) for answer in call]

    def many(self, questions):
        answers = self.raw([question.SerializeToString() for question in questions])
        assert [answer.original_request for answer in answers] == questions
        return answers

    def one(self, **question):
        return self.many([self.question(host="here", **question)])[0]

    def files(self, **question):
        return list(self.one(**question).file_descriptor_response.file_descriptor_proto)


@pytest.fixture(scope="module", params=["v1", "v1alpha"])
def asker(request, channel):
    return Asker(channel, request.param)


def names(files):
    return [descriptor_pb2.FileDescriptorProto.FromString(data).name for data in files]


def test_services(asker):
    answer = asker.one(list_services="*")
    assert answer.valid_host == "here"
    assert [service.name for service in answer.list_services_response.service] == SERVICES


def test_files_and_symbols(asker):
    for name in FILES:
        assert names(asker.files(file_by_filename=name)) == ([name, "inference.proto"] if name == "grpc_service.proto" else [name])
    for symbol, name in (("inference.GRPCInferenceService", FILES[1]), ("inference.GRPCInferenceService.ModelInfer", FILES[1]),
                         ("inference.ModelInferRequest.InferInputTensor.ParametersEntry", FILES[1]), ("inference.DataType", FILES[0]),
                         ("inference.ModelInstanceGroup.Kind", FILES[0]), ("grpc.health.v1.Health", FILES[2]),
                         ("grpc.reflection.v1.ServerReflection", FILES[3]), ("grpc.reflection.v1alpha.ErrorResponse", FILES[4])):
        assert names(asker.files(file_containing_symbol=symbol))[0] == name


def test_what_is_not_there(asker):
    extension = {"containing_type": "inference.ModelConfig", "extension_number": 100}
    for question in ({"file_by_filename": "no.proto"}, {"file_by_filename": ""}, {"file_containing_symbol": "inference"},
                     {"file_containing_symbol": "inference.ModelConfi"}, {"file_containing_symbol": "zzz"}, {"file_containing_symbol": ""},
                     {"file_containing_extension": extension}, {"all_extension_numbers_of_type": "inference.No"},
                     {"all_extension_numbers_of_type": "inference.GRPCInferenceService"}):
        error = asker.one(**question).error_response
        assert error.error_code == grpc.StatusCode.NOT_FOUND.value[0] and error.error_message.startswith("there is no such ")
    assert asker.one().error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    none = asker.one(all_extension_numbers_of_type="inference.ModelConfig").all_extension_numbers_response
    assert none.base_type_name == "inference.ModelConfig" and not none.extension_number


def test_many_questions_of_a_stream(asker):
    questions = [asker.question(file_containing_symbol=SERVICES[i % 4]) if i % 3 else asker.question(list_services="") for i in range(90)]
    answers = asker.many(questions)
    for question, answer in zip(questions, answers):
        assert answer.WhichOneof("message_response") == (
            "list_services_response" if question.HasField("list_services") else "file_descriptor_response")
    assert asker.raw([]) == []


def test_damaged_questions(asker):
    chance, whole = random.Random(5), asker.question(host="h", file_containing_symbol=SERVICES[3]).SerializeToString()
    refused = 0
    for _ in range(150):
        message = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            message[chance.randrange(len(message))] = chance.randrange(128)
        try:
            assert len(asker.raw([bytes(message)])) == 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            refused += 1
    assert refused
    with pytest.raises(grpc.RpcError) as error:
        asker.raw([bytes(2 << 20)])
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_who_may_ask(asker):
    question = [asker.question(list_services="").SerializeToString()]
    for secret in ("infer", "admin", "metrics"):
        assert len(asker.raw(question, secret)) == 1
    for secret in (None, "old", "nobody"):
        with pytest.raises(grpc.RpcError) as refused:
            asker.raw(question, secret)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as refused:  # each question counts for the token's rate
        asker.raw(question * 10, "slow")
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def fields_of(message):
    return {(f.name, f.number, f.type, f.is_repeated, (f.message_type or f.enum_type).full_name if f.message_type or f.enum_type else "",
             f.containing_oneof.name if f.containing_oneof else None) for f in message.fields}


def alike(mine, theirs):
    assert fields_of(mine) == fields_of(theirs), mine.full_name
    assert mine.GetOptions().map_entry == theirs.GetOptions().map_entry, mine.full_name
    assert set(mine.nested_types_by_name) == set(theirs.nested_types_by_name)
    for name, inner in mine.nested_types_by_name.items():
        alike(inner, theirs.nested_types_by_name[name])


def test_what_is_told_is_what_the_stock_client_knows(asker):
    pool = pool_of(reversed(asker.files(file_containing_symbol=SERVICES[3])))
    service, theirs = pool.FindServiceByName(SERVICES[3]), service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {(m.name, m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming) for m in service.methods} == {
        (m.name, m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming) for m in theirs.methods}
    for module in (service_pb2, model_config_pb2):
        for message in module.DESCRIPTOR.message_types_by_name.values():
            alike(pool.FindMessageTypeByName(message.full_name), message)


def test_an_inference_by_a_client_that_knew_nothing(asker, channel):
    service = asker.one(list_services="").list_services_response.service[-1].name
    pool = pool_of(reversed(asker.files(file_containing_symbol=service)))
    method = pool.FindServiceByName(service).FindMethodByName("ModelInfer")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = message_factory.GetMessageClass(method.input_type)(model_name="identity_FP32", id="7", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=array.shape)
    request.parameters["priority"].uint64_param = 1
    answer = channel.unary_unary("/%s/%s" % (service, method.name), request_serializer=type(request).SerializeToString,
                                 response_deserializer=message_factory.GetMessageClass(method.output_type).FromString)(
        request, timeout=20, metadata=[("authorization", "Bearer secret-infer")])
    assert answer.id == "7" and answer.raw_output_contents[0] == array.tobytes() and list(answer.outputs[0].shape) == [2, 3]
