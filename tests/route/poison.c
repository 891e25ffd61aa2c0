/* SPDX-License-Identifier: Apache-2.0
 * route/poison. */
#include "base/clock.h"
#include "route/internal.h"
#include "test.h"

static sp_poison poison;

TEST(two_deaths_poison_for_ten_minutes)
{
    poison.count = 0;
    int64_t now_ns = SP_NS_PER_S;
    CHECK_INT(sp_poison_look(&poison, 7, now_ns), SP_POISON_CLEAN);
    CHECK_INT(sp_poison_death(&poison, 7, 1, now_ns), SP_POISON_SUSPECT);
    CHECK_INT(sp_poison_look(&poison, 7, now_ns), SP_POISON_SUSPECT);
    CHECK_INT(sp_poison_death(&poison, 7, 2, now_ns), SP_POISON_REFUSED);
    now_ns += SP_LIMIT_POISON_MS * SP_NS_PER_MS - 1;
    CHECK_INT(sp_poison_look(&poison, 7, now_ns), SP_POISON_REFUSED);
    CHECK_INT(sp_poison_look(&poison, 7, now_ns + 1), SP_POISON_CLEAN);
    CHECK_INT(poison.count, 0);
}

TEST(a_suspect_that_runs_to_its_end_is_clean_again)
{
    poison.count = 0;
    (void)sp_poison_death(&poison, 1, 1, 1);
    sp_poison_clear(&poison, 1);
    CHECK_INT(sp_poison_look(&poison, 1, 1), SP_POISON_CLEAN);
    (void)sp_poison_death(&poison, 2, 2, 1);
    (void)sp_poison_death(&poison, 2, 3, 1);
    sp_poison_clear(&poison, 2); /* a refused one stays refused */
    CHECK_INT(sp_poison_look(&poison, 2, 1), SP_POISON_REFUSED);
}

TEST(the_oldest_makes_room)
{
    poison.count = 0;
    for (uint64_t i = 0; i <= SP_LIMIT_POISON_ENTRIES; i++)
        (void)sp_poison_death(&poison, 100 + i, 10 + i, (int64_t)i + 1);
    CHECK_INT(poison.count, SP_LIMIT_POISON_ENTRIES);
    CHECK_INT(sp_poison_look(&poison, 100, 2), SP_POISON_CLEAN);
    CHECK_INT(sp_poison_look(&poison, 100 + SP_LIMIT_POISON_ENTRIES, 2), SP_POISON_SUSPECT);
}

TEST(one_death_counts_once_for_equal_bodies)
{
    static sp_poison own;
    CHECK_INT(sp_poison_death(&own, 7, 1, 1), SP_POISON_SUSPECT);
    CHECK_INT(sp_poison_death(&own, 7, 1, 1), SP_POISON_SUSPECT); /* its twin in the same batch */
    CHECK_INT(sp_poison_death(&own, 7, 2, 2), SP_POISON_REFUSED);
}
