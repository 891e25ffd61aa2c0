# SPDX-License-Identifier: Apache-2.0
"""The classify task against Pillow + numpy + Python's onnxruntime: the input tensor to the bit, the same top-5 in the same
order, probabilities within 1e-5, on every test photograph; models of other precisions by their defaults; and what a
spillway.json that is wrong is told."""
import json
import os
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageOps

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SPILLWAY_BUILD", os.path.join(ROOT, "build"))
ASSETS = os.path.abspath(os.environ.get("SPILLWAY_ASSETS", os.path.join(ROOT, "..", "shared", "assets")))
TOOL = os.path.join(BUILD, "tests", "task", "classify_tool")
REPOSITORY = os.path.join(ROOT, "var", "models")
DEFAULT = "efficientnet-lite0"
IMAGES = os.path.join(ASSETS, "media", "images")
KNOWN = {"airliner.jpeg": 404, "bee.jpeg": 309, "golden_retriever.jpeg": 207, "zebra.jpeg": 340, "peacock.jpeg": 84,
         "kitten_224.png": None}
IMAGENET = {"divisor": 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "filter": "bilinear"}


def photographs():
    if not os.path.isdir(IMAGES):
        pytest.skip(f"SPILLWAY_ASSETS has no media/images ({ASSETS})")
    return [os.path.join(IMAGES, name) for name in sorted(os.listdir(IMAGES))]


def default_model():
    path = os.path.join(REPOSITORY, DEFAULT, "1", "model.onnx")
    if not os.path.exists(path):
        pytest.skip("the default model is not there (make model)")
    return path


def run_tool(repository, model, batch, files, tensors=None):
    env = dict(os.environ)
    if tensors:
        env["SPILLWAY_TENSORS"] = str(tensors)
    done = subprocess.run([TOOL, str(repository), model, str(batch), *files], env=env, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    assert done.returncode == (1 if "failed" in lines[-1] else 0), done.stderr
    return lines


def reference_tensor(path, settings, size=224):
    """The recipe, in Pillow and numpy, each f32 operation rounded on its own."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    w, h = image.size
    short = settings.get("resize", [256, 256])[0]
    scaled = (short, int(short * h / w)) if w <= h else (int(short * w / h), short)
    how = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}[settings["filter"]]
    image = image.resize(scaled, how) if scaled != image.size else image
    left, top = int(round((scaled[0] - size) / 2.0)), int(round((scaled[1] - size) / 2.0))
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32)
    mean, std = np.array(settings["mean"], np.float32), np.array(settings["std"], np.float32)
    return np.ascontiguousarray(((pixels / np.float32(settings["divisor"]) - mean) / std).transpose(2, 0, 1))


def softmax(logits):
    e = np.exp(logits.astype(np.float64) - logits.max())
    return e / e.sum()


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(answer, probabilities, within):
    order = np.argsort(-probabilities, kind="stable")[:5]
    assert [p["class_id"] for p in answer["predictions"]] == list(order)
    assert np.abs(np.array([p["probability"] for p in answer["predictions"]]) - probabilities[order]).max() <= within


@pytest.mark.parametrize("batch", [1, 4])
def test_every_photograph_as_the_reference(tmp_path, batch):
    model = default_model()
    files = photographs()
    settings = json.load(open(os.path.join(REPOSITORY, DEFAULT, "spillway.json")))["preprocess"]
    head, *answers = run_tool(REPOSITORY, DEFAULT, batch, files, tmp_path)
    assert head["classes"] == 1000 and head["max_batch"] == batch and not head["probabilities"]
    assert len(answers) == len(files)
    session = session_of(model)
    labels = open(os.path.join(REPOSITORY, DEFAULT, "labels.txt")).read().splitlines()
    for i, (path, answer) in enumerate(zip(files, answers)):
        want = reference_tensor(path, settings)
        got = np.fromfile(tmp_path / f"tensor-{i}.bin", np.float32).reshape(want.shape)
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), f"tensor of {path}"
        logits = session.run(None, {session.get_inputs()[0].name: want[None]})[0][0]
        check(answer, softmax(logits), 1e-5)
        for prediction in answer["predictions"]:
            assert prediction["label"] == labels[prediction["class_id"]]
        name = os.path.basename(path)
        if KNOWN.get(name):
            assert answer["predictions"][0]["class_id"] == KNOWN[name], name
        if name == "kitten_224.png":
            assert answer["predictions"][0]["class_id"] in range(281, 286)  # the domestic cats


def bare_repository(tmp_path, asset, **settings):
    """A repository of one model, without spillway.json unless settings are given."""
    source = os.path.join(ASSETS, "models", asset)
    if not os.path.exists(source):
        pytest.skip(f"SPILLWAY_ASSETS has no models/{asset}")
    where = tmp_path / "repository" / "m"
    (where / "1").mkdir(parents=True)
    shutil.copy(source, where / "1" / "model.onnx")
    if settings:
        (where / "spillway.json").write_text(json.dumps(settings))
    return tmp_path / "repository", source


@pytest.mark.parametrize("asset, dtype, within", [("squeezenet_fp16.onnx", np.float16, 2e-3),
                                                  ("shufflenet-v2-12-int8.onnx", np.float32, 1e-5)])
def test_without_a_description_the_defaults_are_imagenets(tmp_path, asset, dtype, within):
    repository, path = bare_repository(tmp_path, asset)
    files = photographs()[:4]
    head, *answers = run_tool(repository, "m", 1, files, tmp_path)
    assert head["precision"] == ("fp16" if dtype == np.float16 else "fp32")
    session = session_of(path)
    for i, (file, answer) in enumerate(zip(files, answers)):
        want = reference_tensor(file, IMAGENET).astype(dtype)
        got = np.fromfile(tmp_path / f"tensor-{i}.bin", dtype).reshape(want.shape)
        assert got.tobytes() == want.tobytes(), f"tensor of {file}"
        row = session.run(None, {session.get_inputs()[0].name: want[None]})[0].reshape(-1).astype(np.float32)
        assert head["probabilities"] == bool(abs(float(row.sum()) - 1) < 1e-2 and row.min() >= 0)
        check(answer, row if head["probabilities"] else softmax(row), within)


@pytest.mark.parametrize("settings, words", [
    ({"taks": "classify"}, ["spillway.json", "taks"]),
    ({"task": "read"}, ["spillway.json", "task", "classify, detect"]),
    ({"preprocess": {"filter": "nearest"}}, ["preprocess.filter", "bilinear, bicubic, plain"]),
    ({"preprocess": {"std": [1, 0, 1]}}, ["preprocess.std", "other than 0"]),
    ({"preprocess": {"mean": [1, 2]}}, ["preprocess.mean", "three"]),
    ({"preprocess": {"crop": [200, 200]}}, ["preprocess.crop", "224x224"]),
    ({"preprocess": {"crop": [224, 224], "resize": [100, 100]}}, ["crop"]),
    ({"preprocess": {"dtype": "f16"}}, ["preprocess.dtype"]),
    ({"preprocess": []}, ["preprocess", "object"]),
    ({"input": "nothing"}, ["input", "data_0"]),
    ({"output": "nothing"}, ["output", "nothing"]),
    ({"labels": "none.txt"}, ["labels", "none.txt"]),
    ({"labels": "../../etc/passwd"}, ["labels", "beside"]),
    ({"max_batch": 0}, ["max_batch", "1"]),
    ({"max_batch": 1.5}, ["max_batch"]),
    ({"output_kind": 3}, ["output_kind", "logits"]),
])
def test_a_wrong_description_names_file_and_key(tmp_path, settings, words):
    repository, _ = bare_repository(tmp_path, "light_squeezenet.onnx", **settings)
    answer = run_tool(repository, "m", 1, [])[-1]
    assert answer["status"] == "invalid"
    for word in words:
        assert word in answer["message"], answer["message"]


@pytest.mark.parametrize("text, words", [("{", ["spillway.json:1"]), ('{"task":"classify","task":"classify"}', ["duplicate"]),
                                         ("[]", ["object"]), ('{"task":"\xff"}', ["0xff"])])
def test_what_is_no_json_says_where(tmp_path, text, words):
    repository, _ = bare_repository(tmp_path, "light_squeezenet.onnx")
    (repository / "m" / "spillway.json").write_bytes(text.encode("latin-1"))
    answer = run_tool(repository, "m", 1, [])[-1]
    assert answer["status"] == "invalid"
    for word in words:
        assert word in answer["message"], answer["message"]


def test_labels_must_count_as_the_classes_do(tmp_path):
    repository, _ = bare_repository(tmp_path, "light_squeezenet.onnx")
    (repository / "m" / "labels.txt").write_text("one\ntwo\n")
    answer = run_tool(repository, "m", 1, [])[-1]
    assert answer["status"] == "invalid" and "2 labels" in answer["message"] and "1000" in answer["message"]


def test_a_model_that_is_no_classifier_is_told_so(tmp_path):
    repository, _ = bare_repository(tmp_path, "silero_vad.onnx")
    answer = run_tool(repository, "m", 1, [])[-1]
    assert answer["status"] == "invalid" and "one input" in answer["message"]


def test_missing_and_damaged_models(tmp_path):
    (tmp_path / "empty").mkdir()
    assert run_tool(tmp_path / "empty", "m", 1, [])[-1]["status"] == "not_found"
    assert run_tool(tmp_path / "nowhere", "m", 1, [])[-1]["status"] == "not_found"
    repository, path = bare_repository(tmp_path, "light_squeezenet.onnx")
    for name in ("../m", ".", "x" * 200, ""):
        assert run_tool(repository, name, 1, [])[-1]["status"] == "not_found"
    whole = open(path, "rb").read()
    model = repository / "m" / "1" / "model.onnx"
    os.chmod(model, 0o644)
    for damaged in (b"", b"no model", whole[:len(whole) // 3]):
        model.write_bytes(damaged)
        assert run_tool(repository, "m", 1, [])[-1]["status"] == "corrupt"


def test_the_highest_version_is_taken(tmp_path):
    repository, path = bare_repository(tmp_path, "light_squeezenet.onnx")
    for version in ("10", "9", "x11", "12"):  # 12 has no model.onnx
        (repository / "m" / version).mkdir()
        if version != "12":
            shutil.copy(path, repository / "m" / version / "model.onnx")
    os.chmod(repository / "m" / "9" / "model.onnx", 0o644)
    (repository / "m" / "9" / "model.onnx").write_bytes(b"would be corrupt")
    os.remove(repository / "m" / "1" / "model.onnx")
    assert run_tool(repository, "m", 1, [])[-1]["classes"] == 1000


def test_dynamic_quantisation_is_never_batched(tmp_path):
    """Its scale is taken over the whole tensor, batch included: neighbours would change the answer."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    rng = np.random.default_rng(7)
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("DynamicQuantizeLinear", ["f"], ["q", "s", "z"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             helper.make_node("MatMul", ["d", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(rng.standard_normal((3, 10)).astype(np.float32), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    where = tmp_path / "repository" / "m" / "1"
    where.mkdir(parents=True)
    onnx.save(model, str(where / "model.onnx"))
    assert run_tool(tmp_path / "repository", "m", 8, [])[-1]["max_batch"] == 1
