/* SPDX-License-Identifier: Apache-2.0
 * Inside the ONNX Runtime plug-in: the library behind it, and the translation of its errors. The plug-in includes
 * nothing of Spillway but the ABI and what plug-ins share over it, so that it shows what a third party's needs. */
#ifndef SP_ENGINE_ONNXRUNTIME_ORT_H
#define SP_ENGINE_ONNXRUNTIME_ORT_H

#include "engine/plug/plug.h"

#include <onnxruntime_c_api.h>
#include <pthread.h>
#include <stdatomic.h>
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

/* (needed.c) The names of the shared libraries that the ELF file at `path` asks for: how many; 0 = none, or no such file. */
#define ORT_NEEDED_MAX 64
#define ORT_NEEDED_NAME 128
size_t ort_needed(const char *path, char names[][ORT_NEEDED_NAME]);

/* The entries of the ABI table (model.c). */
sp_engine_status ort_model_load(const sp_engine_load_options *options, sp_engine_model **ret_model,
                                sp_engine_error *reterr);
void ort_model_describe(const sp_engine_model *model, sp_engine_ports *ret_ports);
void ort_model_unload(sp_engine_model *model);
/* (provider.c) Appends options->provider and, behind it, what takes over what it leaves; `graphs`: CUDA is to capture. */
sp_engine_status ort_provider_append(const ort_library *library, OrtSessionOptions *so, const sp_engine_load_options *options,
                                     bool graphs, sp_engine_error *reterr);
#define ORT_TENSORRT_ROWS 8 /* of a batch, at most, that an engine of TensorRT's is built for */

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

/* A run on device buffers that was seen (device.c). */
typedef struct ort_route {
    OrtIoBinding *binding;
    OrtRunOptions *options;
    sp_engine_tensor *tensors; /* inputs, then outputs */
    OrtValue **values;         /* the same, ours */
} ort_route;
#define ORT_ROUTES 16 /* of a lane: the buckets of batches, and as many again */

/* One concurrent run: what is bound now, so that the next run with the same buffers binds nothing. */
typedef struct ort_lane {
    OrtIoBinding *binding;
    OrtRunOptions *run_options;
    sp_engine_tensor *bound; /* inputs, then outputs, as bound; data NULL = not bound */
    OrtValue **values;       /* the same, ours */
    OrtValue **left;         /* what the last run left in the library's memory: one per output, NULL where bound */
    int32_t *order;          /* outputs as they were bound by the run that leaves some */
    ort_packed *packed;      /* string outputs of the last run, as they cross the ABI: one per output */
    ort_route routes[ORT_ROUTES];
    atomic_int route_count;  /* written by the lane's runs; cancel() and report() look, too */
    unsigned next_route;
} ort_lane;

typedef struct ort_thread ort_thread; /* device.c */

struct sp_engine_model {
    const ort_library *library;
    OrtSession *session;
    int32_t input_count, output_count, lane_count;
    sp_engine_port *ports; /* inputs, then outputs; names are ours */
    ort_lane *lanes;
    uint64_t host_bytes;
    /* Of a provider with a device: */
    bool on_device, ordered, graphs;
    pthread_mutex_t turn; /* taken for each run where only one may be under way (`in_turns`) */
    bool in_turns;
    ort_thread *thread;       /* that runs it, with graphs */
    uint64_t file_bytes, free_before; /* the device's, before the load; 0 = nobody told */
    atomic_int watch_left;    /* runs that are still profiled */
    pthread_mutex_t watch_lock; /* guards `watched` */
    sp_engine_report watched;
};

sp_engine_status ort_lane_init(const sp_engine_model *model, ort_lane *lane, sp_engine_error *reterr);
void ort_lane_done(const sp_engine_model *model, ort_lane *lane);

/* run.c, for device.c too */
bool ort_same_tensor(const sp_engine_tensor *a, const sp_engine_tensor *b);
OrtStatus *ort_wrap_tensor(const sp_engine_model *model, const sp_engine_tensor *tensor, OrtValue **ret_value);
typedef struct ort_call { /* a checked run */
    sp_engine_model *model;
    ort_lane *lane;
    const sp_engine_tensor *inputs;
    sp_engine_tensor *outputs;
    sp_engine_error *error; /* NULL is fine */
    sp_engine_status status;
} ort_call;
sp_engine_status ort_run_here(const ort_call *call);

/* device.c */
bool ort_run_is_on_device(const sp_engine_model *model, const sp_engine_tensor *inputs, const sp_engine_tensor *outputs);
/* *ret_done false: no route is free, the caller runs it as any other. */
sp_engine_status ort_device_run(sp_engine_model *model, ort_lane *lane, const sp_engine_tensor *inputs,
                                const sp_engine_tensor *outputs, bool *ret_done, sp_engine_error *reterr);
OrtStatus *ort_device_run_options(const sp_engine_model *model, int graph_id, bool ordered, OrtRunOptions **ret_options);
void ort_route_done(const sp_engine_model *model, ort_route *route);
sp_engine_status ort_thread_new(ort_thread **ret_thread, sp_engine_error *reterr);
void ort_thread_free(ort_thread *thread); /* NULL is fine */
sp_engine_status ort_thread_run(ort_thread *thread, ort_call *call);

/* watch.c */
#define ORT_WATCHED_RUNS 3
#define ORT_WATCH_PREFIX_BYTES 256
/* Before the session is made; `prefix` is the beginning of the profile's file name then, or "". */
void ort_watch_begin(const ort_library *library, OrtSessionOptions *so, char prefix[ORT_WATCH_PREFIX_BYTES]);
void ort_watch_drop(const char *prefix); /* no session was made of it: removes what it left */
void ort_watch_run_over(sp_engine_model *model);
void ort_watch_close(sp_engine_model *model); /* before the session is released */
sp_engine_status ort_model_report(const sp_engine_model *model, sp_engine_report *ret_report, sp_engine_error *reterr);

/* library.c: what is free on the device, as the CUDA runtime in this process says; false = there is none. */
bool ort_device_memory(uint64_t *ret_free_bytes, uint64_t *ret_total_bytes);

/* (strings.c) Copies a checked tensor into a new value of the library's. */
OrtStatus *ort_strings_wrap(const OrtApi *api, const sp_engine_tensor *tensor, OrtValue **ret_value);
/* Packs the `count` strings of `value`; tensor->data and size_bytes become those of `packed`. NULL = done; a library status
 * of ours (ORT_FAIL, "out of memory") when there is no memory. */
OrtStatus *ort_strings_pack(const OrtApi *api, const OrtValue *value, size_t count, ort_packed *packed,
                            sp_engine_tensor *tensor);

#endif
