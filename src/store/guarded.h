/* SPDX-License-Identifier: Apache-2.0
 * A breaker whose changes people can see: a gauge, and an event each time (`breaker.open`, `.half_open`, `.closed`, topic
 * store/NAME). One thread at a time, any thread. */
#ifndef SP_STORE_GUARDED_H
#define SP_STORE_GUARDED_H

#include "base/metrics.h"
#include "base/status.h"
#include "policy/breaker.h"

typedef struct sp_guarded {
    sp_breaker breaker;
    const char *name; /* a literal: "jobs", "cache", "results" */
    sp_metric *gauge;
    sp_breaker_state told;
} sp_guarded;

void sp_guarded_init(sp_guarded *guarded, const char *name, const sp_breaker_settings *settings);
bool sp_guarded_allow(sp_guarded *guarded, uint32_t *ret_ticket);
void sp_guarded_record(sp_guarded *guarded, uint32_t ticket, bool success);

#endif
