/* SPDX-License-Identifier: Apache-2.0
 * The budget of all models. What does not fit makes others be put aside: their sessions are freed, and opened again by the
 * next request for them. Never one that runs; one that is needed and runs is asked to yield: it gets no new batch, and whoever
 * needs its memory waits for the running ones to end. */
#include "worker/hall_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>

/* What a Python model remembers of its sequences goes with its process. (Implicit state is the hall's.) */
static bool remembers(const sp_hall_model *model)
{
    return model->sequences && sp_sequencer_open(model->sequences) && strcmp(model->config->backend, "python") == 0;
}

#define TELL_NS (10 * SP_NS_PER_S)

/* Under the lock: the longest unused of those that are open; `idle`: and do not run. */
static sp_hall_model *find_victim(const sp_hall *hall, const sp_hall_model *but, bool idle)
{
    sp_hall_model *victim = NULL;
    for (int i = 0; i < SP_HALL_MODELS; i++) {
        for (sp_hall_model *model = hall->models[i]; model; model = model->next_of_bucket) {
            if (model == but || model->state != SP_HALL_READY || !model->bytes || (idle && model->running) || remembers(model))
                continue;
            if (!victim || model->used_ns < victim->used_ns)
                victim = model;
        }
    }
    return victim;
}

/* Models that take turns in too little memory would fill the log. */
static void tell_of(sp_hall *hall, const sp_hall_model *victim)
{
    int64_t now_ns = sp_clock_now_ns();
    hall->put_aside++;
    if (now_ns < hall->told_ns + TELL_NS)
        return;
    hall->told_ns = now_ns;
    sp_log(SP_LOG_INFO, "models put aside for memory", SP_LOG_TEXT("model", victim->config->name),
           SP_LOG_INT("mib", (int64_t)(victim->bytes >> 20)), SP_LOG_INT("so_far", (int64_t)hall->put_aside));
}

/* Under the lock, which is left while its session is freed. */
static void put_aside(sp_hall *hall, sp_hall_model *victim)
{
    victim->state = SP_HALL_MOVING;
    victim->yield = false;
    (void)pthread_mutex_unlock(&hall->lock);
    sp_hall_model_close(victim);
    (void)malloc_trim(0); /* best effort: what is free goes back to the system */
    (void)pthread_mutex_lock(&hall->lock);
    victim->state = SP_HALL_ASIDE;
    hall->used_bytes -= victim->bytes;
    if (hall->settings.sim)
        sp_sim_drop(hall->settings.sim, victim->bytes);
    tell_of(hall, victim);
    victim->bytes = 0;
    sp_hall_bury_if_over(hall, victim);
}

bool sp_hall_put_one_aside(sp_hall *hall, const sp_hall_model *but)
{
    (void)pthread_mutex_lock(&hall->lock);
    sp_hall_model *victim = find_victim(hall, but, true);
    if (victim)
        put_aside(hall, victim);
    (void)pthread_mutex_unlock(&hall->lock);
    return victim != NULL;
}

/* Under the lock: waits until something has changed; false = the time is up. */
static bool wait_for_change(sp_hall *hall, int64_t deadline_ns)
{
    struct timespec until = { deadline_ns / SP_NS_PER_S, deadline_ns % SP_NS_PER_S };
    return pthread_cond_timedwait(&hall->changed, &hall->lock, &until) == 0;
}

/* Under the lock: frees what `bytes` need; true when they fit. */
static bool make_room(sp_hall *hall, const sp_hall_model *model, uint64_t bytes, int64_t deadline_ns)
{
    while (hall->used_bytes + bytes > hall->settings.memory_bytes) {
        sp_hall_model *victim = find_victim(hall, model, true);
        if (victim) {
            put_aside(hall, victim);
            continue;
        }
        victim = find_victim(hall, model, false);
        if (!victim)
            return false; /* what is left is being opened itself */
        victim->yield = true;
        if (!wait_for_change(hall, deadline_ns)) {
            victim->yield = false;
            return false;
        }
    }
    return true;
}

static sp_status does_not_fit(const sp_hall *hall, const sp_hall_model *model, uint64_t bytes, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_NOMEM, "model_memory",
                        "'%.100s' takes about %llu MiB; models may have %llu MiB together (model_memory)", model->config->name,
                        (unsigned long long)(bytes >> 20), (unsigned long long)(hall->settings.memory_bytes >> 20));
}

static bool is_over_budget(sp_hall *hall)
{
    (void)pthread_mutex_lock(&hall->lock);
    bool over = hall->used_bytes > hall->settings.memory_bytes;
    (void)pthread_mutex_unlock(&hall->lock);
    return over;
}

sp_status sp_hall_reserve(sp_hall *hall, sp_hall_model *model, uint64_t bytes, int64_t deadline_ns, sp_error *reterr)
{
    if (bytes > hall->settings.memory_bytes)
        return does_not_fit(hall, model, bytes, reterr);
    (void)pthread_mutex_lock(&hall->lock);
    bool fits = make_room(hall, model, bytes, deadline_ns ? deadline_ns : sp_clock_now_ns() + SP_HALL_OPEN_NS);
    sp_status s = fits ? SP_OK
                       : SP_FAIL_CODE(reterr, SP_NOMEM, "model_memory", "no room for '%.100s': the others run and cannot be put aside",
                                      model->config->name);
    if (!s && hall->settings.sim)
        s = sp_sim_take(hall->settings.sim, bytes, reterr);
    if (!s) {
        hall->used_bytes += bytes;
        model->bytes = bytes;
    }
    (void)pthread_mutex_unlock(&hall->lock);
    return s;
}

void sp_hall_settle(sp_hall *hall, sp_hall_model *model, uint64_t bytes)
{
    (void)pthread_mutex_lock(&hall->lock);
    if (hall->settings.sim) {
        sp_sim_drop(hall->settings.sim, model->bytes);
        if (bytes && sp_sim_take(hall->settings.sim, bytes, NULL))
            bytes = 0; /* it fitted the estimate and no more: what it takes beyond is not counted */
    }
    hall->used_bytes += bytes - model->bytes;
    model->bytes = bytes;
    (void)pthread_mutex_unlock(&hall->lock);
}

sp_status sp_hall_open_here(sp_hall *hall, sp_hall_model *model, int64_t deadline_ns, sp_error *reterr)
{
    uint64_t bytes = 0;
    (void)pthread_mutex_lock(&hall->load_lock);
    sp_status s = sp_hall_reserve(hall, model, sp_hall_model_estimate(model), deadline_ns, reterr);
    if (!s)
        s = sp_hall_model_open(hall, model, &bytes, reterr);
    if (s == SP_NOMEM && sp_hall_put_one_aside(hall, model)) { /* the system or the device has less than the budget says */
        bytes = 0;
        s = sp_hall_model_open(hall, model, &bytes, reterr);
    }
    if (!s && bytes > hall->settings.memory_bytes) {
        sp_hall_model_close(model);
        s = does_not_fit(hall, model, bytes, reterr);
    }
    if (!s)
        model->measured = bytes;
    sp_hall_settle(hall, model, s ? 0 : bytes);
    (void)pthread_mutex_lock(&hall->lock);
    model->state = s ? SP_HALL_ASIDE : SP_HALL_READY;
    model->used_ns = sp_clock_now_ns(); /* who has just come is not the longest unused */
    bool over = hall->used_bytes > hall->settings.memory_bytes; /* it took more than its file */
    (void)pthread_mutex_unlock(&hall->lock);
    while (over && sp_hall_put_one_aside(hall, model))
        over = is_over_budget(hall);
    (void)malloc_trim(0); /* loading leaves holes: 40 MB of 125 with a picture classifier */
    (void)pthread_mutex_unlock(&hall->load_lock);
    return s;
}
