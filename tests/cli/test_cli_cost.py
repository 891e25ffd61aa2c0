# SPDX-License-Identifier: Apache-2.0
"""spillway cost: the published example to the cent, prices from files, and what is said of bad input."""
import json

import pytest


def costs(run, *words):
    done = run("cost", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_thousand_minutes(run):
    table = costs(run, "--sessions", 1000, "--seconds", 60)
    assert table["minutes"] == 1000
    assert table["api"]["per_minute"] == 0.006 and table["api"]["cost"] == 6.00
    l4 = table["devices"][0]
    assert l4["device"] == "l4" and l4["speed"] == 15 and l4["per_hour"] == 0.20
    assert round(l4["hours"], 2) == 1.11 and round(l4["cost"], 2) == 0.22
    assert l4["cost_all_day"] == 4.80 and l4["break_even_sessions_per_day"] == 800


def test_the_same_as_text(run):
    text = run("cost", "--sessions", 1000, "--seconds", 60).stdout
    assert "1,000 sessions of 60 s: 1,000 minutes" in text
    rows = {line.split("  ")[1]: line for line in text.splitlines() if line.startswith("  ")}
    assert "$6.00" in rows["whisper-api"]
    assert "1.11 h" in rows["l4 at 15x, by the second"] and "$0.22 " in rows["l4 at 15x, by the second"]
    assert "$4.80" in rows["l4 at 15x, rented all day"] and "24 h" in rows["l4 at 15x, rented all day"]
    assert "from 800 sessions of 60 s a day on" in text and "2026-11-01" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_several_devices_each_at_its_speed(run):
    table = costs(run, "--device", "l4,t4=8,a100=60", "--speed", "20")
    assert [(d["device"], d["speed"], d["per_hour"]) for d in table["devices"]] == [
        ("l4", 20, 0.2), ("t4", 8, 0.5), ("a100", 60, 4.0)]


def test_a_device_that_never_pays_says_so(run):
    assert costs(run, "--per-hour", 100)["devices"][0]["break_even_sessions_per_day"] == -1
    assert "break-even  none for l4" in run("cost", "--per-hour", 100).stdout


def test_own_prices(run, tmp_path):
    (tmp_path / "rates.yaml").write_text("l4: {per_hour: 0.35}\nours: {per_minute: 0.01, as_of: 2026-10-01}\n")
    table = costs(run, "--rates", tmp_path / "rates.yaml", "--api", "ours")
    assert table["devices"][0]["per_hour"] == 0.35 and table["api"]["cost"] == 10 and table["api"]["as_of"] == "2026-10-01"
    (tmp_path / "spillway.yaml").write_text("rates: rates.yaml\n")
    assert costs(run, "--config", tmp_path / "spillway.yaml", "--api", "ours") == table
    table = costs(run, "--device", "h100=200", "--per-hour", "$2.50", "--api", "theirs", "--api-per-minute", ".0043")
    assert table["api"]["cost"] == 4.3 and table["devices"][0]["per_hour"] == 2.5


@pytest.mark.parametrize("words, said", [
    (["--device", "h100"], "--device 'h100' has no price per hour; known are cpu, l4"),
    (["--device", "whisper-api"], "has no price per hour"),
    (["--api", "l4"], "--api 'l4' has no price per minute; known are whisper-api"),
    (["--device", "l4,,t4"], "is no device's name"),
    (["--device", "l4=fast"], "the speed after = in --device"),
    (["--speed", "0"], "--speed must be a number above 0"),
    (["--speed", "nan"], "--speed must be"),
    (["--seconds", "-5"], "--seconds must be"),
    (["--per-hour", "cheap"], "--per-hour must be a price in dollars"),
    (["--sessions", "many"], "--sessions must be a whole number"),
    (["--rates", "/nowhere/rates.yaml"], "/nowhere/rates.yaml"),
    (["extra"], "one word too many"),
])
def test_bad_input_is_named(run, words, said):
    done = run("cost", *words)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_a_configuration_that_is_not_there(run):
    done = run("cost", "--config", "/nowhere/spillway.yaml")
    assert done.returncode == 3 and "/nowhere/spillway.yaml" in done.stderr
