# SPDX-License-Identifier: Apache-2.0
"""A keep-alive KServe client in a screenful: binary tensors both ways, load and unload."""
import http.client
import json

import numpy as np

import cases

NAMES = {1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL", 10: "FP16", 11: "FP64",
         12: "UINT32", 13: "UINT64", 16: "BF16"}
NUMBERS = {name: number for number, name in NAMES.items()}


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(f"{status} {text}")
        self.status = status


class Client:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def call(self, method, path, body=b"", headers=None):
        self.connection.request(method, path, body, headers or {})
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise Refused(answer.status, json.loads(data).get("error", "") if data[:1] == b"{" else data[:200])
        return answer, data

    def json(self, method, path, body=None):
        data = self.call(method, path, b"" if body is None else json.dumps(body).encode())[1]
        return json.loads(data) if data else None

    def load(self, model):
        self.json("POST", f"/v2/repository/models/{model}/load", {})

    def unload(self, model):
        self.json("POST", f"/v2/repository/models/{model}/unload", {})

    def infer(self, model, inputs, parameters=None):
        """{name: array} -> [(name, array)] in the server's order."""
        head = {"inputs": [], "parameters": {"binary_data_output": True, **(parameters or {})}}
        parts = []
        for name, array in inputs.items():
            data = cases.pack(array)
            head["inputs"].append({"name": name, "shape": list(array.shape), "datatype": NAMES[cases.dtype_number(array)],
                                   "parameters": {"binary_data_size": len(data)}})
            parts.append(data)
        text = json.dumps(head).encode()
        answer, data = self.call("POST", f"/v2/models/{model}/infer", text + b"".join(parts),
                                 {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"})
        length = int(answer.getheader("Inference-Header-Content-Length") or len(data))
        found, at = [], length
        for output in json.loads(data[:length])["outputs"]:
            size, number = output.get("parameters", {}).get("binary_data_size"), NUMBERS[output["datatype"]]
            if size is None:  # one without elements may come as an empty JSON array
                array = np.array(output["data"], object if number == 8 else None).reshape(output["shape"])
                found.append((output["name"], array))
                continue
            found.append((output["name"], cases.unpack(data[at:at + size], number, output["shape"])))
            at += size
        assert at == len(data)
        return found

    def metadata(self, model):
        return self.json("GET", f"/v2/models/{model}")

    def index(self):
        return self.json("POST", "/v2/repository/index", {})
