/* SPDX-License-Identifier: Apache-2.0
 * LOAD and UNLOAD: requests of the house itself, each to one worker, whose body is the spec. A few at once, so that they hold
 * up nothing else; a worker that starts again is asked for all that it should have. */
#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "route/models.h"
#include "route/supervisor.h"

#include <stdio.h>
#include <string.h>

#define TRY_AGAIN_NS (20 * SP_NS_PER_MS) /* there was no slot */
#define UNLOAD_NS (SP_LIMIT_DEADLINE_MAX_MS * SP_NS_PER_MS) /* whatever runs ends first */

/* --- the way back --------------------------------------------------------------------------------------------------- */

static void seal(char *text, size_t size)
{
    text[size - 1] = 0;
}

sp_status sp_models_take(const sp_worker *worker, sp_request *request, const sp_completion *done, sp_error *reterr)
{
    if (request->op == SP_OP_UNLOAD)
        return SP_OK;
    sp_answer_loaded *loaded = &request->model->places[worker->index].loaded;
    if (done->answer_bytes != sizeof(*loaded))
        return SP_FAIL(reterr, SP_INTERNAL, "%s wrote %u bytes about a load", worker->name, done->answer_bytes);
    memcpy(loaded, worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE, sizeof(*loaded));
    seal(loaded->engine, sizeof(loaded->engine));
    seal(loaded->device, sizeof(loaded->device));
    loaded->load_ns = SP_CLAMP(loaded->load_ns, (int64_t)0, 3600 * SP_NS_PER_S);
    seal(loaded->cpu_nodes, sizeof(loaded->cpu_nodes));
    for (char *c = loaded->cpu_nodes; *c; c++) /* operators' names: the worker's word, shown to people */
        *c = *c < ' ' || *c > '~' || *c == '"' || *c == '\\' ? '?' : *c;
    if (!(loaded->cpu_share >= 0 && loaded->cpu_share <= 1))
        loaded->cpu_share = 0;
    loaded->warmup_ns = SP_CLAMP(loaded->warmup_ns, (int64_t)0, 3600 * SP_NS_PER_S);
    return SP_OK;
}

static void failed_for_good(const sp_worker *worker, const sp_loaded *model, sp_place *place)
{
    place->state = SP_PLACE_FAILED;
    sp_log(SP_LOG_WARN, "model not loaded", SP_LOG_TEXT("worker", worker->name), SP_LOG_INT("number", model->id),
           SP_LOG_TEXT("status", sp_status_name(place->error.status)), SP_LOG_TEXT("reason", place->error.message));
    sp_event_emit("model.failed", "models", "", "{\"worker\":\"%s\",\"number\":%u,\"status\":\"%s\"}", worker->name, model->id,
                  sp_status_name(place->error.status));
}

/* The worker ended while it loaded the model, or said that it is about to: once may be chance. */
static void crashed(const sp_worker *worker, const sp_loaded *model, sp_place *place, const char *reason)
{
    place->state = SP_PLACE_EMPTY;
    if (++place->crashes < SP_CRASHES_OF_A_LOAD)
        return;
    (void)SP_FAIL_CODE(&place->error, SP_CORRUPT, "crashed_load", "%s ended %d times while it loaded the model (%s); it is not asked again",
                       worker->name, place->crashes, reason);
    failed_for_good(worker, model, place);
}

/* That a device leaves nodes to the CPU is no failure, but somebody should know: copies and waits go with them. */
static void tell_placement(const sp_worker *worker, const sp_loaded *model, const sp_answer_loaded *loaded)
{
    if (!loaded->cpu_node_count)
        return;
    int percent = (int)(loaded->cpu_share * 100 + 0.5);
    sp_log(SP_LOG_WARN, "a model's nodes are on the CPU", SP_LOG_TEXT("worker", worker->name), SP_LOG_INT("number", model->id),
           SP_LOG_INT("nodes", loaded->node_count), SP_LOG_INT("on_cpu", loaded->cpu_node_count), SP_LOG_INT("percent_of_time", percent),
           SP_LOG_TEXT("operators", loaded->cpu_nodes));
    sp_event_emit("model.placement", "models", "",
                  "{\"worker\":\"%s\",\"number\":%u,\"nodes\":%u,\"cpu_nodes\":%u,\"cpu_share\":%.3f,\"operators\":\"%s\"}",
                  worker->name, model->id, loaded->node_count, loaded->cpu_node_count, loaded->cpu_share, loaded->cpu_nodes);
}

static void load_answered(const sp_worker *worker, const sp_loaded *model, sp_place *place, const sp_answer *answer)
{
    if (!answer->status) {
        place->state = SP_PLACE_READY;
        place->crashes = 0;
        place->error = (sp_error){ 0 };
        tell_placement(worker, model, &place->loaded);
        return;
    }
    place->error = answer->error;
    if (answer->status == SP_UNAVAILABLE) { /* only a new process helps: its end counts now, not once more when it comes */
        place->shut = worker->incarnation;
        crashed(worker, model, place, answer->error.message);
        return;
    }
    if (strcmp(answer->error.code, "deadline") == 0) {
        place->may_be_there = true;
        (void)SP_FAIL_CODE(&place->error, SP_TIMEOUT, "load_timeout", "%s had not loaded it after %lld s", worker->name,
                           (long long)(model->timeout_ns / SP_NS_PER_S));
    }
    failed_for_good(worker, model, place);
}

static void close_request(sp_house *house, sp_request *request)
{
    request->model = NULL;
    house->models.open_count--;
    house->models.due = true;
}

static void answered(sp_request *request, const sp_answer *answer, void *context)
{
    sp_worker *worker = context;
    sp_loaded *model = request->model;
    sp_place *place = &model->places[worker->index];
    place->request = NULL;
    if (request->op == SP_OP_LOAD) {
        load_answered(worker, model, place, answer);
    } else {
        place->state = SP_PLACE_EMPTY;
        if (answer->status)
            sp_log_error("model not unloaded", sp_request_id(request), &answer->error);
    }
    close_request(worker->house, request);
    sp_request_close(request);
}

void sp_models_orphaned(sp_worker *worker, sp_request *request, bool counts)
{
    sp_loaded *model = request->model;
    sp_place *place = &model->places[worker->index];
    place->request = NULL;
    if (request->op == SP_OP_LOAD && counts)
        crashed(worker, model, place, worker->reason);
    else
        place->state = SP_PLACE_EMPTY;
    close_request(worker->house, request);
    sp_request_cancel(request);
}

void sp_models_worker_gone(sp_worker *worker)
{
    sp_house *house = worker->house;
    for (int i = 0; i < house->models.count; i++) {
        sp_place *place = &house->models.list[i]->places[worker->index];
        place->may_be_there = false;
        place->latency = (sp_latency){ 0 };
        if (place->state == SP_PLACE_READY)
            place->state = SP_PLACE_EMPTY; /* those that are asked for are orphaned next */
    }
    house->models.due = true;
}

/* --- the way there -------------------------------------------------------------------------------------------------- */

static void later(sp_house *house)
{
    sp_error err = { 0 };
    if (!house->models.timer.heap_index &&
        sp_loop_timer_set(house->loop, &house->models.timer, sp_clock_now_ns() + TRY_AGAIN_NS, &err))
        sp_log_error("no timer for loads", NULL, &err); /* the next turn that has anything due goes on */
}

static bool ask(sp_worker *worker, sp_loaded *model, sp_op op)
{
    sp_house *house = worker->house;
    sp_error err = { 0 };
    sp_request *request = NULL;
    int retry_after_s;
    int64_t now_ns = sp_clock_now_ns();
    const sp_request_params params = {
        .task = SP_TASK_MODELS,
        .received_ns = now_ns,
        .deadline_ns = now_ns + (op == SP_OP_LOAD ? model->timeout_ns : UNLOAD_NS),
        .body_bytes_hint = model->spec.size_bytes,
        .body_limit_bytes = SP_LIMIT_LOAD_SPEC_BYTES,
    };
    sp_status s = sp_request_open(house, &params, &request, &retry_after_s, &err);
    if (!s)
        s = sp_request_append(request, model->spec.data, model->spec.size_bytes, &err);
    if (!s) {
        request->internal = true;
        request->model = model;
        s = sp_request_hand_over(request, worker, op, answered, worker, &err);
    }
    if (s) {
        if (request) {
            request->model = NULL;
            sp_request_close(request);
        }
        later(house);
        return false;
    }
    sp_place *place = &model->places[worker->index];
    place->request = request;
    place->state = op == SP_OP_LOAD ? SP_PLACE_LOADING : SP_PLACE_LEAVING;
    house->models.open_count++;
    return true;
}

/* An ensemble's models come before it. One that failed there is the worker's to complain of. */
static bool steps_are_settled(const sp_loaded *model, int worker)
{
    for (int i = 0; i < model->step_count; i++) {
        const sp_loaded *step = sp_loaded_find(model->house, model->steps[i]);
        if (step && sp_loaded_coming_at(step, worker))
            return false;
    }
    return true;
}

typedef struct asked {
    int loads, unloads;
} asked;

static asked count_asked(const sp_worker *worker)
{
    const sp_house *house = worker->house;
    asked out = { 0 };
    for (int i = 0; i < house->models.count; i++) {
        const sp_place *place = &house->models.list[i]->places[worker->index];
        out.loads += place->state == SP_PLACE_LOADING;
        out.unloads += place->state == SP_PLACE_LEAVING;
    }
    return out;
}

static bool give_one(sp_worker *worker, sp_loaded *model, asked *out)
{
    const sp_place *place = &model->places[worker->index];
    bool there = place->state == SP_PLACE_READY || (place->state == SP_PLACE_FAILED && place->may_be_there);
    if (there && model->forgotten && !model->open_count && out->unloads < SP_LIMIT_UNLOADS_AT_ONCE) {
        out->unloads++;
        return ask(worker, model, SP_OP_UNLOAD);
    }
    if (place->state != SP_PLACE_EMPTY || !sp_loaded_coming_at(model, worker->index) ||
        out->loads == SP_LIMIT_LOADS_AT_ONCE || !steps_are_settled(model, worker->index))
        return true;
    out->loads++;
    return ask(worker, model, SP_OP_LOAD);
}

/* Those that requests wait for, and the steps of such. */
static void mark_waited_for(sp_house *house)
{
    for (int i = 0; i < house->models.count; i++)
        house->models.list[i]->waited_for = house->models.list[i]->open_count > 0;
    for (int i = house->models.count - 1; i >= 0; i--) { /* an ensemble stands behind its models */
        const sp_loaded *model = house->models.list[i];
        for (int k = 0; k < model->step_count && model->waited_for; k++) {
            sp_loaded *step = sp_loaded_find(house, model->steps[k]);
            if (step)
                step->waited_for = true;
        }
    }
}

/* What somebody waits for first, then the rest. */
static void give_all(sp_worker *worker)
{
    sp_house *house = worker->house;
    asked out = count_asked(worker);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < house->models.count; i++) {
            sp_loaded *model = house->models.list[i];
            if ((pass || model->waited_for) && !give_one(worker, model, &out))
                return;
        }
    }
}

void sp_models_turn(sp_house *house)
{
    if (SP_LIKELY(!house->models.due) || house->ending)
        return;
    house->models.due = false;
    mark_waited_for(house);
    for (int w = 0; w < house->worker_count; w++) {
        sp_worker *worker = &house->workers[w];
        if (worker->state != SP_WORKER_READY)
            continue;
        if (worker->reserved) { /* a suspect runs there, or is about to: alone */
            later(house);
            continue;
        }
        give_all(worker);
    }
    sp_models_sweep(house);
    sp_models_tell(house);
}
