/* SPDX-License-Identifier: Apache-2.0
 * Served models in the house: loads, restarts, swaps, choosing, tensors there and back. Over scripted workers. */
#include "scripted.h"

#include "base/clock.h"
#include "route/internal.h"
#include "test.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define MS SP_NS_PER_MS

/* What a load told. */
typedef struct told {
    int count;
    sp_status status;
    char code[32], message[256];
} told;

static void loaded(uint32_t id, sp_status status, const sp_error *err, void *context)
{
    told *t = context;
    t->count++;
    t->status = status;
    (void)snprintf(t->code, sizeof(t->code), "%s", err ? err->code : "");
    (void)snprintf(t->message, sizeof(t->message), "%s", err ? err->message : "");
}

static uint32_t begin_load(stage *s, const char *more, int timeout_ms, told *t)
{
    char spec[256];
    sp_error err = { 0 };
    uint32_t id = sp_house_model_number(s->house);
    (void)snprintf(spec, sizeof(spec), "{\"id\":%u%s}", id, more);
    *t = (told){ 0 };
    sp_status status = sp_house_model_load(s->house, id, sp_view_make(spec, strlen(spec)), timeout_ms * MS, loaded, t, &err);
    if (status)
        test_fail(__FILE__, __LINE__, "load: %s", err.message);
    REQUIRE(status == SP_OK);
    return id;
}

static void wait_told(stage *s, const told *t)
{
    for (int64_t until_ns = sp_clock_now_ns() + 10 * SP_NS_PER_S; !t->count && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(s->loop, 20 * MS, NULL);
    CHECK_INT(t->count, 1);
}

static uint32_t load(stage *s)
{
    told t;
    uint32_t id = begin_load(s, "", 5000, &t);
    wait_told(s, &t);
    REQUIRE(t.status == SP_OK);
    return id;
}

static sp_loaded_info place(const stage *s, uint32_t id, const char *worker)
{
    sp_loaded_info infos[SP_LIMIT_WORKERS];
    int count = sp_house_model_info(s->house, id, infos, SP_LIMIT_WORKERS);
    for (int i = 0; i < count; i++) {
        if (strcmp(infos[i].worker, worker) == 0)
            return infos[i];
    }
    return (sp_loaded_info){ .state = SP_LOADED_ABSENT };
}

static void wait_place(stage *s, uint32_t id, const char *worker, sp_loaded_state state)
{
    for (int64_t until_ns = sp_clock_now_ns() + 10 * SP_NS_PER_S;
         place(s, id, worker).state != state && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(s->loop, 20 * MS, NULL);
    CHECK_INT(place(s, id, worker).state, state);
}

static int worker_number(const stage *s, const char *name)
{
    sp_worker_info info = { 0 };
    for (int i = 0; i < sp_house_worker_count(s->house); i++) {
        sp_house_worker_info(s->house, i, &info);
        if (strcmp(info.name, name) == 0)
            return i;
    }
    return -1;
}

static void kill_worker(stage *s, const char *name)
{
    sp_worker_info info = { 0 };
    sp_house_worker_info(s->house, worker_number(s, name), &info);
    (void)kill(info.pid, SIGKILL);
}

/* --- requests of tensors -------------------------------------------------------------------------------------------- */

typedef struct asked {
    stage *s;
    sp_request *request;
    int answers, timeout_ms;
    uint64_t sequence;
    sp_status status;
    char code[32], link[32];
    bool right; /* its own bytes came back, said to be what they are */
    uint64_t bytes;
    uint8_t fill;
    int step_count;
    sp_pin pin;
    sp_answer_memory *memory; /* kept when it was asked for, with where the bytes lie */
    const uint8_t *kept;
    bool keep;
} asked;

static void answered(sp_request *request, const sp_answer *answer, void *context)
{
    asked *a = context;
    a->answers++;
    a->status = answer->status;
    a->pin = answer->pin;
    (void)snprintf(a->code, sizeof(a->code), "%s", answer->error.code);
    (void)snprintf(a->link, sizeof(a->link), "%s", answer->link);
    a->step_count = answer->step_count;
    if (answer->status == SP_OK) {
        const sp_infer_output *out = &answer->infer->outputs[0];
        a->right = answer->infer->count == 1 && out->bytes == a->bytes && out->dims[0] == (int64_t)a->bytes;
        for (uint64_t i = 0; i < out->bytes && a->right; i++)
            a->right = answer->infer_data[out->offset + i] == a->fill;
        a->s->ok++;
        if (a->keep) {
            a->memory = sp_answer_memory_ref(answer->memory);
            a->kept = answer->infer_data + out->offset;
        }
    }
    a->s->answered++;
    a->request = NULL;
    sp_request_close(request);
}

static void fill_head(sp_request *request, uint64_t bytes, bool in_output)
{
    sp_infer_head *head = sp_request_infer_head(request);
    head->input_count = head->wish_count = 1;
    head->inputs[0] = (sp_infer_tensor){ .dtype = 2, .rank = 1, .in_output = in_output, .bytes = bytes };
    head->inputs[0].dims[0] = (int64_t)bytes;
    head->wishes[0] = (sp_infer_wish){ 0 };
}

static sp_status ask(stage *s, asked *a, uint32_t id, sp_pin pin, const char *only)
{
    sp_error err = { 0 };
    int retry;
    int64_t now_ns = sp_clock_now_ns();
    const sp_request_params params = { .task = SP_TASK_INFER, .model_id = id, .pin = pin, .received_ns = now_ns,
                                       .deadline_ns = now_ns + (a->timeout_ms ? a->timeout_ms : 5000) * MS, .only_link = only };
    a->s = s;
    a->bytes = a->bytes ? a->bytes : 16;
    a->fill = (uint8_t)(a->fill ? a->fill : 7);
    sp_status status = sp_request_open(s->house, &params, &a->request, &retry, &err);
    if (status) {
        (void)snprintf(a->code, sizeof(a->code), "%s", err.code);
        return status;
    }
    void *room = sp_request_room(a->request, a->bytes, &err);
    REQUIRE(room != NULL);
    memset(room, a->fill, a->bytes);
    fill_head(a->request, a->bytes, false);
    sp_request_infer_head(a->request)->sequence_id = a->sequence;
    sp_request_submit(a->request, answered, a);
    return SP_OK;
}

/* Until this one has its answer, whoever else is answered meanwhile. */
static void wait_for(stage *s, const asked *a)
{
    for (int64_t until_ns = sp_clock_now_ns() + 20 * SP_NS_PER_S; !a->answers && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(s->loop, 20 * MS, NULL);
    REQUIRE(a->answers == 1); /* else its callback would come when the caller's frame is gone */
}

static void one(stage *s, asked *a, uint32_t id)
{
    a->answers = 0;
    sp_status status = ask(s, a, id, (sp_pin){ 0 }, NULL);
    CHECK_INT(status, SP_OK);
    if (!status)
        wait_for(s, a);
}

static void nothing_is_left(stage *s)
{
    stage_settle(s);
    CHECK_INT(s->house->open_count, 0);
    CHECK_INT(s->house->leased_count, 0);
    CHECK_INT(s->house->free_count, SP_LIMIT_SLOTS);
    CHECK_INT(s->house->models.open_count, 0);
    CHECK_INT(s->house->body_bytes_held, 0);
    for (int i = 0; i < s->house->worker_count; i++) {
        CHECK_INT(s->house->workers[i].in_flight, 0);
        CHECK_INT(s->house->workers[i].infer_in_flight, 0);
        CHECK_INT(s->house->workers[i].models_in_flight, 0);
    }
}

/* --- tensors --------------------------------------------------------------------------------------------------------- */

TEST(a_tensor_goes_there_and_comes_back)
{
    stage s;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t id = load(&s);
    CHECK(sp_house_model_ready(s.house, id, NULL));
    CHECK_TEXT(place(&s, id, "cpu0").loaded.engine, "script");
    asked a = { 0 };
    one(&s, &a, id);
    CHECK_INT(a.status, SP_OK);
    CHECK(a.right);
    CHECK_TEXT(a.link, "cpu0");
    asked large = { .bytes = 5 * 1024 * 1024, .fill = 9 }; /* in a memfd there, and far beyond an ordinary answer back */
    one(&s, &large, id);
    CHECK(large.right);
    CHECK_INT(sp_house_model_open_count(s.house, id), 0);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(an_answer_that_lies_is_refused_and_another_link_asked)
{
    static const char *const lies[] = { "count", "place", "port", "shape", "size", "steps", "short" };
    stage s;
    stage_open(&s, "cuda0,cpu0", NULL, 0);
    uint32_t id = load(&s);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    for (size_t i = 0; i < SP_ARRAY_LEN(lies); i++) {
        char text[32];
        (void)snprintf(text, sizeof(text), "wrong=%s", lies[i]);
        stage_script(&s, "cuda0", text);
        asked a = { 0 };
        one(&s, &a, id);
        CHECK_INT(a.status, SP_OK);
        CHECK(a.right);
        CHECK_TEXT(a.link, "cpu0");
    }
    stage_script(&s, "cuda0", "steps=3");
    asked a = { 0 };
    int before = s.answered;
    CHECK_INT(ask(&s, &a, id, (sp_pin){ 0 }, "cuda0"), SP_OK);
    stage_wait(&s, before + 1, 10000);
    CHECK_INT(a.status, SP_OK);
    CHECK_INT(a.step_count, 3);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(an_answer_outlives_the_worker_that_wrote_it)
{
    stage s;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t id = load(&s);
    asked a = { .bytes = 100000, .fill = 0x5a, .keep = true };
    one(&s, &a, id);
    CHECK(a.right);
    kill_worker(&s, "cpu0");
    wait_place(&s, id, "cpu0", SP_LOADED_LOADING);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    CHECK(a.kept[0] == 0x5a && a.kept[99999] == 0x5a);
    sp_answer_memory_unref(a.memory);
    stage_close(&s);
}

static sp_status fill_from_header(sp_request *request, sp_view header, uint64_t tensor_bytes, void *context, sp_error *reterr)
{
    char text[16];
    (void)snprintf(text, sizeof(text), "%.*s", (int)header.size_bytes, (const char *)header.data);
    fill_head(request, tensor_bytes, true);
    return strcmp(text, "good") == 0 ? SP_OK : SP_FAIL_CODE(reterr, SP_INVALID, "header", "the header says %s", text);
}

static void ask_packed(stage *s, asked *a, uint32_t id, const char *header, uint64_t bytes, uint8_t fill)
{
    sp_error err = { 0 };
    int retry, before = s->answered;
    int64_t now_ns = sp_clock_now_ns();
    const sp_request_params params = { .task = SP_TASK_INFER, .model_id = id, .received_ns = now_ns,
                                       .deadline_ns = now_ns + 5 * SP_NS_PER_S, .unpacked = fill_from_header };
    *a = (asked){ .s = s, .bytes = bytes, .fill = fill };
    REQUIRE(sp_request_open(s->house, &params, &a->request, &retry, &err) == SP_OK);
    REQUIRE(sp_request_append(a->request, header, strlen(header), &err) == SP_OK);
    REQUIRE(sp_request_append(a->request, "\n", 1, &err) == SP_OK);
    for (uint64_t i = 0; i < bytes; i++)
        REQUIRE(sp_request_append(a->request, &fill, 1, &err) == SP_OK);
    sp_request_set_unpack(a->request, SP_ENCODING_GZIP, 0);
    sp_request_submit(a->request, answered, a);
    stage_wait(s, before + 1, 10000);
    CHECK_INT(a->answers, 1);
}

TEST(what_a_codec_unpacks_is_the_input)
{
    stage s;
    stage_open(&s, "codec0,cuda0,cpu0", NULL, 0);
    uint32_t id = load(&s);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    asked a;
    ask_packed(&s, &a, id, "good", 20, 3);
    CHECK_INT(a.status, SP_OK);
    CHECK(a.right);
    ask_packed(&s, &a, id, "good", 100000, 4);
    CHECK(a.right);
    ask_packed(&s, &a, id, "good", 0, 1);
    CHECK_INT(a.status, SP_OK);
    ask_packed(&s, &a, id, "bad", 20, 3);
    CHECK_INT(a.status, SP_INVALID);
    CHECK_TEXT(a.code, "header");
    stage_script(&s, "cuda0", "status=internal"); /* the next link takes what was unpacked once */
    ask_packed(&s, &a, id, "good", 5000, 6);
    CHECK(a.right);
    CHECK_TEXT(a.link, "cpu0");
    stage_script(&s, "codec0", "status=unsupported");
    ask_packed(&s, &a, id, "good", 20, 3);
    CHECK_INT(a.status, SP_UNSUPPORTED);
    nothing_is_left(&s);
    stage_close(&s);
    stage_open(&s, "cpu0", NULL, 0);
    id = load(&s);
    ask_packed(&s, &a, id, "good", 20, 3);
    CHECK_TEXT(a.code, "no_codec");
    stage_close(&s);
}

/* --- loads ------------------------------------------------------------------------------------------------------------ */

TEST(a_model_that_one_worker_refuses_is_served_by_the_other)
{
    stage s;
    stage_open(&s, "cuda0,cpu0", NULL, 0);
    stage_script(&s, "cuda0.load1", "status=unsupported");
    uint32_t id = load(&s);
    CHECK_INT(id, 1);
    CHECK_INT(place(&s, id, "cuda0").state, SP_LOADED_FAILED);
    CHECK_INT(place(&s, id, "cuda0").status, SP_UNSUPPORTED);
    for (int i = 0; i < 3; i++) {
        asked a = { 0 };
        one(&s, &a, id);
        CHECK_INT(a.status, SP_OK);
        CHECK_TEXT(a.link, "cpu0");
    }
    kill_worker(&s, "cuda0"); /* it has said what it thinks of this model: it is not asked again */
    stage_turn(&s, 300);
    CHECK_INT(stage_log_count(&s, "cuda0 8 1 "), 1);
    stage_close(&s);
}

TEST(a_load_that_nobody_can_do_tells_the_most_telling_reason)
{
    stage s;
    told t;
    stage_open(&s, "cuda0,cpu0", NULL, 0);
    stage_script(&s, "cuda0.load1", "status=unsupported");
    stage_script(&s, "cpu0.load1", "status=invalid");
    uint32_t id = begin_load(&s, "", 5000, &t);
    wait_told(&s, &t);
    CHECK_INT(t.status, SP_INVALID);
    CHECK(strstr(t.message, "cpu0") != NULL);
    asked a = { 0 };
    CHECK_INT(ask(&s, &a, id, (sp_pin){ 0 }, NULL), SP_UNAVAILABLE);
    CHECK_TEXT(a.code, "not_loaded");
    sp_house_model_unload(s.house, id);
    CHECK_INT(ask(&s, &a, id, (sp_pin){ 0 }, NULL), SP_NOT_FOUND);
    stage_turn(&s, 50);
    CHECK_INT(s.house->models.count, 0);
    stage_close(&s);
}

TEST(a_model_that_ends_its_worker_twice_is_left_alone)
{
    stage s;
    told t;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t good = load(&s);
    stage_script(&s, "cpu0.load2", "segv");
    uint32_t bad = begin_load(&s, "", 20000, &t);
    wait_told(&s, &t);
    CHECK_INT(t.status, SP_CORRUPT);
    CHECK_TEXT(t.code, "crashed_load");
    CHECK_INT(place(&s, bad, "cpu0").state, SP_LOADED_FAILED);
    CHECK_INT(stage_log_count(&s, "cpu0 8 2 "), 2);
    wait_place(&s, good, "cpu0", SP_LOADED_READY);
    asked a = { 0 };
    one(&s, &a, good);
    CHECK_INT(a.status, SP_OK);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_load_that_hangs_is_given_up_and_holds_up_nobody)
{
    stage s;
    told t;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t good = load(&s);
    stage_script(&s, "cpu0.load2", "delay=60000");
    uint32_t bad = begin_load(&s, "", 400, &t);
    stage_turn(&s, 50);
    asked a = { 0 };
    one(&s, &a, good);
    CHECK_INT(a.status, SP_OK);
    CHECK_INT(t.count, 0);
    wait_told(&s, &t);
    CHECK_INT(t.status, SP_TIMEOUT);
    CHECK_TEXT(t.code, "load_timeout");
    uint32_t third = load(&s);
    asked b = { 0 };
    one(&s, &b, third);
    CHECK_INT(b.status, SP_OK);
    sp_house_model_unload(s.house, bad);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(loads_wait_for_their_turn_longer_than_one_may_take)
{
    stage s;
    told all[6];
    stage_open(&s, "cpu0", NULL, 0);
    for (int i = 0; i < 6; i++) {
        char script[32];
        (void)snprintf(script, sizeof(script), "cpu0.load%d", i + 1);
        stage_script(&s, script, "delay=100");
        (void)begin_load(&s, "", 400, &all[i]);
    }
    for (int i = 0; i < 6; i++) {
        wait_told(&s, &all[i]);
        CHECK_INT(all[i].status, SP_OK);
    }
    stage_close(&s);
}

TEST(a_restarted_worker_gets_its_models_before_their_requests)
{
    stage s;
    told t;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t ids[12];
    for (int i = 0; i < 11; i++)
        ids[i] = load(&s);
    char steps[64];
    (void)snprintf(steps, sizeof(steps), ",\"step_models\":[%u,0,%u]", ids[10], ids[0]);
    ids[11] = begin_load(&s, steps, 5000, &t);
    wait_told(&s, &t);
    CHECK_INT(t.status, SP_OK);
    stage_script(&s, "cpu0.load11", "delay=150"); /* a step of the ensemble that takes its time */
    kill_worker(&s, "cpu0");
    wait_place(&s, ids[0], "cpu0", SP_LOADED_LOADING);
    asked all[12] = { 0 };
    int before = s.answered;
    for (int i = 0; i < 12; i++)
        CHECK_INT(ask(&s, &all[i], ids[i], (sp_pin){ 0 }, NULL), SP_OK);
    stage_wait(&s, before + 12, 10000);
    for (int i = 0; i < 12; i++) {
        CHECK_INT(all[i].status, SP_OK);
        CHECK(all[i].right);
    }
    CHECK(place(&s, ids[11], "cpu0").state == SP_LOADED_READY);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_slow_load_after_a_restart_holds_up_its_own_requests_only)
{
    stage s;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t slow = load(&s), quick = load(&s);
    stage_script(&s, "cpu0.load1", "delay=500");
    kill_worker(&s, "cpu0");
    wait_place(&s, quick, "cpu0", SP_LOADED_LOADING);
    asked waiting[100] = { 0 }, through[2] = { 0 };
    int before = s.answered;
    CHECK_INT(ask(&s, &through[0], quick, (sp_pin){ 0 }, NULL), SP_OK); /* somebody waits for this one: it is loaded first */
    stage_wait(&s, before + 1, 10000);
    CHECK_INT(through[0].status, SP_OK);
    CHECK_INT(place(&s, slow, "cpu0").state, SP_LOADED_LOADING);
    for (int i = 0; i < 100; i++)
        CHECK_INT(ask(&s, &waiting[i], slow, (sp_pin){ 0 }, NULL), SP_OK);
    CHECK_INT(ask(&s, &through[1], quick, (sp_pin){ 0 }, NULL), SP_OK);
    stage_wait(&s, before + 2, 10000);
    CHECK_INT(through[1].answers, 1);
    CHECK_INT(through[1].status, SP_OK);
    stage_wait(&s, before + 102, 10000);
    for (int i = 0; i < 100; i++)
        CHECK_INT(waiting[i].status, SP_OK);
    stage_close(&s);
}

/* --- swaps and deaths -------------------------------------------------------------------------------------------------- */

TEST(requests_of_the_old_number_go_on_while_the_new_one_is_loaded)
{
    stage s;
    stage_open(&s, "cuda0,cpu0", NULL, 0);
    uint32_t old = load(&s);
    static asked all[600];
    memset(all, 0, sizeof(all));
    int sent = 0;
    for (int round = 0; round < 20; round++) {
        told t;
        char script[32];
        (void)snprintf(script, sizeof(script), "cpu0.load%u", old + 1);
        stage_script(&s, script, "delay=10");
        for (int i = 0; i < 10; i++)
            CHECK_INT(ask(&s, &all[sent++], old, (sp_pin){ 0 }, NULL), SP_OK);
        uint32_t fresh = begin_load(&s, "", 5000, &t);
        for (int i = 0; i < 10; i++)
            CHECK_INT(ask(&s, &all[sent++], old, (sp_pin){ 0 }, NULL), SP_OK);
        wait_told(&s, &t);
        for (int i = 0; i < 10; i++)
            CHECK_INT(ask(&s, &all[sent++], old, (sp_pin){ 0 }, NULL), SP_OK);
        sp_house_model_unload(s.house, old); /* ten of them may be on their way yet */
        asked late = { 0 };
        CHECK_INT(ask(&s, &late, old, (sp_pin){ 0 }, NULL), SP_NOT_FOUND);
        old = fresh;
    }
    stage_wait(&s, sent, 10000);
    for (int i = 0; i < sent; i++)
        CHECK(all[i].status == SP_OK && all[i].right);
    stage_turn(&s, 100);
    CHECK_INT(s.house->models.count, 1); /* the others were let go of */
    CHECK_INT(stage_log_count(&s, "cpu0 9 "), 20);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_death_with_a_hundred_in_flight_loses_none)
{
    stage s;
    stage_open(&s, "cpu0,cpu1", NULL, 0);
    uint32_t id = load(&s);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    wait_place(&s, id, "cpu1", SP_LOADED_READY);
    stage_script(&s, "cpu0", "delay=100");
    stage_script(&s, "cpu1", "delay=100");
    static asked all[200];
    memset(all, 0, sizeof(all));
    for (int i = 0; i < 200; i++) {
        all[i].fill = (uint8_t)(i % 200 + 1);
        CHECK_INT(ask(&s, &all[i], id, (sp_pin){ 0 }, NULL), SP_OK);
    }
    stage_turn(&s, 20);
    kill_worker(&s, "cpu0");
    stage_turn(&s, 20);
    kill_worker(&s, "cpu1"); /* now nobody has it: they wait for whoever loads it first */
    sp_house_model_unload(s.house, id); /* and it is no longer wanted but for them */
    stage_wait(&s, 200, 10000);
    CHECK_INT(s.ok, 200);
    for (int i = 0; i < 200; i++)
        CHECK(all[i].right && all[i].answers == 1);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_pinned_request_goes_to_its_incarnation_or_is_told_that_it_is_lost)
{
    stage s;
    stage_open(&s, "cpu0,cpu1", NULL, 0);
    uint32_t id = load(&s);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    wait_place(&s, id, "cpu1", SP_LOADED_READY);
    asked first = { 0 };
    one(&s, &first, id);
    CHECK(first.pin.incarnation != 0);
    int before = s.answered;
    asked all[20] = { 0 };
    for (int i = 0; i < 20; i++)
        CHECK_INT(ask(&s, &all[i], id, first.pin, NULL), SP_OK);
    stage_wait(&s, before + 20, 10000);
    for (int i = 0; i < 20; i++)
        CHECK_TEXT(all[i].link, first.link);
    stage_script(&s, first.link, "delay=5000");
    asked held = { 0 }, after = { 0 };
    before = s.answered;
    CHECK_INT(ask(&s, &held, id, first.pin, NULL), SP_OK);
    stage_turn(&s, 20);
    kill_worker(&s, first.link);
    stage_wait(&s, before + 1, 10000);
    CHECK_INT(held.status, SP_UNAVAILABLE);
    CHECK_TEXT(held.code, "sequence_lost");
    stage_script(&s, first.link, "");
    before = s.answered;
    CHECK_INT(ask(&s, &after, id, first.pin, NULL), SP_OK);
    stage_wait(&s, before + 1, 10000);
    CHECK_TEXT(after.code, "sequence_lost");
    nothing_is_left(&s);
    stage_close(&s);
}

/* --- policy ------------------------------------------------------------------------------------------------------------ */

TEST(a_model_that_fails_on_a_link_puts_no_other_model_last_there)
{
    stage s;
    stage_open(&s, "cuda0,cpu0", NULL, 0);
    uint32_t bad = load(&s), good = load(&s);
    wait_place(&s, bad, "cpu0", SP_LOADED_READY);
    wait_place(&s, good, "cpu0", SP_LOADED_READY);
    stage_script(&s, "cuda0.infer1", "status=internal");
    for (int i = 0; i < 8; i++) {
        asked a = { 0 };
        one(&s, &a, bad);
        CHECK_INT(a.status, SP_OK);
        CHECK_TEXT(a.link, "cpu0");
    }
    int tries = stage_log_count(&s, "cuda0 7 1 ");
    CHECK_INT(tries, 5); /* then its breaker was open */
    asked a = { 0 };
    one(&s, &a, good);
    CHECK_TEXT(a.link, "cuda0");
    stage_close(&s);
}

TEST(a_queue_that_is_full_sends_to_the_next_link_and_is_not_asked_again)
{
    stage s;
    stage_open(&s, "cuda0,cpu0", NULL, 0);
    uint32_t id = load(&s);
    wait_place(&s, id, "cuda0", SP_LOADED_READY);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    stage_script(&s, "cuda0.infer1", "status=busy");
    asked a = { 0 };
    one(&s, &a, id);
    CHECK_INT(a.status, SP_OK);
    CHECK_TEXT(a.link, "cpu0");
    stage_script(&s, "cpu0.infer1", "status=busy");
    one(&s, &a, id);
    CHECK_INT(a.status, SP_BUSY);
    CHECK_TEXT(a.code, "scripted");
    CHECK_INT(stage_log_count(&s, "cuda0 7 1 "), 2);
    CHECK_INT(stage_log_count(&s, "cpu0 7 1 "), 2);
    stage_close(&s);
}

TEST(tensors_that_end_two_workers_are_refused_and_nobody_else_with_them)
{
    stage s;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t id = load(&s);
    stage_script(&s, "cpu0.infer1", "delay=20 segv@66");
    static asked all[40];
    memset(all, 0, sizeof(all));
    for (int i = 0; i < 40; i++) {
        all[i].fill = (uint8_t)(i == 5 ? 66 : 100 + i);
        CHECK_INT(ask(&s, &all[i], id, (sp_pin){ 0 }, NULL), SP_OK);
    }
    stage_wait(&s, 40, 20000);
    for (int i = 0; i < 40; i++) {
        if (i == 5)
            CHECK_TEXT(all[i].code, "crashed_model");
        else
            CHECK(all[i].status == SP_OK && all[i].right);
    }
    sp_worker_info info;
    sp_house_worker_info(s.house, 0, &info);
    CHECK_INT(info.restarts, 2);
    asked again = { .fill = 66 };
    one(&s, &again, id);
    CHECK_TEXT(again.code, "crashed_model");
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_suspect_keeps_no_worker_that_cannot_have_it)
{
    stage s;
    stage_open(&s, "cuda0,cpu0", NULL, 0);
    stage_script(&s, "cuda0.load1", "status=unsupported");
    uint32_t one_has_it = load(&s), both_have_it = load(&s);
    wait_place(&s, both_have_it, "cuda0", SP_LOADED_READY);
    stage_script(&s, "cpu0.infer1", "delay=20 segv@66");
    asked all[10] = { 0 };
    int before = s.answered;
    for (int i = 0; i < 10; i++) {
        all[i].fill = (uint8_t)(i == 2 ? 66 : 100 + i);
        CHECK_INT(ask(&s, &all[i], one_has_it, (sp_pin){ 0 }, NULL), SP_OK);
    }
    for (int i = 0; i < 20; i++) {
        asked other = { 0 };
        one(&s, &other, both_have_it);
        CHECK_TEXT(other.link, "cuda0"); /* while suspects run elsewhere one by one */
        stage_turn(&s, 10);
    }
    stage_wait(&s, before + 30, 20000);
    for (int i = 0; i < 10; i++)
        CHECK(i == 2 ? all[i].status == SP_INTERNAL : all[i].status == SP_OK);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_slow_answer_is_hedged_but_never_that_of_a_sequence)
{
    stage s;
    stage_open(&s, "cuda0,cpu0",
               "workers: cuda0,cpu0\n"
               "chains:\n"
               "  infer: {links: [{name: cuda0, hedge: 30ms}, cpu0]}\n",
               0);
    uint32_t id = load(&s);
    wait_place(&s, id, "cuda0", SP_LOADED_READY);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    stage_script(&s, "cuda0.infer1", "delay=300");
    asked a = { 0 }, b = { .sequence = 77 };
    one(&s, &a, id);
    CHECK_INT(a.status, SP_OK);
    CHECK(a.right);
    CHECK_TEXT(a.link, "cpu0");
    one(&s, &b, id);
    CHECK_INT(b.status, SP_OK);
    CHECK_TEXT(b.link, "cuda0");
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_deadline_and_a_withdrawal_give_the_slot_back)
{
    stage s;
    stage_open(&s, "cpu0", NULL, 0);
    uint32_t id = load(&s);
    stage_script(&s, "cpu0.infer1", "delay=150");
    asked late = { .timeout_ms = 50 }, gone = { 0 };
    int before = s.answered;
    CHECK_INT(ask(&s, &late, id, (sp_pin){ 0 }, NULL), SP_OK);
    CHECK_INT(ask(&s, &gone, id, (sp_pin){ 0 }, NULL), SP_OK);
    CHECK_INT(sp_house_model_open_count(s.house, id), 2);
    stage_turn(&s, 20);
    sp_request_cancel(gone.request);
    CHECK_INT(sp_house_model_open_count(s.house, id), 1);
    stage_wait(&s, before + 1, 5000);
    CHECK_TEXT(late.code, "deadline");
    CHECK_INT(gone.answers, 0);
    CHECK_INT(sp_house_model_open_count(s.house, id), 0);
    nothing_is_left(&s);
    stage_close(&s);
}

TEST(a_reload_of_the_configuration_brings_models_to_new_links)
{
    stage s;
    stage_open(&s, "cpu0,cpu1", "workers: cpu0,cpu1\nchains:\n  infer: {links: [cpu0]}\n  detect: {links: [cpu0]}\n", 0);
    uint32_t id = load(&s);
    stage_turn(&s, 50);
    CHECK_INT(place(&s, id, "cpu1").state, SP_LOADED_ABSENT);
    sp_config *config = stage_config("workers: cpu0,cpu1\nchains:\n  infer: {links: [cpu1, cpu0]}\n");
    sp_house_reload(s.house, config);
    sp_config_unref(config);
    asked a = { 0 };
    one(&s, &a, id); /* not held up: the other has it */
    CHECK_INT(a.status, SP_OK);
    wait_place(&s, id, "cpu1", SP_LOADED_READY);
    asked b = { 0 };
    one(&s, &b, id);
    CHECK_TEXT(b.link, "cpu1");
    stage_close(&s);
}

TEST(tensors_fall_to_a_remote_when_nobody_here_can)
{
    stage s;
    stage_open(&s, "cpu0,net0",
               "workers: cpu0,net0\n"
               "remotes:\n"
               "  far: {kind: kserve, url: 'http://127.0.0.1:1'}\n"
               "chains:\n"
               "  infer: {links: [{name: cpu0, retries: 0}, {name: far, retries: 0}]}\n",
               0);
    uint32_t id = load(&s);
    for (int64_t until_ns = sp_clock_now_ns() + 5 * SP_NS_PER_S; !stage_log_count(&s, "net0 8 ") && sp_clock_now_ns() < until_ns;)
        stage_turn(&s, 10);
    asked a = { 0 }, b = { .bytes = 3000000, .fill = 5 }, c = { .sequence = 4 };
    one(&s, &a, id);
    CHECK_TEXT(a.link, "cpu0");
    stage_script(&s, "cpu0", "status=internal");
    one(&s, &a, id);
    CHECK_INT(a.status, SP_OK);
    CHECK_TEXT(a.link, "far/cuda0");
    CHECK_INT(a.pin.incarnation, 0);
    one(&s, &b, id);
    CHECK(b.right);
    one(&s, &c, id); /* the state of a sequence lies here or nowhere */
    CHECK_INT(c.status, SP_INTERNAL);
    stage_script(&s, "net0.0", "wrong=place");
    one(&s, &a, id);
    CHECK_INT(a.status, SP_INTERNAL);
    nothing_is_left(&s);
    stage_close(&s);
}

/* --- pictures ----------------------------------------------------------------------------------------------------------- */

typedef struct seen {
    int answers;
    sp_status status;
    uint32_t count;
    sp_answer_box box;
    char link[32];
} seen;

static void boxes_answered(sp_request *request, const sp_answer *answer, void *context)
{
    seen *t = context;
    t->answers++;
    t->status = answer->status;
    (void)snprintf(t->link, sizeof(t->link), "%s", answer->link);
    if (answer->boxes) {
        t->count = answer->boxes->count;
        t->box = answer->boxes->boxes[0];
    }
    sp_request_close(request);
}

TEST(a_picture_is_decoded_to_pixels_and_boxes_come_back)
{
    stage s;
    sp_error err = { 0 };
    stage_open(&s, "codec0,cuda0,cpu0", NULL, 0);
    uint32_t id = load(&s);
    wait_place(&s, id, "cuda0", SP_LOADED_READY);
    wait_place(&s, id, "cpu0", SP_LOADED_READY);
    for (int i = 0; i < 2; i++) {
        seen t = { 0 };
        sp_request *request = NULL;
        int retry;
        int64_t now_ns = sp_clock_now_ns();
        const sp_request_params params = { .task = SP_TASK_DETECT, .model_id = id, .received_ns = now_ns,
                                           .deadline_ns = now_ns + 5 * SP_NS_PER_S };
        stage_script(&s, "cuda0", i ? "status=unavailable" : "");
        REQUIRE(sp_request_open(s.house, &params, &request, &retry, &err) == SP_OK);
        REQUIRE(sp_request_append(request, "picture", 7, &err) == SP_OK);
        sp_request_submit(request, boxes_answered, &t);
        for (int64_t until_ns = now_ns + 5 * SP_NS_PER_S; !t.answers && sp_clock_now_ns() < until_ns;)
            (void)sp_loop_turn(s.loop, 20 * MS, NULL);
        CHECK_INT(t.status, SP_OK);
        CHECK_INT(t.count, 1);
        CHECK_TEXT(t.box.label, "cat");
        CHECK(t.box.x1 == 4.0f); /* as wide as the decoded picture */
        CHECK_TEXT(t.link, i ? "cpu0" : "cuda0");
    }
    nothing_is_left(&s);
    stage_close(&s);
}
