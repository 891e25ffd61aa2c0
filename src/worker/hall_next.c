/* SPDX-License-Identifier: Apache-2.0
 * Which batch is next. In this order: the end of a model that nothing uses any more; loads and unloads, one at a time; pieces
 * of ensembles; then the model that has had the least of its share, if its queue has a batch due, an instance is free and the
 * rate limiter's resources are there. All under the hall's lock. */
#include "worker/hall_ensemble.h"

#include "base/clock.h"

#include <string.h>

/* --- the list of models with a queue --------------------------------------------------------------------------------- */

void sp_hall_list(sp_hall *hall, sp_hall_model *model)
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

uint32_t sp_hall_waiting_for(const sp_hall_model *model)
{
    return model->sequences ? sp_sequencer_waiting(model->sequences) : model->batcher.waiting;
}

void sp_hall_unlist(sp_hall *hall, sp_hall_model *model)
{
    if (!model->listed || sp_hall_waiting_for(model))
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

/* --- the rate limiter ------------------------------------------------------------------------------------------------ */

/* The pool of a resource is as large as the most that any instance asks for, as in Triton without explicit pools. */
void sp_hall_enter_resources(sp_hall *hall, sp_hall_model *model)
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

static bool resources_free(const sp_hall *hall, const sp_hall_model *model)
{
    for (int i = 0; i < model->resource_count; i++) {
        int r = model->resources[i].index;
        if (hall->resources[r].used + model->resources[i].count > hall->resources[r].capacity)
            return false;
    }
    return true;
}

void sp_hall_take_resources(sp_hall *hall, const sp_hall_model *model, bool take)
{
    for (int i = 0; i < model->resource_count; i++) {
        uint32_t count = model->resources[i].count;
        hall->resources[model->resources[i].index].used += take ? count : 0u - count;
    }
}

/* --- what is next ---------------------------------------------------------------------------------------------------- */

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
        sp_hall_unlist(hall, model);
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

/* A run that takes so long is over before another thread is awake. */
#define BRIEF_NS (30 * SP_NS_PER_US)
#define BRIEF_BYTES SP_LIMIT_SLOT_INLINE_BYTES

/* A model that has lately answered requests of this shape in no time, and nobody else to do anything for. */
static bool is_quick(const sp_hall *hall, const sp_hall_request *request)
{
    sp_hall_model *model = request->model;
    int64_t slowest_ns = atomic_load_explicit(&model->slowest_ns, memory_order_relaxed);
    return !model->sequences && slowest_ns > 0 && slowest_ns < BRIEF_NS && hall->running == 1 && !hall->waiting &&
           atomic_load_explicit(&model->quick_shape, memory_order_relaxed) == request->waiting.shape;
}

/* Answering it costs less than waking somebody for it. */
static bool is_brief(const sp_hall *hall, const sp_hall_batch *own)
{
    const sp_hall_request *request = own->requests[0];
    uint64_t bytes = 0;
    if (own->count != 1 || request->step || own->open || !(own->model->identity || is_quick(hall, request)))
        return false;
    for (int i = 0; i < own->model->config->input_count; i++)
        bytes += request->inputs[i].given ? request->inputs[i].bytes : 0;
    for (int i = 0; i < request->wish_count; i++)
        if (request->wishes[i].form != SP_FORM_RAW || request->wishes[i].classes)
            return false;
    return bytes <= BRIEF_BYTES;
}

/* Ten times the slowest of late for each run that bisecting may cause; a load comes with a budget of its own. */
static int64_t budget_of(sp_hall_model *model)
{
    int64_t slowest_ns = atomic_load_explicit(&model->slowest_ns, memory_order_relaxed);
    return SP_MAX(20 * slowest_ns, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS);
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
    hall->running++;
    model->used_ns = now_ns;
    hall->turn = model->turn;
    model->turn += model->weight;
    hall->waiting -= count;
    sp_hall_take_resources(hall, model, true);
    sp_hall_unlist(hall, model);
    batch->own = own;
    batch->brief = is_brief(hall, own);
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
    sp_hall_remove_job(hall, request);
    hall->job_running = true;
    own->kind = request->kind;
    own->requests[own->count++] = request;
    batch->items[batch->count++] = request->item;
    batch->own = own;
    int64_t deadline_ns = request->item->submission->attempt_deadline_ns, left_ns = deadline_ns - sp_clock_now_ns();
    batch->budget_ns = deadline_ns ? SP_MAX(left_ns, 0) : 0;
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

void sp_hall_expire(sp_hall *hall, int64_t now_ns)
{
    drawn d;
    (void)pthread_mutex_lock(&hall->lock);
    for (sp_hall_model *model = hall->waiting_first, *next; model; model = next) {
        next = model->next_waiting;
        draw(model, now_ns, 0, &d);
        reject(hall, model, &d, now_ns);
    }
    (void)pthread_mutex_unlock(&hall->lock);
}
