# SPDX-License-Identifier: Apache-2.0
"""Workers that serve models are killed under load: no request fails, each gets its own tensor back, and the next incarnation has
the models again before it is asked."""
import os
import signal
import tempfile
import threading
import time

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
import tritonclient.http as httpclient

import served_house as house

CONFIG = """
name: "%s" backend: "identity" max_batch_size: 8
input [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ -1 ] } ]
dynamic_batching { max_queue_delay_microseconds: 500 }
"""
KILLS = 6
CLIENTS = 8


class Load:
    """Clients that ask without a pause and compare."""

    def __init__(self, address):
        self.address, self.ended, self.right, self.wrong = address, False, 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(k,)) for k in range(CLIENTS)]

    def run(self, number):
        rng = np.random.default_rng(number)
        with httpclient.InferenceServerClient(self.address, network_timeout=60, connection_timeout=60) as client:
            while not self.ended:
                sent = rng.integers(-1 << 30, 1 << 30, (1, int(rng.integers(1, 400))), dtype=np.int32)
                tensor = httpclient.InferInput("IN", list(sent.shape), "INT32")
                tensor.set_data_from_numpy(sent)
                try:
                    answer = client.infer(f"m{number % 2}", [tensor], outputs=[httpclient.InferRequestedOutput("OUT")])
                    error = None if np.array_equal(answer.as_numpy("OUT"), sent) else "another tensor"
                except Exception as err:  # noqa: BLE001: whatever a client is told is a failure here
                    error = repr(err)
                with self.lock:
                    self.right += error is None
                    if error:
                        self.wrong.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        for thread in self.threads:
            thread.join(90)


@pytest.mark.parametrize("workers", ["codec0,cpu0", "codec0,cpu0,cpu1"])
def test_killed_workers_cost_no_request(workers):
    with tempfile.TemporaryDirectory(prefix="spillway-deaths-") as folder:
        for name in ("m0", "m1"):
            house.write(f"{folder}/models/{name}/config.pbtxt", CONFIG % name)
            os.makedirs(f"{folder}/models/{name}/1")
        server = house.Server(f"{folder}/models", workers=workers, args=["--data-dir", f"{folder}/data"])
        try:
            server.wait_models(["m0", "m1"])
            killed = 0
            with Load(server.address) as load:
                end = time.monotonic() + 60
                while killed < KILLS and time.monotonic() < end:
                    before = load.right
                    while load.right < before + 50 and time.monotonic() < end:  # it works again: now the next one
                        time.sleep(0.01)
                    pid = server.worker_pid(f"cpu{killed % 2 if 'cpu1' in workers else 0}")
                    if pid:
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                before = load.right
                while load.right < before + 50 and time.monotonic() < end:
                    time.sleep(0.01)
            assert killed == KILLS
            assert not load.wrong, load.wrong[:5]
            assert load.right >= 50 * KILLS
        finally:
            server.stop()
