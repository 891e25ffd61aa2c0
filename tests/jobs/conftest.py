# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the job tests; each skip says why."""
import shutil
import sys

import pytest

sys.path.insert(0, __file__.rsplit("/", 1)[0])
import jobhouse  # noqa: E402


@pytest.fixture
def serve(tmp_path):
    """serve(...) -> a Server in a directory of its own; stopped at the test's end."""
    if not jobhouse.PROGRAM.exists():
        pytest.skip(f"{jobhouse.PROGRAM} is not built")
    servers = []

    def start(name="server", **kw):
        servers.append(jobhouse.Server(tmp_path / name, **kw))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def receive():
    receivers = []

    def start(**kw):
        receivers.append(jobhouse.Receiver(**kw))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.close()


@pytest.fixture
def redis(tmp_path):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed (tools/packages.txt)")
    servers = []

    def start(name="redis", **kw):
        servers.append(jobhouse.Redis(tmp_path / name, **kw))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
