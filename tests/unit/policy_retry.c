/* SPDX-License-Identifier: Apache-2.0
 * policy/retry: the range and evenness of the jitter, and what an outage costs under the budget. */
#include "policy/retry.h"
#include "test.h"

#include <stdio.h>

#define MS INT64_C(1000000)
#define S INT64_C(1000000000)

TEST(backoff_doubles_up_to_its_most)
{
    static const struct {
        int retry;
        int64_t base_ns, most_ns, top_ns;
    } rows[] = {
        { 0, 50 * MS, 2 * S, 50 * MS },    { 1, 50 * MS, 2 * S, 100 * MS }, { 5, 50 * MS, 2 * S, 1600 * MS },
        { 6, 50 * MS, 2 * S, 2 * S },      { 1000000, 50 * MS, 2 * S, 2 * S }, { 0, 3 * S, 2 * S, 2 * S },
        { 5, 0, 2 * S, 0 },                { 3, -5, 2 * S, 0 },             { 3, 5, -1, 0 },
        { 80, 1, INT64_MAX, INT64_MAX },   { 62, 1, INT64_MAX, INT64_C(1) << 62 },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_retry_settings s = { .retries = 1, .base_ns = rows[i].base_ns, .most_ns = rows[i].most_ns };
        CHECK_INT(sp_backoff_ns(&s, rows[i].retry, UINT64_MAX), rows[i].top_ns);
        CHECK_INT(sp_backoff_ns(&s, rows[i].retry, 0), 0);
    }
}

TEST(jitter_is_full_and_even)
{
    sp_retry_settings s = sp_retry_settings_default();
    int tenths[10] = { 0 };
    for (int i = 0; i < 20000; i++) {
        int64_t wait_ns = sp_backoff_ns(&s, 2, test_random());
        REQUIRE(wait_ns >= 0 && wait_ns <= 200 * MS);
        tenths[SP_MIN(wait_ns / (20 * MS), 9)]++;
    }
    for (int i = 0; i < 10; i++)
        CHECK(tenths[i] > 1750 && tenths[i] < 2250); /* 2,000 expected, sigma 42 */
}

TEST(an_outage_is_not_multiplied)
{
    /* 1,000 requests a second for a minute, all fail, each would retry 3 times. */
    sp_retry_budget_settings settings = sp_retry_budget_settings_default();
    sp_retry_budget budget;
    sp_retry_budget_init(&budget, &settings, 0);
    int retries = 0;
    for (int i = 0; i < 60000; i++) {
        int64_t now_ns = i * MS;
        sp_retry_budget_first_try(&budget, now_ns);
        for (int k = 0; k < 3; k++)
            retries += sp_retry_budget_take(&budget, now_ns);
    }
    int most = 60000 * 20 / 100 + 60 * 10 + 10; /* a fifth, ten a second, what it began with */
    printf("# %d retries for 60,000 failures\n", retries);
    CHECK(retries <= most && retries >= most - 20);
}

TEST(a_quiet_chain_may_retry)
{
    sp_retry_budget_settings settings = { .ratio_percent = 0, .per_s = 2, .most = 3 };
    sp_retry_budget b;
    sp_retry_budget_init(&b, &settings, 5 * S);
    CHECK(sp_retry_budget_take(&b, 5 * S) && sp_retry_budget_take(&b, 5 * S)); /* one second's worth */
    CHECK(!sp_retry_budget_take(&b, 5 * S));
    CHECK(!sp_retry_budget_take(&b, 5 * S + 499 * MS));
    CHECK(sp_retry_budget_take(&b, 5 * S + 500 * MS));
    for (int i = 0; i < 3; i++) /* an hour later: no more than `most` */
        CHECK(sp_retry_budget_take(&b, 3600 * S));
    CHECK(!sp_retry_budget_take(&b, 3600 * S));
    CHECK(!sp_retry_budget_take(&b, 3000 * S)); /* a clock that goes back pays nothing */
}

TEST(time_is_paid_in_to_the_nanosecond)
{
    /* Asked every 100 ns, 1 token a second: rounding must not eat it. */
    sp_retry_budget_settings settings = { .ratio_percent = 0, .per_s = 1, .most = 10 };
    sp_retry_budget b;
    sp_retry_budget_init(&b, &settings, 0);
    int taken = 0;
    for (int64_t now_ns = 0; now_ns <= S; now_ns += 700)
        taken += sp_retry_budget_take(&b, now_ns);
    CHECK(taken >= 1 && taken <= 2);
}

TEST(a_budget_of_nothing_allows_no_retry)
{
    sp_retry_budget_settings settings = { .ratio_percent = -5, .per_s = -1, .most = -1 };
    sp_retry_budget b;
    sp_retry_budget_init(&b, &settings, 0);
    sp_retry_budget_first_try(&b, S);
    CHECK(!sp_retry_budget_take(&b, 1000 * S));
}
