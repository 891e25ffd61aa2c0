/* SPDX-License-Identifier: Apache-2.0
 * A latency histogram with logarithmic buckets (in the manner of HdrHistogram): fixed memory, one increment a sample,
 * every quantile within 0.8 % of the true one. One thread. */
#ifndef SP_CLI_BENCH_HIST_H
#define SP_CLI_BENCH_HIST_H

#include <stdint.h>

/* 128 linear steps per power of two: a bucket is at most 1/128 of its value wide. */
#define SP_HIST_STEP_BITS 7
#define SP_HIST_STEPS (1 << SP_HIST_STEP_BITS)
#define SP_HIST_BUCKETS ((64 - SP_HIST_STEP_BITS) * SP_HIST_STEPS + SP_HIST_STEPS)

typedef struct sp_hist {
    uint64_t count;
    int64_t min, max; /* exact; min is INT64_MAX while empty */
    double sum;
    uint64_t buckets[SP_HIST_BUCKETS];
} sp_hist;

void sp_hist_init(sp_hist *hist);

/* Negative values count as 0. */
void sp_hist_add(sp_hist *hist, int64_t value);

/* Adds all that `other` has seen. */
void sp_hist_merge(sp_hist *hist, const sp_hist *other);

/* The upper edge of the bucket that holds the quantile (0..1), never above the exact maximum; 0 when empty. */
int64_t sp_hist_quantile(const sp_hist *hist, double quantile);

double sp_hist_mean(const sp_hist *hist); /* 0 when empty */

#endif
