/* SPDX-License-Identifier: Apache-2.0
 * Models by number, and their leases on the way in and out; what becomes of a LOAD and an UNLOAD. Which batch is next:
 * hall_next.c. */
#include "worker/hall_ensemble.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

sp_status sp_hall_new(const sp_hall_settings *settings, sp_hall **ret_hall, sp_error *reterr)
{
    sp_hall *hall = calloc(1, sizeof(*hall));
    if (hall)
        hall->requests = calloc(SP_LIMIT_SLOTS, sizeof(*hall->requests)); /* pages that no slot has used cost nothing */
    if (!hall || !hall->requests) {
        free(hall);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the served models' tables");
    }
    hall->settings = *settings;
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic); /* these cannot fail */
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&hall->changed, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    (void)pthread_mutex_init(&hall->lock, NULL);
    (void)pthread_mutex_init(&hall->load_lock, NULL);
    *ret_hall = hall;
    return SP_OK;
}

void sp_hall_free(sp_hall *hall)
{
    if (!hall)
        return;
    for (int i = 0; i < SP_HALL_MODELS; i++) {
        for (sp_hall_model *model = hall->models[i], *next; model; model = next) {
            next = model->next_of_bucket;
            sp_hall_model_free(model);
        }
    }
    while (hall->dead) {
        sp_hall_model *model = hall->dead;
        hall->dead = model->next_dead;
        sp_hall_model_free(model);
    }
    (void)pthread_mutex_destroy(&hall->load_lock);
    (void)pthread_mutex_destroy(&hall->lock);
    (void)pthread_cond_destroy(&hall->changed);
    sp_hall_courses_free(hall);
    free(hall->requests);
    free(hall);
}

int sp_hall_waiting(const sp_hall *hall)
{
    return hall->waiting;
}

/* --- models by number ------------------------------------------------------------------------------------------------ */

sp_hall_model *sp_hall_find(const sp_hall *hall, uint32_t id)
{
    sp_hall_model *model = hall->models[id % SP_HALL_MODELS];
    while (model && model->id != id)
        model = model->next_of_bucket;
    return model;
}

static void table_remove(sp_hall *hall, sp_hall_model *model)
{
    sp_hall_model **at = &hall->models[model->id % SP_HALL_MODELS];
    while (*at != model)
        at = &(*at)->next_of_bucket;
    *at = model->next_of_bucket;
    hall->model_count--;
}

static void table_add(sp_hall *hall, sp_hall_model *model)
{
    sp_hall_model **bucket = &hall->models[model->id % SP_HALL_MODELS];
    model->next_of_bucket = *bucket;
    *bucket = model;
    hall->model_count++;
    sp_hall_enter_resources(hall, model);
}

/* --- order of answers ------------------------------------------------------------------------------------------------ */

static void order_add(sp_hall_model *model, sp_hall_request *request)
{
    request->ordered = true;
    request->done = false;
    request->next = NULL;
    request->previous = model->order_last;
    if (model->order_last)
        model->order_last->next = request;
    else
        model->order_first = request;
    model->order_last = request;
}

static void order_remove(sp_hall_model *model, sp_hall_request *request)
{
    if (request->previous)
        request->previous->next = request->next;
    else
        model->order_first = request->next;
    if (request->next)
        request->next->previous = request->previous;
    else
        model->order_last = request->previous;
    request->ordered = false;
}

/* To the gateway, or to the ensemble that it is a step of. */
static void release(sp_hall *hall, sp_hall_request *request, int64_t now_ns)
{
    if (request->step)
        sp_hall_step_over(hall, request->step, now_ns);
    else
        sp_worker_finish(request->item);
}

static void order_release(sp_hall *hall, sp_hall_model *model, int64_t now_ns)
{
    while (model->order_first && model->order_first->done) {
        sp_hall_request *request = model->order_first;
        order_remove(model, request);
        release(hall, request, now_ns);
    }
}

void sp_hall_give_back(sp_hall *hall, sp_hall_request *request, int64_t now_ns)
{
    if (!request->ordered) {
        release(hall, request, now_ns);
        return;
    }
    request->done = true;
    order_release(hall, request->model, now_ns);
}

/* --- coming ---------------------------------------------------------------------------------------------------------- */

static void append_job(sp_hall *hall, sp_hall_request *request)
{
    request->next = NULL;
    request->previous = hall->jobs_last;
    if (hall->jobs_last)
        hall->jobs_last->next = request;
    else
        hall->jobs_first = request;
    hall->jobs_last = request;
}

void sp_hall_remove_job(sp_hall *hall, sp_hall_request *request)
{
    if (request->previous)
        request->previous->next = request->next;
    else
        hall->jobs_first = request->next;
    if (request->next)
        request->next->previous = request->previous;
    else
        hall->jobs_last = request->previous;
}

static sp_status refused(const sp_hall_model *model, sp_batcher_verdict verdict, sp_error *reterr)
{
    if (verdict == SP_BATCHER_FULL)
        return SP_FAIL_CODE(reterr, SP_BUSY, "queue_full", "Exceeds maximum queue size");
    return SP_FAIL(reterr, SP_INVALID, "inference request batch-size must be <= %d for '%s'", model->config->max_batch_size,
                   model->config->name);
}

sp_status sp_hall_queue(sp_hall *hall, sp_hall_request *request, int64_t now_ns, sp_error *reterr)
{
    sp_hall_model *model = request->model;
    sp_batcher_verdict verdict = SP_BATCHER_QUEUED;
    sp_status s = SP_OK;
    if (model->ensemble)
        return sp_hall_course_begin(hall, request, now_ns, reterr);
    request->member.text = request->sequence_text;
    if (model->sequences)
        s = sp_sequencer_add(model->sequences, &request->member, now_ns, reterr);
    else
        verdict = sp_batcher_add(&model->batcher, &request->waiting, now_ns);
    if (verdict != SP_BATCHER_QUEUED)
        s = refused(model, verdict, reterr);
    if (s)
        return s;
    if (model->config->batching.preserve_ordering)
        order_add(model, request);
    sp_hall_list(hall, model);
    hall->waiting++;
    return SP_OK;
}

static sp_status add_infer(sp_hall *hall, sp_hall_request *request, int64_t now_ns, sp_error *reterr)
{
    const sp_infer_head *head = sp_worker_infer_head(request->item);
    uint32_t id = head->model;
    sp_hall_model *model = sp_hall_find(hall, id);
    if (!model || model->leaving)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "not_loaded", "%s has no loaded model of number %u",
                            hall->settings.worker, id);
    bool detect = request->item->submission->op == SP_OP_DETECT;
    sp_status s = detect ? sp_hall_detect_check(model, request, reterr) : sp_hall_check(head, model, request, reterr);
    if (s)
        return s;
    request->model = model;
    request->waiting.alone = request->item->submission->alone != 0;
    sp_hall_sequence_read(request, head);
    return sp_hall_queue(hall, request, now_ns, reterr);
}

void sp_hall_add(sp_hall *hall, sp_work_item *item, int64_t now_ns)
{
    sp_hall_request *request = &hall->requests[item->submission->slot];
    request->item = item;
    request->model = NULL;
    request->ordered = request->done = request->detect = false;
    request->queue_ns = request->input_ns = 0;
    request->step = NULL;
    request->course = NULL;
    request->in_hand = 0;
    item->own = request;
    uint32_t op = item->submission->op;
    (void)pthread_mutex_lock(&hall->lock);
    if (op == SP_OP_LOAD || op == SP_OP_UNLOAD) {
        request->kind = op == SP_OP_LOAD ? SP_HALL_LOAD : SP_HALL_UNLOAD;
        append_job(hall, request);
    } else if (op == SP_OP_INFER || op == SP_OP_DETECT) {
        request->kind = SP_HALL_INFER;
        item->status = add_infer(hall, request, now_ns, &item->error);
    } else {
        item->status = SP_FAIL(&item->error, SP_UNSUPPORTED, "a device worker cannot do operation %u", op);
    }
    (void)pthread_mutex_unlock(&hall->lock);
    if (item->status)
        sp_worker_finish(item);
}

static void forget_waiting(sp_hall *hall, sp_hall_model *model)
{
    hall->waiting--;
    sp_hall_unlist(hall, model);
}

void sp_hall_unqueue(sp_hall *hall, sp_hall_request *request)
{
    sp_hall_model *model = request->model;
    if (request->course) {
        sp_hall_course_abort(hall, request);
        return;
    }
    if (model->sequences)
        sp_sequencer_withdraw(model->sequences, &request->member);
    else
        sp_batcher_remove(&model->batcher, &request->waiting);
    forget_waiting(hall, model);
    if (request->ordered) {
        order_remove(model, request);
        order_release(hall, model, sp_clock_now_ns());
    }
    sp_hall_bury_if_over(hall, model);
}

void sp_hall_remove(sp_hall *hall, sp_work_item *item)
{
    sp_hall_request *request = item->own;
    (void)pthread_mutex_lock(&hall->lock);
    if (request->kind == SP_HALL_INFER)
        sp_hall_unqueue(hall, request);
    else
        sp_hall_remove_job(hall, request);
    (void)pthread_mutex_unlock(&hall->lock);
}

/* --- the end of a model ---------------------------------------------------------------------------------------------- */

/* Under the lock: an UNLOAD has come, and nothing waits or runs any more. */
void sp_hall_bury_if_over(sp_hall *hall, sp_hall_model *model)
{
    if (!model->leaving || model->running || sp_hall_waiting_for(model) || model->holders || model->state == SP_HALL_MOVING)
        return;
    table_remove(hall, model);
    sp_hall_ensemble_unbind(hall, model);
    model->next_dead = hall->dead;
    hall->dead = model;
}

/* --- running, without the queue's lock ------------------------------------------------------------------------------- */

static void run_load(sp_hall *hall, sp_hall_batch *own)
{
    sp_work_item *item = own->requests[0]->item;
    sp_error *err = &item->error;
    sp_load_spec *spec = NULL;
    sp_hall_model *model = NULL;
    int64_t begun_ns = sp_clock_now_ns(), deadline_ns = item->submission->attempt_deadline_ns;
    sp_answer_loaded loaded = { 0 };
    sp_status s = sp_load_spec_read(item->body, &spec, err);
    if (!s)
        s = sp_hall_model_new(hall, spec, &model, err);
    (void)pthread_mutex_lock(&hall->lock);
    if (!s && sp_hall_find(hall, model->id))
        s = SP_FAIL(err, SP_CONFLICT, "a model of number %u is loaded already", model->id);
    (void)pthread_mutex_unlock(&hall->lock);
    if (!s)
        s = sp_hall_open_here(hall, model, deadline_ns, err);
    loaded.load_ns = sp_clock_now_ns() - begun_ns;
    if (!s) {
        int64_t warm_ns = sp_clock_now_ns();
        s = sp_hall_model_warm(hall, model, err);
        loaded.warmup_ns = sp_clock_now_ns() - warm_ns;
        if (!s)
            sp_hall_detector_open(hall, model);
        if (s)
            sp_hall_settle(hall, model, 0);
    }
    if (!s && model->ensemble) {
        (void)pthread_mutex_lock(&hall->lock);
        s = sp_hall_ensemble_bind(hall, model, err);
        (void)pthread_mutex_unlock(&hall->lock);
    }
    item->status = s;
    if (s) {
        sp_hall_model_free(model);
        return;
    }
    sp_hall_describe(hall, model, &loaded);
    memcpy(item->answer, &loaded, sizeof(loaded));
    item->done.answer_bytes = sizeof(loaded);
    own->model = model;
}

/* Only says that it goes; who frees it is next_burial's batch, when what runs and waits has ended. */
static void run_unload(sp_hall *hall, sp_hall_batch *own)
{
    sp_hall_request *request = own->requests[0];
    sp_work_item *item = request->item;
    SP_CLEANUP(sp_load_spec_freep) sp_load_spec *spec = NULL;
    item->status = sp_load_spec_read(item->body, &spec, &item->error);
    if (item->status)
        return;
    (void)pthread_mutex_lock(&hall->lock);
    sp_hall_model *model = sp_hall_find(hall, spec->id);
    if (model && !model->leaving) {
        model->leaving = true;
        model->unload = request;
        own->model = model;
    }
    (void)pthread_mutex_unlock(&hall->lock); /* one that is not here is gone: done */
}

/* A step of an ensemble begins long after its lease was looked at. */
static sp_status still_wanted(sp_hall_request *request)
{
    sp_work_item *item = request->item;
    int64_t deadline_ns = item->submission->attempt_deadline_ns;
    if (sp_work_item_cancelled(sp_hall_lease(request)->item))
        return SP_FAIL(&item->error, SP_CANCELLED, "the request was withdrawn between its steps");
    if (deadline_ns && sp_clock_now_ns() > deadline_ns)
        return SP_FAIL(&item->error, SP_TIMEOUT, "the deadline passed between its steps");
    return SP_OK;
}

static void run_inference(sp_hall *hall, int executor, sp_hall_batch *own)
{
    sp_hall_request *ready[SP_LIMIT_BATCH];
    sp_hall_model *model = own->model;
    sp_error err = { 0 };
    sp_status s = SP_OK;
    int count = 0;
    if (own->open) {
        int64_t deadline_ns = sp_clock_now_ns() + SP_HALL_OPEN_NS;
        sp_worker_stage(executor, SP_STAGE_PREPROCESS, SP_HALL_OPEN_NS);
        s = sp_hall_open_here(hall, model, deadline_ns, &err);
    }
    if (!s && sp_hall_detect_on_device(hall, model, own->lane, executor, own->requests, own->count))
        return;
    for (int i = 0; i < own->count; i++) {
        sp_work_item *item = own->requests[i]->item;
        if (own->requests[i]->step)
            item->status = still_wanted(own->requests[i]);
        if (!item->status && s) {
            item->status = s;
            item->error = err;
        }
        if (!item->status && own->requests[i]->detect)
            item->status = sp_hall_detect_prepare(model, own->lane, count, own->requests[i], &item->error);
        else if (!item->status && !own->requests[i]->step)
            item->status = sp_hall_locate(own->requests[i], &item->error);
        if (!item->status)
            ready[count++] = own->requests[i];
    }
    if (count)
        sp_hall_run_batch(hall, model, own->lane, executor, ready, count);
}

void sp_hall_run(sp_hall *hall, int executor, sp_worker_batch *batch)
{
    sp_hall_batch *own = batch->own;
    if (own->reap) {
        sp_hall_settle(hall, own->model, 0);
        sp_hall_model_close(own->model);
    } else if (own->kind == SP_HALL_INFER) {
        run_inference(hall, executor, own);
    } else if (own->kind == SP_HALL_CHORE) {
        sp_hall_chore_run(hall, own->chore);
    } else if (own->requests[0]->item->status) {
        return; /* its specification never came, or it was withdrawn */
    } else if (own->kind == SP_HALL_LOAD) {
        run_load(hall, own);
    } else {
        run_unload(hall, own);
    }
}

/* --- after it -------------------------------------------------------------------------------------------------------- */

static void inference_over(sp_hall *hall, sp_hall_batch *own, int64_t now_ns)
{
    sp_hall_model *model = own->model;
    model->lanes_busy &= ~(1u << own->lane);
    model->running--;
    hall->running--;
    sp_hall_take_resources(hall, model, false);
    for (int i = 0; i < own->count; i++) {
        if (model->sequences)
            sp_sequencer_done(model->sequences, &own->requests[i]->member, now_ns);
        sp_hall_give_back(hall, own->requests[i], now_ns);
    }
    if (!model->running)
        (void)pthread_cond_broadcast(&hall->changed);
    sp_hall_bury_if_over(hall, model);
}

/* Leases whose ensemble goes on although no batch has a part of them now: they wait again. */
static void leases_over(const sp_worker_batch *batch)
{
    for (int i = 0; i < batch->count; i++) {
        sp_hall_request *lease = batch->items[i]->own;
        if (--lease->in_hand == 0 && lease->course)
            sp_worker_wait(lease->item);
    }
}

void sp_hall_over(sp_hall *hall, sp_worker_batch *batch, int64_t now_ns)
{
    sp_hall_batch *own = batch->own;
    sp_hall_model *model = own->model;
    sp_hall_model *gone = NULL;
    (void)pthread_mutex_lock(&hall->lock);
    if (own->reap) {
        if (model->unload)
            sp_worker_finish(model->unload->item);
        gone = model;
    } else if (own->kind == SP_HALL_INFER) {
        inference_over(hall, own, now_ns);
        leases_over(batch);
    } else if (own->kind == SP_HALL_CHORE) {
        sp_hall_chore_over(hall, own->chore, now_ns);
        leases_over(batch);
    } else {
        hall->job_running = false;
        if (own->kind == SP_HALL_LOAD && model)
            table_add(hall, model);
        if (own->kind == SP_HALL_UNLOAD && model && model->holders)
            model->unload = NULL; /* an ensemble keeps it: it may take long until it is gone */
        if (own->kind == SP_HALL_UNLOAD && model && model->unload)
            sp_hall_bury_if_over(hall, model); /* its lease goes back when it is gone */
        else
            sp_worker_finish(own->requests[0]->item);
    }
    own->in_use = false;
    (void)pthread_mutex_unlock(&hall->lock);
    sp_hall_model_free(gone);
}

/* A run is cancelled when all that it was for have been withdrawn: its client is gone, or its deadline is. The lock keeps the
 * batch from being over, so the lane is still its own. */
static bool nobody_waits(const sp_hall_batch *own)
{
    for (int i = 0; i < own->count; i++)
        if (!sp_work_item_cancelled(sp_hall_lease(own->requests[i])->item))
            return false;
    return own->count > 0;
}

void sp_hall_withdrawn(sp_hall *hall)
{
    (void)pthread_mutex_lock(&hall->lock);
    for (size_t i = 0; i < SP_ARRAY_LEN(hall->batches); i++) {
        sp_hall_batch *own = &hall->batches[i];
        if (own->in_use && own->kind == SP_HALL_INFER && !own->reap && own->model->state == SP_HALL_READY &&
            own->model->session && nobody_waits(own))
            (void)sp_session_cancel(own->model->session, own->lane); /* an engine that cannot lets it run to its end */
    }
    (void)pthread_mutex_unlock(&hall->lock);
}
