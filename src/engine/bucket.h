/* SPDX-License-Identifier: Apache-2.0
 * Sizes of batches on a device. Its libraries choose algorithms, build kernels and capture graphs for each shape that comes, which
 * takes as long as hundreds of runs; so there are few shapes: a batch is filled up to the next of 1, 2, 4, 8 ... and the most, with
 * rows that nobody asked for. All of them are run before a model is ready. On the CPU a batch is what it is. */
#ifndef SP_ENGINE_BUCKET_H
#define SP_ENGINE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Runs of each bucket before the first request: the last of them is as quick as it will be. */
#define SP_BUCKET_WARM_UPS 3

static inline bool sp_bucket_wanted(const char *provider)
{
    return provider && strcmp(provider, "cpu") != 0;
}

/* What 1 <= rows <= most are run as. */
static inline int64_t sp_bucket_of(int64_t rows, int64_t most)
{
    int64_t bucket = 1;
    while (bucket < rows)
        bucket *= 2;
    return bucket < most ? bucket : most;
}

/* for (int64_t b = 1; b; b = sp_bucket_after(b, most)) */
static inline int64_t sp_bucket_after(int64_t bucket, int64_t most)
{
    return bucket >= most ? 0 : sp_bucket_of(bucket + 1, most);
}

#endif
