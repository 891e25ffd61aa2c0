# SPDX-License-Identifier: Apache-2.0
"""MLServer runtimes doing the job over the V2 protocol: the JPEG as a base64 BYTES tensor in JSON, its documented way."""
from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classify(MLModel):
    async def load(self) -> bool:
        from job import Job
        self.job = Job()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        data = Base64Codec.decode_input(payload.inputs[0])[0]
        text = self.job.answer_text(data)
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", [text])])


class Noop(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        data = StringCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", data)])
