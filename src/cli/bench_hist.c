/* SPDX-License-Identifier: Apache-2.0
 * Logarithmic latency histogram. Values under 128 have a bucket each; above, the bucket is the position of the leading
 * bit and the seven bits below it. */
#include "cli/bench_hist.h"

#include <math.h>
#include <string.h>

void sp_hist_init(sp_hist *hist)
{
    memset(hist, 0, sizeof *hist);
    hist->min = INT64_MAX;
}

static int bucket_of(uint64_t value)
{
    if (value < SP_HIST_STEPS)
        return (int)value;
    int shift = 63 - __builtin_clzll(value) - SP_HIST_STEP_BITS;
    return (shift + 1) * SP_HIST_STEPS + (int)((value >> shift) & (SP_HIST_STEPS - 1));
}

static int64_t bucket_top(int bucket)
{
    if (bucket < SP_HIST_STEPS)
        return bucket;
    int shift = bucket / SP_HIST_STEPS - 1;
    uint64_t low = (uint64_t)(SP_HIST_STEPS + bucket % SP_HIST_STEPS) << shift;
    return (int64_t)(low + ((UINT64_C(1) << shift) - 1));
}

void sp_hist_add(sp_hist *hist, int64_t value)
{
    if (value < 0)
        value = 0;
    hist->buckets[bucket_of((uint64_t)value)]++;
    hist->count++;
    hist->sum += (double)value;
    if (value < hist->min)
        hist->min = value;
    if (value > hist->max)
        hist->max = value;
}

int64_t sp_hist_quantile(const sp_hist *hist, double quantile)
{
    if (!hist->count)
        return 0;
    uint64_t rank = (uint64_t)ceil(quantile * (double)hist->count);
    if (rank < 1)
        rank = 1;
    uint64_t seen = 0;
    for (int i = 0; i < SP_HIST_BUCKETS; i++) {
        seen += hist->buckets[i];
        if (seen >= rank) {
            int64_t top = bucket_top(i);
            return top < hist->max ? top : hist->max;
        }
    }
    return hist->max;
}

double sp_hist_mean(const sp_hist *hist)
{
    return hist->count ? hist->sum / (double)hist->count : 0;
}

void sp_hist_merge(sp_hist *hist, const sp_hist *other)
{
    for (int i = 0; i < SP_HIST_BUCKETS; i++)
        hist->buckets[i] += other->buckets[i];
    hist->count += other->count;
    hist->sum += other->sum;
    hist->min = other->min < hist->min ? other->min : hist->min;
    hist->max = other->max > hist->max ? other->max : hist->max;
}
