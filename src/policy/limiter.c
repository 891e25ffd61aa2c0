/* SPDX-License-Identifier: Apache-2.0
 * The concurrency bound of a link. Adaptive: doubles a round until the first sign of too much, then one more a round while
 * calls stay near the best latency of late, a tenth less when they take over twice as long, half when refused. */
#include "policy/limiter.h"

#include "base/attr.h"

#include <limits.h>

/* After this long the best latency is forgotten: another model, another machine load. */
#define BEST_AGES_NS INT64_C(30000000000)
/* A whole round of calls reports one congestion; it is answered once. */
#define LEAST_PAUSE_NS INT64_C(10000000)
/* Below this, differences are the scheduler's and not the link's. */
#define NOISE_NS INT64_C(2000000)

void sp_limiter_init(sp_limiter *limiter, const sp_limiter_settings *settings)
{
    *limiter = (sp_limiter){ .settings = *settings };
    if (settings->most <= 0)
        limiter->settings.least = limiter->settings.most = INT_MAX;
    limiter->settings.least = SP_CLAMP(limiter->settings.least, 1, limiter->settings.most);
    limiter->limit = limiter->settings.least;
}

bool sp_limiter_has_room(const sp_limiter *limiter)
{
    return limiter->out < (int)limiter->limit;
}

void sp_limiter_begin(sp_limiter *limiter)
{
    limiter->out++;
}

static void lower(sp_limiter *limiter, double factor, int64_t now_ns)
{
    if (limiter->lowered_ns && now_ns - limiter->lowered_ns < SP_MAX(limiter->best_ns, LEAST_PAUSE_NS))
        return;
    limiter->limit = SP_MAX(limiter->limit * factor, limiter->settings.least);
    limiter->lowered_ns = SP_MAX(now_ns, 1);
}

void sp_limiter_end(sp_limiter *limiter, int64_t latency_ns, bool overloaded, int64_t now_ns)
{
    bool was_used = limiter->out * 2 > (int)limiter->limit; /* an idle link proves nothing about a higher limit */
    limiter->out -= limiter->out > 0;
    if (limiter->settings.least == limiter->settings.most)
        return;
    if (overloaded) {
        lower(limiter, 0.5, now_ns);
        return;
    }
    if (latency_ns <= 0)
        return;
    if (limiter->best_ns && now_ns - limiter->best_at_ns > BEST_AGES_NS) {
        /* Measured anew with half the calls out: under load, the latency of the load would become the new best, and the
         * limit would drift up with it. */
        limiter->best_ns = 0;
        limiter->lowered_ns = 0;
        lower(limiter, 0.5, now_ns);
    }
    if (!limiter->best_ns || latency_ns <= limiter->best_ns) {
        limiter->best_ns = latency_ns;
        limiter->best_at_ns = now_ns;
    }
    if (latency_ns / 2 > limiter->best_ns + NOISE_NS)
        lower(limiter, 0.9, now_ns);
    else if (was_used && latency_ns - limiter->best_ns / 2 <= limiter->best_ns + NOISE_NS)
        limiter->limit = SP_MIN(limiter->limit + (limiter->lowered_ns ? 1 / limiter->limit : 1), limiter->settings.most);
}
