/* SPDX-License-Identifier: Apache-2.0
 * Retries: exponential back-off with full jitter, and a budget that keeps an outage from being multiplied. Pure; the
 * caller gives time and randomness. */
#ifndef SP_POLICY_RETRY_H
#define SP_POLICY_RETRY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_retry_settings {
    int retries;              /* on the same link, after the first try */
    int64_t base_ns, most_ns; /* the k-th retry waits a random time in [0, min(most, base * 2^k)] */
} sp_retry_settings;

/* 1 retry, 50 ms, 2 s. */
sp_retry_settings sp_retry_settings_default(void);

/* `retry` counts from 0; `random` is uniform over all of uint64. */
int64_t sp_backoff_ns(const sp_retry_settings *settings, int retry, uint64_t random);

/* A retry costs one token; each first try pays in `ratio_percent` of one, and time pays in `per_s` a second (so that a
 * quiet chain may retry at all). At most `most` tokens are kept; it begins with one second's worth. */
typedef struct sp_retry_budget_settings {
    int ratio_percent; /* default 20 */
    int per_s;         /* default 10 */
    int most;          /* default 100 */
} sp_retry_budget_settings;
sp_retry_budget_settings sp_retry_budget_settings_default(void);

typedef struct sp_retry_budget {
    sp_retry_budget_settings settings;
    int64_t millitokens, filled_ns;
} sp_retry_budget;
void sp_retry_budget_init(sp_retry_budget *budget, const sp_retry_budget_settings *settings, int64_t now_ns);
void sp_retry_budget_first_try(sp_retry_budget *budget, int64_t now_ns);
bool sp_retry_budget_take(sp_retry_budget *budget, int64_t now_ns);

#endif
