/* SPDX-License-Identifier: Apache-2.0
 * Engines: the libraries that run models, each a plug-in behind include/spillway_engine.h. This is the host's side of
 * that ABI: it finds and checks plug-ins, turns their statuses into ours, bounds what they are asked, and carries the
 * fault points engine.load and engine.run. A plug-in that is missing is an entry with its reason, never a failed start. */
#ifndef SP_ENGINE_ENGINE_H
#define SP_ENGINE_ENGINE_H

#include "base/status.h"
#include "base/view.h"
#include "spillway_engine.h"

typedef struct sp_engine sp_engine;   /* process lifetime; never freed */
typedef struct sp_session sp_session; /* one loaded model */

/* The engines that this version knows, the one that classify uses first: "onnxruntime", "openvino", "python".
 * NULL past the end. */
const char *sp_engine_name_at(int index);

/* Opens libspillway_engine_<name>.so on first use and borrows it for ever. Threads: any.
 * SP_UNSUPPORTED: the plug-in is missing or refused by the linker (base/plugin.h), or of another ABI
 * (code "engine_abi"); SP_INVALID: no such engine. */
sp_status sp_engine_open(const char *name, const sp_engine **ret_engine, sp_error *reterr);

/* An engine that is already in this process, as tests and static builds have it; `api` and `*storage` outlive its
 * sessions. The ABI is checked as above. */
struct sp_engine {
    const sp_engine_api *api;
};
sp_status sp_engine_wrap(const sp_engine_api *api, sp_engine *storage, sp_error *reterr);

/* Providers of this machine and why the others are not there. SP_UNSUPPORTED: the engine's library is missing. */
sp_status sp_engine_probe(const sp_engine *engine, sp_engine_probe_result *ret_result, sp_error *reterr);

typedef struct sp_session_options {
    const char *path;     /* the model file; or NULL and: */
    sp_view bytes;        /* the model in memory; needed until the session is open */
    const char *provider; /* NULL = "cpu" */
    int device_index;
    int threads;      /* that compute one run; 1 = the caller's alone */
    int lanes;        /* runs in flight at once */
    bool spin;        /* see sp_engine_load_options */
    int optimisation; /* 0..3; -1 = 3 */
    uint64_t device_memory_limit_bytes;
    const sp_engine_option *options; /* engine-specific, see there; needed until the session is open */
    int option_count;
    unsigned flags;       /* SP_ENGINE_ORDERED, SP_ENGINE_GRAPHS */
    void *compute_stream; /* see sp_engine_load_options */
} sp_session_options;

/* One thread, one lane, CPU, all optimisations. */
sp_session_options sp_session_options_default(const char *path);

/* Loads a model. SP_NOT_FOUND: no such file; SP_TOO_LARGE: beyond SP_LIMIT_MODEL_BYTES (nothing was read);
 * SP_INVALID: neither path nor bytes, or both; SP_CORRUPT: no model, or damaged; SP_UNSUPPORTED: provider not here, operator unknown; SP_NOMEM. */
sp_status sp_session_open(const sp_engine *engine, const sp_session_options *options, sp_session **ret_session,
                          sp_error *reterr);
void sp_session_free(sp_session *session); /* no run in flight; NULL is fine */
SP_DEFINE_CLEANUP(sp_session, sp_session_free)

/* Inputs and outputs, until sp_session_free. */
const sp_engine_ports *sp_session_ports(const sp_session *session);

/* One run, synchronously; one call at a time per lane. Buffers are the caller's (spillway_engine.h says how an output
 * may be left to the engine). Allocates nothing here. SP_INVALID: shapes or sizes are not the model's; SP_NOMEM;
 * SP_CANCELLED; SP_UNAVAILABLE: the device is gone; SP_INTERNAL. */
sp_status sp_session_run(sp_session *session, int lane, const sp_engine_tensor *inputs, int input_count,
                         sp_engine_tensor *outputs, int output_count, sp_error *reterr);

/* Before a run: its rows are `count` requests' (spillway_engine.h, divide). Engines that see only tensors pass it over. */
void sp_session_divide(sp_session *session, int lane, const int64_t *rows, int count);

/* Asks the lane's run to end soon; false when this engine cannot. Any thread. */
bool sp_session_cancel(sp_session *session, int lane);

/* What the model occupies; SP_UNSUPPORTED when the engine does not know. */
sp_status sp_session_memory(const sp_session *session, sp_engine_memory *ret_memory, sp_error *reterr);

/* Where its nodes are, when it is on a device; known after its first runs. SP_UNSUPPORTED when the engine does not tell. */
sp_status sp_session_report(const sp_session *session, sp_engine_report *ret_report, sp_error *reterr);

/* Bytes of one element of an ONNX type; 0 = strings, or one that does not cross the ABI. */
size_t sp_engine_dtype_bytes(int dtype);
const char *sp_engine_dtype_name(int dtype); /* "f32", "f16", "u8", "string" ...; "?" */

#endif
