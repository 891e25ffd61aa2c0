# SPDX-License-Identifier: Apache-2.0
"""REMOTE to KServe V2 servers: a double that speaks the binary tensor extension (or does not, or lies), and Triton."""
import json
import os
import pathlib
import select
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))
import house  # noqa: E402
from outside import Net, reply  # noqa: E402

np = pytest.importorskip("numpy", reason="tensors are made with numpy")
PEERS = pathlib.Path(os.environ.get("SPILLWAY_PEERS", house.ROOT / ".deps" / "peers"))


class Double:
    """A KServe V2 server with one model: `infer(tensor) -> row`."""

    def __init__(self, infer, binary=True, input_type="FP32", output_type="FP32", outputs=1, prefix_output=False):
        self.infer, self.binary = infer, binary
        self.types = {"FP32": np.float32, "FP16": np.float16}
        self.input_type, self.output_type, self.outputs, self.prefix_output = input_type, output_type, outputs, prefix_output
        self.metadata_calls = 0
        self.seen = []

    def __call__(self, connection, request, number):
        if request.method == "GET":
            self.metadata_calls += 1
            body = json.dumps({"name": "m", "versions": ["2"], "platform": "onnxruntime_onnx",
                               "inputs": [{"name": "images", "datatype": self.input_type, "shape": [-1, 3, -1, -1]}],
                               "outputs": [{"name": f"logits{i or ''}", "datatype": self.output_type, "shape": [-1, 4]}
                                           for i in range(self.outputs)]}).encode()
            return reply(200, body)(connection, request, number)
        head_bytes = int(request.headers["inference-header-content-length"])
        head = json.loads(request.body[:head_bytes])
        self.seen.append((request, head))
        one = head["inputs"][0]
        raw = request.body[head_bytes:head_bytes + one["parameters"]["binary_data_size"]]
        row = self.infer(np.frombuffer(raw, self.types[one["datatype"]]).reshape(one["shape"])).astype(self.types[self.output_type])
        output = {"name": head["outputs"][0]["name"], "datatype": self.output_type, "shape": [1, row.size]}
        binary = b""
        others = []
        if self.prefix_output:
            others.append({"name": "other", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}})
            binary += b"\xff" * 12
        if self.binary:
            output["parameters"] = {"binary_data_size": row.nbytes}
            binary += row.tobytes()
        else:
            output["data"] = [float(x) for x in row.ravel()]
        text = json.dumps({"model_name": "m", "model_version": "2", "outputs": [*others, output]}).encode()
        headers = [f"Inference-Header-Content-Length: {len(text)}"] if binary else []
        return reply(200, text + binary, headers)(connection, request, number)


def ask(net, url, tensor, extra="    model: m\n", **more):
    ask.serial += 1
    net.config(f"remotes:\n  triton:\n    kind: kserve\n    url: {url}\n{extra}", serial=ask.serial)
    more.setdefault("dtype", 10 if tensor.dtype == np.float16 else 1)
    return net.run("remote", serial=ask.serial, tensor=tensor.tobytes(), w=tensor.shape[3], h=tensor.shape[2], **more)


ask.serial = 5000
TENSOR = (np.arange(3 * 4 * 5, dtype=np.float32).reshape(1, 3, 4, 5) - 30) / 7
LOGITS = np.array([[0.5, 3.0, -1.25, 3.0]], np.float32)


def softmax(row):
    e = np.exp(row.astype(np.float64) - row.max())
    return (e / e.sum()).ravel()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["FP32", "FP16"])
def test_tensor_out_row_back(net, scripted, binary, kind):
    seen = []
    double = Double(lambda t: seen.append(t) or LOGITS, binary, kind, kind)
    tensor = TENSOR.astype(double.types[kind])
    answer = ask(net, scripted(double).url, tensor, top_k=3)
    assert answer["status"] == "ok", answer
    assert np.array_equal(seen[0], tensor)
    assert [p["class_id"] for p in answer["predictions"]] == [1, 3, 0]  # equal ones by class id
    want = softmax(LOGITS)
    assert all(abs(p["probability"] - want[p["class_id"]]) < 1e-6 for p in answer["predictions"])
    assert answer["who"]["model"] == "m" and answer["who"]["version"] == "2" and answer["who"]["engine"] == "onnxruntime_onnx"
    request, head = double.seen[0]
    assert request.target == "/v2/models/m/infer" and request.headers["content-type"] == "application/octet-stream"
    assert head["inputs"][0]["shape"] == [1, 3, 4, 5] and head["inputs"][0]["datatype"] == kind


def test_probabilities_stay_what_they_are(net, scripted):
    row = np.array([[0.1, 0.6, 0.25, 0.05]], np.float32)
    answer = ask(net, scripted(Double(lambda t: row)).url, TENSOR)
    assert [(p["class_id"], round(p["probability"], 6)) for p in answer["predictions"]] == [(1, 0.6), (2, 0.25), (0, 0.1), (3, 0.05)]


def test_the_description_is_asked_for_once(net, scripted):
    double = Double(lambda t: LOGITS)
    server = scripted(double)
    for _ in range(3):
        assert ask(net, server.url, TENSOR)["status"] == "ok"
    assert double.metadata_calls == 1 and server.connections == 1
    named = Double(lambda t: LOGITS)
    assert ask(net, scripted(named).url, TENSOR, "    model: m\n    input: images\n    output: logits\n")["status"] == "ok"


def test_outputs_before_ours_are_skipped(net, scripted):
    answer = ask(net, scripted(Double(lambda t: LOGITS, prefix_output=True)).url, TENSOR)
    assert answer["status"] == "ok" and answer["predictions"][0]["class_id"] == 1


def test_several_outputs_want_a_name(net, scripted):
    server = scripted(Double(lambda t: LOGITS, outputs=2))
    answer = ask(net, server.url, TENSOR)
    assert (answer["status"], answer["code"]) == ("unsupported", "remote_model") and "output: NAME" in answer["message"]
    assert ask(net, server.url, TENSOR, "    model: m\n    output: logits1\n")["status"] == "ok"


def test_what_does_not_fit(net, scripted):
    assert ask(net, scripted(Double(lambda t: LOGITS, input_type="INT8")).url, TENSOR)["code"] == "remote_model"
    assert ask(net, scripted(Double(lambda t: LOGITS, input_type="FP16")).url, TENSOR)["code"] == "remote_model"
    answer = ask(net, scripted(Double(lambda t: LOGITS)).url, TENSOR, "")
    assert (answer["status"], answer["code"]) == ("unsupported", "remote_model") and "model: NAME" in answer["message"]
    net.config("remotes:\n  t:\n    kind: kserve\n    url: http://127.0.0.1:1\n    model: m\n", serial=4999)
    assert net.run("remote", serial=4999, body=b"picture")["status"] == "unsupported"  # no tensor was made
    answer = ask(net, scripted(Double(lambda t: np.array([[1, np.nan, 3]], np.float32))).url, TENSOR)
    assert (answer["status"], answer["code"]) == ("corrupt", "not_finite")


METADATA = json.dumps({"name": "m", "inputs": [{"name": "i", "datatype": "FP32"}], "outputs": [{"name": "o", "datatype": "FP32"}]}).encode()


def output(**more):
    return json.dumps({"outputs": [{"name": "o", "datatype": "FP32", "shape": [1, 2], **more}]}).encode()


@pytest.mark.parametrize("body,head", [
    (b"", None), (b"{}", None), (b"[]", None), (b'{"outputs":[]}', None), (b'{"outputs":[{"name":"x"}]}', None), (output(), None),
    (output(data=[1]), None), (output(data=[1, 2, 3]), None), (output(data=[1, "2"]), None), (output(data=[[[1, 2], 3]]), None),
    (output(data=[1, 2], datatype="INT64"), None), (output(data=[1, 2], shape=[2, 1]), None), (output(data=[1, 2], shape=[]), None),
    (output(data=[1, 2], shape=[1, -2]), None), (output(data=[1, 2], shape=[1, 2 ** 62]), None), (output(data=[1], shape=[1]), None),
    (output(data=[1, 2], shape=[1, 65536, 65536, 65536, 65536]), None),
    (output(parameters={"binary_data_size": 8}) + b"1234567", True), (output(parameters={"binary_data_size": 9}) + b"123456789", True),
    (output(parameters={"binary_data_size": -1}) + b"12345678", True), (output(parameters={"binary_data_size": "8"}) + b"12345678", True),
    (output(parameters={"binary_data_size": 2 ** 63 - 1}) + b"12345678", True), (output(data=[1, 2]), "999999"), (output(data=[1, 2]), "-1"),
    (output(data=[1, 2]), "0"), (output(data=[1, 2]), "5x"), (b"[" * 50000, None)])
def test_an_answer_that_is_none(net, scripted, body, head):
    def script(connection, request, number):
        if request.method == "GET":
            return reply(200, METADATA)(connection, request, number)
        length = body.index(b"}]}") + 3 if head is True else head
        return reply(200, body, [f"Inference-Header-Content-Length: {length}"] if length else [])(connection, request, number)
    answer = ask(net, scripted(script).url, TENSOR)
    assert (answer["status"], answer["code"]) == ("corrupt", "bad_answer"), answer


@pytest.mark.parametrize("http,status,code", [(400, "unsupported", "remote_rejected"), (401, "unavailable", "remote_denied"),
                                               (404, "unsupported", "remote_no_model"), (429, "busy", "remote_busy"),
                                               (500, "unavailable", "remote_failed"), (503, "unavailable", "remote_failed"),
                                               (504, "timeout", "remote_timeout")])
@pytest.mark.parametrize("where", ["GET", "POST"])
def test_what_each_refusal_means(net, scripted, http, status, code, where):
    def script(connection, request, number):
        if request.method == where:
            return reply(http, b'{"error":"model is not ready"}', ["Retry-After: 2"])(connection, request, number)
        return reply(200, METADATA)(connection, request, number)
    answer = ask(net, scripted(script).url, TENSOR)
    assert (answer["status"], answer["code"]) == (status, code) and "model is not ready" in answer["message"]
    assert answer["retry_after_s"] == 2


# --- the same model there as here ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def job():
    if not (house.MODEL / "1" / "model.onnx").exists():
        pytest.skip(f"the default model is not in {house.MODEL} (make model)")
    if not house.ASSETS.exists():
        pytest.skip(f"test pictures are not in {house.ASSETS} (SPILLWAY_ASSETS)")
    pytest.importorskip("onnxruntime", reason="the Python reference needs onnxruntime")
    sys.path.insert(0, str(house.ROOT / "bench" / "peers"))
    from job import Job
    return Job(house.MODEL, threads=1)


@pytest.fixture(scope="module")
def local(tmp_path_factory, job):
    """{picture: what this machine's own link answers}"""
    with house.Server(tmp_path_factory.mktemp("local"), workers="codec0,cpu0") as server:
        answers = {}
        for name in house.PICTURES:
            status, answers[name] = house.post(server, (house.ASSETS / "media" / "images" / name).read_bytes())
            assert status == 200
        return answers


def check_alike(net, url, job, local, extra):
    worst = 0.0
    for name, direct in local.items():
        tensor = job.preprocess(job.decode((house.ASSETS / "media" / "images" / name).read_bytes()))
        answer = ask(net, url, tensor, extra, timeout_ms=30000, model=house.MODEL.name)
        assert answer["status"] == "ok", answer
        assert [(p["class_id"], p["label"]) for p in answer["predictions"]] == \
               [(p["class_id"], p["label"]) for p in direct["predictions"]]
        worst = max(worst, *(abs(a["probability"] - b["probability"]) for a, b in zip(answer["predictions"], direct["predictions"])))
    assert worst <= 1e-5, worst
    return worst


@pytest.fixture(scope="module")
def net_with_models(tmp_path_factory, job):
    one = Net(tmp_path_factory.mktemp("models"), args=["--model-repository", str(house.MODELS)])
    yield one
    one.stop()


def test_equal_to_the_local_link(net_with_models, scripted, job, local):
    for binary in (True, False):
        check_alike(net_with_models, scripted(Double(job.infer, binary)).url, job, local, "    model: m\n")


def test_equal_to_the_local_link_by_triton(net_with_models, job, local):
    if not (PEERS / "tritonserver/venv/bin/python").exists():
        pytest.skip("tritonserver is not set up (bench/peers/setup tritonserver)")
    if os.environ.get("SPILLWAY_SANITIZER"):
        pytest.skip("the double shows the same to a sanitizer; tritonserver takes 14 s to start")
    process = subprocess.Popen([sys.executable, house.ROOT / "bench/peers/run", "tritonserver", "--task", "tensor", "--threads", "1",
                                "--model", house.MODEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert select.select([process.stdout], [], [], 100)[0], "tritonserver did not start in 100 s"
        line = process.stdout.readline()
        assert line, "tritonserver did not start"
        url = json.loads(line)["url"].split("/v2/")[0]
        worst = check_alike(net_with_models, url, job, local, "    model: model\n")
        print(f"largest difference from the local link: {worst:.3g}")
        missing = ask(net_with_models, url, TENSOR, "    model: nobody\n")
        assert missing["status"] == "unsupported", missing
    finally:
        process.stdin.close()
        process.wait(30)


def test_the_attempt_is_the_servers_parent(net, scripted):
    double = Double(lambda tensor: LOGITS)
    server = scripted(double)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = ask(net, server.url, TENSOR, traceparent=f"00-{trace}-00f067aa0ba902b7-00", tracestate="a=b")
    assert answer["status"] == "ok", answer
    request, _ = double.seen[-1]
    assert request.headers["traceparent"] == f"00-{trace}-ab01020304050607-00" and request.headers["tracestate"] == "a=b"
