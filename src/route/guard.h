/* SPDX-License-Identifier: Apache-2.0
 * The equivalence guard: each link is held to the reference link of its chain, on golden inputs when it becomes ready (a
 * remote: when it first answers), and on a sample of live answers that the reference computes again when it has nothing else
 * to do. What differs by more than the tolerance is quarantined: its answers are no longer the same answers.
 *
 * Only classify has answers to compare. Links that are marked simpler, or whose model is another, are not held to anything.
 * A sampled request keeps its slot, body and decoded picture after its client is gone; few at once, not for long. */
#ifndef SP_ROUTE_GUARD_H
#define SP_ROUTE_GUARD_H

#include "base/loop.h"
#include "base/metrics.h"
#include "worker/slot.h"

/* Slots that samples may keep: 3 % of all, so that nobody is turned away for them. */
#define SP_LIMIT_GUARD_HELD 8
/* Bodies larger than this are not kept for a sample: 8 of them are half of what a small machine holds. */
#define SP_LIMIT_GUARD_BODY_BYTES (4u * 1024 * 1024)

#define SP_GUARD_CLASSES 8
#define SP_GUARD_INPUTS 3

/* The head of an answer, for comparing. */
typedef struct sp_guard_classes {
    uint32_t count;
    struct {
        uint32_t class_id;
        float probability;
    } top[SP_GUARD_CLASSES];
} sp_guard_classes;

/* What a request carries when it is a sample or a golden question. */
typedef struct sp_guard_note {
    bool sampled, held;
    int link, entry; /* who gave the answer that is looked at */
    int64_t held_since_ns;
    sp_guard_classes seen;
} sp_guard_note;

struct sp_request;

typedef struct sp_guard {
    uint32_t per_mille_due; /* grows by the rate with every answer; a sample at 1000 */
    bool golden_pending;    /* some link is due */
    struct sp_request *held[SP_LIMIT_GUARD_HELD];
    int held_count;
    struct sp_request *again; /* the sample that the reference is computing */
    struct sp_request *asked; /* the golden question that is out */
    sp_timer timer;           /* looks at what is held when nothing else happens */
    /* The golden check in hand: */
    int checking; /* link; -1 = none */
    int reference, input;
    bool of_reference; /* the answer that is awaited is the reference's */
    /* The reference's golden answers, as long as it is the same one: */
    int golden_of;       /* link; -1 = none */
    int golden_restarts; /* of its worker when they were given */
    int golden_count;
    sp_guard_classes golden[SP_GUARD_INPUTS];
    sp_metric *checks_metric, *mismatches_metric, *dropped_metric;
} sp_guard;

/* The largest difference of a probability between two answers: of classes that both have, or of one that only one has and
 * that would have had to be among the other's. */
double sp_guard_difference(const sp_guard_classes *a, const sp_guard_classes *b);

#endif
