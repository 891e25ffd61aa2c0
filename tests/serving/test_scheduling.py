# SPDX-License-Identifier: Apache-2.0
"""The worker's own scheduling through the real server: batches, queue policies, more models than memory, killed workers."""
import concurrent.futures
import os
import random
import signal
import tempfile
import threading
import time

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

import served_house as house
from served_house import onnx

TABLES = 5
ENTRIES = 1_000_000  # 4 MB each: three fit into the budget

GATHERED = """
backend: "identity" max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 200000 }
"""

IMPATIENT = """
backend: "identity" max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching {
  max_queue_delay_microseconds: 20000000
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 3000000 max_queue_size: 2 }
}
"""


def table(folder, number):
    """`OUT` = its table at `IN`; entry i of table t is t + i / 8."""
    entries = (np.arange(ENTRIES, dtype=np.float32) / 8 + number).astype(np.float32)
    house.model(os.path.join(folder, f"table{number}", "1", "model.onnx"), [("IN", "INT64", ["n"])], [("OUT", "FP32", ["n"])],
                [onnx.helper.make_node("Gather", ["entries", "IN"], ["OUT"])],
                [onnx.numpy_helper.from_array(entries, "entries")])


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory(prefix="spillway-scheduling-") as folder:
        for number in range(TABLES):
            table(folder, number)
        for name, text in (("gathered", GATHERED), ("impatient", IMPATIENT)):
            os.makedirs(os.path.join(folder, name, "1"))
            house.write(os.path.join(folder, name, "config.pbtxt"), text)
        config = os.path.join(folder, "spillway.yaml")
        house.write(config, "model_memory: 14MiB\n")
        started = house.Server(folder, args=["--config", config])
        started.wait_models([f"table{number}" for number in range(TABLES)] + ["gathered", "impatient"])
        yield started
        started.stop()


def look_up(client, number, indices):
    given = httpclient.InferInput("IN", [len(indices), 1], "INT64")  # completed as [rows] of [1], reshaped to nothing
    given.set_data_from_numpy(np.array(indices, dtype=np.int64).reshape(-1, 1))
    out = client.infer(f"table{number}", [given]).as_numpy("OUT").ravel()
    assert np.array_equal(out, np.array(indices, dtype=np.float32) / 8 + np.float32(number)), (number, indices, out)


def client_of(server):
    """A client belongs to the thread that makes it (gevent)."""
    return httpclient.InferenceServerClient(server.address, network_timeout=60)


def echo(client, model, rows, value):
    data = np.full((rows, 3), value, dtype=np.float32)
    given = httpclient.InferInput("IN", list(data.shape), "FP32")
    given.set_data_from_numpy(data)
    assert np.array_equal(client.infer(model, [given]).as_numpy("OUT"), data)


def test_requests_gather_to_the_preferred_size(server):
    for times in range(1, 21):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: echo(client_of(server), "gathered", 1, i), range(4)))
        stats = client_of(server).get_inference_statistics("gathered")["model_stats"][0]
        assert stats["inference_count"] == 4 * times
        if stats["execution_count"] < stats["inference_count"]:
            return  # the first time, unless the machine let them come 200 ms apart
    raise AssertionError("no two requests were ever executed together: %s" % stats)


def test_queue_policies_answer_in_tritons_words(server):
    def ask(_):
        with pytest.raises(InferenceServerException) as caught:
            echo(client_of(server), "impatient", 1, 1)
        return caught.value.message()

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        messages = sorted(pool.map(ask, range(3)))
    assert "Exceeds maximum queue size" in messages[0], messages
    assert "Request timeout expired" in messages[1] and "Request timeout expired" in messages[2], messages
    echo(client_of(server), "impatient", 8, 2)  # a full batch waits for nobody


def test_more_models_than_memory_take_turns(server):
    client = client_of(server)
    rng = random.Random(5)
    for _ in range(40):
        look_up(client, rng.randrange(TABLES), [rng.randrange(ENTRIES) for _ in range(4)])


def test_kill_9_under_load_loses_nothing(server):
    """Loads, queues, models put aside: all of it comes back in the next incarnation, and no request knows."""
    stop = threading.Event()
    answered = [0] * 6

    def work(number):
        rng = random.Random(number)
        with client_of(server) as client:
            while not stop.is_set():
                if rng.random() < 0.5:
                    echo(client, "gathered", rng.randint(1, 4), number)
                else:
                    look_up(client, rng.randrange(TABLES), [rng.randrange(ENTRIES)])
                answered[number] += 1

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        running = [pool.submit(work, number) for number in range(6)]
        killed = set()
        end = time.monotonic() + 30
        while len(killed) < 3 and time.monotonic() < end:
            time.sleep(0.5)
            pid = server.worker_pid("cpu0")
            if pid and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        before = sum(answered)
        while sum(answered) < before + 20 and time.monotonic() < end + 30:
            time.sleep(0.05)
        stop.set()
        for one in running:
            one.result(timeout=60)
    assert len(killed) == 3 and sum(answered) >= before + 20
