/* SPDX-License-Identifier: Apache-2.0
 * What a worker has mapped: the house's requests (read-only), its own page and answers, and per slot the body memfd of
 * the request in hand and the output memfd. Descriptors arrive over the control socket before the ring is rung, so they
 * are there when a submission names their serial. Calls on one slot come from one thread at a time. */
#ifndef SP_WORKER_MAPS_H
#define SP_WORKER_MAPS_H

#include "base/status.h"
#include "base/view.h"
#include "worker/slot.h"

typedef struct sp_slot_map {
    uint32_t body_serial; /* 0 = none */
    int body_fd;
    uint8_t *body;
    size_t body_bytes;
    uint32_t output_serial;
    int output_fd;
    uint8_t *output; /* read-write when the gateway sent it writable (codec), else read-only */
    size_t output_bytes;
    bool output_writable;
    bool output_pinned; /* on_mapped took it */
    uint32_t media_serial; /* 0 = none */
    int media_fd;          /* for pread */
} sp_slot_map;

typedef struct sp_maps {
    int control_fd;
    int submit_fd;   /* eventfd: rung by the gateway */
    int complete_fd; /* eventfd: rung by us */
    sp_house_page *house; /* only gateway_sleeping is ever written: it is a hint */
    const sp_slot_request *requests;
    const uint8_t *inline_bodies;
    const uint8_t *heads; /* SP_INFER_HEAD_STRIDE apart */
    sp_worker_page *page;
    uint8_t *answers;
    size_t answers_touched[SP_LIMIT_SLOTS]; /* bytes of each answer that may have pages */
    sp_slot_map slots[SP_LIMIT_SLOTS];
    /* A configuration has arrived: the callee takes the descriptor. NULL = this worker wants none. */
    void (*on_config)(void *context, uint32_t serial, int fd);
    void *on_config_context;
    /* An output that stays mapped for its slot's next request was mapped (true: on_unmapped is told when it goes), or is about to
     * be unmapped. Calls on one slot come from one thread at a time, those on several at once. NULL = nobody wants to know. */
    bool (*on_mapped)(void *context, void *memory, size_t bytes);
    void (*on_unmapped)(void *context, void *memory);
    void *on_mapped_context;
} sp_maps;

/* Waits for HELLO on the control socket and maps both memfds. */
sp_status sp_maps_open(sp_maps *maps, int control_fd, sp_error *reterr);

/* Takes in the descriptors that have arrived. Under the loop's mutex. */
sp_status sp_maps_receive(sp_maps *maps, sp_error *reterr);

/* The payload of the slot's request. SP_INTERNAL when its descriptor never came or its numbers do not fit. */
sp_status sp_maps_payload(sp_maps *maps, uint32_t slot, sp_view *ret_payload, sp_error *reterr);

/* All of its body, for operations that count from its start. Empty when there is none but an earlier link's output. */
sp_status sp_maps_body(sp_maps *maps, uint32_t slot, sp_view *ret_body, sp_error *reterr);

/* How an inference was understood by the gateway: read-only memory that stays as it is while the slot is leased. */
const sp_infer_head *sp_maps_infer_head(const sp_maps *maps, uint32_t slot);

/* Where the slot's answer goes: SP_ANSWER_STRIDE bytes. What the last one touched beyond SP_ANSWER_KEEP_BYTES is given back
 * first. And: this answer has touched so many bytes. */
uint8_t *sp_maps_answer(sp_maps *maps, uint32_t slot);
void sp_maps_answered(sp_maps *maps, uint32_t slot, size_t touched_bytes);

/* The media file that goes with the slot's request: borrowed until it is released. SP_INTERNAL: it never came. */
sp_status sp_maps_media(const sp_maps *maps, uint32_t slot, int *ret_fd, sp_error *reterr);

/* The first `size_bytes` of the slot's output, for reading; *ret_pinned: it lies in memory that on_mapped took. */
sp_status sp_maps_input(sp_maps *maps, const sp_submission *submission, sp_view *ret_input, bool *ret_pinned, sp_error *reterr);

/* The slot's output for writing, grown to `size_bytes`. */
sp_status sp_maps_output(sp_maps *maps, uint32_t slot, size_t size_bytes, uint8_t **ret_output, sp_error *reterr);

/* The slot's output as a descriptor to write to, never mapped here: the gateway may seal it against writing afterwards. */
sp_status sp_maps_output_fd(sp_maps *maps, const sp_submission *submission, int *ret_fd, sp_error *reterr);
/* Lets go of the slot's output, which has become something else. */
void sp_maps_drop_output(sp_maps *maps, uint32_t slot);

/* The request is through here: lets go of its body, of its media file, and of an output too large to keep. */
void sp_maps_release(sp_maps *maps, uint32_t slot);

#endif
