/* SPDX-License-Identifier: Apache-2.0
 * See backend.h. */
#include "model/backend.h"

#include "base/attr.h"

#include <string.h>

#define TO_ONNX_TF    "convert the model to ONNX (python -m tf2onnx.convert) and set backend: \"onnxruntime\""
#define TO_ONNX_TORCH "export the model to ONNX (torch.onnx.export) and set backend: \"onnxruntime\""
#define TO_ONNX       "serve the model's ONNX file with backend: \"onnxruntime\""
#define TO_PYTHON     "a model.py with backend: \"python\" may call the library instead"

static const sp_backend backends[] = {
    { "onnxruntime", "onnxruntime_onnx", "model.onnx", true, NULL },
    { "openvino", NULL, "model.xml", true, NULL },
    { "python", NULL, "model.py", false, NULL },
    { "identity", NULL, NULL, false, NULL },
    { "tensorflow", "tensorflow_graphdef", "model.graphdef", false, TO_ONNX_TF },
    { "tensorflow", "tensorflow_savedmodel", "model.savedmodel", false, TO_ONNX_TF },
    { "tensorrt", "tensorrt_plan", "model.plan", false, TO_ONNX },
    { "pytorch", "pytorch_libtorch", "model.pt", false, TO_ONNX_TORCH },
    { "dali", NULL, "model.dali", false, "an ensemble's step spillway/preprocess decodes and scales pictures" },
    { "fil", NULL, "xgboost.model", false, "convert the trees to ONNX (onnxmltools) and set backend: \"onnxruntime\"" },
    { "vllm", NULL, "model.json", false, TO_PYTHON },
    { "tensorrtllm", NULL, NULL, false, TO_PYTHON },
};

const sp_backend *sp_backend_at(int index)
{
    return index >= 0 && index < (int)SP_ARRAY_LEN(backends) ? &backends[index] : NULL;
}

const sp_backend *sp_backend_named(const char *name)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(backends); i++) {
        if (!strcmp(backends[i].name, name))
            return &backends[i];
    }
    return NULL;
}

const sp_backend *sp_backend_of_platform(const char *platform)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(backends); i++) {
        if (backends[i].platform && !strcmp(backends[i].platform, platform))
            return &backends[i];
    }
    return NULL;
}

const sp_backend *sp_backend_of_file(const char *file)
{
    const char *dot = strrchr(file, '.');

    for (size_t i = 0; dot && i < SP_ARRAY_LEN(backends); i++) {
        const char *own = backends[i].file ? strrchr(backends[i].file, '.') : NULL;
        if (own && !strcmp(own, dot))
            return &backends[i];
    }
    return NULL;
}
