/* SPDX-License-Identifier: Apache-2.0
 * A submitted request goes through the steps of its task: it waits in the queue of a step, is given to a worker, comes
 * back (collect.c, death.c), until sp_request_answer or sp_request_answer_now ends it (docs/internals/route.md). */
#include "route/dispatch.h"

#include "base/clock.h"
#include "base/log.h"
#include "route/chain.h"
#include "route/lease.h"

#include <stdio.h>
#include <string.h>

#define STEPS_MAX 2

static const struct {
    int count;
    sp_op ops[STEPS_MAX];
} task_steps[SP_TASK_COUNT] = {
    [SP_TASK_NOOP] = { 1, { SP_OP_NOOP } },
    [SP_TASK_CLASSIFY] = { 2, { SP_OP_DECODE, SP_OP_CLASSIFY } },
};

void sp_dispatch_answer_poisoned(sp_request *request)
{
    bool decoder = request->op == SP_OP_DECODE;
    sp_metric_add(request->house->poison_metric, 1);
    sp_status s = SP_FAIL_CODE(&request->answer.error, decoder ? SP_REFUSED : SP_INTERNAL,
                               decoder ? "crashed_decoder" : "crashed_model",
                               "this very body ended two workers; it is refused for %d minutes", SP_LIMIT_POISON_MS / 60000);
    sp_request_answer(request, s);
}

void sp_dispatch_requeue(sp_request *request, bool front)
{
    sp_house *house = request->house;
    request->state = SP_REQUEST_QUEUED;
    request->lease = 0;
    sp_queue *queue = request->suspect ? &house->suspects[request->op] : &house->queues[request->op];
    if (front)
        sp_queue_push_front(queue, request);
    else
        sp_queue_push(queue, request);
    sp_error err = { 0 };
    if (sp_loop_timer_set(house->loop, &request->timer, request->shared->deadline_ns, &err))
        sp_log_error("no deadline timer", sp_request_id(request), &err);
}

void sp_dispatch_begin_step(sp_request *request, int step)
{
    request->step = step;
    request->op = task_steps[request->task].ops[step];
    request->queued_ns = sp_clock_now_ns();
    request->suspect = false;
    memset(request->tries, 0, sizeof(request->tries));
    sp_dispatch_requeue(request, false);
}

/* The worst of what its attempts said, when no link is left. */
static void answer_exhausted(sp_request *request)
{
    sp_answer *answer = &request->answer;
    sp_status worst = SP_OK;
    for (int i = 0; i < answer->attempt_count; i++) {
        sp_status s = answer->attempts[i].status;
        if (s != SP_OK && (worst == SP_OK || sp_status_rank(s) > sp_status_rank(worst)))
            worst = s;
    }
    if (worst == SP_OK || answer->error.status != worst) {
        worst = worst ? worst : SP_UNAVAILABLE;
        (void)SP_FAIL_CODE(&answer->error, worst, "no_link", "no link is left for '%s' (tried %d): %s",
                           sp_task_name(request->task), answer->attempt_count,
                           answer->attempt_count ? answer->attempts[answer->attempt_count - 1].reason
                                                 : "no worker for it is running; see /healthz");
    }
    sp_request_answer(request, worst);
}

typedef enum verdict { TAKEN, WAITS, REMOVED } verdict;

/* Before the first lease of a classification the model must be known: its card says how to pre-process. */
static verdict prepare_first_step(sp_request *request)
{
    if (request->task != SP_TASK_CLASSIFY || request->step != 0 || request->leases_out)
        return TAKEN;
    const sp_worker_card *card = sp_chain_card(request->house, request);
    if (card) {
        request->shared->prep = card->prep;
        (void)snprintf(request->answer.model, sizeof(request->answer.model), "%s", card->model);
        return TAKEN;
    }
    return sp_chain_model_may_come(request->house) ? WAITS : REMOVED;
}

/* One request of a queue: leased, left waiting, or taken out (answered or moved). */
static verdict try_one(sp_house *house, sp_queue *queue, sp_request *request)
{
    if (house->poison.count) {
        sp_poison_verdict poison = sp_poison_look(&house->poison, sp_poison_hash(request), sp_clock_now_ns());
        if (poison == SP_POISON_REFUSED || (poison == SP_POISON_SUSPECT && !request->suspect)) {
            sp_queue_remove(queue, request);
            if (poison == SP_POISON_REFUSED) {
                sp_dispatch_answer_poisoned(request);
            } else {
                request->suspect = true;
                sp_dispatch_requeue(request, false);
            }
            return REMOVED;
        }
    }
    verdict ready = prepare_first_step(request);
    bool possible = ready != REMOVED;
    sp_worker *worker = ready == TAKEN ? sp_chain_pick(house, request, request->suspect, &possible) : NULL;
    if (!possible) {
        sp_queue_remove(queue, request);
        answer_exhausted(request);
        return REMOVED;
    }
    if (!worker)
        return WAITS;
    sp_error err = { 0 };
    sp_queue_remove(queue, request);
    sp_status s = sp_lease_give(worker, request, &err);
    if (!s)
        return TAKEN;
    sp_queue_push_front(queue, request); /* BUSY: its socket is full; UNAVAILABLE: it just died; both pass */
    if (s != SP_BUSY && s != SP_UNAVAILABLE)
        sp_log_error("lease not given", sp_request_id(request), &err);
    return WAITS;
}

/* A suspect needs a worker that has nothing else in hand: one is drained for it. */
static void reserve_for(sp_house *house, const sp_request *request)
{
    sp_worker *best = NULL;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        if (worker->state != SP_WORKER_READY || !sp_chain_may_answer(worker, request))
            continue;
        if (worker->reserved)
            return;
        if (!best || worker->in_flight < best->in_flight)
            best = worker;
    }
    if (best)
        best->reserved = true;
}

void sp_dispatch_run(sp_house *house)
{
    for (int op = SP_OP_NOOP; op < SP_OP_COUNT; op++) {
        sp_queue *suspects = &house->suspects[op], *queue = &house->queues[op];
        for (sp_request *request = suspects->first, *next; request; request = next) {
            next = request->next;
            if (try_one(house, suspects, request) == WAITS) {
                reserve_for(house, request);
                break;
            }
        }
        int waits = 0;
        for (sp_request *request = queue->first, *next; request && waits < 8; request = next) {
            next = request->next;
            waits += try_one(house, queue, request) == WAITS; /* a few may wait for one worker while others could go */
        }
    }
}

void sp_dispatch_submit(sp_request *request)
{
    sp_dispatch_begin_step(request, 0);
    sp_dispatch_run(request->house);
}

int64_t sp_dispatch_hook(void *context)
{
    sp_house *house = context;
    for (int i = 0; i < house->worker_count; i++)
        sp_dispatch_collect(&house->workers[i]);
    sp_dispatch_run(house);
    sp_request_deliver(house);
    return house->answered.count ? 0 : -1;
}
