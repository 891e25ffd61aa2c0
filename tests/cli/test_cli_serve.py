# SPDX-License-Identifier: Apache-2.0
"""`spillway serve`: what it prints, where its settings come from, what it refuses. The API itself has its own tests."""
import http.client
import json
import os
import pathlib
import re
import socket

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", TREE.parent / "shared/assets")) / "media/images"


def test_it_says_where_it_listens_and_what_to_try(serve):
    with serve("--workers", "codec0") as served:
        assert re.fullmatch(r"spillway [0-9.]+ listens on http://127\.0\.0\.1:\d+", served.said[0])
        metrics = int(re.fullmatch(r"metrics on http://127\.0\.0\.1:(\d+)/metrics", served.said[1])[1])
        assert re.fullmatch(rf"try: curl -F image=@\S+ http://127\.0\.0\.1:{served.port}/infer", served.said[2])
        assert served.get("/healthz")[0] == 200
        assert served.get("/metrics", metrics)[0] == 200
    assert served.process.returncode == 0


def test_metrics_can_be_off(serve):
    with serve("--workers", "codec0", ports=("--http-port", "0", "--grpc-port", "-1", "--metrics-port", "-1")) as served:
        assert len(served.said) == 2


def test_a_grpc_port_that_was_asked_for_is_had_or_nothing_starts(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", "--http-port", "0", "--metrics-port", "-1", "--grpc-port", port, "--workers", "codec0")
    assert done.returncode == 3 and f"127.0.0.1:{port}" in done.stderr and "gRPC" in done.stderr


def test_without_the_plug_in_http_is_served(serve, tmp_path):
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "-1")
    with serve("--workers", "noop0", ports=ports, env={"SPILLWAY_PLUGINS": str(tmp_path)}) as served:
        assert served.get("/healthz")[0] == 200 and not any("gRPC on" in line for line in served.said)
    assert "libspillway_rpc.so is in none of" in served.errors


def test_a_port_that_is_taken(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", "--http-port", port, "--metrics-port", "-1", "--workers", "codec0")
    assert done.returncode == 3 and str(port) in done.stderr and done.stdout == ""


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_only_loopback_until_there_is_access_control(run, address):
    done = run("serve", "--bind", address, "--http-port", "0", "--metrics-port", "0")
    assert done.returncode == 2 and address in done.stderr and "access control" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("workers", ["abacus0", "codec0,,cpu0", "codec0,codec0"])
def test_worker_lists_that_cannot_be(run, workers):
    done = run("serve", "--workers", workers, "--http-port", "0", "--metrics-port", "0")
    assert done.returncode == 2 and "worker" in done.stderr


def test_a_model_or_repository_that_was_named_must_be_there(run, tmp_path):
    words = ["serve", "--http-port", "0", "--metrics-port", "0", "--model-repository"]
    done = run(*words, tmp_path / "none")
    assert done.returncode == 3 and str(tmp_path / "none") in done.stderr and done.stdout == ""
    (tmp_path / "resnet18/1").mkdir(parents=True)
    (tmp_path / "resnet18/1/model.onnx").write_bytes(b"x")
    done = run(*words, tmp_path, "--model", "resnet81")
    assert done.returncode == 3 and "no model 'resnet81'" in done.stderr and "did you mean 'resnet18'?" in done.stderr


def test_without_any_model_it_serves_and_says_so(serve, tmp_path):
    with serve("--workers", "codec0", "--model-repository", tmp_path) as served:
        assert served.get("/healthz")[0] == 200
    assert "no model" in served.errors and "spillway pull NAME" in served.errors


def test_settings_come_from_options_then_file_then_defaults(serve, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    file = tmp_path / "spillway.yaml"
    file.write_text(f"# one worker is enough\nhttp_port: {free}\nmetrics_port: -1\nworkers: [codec0]\nlog_level: error\n"
                    "grpc_port: 0\nbind: localhost\nrequire_sandbox: false\ndrain_delay: 0\nspin_us: 0\n"
                    f"model_repository: {tmp_path}\n")
    with serve("--config", file, ports=()) as served:
        assert served.port == free and len(served.said) == 3 and served.said[1].startswith("gRPC on 127.0.0.1:")
        names = [worker["name"] for worker in json.loads(served.get("/healthz")[1])["workers"]]
        assert names == ["codec0"]
    with serve("--config", file, ports=("--http-port", "0")) as served:
        assert served.port != free


def test_an_empty_configuration_file_is_fine(serve, tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with serve("--workers", "codec0", "--config", tmp_path / "empty.yaml") as served:
        assert served.get("/healthz")[0] == 200


def test_an_idle_gateway_is_small(serve):
    with serve() as served:
        assert served.get("/healthz")[0] == 200
        with open(f"/proc/{served.process.pid}/status", encoding="ascii") as status, \
                open(f"/proc/{served.process.pid}/maps", encoding="ascii") as maps:
            if any("libasan" in line or "libtsan" in line for line in maps):
                pytest.skip("a sanitizer's own memory is not ours")
            resident_kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    assert resident_kib < 24 * 1024


def test_the_log_level_reaches_the_workers(serve):
    with serve("--workers", "codec0", "--log-level", "error") as quiet:
        assert quiet.get("/healthz")[0] == 200
    assert '"level":"info"' not in quiet.errors and '"level":"warn"' not in quiet.errors
    with serve("--workers", "codec0", "--log-level", "debug") as loud:
        assert loud.get("/healthz")[0] == 200
    assert '"level":"info"' in loud.errors


def test_the_server_answers_what_classify_answers(serve, run):
    picture = ASSETS / "kitten_224.png"
    if not picture.exists() or not (TREE / "var/models/efficientnet-lite0/1/model.onnx").exists():
        pytest.skip("needs SPILLWAY_ASSETS and var/models (`make model`)")
    here = json.loads(run("classify", "--json", picture).stdout)
    with serve() as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", "/infer", picture.read_bytes(), {"Content-Type": "image/png"})
        response = connection.getresponse()
        there = json.loads(response.read())
        connection.close()
    assert response.status == 200
    assert there["predictions"] == here["predictions"] and there["model"] == here["model"]
