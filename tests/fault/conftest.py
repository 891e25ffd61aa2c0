# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the fault tests; each skip says why."""
import sys

import pytest

sys.path.insert(0, __file__.rsplit("/", 1)[0])
import house  # noqa: E402


@pytest.fixture(scope="session")
def labels():
    """{picture path: right label}"""
    if not house.PROGRAM.exists():
        pytest.skip(f"{house.PROGRAM} is not built")
    if not (house.MODEL / "1" / "model.onnx").exists():
        pytest.skip(f"the default model is not in {house.MODEL} (make model)")
    if not house.ASSETS.exists():
        pytest.skip(f"test pictures are not in {house.ASSETS} (SPILLWAY_ASSETS)")
    pytest.importorskip("onnxruntime", reason="the Python reference needs onnxruntime")
    return house.references()


@pytest.fixture
def start(labels, tmp_path):
    """start(workers=..., faults=..., args=...) -> a ready Server; stopped at the test's end."""
    servers = []

    def start_one(**kw):
        server = house.Server(tmp_path, **kw)
        servers.append(server)
        server.wait_ready()
        return server

    yield start_one
    for server in servers:
        if server.process.poll() is None:
            server.stop()
