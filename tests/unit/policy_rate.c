/* SPDX-License-Identifier: Apache-2.0
 * policy/rate: buckets and quotas at their edges: exactly full, the next minute, a clock that steps back. */
#include "policy/rate.h"
#include "test.h"

#include <math.h>

#define MS INT64_C(1000000)
#define S INT64_C(1000000000)

TEST(a_bucket_begins_full_and_refills)
{
    sp_bucket b;
    int64_t wait_ns = -1;
    sp_bucket_init(&b, 10, 3, 7 * S);
    for (int i = 0; i < 3; i++)
        CHECK(sp_bucket_take(&b, 1, 7 * S, &wait_ns));
    CHECK(!sp_bucket_take(&b, 1, 7 * S, &wait_ns));
    CHECK(wait_ns >= 100 * MS && wait_ns <= 100 * MS + 10);
    CHECK(!sp_bucket_take(&b, 1, 7 * S + 99 * MS, &wait_ns));
    CHECK(sp_bucket_take(&b, 1, 7 * S + 100 * MS, &wait_ns));
    for (int i = 0; i < 3; i++)
        CHECK(sp_bucket_take(&b, 1, 1000 * S, &wait_ns));
    CHECK(!sp_bucket_take(&b, 1, 1000 * S, &wait_ns));
}

TEST(who_comes_back_when_told_is_let_in)
{
    for (int i = 0; i < 2000; i++) {
        double per_s = exp((double)test_random_between(-600, 900) / 100), tokens = test_random_between(1, 50);
        int64_t now_ns = (int64_t)(test_random() >> 8), wait_ns = 0;
        sp_bucket b;
        sp_bucket_init(&b, per_s, 50, now_ns);
        while (sp_bucket_take(&b, tokens, now_ns, &wait_ns))
            ;
        REQUIRE(wait_ns > 0);
        now_ns += wait_ns;
        if (!sp_bucket_take(&b, tokens, now_ns, &wait_ns)) {
            test_fail(__FILE__, __LINE__, "%g a second, %g tokens: refused after the wait", per_s, tokens);
            return;
        }
    }
}

TEST(a_rate_holds_over_time)
{
    sp_bucket b;
    int64_t wait_ns;
    int taken = 0;
    sp_bucket_init(&b, 7, 5, 0);
    for (int64_t now_ns = 0; now_ns < 100 * S; now_ns += 3 * MS)
        taken += sp_bucket_take(&b, 1, now_ns, &wait_ns);
    CHECK(taken >= 703 && taken <= 705);
}

TEST(bucket_edges)
{
    sp_bucket b;
    int64_t wait_ns = 0;
    sp_bucket_init(&b, 0, 0, 0); /* unlimited */
    for (int i = 0; i < 1000; i++)
        CHECK(sp_bucket_take(&b, 1e9, 0, &wait_ns));
    sp_bucket_init(&b, 0.5, 0, 0); /* burst not written: at least one whole token, or nothing would ever pass */
    CHECK(sp_bucket_take(&b, 1, 0, &wait_ns));
    CHECK(!sp_bucket_take(&b, 1, 0, &wait_ns));
    CHECK(wait_ns >= 2 * S && wait_ns < 2 * S + 10);
    sp_bucket_init(&b, 10, 10, 0); /* more than fits: from a full bucket, which owes the rest */
    CHECK(sp_bucket_take(&b, 25, 0, &wait_ns));
    CHECK(!sp_bucket_take(&b, 1, 1500 * MS, &wait_ns));
    CHECK(sp_bucket_take(&b, 1, 1600 * MS, &wait_ns));
    CHECK(!sp_bucket_take(&b, 1, 1000 * MS, &wait_ns)); /* back in time: no gift, no crash */
}

TEST(quota_table)
{
    static const sp_quota_settings limits[] = {
        { .requests_per_minute = 2 }, { .requests_per_day = 2 }, { .units_per_minute = 20 }, { .units_per_day = 20 },
        { .microdollars_per_day = 20 },
    };
    static const sp_quota_verdict verdicts[] = { SP_QUOTA_REQUESTS_MINUTE, SP_QUOTA_REQUESTS_DAY, SP_QUOTA_UNITS_MINUTE,
                                                 SP_QUOTA_UNITS_DAY, SP_QUOTA_COST_DAY };
    static const char *const names[] = { "requests_per_minute", "requests_per_day", "units_per_minute", "units_per_day",
                                         "max_cost_per_day" };
    const int64_t at = INT64_C(1700000000) / 86400 * 86400 + 3661; /* 01:01:01 of some day */

    for (size_t i = 0; i < SP_ARRAY_LEN(limits); i++) {
        sp_quota_use use = { 0 };
        int wait_s = -1;
        bool by_day = i == 1 || i >= 3;
        CHECK_INT(sp_quota_take(&limits[i], &use, 10, 10, at, true, &wait_s), SP_QUOTA_OK);
        for (int look = 0; look < 5; look++)
            CHECK_INT(sp_quota_take(&limits[i], &use, 10, 10, at, false, &wait_s), SP_QUOTA_OK);
        CHECK_INT(sp_quota_take(&limits[i], &use, 10, 10, at, true, &wait_s), SP_QUOTA_OK);
        CHECK_INT(wait_s, -1);
        CHECK_INT(sp_quota_take(&limits[i], &use, 10, 10, at, true, &wait_s), verdicts[i]);
        CHECK_INT(wait_s, by_day ? 86400 - 3661 : 59);
        CHECK_INT(sp_quota_take(&limits[i], &use, 0, 0, at, true, &wait_s), verdicts[i]); /* used up is used up */
        CHECK_INT(sp_quota_take(&limits[i], &use, 10, 10, at + 58, true, &wait_s), verdicts[i]);
        CHECK_INT(wait_s, by_day ? 86400 - 3661 - 58 : 1);
        CHECK_INT(sp_quota_take(&limits[i], &use, 10, 10, at + wait_s + 58, true, &wait_s), SP_QUOTA_OK);
        CHECK_TEXT(sp_quota_verdict_name(verdicts[i]), names[i]);
    }
}

TEST(quota_names_the_longer_wait)
{
    sp_quota_settings limits = { .requests_per_minute = 1, .requests_per_day = 1 };
    sp_quota_use use = { 0 };
    int wait_s = 0;
    CHECK_INT(sp_quota_take(&limits, &use, 0, 0, 86400, true, &wait_s), SP_QUOTA_OK);
    CHECK_INT(sp_quota_take(&limits, &use, 0, 0, 86400, true, &wait_s), SP_QUOTA_REQUESTS_DAY);
    CHECK_INT(wait_s, 86400);
}

TEST(a_refused_call_reserves_nothing)
{
    sp_quota_settings limits = { .requests_per_minute = 5, .units_per_minute = 10 };
    sp_quota_use use = { 0 };
    int wait_s;
    CHECK_INT(sp_quota_take(&limits, &use, 11, 5, 600, true, &wait_s), SP_QUOTA_UNITS_MINUTE);
    CHECK(use.requests_minute == 0 && use.requests_day == 0 && use.units_day == 0 && use.microdollars_day == 0);
}

TEST(correction_gives_back_and_adds)
{
    sp_quota_settings limits = { .units_per_minute = 10 };
    sp_quota_use use = { 0 };
    int wait_s;
    CHECK_INT(sp_quota_take(&limits, &use, 10, 100, 600, true, &wait_s), SP_QUOTA_OK);
    sp_quota_correct(&use, -7, -40, 601);
    CHECK(use.units_minute == 3 && use.units_day == 3 && use.microdollars_day == 60);
    CHECK_INT(sp_quota_take(&limits, &use, 7, 0, 602, true, &wait_s), SP_QUOTA_OK);
    sp_quota_correct(&use, 90, 1, 603); /* it took more than was thought */
    CHECK_INT(sp_quota_take(&limits, &use, 1, 0, 604, true, &wait_s), SP_QUOTA_UNITS_MINUTE);
    sp_quota_correct(&use, -7, -5000, 660); /* of the minute before: never below nothing */
    CHECK(use.units_minute == 0 && use.microdollars_day == 0);
    sp_quota_correct(&use, INT64_MAX, INT64_MAX, 661);
    sp_quota_correct(&use, INT64_MAX, INT64_MAX, 661);
    CHECK_INT(use.units_day, INT64_MAX);
}

TEST(a_clock_that_steps_back_grants_no_second_window)
{
    sp_quota_settings limits = { .requests_per_minute = 1 };
    sp_quota_use use = { 0 };
    int wait_s = 0;
    CHECK_INT(sp_quota_take(&limits, &use, 0, 0, 600, true, &wait_s), SP_QUOTA_OK);
    CHECK_INT(sp_quota_take(&limits, &use, 0, 0, 599, true, &wait_s), SP_QUOTA_REQUESTS_MINUTE);
    CHECK_INT(wait_s, 61);
    CHECK_INT(sp_quota_take(&limits, &use, 0, 0, 60, true, &wait_s), SP_QUOTA_OK); /* a far step: it was wrong before */
}
