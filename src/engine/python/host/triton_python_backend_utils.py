# SPDX-License-Identifier: Apache-2.0
"""What a TritonPythonModel imports as pb_utils, as far as Spillway serves it: tensors, requests, responses, errors, the
helpers over a model's configuration, and the logger. Names and meaning are those of Triton's Python back end (its README).

Not here, and said so when asked for: calls of other models (InferenceRequest.exec), decoupled responses, GPU tensors,
custom metrics. docs/known-limits.md lists them.
"""
import json
import struct
import sys

import numpy as np

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_MEMORY_CPU = 0
TRITONSERVER_MEMORY_CPU_PINNED = 1
TRITONSERVER_MEMORY_GPU = 2

_TO_NUMPY = {"TYPE_BOOL": np.bool_, "TYPE_UINT8": np.uint8, "TYPE_UINT16": np.uint16, "TYPE_UINT32": np.uint32,
             "TYPE_UINT64": np.uint64, "TYPE_INT8": np.int8, "TYPE_INT16": np.int16, "TYPE_INT32": np.int32,
             "TYPE_INT64": np.int64, "TYPE_FP16": np.float16, "TYPE_FP32": np.float32, "TYPE_FP64": np.float64,
             "TYPE_STRING": np.object_}

_model_dir = ""  # set by spillway_python_host.py


class TritonModelException(Exception):
    """Raised by a model, or by these helpers: the request fails with its text."""


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message="", code=None):
        self._message = str(message)
        self._code = TritonError.INTERNAL if code is None else int(code)

    def message(self):
        return self._message

    def code(self):
        return self._code

    def __str__(self):
        return self._message


class Tensor:
    def __init__(self, name, array):
        if not isinstance(array, np.ndarray):
            raise TritonModelException(f"Tensor '{name}' takes a numpy array, not {type(array).__name__}")
        self._name, self._array = str(name), array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array

    def shape(self):
        return list(self._array.shape)

    def triton_dtype(self):
        return numpy_to_triton_type(self._array.dtype)

    def is_cpu(self):
        return True

    def to_dlpack(self):
        return self._array.__dlpack__()

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    @staticmethod
    def from_dlpack(name, tensor):
        return Tensor(name, np.from_dlpack(tensor))


class PreferredMemory:
    def __init__(self, preferred_memory_type=TRITONSERVER_MEMORY_CPU, preferred_device_id=0):
        self.preferred_memory_type, self.preferred_device_id = preferred_memory_type, preferred_device_id


class InferenceRequest:
    def __init__(self, request_id="", correlation_id=0, inputs=(), requested_output_names=(), model_name="", model_version=-1,
                 flags=0, timeout=0, preferred_memory=None, trace=None, parameters=None):
        self._inputs, self._wanted = list(inputs), list(requested_output_names)
        self._id, self._correlation, self._flags, self._timeout = request_id, correlation_id, flags, timeout
        self._model, self._version, self._parameters = model_name, model_version, parameters or {}

    def inputs(self):
        return self._inputs

    def requested_output_names(self):
        return self._wanted

    def request_id(self):
        return self._id

    def correlation_id(self):
        return self._correlation

    def flags(self):
        return self._flags

    def set_flags(self, flags):
        self._flags = flags

    def timeout(self):
        return self._timeout

    def model_name(self):
        return self._model

    def parameters(self):
        return json.dumps(self._parameters)

    def preferred_memory(self):
        return PreferredMemory()

    def is_cancelled(self):
        return False

    def trace(self):
        return None

    def exec(self, *_, **__):
        raise TritonModelException("calls of other models (BLS) are not served here; an ensemble can chain models")

    async_exec = exec

    def get_response_sender(self):
        raise TritonModelException("decoupled responses are not served here")


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        if error is not None and not isinstance(error, TritonError):
            raise TritonModelException("the error of an InferenceResponse is a TritonError")
        self._outputs, self._error = list(output_tensors), error

    def output_tensors(self):
        return self._outputs

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


class Logger:
    """Lines to the worker's log."""
    INFO, WARNING, ERROR, VERBOSE = range(4)

    @staticmethod
    def log(message, level=0):
        print(f"python model: {('info', 'warning', 'error', 'verbose')[int(level)]}: {message}", file=sys.stderr, flush=True)

    @staticmethod
    def log_info(message):
        Logger.log(message, Logger.INFO)

    @staticmethod
    def log_warn(message):
        Logger.log(message, Logger.WARNING)

    @staticmethod
    def log_error(message):
        Logger.log(message, Logger.ERROR)

    @staticmethod
    def log_verbose(message):
        """Dropped: the worker has no verbose log."""


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, *_, **__):
        raise TritonModelException("custom metrics are not served here")


def _named(things, name, name_of):
    return next((thing for thing in things if name_of(thing) == name), None)


def get_input_tensor_by_name(inference_request, name):
    return _named(inference_request.inputs(), name, Tensor.name)


def get_output_tensor_by_name(inference_response, name):
    return _named(inference_response.output_tensors(), name, Tensor.name)


def get_input_config_by_name(model_config, name):
    return _named(model_config.get("input", []), name, lambda port: port["name"])


def get_output_config_by_name(model_config, name):
    return _named(model_config.get("output", []), name, lambda port: port["name"])


def get_model_dir():
    """Where model.py lies."""
    return _model_dir


def is_model_ready(*_, **__):
    raise TritonModelException("a model cannot ask for others here")


def using_decoupled_model_transaction_policy(model_config):
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_to_numpy_type(data_type):
    return _TO_NUMPY.get(data_type if isinstance(data_type, str) else None)


def triton_string_to_numpy(triton_type_string):
    return _TO_NUMPY.get(triton_type_string)


def numpy_to_triton_type(data_type):
    kind = np.dtype(data_type)
    if kind.kind in "OSU":
        return "TYPE_STRING"
    return next((name for name, known in _TO_NUMPY.items() if kind == known and name != "TYPE_STRING"), None)


def serialize_byte_tensor(input_tensor):
    """Elements as 4 bytes of length and their bytes, in one array of bytes; None when there are none."""
    if input_tensor.size == 0:
        return None
    if input_tensor.dtype.kind not in "OSU":
        return None
    parts = []
    for element in input_tensor.reshape(-1):
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (struct.pack("<I", len(data)), data)
    return np.frombuffer(b"".join(parts), np.uint8)


def deserialize_bytes_tensor(encoded_tensor):
    data, found, at = bytes(encoded_tensor), [], 0
    while at < len(data):
        length, = struct.unpack_from("<I", data, at)
        found.append(data[at + 4:at + 4 + length])
        at += 4 + length
    return np.array(found, dtype=np.object_)
