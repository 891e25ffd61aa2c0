/* SPDX-License-Identifier: Apache-2.0
 * Which weak pixels are connected to a strong one: 64 pixels of a row at a time, as bits.
 *
 * One sweep down (while the rows are made) and one up settle nearly all of a picture. Whatever the upward sweep added may
 * reach a row that it had already left; those words go to a queue, which is worked off in any order. A word is looked at
 * again only after a neighbour of it has grown, so the work is bounded by the number of weak pixels. */
#include "kernels/plane_rows.h"

/* The edge pixels of the word at e and their neighbours, as far as they lie in this word. */
static uint64_t reached(const uint64_t *e, ptrdiff_t pitch)
{
    uint64_t here = e[-pitch] | e[0] | e[pitch];
    uint64_t left = e[-pitch - 1] | e[-1] | e[pitch - 1], right = e[-pitch + 1] | e[1] | e[pitch + 1];
    return here | here << 1 | here >> 1 | left >> 63 | right << 63;
}

/* Adds to the word at `at` what its neighbours and itself reach; whether there was anything. */
static inline __attribute__((always_inline)) bool grow(const sp_trace *t, ptrdiff_t at)
{
    uint64_t open = t->weak[at] & ~t->edge[at];
    if (!open)
        return false;
    uint64_t add = reached(t->edge + at, t->pitch) & open;
    if (!add)
        return false;
    uint64_t all = t->edge[at];
    do {
        all |= add;
        open &= ~add;
        add = (all << 1 | all >> 1) & open;
    } while (add);
    t->edge[at] = all;
    return true;
}

void sp_trace_down(const sp_trace *t, int y)
{
    ptrdiff_t row = (ptrdiff_t)(y + 1) * t->pitch + 1;
    for (int i = 0; i < t->words; i++)
        (void)grow(t, row + i);
}

/* Queues the neighbours of the word at `at` that the sweep has passed or that stand beside it. */
static int queue_around(const sp_trace *t, ptrdiff_t at, bool above, int length)
{
    const ptrdiff_t around[8] = { at - 1, at + 1, at + t->pitch - 1, at + t->pitch, at + t->pitch + 1,
                                  at - t->pitch - 1, at - t->pitch, at - t->pitch + 1 };
    for (int k = 0; k < (above ? 8 : 5); k++) {
        ptrdiff_t n = around[k];
        if ((t->weak[n] & ~t->edge[n]) && !t->queued[n]) {
            t->queued[n] = 1;
            t->queue[length++] = (uint32_t)n;
        }
    }
    return length;
}

void sp_trace_finish(const sp_trace *t)
{
    int length = 0;
    for (int y = t->h - 1; y >= 0; y--) {
        ptrdiff_t row = (ptrdiff_t)(y + 1) * t->pitch + 1;
        for (int i = t->words - 1; i >= 0; i--) {
            if (grow(t, row + i))
                length = queue_around(t, row + i, false, length);
        }
    }
    while (length > 0) {
        ptrdiff_t at = t->queue[--length];
        t->queued[at] = 0;
        if (grow(t, at))
            length = queue_around(t, at, true, length);
    }
}
