/* SPDX-License-Identifier: Apache-2.0
 * Inside the ONNX Runtime plug-in: the library behind it, and the translation of its errors. The plug-in includes
 * nothing of Spillway but the ABI and what plug-ins share over it, so that it shows what a third party's needs. */
#ifndef SP_ENGINE_ONNXRUNTIME_ORT_H
#define SP_ENGINE_ONNXRUNTIME_ORT_H

#include "engine/plug/plug.h"

#include <onnxruntime_c_api.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct ort_library {
    const OrtApi *api;
    OrtEnv *env;
    OrtMemoryInfo *host_memory;
    char version[32];
    char path[256];
} ort_library;

/* Opens libonnxruntime.so.1 on first use: SPILLWAY_ONNXRUNTIME (a file), the plug-in's own directory, the prefix that it
 * was built with, the linker's search path. UNSUPPORTED: missing (the message names it), or older than the header. */
sp_engine_status ort_library_get(const ort_library **ret_library, sp_engine_error *reterr);
void ort_library_close(void); /* gives the environment back; the code stays mapped, it has thread-local exit handlers */

/* True when the loaded library was compiled with this provider ("CUDAExecutionProvider"). */
bool ort_library_has(const ort_library *library, const char *provider);

/* Our own complaint. */
#define ort_fail(reterr, status, ...) plug_fail((reterr), "onnxruntime", (status), __VA_ARGS__)

/* Where a foreign status came from decides what some of its codes mean. */
typedef enum ort_phase { ORT_PHASE_LOAD, ORT_PHASE_RUN } ort_phase;

/* Translates and releases `status` (NULL = OK). */
sp_engine_status ort_check(const ort_library *library, OrtStatus *status, ort_phase phase, sp_engine_error *reterr);

/* Fills the providers of *result from what this machine has. */
void ort_probe_providers(const ort_library *library, sp_engine_probe_result *result);

/* The entries of the ABI table (model.c). */
sp_engine_status ort_model_load(const sp_engine_load_options *options, sp_engine_model **ret_model,
                                sp_engine_error *reterr);
void ort_model_describe(const sp_engine_model *model, sp_engine_ports *ret_ports);
void ort_model_unload(sp_engine_model *model);
sp_engine_status ort_model_memory(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr);
/* (run.c) */
sp_engine_status ort_model_run(sp_engine_model *model, int32_t lane, const sp_engine_tensor *inputs,
                               int32_t input_count, sp_engine_tensor *outputs, int32_t output_count,
                               sp_engine_error *reterr);
void ort_model_cancel(sp_engine_model *model, int32_t lane);

/* Strings of one output. The memory stays for the next run and grows when it must. */
typedef struct ort_packed {
    uint8_t *bytes;
    size_t capacity_bytes;
    size_t *offsets;
    size_t offset_capacity;
} ort_packed;

/* One concurrent run: what is bound now, so that the next run with the same buffers binds nothing. */
typedef struct ort_lane {
    OrtIoBinding *binding;
    OrtRunOptions *run_options;
    sp_engine_tensor *bound; /* inputs, then outputs, as bound; data NULL = not bound */
    OrtValue **values;       /* the same, ours */
    OrtValue **left;         /* what the last run left in the library's memory: one per output, NULL where bound */
    int32_t *order;          /* outputs as they were bound by the run that leaves some */
    ort_packed *packed;      /* string outputs of the last run, as they cross the ABI: one per output */
} ort_lane;

struct sp_engine_model {
    const ort_library *library;
    OrtSession *session;
    int32_t input_count, output_count, lane_count;
    sp_engine_port *ports; /* inputs, then outputs; names are ours */
    ort_lane *lanes;
    uint64_t host_bytes;
};

sp_engine_status ort_lane_init(const sp_engine_model *model, ort_lane *lane, sp_engine_error *reterr);
void ort_lane_done(const sp_engine_model *model, ort_lane *lane);

/* (strings.c) Copies a checked tensor into a new value of the library's. */
OrtStatus *ort_strings_wrap(const OrtApi *api, const sp_engine_tensor *tensor, OrtValue **ret_value);
/* Packs the `count` strings of `value`; tensor->data and size_bytes become those of `packed`. NULL = done; a library status
 * of ours (ORT_FAIL, "out of memory") when there is no memory. */
OrtStatus *ort_strings_pack(const OrtApi *api, const OrtValue *value, size_t count, ort_packed *packed,
                            sp_engine_tensor *tensor);

#endif
