# SPDX-License-Identifier: Apache-2.0
"""The stock tritonclient.http, sync and aio, through every call that it offers, against the gateway over a house that echoes:
what is asked comes back, so each answer is known."""
import asyncio
import re
import shutil
import socket
import subprocess
import time

import kserve_house
import numpy as np
import pytest
import requests

http = pytest.importorskip("tritonclient.http")
from tritonclient.http import aio  # noqa: E402
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

TYPES = [np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32,
         np.float64, np.object_]


@pytest.fixture(scope="module")
def server():
    server = kserve_house.Server("cache: {memory: 16MiB}\n")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server):
    client = http.InferenceServerClient(server.address, concurrency=4)
    yield client
    client.close()


def values(dtype, shape, seed=1):
    random = np.random.default_rng(seed)
    if dtype == np.object_:
        words = [b"", b"a", "\N{GREEK SMALL LETTER ALPHA}\"\\\n".encode(), b"word " * 20]
        return np.array([words[i % 4] for i in range(int(np.prod(shape)))], dtype=np.object_).reshape(shape)
    if dtype == np.bool_:
        return random.random(shape) < 0.5
    if np.issubdtype(dtype, np.floating):
        return (random.standard_normal(shape) * 100).astype(dtype)
    info = np.iinfo(dtype)
    flat = random.integers(info.min, info.max, size=shape, dtype=dtype, endpoint=True)
    flat.flat[:2] = [info.min, info.max]
    return flat


def tensor(name, array, binary=True):
    item = http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    item.set_data_from_numpy(array, binary_data=binary)
    return item


def ask(client, array, binary=True, out_binary=True, model=None, **more):
    model = model or "identity_" + np_to_triton_dtype(array.dtype)
    outputs = None if out_binary is None else [http.InferRequestedOutput("OUTPUT0", binary_data=out_binary)]
    return client.infer(model, [tensor("INPUT0", array, binary)], outputs=outputs, **more)


def same(result, array):
    got = result.as_numpy("OUTPUT0")
    if array.dtype == np.object_:  # JSON has texts, the binary form bytes
        got = np.array([x if isinstance(x, bytes) else x.encode() for x in got.flat], dtype=np.object_).reshape(got.shape)
    assert got.shape == array.shape and (got == array).all()


# --- what there is --------------------------------------------------------------------------------------------------------

def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("simple") and client.is_model_ready("simple", "1")
    assert not client.is_model_ready("simple", "2") and not client.is_model_ready("none")


def test_server_metadata(client):
    meta = client.get_server_metadata()
    assert meta["name"] == "spillway" and meta["version"]
    assert "binary_tensor_data" in meta["extensions"] and "system_shared_memory" in meta["extensions"]
    assert "cuda_shared_memory" not in meta["extensions"]


def test_model_metadata_and_config(client):
    meta = client.get_model_metadata("simple")
    assert meta["versions"] == ["1"] and meta["platform"] == "identity"
    assert meta["inputs"][1] == {"name": "INPUT1", "datatype": "INT32", "shape": [-1, 16]}
    assert client.get_model_metadata("no_batch", "1")["outputs"] == [{"name": "OUTPUT0", "datatype": "FP32", "shape": [-1, 3]}]
    config = client.get_model_config("simple")
    assert config["name"] == "simple" and config["max_batch_size"] == 8 and config["input"][0]["data_type"] == "TYPE_INT32"
    with pytest.raises(InferenceServerException, match="unknown model: 'none' is not found") as failure:
        client.get_model_config("none")
    assert failure.value.status() == "404"


def test_repository(client):
    index = {(m["name"], m["version"]): m for m in client.get_model_repository_index()}
    assert index["simple", "1"]["state"] == "READY" and index["broken", "1"] == {
        "name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "it is broken"}
    client.unload_model("optional")
    assert not client.is_model_ready("optional")
    with pytest.raises(InferenceServerException) as failure:
        ask(client, values(np.float32, (1, 2)), model="optional")
    assert failure.value.status() == "503"
    client.load_model("optional", config='{"max_batch_size": 8}')
    client.unload_model("optional", unload_dependents=True)
    client.load_model("optional")
    assert client.is_model_ready("optional")
    for call in (lambda: client.load_model("broken"), lambda: client.load_model("optional", config="no json")):
        with pytest.raises(InferenceServerException, match="failed to load") as failure:
            call()
        assert failure.value.status() == "400"
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("none")
    for size in (10, 100000):
        with pytest.raises(InferenceServerException, match="files is not supported") as failure:
            client.load_model("optional", config="{}", files={"file:1/model.onnx": b"x" * size})
        assert failure.value.status() == "501"


def test_index_ready_only(server):
    url = f"http://{server.address}/v2/repository/index"
    assert all(m["state"] == "READY" for m in requests.post(url, json={"ready": True}, timeout=10).json())
    assert requests.post(url, json={"ready": 1}, timeout=10).json() == {"error": "Invalid value for 'ready': expected a boolean"}
    named = requests.post(f"http://{server.address}/v2/repository/r/index", timeout=10)
    assert (named.status_code, named.json()) == (501, {"error": "'repository_name' specification is not supported"})


def test_trace_settings(client):
    before = client.get_trace_settings()
    assert before["trace_level"] == ["OFF"] and before["trace_rate"] == "1000" and before["trace_count"] == "-1"
    after = client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "7", "log_frequency": "3"})
    assert (after["trace_level"], after["trace_rate"], after["log_frequency"]) == (["TIMESTAMPS", "TENSORS"], "7", "3")
    mine = client.update_trace_settings("simple", {"trace_rate": "9", "trace_count": "5"})
    assert (mine["trace_rate"], mine["trace_count"], mine["trace_level"]) == ("9", "5", ["TIMESTAMPS", "TENSORS"])
    assert client.get_trace_settings("simple")["trace_rate"] == "9" and client.get_trace_settings()["trace_rate"] == "7"
    assert client.update_trace_settings("simple", {"trace_rate": None})["trace_rate"] == "7"
    assert client.update_trace_settings(settings={"trace_level": None, "trace_rate": None, "log_frequency": None}) == before
    for settings, words in (({"trace_file": "/tmp/x"}, "can not be updated"), ({"trace_rate": "many"}, "Unable to parse 'trace_rate'"),
                            ({"trace_level": ["OFF", "TENSORS"]}, "only one trace level"), ({"trace_count": "-2"}, "out of range")):
        with pytest.raises(InferenceServerException, match=words):
            client.update_trace_settings(settings=settings)
    with pytest.raises(InferenceServerException, match="unknown model"):
        client.update_trace_settings("none", {"trace_rate": "1"})


def test_log_settings(client):
    assert client.get_log_settings() == {"log_file": "", "log_info": True, "log_warning": True, "log_error": True,
                                         "log_verbose_level": 0, "log_format": "default"}
    changed = client.update_log_settings({"log_info": False, "log_verbose_level": 1, "log_format": "ISO8601"})
    assert (changed["log_info"], changed["log_verbose_level"], changed["log_format"]) == (False, 1, "ISO8601")
    client.update_log_settings({"log_info": True, "log_verbose_level": 0, "log_format": "default"})
    for settings, words in (({"log_file": "x"}, "can not be updated"), ({"log_format": "odd"}, "invalid argument for --log_format"),
                            ({"log_info": 3}, "must be true or false")):
        with pytest.raises(InferenceServerException, match=words):
            client.update_log_settings(settings)


def test_cuda_shared_memory_and_generate_are_told_to_be_missing(client, server):
    for call in (client.get_cuda_shared_memory_status, client.unregister_cuda_shared_memory,
                 lambda: client.unregister_cuda_shared_memory("x"), lambda: client.get_cuda_shared_memory_status("x"),
                 lambda: client.register_cuda_shared_memory("x", b"aGFuZGxl", 0, 64)):
        with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported") as failure:
            call()
        assert failure.value.status() == "501"
    for what in ("generate", "generate_stream"):
        assert requests.post(f"http://{server.address}/v2/models/simple/{what}", json={}, timeout=10).status_code == 501


# --- inference ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np_to_triton_dtype(np.dtype(t)))
def test_every_type_in_every_form(client, dtype):
    array = values(dtype, (2, 9))
    for binary in (True, False):
        if dtype == np.float16 and not binary:
            continue  # the client itself has no JSON form of it
        for out_binary in (True, False, None):
            same(ask(client, array, binary, out_binary), array)


def test_large_tensors(client):
    array = values(np.float32, (2, 3 * 224 * 224))
    for binary in (True, False):
        for out_binary in (True, False):
            same(ask(client, array, binary, out_binary), array)
    words = values(np.object_, (1, 20000))
    same(ask(client, words), words)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, algorithm):
    for size in (4, 5000):
        array = values(np.float32, (1, size))
        for binary in (True, False):
            for out_binary in (True, False):
                same(ask(client, array, binary, out_binary, request_compression_algorithm=algorithm,
                         response_compression_algorithm=algorithm), array)


def test_empty_tensor(client):
    array = np.zeros((1, 0), np.float32)
    same(ask(client, array), array)


def test_id_version_and_who_answered(client, server):
    result = ask(client, values(np.int32, (1, 3)), request_id="my id \"1\"", model_version="1")
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("my id \"1\"", "identity_INT32", "1")
    reply = requests.post(f"http://{server.address}/v2/models/identity_INT32/infer", timeout=10, headers={"X-Request-Id": "abc"},
                          json={"inputs": [{"name": "INPUT0", "shape": [1, 2], "datatype": "INT32", "data": [1, 2]}]})
    assert reply.headers["X-Request-Id"] == "abc" and reply.headers["X-Spillway-Link"] == "cpu0"
    assert reply.headers["X-Spillway-Attempts"] == "cpu0=ok" and reply.json()["outputs"][0]["data"] == [1, 2]


def test_several_inputs_and_chosen_outputs(client):
    x, y = values(np.int32, (4, 16)), values(np.int32, (4, 16), 2)
    inputs = [tensor("INPUT1", y, False), tensor("INPUT0", x)]
    result = client.infer("simple", inputs)
    assert (result.as_numpy("OUTPUT0") == x).all() and (result.as_numpy("OUTPUT1") == y).all()
    result = client.infer("simple", inputs, outputs=[http.InferRequestedOutput("OUTPUT1")])
    assert result.as_numpy("OUTPUT0") is None and (result.as_numpy("OUTPUT1") == y).all()
    mixed = client.infer("simple", inputs, outputs=[http.InferRequestedOutput("OUTPUT1", binary_data=False),
                                                    http.InferRequestedOutput("OUTPUT0")])
    assert (mixed.as_numpy("OUTPUT0") == x).all() and (mixed.as_numpy("OUTPUT1") == y).all()
    assert mixed.get_output("OUTPUT1")["data"] == list(y.flat)


def test_optional_input(client):
    x = values(np.float32, (1, 5))
    assert (client.infer("optional", [tensor("INPUT0", x)]).as_numpy("OUTPUT1") == x).all()
    with pytest.raises(InferenceServerException, match="number of inputs between 1 and 2 but got 1"):
        client.infer("optional", [tensor("INPUT1", x)])


def test_classification_and_parameters(client):
    result = client.infer("identity_FP32", [tensor("INPUT0", values(np.float32, (1, 5)))], priority=2, timeout=1000000,
                          outputs=[http.InferRequestedOutput("OUTPUT0", class_count=1)], parameters={"mine": "1", "other": 2})
    assert result.as_numpy("OUTPUT0").dtype == np.object_


def test_sequences(client):
    one = values(np.int32, (1, 1))
    with pytest.raises(InferenceServerException, match="must specify a non-zero or non-empty correlation ID"):
        client.infer("sequence", [tensor("INPUT0", one)])
    for name in (7, "seven"):
        for i in range(3):
            same(client.infer("sequence", [tensor("INPUT0", one)], sequence_id=name, sequence_start=i == 0, sequence_end=i == 2), one)


def test_async_infer(client):
    arrays = [values(np.float32, (1, 100), seed) for seed in range(8)]
    waiting = [client.async_infer("identity_FP32", [tensor("INPUT0", a)]) for a in arrays]
    for array, one in zip(arrays, waiting):
        same(one.get_result(), array)


def test_request_body_made_by_hand(client, server):
    array = values(np.float32, (1, 6))
    body, header_bytes = http.InferenceServerClient.generate_request_body([tensor("INPUT0", array)])
    reply = requests.post(f"http://{server.address}/v2/models/identity_FP32/infer", data=body, timeout=10,
                          headers={"Inference-Header-Content-Length": str(header_bytes)})
    result = http.InferenceServerClient.parse_response_body(
        reply.content, header_length=int(reply.headers["Inference-Header-Content-Length"]))
    same(result, array)


@pytest.mark.parametrize("model, name, array, words", [
    ("simple", "INPUT0", np.zeros((1, 16), np.int32), "expected 2 inputs but got 1 inputs for model 'simple'. Got input"),
    ("identity_FP32", "NONE", np.zeros((1, 2), np.float32), "unexpected inference input 'NONE' for model 'identity_FP32'"),
    ("identity_FP32", "INPUT0", np.zeros((1, 2), np.int32), "data-type is 'INT32', but model 'identity_FP32' expects 'FP32'"),
    ("identity_FP32", "INPUT0", np.zeros((9, 2), np.float32), "inference request batch-size must be <= 8 for 'identity_FP32'"),
    ("identity_FP32", "INPUT0", np.zeros((2,), np.float32), r"unexpected shape for input 'INPUT0' .*Expected \[-1,-1\], got \[2\]"),
    ("no_batch", "INPUT0", np.zeros((4, 4), np.float32), r"Expected \[-1,3\], got \[4,4\]"),
])
def test_what_does_not_fit_is_told_in_tritons_words(client, model, name, array, words):
    with pytest.raises(InferenceServerException, match=words) as failure:
        client.infer(model, [tensor(name, array)])
    assert failure.value.status() == "400"


def test_unknown_output_and_batch_mismatch(client):
    x = np.zeros((1, 16), np.int32)
    with pytest.raises(InferenceServerException, match="unexpected inference output 'NONE'"):
        client.infer("simple", [tensor("INPUT0", x), tensor("INPUT1", x)], outputs=[http.InferRequestedOutput("NONE")])
    with pytest.raises(InferenceServerException, match="batch size does not match other inputs"):
        client.infer("simple", [tensor("INPUT0", x), tensor("INPUT1", np.zeros((2, 16), np.int32))])


# --- statistics -------------------------------------------------------------------------------------------------------------

def test_statistics(client, server):
    def now():
        return client.get_inference_statistics("identity_UINT16")["model_stats"][0]

    before = now()
    for rows in (1, 3):
        ask(client, values(np.uint16, (rows, 4)))
    after = now()
    assert after["version"] == "1" and after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    for key in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][key]["count"] - before["inference_stats"][key]["count"] == 2
    assert after["batch_stats"][0]["batch_size"] == 1 and after["last_inference"] > 0
    everything = client.get_inference_statistics()["model_stats"]
    assert {"simple", "identity_UINT16"} <= {m["name"] for m in everything}
    assert client.get_inference_statistics("simple", "1")["model_stats"][0]["name"] == "simple"
    page = requests.get(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10).text
    assert 'nv_inference_count{model="identity_UINT16",version="1"} %d\n' % after["inference_count"] in page
    assert 'nv_inference_request_failure{model="identity_UINT16",reason="REJECTED",version="1"} 0\n' in page
    assert 'nv_inference_pending_request_count{model="identity_UINT16",version="1"} 0\n' in page
    for _ in range(200):  # the kernel counts in ticks: two pages within one have no utilization between them
        page = requests.get(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10).text
        if 'nv_cpu_utilization ' in page:
            break
        time.sleep(0.05)
    assert 'nv_cpu_memory_used_bytes ' in page and 'nv_cpu_utilization ' in page
    assert 'spillway_model_request_seconds_count{model="identity_UINT16",version="1"} ' in page


def test_response_cache(client, server):
    def stats():
        return client.get_inference_statistics("cached")["model_stats"][0]["inference_stats"]

    array = values(np.float32, (1, 50), 99)
    for i in range(3):
        same(ask(client, array, model="cached"), array)
    same(ask(client, array, model="cached", out_binary=False), array)  # another form is another question
    other = values(np.float32, (1, 50), 100)
    same(ask(client, other, model="cached"), other)
    after = stats()
    assert (after["cache_hit"]["count"], after["cache_miss"]["count"], after["success"]["count"]) == (2, 3, 5)
    page = requests.get(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10).text
    assert 'nv_cache_num_hits_per_model{model="cached",version="1"} 2\n' in page


def test_response_cache_is_shared_through_redis():
    """What one server has computed another one answers; clients that hang up while Redis is asked leave nothing behind."""
    program = shutil.which("redis-server")
    if not program:
        pytest.skip("no redis-server here")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    redis = subprocess.Popen([program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
                             stdout=subprocess.DEVNULL)
    servers = []
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        servers = [kserve_house.Server(f"cache: {{memory: 1MiB, redis: 'redis://127.0.0.1:{port}/0'}}\n") for _ in range(2)]
        clients = [http.InferenceServerClient(s.address) for s in servers]
        array = values(np.float32, (1, 50), 7)
        for i, expected in ((0, (0, 1)), (1, (1, 0)), (1, (2, 0))):
            until = time.monotonic() + 10
            while True:  # it is written behind the answer
                same(ask(clients[i], array, model="cached"), array)
                stats = clients[i].get_inference_statistics("cached")["model_stats"][0]["inference_stats"]
                if stats["cache_hit"]["count"] >= expected[0] or time.monotonic() > until:
                    break
            assert stats["cache_hit"]["count"] >= expected[0] and stats["cache_miss"]["count"] >= expected[1]
        body, header_bytes = http.InferenceServerClient.generate_request_body([tensor("INPUT0", values(np.float32, (1, 9), 8))])
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", servers[0].port), timeout=20) as sock:
                sock.sendall(f"POST /v2/models/cached/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                             f"Inference-Header-Content-Length: {header_bytes}\r\n\r\n".encode() + body)
        for client in clients:
            client.close()
    finally:
        for server in servers:
            server.stop()
        redis.terminate()
        redis.wait(10)


# --- aio ------------------------------------------------------------------------------------------------------------------------

def test_aio(server):
    async def talk():
        async with aio.InferenceServerClient(server.address) as client:
            assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("simple")
            assert (await client.get_server_metadata())["name"] == "spillway"
            assert (await client.get_model_metadata("simple"))["name"] == "simple"
            assert (await client.get_model_config("simple"))["max_batch_size"] == 8
            assert (await client.get_model_repository_index())[0]["state"] == "READY"
            await client.unload_model("identity_INT8")
            await client.load_model("identity_INT8")
            assert (await client.get_inference_statistics("simple"))["model_stats"]
            assert (await client.get_trace_settings())["trace_level"] == ["OFF"]
            await client.update_trace_settings(settings={"trace_rate": "1000"})
            assert (await client.get_log_settings())["log_info"]
            await client.update_log_settings({"log_info": True})
            assert await client.get_system_shared_memory_status() == []
            await client.unregister_system_shared_memory()
            with pytest.raises(InferenceServerException, match="CUDA"):
                await client.get_cuda_shared_memory_status()
            arrays = [values(np.float32, (1, 5000), seed) for seed in range(8)]
            answers = await asyncio.gather(*(client.infer("identity_FP32", [tensor("INPUT0", a, i % 2 == 0)])
                                             for i, a in enumerate(arrays)))
            for array, answer in zip(arrays, answers):
                same(answer, array)
            for algorithm in ("gzip", "deflate"):
                answer = await client.infer("identity_FP32", [tensor("INPUT0", arrays[0])], request_compression_algorithm=algorithm,
                                            response_compression_algorithm=algorithm)
                same(answer, arrays[0])

    asyncio.run(talk())


# --- readers that take their time ---------------------------------------------------------------------------------------------

def test_slow_readers_hold_a_bounded_number_of_slots_and_give_them_back(server, client):
    array = values(np.float32, (1, 1 << 19))
    body, header_bytes = http.InferenceServerClient.generate_request_body([tensor("INPUT0", array)])
    head = (f"POST /v2/models/identity_FP32/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            f"Inference-Header-Content-Length: {header_bytes}\r\n").encode()

    def slots_out():
        return requests.get(f"http://{server.address}/healthz", timeout=10).json()["requests_open"]

    socks = []
    for i in range(40):  # more than GW_KSERVE_HELD
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        sock.sendall(head + (b"Accept-Encoding: gzip\r\n" if i % 10 == 9 else b"") + b"\r\n" + body)
        socks.append(sock)
    for sock in socks:
        assert sock.recv(12) == b"HTTP/1.1 200"
    assert slots_out() <= 32
    same(ask(client, array), array)
    for sock in socks[::2]:  # gone without reading
        sock.close()
    for sock in socks[1::2]:
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(65536)
        left = int(re.search(rb"\r\nContent-Length: (\d+)", got)[1]) - len(got.split(b"\r\n\r\n", 1)[1])
        while left:
            left -= len(sock.recv(1 << 20))
        sock.close()
    until = time.monotonic() + 20
    while slots_out() and time.monotonic() < until:
        time.sleep(0.02)
    assert slots_out() == 0


def test_clients_that_hang_up_in_the_middle(server, client):
    array = values(np.float32, (1, 100000))
    body, header_bytes = http.InferenceServerClient.generate_request_body([tensor("INPUT0", array)])
    for cut in (0, 1, header_bytes, header_bytes + 1000, len(body) - 1, len(body)):
        for extra in (b"", b"Accept-Encoding: deflate\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
                sock.sendall(f"POST /v2/models/identity_FP32/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                             f"Inference-Header-Content-Length: {header_bytes}\r\n".encode() + extra + b"\r\n" + body[:cut])
    same(ask(client, array), array)
