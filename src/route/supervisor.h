/* SPDX-License-Identifier: Apache-2.0
 * The supervisor, as the other files of the route see it. */
#ifndef SP_ROUTE_SUPERVISOR_H
#define SP_ROUTE_SUPERVISOR_H

#include "route/internal.h"

sp_status sp_supervisor_spawn(sp_worker *worker, sp_error *reterr);

/* A net worker learns of a new snapshot; others and workers that are down are left alone (they hear of it when they start). */
void sp_supervisor_send_config(sp_worker *worker, const sp_snapshot *snapshot);

void sp_supervisor_send_configs(sp_worker *worker); /* all that are in use: to one that starts */

/* What the worker's process may see of ours: all but the variables that hold secrets, unless it is a net worker. The list
 * is the caller's to free, its strings are not; NULL = no memory. */
char **sp_supervisor_environment(const sp_worker *worker);

/* SIGKILL, with the reason that its requests will be told. */
void sp_supervisor_kill(sp_worker *worker, sp_death_cause why, const char *reason);

/* Closes every control socket, waits `grace_ms` for the processes to leave, kills the rest. Blocks. */
void sp_supervisor_end_all(sp_house *house, int grace_ms);

/* Looks after workers while leases are out or one is starting; arming an armed one changes nothing. */
void sp_watchdog_arm(sp_house *house);

#endif
