# SPDX-License-Identifier: Apache-2.0
"""Triton Python-backend model doing the job: BYTES tensor with a JPEG in, BYTES tensor with the JSON answer out."""
import numpy as np
import triton_python_backend_utils as pb_utils

from job import Job


class TritonPythonModel:
    def initialize(self, args):
        self.job = Job()

    def execute(self, requests):
        answers = []
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)[0]
            text = self.job.answer_text(data).encode()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("answer", np.array([text], dtype=np.object_))]))
        return answers
