/* SPDX-License-Identifier: Apache-2.0
 * task/analyze: the first difference of two reports, by name. */
#include "analyze_fake.h"
#include "test.h"

#include <stdlib.h>

#define FRAMES 60

typedef struct pair {
    sp_video_index *index;
    sp_analyze_params params;
    sp_frame_record records[FRAMES];
    sp_buf a, text;
} pair;

static void report(pair *p, sp_buf *out)
{
    sp_analysis *a = fake_analysis(p->index, &p->params, p->records);
    sp_analysis_write_json(a, out);
    sp_analysis_free(a);
}

static pair *pair_new(void)
{
    pair *p = calloc(1, sizeof(*p));
    REQUIRE(p != NULL);
    p->index = fake_index(FRAMES, 32);
    p->params = sp_analyze_params_default();
    for (uint32_t i = 0; i < FRAMES; i++)
        p->records[i] = fake_random_record(p->index, i);
    p->records[17].motion_count = 3;
    for (int i = 0; i < 3; i++)
        p->records[17].motion[i] = fake_region(10 * i, 20, 9, 9);
    sp_buf_init(&p->a, 1u << 24);
    sp_buf_init(&p->text, 1u << 12);
    report(p, &p->a);
    return p;
}

/* Compares what was written at first with what the records give now. */
static const char *sentence(pair *p)
{
    sp_buf b;
    bool differ = false;
    sp_error err = { 0 };
    sp_buf_init(&b, 1u << 24);
    report(p, &b);
    sp_buf_clear(&p->text);
    CHECK_INT(sp_analysis_compare(sp_buf_view(&p->a), sp_buf_view(&b), &differ, &p->text, &err), SP_OK);
    sp_buf_done(&b);
    return differ ? (const char *)p->text.data : "equal";
}

static void pair_free(pair *p)
{
    free(p->index);
    sp_buf_done(&p->a);
    sp_buf_done(&p->text);
    free(p);
}

TEST(the_first_difference_has_a_name)
{
    pair *p = pair_new();
    sp_frame_record kept = p->records[17];
    CHECK_TEXT(sentence(p), "equal");
    p->records[17].direction[1] = 1043;
    p->records[17].direction[1] = kept.direction[1] == 7 ? 8 : 7;
    const char *text = sentence(p);
    CHECK(strncmp(text, "frames[17].direction_se: ", 25) == 0 && strstr(text, " and "));
    p->records[17] = kept;
    p->records[17].motion[2].area--;
    text = sentence(p);
    CHECK(strncmp(text, "tracks[", 7) == 0 || strncmp(text, "frames[17].motion[2].area: 81 and 80", 36) == 0);
    p->records[17] = kept;
    p->records[17].edges ^= 1;
    CHECK(strncmp(sentence(p), "totals.edges: ", 14) == 0 || strncmp(sentence(p), "frames[17].edges: ", 18) == 0);
    p->records[17] = kept;
    p->params.canny_low = 16;
    CHECK_TEXT(sentence(p), "parameters.canny_low: 15 and 16");
    p->params.canny_low = 15;
    p->index->sha256[0] = 2;
    CHECK(strncmp(sentence(p), "file.sha256: \"01", 16) == 0);
    pair_free(p);
}

/* Small texts, so that each kind of difference is seen alone. */
TEST(every_kind_of_difference_and_of_nonsense)
{
#define R(rest) "{\"spillway_report\": 1, " rest
    static const struct {
        const char *a, *b;
        sp_status status;
        const char *text; /* NULL: equal */
    } rows[] = {
        { R("\"x\": [1, 2]}"), R("\"x\":[1,2]} \n"), SP_OK, NULL },
        { R("\"x\": [1, 2]}"), R("\"x\": [1, 3]}"), SP_OK, "x[1]: 2 and 3" },
        { R("\"x\": [1, 2]}"), R("\"x\": [1]}"), SP_OK, "x[1]: missing in the second report" },
        { R("\"x\": []}"), R("\"x\": [{}]}"), SP_OK, "x[0]: missing in the first report" },
        { R("\"x\": {\"y\": {\"z\": null}}}"), R("\"x\": {\"y\": {\"z\": \"n\"}}}"), SP_OK, "x.y.z: null and \"n\"" },
        { R("\"x\": 1}"), R("\"y\": 1}"), SP_OK, "\"x\" and \"y\"" },
        { R("\"x\": {\"a\": 1, \"b\": 2}}"), R("\"x\": {\"a\": 1}}"), SP_OK, "x: missing in the second report" },
        { R("\"x\": [1]}"), R("\"x\": {}}"), SP_OK, "x: a list and an object" },
        { R("\"x\": 1}"), "{\"other\": 1}", SP_INVALID, "second" },
        { "", R("\"x\": 1}"), SP_INVALID, "first" },
        { R("\"x\": [1, 2"), R("\"x\": [1, 2"), SP_INVALID, "ends too early" },
        { R("\"x\": [1 2]}"), R("\"x\": [1 2]}"), SP_INVALID, "no JSON" },
        { R("\"x\": \"open"), R("\"x\": \"open"), SP_INVALID, "ends too early" },
        { R("\"x\": 1} 2"), R("\"x\": 1} 2"), SP_INVALID, "behind the end" },
        { R("\"x\": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}"), R("\"x\": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}"), SP_INVALID, "deep" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_buf text;
        bool differ = false;
        sp_error err = { 0 };
        sp_buf_init(&text, 1000);
        sp_status s = sp_analysis_compare(sp_view_of(rows[i].a), sp_view_of(rows[i].b), &differ, &text, &err);
        CHECK_INT(s, rows[i].status);
        if (s)
            CHECK(strstr(err.message, rows[i].text) != NULL);
        else if (rows[i].text)
            CHECK(differ && strstr((const char *)text.data, rows[i].text) != NULL);
        else
            CHECK(!differ && text.size_bytes == 0);
        sp_buf_done(&text);
    }
}

TEST(any_cut_or_changed_text_is_survived)
{
    pair *p = pair_new();
    uint8_t *changed = malloc(p->a.size_bytes);
    REQUIRE(changed != NULL);
    for (int i = 0; i < 300; i++) {
        bool differ = false;
        sp_error err = { 0 };
        size_t bytes = i % 2 ? p->a.size_bytes : test_random() % p->a.size_bytes;
        memcpy(changed, p->a.data, p->a.size_bytes);
        if (i % 2)
            changed[test_random() % bytes] = (uint8_t)"{}[]:,\"\\0 x\xff"[test_random() % 12];
        sp_buf_clear(&p->text);
        sp_status s = sp_analysis_compare(sp_buf_view(&p->a), sp_view_make(changed, bytes), &differ, &p->text, &err);
        CHECK(s == SP_INVALID || s == SP_OK);
        CHECK(i % 2 || s == SP_INVALID || differ || bytes + 1 == p->a.size_bytes);
    }
    free(changed);
    pair_free(p);
}
