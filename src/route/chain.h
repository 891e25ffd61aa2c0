/* SPDX-License-Identifier: Apache-2.0
 * Choosing, as the other files of the route see it. */
#ifndef SP_ROUTE_CHAIN_H
#define SP_ROUTE_CHAIN_H

#include "route/internal.h"

#define SP_TRIES_PER_WORKER 2 /* of a codec's or a net worker's step: one transient failure must not cost the request */

typedef struct sp_pick {
    int entry;         /* -1 = none can take it now */
    sp_worker *worker; /* who would do it */
    int key;           /* of the remote; -1 = none */
    bool possible;     /* some entry may answer this request, now or later */
    int ahead;         /* the best of those that may, whether it has room or not; -1 = none */
    int64_t wake_ns;   /* > 0: when one that is shut now may be open again, inside the deadline */
    int64_t opens_ns;  /* > 0: the same, whenever it is */
    sp_skip skips[SP_CHAIN_ENTRIES];
} sp_pick;

/* The entry that should have the request now. Reserves nothing, counts nothing. `hedge`: one that could answer beside those
 * that have it already. */
void sp_chain_pick(sp_house *house, sp_request *request, bool hedge, sp_pick *ret_pick);

/* The codec or net worker that should do the step in hand (DECODE, UNPACK, FETCH, SEND); NULL when none can take it now.
 * *ret_possible = false when none ever will. */
sp_worker *sp_chain_pick_pool(sp_house *house, const sp_request *request, bool *ret_possible);

/* Until when an attempt may take: by `entry` of the chain, or by `worker` in a step of its own (entry -1). */
int64_t sp_chain_attempt_deadline(const sp_house *house, const sp_request *request, int entry, const sp_worker *worker,
                                  int64_t now_ns);

/* Could this worker, which is ready, take the request as one of its chain, if it had room? */
bool sp_chain_may_take(const sp_house *house, const sp_request *request, const sp_worker *worker);

/* Needs what a DECODE leaves. */
bool sp_chain_wants_output(const sp_request *request, int entry);

/* What a DECODE should leave (sp_output_kind). */
uint32_t sp_chain_wanted_output(const sp_house *house, const sp_request *request);

/* Works out the bits of `allowed`: what does not change about the conditions. At open all but the payload, of which
 * nothing is known yet; at submit (and after a FETCH) the payload. */
void sp_chain_judge_open(sp_request *request, const sp_request_params *params);
void sp_chain_judge_payload(sp_request *request);

/* Requests of the task that wait: what a queue_depth condition sees. */
int sp_chain_queue_depth(const sp_house *house, const sp_request *request);

/* The card of the model that the request asks for, or of the default one; NULL while no worker has said. */
const sp_worker_card *sp_chain_card(const sp_house *house, const sp_request *request);

/* Of its late answers; 0 = not known. */
int64_t sp_chain_p50_ns(const sp_house *house, const sp_request *request, const sp_chain_entry *entry);
int64_t sp_chain_p95_ns(const sp_house *house, const sp_request *request, const sp_chain_entry *entry);

#endif
