/* SPDX-License-Identifier: Apache-2.0
 * The served models, as every front end (HTTP, gRPC, /v1/detect, metrics) sees them. Loop thread only.
 *
 *   repository.c  which models there should be: scans directories and watches them (control modes none, poll, explicit) on a
 *                 thread of its own, has each model looked into by a throw-away process (model/card.h)
 *   serving.c     which there are: name -> versions -> number in the house; loads, switches, lets go
 *   course.c      a request on its way through an ensemble whose models are in several workers
 *   call.c        one inference: names to ports, shapes against the card, shared memory, sequences, cache, statistics
 *   shared.c      system shared-memory regions of clients
 *   stats.c       counts and times per version, as Triton's statistics and metrics want them
 *   settings.c    trace and log settings
 */
#ifndef SP_SERVING_SERVING_H
#define SP_SERVING_SERVING_H

#include "base/metrics.h"
#include "kserve/json.h"
#include "model/card.h"
#include "route/house.h"
#include "store/cache.h"
#include "store/worker.h"

typedef struct sp_serving sp_serving;

typedef enum sp_control_mode { SP_CONTROL_MODE_NONE, SP_CONTROL_MODE_POLL, SP_CONTROL_MODE_EXPLICIT } sp_control_mode;
typedef struct sp_serving_config {
    const char *executable;     /* for `inspect`; NULL = /proc/self/exe */
    int repository_count;
    const char *repositories[8]; /* directories */
    sp_control_mode mode;
    int poll_s;                 /* default 15 */
    int load_model_count;       /* explicit: loaded at start; "*" = all */
    const char *load_models[64];
    bool strict_readiness;      /* ready only when every model is (Triton's default) */
    bool shared_memory_anywhere; /* not on loopback only */
    int load_timeout_ms;        /* default 120,000 */
    /* Called once, on the loop: all that was asked for at the start is loaded, or (so many) failed. NULL = nobody. */
    void (*started)(int failures, void *context);
    void *started_context;
} sp_serving_config;

sp_status sp_serving_new(const sp_serving_config *config, sp_loop *loop, sp_house *house, sp_serving **ret_serving,
                         sp_error *reterr);
void sp_serving_free(sp_serving *serving); /* no call is open */
/* Answers of models with response_cache are kept there; NULL = nowhere. Borrowed until it is set anew. */
void sp_serving_set_cache(sp_serving *serving, sp_cache *cache);
bool sp_serving_ready(const sp_serving *serving); /* the first scan is through, and what it asked for is loaded or has failed */

/* --- models ----------------------------------------------------------------------------------------------------------- */

typedef enum sp_model_state { SP_MODEL_UNKNOWN, SP_MODEL_LOADING, SP_MODEL_READY, SP_MODEL_UNLOADING, SP_MODEL_UNAVAILABLE } sp_model_state;
const char *sp_model_state_name(sp_model_state state); /* "READY", "UNAVAILABLE" ...; UNKNOWN is "" */

/* Sums since the version was loaded, in Triton's terms (core statistics). */
typedef struct sp_served_duration {
    uint64_t count, ns;
} sp_served_duration;
typedef struct sp_served_batch {
    uint32_t rows;
    sp_served_duration input, infer, output;
} sp_served_batch;
typedef enum sp_failure_reason { SP_FAILURE_REJECTED, SP_FAILURE_CANCELED, SP_FAILURE_BACKEND, SP_FAILURE_OTHER, SP_FAILURE_COUNT } sp_failure_reason;
typedef struct sp_served_stats {
    uint64_t last_inference_ms; /* unix */
    uint64_t inference_count, execution_count; /* rows; runs */
    sp_served_duration success, fail, queue, input, infer, output, cache_hit, cache_miss;
    uint64_t failures[SP_FAILURE_COUNT];
    int64_t pending;
    int batch_count;
    sp_served_batch batches[64];
    sp_metric *request_histogram, *queue_histogram, *compute_histogram; /* spillway_model_..._seconds{model,version} */
} sp_served_stats;

/* One loaded version. Good until the loop's turn is over; sp_served_ref keeps it. */
typedef struct sp_served {
    const char *name;
    char version_text[24];
    int64_t version;
    uint32_t id;                /* the house's */
    const sp_model_card *card;
    const sp_card_version *file;
    bool spread;                /* an ensemble whose models no single worker has: its steps get slots of their own */
    sp_served_stats stats;
    int references;
} sp_served;
sp_served *sp_served_ref(sp_served *served);
void sp_served_unref(sp_served *served);

/* The version that requests should go to now. `version` "" = the highest that is ready. SP_NOT_FOUND: "Request for unknown
 * model: 'x' is not found"; SP_UNAVAILABLE: known and not ready, with the reason. */
sp_status sp_serving_find(sp_serving *serving, const char *name, const char *version, sp_served **ret_served, sp_error *reterr);
bool sp_serving_model_ready(sp_serving *serving, const char *name, const char *version);

/* All that the repository index shows: also those that are not loaded. */
typedef struct sp_served_entry {
    const char *name, *version; /* version "" = none is known */
    sp_model_state state;
    const char *reason;
} sp_served_entry;
void sp_serving_each(sp_serving *serving, void (*call)(const sp_served_entry *entry, void *context), void *context);
void sp_serving_each_loaded(sp_serving *serving, void (*call)(sp_served *served, void *context), void *context);
/* What each worker says of it (route/house.h). */
int sp_serving_places(const sp_serving *serving, const sp_served *served, sp_loaded_info *ret_infos, int capacity);
/* GET /v2/models/M/stats, nv_... metrics: written here because both front ends and /metrics want them. */
void sp_serving_metrics_write(sp_serving *serving, sp_buf *out);

/* Repository control. `done` once, on the loop. `override`: JSON of a configuration ("" = none). SP_UNAVAILABLE from load when
 * the control mode is not explicit ("explicit model load / unload is not allowed if polling is enabled"). */
typedef void sp_serving_done_fn(sp_status status, const sp_error *err, void *context);
void sp_serving_load(sp_serving *serving, const char *name, const char *override, sp_serving_done_fn *done, void *context);
void sp_serving_unload(sp_serving *serving, const char *name, bool dependents, sp_serving_done_fn *done, void *context);

/* --- shared memory ---------------------------------------------------------------------------------------------------- */

typedef struct sp_region_info {
    const char *name, *key;
    uint64_t offset, bytes;
} sp_region_info;
/* SP_INVALID: a name with '/', or no such object; SP_CONFLICT: the name is taken (Triton: "shared memory region 'x' already in
 * manager"). Opens /dev/shm/<key>, never maps it. */
sp_status sp_serving_region_add(sp_serving *serving, const char *name, const char *key, uint64_t offset, uint64_t bytes,
                                sp_error *reterr);
sp_status sp_serving_region_remove(sp_serving *serving, const char *name, sp_error *reterr); /* "" = all */
int sp_serving_regions(const sp_serving *serving, const char *name, sp_region_info *ret_regions, int capacity,
                       sp_error *reterr); /* -1: no such name */

/* --- one inference ---------------------------------------------------------------------------------------------------- */

/* Life: sp_call_open -> sp_call_append ... (the body, or the tensors) -> sp_call_submit -> done -> sp_call_close.
 * Any time before done: sp_call_cancel instead. */
typedef struct sp_call sp_call;

typedef struct sp_call_params {
    const char *model, *version; /* "" = latest */
    sp_request_params request;   /* deadline, who asks, facts; task, model_id and pin are set by sp_call_open */
    bool local;                  /* the client is on this machine: shared memory is allowed */
} sp_call_params;

sp_status sp_call_open(sp_serving *serving, const sp_call_params *params, sp_call **ret_call, int *ret_retry_after_s,
                       sp_error *reterr);
const sp_served *sp_call_served(const sp_call *call);
sp_request *sp_call_request(sp_call *call); /* for sp_request_append */

/* `named`: what was asked, tensors BINARY at `binary_base` + offset of the body, DATA at offset of the body (the sink appended
 * them: sp_call_room), SHARED in regions. Checks it against the card and fills the slot's head.
 * NULL `named`: the body as it stands is to be unpacked first (JSON over 64 KiB, or `encoding`). */
typedef struct sp_call_body {
    const sp_kserve_request *named;
    uint64_t binary_base;
    sp_encoding encoding;
    uint32_t header_bytes;
    bool grpc; /* outputs are raw whatever is said */
} sp_call_body;

typedef struct sp_call_output {
    const char *name;
    int dtype, rank;
    const int64_t *dims;
    bool json;          /* `data` is the text of an array */
    sp_view data;       /* empty for a shared one */
    bool shared;
    const char *region;
    uint64_t region_offset, region_bytes; /* bytes: of the tensor */
} sp_call_output;
typedef struct sp_call_result {
    sp_status status;
    const sp_error *error; /* when it is not SP_OK */
    int retry_after_s;
    const char *model, *version, *id;
    int output_count;
    sp_call_output outputs[SP_INFER_PORTS];
    const sp_answer *answer; /* who answered, attempts, times; NULL when nobody was asked (cache) */
    bool cached;
} sp_call_result;
/* Views in the result are good until the callback returns, and until sp_call_close if sp_call_keep is called in it. */
typedef void sp_call_done_fn(sp_call *call, const sp_call_result *result, void *context);

/* SP_OK: `done` comes, later. Else nothing comes and the call is as before: close it. */
sp_status sp_call_submit(sp_call *call, const sp_call_body *body, sp_call_done_fn *done, void *context, sp_error *reterr);
/* An sp_kserve_sink's (context: the call): tensors are appended to the body, each at a multiple of 8. */
void *sp_call_room(void *call, size_t bytes, sp_error *reterr);
uint64_t sp_call_room_used(void *call, const void *room, size_t bytes);
void sp_call_keep(sp_call *call);
void sp_call_cancel(sp_call *call); /* the client is gone; closes */
void sp_call_close(sp_call *call);

/* --- settings ----------------------------------------------------------------------------------------------------------- */

/* trace/setting and logging, as JSON in and out; `model` "" = global. */
sp_status sp_serving_trace_update(sp_serving *serving, const char *model, sp_view json, sp_error *reterr);
void sp_serving_trace_write(const sp_serving *serving, const char *model, sp_buf *out);
sp_status sp_serving_log_update(sp_serving *serving, sp_view json, sp_error *reterr);
void sp_serving_log_write(const sp_serving *serving, sp_buf *out);

#endif
