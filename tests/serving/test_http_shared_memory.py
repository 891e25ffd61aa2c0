# SPDX-License-Identifier: Apache-2.0
"""System shared memory over HTTP: the stock client's calls, and clients that truncate, lie and reach for what is not theirs."""
import os

import kserve_house
import numpy as np
import pytest

http = pytest.importorskip("tritonclient.http")
shm = pytest.importorskip("tritonclient.utils.shared_memory")
from tritonclient.utils import InferenceServerException  # noqa: E402

NAME = f"spillway-test-{os.getpid()}"


@pytest.fixture(scope="module")
def server():
    server = kserve_house.Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server):
    client = http.InferenceServerClient(server.address)
    yield client
    client.close()


@pytest.fixture
def region(client):
    """region(bytes): a fresh object of that size; all are taken away at the end."""
    handles = []

    def make(size, register=True):
        name = f"{NAME}-{len(handles)}"
        handles.append(shm.create_shared_memory_region(name, "/" + name, size))
        if register:
            client.register_system_shared_memory(name, "/" + name, size)
        return name, handles[-1]

    yield make
    client.unregister_system_shared_memory()
    for handle in handles:
        shm.destroy_shared_memory_region(handle)


def shared_input(name, size, array, offset=0):
    item = http.InferInput("INPUT0", list(array.shape), "FP32")
    item.set_shared_memory(name, size, offset)
    return item


def shared_output(name, size, offset=0):
    item = http.InferRequestedOutput("OUTPUT0")
    item.set_shared_memory(name, size, offset)
    return item


@pytest.mark.parametrize("count", [16, 200000])  # the second is copied on the store thread
def test_there_and_back(client, region, count):
    array = np.random.default_rng(count).random((1, count), dtype=np.float32)
    size = array.nbytes
    name, handle = region(2 * size)
    assert client.get_system_shared_memory_status(name) == [{"name": name, "key": "/" + name, "offset": 0, "byte_size": 2 * size}]
    shm.set_shared_memory_region(handle, [array])
    result = client.infer("identity_FP32", [shared_input(name, size, array)], outputs=[shared_output(name, size, size)])
    answer = result.get_output("OUTPUT0")
    assert answer == {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, count]}  # perf_analyzer minds "parameters" here
    assert (shm.get_contents_as_numpy(handle, np.float32, [1, count], offset=size) == array).all()
    # Only in, only out.
    result = client.infer("identity_FP32", [shared_input(name, size, array)])
    assert (result.as_numpy("OUTPUT0") == array).all()
    plain = http.InferInput("INPUT0", [1, count], "FP32")
    plain.set_data_from_numpy(array + 1)
    client.infer("identity_FP32", [plain], outputs=[shared_output(name, size)])
    assert (shm.get_contents_as_numpy(handle, np.float32, [1, count]) == array + 1).all()


def test_strings(client, region):
    words = np.array([[b"one", b"", b"three"]], dtype=np.object_)
    packed = np.frombuffer(b"".join(len(w).to_bytes(4, "little") + w for w in words.flat), np.uint8)
    name, handle = region(packed.nbytes)
    shm.set_shared_memory_region(handle, [packed])
    item = http.InferInput("INPUT0", [1, 3], "BYTES")
    item.set_shared_memory(name, packed.nbytes)
    assert list(client.infer("identity_BYTES", [item]).as_numpy("OUTPUT0").flat) == list(words.flat)
    item.set_shared_memory(name, packed.nbytes - 1)
    with pytest.raises(InferenceServerException, match="incomplete string data"):
        client.infer("identity_BYTES", [item])


def test_life_of_a_region(client, region):
    assert client.get_system_shared_memory_status() == []
    name, _ = region(64)
    with pytest.raises(InferenceServerException, match="already in manager"):
        client.register_system_shared_memory(name, "/" + name, 64)
    client.register_system_shared_memory("second", name, 32, offset=32)  # a key without its '/', a part of it
    assert {r["name"] for r in client.get_system_shared_memory_status()} == {name, "second"}
    client.unregister_system_shared_memory("second")
    client.unregister_system_shared_memory("second")  # Triton lets it pass
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'second'"):
        client.get_system_shared_memory_status("second")
    client.unregister_system_shared_memory()
    assert client.get_system_shared_memory_status() == []


@pytest.mark.parametrize("key, size, offset, words", [
    ("/none-such", 8, 0, "unable to open"), ("../etc/passwd", 8, 0, "without another '/'"), ("/a/b", 8, 0, "without another '/'"),
    ("", 8, 0, "without another '/'"), ("..", 8, 0, "without another '/'"), ("{name}", 65, 0, "invalid args"),
    ("{name}", 8, 60, "invalid args"), ("{name}", 0, 0, "invalid args"), ("{name}", 2**63 - 1, 2**62, "invalid args")])
def test_what_cannot_be_registered(client, region, key, size, offset, words):
    name, _ = region(64, register=False)
    with pytest.raises(InferenceServerException, match=words) as failure:
        client.register_system_shared_memory("wrong", key.format(name=name), size, offset)
    assert failure.value.status() == "400"


def test_bounds_of_requests(client, region):
    array = np.zeros((1, 16), np.float32)
    name, _ = region(64)
    for inputs, outputs, words in (
            ([shared_input(name, 64, array, 4)], None, r"Invalid offset \+ byte size"), ([shared_input(name, 64, array, 65)], None, "Invalid offset"),
            ([shared_input("none", 64, array)], None, "Unable to find shared memory region: 'none'"),
            ([shared_input(name, 60, array)], None, "byte size mismatch .* Expected 64, got 60"),
            ([shared_input(name, 64, array)], [shared_output(name, 32)], "should be at least 64 bytes to hold the results"),
            ([shared_input(name, 64, array)], [shared_output("none", 64)], "Unable to find shared memory region: 'none'")):
        with pytest.raises(InferenceServerException, match=words) as failure:
            client.infer("identity_FP32", inputs, outputs=outputs)
        assert failure.value.status() == "400"


@pytest.mark.parametrize("count", [16, 200000])
def test_a_client_that_truncates_its_region_hurts_nobody(client, server, region, count):
    array = np.ones((1, count), np.float32)
    name, handle = region(array.nbytes)
    shm.set_shared_memory_region(handle, [array])
    path = f"/dev/shm/{name}"
    plain = http.InferInput("INPUT0", [1, count], "FP32")
    plain.set_data_from_numpy(array)
    for size in (0, 1, array.nbytes - 1):
        os.truncate(path, size)
        with pytest.raises(InferenceServerException, match="is shorter now") as failure:
            client.infer("identity_FP32", [shared_input(name, array.nbytes, array)])
        assert failure.value.status() == "400"
        with pytest.raises(InferenceServerException, match="is shorter now"):
            client.infer("identity_FP32", [plain], outputs=[shared_output(name, array.nbytes)])
        assert os.stat(path).st_size == size  # what was cut is not made to grow again
    os.truncate(path, array.nbytes)  # as its handle has it mapped
    assert client.infer("identity_FP32", [plain]).as_numpy("OUTPUT0").shape == (1, count)
    with open(f"/proc/{server.process.pid}/maps", encoding="utf-8") as maps:
        assert NAME not in maps.read()  # never mapped


def test_a_region_in_use_may_be_unregistered(client, server, region):
    array = np.ones((1, 300000), np.float32)
    name, handle = region(array.nbytes)
    shm.set_shared_memory_region(handle, [array])
    others = http.InferenceServerClient(server.address, concurrency=8)
    waiting = [others.async_infer("identity_FP32", [shared_input(name, array.nbytes, array)]) for _ in range(8)]
    client.unregister_system_shared_memory(name)
    for one in waiting:
        try:
            assert (one.get_result().as_numpy("OUTPUT0") == array).all()
        except InferenceServerException as error:
            assert "Unable to find shared memory region" in str(error)
    others.close()
