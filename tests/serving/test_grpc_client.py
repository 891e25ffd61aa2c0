# SPDX-License-Identifier: Apache-2.0
"""The stock tritonclient.grpc, sync, aio and streaming, through every call that it offers, against the gateway over a house
that echoes: what is asked comes back, so each answer is known."""
import asyncio
import queue
import random
import threading

import kserve_house
import numpy as np
import pytest
from test_http_client import TYPES, values

grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient[all] is not installed")
import grpc as channel_api  # noqa: E402
from tritonclient.grpc import aio, service_pb2  # noqa: E402
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

FULL = kserve_house.os.environ.get("SPILLWAY_FULL") == "1"
SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture(scope="module", params=["inline", "threaded"])
def server(request):
    server = kserve_house.Server("cache: {memory: 16MiB}\n", grpc=request.param)
    server.url = "127.0.0.1:%d" % server.grpc_port
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server):
    client = grpc.InferenceServerClient(server.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def raw(server):
    channel = channel_api.insecure_channel(server.url, options=[("grpc.max_receive_message_length", -1)])
    yield lambda method, message, **more: channel.unary_unary(SERVICE + method)(message, timeout=20, **more)
    channel.close()


def tensor(name, array):
    item = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    item.set_data_from_numpy(array)
    return item


def ask(client, array, model=None, **more):
    return client.infer(model or "identity_" + np_to_triton_dtype(array.dtype), [tensor("INPUT0", array)], **more)


def same(result, array):
    got = result.as_numpy("OUTPUT0")
    assert got.shape == array.shape and (got == array).all()


def fails(status, words, call, *args, **more):
    with pytest.raises(InferenceServerException, match=words) as failure:
        call(*args, **more)
    assert failure.value.status() == "StatusCode." + status


# --- what there is ---------------------------------------------------------------------------------------------------------

def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("simple") and client.is_model_ready("simple", "1")
    assert not client.is_model_ready("simple", "2") and not client.is_model_ready("none")


def test_metadata_and_config(client):
    meta = client.get_server_metadata(as_json=True)
    assert meta["name"] == "spillway" and "system_shared_memory" in meta["extensions"]
    assert "cuda_shared_memory" not in meta["extensions"]
    meta = client.get_model_metadata("simple")
    assert list(meta.versions) == ["1"] and meta.platform == "identity"
    assert (meta.inputs[1].name, meta.inputs[1].datatype, list(meta.inputs[1].shape)) == ("INPUT1", "INT32", [-1, 16])
    config = client.get_model_config("simple", "1").config
    assert (config.name, config.max_batch_size, config.backend, len(config.output)) == ("simple", 8, "identity", 2)
    assert (config.input[0].name, config.input[0].data_type, list(config.input[0].dims)) == ("INPUT0", 8, [16])
    fails("NOT_FOUND", "unknown model: 'none' is not found", client.get_model_config, "none")
    fails("NOT_FOUND", "'simple' version 7 is not found", client.get_model_metadata, "simple", "7")


def test_repository(client, raw):
    index = {(m.name, m.version): m for m in client.get_model_repository_index().models}
    assert index["simple", "1"].state == "READY" and index["broken", "1"].reason == "it is broken"
    ready = service_pb2.RepositoryIndexResponse.FromString(
        raw("RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True).SerializeToString()))
    assert len(ready.models) > 5 and all(m.state == "READY" for m in ready.models)
    client.unload_model("optional")
    assert not client.is_model_ready("optional")
    fails("UNAVAILABLE", "no available versions", ask, client, values(np.float32, (1, 2)), "optional")
    client.load_model("optional", config='{"max_batch_size": 8}')
    client.unload_model("optional", unload_dependents=True)
    client.load_model("optional")
    assert client.is_model_ready("optional")
    fails("INVALID_ARGUMENT", "failed to load", client.load_model, "broken")
    fails("INVALID_ARGUMENT", "failed to load", client.load_model, "optional", config="no json")
    fails("UNIMPLEMENTED", "files is not supported", client.load_model, "optional", config="{}", files={"file:1/model.onnx": b"x"})


def test_statistics(client):
    before = client.get_inference_statistics("identity_INT16").model_stats[0]
    for _ in range(3):
        ask(client, values(np.int16, (2, 4)))
    after = client.get_inference_statistics("identity_INT16", "1").model_stats[0]
    assert after.inference_count == before.inference_count + 6 and after.version == "1"
    assert after.inference_stats.success.count == before.inference_stats.success.count + 3
    assert len(client.get_inference_statistics().model_stats) > 10


def test_settings(client):
    before = client.get_trace_settings(as_json=True)
    after = client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "7"})
    assert list(after.settings["trace_level"].value) == ["TIMESTAMPS"] and list(after.settings["trace_rate"].value) == ["7"]
    mine = client.update_trace_settings("simple", {"trace_rate": "9"})
    assert list(mine.settings["trace_rate"].value) == ["9"]
    assert list(client.update_trace_settings("simple", {"trace_rate": None}).settings["trace_rate"].value) == ["7"]
    assert client.update_trace_settings(settings={"trace_level": None, "trace_rate": None}, as_json=True) == before
    fails("INVALID_ARGUMENT", "Unable to parse 'trace_rate'", client.update_trace_settings, settings={"trace_rate": "many"})
    logs = client.get_log_settings()
    assert logs.settings["log_info"].bool_param and logs.settings["log_verbose_level"].uint32_param == 0
    assert not client.update_log_settings({"log_info": False}).settings["log_info"].bool_param
    assert client.update_log_settings({"log_info": True}).settings["log_info"].bool_param


def test_health_service_and_unknown_methods(server):
    with channel_api.insecure_channel(server.url) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=20) == b"\x08\x01"
        name = b"inference.GRPCInferenceService"
        assert check(b"\x0a" + bytes([len(name)]) + name, timeout=20) == b"\x08\x01"
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        assert next(watch) == b"\x08\x01"
        watch.cancel()
        for path, code in (("/grpc.health.v1.Health/Check", "NOT_FOUND"), ("/a.b/C", "UNIMPLEMENTED"), (SERVICE + "No", "UNIMPLEMENTED"),
                           ("/" + "x" * 500, "UNIMPLEMENTED")):
            with pytest.raises(channel_api.RpcError) as failure:
                channel.unary_unary(path)(b"\x0a\x01x", timeout=20)
            assert failure.value.code().name == code


# --- one inference ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.__name__)
def test_every_type(client, dtype):
    for shape in ((1, 5), (8, 3), (3, 0)):
        array = values(dtype, shape)
        same(ask(client, array), array)


def test_typed_contents(raw):
    """What clients without numpy send: int_contents and friends."""
    for kind, field, numbers, packed in (("INT32", "int_contents", [1, -2], np.int32), ("INT8", "int_contents", [1, -2], np.int8),
                                         ("UINT64", "uint64_contents", [1, 2**63], np.uint64), ("FP32", "fp32_contents", [.5, -2], np.float32),
                                         ("BOOL", "bool_contents", [True, False], np.bool_), ("FP64", "fp64_contents", [.1, 2], np.float64)):
        request = service_pb2.ModelInferRequest(model_name="identity_" + kind, id="x")
        getattr(request.inputs.add(name="INPUT0", datatype=kind, shape=[1, 2]).contents, field).extend(numbers)
        answer = service_pb2.ModelInferResponse.FromString(raw("ModelInfer", request.SerializeToString()))
        assert answer.id == "x" and answer.raw_output_contents[0] == np.array(numbers, packed).tobytes()
    request = service_pb2.ModelInferRequest(model_name="identity_BYTES")
    request.inputs.add(name="INPUT0", datatype="BYTES", shape=[1, 2]).contents.bytes_contents.extend([b"", b"abc"])
    answer = service_pb2.ModelInferResponse.FromString(raw("ModelInfer", request.SerializeToString()))
    assert answer.raw_output_contents[0] == b"\0\0\0\0\3\0\0\0abc"


def test_several_ports_ids_and_parameters(client):
    a, b = values(np.int32, (2, 16)), values(np.int32, (2, 16), 2)
    result = client.infer("simple", [tensor("INPUT1", b), tensor("INPUT0", a)], request_id="my id",
                          outputs=[grpc.InferRequestedOutput("OUTPUT1"), grpc.InferRequestedOutput("OUTPUT0")],
                          priority=1, timeout=5000000, headers={"x-request-id": "abc"}, parameters={"mine": "x"})
    assert (result.as_numpy("OUTPUT0") == a).all() and (result.as_numpy("OUTPUT1") == b).all()
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("my id", "simple", "1")
    assert [output.name for output in response.outputs] == ["OUTPUT1", "OUTPUT0"]
    with pytest.raises(InferenceServerException):
        client.infer("simple", [tensor("INPUT0", a)])


def test_async_and_deadlines(client):
    array, results = values(np.float32, (1, 9)), queue.Queue()
    calls = [client.async_infer("identity_FP32", [tensor("INPUT0", array)], lambda result, error: results.put((result, error)))
             for _ in range(20)]
    for _ in calls:
        result, error = results.get(timeout=20)
        assert error is None
        same(result, array)
    ask(client, array, client_timeout=10)
    slow = np.frombuffer(b"SLEEP=3000", np.uint8).reshape(1, 10)  # the fake house's word for it
    with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
        ask(client, slow, client_timeout=0.2)
    call = client.async_infer("identity_UINT8", [tensor("INPUT0", slow)], lambda result, error: results.put((result, error)))
    call.cancel()
    assert results.get(timeout=20)[1] is not None
    same(ask(client, array), array)


def test_large_tensors_and_the_limit(client, raw):
    array = values(np.float32, (1, 1 << 20))
    same(ask(client, array), array)
    with pytest.raises(channel_api.RpcError) as failure:
        raw("ModelInfer", bytes(70 << 20))
    assert failure.value.code() == channel_api.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(channel_api.RpcError) as failure:
        raw("ModelReady", b"\x0a\x80\x80\x80\x01" + b"x" * (2 << 20))
    assert failure.value.code() == channel_api.StatusCode.INVALID_ARGUMENT


def test_what_is_wrong_is_said(client):
    array = values(np.float32, (1, 2))
    fails("NOT_FOUND", "unknown model", ask, client, array, "none")
    fails("INVALID_ARGUMENT", "unexpected inference input 'X'", client.infer, "identity_FP32", [tensor("X", array)])
    fails("INVALID_ARGUMENT", "unexpected shape", ask, client, values(np.float32, (1, 2, 3)))
    fails("INVALID_ARGUMENT", "batch-size must be <= 8", ask, client, values(np.float32, (9, 2)))
    fails("INVALID_ARGUMENT", "sequence", ask, client, values(np.int32, (1, 1)), "sequence")


def test_mutated_messages(raw):
    """Each is answered: with a right result or with an error that is not ours."""
    chance = random.Random(3)
    request = service_pb2.ModelInferRequest(model_name="identity_FP32", id="x")
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 4])
    request.outputs.add(name="OUTPUT0")
    request.raw_input_contents.append(bytes(16))
    request.parameters["sequence_id"].int64_param = 0
    whole, methods = request.SerializeToString(), ["ModelInfer"] * 6 + ["ModelConfig", "ModelMetadata", "TraceSetting", "LogSettings",
                                                                       "RepositoryIndex", "ModelStatistics", "SystemSharedMemoryRegister"]
    good = 0
    for _ in range(5000 if FULL else 300):
        message = bytearray(whole)
        for _ in range(chance.randrange(0, 4)):
            at = chance.randrange(len(message))
            if chance.random() < 0.5:
                message[at] = chance.randrange(256)
            else:
                message[at:at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
        try:
            raw(chance.choice(methods), bytes(message))
            good += 1
        except channel_api.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "ABORTED"), (error, message.hex())
    assert good


# --- streams ---------------------------------------------------------------------------------------------------------------

class Stream:
    def __init__(self, client, **more):
        self.client, self.answers = client, queue.Queue()
        client.start_stream(lambda result, error: self.answers.put((result, error)), **more)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_stream()

    def ask(self, array, request_id, model="identity_FP32", **more):
        self.client.async_stream_infer(model, [tensor("INPUT0", array)], request_id=request_id, **more)

    def answer(self):
        return self.answers.get(timeout=20)


def test_a_stream_answers_everything(server):
    client = grpc.InferenceServerClient(server.url)
    arrays = {str(i): values(np.float32, (1, 1 + i % 50), i) for i in range(300)}
    with Stream(client) as stream:
        for request_id, array in arrays.items():
            stream.ask(array, request_id, enable_empty_final_response=True)
        for _ in range(len(arrays)):
            result, error = stream.answer()
            assert error is None
            response = result.get_response()
            assert response.parameters["triton_final_response"].bool_param
            same(result, arrays.pop(response.id))
    assert not arrays
    client.close()


def test_errors_of_a_stream_stay_in_it(server):
    client = grpc.InferenceServerClient(server.url)
    array = values(np.float32, (1, 3))
    with Stream(client) as stream:
        stream.ask(array, "bad", model="none")
        result, error = stream.answer()
        assert result is None and "unknown model: 'none'" in error.message()
        stream.ask(array, "good")
        result, error = stream.answer()
        assert error is None
        same(result, array)
        big = values(np.float32, (1, 400000))  # answers wait for each other
        for i in range(10):
            stream.ask(big, str(i))
        for i in range(10):
            same(stream.answer()[0], big)
    with Stream(client) as stream:  # half-closed while they are in the house: answered first
        for i in range(20):
            stream.ask(array, str(i))
    answered = [stream.answers.get_nowait() for _ in range(stream.answers.qsize())]
    assert len(answered) == 20 and all(error is None for _, error in answered)
    client.close()


def test_sequences_over_a_stream(server):
    client = grpc.InferenceServerClient(server.url)
    one = np.array([[5]], dtype=np.int32)
    with Stream(client) as stream:
        for sequence in (7, 8, "word"):
            for i in range(3):
                stream.ask(one, f"{sequence}-{i}", model="sequence", sequence_id=sequence, sequence_start=i == 0, sequence_end=i == 2)
        seen = [stream.answer() for _ in range(9)]
    assert all(error is None for _, error in seen)
    for sequence in (7, 8, "word"):
        mine = [r.get_response().id for r, _ in seen if r.get_response().id.startswith(f"{sequence}-")]
        assert mine == [f"{sequence}-{i}" for i in range(3)]
    client.close()


def test_a_stream_that_is_cancelled(server):
    client = grpc.InferenceServerClient(server.url)
    client.start_stream(lambda result, error: None, stream_timeout=20)
    slow = np.frombuffer(b"SLEEP=3000", np.uint8).reshape(1, 10)
    for _ in range(5):
        client.async_stream_infer("identity_UINT8", [tensor("INPUT0", slow)])
    client.stop_stream(cancel_requests=True)
    client.close()


# --- aio -------------------------------------------------------------------------------------------------------------------

def test_aio(server):
    async def run():
        async with aio.InferenceServerClient(server.url) as client:
            assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("simple")
            assert (await client.get_server_metadata()).name == "spillway"
            assert (await client.get_model_metadata("simple")).name == "simple"
            assert (await client.get_model_config("simple")).config.max_batch_size == 8
            assert len((await client.get_model_repository_index()).models) > 10
            await client.unload_model("no_batch")
            await client.load_model("no_batch")
            assert (await client.get_inference_statistics("simple")).model_stats[0].name == "simple"
            assert (await client.get_trace_settings()).settings and (await client.get_log_settings()).settings
            assert not (await client.get_system_shared_memory_status()).regions
            array = values(np.float32, (2, 7))
            results = await asyncio.gather(*(client.infer("identity_FP32", [tensor("INPUT0", array)]) for _ in range(40)))
            for result in results:
                same(result, array)

            async def requests():
                for i in range(20):
                    yield {"model_name": "identity_FP32", "inputs": [tensor("INPUT0", array)], "request_id": str(i)}

            seen = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                same(result, array)
                seen.append(result.get_response().id)
            assert sorted(seen, key=int) == [str(i) for i in range(20)]

    asyncio.run(asyncio.wait_for(run(), 60))


# --- compressed messages -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(server, client, algorithm):
    """Small ones are unpacked where they arrive, larger ones over turns of the loop; raw and typed contents, every method."""
    for array in (values(np.float32, (1, 4)), values(np.int64, (3, 20_000)), np.zeros((1, 800_000), np.float32),
                  np.array([[b"words " * 40, b""]], dtype=np.object_)):
        same(ask(client, array, compression_algorithm=algorithm), array)
    waiting = queue.Queue()
    array = values(np.float32, (2, 30_000))
    for _ in range(8):
        client.async_infer("identity_FP32", [tensor("INPUT0", array)], lambda result, error: waiting.put((result, error)),
                           compression_algorithm=algorithm)
    for _ in range(8):
        result, error = waiting.get(timeout=20)
        assert error is None
        same(result, array)
    fails("NOT_FOUND", "unknown model", ask, client, array, "none", compression_algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_streams(server, algorithm):
    client = grpc.InferenceServerClient(server.url)
    arrays = [np.full((1, 8 if i % 5 else 60_000), i, np.float32) for i in range(30)]
    with Stream(client, compression_algorithm=algorithm) as stream:
        for i, array in enumerate(arrays):
            stream.ask(array, str(i))
        for _ in arrays:
            result, error = stream.answer()
            assert error is None
            same(result, arrays[int(result.get_response().id)])
    client.close()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_aio(server, algorithm):
    async def run():
        async with aio.InferenceServerClient(server.url) as client:
            arrays = [np.full((1, 8 if i % 3 else 60_000), i, np.float32) for i in range(12)]
            results = await asyncio.gather(*(client.infer("identity_FP32", [tensor("INPUT0", a)], compression_algorithm=algorithm)
                                             for a in arrays))
            for result, array in zip(results, arrays):
                same(result, array)

            async def requests():
                for i, array in enumerate(arrays):
                    yield {"model_name": "identity_FP32", "inputs": [tensor("INPUT0", array)], "request_id": str(i)}

            seen = 0
            async for result, error in client.stream_infer(requests(), compression_algorithm=algorithm):
                assert error is None
                same(result, arrays[int(result.get_response().id)])
                seen += 1
            assert seen == len(arrays)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_compressed_control_messages_and_bombs(client, raw):
    request = service_pb2.ModelMetadataRequest(name="simple").SerializeToString()
    assert service_pb2.ModelMetadataResponse.FromString(raw("ModelMetadata", request, compression=channel_api.Compression.Gzip)).name == "simple"
    with pytest.raises(channel_api.RpcError) as refused:
        raw("ModelInfer", bytes((64 << 20) + 1), compression=channel_api.Compression.Gzip)
    assert refused.value.code() == channel_api.StatusCode.RESOURCE_EXHAUSTED
    assert "unpacks to more than the limit of 67108864 bytes" in refused.value.details()
    same(ask(client, values(np.float32, (1, 4))), values(np.float32, (1, 4)))


# --- shared memory -----------------------------------------------------------------------------------------------------------

def test_system_shared_memory(client):
    shm = pytest.importorskip("tritonclient.utils.shared_memory")
    array = values(np.float32, (2, 8))
    handle = shm.create_shared_memory_region("grpc_test", "/spillway_grpc_test_%d" % kserve_house.os.getpid(), 2 * array.nbytes)
    try:
        shm.set_shared_memory_region(handle, [array])
        client.register_system_shared_memory("grpc_test", "/spillway_grpc_test_%d" % kserve_house.os.getpid(), 2 * array.nbytes)
        status = client.get_system_shared_memory_status("grpc_test").regions["grpc_test"]
        assert (status.byte_size, status.offset) == (2 * array.nbytes, 0)
        item, out = grpc.InferInput("INPUT0", [2, 8], "FP32"), grpc.InferRequestedOutput("OUTPUT0")
        item.set_shared_memory("grpc_test", array.nbytes)
        out.set_shared_memory("grpc_test", array.nbytes, offset=array.nbytes)
        result = client.infer("identity_FP32", [item], outputs=[out])
        output = result.get_output("OUTPUT0")
        assert output.parameters["shared_memory_region"].string_param == "grpc_test"
        assert output.parameters["shared_memory_byte_size"].int64_param == array.nbytes
        assert (shm.get_contents_as_numpy(handle, np.float32, [2, 8], offset=array.nbytes) == array).all()
        same(client.infer("identity_FP32", [item]), array)
        fails("ABORTED", "already in manager", client.register_system_shared_memory, "grpc_test", "/none", 8)
        client.unregister_system_shared_memory("grpc_test")
        client.unregister_system_shared_memory()
        with pytest.raises(InferenceServerException):
            client.infer("identity_FP32", [item])
    finally:
        shm.destroy_shared_memory_region(handle)


def test_cuda_shared_memory_is_not_here(client):
    fails("UNIMPLEMENTED", "not supported", client.get_cuda_shared_memory_status)
    fails("UNIMPLEMENTED", "not supported", client.register_cuda_shared_memory, "x", b"aGFuZGxl", 0, 8)
    fails("UNIMPLEMENTED", "not supported", client.unregister_cuda_shared_memory, "x")


# --- load ---------------------------------------------------------------------------------------------------------------------

def test_many_clients_at_once(server):
    failures = []

    def run(seed):
        try:
            with grpc.InferenceServerClient(server.url, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
                for i in range(20):
                    array = values(np.float32, (1, 1 + (seed * 7 + i) % 3000), seed)
                    same(ask(client, array), array)
        except Exception as error:  # told by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
