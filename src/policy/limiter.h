/* SPDX-License-Identifier: Apache-2.0
 * How many calls a link may have out at once: a fixed bound, or one that finds itself (additive increase while calls
 * are as quick as the best seen, multiplicative decrease when they slow down or fail). Pure. */
#ifndef SP_POLICY_LIMITER_H
#define SP_POLICY_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_limiter_settings {
    int least, most; /* equal = fixed; most 0 = no bound */
} sp_limiter_settings;

typedef struct sp_limiter {
    sp_limiter_settings settings;
    double limit;
    int out;
    int64_t best_ns; /* least latency of late; ages */
    int64_t best_at_ns, lowered_ns;
} sp_limiter;

void sp_limiter_init(sp_limiter *limiter, const sp_limiter_settings *settings);
bool sp_limiter_has_room(const sp_limiter *limiter);
void sp_limiter_begin(sp_limiter *limiter);
/* latency_ns <= 0: says nothing of the speed. overloaded: refused as busy, timed out. */
void sp_limiter_end(sp_limiter *limiter, int64_t latency_ns, bool overloaded, int64_t now_ns);

#endif
