/* SPDX-License-Identifier: Apache-2.0
 * Leases, as the other files of the route see them. */
#ifndef SP_ROUTE_LEASE_H
#define SP_ROUTE_LEASE_H

#include "route/internal.h"

/* SP_BUSY: its control socket is full; SP_UNAVAILABLE: it has just died. Nothing was given then. */
sp_status sp_lease_give(sp_worker *worker, sp_request *request, sp_error *reterr);

/* The worker no longer has it: it completed, or it was reaped. */
void sp_lease_returned(sp_worker *worker, sp_request *request);

/* The current lease is no longer wanted; it stays out until the worker returns it. `overdue_kills`: it must be back
 * within the grace, or the watchdog ends the worker. */
void sp_lease_cancel(sp_worker *worker, sp_request *request, bool overdue_kills);

/* One of its executors has published that it works on this lease. */
bool sp_lease_in_hand(const sp_worker *worker, uint32_t slot, uint32_t lease_number);

#endif
