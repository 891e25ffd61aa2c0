/* SPDX-License-Identifier: Apache-2.0
 * The pure parts of an inference: what was asked against the card, where sequences go, answers that are kept. */
#include "serving/parts.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>

/* --- a model: IN0 FP32[-1,2], IN1 BYTES[1] (optional), OUT0, OUT1; batches of 4 ------------------------------------------ */

typedef struct model {
    sp_model_card card;
    sp_served served;
    sp_kserve_request named;
    sp_infer_head head;
    int16_t outputs[SP_INFER_PORTS];
    uint8_t body[256];
} model;

static void port(sp_model_port *p, const char *name, int dtype, int rank, int64_t d0, int64_t d1)
{
    (void)snprintf(p->name, sizeof(p->name), "%s", name);
    p->dtype = (uint8_t)dtype;
    p->rank = (uint8_t)rank;
    p->dims[0] = d0;
    p->dims[1] = d1;
}

static model *model_new(void)
{
    model *m = calloc(1, sizeof(*m));
    sp_model_config *config = &m->card.config;
    sp_model_config_init(config);
    config->max_batch_size = 4;
    config->input_count = config->output_count = 2;
    port(&config->inputs[0], "IN0", 1, 2, -1, 2);
    port(&config->inputs[1], "IN1", SP_DTYPE_BYTES, 1, 1, 0);
    config->inputs[1].optional = true;
    port(&config->outputs[0], "OUT0", 1, 1, -1, 0);
    port(&config->outputs[1], "OUT1", 1, 1, -1, 0);
    m->card.version_count = 1;
    m->served = (sp_served){ .name = "m", .version_text = "1", .id = 7, .card = &m->card, .file = &m->card.versions[0] };
    return m;
}

static sp_kserve_input *input(model *m, const char *name, int dtype, uint64_t offset, uint64_t bytes, int rank, int64_t d0,
                              int64_t d1, int64_t d2)
{
    sp_kserve_input *in = &m->named.inputs[m->named.input_count++];
    (void)snprintf(in->name, sizeof(in->name), "%s", name);
    *in = (sp_kserve_input){ .dtype = (uint8_t)dtype, .rank = (uint8_t)rank, .place = SP_PLACE_BINARY, .offset = offset, .bytes = bytes,
                             .dims = { d0, d1, d2 } };
    (void)snprintf(in->name, sizeof(in->name), "%s", name);
    return in;
}

static const char *check(model *m)
{
    static sp_error err;
    const sp_check how = { .binary_base = 16, .body = sp_view_make(m->body, sizeof(m->body)) };
    err = (sp_error){ 0 };
    return sp_call_check(&m->served, &m->named, &how, &m->head, m->outputs, &err) ? err.message : "";
}

TEST(ports_are_found_and_offsets_count_from_the_header)
{
    model *m = model_new();
    memcpy(m->body + 16, "\3\0\0\0abc", 7);
    input(m, "IN1", SP_DTYPE_BYTES, 0, 7, 2, 1, 1, 0);
    input(m, "IN0", 1, 7, 24, 3, 1, 3, 2);
    CHECK_TEXT(check(m), "");
    CHECK_INT(m->head.input_count, 2);
    CHECK_INT(m->head.inputs[0].port, 1);
    CHECK_INT(m->head.inputs[0].offset, 16);
    CHECK_INT(m->head.inputs[1].port, 0);
    CHECK_INT(m->head.inputs[1].offset, 23);
    CHECK_INT(m->head.wish_count, 2);
    CHECK_INT(m->head.wishes[1].form, SP_FORM_JSON);
    CHECK_INT(m->outputs[0], -1);
    free(m);
}

TEST(what_lies_beyond_the_body_is_refused_without_overflow)
{
    static const uint64_t offsets[] = { 217, 240, 241, UINT64_MAX / 2, UINT64_MAX - 16, UINT64_MAX };
    for (size_t i = 0; i < SP_ARRAY_LEN(offsets); i++) {
        model *m = model_new();
        input(m, "IN0", 1, offsets[i], 24, 3, 1, 3, 2);
        const char *said = check(m);
        CHECK(strstr(said, "unexpected size for input 'IN0'") != NULL);
        CHECK_INT(m->head.input_count, 0);
        free(m);
    }
}

TEST(shapes_that_multiply_to_too_much_are_refused)
{
    model *m = model_new();
    input(m, "IN0", 1, 0, 0, 3, 4, INT64_MAX, 2);
    CHECK(strstr(check(m), "more elements than can be counted") != NULL);
    m->named.inputs[0].dims[1] = INT64_MAX / 4;
    CHECK(strstr(check(m), "more elements than can be counted") != NULL);
    m->named.inputs[0].dims[1] = 0;
    CHECK_TEXT(check(m), "");
    free(m);
}

TEST(strings_are_counted)
{
    static const struct {
        const char *bytes;
        size_t n;
        uint64_t count;
        const char *said;
    } rows[] = {
        { "\1\0\0\0a\0\0\0\0", 9, 2, "" },
        { "", 0, 0, "" },
        { "", 0, 1, "expected 1 string elements" },
        { "\1\0\0\0a", 5, 2, "expected 2 string elements" },
        { "\1\0\0\0a\0\0\0\0", 9, 1, "unexpected number of string elements 2" },
        { "\1\0\0", 3, 1, "incomplete string length indicator" },
        { "\2\0\0\0a", 5, 1, "incomplete string data" },
        { "\377\377\377\377a", 5, 1, "incomplete string data" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_error err = { 0 };
        sp_status s = sp_call_check_strings("IN1", "m", (const uint8_t *)rows[i].bytes, rows[i].n, rows[i].count, &err);
        CHECK_INT(s, *rows[i].said ? SP_INVALID : SP_OK);
        CHECK(strstr(err.message, rows[i].said) != NULL);
    }
}

TEST(outputs_are_wished_for_as_the_client_said)
{
    model *m = model_new();
    input(m, "IN0", 1, 0, 24, 3, 1, 3, 2);
    m->named.output_count = 2;
    m->named.binary_output = true;
    sp_kserve_output *out = m->named.outputs;
    (void)snprintf(out[0].name, sizeof(out[0].name), "OUT1");
    out[0].has_binary = true;
    (void)snprintf(out[1].name, sizeof(out[1].name), "OUT0");
    out[1].shared = true;
    out[1].bytes = 12;
    CHECK_TEXT(check(m), "");
    CHECK_INT(m->head.wishes[0].port, 1);
    CHECK_INT(m->head.wishes[0].form, SP_FORM_JSON);
    CHECK_INT(m->head.wishes[1].form, SP_FORM_RAW);
    CHECK_INT(m->head.wishes[1].limit_bytes, 12);
    CHECK_INT(m->outputs[1], 1);
    out[1].classes = 3;
    CHECK(strstr(check(m), "cannot be set with") != NULL);
    (void)snprintf(out[1].name, sizeof(out[1].name), "OUT1");
    CHECK(strstr(check(m), "already exists") != NULL);
    free(m);
}

/* --- sequences ------------------------------------------------------------------------------------------------------------- */

static int called[8], calls;

typedef struct waiter {
    sp_sequence_waiter waiter; /* first */
    int number;
} waiter;

static void again(sp_sequence_waiter *w)
{
    called[calls++] = ((waiter *)w)->number;
}

TEST(a_sequence_goes_on_where_it_began_and_its_next_ones_wait_for_that)
{
    sp_sequences *s = NULL;
    sp_pin pin;
    waiter w[3] = { { { .again = again }, 1 }, { { .again = again }, 2 }, { { .again = again }, 3 } };
    const sp_sequence_key key = { .model = 1, .id = 9 }, other = { .model = 2, .id = 9 }, text = { .model = 1, .id = 9, .text = "nine" };
    calls = 0;
    REQUIRE(!sp_sequences_new(NULL, &s, NULL));
    CHECK_INT(sp_sequence_begin(s, &key, false, &w[0].waiter, &pin), SP_SEQUENCE_GO); /* unknown: anywhere, the worker will say */
    CHECK_INT(pin.incarnation, 0);
    CHECK_INT(sp_sequence_begin(s, &key, true, &w[0].waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(sp_sequence_begin(s, &other, true, &w[0].waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(sp_sequence_begin(s, &text, true, &w[0].waiter, &pin), SP_SEQUENCE_GO);
    for (int i = 0; i < 3; i++)
        CHECK_INT(sp_sequence_begin(s, &key, false, &w[i].waiter, &pin), SP_SEQUENCE_WAIT);
    sp_sequence_leave(s, &w[1].waiter);
    sp_sequence_done(s, &key, true, false, true, false, (sp_pin){ 3, 5 });
    CHECK_INT(calls, 2);
    CHECK_INT(called[0], 1);
    CHECK_INT(called[1], 3);
    CHECK_INT(sp_sequence_begin(s, &key, false, &w[0].waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(pin.worker, 3);
    CHECK_INT(pin.incarnation, 5);
    sp_sequence_done(s, &key, false, true, true, false, pin); /* its end */
    CHECK_INT(sp_sequence_begin(s, &key, false, &w[0].waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(pin.incarnation, 0);
    sp_sequence_done(s, &other, true, false, false, false, pin); /* its beginning failed */
    CHECK_INT(sp_sequence_begin(s, &other, false, &w[0].waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(pin.incarnation, 0);
    sp_sequence_done(s, &text, true, false, true, false, (sp_pin){ 1, 1 });
    sp_sequence_done(s, &text, false, false, false, true, (sp_pin){ 0 }); /* its worker is gone */
    CHECK_INT(sp_sequence_begin(s, &text, false, &w[0].waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(pin.incarnation, 0);
    sp_sequences_free(s);
}

TEST(the_sequence_that_was_idle_longest_is_forgotten)
{
    sp_sequences *s = NULL;
    sp_pin pin;
    waiter w = { { .again = again }, 1 };
    REQUIRE(!sp_sequences_new(NULL, &s, NULL));
    for (uint64_t id = 1; id <= SP_LIMIT_SEQUENCES + 10; id++) {
        const sp_sequence_key key = { .model = 1, .id = id };
        CHECK_INT(sp_sequence_begin(s, &key, true, &w.waiter, &pin), SP_SEQUENCE_GO);
        sp_sequence_done(s, &key, true, false, true, false, (sp_pin){ 0, 1 });
    }
    CHECK_INT(sp_sequence_begin(s, &(sp_sequence_key){ .model = 1, .id = 10 }, false, &w.waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(pin.incarnation, 0);
    CHECK_INT(sp_sequence_begin(s, &(sp_sequence_key){ .model = 1, .id = 11 }, false, &w.waiter, &pin), SP_SEQUENCE_GO);
    CHECK_INT(pin.incarnation, 1);
    sp_sequences_free(s);
}

/* --- answers that are kept ---------------------------------------------------------------------------------------------------- */

TEST(a_kept_answer_reads_back_and_a_broken_one_does_not)
{
    static sp_infer_answer infer, read;
    static const uint8_t data[256] = "first";
    const uint8_t *at = NULL;
    sp_buf value;
    infer.count = 2;
    infer.outputs[0] = (sp_infer_output){ .port = 0, .dtype = 1, .rank = 1, .offset = 0, .bytes = 5, .dims = { 5 } };
    infer.outputs[1] = (sp_infer_output){ .port = 1, .dtype = 1, .rank = 1, .offset = 64, .bytes = 100, .dims = { 25 } };
    REQUIRE(sp_remember_write(&infer, data, &value));
    REQUIRE(sp_remember_read(sp_buf_view(&value), &read, &at));
    CHECK_INT(read.count, 2);
    CHECK_BYTES(at + read.outputs[0].offset, data, 5);
    CHECK_BYTES(at + read.outputs[1].offset, data + 64, 100);
    for (size_t n = 0; n < value.size_bytes; n++) /* cut anywhere */
        CHECK(!sp_remember_read(sp_view_make(value.data, n), &read, &at));
    for (int i = 0; i < 2000; i++) { /* whatever is accepted lies inside */
        uint8_t copy[1024];
        memcpy(copy, value.data, value.size_bytes);
        copy[test_random() % value.size_bytes] = (uint8_t)test_random();
        if (!sp_remember_read(sp_view_make(copy, value.size_bytes), &read, &at))
            continue;
        for (uint32_t k = 0; k < read.count; k++)
            CHECK(read.outputs[k].offset <= value.size_bytes && read.outputs[k].bytes <= value.size_bytes - read.outputs[k].offset);
    }
    infer.outputs[1].bytes = 1u << 20;
    sp_buf_done(&value);
    CHECK(!sp_remember_write(&infer, data, &value));
    sp_buf_done(&value);
}

TEST(the_key_takes_in_what_the_answer_depends_on)
{
    model *m = model_new();
    sp_cache_key first, next;
    sp_view body = sp_view_make(m->body, sizeof(m->body));
    input(m, "IN0", 1, 0, 24, 3, 1, 3, 2);
    REQUIRE(!*check(m));
    REQUIRE(!sp_remember_key(&m->served, &m->head, body, &first));
    m->body[0] = 1; /* not of a tensor */
    REQUIRE(!sp_remember_key(&m->served, &m->head, body, &next));
    CHECK_BYTES(first.sha256, next.sha256, 32);
    m->body[16] = 1;
    REQUIRE(!sp_remember_key(&m->served, &m->head, body, &next));
    CHECK(memcmp(first.sha256, next.sha256, 32) != 0);
    m->body[16] = 0;
    m->head.wishes[0].form = SP_FORM_RAW;
    REQUIRE(!sp_remember_key(&m->served, &m->head, body, &next));
    CHECK(memcmp(first.sha256, next.sha256, 32) != 0);
    m->head.wishes[0].form = SP_FORM_JSON;
    memcpy(m->card.versions[0].digest, "1", 2);
    REQUIRE(!sp_remember_key(&m->served, &m->head, body, &next));
    CHECK(memcmp(first.sha256, next.sha256, 32) != 0);
    free(m);
}
