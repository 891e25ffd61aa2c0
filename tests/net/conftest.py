# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the net worker's tests; each skip says why."""
import ssl
import subprocess
import sys

import pytest

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from outside import TOOL, Net, Scripted  # noqa: E402


@pytest.fixture
def scripted():
    servers = []

    def start(script, tls=None):
        server = Scripted(script, tls)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def start_net(tmp_path):
    """start_net(faults=..., args=...) -> Net; stopped, and its log searched for sanitizer reports, at the end."""
    if not TOOL.exists():
        pytest.skip(f"{TOOL} is not built")
    started = []

    def start(**kw):
        one = Net(tmp_path, **kw)
        started.append(one)
        return one

    yield start
    for one in started:
        one.process.stdin.close()  # all at once: a sanitizer takes a second to end a process
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A net worker that a whole file shares."""
    if not TOOL.exists():
        pytest.skip(f"{TOOL} is not built")
    one = Net(tmp_path_factory.mktemp("net"))
    yield one
    one.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """(certificate file, key file), self-signed for 127.0.0.1 and localhost."""
    directory = tmp_path_factory.mktemp("tls")
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                           "-keyout", directory / "key.pem", "-out", directory / "cert.pem", "-days", "2", "-subj", "/CN=spillway test",
                           "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"], capture_output=True)
    if made.returncode:
        pytest.skip("openssl cannot make a certificate: " + made.stderr.decode(errors="replace")[-200:])
    return directory / "cert.pem", directory / "key.pem"


@pytest.fixture(scope="session")
def server_tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context
