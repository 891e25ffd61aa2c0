/* SPDX-License-Identifier: Apache-2.0
 * The models that a device worker serves, over a steered engine (tests/task/fake): leases go in, batches come out, and this file
 * is the loop: its calls that the kind makes are its own. */
#include "hall_harness.h"

/* --- life ------------------------------------------------------------------------------------------------------------ */

TEST(a_model_is_loaded_asked_and_let_go)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    const sp_answer_loaded *loaded = (const sp_answer_loaded *)(const void *)answers;
    CHECK_TEXT(loaded->engine, "onnxruntime");
    CHECK(loaded->host_bytes >= 1 << 20);
    (void)ask(1, 7, 2, 0);
    turn_all();
    check_pictures(1, 2);
    CHECK_INT(answer_of(1)->batch_rows, 2);
    CHECK_INT(answer_of(1)->batch_leader, 1);
    sp_work_item *item = submit_spec(2, SP_OP_UNLOAD, picture_spec(7));
    turn_all();
    CHECK(places[2].finished);
    CHECK_INT(item->status, SP_OK);
    item = ask(3, 7, 1, 0);
    CHECK_INT(item->status, SP_UNSUPPORTED);
    CHECK_TEXT(item->error.code, "not_loaded");
    close_hall();
}

TEST(an_unload_lets_what_waits_go_first)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    sp_worker_batch batch = { 0 };
    (void)ask(1, 7, 1, 0);
    sp_hall_next(hall, sp_clock_now_ns(), &batch); /* runs */
    REQUIRE(batch.own && batch.count == 1);
    (void)ask(2, 7, 1, 0); /* waits */
    (void)submit_spec(3, SP_OP_UNLOAD, picture_spec(7));
    turn_all();
    CHECK(!places[3].finished);
    CHECK_INT(ask(4, 7, 1, 0)->status, SP_UNSUPPORTED); /* comes too late */
    sp_hall_run(hall, 0, &batch);
    sp_hall_over(hall, &batch, sp_clock_now_ns());
    CHECK(!places[3].finished);
    turn_all();
    check_pictures(1, 1);
    check_pictures(2, 1);
    CHECK(places[3].finished);
    close_hall();
}

TEST(what_cannot_be_served_says_why)
{
    open_hall();
    sp_load_spec *spec = picture_spec(1);
    spec->config.group_count = 1;
    spec->config.groups[0].kind = SP_INSTANCE_GPU;
    CHECK_INT(load(0, spec), SP_UNSUPPORTED);
    CHECK_TEXT(places[0].item.error.code, "instance_kind");
    spec = picture_spec(2);
    (void)snprintf(spec->config.inputs[0].name, sizeof(spec->config.inputs[0].name), "z");
    CHECK_INT(load(0, spec), SP_INVALID);
    CHECK(strstr(places[0].item.error.message, "'x'") != NULL);
    spec = picture_spec(3);
    spec->config.outputs[0].dtype = SP_ENGINE_I64;
    CHECK_INT(load(0, spec), SP_INVALID);
    CHECK(strstr(places[0].item.error.message, "INT64") && strstr(places[0].item.error.message, "FP32"));
    REQUIRE(load(0, picture_spec(4)) == SP_OK);
    CHECK_INT(load(0, picture_spec(4)), SP_CONFLICT);
    places[5].item.body = sp_view_of("{\"no\":1}");
    sp_work_item *item = submit(5, SP_OP_LOAD);
    turn_all();
    CHECK(places[5].finished && item->status);
    close_hall();
}

/* --- the head is trusted in nothing ---------------------------------------------------------------------------------- */

TEST(heads_that_lie_are_refused)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    find_counters();
    for (int lie = 0; lie < 14; lie++) {
        place *at = &places[1];
        make_pictures(1, 7, 2, 0);
        sp_infer_tensor *input = &at->head.inputs[0];
        switch (lie) {
        case 0: input->port = 1; break;
        case 1: input->dtype = SP_ENGINE_F64; break;
        case 2: input->rank = 3; break;
        case 3: input->rank = 200; break;
        case 4: input->dims[0] = 3; break; /* more rows than bytes */
        case 5: input->dims[0] = -1; break;
        case 6: input->dims[1] = INT64_MAX; break;
        case 7: input->offset = 1; break;
        case 8: input->offset = UINT64_MAX; break;
        case 9: input->in_output = 1; break;
        case 10: at->head.input_count = 65535; break;
        case 11: at->head.input_count = 0; break;
        case 12: at->head.wish_count = 2; break; /* the same output twice */
        case 13: at->head.wishes[0].port = 9; break;
        }
        sp_work_item *item = submit(1, SP_OP_INFER);
        turn_all();
        CHECK(at->finished);
        if (item->status != SP_INVALID)
            test_fail(__FILE__, __LINE__, "lie %d: status %d", lie, item->status);
    }
    CHECK_INT(*run_count, 0);
    make_pictures(1, 7, 2, 0);
    places[1].head.inputs[0].dims[0] = 9; /* more than max_batch_size */
    places[1].head.inputs[0].bytes = 9 * IMAGE;
    CHECK_INT(submit(1, SP_OP_INFER)->status, SP_INVALID);
    close_hall();
}

/* Heads of random numbers, most of them nearly right: each gets an answer, and nothing outside of its body is touched (under
 * AddressSanitizer that would end this). */
TEST(random_heads_do_no_harm)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    REQUIRE(load(0, identity_spec(8, SP_DTYPE_BYTES)) == SP_OK);
    static const int64_t numbers[] = { 0, 1, 2, 3, 4, 8, 9, 64, -1, 255, 65536, IMAGE, 2 * IMAGE, INT64_MAX, INT64_MIN, 1ll << 62 };
    int answered = 0;
    for (int turn = 0; turn < 4000; turn++) {
        place *at = &places[1];
        make_pictures(1, 7 + (uint32_t)(turn & 1), 2, 0);
        uint8_t *body = malloc(2 * IMAGE); /* of its own, so that its ends are watched */
        REQUIRE(body != NULL);
        memcpy(body, at->body, 2 * IMAGE);
        at->item.body = sp_view_make(body, 2 * IMAGE);
        if (turn & 1)
            at->head.inputs[0].dtype = SP_DTYPE_BYTES;
        for (int change = test_random_between(0, 3); change > 0; change--) {
            int64_t number = numbers[test_random_between(0, (int)SP_ARRAY_LEN(numbers) - 1)];
            sp_infer_tensor *input = &at->head.inputs[test_random_between(0, 1)];
            switch (test_random_between(0, 9)) {
            case 0: input->port = (uint16_t)number; break;
            case 1: input->dtype = (uint8_t)number; break;
            case 2: input->rank = (uint8_t)number; break;
            case 3: input->offset = (uint64_t)number; break;
            case 4: input->bytes = (uint64_t)number; break;
            case 5: input->dims[test_random_between(0, SP_INFER_RANK - 1)] = number; break;
            case 6: at->head.input_count = (uint16_t)number; break;
            case 7: at->head.wish_count = (uint16_t)number; break;
            case 8: at->head.wishes[0] = (sp_infer_wish){ .port = (uint16_t)(number & 1), .form = (uint8_t)(number & 3),
                                                          .classes = (uint32_t)number, .limit_bytes = (uint64_t)number }; break;
            default: at->head.timeout_us = at->head.sequence_id = (uint64_t)number; break;
            }
        }
        sp_work_item *item = submit(1, SP_OP_INFER);
        turn_all();
        REQUIRE(at->finished);
        answered += item->status == SP_OK;
        free(body);
    }
    CHECK(answered > 400 && answered < 3600);
    close_hall();
}

TEST(strings_must_add_up)
{
    open_hall();
    REQUIRE(load(0, identity_spec(7, SP_DTYPE_BYTES)) == SP_OK);
    static const uint8_t good[] = { 2, 0, 0, 0, 'h', 'i', 0, 0, 0, 0 };
    for (int cut = 0; cut <= (int)sizeof(good); cut++) {
        place *at = &places[1];
        memcpy(at->body, good, sizeof(good));
        if (cut == 0)
            at->body[0] = 255;
        at->item.body = sp_view_make(at->body, sizeof(good));
        at->head = (sp_infer_head){ .model = 7, .input_count = 1, .wish_count = 1 };
        at->head.inputs[0] = (sp_infer_tensor){ .dtype = SP_DTYPE_BYTES, .rank = 2, .bytes = cut ? (uint64_t)cut : sizeof(good),
                                                .dims = { 1, 2 } };
        sp_work_item *item = submit(1, SP_OP_INFER);
        turn_all();
        CHECK_INT(item->status, cut == (int)sizeof(good) ? SP_OK : SP_INVALID);
    }
    CHECK_BYTES(data_of(1, 0), good, sizeof(good));
    close_hall();
}

/* --- batches --------------------------------------------------------------------------------------------------------- */

TEST(what_waits_runs_together_and_each_gets_its_own)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    find_counters();
    for (int i = 1; i <= 4; i++)
        (void)ask(i, 7, i == 3 ? 3 : 1, 0);
    turn_all();
    CHECK_INT(*run_count, 1);
    CHECK_INT(runs[0], 6);
    int leaders = 0;
    for (int i = 1; i <= 4; i++) {
        check_pictures(i, i == 3 ? 3 : 1);
        CHECK_INT(answer_of(i)->batch_rows, 6);
        leaders += (int)answer_of(i)->batch_leader;
    }
    CHECK_INT(leaders, 1);
    close_hall();
}

TEST(only_what_fails_alone_fails)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    for (int i = 1; i <= 8; i++)
        (void)ask(i, 7, 1, i == 3 || i == 6);
    turn_all();
    for (int i = 1; i <= 8; i++) {
        if (i == 3 || i == 6) {
            CHECK_INT(places[i].item.status, SP_INTERNAL);
            CHECK_TEXT(places[i].item.error.message, "this item breaks its run");
        } else {
            check_pictures(i, 1);
        }
    }
    close_hall();
}

TEST(a_suspect_runs_alone_and_one_without_bytes_not_at_all)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    find_counters();
    for (int i = 1; i <= 3; i++) {
        make_pictures(i, 7, 1, 0);
        places[i].submission.alone = i == 2;
        (void)submit(i, SP_OP_INFER);
    }
    sp_worker_batch batch = { 0 };
    sp_hall_next(hall, sp_clock_now_ns(), &batch);
    REQUIRE(batch.count == 1);
    batch.items[0]->status = SP_INTERNAL; /* as the loop says of a body that never came */
    sp_hall_run(hall, 0, &batch);
    sp_hall_over(hall, &batch, sp_clock_now_ns());
    CHECK_INT(*run_count, 0);
    turn_all();
    CHECK_INT(*run_count, 2);
    CHECK_INT(runs[0], 1);
    close_hall();
}

TEST(no_memory_halves_the_batch_and_is_remembered)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    for (int i = 1; i <= 8; i++)
        (void)ask(i, 7, 1, 2);
    turn_all();
    for (int i = 1; i <= 8; i++)
        check_pictures(i, 1);
    find_counters();
    for (int i = 1; i <= 4; i++)
        (void)ask(i, 7, 1, 0);
    turn_all();
    CHECK_INT(*run_count, 2);
    CHECK_INT(runs[0], 2);
    close_hall();
}

TEST(a_lost_device_ends_the_worker)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    (void)ask(1, 7, 1, 5);
    (void)ask(2, 7, 1, 0);
    turn_all();
    CHECK_INT(places[2].item.status, SP_UNAVAILABLE);
    CHECK_TEXT(ended.code, "sticky");
    close_hall();
}

/* --- queues ---------------------------------------------------------------------------------------------------------- */

TEST(queue_policies_answer_in_tritons_words)
{
    open_hall();
    sp_load_spec *spec = picture_spec(7);
    spec->config.batching.default_policy = (sp_queue_policy){ .default_timeout_us = 1000, .max_queue_size = 2 };
    REQUIRE(load(0, spec) == SP_OK);
    (void)ask(1, 7, 1, 0);
    (void)ask(2, 7, 1, 0);
    sp_work_item *full = ask(3, 7, 1, 0);
    CHECK_INT(full->status, SP_BUSY);
    CHECK_TEXT(full->error.code, "queue_full");
    CHECK_TEXT(full->error.message, "Exceeds maximum queue size");
    int64_t until_ns = sp_clock_now_ns() + 2 * SP_NS_PER_MS;
    while (sp_clock_now_ns() < until_ns) { }
    CHECK_INT(turn(NULL), -1);
    CHECK_INT(places[1].item.status, SP_BUSY);
    CHECK_TEXT(places[2].item.error.code, "queue_timeout");
    CHECK_TEXT(places[2].item.error.message, "Request timeout expired");
    close_hall();
}

TEST(time_outs_are_seen_while_every_place_is_taken)
{
    open_hall();
    sp_load_spec *spec = picture_spec(7);
    spec->config.batching.default_policy = (sp_queue_policy){ .default_timeout_us = 500 };
    REQUIRE(load(0, spec) == SP_OK);
    (void)ask(1, 7, 1, 0);
    sp_hall_expire(hall, sp_clock_now_ns());
    CHECK(!places[1].finished);
    sp_hall_expire(hall, sp_clock_now_ns() + SP_NS_PER_MS);
    CHECK(places[1].finished);
    CHECK_TEXT(places[1].item.error.code, "queue_timeout");
    CHECK_INT(sp_hall_waiting(hall), 0);
    close_hall();
}

TEST(an_optional_input_may_be_missing)
{
    open_hall();
    sp_load_spec *spec = identity_spec(7, SP_ENGINE_U8);
    spec->config.input_count = spec->config.output_count = 2;
    spec->config.inputs[1] = spec->config.inputs[0];
    spec->config.outputs[1] = spec->config.outputs[0];
    spec->config.inputs[1].optional = true;
    (void)snprintf(spec->config.inputs[1].name, sizeof(spec->config.inputs[1].name), "MORE");
    (void)snprintf(spec->config.outputs[1].name, sizeof(spec->config.outputs[1].name), "MORE_OUT");
    REQUIRE(load(0, spec) == SP_OK);
    for (int wish = 0; wish < 2; wish++) {
        places[1].item.body = sp_view_of("seven!!");
        places[1].head = (sp_infer_head){ .model = 7, .input_count = 1, .wish_count = 1 };
        places[1].head.inputs[0] = (sp_infer_tensor){ .dtype = SP_ENGINE_U8, .rank = 2, .bytes = 7, .dims = { 1, 7 } };
        places[1].head.wishes[0].port = (uint16_t)wish;
        (void)submit(1, SP_OP_INFER);
        turn_all();
        CHECK_INT(places[1].item.status, wish ? SP_INVALID : SP_OK);
    }
    places[1].head.inputs[0].port = 1; /* only the optional one */
    places[1].head.wishes[0].port = 1;
    CHECK_INT(submit(1, SP_OP_INFER)->status, SP_INVALID);
    close_hall();
}

TEST(a_delay_says_when_it_is_due)
{
    open_hall();
    sp_load_spec *spec = picture_spec(7);
    spec->config.batching.max_queue_delay_us = 1000 * 1000;
    REQUIRE(load(0, spec) == SP_OK);
    int64_t due_ns, now_ns = sp_clock_now_ns();
    (void)ask(1, 7, 1, 0);
    CHECK_INT(turn(&due_ns), -1);
    CHECK(due_ns > now_ns + 900 * SP_NS_PER_MS && due_ns < now_ns + 5 * SP_NS_PER_S);
    (void)ask(2, 7, 7, 0); /* now it is full */
    CHECK_INT(turn(NULL), 2);
    check_pictures(2, 7);
    (void)ask(3, 7, 1, 0);
    cancelled[3] = true;
    sp_hall_remove(hall, &places[3].item); /* as the loop's sweep does */
    CHECK_INT(sp_hall_waiting(hall), 0);
    close_hall();
}

static void *run_batch(void *batch)
{
    sp_hall_run(hall, 0, batch);
    return NULL;
}

TEST(a_run_that_nobody_waits_for_is_cancelled)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    find_counters();
    (void)ask(1, 7, 1, 6);
    (void)ask(2, 7, 1, 0);
    sp_worker_batch batch = { 0 };
    sp_hall_next(hall, sp_clock_now_ns(), &batch);
    REQUIRE(batch.own && batch.count == 2);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, run_batch, &batch) == 0);
    while (!atomic_load(run_count))
        (void)poll(NULL, 0, 1);
    cancelled[1] = true;
    sp_hall_withdrawn(hall); /* the other one is still wanted */
    cancelled[2] = true;
    while (pthread_tryjoin_np(thread, NULL) != 0) {
        sp_hall_withdrawn(hall);
        (void)poll(NULL, 0, 1);
    }
    sp_hall_over(hall, &batch, sp_clock_now_ns());
    CHECK_INT(places[1].item.status, SP_CANCELLED);
    CHECK_INT(places[2].item.status, SP_CANCELLED);
    CHECK_INT(*run_count, 1); /* no half of it was tried again */
    close_hall();
}

TEST(instances_run_at_once_and_no_more)
{
    open_hall();
    sp_load_spec *spec = picture_spec(7);
    spec->config.batching.on = false;
    spec->config.group_count = 1;
    spec->config.groups[0].count = 2;
    REQUIRE(load(0, spec) == SP_OK);
    sp_worker_batch batches[3] = { 0 };
    for (int i = 1; i <= 3; i++)
        (void)ask(i, 7, 1, 0);
    for (int i = 0; i < 3; i++)
        sp_hall_next(hall, sp_clock_now_ns(), &batches[i]);
    CHECK(batches[0].own && batches[0].more && batches[1].own && !batches[1].more && !batches[2].own);
    for (int i = 0; i < 2; i++) {
        sp_hall_run(hall, i, &batches[i]);
        sp_hall_over(hall, &batches[i], sp_clock_now_ns());
    }
    turn_all();
    for (int i = 1; i <= 3; i++)
        check_pictures(i, 1);
    close_hall();
}

TEST(answers_keep_their_order_when_the_model_says_so)
{
    open_hall();
    sp_load_spec *spec = picture_spec(7);
    spec->config.batching.preserve_ordering = true;
    spec->config.max_batch_size = 1;
    spec->config.group_count = 1;
    spec->config.groups[0].count = 3;
    REQUIRE(load(0, spec) == SP_OK);
    sp_worker_batch batches[3] = { 0 };
    for (int i = 1; i <= 4; i++)
        (void)ask(i, 7, 1, 0);
    for (int i = 0; i < 3; i++)
        sp_hall_next(hall, sp_clock_now_ns(), &batches[i]);
    for (int i = 2; i >= 0; i--) {
        REQUIRE(batches[i].count == 1);
        sp_hall_run(hall, i, &batches[i]);
        sp_hall_over(hall, &batches[i], sp_clock_now_ns());
        CHECK_INT(places[3].finished, i == 0);
    }
    turn_all();
    for (int i = 1; i < 4; i++)
        CHECK(places[i].order < places[i + 1].order);
    close_hall();
}

TEST(resources_are_shared_and_priorities_take_turns)
{
    open_hall();
    for (uint32_t id = 1; id <= 2; id++) {
        sp_load_spec *spec = picture_spec(id);
        spec->config.batching.on = false;
        spec->config.group_count = 1;
        spec->config.groups[0].count = 2;
        spec->config.groups[0].resource_count = 1;
        (void)snprintf(spec->config.groups[0].resources[0].name, 64, "R");
        spec->config.groups[0].resources[0].count = 3 + id; /* 4, 5: the pool is 5 */
        spec->config.groups[0].rate_priority = id == 1 ? 1 : 3;
        REQUIRE(load(0, spec) == SP_OK);
    }
    int order[12], count = 0;
    for (int i = 1; i <= 12; i++)
        (void)ask(i, i <= 8 ? 1 : 2, 1, 0);
    for (; count < 12; count++) {
        sp_worker_batch one = { 0 }, two = { 0 };
        sp_hall_next(hall, sp_clock_now_ns(), &one);
        sp_hall_next(hall, sp_clock_now_ns(), &two);
        REQUIRE(one.count == 1);
        CHECK(!two.own); /* 4 + 4 are more than 5 */
        order[count] = (int)one.items[0]->submission->slot;
        sp_hall_run(hall, 0, &one);
        sp_hall_over(hall, &one, sp_clock_now_ns());
    }
    int of_second = 0;
    for (int i = 0; i < 8; i++)
        of_second += order[i] > 8;
    CHECK_INT(of_second, 2); /* a third of the first's share */
    close_hall();
}

/* --- forms ----------------------------------------------------------------------------------------------------------- */

TEST(classes_are_written_as_triton_writes_them)
{
    open_hall();
    sp_load_spec *spec = picture_spec(7);
    char path[sizeof(spec->directory) + 16];
    (void)snprintf(spec->config.outputs[0].label_filename, 64, "labels.txt");
    (void)snprintf(path, sizeof(path), "%s/labels.txt", spec->directory);
    FILE *file = fopen(path, "we");
    REQUIRE(file && fputs("ant\r\nbee\n\ndog", file) >= 0 && fclose(file) == 0);
    REQUIRE(load(0, spec) == SP_OK);
    make_pictures(1, 7, 2, 0);
    float *values = (float *)(void *)places[1].body;
    memcpy(values, (float[]){ 0.25f, 1.5f, 8, -2 }, 16);
    memcpy(values + VALUES, (float[]){ 3, 3, 1, 1e10f }, 16);
    places[1].head.wishes[0].classes = 3;
    (void)submit(1, SP_OP_INFER);
    turn_all();
    REQUIRE(places[1].item.status == SP_OK);
    static const char *const expected[] = { "8.000000:2", "1.500000:1:bee", "0.250000:0:ant",
                                            "10000000000.000000:3:dog", "3.000000:0:ant", "3.000000:1:bee" };
    const sp_infer_output *output = &answer_of(1)->outputs[0];
    CHECK_INT(output->dtype, SP_DTYPE_BYTES);
    CHECK_INT(output->rank, 2);
    CHECK_INT(output->dims[0], 2);
    CHECK_INT(output->dims[1], 3);
    const uint8_t *at = data_of(1, 0);
    for (int i = 0; i < 6; i++) {
        uint32_t length;
        char text[64];
        memcpy(&length, at, 4);
        (void)snprintf(text, sizeof(text), "%.*s", (int)length, (const char *)at + 4);
        CHECK_TEXT(text, expected[i]);
        at += 4 + length;
    }
    CHECK_INT(at - data_of(1, 0), output->bytes);
    make_pictures(1, 7, 1, 0);
    places[1].head.wishes[0].classes = 1;
    places[1].head.wishes[0].form = SP_FORM_JSON;
    (void)submit(1, SP_OP_INFER);
    turn_all();
    CHECK_BYTES(data_of(1, 0), "[\"10.000000:0:ant\"]", 19);
    close_hall();
}

TEST(json_text_and_limits)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    make_pictures(1, 7, 1, 0);
    places[1].head.wishes[0].form = SP_FORM_JSON;
    (void)submit(1, SP_OP_INFER);
    make_pictures(2, 7, 1, 0);
    places[2].head.wishes[0].limit_bytes = 15;
    (void)submit(2, SP_OP_INFER);
    turn_all();
    const sp_infer_output *output = &answer_of(1)->outputs[0];
    CHECK_INT(output->form, SP_FORM_JSON);
    CHECK_INT(output->dtype, SP_ENGINE_F32);
    char text[64];
    (void)snprintf(text, sizeof(text), "%.*s", (int)output->bytes, (const char *)data_of(1, 0));
    CHECK_TEXT(text, "[10.0,0.0,0.0,0.0]");
    CHECK_INT(places[2].item.status, SP_INVALID);
    CHECK(strstr(places[2].item.error.message, "at least 16 bytes") != NULL);
    close_hall();
}

TEST(identity_gives_back_what_it_got)
{
    open_hall();
    REQUIRE(load(0, identity_spec(7, SP_ENGINE_U8)) == SP_OK);
    place *at = &places[1];
    for (int i = 0; i < 256; i++)
        at->body[i] = (uint8_t)i;
    at->item.body = sp_view_make(at->body, 256);
    at->head = (sp_infer_head){ .model = 7, .input_count = 1, .wish_count = 1 };
    at->head.inputs[0] = (sp_infer_tensor){ .dtype = SP_ENGINE_U8, .rank = 2, .offset = 6, .bytes = 250, .dims = { 2, 125 } };
    (void)submit(1, SP_OP_INFER);
    sp_worker_batch batch = { 0 };
    sp_hall_next(hall, sp_clock_now_ns(), &batch);
    CHECK(batch.brief);
    sp_hall_run(hall, 0, &batch);
    sp_hall_over(hall, &batch, sp_clock_now_ns());
    REQUIRE(at->item.status == SP_OK);
    CHECK_BYTES(data_of(1, 0), at->body + 6, 250);
    CHECK_INT(answer_of(1)->outputs[0].dims[1], 125);
    CHECK_INT(answer_of(1)->batch_rows, 2);
    close_hall();
}

TEST(a_quick_model_is_run_by_the_leader_when_it_is_alone)
{
    open_hall();
    REQUIRE(load(0, picture_spec(7)) == SP_OK);
    for (int i = 0; i < 200; i++) { /* what a busy machine took for the first ones is forgotten */
        (void)ask(1, 7, 1, 0);
        turn_all();
    }
    sp_worker_batch batch = { 0 }, second = { 0 };
    (void)ask(1, 7, 1, 0);
    sp_hall_next(hall, sp_clock_now_ns(), &batch);
    (void)printf("# brief: %d\n", batch.brief); /* a matter of time: not checked */
    (void)ask(2, 7, 2, 0);
    sp_hall_next(hall, sp_clock_now_ns(), &second);
    CHECK(!second.own); /* one instance */
    sp_hall_run(hall, 0, &batch);
    sp_hall_over(hall, &batch, sp_clock_now_ns());
    (void)ask(3, 7, 2, 0);
    sp_hall_next(hall, sp_clock_now_ns(), &second);
    CHECK(second.count == 2 && !second.brief); /* two, and of another shape than is known to be quick */
    sp_hall_run(hall, 0, &second);
    sp_hall_over(hall, &second, sp_clock_now_ns());
    check_pictures(3, 2);
    close_hall();
}

TEST(reshapes_are_between_client_and_model)
{
    open_hall();
    sp_load_spec *spec = picture_spec(7);
    sp_model_port *in = &spec->config.inputs[0], *out = &spec->config.outputs[0];
    add_port(in, "x", SP_ENGINE_F32, 1, (const int64_t[]){ VALUES });
    in->has_reshape = true;
    in->reshape_rank = 3;
    memcpy(in->reshape, (int64_t[]){ 3, 8, 8 }, 24);
    add_port(out, "y", SP_ENGINE_F32, 2, (const int64_t[]){ 2, 2 });
    out->has_reshape = true;
    out->reshape_rank = 1;
    out->reshape[0] = 4;
    REQUIRE(load(0, spec) == SP_OK);
    make_pictures(1, 7, 2, 0);
    places[1].head.inputs[0].rank = 2;
    places[1].head.inputs[0].dims[1] = VALUES;
    (void)submit(1, SP_OP_INFER);
    turn_all();
    REQUIRE(places[1].item.status == SP_OK);
    CHECK_INT(answer_of(1)->outputs[0].rank, 3);
    CHECK_INT(answer_of(1)->outputs[0].dims[0], 2);
    CHECK_INT(answer_of(1)->outputs[0].dims[2], 2);
    close_hall();
}

/* --- memory ---------------------------------------------------------------------------------------------------------- */

TEST(who_was_not_used_for_longest_is_put_aside_and_comes_back)
{
    open_hall_of("cpu", 5 << 19, NULL); /* 2.5 MiB; a model takes 1 */
    for (uint32_t id = 1; id <= 3; id++) {
        REQUIRE(load(0, picture_spec(id)) == SP_OK);
        (void)ask((int)id, id, 1, 0);
        turn_all();
        check_pictures((int)id, 1);
    }
    for (int turns = 0; turns < 12; turns++) {
        (void)ask(1, (uint32_t)(1 + turns % 3), 1, 0);
        turn_all();
        check_pictures(1, 1);
    }
    sp_load_spec *large = picture_spec(9);
    REQUIRE(truncate(large->path, 3 << 20) == 0);
    CHECK_INT(load(0, large), SP_NOMEM);
    CHECK_TEXT(places[0].item.error.code, "model_memory");
    close_hall();
}

TEST(a_file_that_was_replaced_is_not_opened_for_the_old_model)
{
    open_hall_of("cpu", 3 << 19, NULL); /* 1.5 MiB: one model */
    sp_load_spec *spec = picture_spec(1);
    char path[sizeof(spec->path)];
    memcpy(path, spec->path, sizeof(path));
    REQUIRE(load(0, spec) == SP_OK);
    REQUIRE(load(0, picture_spec(2)) == SP_OK); /* puts it aside */
    REQUIRE(truncate(path, 1000) == 0);
    sp_work_item *item = ask(1, 1, 1, 0);
    turn_all();
    CHECK_INT(item->status, SP_UNSUPPORTED);
    CHECK_TEXT(item->error.code, "model_changed");
    (void)ask(1, 2, 1, 0);
    turn_all();
    check_pictures(1, 1);
    close_hall();
}

TEST(one_that_runs_is_waited_for)
{
    open_hall_of("cpu", 3 << 19, NULL); /* 1.5 MiB */
    REQUIRE(load(0, picture_spec(1)) == SP_OK);
    sp_worker_batch batch = { 0 };
    (void)ask(1, 1, 1, 0);
    sp_hall_next(hall, sp_clock_now_ns(), &batch);
    places[2].submission.attempt_deadline_ns = sp_clock_now_ns() + 20 * SP_NS_PER_MS;
    sp_work_item *item = submit_spec(2, SP_OP_LOAD, picture_spec(2));
    turn_all();
    CHECK_INT(item->status, SP_NOMEM); /* it ran all the time */
    sp_hall_run(hall, 0, &batch);
    sp_hall_over(hall, &batch, sp_clock_now_ns());
    check_pictures(1, 1);
    places[2].submission.attempt_deadline_ns = 0;
    sp_buf_done(&places[2].text);
    CHECK_INT(load(2, picture_spec(2)), SP_OK);
    close_hall();
}

TEST(a_run_that_lacks_memory_gets_the_room_of_others)
{
    sp_sim *sim = NULL;
    sp_error err = { 0 };
    REQUIRE(sp_sim_new("memory=4MiB,item=2MiB", "sim0", &sim, &err) == SP_OK);
    open_hall_of("sim", 1 << 30, sim);
    for (uint32_t id = 1; id <= 3; id++)
        REQUIRE(load(0, picture_spec(id)) == SP_OK);
    (void)ask(1, 3, 1, 0); /* asks 2 MiB, 1 is free: the first model goes */
    turn_all();
    check_pictures(1, 1);
    (void)ask(1, 1, 1, 0); /* and comes back at the cost of another */
    turn_all();
    check_pictures(1, 1);
    close_hall();
    sp_sim_free(sim);
}

/* --- threads --------------------------------------------------------------------------------------------------------- */

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER; /* as the loop's */
static atomic_bool stop;

static void *executor_main(void *argument)
{
    int executor = *(int *)argument;
    while (!atomic_load(&stop)) {
        sp_worker_batch batch = { 0 };
        (void)pthread_mutex_lock(&queue_lock);
        sp_hall_next(hall, sp_clock_now_ns(), &batch);
        (void)pthread_mutex_unlock(&queue_lock);
        if (!batch.own) {
            (void)poll(NULL, 0, 1);
            continue;
        }
        sp_hall_run(hall, executor, &batch);
        (void)pthread_mutex_lock(&queue_lock);
        sp_hall_over(hall, &batch, sp_clock_now_ns());
        (void)pthread_mutex_unlock(&queue_lock);
    }
    return NULL;
}

static bool is_finished(int slot)
{
    (void)pthread_mutex_lock(&queue_lock);
    bool finished = places[slot].finished;
    (void)pthread_mutex_unlock(&queue_lock);
    return finished;
}

TEST(loads_runs_and_evictions_at_once)
{
    open_hall_of("cpu", 5 << 19, NULL);
    for (uint32_t id = 1; id <= 4; id++) {
        sp_load_spec *spec = picture_spec(id);
        spec->config.group_count = 1;
        spec->config.groups[0].count = 2;
        REQUIRE(load(0, spec) == SP_OK);
    }
    pthread_t threads[4];
    int numbers[4] = { 0, 1, 2, 3 }, answered = 0;
    atomic_store(&stop, false);
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, executor_main, &numbers[i]) == 0);
    bool asked[SLOTS] = { false };
    int64_t until_ns = sp_clock_now_ns() + 20 * SP_NS_PER_S;
    while (answered < 600 && sp_clock_now_ns() < until_ns) {
        for (int i = 1; i < 13; i++) {
            if (asked[i] && !is_finished(i))
                continue;
            if (asked[i]) {
                check_pictures(i, 1 + i % 3);
                answered++;
            }
            make_pictures(i, 1 + (uint32_t)test_random_between(0, 3), 1 + i % 3, 0);
            (void)pthread_mutex_lock(&queue_lock);
            (void)submit(i, SP_OP_INFER);
            (void)pthread_mutex_unlock(&queue_lock);
            asked[i] = true;
        }
    }
    for (int i = 1; i < 13; i++)
        while (asked[i] && !is_finished(i) && sp_clock_now_ns() < until_ns) { }
    atomic_store(&stop, true);
    for (int i = 0; i < 4; i++)
        (void)pthread_join(threads[i], NULL);
    CHECK(answered >= 600);
    close_hall();
}

TEST(a_hundred_loads_leave_nothing_behind)
{
    open_hall();
    for (int i = 0; i < 100; i++) {
        REQUIRE(load(0, picture_spec(7)) == SP_OK);
        (void)ask(1, 7, 2, 0);
        turn_all();
        check_pictures(1, 2);
        (void)submit_spec(2, SP_OP_UNLOAD, picture_spec(7));
        turn_all();
        CHECK(places[2].finished);
        sp_buf_done(&places[2].text);
    }
    close_hall();
}
