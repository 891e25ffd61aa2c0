/* SPDX-License-Identifier: Apache-2.0
 * policy/cost: rounding, saturation, and the published example to the cent. */
#include "policy/cost.h"
#include "test.h"

#include <math.h>

#define S INT64_C(1000000000)
#define DOLLAR INT64_C(1000000)

TEST(price_table)
{
    static const struct {
        sp_price price;
        int64_t device_ns, media_ns, microdollars;
    } rows[] = {
        { { 0 }, 3600 * S, 3600 * S, 0 },
        { { .per_hour = DOLLAR }, 3600 * S, 0, DOLLAR },
        { { .per_hour = 200000 }, 4000 * S, 99 * S, 222222 },
        { { .per_minute = 6000 }, 3600 * S, 60 * S, 6000 },
        { { .per_minute = 6000 }, 0, 5000000, 1 }, /* half a microdollar rounds up */
        { { .per_minute = 6000 }, 0, 4999999, 0 },
        { { .per_call = 70 }, 0, 0, 70 },
        { { .per_hour = DOLLAR, .per_minute = 6000, .per_call = 70 }, 3600 * S, 60 * S, DOLLAR + 6070 },
        { { .per_hour = -5, .per_minute = -5, .per_call = -5 }, 3600 * S, 60 * S, 0 },
        { { .per_hour = DOLLAR, .per_call = 3 }, -1, -1, 3 },
        { { .per_hour = INT64_MAX, .per_call = INT64_MAX }, INT64_MAX, 0, INT64_MAX },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++)
        CHECK_INT(sp_price_of(&rows[i].price, rows[i].device_ns, rows[i].media_ns), rows[i].microdollars);
}

TEST(small_costs_add_up)
{
    sp_price cpu = { .per_hour = 50000 }, both = { .per_hour = 50000, .per_minute = 6000, .per_call = 2 };
    int64_t carry = 0, sum = 0;
    CHECK_INT(sp_price_of(&cpu, 5000000, 0), 0); /* 0.07 microdollars */
    for (int i = 0; i < 720000; i++)             /* an hour of them */
        sum += sp_price_next(&cpu, 5000000, 0, &carry);
    CHECK_INT(sum, 50000);
    CHECK_INT(carry, 0);
    for (int i = 0; i < 1000; i++)
        sum += sp_price_next(&both, 3600000, 7000000, &carry); /* 0.05 + 0.7 + 2 */
    CHECK_INT(sum, 50000 + 2750);
    CHECK_INT(sp_price_next(&(sp_price){ .per_hour = -1, .per_call = -1 }, -5, -5, &carry), 0);
    CHECK_INT(sp_price_next(&(sp_price){ .per_hour = INT64_MAX }, INT64_MAX, 0, &carry), INT64_MAX);
}

/* 1,000 sessions of 60 s: $6.00 by the API at .006 a minute; 1.11 h = $0.22 on an L4 at 15x and $0.20 an hour. */
TEST(a_thousand_minutes)
{
    sp_cost_case work = { .sessions = 1000, .seconds = 60, .speed = 15, .device_per_hour = 200000, .api_per_minute = 6000 };
    sp_cost_table t = sp_cost_compare(&work);
    CHECK(fabs(t.media_minutes - 1000) < 1e-9);
    CHECK(fabs(t.device_hours - 1.1111) < 1e-4);
    CHECK_INT(t.api, 6 * DOLLAR);
    CHECK_INT(t.device, 222222);
    CHECK_INT(t.device_all_day, 4800000);
    CHECK_INT(t.break_even_sessions_per_day, 800);
}

TEST(break_even_edges)
{
    sp_cost_case work = { .sessions = 1, .seconds = 60, .speed = 15, .device_per_hour = 200000, .api_per_minute = 6000 };
    work.device_per_hour = 200001; /* a hair more than 800 sessions: the 801st */
    CHECK_INT(sp_cost_compare(&work).break_even_sessions_per_day, 801);
    work.device_per_hour = 0;
    CHECK_INT(sp_cost_compare(&work).break_even_sessions_per_day, 0);
    work.device_per_hour = 5400000; /* 21,600 sessions fit a day at 15x and cost $129.60 by the API, which is 24 * 5.40 */
    CHECK_INT(sp_cost_compare(&work).break_even_sessions_per_day, 21600);
    work.device_per_hour = 5400001;
    CHECK_INT(sp_cost_compare(&work).break_even_sessions_per_day, -1);
    work.api_per_minute = 0;
    CHECK_INT(sp_cost_compare(&work).break_even_sessions_per_day, -1);
}

TEST(whole_days_are_paid)
{
    sp_cost_case work = { .sessions = 21600, .seconds = 60, .speed = 15, .device_per_hour = DOLLAR, .api_per_minute = 6000 };
    CHECK_INT(sp_cost_compare(&work).device_all_day, 24 * DOLLAR); /* exactly a day */
    work.sessions++;
    CHECK_INT(sp_cost_compare(&work).device_all_day, 48 * DOLLAR);
    work.sessions = 0;
    CHECK_INT(sp_cost_compare(&work).device_all_day, 0);
    CHECK_INT(sp_cost_compare(&work).api, 0);
}
