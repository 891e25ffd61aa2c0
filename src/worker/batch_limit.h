/* SPDX-License-Identifier: Apache-2.0
 * How many items of one run fit into a device's memory, as learnt from runs that did not. It falls by half at once; it
 * doubles again after a number of runs at the limit went well and some time has passed, and when that was too much, the
 * next try is put off twice as long. Any thread. */
#ifndef SP_WORKER_BATCH_LIMIT_H
#define SP_WORKER_BATCH_LIMIT_H

#include "base/clock.h"

#include <stdatomic.h>
#include <stdbool.h>

/* What took the memory (another process, a fragmented arena) usually stays for a while, and a run that fails costs its
 * items a second try; both are small prices every half minute. */
#define SP_BATCH_LIMIT_RUNS 8
#define SP_BATCH_LIMIT_PAUSE_NS (30 * SP_NS_PER_S)
#define SP_BATCH_LIMIT_PAUSE_MOST_NS (600 * SP_NS_PER_S)

typedef struct sp_batch_limit {
    atomic_int now;
    int most; /* as planned */
    atomic_int good;              /* runs at the limit since it changed */
    _Atomic int64_t raise_at_ns;  /* not before */
    _Atomic int64_t pause_ns;     /* after the next failure */
    _Atomic int64_t raised_ns;    /* when it was raised last; 0 = not since it fell */
} sp_batch_limit;

static inline void sp_batch_limit_init(sp_batch_limit *limit, int most)
{
    *limit = (sp_batch_limit){ .most = most };
    atomic_init(&limit->now, most);
    atomic_init(&limit->pause_ns, SP_BATCH_LIMIT_PAUSE_NS);
}

static inline int sp_batch_limit_now(sp_batch_limit *limit)
{
    return atomic_load_explicit(&limit->now, memory_order_relaxed);
}

/* A run of `count` (> 1) did not fit; true when the limit fell by it. */
static inline bool sp_batch_limit_failed(sp_batch_limit *limit, int count, int64_t now_ns)
{
    int half = count / 2 < 1 ? 1 : count / 2;
    int seen = sp_batch_limit_now(limit);
    while (half < seen && !atomic_compare_exchange_weak(&limit->now, &seen, half)) { }
    if (half >= seen)
        return false; /* a batch that was begun before the limit fell */
    int64_t pause_ns = atomic_load(&limit->pause_ns);
    if (atomic_exchange(&limit->raised_ns, 0)) { /* it was raised in vain */
        pause_ns = pause_ns * 2 > SP_BATCH_LIMIT_PAUSE_MOST_NS ? SP_BATCH_LIMIT_PAUSE_MOST_NS : pause_ns * 2;
        atomic_store(&limit->pause_ns, pause_ns);
    }
    atomic_store(&limit->raise_at_ns, now_ns + pause_ns);
    atomic_store(&limit->good, 0);
    return true;
}

/* A run of `count` went well; true when the limit rose by it. */
static inline bool sp_batch_limit_fitted(sp_batch_limit *limit, int count, int64_t now_ns)
{
    int seen = sp_batch_limit_now(limit);
    if (seen >= limit->most || count < seen)
        return false;
    if (atomic_fetch_add(&limit->good, 1) + 1 < SP_BATCH_LIMIT_RUNS || now_ns < atomic_load(&limit->raise_at_ns))
        return false;
    int next = seen * 2 > limit->most ? limit->most : seen * 2;
    if (!atomic_compare_exchange_strong(&limit->now, &seen, next))
        return false; /* it fell, or somebody else raised it */
    atomic_store(&limit->good, 0);
    atomic_store(&limit->raised_ns, now_ns);
    atomic_store(&limit->raise_at_ns, now_ns + atomic_load(&limit->pause_ns));
    return true;
}

#endif
