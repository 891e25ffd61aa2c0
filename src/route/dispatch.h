/* SPDX-License-Identifier: Apache-2.0
 * The way of a request through its steps, as the other files of the route see it:
 * dispatch.c queues and gives · chain.c chooses · lease.c hands over · collect.c takes back · failure.c decides what comes
 * after a failure · death.c takes away · hedge.c asks a second link. */
#ifndef SP_ROUTE_DISPATCH_H
#define SP_ROUTE_DISPATCH_H

#include "route/chain.h"
#include "route/internal.h"

/* dispatch.c */
void sp_dispatch_submit(sp_request *request); /* never answers from inside */
void sp_dispatch_run(sp_house *house);        /* leases what can be leased */
void sp_dispatch_go_on(sp_request *request);  /* to its next step: FETCH, DECODE or its chain */
void sp_dispatch_requeue(sp_request *request, bool front);
void sp_dispatch_arm(sp_request *request);    /* its timer, for whatever comes first */
void sp_dispatch_given(sp_request *request, int entry, bool hedge); /* a lease of its chain is out: counts, timers */
void sp_dispatch_answer_poisoned(sp_request *request);
int64_t sp_dispatch_hook(void *context); /* once a turn of the loop */

/* collect.c: takes in a worker's completions and delivers answers. */
void sp_dispatch_collect(sp_worker *worker);

/* remote.c: checks the answer of a REMOTE lease, merges it into the request's answer. *ret_offset, *ret_bytes: the
 * task's own answer behind the header. */
sp_status sp_remote_take(const sp_worker *worker, sp_request *request, const sp_lease *lease, const sp_completion *done,
                         uint32_t *ret_offset, uint32_t *ret_bytes);
/* What was tried over there before it failed, when it told, into the request's attempts. */
void sp_remote_take_failure(const sp_worker *worker, sp_request *request, const sp_lease *lease, const sp_completion *done);

/* failure.c: an attempt by `entry` of the chain (or, -1, by `worker` in a step of its own) failed; its lease is back or
 * cancelled. `pause_ns`: the far side asked for it. */
void sp_dispatch_failed(sp_request *request, int entry, const sp_worker *worker, sp_status status, int64_t pause_ns);

/* hedge.c */
void sp_hedge_plan(sp_request *request, int entry); /* after a first lease: when to ask the next link as well */
void sp_hedge_now(sp_request *request);
void sp_hedge_settle(sp_request *request); /* one has answered: the others are withdrawn, their cost is counted */

/* death.c */
/* The worker's process has been reaped: every lease goes back to its chain. Its memory is still mapped. */
void sp_dispatch_worker_gone(sp_worker *worker, sp_death_cause cause, const char *reason);
void sp_dispatch_expire(sp_timer *timer, void *context); /* a request's timer fired */
void sp_dispatch_withdraw(sp_request *request);          /* out of its queue, its leases cancelled */

/* shed.c: can it still be answered in time, behind all that waits? False: it was answered (SP_BUSY, deadline_shed).
 * *ret_weighed: its chain had to be weighed for that, and *ret_pick says how it came out. */
bool sp_shed_admit(sp_request *request, sp_pick *ret_pick, bool *ret_weighed);

#endif
