# SPDX-License-Identifier: Apache-2.0
"""Help, versions, and every way to call the program wrongly: the message names what was wrong, the exit code is 2."""
import json
import subprocess

import pytest

COMMANDS = ["serve", "classify", "doctor", "models", "pull", "chaos", "cost", "version"]


def test_without_a_command_help_goes_to_stderr(run):
    done = run()
    assert done.returncode == 2 and done.stdout == "" and "usage: spillway COMMAND" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_and_the_exit_codes(run, words):
    done = run(*words)
    assert done.returncode == 0 and done.stderr == ""
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    assert "\n  worker" not in done.stdout
    for code in "0123":
        assert f"\n  {code}  " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(run, command):
    for words in ([command, "--help"], ["help", command], [command, "-h"]):
        done = run(*words)
        assert done.returncode == 0 and done.stderr == ""
        assert done.stdout.startswith(f"usage: spillway {command}")
        assert f"examples:\n  spillway {command}" in done.stdout or f"\n  spillway {command}" in done.stdout
        assert "exit codes:" in done.stdout
        assert all(len(line) <= 100 for line in done.stdout.splitlines())


@pytest.mark.parametrize("words, said", [
    (["serv"], "unknown command 'serv', did you mean 'serve'?"),
    (["modles"], "unknown command 'modles', did you mean 'models'?"),
    (["frobnicate"], "unknown command 'frobnicate' (spillway --help"),
    (["--frobnicate"], "unknown option '--frobnicate'"),
    (["serve", "--http-prt", "1"], "unknown option '--http-prt', did you mean '--http-port'?"),
    (["serve", "--http_port=1"], "unknown option '--http_port', did you mean '--http-port'?"),
    (["serve", "--zzzzzzzzzzzz"], "unknown option '--zzzzzzzzzzzz' (spillway serve --help"),
    (["serve", "-x"], "unknown option '-x'"),
    (["serve", "--http-port"], "--http-port needs a value: --http-port PORT"),
    (["serve", "--http-port", "http"], "--http-port must be a whole number from 0 to 65535, not 'http'"),
    (["serve", "--http-port", "65536"], "--http-port must be a whole number from 0 to 65535, not '65536'"),
    (["serve", "--http-port", "-1"], "--http-port must be a whole number from 0 to 65535, not '-1'"),
    (["serve", "--http-port", "99999999999999999999"], "--http-port must be a whole number"),
    (["serve", "--grpc-port", "70000"], "--grpc-port must be a whole number from -1 to 65535"),
    (["serve", "--model", ""], "--model needs a value that is not empty"),
    (["serve", "--require-sandbox=yes"], "--require-sandbox takes no value"),
    (["serve", "extra"], "'extra' is one word too many"),
    (["serve", "--log-level", "loud"], "--log-level: must be debug, info, warn or error, not 'loud'"),
    (["version", "--jsn"], "unknown option '--jsn', did you mean '--json'?"),
    (["pull"], "NAME is missing"),
    (["pull", "a", "b"], "'b' is one word too many"),
    (["classify"], "FILE... is missing"),
    (["help", "serv"], "unknown command 'serv', did you mean 'serve'?"),
])
def test_wrong_calls_name_what_was_wrong(run, words, said):
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, "one line"
    assert done.stdout == ""


def test_version(run):
    as_text, as_json = run("version"), run("version", "--json")
    assert as_text.returncode == as_json.returncode == 0
    parsed = json.loads(as_json.stdout)
    assert as_text.stdout.startswith(f"spillway {parsed['version']}\n")
    assert run("--version").stdout == as_text.stdout


def test_a_worker_by_hand_says_who_starts_workers(run):
    for words in ([], ["--kind", "codec", "--name", "codec0"]):
        done = run("worker", *words)
        assert done.returncode == 2 and "`spillway serve` starts workers" in done.stderr


def test_faults_that_cannot_be_read_are_a_usage_error(run):
    done = run("version", env={"SPILLWAY_FAULTS": "engine.run:explode"})
    assert done.returncode == 2 and ("explode" in done.stderr or "SPILLWAY_FAULTS" in done.stderr)


@pytest.mark.parametrize("text, said", [
    ("htp_port: 1\n", ":1: htp_port: unknown key; did you mean http_port?"),
    ("http_port: 0\n# a remark\nworkers: [codec0]\nhtp_port: 1\n", ":4: htp_port: unknown key; did you mean http_port?"),
    ("http_port: many\n", ":1: http_port: must be a whole number, not 'many'"),
    ("http_port: 70000\n", ":1: http_port: must be from 0 to 65535, not 70000"),
    ("metrics_port: -2\n", ":1: metrics_port: must be from -1 to 65535, not -2"),
    ("drain_delay: -1\n", ":1: drain_delay: must be whole seconds from 0s to 1h, not '-1'"),
    ("bind: ''\n", ":1: bind: is an empty text; leave the key out instead"),
    ("http_port: [\n", ":2: not YAML: "),
    ("workers: {a: b}\n", ":1: workers: must be a list"),
    ("- a\n- b\n", ":1: must be a map"),
    ("http_port: 1\nhttp_port: 2\n", ":2: http_port: written twice, first in line 1"),
    ("log_level: loud\n", ":1: log_level: must be debug, info, warn or error, not 'loud'"),
    ("bind: &a localhost\nmodel: *a\n", ":2: aliases (*a) are not read; write the value out"),
    ("workers: [" + ", ".join(f"cpu{i}" for i in range(17)) + "]\n", ":1: workers[16]: more than 16 workers"),
])
def test_configuration_files_that_cannot_be(run, tmp_path, text, said):
    path = tmp_path / "spillway.yaml"
    path.write_text(text)
    done = run("serve", "--http-port", "0", "--metrics-port", "0", "--config", path)
    assert done.returncode == 2 and done.stdout == ""
    assert f"{path}{said}" in done.stderr and done.stderr.count("\n") == 1


def test_all_mistakes_of_a_configuration_are_told(run, tmp_path):
    path = tmp_path / "spillway.yaml"
    path.write_text("htp_port: 1\nchains:\n  classify:\n    links: [cuda0]\n")
    done = run("serve", "--config", path, env={"SPILLWAY_SPIN_US": "never", "USE_GPU_PIPELINE": "maybe"})
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "SPILLWAY_SPIN_US: must be a whole number, not 'never'",
        "USE_GPU_PIPELINE: must be true or false, not 'maybe'",
        f"{path}:1: htp_port: unknown key; did you mean http_port?",
        f"{path}:4: chains.classify.links[0].name: no worker or remote is named 'cuda0'; add it to workers or to remotes",
        "spillway serve: 4 errors in the configuration; nothing was started",
    ]


def test_a_configuration_file_that_is_not_there(run, tmp_path):
    done = run("serve", "--config", tmp_path / "none.yaml")
    assert done.returncode == 2 and "cannot read the configuration file" in done.stderr and "No such file" in done.stderr


def test_the_program_carries_no_codec_no_engine_no_downloader(program):
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for library in ("onnxruntime", "avcodec", "avformat", "turbojpeg", "webp", "spng", "curl", "spillway_media"):
        assert library not in linked
