# SPDX-License-Identifier: Apache-2.0
"""The job that every peer does, as their users write it: JPEG bytes -> Pillow -> bicubic short side 256, centre crop
224 -> ONNX Runtime -> softmax -> top-5 with labels. The same arithmetic and the same model file as Spillway's."""
import io
import json
import os
import pathlib

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Job:
    def __init__(self, model_dir=None, threads=None):
        model_dir = pathlib.Path(model_dir or os.environ["PEER_MODEL"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(threads or os.environ.get("PEER_THREADS", "2"))
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model_dir / "1" / "model.onnx"), options,
                                                    providers=["CPUExecutionProvider"])
        self.input_name = self.session.get_inputs()[0].name
        self.labels = (model_dir / "labels.txt").read_text().split("\n")
        self.infer(np.zeros((1, 3, 224, 224), np.float32))

    @staticmethod
    def decode(data):
        image = Image.open(io.BytesIO(data))
        return ImageOps.exif_transpose(image).convert("RGB")

    @staticmethod
    def preprocess(image):
        w, h = image.size
        if w <= h:
            size = (256, int(256 * h / w))
        else:
            size = (int(256 * w / h), 256)
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)  # half to even, as torchvision
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32)
        return np.ascontiguousarray(((pixels - 127.0) / 128.0).transpose(2, 0, 1))[None]

    def infer(self, tensor):
        return self.session.run(None, {self.input_name: tensor})[0]

    def top5(self, logits):
        e = np.exp(logits - logits.max())
        p = e / e.sum()
        best = np.argsort(-p, kind="stable")[:5]
        return [{"class_id": int(i), "label": self.labels[i], "probability": float(p[i])} for i in best]

    def answer(self, data):
        """JPEG bytes -> the answer as a dict."""
        logits = self.infer(self.preprocess(self.decode(data)))[0]
        return {"predictions": self.top5(logits)}

    def answer_text(self, data):
        return json.dumps(self.answer(data))
