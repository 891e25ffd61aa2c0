# SPDX-License-Identifier: Apache-2.0
"""Sequences through the real server with Triton's own clients: accumulators whose state the server keeps, their control
tensors, both strategies, what is refused, and what the death of a worker means."""
import concurrent.futures
import os
import signal
import tempfile
import time

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="the set-up's Python has no tritonclient")
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

import served_house as house
from served_house import onnx

node = onnx.helper.make_node

DIRECT = """
name: "direct" backend: "onnxruntime" max_batch_size: 4
input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }, { name: "CONTROLS" data_type: TYPE_INT32 dims: [ 3 ] },
         { name: "ID" data_type: TYPE_UINT64 dims: [ 1 ] }, { name: "SUM" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 5, 7 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] } ]
  state [ { input_name: "STATE_IN" output_name: "STATE_OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
}
"""

OLDEST = """
name: "oldest" backend: "onnxruntime" max_batch_size: 4
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "ID" data_type: TYPE_STRING dims: [ 1 ] },
         { name: "STARTED" data_type: TYPE_BOOL dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
sequence_batching {
  max_sequence_idle_microseconds: %d
  oldest { max_candidate_sequences: %d max_queue_delay_microseconds: 2000 preferred_batch_size: [ 2, 4 ] }
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START bool_false_true: [ false, true ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } ] } ]
  state [ { input_name: "STATE_IN" output_name: "STATE_OUT" data_type: TYPE_FP32 dims: [ 1 ] } ]
}
"""


def make_direct(repository):
    """OUTPUT = INPUT + STATE_IN; SUM = the sum over the rows that are READY: who shared the run."""
    house.model(os.path.join(repository, "direct/1/model.onnx"),
                [(n, "INT32", ["n", 1]) for n in ("INPUT", "START", "READY", "END", "STATE_IN")] + [("CORRID", "UINT64", ["n", 1])],
                [("OUTPUT", "INT32", ["n", 1]), ("CONTROLS", "INT32", ["n", 3]), ("ID", "UINT64", ["n", 1]),
                 ("SUM", "INT32", ["n", 1]), ("STATE_OUT", "INT32", ["n", 1])],
                [node("Add", ["INPUT", "STATE_IN"], ["OUTPUT"]), node("Identity", ["OUTPUT"], ["STATE_OUT"]),
                 node("Concat", ["START", "READY", "END"], ["CONTROLS"], axis=1), node("Identity", ["CORRID"], ["ID"]),
                 node("Mul", ["INPUT", "READY"], ["counted"]), node("ReduceSum", ["counted", "axes"], ["total"], keepdims=1),
                 node("Sub", ["INPUT", "INPUT"], ["zeros"]), node("Add", ["zeros", "total"], ["SUM"])],
                [onnx.numpy_helper.from_array(np.array([0], np.int64), "axes")])
    house.write(os.path.join(repository, "direct/config.pbtxt"), DIRECT)


def make_oldest(repository, name, idle_us, candidates):
    house.model(os.path.join(repository, name, "1/model.onnx"),
                [("INPUT", "FP32", ["n", 1]), ("END", "FP32", ["n", 1]), ("STATE_IN", "FP32", ["n", 1]),
                 ("START", "BOOL", ["n", 1]), ("CORRID", "STRING", ["n", 1])],
                [("OUTPUT", "FP32", ["n", 1]), ("STATE_OUT", "FP32", ["n", 1]), ("ID", "STRING", ["n", 1]),
                 ("STARTED", "BOOL", ["n", 1])],
                [node("Add", ["INPUT", "STATE_IN"], ["OUTPUT"]), node("Add", ["OUTPUT", "END"], ["STATE_OUT"]),
                 node("Identity", ["CORRID"], ["ID"]), node("Identity", ["START"], ["STARTED"])])
    house.write(os.path.join(repository, name, "config.pbtxt"), (OLDEST % (idle_us, candidates)).replace('"oldest"', f'"{name}"'))


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory(prefix="spillway-sequences-") as repository:
        make_direct(repository)
        make_oldest(repository, "oldest", 60_000_000, 8)
        make_oldest(repository, "narrow", 60_000_000, 1)
        make_oldest(repository, "hasty", 100_000, 8)
        made = house.Server(repository, grpc=True)
        try:
            made.wait_models(["direct", "oldest", "narrow", "hasty"])
            yield made
        finally:
            made.stop()


def ask(server, model, value, sequence, start=False, end=False, outputs=None, rows=1, timeout=None):
    client = httpclient.InferenceServerClient(server.address, network_timeout=30, connection_timeout=30)
    try:
        kind = "INT32" if model == "direct" else "FP32"
        tensor = httpclient.InferInput("INPUT", [rows, 1], kind)
        tensor.set_data_from_numpy(np.full((rows, 1), value, np.int32 if kind == "INT32" else np.float32))
        return client.infer(model, [tensor], sequence_id=sequence, sequence_start=start, sequence_end=end, timeout=timeout,
                            outputs=[httpclient.InferRequestedOutput(o) for o in outputs] if outputs else None)
    finally:
        client.close()


def value_of(answer, name="OUTPUT"):
    return answer.as_numpy(name).reshape(-1).tolist()


def refused(*args, **kwargs):
    with pytest.raises(InferenceServerException) as caught:
        ask(*args, **kwargs)
    return caught.value.message()


@pytest.mark.parametrize("model", ["direct", "oldest"])
def test_sequences_do_not_mix(server, model):
    expected = {}
    for step in range(5):
        for sequence in (11, 12, 13):
            answer = ask(server, model, sequence + step, sequence, start=step == 0, end=step == 4, outputs=["OUTPUT"])
            expected[sequence] = expected.get(sequence, 0) + sequence + step
            assert value_of(answer) == [expected[sequence]]


def test_controls_are_tensors(server):
    said = [value_of(ask(server, "direct", 1, 21, start=step == 0, end=step == 2, outputs=["CONTROLS"]), "CONTROLS")
            for step in range(3)]
    assert said == [[1, 1, 5], [0, 1, 5], [0, 1, 7]]
    answer = ask(server, "direct", 1, 2**63 + 5, start=True, end=True, outputs=["ID"])
    assert value_of(answer, "ID") == [2**63 + 5]
    answer = ask(server, "oldest", 1, "caméra 7", start=True, end=True)
    assert value_of(answer, "ID") == ["caméra 7".encode()] and value_of(answer, "STARTED") == [True]
    assert value_of(ask(server, "oldest", 1, 77, start=True, end=True), "ID") == [b"77"]


def test_empty_rows_are_not_ready(server):
    """Three sequences hold rows 0, 1 and 2; the third one's requests run with empty rows before them."""
    for sequence in (31, 32, 33):
        ask(server, "direct", 100 * sequence, sequence, start=True)
    answer = ask(server, "direct", 7, 33, outputs=["OUTPUT", "SUM", "CONTROLS", "ID"])
    assert value_of(answer) == [3307] and value_of(answer, "SUM") == [7]
    assert value_of(answer, "CONTROLS") == [0, 1, 5] and value_of(answer, "ID") == [33]
    for sequence in (31, 32, 33):
        assert value_of(ask(server, "direct", 0, sequence, end=True, outputs=["OUTPUT"])) == [100 * sequence + 7 * (sequence == 33)]


def test_a_second_start_begins_anew(server):
    ask(server, "oldest", 5, 41, start=True)
    assert value_of(ask(server, "oldest", 6, 41)) == [11]
    assert value_of(ask(server, "oldest", 7, 41, start=True)) == [7]
    assert value_of(ask(server, "oldest", 1, 41, end=True)) == [8]


def test_what_is_wrong_is_said_in_tritons_words(server):
    start = "must specify the START flag on the first request of the sequence"
    assert refused(server, "direct", 1, 51) == f"inference request for sequence 51 to model 'direct' {start}"
    assert refused(server, "oldest", 1, "x y") == f"inference request for sequence x y to model 'oldest' {start}"
    assert refused(server, "oldest", 1, 0) == "inference request to model 'oldest' must specify a non-zero or non-empty correlation ID"
    assert "must specify batch-size 1" in refused(server, "oldest", 1, 52, start=True, rows=2)
    ask(server, "oldest", 1, 53, start=True, end=True)
    assert start in refused(server, "oldest", 1, 53)


def test_the_backlog_waits_for_a_slot(server):
    """One candidate: the second sequence's request is answered when the first one has ended."""
    ask(server, "narrow", 1, 61, start=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        second = pool.submit(ask, server, "narrow", 10, 62, True, True)
        assert value_of(ask(server, "narrow", 2, 61)) == [3]
        with pytest.raises(InferenceServerException, match="timeout of the corresponding sequence has been expired"):
            ask(server, "narrow", 1, 63, start=True, timeout=20_000)
        assert not second.done()
        assert value_of(ask(server, "narrow", 3, 61, end=True)) == [6]
        assert value_of(second.result(30)) == [10]


def test_an_idle_sequence_ends(server):
    ask(server, "hasty", 1, 71, start=True)
    for attempt in range(8):
        time.sleep(0.15 * 2**attempt)
        try:
            ask(server, "hasty", 1, 71)
        except InferenceServerException as error:
            assert "must specify the START flag" in error.message()
            return
    pytest.fail("it never ended")


def test_many_sequences_at_once_each_count_right(server):
    def one(sequence):
        total = 0
        for step in range(12):
            total += step * sequence
            answer = ask(server, "oldest" if sequence % 2 else "direct", step * sequence, sequence, step == 0, step == 11, ["OUTPUT"])
            if value_of(answer) != [total]:
                return f"{sequence}: {value_of(answer)} at {step}, not {total}"
        return None

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert [w for w in pool.map(one, range(100, 124)) if w] == []


def test_the_death_of_its_worker_loses_a_sequence(server):
    ask(server, "oldest", 5, 81, start=True)
    pid = server.worker_pid("cpu0")
    os.kill(pid, signal.SIGKILL)
    said = refused(server, "oldest", 6, 81)
    assert "worker" in said or "sequence" in said
    server.wait_models(["oldest"])
    end = time.monotonic() + 30
    while time.monotonic() < end and server.worker_pid("cpu0") in (0, pid):
        time.sleep(0.02)
    assert "must specify the START flag" in refused(server, "oldest", 6, 81)
    assert value_of(ask(server, "oldest", 3, 81, start=True, end=True)) == [3]


@pytest.mark.parametrize("model, more", [("direct", []), ("direct", ["-i", "grpc", "--streaming"]),
                                         ("oldest", ["--sequence-id-range", "5000:6000"]), ("oldest", ["-i", "grpc"])])
def test_perf_analyzer_drives_sequences(server, model, more):
    address = server.grpc_address if "grpc" in more else server.address
    said = house.perf_analyzer("-m", model, "-u", address, "--sequence-length", "5", "--concurrency-range", "3", *more)
    assert "Sequence count" in said and "Throughput" in said, said
