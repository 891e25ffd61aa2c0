/* SPDX-License-Identifier: Apache-2.0
 * What a client sees in an answer of POST /infer, and how far two answers are apart. */
#ifndef SP_CLI_SEEN_H
#define SP_CLI_SEEN_H

#include "base/view.h"

#include <stdbool.h>

#define SP_SEEN_CLASSES 100

typedef struct sp_seen {
    char provider[48]; /* the link that answered; "" = none said */
    char reason[128];  /* of a fallback, or the error's text */
    char label[96];    /* of the first class */
    char way[320];     /* "sim0 unavailable 12 ms, cpu0 ok 7 ms": the attempts, as many as fit */
    bool simpler;      /* by a link marked simpler: another model, not to be compared */
    bool has_cost;
    double cost_usd;
    int count;
    struct {
        int id;
        double probability;
    } classes[SP_SEEN_CLASSES]; /* as sent: most probable first */
} sp_seen;

/* False: no JSON object. What the answer does not have stays empty. */
bool sp_seen_read(sp_view body, sp_seen *ret_seen);

/* Largest difference of a class's probability. Of a class that the other answer does not list, only what is certain
 * counts: that it would have been listed, were it greater than the least one there. */
double sp_seen_difference(const sp_seen *a, const sp_seen *b);

/* Both have classes and agree on the first. */
bool sp_seen_same_first(const sp_seen *a, const sp_seen *b);

#endif
