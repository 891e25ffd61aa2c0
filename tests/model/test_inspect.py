# SPDX-License-Identifier: Apache-2.0
"""`spillway inspect` on real directories: Triton's quick-start repositories without an edit, versions, labels, ONNX external
data, and files that are no models."""
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T

sys.path.insert(0, os.path.dirname(__file__))
import repositories  # noqa: E402

if os.environ.get("SPILLWAY_SANITIZER") == "tsan":
    pytest.skip("one process with one thread at a time: there is nothing to race", allow_module_level=True)
SPILLWAY = os.path.join(os.environ.get("SPILLWAY_BUILD", "build"), "spillway")


def inspect(repository, name, config=None):
    command = [SPILLWAY, "inspect", "--repository", str(repository), "--model", name]
    if config is not None:
        command += ["--config", json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def error(repository, name, config=None):
    return inspect(repository, name, config)["error"]


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory):
    return repositories.quick_start(str(tmp_path_factory.mktemp("quick_start")))


@pytest.mark.parametrize("name", repositories.QUICK_START)
def test_quick_start_models_are_taken_as_they_are(quick_start, name):
    card = inspect(quick_start, name)
    assert "error" not in card, card
    assert card["config"]["name"] == name
    assert card["config"]["backend"] == "onnxruntime"
    assert [v["number"] for v in card["versions"]] == [1]
    assert len(card["versions"][0]["digest"]) == 64


def test_densenet_keeps_shapes_and_labels(quick_start):
    card = inspect(quick_start, "densenet_onnx")
    port = card["config"]["input"][0]
    assert (port["format"], port["dims"], port["reshape"]["shape"]) == ("FORMAT_NCHW", [3, 224, 224], [1, 3, 224, 224])
    assert card["label_counts"] == [1000]
    assert inspect(quick_start, "inception_onnx")["label_counts"] == [1001]  # its last line has no end


def test_dyna_sequence_keeps_its_batching(quick_start):
    config = inspect(quick_start, "simple_dyna_sequence")["config"]
    batching = config["sequence_batching"]
    assert batching["max_sequence_idle_microseconds"] == 10000000
    assert batching["oldest"]["max_candidate_sequences"] == 1024
    assert [c["name"] for c in batching["control_input"]] == ["START", "END", "READY", "CORRID"]
    assert [p["name"] for p in config["input"]] == ["INPUT"]
    assert config["parameters"] == {"execute_delay_ms": {"string_value": "3"}}
    assert config["instance_group"][0]["count"] == 2


def test_other_back_ends_are_named_with_what_to_do(tmp_path):
    repositories.write(tmp_path, "g", None, repositories.head("g", 8, 'platform: "tensorflow_graphdef"') +
                       repositories.ports("input", ["A"], "TYPE_FP32", [1]) + repositories.ports("output", ["B"], "TYPE_FP32", [1]))
    assert "tf2onnx" in error(tmp_path, "g")
    repositories.write(tmp_path, "c", None, repositories.head("c", 8, 'backend: "identity_of_mine"'))
    assert "is not served here" in error(tmp_path, "c")
    os.makedirs(tmp_path / "p" / "1")
    (tmp_path / "p" / "1" / "model.plan").write_text("x")
    assert '"tensorrt" is not served here' in error(tmp_path, "p")


def test_a_model_without_configuration_completes_itself(tmp_path):
    repositories.write(tmp_path, "m", repositories.add_sub())
    config = inspect(tmp_path, "m")["config"]
    assert (config["max_batch_size"], config["default_model_filename"]) == (4, "model.onnx")
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]
    assert [(p["name"], p["data_type"], p["dims"]) for p in config["input"]] == [("INPUT0", "TYPE_INT32", [16]), ("INPUT1", "TYPE_INT32", [16])]
    repositories.write(tmp_path, "fixed", repositories.add_sub(batch=1))
    assert inspect(tmp_path, "fixed")["config"]["input"][0]["dims"] == [1, 16]


def test_versions_follow_the_policy(tmp_path):
    for version in (1, 2, 3, 10):
        repositories.write(tmp_path, "m", repositories.add_sub(), version=version)
    os.makedirs(tmp_path / "m" / "007")
    os.makedirs(tmp_path / "m" / "next")

    def versions(policy):
        repositories.write(tmp_path, "m", None, policy)
        card = inspect(tmp_path, "m")
        return [v["number"] for v in card["versions"]] if "versions" in card else card["error"]

    assert versions("") == [10]
    assert versions("version_policy { latest { num_versions: 2 } }") == [10, 3]
    assert versions("version_policy: { all { } }") == [10, 3, 2, 1]
    assert versions("version_policy: { specific { versions: [ 2, 1, 99 ] } }") == [2, 1]
    assert "at least one version must be available under the version policy" in versions("version_policy { specific { versions: 5 } }")


def test_an_override_takes_the_place_of_the_file(tmp_path):
    repositories.write(tmp_path, "m", repositories.add_sub(), repositories.pair("m", "TYPE_FP32"))
    assert "data_type: the model's is INT32, the configuration's FP32" in error(tmp_path, "m")
    assert inspect(tmp_path, "m", {"max_batch_size": 2, "backend": "onnxruntime"})["config"]["max_batch_size"] == 2
    assert error(tmp_path, "m", {"max_batchsize": 2}) == "m: config: max_batchsize: unknown field; did you mean max_batch_size?"


def test_errors_say_where(tmp_path):
    repositories.write(tmp_path, "m", repositories.add_sub(), "max_batch_size: 8\ninputs [ ]\n")
    assert error(tmp_path, "m") == "m/config.pbtxt:2: inputs: unknown field; did you mean input?"
    repositories.write(tmp_path, "n", repositories.add_sub(), 'name: "other"\n')
    assert "is 'other', but the directory's name is 'n'" in error(tmp_path, "n")
    repositories.write(tmp_path, "l", repositories.add_sub(), 'output { name: "OUTPUT0" label_filename: "none.txt" }')
    assert "l/none.txt" in error(tmp_path, "l")
    repositories.write(tmp_path, "u", repositories.add_sub(), 'output { name: "OUTPUT0" label_filename: "../l/config.pbtxt" }')
    assert "must lie in the model's directory" in error(tmp_path, "u")
    assert "no directory 'x'" in error(tmp_path, "x")
    assert "is no name of a model" in error(tmp_path, "../m")
    repositories.write(tmp_path, "f", repositories.add_sub(), 'default_model_filename: "../2/model.onnx"')
    assert "default_model_filename" in error(tmp_path, "f")


def test_what_is_no_model_is_told_so(tmp_path):
    for name, data in (("empty", b""), ("text", b"not a model at all, but long enough"), ("cut", b"\x08\x08\x3a\xff\xff\xff\x0f")):
        os.makedirs(tmp_path / name / "1")
        (tmp_path / name / "1" / "model.onnx").write_bytes(data)
        answer = inspect(tmp_path, name)
        assert answer["status"] == 13 and answer["error"], answer


# ---- external data -------------------------------------------------------------------------------------------------------


def with_external(directory, name, location, weights=None):
    """A model whose weights lie at `location` of its version's directory."""
    array = np.arange(64, dtype=np.float32)
    tensor = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[64], data_location=onnx.TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", "0"), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=text)
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    made = repositories.model([node], [repositories.value("x", T.FLOAT, [64])], [repositories.value("y", T.FLOAT, [64])], [tensor])
    base = repositories.write(directory, name)
    with open(os.path.join(base, "1", "model.onnx"), "wb") as file:
        file.write(made.SerializeToString())
    if weights:
        array.tofile(weights)
    return base


def test_external_data_inside_is_read(tmp_path):
    with_external(tmp_path, "m", "w.bin", tmp_path / "m_w")
    os.rename(tmp_path / "m_w", tmp_path / "m" / "1" / "w.bin")
    assert inspect(tmp_path, "m")["config"]["input"][0]["dims"] == [64]


@pytest.mark.parametrize("location", ["../../secret.bin", "{tmp}/secret.bin", "..", "a/../../../secret.bin", "link.bin", "up/secret.bin",
                                      "", "*/_ORT_MEM_ADDR_/*"])
def test_external_data_outside_is_refused(tmp_path, location):
    np.arange(64, dtype=np.float32).tofile(tmp_path / "secret.bin")
    base = with_external(tmp_path, "m", location.format(tmp=tmp_path))
    os.symlink(tmp_path / "secret.bin", os.path.join(base, "1", "link.bin"))
    os.symlink(tmp_path, os.path.join(base, "1", "up"))
    answer = inspect(tmp_path, "m")
    assert answer["code"] == "external_data" and "external data" in answer["error"], answer


@pytest.mark.parametrize("backend,name", [("onnxruntime", "model.bin"), ("openvino", "model.xml")])
def test_no_name_hides_external_data(tmp_path, backend, name):
    base = with_external(tmp_path, "m", "/etc/hostname")
    os.rename(os.path.join(base, "1", "model.onnx"), os.path.join(base, "1", name))
    repositories.write(tmp_path, "m", None, f'backend: "{backend}" default_model_filename: "{name}"')
    assert inspect(tmp_path, "m")["code"] == "external_data"


def test_external_data_in_a_subgraph_is_seen(tmp_path):
    inner = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    inner.external_data.add(key="location", value="/etc/hostname")
    branches = [onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["o"], value=inner)], "b", [],
                                       [repositories.value("o", T.FLOAT, [1])]) for _ in range(2)]
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    made = repositories.model([node], [repositories.value("c", T.BOOL, [1])], [repositories.value("y", T.FLOAT, [1])])
    base = repositories.write(tmp_path, "m")
    with open(os.path.join(base, "1", "model.onnx"), "wb") as file:
        file.write(made.SerializeToString())
    assert "lies outside the model's directory" in error(tmp_path, "m")


def test_dynamic_quantisation_is_not_batched_by_itself(tmp_path):
    nodes = [onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    made = repositories.model(nodes, [repositories.value("x", T.FLOAT, ["N", 4])], [repositories.value("y", T.FLOAT, ["N", 4])])
    repositories.write(tmp_path, "m", made)
    assert inspect(tmp_path, "m")["config"]["max_batch_size"] == 0


def test_an_ensemble_needs_no_file(tmp_path):
    ensemble = (repositories.head("e", 8, 'platform: "ensemble"') + repositories.ports("input", ["A", "B"], "TYPE_INT32", [16]) +
                repositories.ports("output", ["S"], "TYPE_INT32", [16]) +
                'ensemble_scheduling { step [ { model_name: "simple" model_version: -1 input_map { key: "INPUT0" value: "A" } '
                'input_map { key: "INPUT1" value: "B" } output_map { key: "OUTPUT0" value: "S" } } ] }')
    repositories.write(tmp_path, "e", None, ensemble)
    card = inspect(tmp_path, "e")
    assert card["config"]["ensemble_scheduling"]["step"][0]["output_map"] == {"OUTPUT0": "S"}
    assert card["versions"] == [{"path": "", "digest": "", "number": 1, "bytes": 0}]


def test_the_classify_model_has_its_labels(tmp_path):
    repositories.write(tmp_path, "c", repositories.classifier("x", "y", [1, 3, 8, 8], [1, 10]),
                       files={"labels.txt": "".join(f"{i}\n" for i in range(10)), "spillway.json": '{"labels": "labels.txt"}'})
    card = inspect(tmp_path, "c")
    assert card["label_counts"] == [10] and card["config"]["output"][0]["label_filename"] == "labels.txt"
