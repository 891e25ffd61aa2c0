/* SPDX-License-Identifier: Apache-2.0
 * The plug-in's table: ONNX Runtime behind Spillway's engine ABI. */
#include "ort.h"

#include <stdio.h>
#include <string.h>

static sp_engine_status probe(sp_engine_probe_result *ret_result, sp_engine_error *reterr)
{
    const ort_library *library = NULL;
    sp_engine_status s = ort_library_get(&library, reterr);
    if (s)
        return s;
    sp_engine_probe_result result = { .engine = "onnxruntime" };
    (void)snprintf(result.version, sizeof(result.version), "%s", library->version);
    (void)snprintf(result.library, sizeof(result.library), "%s", library->path);
    ort_probe_providers(library, &result);
    *ret_result = result;
    return SP_ENGINE_OK;
}

static const sp_engine_api table = {
    .abi = SP_ENGINE_ABI,
    .struct_bytes = sizeof(sp_engine_api),
    .name = "onnxruntime",
    .probe = probe,
    .load = ort_model_load,
    .describe = ort_model_describe,
    .run = ort_model_run,
    .unload = ort_model_unload,
    .close = ort_library_close,
    .memory = ort_model_memory,
    .cancel = ort_model_cancel,
    .report = ort_model_report,
};

__attribute__((visibility("default"))) const sp_engine_api *sp_engine_api_get(uint32_t host_abi);

const sp_engine_api *sp_engine_api_get(uint32_t host_abi)
{
    return host_abi == SP_ENGINE_ABI ? &table : NULL;
}
