/* SPDX-License-Identifier: Apache-2.0 */
#include "embed/lanes.h"
#include "test.h"

#include <stdatomic.h>

enum { CALLERS = 8, LANES = 3, ROUNDS = 2000 };

static sp_lanes lanes;
static _Atomic int users[SP_LIMIT_LANES];
static _Atomic int clashes;

TEST(lanes_are_lent_lowest_first_and_come_back)
{
    sp_lanes_init(&lanes, 2);
    CHECK_INT(sp_lanes_take(&lanes), 0);
    CHECK_INT(sp_lanes_take(&lanes), 1);
    sp_lanes_give_back(&lanes, 0);
    CHECK_INT(sp_lanes_take(&lanes), 0);
    sp_lanes_give_back(&lanes, 1);
    sp_lanes_give_back(&lanes, 0);
    sp_lanes_done(&lanes);
}

static void *use_lanes(void *context)
{
    for (int i = 0; i < ROUNDS; i++) {
        int lane = sp_lanes_take(&lanes);
        if (lane < 0 || lane >= LANES || atomic_fetch_add(&users[lane], 1) != 0)
            atomic_fetch_add(&clashes, 1);
        atomic_fetch_sub(&users[lane], 1);
        sp_lanes_give_back(&lanes, lane);
    }
    return context;
}

TEST(a_lane_has_one_user_at_a_time_and_nobody_waits_for_ever)
{
    pthread_t threads[CALLERS];

    sp_lanes_init(&lanes, LANES);
    for (int i = 0; i < CALLERS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, use_lanes, NULL) == 0);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT(clashes, 0);
    sp_lanes_done(&lanes);
}
