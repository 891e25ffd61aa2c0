/* SPDX-License-Identifier: Apache-2.0
 * The plug-in's table: OpenVINO behind Spillway's engine ABI. */
#include "ov.h"

#include <stdio.h>

static sp_engine_status probe(sp_engine_probe_result *ret_result, sp_engine_error *reterr)
{
    const ov_library *library = NULL;
    sp_engine_status s = ovp_library_get(&library, reterr);
    if (s)
        return s;
    sp_engine_probe_result result = { .engine = OV_ORIGIN, .provider_count = 1 };
    sp_engine_provider *cpu = &result.providers[0];
    char *abilities = NULL;
    (void)snprintf(result.version, sizeof(result.version), "%s", library->version);
    (void)snprintf(result.library, sizeof(result.library), "%s", library->path);
    (void)snprintf(cpu->name, sizeof(cpu->name), "cpu");
    sp_engine_error why = { 0 };
    s = ovp_check(library, library->ov_core_get_property(library->core, "CPU", "OPTIMIZATION_CAPABILITIES", &abilities),
                  OVP_LOAD, &why);
    if (s) { /* the library is here, its CPU device is not */
        (void)snprintf(cpu->reason, sizeof(cpu->reason), "%.200s", why.message);
        (void)snprintf(cpu->remedy, sizeof(cpu->remedy), "put libopenvino_intel_cpu_plugin.so beside the library");
    } else {
        cpu->present = 1;
        cpu->device_count = 1;
        (void)snprintf(cpu->version, sizeof(cpu->version), "%s", abilities);
        library->ov_free(abilities);
    }
    *ret_result = result;
    return SP_ENGINE_OK;
}

static const sp_engine_api table = {
    .abi = SP_ENGINE_ABI,
    .struct_bytes = sizeof(sp_engine_api),
    .name = OV_ORIGIN,
    .probe = probe,
    .load = ovp_model_load,
    .describe = ovp_model_describe,
    .run = ovp_model_run,
    .unload = ovp_model_unload,
    .close = ovp_library_close,
    .memory = ovp_model_memory,
    .cancel = ovp_model_cancel,
};

__attribute__((visibility("default"))) const sp_engine_api *sp_engine_api_get(uint32_t host_abi);

const sp_engine_api *sp_engine_api_get(uint32_t host_abi)
{
    return host_abi == SP_ENGINE_ABI ? &table : NULL;
}
