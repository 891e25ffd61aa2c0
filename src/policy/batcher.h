/* SPDX-License-Identifier: Apache-2.0
 * One model's queue: which requests run together next, and when. Pure: the caller's clock, the caller's storage, no thread.
 *
 * Without dynamic batching each request is a batch of its own, first come first served. With it (Triton's
 * dynamic_batching): a batch is given out when it reaches a preferred size or the largest one, when its oldest member has
 * waited for max_queue_delay, or, without a delay, at once with whatever waits. Only requests of one `shape` go together.
 * Priorities: level 1 first; a level's members go by age. Time-outs and queue lengths are per level.
 * Source of the rules: Triton, model_configuration.md ("Dynamic Batcher"), model_config.proto. */
#ifndef SP_POLICY_BATCHER_H
#define SP_POLICY_BATCHER_H

#include <stdbool.h>
#include <stdint.h>

#define SP_BATCHER_LEVELS 17 /* [0]: without levels; 1 .. 16: priorities */
#define SP_BATCHER_PREFERRED 16

typedef struct sp_batcher_level {
    bool delay;             /* timed out: goes on behind the others; false = it is rejected */
    bool timeout_override;  /* the request's own timeout may shorten the default */
    int64_t timeout_ns;     /* 0 = none */
    uint32_t most;          /* waiting; 0 = unlimited */
} sp_batcher_level;

typedef struct sp_batcher_settings {
    bool batches;           /* false: one request at a time */
    int32_t most_rows;      /* max_batch_size; 1 when the model does not batch */
    int preferred_count;
    int32_t preferred[SP_BATCHER_PREFERRED]; /* rows, ascending */
    int64_t delay_ns;
    bool preserve_ordering; /* answers in the order of arrival: the caller holds answers back by `number` */
    uint32_t levels, default_level; /* 0 = no priorities */
    sp_batcher_level level[SP_BATCHER_LEVELS];
} sp_batcher_settings;

/* A waiting request: embed it in yours. */
typedef struct sp_batcher_item {
    int32_t rows;
    uint64_t shape;      /* what must be equal within a batch; a hash of dtypes and dims behind the first */
    bool alone;          /* a suspect: a batch of its own */
    uint32_t priority;   /* 0 = default */
    int64_t timeout_ns;  /* the request's own; 0 = none */
    /* The batcher's: */
    uint32_t level;
    bool late;           /* timed out, action DELAY: behind the others of its level */
    int64_t queued_ns, expires_ns;
    uint64_t number;     /* of arrival */
    struct sp_batcher_item *next, *previous;
} sp_batcher_item;

typedef struct sp_batcher {
    sp_batcher_settings settings;
    struct {
        sp_batcher_item *first, *last;
        sp_batcher_item *late_first, *late_last; /* timed out, action DELAY */
        uint32_t count;
    } levels[SP_BATCHER_LEVELS];
    uint32_t waiting, expiring; /* expiring: of them those with a time-out */
    int64_t waiting_rows;
    uint64_t arrivals;
} sp_batcher;

void sp_batcher_init(sp_batcher *batcher, const sp_batcher_settings *settings);

typedef enum sp_batcher_verdict {
    SP_BATCHER_QUEUED,
    SP_BATCHER_FULL,      /* max_queue_size of its level */
    SP_BATCHER_TOO_LARGE, /* more rows than the largest batch */
} sp_batcher_verdict;
/* A priority that is none of the levels counts as the default one, as in Triton. */
sp_batcher_verdict sp_batcher_add(sp_batcher *batcher, sp_batcher_item *item, int64_t now_ns);
void sp_batcher_remove(sp_batcher *batcher, sp_batcher_item *item); /* withdrawn while waiting */

/* The next batch into ret_items; to be called when an instance could run one. Returns its size; 0 = none is due now, then
 * *ret_due_ns says when to ask again (INT64_MAX = not before another request comes). Delays hold even though an instance is
 * idle. Those whose time is up (REJECT) come out through ret_rejected, at most `capacity` of them; both lists have that room.
 * Nothing of what comes out waits any more. */
int sp_batcher_next(sp_batcher *batcher, int64_t now_ns, sp_batcher_item **ret_items, int capacity,
                    sp_batcher_item **ret_rejected, int *ret_rejected_count, int64_t *ret_due_ns);

/* The time-outs alone, for when every instance is busy. Returns how many were rejected; *ret_due_ns: the next time-out. */
int sp_batcher_expire(sp_batcher *batcher, int64_t now_ns, sp_batcher_item **ret_rejected, int capacity,
                      int64_t *ret_due_ns);

#endif
