# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: the program, and a way to run it."""
import contextlib
import http.client
import os
import pathlib
import re
import signal
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", TREE / "build"))


@pytest.fixture(scope="session")
def program():
    path = BUILD / "spillway"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return str(path)


@pytest.fixture(scope="session")
def run(program):
    """run("pull", "x", env={...}) -> CompletedProcess with text output; never waits longer than a minute."""

    def call(*words, env=None, **keywords):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPILLWAY_")}
        environment.update(env or {})
        return subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=60, env=environment,
                              stdin=subprocess.DEVNULL, **keywords)

    return call


class Served:
    def __init__(self, process):
        self.process = process
        self.said = []
        for line in process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith("try: "):
                break
        assert self.said and self.said[-1].startswith("try: "), process.stderr.read()
        self.port = int(re.search(r"listens on http://[^ ]*:(\d+)$", self.said[0])[1])

    def get(self, path, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@pytest.fixture
def serve(program):
    """serve("--x", ...) as a context: starts it on free ports with no drain delay, and ends it by SIGTERM."""

    @contextlib.contextmanager
    def start(*words, ports=("--http-port", "0", "--grpc-port", "-1", "--metrics-port", "0"), env=None):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPILLWAY_")} | (env or {})
        with subprocess.Popen([program, "serve", *ports, "--drain-delay", "0", *map(str, words)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, env=environment) as process:
            served = Served(process)
            try:
                yield served
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    served.errors = process.communicate(timeout=30)[1]
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise

    return start
