/* SPDX-License-Identifier: Apache-2.0
 * Ensembles in the hall, made of the built-in identity back end: what is handed from step to step, what waits, what fails, what
 * is withdrawn and what is counted. This file is the loop; the numbers of real models are tests/serving's. */
#include "base/clock.h"
#include "engine/engine.h"
#include "model/card.h"
#include "test.h"
#include "worker/hall.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOTS 40

/* --- the loop's side ------------------------------------------------------------------------------------------------- */

typedef enum state { ABSENT, WAITING, IN_HAND, FINISHED } state;

typedef struct place {
    sp_work_item item; /* first */
    sp_slot_request request;
    sp_submission submission;
    sp_infer_head head;
    float body[64];
    sp_buf text;
    state state;
} place;

static place places[SLOTS];
static uint8_t *answers;
static sp_worker_page page;
static sp_hall *hall;

void sp_worker_stage(int executor, sp_stage stage, int64_t budget_ns)
{
    (void)executor, (void)stage, (void)budget_ns;
}

bool sp_work_item_cancelled(const sp_work_item *item)
{
    const place *at = (const place *)(const void *)item;
    REQUIRE(at >= places && at < places + SLOTS); /* a lease is asked about, never a step */
    return at->request.cancelled_lease != 0;
}

sp_worker_page *sp_worker_page_now(void)
{
    return &page;
}

void sp_worker_end_after_batch(const sp_error *why)
{
    (void)why;
}

void sp_worker_finish(sp_work_item *item)
{
    place *at = (place *)(void *)item;
    CHECK(at->state == WAITING || at->state == IN_HAND);
    at->state = FINISHED;
}

void sp_worker_wait(sp_work_item *item)
{
    place *at = (place *)(void *)item;
    CHECK_INT(at->state, IN_HAND);
    at->state = WAITING;
}

const sp_infer_head *sp_worker_infer_head(const sp_work_item *item)
{
    return &((const place *)(const void *)item)->head;
}

static sp_work_item *submit(int slot, sp_op op)
{
    place *at = &places[slot];
    sp_view body = at->item.body;
    at->submission.op = op;
    at->submission.slot = (uint32_t)slot;
    at->state = WAITING;
    at->item = (sp_work_item){.request = &at->request, .submission = &at->submission,
                              .answer = answers + (size_t)slot * SP_ANSWER_STRIDE, .body = body};
    sp_hall_add(hall, &at->item, sp_clock_now_ns());
    return &at->item;
}

static bool take(sp_worker_batch *batch)
{
    *batch = (sp_worker_batch){.due_ns = INT64_MAX};
    sp_hall_next(hall, sp_clock_now_ns(), batch);
    for (int i = 0; i < batch->count; i++) {
        place *at = (place *)(void *)batch->items[i];
        REQUIRE(at >= places && at < places + SLOTS);
        CHECK(at->state == WAITING || at->state == IN_HAND);
        at->state = IN_HAND;
    }
    return batch->own != NULL;
}

static void run(sp_worker_batch *batch)
{
    sp_hall_run(hall, 0, batch);
    sp_hall_over(hall, batch, sp_clock_now_ns());
}

static void turn_all(void)
{
    sp_worker_batch batch;
    while (take(&batch))
        run(&batch);
}

static void open_hall(void)
{
    sp_hall_settings settings = {.worker = "cpu0", .kind = "cpu", .provider = "cpu", .cpus = 2, .places = 4,
                                 .memory_bytes = 1 << 30, .counters = &page.counters};
    REQUIRE(sp_hall_new(&settings, &hall, NULL) == SP_OK);
    if (!answers)
        answers = mmap(NULL, SLOTS * SP_ANSWER_STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(answers != MAP_FAILED);
    for (int i = 0; i < SLOTS; i++)
        memset(&places[i], 0, sizeof(places[i]));
}

/* --- models ---------------------------------------------------------------------------------------------------------- */

static sp_model_port port(const char *name)
{
    sp_model_port p = {.dtype = SP_ENGINE_F32, .rank = 1, .has_dims = true, .dims = {-1}};
    (void)snprintf(p.name, sizeof(p.name), "%s", name);
    return p;
}

static sp_load_spec *spec_of(uint32_t id, const char *backend, int ports)
{
    static const char *const inputs[] = {"IN", "IN2"}, *const outputs[] = {"OUT", "OUT2"};
    sp_load_spec *spec = calloc(1, sizeof(*spec));
    REQUIRE(spec != NULL);
    sp_model_config_init(&spec->config);
    spec->id = id;
    spec->version = 1;
    (void)snprintf(spec->directory, sizeof(spec->directory), "/nowhere/m%u", id);
    (void)snprintf(spec->config.name, sizeof(spec->config.name), "m%u", id);
    (void)snprintf(spec->config.backend, sizeof(spec->config.backend), "%s", backend);
    spec->config.max_batch_size = 8;
    spec->config.batching.on = true;
    for (int i = 0; i < ports; i++) {
        spec->config.inputs[spec->config.input_count++] = port(inputs[i]);
        spec->config.outputs[spec->config.output_count++] = port(outputs[i]);
    }
    return spec;
}

static void link_port(sp_ensemble_map **maps, int *count, const char *key, const char *value)
{
    *maps = realloc(*maps, sizeof(**maps) * (size_t)(*count + 1));
    REQUIRE(*maps != NULL);
    sp_ensemble_map *map = &(*maps)[(*count)++];
    memset(map, 0, sizeof(*map));
    (void)snprintf(map->key, sizeof(map->key), "%s", key);
    (void)snprintf(map->value, sizeof(map->value), "%s", value);
}

/* One more step: IN is `input`, OUT is `output`; for two-port models `input2`, `output2`. */
static void add_step(sp_load_spec *spec, uint32_t model, const char *input, const char *output, const char *input2,
                     const char *output2)
{
    spec->step_models[spec->config.step_count] = model;
    sp_ensemble_step *step = &spec->config.steps[spec->config.step_count++];
    (void)snprintf(step->model, sizeof(step->model), "m%u", model);
    step->version = -1;
    link_port(&step->inputs, &step->input_count, "IN", input);
    link_port(&step->outputs, &step->output_count, "OUT", output);
    if (input2) {
        link_port(&step->inputs, &step->input_count, "IN2", input2);
        link_port(&step->outputs, &step->output_count, "OUT2", output2);
    }
}

static sp_load_spec *ensemble_of(uint32_t id, int ports)
{
    sp_load_spec *spec = spec_of(id, "", ports);
    spec->config.is_ensemble = true;
    (void)snprintf(spec->config.platform, sizeof(spec->config.platform), "ensemble");
    spec->config.batching.on = false;
    return spec;
}

static sp_work_item *submit_spec(int slot, sp_op op, sp_load_spec *spec)
{
    place *at = &places[slot];
    sp_buf_init(&at->text, 1 << 20);
    sp_load_spec_write(spec, &at->text);
    CHECK(sp_buf_ok(&at->text));
    at->item.body = sp_buf_view(&at->text);
    sp_load_spec_free(spec);
    return submit(slot, op);
}

static sp_status put_spec(sp_op op, sp_load_spec *spec, sp_error *reterr)
{
    sp_work_item *item = submit_spec(SLOTS - 1, op, spec);
    turn_all();
    CHECK_INT(places[SLOTS - 1].state, FINISHED);
    sp_buf_done(&places[SLOTS - 1].text);
    *reterr = item->error;
    return item->status;
}

static void load(sp_load_spec *spec)
{
    sp_error err = {0};
    if (put_spec(SP_OP_LOAD, spec, &err))
        test_fail(__FILE__, __LINE__, "load: %s", err.message);
}

/* --- requests -------------------------------------------------------------------------------------------------------- */

/* `rows` x 2 numbers: slot * 100, + 1, ... in each of `ports` inputs (the second begins at + 50). */
static sp_work_item *ask(int slot, uint32_t model, int rows, int ports)
{
    place *at = &places[slot];
    at->head = (sp_infer_head){.model = model, .input_count = (uint16_t)ports, .wish_count = (uint16_t)ports};
    for (int p = 0; p < ports; p++) {
        for (int i = 0; i < rows * 2; i++)
            at->body[p * 32 + i] = (float)(slot * 100 + p * 50 + i);
        at->head.inputs[p] = (sp_infer_tensor){.port = (uint16_t)p, .dtype = SP_ENGINE_F32, .rank = 2, .offset = (uint64_t)p * 128,
                                               .bytes = (uint64_t)rows * 8, .dims = {rows, 2}};
        at->head.wishes[p].port = (uint16_t)p;
    }
    at->item.body = sp_view_make(at->body, sizeof(at->body));
    return submit(slot, SP_OP_INFER);
}

static const sp_infer_answer *answer_of(int slot)
{
    return (const sp_infer_answer *)(const void *)(answers + (size_t)slot * SP_ANSWER_STRIDE);
}

static const sp_infer_step *steps_of(int slot)
{
    return (const sp_infer_step *)(const void *)(answers + (size_t)slot * SP_ANSWER_STRIDE + places[slot].item.done.answer_bytes) -
           answer_of(slot)->step_count;
}

static void check(int slot, int rows, int port_number, int from_port)
{
    CHECK_INT(places[slot].state, FINISHED);
    if (places[slot].item.status)
        test_fail(__FILE__, __LINE__, "slot %d: %s", slot, places[slot].item.error.message);
    REQUIRE(places[slot].item.status == SP_OK);
    const sp_infer_output *output = &answer_of(slot)->outputs[port_number];
    CHECK_INT(output->port, port_number);
    CHECK_INT(output->dims[0], rows);
    const float *values = (const float *)(const void *)(answers + (size_t)slot * SP_ANSWER_STRIDE + output->offset);
    for (int i = 0; i < rows * 2; i++)
        CHECK_INT(values[i], slot * 100 + from_port * 50 + i);
}

/* m1, m2: one port; m3: two ports; m10 = m1 -> m2 */
static void open_chain(void)
{
    open_hall();
    load(spec_of(1, "identity", 1));
    load(spec_of(2, "identity", 1));
    load(spec_of(3, "identity", 2));
    sp_load_spec *chain = ensemble_of(10, 1);
    add_step(chain, 1, "IN", "middle", NULL, NULL);
    add_step(chain, 2, "middle", "OUT", NULL, NULL);
    load(chain);
}

TEST(steps_run_one_after_the_other)
{
    open_chain();
    (void)ask(0, 10, 3, 1);
    turn_all();
    check(0, 3, 0, 0);
    const sp_infer_answer *answer = answer_of(0);
    CHECK_INT(answer->batch_rows, 3);
    CHECK_INT(answer->step_count, 2);
    CHECK_INT(steps_of(0)[0].model, 1);
    CHECK_INT(steps_of(0)[1].model, 2);
    CHECK_INT(steps_of(0)[1].batch_rows, 3);
    CHECK_INT(steps_of(0)[1].batch_leader, 1);
    sp_hall_free(hall);
}

TEST(steps_of_several_requests_are_batched)
{
    open_chain();
    for (int slot = 0; slot < 4; slot++)
        (void)ask(slot, 10, 2, 1);
    turn_all();
    int leaders = 0;
    for (int slot = 0; slot < 4; slot++) {
        check(slot, 2, 0, 0);
        CHECK_INT(steps_of(slot)[0].batch_rows, 8); /* max_batch_size: all four */
        leaders += (int)steps_of(slot)[0].batch_leader;
    }
    CHECK_INT(leaders, 1);
    sp_hall_free(hall);
}

TEST(tensors_are_handed_on_where_they_lie)
{
    open_chain();
    sp_load_spec *spec = ensemble_of(11, 2); /* IN -> m3 -> crossed */
    add_step(spec, 3, "IN", "a", "IN2", "b");
    add_step(spec, 3, "b", "OUT", "a", "OUT2");
    load(spec);
    (void)ask(5, 11, 2, 2);
    turn_all();
    check(5, 2, 0, 1);
    check(5, 2, 1, 0);
    sp_hall_free(hall);
}

TEST(independent_steps_are_in_hand_together)
{
    open_chain();
    sp_load_spec *spec = ensemble_of(11, 2);
    add_step(spec, 1, "IN", "a", NULL, NULL);
    add_step(spec, 2, "IN2", "b", NULL, NULL);
    add_step(spec, 3, "a", "OUT", "b", "OUT2");
    load(spec);
    (void)ask(5, 11, 2, 2);
    sp_worker_batch begin, left, right;
    REQUIRE(take(&begin));
    run(&begin);
    CHECK_INT(places[5].state, WAITING);
    REQUIRE(take(&left));
    REQUIRE(take(&right)); /* m1 and m2 at once, for one lease */
    CHECK(left.items[0] == right.items[0]);
    sp_hall_run(hall, 0, &left);
    sp_hall_run(hall, 1, &right);
    sp_hall_over(hall, &right, sp_clock_now_ns());
    CHECK_INT(places[5].state, IN_HAND);
    sp_hall_over(hall, &left, sp_clock_now_ns());
    CHECK_INT(places[5].state, WAITING);
    turn_all();
    check(5, 2, 0, 0);
    check(5, 2, 1, 1);
    CHECK_INT(answer_of(5)->step_count, 3);
    sp_hall_free(hall);
}

TEST(two_steps_of_one_request_may_share_a_run)
{
    open_chain();
    sp_load_spec *spec = ensemble_of(11, 2);
    add_step(spec, 1, "IN", "OUT2", NULL, NULL);
    add_step(spec, 1, "IN2", "OUT", NULL, NULL);
    load(spec);
    (void)ask(6, 11, 1, 2);
    sp_worker_batch begin, both;
    REQUIRE(take(&begin));
    run(&begin);
    REQUIRE(take(&both));
    CHECK_INT(both.count, 1); /* one lease */
    run(&both);
    turn_all();
    check(6, 1, 0, 1);
    check(6, 1, 1, 0);
    CHECK_INT(steps_of(6)[0].batch_rows, 2);
    sp_hall_free(hall);
}

TEST(an_ensemble_may_be_a_step)
{
    open_chain();
    sp_load_spec *spec = ensemble_of(12, 1);
    add_step(spec, 10, "IN", "x", NULL, NULL);
    add_step(spec, 1, "x", "OUT", NULL, NULL);
    load(spec);
    (void)ask(7, 12, 2, 1);
    turn_all();
    check(7, 2, 0, 0);
    REQUIRE(answer_of(7)->step_count == 4);
    static const uint32_t models[] = {10, 1, 2, 1};
    for (int i = 0; i < 4; i++)
        CHECK_INT(steps_of(7)[i].model, models[i]);
    sp_hall_free(hall);
}

TEST(a_failed_step_fails_the_request_by_name)
{
    open_chain();
    sp_load_spec *narrow = spec_of(4, "identity", 1);
    narrow->config.inputs[0].dims[0] = 3;
    load(narrow);
    sp_load_spec *spec = ensemble_of(11, 2);
    add_step(spec, 1, "IN", "a", NULL, NULL);
    add_step(spec, 4, "a", "OUT", NULL, NULL);
    add_step(spec, 2, "IN2", "OUT2", NULL, NULL);
    load(spec);
    sp_work_item *item = ask(0, 11, 1, 2);
    turn_all();
    CHECK_INT(places[0].state, FINISHED);
    CHECK_INT(item->status, SP_INVALID);
    CHECK_TEXT(item->error.message, "in ensemble 'm11', unexpected shape for input 'IN' for model 'm4'. Expected [-1,3], got [1,2]");
    (void)ask(1, 10, 1, 1);
    turn_all();
    check(1, 1, 0, 0);
    sp_hall_free(hall);
}

TEST(a_full_queue_of_a_step_fails_what_does_not_fit_and_hangs_nobody)
{
    open_chain();
    sp_load_spec *small = spec_of(4, "identity", 1);
    small->config.batching.default_policy.max_queue_size = 2;
    small->config.batching.max_queue_delay_us = 1;
    load(small);
    sp_load_spec *spec = ensemble_of(11, 1);
    add_step(spec, 4, "IN", "OUT", NULL, NULL);
    load(spec);
    for (int slot = 0; slot < 8; slot++)
        (void)ask(slot, 11, 1, 1);
    turn_all();
    int served = 0;
    for (int slot = 0; slot < 8; slot++) {
        CHECK_INT(places[slot].state, FINISHED);
        if (!places[slot].item.status) {
            served++;
            continue;
        }
        CHECK_INT(places[slot].item.status, SP_BUSY);
        CHECK_TEXT(places[slot].item.error.message, "in ensemble 'm11', Exceeds maximum queue size");
    }
    CHECK_INT(served, 2);
    sp_hall_free(hall);
}

TEST(one_that_waits_between_its_steps_can_be_withdrawn)
{
    open_chain();
    sp_worker_batch batch;
    sp_work_item *item = ask(0, 10, 1, 1);
    sp_hall_remove(hall, item); /* before it began */
    places[0].state = ABSENT;
    item = ask(1, 10, 1, 1);
    REQUIRE(take(&batch));
    run(&batch); /* BEGIN: m1's step waits */
    CHECK_INT(places[1].state, WAITING);
    sp_hall_remove(hall, item);
    places[1].state = ABSENT;
    CHECK_INT(sp_hall_waiting(hall), 0);
    REQUIRE(!take(&batch));
    (void)ask(2, 10, 1, 1);
    places[2].request.cancelled_lease = 1; /* seen by the first step */
    turn_all();
    CHECK_INT(places[2].item.status, SP_CANCELLED);
    sp_hall_free(hall);
}

TEST(models_of_an_ensemble_stay_as_long_as_it)
{
    open_chain();
    sp_worker_batch batch;
    sp_error err = {0};
    (void)ask(0, 10, 2, 1);
    REQUIRE(take(&batch));
    run(&batch);
    CHECK_INT(put_spec(SP_OP_UNLOAD, spec_of(2, "identity", 1), &err), SP_OK); /* answered at once, and it runs on */
    check(0, 2, 0, 0);
    CHECK_INT(ask(1, 2, 1, 1)->status, SP_UNSUPPORTED); /* not for others */
    (void)ask(2, 10, 1, 1);
    turn_all();
    check(2, 1, 0, 0);
    CHECK_INT(put_spec(SP_OP_UNLOAD, ensemble_of(10, 1), &err), SP_OK);
    load(spec_of(2, "identity", 1)); /* its number is free again */
    sp_hall_free(hall);
}

TEST(what_does_not_fit_is_said_when_it_is_loaded)
{
    open_chain();
    sp_error err = {0};
    sp_load_spec *spec = ensemble_of(11, 1);
    add_step(spec, 77, "IN", "OUT", NULL, NULL);
    CHECK_INT(put_spec(SP_OP_LOAD, spec, &err), SP_CONFLICT);
    CHECK_TEXT(err.message, "ensemble 'm11' contains model 'm77', which is not loaded here");
    spec = ensemble_of(11, 1);
    spec->config.inputs[0].dtype = SP_ENGINE_I32;
    add_step(spec, 1, "IN", "OUT", NULL, NULL);
    CHECK_INT(put_spec(SP_OP_LOAD, spec, &err), SP_INVALID);
    CHECK_TEXT(err.message, "in ensemble 'm11', ensemble tensor 'IN': inconsistent data type: FP32 is inferred from model 'm1' "
                            "while INT32 is inferred from model 'm11'");
    CHECK_INT(put_spec(SP_OP_UNLOAD, spec_of(1, "identity", 1), &err), SP_OK); /* m10 holds it; the failures do not */
    CHECK_INT(put_spec(SP_OP_UNLOAD, ensemble_of(10, 1), &err), SP_OK);
    load(spec_of(1, "identity", 1));
    sp_hall_free(hall);
}
