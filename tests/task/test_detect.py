# SPDX-License-Identifier: Apache-2.0
"""The detect task, by `spillway detect`, against the models' published post-processing written again here in numpy over
Python's onnxruntime: the same boxes (within half a pixel), classes and scores (1e-4) on every test photograph; heads for which
there is no real model by small graphs that answer made-up numbers; what people see on the photographs; and what a wrong
description is told. Photographs are decoded by Pillow, which is what libjpeg-turbo gives to the bit."""
import json
import os
import pathlib
import shutil
import subprocess

import cv2
import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageOps

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared/assets")).resolve()
IMAGES = ASSETS / "media/images"
COCO = "coco.names"
REAL = {
    "yolox": ("yolox_nano.onnx", {"head": "yolox", "threshold": 0.3, "iou": 0.45, "nms": "agnostic"}),
    "nanodet": ("nanodet_m_416.onnx", {"head": "nanodet", "threshold": 0.4, "iou": 0.6}),
    "ultraface": ("ultraface-RFB-320.onnx", {"head": "ssd", "units": "fractions", "background": 0, "threshold": 0.7,
                                             "iou": 0.3}),
}
# What is on the pictures (SOURCES.tsv, and looked at): class name -> how many at least, and roughly where the surest one is.
SEEN = [
    ("yolox", "yolox_dog.jpg", {"dog": 1, "bicycle": 1, "car": 1}, ("dog", (130, 220, 315, 540))),
    ("yolox", "coco.jpg", {"dog": 1}, ("dog", (40, 175, 260, 550))),
    ("yolox", "road1.jpg", {"car": 15}, None),
    ("nanodet", "yolox_dog.jpg", {"dog": 1, "bicycle": 1}, ("dog", (130, 220, 315, 540))),
    ("nanodet", "road1.jpg", {"car": 15}, None),
    ("ultraface", "faces_1.jpg", {"face": 18}, None),
]
OVERLAP_BOUND = 0.7  # with the box that a person would draw


def spillway(repository, name, *words):
    done = subprocess.run([str(BUILD / "spillway"), "detect", "--model-repository", str(repository), "-m", name, "--json",
                           *map(str, words)], capture_output=True, text=True, timeout=120,
                          env={k: v for k, v in os.environ.items() if k != "SPILLWAY_MODELS"})
    return done, [json.loads(line) for line in done.stdout.splitlines()]


def put(repository, name, model, settings, labels=None):
    where = repository / name
    (where / "1").mkdir(parents=True)
    if isinstance(model, bytes):
        (where / "1/model.onnx").write_bytes(model)
    else:
        shutil.copy(model, where / "1/model.onnx")
    (where / "spillway.json").write_text(json.dumps(settings))
    if labels:
        (where / "labels.txt").write_text("\n".join(labels) + "\n")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    if not IMAGES.is_dir():
        pytest.skip(f"SPILLWAY_ASSETS has no media/images ({ASSETS})")
    path = tmp_path_factory.mktemp("models")
    coco = (ASSETS / "models" / COCO).read_text().split("\n")[:80]
    for name, (asset, settings) in REAL.items():
        put(path, name, ASSETS / "models" / asset, {"task": "detect", "detect": settings},
            ["background", "face"] if name == "ultraface" else coco)
    return path


def photographs():
    return sorted(IMAGES.iterdir())


def picture_of(path):
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# --- the published post-processing, in numpy ---------------------------------------------------------------------------

def nms(boxes, scores, iou):
    """Greedy, in double, one box after the other."""
    order, kept = np.argsort(-scores, kind="stable"), []
    area = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(first)
        low, high = np.maximum(boxes[first, :2], boxes[rest, :2]), np.minimum(boxes[first, 2:], boxes[rest, 2:])
        inter = np.prod(np.maximum(high - low, 0), axis=1)
        order = rest[~(inter > iou * (area[first] + area[rest] - inter))]
    return kept


def suppress(boxes, scores, classes, settings, top_k=300):
    """[(class, score, box)], best first."""
    kept = []
    groups = [np.arange(len(scores))] if settings.get("nms") == "agnostic" else [np.flatnonzero(classes == c)
                                                                                 for c in np.unique(classes)]
    for group in groups:
        kept += [group[i] for i in nms(boxes[group], scores[group], settings["iou"])]
    kept.sort(key=lambda i: (-scores[i], i))
    return [(int(classes[i]), float(scores[i]), boxes[i]) for i in kept[:top_k]]


def letterboxed(picture, side, pad, centre):
    h, w, _ = picture.shape
    ratio = min(side / w, side / h)
    size = (int(w * ratio + 1e-9), int(h * ratio + 1e-9)) if not centre else (int(w * ratio + 0.5), int(h * ratio + 0.5))
    left, top = ((side - size[0]) // 2, (side - size[1]) // 2) if centre else (0, 0)
    canvas = np.full((side, side, 3), pad, np.uint8)
    canvas[top:top + size[1], left:left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR_EXACT)
    back = np.array([w / size[0], h / size[1]] * 2)
    return canvas, np.array([left, top] * 2), back


def yolox_reference(session, picture, settings):
    canvas, shift, back = letterboxed(picture, 416, 114, centre=False)
    x = canvas[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    out = session.run(None, {session.get_inputs()[0].name: x})[0][0].astype(np.float64)
    grids, strides = [], []
    for stride in (8, 16, 32):
        n = 416 // stride
        xv, yv = np.meshgrid(np.arange(n), np.arange(n))
        grids.append(np.stack((xv, yv), 2).reshape(-1, 2))
        strides.append(np.full((n * n, 1), stride))
    grids, strides = np.concatenate(grids), np.concatenate(strides)
    centre, size = (out[:, :2] + grids) * strides, np.exp(out[:, 2:4]) * strides
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    scores = out[:, 4:5] * out[:, 5:]
    return (boxes - shift) * back, scores.max(1), scores.argmax(1)


def nanodet_reference(session, picture, settings):
    canvas, shift, back = letterboxed(picture, 416, 0, centre=True)
    mean, std = np.array([103.53, 116.28, 123.675], np.float32), np.array([57.375, 57.12, 58.395], np.float32)
    x = ((canvas[..., ::-1].astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]
    out = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})
    boxes, scores = [], []
    for level, stride in enumerate((8, 16, 32)):
        n = 416 // stride
        y, x = np.divmod(np.arange(n * n), n)
        cx, cy = x * stride + 0.5 * (stride - 1), y * stride + 0.5 * (stride - 1)
        e = np.exp(out[3 + level][0].astype(np.float64).reshape(-1, 4, 8))
        side = (e / e.sum(2, keepdims=True)) @ np.arange(8) * stride
        boxes.append(np.stack([cx - side[:, 0], cy - side[:, 1], cx + side[:, 2], cy + side[:, 3]], 1))
        scores.append(out[level][0])
    scores = np.concatenate(scores)
    return (np.concatenate(boxes) - shift) * back, scores.max(1), scores.argmax(1)


def ultraface_reference(session, picture, settings):
    x = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.float32)
    scores, boxes = session.run(None, {session.get_inputs()[0].name: ((x - 127) / 128).transpose(2, 0, 1)[None]})
    h, w, _ = picture.shape
    return boxes[0].astype(np.float64) * [w, h, w, h], scores[0][:, 1], np.ones(len(scores[0]), int)


REFERENCES = {"yolox": yolox_reference, "nanodet": nanodet_reference, "ultraface": ultraface_reference}


def compare(told, expected, w, h, pixels=0.5, score=1e-4):
    """Order by score may swap within rounding, so boxes are matched: each has one of its own."""
    expected = [(c, s, np.clip(b, 0, [w, h, w, h])) for c, s, b in expected]
    expected = [e for e in expected if e[2][2] > e[2][0] and e[2][3] > e[2][1]]
    assert len(told) == len(expected)
    assert [t["score"] for t in told] == sorted((t["score"] for t in told), reverse=True)
    left = list(expected)
    for t in told:
        match = [e for e in left if e[0] == t["class_id"] and abs(e[1] - t["score"]) <= score and
                 np.abs(e[2] - t["box"]).max() <= pixels]
        assert match, (t, left[:3])
        left = [e for e in left if e is not match[0]]


@pytest.mark.parametrize("name", REAL)
def test_every_photograph_as_the_published_code(repository, name):
    settings = REAL[name][1]
    session = session_of(str(ASSETS / "models" / REAL[name][0]))
    done, answers = spillway(repository, name, *photographs())
    assert done.returncode == 0, done.stderr
    boxes_seen = 0
    for path, answer in zip(photographs(), answers, strict=True):
        picture = picture_of(path)
        h, w, _ = picture.shape
        assert (answer["width"], answer["height"]) == (w, h)
        boxes, scores, classes = REFERENCES[name](session, picture, settings)
        over = scores > settings["threshold"]
        compare(answer["detections"], suppress(boxes[over], scores[over], classes[over], settings), w, h)
        boxes_seen += len(answer["detections"])
    assert boxes_seen > 20


def overlap(a, b):
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@pytest.mark.parametrize("name, picture, least, where", SEEN)
def test_what_people_see_is_found(repository, name, picture, least, where):
    _, (answer,) = spillway(repository, name, IMAGES / picture)
    found = [d["label"] for d in answer["detections"]]
    for label, count in least.items():
        assert found.count(label) >= count, found
    if where:
        surest = next(d for d in answer["detections"] if d["label"] == where[0])
        assert overlap(surest["box"], where[1]) >= OVERLAP_BOUND, surest


def test_threshold_overlap_and_count_are_the_callers(repository):
    picture = IMAGES / "road1.jpg"

    def ask(*words):
        return spillway(repository, "yolox", *words, picture)[1][0]["detections"]
    usual = ask()
    assert ask("--threshold", "0.6") == [d for d in usual if d["score"] > 0.6]
    assert ask("--top-k", "3") == usual[:3]
    assert len(ask("--iou", "1")) > len(usual) > len(ask("--iou", "0.01"))
    assert len(ask("--threshold", "0")) == 100 and len(ask("--threshold", "0", "-k", "300", "--iou", "1")) == 300
    done, _ = spillway(repository, "yolox", "--iou", "2", picture)
    assert done.returncode == 2 and "from 0 to 1" in done.stderr


def test_boxes_are_drawn_into_a_jpeg(repository, tmp_path):
    out = tmp_path / "boxed.jpg"
    done, (answer,) = spillway(repository, "yolox", IMAGES / "yolox_dog.jpg", "-o", out)
    assert done.returncode == 0, done.stderr
    drawn, plain = np.asarray(Image.open(out), np.int16), picture_of(IMAGES / "yolox_dog.jpg").astype(np.int16)
    assert drawn.shape == plain.shape and Image.open(out).format == "JPEG"
    changed = np.abs(drawn - plain).max(2) > 40
    x0, y0, x1, y1 = (int(v) for v in answer["detections"][0]["box"])
    assert changed[y0 + 1, x0 + 5:x1 - 5].mean() > 0.7  # the upper edge of the surest box
    assert changed[y1 - 1, x0 + 5:x1 - 5].mean() > 0.7
    assert changed.mean() < 0.1                           # and little else
    for quantity in range(64):  # libjpeg's tables at quality 90
        assert Image.open(out).quantization[0][quantity] <= 25


# --- heads that no model of the assets has ----------------------------------------------------------------------------

def constant_model(side, **outputs):
    """A graph that answers these tensors whatever the picture is."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    nodes = [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Mul", ["m", "nothing"], ["z"])]
    held = [numpy_helper.from_array(np.float32(0), "nothing")]
    for name, value in outputs.items():
        held.append(numpy_helper.from_array(value.astype(np.float32), name + "_value"))
        nodes.append(helper.make_node("Add", [name + "_value", "z"], [name]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in outputs.items()], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """128 x 64: a 64 x 64 letterbox scales it by a half and centres it."""
    path = tmp_path_factory.mktemp("pictures") / "p.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 128, 3), dtype=np.uint8)).save(path)
    return path


def made_up(rng, n, classes):
    centre, size = rng.uniform(0, 64, (n, 2)), rng.uniform(4, 30, (n, 2))
    return np.concatenate([centre, size], 1), rng.uniform(0, 1, (n, classes))


def corners(boxes):
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def to_picture(boxes):
    return (boxes - [0, 16, 0, 16]) * 2


def ask(tmp_path, model, settings, picture):
    put(tmp_path, "m", model, {"task": "detect", "detect": {"top_k": 300} | settings})
    done, answers = spillway(tmp_path, "m", picture)
    assert done.returncode == 0, done.stderr
    return answers[0]["detections"]


@pytest.mark.parametrize("kind", ["class", "agnostic", "none"])
def test_yolov5_rows(tmp_path, square, kind):
    rng = np.random.default_rng(5)
    boxes, classes = made_up(rng, 333, 7)
    objectness = rng.uniform(0, 1, (333, 1))
    settings = {"head": "yolov5", "threshold": 0.5, "iou": 0.4, "nms": kind}
    told = ask(tmp_path, constant_model(64, output=np.concatenate([boxes, objectness, classes], 1)[None]), settings, square)
    scores = objectness * classes
    best = scores.max(1)
    over = best > 0.5
    expected = suppress(corners(boxes)[over], best[over], scores.argmax(1)[over],
                        {**settings, "iou": 2} if kind == "none" else settings)
    compare(told, [(c, s, to_picture(b)) for c, s, b in expected], 128, 64, 1e-2)


def test_yolov8_columns(tmp_path, square):
    rng = np.random.default_rng(8)
    boxes, classes = made_up(rng, 421, 5)
    told = ask(tmp_path, constant_model(64, output=np.concatenate([boxes, classes], 1).T[None]),
               {"head": "yolov8", "threshold": 0.8, "iou": 0.5}, square)
    best = classes.max(1)
    over = best > 0.8
    expected = suppress(corners(boxes)[over], best[over], classes.argmax(1)[over], {"iou": 0.5})
    compare(told, [(c, s, to_picture(b)) for c, s, b in expected], 128, 64, 1e-2)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("form", ["corners", "centre", "offsets"])
def test_ssd_boxes_and_scores(tmp_path, square, form, activation):
    rng = np.random.default_rng(300)
    anchors = np.array([[(x + 0.5) * s, (y + 0.5) * s, w, h] for s, sizes in ((16, [(20, 20), (12, 28)]), (32, [(40, 40)]))
                        for y in range(64 // s) for x in range(64 // s) for w, h in sizes])
    n = len(anchors)
    raw = rng.normal(0, 2, (n, 4))
    if activation == "none":
        raw = rng.uniform(0, 1, (n, 4))
        scores = raw
    elif activation == "sigmoid":
        scores = 1 / (1 + np.exp(-raw))
    else:
        scores = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    settings = {"head": "ssd", "background": 0, "boxes": form, "activation": activation, "threshold": 0.5, "iou": 0.45}
    prep = {"fit": "letterbox", "divisor": 255}
    if form == "offsets":
        values = rng.normal(0, 1, (n, 4))
        boxes = corners(np.concatenate([anchors[:, :2] + values[:, :2] * 0.1 * anchors[:, 2:],
                                        anchors[:, 2:] * np.exp(values[:, 2:] * 0.2)], 1))
        settings |= {"strides": [16, 32], "anchors": [[20, [12, 28]], [40]], "variances": [0.1, 0.2]}
    else:
        values, _ = made_up(rng, n, 1)
        boxes = corners(values)
        values = values / 64 if form == "centre" else boxes
        settings |= {"units": "fractions"} if form == "centre" else {}
    put(tmp_path, "m", constant_model(64, loc=values[None], conf=raw[None]),
        {"task": "detect", "detect": settings | {"boxes_output": "loc"}, "preprocess": prep})
    done, answers = spillway(tmp_path, "m", square)
    assert done.returncode == 0, done.stderr
    box, of = np.nonzero((scores > 0.5) & (np.arange(4) != 0))
    expected = suppress(boxes[box], scores[box, of], of, settings)
    compare(answers[0]["detections"], [(c, s, to_picture(b)) for c, s, b in expected], 128, 64, 1e-2)


def test_boxes_that_are_no_boxes_are_left_out(tmp_path, square):
    rows = np.array([[32, 32, 10, 10, 1, .9], [np.nan, 32, 10, 10, 1, .8], [32, 32, np.inf, 10, 1, .7], [32, 32, -4, 10, 1, .6],
                     [500, 32, 10, 10, 1, .95], [32, 32, 10, 10, 1, .5]])
    told = ask(tmp_path, constant_model(64, output=rows[None]), {"head": "yolov5"}, square)
    assert len(told) == 1 and told[0]["score"] == pytest.approx(.9) and told[0]["box"] == [54, 22, 74, 42]


def test_scores_that_are_no_numbers_are_the_models_fault(tmp_path, square):
    rows = np.array([[32, 32, 10, 10, np.nan, .9]])
    put(tmp_path, "m", constant_model(64, output=rows[None]), {"task": "detect", "detect": {"head": "yolov5"}})
    done, _ = spillway(tmp_path, "m", square)
    assert done.returncode != 0 and "no numbers" in done.stderr


@pytest.mark.parametrize("settings, words", [
    ({"task": "detect"}, ["task", "head"]),
    ({"task": "detect", "detect": {"threshold": 0.5}}, ["detect.head", "yolox"]),
    ({"task": "detect", "detect": {"head": "yolo"}}, ["detect.head", "yolox, yolov5, yolov8, ssd, nanodet"]),
    ({"task": "detect", "detect": {"head": "yolov5", "threshold": 2}}, ["detect.threshold", "0 to 1"]),
    ({"task": "detect", "detect": {"head": "yolov5", "anchor": 2}}, ["detect.anchor", "no key"]),
    ({"task": "detect", "detect": {"head": "yolov5", "top_k": 301}}, ["detect.top_k", "300"]),
    ({"task": "detect", "detect": {"head": "ssd"}}, ["boxes_output"]),
    ({"task": "detect", "detect": {"head": "ssd", "boxes": "offsets"}}, ["offsets", "anchors"]),
    ({"task": "detect", "detect": {"head": "nanodet"}}, ["detect.strides", "two"]),
    ({"task": "detect", "detect": {"head": "yolox"}}, ["10 x 8", "84 boxes"]),
    ({"task": "detect", "detect": {"head": "yolov5"}, "labels": "two.txt"}, ["labels", "3 classes"]),
    ({"task": "detect", "detect": {"head": "yolov5"}, "preprocess": {"crop": [32, 32]}}, ["preprocess.crop", "64x64"]),
    ({"task": "detect", "detect": {"head": "yolov5"}, "preprocess": {"channels": "grb"}}, ["preprocess.channels", "rgb, bgr"]),
    ({"task": "classify"}, ["task", "detect"]),
])
def test_a_wrong_description_names_file_and_key(tmp_path, square, settings, words):
    put(tmp_path, "m", constant_model(64, output=np.ones((1, 10, 8))), settings)
    (tmp_path / "m/two.txt").write_text("one\ntwo\n")
    done, _ = spillway(tmp_path, "m", square)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr, done.stderr
