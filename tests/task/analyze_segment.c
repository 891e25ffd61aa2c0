/* SPDX-License-Identifier: Apache-2.0
 * task/analyze: parameters, segments as bytes, the order, and that a merge does not depend on what came first. */
#include "analyze_fake.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>

#ifdef SPILLWAY_SANITIZER
#define ROUNDS 4
#else
#define ROUNDS 20
#endif

/* --- parameters --- */

TEST(the_defaults_are_good_and_have_one_digest_each)
{
    sp_error err = { 0 };
    sp_analyze_params p = sp_analyze_params_default();
    CHECK_INT(sp_analyze_params_check(&p, &err), SP_OK);
    CHECK_INT(p.canny_low, 15);
    CHECK_INT(p.flow.winsize, 15);
}

TEST(a_parameter_is_set_by_its_name)
{
    sp_error err = { 0 };
    sp_analyze_params p = sp_analyze_params_default();
    CHECK_INT(sp_analyze_params_set(&p, "canny_low", "20", &err), SP_OK);
    CHECK_INT(sp_analyze_params_set(&p, "motion_threshold", "0.5", &err), SP_OK);
    CHECK_INT(sp_analyze_params_set(&p, "gaussian", "true", &err), SP_OK);
    CHECK_INT(sp_analyze_params_set(&p, "poly_sigma", "1.5", &err), SP_OK);
    CHECK_INT(p.canny_low, 20);
    CHECK_INT(p.motion_threshold, 512);
    CHECK(p.flow.gaussian && p.flow.poly_sigma == 1.5);
}

TEST(a_bad_parameter_is_refused_and_says_what_would_do)
{
    static const char *const bad[][2] = {
        { "winsize", "0" }, { "winsize", "15.5" }, { "winsize", "" }, { "winsize", "nan" }, { "winsize", "0x10" },
        { "winsize", "1e9" }, { "pyr_scale", "1" }, { "poly_sigma", "inf" }, { "gaussian", "maybe" },
        { "motion_threshold", "0" }, { "motion_threshold", "-1" }, { "motion_threshold", "99999999" }, { "key_frames", "65" },
        { "levels", "1 2" }, { "scene_threshold", "1e400" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        sp_error err = { 0 };
        sp_analyze_params p = sp_analyze_params_default(), before = p;
        CHECK_INT(sp_analyze_params_set(&p, bad[i][0], bad[i][1], &err), SP_INVALID);
        CHECK(strstr(err.message, bad[i][0]) != NULL);
        CHECK_BYTES(&p, &before, sizeof(p));
    }
    sp_error err = { 0 };
    sp_analyze_params p = sp_analyze_params_default();
    CHECK_INT(sp_analyze_params_set(&p, "winsise", "3", &err), SP_INVALID);
    CHECK(strstr(err.message, "winsize") != NULL);
    p.defect_min_area = 500;
    CHECK_INT(sp_analyze_params_check(&p, &err), SP_INVALID);
    p = sp_analyze_params_default();
    p.flow.poly_sigma = NAN;
    CHECK_INT(sp_analyze_params_check(&p, &err), SP_INVALID);
}

/* --- segments --- */

typedef struct made {
    sp_video_index *index;
    sp_analyze_params params;
    sp_frame_record *records;
    sp_buf bytes;
} made;

static void make(made *m, uint32_t frames, uint32_t segment_frames)
{
    m->index = fake_index(frames, segment_frames);
    m->params = sp_analyze_params_default();
    m->records = calloc(frames, sizeof(*m->records));
    REQUIRE(m->records != NULL);
    for (uint32_t i = 0; i < frames; i++)
        m->records[i] = fake_random_record(m->index, i);
    sp_buf_init(&m->bytes, 1u << 28);
}

static void unmake(made *m)
{
    free(m->index);
    free(m->records);
    sp_buf_done(&m->bytes);
}

TEST(a_segment_passes_its_own_check)
{
    made m;
    uint64_t bytes = 0;
    sp_error err = { 0 };
    make(&m, 100, 48);
    fake_segment(&m.bytes, m.index, &m.params, m.records, 1);
    REQUIRE(sp_buf_ok(&m.bytes));
    CHECK_INT(sp_segment_check(sp_buf_view(&m.bytes), m.index, &m.params, &bytes, &err), SP_OK);
    CHECK_TEXT(err.message, "");
    CHECK_INT(bytes, m.bytes.size_bytes);
    unmake(&m);
}

TEST(every_changed_byte_is_noticed)
{
    made m;
    uint64_t bytes = 0;
    make(&m, 4, 2);
    fake_segment(&m.bytes, m.index, &m.params, m.records, 0);
    REQUIRE(sp_buf_ok(&m.bytes));
    for (size_t i = 0; i < m.bytes.size_bytes; i++) {
        sp_error err = { 0 };
        uint8_t change = (uint8_t)(1u << (test_random() % 8));
        m.bytes.data[i] ^= change;
        CHECK_INT(sp_segment_check(sp_buf_view(&m.bytes), m.index, &m.params, &bytes, &err), SP_INVALID);
        CHECK_TEXT(err.code, "bad_segment");
        m.bytes.data[i] ^= change;
    }
    for (size_t i = 0; i < m.bytes.size_bytes; i += 8) {
        sp_error err = { 0 };
        CHECK_INT(sp_segment_check(sp_view_make(m.bytes.data, i), m.index, &m.params, &bytes, &err), SP_INVALID);
    }
    unmake(&m);
}

TEST(a_segment_of_something_else_is_refused)
{
    made m;
    uint64_t bytes = 0;
    sp_error err = { 0 };
    make(&m, 100, 48);
    fake_segment(&m.bytes, m.index, &m.params, m.records, 2);
    sp_analyze_params other = m.params;
    other.flow.winsize = 17;
    CHECK_INT(sp_segment_check(sp_buf_view(&m.bytes), m.index, &other, &bytes, &err), SP_INVALID);
    m.index->sha256[5] ^= 1;
    CHECK_INT(sp_segment_check(sp_buf_view(&m.bytes), m.index, &m.params, &bytes, &err), SP_INVALID);
    unmake(&m);
}

/* The check sum is right, the content is not: what a worker that lost its mind would write. */
TEST(impossible_records_are_refused_although_their_sum_is_right)
{
    made m;
    make(&m, 10, 10);
    for (int kind = 0; kind < 12; kind++) {
        sp_error err = { 0 };
        uint64_t bytes = 0;
        sp_frame_record records[3] = { fake_record(m.index, 1), fake_record(m.index, 2), fake_record(m.index, 3) };
        sp_frame_record *r = &records[1];
        r->motion_count = 1;
        r->motion[0] = fake_region(3, 4, 10, 10);
        switch (kind) {
        case 0: break; /* good */
        case 1: r->number = 1; r->pts = records[0].pts; break;
        case 2: r->pts++; break;
        case 3: r->mean = 255001; break;
        case 4: r->has_pair = 0; break;
        case 5: r->motion[0].x1 = FAKE_W + 1; break;
        case 6: r->motion[0].area = 101; break;
        case 7: r->motion[0].centre_y = 0; break;
        case 8: r->direction[7] = 1001; break;
        case 9: r->flow_x = 1 << 25; break;
        case 10: r->sharpness = UINT64_MAX; break;
        case 11: r->cut = 2; break;
        }
        sp_buf_clear(&m.bytes);
        sp_segment_write(&m.bytes, m.index, &m.params, 0, records, 3, NULL);
        CHECK_INT(sp_segment_check(sp_buf_view(&m.bytes), m.index, &m.params, &bytes, &err), kind ? SP_INVALID : SP_OK);
    }
    unmake(&m);
}

/* --- merge --- */

static void report_of(const made *m, const uint32_t *order, sp_buf *out)
{
    sp_buf bytes;
    sp_error err = { 0 };
    sp_analysis *a = NULL;
    sp_buf_init(&bytes, 1u << 28);
    for (uint32_t i = 0; i < m->index->segment_count; i++)
        fake_segment(&bytes, m->index, &m->params, m->records, order[i]);
    CHECK_INT(sp_analysis_merge(m->index, &m->params, sp_buf_view(&bytes), &a, &err), SP_OK);
    sp_buf_done(&bytes); /* the analysis has its own */
    if (!a)
        return;
    sp_analysis_write_json(a, out);
    sp_analysis_free(a);
}

TEST(the_order_of_segments_does_not_matter)
{
    for (int round = 0; round < ROUNDS; round++) {
        made m;
        uint32_t order[64];
        make(&m, (uint32_t)test_random_between(1, 300), 8 + (uint32_t)test_random_between(0, 40));
        sp_buf first, again;
        sp_buf_init(&first, 1u << 28);
        sp_buf_init(&again, 1u << 28);
        for (uint32_t i = 0; i < m.index->segment_count; i++)
            order[i] = i;
        report_of(&m, order, &first);
        for (uint32_t i = m.index->segment_count; i > 1; i--) {
            uint32_t k = (uint32_t)(test_random() % i), kept = order[i - 1];
            order[i - 1] = order[k];
            order[k] = kept;
        }
        report_of(&m, order, &again);
        REQUIRE(sp_buf_ok(&first) && first.size_bytes > 100);
        CHECK_INT(first.size_bytes, again.size_bytes);
        CHECK(first.size_bytes == again.size_bytes && memcmp(first.data, again.data, first.size_bytes) == 0);
        sp_buf_done(&first);
        sp_buf_done(&again);
        unmake(&m);
    }
}

TEST(a_missing_or_doubled_segment_is_refused)
{
    made m;
    sp_error err = { 0 };
    sp_analysis *a = NULL;
    make(&m, 100, 20);
    for (uint32_t i = 0; i < 4; i++)
        fake_segment(&m.bytes, m.index, &m.params, m.records, i);
    CHECK_INT(sp_analysis_merge(m.index, &m.params, sp_buf_view(&m.bytes), &a, &err), SP_INVALID);
    CHECK(strstr(err.message, "segment 4 of 5") != NULL);
    fake_segment(&m.bytes, m.index, &m.params, m.records, 4);
    fake_segment(&m.bytes, m.index, &m.params, m.records, 2);
    CHECK_INT(sp_analysis_merge(m.index, &m.params, sp_buf_view(&m.bytes), &a, &err), SP_INVALID);
    CHECK(strstr(err.message, "twice") != NULL);
    CHECK(a == NULL);
    unmake(&m);
}

TEST(lost_frames_are_told_with_their_reason)
{
    made m;
    sp_error err = { 0 };
    sp_analysis *a = NULL;
    sp_video_loss loss = { .error_count = 3, .reason = "a \"bad\" packet" };
    make(&m, 40, 20);
    fake_segment(&m.bytes, m.index, &m.params, m.records, 0);
    sp_frame_record left[3] = { fake_record(m.index, 22), fake_record(m.index, 23), fake_record(m.index, 30) };
    sp_segment_write(&m.bytes, m.index, &m.params, 1, left, 3, &loss);
    REQUIRE(sp_analysis_merge(m.index, &m.params, sp_buf_view(&m.bytes), &a, &err) == SP_OK);
    CHECK_INT(sp_analysis_frames(a), 23);
    sp_buf text;
    sp_buf_init(&text, 1u << 26);
    sp_analysis_write_json(a, &text);
    REQUIRE(sp_buf_ok(&text));
    const char *json = (const char *)text.data;
    CHECK(strstr(json, "\"frame_count\": 40, \"frames_analyzed\": 23, \"frames_lost\": 17") != NULL);
    CHECK(strstr(json, "\"reason\": \"a \\\"bad\\\" packet\", \"lost\": [[20, 21], [24, 29], [31, 39]]") != NULL);
    sp_buf_done(&text);
    sp_analysis_free(a);
    unmake(&m);
}

TEST(a_video_of_which_nothing_came_still_has_a_report)
{
    made m;
    sp_error err = { 0 };
    sp_analysis *a = NULL;
    make(&m, 5, 5);
    sp_segment_write(&m.bytes, m.index, &m.params, 0, NULL, 0, NULL);
    REQUIRE(sp_analysis_merge(m.index, &m.params, sp_buf_view(&m.bytes), &a, &err) == SP_OK);
    uint32_t numbers[SP_LIMIT_KEY_FRAMES];
    CHECK_INT(sp_analysis_frames(a), 0);
    CHECK_INT(sp_analysis_key_frames(a, numbers), 0);
    sp_buf text;
    sp_buf_init(&text, 1u << 20);
    sp_analysis_write_json(a, &text);
    CHECK(sp_buf_ok(&text));
    sp_buf_done(&text);
    sp_analysis_free(a);
    unmake(&m);
}

/* --- the order --- */

static void order_body(const made *m, sp_buf *out, uint32_t first, uint32_t count)
{
    sp_analyze_order order;
    memset(&order, 0, sizeof(order));
    order.abi = SP_ANALYZE_ABI;
    order.order_bytes = sizeof(order);
    order.params = m->params;
    order.first_segment = first;
    order.segment_count = count;
    order.index_bytes = m->index->index_bytes;
    order.segments_bytes = 16;
    sp_buf_append(out, &order, sizeof(order));
    sp_buf_append(out, m->index, m->index->index_bytes);
    sp_buf_append(out, "0123456789abcdef", 16);
}

TEST(an_order_is_checked)
{
    made m;
    sp_error err = { 0 };
    sp_analyze_order order;
    const sp_video_index *index = NULL;
    sp_view segments;
    make(&m, 100, 20);
    order_body(&m, &m.bytes, 1, 4);
    REQUIRE(sp_buf_ok(&m.bytes));
    CHECK_INT(sp_analyze_order_check(sp_buf_view(&m.bytes), &order, &index, &segments, &err), SP_OK);
    CHECK_TEXT(err.message, "");
    CHECK_INT(order.segment_count, 4);
    CHECK_INT(index->frame_count, 100);
    CHECK_INT(segments.size_bytes, 16);
    sp_view whole = sp_buf_view(&m.bytes);
    for (size_t cut = 0; cut < whole.size_bytes; cut += 13)
        CHECK_INT(sp_analyze_order_check(sp_view_make(whole.data, cut), &order, &index, &segments, &err), SP_INVALID);
    sp_buf_clear(&m.bytes);
    order_body(&m, &m.bytes, 2, 4);
    CHECK_INT(sp_analyze_order_check(sp_buf_view(&m.bytes), &order, &index, &segments, &err), SP_INVALID);
    sp_buf_clear(&m.bytes);
    m.params.flow.levels = 99;
    order_body(&m, &m.bytes, 1, 4);
    CHECK_INT(sp_analyze_order_check(sp_buf_view(&m.bytes), &order, &index, &segments, &err), SP_INVALID);
    unmake(&m);
}
