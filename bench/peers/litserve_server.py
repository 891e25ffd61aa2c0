# SPDX-License-Identifier: Apache-2.0
"""LitServe doing the job: `python litserve_server.py classify|noop PORT`. Upload field `request`, as it demands."""
import os
import sys

import litserve
from fastapi import Request, UploadFile


class Classify(litserve.LitAPI):
    def setup(self, device):
        from job import Job
        self.job = Job()

    def decode_request(self, request: UploadFile):
        return request.file.read()

    def predict(self, data):
        return self.job.answer(data)

    def encode_response(self, output):
        return output


class Noop(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request: Request):
        return request["input"]

    def predict(self, data):
        return data

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    api = Classify() if sys.argv[1] == "classify" else Noop()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ.get("PEER_INSTANCES", "1")))
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning",
               access_log=False)
