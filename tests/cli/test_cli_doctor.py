# SPDX-License-Identifier: Apache-2.0
"""`spillway doctor`: every cause for a GPU that cannot be used, on fake trees, and the rest on this machine."""
import json
import os
import pathlib
import tempfile

import pytest

MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Jan  1 00:00:00 UTC 2026\nGCC version:  gcc version 12.2.0\n"
LIB = "usr/lib/x86_64-linux-gnu"


class Tree:
    """A fake root: what a machine with some GPU looks like in /proc, /sys, /dev and the library directories."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def file(self, path, text=""):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return self

    def pci(self, address="0000:01:00.0", vendor="0x10de", kind="0x030200"):
        self.file(f"sys/bus/pci/devices/{address}/vendor", vendor + "\n")
        return self.file(f"sys/bus/pci/devices/{address}/class", kind + "\n")

    def module(self, version="535.104.05"):
        return self.file("proc/driver/nvidia/version", MODULE.format(version))

    def nodes(self, count=1):
        for i in range(count):
            self.file(f"dev/nvidia{i}")
        self.file("dev/nvidia-uvm")
        return self.file("dev/nvidiactl")

    def library(self, version="535.104.05", directory=LIB):
        self.file(f"{directory}/libcuda.so.{version}")
        os.symlink(f"libcuda.so.{version}", self.root / directory / "libcuda.so.1")
        return self

    def runtime(self, version):
        return self.file(f"{LIB}/libcudart.so.{version}")

    def wsl(self):
        return self.file("proc/version", "Linux version 5.15.146.1-microsoft-standard-WSL2 (root@x) #1 SMP\n")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    return Tree(root)


@pytest.fixture
def look(run, tree, tmp_path):
    """Returns what doctor says of the GPU of the fake tree, after checking that the table says the same."""

    def call():
        env = {"SPILLWAY_PROBE_ROOT": str(tree.root), "SPILLWAY_MODELS": str(tmp_path / "none")}
        gpu = json.loads(run("doctor", "--json", env=env).stdout)["gpu"]
        table = run("doctor", env=env).stdout
        assert gpu["reason"] in table and gpu["remedy"] in table
        assert f"(looking below {tree.root})" in table
        assert ("not usable: " + gpu["reason"] in table) == (gpu["cause"] not in ("present", "no_gpu"))
        return gpu

    return call


def absent(gpu, cause, reason, remedy):
    assert gpu["cause"] == cause and not gpu["present"]
    assert reason in gpu["reason"], gpu["reason"]
    assert remedy in gpu["remedy"], gpu["remedy"]


def test_no_gpu(look, tree):
    tree.pci(vendor="0x8086").pci("0000:02:00.0", vendor="0x1002")  # Intel and AMD graphics
    gpu = look()
    absent(gpu, "no_gpu", "no NVIDIA GPU", "")
    assert gpu["remedy"] == "" and gpu["driver"] is None


def test_the_sound_function_of_a_card_is_no_gpu(look, tree):
    tree.pci(kind="0x040300")
    absent(look(), "no_gpu", "no NVIDIA GPU", "")


def test_no_driver(look, tree):
    tree.pci("0000:65:00.0")
    absent(look(), "no_driver", "a GPU is at 0000:65:00.0, but no NVIDIA driver is loaded", "nvidia-driver")


def test_nodes_without_a_driver(look, tree):
    tree.nodes()
    absent(look(), "no_driver", "/dev/nvidia* are there, but no NVIDIA driver is loaded", "nvidia-driver")


def test_nouveau(look, tree):
    tree.pci().file("proc/modules", "snd 1 0 - Live 0x0\nnouveau 2211840 1 - Live 0x0000000000000000\n")
    absent(look(), "nouveau", "driven by nouveau", "replaces nouveau")


def test_a_module_whose_name_begins_like_nouveau_is_another(look, tree):
    tree.pci().file("proc/modules", "nouveau_helper 1 0 - Live 0x0\n")
    assert look()["cause"] == "no_driver"


def test_no_device_nodes(look, tree):
    tree.pci().module().library()
    absent(look(), "no_device_nodes", "driver 535.104.05 is loaded, but /dev/nvidia0 is missing", "nvidia-modprobe")
    tree.file("dev/nvidia0")
    absent(look(), "no_device_nodes", "/dev/nvidiactl is missing", "nvidia-modprobe")


@pytest.mark.parametrize("sign", [".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io/x"])
def test_a_container_that_was_not_given_the_gpu(look, tree, sign):
    tree.pci().module().file(sign)
    absent(look(), "not_given_to_container", "in this container", "--gpus all")


def test_a_container_known_by_its_cgroup(look, tree):
    tree.pci().module().file("proc/1/cgroup", "12:memory:/docker/0123456789abcdef\n")
    absent(look(), "not_given_to_container", "in this container", "--gpus all")


def test_nodes_that_may_not_be_opened(run):
    if os.geteuid() == 0 and not may_nobody_run(run):
        pytest.skip("root may open everything, and nobody may not run the program here")
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        tree = Tree(pathlib.Path(root)).pci().module().library().nodes()
        (tree.root / "dev/nvidia0").chmod(0)
        keywords = {"user": NOBODY} if os.geteuid() == 0 else {}
        told = json.loads(run("doctor", "--json", env={"SPILLWAY_PROBE_ROOT": root}, **keywords).stdout)
        absent(told["gpu"], "denied", "may not open /dev/nvidia*", "group")


NOBODY = 65534


def may_nobody_run(run):
    try:
        return run("version", user=NOBODY).returncode == 0
    except PermissionError:
        return False


def test_no_driver_library(look, tree):
    tree.pci().module().nodes()
    absent(look(), "no_driver_library", "libcuda.so.1 is missing", "NVIDIA_DRIVER_CAPABILITIES")


def test_driver_and_library_of_different_versions(look, tree):
    tree.pci().module("535.104.05").nodes().library("550.54.14")
    gpu = look()
    absent(gpu, "driver_library_mismatch", "the loaded driver is 535.104.05, libcuda.so.1 is of 550.54.14", "reboot")
    assert gpu["driver"] == "535.104.05" and gpu["library_version"] == "550.54.14"


@pytest.mark.parametrize("driver, runtime, says", [
    ("470.199.02", "12.4.127", "driver 470.199.02 serves CUDA up to 11.4, the installed runtime is CUDA 12"),
    ("570.86.10", "13", "driver 570.86.10 serves CUDA up to 12.8, the installed runtime is CUDA 13"),
])
def test_a_driver_too_old_for_the_runtime(look, tree, driver, runtime, says):
    tree.pci().module(driver).nodes().library(driver).runtime(runtime)
    absent(look(), "driver_too_old", says, "update the driver")


@pytest.mark.parametrize("driver, cuda", [
    ("418.40", "10.1"), ("525.60.13", "12.0"), ("535.104.05", "12.2"), ("550.54.14", "12.4"), ("580.65.06", "13.0"),
    ("390.157", None),
])
def test_present(look, tree, driver, cuda):
    tree.pci().pci("0000:02:00.0").pci("0000:01:00.1", kind="0x040300").module(driver).nodes(2).library(driver)
    gpu = look()
    assert gpu["present"] and gpu["cause"] == "present" and gpu["reason"] == gpu["remedy"] == ""
    assert gpu["count"] == 2 and gpu["driver"] == driver and gpu["driver_cuda"] == cuda
    assert gpu["library"] == f"/{LIB}/libcuda.so.1"


def test_minor_versions_of_cuda_are_compatible(look, tree):
    tree.pci().module("525.60.13").nodes().library("525.60.13").runtime("12.8.90")
    assert look()["present"]


def test_wsl_without_dxg(look, tree):
    tree.wsl()
    gpu = look()
    absent(gpu, "wsl_no_gpu", "this is WSL, but there is no /dev/dxg", "wsl --update")
    assert gpu["wsl"] and not gpu["wsl_dxg"]


def test_wsl_without_the_driver_of_windows(look, tree):
    tree.wsl().file("dev/dxg")
    absent(look(), "wsl_no_driver", "/usr/lib/wsl/lib/libcuda.so.1 is missing", "in Windows")


def test_wsl_with_a_gpu(look, tree):
    tree.wsl().file("dev/dxg").file("usr/lib/wsl/lib/libcuda.so.1")
    gpu = look()
    assert gpu["present"] and gpu["library"] == "/usr/lib/wsl/lib/libcuda.so.1" and gpu["wsl_dxg"]


def test_this_machine(run):
    done = run("doctor", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["ok"] else 3)
    assert told["ok"] == (told["problems"] == [])
    machine = told["machine"]
    assert 1 <= machine["cpu_count"] <= os.cpu_count() and machine["kernel"] == os.uname().release
    assert 0 < machine["memory_limit_bytes"] <= machine["memory_total_bytes"]
    assert machine["cpu_level"].split("+")[0] in ("scalar", "avx2", "avx512")
    assert told["sandbox"]["level"] in ("full", "partial", "none") and told["sandbox"]["detail"]
    assert told["grpc"]["present"] == (told["grpc"]["reason"] == "")
    assert told["media"]["present"] and "libjpeg-turbo" in told["media"]["versions"]
    assert told["downloads"]["present"] and told["downloads"]["versions"].startswith("libcurl ")
    engine = told["engines"][0]
    assert engine["name"] == "onnxruntime"
    for provider in engine["providers"]:
        assert provider["present"] or provider["reason"], provider
    assert run("doctor").returncode == done.returncode


def test_the_cpu_level_can_be_held_down(run):
    told = json.loads(run("doctor", "--json", env={"SPILLWAY_CPU": "scalar"}).stdout)
    assert told["machine"]["cpu_level"] == "scalar" and told["machine"]["cpu_level_limit"] == "scalar"
    assert "held down by SPILLWAY_CPU=scalar" in run("doctor", env={"SPILLWAY_CPU": "scalar"}).stdout


def test_no_model_is_a_problem_with_a_remedy(run, tmp_path):
    for directory in (tmp_path, tmp_path / "none"):
        done = run("doctor", "--json", "--model-repository", directory)
        told = json.loads(done.stdout)
        assert done.returncode == 3 and not told["ok"]
        problem = told["problems"][-1]
        assert str(directory) in problem["problem"] and "spillway pull" in problem["remedy"]
    assert "missing: no model" in run("doctor", "--model-repository", tmp_path).stdout


def test_missing_plug_ins_are_problems_with_remedies(run, tmp_path):
    done = run("doctor", "--json", env={"SPILLWAY_PLUGINS": str(tmp_path)})
    told = json.loads(done.stdout)
    assert done.returncode == 3
    said = " ".join(problem["problem"] for problem in told["problems"])
    assert "no engine can run models" in said and "pictures cannot be decoded" in said and str(tmp_path) in said
    assert all(problem["remedy"] for problem in told["problems"])
    assert not told["downloads"]["present"] and told["downloads"]["reason"]
