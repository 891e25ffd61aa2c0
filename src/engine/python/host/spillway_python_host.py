# SPDX-License-Identifier: Apache-2.0
"""The child's side of src/engine/python: runs one TritonPythonModel for one lane. Started by the plug-in with four
descriptors: 3 packets (SOCK_SEQPACKET), 4 its memory (read here), 5 ours (written here), 6 closes when the worker dies.
The packets' form stands in py.h."""
import fcntl
import importlib.util
import json
import mmap
import os
import signal
import socket
import struct
import sys
import traceback

PACKETS, THEIRS, OURS, LIFE = 3, 4, 5, 6
HELLO, READY, RUN, DONE, FAILED, BYE, PROBE = range(1, 8)
ABSENT = -1
HEAD, TENSOR = struct.Struct("<IIIIQ"), struct.Struct("<ii8qQQ")
LIMIT_BYTES = 2 << 30
OK, INVALID, NOT_FOUND, UNSUPPORTED, CORRUPT, INTERNAL = 0, 1, 3, 6, 13, 14

# ONNX's numbers; bfloat16 has no numpy type and comes as uint16, bit for bit.
NUMBERS = {"TYPE_FP32": 1, "TYPE_UINT8": 2, "TYPE_INT8": 3, "TYPE_UINT16": 4, "TYPE_INT16": 5, "TYPE_INT32": 6, "TYPE_INT64": 7,
           "TYPE_STRING": 8, "TYPE_BOOL": 9, "TYPE_FP16": 10, "TYPE_FP64": 11, "TYPE_UINT32": 12, "TYPE_UINT64": 13, "TYPE_BF16": 16}
NUMPY = {1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8", 16: "u2"}
STRING = 8


class Failure(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def die_with_the_worker():
    """Nothing is ever written to LIFE; when the worker is gone the kernel sends SIGKILL, even to code that holds the GIL."""
    fcntl.fcntl(LIFE, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(LIFE, 10, signal.SIGKILL)  # F_SETSIG, which not every Python has a name for
    fcntl.fcntl(LIFE, fcntl.F_SETFL, fcntl.fcntl(LIFE, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        if os.read(LIFE, 1) == b"":
            os._exit(1)  # it died before this was set up
    except BlockingIOError:
        pass


class Memory:
    """A memfd that may have grown (theirs) or may be made to grow (ours)."""

    def __init__(self, fd):
        self.fd, self.map = fd, None

    def at_least(self, size):
        if self.map is None or len(self.map) < size:
            if os.fstat(self.fd).st_size < size:
                os.ftruncate(self.fd, -(-(size + size // 4) // 4096) * 4096)
            self.map = mmap.mmap(self.fd, os.fstat(self.fd).st_size)
        return self.map


def read_strings(data, count):
    found, at = [], 0
    for _ in range(count):
        length = int.from_bytes(data[at:at + 4], "little")
        found.append(data[at + 4:at + 4 + length])
        at += 4 + length
    return found


class Host:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, PACKETS)
        self.theirs, self.ours = Memory(THEIRS), Memory(OURS)
        self.model, self.inputs, self.outputs = None, [], []

    def send(self, kind, status=0, inputs=(), outputs=(), size=0):
        body = b"".join(TENSOR.pack(*tensor) for tensor in (*inputs, *outputs))
        self.socket.send(HEAD.pack(kind, status, len(inputs), len(outputs), size) + body)

    def send_text(self, kind, text, status=0):
        data = text.encode("utf-8", "replace")[:1024]
        self.ours.at_least(len(data))[:len(data)] = data
        self.send(kind, status, size=len(data))

    # --- what a packet means ---

    def hello(self, lane, size):
        told = json.loads(bytes(self.theirs.at_least(size)[:size]))
        config = json.loads(told["model_config"])
        choose_interpreter(config, told, lane, size)
        if told["threads"] > 0:
            os.environ.setdefault("OMP_NUM_THREADS", str(told["threads"]))
        self.inputs, self.outputs = ports_of(config)
        import triton_python_backend_utils as utils
        utils._model_dir = os.path.dirname(told["path"])
        module = load_module(told["path"])
        args = {"model_config": told["model_config"], "model_instance_kind": told["kind"],
                "model_instance_name": f"{told['instance_name'] or told['model_name']}_{lane}",
                "model_instance_device_id": told["device"], "model_repository": told["model_repository"],
                "model_version": told["model_version"], "model_name": told["model_name"]}
        if not hasattr(module, "TritonPythonModel"):
            raise Failure(CORRUPT, f"{told['path']} has no class TritonPythonModel")
        self.model = module.TritonPythonModel()
        if not callable(getattr(self.model, "execute", None)):
            raise Failure(CORRUPT, "TritonPythonModel has no execute()")
        if hasattr(self.model, "initialize"):
            self.model.initialize(args)
        names, entries = b"", []
        for port in self.inputs + self.outputs:
            name = port["name"].encode()
            entries.append((port["number"], len(port["dims"]), *pad(port["dims"]), len(names), len(name)))
            names += name
        self.ours.at_least(len(names))[:len(names)] = names
        self.send(READY, 0, entries[:len(self.inputs)], entries[len(self.inputs):])

    def run(self, count, entries):
        import triton_python_backend_utils as utils
        rows = struct.unpack_from(f"<{count}q", self.theirs.at_least(8 * count)) if count else (None,)
        arrays = [(port["name"], self.read_tensor(entry)) for port, entry in zip(self.inputs, entries) if entry[1] != ABSENT]
        wanted = [port["name"] for port, entry in zip(self.outputs, entries[len(self.inputs):]) if entry[1] != ABSENT]
        requests, first = [], 0
        for some in rows:
            own = [utils.Tensor(name, array if some is None else array[first:first + some]) for name, array in arrays]
            requests.append(utils.InferenceRequest(inputs=own, requested_output_names=list(wanted)))
            first += some or 0
        responses = self.model.execute(requests)
        if not isinstance(responses, (list, tuple)) or len(responses) != len(requests):
            raise Failure(INTERNAL, "execute() must return a list with one InferenceResponse for each request")
        self.answer([outputs_of(response) for response in responses], rows, wanted)

    def read_tensor(self, entry):
        import numpy as np
        number, rank, dims, offset, size = entry[0], entry[1], entry[2:10], entry[10], entry[11]
        data, shape = self.theirs.at_least(offset + size), dims[:rank]
        if number == STRING:
            count = 1
            for dim in shape:
                count *= dim
            array = np.empty(count, np.object_)
            array[:] = read_strings(bytes(data[offset:offset + size]), count)
            return array.reshape(shape)
        # A copy: the model may keep it, the memory is written anew by the next run.
        kind = np.dtype(NUMPY[number])
        return np.frombuffer(data, kind, size // kind.itemsize, offset).reshape(shape).copy()

    def answer(self, found, rows, wanted):
        import numpy as np
        parts, entries, end = [], [], 0
        for port in self.outputs:
            if port["name"] not in wanted:
                entries.append((port["number"], ABSENT, *pad(()), 0, 0))
                continue
            array = join(port, [arrays.get(port["name"]) for arrays in found], rows)
            if port["number"] == STRING:
                data = b"" if array.size == 0 else encode(array, port["name"])
            else:
                kind = np.dtype(NUMPY[port["number"]])
                if array.dtype != kind:
                    raise Failure(INTERNAL, f"output '{port['name']}' is {array.dtype}, the configuration says {port['type']}")
                data = np.ascontiguousarray(array)
            if array.ndim > 8:
                raise Failure(INTERNAL, f"output '{port['name']}' has {array.ndim} dimensions; at most 8 are served")
            size = len(data) if port["number"] == STRING else data.nbytes
            start = -(-end // 64) * 64
            end = start + size
            parts.append((start, size, data))
            entries.append((port["number"], array.ndim, *pad(array.shape), start, size))
        if end > LIMIT_BYTES:
            raise Failure(INTERNAL, f"the outputs have {end} bytes; at most {LIMIT_BYTES} are served")
        memory = self.ours.at_least(end)
        for start, size, data in parts:
            if isinstance(data, bytes):
                memory[start:start + size] = data
            elif size:
                np.frombuffer(memory, data.dtype, data.size, start)[:] = data.reshape(-1)
        self.send(DONE, 0, (), entries)

    def probe(self):
        import numpy
        self.send_text(READY, f"{sys.version.split()[0]}\nnumpy {numpy.__version__}\n{sys.executable}")

    def answering(self, call, *arguments):
        """Whatever the model's code raises is the answer to its request."""
        try:
            call(*arguments)
        except Failure as failure:
            self.send_text(FAILED, str(failure), failure.status)
        except Exception as error:
            traceback.print_exc()
            self.send_text(FAILED, describe(error), UNSUPPORTED if missing_numpy(error) else INTERNAL)

    def serve(self):
        while True:
            packet = self.socket.recv(32768)
            if not packet:
                return
            kind, status, input_count, output_count, size = HEAD.unpack_from(packet)
            entries = [TENSOR.unpack_from(packet, HEAD.size + i * TENSOR.size) for i in range(input_count + output_count)]
            if kind == BYE:
                if hasattr(self.model, "finalize"):
                    self.model.finalize()
                return
            self.answering(self.hello if kind == HELLO else self.probe if kind == PROBE else self.run,
                           *((status, size) if kind == HELLO else () if kind == PROBE else (status, entries)))


def outputs_of(response):
    import triton_python_backend_utils as utils
    if not isinstance(response, utils.InferenceResponse):
        raise Failure(INTERNAL, f"execute() returned {type(response).__name__}, not an InferenceResponse")
    if response.has_error():
        codes = {utils.TritonError.INVALID_ARG: INVALID, utils.TritonError.NOT_FOUND: NOT_FOUND,
                 utils.TritonError.UNSUPPORTED: UNSUPPORTED}
        raise Failure(codes.get(response.error().code(), INTERNAL), response.error().message())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def join(port, arrays, rows):
    """One output of all responses. What cannot be joined fails the batch, whose requests are then run one by one."""
    import numpy as np
    for array, some in zip(arrays, rows):
        if array is None:
            raise Failure(INTERNAL, f"the response has no output '{port['name']}'")
        if some is not None and (array.ndim < 1 or len(array) != some):
            raise Failure(INTERNAL, f"output '{port['name']}' has shape {list(array.shape)} for a request of {some} rows")
    if len(arrays) == 1:
        return arrays[0]
    if any(array.shape[1:] != arrays[0].shape[1:] or array.dtype.kind != arrays[0].dtype.kind for array in arrays):
        raise Failure(INTERNAL, f"output '{port['name']}' has another shape or type in each response")
    return np.concatenate(arrays)


def missing_numpy(error):
    return isinstance(error, ModuleNotFoundError) and error.name == "numpy"


def describe(error):
    if missing_numpy(error):
        return f"{sys.executable} has no numpy; SPILLWAY_PYTHON names an interpreter that has"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.dirname(frame.filename) != os.path.dirname(os.path.abspath(__file__))]
    place = f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def pad(dims):
    return (*dims, *([0] * (8 - len(dims))))


def encode(array, name):
    import triton_python_backend_utils as utils
    data = utils.serialize_byte_tensor(array)
    if data is None:
        raise Failure(INTERNAL, f"output '{name}' is {array.dtype}, the configuration says TYPE_STRING")
    return data.tobytes()


def port_of(port, batched):
    """A port as the model sees it: with the batch dimension, and reshaped where the configuration says so."""
    if port.get("data_type") not in NUMBERS:
        raise Failure(UNSUPPORTED, f"'{port.get('name')}' is {port.get('data_type')}")
    dims = port["reshape"].get("shape", []) if port.get("reshape") else port.get("dims", [])
    dims = ([-1] if batched else []) + [int(dim) for dim in dims]
    if len(dims) > 8:
        raise Failure(UNSUPPORTED, f"'{port['name']}' has {len(dims)} dimensions; at most 8 are served")
    return {"name": port["name"], "type": port["data_type"], "number": NUMBERS[port["data_type"]], "dims": dims}


def ports_of(config):
    """Also what no client gives: a sequence's control and state tensors."""
    batched = int(config.get("max_batch_size", 0)) > 0
    inputs = [port_of(port, batched) for port in config.get("input", [])]
    outputs = [port_of(port, batched) for port in config.get("output", [])]
    sequence = config.get("sequence_batching", {})
    for tensor in sequence.get("control_input", []):
        kinds = ((c.get("data_type") or next((t for k, t in (("int32_false_true", "TYPE_INT32"), ("fp32_false_true", "TYPE_FP32"),
                                                              ("bool_false_true", "TYPE_BOOL")) if c.get(k)), "TYPE_INT32"))
                 for c in tensor.get("control", []))
        inputs.append(port_of({"name": tensor["name"], "data_type": next(kinds, "TYPE_INT32"), "dims": [1]}, batched))
    for state in sequence.get("state", []):
        kind = {"data_type": state.get("data_type"), "dims": state.get("dims", [])}
        inputs.append(port_of(dict(kind, name=state["input_name"]), batched))
        outputs.append(port_of(dict(kind, name=state["output_name"]), batched))
    return inputs, outputs


def choose_interpreter(config, told, lane, size):
    """EXECUTION_ENV_PATH: the model's own environment, a directory; then this script goes on there."""
    path = config.get("parameters", {}).get("EXECUTION_ENV_PATH", {}).get("string_value", "")
    path = path.replace("$$TRITON_MODEL_DIRECTORY", told["model_repository"])
    if not path or os.environ.get("SPILLWAY_PYTHON_CHOSEN") == path:
        return
    interpreter = os.path.join(path, "bin", "python3")
    if not os.access(interpreter, os.X_OK):
        raise Failure(UNSUPPORTED, f"EXECUTION_ENV_PATH: {path} is no directory with bin/python3 (unpack an archive first)")
    os.environ["SPILLWAY_PYTHON_CHOSEN"] = path
    os.execv(interpreter, [interpreter, os.path.abspath(__file__), str(lane), str(size)])


def load_module(path):
    for folder in (os.path.dirname(os.path.dirname(path)), os.path.dirname(path)):
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    return module


def main():
    die_with_the_worker()
    host = Host()
    if len(sys.argv) == 3:  # in the model's own environment: the HELLO was read by who came before
        host.answering(host.hello, int(sys.argv[1]), int(sys.argv[2]))
    host.serve()


if __name__ == "__main__":
    main()
