# SPDX-License-Identifier: Apache-2.0
"""Triton Python-backend model that is a plain classifier: the input tensor in, its logits out. What a Spillway's kserve
remote is pointed at; the picture's decoding and the answer's ranking stay with the Spillway."""
import numpy as np
import triton_python_backend_utils as pb_utils

from job import Job


class TritonPythonModel:
    def initialize(self, args):
        self.job = Job()

    def execute(self, requests):
        answers = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "images").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("logits", np.asarray(self.job.infer(tensor)))]))
        return answers
