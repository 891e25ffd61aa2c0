/* SPDX-License-Identifier: Apache-2.0
 * Back-off with full jitter and the retry budget. Whether a retry makes sense at all (status, deadline) is the route's. */
#include "policy/retry.h"

#include "base/attr.h"

sp_retry_settings sp_retry_settings_default(void)
{
    return (sp_retry_settings){ .retries = 1, .base_ns = 50000000, .most_ns = 2000000000 };
}

int64_t sp_backoff_ns(const sp_retry_settings *settings, int retry, uint64_t random)
{
    int64_t top_ns = SP_MAX(settings->base_ns, 0), most_ns = SP_MAX(settings->most_ns, 0);
    for (int i = 0; i < retry && top_ns > 0 && top_ns < most_ns; i++)
        top_ns = top_ns > INT64_MAX / 2 ? INT64_MAX : top_ns * 2;
    top_ns = SP_MIN(top_ns, most_ns);
    /* The high half of the product is uniform over [0, top_ns] without a division's bias. */
    return (int64_t)(((unsigned __int128)random * ((uint64_t)top_ns + 1)) >> 64);
}

sp_retry_budget_settings sp_retry_budget_settings_default(void)
{
    return (sp_retry_budget_settings){ .ratio_percent = 20, .per_s = 10, .most = 100 };
}

#define TOKEN 1000 /* millitokens */

static void pay_in(sp_retry_budget *budget, int64_t millitokens)
{
    int64_t most = (int64_t)budget->settings.most * TOKEN;
    budget->millitokens = SP_MIN(most, budget->millitokens + SP_MIN(millitokens, most));
}

static void refill(sp_retry_budget *budget, int64_t now_ns)
{
    int64_t elapsed_ns = now_ns - budget->filled_ns;
    if (elapsed_ns <= 0)
        return;
    /* Ten minutes fill any budget that a configuration can name per second; more would overflow, and tell nothing. */
    int64_t per_s = SP_MIN(budget->settings.per_s, 1000000);
    elapsed_ns = SP_MIN(elapsed_ns, INT64_C(600000000000));
    int64_t earned = elapsed_ns * per_s / 1000000;
    if (!earned && per_s)
        return; /* too short for a millitoken: counted next time */
    pay_in(budget, earned);
    budget->filled_ns = now_ns;
}

void sp_retry_budget_init(sp_retry_budget *budget, const sp_retry_budget_settings *settings, int64_t now_ns)
{
    *budget = (sp_retry_budget){ .settings = *settings, .filled_ns = now_ns };
    budget->settings.ratio_percent = SP_MAX(settings->ratio_percent, 0);
    budget->settings.per_s = SP_MAX(settings->per_s, 0);
    budget->settings.most = SP_MAX(settings->most, 0);
    pay_in(budget, (int64_t)budget->settings.per_s * TOKEN);
}

void sp_retry_budget_first_try(sp_retry_budget *budget, int64_t now_ns)
{
    refill(budget, now_ns);
    pay_in(budget, (int64_t)budget->settings.ratio_percent * TOKEN / 100);
}

bool sp_retry_budget_take(sp_retry_budget *budget, int64_t now_ns)
{
    refill(budget, now_ns);
    if (budget->millitokens < TOKEN)
        return false;
    budget->millitokens -= TOKEN;
    return true;
}
