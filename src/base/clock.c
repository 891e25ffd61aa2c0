/* SPDX-License-Identifier: Apache-2.0
 * The clock. */
#include "base/clock.h"

#include <stddef.h>
#include <time.h>

static const int64_t *injected_now_ns;

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;
    (void)clock_gettime(id, &ts); /* cannot fail for these two clocks */
    return (int64_t)ts.tv_sec * SP_NS_PER_S + ts.tv_nsec;
}

int64_t sp_clock_now_ns(void)
{
    return injected_now_ns ? *injected_now_ns : read_clock(CLOCK_MONOTONIC);
}

int64_t sp_clock_wall_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

void sp_clock_inject(const int64_t *now_ns)
{
    injected_now_ns = now_ns;
}
