/* SPDX-License-Identifier: Apache-2.0
 * The circuit breaker's state. It knows neither links nor threads: the route asks before each attempt and tells after it.
 * tests/unit/policy_breaker.c holds it to a table of scenarios and, event by event, to a naive model. */
#include "policy/breaker.h"

#include "base/attr.h"

#include <string.h>

sp_breaker_settings sp_breaker_settings_default(void)
{
    return (sp_breaker_settings){ .consecutive_failures = 5,
                                  .failure_percent = 50,
                                  .minimum_calls = 20,
                                  .window_ns = 30000000000,
                                  .open_ns = 5000000000,
                                  .open_max_ns = 60000000000,
                                  .probes = 3 };
}

const char *sp_breaker_state_name(sp_breaker_state state)
{
    switch (state) {
    case SP_BREAKER_CLOSED:
        return "closed";
    case SP_BREAKER_OPEN:
        return "open";
    case SP_BREAKER_HALF_OPEN:
        return "half_open";
    }
    return "unknown";
}

void sp_breaker_init(sp_breaker *breaker, const sp_breaker_settings *settings)
{
    memset(breaker, 0, sizeof(*breaker));
    breaker->settings = *settings;
    sp_breaker_settings *s = &breaker->settings;
    s->probes = SP_MAX(s->probes, 1);
    s->minimum_calls = SP_MAX(s->minimum_calls, 1);
    s->window_ns = SP_MAX(s->window_ns, SP_BREAKER_BUCKETS);
    s->open_ns = SP_MAX(s->open_ns, 0);
    s->open_max_ns = SP_MAX(s->open_max_ns, s->open_ns);
}

static int64_t add_saturating(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

/* Whoever still holds a ticket of the state before says nothing about the one that begins: its outcome is ignored. */
static void enter(sp_breaker *breaker, sp_breaker_state state)
{
    breaker->state = state;
    breaker->epoch++;
    breaker->in_a_row = 0;
    breaker->probes_out = 0;
    breaker->probes_ok = 0;
    memset(breaker->buckets, 0, sizeof(breaker->buckets));
}

static void open_for(sp_breaker *breaker, int64_t now_ns, int64_t for_ns)
{
    enter(breaker, SP_BREAKER_OPEN);
    breaker->opened_ns = now_ns;
    breaker->open_until_ns = add_saturating(now_ns, for_ns);
}

/* A link that failed and failed again is asked ever more rarely. */
static void open_again(sp_breaker *breaker, int64_t now_ns)
{
    int64_t for_ns = breaker->settings.open_ns;
    for (int i = 0; i < breaker->openings && for_ns < breaker->settings.open_max_ns; i++)
        for_ns = add_saturating(for_ns, for_ns);
    if (breaker->openings < INT32_MAX)
        breaker->openings++;
    open_for(breaker, now_ns, SP_MIN(for_ns, breaker->settings.open_max_ns));
}

static int64_t bucket_index(const sp_breaker *breaker, int64_t now_ns)
{
    return now_ns / (breaker->settings.window_ns / SP_BREAKER_BUCKETS);
}

static void count(sp_breaker *breaker, bool success, int64_t now_ns)
{
    int64_t index = bucket_index(breaker, now_ns);
    int at = (int)((uint64_t)index % SP_BREAKER_BUCKETS);
    if (breaker->buckets[at].index != index) {
        breaker->buckets[at].index = index;
        breaker->buckets[at].calls = 0;
        breaker->buckets[at].failures = 0;
    }
    breaker->buckets[at].calls++;
    breaker->buckets[at].failures += !success;
}

static bool fails_too_often(const sp_breaker *breaker, int64_t now_ns)
{
    const sp_breaker_settings *s = &breaker->settings;
    if (s->consecutive_failures > 0 && breaker->in_a_row >= s->consecutive_failures)
        return true;
    if (s->failure_percent <= 0)
        return false;
    int64_t last = bucket_index(breaker, now_ns), calls = 0, failures = 0;
    for (int i = 0; i < SP_BREAKER_BUCKETS; i++) {
        if (breaker->buckets[i].index > last - SP_BREAKER_BUCKETS && breaker->buckets[i].index <= last) {
            calls += breaker->buckets[i].calls;
            failures += breaker->buckets[i].failures;
        }
    }
    return calls >= s->minimum_calls && failures * 100 >= calls * s->failure_percent;
}

bool sp_breaker_would_allow(sp_breaker *breaker, int64_t now_ns)
{
    if (breaker->state == SP_BREAKER_OPEN && now_ns >= breaker->open_until_ns)
        enter(breaker, SP_BREAKER_HALF_OPEN);
    return breaker->state == SP_BREAKER_CLOSED ||
           (breaker->state == SP_BREAKER_HALF_OPEN && breaker->probes_out < breaker->settings.probes);
}

bool sp_breaker_allow(sp_breaker *breaker, int64_t now_ns, uint32_t *ret_ticket)
{
    if (!sp_breaker_would_allow(breaker, now_ns))
        return false;
    if (breaker->state == SP_BREAKER_HALF_OPEN)
        breaker->probes_out++;
    *ret_ticket = breaker->epoch;
    return true;
}

void sp_breaker_record(sp_breaker *breaker, uint32_t ticket, bool success, int64_t now_ns)
{
    if (ticket != breaker->epoch || breaker->state == SP_BREAKER_OPEN)
        return;
    if (success) {
        breaker->openings = 0;
        breaker->in_a_row = 0;
    }
    if (breaker->state == SP_BREAKER_HALF_OPEN) {
        breaker->probes_out -= breaker->probes_out > 0;
        if (!success)
            open_again(breaker, now_ns);
        else if (++breaker->probes_ok >= breaker->settings.probes)
            enter(breaker, SP_BREAKER_CLOSED);
        return;
    }
    count(breaker, success, now_ns);
    if (!success) {
        breaker->in_a_row++;
        if (fails_too_often(breaker, now_ns))
            open_again(breaker, now_ns);
    }
}

void sp_breaker_release(sp_breaker *breaker, uint32_t ticket)
{
    if (ticket == breaker->epoch && breaker->state == SP_BREAKER_HALF_OPEN && breaker->probes_out > 0)
        breaker->probes_out--;
}

void sp_breaker_trip(sp_breaker *breaker, int64_t now_ns, int64_t for_ns)
{
    int64_t until_ns = add_saturating(now_ns, SP_MAX(for_ns, 0));
    if (breaker->state == SP_BREAKER_OPEN)
        breaker->open_until_ns = SP_MAX(breaker->open_until_ns, until_ns);
    else
        open_for(breaker, now_ns, SP_MAX(for_ns, 0));
}

int64_t sp_breaker_retry_at(const sp_breaker *breaker, int64_t now_ns)
{
    if (breaker->state == SP_BREAKER_OPEN)
        return SP_MAX(breaker->open_until_ns, now_ns);
    if (breaker->state == SP_BREAKER_HALF_OPEN && breaker->probes_out >= breaker->settings.probes)
        return add_saturating(now_ns, breaker->settings.open_ns);
    return now_ns;
}
