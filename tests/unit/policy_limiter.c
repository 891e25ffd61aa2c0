/* SPDX-License-Identifier: Apache-2.0
 * policy/limiter: the fixed bound, and the adaptive one against a simulated link whose capacity is known. */
#include "policy/limiter.h"
#include "test.h"

#include <stdio.h>

#define MS INT64_C(1000000)

TEST(a_fixed_limit_is_just_that)
{
    sp_limiter l;
    sp_limiter_init(&l, &(sp_limiter_settings){ .least = 3, .most = 3 });
    for (int i = 0; i < 3; i++) {
        CHECK(sp_limiter_has_room(&l));
        sp_limiter_begin(&l);
    }
    CHECK(!sp_limiter_has_room(&l));
    sp_limiter_end(&l, 1000 * MS, true, 0);
    CHECK(sp_limiter_has_room(&l));
    sp_limiter_begin(&l);
    CHECK(!sp_limiter_has_room(&l));
}

TEST(limiter_settings_are_made_sane)
{
    sp_limiter l;
    sp_limiter_init(&l, &(sp_limiter_settings){ 0 }); /* no bound */
    for (int i = 0; i < 100000; i++)
        sp_limiter_begin(&l);
    CHECK(sp_limiter_has_room(&l));
    sp_limiter_init(&l, &(sp_limiter_settings){ .least = 9, .most = 4 });
    CHECK_INT((int)l.limit, 4);
    sp_limiter_init(&l, &(sp_limiter_settings){ .least = -1, .most = 4 });
    CHECK_INT((int)l.limit, 1);
    sp_limiter_end(&l, 5, false, 0); /* an end too many does not make room */
    CHECK_INT(l.out, 0);
}

/* A link that serves `capacity` calls in 10 ms each; more of them share it and take longer. The caller always has work. */
static double run_link(sp_limiter *l, int capacity, int rounds, int64_t *now_ns)
{
    double sum = 0;
    for (int i = 0; i < rounds; i++) {
        while (sp_limiter_has_room(l))
            sp_limiter_begin(l);
        int out = l->out;
        int64_t latency_ns = 10 * MS * (out > capacity ? out : capacity) / capacity;
        *now_ns += latency_ns;
        for (int k = 0; k < out; k++)
            sp_limiter_end(l, latency_ns, false, *now_ns);
        sum += l->limit;
    }
    return sum / rounds;
}

TEST(the_limit_finds_the_links_capacity)
{
    static const int capacities[] = { 2, 8, 30, 100 };
    for (size_t i = 0; i < SP_ARRAY_LEN(capacities); i++) {
        sp_limiter l;
        int64_t now_ns = 1;
        sp_limiter_init(&l, &(sp_limiter_settings){ .least = 1, .most = 400 });
        run_link(&l, capacities[i], 200, &now_ns);
        double mean = run_link(&l, capacities[i], 10000, &now_ns);
        printf("# capacity %d: mean limit %.1f\n", capacities[i], mean);
        REQUIRE(now_ns > 100 * 1000 * MS); /* the best latency has aged three times */
        CHECK(mean >= 0.9 * capacities[i] && mean <= 2.6 * capacities[i] + 1);
    }
}

TEST(the_limit_follows_a_link_that_loses_half)
{
    sp_limiter l;
    int64_t now_ns = 1;
    sp_limiter_init(&l, &(sp_limiter_settings){ .least = 1, .most = 400 });
    run_link(&l, 40, 300, &now_ns);
    run_link(&l, 10, 300, &now_ns);
    CHECK(l.limit <= 27);
    run_link(&l, 40, 600, &now_ns);
    CHECK(l.limit >= 36);
}

TEST(refusals_halve_once_a_round)
{
    sp_limiter l;
    sp_limiter_init(&l, &(sp_limiter_settings){ .least = 2, .most = 64 });
    l.limit = 64;
    for (int i = 0; i < 64; i++)
        sp_limiter_begin(&l);
    for (int i = 0; i < 32; i++)
        sp_limiter_end(&l, 0, true, 1000 * MS + i);
    CHECK_INT((int)l.limit, 32);
    for (int i = 0; i < 10; i++)
        sp_limiter_end(&l, 0, true, (1100 + 20 * i) * MS);
    CHECK_INT((int)l.limit, 2); /* never below the least */
}

TEST(an_idle_link_does_not_raise_its_limit)
{
    sp_limiter l;
    sp_limiter_init(&l, &(sp_limiter_settings){ .least = 10, .most = 100 });
    for (int i = 0; i < 1000; i++) {
        sp_limiter_begin(&l);
        sp_limiter_end(&l, 5 * MS, false, i * 5 * MS);
    }
    CHECK_INT((int)l.limit, 10);
}
