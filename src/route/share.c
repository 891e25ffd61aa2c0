/* SPDX-License-Identifier: Apache-2.0
 * Quotas of remote keys that several servers share: what is counted here is counted in the shared store too, and the sum
 * that comes back, with what the others have used, takes the place of our own. Asked before each sending; until the sum is
 * back our own count holds, so servers can overrun a quota by what they send within one round trip to the store. */
#include "route/quota.h"

#include "base/clock.h"

#include <stdio.h>

typedef enum counted { REQUESTS_MINUTE, REQUESTS_DAY, UNITS_MINUTE, UNITS_DAY, COUNTED } counted;

/* What a reply is about: which count of which key, and of which window. As one number, so that nothing must be kept. */
static uintptr_t ticket_of(int remote, int key, counted what, int64_t window)
{
    return (uintptr_t)remote << 56 | (uintptr_t)key << 48 | (uintptr_t)what << 40 | ((uintptr_t)window & 0xffffffff);
}

static sp_house *replies_to; /* the house of this process; NULL once it shares no more */

static void sum_came(int64_t sum, bool known, void *context)
{
    uintptr_t ticket = (uintptr_t)context;
    if (!known || !replies_to)
        return;
    sp_quota_use *use = &replies_to->remotes[ticket >> 56].keys[ticket >> 48 & 0xff].use;
    counted what = ticket >> 40 & 0xff;
    bool day = what == REQUESTS_DAY || what == UNITS_DAY;
    if (((uintptr_t)(day ? use->day : use->minute) & 0xffffffff) != (ticket & 0xffffffff))
        return; /* that window is over */
    int64_t *counts[COUNTED] = { &use->requests_minute, &use->requests_day, &use->units_minute, &use->units_day };
    *counts[what] = SP_MAX(*counts[what], sum);
}

static void count(sp_house *house, int remote, int key, counted what, int64_t window_s, int64_t amount)
{
    static const char *const names[COUNTED] = { "requests", "requests", "units", "units" };
    char name[96];
    int64_t window = sp_clock_wall_ns() / SP_NS_PER_S / window_s;
    (void)snprintf(name, sizeof(name), "quota/%s/%d/%s", house->remotes[remote].name, key, names[what]);
    (void)house->share(house->share_context, name, window_s, amount, sum_came,
                       (void *)ticket_of(remote, key, what, window)); /* false: the store is away, our own count holds */
}

void sp_quota_share(sp_house *house, int remote, int key, const sp_quota_settings *settings, int64_t requests, int64_t units)
{
    if (!house->share)
        return;
    if (settings->requests_per_minute && requests)
        count(house, remote, key, REQUESTS_MINUTE, 60, requests);
    if (settings->requests_per_day && requests)
        count(house, remote, key, REQUESTS_DAY, 86400, requests);
    if (settings->units_per_minute && units)
        count(house, remote, key, UNITS_MINUTE, 60, units);
    if (settings->units_per_day && units)
        count(house, remote, key, UNITS_DAY, 86400, units);
}

void sp_house_set_share(sp_house *house, sp_share_fn *share, void *context)
{
    house->share = share;
    house->share_context = context;
    replies_to = share ? house : NULL;
}
