/* SPDX-License-Identifier: Apache-2.0
 * The plug-in's table: Python models behind Spillway's engine ABI. */
#include "py.h"

#include <stdio.h>

/* Asks an interpreter, which takes a tenth of a second. */
static sp_engine_status probe(sp_engine_probe_result *ret_result, sp_engine_error *reterr)
{
    static _Thread_local py_packet packet; /* 11 KB */
    sp_engine_probe_result result = { .engine = PY_ORIGIN, .provider_count = 1 };
    sp_engine_provider *cpu = &result.providers[0];
    py_child child;
    sp_engine_status s = py_child_start(&child, reterr);
    if (s)
        return s;
    s = py_child_send(&child, &(py_packet){ .kind = PY_PROBE }, reterr);
    if (!s)
        s = py_child_receive(&child, &packet, reterr);
    (void)snprintf(cpu->name, sizeof(cpu->name), "cpu");
    if (!s) { /* "3.11.2\nnumpy 2.4.6\n/usr/bin/python3" */
        char text[512];
        (void)snprintf(text, sizeof(text), "%.*s", (int)(packet.bytes < 500 ? packet.bytes : 500), (char *)child.from.data);
        (void)sscanf(text, "%31[^\n]\n%63[^\n]\n%255[^\n]", result.version, cpu->version, result.library);
        cpu->present = 1;
        cpu->device_count = 1;
        *ret_result = result;
    }
    py_child_kill(&child);
    return s;
}

static void close_nothing(void)
{
}

static const sp_engine_api table = {
    .abi = SP_ENGINE_ABI,
    .struct_bytes = sizeof(sp_engine_api),
    .name = PY_ORIGIN,
    .probe = probe,
    .load = py_model_load,
    .describe = py_model_describe,
    .run = py_model_run,
    .unload = py_model_unload,
    .close = close_nothing,
    .memory = py_model_memory,
    .cancel = py_model_cancel,
    .divide = py_model_divide,
};

__attribute__((visibility("default"))) const sp_engine_api *sp_engine_api_get(uint32_t host_abi);

const sp_engine_api *sp_engine_api_get(uint32_t host_abi)
{
    return host_abi == SP_ENGINE_ABI ? &table : NULL;
}
