/* SPDX-License-Identifier: Apache-2.0
 * route/latency and the guard's comparison: pure. */
#include "route/guard.h"
#include "route/latency.h"
#include "test.h"

#include <math.h>

static sp_latency latency;

static void check_near(int64_t ns, int64_t expected_ns)
{
    if (ns < expected_ns || (double)ns > (double)expected_ns * 1.27)
        test_fail(__FILE__, __LINE__, "%lld ns is not just above %lld", (long long)ns, (long long)expected_ns);
}

TEST(quantiles_err_on_the_slow_side_by_a_quarter_at_most)
{
    latency = (sp_latency){ 0 };
    for (int i = 1; i <= 1000; i++)
        sp_latency_add(&latency, (int64_t)((i * 7919) % 1000 + 1) * 100000); /* 0.1 .. 100 ms, each once */
    check_near(latency.p50_ns, 50000000);
    check_near(latency.p95_ns, 95000000);
    check_near(latency.p99_ns, 99000000);
}

TEST(nothing_is_told_of_a_few)
{
    latency = (sp_latency){ 0 };
    for (int i = 0; i < SP_LATENCY_ENOUGH - 1; i++)
        sp_latency_add(&latency, 1000000);
    CHECK_INT(latency.p50_ns, 0);
    sp_latency_add(&latency, 1000000);
    check_near(latency.p50_ns, 1000000);
}

TEST(the_past_fades)
{
    latency = (sp_latency){ 0 };
    for (int i = 0; i < 5000; i++)
        sp_latency_add(&latency, 1000000);
    for (int i = 0; i < 4000; i++)
        sp_latency_add(&latency, 50000000);
    check_near(latency.p50_ns, 50000000);
}

TEST(any_number_of_nanoseconds_has_its_place)
{
    static const int64_t odd[] = { INT64_MIN, -1, 0, 1, 999, 1000, INT64_MAX };
    latency = (sp_latency){ 0 };
    for (int round = 0; round < 10; round++) {
        for (size_t i = 0; i < SP_ARRAY_LEN(odd); i++)
            sp_latency_add(&latency, odd[i]);
    }
    CHECK_INT(latency.total, 70);
}

static sp_guard_classes classes(uint32_t a, double pa, uint32_t b, double pb)
{
    return (sp_guard_classes){ .count = 2, .top = { { a, (float)pa }, { b, (float)pb } } };
}

TEST(answers_are_compared_class_by_class)
{
    sp_guard_classes one = classes(1, 0.75, 2, 0.125), same = one;
    CHECK(sp_guard_difference(&one, &same) == 0);
    sp_guard_classes swapped = classes(2, 0.125, 1, 0.75); /* order alone is no difference */
    CHECK(sp_guard_difference(&one, &swapped) == 0);
    sp_guard_classes larger = classes(1, 0.7578125, 2, 0.125);
    CHECK(fabs(sp_guard_difference(&one, &larger) - 0.0078125) < 1e-7);
    CHECK(sp_guard_difference(&one, &larger) == sp_guard_difference(&larger, &one));
}

TEST(a_class_that_only_one_lists_may_lie_just_below_the_others)
{
    sp_guard_classes one = classes(1, 0.75, 2, 0.125), tail = classes(1, 0.75, 3, 0.126);
    CHECK(sp_guard_difference(&one, &tail) < 0.0011); /* two classes change places at the end of the list */
    sp_guard_classes other = classes(9, 0.75, 2, 0.125);
    CHECK(sp_guard_difference(&one, &other) > 0.6);
    sp_guard_classes none = { 0 };
    CHECK(isinf(sp_guard_difference(&one, &none)));
    sp_guard_classes odd = classes(1, NAN, 2, 0.125);
    CHECK(isinf(sp_guard_difference(&one, &odd)));
}
