/* SPDX-License-Identifier: Apache-2.0
 * Trace context: the specification's own examples and what must be refused. */
#include "base/trace.h"
#include "test.h"

#include <string.h>

#define GOOD "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static void begin(sp_trace *trace, const char *parent, const char *state, double rate)
{
    uint8_t random[24];
    for (size_t i = 0; i < sizeof(random); i++)
        random[i] = (uint8_t)test_random();
    sp_trace_begin(trace, parent, state, rate, random);
}

TEST(base_trace_takes_a_parent_and_has_a_span_of_its_own)
{
    sp_trace trace;
    char text[SP_TRACEPARENT_BYTES], id[33];
    begin(&trace, GOOD, "congo=t61rcWkgMzE", 0);
    sp_trace_hex(trace.trace_id, 16, id);
    CHECK_TEXT(id, "4bf92f3577b34da6a3ce929d0e0e4736");
    sp_trace_hex(trace.parent_id, 8, id);
    CHECK_TEXT(id, "00f067aa0ba902b7");
    CHECK_TEXT(trace.state, "congo=t61rcWkgMzE");
    CHECK(trace.flags == SP_TRACE_SAMPLED && memcmp(trace.span_id, trace.parent_id, 8) != 0);
    sp_trace_write(trace.trace_id, trace.parent_id, trace.flags, text);
    CHECK_TEXT(text, GOOD);
    begin(&trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", NULL, 1);
    CHECK(!(trace.flags & SP_TRACE_SAMPLED)); /* the caller's word counts, not the rate */
}

TEST(base_trace_refuses_what_is_no_parent)
{
    static const char *const bad[] = {
        "", "00", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01x",
        "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        sp_trace trace;
        char id[33];
        begin(&trace, bad[i], "a=b", 0);
        sp_trace_hex(trace.trace_id, 16, id);
        CHECK(sp_trace_exists(&trace) && strncmp(id, "4bf92f35", 8) != 0 && !trace.flags && !*trace.state);
        for (int k = 0; k < 8; k++)
            CHECK(!trace.parent_id[k]);
    }
    sp_trace trace;
    begin(&trace, "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what is to come", NULL, 0);
    CHECK(trace.flags == SP_TRACE_SAMPLED); /* a later version is read as far as it is known */
}

TEST(base_trace_state_is_bounded_and_fits_a_header)
{
    sp_trace trace;
    char state[600];
    memset(state, 'x', sizeof(state));
    state[599] = 0;
    begin(&trace, GOOD, state, 0);
    CHECK_TEXT(trace.state, "");
    state[512] = 0;
    begin(&trace, GOOD, state, 0);
    CHECK_TEXT(trace.state, state);
    begin(&trace, GOOD, "a=b\r\nX-Evil: 1", 0);
    CHECK_TEXT(trace.state, "");
}

TEST(base_trace_samples_at_its_rate)
{
    static const double rates[] = { 0, 0.01, 0.5, 1 };
    for (size_t r = 0; r < SP_ARRAY_LEN(rates); r++) {
        int sampled = 0;
        for (int i = 0; i < 20000; i++) {
            sp_trace trace;
            begin(&trace, NULL, NULL, rates[r]);
            sampled += trace.flags & SP_TRACE_SAMPLED;
        }
        double share = sampled / 20000.0;
        CHECK(share > rates[r] - 0.02 && share < rates[r] + 0.02);
        CHECK((rates[r] > 0 || !sampled) && (rates[r] < 1 || sampled == 20000));
    }
}

TEST(base_trace_children_are_the_same_for_the_same_number_only)
{
    sp_trace trace;
    uint8_t a[8], b[8];
    begin(&trace, NULL, NULL, 0);
    for (uint64_t n = 0; n < 1000; n++) {
        sp_trace_child(&trace, n, a);
        sp_trace_child(&trace, n, b);
        CHECK_BYTES(a, b, 8);
        sp_trace_child(&trace, n + 1, b);
        CHECK(memcmp(a, b, 8) != 0 && memcmp(a, trace.span_id, 8) != 0);
    }
}
