/* SPDX-License-Identifier: Apache-2.0
 * Plain tensors in a slot: what a KServe inference is once its front end (HTTP, gRPC) has understood it. Names are gone by
 * then: inputs and outputs are numbers of ports in the model's card (model/card.h), a model version is a number too.
 *
 *   request    sp_infer_head in the request memfd (one place per slot, beside sp_slot_request); the tensors lie in the
 *              slot's body (binary tensors stay where they arrived; small JSON ones are converted behind the text), or in
 *              its output memfd, when a codec worker made them (UNPACK: JSON over 64 KiB, compressed bodies).
 *   answer     sp_infer_answer at the start of answer[slot], the tensors behind it, each at a multiple of 64.
 *
 * Everything is row-major and packed, little endian. BYTES elements (dtype 8) are 4 bytes of length, then the bytes. */
#ifndef SP_MODEL_INFER_H
#define SP_MODEL_INFER_H

#include "base/limits.h"

#include <stdint.h>

#define SP_INFER_RANK 8
#define SP_INFER_PORTS 64 /* inputs, and outputs, of one model */
#define SP_DTYPE_BYTES 8  /* ONNX's number of strings; the others are sp_engine_dtype's */

/* One input. Offsets count from the start of the body (of all of it: not of its payload) or of the output. */
typedef struct sp_infer_tensor {
    uint16_t port;
    uint8_t dtype; /* ONNX's number */
    uint8_t rank;
    uint32_t in_output; /* 0: in the body; 1: in the output memfd */
    uint64_t offset, bytes;
    int64_t dims[SP_INFER_RANK]; /* as the client gave them: with the batch dimension, where the model batches */
} sp_infer_tensor;

/* The form in which an output is wanted; the worker makes it, so that the gateway's loop copies bytes and no more. */
typedef enum sp_infer_form {
    SP_FORM_RAW = 0,  /* packed elements */
    SP_FORM_JSON = 1, /* the text of a flat JSON array, with its brackets: "[1.5,2]"; BYTES become strings */
} sp_infer_form;

/* One wanted output. */
typedef struct sp_infer_wish {
    uint16_t port;
    uint8_t form;
    uint8_t reserved;
    uint32_t classes;     /* > 0: classification extension: BYTES "value:index:label", the best so many of each batch row */
    uint64_t limit_bytes; /* 0 = none; an output larger than this fails the request (a shared-memory region's size) */
} sp_infer_wish;

#define SP_INFER_SEQUENCE_START 1u
#define SP_INFER_SEQUENCE_END 2u

typedef struct sp_infer_head {
    uint32_t model; /* which loaded model version: sp_house's number for it */
    uint32_t flags; /* SP_INFER_SEQUENCE_... */
    uint64_t sequence_id; /* 0 = none; a text id is hashed by the gateway, its bytes are in sequence_text */
    char sequence_text[128];
    uint64_t timeout_us;  /* in the scheduler's queue; 0 = the model's default */
    uint32_t priority;    /* 1 = first; 0 = the model's default */
    uint16_t input_count, wish_count;
    sp_infer_tensor inputs[SP_INFER_PORTS];
    sp_infer_wish wishes[SP_INFER_PORTS];
} sp_infer_head;

typedef struct sp_infer_output {
    uint16_t port;
    uint8_t dtype; /* BYTES for a classification */
    uint8_t rank;
    uint8_t form;
    uint8_t reserved[3];
    uint64_t offset, bytes; /* from the start of the answer */
    int64_t dims[SP_INFER_RANK];
} sp_infer_output;

/* Times of the model's own scheduler, in ns; for an ensemble the sums over its steps. */
typedef struct sp_infer_answer {
    uint32_t count;
    uint32_t batch_rows;   /* rows (batch dimension) of the run that this was part of; 1 without batching */
    uint32_t batch_leader; /* 1 for exactly one request of each run: counts executions */
    uint32_t step_count;   /* of an ensemble: so many sp_infer_step lie at the very end of the answer */
    int64_t queue_ns, input_ns, infer_ns, output_ns;
    sp_infer_output outputs[SP_INFER_PORTS]; /* `count` of them are written */
} sp_infer_answer;

/* An ensemble's answer ends with one of these per step that ran (the last `step_count` * sizeof of its bytes, at a multiple of
 * 8), so that its models are counted too. */
typedef struct sp_infer_step {
    uint32_t model;
    uint32_t status; /* sp_status */
    uint32_t batch_rows, batch_leader;
    int64_t queue_ns, input_ns, infer_ns, output_ns;
} sp_infer_step;

#endif
