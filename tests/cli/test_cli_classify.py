# SPDX-License-Identifier: Apache-2.0
"""`spillway classify`: real photographs, bad files among good ones, JSON, the progress line."""
import json
import os
import pathlib
import pty
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", TREE.parent / "shared/assets")) / "media/images"
RIGHT = {"airliner.jpeg": 404, "bee.jpeg": 309, "golden_retriever.jpeg": 207, "kitten_224.png": 281, "peacock.jpeg": 84,
         "zebra.jpeg": 340}


@pytest.fixture(scope="module")
def pictures():
    if not ASSETS.is_dir():
        pytest.skip(f"no pictures at {ASSETS} (SPILLWAY_ASSETS)")
    if not (TREE / "var/models/efficientnet-lite0/1/model.onnx").exists():
        pytest.skip("var/models has no efficientnet-lite0; `make model` fetches it")
    return ASSETS


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_photographs_are_what_they_are(run, pictures):
    done = run("classify", "--json", *(pictures / name for name in RIGHT))
    assert done.returncode == 0 and done.stderr == ""
    for told, (name, class_id) in zip(lines(done), RIGHT.items(), strict=True):
        assert told["file"] == str(pictures / name)
        assert told["model"] == "efficientnet-lite0" and told["provider"] == "cpu" and told["precision"] == "fp32"
        best = told["predictions"]
        assert len(best) == 5 and best[0]["class_id"] == class_id and best[0]["label"]
        assert [p["probability"] for p in best] == sorted((p["probability"] for p in best), reverse=True)
        assert set(told["latency_ms"]) == {"decode", "preprocess", "inference", "postprocess", "total"}


def test_the_table_is_for_people(run, pictures):
    done = run("classify", "-k", "2", pictures / "zebra.jpeg")
    assert done.returncode == 0
    first, best, second, times = done.stdout.splitlines()
    assert first.endswith("zebra.jpeg") and " %  ##" in best and best.endswith("zebra (340)") and "%" in second
    assert " ms on cpu: decode " in times


@pytest.mark.parametrize("top_k", [1, 100])
def test_top_k(run, pictures, top_k):
    assert len(lines(run("classify", "--json", "--top-k", top_k, pictures / "bee.jpeg"))[0]["predictions"]) == top_k
    done = run("classify", "--top-k", "101", "x")
    assert done.returncode == 2 and "--top-k must be a whole number from 1 to 100" in done.stderr


def test_standard_input(program, pictures):
    with open(pictures / "bee.jpeg", "rb") as file:
        done = subprocess.run([program, "classify", "--json", "-"], stdin=file, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["predictions"][0]["class_id"] == RIGHT["bee.jpeg"]


def test_bad_files_do_not_stop_good_ones(run, pictures, tmp_path):
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes((pictures / "bee.jpeg").read_bytes()[:3000])
    with open(tmp_path / "huge.jpg", "wb") as huge:
        huge.truncate(33 * 1024 * 1024)
    names = ["none.jpg", "text.jpg", "empty.png", "cut.jpg", "huge.jpg", "."]
    done = run("classify", "--json", *(tmp_path / name for name in names), pictures / "zebra.jpeg")
    assert done.returncode == 1
    told = lines(done)
    assert [answer.get("status") for answer in told] == ["not_found", "invalid", "invalid", "invalid", "too_large",
                                                         "invalid", None]
    assert told[1]["code"] == "unknown_format" and told[-1]["predictions"][0]["class_id"] == RIGHT["zebra.jpeg"]
    complaints = done.stderr.splitlines()
    assert len(complaints) == len(names)
    for name, complaint, answer in zip(names, complaints, told):
        assert complaint.startswith(f"spillway classify: {tmp_path / name}: ") or name == "."
        assert answer["error"] and answer["error"] in complaint


def test_models_that_are_not_there(run, pictures, tmp_path):
    picture = pictures / "bee.jpeg"
    for words in (["--model", "resnet999"], ["--model-repository", tmp_path], ["--model-repository", tmp_path / "none"]):
        done = run("classify", *words, picture)
        assert done.returncode == 3 and done.stdout == "" and "spillway doctor" in done.stderr
    (tmp_path / "broken/1").mkdir(parents=True)
    (tmp_path / "broken/1/model.onnx").write_bytes(b"this is no model")
    done = run("classify", "--model-repository", tmp_path, picture)
    assert done.returncode == 1 and "[onnxruntime]" in done.stderr


def test_missing_plug_ins(run, pictures, tmp_path):
    done = run("classify", pictures / "bee.jpeg", env={"SPILLWAY_PLUGINS": str(tmp_path)})
    assert done.returncode == 3 and str(tmp_path) in done.stderr


def test_an_unknown_provider(run, pictures):
    done = run("classify", "--provider", "abacus", pictures / "bee.jpeg")
    assert done.returncode in (1, 3) and "abacus" in done.stderr


def test_fast_decoding_changes_little(run, pictures):
    exact, fast = (lines(run("classify", "--json", *words, pictures / "coco.jpg"))[0] for words in ([], ["--fast"]))
    assert exact["predictions"][0]["class_id"] == fast["predictions"][0]["class_id"]


def test_closed_output_is_an_error(program, pictures):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program, "classify", "--json"] + [str(pictures / "bee.jpeg")] * 40, stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "cannot write the answers" in done.stderr


def on_a_terminal(words):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return process.wait(60), shown.decode()


def test_the_progress_line_is_for_many_files_on_a_terminal(program, pictures):
    one = [program, "classify", "--json", str(pictures / "bee.jpeg")]
    assert on_a_terminal(one) == (0, "")
    code, shown = on_a_terminal(one + [str(pictures / "zebra.jpeg")] * 3)
    assert code == 0 and "classify [" in shown and " of 4 " in shown and shown.endswith("\r\x1b[K")
