# SPDX-License-Identifier: Apache-2.0
"""POST /v1/detect of a real server with three real detectors and the classifier beside them. Its boxes are those of `spillway
detect`, which tests/task/test_detect.py holds to the models' published post-processing: here to 1e-3 of a pixel and 1e-6 of a
score, for every photograph of the assets."""
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import uuid

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", ROOT / "build"))
ASSETS = pathlib.Path(os.environ.get("SPILLWAY_ASSETS", ROOT.parent / "shared/assets")).resolve()
IMAGES = ASSETS / "media/images"
CLASSIFIER = ROOT / "var/models/efficientnet-lite0"
DETECTORS = {
    "yolox-nano": ("yolox_nano.onnx", {"head": "yolox", "threshold": 0.3, "nms": "agnostic"}),
    "nanodet-m": ("nanodet_m_416.onnx", {"head": "nanodet", "threshold": 0.4, "iou": 0.6}),
    "ultraface": ("ultraface-RFB-320.onnx", {"head": "ssd", "units": "fractions", "background": 0, "threshold": 0.7, "iou": 0.3}),
}


def until(test, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = test()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail("never happened: " + what)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    if not IMAGES.is_dir():
        pytest.skip(f"SPILLWAY_ASSETS has no media/images ({ASSETS})")
    if not (CLASSIFIER / "1/model.onnx").exists():
        pytest.skip("var/models has no efficientnet-lite0; `make model` fetches it")
    path = tmp_path_factory.mktemp("models")
    for name, (asset, settings) in DETECTORS.items():
        (path / name / "1").mkdir(parents=True)
        shutil.copy(ASSETS / "models" / asset, path / name / "1/model.onnx")
        (path / name / "spillway.json").write_text(json.dumps({"task": "detect", "detect": settings}))
        labels = "background\nface\n" if name == "ultraface" else (ASSETS / "models/coco.names").read_text().rstrip("\n") + "\n"
        (path / name / "labels.txt").write_text(labels)
    (path / "efficientnet-lite0").symlink_to(CLASSIFIER)
    (path / "brightness/1").mkdir(parents=True)
    (path / "brightness/1/model.onnx").write_bytes(brightness_model())
    (path / "brightness/spillway.json").write_text(json.dumps({"task": "detect", "detect": {"head": "yolov5", "threshold": 0.01}}))
    (path / "brightness/config.pbtxt").write_text(
        'max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 20000 }\n')
    return path


def brightness_model():
    """A detector that batches: each picture's one box, [8, 8, 24, 24] of 64 x 64, has the picture's brightness as its score."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    box = np.array([[[16, 16, 16, 16, 1, 0], [48, 48, 4, 4, 0, 0]]], np.float32)
    score = np.array([[[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]], np.float32)
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=1),
             helper.make_node("ReduceMean", ["m"], ["n"], axes=[3], keepdims=1),
             helper.make_node("Reshape", ["n", "shape"], ["b"]),
             helper.make_node("Mul", ["b", "score"], ["s"]), helper.make_node("Add", ["s", "box"], ["output"])]
    held = [numpy_helper.from_array(box, "box"), numpy_helper.from_array(score, "score"),
            numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "shape")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 64, 64])],
                              [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 2, 6])], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


class Server:
    def __init__(self, repository, where):
        self.log = where / "server.log"
        self.process = subprocess.Popen(
            [BUILD / "spillway", "serve", "--http-port", "0", "--metrics-port", "-1", "--grpc-port", "0", "--workers", "codec0,cpu0",
             "--model-repository", repository, "--data-dir", where / "data", "--drain-delay", "0", "--log-level", "warn"],
            stdout=subprocess.PIPE, stderr=open(self.log, "wb"), text=True)
        self.port = int(re.search(r":(\d+)$", self.process.stdout.readline().strip())[1])
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def detect(self, picture, path="/v1/detect", **query):
        return self.ask("POST", path + "?" + urllib.parse.urlencode(query), pathlib.Path(picture).read_bytes(),
                        Content_Type="image/jpeg")

    def form(self, picture, path="/v1/detect", **fields):
        mark = uuid.uuid4().hex
        parts = [f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\n\r\n'.encode() +
                 pathlib.Path(picture).read_bytes() + b"\r\n"]
        parts += [f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
        return self.ask("POST", path, b"".join(parts) + f"--{mark}--\r\n".encode(),
                        Content_Type=f"multipart/form-data; boundary={mark}")

    def models_ready(self):
        index = self.ask("POST", "/v2/repository/index")[1]
        return len(index) == 5 and all(model.get("state") == "READY" for model in index)


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    it = Server(repository, tmp_path_factory.mktemp("server"))
    try:
        until(it.models_ready, "all models ready")
        yield it
    finally:
        it.process.send_signal(signal.SIGTERM)
        assert it.process.wait(30) == 0


def photographs():
    return sorted(IMAGES.iterdir())


@pytest.fixture(scope="module")
def reference(repository):
    """model -> {photograph: what `spillway detect` says}"""
    answers = {}
    for name in DETECTORS:
        done = subprocess.run([BUILD / "spillway", "detect", "--model-repository", repository, "-m", name, "--json", *photographs()],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        answers[name] = {pathlib.Path(x["file"]): x for x in map(json.loads, done.stdout.splitlines())}
    return answers


def same(told, expected):
    assert (told["width"], told["height"]) == (expected["width"], expected["height"])
    assert len(told["detections"]) == len(expected["detections"])
    for a, b in zip(told["detections"], expected["detections"]):
        assert (a["class_id"], a["label"]) == (b["class_id"], b["label"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-6) and a["box"] == pytest.approx(b["box"], abs=5e-3)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_photograph_as_the_command(server, reference, name):
    for path in photographs():
        status, answer = server.detect(path, model=name)
        assert status == 200, answer
        same(answer, reference[name][path])
    assert answer["model"] == name and answer["model_version"] == "1" and answer["provider"] == "cpu0"
    assert [a["link"] for a in answer["attempts"]] == ["codec0", "cpu0"]
    assert answer["latency_ms"]["inference"] > 0 and answer["latency_ms"]["decode"] > 0


def test_a_form_and_the_task_ask_the_same(server, reference):
    picture = IMAGES / "faces_1.jpg"
    for status, answer in (server.form(picture, model="ultraface"), server.form(picture, "/v1/detect?model=ultraface"),
                           server.detect(picture, "/infer", task="detect", model="ultraface"),
                           server.form(picture, "/infer?task=detect", model="ultraface")):
        assert status == 200, answer
        same(answer, reference["ultraface"][picture])


def test_threshold_overlap_and_count(server):
    picture = IMAGES / "road1.jpg"
    usual = server.detect(picture, model="yolox-nano")[1]["detections"]
    assert server.detect(picture, model="yolox-nano", threshold=0.6)[1]["detections"] == [d for d in usual if d["score"] > 0.6]
    assert server.detect(picture, model="yolox-nano", top_k=3)[1]["detections"] == usual[:3]
    assert len(server.form(picture, model="yolox-nano", iou=1)[1]["detections"]) > len(usual)
    assert server.form(picture, model="yolox-nano", threshold=0.99)[1]["detections"] == []


@pytest.mark.parametrize("query, status, words", [
    ({"model": "nothing"}, 404, "nothing"),
    ({}, 400, "which model"),
    ({"model": "efficientnet-lite0"}, 400, "no detector"),
    ({"model": "yolox-nano", "threshold": "2"}, 400, "from 0 to 1"),
    ({"model": "yolox-nano", "iou": "-0.1"}, 400, "from 0 to 1"),
    ({"model": "yolox-nano", "threshold": "nan"}, 400, "from 0 to 1"),
    ({"model": "yolox-nano", "top_k": "0"}, 400, "top_k"),
    ({"model": "yolox-nano", "task": "classify"}, 400, "task"),
])
def test_what_is_wrong_is_told(server, query, status, words):
    got, answer = server.detect(IMAGES / "bee.jpeg", **query)
    assert got == status and words in answer["error"], answer


def test_what_is_no_picture_is_the_callers(server, tmp_path):
    (tmp_path / "text").write_bytes(b"no picture at all")
    status, answer = server.detect(tmp_path / "text", model="yolox-nano")
    assert status == 415 and answer["code"] == "unknown_format"
    assert server.ask("GET", "/v1/detect")[0] == 405


def test_the_classifier_beside_them_answers(server):
    status, answer = server.detect(IMAGES / "bee.jpeg", "/infer")
    assert status == 200 and answer["predictions"][0]["class_id"] == 309 and "detections" not in answer


def test_many_at_once_with_other_models_between(server, reference):
    pictures = photographs()[:6]
    names = list(DETECTORS)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda i: server.detect(pictures[i % 6], model=names[i % 3]), range(48)))
    for i, (status, answer) in enumerate(answers):
        assert status == 200, answer
        same(answer, reference[names[i % 3]][pictures[i % 6]])


def test_requests_of_one_batch_have_their_own_boxes(server, tmp_path):
    """Pictures of one grey each, among tensors of the same model that come by KServe: every row goes back to its own request."""
    def picture(grey):
        path = tmp_path / f"{grey}.png"
        Image.new("RGB", (128, 128), (grey, grey, grey)).save(path)
        return path

    def tensor(grey):
        body = {"inputs": [{"name": "x", "shape": [1, 3, 64, 64], "datatype": "FP32", "data": [grey / 255] * (3 * 64 * 64)}]}
        status, answer = server.ask("POST", "/v2/models/brightness/infer", json.dumps(body), Content_Type="application/json")
        return status, answer["outputs"][0]["data"][5] if status == 200 else answer

    greys = [5 + 5 * i for i in range(40)]
    pictures = [picture(grey) for grey in greys]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        tensors = [pool.submit(tensor, grey) for grey in greys[::4]]
        answers = list(pool.map(lambda path: server.detect(path, model="brightness"), pictures))
    for grey, (status, answer) in zip(greys, answers):
        assert status == 200, answer
        found, = answer["detections"]
        assert found["score"] == pytest.approx(grey / 255, abs=1e-5) and found["box"] == pytest.approx([16, 16, 48, 48])
    for grey, told in zip(greys[::4], tensors):
        status, score = told.result()
        assert status == 200 and score == pytest.approx(grey / 255, abs=1e-5)
    assert max(answer["batch_size"] for _, answer in answers) > 1, "nothing was batched"


def test_a_killed_worker_costs_no_answer(server, reference):
    worker = next(w for w in server.ask("GET", "/healthz")[1]["workers"] if w["name"] == "cpu0")
    picture = IMAGES / "yolox_dog.jpg"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.detect, picture, model="yolox-nano", timeout_ms=30000) for _ in range(16)]
        os.kill(worker["pid"], signal.SIGKILL)
        for answer in asked:
            status, told = answer.result()
            assert status == 200, told
            same(told, reference["yolox-nano"][picture])
    until(server.models_ready, "all models ready again")


def test_a_job_may_ask_it(server, reference):
    picture = IMAGES / "yolox_dog.jpg"
    status, job = server.detect(picture, "/v1/jobs", task="detect", model="yolox-nano", threshold="0.5")
    assert status == 202, job

    def over():
        told = server.ask("GET", "/v1/jobs/" + job["id"])[1]
        return told if told["status"] in ("done", "failed") else None
    done = until(over, "the job is over")
    assert done["status"] == "done", done
    found = done["result"]["detections"]
    assert [d["label"] for d in found] == [d["label"] for d in reference["yolox-nano"][picture]["detections"] if d["score"] > 0.5]
