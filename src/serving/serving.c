/* SPDX-License-Identifier: Apache-2.0
 * Which models are served: the registry that requests are looked up in. How they get there stands in control.c, why in
 * watch.c; what a model, a generation and an op are, in registry.h. */
#include "serving/registry.h"

#include "base/log.h"
#include "model/ensemble.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- models by name ------------------------------------------------------------------------------------------------------- */

static unsigned bucket_of(const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash % SERVED_BUCKETS;
}

served_model *sp_model_of(sp_serving *serving, const char *name)
{
    served_model *model = serving->buckets[bucket_of(name)];
    while (model && strcmp(model->name, name))
        model = model->bucket_next;
    return model;
}

/* The first of which nothing is loaded and nobody waits for anything: its directory may be gone, and if it is not, the next
 * look finds it again. */
static void forget_one(sp_serving *serving)
{
    for (served_model *model = serving->models; model; model = model->next) {
        if (model->current || model->leaving || model->ops || !(model->was_unloaded || model->failed))
            continue;
        model->present = false;
        sp_model_forget(serving, model);
        return;
    }
}

served_model *sp_model_make(sp_serving *serving, const char *name)
{
    served_model *model = sp_model_of(serving, name), **at = &serving->models;
    unsigned bucket = bucket_of(name);

    if (model)
        return model;
    if (serving->model_count == SP_LIMIT_REPOSITORY_MODELS)
        forget_one(serving);
    if (serving->model_count == SP_LIMIT_REPOSITORY_MODELS || strlen(name) >= sizeof(model->name))
        return NULL;
    model = calloc(1, sizeof(*model));
    if (!model)
        return NULL;
    (void)snprintf(model->name, sizeof(model->name), "%s", name);
    model->bucket_next = serving->buckets[bucket];
    serving->buckets[bucket] = model;
    while (*at && strcmp((*at)->name, name) < 0)
        at = &(*at)->next;
    model->next = *at;
    *at = model;
    serving->model_count++;
    return model;
}

void sp_model_forget(sp_serving *serving, served_model *model)
{
    served_model **at = &serving->models, **bucket = &serving->buckets[bucket_of(model->name)];

    if (model->present || model->current || model->leaving || model->ops)
        return;
    while (*at != model)
        at = &(*at)->next;
    while (*bucket != model)
        bucket = &(*bucket)->bucket_next;
    *at = model->next;
    *bucket = model->bucket_next;
    serving->model_count--;
    free(model);
}

/* --- generations ---------------------------------------------------------------------------------------------------------- */

void sp_shared_card_unref(shared_card *card)
{
    if (!card || --card->references)
        return;
    sp_model_card_free(card->card);
    free(card);
}

void sp_generation_unref(generation *gen)
{
    if (!gen || --gen->references)
        return;
    sp_shared_card_unref(gen->card);
    sp_ensemble_plan_free(gen->plan);
    free(gen->override);
    free(gen);
}

served_version *sp_generation_version(generation *gen, int64_t number)
{
    for (int i = 0; gen && i < gen->version_count; i++) {
        if (number < 0 || gen->versions[i].served.version == number)
            return &gen->versions[i]; /* the highest stands first */
    }
    return NULL;
}

void sp_generation_leave(generation *gen)
{
    if (!gen)
        return;
    gen->next = gen->model->leaving;
    gen->model->leaving = gen;
}

static bool binds(const generation *ensemble, const generation *gen)
{
    int steps = ensemble ? ensemble->card->card->config.step_count : 0;

    for (int s = 0; s < steps; s++) {
        for (int i = 0; i < gen->version_count; i++) {
            if (ensemble->step_models[s] == gen->versions[i].served.id)
                return true;
        }
    }
    return false;
}

/* An ensemble's steps go by numbers: those numbers must stay while it does, or requests are in it. */
static bool is_bound(sp_serving *serving, const generation *gen)
{
    for (served_model *model = serving->models; model; model = model->next) {
        if (binds(model->current, gen) || (model->ops && binds(model->ops->loading, gen)))
            return true;
        for (generation *other = model->leaving; other; other = other->next) {
            if (binds(other, gen))
                return true;
        }
    }
    return false;
}

bool sp_generations_release(sp_serving *serving)
{
    bool left = false;

    for (served_model *model = serving->models; model; model = model->next) {
        for (generation **at = &model->leaving; *at;) {
            generation *gen = *at;
            bool quiet = true;
            if (is_bound(serving, gen)) {
                left = true;
                at = &gen->next;
                continue;
            }
            for (int i = 0; i < gen->version_count; i++) {
                served_version *version = &gen->versions[i];
                if (version->in_house)
                    sp_house_model_unload(serving->house, version->served.id); /* requests that are in it go on */
                version->in_house = false;
                quiet = quiet && !sp_house_model_open_count(serving->house, version->served.id);
            }
            if (!quiet) { /* the index says UNLOADING meanwhile */
                left = true;
                at = &gen->next;
                continue;
            }
            *at = gen->next;
            sp_generation_unref(gen);
        }
    }
    return left;
}

/* --- start and end -------------------------------------------------------------------------------------------------------- */

static sp_status copy_text(const char *from, char **ret_text, sp_error *reterr)
{
    *ret_text = from ? strdup(from) : NULL;
    return *ret_text || !from ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the served models");
}

static sp_status copy_config(sp_serving *serving, const sp_serving_config *config, sp_error *reterr)
{
    sp_status status = copy_text(config->executable, &serving->executable, reterr);

    serving->config = *config;
    serving->config.executable = serving->executable;
    serving->config.poll_s = config->poll_s > 0 ? config->poll_s : 15;
    serving->config.load_timeout_ms = config->load_timeout_ms > 0 ? config->load_timeout_ms : 120000;
    for (int i = 0; !status && i < config->repository_count; i++) {
        status = copy_text(config->repositories[i], &serving->repositories[i], reterr);
        serving->config.repositories[i] = serving->repositories[i];
    }
    for (int i = 0; !status && i < config->load_model_count; i++) {
        status = copy_text(config->load_models[i], &serving->load_models[i], reterr);
        serving->config.load_models[i] = serving->load_models[i];
    }
    return status;
}

sp_status sp_serving_new(const sp_serving_config *config, sp_loop *loop, sp_house *house, sp_serving **ret_serving, sp_error *reterr)
{
    if (config->repository_count > (int)SP_ARRAY_LEN(config->repositories) || config->load_model_count > (int)SP_ARRAY_LEN(config->load_models))
        return SP_FAIL(reterr, SP_INVALID, "more than %zu model repositories, or %zu models to load", SP_ARRAY_LEN(config->repositories),
                       SP_ARRAY_LEN(config->load_models));
    sp_serving *serving = calloc(1, sizeof(*serving));
    if (!serving)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the served models");
    serving->loop = loop;
    serving->house = house;
    serving->kick = (sp_timer){ .fire = sp_ops_fired, .context = serving };
    sp_status status = copy_config(serving, config, reterr);
    if (!status)
        status = sp_serving_parts_new(config, loop, house, &serving->parts, reterr);
    if (!status)
        status = sp_watch_begin(serving, reterr);
    if (status) {
        sp_serving_free(serving);
        return status;
    }
    *ret_serving = serving;
    return SP_OK;
}

static void free_model(served_model *model)
{
    for (generation *gen = model->leaving, *next; gen; gen = next) {
        next = gen->next;
        sp_generation_unref(gen);
    }
    sp_generation_unref(model->current);
    free(model);
}

/* The house must not call back, and forgets what it was given: it may outlive us. */
static void let_go(sp_serving *serving, generation *gen, bool ensembles)
{
    if (!gen || gen->card->card->config.is_ensemble != ensembles)
        return;
    for (int i = 0; i < gen->version_count; i++) {
        if (gen->versions[i].in_house)
            sp_house_model_unload(serving->house, gen->versions[i].served.id);
        gen->versions[i].in_house = false;
    }
}

static void let_all_go(sp_serving *serving, bool ensembles)
{
    for (served_model *model = serving->models; model; model = model->next) {
        let_go(serving, model->current, ensembles);
        for (generation *gen = model->leaving; gen; gen = gen->next)
            let_go(serving, gen, ensembles);
        let_go(serving, model->ops ? model->ops->loading : NULL, ensembles);
    }
}

void sp_serving_free(sp_serving *serving)
{
    if (!serving)
        return;
    serving->stopping = true;
    for (int i = 0; i < SERVED_THREADS; i++) {
        if (serving->threads[i])
            sp_store_thread_free(serving->threads[i]); /* calls what is still to be told */
    }
    sp_watch_end(serving);
    sp_loop_timer_clear(serving->loop, &serving->kick);
    let_all_go(serving, true); /* before the models that they need */
    let_all_go(serving, false);
    sp_ops_cancel(serving);
    for (served_model *model = serving->models, *next; model; model = next) {
        next = model->next;
        free_model(model);
    }
    sp_serving_parts_free(serving->parts);
    for (size_t i = 0; i < SP_ARRAY_LEN(serving->repositories); i++)
        free(serving->repositories[i]);
    for (size_t i = 0; i < SP_ARRAY_LEN(serving->load_models); i++)
        free(serving->load_models[i]);
    free(serving->executable);
    free(serving);
}

sp_serving_parts *sp_serving_parts_of(const sp_serving *serving)
{
    return serving->parts;
}

/* --- what requests ask ----------------------------------------------------------------------------------------------------- */

sp_served *sp_served_ref(sp_served *served)
{
    served->references++;
    ((served_version *)served)->generation->references++;
    return served;
}

void sp_served_unref(sp_served *served)
{
    if (!served)
        return;
    served->references--;
    sp_generation_unref(((served_version *)served)->generation);
}

const char *sp_model_state_name(sp_model_state state)
{
    static const char *const names[] = { "", "LOADING", "READY", "UNLOADING", "UNAVAILABLE" };
    return (unsigned)state < SP_ARRAY_LEN(names) ? names[state] : "";
}

/* "3" -> 3; "" -> -1; false: no version. */
static bool read_version(const char *text, int64_t *ret_number)
{
    *ret_number = -1;
    if (!*text)
        return true;
    if (strspn(text, "0123456789") != strlen(text) || strlen(text) > 18)
        return false;
    *ret_number = strtoll(text, NULL, 10);
    return true;
}

/* Why a version that was loaded cannot answer: what its workers said. */
static void house_reason(const sp_serving *serving, uint32_t id, char *ret_reason, size_t bytes)
{
    sp_loaded_info infos[SP_LIMIT_WORKERS];
    int count = sp_house_model_info(serving->house, id, infos, SP_LIMIT_WORKERS);

    (void)snprintf(ret_reason, bytes, "no worker that could run it is up");
    for (int i = 0; i < count; i++) {
        if (infos[i].state == SP_LOADED_FAILED && *infos[i].reason)
            (void)snprintf(ret_reason, bytes, "%s", infos[i].reason);
    }
}

int sp_serving_places(const sp_serving *serving, const sp_served *served, sp_loaded_info *ret_infos, int capacity)
{
    return sp_house_model_info(serving->house, served->id, ret_infos, capacity);
}

sp_status sp_serving_find(sp_serving *serving, const char *name, const char *version, sp_served **ret_served, sp_error *reterr)
{
    const served_model *model = sp_model_of(serving, name);
    int64_t number;

    if (!model || (!model->current && !model->present && !model->ops && !model->failed))
        return SP_FAIL(reterr, SP_NOT_FOUND, "Request for unknown model: '%.100s' is not found", name);
    if (!read_version(version, &number))
        return SP_FAIL(reterr, SP_INVALID, "failed to get model version from specified version string '%.40s' (an integral value is "
                       "expected)", version);
    served_version *found = sp_generation_version(model->current, number);
    if (found) {
        *ret_served = &found->served;
        return SP_OK;
    }
    if (model->current)
        return SP_FAIL(reterr, SP_NOT_FOUND, "Request for unknown model: '%.60s' version %s is not found", name, version);
    const char *why = model->ops ? "it is being loaded" : *model->reason ? model->reason : "it is not loaded";
    return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "not_loaded", "Request for unknown model: '%.60s' has no available versions: %.150s", name,
                        why);
}

bool sp_serving_model_ready(sp_serving *serving, const char *name, const char *version)
{
    const served_model *model = sp_model_of(serving, name);
    int64_t number;

    if (!model || !read_version(version, &number))
        return false;
    const served_version *found = sp_generation_version(model->current, number);
    return found && sp_served_ready(serving, &found->served, NULL);
}

const sp_ensemble_plan *sp_serving_plan(const sp_served *served)
{
    return ((const served_version *)served)->generation->plan;
}

sp_served *sp_serving_step(sp_serving *serving, const sp_served *served, int step)
{
    return sp_serving_by_id(serving, ((const served_version *)served)->generation->step_models[step]);
}

bool sp_served_ready(sp_serving *serving, const sp_served *served, bool *ret_coming)
{
    bool coming = false, ready = sp_house_model_ready(serving->house, served->id, &coming);
    for (int i = 0; served->spread && i < served->card->config.step_count; i++) {
        bool step_coming = false;
        const sp_served *step = sp_serving_step(serving, served, i);
        ready = step && sp_served_ready(serving, step, &step_coming) && ready;
        coming |= step_coming;
    }
    if (ret_coming)
        *ret_coming = coming;
    return ready;
}

sp_served *sp_serving_by_id(sp_serving *serving, uint32_t id)
{
    for (served_model *model = serving->models; model; model = model->next) {
        generation *gens[] = { model->current, model->leaving };
        for (size_t g = 0; g < SP_ARRAY_LEN(gens); g++) {
            for (generation *gen = gens[g]; gen; gen = g ? gen->next : NULL) {
                for (int i = 0; i < gen->version_count; i++) {
                    if (gen->versions[i].served.id == id)
                        return &gen->versions[i].served;
                }
            }
        }
    }
    return NULL;
}

void sp_serving_each_loaded(sp_serving *serving, void (*call)(sp_served *served, void *context), void *context)
{
    for (served_model *model = serving->models; model; model = model->next) {
        for (int i = model->current ? model->current->version_count - 1 : -1; i >= 0; i--)
            call(&model->current->versions[i].served, context);
    }
}

/* --- the index -------------------------------------------------------------------------------------------------------------- */

typedef struct listing {
    sp_serving *serving;
    const served_model *model;
    void (*call)(const sp_served_entry *entry, void *context);
    void *context;
} listing;

static void list_version(const listing *l, int64_t number, sp_model_state state, const char *reason)
{
    char text[24] = "";
    if (number >= 0)
        (void)snprintf(text, sizeof(text), "%" PRId64, number);
    l->call(&(sp_served_entry){ .name = l->model->name, .version = text, .state = state, .reason = reason }, l->context);
}

/* A version that was loaded: can it answer now? */
static void list_current(const listing *l, const served_version *version)
{
    char reason[256] = "";
    bool coming = false;

    if (sp_served_ready(l->serving, &version->served, &coming)) {
        list_version(l, version->served.version, SP_MODEL_READY, l->model->failed ? l->model->reason : "");
    } else if (coming) {
        list_version(l, version->served.version, SP_MODEL_LOADING, "its worker has started again");
    } else {
        house_reason(l->serving, version->served.id, reason, sizeof(reason));
        list_version(l, version->served.version, SP_MODEL_UNAVAILABLE, reason);
    }
}

static void list_model(const listing *l)
{
    const served_model *model = l->model;
    bool loading = model->ops && model->ops->kind == OP_LOAD;

    if (model->current) {
        for (int i = model->current->version_count - 1; i >= 0; i--)
            list_current(l, &model->current->versions[i]);
        return;
    }
    if (!model->present && !loading && !model->failed && !model->was_unloaded && !model->leaving)
        return;
    sp_model_state state = loading          ? SP_MODEL_LOADING
                           : model->leaving ? SP_MODEL_UNLOADING
                           : model->failed || model->was_unloaded ? SP_MODEL_UNAVAILABLE
                                                                  : SP_MODEL_UNKNOWN;
    if (!model->version_count)
        list_version(l, -1, state, model->reason);
    for (int i = model->version_count - 1; i >= 0; i--)
        list_version(l, model->versions[i], state, model->reason);
}

void sp_serving_each(sp_serving *serving, void (*call)(const sp_served_entry *entry, void *context), void *context)
{
    listing l = { .serving = serving, .call = call, .context = context };

    (void)sp_generations_release(serving); /* so that it is told as it is now */
    for (served_model *model = serving->models; model; model = model->next) {
        l.model = model;
        list_model(&l);
    }
    sp_watch_refresh(serving);
}

bool sp_serving_ready(const sp_serving *serving)
{
    if (!serving->started)
        return false;
    for (const served_model *model = serving->models; model && serving->config.strict_readiness; model = model->next) {
        if (model->failed && !model->current)
            return false;
        for (int i = 0; model->current && i < model->current->version_count; i++) {
            bool coming;
            if (!sp_house_model_ready(serving->house, model->current->versions[i].served.id, &coming))
                return false;
        }
    }
    return true;
}
