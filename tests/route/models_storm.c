/* SPDX-License-Identifier: Apache-2.0
 * Random events on a house that serves models: loads, unloads, swaps, crashing loads, kills, failures, lies, reloads, pins,
 * hedges, withdrawals. Whatever happens, every request is answered once, with its own bytes or an error that is allowed, in
 * time; a request for a version that some worker can run is never failed by a death or a swap; and in the end nothing is left. */
#include "scripted.h"

#include "base/clock.h"
#include "route/internal.h"
#include "test.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define MS SP_NS_PER_MS
#define ROUNDS 250
#define NAMES 4 /* models, each with one version that is current and perhaps one that is coming */
#define MOST (ROUNDS * 8)
#define DEADLINE_MS 8000

typedef struct asked {
    struct storm *w;
    sp_request *request;
    int answers;
    bool pinned, withdrawn;
    int64_t deadline_ns;
    uint32_t fill;
} asked;

typedef struct version {
    struct storm *w;
    uint32_t id;
    int told;
    sp_status status;
} version;

typedef struct storm {
    stage s;
    asked all[MOST];
    int count, answered, ok, wrong, late, failed, lost, withdrawn;
    version current[NAMES], coming[NAMES];
    sp_pin pin; /* of the last good answer */
    int swaps, crashed_loads;
} storm;

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    asked *a = context;
    storm *w = a->w;
    a->answers++;
    a->request = NULL;
    w->answered++;
    w->late += sp_clock_now_ns() > a->deadline_ns + 500 * MS;
    if (answer->status == SP_OK) {
        const sp_infer_output *out = &answer->infer->outputs[0];
        bool right = answer->infer->count == 1 && out->bytes == 64;
        for (int i = 0; i < 16 && right; i++)
            right = memcmp(answer->infer_data + out->offset + i * 4, &a->fill, 4) == 0;
        w->ok++;
        w->wrong += !right;
        w->pin = answer->pin;
    } else if (a->pinned) {
        w->lost++; /* one try, at one incarnation of one worker */
    } else {
        w->failed++;
        printf("# failed: %s (%s) %s\n", sp_status_name(answer->status), answer->error.code, answer->error.message);
    }
    sp_request_close(request);
}

static void ask(storm *w)
{
    const version *v = &w->current[test_random() % NAMES];
    if (w->count == MOST || !v->id)
        return;
    sp_error err = { 0 };
    int retry;
    asked *a = &w->all[w->count];
    int64_t now_ns = sp_clock_now_ns();
    *a = (asked){ .w = w, .deadline_ns = now_ns + DEADLINE_MS * MS, .fill = (uint32_t)test_random() };
    sp_request_params params = { .task = SP_TASK_INFER, .model_id = v->id, .received_ns = now_ns, .deadline_ns = a->deadline_ns,
                                 .priority = test_random_between(-10, 10) };
    if (test_random() % 6 == 0 && w->pin.incarnation) {
        params.pin = w->pin;
        a->pinned = true;
    }
    if (sp_request_open(w->s.house, &params, &a->request, &retry, &err))
        return; /* all places taken: told at once */
    uint32_t *room = sp_request_room(a->request, 64, &err);
    REQUIRE(room != NULL);
    for (int i = 0; i < 16; i++)
        room[i] = a->fill;
    sp_infer_head *head = sp_request_infer_head(a->request);
    head->input_count = head->wish_count = 1;
    head->inputs[0] = (sp_infer_tensor){ .dtype = 2, .rank = 1, .bytes = 64, .dims = { 64 } };
    head->wishes[0] = (sp_infer_wish){ 0 };
    w->count++;
    sp_request_submit(a->request, done, a);
}

/* --- models ---------------------------------------------------------------------------------------------------------- */

static void loaded(uint32_t id, sp_status status, const sp_error *err, void *context)
{
    version *v = context;
    (void)err;
    CHECK_INT(id, v->id);
    v->told++;
    v->status = status;
}

static void begin_swap(storm *w, int name)
{
    version *v = &w->coming[name];
    if (v->id)
        return;
    char spec[64], script[32];
    sp_error err = { 0 };
    *v = (version){ .w = w, .id = sp_house_model_number(w->s.house) };
    (void)snprintf(script, sizeof(script), "cpu0.load%u", v->id);
    switch (test_random() % 8) {
    case 0:
        stage_script(&w->s, script, "segv"); /* the other one has it */
        w->crashed_loads++;
        break;
    case 1:
        stage_script(&w->s, script, "status=unsupported");
        break;
    case 2:
        stage_script(&w->s, script, "delay=60");
        break;
    default:
        break;
    }
    (void)snprintf(spec, sizeof(spec), "{\"id\":%u}", v->id);
    REQUIRE(sp_house_model_load(w->s.house, v->id, sp_view_make(spec, strlen(spec)), 5000 * MS, loaded, v, &err) == SP_OK);
}

static void end_swaps(storm *w)
{
    for (int i = 0; i < NAMES; i++) {
        version *fresh = &w->coming[i];
        if (!fresh->told)
            continue;
        CHECK_INT(fresh->told, 1);
        version *gone = fresh->status ? fresh : &w->current[i];
        if (gone->id)
            sp_house_model_unload(w->s.house, gone->id);
        if (!fresh->status)
            w->current[i] = *fresh;
        *fresh = (version){ 0 };
        w->swaps++;
    }
}

/* --- events ---------------------------------------------------------------------------------------------------------- */

/* One of the two that can take over from each other is left alone. */
static void change_a_script(storm *w)
{
    static const char *const names[] = { "cpu0", "cuda0" };
    static const char *const texts[] = { "", "", "delay=5", "delay=40", "status=unavailable", "status=internal", "status=busy",
                                         "status=nomem", "wrong=size", "wrong=place", "delay=100", "delay=30 deaf", "steps=2" };
    stage_script(&w->s, names[test_random() % SP_ARRAY_LEN(names)], texts[test_random() % SP_ARRAY_LEN(texts)]);
}

static void reload(storm *w)
{
    static const char *const hedges[] = { "never", "p95", "20ms" };
    char yaml[400];
    (void)snprintf(yaml, sizeof(yaml),
                   "workers: cuda0,cpu0,cpu1\n"
                   "chains:\n"
                   "  infer:\n"
                   "    links:\n"
                   "      - {name: cuda0, hedge: %s, retries: %d, backoff: 1ms, backoff_max: 20ms}\n"
                   "      - {name: cpu0, timeout: 2s}\n"
                   "      - {name: cpu1, retries: 3, backoff: 1ms, backoff_max: 20ms}\n",
                   hedges[test_random() % 3], test_random_between(0, 2));
    sp_config *config = stage_config(yaml);
    sp_house_reload(w->s.house, config);
    sp_config_unref(config);
}

static void kill_somebody(storm *w)
{
    sp_worker_info info = { 0 };
    sp_house_worker_info(w->s.house, (int)(test_random() % (uint64_t)sp_house_worker_count(w->s.house)), &info);
    if (info.pid > 0)
        (void)kill(info.pid, SIGKILL);
}

static void withdraw_one(storm *w)
{
    asked *a = w->count ? &w->all[w->count - 1 - (int)(test_random() % (uint64_t)SP_MIN(w->count, 16))] : NULL;
    if (!a || !a->request)
        return;
    sp_request_cancel(SP_STEAL(a->request));
    w->withdrawn++;
}

static void one_round(storm *w)
{
    for (int i = test_random_between(1, 7); i > 0; i--)
        ask(w);
    if (test_random() % 4 == 0)
        change_a_script(w);
    if (test_random() % 5 == 0)
        begin_swap(w, (int)(test_random() % NAMES));
    end_swaps(w);
    if (test_random() % 20 == 0)
        reload(w);
    if (test_random() % 25 == 0)
        kill_somebody(w);
    if (test_random() % 4 == 0)
        withdraw_one(w);
    stage_turn(&w->s, test_random_between(0, 10));
}

static void wait_loaded(storm *w)
{
    for (int i = 0; i < NAMES; i++)
        begin_swap(w, i);
    for (int64_t until_ns = sp_clock_now_ns() + 20 * SP_NS_PER_S; sp_clock_now_ns() < until_ns;) {
        end_swaps(w);
        int ready = 0;
        for (int i = 0; i < NAMES; i++)
            ready += w->current[i].id != 0;
        if (ready == NAMES)
            return;
        (void)sp_loop_turn(w->s.loop, 20 * MS, NULL);
    }
    test_fail(__FILE__, __LINE__, "models were not loaded");
}

TEST(models_come_and_go_and_each_request_is_answered_once)
{
    static storm w;
    w = (storm){ 0 };
    stage_open(&w.s, "cuda0,cpu0,cpu1", NULL, 0);
    reload(&w);
    wait_loaded(&w);
    for (int i = 0; i < ROUNDS; i++)
        one_round(&w);
    for (int64_t until_ns = sp_clock_now_ns() + 2 * DEADLINE_MS * MS;
         w.answered + w.withdrawn < w.count && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(w.s.loop, 20 * MS, NULL);
    CHECK_INT(w.answered + w.withdrawn, w.count);
    CHECK_INT(w.wrong, 0);
    CHECK_INT(w.late, 0);
    CHECK_INT(w.failed, 0);
    for (int i = 0; i < w.count; i++)
        CHECK(w.all[i].answers <= 1);
    for (int i = 0; i < NAMES; i++) {
        sp_house_model_unload(w.s.house, w.current[i].id);
        sp_house_model_unload(w.s.house, w.coming[i].id);
    }
    sp_house *house = w.s.house;
    for (int64_t until_ns = sp_clock_now_ns() + 10 * SP_NS_PER_S;
         (house->models.count || house->leased_count || house->free_count < SP_LIMIT_SLOTS) && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(w.s.loop, 20 * MS, NULL);
    CHECK_INT(house->models.count, 0);
    CHECK_INT(house->models.open_count, 0);
    CHECK_INT(house->open_count, 0);
    CHECK_INT(house->leased_count, 0);
    CHECK_INT(house->free_count, SP_LIMIT_SLOTS);
    CHECK_INT(house->active[SP_TASK_INFER], 0);
    CHECK_INT(house->active[SP_TASK_MODELS], 0);
    CHECK_INT(house->body_bytes_held, 0);
    for (int i = 0; i < house->worker_count; i++) {
        CHECK_INT(house->workers[i].infer_in_flight, 0);
        CHECK_INT(house->workers[i].models_in_flight, 0);
    }
    printf("# %d asked, %d right, %d pinned and failed, %d withdrawn; %d swaps, %d loads that crash\n", w.count, w.ok, w.lost,
           w.withdrawn, w.swaps, w.crashed_loads);
    CHECK(w.ok > w.count / 2);
    stage_close(&w.s);
}
