/* SPDX-License-Identifier: Apache-2.0
 * The loop's side of tests/worker/hall.c and hall_detect.c, their models and requests. Included there and nowhere else: it defines
 * the calls of worker.c that a hall makes. */
#ifndef SP_TESTS_WORKER_HALL_HARNESS_H
#define SP_TESTS_WORKER_HALL_HARNESS_H

#include "base/clock.h"
#include "base/fault.h"
#include "engine/engine.h"
#include "model/card.h"
#include "test.h"
#include "worker/hall.h"
#include "worker/kinds.h"

#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS  24
#define VALUES (3 * 8 * 8)
#define IMAGE  (VALUES * sizeof(float))

/* --- the loop's side ------------------------------------------------------------------------------------------------- */

typedef struct place {
    sp_work_item item; /* first */
    sp_slot_request request;
    sp_submission submission;
    sp_infer_head head;
    uint8_t body[8 * IMAGE];
    sp_buf text;
    bool finished;
    int order; /* of finishing */
} place;

static place places[SLOTS];
static uint8_t *answers;
static bool cancelled[SLOTS];
static int finished_count;
static sp_worker_page page;
static sp_error ended;

void sp_worker_stage(int executor, sp_stage stage, int64_t budget_ns)
{
    (void)executor, (void)stage, (void)budget_ns;
}

bool sp_work_item_cancelled(const sp_work_item *item)
{
    return cancelled[(const place *)(const void *)item - places];
}

sp_worker_page *sp_worker_page_now(void)
{
    return &page;
}

void sp_worker_end_after_batch(const sp_error *why)
{
    ended = *why;
}

void sp_worker_finish(sp_work_item *item)
{
    place *at = (place *)(void *)item;
    CHECK(!at->finished);
    at->finished = true;
    at->order = finished_count++;
}

void sp_worker_wait(sp_work_item *item)
{
    CHECK(!((place *)(void *)item)->finished);
}

const sp_infer_head *sp_worker_infer_head(const sp_work_item *item)
{
    return &((const place *)(const void *)item)->head;
}

static sp_hall *hall;
static _Atomic int *run_count;
static int *runs;
static char folder[64];

static sp_work_item *submit(int slot, sp_op op)
{
    place *at = &places[slot];
    at->submission.op = op;
    at->submission.slot = (uint32_t)slot;
    at->finished = false;
    sp_view body = at->item.body;
    at->item = (sp_work_item){ .request = &at->request,
                               .submission = &at->submission,
                               .answer = answers + (size_t)slot * SP_ANSWER_STRIDE,
                               .body = body };
    sp_hall_add(hall, &at->item, sp_clock_now_ns());
    return &at->item;
}

/* One batch, if one is due; its number of items, -1 = none. */
static int turn(int64_t *ret_due_ns)
{
    sp_worker_batch batch = { .due_ns = INT64_MAX };
    sp_hall_next(hall, sp_clock_now_ns(), &batch);
    if (ret_due_ns)
        *ret_due_ns = batch.due_ns;
    if (!batch.own)
        return -1;
    sp_hall_run(hall, 0, &batch);
    sp_hall_over(hall, &batch, sp_clock_now_ns());
    return batch.count;
}

static void turn_all(void)
{
    while (turn(NULL) >= 0) { }
}

static void open_hall_of(const char *kind, uint64_t memory_bytes, sp_sim *sim)
{
    const char *fake = getenv("SPILLWAY_FAKE_ENGINE");
    if (!fake)
        SKIP("SPILLWAY_FAKE_ENGINE (the steered engine's directory) is set by meson test only");
    CHECK_INT(setenv("SPILLWAY_PLUGINS", fake, 1), 0);
    sp_error err = { 0 };
    sp_hall_settings settings = { .worker = "cpu0", .kind = kind, .provider = "cpu", .cpus = 2, .places = 4,
                                  .memory_bytes = memory_bytes, .sim = sim, .counters = &page.counters };
    REQUIRE(sp_hall_new(&settings, &hall, &err) == SP_OK);
    if (!answers)
        answers = mmap(NULL, SLOTS * SP_ANSWER_STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(answers != MAP_FAILED);
    for (int i = 0; i < SLOTS; i++) {
        sp_buf_done(&places[i].text);
        memset(&places[i], 0, sizeof(places[i]));
        cancelled[i] = false;
    }
    finished_count = 0;
    ended = (sp_error){ 0 };
}

static void open_hall(void)
{
    open_hall_of("cpu", 1 << 30, NULL);
}

static void close_hall(void)
{
    sp_hall_free(hall);
    for (int i = 0; i < SLOTS; i++)
        sp_buf_done(&places[i].text);
}

/* --- models ---------------------------------------------------------------------------------------------------------- */

static sp_load_spec *spec_of(uint32_t id, const char *backend)
{
    sp_load_spec *spec = calloc(1, sizeof(*spec));
    REQUIRE(spec != NULL);
    sp_model_config_init(&spec->config);
    spec->id = id;
    spec->version = 1;
    if (!*folder) {
        (void)snprintf(folder, sizeof(folder), "/tmp/spillway-hall-XXXXXX");
        REQUIRE(mkdtemp(folder) != NULL);
    }
    (void)snprintf(spec->directory, sizeof(spec->directory), "%s", folder);
    (void)snprintf(spec->path, sizeof(spec->path), "%s/%u.onnx", folder, id);
    FILE *file = fopen(spec->path, "we");
    REQUIRE(file && ftruncate(fileno(file), 1 << 20) == 0 && fclose(file) == 0);
    (void)snprintf(spec->config.name, sizeof(spec->config.name), "m%u", id);
    (void)snprintf(spec->config.backend, sizeof(spec->config.backend), "%s", backend);
    spec->config.max_batch_size = 8;
    return spec;
}

static void add_port(sp_model_port *port, const char *name, int dtype, int rank, const int64_t *dims)
{
    (void)snprintf(port->name, sizeof(port->name), "%s", name);
    port->dtype = (uint8_t)dtype;
    port->rank = (uint8_t)rank;
    port->has_dims = true;
    for (int i = 0; i < rank; i++)
        port->dims[i] = dims[i];
}

/* The steered engine's model: [rows, 3, 8, 8] -> [rows, 4]. */
static sp_load_spec *picture_spec(uint32_t id)
{
    sp_load_spec *spec = spec_of(id, "onnxruntime");
    spec->config.input_count = spec->config.output_count = 1;
    add_port(&spec->config.inputs[0], "x", SP_ENGINE_F32, 3, (const int64_t[]){ 3, 8, 8 });
    add_port(&spec->config.outputs[0], "y", SP_ENGINE_F32, 1, (const int64_t[]){ 4 });
    spec->config.batching.on = true;
    return spec;
}

static sp_load_spec *identity_spec(uint32_t id, int dtype)
{
    sp_load_spec *spec = spec_of(id, "identity");
    spec->config.input_count = spec->config.output_count = 1;
    add_port(&spec->config.inputs[0], "IN", dtype, 1, (const int64_t[]){ -1 });
    add_port(&spec->config.outputs[0], "OUT", dtype, 1, (const int64_t[]){ -1 });
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

static sp_status load(int slot, sp_load_spec *spec)
{
    sp_work_item *item = submit_spec(slot, SP_OP_LOAD, spec);
    turn_all();
    CHECK(places[slot].finished);
    if (item->status)
        (void)fprintf(stderr, "# load: %s\n", item->error.message);
    sp_buf_done(&places[slot].text);
    return item->status;
}

static void find_counters(void)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/libspillway_engine_onnxruntime.so", getenv("SPILLWAY_FAKE_ENGINE"));
    void *plugin = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    REQUIRE(plugin != NULL);
    run_count = dlsym(plugin, "fake_engine_run_count");
    runs = dlsym(plugin, "fake_engine_runs");
    REQUIRE(run_count && runs);
    *run_count = 0;
}

/* --- requests -------------------------------------------------------------------------------------------------------- */

/* `rows` pictures; the first value of row r is slot * 10 + r. `trick` as fake_engine.c has them. */
static void make_pictures(int slot, uint32_t model, int rows, int trick)
{
    place *at = &places[slot];
    float *values = (float *)(void *)at->body;
    memset(values, 0, (size_t)rows * IMAGE);
    for (int r = 0; r < rows; r++) {
        values[r * VALUES] = (float)(slot * 10 + r);
        values[r * VALUES + 4] = (float)trick;
    }
    at->item.body = sp_view_make(at->body, (size_t)rows * IMAGE);
    at->head = (sp_infer_head){ .model = model, .input_count = 1, .wish_count = 1 };
    at->head.inputs[0] = (sp_infer_tensor){ .dtype = SP_ENGINE_F32, .rank = 4, .bytes = (uint64_t)rows * IMAGE,
                                            .dims = { rows, 3, 8, 8 } };
    at->submission.alone = 0;
    at->submission.attempt_deadline_ns = 0;
}

static sp_work_item *ask(int slot, uint32_t model, int rows, int trick)
{
    make_pictures(slot, model, rows, trick);
    return submit(slot, SP_OP_INFER);
}

static const sp_infer_answer *answer_of(int slot)
{
    return (const sp_infer_answer *)(const void *)(answers + (size_t)slot * SP_ANSWER_STRIDE);
}

static const uint8_t *data_of(int slot, int output)
{
    return answers + (size_t)slot * SP_ANSWER_STRIDE + answer_of(slot)->outputs[output].offset;
}

static void check_pictures(int slot, int rows)
{
    REQUIRE(places[slot].finished);
    if (places[slot].item.status)
        test_fail(__FILE__, __LINE__, "slot %d: %s", slot, places[slot].item.error.message);
    REQUIRE(places[slot].item.status == SP_OK);
    const sp_infer_answer *answer = answer_of(slot);
    CHECK_INT(answer->count, 1);
    CHECK_INT(answer->outputs[0].rank, 2);
    CHECK_INT(answer->outputs[0].dims[0], rows);
    CHECK_INT(answer->outputs[0].dims[1], 4);
    CHECK_INT(answer->outputs[0].bytes, rows * 16);
    CHECK_INT(answer->outputs[0].offset % 64, 0);
    CHECK_INT(places[slot].item.done.answer_bytes % 64, 0);
    const float *values = (const float *)(const void *)data_of(slot, 0);
    for (int r = 0; r < rows; r++)
        CHECK_INT(values[r * 4], slot * 10 + r);
}

#endif
