/* SPDX-License-Identifier: Apache-2.0
 * Time, injectable. Everything that waits, retries or expires asks this clock, so that its tests take microseconds. */
#ifndef SP_BASE_CLOCK_H
#define SP_BASE_CLOCK_H

#include <stdint.h>

#define SP_NS_PER_US INT64_C(1000)
#define SP_NS_PER_MS INT64_C(1000000)
#define SP_NS_PER_S INT64_C(1000000000)

/* Monotonic nanoseconds (CLOCK_MONOTONIC: the same in every process of this machine), or the test's own time. */
int64_t sp_clock_now_ns(void);

/* Wall clock, nanoseconds since 1970 UTC: for logs and reports, never for deadlines. */
int64_t sp_clock_wall_ns(void);

/* Tests only: from now on sp_clock_now_ns() returns *now_ns (NULL = the real clock again). Not thread-safe. */
void sp_clock_inject(const int64_t *now_ns);

#endif
