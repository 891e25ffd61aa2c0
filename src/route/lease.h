/* SPDX-License-Identifier: Apache-2.0
 * Leases, as the other files of the route see them. */
#ifndef SP_ROUTE_LEASE_H
#define SP_ROUTE_LEASE_H

#include "route/internal.h"

/* Hands the request to the worker: for `entry` of its chain with `key` of a remote, or (entry -1) for the step that it is
 * at. SP_BUSY: its control socket is full; SP_UNAVAILABLE: it has just died. Nothing was given then. */
sp_status sp_lease_give(sp_worker *worker, sp_request *request, int entry, int key, bool hedge, sp_error *reterr);

/* How an attempt ended, for the link that had it. */
typedef enum sp_verdict {
    SP_VERDICT_SILENT,  /* says nothing of the link: withdrawn, its worker was killed, the caller's fault */
    SP_VERDICT_GOOD,
    SP_VERDICT_FAILED,  /* feeds the breaker */
    SP_VERDICT_BUSY     /* overloaded: says nothing to the breaker, but to the limiter */
} sp_verdict;

/* The worker no longer has it: it completed, or it was reaped. Settles with link, breaker and limiter; the lease is no
 * longer live after it. `run_begun_ns`: which run it was part of, 0 = unknown. */
void sp_lease_returned(sp_worker *worker, sp_request *request, sp_verdict verdict, int64_t run_begun_ns);

/* It was too slow: its breaker is told now, whenever the lease may come back. */
void sp_lease_blame(sp_worker *worker, sp_request *request);

/* A live lease is no longer wanted; it stays out until the worker returns it. `overdue_kills`: it must be back within
 * the grace, or the watchdog ends the worker. */
void sp_lease_cancel(sp_worker *worker, sp_request *request, bool overdue_kills);
void sp_lease_cancel_all(sp_request *request, bool overdue_kills);

/* One of its executors has published that it works on this lease. */
bool sp_lease_in_hand(const sp_worker *worker, uint32_t slot, uint32_t lease_number);

#endif
