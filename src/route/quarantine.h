/* SPDX-License-Identifier: Apache-2.0
 * Devices that keep failing: who is left alone for a while, for how long, and what is said about it. A quarantined
 * worker has no process; it is tried again after a pause that grows (10 s, 30 s, 1, 5, 10 min), for as long as the server
 * runs, and returns by itself (docs/internals/device-faults.md). Loop thread only. */
#ifndef SP_ROUTE_QUARANTINE_H
#define SP_ROUTE_QUARANTINE_H

#include "route/internal.h"

/* Counts a death's cause as the device's or not, names it (worker->code), says so. Before plan_restart. */
void sp_quarantine_note_death(sp_worker *worker, sp_death_cause cause, bool early, bool loading);

/* It has just become ready. */
void sp_quarantine_note_ready(sp_worker *worker);

/* True: it must not be started now but after *ret_wait_ns. Says so once: log, event, metric. */
bool sp_quarantine_begin(sp_worker *worker, bool loading, int64_t *ret_wait_ns);

/* It is tried again after a pause and failed as it did before: nobody needs to read that twice. */
bool sp_quarantine_is_repetition(const sp_worker *worker, bool loading, const char *reason);

#endif
