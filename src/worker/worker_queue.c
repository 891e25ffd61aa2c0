/* SPDX-License-Identifier: Apache-2.0
 * The loop of a kind that keeps queues of its own (device): leader and followers as in worker.c, with two differences.
 *
 *   - What comes in is handed to the kind at once (add); the kind says which batch is due (next). Whoever is done with a batch
 *     asks for another one itself, so a queue moves on without a hand-over.
 *   - There is one thread more than places to run at: somebody always reads the ring, so that priorities, delays, full queues
 *     and withdrawals are seen while every place is taken.
 *
 * The leader sleeps until the ring is rung or something is due. Another thread that finds something due earlier, or work for
 * two, nudges it. */
#include "worker/loop.h"

#include "base/clock.h"
#include "worker/ring.h"

#include <stdlib.h>

/* How often waiting leases are looked at for withdrawals and deadlines, and those in hand for withdrawals; nobody rings. */
#define SWEEP_NS (25 * SP_NS_PER_MS)

typedef enum place_state { ABSENT, WAITING, IN_HAND, FINISHED } place_state;

/* A worker holds a slot at most once, so the slot is the lease's place. */
struct sp_queue_item {
    sp_work_item item; /* first: sp_worker_finish is given it */
    sp_submission submission;
    place_state state;
    bool prepared; /* its bytes are mapped */
    int64_t begun_ns;
    sp_queue_item *next; /* finished ones */
};

static int64_t next_sweep_ns; /* guarded by queue_lock */

sp_status sp_queue_open(sp_error *reterr)
{
    int places = sp_process.kind->queue->places(sp_process.state);
    if (places < 1 || places > SP_QUEUE_PLACES)
        return SP_FAIL(reterr, SP_INTERNAL, "kind %s asks for %d places", sp_process.kind->name, places);
    sp_process.queue_items = calloc(SP_LIMIT_SLOTS, sizeof(*sp_process.queue_items));
    if (!sp_process.queue_items)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d items", SP_LIMIT_SLOTS);
    sp_process.places = (uint32_t)places;
    sp_process.finished_end = &sp_process.finished;
    sp_process.leader_due_ns = INT64_MIN;
    return SP_OK;
}

/* --- under queue_lock --------------------------------------------------------------------------------------------- */

void sp_queue_finish(sp_work_item *item)
{
    sp_queue_item *entry = (sp_queue_item *)(void *)item;
    SP_ASSERT(entry->state == WAITING || entry->state == IN_HAND);
    if (entry->state == WAITING)
        sp_process.queued--;
    entry->state = FINISHED;
    entry->next = NULL;
    *sp_process.finished_end = entry;
    sp_process.finished_end = &entry->next;
}

void sp_queue_wait(sp_work_item *item)
{
    sp_queue_item *entry = (sp_queue_item *)(void *)item;
    SP_ASSERT(entry->state == IN_HAND);
    entry->state = WAITING;
    sp_process.queued++;
}

static void add(const sp_submission *submission, int64_t now_ns)
{
    sp_queue_item *entry = &sp_process.queue_items[submission->slot];
    SP_ASSERT(entry->state == ABSENT);
    *entry = (sp_queue_item){ .submission = *submission, .state = WAITING, .begun_ns = now_ns };
    sp_process_init(&entry->item, &entry->submission);
    sp_process.queued++;
    sp_process.kind->queue->add(sp_process.state, &entry->item, now_ns);
}

/* Gives back what is finished, in that order; true = the gateway is to be woken. */
static bool give_back(void)
{
    bool given = sp_process.finished != NULL;
    while (sp_process.finished) {
        sp_queue_item *entry = sp_process.finished;
        sp_process.finished = entry->next;
        entry->state = ABSENT; /* the slot may come again at once */
        sp_process_complete(&entry->item, entry->begun_ns);
    }
    sp_process.finished_end = &sp_process.finished;
    return given;
}

static void sweep(int64_t now_ns)
{
    bool withdrawn = false;
    if ((!sp_process.queued && !sp_process.places_taken) || now_ns < next_sweep_ns)
        return;
    next_sweep_ns = now_ns + SWEEP_NS;
    for (int i = 0; i < SP_LIMIT_SLOTS; i++) {
        sp_queue_item *entry = &sp_process.queue_items[i];
        sp_work_item *item = &entry->item;
        withdrawn |= entry->state == IN_HAND && sp_work_item_cancelled(item);
        if (entry->state != WAITING)
            continue;
        int64_t deadline_ns = entry->submission.attempt_deadline_ns;
        if (sp_work_item_cancelled(item))
            item->status = SP_FAIL(&item->error, SP_CANCELLED, "the request was withdrawn before its turn");
        else if (deadline_ns && now_ns > deadline_ns)
            item->status = SP_FAIL(&item->error, SP_BUSY, "the deadline passed before execution began");
        else
            continue;
        sp_process.kind->queue->remove(sp_process.state, item);
        sp_queue_finish(item);
    }
    if (sp_process.queued && sp_process.kind->queue->expire)
        sp_process.kind->queue->expire(sp_process.state, now_ns);
    if (withdrawn && sp_process.kind->queue->withdrawn)
        sp_process.kind->queue->withdrawn(sp_process.state);
}

/* The next batch for this thread, marked; false = none now (batch.due_ns says when). */
static bool take(sp_executor *self, int64_t now_ns)
{
    uint32_t free_places = ~sp_process.places_taken & ((1u << sp_process.places) - 1);
    self->batch.count = 0;
    self->batch.due_ns = INT64_MAX;
    self->batch.budget_ns = 0;
    self->batch.more = self->batch.brief = false;
    self->batch.own = NULL;
    if (!free_places)
        return false;
    int place = __builtin_ctz(free_places);
    sp_process.kind->queue->next(sp_process.state, place, now_ns, &self->batch);
    if (!self->batch.own)
        return false;
    sp_process.places_taken |= 1u << place;
    self->mark = place;
    sp_process_stage(place, SP_STAGE_IDLE, self->batch.budget_ns);
    for (int i = 0; i < self->batch.count; i++) {
        sp_queue_item *entry = (sp_queue_item *)(void *)self->batch.items[i];
        SP_ASSERT(entry->state == WAITING || (entry->state == IN_HAND && entry->prepared)); /* another part of it runs */
        sp_process.queued -= entry->state == WAITING;
        entry->state = IN_HAND;
        if (!entry->prepared)
            entry->begun_ns = now_ns;
        sp_process_mark_item(place, i, &entry->submission);
    }
    sp_process_mark_count(place, self->batch.count);
    return true;
}

/* The leader is to look again: something is due before it would, or there is work for two. */
static void nudge_leader(void)
{
    atomic_store_explicit(&sp_process.nudged, true, memory_order_release);
    if (sp_ring_must_wake(&sp_process.maps.page->worker_sleeping))
        sp_ring_bell(sp_process.maps.submit_fd);
}

/* --- a batch ------------------------------------------------------------------------------------------------------ */

static void run(sp_executor *self)
{
    for (int i = 0; i < self->batch.count; i++) {
        sp_work_item *item = self->batch.items[i];
        sp_queue_item *entry = (sp_queue_item *)(void *)item;
        if (entry->prepared)
            continue; /* its first batch did that; others may be reading it now */
        entry->prepared = true;
        sp_process_prepare(item); /* sweep() may look at whose it is meanwhile: that stays as it is */
        if (!item->status)
            item->status = sp_process_batch_fault(item);
    }
    sp_process.kind->queue->run(sp_process.state, self->mark, &self->batch);
}

/* Gives the batch back; with `again`, true = another one was taken at once. */
static bool finish(sp_executor *self, bool again)
{
    int place = self->mark;
    pthread_mutex_lock(&sp_process.queue_lock);
    int64_t now_ns = sp_clock_now_ns();
    sp_process.kind->queue->over(sp_process.state, place, &self->batch, now_ns);
    sp_process.places_taken &= ~(1u << place);
    bool given = give_back();
    sp_process_mark_count(place, 0);
    bool taken = again && take(self, now_ns);
    given |= give_back(); /* those that were rejected on the way */
    if (again && (taken ? self->batch.more : self->batch.due_ns < sp_process.leader_due_ns))
        nudge_leader();
    pthread_mutex_unlock(&sp_process.queue_lock);
    if (given)
        sp_process_wake_gateway();
    sp_process_end_if_asked();
    return taken;
}

/* --- the leader --------------------------------------------------------------------------------------------------- */

/* Hands what has come to the kind and takes a batch. Else *ret_wait_ns: how long to sleep (-1 = until the ring is rung). */
static bool look(sp_executor *self, int64_t *ret_wait_ns)
{
    atomic_store_explicit(&sp_process.nudged, false, memory_order_relaxed);
    sp_process_take_in();
    if (sp_process.waiting_count) {
        sp_process_receive();
        sp_process_answer_noops(self);
    }
    pthread_mutex_lock(&sp_process.queue_lock);
    int64_t now_ns = sp_clock_now_ns();
    for (int i = 0; i < sp_process.waiting_count; i++)
        add(&sp_process.waiting[i], now_ns);
    sp_process.waiting_count = 0;
    sweep(now_ns);
    bool taken = take(self, now_ns);
    bool given = give_back();
    int64_t due_ns = self->batch.due_ns;
    if (sp_process.queued || sp_process.places_taken)
        due_ns = SP_MIN(due_ns, next_sweep_ns);
    sp_process.leader_due_ns = taken ? INT64_MIN : due_ns; /* the next leader looks before it sleeps */
    pthread_mutex_unlock(&sp_process.queue_lock);
    if (given)
        sp_process_wake_gateway();
    *ret_wait_ns = due_ns == INT64_MAX ? -1 : SP_MAX(due_ns - now_ns, 0);
    return taken;
}

static void lead(sp_executor *self)
{
    for (;;) {
        int64_t wait_ns;
        self->mark = SP_LEADER_MARK;
        bool taken = look(self, &wait_ns);
        if (taken && !self->batch.brief)
            return;
        if (taken) {
            run(self);
            (void)finish(self, false);
        } else {
            sp_process_wait(wait_ns);
        }
    }
}

void *sp_queue_main(void *executor)
{
    sp_executor *self = executor;
    for (;;) {
        pthread_mutex_lock(&sp_process.lead);
        lead(self);
        pthread_mutex_unlock(&sp_process.lead);
        do {
            run(self);
        } while (finish(self, true));
    }
    return NULL;
}

const sp_infer_head *sp_worker_infer_head(const sp_work_item *item)
{
    return sp_maps_infer_head(&sp_process.maps, item->submission->slot);
}
