/* SPDX-License-Identifier: Apache-2.0
 * The served models that should be loaded, and what each worker has said of them. */
#include "route/models.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "route/dispatch.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the table: in the order of their numbers, so that an ensemble stands behind its models ------------------------ */

/* Where `id` is, or should be. */
static int place_of(const sp_house *house, uint32_t id)
{
    int low = 0, high = house->models.count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (house->models.list[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

sp_loaded *sp_loaded_find(const sp_house *house, uint32_t id)
{
    int at = place_of(house, id);
    return at < house->models.count && house->models.list[at]->id == id ? house->models.list[at] : NULL;
}

static sp_status insert(sp_house *house, sp_loaded *model, sp_error *reterr)
{
    if (house->models.count == SP_LIMIT_LOADED)
        return SP_FAIL(reterr, SP_BUSY, "%d versions of models are loaded; unload some", SP_LIMIT_LOADED);
    if (!house->models.list) {
        house->models.list = calloc(SP_LIMIT_LOADED, sizeof(sp_loaded *));
        if (!house->models.list)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for the table of models");
    }
    int at = place_of(house, model->id);
    sp_loaded **list = house->models.list;
    memmove(&list[at + 1], &list[at], (size_t)(house->models.count - at) * sizeof(*list));
    list[at] = model;
    house->models.count++;
    return SP_OK;
}

static void free_model(sp_loaded *model)
{
    if (!model)
        return;
    sp_loop_timer_clear(model->house->loop, &model->timer);
    sp_buf_done(&model->spec);
    free(model);
}

static void remove_at(sp_house *house, int at)
{
    sp_loaded **list = house->models.list;
    free_model(list[at]);
    house->models.count--;
    memmove(&list[at], &list[at + 1], (size_t)(house->models.count - at) * sizeof(*list));
}

void sp_models_sweep(sp_house *house)
{
    for (int i = house->models.count - 1; i >= 0; i--) {
        const sp_loaded *model = house->models.list[i];
        bool done = model->forgotten && !model->open_count;
        for (int w = 0; w < house->worker_count && done; w++) {
            sp_place_state state = model->places[w].state;
            done = state == SP_PLACE_EMPTY || (state == SP_PLACE_FAILED && !model->places[w].may_be_there);
        }
        if (done)
            remove_at(house, i);
    }
}

void sp_models_free(sp_house *house)
{
    for (int i = 0; i < house->models.count; i++) {
        sp_loaded *model = house->models.list[i];
        for (int w = 0; w < house->worker_count; w++) {
            if (model->places[w].request)
                sp_request_cancel(SP_STEAL(model->places[w].request));
        }
        free_model(model);
    }
    house->models.count = 0;
    free(house->models.list);
    house->models.list = NULL;
    sp_loop_timer_clear(house->loop, &house->models.timer);
}

static void try_again(sp_timer *timer, void *context)
{
    sp_house *house = context;
    house->models.due = true;
}

void sp_models_open(sp_house *house)
{
    house->models.timer = (sp_timer){ .fire = try_again, .context = house };
    sp_models_choose_workers(house);
}

/* --- who should have them ------------------------------------------------------------------------------------------ */

/* They carry requests to remotes, which are asked by name: a load tells them the names of models and tensors. */
static uint32_t net_workers(const sp_house *house)
{
    uint32_t workers = 0;
    for (int w = 0; w < house->worker_count; w++)
        workers |= house->workers[w].role == SP_ROLE_NET ? 1u << w : 0;
    return workers;
}

void sp_models_choose_workers(sp_house *house)
{
    const sp_task tasks[] = { SP_TASK_INFER, SP_TASK_DETECT };
    uint32_t workers = 0;
    for (size_t t = 0; t < SP_ARRAY_LEN(tasks); t++) {
        const sp_chain *chain = &house->snapshot->chains[tasks[t]];
        for (int e = 0; e < chain->count; e++)
            workers |= chain->entries[e].worker >= 0 ? 1u << chain->entries[e].worker : net_workers(house);
    }
    house->models.workers = workers;
    house->models.due = true;
}

bool sp_loaded_wanted_at(const sp_loaded *model, int worker)
{
    bool wanted = !model->forgotten || model->open_count; /* what is open for it must survive its worker's death */
    return wanted && !model->given_up && (model->house->models.workers & (1u << worker));
}

bool sp_loaded_coming_at(const sp_loaded *model, int worker)
{
    const sp_place *place = &model->places[worker];
    bool shut = place->shut && place->shut == model->house->workers[worker].incarnation;
    return place->state == SP_PLACE_LOADING || (place->state == SP_PLACE_EMPTY && !shut && sp_loaded_wanted_at(model, worker));
}

/* --- requests ------------------------------------------------------------------------------------------------------- */

sp_status sp_loaded_admit(sp_house *house, uint32_t id, sp_loaded **ret_model, sp_error *reterr)
{
    sp_loaded *model = sp_loaded_find(house, id);
    if (!model || model->forgotten)
        return SP_FAIL_CODE(reterr, SP_NOT_FOUND, "no_such_model", "this version of the model is not loaded (any more)");
    bool coming;
    if (!sp_house_model_ready(house, id, &coming) && !coming)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "not_loaded", "no worker that runs has loaded this version of the model");
    *ret_model = model;
    return SP_OK;
}

void sp_loaded_join(sp_request *request, sp_loaded *model)
{
    request->model = model;
    model->open_count++;
}

void sp_loaded_leave(sp_request *request)
{
    sp_loaded *model = request->model;
    if (!model || request->task == SP_TASK_MODELS)
        return;
    request->model = NULL;
    SP_ASSERT(model->open_count > 0);
    if (!--model->open_count && model->forgotten)
        request->house->models.due = true;
}

sp_breaker *sp_loaded_breaker(const sp_request *request, const sp_chain_entry *entry)
{
    sp_link *link = &request->house->links[entry->link];
    if (!request->model || entry->worker < 0)
        return &link->breaker;
    sp_breaker *breaker = &request->model->places[entry->worker].breaker;
    breaker->settings = link->breaker.settings;
    return breaker;
}

void sp_loaded_note_breaker(sp_loaded *model, int worker, int64_t now_ns)
{
    sp_place *place = &model->places[worker];
    if (place->breaker.state == place->breaker_told)
        return;
    place->breaker_told = place->breaker.state;
    const char *name = model->house->workers[worker].name, *state = sp_breaker_state_name(place->breaker.state);
    int64_t wait_ns = sp_breaker_retry_at(&place->breaker, now_ns) - now_ns;
    sp_event_emit("model.breaker", "models", "", "{\"worker\":\"%s\",\"number\":%u,\"state\":\"%s\",\"retry_in_ms\":%lld}", name,
                  model->id, state, (long long)(wait_ns / SP_NS_PER_MS));
    sp_log(SP_LOG_WARN, "breaker of a model", SP_LOG_TEXT("worker", name), SP_LOG_INT("number", model->id),
           SP_LOG_TEXT("state", state));
}

/* --- loading: what the caller is told ------------------------------------------------------------------------------ */

typedef enum outlook { ASKED, COMING, SETTLED } outlook;

/* Has everybody said what there is to say? Net workers have no say: what they know does not make a model loadable. */
static outlook look(const sp_loaded *model, bool *ret_ready, const sp_error **ret_worst)
{
    const sp_house *house = model->house;
    bool asked = false, coming = false;
    *ret_ready = false;
    *ret_worst = NULL;
    for (int w = 0; w < house->worker_count; w++) {
        const sp_place *place = &model->places[w];
        sp_worker_state state = house->workers[w].state;
        if (house->workers[w].role != SP_ROLE_DEVICE)
            continue;
        *ret_ready |= place->state == SP_PLACE_READY;
        asked |= place->state == SP_PLACE_LOADING;
        if (place->state == SP_PLACE_EMPTY && sp_loaded_wanted_at(model, w)) {
            bool shut = !sp_loaded_coming_at(model, w); /* it is about to start again */
            asked |= state == SP_WORKER_READY && !shut;
            coming |= state == SP_WORKER_STARTING || state == SP_WORKER_BACKOFF || (state == SP_WORKER_READY && shut);
        }
        if (place->state == SP_PLACE_FAILED &&
            (!*ret_worst || sp_status_rank(place->error.status) > sp_status_rank((*ret_worst)->status)))
            *ret_worst = &place->error;
    }
    return asked ? ASKED : coming && !*ret_ready ? COMING : SETTLED;
}

static void tell(sp_loaded *model, bool ready, const sp_error *worst, bool late)
{
    sp_error err = { 0 };
    model->told = true;
    sp_loop_timer_clear(model->house->loop, &model->timer);
    if (!ready) {
        model->given_up = true;
        if (worst)
            err = *worst;
        else if (late)
            (void)SP_FAIL_CODE(&err, SP_TIMEOUT, "load_timeout", "no worker had loaded it after %lld s",
                               (long long)(model->timeout_ns / SP_NS_PER_S));
        else
            (void)SP_FAIL_CODE(&err, SP_UNAVAILABLE, "no_link", "no worker runs that could load it; see /healthz");
    }
    if (model->done)
        model->done(model->id, err.status, ready ? NULL : &err, model->context);
}

void sp_models_tell(sp_house *house)
{
    for (int i = 0; i < house->models.count;) {
        sp_loaded *model = house->models.list[i];
        uint32_t id = model->id;
        bool ready;
        const sp_error *worst;
        if (!model->told && look(model, &ready, &worst) == SETTLED)
            tell(model, ready, worst, false);
        i = place_of(house, id) + (sp_loaded_find(house, id) != NULL); /* the callback may have loaded and unloaded */
    }
}

static void on_late(sp_timer *timer, void *context)
{
    sp_loaded *model = context;
    bool ready = false;
    const sp_error *worst = NULL;
    sp_error err = { 0 };
    /* Behind other loads at a worker that is up: each of those ends in time, and so will this one. */
    if (!model->told && look(model, &ready, &worst) == ASKED &&
        !sp_loop_timer_set(model->house->loop, timer, sp_clock_now_ns() + model->timeout_ns, &err))
        return;
    if (!model->told)
        tell(model, ready, worst, true);
    model->house->models.due = true;
}

/* --- the calls ------------------------------------------------------------------------------------------------------ */

uint32_t sp_house_model_number(sp_house *house)
{
    house->models.last_number += house->models.last_number == UINT32_MAX ? 2 : 1; /* 0 means none */
    return house->models.last_number;
}

/* The numbers of an ensemble's models, which workers must have before it. */
static sp_status read_steps(sp_loaded *model, sp_error *reterr)
{
    json_error_t what;
    json_t *root = json_loadb((const char *)model->spec.data, model->spec.size_bytes, 0, &what);
    if (!json_is_object(root)) {
        json_decref(root);
        return SP_FAIL(reterr, SP_INVALID, "what is to be loaded is no JSON object: %s", what.text);
    }
    const json_t *steps = json_object_get(root, "step_models");
    for (size_t i = 0; i < json_array_size(steps) && model->step_count < SP_LIMIT_ENSEMBLE_STEPS; i++) {
        json_int_t id = json_integer_value(json_array_get(steps, i));
        if (id > 0 && id <= UINT32_MAX && id != model->id)
            model->steps[model->step_count++] = (uint32_t)id;
    }
    json_decref(root);
    return SP_OK;
}

sp_status sp_house_model_load(sp_house *house, uint32_t id, sp_view spec, int64_t timeout_ns, sp_model_loaded_fn *done,
                              void *context, sp_error *reterr)
{
    if (!(house->models.workers & ~net_workers(house)))
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_link",
                            "no worker here can run models: start with a device worker (--workers codec0,cpu0)");
    if (!id || sp_loaded_find(house, id))
        return SP_FAIL(reterr, SP_CONFLICT, "the number %u is taken", id);
    sp_loaded *model = calloc(1, sizeof(*model));
    if (!model)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model");
    *model = (sp_loaded){ .house = house, .id = id, .timeout_ns = timeout_ns, .done = done, .context = context };
    model->timer = (sp_timer){ .fire = on_late, .context = model };
    sp_breaker_settings settings = sp_breaker_settings_default();
    for (int w = 0; w < SP_LIMIT_WORKERS; w++)
        sp_breaker_init(&model->places[w].breaker, &settings);
    sp_buf_init(&model->spec, SP_LIMIT_LOAD_SPEC_BYTES);
    sp_buf_append(&model->spec, spec.data, spec.size_bytes);
    sp_status s = sp_buf_ok(&model->spec) ? SP_OK : SP_FAIL(reterr, SP_TOO_LARGE, "a load of %zu bytes", spec.size_bytes);
    if (!s)
        s = read_steps(model, reterr);
    if (!s)
        s = sp_loop_timer_set(house->loop, &model->timer, sp_clock_now_ns() + timeout_ns, reterr);
    if (!s)
        s = insert(house, model, reterr);
    if (s)
        free_model(model);
    house->models.due |= !s;
    return s;
}

void sp_house_model_unload(sp_house *house, uint32_t id)
{
    sp_loaded *model = sp_loaded_find(house, id);
    if (!model || model->forgotten)
        return;
    model->forgotten = model->told = true;
    sp_loop_timer_clear(house->loop, &model->timer);
    house->models.due = true;
}

static sp_loaded_state state_told(const sp_loaded *model, int worker)
{
    switch (model->places[worker].state) {
    case SP_PLACE_READY:
        return SP_LOADED_READY;
    case SP_PLACE_FAILED:
        return SP_LOADED_FAILED;
    case SP_PLACE_EMPTY:
    case SP_PLACE_LOADING:
    case SP_PLACE_LEAVING:
        break;
    }
    return sp_loaded_coming_at(model, worker) ? SP_LOADED_LOADING : SP_LOADED_ABSENT;
}

int sp_house_model_info(const sp_house *house, uint32_t id, sp_loaded_info *ret_infos, int capacity)
{
    const sp_loaded *model = sp_loaded_find(house, id);
    int count = 0;
    for (int w = 0; model && w < house->worker_count && count < capacity; w++) {
        const sp_place *place = &model->places[w];
        bool there = (house->models.workers & (1u << w)) || place->state != SP_PLACE_EMPTY;
        if (house->workers[w].role != SP_ROLE_DEVICE || !there)
            continue;
        ret_infos[count] = (sp_loaded_info){ .worker = house->workers[w].name, .state = state_told(model, w),
                                             .loaded = place->loaded, .status = place->error.status };
        (void)snprintf(ret_infos[count].reason, sizeof(ret_infos[count].reason), "%s", place->error.message);
        count++;
    }
    return count;
}

bool sp_house_model_ready(const sp_house *house, uint32_t id, bool *ret_coming)
{
    const sp_loaded *model = sp_loaded_find(house, id);
    bool ready = false, coming = false;
    for (int w = 0; model && !model->forgotten && w < house->worker_count; w++) {
        sp_worker_state state = house->workers[w].state;
        ready |= model->places[w].state == SP_PLACE_READY && state == SP_WORKER_READY;
        coming |= state != SP_WORKER_QUARANTINED && state != SP_WORKER_ENDING && sp_loaded_coming_at(model, w);
    }
    if (ret_coming)
        *ret_coming = coming;
    return ready;
}

int sp_house_model_open_count(const sp_house *house, uint32_t id)
{
    const sp_loaded *model = sp_loaded_find(house, id);
    return model ? model->open_count : 0;
}
