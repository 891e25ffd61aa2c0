/* SPDX-License-Identifier: Apache-2.0
 * The equivalence guard. */
#include "route/internal.h"

void sp_guard_turn(sp_house *house)
{
    (void)house;
}
