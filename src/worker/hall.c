/* SPDX-License-Identifier: Apache-2.0
 * Models by number, the leases that wait for them, and which batch is next.
 *
 * Order of what is taken: the end of a model that nothing uses any more; loads and unloads, one at a time; then the model
 * that has had the least of its share, if its batcher has a batch due, an instance is free and the rate limiter's
 * resources are there. */
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

/* The pool of a resource is as large as the most that any instance asks for, as in Triton without explicit pools. */
static void enter_resources(sp_hall *hall, sp_hall_model *model)
{
    const sp_instance_group *group = NULL;
    for (int i = 0; i < model->config->group_count && !group; i++)
        group = model->config->groups[i].resource_count ? &model->config->groups[i] : NULL;
    for (int i = 0; group && i < group->resource_count && i < (int)SP_ARRAY_LEN(model->resources); i++) {
        int r = 0;
        while (r < hall->resource_count && strcmp(hall->resources[r].name, group->resources[i].name) != 0)
            r++;
        if (r == SP_HALL_RESOURCES)
            return; /* more names than anybody has: the last ones are not limited */
        if (r == hall->resource_count) {
            hall->resource_count++;
            memcpy(hall->resources[r].name, group->resources[i].name, sizeof(hall->resources[r].name));
        }
        hall->resources[r].capacity = SP_MAX(hall->resources[r].capacity, group->resources[i].count);
        model->resources[model->resource_count].index = r;
        model->resources[model->resource_count++].count = group->resources[i].count;
    }
}

static void table_add(sp_hall *hall, sp_hall_model *model)
{
    sp_hall_model **bucket = &hall->models[model->id % SP_HALL_MODELS];
    model->next_of_bucket = *bucket;
    *bucket = model;
    hall->model_count++;
    enter_resources(hall, model);
}

/* --- the list of models with a queue --------------------------------------------------------------------------------- */

static void list_model(sp_hall *hall, sp_hall_model *model)
{
    if (model->listed)
        return;
    model->listed = true;
    model->turn = SP_MAX(model->turn, hall->turn); /* having been idle earns nothing */
    model->next_waiting = NULL;
    model->previous_waiting = hall->waiting_last;
    if (hall->waiting_last)
        hall->waiting_last->next_waiting = model;
    else
        hall->waiting_first = model;
    hall->waiting_last = model;
}

static uint32_t waiting_for(const sp_hall_model *model)
{
    return model->sequences ? sp_sequencer_waiting(model->sequences) : model->batcher.waiting;
}

static void unlist_model(sp_hall *hall, sp_hall_model *model)
{
    if (!model->listed || waiting_for(model))
        return;
    model->listed = false;
    if (model->previous_waiting)
        model->previous_waiting->next_waiting = model->next_waiting;
    else
        hall->waiting_first = model->next_waiting;
    if (model->next_waiting)
        model->next_waiting->previous_waiting = model->previous_waiting;
    else
        hall->waiting_last = model->previous_waiting;
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

static void remove_job(sp_hall *hall, sp_hall_request *request)
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
    list_model(hall, model);
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
    sp_status s = sp_hall_check(head, model, request, reterr);
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
    request->ordered = request->done = false;
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
    } else if (op == SP_OP_INFER) {
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
    unlist_model(hall, model);
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
        remove_job(hall, request);
    (void)pthread_mutex_unlock(&hall->lock);
}

/* --- the end of a model ---------------------------------------------------------------------------------------------- */

/* Under the lock: an UNLOAD has come, and nothing waits or runs any more. */
void sp_hall_bury_if_over(sp_hall *hall, sp_hall_model *model)
{
    if (!model->leaving || model->running || waiting_for(model) || model->holders || model->state == SP_HALL_MOVING)
        return;
    table_remove(hall, model);
    sp_hall_ensemble_unbind(hall, model);
    model->next_dead = hall->dead;
    hall->dead = model;
}

/* --- what is next ---------------------------------------------------------------------------------------------------- */

static bool resources_free(const sp_hall *hall, const sp_hall_model *model)
{
    for (int i = 0; i < model->resource_count; i++) {
        int r = model->resources[i].index;
        if (hall->resources[r].used + model->resources[i].count > hall->resources[r].capacity)
            return false;
    }
    return true;
}

static void take_resources(sp_hall *hall, const sp_hall_model *model, bool take)
{
    for (int i = 0; i < model->resource_count; i++) {
        uint32_t count = model->resources[i].count;
        hall->resources[model->resources[i].index].used += take ? count : 0u - count;
    }
}

static bool runnable(const sp_hall *hall, const sp_hall_model *model)
{
    return model->state != SP_HALL_MOVING && !model->yield && model->running < model->instances &&
           resources_free(hall, model);
}

static sp_hall_batch *free_batch(sp_hall *hall)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(hall->batches); i++) {
        sp_hall_batch *batch = &hall->batches[i];
        if (batch->in_use)
            continue;
        *batch = (sp_hall_batch){ .in_use = true };
        return batch;
    }
    SP_ASSERT(!"more batches run than places exist");
    return NULL;
}

/* What a model's queue gave out. */
typedef struct drawn {
    sp_hall_request *requests[SP_LIMIT_BATCH], *rejected[SP_LIMIT_BATCH];
    int count, rejected_count, lane;
    int64_t due_ns;
} drawn;

static sp_status why_rejected(const sp_hall_request *request, sp_error *reterr)
{
    if (!request->model->sequences)
        return SP_FAIL_CODE(reterr, SP_BUSY, "queue_timeout", "Request timeout expired");
    if (request->member.reason == SP_SEQUENCE_TIMEOUT)
        return SP_FAIL_CODE(reterr, SP_BUSY, "queue_timeout", "timeout of the corresponding sequence has been expired");
    return SP_FAIL_CODE(reterr, SP_CONFLICT, "sequence_broken",
                        "a request before this one in its sequence was withdrawn; the sequence must START again");
}

static void reject(sp_hall *hall, sp_hall_model *model, const drawn *d, int64_t now_ns)
{
    for (int i = 0; i < d->rejected_count; i++) {
        sp_hall_request *request = d->rejected[i];
        request->item->status = why_rejected(request, &request->item->error);
        hall->waiting--;
        sp_hall_give_back(hall, request, now_ns);
    }
    if (d->rejected_count) {
        unlist_model(hall, model);
        sp_hall_bury_if_over(hall, model);
    }
}

/* Its time-outs; with `most` also the next batch, of so many requests at most. A request is the first member of its item. */
static void draw(sp_hall_model *model, int64_t now_ns, int most, drawn *d)
{
    sp_batcher_item *items[SP_LIMIT_BATCH], *rejected[SP_LIMIT_BATCH];
    sp_sequence_item *members[SP_LIMIT_BATCH];
    int64_t due_ns = INT64_MAX;
    d->count = 0;
    if (model->sequences) {
        d->rejected_count = sp_sequencer_expire(model->sequences, now_ns, members, SP_LIMIT_BATCH, &d->due_ns);
        for (int i = 0; i < d->rejected_count; i++)
            d->rejected[i] = (sp_hall_request *)(void *)members[i];
        if (most)
            d->count = sp_hall_sequence_next(model, now_ns, d->requests, &d->lane, &due_ns);
        d->due_ns = SP_MIN(d->due_ns, due_ns);
        return;
    }
    d->lane = __builtin_ctz(~model->lanes_busy);
    if (most)
        d->count = sp_batcher_next(&model->batcher, now_ns, items, most, rejected, &d->rejected_count, &d->due_ns);
    else
        d->rejected_count = sp_batcher_expire(&model->batcher, now_ns, rejected, SP_LIMIT_BATCH, &d->due_ns);
    for (int i = 0; i < d->count; i++)
        d->requests[i] = (sp_hall_request *)(void *)items[i];
    for (int i = 0; i < d->rejected_count; i++)
        d->rejected[i] = (sp_hall_request *)(void *)rejected[i];
}

/* Answering it costs less than waking somebody for it. */
static bool is_brief(const sp_hall_batch *own)
{
    const sp_hall_request *request = own->requests[0];
    uint64_t bytes = 0;
    if (!own->model->identity || own->count != 1 || request->step)
        return false;
    for (int i = 0; i < own->model->config->input_count; i++)
        bytes += request->inputs[i].given ? request->inputs[i].bytes : 0;
    for (int i = 0; i < request->wish_count; i++)
        if (request->wishes[i].form != SP_FORM_RAW || request->wishes[i].classes)
            return false;
    return bytes <= SP_LIMIT_SLOT_INLINE_BYTES;
}

/* Ten times the slowest of late for each run that bisecting may cause; a load comes with a budget of its own. */
static int64_t budget_of(sp_hall_model *model)
{
    return SP_MAX(20 * atomic_load_explicit(&model->slowest_ns, memory_order_relaxed), SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS);
}

/* The lease that the request stands for, once: two steps of one may run together. */
static void take_lease(sp_hall_request *request, sp_worker_batch *batch)
{
    sp_hall_request *lease = sp_hall_lease(request);
    for (int i = 0; i < batch->count; i++)
        if (batch->items[i] == lease->item)
            return;
    batch->items[batch->count++] = lease->item;
    lease->in_hand++;
}

static void start_batch(sp_hall *hall, sp_hall_model *model, const drawn *d, int64_t now_ns, sp_worker_batch *batch)
{
    sp_hall_batch *own = free_batch(hall);
    int count = d->count;
    own->kind = SP_HALL_INFER;
    own->model = model;
    own->count = count;
    own->lane = d->lane;
    own->open = model->state == SP_HALL_ASIDE;
    for (int i = 0; i < count; i++) {
        sp_hall_request *request = own->requests[i] = d->requests[i];
        request->queue_ns = now_ns - (model->sequences ? request->member.arrived_ns : request->waiting.queued_ns);
        take_lease(request, batch);
    }
    if (own->open)
        model->state = SP_HALL_MOVING;
    model->lanes_busy |= 1u << own->lane;
    model->running++;
    model->used_ns = now_ns;
    hall->turn = model->turn;
    model->turn += model->weight;
    hall->waiting -= count;
    take_resources(hall, model, true);
    unlist_model(hall, model);
    batch->own = own;
    batch->brief = is_brief(own) && !own->open;
    batch->budget_ns = budget_of(model);
}

/* The model that has had the least and was not asked in this pass. Those that cannot run only lose what is too late. */
static sp_hall_model *pick(sp_hall *hall, int64_t now_ns, int64_t *due_ns)
{
    drawn d;
    sp_hall_model *best = NULL;
    for (sp_hall_model *model = hall->waiting_first, *next; model; model = next) {
        next = model->next_waiting;
        if (model->pass == hall->passes)
            continue;
        if (runnable(hall, model)) {
            if (!best || model->turn < best->turn)
                best = model;
            continue;
        }
        model->pass = hall->passes;
        draw(model, now_ns, 0, &d);
        *due_ns = SP_MIN(*due_ns, d.due_ns);
        reject(hall, model, &d, now_ns);
    }
    return best;
}

static bool somebody_is_runnable(const sp_hall *hall)
{
    if (hall->dead || hall->chores_first || (hall->jobs_first && !hall->job_running))
        return true;
    for (const sp_hall_model *model = hall->waiting_first; model; model = model->next_waiting)
        if (model->pass != hall->passes && runnable(hall, model))
            return true;
    return false;
}

static void next_inference(sp_hall *hall, int64_t now_ns, sp_worker_batch *batch)
{
    hall->passes++;
    for (sp_hall_model *model; (model = pick(hall, now_ns, &batch->due_ns));) {
        drawn d;
        draw(model, now_ns, sp_batch_limit_now(&model->limit), &d);
        if (d.count) {
            start_batch(hall, model, &d, now_ns, batch);
            reject(hall, model, &d, now_ns);
            return;
        }
        model->pass = hall->passes;
        batch->due_ns = SP_MIN(batch->due_ns, d.due_ns);
        reject(hall, model, &d, now_ns);
    }
}

static void next_job(sp_hall *hall, sp_worker_batch *batch)
{
    sp_hall_request *request = hall->jobs_first;
    sp_hall_batch *own = free_batch(hall);
    remove_job(hall, request);
    hall->job_running = true;
    own->kind = request->kind;
    own->requests[own->count++] = request;
    batch->items[batch->count++] = request->item;
    batch->own = own;
    int64_t deadline_ns = request->item->submission->attempt_deadline_ns;
    batch->budget_ns = deadline_ns ? SP_MAX(deadline_ns - sp_clock_now_ns(), 0) : 0;
}

/* A piece of an ensemble's request. */
static void next_chore(sp_hall *hall, sp_worker_batch *batch)
{
    sp_hall_batch *own = free_batch(hall);
    sp_hall_chore *chore = hall->chores_first;
    hall->chores_first = chore->next;
    if (!hall->chores_first)
        hall->chores_last = NULL;
    chore->queued = false;
    own->kind = SP_HALL_CHORE;
    own->chore = chore;
    take_lease(chore->course->request, batch);
    batch->own = own;
    batch->brief = chore->kind == SP_HALL_BEGIN;
}

static void next_burial(sp_hall *hall, sp_worker_batch *batch)
{
    sp_hall_batch *own = free_batch(hall);
    own->reap = true;
    own->model = hall->dead;
    hall->dead = own->model->next_dead;
    batch->own = own;
}

void sp_hall_next(sp_hall *hall, int64_t now_ns, sp_worker_batch *batch)
{
    (void)pthread_mutex_lock(&hall->lock);
    if (hall->dead)
        next_burial(hall, batch);
    else if (hall->jobs_first && !hall->job_running)
        next_job(hall, batch);
    else if (hall->chores_first)
        next_chore(hall, batch);
    else
        next_inference(hall, now_ns, batch);
    if (!batch->own && hall->dead) /* by what was rejected on the way */
        next_burial(hall, batch);
    batch->more = batch->own && somebody_is_runnable(hall);
    (void)pthread_mutex_unlock(&hall->lock);
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
    for (int i = 0; i < own->count; i++) {
        sp_work_item *item = own->requests[i]->item;
        if (own->requests[i]->step)
            item->status = still_wanted(own->requests[i]);
        if (!item->status && s) {
            item->status = s;
            item->error = err;
        }
        if (!item->status && !own->requests[i]->step)
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
    take_resources(hall, model, false);
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
