/* SPDX-License-Identifier: Apache-2.0
 * base/spin: when it looks, when it rests. Time is injected where the decision is about time. */
#include "base/spin.h"
#include "test.h"

static int looks, ready_at;

static bool ready(const void *context)
{
    (void)context;
    return ++looks >= ready_at;
}

TEST(work_that_comes_while_looking_is_found)
{
    sp_spin spin = { .longest_ns = SP_NS_PER_S };
    looks = 0;
    ready_at = 10;
    CHECK(sp_spin_until(&spin, ready, NULL));
    CHECK_INT(looks, 10);
}

TEST(long_waits_turn_it_off_and_short_ones_on_again)
{
    sp_spin spin = { .longest_ns = 100000 };
    looks = 0;
    ready_at = 1;
    sp_spin_note(&spin, SP_NS_PER_S);
    CHECK(!sp_spin_until(&spin, ready, NULL));
    CHECK_INT(looks, 0); /* it did not even look */
    for (int i = 0; i < 12; i++)
        sp_spin_note(&spin, 10000);
    CHECK(sp_spin_until(&spin, ready, NULL));
}

TEST(never_means_never)
{
    sp_spin spin = { .longest_ns = 0 };
    looks = 0;
    ready_at = 1;
    sp_spin_note(&spin, 5);
    CHECK(!sp_spin_until(&spin, ready, NULL));
    CHECK_INT(looks, 0);
}

TEST(a_wanted_core_is_left_for_a_while)
{
    sp_spin spin = { .longest_ns = SP_NS_PER_S, .rest = 2 };
    looks = 0;
    ready_at = 1;
    CHECK(!sp_spin_until(&spin, ready, NULL));
    CHECK(!sp_spin_until(&spin, ready, NULL));
    CHECK(sp_spin_until(&spin, ready, NULL));
    CHECK_INT(looks, 1);
}
