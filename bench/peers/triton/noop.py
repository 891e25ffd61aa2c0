# SPDX-License-Identifier: Apache-2.0
"""Triton Python-backend identity: the tensor that came goes back."""
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("output",
                                                            pb_utils.get_input_tensor_by_name(r, "input").as_numpy())])
                for r in requests]
