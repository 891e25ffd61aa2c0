/* SPDX-License-Identifier: Apache-2.0
 * A breaker that tells. */
#include "store/guarded.h"

#include "base/clock.h"
#include "base/event.h"

#include <stdio.h>

static void tell(sp_guarded *guarded)
{
    char kind[32], topic[80];
    if (guarded->breaker.state == guarded->told)
        return;
    guarded->told = guarded->breaker.state;
    sp_metric_set(guarded->gauge, guarded->told);
    (void)snprintf(kind, sizeof(kind), "breaker.%s", sp_breaker_state_name(guarded->told));
    (void)snprintf(topic, sizeof(topic), "store/%s", guarded->name);
    sp_event_emit(kind, topic, "", "{\"store\":\"%s\"}", guarded->name);
}

void sp_guarded_init(sp_guarded *guarded, const char *name, const sp_breaker_settings *settings)
{
    char labels[48];
    (void)snprintf(labels, sizeof(labels), "store=\"%s\"", name);
    sp_breaker_init(&guarded->breaker, settings);
    guarded->name = name;
    guarded->told = guarded->breaker.state;
    guarded->gauge = sp_metric_get(SP_METRIC_GAUGE, "spillway_store_breaker", labels, "0 closed, 1 open, 2 half-open");
    sp_metric_set(guarded->gauge, guarded->told);
}

bool sp_guarded_allow(sp_guarded *guarded, uint32_t *ret_ticket)
{
    bool allowed = sp_breaker_allow(&guarded->breaker, sp_clock_now_ns(), ret_ticket);
    tell(guarded);
    return allowed;
}

void sp_guarded_record(sp_guarded *guarded, uint32_t ticket, bool success)
{
    sp_breaker_record(&guarded->breaker, ticket, success, sp_clock_now_ns());
    tell(guarded);
}
