# SPDX-License-Identifier: Apache-2.0
"""Every entry of models/catalogue.json has the form that models/README.md promises."""
import json
import os
import re

import pytest

MODELS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "models")
with open(os.path.join(MODELS, "catalogue.json"), encoding="utf-8") as file:
    CATALOGUE = json.load(file)


def test_version_and_names():
    assert CATALOGUE["version"] == 1
    names = [entry["name"] for entry in CATALOGUE["models"]]
    assert len(set(names)) == len(names)
    assert names[0] == "efficientnet-lite0"


@pytest.mark.parametrize("entry", CATALOGUE["models"], ids=lambda entry: entry["name"])
def test_entry(entry):
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", entry["name"])
    assert re.fullmatch(r"[0-9a-f]{64}", entry["sha256"])
    assert 0 < entry["bytes"] < 1 << 31
    assert entry["licence"]
    assert ("url" in entry) != ("package" in entry)
    if "url" in entry:
        assert entry["url"].startswith("https://")
    else:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", entry["package"])
        assert os.path.exists(os.path.join(os.path.dirname(MODELS), entry["converter"]))
    settings = entry["settings"]
    assert settings["task"] == "classify"
    assert settings["output_kind"] in ("logits", "probabilities")
    assert settings["precision"] in ("fp32", "fp16", "bf16", "int8")
    prep = settings["preprocess"]
    assert prep["filter"] in ("bilinear", "bicubic", "plain")
    assert prep["fit"] in ("short_side", "stretch", "letterbox")
    assert all(crop <= size for crop, size in zip(prep["crop"], prep["resize"]))
    assert prep["dtype"] in ("f32", "f16") and prep["divisor"] > 0
    assert len(prep["mean"]) == len(prep["std"]) == 3 and all(value > 0 for value in prep["std"])


@pytest.mark.parametrize("name", sorted({entry["labels"] for entry in CATALOGUE["models"]}))
def test_labels(name):
    with open(os.path.join(MODELS, name), encoding="utf-8") as file:
        labels = file.read().split("\n")
    assert labels.pop() == "" and len(labels) == 1000
    assert all(label == label.strip() and label for label in labels)
    assert len({label.lower() for label in labels}) == 1000
    assert labels[0] == "tench" and labels[281] == "tabby" and labels[999] == "toilet tissue"
