# SPDX-License-Identifier: Apache-2.0
"""The KServe front ends over a house that echoes (fake_kserve.c's parts): one server a test file."""
import os
import re
import selectors
import subprocess
import tempfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("SPILLWAY_BUILD", os.path.join(ROOT, "build")))


class Server:
    """fake_kserve until stop(); `config` is the text of a configuration file; `grpc` "inline" or "threaded": with gRPC."""

    def __init__(self, config="", grpc=None):
        path = os.path.join(BUILD, "tests/serving/fake_kserve")
        if not os.path.exists(path):
            pytest.skip("tests/serving/fake_kserve is not built")
        self.data = tempfile.TemporaryDirectory(prefix="spillway-kserve-")
        env = {**os.environ, "FAKE_DATA": self.data.name}
        if grpc:
            env["FAKE_GRPC"] = "1"
        if grpc == "threaded":
            env["SPILLWAY_GRPC_THREAD"] = "1"
        if config:
            env["FAKE_CONFIG"] = os.path.join(self.data.name, "spillway.yaml")
            with open(env["FAKE_CONFIG"], "w", encoding="utf-8") as file:
                file.write(config)
        self.log = tempfile.TemporaryFile(prefix="spillway-kserve-log-")
        self.process = subprocess.Popen([path], stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        selector = selectors.DefaultSelector()
        selector.register(self.process.stdout, selectors.EVENT_READ)
        if not selector.select(20):
            raise TimeoutError("no port printed")
        self.text = self.process.stdout.readline()
        self.port = int(re.search(r"http (\d+)", self.text)[1])
        self.metrics_port = int(re.search(r"metrics (\d+)", self.text)[1])
        self.grpc_port = int(re.search(r"grpc (\d+)", self.text)[1])
        if grpc and not self.grpc_port:
            self.stop()
            pytest.skip("libspillway_rpc.so is not built: libgrpc's headers were not there")
        self.address = f"127.0.0.1:{self.port}"

    def stop(self):
        """A leak or a race that a sanitizer saw, like an abort, ends it with another code."""
        self.process.terminate()
        try:
            code = self.process.wait(20)
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.data.cleanup()
        if code:
            self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - 8192))
            raise AssertionError(f"the server ended with {code}\n" + self.log.read().decode(errors="replace"))
