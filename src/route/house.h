/* SPDX-License-Identifier: Apache-2.0
 * The house: slots, chains, workers and their supervisor behind one small interface. The gateway opens a request,
 * fills its body, submits it, and is called back once with the answer. Loop thread only. */
#ifndef SP_ROUTE_HOUSE_H
#define SP_ROUTE_HOUSE_H

#include "base/loop.h"
#include "base/view.h"
#include "config/config.h"
#include "worker/slot.h"

typedef struct sp_house sp_house;
typedef struct sp_request sp_request;

typedef enum sp_task {
    SP_TASK_NOOP,
    SP_TASK_CLASSIFY,
    SP_TASK_SEND,   /* the house's own: webhooks, uploads */
    SP_TASK_INFER,  /* plain tensors to a served model (KServe) */
    SP_TASK_DETECT, /* a picture to boxes, by a served model */
    SP_TASK_MODELS, /* the house's own: loads and unloads of served models */
    SP_TASK_INDEX,   /* the house's own, by a codec worker: what a video file holds (media/video.h) */
    SP_TASK_ANALYZE, /* a run of a video's segments, by a device worker (task/analyze.h) */
    SP_TASK_REPORT,  /* the house's own, by a codec worker: all segments to the files of a report */
    SP_TASK_FETCH,   /* the house's own, by a net worker: what lies at `url` into the file `fetch_fd` */
    SP_TASK_COUNT
} sp_task;
const char *sp_task_name(sp_task task); /* the word above, in small letters */
bool sp_task_parse(const char *text, sp_task *ret_task);

typedef struct sp_house_config {
    const char *executable;       /* what to spawn: /proc/self/exe */
    const char *workers;          /* "codec0,cpu0": kind = the name without its trailing digits */
    const char *model_repository; /* NULL = none */
    uint64_t model_memory_bytes;  /* of the served models of one worker; 0 = the worker's choice */
    const char *model;            /* default model, NULL = the repository's only or first */
    bool require_sandbox;
    bool refuse_cpu_nodes;        /* of devices' models: they are not loaded there */
    bool nvjpeg;                  /* cuda workers decode JPEG files of who asks for it */
    const char *data_dir;         /* where devices' builds are kept (TensorRT's engines); NULL = nowhere */
    int spin_us;                  /* handed to workers */
    int64_t link_timeout_ns;      /* longest attempt on one link; 0 = the deadline */
    uint64_t memory_limit_bytes;  /* 0 = the cgroup's or the machine's */
    uint64_t bodies_limit_bytes;  /* of all requests together; 0 = SP_LIMIT_BODIES_BYTES */
    sp_config *config;            /* chains, remotes, rates; the house takes a reference. NULL = built-in defaults */
} sp_house_config;

/* Makes the shared memory and spawns the workers; returns before they are ready. */
sp_status sp_house_new(const sp_house_config *config, sp_loop *loop, sp_house **ret_house, sp_error *reterr);

/* Ends workers (EOF on the control socket, then SIGKILL after `grace_ms`), then frees. No request may be open. */
void sp_house_free(sp_house *house, int grace_ms);

/* A new snapshot for requests opened from now on; those open keep theirs. Breakers and counts of links whose name stays
 * are kept. Worker processes are not started or ended by it; net workers get the new remotes. */
void sp_house_reload(sp_house *house, sp_config *config);
const sp_config *sp_house_config_now(const sp_house *house);

/* One link's try, as told to the client. */
typedef struct sp_attempt {
    char link[32];     /* worker name: "cpu0" */
    sp_status status;
    char reason[96];   /* "" when it worked; "worker died (signal 9)", "engine: ..." */
    int64_t start_ns, end_ns;
} sp_attempt;

/* The memory of one worker incarnation, which its death must not take away while an answer in it is being sent. */
typedef struct sp_answer_memory sp_answer_memory;
sp_answer_memory *sp_answer_memory_ref(sp_answer_memory *memory);
void sp_answer_memory_unref(sp_answer_memory *memory); /* NULL is fine */

/* One incarnation of one worker: where the state of a sequence lives. incarnation 0 = anywhere. */
typedef struct sp_pin {
    int worker;
    uint32_t incarnation;
} sp_pin;

/* How a JPEG file becomes pixels. All but EXACT give other pixels, so the answer names it, and a cache keeps it apart. */
typedef enum sp_decode {
    SP_DECODE_EXACT,
    SP_DECODE_FAST,   /* at a reduced size, where the model wants no more */
    SP_DECODE_NVJPEG, /* by the GPU's own decoder, where it is there and takes the file; else EXACT */
    SP_DECODE_COUNT
} sp_decode;
static inline const char *sp_decode_name(sp_decode decode)
{
    static const char *const names[SP_DECODE_COUNT] = { "exact", "fast", "nvjpeg" };
    return names[decode];
}
/* False: it is none of them. */
static inline bool sp_decode_parse(sp_view text, sp_decode *ret_decode)
{
    for (int i = 0; i < SP_DECODE_COUNT; i++) {
        if (sp_view_equals(text, sp_decode_name((sp_decode)i))) {
            *ret_decode = (sp_decode)i;
            return true;
        }
    }
    return false;
}

typedef struct sp_answer {
    sp_status status;
    sp_error error;          /* when status is not SP_OK */
    int retry_after_s;       /* > 0: tell the client (BUSY, UNAVAILABLE); measured from the queue */
    /* Who answered: */
    char link[32];           /* "" when nobody did */
    char device[32], precision[16], model[64], version[16], engine[32];
    sp_decode decode;        /* that was used */
    /* What: */
    const sp_answer_classes *classes; /* classify; borrowed until the callback returns */
    sp_view payload;                  /* noop; borrowed likewise */
    const sp_answer_boxes *boxes;     /* detect; borrowed likewise */
    int image_w, image_h;             /* detect: of the picture, oriented */
    /* infer: a checked copy of the head, good until the callback returns; tensors lie at infer_data + outputs[i].offset, in
     * the worker's memory, good until the request is closed if `memory` is referenced, else until the callback returns. */
    const sp_infer_answer *infer;
    const uint8_t *infer_data;
    const sp_infer_step *steps;       /* of an ensemble; a copy, good until the callback returns */
    int step_count;
    struct sp_answer_memory *memory;
    sp_pin pin;                       /* infer: who answered; a sequence goes on there */
    sp_answer_sent sent;              /* send */
    /* index, analyze: `payload` is the answer's bytes (an sp_video_index; sp_segments one behind the other) where the worker
     * wrote them: copy first, then check the copy. They stay until the callback returns, or as long as `memory` is referenced
     * and the request not closed. report: a sealed file (a tar), the house's until sp_request_take_output; else -1. */
    int output_fd;
    uint64_t output_bytes;
    int64_t microdollars;    /* estimate of what this answer cost, hedges and failed tries included */
    int64_t device_ns;       /* of the device that answered */
    bool simpler;            /* by a link that is marked simpler: do not cache, say so */
    uint32_t batch_size;
    int64_t received_ns, queue_ns, decode_ns, preprocess_ns, inference_ns, postprocess_ns, batch_run_ns, total_ns;
    int attempt_count;
    sp_attempt attempts[SP_LIMIT_ATTEMPTS];
} sp_answer;

typedef void sp_request_done_fn(sp_request *request, const sp_answer *answer, void *context);

/* The version of a served model that a request goes to now. */
typedef struct sp_served_model {
    uint32_t id; /* the house's */
    char name[64], version[16];
} sp_served_model;

typedef struct sp_request_params {
    sp_task task;
    const char *model;       /* NULL = default */
    const char *request_id;  /* copied, cut to its field; NULL = made here (16 hex bytes of randomness) */
    int64_t deadline_ns;     /* absolute */
    int64_t received_ns;     /* first header byte */
    uint32_t top_k;          /* 0 = 5 */
    sp_decode decode;
    uint64_t body_bytes_hint; /* Content-Length; 0 = unknown */
    uint64_t body_limit_bytes; /* append beyond it fails; 0 = SP_LIMIT_IMAGE_BODY_BYTES */
    /* What policy asks about; texts are copied or only read inside open: */
    const char *tier, *tenant; /* from the token; NULL = "" */
    bool local_only;           /* its bytes never reach a net worker */
    bool force_cpu;
    int priority;              /* -10 .. 10; waiting requests of a higher one go first */
    int hops;                  /* Spillways it has come through */
    const char *only_link;     /* this link or none (bench, guard); NULL = the chain */
    const char *url;           /* classify: the body lies there; fetched by a net worker first. send: where to */
    int fetch_fd;              /* fetch: an empty file, written from its begin (duplicated); done says output_bytes */
    uint64_t fetch_limit_bytes; /* fetch: the most that may lie there; 0 = the configuration's */
    const char *content_type;
    const char *send_headers;  /* send: "Name: value\n" each */
    bool send_put, send_s3, private_ok;
    const char *model_version; /* detect: told in the answer; NULL = "" */
    uint32_t model_id;         /* infer, detect: the loaded version (sp_house_model_load). Only workers that have it answer */
    sp_pin pin;                /* infer: this incarnation or nobody (SP_UNAVAILABLE, code "sequence_lost", when it is gone) */
    /* infer: the body is to be unpacked by a codec first (SP_OP_UNPACK); `unpacked` is called once with the rewritten header
     * (good until it returns) and fills sp_request_infer_head, its tensors in_output; what it returns if not SP_OK ends the
     * request. `encoding` and `header_bytes` may be set later, before submit: sp_request_set_unpack. */
    sp_status (*unpacked)(sp_request *request, sp_view header, uint64_t tensor_bytes, void *context, sp_error *reterr);
    void *unpacked_context;
    const struct sp_trace *trace; /* what it is part of, sent on to remotes; copied; NULL = none */
    double duration_s;         /* of media, when known; 0 = unknown */
    /* For header and parameter conditions, called inside open only; NULL = none. */
    const char *(*header)(void *context, const char *name);
    const char *(*parameter)(void *context, const char *name);
    void *facts_context;
} sp_request_params;

/* Leases a free slot. SP_BUSY: none free (reterr and *ret_retry_after_s say when to come back); SP_NOT_FOUND: no such
 * model; SP_UNAVAILABLE: no link of the task's chain exists. */
sp_status sp_request_open(sp_house *house, const sp_request_params *params, sp_request **ret_request, int *ret_retry_after_s,
                          sp_error *reterr);

/* infer: a request for another loaded version on behalf of `beside`, which is not closed: its chain, facts, deadline, id and trace
 * are taken over. `here`: only links of this machine. Otherwise as sp_request_open. */
sp_status sp_request_open_beside(const sp_request *beside, uint32_t model_id, bool here, sp_request **ret_request,
                                 int *ret_retry_after_s, sp_error *reterr);

/* Copies the next bytes of the body into the slot (the one copy). SP_TOO_LARGE past the limit, SP_NOMEM; SP_BUSY
 * (code "bodies") while the house holds as many bytes as it may. */
sp_status sp_request_append(sp_request *request, const void *data, size_t size_bytes, sp_error *reterr);

/* The body so far, readable until the request is closed; multipart fields are found in place here. */
sp_view sp_request_body(const sp_request *request);

/* Which part of the body is the file. Without it: all. Also sets what the form's other fields said. */
void sp_request_set_payload(sp_request *request, size_t offset, size_t size_bytes);
void sp_request_set_deadline(sp_request *request, int64_t deadline_ns);
void sp_request_set_options(sp_request *request, uint32_t top_k, sp_decode decode);
/* detect: what else was asked for; < 0 = the model's own, as it is without this call. */
void sp_request_set_detect(sp_request *request, float threshold, float iou);

/* The next `size_bytes` of the body, to be written by the caller before the next call that appends (which may move them); at a
 * multiple of 8 of the body. NULL as sp_request_append fails. */
void *sp_request_room(sp_request *request, size_t size_bytes, sp_error *reterr);

/* infer, detect: the head, to be filled before submit (or in `unpacked`). Gateway's own memory: workers read it. Open has zeroed
 * what lies before `inputs` and set `model`; inputs and wishes hold what they held, so each one that is counted is to be written
 * whole. */
sp_infer_head *sp_request_infer_head(sp_request *request);
void sp_request_set_unpack(sp_request *request, sp_encoding encoding, uint32_t header_bytes);
void sp_request_set_pin(sp_request *request, sp_pin pin);
/* Inside `unpacked`: no link is to be asked; `done` comes with SP_OK and no `infer`. What was unpacked is then read with
 * sp_request_output_read (any thread, until the request is closed; SP_INTERNAL: there are fewer bytes). */
void sp_request_end_unpacked(sp_request *request);
sp_status sp_request_output_read(const sp_request *request, uint64_t offset, void *dst, size_t size_bytes, sp_error *reterr);
int64_t sp_request_deadline(const sp_request *request);
/* These bytes of the body are an encoded picture: a codec decodes it first, and the worker finds RGB8 pixels as the lease's
 * output, beside the body. Not together with set_unpack. */
void sp_request_set_picture(sp_request *request, size_t offset, size_t size_bytes);

/* index, analyze, report: the media file that the body is about: a descriptor (duplicated; a spool file or a sealed memfd, which
 * nobody writes any more) that every link reads with pread. Requests on one file share it. `key` names its content, for the memory
 * of bodies that crash workers. Before submit. */
sp_status sp_request_set_media(sp_request *request, int fd, uint64_t size_bytes, const uint8_t key[32], sp_error *reterr);
/* analyze: frames that the link which has it now has analysed; any time between submit and done. A worker's claim. */
uint32_t sp_request_progress(const sp_request *request);
/* report: the file of the answer, the caller's to close from now on; -1 = there is none. Between `done` and close. */
int sp_request_take_output(sp_request *request);

/* Later than it was (never earlier); any time before `done`. A group of callers who wait for one answer uses it. */
void sp_request_extend_deadline(sp_request *request, int64_t deadline_ns);

/* Hands the request to its chain. `done` is called exactly once, later, from the loop (never from inside this call). */
void sp_request_submit(sp_request *request, sp_request_done_fn *done, void *context);

/* The client is gone: no `done` will come. Closes the request too. Valid at any time before close. */
void sp_request_cancel(sp_request *request);

/* After `done`, or instead of submit. The slot is recycled when every lease is back. */
void sp_request_close(sp_request *request);

const char *sp_request_id(const sp_request *request);

/* State for /readyz, /healthz and doctor. */
typedef enum sp_worker_state {
    SP_WORKER_STARTING, /* spawned, not ready */
    SP_WORKER_READY,
    SP_WORKER_BACKOFF,     /* died before its first completed batch; waiting to be restarted */
    SP_WORKER_QUARANTINED, /* kept failing: left alone for retry_in_ns; reason says why */
    SP_WORKER_ENDING
} sp_worker_state;
const char *sp_worker_state_name(sp_worker_state state);

typedef struct sp_worker_info {
    const char *name, *kind;
    sp_worker_state state;
    int pid;
    int restarts;
    int in_flight;
    const char *reason;         /* why it last died or cannot serve; "" */
    const char *code, *remedy;  /* of a device's fault ("oom", "no_driver", ...) and what to do about it; "" */
    int64_t retry_in_ns;        /* quarantined: until it is tried again */
    bool throttled;             /* its device says that it is too hot or short of power */
    const sp_worker_card *card; /* the last one seen; NULL before the first */
} sp_worker_info;

int sp_house_worker_count(const sp_house *house);
void sp_house_worker_info(const sp_house *house, int index, sp_worker_info *ret_info);

/* Samples of devices, newest of each: the sampler's and those of simulated devices. Returns how many were written to
 * ret_devices. Values that nobody knows are NaN. */
typedef struct sp_device_info {
    const char *worker; /* who measured */
    int number;         /* of the device, there */
    bool fresh;         /* false: it has not been measured for a while */
    sp_device_sample sample;
} sp_device_info;
int sp_house_device_samples(const sp_house *house, sp_device_info *ret_devices, int capacity);

/* Links, as policy sees them, for /healthz, /v1/links and metrics. A worker that is in no chain is none. */
typedef struct sp_link_info {
    const char *task, *name, *worker; /* worker: whose process does it */
    bool remote;
    sp_breaker_state breaker;
    int64_t retry_in_ns;      /* open: until a probe is let through */
    bool quarantined;         /* by the guard */
    const char *reason;       /* why it is not used now; "" */
    int in_flight, limit;
    int64_t p50_ns, p95_ns, p99_ns;
    int64_t microdollars_today;
} sp_link_info;
int sp_house_link_count(const sp_house *house);
void sp_house_link_info(const sp_house *house, int index, sp_link_info *ret_info);
/* Takes a link out (or back in), as the guard does: event, metric. SP_NOT_FOUND. */
sp_status sp_house_link_quarantine(sp_house *house, const char *task, const char *link, bool out, const char *reason,
                                   sp_error *reterr);

/* `call` is told of every link that is taken out, by whom ever: what it answered must not be served from a cache. */
void sp_house_on_quarantine(sp_house *house, void (*call)(void *context, const char *task, const char *link), void *context);

/* Counts that several servers share (quotas of remote keys): adds `amount` to `name`'s count of the window and tells the
 * sum later, on the loop's thread; false = it cannot be asked now. store/cache.h's sp_cache_count is one. NULL = each server
 * counts for itself. One house a process. */
typedef void sp_share_sum_fn(int64_t sum, bool known, void *context);
typedef bool sp_share_fn(void *context, const char *name, int64_t window_s, int64_t amount, sp_share_sum_fn *reply,
                         void *reply_context);
void sp_house_set_share(sp_house *house, sp_share_fn *share, void *context);

/* --- served models (tasks infer and detect) ----------------------------------------------------------------------------
 * The house knows loaded versions by number. A load goes to every device worker of the chains of infer and detect (and, where a
 * remote stands in infer's, to net workers, which take the names from it); a worker that starts again is given all that it
 * should have before it gets leases of them. Files are read by workers only. */
typedef enum sp_loaded_state { SP_LOADED_ABSENT, SP_LOADED_LOADING, SP_LOADED_READY, SP_LOADED_FAILED } sp_loaded_state;
typedef struct sp_loaded_info {
    const char *worker;
    sp_loaded_state state;
    sp_answer_loaded loaded;  /* READY */
    sp_status status;         /* FAILED */
    char reason[256];
} sp_loaded_info;

/* Called once, on the loop, never from inside sp_house_model_load: all workers that are up have answered. SP_OK: at least one
 * has it, and others may follow; else `err` is the most telling of their reasons, nobody is asked again under this number, and
 * all that is left to do with it is to unload it. Not called when it is unloaded before. */
typedef void sp_model_loaded_fn(uint32_t id, sp_status status, const sp_error *err, void *context);
uint32_t sp_house_model_number(sp_house *house); /* a fresh one */
/* `spec`: sp_load_spec as JSON; copied and kept for restarts. A death during the load counts against the version: after two
 * it is FAILED there (code "crashed_load"). An ensemble's step_models must be loaded or loading: each worker is given them
 * before it. SP_UNAVAILABLE: no device worker; SP_BUSY: too many are loaded; SP_CONFLICT: the number is taken. */
sp_status sp_house_model_load(sp_house *house, uint32_t id, sp_view spec, int64_t timeout_ns, sp_model_loaded_fn *done,
                              void *context, sp_error *reterr);
/* Forgets it at once for new requests; those open for it go on, then workers let go of it. */
void sp_house_model_unload(sp_house *house, uint32_t id);
int sp_house_model_info(const sp_house *house, uint32_t id, sp_loaded_info *ret_infos, int capacity);
/* Some worker that has it is ready now (or, *ret_coming, will be). */
bool sp_house_model_ready(const sp_house *house, uint32_t id, bool *ret_coming);
int sp_house_model_open_count(const sp_house *house, uint32_t id); /* requests opened for it that have no answer yet */

/* Ready = each task with a chain has at least one ready link per stage; degraded = some link is not ready. */
bool sp_house_ready(const sp_house *house, bool *ret_degraded);
int sp_house_open_count(const sp_house *house);  /* requests open */
int sp_house_leased_count(const sp_house *house); /* leases out */

/* The loop hook's and sleep's work (rings); the gateway registers nothing itself. */

#endif
