/* SPDX-License-Identifier: Apache-2.0
 * Keys, quotas and money of links: looked at before a pick, reserved before a lease, corrected after it. */
#ifndef SP_ROUTE_QUOTA_H
#define SP_ROUTE_QUOTA_H

#include "route/internal.h"

/* May the entry be used now? *ret_key = the first key of a remote with quota left that is not cooling; -1 = it has none.
 * Otherwise why not, and *ret_wake_ns = when that may have passed. */
sp_skip sp_quota_look(sp_house *house, const sp_request *request, const sp_chain_entry *entry, int64_t now_ns, int *ret_key,
                      int64_t *ret_wake_ns);

/* Takes what the call is expected to use; the lease remembers it. */
void sp_quota_reserve(sp_house *house, const sp_request *request, const sp_chain_entry *entry, sp_lease *lease);

/* It came back: what it really used. `device_ns` of a worker's device, or the time that a remote took; -1 = nothing that is
 * paid for. Returns the cost. */
int64_t sp_quota_settle(sp_house *house, const sp_request *request, const sp_lease *lease, int64_t units, int64_t device_ns);

/* The far side is busy and asked for a pause (0 = it did not say how long; -1 = nothing of the kind): its key cools down;
 * when none is left, the breaker opens for that long. */
void sp_quota_cool(sp_house *house, const sp_request *request, const sp_lease *lease, int64_t pause_ns, int64_t now_ns);

/* share.c: counts it in the shared store too; nothing without one. */
void sp_quota_share(sp_house *house, int remote, int key, const sp_quota_settings *settings, int64_t requests, int64_t units);

/* What `device_ns` on this entry cost, by its own price or the rate of its device. */
int64_t sp_quota_price(sp_house *house, const sp_request *request, const sp_chain_entry *entry, int64_t device_ns);

#endif
