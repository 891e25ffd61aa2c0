# SPDX-License-Identifier: Apache-2.0
"""The sampler worker against libraries that pass for DCGM and NVML: what it shows, what it must not show, and that a
library that fails or hangs harms nobody. What the fakes do stands in a file of words (tests/fault/gpu/script.h)."""
import json
import os
import re
import subprocess
import time

import house
import pytest

FAKES = house.BUILD / "tests" / "fault" / "gpu"
pytestmark = pytest.mark.skipif(not house.PROGRAM.exists(), reason=f"{house.PROGRAM} is not built")


class Gpus:
    """A server with a sampler whose libraries come from the fakes named."""

    def __init__(self, tmp_path, *libraries, workers="noop0,sampler0", period_ms=30, says=()):
        self.words = tmp_path / "words"
        self.says(*says)
        for library in libraries:
            if not (FAKES / library).exists():
                pytest.skip(f"{FAKES / library} is not built")
        path = ":".join([*(str(FAKES / library) for library in libraries), os.environ.get("LD_LIBRARY_PATH", "")])
        self.server = house.Server(tmp_path, workers=workers, env={
            "LD_LIBRARY_PATH": path.strip(":"), "SPILLWAY_FAKE_GPU": str(self.words), "SPILLWAY_SAMPLE_MS": str(period_ms),
            "SPILLWAY_DEVICE_PAUSE_MS": "200"})

    def __enter__(self):
        self.server.wait_worker_ready("noop0")
        self.server.wait_worker_ready("sampler0")
        return self

    def __exit__(self, *_):
        self.server.stop()

    def says(self, *words):
        new = self.words.with_suffix(".new")
        new.write_text("".join(w + "\n" for w in words))
        new.rename(self.words)

    def devices(self):
        status, body = self.server.get("/v1/devices")
        assert status == 200, body
        return json.loads(body)["devices"]

    def wait(self, true, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            devices = self.devices()
            if true(devices):
                return devices
            time.sleep(0.01)
        pytest.fail(f"it did not come about: {self.devices()} {self.server.log_text()}")

    def metrics(self):
        return self.server.get("/metrics")[1].decode()


def sources(devices):
    return [d["source"] for d in devices]


def test_nvml(tmp_path):
    with Gpus(tmp_path, "nvml") as gpus:
        devices = gpus.wait(lambda d: sources(d) == ["nvml", "nvml", "host"])
        gpu = devices[0]
        assert gpu["name"] == 'Fake "GPU"' and gpu["uuid"] == "GPU-fake-nvml" and gpu["fresh"]
        assert gpu["utilization"] == 0.5 and gpu["memory_used_bytes"] == 600 and gpu["memory_total_bytes"] == 1000
        assert gpu["temperature_celsius"] == 61 and gpu["power_watts"] == 70.5
        assert not gpu["throttled_by_heat"] and not gpu["throttled_by_power"], "the power cap is everyday life"
        assert not {"power_limit_watts", "energy_joules", "sm_clock_mhz"} & gpu.keys(), "this library has no such functions"
        text = gpus.metrics()
        assert 'nv_gpu_utilization{gpu_uuid="GPU-fake-nvml"} 0.5\n' in text
        assert 'nv_gpu_power_usage{gpu_uuid="GPU-fake-nvml"} 70.5\n' in text
        assert "nv_energy_consumption" not in text and "nan" not in text.lower()
        gpus.says("hot")
        gpus.wait(lambda d: d[0].get("throttled_by_heat"))
        assert re.search(r'^spillway_device_throttled\{worker="sampler0",device="0".*\} 1$', gpus.metrics(), re.M)


def test_dcgm_goes_before_nvml(tmp_path):
    with Gpus(tmp_path, "dcgm", "nvml") as gpus:
        devices = gpus.wait(lambda d: sources(d) == ["dcgm", "host"])
        gpu = devices[0]
        assert gpu["name"] == "Fake GPU by DCGM" and gpu["uuid"] == "GPU-fake-dcgm"
        assert gpu["utilization"] == 0.25 and gpu["power_watts"] == 80.25 and gpu["energy_joules"] == 5
        assert gpu["memory_total_bytes"] == 16 << 20 and gpu["memory_used_bytes"] == 4 << 20
        assert "temperature_celsius" not in gpu, "a field without data is blank"
        assert 'nv_energy_consumption{gpu_uuid="GPU-fake-dcgm"} 5\n' in gpus.metrics()


@pytest.mark.parametrize("library", ["dcgm", "nvml"])
def test_blank_values_are_not_shown(tmp_path, library):
    with Gpus(tmp_path, library) as gpus:
        gpus.wait(lambda d: sources(d)[:1] == [library])
        gpus.says(f"{library}-blank")
        gpu = gpus.wait(lambda d: "utilization" not in d[0])[0]
        assert not {"power_watts", "energy_joules", "memory_used_bytes", "temperature_celsius"} & gpu.keys(), gpu
        assert gpu["name"] == ("" if library == "dcgm" else 'Fake "GPU"')
        text = gpus.metrics()
        assert "nv_gpu_utilization" not in text and "nv_gpu_power_usage" not in text
        assert not re.search(r" (1\.40737|1407374883|9\.22337|9223372036)[0-9]*", text), "a blank value leaked as a number"
        gpus.says()
        gpus.wait(lambda d: d[0].get("utilization"))  # and back


def test_the_host_alone(tmp_path):
    with Gpus(tmp_path) as gpus:
        host = gpus.wait(lambda d: d and "utilization" in d[-1])[-1]
        assert host["source"] == "host" and 0 <= host["utilization"] <= 1
        assert 0 < host["memory_used_bytes"] < host["memory_total_bytes"]
        assert not {"power_watts", "temperature_celsius", "throttled_by_heat", "uuid"} & host.keys()
        text = gpus.metrics()
        assert re.search(r'^spillway_device_utilization\{worker="sampler0",device="\d",source="host"\} [0-9.e-]+$', text, re.M)
        if sources(gpus.devices()) == ["host"]:
            assert "nv_gpu" not in text
        health = gpus.server.health()
        assert not health["degraded"] and health["ready"]


def test_a_library_without_a_function(tmp_path):
    with Gpus(tmp_path, "nvml_old") as gpus:
        devices = gpus.wait(lambda d: d)
        assert sources(devices) == ["host"]
        assert gpus.server.restarts() == 0


@pytest.mark.parametrize("fails", [["dcgm-fails"], ["dcgm-fails", "nvml-fails"]])
def test_a_library_that_does_not_start_and_then_does(tmp_path, fails):
    """The next source is used; the better one is found again, without a new process."""
    with Gpus(tmp_path, "dcgm", "nvml", period_ms=10, says=fails) as gpus:
        gpus.wait(lambda d: sources(d)[:1] == ["nvml" if len(fails) == 1 else "host"])
        pid = gpus.server.worker("sampler0")["pid"]
        assert gpus.server.log_text().count("samples: source not used") == len(fails), gpus.server.log_text()
        gpus.says()
        gpus.wait(lambda d: sources(d)[:1] == ["dcgm"])
        assert gpus.server.worker("sampler0")["pid"] == pid


@pytest.mark.parametrize("library", ["dcgm", "nvml"])
def test_devices_that_are_lost(tmp_path, library):
    with Gpus(tmp_path, library, period_ms=10) as gpus:
        gpus.wait(lambda d: sources(d)[:1] == [library])
        gpus.says(f"{library}-lost")
        gpus.wait(lambda d: sources(d) == ["host"])
        assert "nv_gpu" not in gpus.metrics()
        gpus.says()
        gpus.wait(lambda d: sources(d)[:1] == [library])


def test_one_of_two_devices_is_lost(tmp_path):
    with Gpus(tmp_path, "nvml") as gpus:
        gpus.says("nvml-one-lost")
        devices = gpus.wait(lambda d: len(d) == 3 and "utilization" not in d[0])
        assert "lost" in devices[0]["name"]
        assert devices[1]["device"] == 1 and devices[1]["utilization"] == 0.5, "the second keeps its place"


@pytest.mark.parametrize("library", ["dcgm", "nvml"])
def test_a_library_that_hangs(tmp_path, library):
    """The sampler is ended and started again; everybody else goes on; when the library works, so does the sampler."""
    with Gpus(tmp_path, library) as gpus:
        gpus.wait(lambda d: sources(d)[:1] == [library])
        pid = gpus.server.worker("sampler0")["pid"]
        gpus.says(f"{library}-hangs")
        end = time.monotonic() + 20
        while gpus.server.worker("sampler0")["pid"] == pid:
            assert time.monotonic() < end, gpus.server.health()
            assert gpus.server.get("/readyz")[0] == 200
            time.sleep(0.02)
        sampler = gpus.server.worker("sampler0")
        assert "hung" in sampler["reason"], sampler
        gpus.says()
        gpus.wait(lambda d: sources(d)[:1] == [library], 30)


def test_a_library_that_hangs_from_the_beginning(tmp_path):
    """Three times ended, then left alone for a while, then tried again; the server is ready all the time."""
    with Gpus(tmp_path, "nvml", period_ms=20, says=["nvml-hangs"]) as gpus:
        end = time.monotonic() + 30
        while gpus.server.worker("sampler0")["state"] != "quarantined":
            assert time.monotonic() < end, gpus.server.health()
            assert gpus.server.get("/readyz")[0] == 200
            time.sleep(0.01)
        assert gpus.server.worker("sampler0")["restarts"] >= 3
        assert gpus.devices() == []
        gpus.says()
        gpus.wait(lambda d: sources(d)[:1] == ["nvml"], 30)


def test_it_ends_with_the_server(tmp_path):
    with Gpus(tmp_path, "dcgm") as gpus:
        pid = gpus.server.worker("sampler0")["pid"]
    assert not os.path.exists(f"/proc/{pid}")


def test_a_gpu_worker_brings_a_sampler(tmp_path):
    with Gpus(tmp_path, "nvml", workers="noop0,cuda0") as gpus:
        assert [w["name"] for w in gpus.server.health()["workers"]] == ["noop0", "cuda0", "sampler0"]
        gpus.wait(lambda d: sources(d)[:1] == ["nvml"])


def doctor(tmp_path, *words, json_out=True):
    script = tmp_path / "words"
    script.write_text("".join(w + "\n" for w in words))
    environment = dict(os.environ, LD_LIBRARY_PATH=str(FAKES / "nvml"), SPILLWAY_FAKE_GPU=str(script))
    done = subprocess.run([house.PROGRAM, "doctor", *(["--json"] if json_out else [])], env=environment, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)["samples"] if json_out else done.stdout


@pytest.mark.skipif(not (FAKES / "nvml").exists(), reason="the fake libraries are not built")
def test_doctor_shows_what_the_devices_say(tmp_path):
    samples = doctor(tmp_path, "hot")
    assert samples["present"] and len(samples["devices"]) == 2 and samples["devices"][0]["throttled"]
    assert samples["devices"][0]["memory_used_bytes"] == 600
    assert 'samples    0 Fake "GPU", 0.6 kB of 1.0 kB in use, 61 C' in doctor(tmp_path, json_out=False)
    samples = doctor(tmp_path, "nvml-blank")
    assert "memory_used_bytes" not in samples["devices"][0] and "throttled" not in samples["devices"][0]
    samples = doctor(tmp_path, "nvml-fails")
    assert not samples["present"] and "no driver is loaded" in samples["reason"]
    samples = doctor(tmp_path, "nvml-hangs")  # five seconds
    assert not samples["present"] and "hangs" in samples["reason"] and samples["remedy"]
