/* SPDX-License-Identifier: Apache-2.0
 * Rates and quotas: a token bucket, and counts per minute and day. Pure; the caller gives the time. */
#ifndef SP_POLICY_RATE_H
#define SP_POLICY_RATE_H

#include <stdbool.h>
#include <stdint.h>

/* per_s tokens a second, at most `burst` kept; it begins full. per_s 0 = unlimited; burst 0 = one second's worth, at least
 * one token. Whoever takes more than `burst` at once gets it from a full bucket, which then owes the rest. */
typedef struct sp_bucket {
    double per_s, burst, tokens;
    int64_t filled_ns;
} sp_bucket;
void sp_bucket_init(sp_bucket *bucket, double per_s, double burst, int64_t now_ns);
bool sp_bucket_take(sp_bucket *bucket, double tokens, int64_t now_ns, int64_t *ret_wait_ns); /* false: come back in *ret_wait_ns */

/* What may be used per wall-clock minute and day (UTC). 0 = unlimited. Units are the provider's (tokens, seconds). */
typedef struct sp_quota_settings {
    int64_t requests_per_minute, requests_per_day, units_per_minute, units_per_day;
    int64_t microdollars_per_day; /* max_cost_per_day */
} sp_quota_settings;

typedef struct sp_quota_use {
    int64_t minute, day; /* of the counts below: unix minutes, unix days */
    int64_t requests_minute, requests_day, units_minute, units_day, microdollars_day;
} sp_quota_use;

typedef enum sp_quota_verdict {
    SP_QUOTA_OK,
    SP_QUOTA_REQUESTS_MINUTE,
    SP_QUOTA_REQUESTS_DAY,
    SP_QUOTA_UNITS_MINUTE,
    SP_QUOTA_UNITS_DAY,
    SP_QUOTA_COST_DAY
} sp_quota_verdict;
const char *sp_quota_verdict_name(sp_quota_verdict verdict);

/* Reserves before sending; *ret_wait_s = seconds to the next window when it is not OK. Looking only: reserve = false.
 * A limit that is used up refuses a call of 0 units or dollars too: nobody knows yet what that will use. */
sp_quota_verdict sp_quota_take(const sp_quota_settings *settings, sp_quota_use *use, int64_t units, int64_t microdollars,
                               int64_t unix_s, bool reserve, int *ret_wait_s);
/* After the call: what it really used, minus what was reserved (may be negative). */
void sp_quota_correct(sp_quota_use *use, int64_t units, int64_t microdollars, int64_t unix_s);

#endif
