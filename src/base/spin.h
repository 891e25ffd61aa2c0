/* SPDX-License-Identifier: Apache-2.0
 * Spinning before sleeping, when it pays: the next event usually comes within the time we would spin, and nobody else
 * wants this core. Waking an idle virtual CPU costs 30 to 60 us; a look at a ring costs nothing.
 *
 * Whether the core is wanted is asked by sched_yield(): when it returns late, somebody else ran. That somebody may have
 * made what we wait for, so we look once more and then sleep; when it happens again and again the machine is busy, and we
 * stop spinning for a while. */
#ifndef SP_BASE_SPIN_H
#define SP_BASE_SPIN_H

#include "base/clock.h"

#include <sched.h>
#include <stdbool.h>

typedef struct sp_spin {
    int64_t longest_ns;    /* 0 = never spin */
    int64_t usual_wait_ns; /* smoothed; beyond `longest_ns` spinning is not tried */
    int late;              /* spins in a row that ended with a late yield and nothing found */
    int rest;              /* waits to go without spinning */
} sp_spin;

#define SP_SPIN_LATE_MOST 3
#define SP_SPIN_REST 512
#define SP_SPIN_YIELD_LATE_NS 4000 /* a yield that finds nobody takes under 1 us */
#define SP_SPIN_LOOKS 32           /* between two yields: about 1 us */

/* True when `ready(context)` became true while spinning. */
static inline bool sp_spin_until(sp_spin *spin, bool (*ready)(const void *context), const void *context)
{
    if (spin->rest > 0) {
        spin->rest--;
        return false;
    }
    if (spin->usual_wait_ns >= spin->longest_ns)
        return false;
    int64_t before_ns = sp_clock_now_ns(), until_ns = before_ns + spin->longest_ns;
    while (before_ns < until_ns) {
        for (int i = 0; i < SP_SPIN_LOOKS; i++) {
            if (ready(context)) {
                spin->late = 0;
                return true;
            }
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        int64_t yield_ns = sp_clock_now_ns();
        (void)sched_yield(); /* cannot fail */
        before_ns = sp_clock_now_ns();
        if (before_ns - yield_ns > SP_SPIN_YIELD_LATE_NS) {
            if (ready(context))
                return true;
            if (++spin->late >= SP_SPIN_LATE_MOST) {
                spin->late = 0;
                spin->rest = SP_SPIN_REST;
            }
            return false;
        }
    }
    return ready(context);
}

/* How long the wait was in the end, asleep or not. One outlier turns spinning off, a few short ones on again. */
static inline void sp_spin_note(sp_spin *spin, int64_t waited_ns)
{
    int64_t bounded_ns = waited_ns < 8 * spin->longest_ns ? waited_ns : 8 * spin->longest_ns;
    spin->usual_wait_ns = (spin->usual_wait_ns * 3 + bounded_ns) / 4;
}

#endif
