/* SPDX-License-Identifier: Apache-2.0
 * The supervisor, as the other files of the route see it. */
#ifndef SP_ROUTE_SUPERVISOR_H
#define SP_ROUTE_SUPERVISOR_H

#include "route/internal.h"

sp_status sp_supervisor_spawn(sp_worker *worker, sp_error *reterr);

/* SIGKILL, with the reason that its requests will be told. */
void sp_supervisor_kill(sp_worker *worker, sp_death_cause why, const char *reason);

/* Closes every control socket, waits `grace_ms` for the processes to leave, kills the rest. Blocks. */
void sp_supervisor_end_all(sp_house *house, int grace_ms);

/* Looks after workers while leases are out or one is starting; arming an armed one changes nothing. */
void sp_watchdog_arm(sp_house *house);

#endif
