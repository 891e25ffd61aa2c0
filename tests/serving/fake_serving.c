/* SPDX-License-Identifier: Apache-2.0
 * Served models without files or workers, for tests of the front ends: the same calls as serving/serving.c, models written
 * down here. Each echoes its inputs (tests/gateway/fake_house.c).
 *
 *   identity_TYPE   one input, one output of any one dimension, batches of 8    simple    two of each, INT32[16], batches of 8
 *   no_batch        FP32[-1,3] without batches      optional  INPUT1 may be left out     cached   with response_cache
 *   sequence        needs a sequence id             broken    cannot be loaded
 */
#include "serving/parts.h"

#include <stdio.h>
#include <stdlib.h>

#define MODELS 32

struct sp_serving {
    sp_serving_parts *parts;
    sp_served *models[MODELS];
    bool loaded[MODELS];
    int count;
    sp_timer timer;
    sp_loop *loop;
    sp_serving_done_fn *done;
    void *context;
    sp_status status;
    sp_error error;
};

static void port_set(sp_model_port *port, const char *name, int dtype, int rank, int64_t d0, int64_t d1)
{
    (void)snprintf(port->name, sizeof(port->name), "%s", name);
    port->dtype = (uint8_t)dtype;
    port->rank = (uint8_t)rank;
    port->has_dims = true;
    port->dims[0] = d0;
    port->dims[1] = d1;
}

static sp_model_config *model_add(sp_serving *serving, const char *name, int ports, int dtype, int max_batch, int rank, int64_t d0,
                                  int64_t d1)
{
    sp_served *served = calloc(1, sizeof(*served));
    sp_model_card *card = calloc(1, sizeof(*card));
    char text[16];
    sp_model_config_init(&card->config);
    (void)snprintf(card->config.name, sizeof(card->config.name), "%s", name);
    (void)snprintf(card->config.backend, sizeof(card->config.backend), "identity");
    card->config.max_batch_size = max_batch;
    card->config.input_count = card->config.output_count = ports;
    for (int i = 0; i < ports; i++) {
        (void)snprintf(text, sizeof(text), "INPUT%d", i);
        port_set(&card->config.inputs[i], text, dtype, rank, d0, d1);
        (void)snprintf(text, sizeof(text), "OUTPUT%d", i);
        port_set(&card->config.outputs[i], text, dtype, rank, d0, d1);
    }
    card->version_count = 1;
    card->versions[0].number = 1;
    served->name = card->config.name;
    served->version = 1;
    (void)snprintf(served->version_text, sizeof(served->version_text), "1");
    served->id = (uint32_t)serving->count + 1;
    served->card = card;
    served->file = &card->versions[0];
    served->references = 1;
    sp_served_stats_init(served);
    serving->loaded[serving->count] = true;
    serving->models[serving->count++] = served;
    return &card->config;
}

sp_status sp_serving_new(const sp_serving_config *config, sp_loop *loop, sp_house *house, sp_serving **ret_serving, sp_error *reterr)
{
    sp_serving *serving = calloc(1, sizeof(*serving));
    serving->loop = loop;
    sp_status s = sp_serving_parts_new(config, loop, house, &serving->parts, reterr);
    if (s) {
        free(serving);
        return s;
    }
    for (int dtype = 1; dtype <= 16; dtype++) {
        char name[64];
        const char *word = sp_dtype_kserve(dtype);
        if (!word)
            continue;
        (void)snprintf(name, sizeof(name), "identity_%s", word);
        model_add(serving, name, 1, dtype, 8, 1, -1, 0);
    }
    model_add(serving, "simple", 2, 6, 8, 1, 16, 0);
    model_add(serving, "no_batch", 1, 1, 0, 2, -1, 3);
    model_add(serving, "optional", 2, 1, 8, 1, -1, 0)->inputs[1].optional = true;
    model_add(serving, "cached", 1, 1, 8, 1, -1, 0)->response_cache = true;
    model_add(serving, "sequence", 1, 6, 8, 1, 1, 0)->sequence.strategy = SP_SEQUENCE_DIRECT;
    *ret_serving = serving;
    return SP_OK;
}

void sp_served_unref(sp_served *served)
{
    if (!served || --served->references)
        return;
    sp_model_config_done((sp_model_config *)(uintptr_t)&served->card->config);
    free((void *)(uintptr_t)served->card);
    free(served);
}

const struct sp_ensemble_plan *sp_serving_plan(const sp_served *served)
{
    (void)served;
    return NULL;
}

sp_served *sp_serving_step(sp_serving *serving, const sp_served *served, int step)
{
    (void)serving;
    (void)served;
    (void)step;
    return NULL;
}

sp_served *sp_served_ref(sp_served *served)
{
    served->references++;
    return served;
}

void sp_serving_free(sp_serving *serving)
{
    sp_loop_timer_clear(serving->loop, &serving->timer);
    if (serving->done)
        serving->done(SP_CANCELLED, &serving->error, serving->context);
    sp_serving_parts_free(serving->parts);
    for (int i = 0; i < serving->count; i++)
        sp_served_unref(serving->models[i]);
    free(serving);
}

sp_serving_parts *sp_serving_parts_of(const sp_serving *serving)
{
    return serving->parts;
}

sp_served *sp_serving_by_id(sp_serving *serving, uint32_t id)
{
    return id && (int)id <= serving->count ? serving->models[id - 1] : NULL;
}

bool sp_serving_ready(const sp_serving *serving)
{
    return serving->count > 0;
}

const char *sp_model_state_name(sp_model_state state)
{
    static const char *const names[] = { "", "LOADING", "READY", "UNLOADING", "UNAVAILABLE" };
    return names[state];
}

static int index_of(sp_serving *serving, const char *name)
{
    for (int i = 0; i < serving->count; i++) {
        if (strcmp(serving->models[i]->name, name) == 0)
            return i;
    }
    return -1;
}

sp_status sp_serving_find(sp_serving *serving, const char *name, const char *version, sp_served **ret_served, sp_error *reterr)
{
    int i = index_of(serving, name);
    if (i < 0)
        return SP_FAIL(reterr, SP_NOT_FOUND, "Request for unknown model: '%.100s' is not found", name);
    if (*version && strcmp(version, "1") != 0)
        return SP_FAIL(reterr, SP_NOT_FOUND, "Request for unknown model: '%.100s' version %.20s is not found", name, version);
    if (!serving->loaded[i])
        return SP_FAIL(reterr, SP_UNAVAILABLE, "Request for unknown model: '%.100s' has no available versions", name);
    *ret_served = serving->models[i];
    return SP_OK;
}

bool sp_serving_model_ready(sp_serving *serving, const char *name, const char *version)
{
    sp_served *served;
    return sp_serving_find(serving, name, version, &served, NULL) == SP_OK;
}

void sp_serving_each(sp_serving *serving, void (*call)(const sp_served_entry *entry, void *context), void *context)
{
    for (int i = 0; i < serving->count; i++) {
        const sp_served_entry entry = { .name = serving->models[i]->name, .version = "1",
                                        .state = serving->loaded[i] ? SP_MODEL_READY : SP_MODEL_UNAVAILABLE,
                                        .reason = serving->loaded[i] ? "" : "unloaded" };
        call(&entry, context);
    }
    const sp_served_entry broken = { .name = "broken", .version = "1", .state = SP_MODEL_UNAVAILABLE, .reason = "it is broken" };
    call(&broken, context);
}

int sp_serving_places(const sp_serving *serving, const sp_served *served, sp_loaded_info *ret_infos, int capacity)
{
    return 0; /* it has no workers */
}

void sp_serving_each_loaded(sp_serving *serving, void (*call)(sp_served *served, void *context), void *context)
{
    for (int i = 0; i < serving->count; i++) {
        if (serving->loaded[i])
            call(serving->models[i], context);
    }
}

static void control_fire(sp_timer *timer, void *context)
{
    sp_serving *serving = context;
    sp_serving_done_fn *done = SP_STEAL(serving->done);
    (void)timer;
    done(serving->status, &serving->error, serving->context);
}

static void later(sp_serving *serving, sp_serving_done_fn *done, void *context)
{
    if (serving->done) { /* one at a time here */
        const sp_error err = { .status = SP_BUSY, .message = "another model is being loaded" };
        done(SP_BUSY, &err, context);
        return;
    }
    serving->done = done;
    serving->context = context;
    serving->timer = (sp_timer){ .fire = control_fire, .context = serving };
    (void)sp_loop_timer_set(serving->loop, &serving->timer, sp_loop_now_ns(serving->loop) + 1000000, NULL);
}

void sp_serving_load(sp_serving *serving, const char *name, const char *override, sp_serving_done_fn *done, void *context)
{
    int i = index_of(serving, name);
    serving->status = SP_OK;
    if (strcmp(name, "broken") == 0)
        serving->status = SP_FAIL(&serving->error, SP_INVALID, "failed to load 'broken': it is broken");
    else if (i < 0)
        serving->status = SP_FAIL(&serving->error, SP_NOT_FOUND, "failed to load '%.60s', no such model", name);
    else if (*override && *override != '{')
        serving->status = SP_FAIL(&serving->error, SP_INVALID, "failed to load '%.60s': config: no JSON", name);
    else
        serving->loaded[i] = true;
    later(serving, done, context);
}

void sp_serving_unload(sp_serving *serving, const char *name, bool dependents, sp_serving_done_fn *done, void *context)
{
    int i = index_of(serving, name);
    (void)dependents;
    serving->status = SP_OK;
    if (i >= 0)
        serving->loaded[i] = false;
    later(serving, done, context);
}
