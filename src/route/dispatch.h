/* SPDX-License-Identifier: Apache-2.0
 * Dispatch, as the other files of the route see it. */
#ifndef SP_ROUTE_DISPATCH_H
#define SP_ROUTE_DISPATCH_H

#include "route/internal.h"

void sp_dispatch_submit(sp_request *request); /* never answers from inside */
void sp_dispatch_run(sp_house *house);        /* leases what can be leased */
void sp_dispatch_collect(sp_worker *worker);  /* takes in its completions and delivers answers */
/* Its process has been reaped: every lease goes back to its chain. Its memory is still mapped. */
void sp_dispatch_worker_gone(sp_worker *worker, sp_death_cause cause, const char *reason);
void sp_dispatch_expire(sp_timer *timer, void *context); /* a request's timer fired */
void sp_dispatch_withdraw(sp_request *request);          /* out of its queue, its lease cancelled */
/* One of its executors has published that it works on this lease. */
bool sp_dispatch_in_hand(const sp_worker *worker, uint32_t slot, uint32_t lease_number);
int64_t sp_dispatch_hook(void *context); /* once a turn of the loop */

#endif
