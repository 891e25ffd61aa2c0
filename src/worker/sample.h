/* SPDX-License-Identifier: Apache-2.0
 * A device's sample in shared memory: one writer, any reader, no lock. The sequence is odd while it is being written; a
 * reader that sees it change looks again. */
#ifndef SP_WORKER_SAMPLE_H
#define SP_WORKER_SAMPLE_H

#include "base/clock.h"
#include "worker/slot.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define SP_SAMPLE_TRIES 8

/* SPILLWAY_SAMPLE_MS: from one sample to the next; 1 s when it is not set or makes no sense. Gateway and sampler read it. */
static inline int64_t sp_sample_period_ns(const char *text)
{
    long ms = text ? strtol(text, NULL, 10) : 0;
    return (ms >= 10 && ms <= 60000 ? ms : 1000) * SP_NS_PER_MS;
}

/* Everything behind the sequence. */
#define SP_SAMPLE_BODY_OFFSET offsetof(sp_device_sample, name)
#define SP_SAMPLE_BODY_BYTES (sizeof(sp_device_sample) - SP_SAMPLE_BODY_OFFSET)

static inline void sp_device_sample_write(sp_device_sample *shared, const sp_device_sample *sample)
{
    uint64_t sequence = atomic_load_explicit(&shared->sequence, memory_order_relaxed) & ~(uint64_t)1;
    atomic_store_explicit(&shared->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    memcpy((char *)shared + SP_SAMPLE_BODY_OFFSET, (const char *)sample + SP_SAMPLE_BODY_OFFSET, SP_SAMPLE_BODY_BYTES);
    atomic_store_explicit(&shared->sequence, sequence + 2, memory_order_release);
}

/* False: nothing was written yet, or its writer is at it without end. Texts come back terminated. */
static inline bool sp_device_sample_read(const sp_device_sample *shared, sp_device_sample *ret_sample)
{
    sp_device_sample *from = (sp_device_sample *)(uintptr_t)shared;
    for (int i = 0; i < SP_SAMPLE_TRIES; i++) {
        uint64_t before = atomic_load_explicit(&from->sequence, memory_order_acquire);
        if (!before)
            return false;
        memcpy((char *)ret_sample + SP_SAMPLE_BODY_OFFSET, (const char *)from + SP_SAMPLE_BODY_OFFSET, SP_SAMPLE_BODY_BYTES);
        atomic_thread_fence(memory_order_acquire);
        if ((before & 1) || atomic_load_explicit(&from->sequence, memory_order_relaxed) != before)
            continue;
        atomic_init(&ret_sample->sequence, before);
        ret_sample->name[sizeof(ret_sample->name) - 1] = 0;
        ret_sample->uuid[sizeof(ret_sample->uuid) - 1] = 0;
        ret_sample->source[sizeof(ret_sample->source) - 1] = 0;
        return true;
    }
    return false;
}

#endif
