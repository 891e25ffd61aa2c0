/* SPDX-License-Identifier: Apache-2.0
 * The equivalence guard: each link is held to the reference link of its chain, on golden inputs when it becomes ready and
 * on a sample of live answers. What differs by more than the tolerance is taken out (docs/internals/route.md). */
#ifndef SP_ROUTE_GUARD_H
#define SP_ROUTE_GUARD_H

#include "base/metrics.h"

typedef struct sp_guard {
    int placeholder;
} sp_guard;

#endif
