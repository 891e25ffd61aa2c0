/* SPDX-License-Identifier: Apache-2.0
 * What is known of devices from outside their links' answers: samples of a sampler worker (or of a simulated device
 * itself) and the counters of device workers. Reads shared memory, copies, checks. Loop thread only. */
#ifndef SP_ROUTE_DEVICES_H
#define SP_ROUTE_DEVICES_H

#include "route/internal.h"

/* Its device lowers its clocks because of heat or power now: another link of the same rank is the better one. False when
 * nobody has measured it lately. */
bool sp_worker_throttled(const sp_worker *worker);

/* Adds what a device worker has counted since the last call to the house's metrics. Before its page goes as well. */
void sp_devices_count(sp_worker *worker);

/* Ends a sampler that has stopped sampling (a library that hangs). A timer of its own, only where there is a sampler. */
void sp_devices_arm(sp_house *house);

#endif
