/* SPDX-License-Identifier: Apache-2.0
 * One model's sequences: requests that belong together by a correlation id and run one after the other. Pure: the caller's
 * clock, no thread; one allocation when it is made and none later.
 *
 * Each instance of the model has slots; a sequence that has one keeps it until its END has run, or until nobody has asked for
 * it for max_sequence_idle. A sequence that finds all slots taken waits in the backlog, first come first served.
 *
 *   direct  the slot is the row of the batch: every batch of the instance has the sequence's request in that row, or an
 *           empty row (the model's READY control is false there). A batch goes when enough slots have a request
 *           (minimum_slot_utilization) or the oldest of them has waited for max_queue_delay.
 *   oldest  a slot is a candidate's place: the first waiting request of each candidate goes through a dynamic batcher.
 *
 * A START within a sequence that has not ended goes on in its slot, as in Triton. What differs: a sequence that has something
 * waiting or running is not idle. Source of the rules: Triton, model_configuration.md ("Sequence Batcher"). */
#ifndef SP_POLICY_SEQUENCE_H
#define SP_POLICY_SEQUENCE_H

#include "base/status.h"
#include "policy/batcher.h"

#define SP_SEQUENCE_TEXT_BYTES 128
#define SP_SEQUENCE_START 1u
#define SP_SEQUENCE_END 2u

typedef struct sp_sequence sp_sequence;
typedef struct sp_sequencer sp_sequencer;

typedef struct sp_sequence_settings {
    const char *model;   /* for messages; outlives it */
    bool oldest;         /* false: direct */
    uint32_t instances;
    uint32_t slots;      /* of each instance: rows of a batch (direct), max_candidate_sequences (oldest) */
    int64_t idle_ns;
    uint32_t backlog;    /* sequences that may wait for a slot */
    int64_t delay_ns;    /* direct */
    double utilization;  /* direct: minimum_slot_utilization, 0 .. 1 */
    sp_batcher_settings batcher; /* oldest: of each instance */
} sp_sequence_settings;

typedef enum sp_sequence_reason {
    SP_SEQUENCE_TIMEOUT, /* its request's time-out passed while it was in the backlog */
    SP_SEQUENCE_BROKEN,  /* a request before it was withdrawn */
} sp_sequence_reason;

/* A waiting request: embed it in yours. */
typedef struct sp_sequence_item {
    sp_batcher_item base; /* the caller's part: rows, shape, alone, timeout_ns */
    uint64_t id;          /* 0 = none; of a text its hash */
    const char *text;     /* "" or NULL: the id is a number. Only read inside sp_sequencer_add */
    uint32_t flags;       /* SP_SEQUENCE_... */
    /* Set by sp_sequencer_next: where it runs. State that is kept for a sequence is kept by (instance, slot), and is
     * forgotten when a request with START runs there. */
    uint32_t instance, slot;
    sp_sequence_reason reason; /* set by sp_sequencer_expire */
    /* Its own: */
    sp_sequence *sequence;
    struct sp_sequence_item *following;
    int64_t arrived_ns;
    bool in_batcher;
} sp_sequence_item;

/* SP_NOMEM; SP_INVALID: settings without an instance or slot, or too many of them. */
sp_status sp_sequencer_new(const sp_sequence_settings *settings, sp_sequencer **ret_sequencer, sp_error *reterr);
void sp_sequencer_free(sp_sequencer *sequencer); /* NULL is fine; nothing waits or runs */
SP_DEFINE_CLEANUP(sp_sequencer, sp_sequencer_free)

/* SP_INVALID, in Triton's words: no id, no START, more than one row. SP_BUSY: the backlog is full. */
sp_status sp_sequencer_add(sp_sequencer *sequencer, sp_sequence_item *item, int64_t now_ns, sp_error *reterr);

/* The next batch of `instance`, which runs nothing now. Returns its rows, 0 = none is due, then *ret_due_ns says when to ask
 * again (INT64_MAX = not before something comes, or is done). direct: ret_items[row] is NULL for an empty row; `capacity` is at
 * least `slots`. Each that comes out is given back through sp_sequencer_done. */
int sp_sequencer_next(sp_sequencer *sequencer, uint32_t instance, int64_t now_ns, sp_sequence_item **ret_items, int capacity,
                      int64_t *ret_due_ns);
void sp_sequencer_done(sp_sequencer *sequencer, sp_sequence_item *item, int64_t now_ns);

/* Ends idle sequences; hands out, with the reason, those that will not run. *ret_due_ns: when to call again. */
int sp_sequencer_expire(sp_sequencer *sequencer, int64_t now_ns, sp_sequence_item **ret_rejected, int capacity,
                        int64_t *ret_due_ns);

/* One that waits is withdrawn. Its sequence ends with it, as it is no longer whole: what waits behind it comes out through
 * sp_sequencer_expire, later requests must START again. */
void sp_sequencer_withdraw(sp_sequencer *sequencer, sp_sequence_item *item);

uint32_t sp_sequencer_waiting(const sp_sequencer *sequencer);
uint32_t sp_sequencer_open(const sp_sequencer *sequencer); /* that have a slot, or wait for one */

#endif
