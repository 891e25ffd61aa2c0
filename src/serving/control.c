/* SPDX-License-Identifier: Apache-2.0
 * Loads, switches and unloads: each model's queue of ops, moved on in turns of their own (registry.h draws the states).
 * What must hold: there is no moment at which a model that was current cannot be found, until an unload or a successor. */
#include "serving/registry.h"

#include "base/clock.h"
#include "base/log.h"
#include "model/ensemble.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPEC_BYTES      (8u * SP_LIMIT_MODEL_CONFIG_BYTES)
#define BUILT_IN        "spillway/"
/* How often generations that are leaving are looked at, while there are any. */
#define RELEASE_MS 250

static bool is_built_in(const char *model)
{
    return !strncmp(model, BUILT_IN, sizeof(BUILT_IN) - 1);
}

/* --- the queue -------------------------------------------------------------------------------------------------------------- */

void sp_ops_kick(sp_serving *serving)
{
    if (sp_loop_timer_set(serving->loop, &serving->kick, sp_loop_now_ns(serving->loop), NULL))
        sp_log(SP_LOG_ERROR, "no memory for a timer: models are neither loaded nor unloaded");
}

static op *op_new(sp_serving *serving, served_model *model, op_kind kind, const char *override)
{
    op *made = calloc(1, sizeof(*made));
    char *text = strdup(override ? override : "");

    if (!made || !text) {
        free(made);
        free(text);
        return NULL;
    }
    *made = (op){ .serving = serving, .model = model, .kind = kind, .override = text, .begun_ns = sp_clock_now_ns() };
    return made;
}

static void op_free(op *o)
{
    sp_shared_card_unref(o->card);
    sp_model_card_free(o->made);
    free(o->override);
    free(o);
}

op *sp_op_push(sp_serving *serving, served_model *model, op_kind kind, const char *override)
{
    op *made = op_new(serving, model, kind, override);

    if (!made)
        return NULL;
    if (model->ops_last)
        model->ops_last->next = made;
    else
        model->ops = made;
    model->ops_last = made;
    sp_ops_kick(serving);
    return made;
}

static void over(op *o, const sp_error *err)
{
    if (err)
        o->error = *err;
    o->state = OP_OVER;
}

/* --- LOOKING ---------------------------------------------------------------------------------------------------------------- */

/* On the store thread: reads what was set before it was submitted, writes `found`, `unchanged`, `made`. */
static void look_run(sp_store_work *work)
{
    op *o = (op *)work;
    const sp_serving_config *config = &o->serving->config;

    if (o->serving->stopping) {
        work->status = SP_FAIL(&work->error, SP_CANCELLED, "the server ends");
        return;
    }
    work->status = sp_repository_locate(config->repository_count, config->repositories, o->model->name, &o->found, &work->error);
    o->unchanged = !work->status && o->known && o->found.stamp == o->known_stamp;
    if (work->status || o->unchanged)
        return;
    work->status = sp_model_inspect_until(config->executable, config->repositories[o->found.repository], o->model->name, o->override,
                                          config->load_timeout_ms, &o->serving->stopping, &o->made, &work->error);
}

static void look_done(sp_store_work *work)
{
    op *o = (op *)work;

    o->looked = true;
    o->error = work->error;
    o->error.status = work->status;
    sp_ops_kick(o->serving);
}

static void look_begin(op *o)
{
    sp_serving *serving = o->serving;
    const generation *current = o->model->current;

    o->state = OP_LOOKING;
    o->known = current && !strcmp(current->override, o->override);
    for (int i = 0; o->known && i < current->version_count; i++) {
        bool coming = false;
        o->known = sp_house_model_ready(serving->house, current->versions[i].served.id, &coming) || coming;
    }
    o->known_stamp = current ? current->stamp : 0;
    o->work.run = look_run;
    o->work.done = look_done;
    sp_store_submit_or_refuse(serving->threads[serving->next_thread++ % SERVED_THREADS], &o->work);
}

/* The store thread is back. */
static void look_end(op *o)
{
    served_model *model = o->model;

    if (*o->found.name) {
        model->present = true;
        model->tried_stamp = o->found.stamp;
    }
    if (o->error.status) {
        over(o, NULL);
        return;
    }
    if (o->unchanged) {
        over(o, NULL);
        return;
    }
    o->card = calloc(1, sizeof(*o->card));
    if (!o->card) {
        (void)SP_FAIL(&o->error, SP_NOMEM, "no memory for model '%s'", model->name);
        over(o, NULL);
        return;
    }
    *o->card = (shared_card){ .references = 1, .card = SP_STEAL(o->made) };
    model->version_count = o->card->card->version_count;
    for (int i = 0; i < model->version_count; i++)
        model->versions[i] = o->card->card->versions[i].number;
    o->state = OP_WAITING;
}

/* --- WAITING ---------------------------------------------------------------------------------------------------------------- */

/* Does `model`'s op wait, directly or through others, for `target`? */
static bool waits_for(sp_serving *serving, const served_model *model, const served_model *target, int depth)
{
    const op *o = model->ops;

    if (model == target || depth > SP_LIMIT_ENSEMBLE_STEPS)
        return true;
    if (!o || o->state != OP_WAITING || !o->card)
        return false;
    const sp_model_config *config = &o->card->card->config;
    for (int i = 0; i < config->step_count; i++) {
        const served_model *next = is_built_in(config->steps[i].model) ? NULL : sp_model_of(serving, config->steps[i].model);
        if (next && waits_for(serving, next, target, depth + 1))
            return true;
    }
    return false;
}

/* True: the ensemble's models are there, or one never will be (o->error). */
static bool models_settled(op *o)
{
    const sp_model_config *config = &o->card->card->config;
    bool settled = true;

    for (int i = 0; i < config->step_count && !o->error.status; i++) {
        const char *name = config->steps[i].model;
        if (is_built_in(name))
            continue;
        served_model *model = sp_model_of(o->serving, name);
        if (!o->asked && (!model || (!model->current && !model->ops))) {
            model = sp_model_make(o->serving, name);
            op *load = model ? sp_op_push(o->serving, model, OP_LOAD, NULL) : NULL;
            if (load)
                load->quietly = true;
        }
        if (model && model->ops && waits_for(o->serving, model, o->model, 0))
            (void)SP_FAIL(&o->error, SP_INVALID, "ensemble '%s' and '%s' wait for each other in a circle", o->model->name, name);
        else if (model && model->ops)
            settled = false;
        else if (!model || !model->current)
            (void)SP_FAIL_CODE(&o->error, SP_INVALID, "ensemble_models", "ensemble '%s' depends on '%s' which has no loaded version%s%s",
                               o->model->name, name, model && *model->reason ? ": " : "", model ? model->reason : "");
    }
    o->asked = true;
    return settled || o->error.status;
}

/* Numbers of the steps' models, and whether they fit together. */
static sp_status bind_steps(op *o, generation *gen)
{
    const sp_model_config *config = &o->card->card->config, *models[SP_LIMIT_ENSEMBLE_STEPS] = { NULL };

    for (int i = 0; i < config->step_count; i++) {
        const sp_ensemble_step *step = &config->steps[i];
        if (is_built_in(step->model))
            continue;
        served_version *version = sp_generation_version(sp_model_of(o->serving, step->model)->current, step->version);
        if (!version)
            return SP_FAIL_CODE(&o->error, SP_INVALID, "ensemble_models", "ensemble '%s' depends on '%s' version %" PRId64
                                ", which is not loaded", o->model->name, step->model, step->version);
        gen->step_models[i] = version->served.id;
        models[i] = &version->served.card->config;
    }
    return config->is_ensemble ? sp_ensemble_plan_new(config, models, &gen->plan, &o->error) : SP_OK;
}

/* --- LOADING ---------------------------------------------------------------------------------------------------------------- */

static void on_loaded(uint32_t id, sp_status status, const sp_error *err, void *context)
{
    served_version *version = context;

    (void)id;
    version->told = true;
    if (status && err)
        version->error = *err;
    version->error.status = status;
    sp_ops_kick(version->generation->serving);
}

static generation *generation_new(op *o)
{
    generation *gen = calloc(1, sizeof(*gen));
    const sp_model_card *card = o->card->card;
    const generation *current = o->model->current;
    char *override = strdup(o->kind == OP_REBIND && current ? current->override : o->override);

    if (!gen || !override) {
        free(gen);
        free(override);
        return NULL;
    }
    gen->references = 1;
    gen->serving = o->serving;
    gen->model = o->model;
    gen->override = override;
    gen->stamp = o->kind == OP_REBIND && current ? current->stamp : o->found.stamp;
    gen->card = o->card;
    gen->card->references++;
    gen->version_count = card->version_count;
    for (int i = 0; i < card->version_count; i++) {
        served_version *version = &gen->versions[i];
        sp_served *served = &version->served;
        version->generation = gen;
        (void)snprintf(version->name, sizeof(version->name), "%s", o->model->name);
        (void)snprintf(served->version_text, sizeof(served->version_text), "%" PRId64, card->versions[i].number);
        served->name = version->name;
        served->version = card->versions[i].number;
        served->card = card;
        served->file = &card->versions[i];
    }
    return gen;
}

/* The last stage of a spread ensemble: its outputs as they come, in the form that the client wants. */
static void make_finish(const sp_model_config *ensemble, sp_model_config *ret_finish)
{
    sp_model_config_init(ret_finish);
    memcpy(ret_finish->name, ensemble->name, sizeof(ret_finish->name));
    (void)snprintf(ret_finish->backend, sizeof(ret_finish->backend), "identity");
    ret_finish->max_batch_size = ensemble->max_batch_size;
    ret_finish->input_count = ret_finish->output_count = ensemble->output_count;
    for (int i = 0; i < ensemble->output_count; i++) {
        sp_model_port *output = &ret_finish->outputs[i], *input = &ret_finish->inputs[i];
        *output = ensemble->outputs[i];
        for (int d = 0; d < output->rank; d++)
            output->dims[d] = -1; /* what the steps made is what it is */
        *input = *output;
        input->label_filename[0] = 0;
        input->optional = true; /* who does not wish it does not give it */
    }
}

static sp_status load_version(op *o, generation *gen, served_version *version)
{
    sp_serving *serving = o->serving;
    const sp_model_card *card = gen->card->card;
    sp_load_spec *spec = calloc(1, sizeof(*spec));
    sp_buf json;

    if (!spec)
        return SP_FAIL(&o->error, SP_NOMEM, "no memory to load '%s'", o->model->name);
    version->served.id = spec->id = sp_house_model_number(serving->house);
    spec->version = version->served.version;
    (void)snprintf(spec->directory, sizeof(spec->directory), "%s", card->directory);
    (void)snprintf(spec->path, sizeof(spec->path), "%s", version->served.file->path);
    (void)snprintf(spec->digest, sizeof(spec->digest), "%s", version->served.file->digest);
    memcpy(spec->step_models, gen->step_models, sizeof(spec->step_models));
    if (gen->spread)
        make_finish(&card->config, &spec->config);
    else
        spec->config = card->config; /* lent: not freed with it */
    sp_buf_init(&json, SPEC_BYTES);
    sp_load_spec_write(spec, &json);
    free(spec);
    sp_status status = sp_buf_ok(&json) ? SP_OK : SP_FAIL(&o->error, SP_NOMEM, "no memory to load '%s'", o->model->name);
    if (!status)
        status = sp_house_model_load(serving->house, version->served.id, sp_buf_view(&json),
                                     serving->config.load_timeout_ms * SP_NS_PER_MS, on_loaded, version, &o->error);
    version->in_house = !status;
    sp_buf_done(&json);
    return status;
}

static void drop_loading(op *o)
{
    generation *gen = SP_STEAL(o->loading);

    for (int i = 0; gen && i < gen->version_count; i++) {
        if (gen->versions[i].in_house)
            sp_house_model_unload(o->serving->house, gen->versions[i].served.id);
        gen->versions[i].in_house = false;
    }
    sp_generation_unref(gen);
}

static void loading_begin(op *o, bool spread)
{
    sp_status status = SP_OK;

    o->state = OP_LOADING;
    o->loading = generation_new(o);
    if (!o->loading)
        status = SP_FAIL(&o->error, SP_NOMEM, "no memory for model '%s'", o->model->name);
    else
        o->loading->spread = spread;
    for (int i = 0; !status && i < o->loading->version_count; i++)
        o->loading->versions[i].served.spread = spread;
    if (!status)
        status = bind_steps(o, o->loading);
    for (int i = 0; !status && i < o->loading->version_count; i++)
        status = load_version(o, o->loading, &o->loading->versions[i]);
    if (!status)
        return;
    drop_loading(o);
    over(o, NULL);
}

static bool has_step(const generation *ensemble, const char *name)
{
    const sp_model_config *config = ensemble ? &ensemble->card->card->config : NULL;

    for (int i = 0; config && i < config->step_count; i++) {
        if (!strcmp(config->steps[i].model, name))
            return true;
    }
    return false;
}

/* The one moment of a switch: before it requests find the old generation, after it the new one. */
static void switch_to(op *o)
{
    served_model *model = o->model;
    generation *gen = SP_STEAL(o->loading);

    for (int i = 0; i < gen->version_count; i++)
        sp_served_stats_init(&gen->versions[i].served);
    sp_generation_leave(SP_STEAL(model->current));
    model->current = gen;
    for (served_model *other = o->serving->models; other; other = other->next) {
        if (other != model && has_step(other->current, model->name))
            (void)sp_op_push(o->serving, other, OP_REBIND, NULL); /* without memory it stays with the old numbers, which stay */
    }
    over(o, NULL);
}

/* No worker has all models of the ensemble, but each model has one. */
static bool is_scattered(const op *o)
{
    const generation *gen = o->loading;
    bool lacking = gen->card->card->config.is_ensemble && !gen->spread;

    for (int i = 0; i < gen->version_count && lacking; i++)
        lacking = gen->versions[i].error.status == SP_CONFLICT && !strcmp(gen->versions[i].error.code, "not_loaded");
    return lacking;
}

/* A worker has the last stage of a spread ensemble only: no ensemble with such a step can run in one. */
static bool has_spread_step(const op *o)
{
    const sp_model_config *config = &o->card->card->config;

    for (int i = 0; i < config->step_count; i++) {
        const served_model *model = is_built_in(config->steps[i].model) ? NULL : sp_model_of(o->serving, config->steps[i].model);
        if (model && model->current && model->current->spread)
            return true;
    }
    return false;
}

static void spread(op *o)
{
    const sp_model_config *config = &o->card->card->config;
    const char *built_in = NULL;

    for (int i = 0; i < config->step_count; i++)
        built_in = is_built_in(config->steps[i].model) ? config->steps[i].model : built_in;
    if (built_in) {
        (void)SP_FAIL_CODE(&o->error, SP_INVALID, "ensemble_models", "ensemble '%s': no worker has all of its models, which its step "
                           "'%s' needs; see instance_group of its models", o->model->name, built_in);
        drop_loading(o);
        over(o, NULL);
        return;
    }
    sp_log(SP_LOG_INFO, "an ensemble goes from worker to worker: none has all of its models", SP_LOG_TEXT("model", o->model->name));
    drop_loading(o);
    loading_begin(o, true);
}

static void loading_look(op *o)
{
    const generation *gen = o->loading;
    bool all = true;

    for (int i = 0; i < gen->version_count; i++)
        all = all && gen->versions[i].told;
    if (!all)
        return;
    if (is_scattered(o)) {
        spread(o);
        return;
    }
    for (int i = 0; i < gen->version_count; i++) {
        if (!gen->versions[i].error.status)
            continue;
        o->error = gen->versions[i].error;
        drop_loading(o); /* all versions or none, as Triton has it */
        over(o, NULL);
        return;
    }
    switch_to(o);
}

/* --- unloading -------------------------------------------------------------------------------------------------------------- */

static void unload(op *o)
{
    sp_serving *serving = o->serving;
    served_model *model = o->model;
    const sp_model_config *config = model->current ? &model->current->card->card->config : NULL;

    for (served_model *other = serving->models; other; other = other->next) {
        if (other == model || !has_step(other->current, model->name))
            continue;
        sp_generation_leave(SP_STEAL(other->current));
        other->failed = true;
        (void)snprintf(other->reason, sizeof(other->reason), "depends on '%s', which was unloaded", model->name);
    }
    if (!config && !model->present && !model->failed)
        (void)SP_FAIL(&o->error, SP_NOT_FOUND, "failed to unload '%s': there is no such model", model->name);
    for (int i = 0; config && o->dependents && i < config->step_count; i++) {
        served_model *step = is_built_in(config->steps[i].model) ? NULL : sp_model_of(serving, config->steps[i].model);
        bool needed = false;
        for (served_model *other = serving->models; other; other = other->next)
            needed |= other != model && has_step(other->current, config->steps[i].model);
        op *also = step && step->current && !needed ? sp_op_push(serving, step, OP_UNLOAD, NULL) : NULL;
        if (also) {
            also->dependents = true;
            (void)snprintf(also->reason, sizeof(also->reason), "%s", "unloaded");
        }
    }
    sp_generation_leave(SP_STEAL(model->current));
    model->was_unloaded = true;
    model->failed = false;
    model->retry_ns = 0;
    (void)snprintf(model->reason, sizeof(model->reason), "%s", o->reason);
    over(o, NULL);
}

/* --- moving on --------------------------------------------------------------------------------------------------------------- */

static void report(const op *o)
{
    served_model *model = o->model;

    if (o->kind == OP_UNLOAD) {
        if (!o->error.status)
            sp_log(SP_LOG_INFO, "model unloaded", SP_LOG_TEXT("model", model->name));
        return;
    }
    if (o->kind == OP_REBIND && !o->error.status)
        return; /* says nothing of its own last load */
    model->failed = o->error.status != SP_OK;
    model->was_unloaded &= o->error.status != SP_OK;
    (void)snprintf(model->reason, sizeof(model->reason), "%s", o->error.status ? o->error.message : "");
    if (o->error.status)
        sp_log(SP_LOG_WARN, model->current ? "model cannot be loaded, what was loaded goes on" : "model cannot be loaded",
               SP_LOG_TEXT("model", model->name), SP_LOG_TEXT("reason", o->error.message));
    else if (o->kind == OP_LOAD && !o->unchanged && !o->quietly)
        sp_log(SP_LOG_INFO, "model loaded", SP_LOG_TEXT("model", model->name),
               SP_LOG_INT("ms", (sp_clock_now_ns() - o->begun_ns) / SP_NS_PER_MS));
}

static void finish(op *o)
{
    served_model *model = o->model;
    sp_serving *serving = o->serving;
    bool skipped = o->quietly && !o->looked; /* it was there already */

    if (!skipped && !(o->kind == OP_REBIND && !o->card))
        report(o);
    model->ops = o->next;
    if (!model->ops)
        model->ops_last = NULL;
    sp_watch_op_over(serving, model, o);
    if (o->done)
        o->done(o->error.status, o->error.status ? &o->error : NULL, o->context);
    op_free(o);
    if (!model->present && model->reason[0] && !model->was_unloaded)
        sp_model_forget(serving, model);
}

/* One step of the model's first op; true: something changed. */
static bool advance(op *o)
{
    op_state before = o->state;

    switch (o->state) {
    case OP_QUEUED:
        if (o->kind == OP_UNLOAD) {
            unload(o);
        } else if (o->kind == OP_LOAD) {
            if (o->quietly && o->model->current)
                over(o, NULL);
            else
                look_begin(o);
        } else if (o->model->current) {
            o->card = o->model->current->card;
            o->card->references++;
            o->asked = true; /* what is gone is not brought back by a rebind */
            o->state = OP_WAITING;
        } else {
            over(o, NULL);
        }
        break;
    case OP_LOOKING:
        if (o->looked)
            look_end(o);
        break;
    case OP_WAITING:
        if (!models_settled(o))
            break;
        if (o->error.status)
            over(o, NULL);
        else if (has_spread_step(o))
            spread(o);
        else
            loading_begin(o, false);
        break;
    case OP_LOADING:
        loading_look(o);
        break;
    case OP_OVER:
        finish(o);
        return true;
    }
    return o->state != before;
}

static void tell_refused(sp_serving *serving)
{
    while (serving->refused) {
        op *o = serving->refused;
        serving->refused = o->next;
        o->done(o->error.status, &o->error, o->context);
        op_free(o);
    }
}

void sp_ops_fired(sp_timer *timer, void *context)
{
    sp_serving *serving = context;
    bool moved = true, busy = false;

    (void)timer;
    tell_refused(serving);
    while (moved) {
        moved = false;
        busy = false;
        for (served_model *model = serving->models, *next; model; model = next) {
            next = model->next;
            busy |= model->ops != NULL;
            if (model->ops && advance(model->ops)) {
                moved = true;
                break; /* the list may have changed */
            }
        }
    }
    if (!busy)
        sp_watch_settled(serving);
    if (sp_generations_release(serving) && !serving->kick.heap_index &&
        sp_loop_timer_set(serving->loop, &serving->kick, sp_loop_now_ns(serving->loop) + RELEASE_MS * SP_NS_PER_MS, NULL))
        sp_log(SP_LOG_ERROR, "no memory for a timer: models that were let go may stay");
}

void sp_ops_cancel(sp_serving *serving)
{
    const sp_error err = { .status = SP_CANCELLED, .message = "the server ends" };

    tell_refused(serving);
    for (served_model *model = serving->models; model; model = model->next) {
        while (model->ops) {
            op *o = model->ops;
            model->ops = o->next;
            drop_loading(o);
            if (o->done)
                o->done(SP_CANCELLED, &err, o->context);
            op_free(o);
        }
    }
}

/* --- the calls ---------------------------------------------------------------------------------------------------------------- */

/* `done` comes in a turn of its own, as it does when all goes well. Without memory even for that: at once. */
static void refuse(sp_serving *serving, const sp_error *err, sp_serving_done_fn *done, void *context)
{
    op *o = op_new(serving, NULL, OP_LOAD, NULL);

    if (!o) {
        done(err->status, err, context);
        return;
    }
    o->error = *err;
    o->done = done;
    o->context = context;
    o->next = serving->refused;
    serving->refused = o;
    sp_ops_kick(serving);
}

static void submit(sp_serving *serving, const char *name, op_kind kind, const char *override, bool dependents, sp_serving_done_fn *done,
                   void *context)
{
    sp_error err = { 0 };
    served_model *model = NULL;
    op *o = NULL;

    if (serving->config.mode != SP_CONTROL_MODE_EXPLICIT)
        (void)SP_FAIL(&err, SP_UNAVAILABLE, "explicit model load / unload is not allowed if polling is enabled (start with "
                      "--model-control-mode explicit)");
    else if (!*name || strlen(name) >= SP_LIMIT_SERVED_NAME_BYTES || name[0] == '.' || strchr(name, '/'))
        (void)SP_FAIL(&err, SP_INVALID, "'%.60s' is no name of a model", name);
    else if (kind == OP_UNLOAD && !sp_model_of(serving, name))
        (void)SP_FAIL(&err, SP_NOT_FOUND, "failed to unload '%.60s': there is no such model", name);
    if (!err.status) {
        model = sp_model_make(serving, name);
        o = model ? sp_op_push(serving, model, kind, override) : NULL;
        if (!o)
            (void)SP_FAIL(&err, model ? SP_NOMEM : SP_BUSY, "there is no room for another model");
    }
    if (!o) {
        refuse(serving, &err, done, context);
        return;
    }
    o->dependents = dependents;
    o->done = done;
    o->context = context;
    (void)snprintf(o->reason, sizeof(o->reason), "%s", "unloaded");
}

void sp_serving_load(sp_serving *serving, const char *name, const char *override, sp_serving_done_fn *done, void *context)
{
    submit(serving, name, OP_LOAD, override, false, done, context);
}

void sp_serving_unload(sp_serving *serving, const char *name, bool dependents, sp_serving_done_fn *done, void *context)
{
    submit(serving, name, OP_UNLOAD, NULL, dependents, done, context);
}
