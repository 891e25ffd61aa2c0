/* SPDX-License-Identifier: Apache-2.0
 * How long a link takes: a histogram of late with steps of a quarter octave (19 %), old counts fading by halves, and the
 * quantiles that routing asks for at every pick, worked out now and then. Pure. */
#ifndef SP_ROUTE_LATENCY_H
#define SP_ROUTE_LATENCY_H

#include <stdint.h>

#define SP_LATENCY_BUCKETS 112 /* 1 us * 2^28: over four minutes */
#define SP_LATENCY_ENOUGH 20   /* below it no quantile is told */

typedef struct sp_latency {
    uint16_t counts[SP_LATENCY_BUCKETS];
    int total, fresh; /* fresh: since the quantiles were worked out */
    int64_t p50_ns, p95_ns, p99_ns; /* 0 = not enough seen */
} sp_latency;

void sp_latency_add(sp_latency *latency, int64_t ns);

#endif
