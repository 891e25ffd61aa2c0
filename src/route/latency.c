/* SPDX-License-Identifier: Apache-2.0
 * The histogram of a link's latencies. */
#include "route/latency.h"

#include "base/attr.h"

#include <stdbool.h>

#define FADE_AT 2048 /* then every count is halved: about this many calls are remembered */
#define WORK_OUT_EVERY 32

static int bucket_of(int64_t ns)
{
    uint64_t us = (uint64_t)SP_MAX(ns, 1000) / 1000;
    int octave = 63 - __builtin_clzll(us);
    int quarter = octave >= 2 ? (int)((us >> (octave - 2)) & 3) : (int)((us << (2 - octave)) & 3);
    return SP_MIN(octave * 4 + quarter, SP_LATENCY_BUCKETS - 1);
}

/* The upper edge: an estimate that errs on the slow side. */
static int64_t edge_ns(int bucket)
{
    return ((INT64_C(1000) << (bucket / 4)) * (4 + bucket % 4 + 1)) / 4;
}

static int64_t quantile_ns(const sp_latency *latency, int percent)
{
    int64_t seen = 0;
    for (int i = 0; i < SP_LATENCY_BUCKETS; i++) {
        seen += latency->counts[i];
        if (seen * 100 >= (int64_t)latency->total * percent)
            return edge_ns(i);
    }
    return edge_ns(SP_LATENCY_BUCKETS - 1);
}

void sp_latency_add(sp_latency *latency, int64_t ns)
{
    latency->counts[bucket_of(ns)]++;
    latency->total++;
    if (latency->total >= FADE_AT) {
        latency->total = 0;
        for (int i = 0; i < SP_LATENCY_BUCKETS; i++) {
            latency->counts[i] /= 2;
            latency->total += latency->counts[i];
        }
    }
    bool first = !latency->p50_ns && latency->total >= SP_LATENCY_ENOUGH;
    if (!first && (++latency->fresh < WORK_OUT_EVERY || latency->total < SP_LATENCY_ENOUGH))
        return;
    latency->fresh = 0;
    latency->p50_ns = quantile_ns(latency, 50);
    latency->p95_ns = quantile_ns(latency, 95);
    latency->p99_ns = quantile_ns(latency, 99);
}
