/* SPDX-License-Identifier: Apache-2.0
 * The slot protocol: what the gateway and one worker share, and who may write what.
 *
 *   request memfd   one per house, written by the gateway alone (mapped, then sealed SHRINK|GROW|FUTURE_WRITE);
 *                   workers map it read-only, so any later link reads the same immutable request.
 *       sp_house_page | sp_slot_request[SP_LIMIT_SLOTS] | inline body[SP_LIMIT_SLOTS] | sp_infer_head[SP_LIMIT_SLOTS]
 *   worker memfd    one per worker *incarnation*, thrown away with it, never repaired.
 *       sp_worker_page (both rings, executor marks, card) | answer[SP_LIMIT_SLOTS]
 *   body memfd      one per large body, sealed; descriptor sent over the control socket before the ring is rung.
 *   output memfd    one per slot, made by the gateway (sealed against shrinking), written by codec workers (pixels,
 *                   tensors), mapped read-only by the next link. The gateway never maps it.
 *
 * No lock lies in shared memory. Both rings have one producer and one consumer *process*; inside a worker a
 * process-local mutex serialises its threads. The gateway keeps private copies of every index that it owns and checks
 * every number that a worker wrote, once, after copying it. */
#ifndef SP_WORKER_SLOT_H
#define SP_WORKER_SLOT_H

#include "base/attr.h"
#include "base/limits.h"
#include "base/status.h"
#include "base/trace.h"
#include "kernels/prep.h"
#include "model/infer.h"

#include <stdatomic.h>
#include <stdint.h>

#define SP_SLOT_ABI 8u
#define SP_RING_ENTRIES 512u /* power of two, more than all slots */
#define SP_LIMIT_REQUEST_ID_BYTES 64

/* An output memfd larger than this is thrown away with its request on both sides; smaller ones stay mapped for the
 * slot's next request, because page faults on fresh memory cost more than the copy. */
#define SP_OUTPUT_KEEP_BYTES (4u * 1024 * 1024)

/* What a link is asked to do with a slot. */
typedef enum sp_op {
    SP_OP_NOOP = 1,     /* answer = body */
    SP_OP_DECODE = 2,   /* body -> output: RGB8 pixels, or the tensor of `prep` when flagged */
    SP_OP_CLASSIFY = 3, /* output (pixels or tensor) -> top-k; without an output, where the card says takes_jpeg: body -> top-k */
    /* The net worker's: */
    SP_OP_FETCH = 4,  /* target (a URL) -> output: its bytes; written with pwrite, never mapped, so that the gateway can
                       * seal it and make it the request's body */
    SP_OP_REMOTE = 5, /* the task by remote `submission.remote`: body or output (tensor) -> sp_answer_remote */
    SP_OP_SEND = 6,   /* body -> target (webhook, upload); answer: sp_answer_sent */
    /* A device worker's, of the models that it serves (model/infer.h): */
    SP_OP_INFER = 7,  /* the slot's sp_infer_head and tensors -> sp_infer_answer */
    SP_OP_LOAD = 8,   /* body: sp_load_spec as JSON -> sp_answer_loaded. Warmed up when it comes back */
    SP_OP_UNLOAD = 9, /* body: the same; whatever runs of it ends first. Answer: empty */
    SP_OP_DETECT = 10, /* output (pixels) -> sp_answer_boxes */
    /* A codec worker's: */
    SP_OP_UNPACK = 11, /* body: a KServe request that is compressed, or whose tensors are JSON -> output: its tensors, packed;
                        * answer: its JSON header, rewritten to the binary form (binary_data_size in place of data) */
    /* Of a video (the slot's media file; task/analyze.h says what lies in the body): */
    SP_OP_INDEX = 12,   /* codec: file -> sp_video_index as the answer. Body: sp_video_limits, or nothing for the usual ones */
    SP_OP_ANALYZE = 13, /* device: sp_analyze_order, index; file -> sp_segments one behind the other as the answer */
    SP_OP_REPORT = 14,  /* codec: order, index, all segments; file -> output: a tar, written with pwrite like a FETCH's */
} sp_op;
#define SP_OP_COUNT 15

/* What lies in a slot's output memfd. */
typedef enum sp_output_kind {
    SP_OUTPUT_NONE = 0,
    SP_OUTPUT_RGB8 = 1,
    SP_OUTPUT_TENSOR = 2,
    SP_OUTPUT_BYTES = 3, /* of a FETCH; of an UNPACK: tensors, for an INFER (or REMOTE) whose inputs say in_output */
} sp_output_kind;

/* sp_slot_request.flags */
#define SP_SLOT_DECODE_FAST 1u /* decode=fast was asked for */
#define SP_SLOT_LOCAL_ONLY 2u  /* a net worker must refuse it, whatever else is said (SP_DENIED) */
#define SP_SLOT_PRIVATE_OK 4u  /* the target may lie in a private address range: configuration says so */
#define SP_SLOT_SEND_PUT 8u    /* SEND: PUT, else POST */
#define SP_SLOT_SEND_S3 16u    /* SEND: signed (SigV4) with the configuration's s3 keys */
#define SP_SLOT_DECODE_NVJPEG 32u /* decode=nvjpeg was asked for */

#define SP_LIMIT_TARGET_BYTES 2048
#define SP_LIMIT_SEND_HEADERS_BYTES 1024

/* One request, immutable while any lease of it is out. Written by the gateway. */
typedef struct sp_slot_request {
    char request_id[SP_LIMIT_REQUEST_ID_BYTES]; /* NUL-terminated, for logs */
    int64_t deadline_ns;                        /* absolute, CLOCK_MONOTONIC */
    uint32_t flags;
    uint32_t top_k;
    uint32_t body_in_memfd;  /* 0: inline; 1: the body memfd */
    uint32_t body_memfd_serial; /* names the descriptor sent over the control socket */
    uint64_t body_bytes;     /* all of it */
    uint64_t payload_offset; /* the file inside it (multipart), or 0 */
    uint64_t payload_bytes;
    sp_prep_spec prep; /* of the model asked for */
    uint32_t task;     /* sp_task of route/house.h, for SP_OP_REMOTE */
    uint32_t hops;     /* Spillways that this request has come through */
    uint32_t header_bytes; /* UNPACK: Inference-Header-Content-Length; 0 = the body is all JSON */
    uint32_t encoding;     /* UNPACK: sp_encoding of the body */
    float threshold, iou;  /* DETECT; < 0 = the model's own */
    sp_trace trace;        /* of the request; all zero = none. A remote is told submission.span_id as its parent */
    char model[64];    /* asked for; "" = default */
    char content_type[96]; /* of the payload, "" = unknown */
    char target[SP_LIMIT_TARGET_BYTES];              /* FETCH, SEND: URL; "" = none */
    char send_headers[SP_LIMIT_SEND_HEADERS_BYTES];  /* SEND: "Name: value\n" each */
    uint64_t fetch_limit_bytes;
    uint64_t media_bytes;  /* INDEX, ANALYZE, REPORT: of the media file, which many requests may share */
    uint32_t media_serial; /* names its descriptor sent over the control socket; 0 = none */
    /* A lease whose number is <= cancelled_lease is no longer wanted, unless it is spared_lease: a hedged request has two
     * leases out, and the younger one may be the one that is withdrawn. sp_work_item_cancelled() reads them. */
    _Atomic uint32_t cancelled_lease, spared_lease;
} sp_slot_request;

/* Gateway -> worker. */
typedef struct sp_submission {
    uint32_t slot;
    uint32_t op;          /* sp_op */
    uint32_t lease;       /* unique in the house; 0 never */
    uint32_t output_kind; /* what a DECODE should make; what a CLASSIFY finds */
    uint32_t output_serial; /* the output memfd's descriptor, sent over the control socket */
    uint32_t alone;       /* 1: a suspect; run it in a batch of its own */
    int32_t image_w, image_h; /* of an RGB8 output */
    uint64_t output_bytes;    /* of what lies in the output */
    int64_t attempt_deadline_ns;
    uint32_t config_serial; /* net: which snapshot (SP_CONTROL_CONFIG) `remote` and `key` count in */
    uint16_t remote, key;   /* REMOTE: index of the remote and of its key */
    uint8_t span_id[8];     /* of this attempt */
} sp_submission;

/* Worker -> gateway. Times are CLOCK_MONOTONIC ns; a worker's claims, used for reports only. */
typedef struct sp_completion {
    uint32_t slot;
    uint32_t lease;
    uint32_t status;       /* sp_status */
    uint32_t answer_bytes; /* in answer[slot] */
    uint32_t output_kind;
    int32_t image_w, image_h;
    uint32_t batch_size; /* items that ran together */
    uint64_t output_bytes;
    int64_t begun_ns;     /* taken from the ring */
    int64_t decode_ns, preprocess_ns, inference_ns, postprocess_ns;
    int64_t batch_run_ns; /* the engine's run of the whole batch */
    int64_t retry_after_ns;  /* net: the far side asked for this pause; 0 = it did not */
    int64_t units;           /* net: what the call used of the provider's units; 0 = not told */
} sp_completion;

/* answer[slot] when status is not SP_OK: an sp_error, copied. When SP_OK of SP_OP_CLASSIFY: */
typedef struct sp_answer_class {
    uint32_t class_id;
    float probability;
    char label[SP_LIMIT_LABEL_BYTES]; /* UTF-8, NUL-terminated; "" = the model has no labels */
} sp_answer_class;
typedef struct sp_answer_classes {
    uint32_t count;
    uint32_t reserved;
    sp_answer_class classes[SP_LIMIT_ANSWER_BYTES / sizeof(sp_answer_class) - 1];
} sp_answer_classes;
_Static_assert(sizeof(sp_answer_classes) <= SP_LIMIT_ANSWER_BYTES, "classes fit an answer");

/* answer[slot] of SP_OP_REMOTE: who answered over there and what was tried, then the answer itself: sp_answer_classes for
 * classify, the bytes for noop, for infer an sp_infer_answer with its tensors (offsets count from its own start). */
typedef struct sp_remote_attempt {
    char link[32];
    uint32_t status; /* sp_status */
    char reason[96];
    int64_t duration_ns;
} sp_remote_attempt;
typedef struct sp_answer_remote {
    char link[32], device[32], precision[16], model[64], version[16], engine[32]; /* of the far side's answer */
    uint32_t attempt_count;
    uint32_t reserved;
    sp_remote_attempt attempts[SP_LIMIT_ATTEMPTS];
    /* sp_answer_classes or bytes follow, 8-byte aligned */
} sp_answer_remote;

/* answer[slot] of SP_OP_REMOTE when status is not SP_OK and the far side told what it had tried: answer_bytes is then the
 * size of all of it, else that of the error alone. */
typedef struct sp_answer_remote_failure {
    sp_error error;
    _Alignas(8) sp_answer_remote remote; /* attempts, and who spoke; nothing follows */
} sp_answer_remote_failure;

/* answer[slot] of SP_OP_SEND. */
typedef struct sp_answer_sent {
    uint32_t http_status;
    char detail[252];
} sp_answer_sent;

/* answer[slot] of SP_OP_LOAD. */
typedef struct sp_answer_loaded {
    uint64_t host_bytes, device_bytes;
    int64_t load_ns, warmup_ns;
    char engine[32], device[32];
    /* Of a device's model that has been warmed up: its nodes, those of them on the CPU, and their part of a run's time. */
    uint32_t node_count, cpu_node_count; /* 0 nodes: not known */
    double cpu_share;
    char cpu_nodes[192];
} sp_answer_loaded;

/* answer[slot] of SP_OP_DETECT: corners in pixels of the oriented picture, best score first. */
typedef struct sp_answer_box {
    float x0, y0, x1, y1, score;
    uint32_t class_id;
    char label[SP_LIMIT_LABEL_BYTES];
} sp_answer_box;
typedef struct sp_answer_boxes {
    uint32_t count, reserved;
    sp_answer_box boxes[SP_LIMIT_ANSWER_BYTES / sizeof(sp_answer_box) - 1];
} sp_answer_boxes;

typedef enum sp_encoding { SP_ENCODING_NONE = 0, SP_ENCODING_GZIP = 1, SP_ENCODING_DEFLATE = 2 } sp_encoding;

/* What a sampler worker knows of a device; blank values are NaN and never shown as numbers. */
typedef struct sp_device_sample {
    _Alignas(64) _Atomic uint64_t sequence; /* odd while being written; 0 = none yet */
    char name[64], uuid[48], source[8];     /* source: "dcgm", "nvml", "host" */
    int64_t sampled_ns;                     /* CLOCK_MONOTONIC */
    double utilization, memory_used_bytes, memory_total_bytes, temperature_c, power_w, power_limit_w, sm_clock_mhz,
        energy_j;
    uint32_t throttle_thermal, throttle_power; /* 1 = now; 2 = unknown */
} sp_device_sample;
#define SP_LIMIT_DEVICE_SAMPLES 8

/* What a device worker counts; it only goes up within an incarnation, but for batch_limit. */
typedef struct sp_device_counters {
    _Alignas(64) _Atomic uint64_t oom_runs; /* runs that did not fit into the device's memory */
    _Atomic uint64_t oom_alone;             /* of them those of one item: the next link has it */
    _Atomic uint32_t batch_limit;           /* items of one run that fit now; 0 = not told */
    /* What the CUDA plug-in holds, and the most it did; 0 = there is none. An engine's own memory is not in it. */
    _Atomic uint64_t device_bytes, device_high_bytes, device_reserved_bytes, pinned_bytes, pinned_high_bytes;
} sp_device_counters;

typedef enum sp_stage {
    SP_STAGE_IDLE = 0,
    SP_STAGE_DECODE,
    SP_STAGE_PREPROCESS,
    SP_STAGE_INFERENCE,
    SP_STAGE_POSTPROCESS,
} sp_stage;

/* One executor thread's progress: what it has in hand since when, and how long it may take. */
typedef struct sp_mark {
    _Alignas(64) _Atomic uint64_t sequence; /* odd while being written */
    _Atomic uint32_t stage;                 /* sp_stage */
    _Atomic uint32_t count;                 /* slots in hand, 0 = idle */
    _Atomic int64_t start_ns;
    _Atomic int64_t start_cpu_ns; /* the worker process's CPU time then */
    _Atomic int64_t budget_ns;
    struct {
        _Atomic uint32_t slot;
        _Atomic uint32_t lease;
    } items[SP_LIMIT_BATCH];
} sp_mark;

/* What a worker says of itself once it is ready; the gateway validates and keeps a copy ("model card"). */
typedef struct sp_worker_card {
    char device[32];        /* "cpu", "cuda" */
    char model[64];         /* "" = none (codec, noop) */
    char version[16];
    char digest[65];        /* sha256 hex of the model file */
    char precision[16];     /* "fp32" ... */
    char engine[32];        /* "onnxruntime 1.31.1" */
    char sandbox[16];       /* "full", "partial", "none" */
    char detail[512];       /* free text for doctor: what was measured, sandbox notes */
    char nvjpeg[192];       /* a cuda device's that is told to use it: which it is, or "off: " and why; "" = it is not */
    uint32_t takes_jpeg;    /* 1: CLASSIFY may be given a JPEG file */
    char plan[256];         /* what a restarted worker needs to skip measuring (--plan); opaque to the route */
    uint32_t class_count;
    uint32_t max_batch;     /* items it wants at once */
    uint32_t executors;     /* threads that take work */
    uint32_t window;        /* leases it is useful to have out: executors * max_batch * 2 */
    uint32_t infer_window;  /* the same of served models (INFER, DETECT), counted apart: their queues are the worker's */
    uint32_t analyze_window; /* the same of chunks of videos (ANALYZE), which take seconds to minutes */
    int64_t p50_ns, p99_ns; /* of one batch of one, measured at load */
    sp_prep_spec prep;
} sp_worker_card;

typedef struct sp_ring_submissions {
    _Alignas(64) _Atomic uint32_t tail; /* producer: gateway */
    _Alignas(64) _Atomic uint32_t head; /* consumer: worker */
    sp_submission entries[SP_RING_ENTRIES];
} sp_ring_submissions;

typedef struct sp_ring_completions {
    _Alignas(64) _Atomic uint32_t tail; /* producer: worker */
    _Alignas(64) _Atomic uint32_t head; /* consumer: gateway */
    sp_completion entries[SP_RING_ENTRIES];
} sp_ring_completions;

/* First page of the request memfd. */
typedef struct sp_house_page {
    uint32_t abi;
    uint32_t slot_count;
    _Alignas(64) _Atomic uint32_t gateway_sleeping; /* 1: ring its eventfd after a completion */
} sp_house_page;

/* First part of the worker memfd. */
typedef struct sp_worker_page {
    uint32_t abi;
    _Alignas(64) _Atomic uint32_t worker_sleeping; /* 1: ring its eventfd after a submission */
    sp_ring_submissions submissions;
    sp_ring_completions completions;
    sp_mark marks[SP_LIMIT_EXECUTORS]; /* all are looked at, however many executors the card names */
    sp_worker_card card;
    sp_device_sample samples[SP_LIMIT_DEVICE_SAMPLES]; /* a sampler's; a simulated device's own */
    sp_device_counters counters;
    /* ANALYZE: the lease in the upper half, frames analysed for it in the lower. */
    _Alignas(64) _Atomic uint64_t progress[SP_LIMIT_SLOTS];
} sp_worker_page;

#define SP_REQUEST_MEMFD_REQUESTS_OFFSET 4096u
#define SP_REQUEST_MEMFD_BODIES_OFFSET \
    (SP_REQUEST_MEMFD_REQUESTS_OFFSET + SP_ALIGN_UP(SP_LIMIT_SLOTS * sizeof(sp_slot_request), (size_t)4096))
#define SP_REQUEST_MEMFD_HEADS_OFFSET \
    (SP_REQUEST_MEMFD_BODIES_OFFSET + (size_t)SP_LIMIT_SLOTS * SP_LIMIT_SLOT_INLINE_BYTES)
#define SP_INFER_HEAD_STRIDE SP_ALIGN_UP(sizeof(sp_infer_head), (size_t)4096)
#define SP_REQUEST_MEMFD_BYTES (SP_REQUEST_MEMFD_HEADS_OFFSET + (size_t)SP_LIMIT_SLOTS * SP_INFER_HEAD_STRIDE)
#define SP_WORKER_MEMFD_ANSWERS_OFFSET SP_ALIGN_UP(sizeof(sp_worker_page), (size_t)4096)
/* Answers lie far apart: those of most operations end at SP_LIMIT_ANSWER_BYTES, tensors may fill the whole stride. Pages
 * that were never touched cost nothing; the worker gives back (MADV_REMOVE) what it touched beyond SP_ANSWER_KEEP_BYTES
 * when the slot comes again. */
#define SP_ANSWER_STRIDE ((size_t)64 * 1024 * 1024)
#define SP_ANSWER_KEEP_BYTES ((size_t)1024 * 1024)
#define SP_WORKER_MEMFD_BYTES (SP_WORKER_MEMFD_ANSWERS_OFFSET + (size_t)SP_LIMIT_SLOTS * SP_ANSWER_STRIDE)

/* Control socket (SOCK_SEQPACKET), one message a packet, descriptors as SCM_RIGHTS. */
typedef enum sp_control_kind {
    SP_CONTROL_HELLO = 1,  /* gateway -> worker: request memfd, worker memfd, submit eventfd, complete eventfd */
    SP_CONTROL_BODY = 2,   /* gateway -> worker: body memfd of `slot`, `serial` */
    SP_CONTROL_OUTPUT = 3, /* gateway -> worker: output memfd of `slot`, `serial` */
    SP_CONTROL_READY = 4,  /* worker -> gateway: the card is in the worker page */
    SP_CONTROL_FAILED = 5, /* worker -> gateway: cannot serve (any more); `text` says why; the process ends */
    SP_CONTROL_CONFIG = 6, /* gateway -> net worker: a sealed memfd with the YAML of snapshot `serial`; the worker keeps the
                            * last four */
    SP_CONTROL_MEDIA = 7,  /* gateway -> worker: the media file of `slot`, `serial`; read-only, for pread */
} sp_control_kind;

typedef struct sp_control {
    uint32_t kind;
    uint32_t slot;
    uint32_t serial;
    uint32_t status; /* FAILED */
    char text[256];  /* FAILED */
    char code[32];   /* FAILED: sp_error.code; device faults: worker/device_fault.h */
} sp_control;

#endif
