/* SPDX-License-Identifier: Apache-2.0
 * The way of a request through its steps, as the other files of the route see it:
 * dispatch.c queues and gives · chain.c chooses · lease.c hands over · collect.c takes back · death.c takes away. */
#ifndef SP_ROUTE_DISPATCH_H
#define SP_ROUTE_DISPATCH_H

#include "route/internal.h"

/* dispatch.c */
void sp_dispatch_submit(sp_request *request); /* never answers from inside */
void sp_dispatch_run(sp_house *house);        /* leases what can be leased */
void sp_dispatch_begin_step(sp_request *request, int step);
void sp_dispatch_requeue(sp_request *request, bool front);
void sp_dispatch_answer_poisoned(sp_request *request);
int64_t sp_dispatch_hook(void *context); /* once a turn of the loop */

/* collect.c: takes in a worker's completions and delivers answers. */
void sp_dispatch_collect(sp_worker *worker);

/* death.c */
/* The worker's process has been reaped: every lease goes back to its chain. Its memory is still mapped. */
void sp_dispatch_worker_gone(sp_worker *worker, sp_death_cause cause, const char *reason);
void sp_dispatch_expire(sp_timer *timer, void *context); /* a request's timer fired */
void sp_dispatch_withdraw(sp_request *request);          /* out of its queue, its lease cancelled */

#endif
