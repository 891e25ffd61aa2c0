# SPDX-License-Identifier: Apache-2.0
"""Ensembles through the real server with Triton's own client: numbers equal to onnxruntime's, statistics of the steps, errors by
name, and pictures in, labels out."""
import concurrent.futures
import io
import json
import os
import signal
import tempfile

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
ort = pytest.importorskip("onnxruntime", reason="the set-up's Python has no onnxruntime")
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

import served_house as house
from served_house import onnx

node = onnx.helper.make_node
LABELS = ["red", "green", "blue"]


def config(name, inputs, outputs, more, batch=8):
    ports = lambda key, list_: f"{key} [ " + ", ".join(
        f'{{ name: "{n}" data_type: TYPE_{t} dims: {list(d)} }}' for n, t, d in list_) + " ]\n"
    return f'name: "{name}" max_batch_size: {batch}\n' + ports("input", inputs) + ports("output", outputs) + more


def steps(*list_):
    maps = lambda key, pairs: " ".join(f'{key} {{ key: "{k}" value: "{v}" }}' for k, v in pairs.items())
    return 'platform: "ensemble"\nensemble_scheduling { step [ ' + ", ".join(
        f'{{ model_name: "{m}" model_version: -1 {maps("input_map", i)} {maps("output_map", o)} }}' for m, i, o in list_) + " ] }\n"


def make_models(repository, rng):
    """scale: Y = X * 3; mix: Z = A @ W + B; both with rows."""
    w = rng.standard_normal((16, 16)).astype(np.float32)
    house.model(os.path.join(repository, "scale/1/model.onnx"), [("X", "FP32", ["n", 16])], [("Y", "FP32", ["n", 16])],
                [node("Mul", ["X", "three"], ["Y"])], [onnx.numpy_helper.from_array(np.array(3, np.float32), "three")])
    house.model(os.path.join(repository, "mix/1/model.onnx"), [("A", "FP32", ["n", 16]), ("B", "FP32", ["n", 16])],
                [("Z", "FP32", ["n", 16])], [node("MatMul", ["A", "W"], ["m"]), node("Add", ["m", "B"], ["Z"])],
                [onnx.numpy_helper.from_array(w, "W")])
    batching = 'backend: "onnxruntime"\ndynamic_batching { max_queue_delay_microseconds: 500 }\ninstance_group [ { kind: KIND_CPU } ]\n'
    house.write(os.path.join(repository, "scale/config.pbtxt"), config("scale", [("X", "FP32", [16])], [("Y", "FP32", [16])], batching))
    house.write(os.path.join(repository, "mix/config.pbtxt"),
                config("mix", [("A", "FP32", [16]), ("B", "FP32", [16])], [("Z", "FP32", [16])], batching))


def make_ensembles(repository):
    io_ = ([("IN", "FP32", [16])], [("OUT", "FP32", [16])])
    ensembles = {
        "chain": steps(("scale", {"X": "IN"}, {"Y": "t"}), ("mix", {"A": "t", "B": "IN"}, {"Z": "OUT"})),
        "diamond": steps(("scale", {"X": "IN"}, {"Y": "l"}), ("mix", {"A": "IN", "B": "IN"}, {"Z": "r"}),
                         ("mix", {"A": "l", "B": "r"}, {"Z": "OUT"})),
        "outer": steps(("chain", {"IN": "IN"}, {"OUT": "t"}), ("scale", {"X": "t"}, {"Y": "OUT"})),
    }
    for name, text in ensembles.items():
        house.write(os.path.join(repository, name, "config.pbtxt"), config(name, *io_, text))
        os.makedirs(os.path.join(repository, name, "1"), exist_ok=True)
    house.write(os.path.join(repository, "wrong/config.pbtxt"), config("wrong", *io_, steps(("scale", {"Q": "IN"}, {"Y": "OUT"}))))
    os.makedirs(os.path.join(repository, "wrong/1"), exist_ok=True)


def make_pictures(repository):
    """mean: the mean of each channel of 8 x 8 pixels, times ten: the brightest channel is the class."""
    house.model(os.path.join(repository, "mean/1/model.onnx"), [("data", "FP32", ["n", 3, 8, 8])], [("logits", "FP32", ["n", 3])],
                [node("GlobalAveragePool", ["data"], ["m"]), node("Flatten", ["m"], ["f"]), node("Mul", ["f", "ten"], ["logits"])],
                [onnx.numpy_helper.from_array(np.array(10, np.float32), "ten")])
    house.write(os.path.join(repository, "mean/config.pbtxt"),
                config("mean", [("data", "FP32", [3, 8, 8])], [("logits", "FP32", [3])],
                       'backend: "onnxruntime"\ninstance_group [ { kind: KIND_CPU } ]\n'))
    house.write(os.path.join(repository, "mean/spillway.json"), json.dumps(
        {"task": "classify", "output_kind": "logits", "labels": "labels.txt",
         "preprocess": {"filter": "bilinear", "fit": "stretch", "resize": [8, 8], "crop": [8, 8], "divisor": 255,
                        "mean": [0, 0, 0], "std": [1, 1, 1]}}))
    house.write(os.path.join(repository, "mean/labels.txt"), "\n".join(LABELS) + "\n")
    pre = lambda name: ("spillway/preprocess", {"image": name}, {"tensor": "x"})
    run = ("mean", {"data": "x"}, {"logits": "y"})
    post = lambda name: ("spillway/postprocess", {"scores": "y"}, {"top": name})
    for name, input_, output, more in (
            ("see", ("FILE", "STRING", [1]), ("TOP", "STRING", [-1]), 'parameters { key: "top_k" value: { string_value: "2" } }\n'),
            ("look", ("PIXELS", "UINT8", [-1, -1, 3]), ("P", "FP32", [3]), "")):
        house.write(os.path.join(repository, name, "config.pbtxt"),
                    config(name, [input_], [output], steps(pre(input_[0]), run, post(output[0])) + more, batch=1))
        os.makedirs(os.path.join(repository, name, "1"), exist_ok=True)


def make_detector(repository):
    """boxes: three boxes of two classes in pixels of its 8 x 8 input, whatever it sees; the second hides behind the first."""
    found = np.array([[2, 2, 4, 4, .9, .1], [2.5, 2, 4, 4, .8, .1], [6, 5, 2, 2, .1, .7]], np.float32).T[None]
    house.model(os.path.join(repository, "boxes/1/model.onnx"), [("data", "FP32", ["n", 3, 8, 8])], [("found", "FP32", ["n", 6, 3])],
                [node("ReduceMean", ["data"], ["m"], axes=[1, 2, 3], keepdims=1), node("Flatten", ["m"], ["f"]),
                 node("Mul", ["f", "zero"], ["z"]), node("Unsqueeze", ["z", "two"], ["u"]), node("Add", ["found_", "u"], ["found"])],
                [onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"), onnx.numpy_helper.from_array(found, "found_"),
                 onnx.numpy_helper.from_array(np.array([2], np.int64), "two")])
    house.write(os.path.join(repository, "boxes/config.pbtxt"),
                config("boxes", [("data", "FP32", [3, 8, 8])], [("found", "FP32", [6, 3])], 'backend: "onnxruntime"\n'))
    house.write(os.path.join(repository, "boxes/labels.txt"), "cat\ndog\n")
    house.write(os.path.join(repository, "boxes/spillway.json"), json.dumps(
        {"task": "detect", "labels": "labels.txt", "detect": {"head": "yolov8", "threshold": 0.5},
         "preprocess": {"fit": "stretch", "resize": [8, 8], "crop": [8, 8]}}))
    house.write(os.path.join(repository, "find/config.pbtxt"), config(
        "find", [("FILE", "STRING", [1])], [("BOXES", "FP32", [-1, 6]), ("NAMES", "STRING", [-1])],
        steps(("spillway/preprocess", {"image": "FILE"}, {"tensor": "x"}), ("boxes", {"data": "x"}, {"found": "y"}),
              ("spillway/postprocess", {"raw": "y"}, {"boxes": "BOXES", "labels": "NAMES"})), batch=1))
    os.makedirs(os.path.join(repository, "find/1"), exist_ok=True)


@pytest.fixture(scope="module")
def made():
    with tempfile.TemporaryDirectory(prefix="spillway-ensembles-") as repository:
        make_models(repository, np.random.default_rng(5))
        make_ensembles(repository)
        make_pictures(repository)
        make_detector(repository)
        server = house.Server(repository, grpc=True)
        try:
            server.wait_models(["chain", "diamond", "outer", "see", "look", "find"])
            server.sessions = {m: ort.InferenceSession(os.path.join(repository, m, "1/model.onnx")) for m in ("scale", "mix", "mean")}
            yield server
        finally:
            server.stop()


def reference(server, name, x):
    scale = lambda v: server.sessions["scale"].run(None, {"X": v})[0]
    mix = lambda a, b: server.sessions["mix"].run(None, {"A": a, "B": b})[0]
    chain = lambda v: mix(scale(v), v)
    return {"chain": chain, "diamond": lambda v: mix(scale(v), mix(v, v)), "outer": lambda v: scale(chain(v))}[name](x)


def infer(server, model, name, array, kind, binary=True):
    client = httpclient.InferenceServerClient(server.address, network_timeout=30, connection_timeout=30)
    try:
        tensor = httpclient.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array, binary_data=binary)
        return client.infer(model, [tensor])
    finally:
        client.close()


@pytest.mark.parametrize("name", ["chain", "diamond", "outer"])
def test_numbers_are_onnxruntimes_own(made, name):
    rng = np.random.default_rng(7)
    for rows in (1, 3, 8):
        x = rng.standard_normal((rows, 16)).astype(np.float32)
        answer = infer(made, name, "IN", x, "FP32").as_numpy("OUT")
        np.testing.assert_allclose(answer, reference(made, name, x), rtol=2e-5, atol=2e-5)
    x = rng.standard_normal((2, 16)).astype(np.float32)
    np.testing.assert_allclose(infer(made, name, "IN", x, "FP32", binary=False).as_numpy("OUT"), reference(made, name, x), rtol=2e-5,
                               atol=2e-5)


def test_many_at_once(made):
    rng = np.random.default_rng(9)
    xs = [rng.standard_normal((int(rng.integers(1, 5)), 16)).astype(np.float32) for _ in range(60)]

    def one(i):
        name = ("chain", "diamond", "outer")[i % 3]
        got = infer(made, name, "IN", xs[i], "FP32").as_numpy("OUT")
        return np.allclose(got, reference(made, name, xs[i]), rtol=2e-5, atol=2e-5)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert all(pool.map(one, range(len(xs))))


def statistics(server, name):
    return json.loads(server.get(f"/v2/models/{name}/stats")[1])["model_stats"][0]


def test_steps_are_counted(made):
    before = {m: statistics(made, m) for m in ("outer", "chain", "scale", "mix")}
    infer(made, "outer", "IN", np.ones((2, 16), np.float32), "FP32")
    for name, runs in (("outer", 1), ("chain", 1), ("scale", 2), ("mix", 1)):
        now = statistics(made, name)
        assert now["inference_count"] - before[name]["inference_count"] == 2 * runs, name
        assert now["execution_count"] - before[name]["execution_count"] == runs, name
        assert now["inference_stats"]["success"]["count"] - before[name]["inference_stats"]["success"]["count"] == runs, name


def test_what_does_not_fit_is_in_the_index(made):
    index = json.loads(made.post("/v2/repository/index")[1])
    reason = next(m["reason"] for m in index if m["name"] == "wrong")
    assert "ensemble tensor IN is mapping to non-existing input Q in model 'scale'" in reason


def file_of(pixels, kind="PNG"):
    image = pytest.importorskip("PIL.Image", reason="the set-up's Python has no Pillow")
    out = io.BytesIO()
    image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def probabilities(server, pixels):
    image = pytest.importorskip("PIL.Image", reason="the set-up's Python has no Pillow")
    small = np.asarray(image.fromarray(pixels).resize((8, 8), image.BILINEAR), np.float32) / np.float32(255)
    logits = server.sessions["mean"].run(None, {"data": small.transpose(2, 0, 1)[None]})[0][0].astype(np.float64)
    e = np.exp(logits - logits.max())
    return e / e.sum()


def test_a_file_in_and_labels_out(made):
    rng = np.random.default_rng(11)
    for width, height in ((33, 21), (8, 8), (200, 64)):
        pixels = house.picture(rng, width, height)
        pixels[:, :, 1] = np.minimum(pixels[:, :, 1].astype(int) + 60, 255)
        expected = probabilities(made, pixels)
        got = infer(made, "see", "FILE", np.array([[file_of(pixels)]], dtype=np.object_), "BYTES").as_numpy("TOP")
        assert got.shape == (1, 2)
        for text, index in zip(got[0], np.argsort(-expected)[:2]):
            p, class_id, label = text.decode().split(":")
            assert (int(class_id), label) == (index, LABELS[index])
            assert abs(float(p) - expected[index]) < 1e-5


def test_pixels_in_and_probabilities_out(made):
    pixels = house.picture(np.random.default_rng(12), 40, 30)
    got = infer(made, "look", "PIXELS", pixels[None], "UINT8").as_numpy("P")
    np.testing.assert_allclose(got[0], probabilities(made, pixels), atol=1e-5)


def test_a_file_in_and_boxes_out(made):
    """In pixels of the picture, which is 5 x 4 times the detector's input; the hidden box is suppressed."""
    answer = infer(made, "find", "FILE", np.array([[file_of(house.picture(np.random.default_rng(13), 40, 32))]], np.object_), "BYTES")
    np.testing.assert_allclose(answer.as_numpy("BOXES"), [[[0, 0, 20, 16, .9, 0], [25, 16, 35, 24, .7, 1]]], atol=1e-4)
    assert answer.as_numpy("NAMES").tolist() == [[b"cat", b"dog"]]


def test_a_file_that_is_no_picture_is_refused(made):
    with pytest.raises(InferenceServerException) as caught:
        infer(made, "see", "FILE", np.array([[b"no picture at all"]], dtype=np.object_), "BYTES")
    assert caught.value.status() in ("400", "415")
    with pytest.raises(InferenceServerException, match="one picture a request"):
        infer(made, "see", "FILE", np.array([[b""]], dtype=np.object_), "BYTES")


def test_the_worker_dies_and_no_request_is_lost(made):
    """Killed from outside twice in the middle: each request begins again and has the same numbers."""
    rng = np.random.default_rng(17)
    xs = [rng.standard_normal((2, 16)).astype(np.float32) for _ in range(80)]
    killed = set()

    def one(i):
        if i in (20, 50):
            pid = made.worker_pid("cpu0")
            if pid:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        got = infer(made, "outer", "IN", xs[i], "FP32").as_numpy("OUT")
        return np.allclose(got, reference(made, "outer", xs[i]), rtol=2e-5, atol=2e-5)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(len(xs))))
    assert killed
    made.wait_models(["outer"])


@pytest.mark.parametrize("more", [[], ["--shared-memory=system", "--output-shared-memory-size", "4096"],
                                  ["--input-tensor-format=json", "--output-tensor-format=json"], ["-i", "grpc"],
                                  ["-i", "grpc", "--shared-memory=system", "--output-shared-memory-size", "4096"]])
def test_perf_analyzer_drives_ensembles(made, more):
    address = made.grpc_address if "grpc" in more else made.address
    said = house.perf_analyzer("-m", "diamond", "-u", address, "-b", "2", "--concurrency-range", "3", *more)
    assert "Throughput" in said, said
