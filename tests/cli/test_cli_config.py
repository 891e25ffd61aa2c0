# SPDX-License-Identifier: Apache-2.0
"""`spillway config` and `spillway token`: what people see of a configuration without starting a server."""
import hashlib
import pathlib

import yaml

TREE = pathlib.Path(__file__).resolve().parents[2]


def test_the_example_is_good(run):
    done = run("config", "check", TREE / "deploy/spillway.yaml")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == f"{TREE}/deploy/spillway.yaml: good: 5 chains, 0 remotes, 0 tokens\n"


def test_check_prints_every_complaint_a_line(run, tmp_path):
    (tmp_path / "spillway.yaml").write_text("chains:\n  classify:\n    links:\n      - {name: cpu0, timout: 2s}\n"
                                            "tokens:\n  - {name: a, sha256: abc}\nbind: [1]\n")
    done = run("config", "check", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.splitlines() == [
        "spillway.yaml:4: chains.classify.links[0].timout: unknown key; did you mean timeout?",
        "spillway.yaml:6: tokens[0].sha256: must be the 64 hex digits of the token's SHA-256 (spillway token new prints them)",
        "spillway.yaml:7: bind: must be a single value, not a list",
    ]


def test_a_warning_does_not_fail_the_check(run, tmp_path):
    digest = hashlib.sha256(b"x").hexdigest()
    (tmp_path / "w.yaml").write_text("chains:\n  classify:\n    links:\n      - {name: cpu0, when: 'tier in [premum]'}\n"
                                     f"tokens:\n  - {{name: a, sha256: {digest}, tier: premium}}\n")
    done = run("config", "check", "w.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == ("w.yaml:4: warning: chains.classify.links[0].when: no token has the tier 'premum'\n"
                           "w.yaml: good: 1 chain, 0 remotes, 1 token\n")


def test_kinds_of_workers_that_are_none(run, tmp_path):
    (tmp_path / "k.yaml").write_text("workers: [codec0, cpu0, abacus0]\n")
    done = run("config", "check", "k.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "k.yaml: workers: there is no kind of worker 'abacus' (docs/cli.md has all)\n"


def test_show_reads_back_and_hides_passwords(run, tmp_path):
    (tmp_path / "s.yaml").write_text("preset: by-load\nworkers: [codec0, cuda0, cpu0, net0]\n"
                                     "remotes:\n  hq:\n    kind: spillway\n    url: http://hq:8000\n"
                                     "    keys: [{env: HQ_SECRET}]\n"
                                     "jobs: {redis: 'redis://user:hunter2@h:6379/0'}\n"
                                     "results: {mongodb: 'mongodb://u:hunter3@h'}\n")
    done = run("config", "show", "s.yaml", cwd=tmp_path, env={"HQ_SECRET": "hunter4"})
    assert done.returncode == 0 and "hunter" not in done.stdout
    shown = yaml.safe_load(done.stdout)
    assert shown["jobs"]["redis"] == "redis://user:***@h:6379/0" and shown["results"]["mongodb"] == "mongodb://u:***@h"
    assert shown["remotes"]["hq"]["keys"][0]["env"] == "HQ_SECRET"
    links = shown["chains"]["classify"]["links"]
    assert [link["name"] for link in links] == ["cuda0", "cpu0", "hq"]
    assert links[0]["when"] == ["queue_depth > 10"] and "when" not in links[1]
    (tmp_path / "again.yaml").write_text(done.stdout)
    assert run("config", "show", "again.yaml", cwd=tmp_path).stdout == done.stdout


def test_the_environment_goes_before_the_file(run, tmp_path):
    (tmp_path / "e.yaml").write_text("http_port: 1\nworkers: [codec0, cuda0, cpu0]\npreset: gpu-for-all\n")

    def shown(**env):
        return yaml.safe_load(run("config", "show", "e.yaml", cwd=tmp_path, env=env).stdout)

    assert shown()["http_port"] == 1
    with_env = shown(SPILLWAY_HTTP_PORT="2", SPILLWAY_TRUSTED_PEERS="10.0.0.0/8,::1", SPILLWAY_DRAIN_DELAY="3")
    assert with_env["http_port"] == 2 and with_env["trusted_peers"] == ["10.0.0.0/8", "::1"] and with_env["drain_delay"] == "3s"
    for off in ("0", "false", "no"):
        cpu = shown(USE_GPU_PIPELINE=off)
        assert cpu["workers"] == ["codec0", "cpu0"] and cpu["use_gpu"] is False
        assert [link["name"] for link in cpu["chains"]["classify"]["links"]] == ["cpu0"]
    assert [link["name"] for link in shown(USE_GPU_PIPELINE="1")["chains"]["classify"]["links"]] == ["cuda0", "cpu0"]


def test_show_without_a_file_is_the_defaults(run):
    shown = yaml.safe_load(run("config", "show").stdout)
    assert shown["http_port"] == 8000 and shown["admin_port"] == -1 and "chains" not in shown
    assert shown["rates"]["whisper-api"]["per_minute"] == 0.006


def test_a_new_token_fits_its_lines(run, tmp_path):
    done = run("token", "new", "--name", "o'web", "--scopes", "infer,metrics", "--tier", "premium", "--rate", "5",
               "--requests-per-day", "9", "--expires", "2027-01-31", "--local-only")
    assert done.returncode == 0
    token, _, lines = done.stdout.split("\n", 2)
    assert token.startswith("sw_") and len(token) == 3 + 43
    row, = yaml.safe_load(lines)
    assert row["sha256"] == hashlib.sha256(token.encode()).hexdigest() and row["name"] == "o'web"
    assert row["scopes"] == ["infer", "metrics"] and row["local_only"] is True
    (tmp_path / "t.yaml").write_text("tokens:\n" + lines)
    assert run("config", "check", tmp_path / "t.yaml").returncode == 0
    assert run("token", "new", "--name", "a").stdout.split("\n")[0] != token


def test_token_options_that_cannot_be(run):
    for words, said in ((["--name", "a", "--scopes", "root"], "scopes[0]: must be infer, admin or metrics, not 'root'"),
                        (["--name", "a", "--rate", "fast"], "rate_per_s: must be a number, not 'fast'"),
                        (["--name", "a" * 60], "name: longer than 47 bytes"),
                        (["--scopes", "infer"], "--name is missing"),
                        (["--name", "a", "--scopes", "infer]\n    name: b"], "name: written twice")):
        done = run("token", "new", *words)
        assert done.returncode == 2 and said in done.stderr and done.stdout == ""
    assert run("token", "old").returncode == 2 and run("config", "look").returncode == 2


def test_files_that_are_none(run, tmp_path):
    assert "is a directory" in run("config", "check", tmp_path).stderr
    done = run("config", "check", tmp_path / "none.yaml")
    assert done.returncode != 0 and "No such file" in done.stderr
    (tmp_path / "big.yaml").write_text("#" * (1 << 20) + "\n#\n")
    assert "larger than 1 MiB" in run("config", "check", tmp_path / "big.yaml").stdout
