/* SPDX-License-Identifier: Apache-2.0
 * Prices. Money is counted in integers, so that a day's sum does not depend on the order of its answers. */
#include "policy/cost.h"

#include "base/attr.h"

#include <math.h>

/* rate * amount / per, rounded to the nearest, never negative, saturating. */
static int64_t share(int64_t rate, int64_t amount, int64_t per)
{
    if (rate <= 0 || amount <= 0)
        return 0;
    __int128 cost = ((__int128)rate * amount + per / 2) / per;
    return cost > INT64_MAX ? INT64_MAX : (int64_t)cost;
}

static int64_t add_saturating(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

int64_t sp_price_of(const sp_price *price, int64_t device_ns, int64_t media_ns)
{
    int64_t cost = add_saturating(share(price->per_hour, device_ns, INT64_C(3600000000000)),
                                  share(price->per_minute, media_ns, INT64_C(60000000000)));
    return add_saturating(cost, SP_MAX(price->per_call, 0));
}

/* In parts of a 3.6e12th of a microdollar, which both rates divide into. */
int64_t sp_price_next(const sp_price *price, int64_t device_ns, int64_t media_ns, int64_t *carry)
{
    const int64_t parts = INT64_C(3600000000000);
    __int128 cost = (__int128)SP_MAX(price->per_hour, 0) * SP_MAX(device_ns, 0) +
                    (__int128)SP_MAX(price->per_minute, 0) * SP_MAX(media_ns, 0) * 60 + *carry;
    *carry = (int64_t)(cost % parts);
    cost = cost / parts + SP_MAX(price->per_call, 0);
    return cost > INT64_MAX ? INT64_MAX : (int64_t)cost;
}

static int64_t round_money(double microdollars)
{
    return microdollars < 9e18 ? (int64_t)llround(microdollars) : INT64_MAX;
}

/* What a session costs by the API grows with each one; the day's rent does not. A device has no more than a day's time,
 * so a break-even beyond that is none: the second device would have to be paid as well. */
static int64_t break_even(const sp_cost_case *work, double day_rent)
{
    double api_session = work->seconds / 60 * (double)work->api_per_minute;
    if (!(api_session > 0))
        return -1;
    double sessions = ceil(day_rent / api_session - 1e-9);
    double fit = floor(86400 * work->speed / work->seconds + 1e-9);
    return sessions <= fit && sessions < 9e18 ? (int64_t)sessions : -1;
}

sp_cost_table sp_cost_compare(const sp_cost_case *work)
{
    double media_s = (double)work->sessions * work->seconds;
    double day_rent = 24 * (double)work->device_per_hour;
    sp_cost_table table = { .media_minutes = media_s / 60, .device_hours = media_s / work->speed / 3600 };
    table.api = round_money(table.media_minutes * (double)work->api_per_minute);
    table.device = round_money(table.device_hours * (double)work->device_per_hour);
    table.device_all_day = round_money(ceil(table.device_hours / 24 - 1e-9) * day_rent);
    table.break_even_sessions_per_day = break_even(work, day_rent);
    return table;
}
