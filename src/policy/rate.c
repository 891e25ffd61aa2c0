/* SPDX-License-Identifier: Apache-2.0
 * Token bucket, and quotas by wall-clock minute and day. */
#include "policy/rate.h"

#include "base/attr.h"

void sp_bucket_init(sp_bucket *bucket, double per_s, double burst, int64_t now_ns)
{
    per_s = SP_MAX(per_s, 0.0);
    if (!(burst > 0)) /* not written: one second's worth, and at least one whole token or nothing would ever pass */
        burst = SP_MAX(per_s, 1.0);
    *bucket = (sp_bucket){ .per_s = per_s, .burst = burst, .tokens = burst, .filled_ns = now_ns };
}

bool sp_bucket_take(sp_bucket *bucket, double tokens, int64_t now_ns, int64_t *ret_wait_ns)
{
    if (!(bucket->per_s > 0) || !(tokens > 0))
        return true;
    if (now_ns > bucket->filled_ns) {
        double earned = (double)(now_ns - bucket->filled_ns) * 1e-9 * bucket->per_s;
        bucket->tokens = SP_MIN(bucket->burst, bucket->tokens + earned);
        bucket->filled_ns = now_ns;
    }
    double needed = SP_MIN(tokens, bucket->burst);
    /* A billionth of slack: whoever comes back exactly when told must not miss by a rounding. */
    if (bucket->tokens + 1e-9 * needed >= needed) {
        bucket->tokens -= tokens;
        return true;
    }
    double wait_ns = (needed - bucket->tokens) / bucket->per_s * 1e9 + 1;
    *ret_wait_ns = wait_ns < 9e18 ? (int64_t)wait_ns : INT64_MAX;
    return false;
}

const char *sp_quota_verdict_name(sp_quota_verdict verdict)
{
    switch (verdict) {
    case SP_QUOTA_OK:
        return "ok";
    case SP_QUOTA_REQUESTS_MINUTE:
        return "requests_per_minute";
    case SP_QUOTA_REQUESTS_DAY:
        return "requests_per_day";
    case SP_QUOTA_UNITS_MINUTE:
        return "units_per_minute";
    case SP_QUOTA_UNITS_DAY:
        return "units_per_day";
    case SP_QUOTA_COST_DAY:
        return "max_cost_per_day";
    }
    return "unknown";
}

/* A clock that steps back over the edge by a second must not grant a second window's worth; one that steps further was
 * wrong before. */
static bool same_window(int64_t kept, int64_t now)
{
    return kept == now || kept == now + 1;
}

static void roll(sp_quota_use *use, int64_t unix_s)
{
    int64_t minute = unix_s / 60, day = unix_s / 86400;
    if (!same_window(use->minute, minute)) {
        use->minute = minute;
        use->requests_minute = use->units_minute = 0;
    }
    if (!same_window(use->day, day)) {
        use->day = day;
        use->requests_day = use->units_day = use->microdollars_day = 0;
    }
}

/* Used up is used up, also for a call that reserves nothing because nobody knows what it will use. */
static bool over(int64_t limit, int64_t used, int64_t more)
{
    return limit > 0 && (used >= limit || more > limit - used);
}

static void add(int64_t *count, int64_t more)
{
    int64_t sum;
    if (__builtin_add_overflow(*count, more, &sum))
        sum = INT64_MAX;
    *count = SP_MAX(sum, 0);
}

sp_quota_verdict sp_quota_take(const sp_quota_settings *settings, sp_quota_use *use, int64_t units, int64_t microdollars,
                               int64_t unix_s, bool reserve, int *ret_wait_s)
{
    roll(use, unix_s);
    units = SP_MAX(units, 0);
    microdollars = SP_MAX(microdollars, 0);

    /* Days first: who waits for the minute only to be told the day would have waited for nothing. */
    sp_quota_verdict verdict = SP_QUOTA_OK;
    if (over(settings->microdollars_per_day, use->microdollars_day, microdollars))
        verdict = SP_QUOTA_COST_DAY;
    else if (over(settings->requests_per_day, use->requests_day, 1))
        verdict = SP_QUOTA_REQUESTS_DAY;
    else if (over(settings->units_per_day, use->units_day, units))
        verdict = SP_QUOTA_UNITS_DAY;
    if (verdict != SP_QUOTA_OK) {
        *ret_wait_s = (int)SP_MIN((use->day + 1) * 86400 - unix_s, 2 * 86400);
        return verdict;
    }
    if (over(settings->requests_per_minute, use->requests_minute, 1))
        verdict = SP_QUOTA_REQUESTS_MINUTE;
    else if (over(settings->units_per_minute, use->units_minute, units))
        verdict = SP_QUOTA_UNITS_MINUTE;
    if (verdict != SP_QUOTA_OK) {
        *ret_wait_s = (int)SP_MIN((use->minute + 1) * 60 - unix_s, 2 * 60);
        return verdict;
    }
    if (reserve) {
        add(&use->requests_minute, 1);
        add(&use->requests_day, 1);
        add(&use->units_minute, units);
        add(&use->units_day, units);
        add(&use->microdollars_day, microdollars);
    }
    return SP_QUOTA_OK;
}

void sp_quota_correct(sp_quota_use *use, int64_t units, int64_t microdollars, int64_t unix_s)
{
    roll(use, unix_s);
    add(&use->units_minute, units);
    add(&use->units_day, units);
    add(&use->microdollars_day, microdollars);
}
