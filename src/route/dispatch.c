/* SPDX-License-Identifier: Apache-2.0
 * A submitted request goes through its steps: it waits in the queue of a step, is given to a worker, comes back
 * (collect.c, death.c), until sp_request_answer or sp_request_answer_now ends it (docs/internals/route.md).
 *
 * Steps: FETCH when it names a URL; UNPACK when its tensors are compressed or in JSON; DECODE when the link that should have it
 * wants pixels; then its chain. */
#include "route/dispatch.h"

#include "base/clock.h"
#include "base/log.h"
#include "route/chain.h"
#include "route/lease.h"
#include "route/models.h"

#include <stdio.h>
#include <string.h>

/* Requests may wait for one worker while others behind them could go elsewhere. How many are looked at in one turn; one that
 * may go anywhere counts for eight, because those behind it would find no place either. */
#define WAITING_LOOKED_AT 64

/* Chains before DECODE: what is found to need pixels there is decoded in the same turn. */
static const sp_op turn_order[] = { SP_OP_FETCH, SP_OP_SEND,   SP_OP_NOOP,   SP_OP_CLASSIFY, SP_OP_INFER, SP_OP_DETECT,
                                    SP_OP_DECODE, SP_OP_UNPACK, SP_OP_INDEX, SP_OP_REPORT,   SP_OP_ANALYZE };

void sp_dispatch_answer_poisoned(sp_request *request)
{
    bool decoder = request->op == SP_OP_DECODE || request->op == SP_OP_UNPACK || request->op == SP_OP_INDEX;
    sp_metric_add(request->house->poison_metric, 1);
    sp_status s = SP_FAIL_CODE(&request->answer.error, decoder ? SP_REFUSED : SP_INTERNAL,
                               decoder ? "crashed_decoder" : "crashed_model",
                               "this very body ended two workers; it is refused for %d minutes", SP_LIMIT_POISON_MS / 60000);
    sp_request_answer(request, s);
}

/* --- timers ------------------------------------------------------------------------------------------------------ */

static void sooner(int64_t *at_ns, int64_t candidate_ns)
{
    if (candidate_ns > 0 && candidate_ns < *at_ns)
        *at_ns = candidate_ns;
}

void sp_dispatch_arm(sp_request *request)
{
    sp_house *house = request->house;
    int64_t at_ns = request->shared->deadline_ns;
    for (int i = 0; i < request->live_count; i++)
        sooner(&at_ns, house->workers[request->live_workers[i]].leases[request->slot].deadline_ns);
    sooner(&at_ns, request->hedge_at_ns);
    sooner(&at_ns, request->retry_at_ns);
    sooner(&at_ns, request->wake_ns);
    if (request->timer.heap_index && request->timer.at_ns == at_ns)
        return;
    sp_error err = { 0 };
    if (sp_loop_timer_set(house->loop, &request->timer, at_ns, &err))
        sp_log_error("no timer for a request", sp_request_id(request), &err);
}

/* --- steps ------------------------------------------------------------------------------------------------------- */

void sp_dispatch_requeue(sp_request *request, bool front)
{
    sp_house *house = request->house;
    request->state = SP_REQUEST_QUEUED;
    request->retry_at_ns = request->hedge_at_ns = 0;
    sp_queue *queue = request->suspect ? &house->suspects[request->op] : &house->queues[request->op];
    if (front)
        sp_queue_push_front(queue, request);
    else
        sp_queue_push(queue, request);
    sp_dispatch_arm(request);
}

static void begin(sp_request *request, sp_op op)
{
    request->op = op;
    request->queued_ns = sp_clock_now_ns();
    request->suspect = false;
    memset(request->pool_tries, 0, sizeof(request->pool_tries));
    sp_dispatch_requeue(request, false);
}

static bool has_output(const sp_request *request)
{
    return request->output_kind == SP_OUTPUT_RGB8 || request->output_kind == SP_OUTPUT_TENSOR;
}

/* The link that should have it wants pixels and there are none: they are made first, also while that link is busy or
 * starting again. The model's card must be known by then: it says how to prepare. */
static bool decode_comes_first(sp_request *request, const sp_pick *pick)
{
    int entry = pick->entry >= 0 ? pick->entry : pick->ahead;
    if (entry < 0 || has_output(request) || !sp_chain_wants_output(request, entry))
        return false;
    return sp_infer_wants_pixels(request) || sp_chain_card(request->house, request) != NULL;
}

static void begin_decode(sp_request *request)
{
    if (request->task == SP_TASK_CLASSIFY) {
        const sp_worker_card *card = sp_chain_card(request->house, request);
        request->shared->prep = card->prep;
        (void)snprintf(request->answer.model, sizeof(request->answer.model), "%s", card->model);
    }
    begin(request, SP_OP_DECODE);
}

static sp_op chain_op(const sp_request *request)
{
    static const sp_op ops[SP_TASK_COUNT] = { [SP_TASK_NOOP] = SP_OP_NOOP,   [SP_TASK_CLASSIFY] = SP_OP_CLASSIFY,
                                              [SP_TASK_SEND] = SP_OP_SEND,   [SP_TASK_INFER] = SP_OP_INFER,
                                              [SP_TASK_DETECT] = SP_OP_DETECT, [SP_TASK_INDEX] = SP_OP_INDEX,
                                              [SP_TASK_ANALYZE] = SP_OP_ANALYZE, [SP_TASK_REPORT] = SP_OP_REPORT };
    return ops[request->task];
}

void sp_dispatch_go_on(sp_request *request)
{
    if (request->wants_fetch) {
        begin(request, SP_OP_FETCH);
        return;
    }
    if (request->wants_unpack) {
        begin(request, SP_OP_UNPACK);
        return;
    }
    if ((request->task == SP_TASK_CLASSIFY || sp_infer_wants_pixels(request)) && !has_output(request)) {
        sp_pick pick;
        sp_chain_pick(request->house, request, false, &pick);
        if (decode_comes_first(request, &pick)) {
            begin_decode(request);
            return;
        }
    }
    begin(request, chain_op(request));
}

/* --- the end of a chain ------------------------------------------------------------------------------------------ */

/* "cuda0: breaker, cpu0: down": why nobody was asked, or nobody any more. */
static void write_reasons(const sp_request *request, const sp_pick *pick, char *ret_text, size_t size)
{
    size_t used = 0;
    ret_text[0] = 0;
    for (int e = 0; e < request->chain->count && used < size; e++) {
        int n = snprintf(ret_text + used, size - used, "%s%s: %s", e ? ", " : "",
                         request->house->links[request->chain->entries[e].link].name, sp_skip_name(pick->skips[e]));
        used += n > 0 ? (size_t)n : 0;
    }
}

static bool any_skip(const sp_request *request, const sp_pick *pick, sp_skip skip)
{
    for (int e = 0; e < request->chain->count; e++) {
        if (pick->skips[e] == skip)
            return true;
    }
    return false;
}

/* Nobody was even asked. Money and quotas are bounds, the rest is a house that cannot. */
static sp_status nobody_asked(sp_request *request, const sp_pick *pick)
{
    char reasons[160];
    sp_error *err = &request->answer.error;
    if (!pick || !request->chain->count)
        return SP_FAIL_CODE(err, SP_UNAVAILABLE, "no_link", "no link is left for '%s' (tried 0): no worker for it is running; "
                            "see /healthz", sp_task_name(request->task));
    write_reasons(request, pick, reasons, sizeof(reasons));
    if (pick->opens_ns) {
        int64_t wait_s = (pick->opens_ns - sp_clock_now_ns()) / SP_NS_PER_S + 1;
        request->answer.retry_after_s = (int)SP_CLAMP(wait_s, (int64_t)1, (int64_t)86400);
    }
    bool spent = any_skip(request, pick, SP_SKIP_QUOTA) || any_skip(request, pick, SP_SKIP_COST);
    return SP_FAIL_CODE(err, spent ? SP_BUSY : SP_UNAVAILABLE, spent ? "quota" : "no_link",
                        "no link may answer '%s' now: %s; see /healthz", sp_task_name(request->task), reasons);
}

/* No link is left: the worst of what its attempts said. */
static void answer_exhausted(sp_request *request, const sp_pick *pick)
{
    sp_answer *answer = &request->answer;
    sp_status worst = SP_OK;
    if (sp_infer_is_lost(request)) {
        sp_request_answer(request, SP_FAIL_CODE(&answer->error, SP_UNAVAILABLE, "sequence_lost",
                                                "the worker that held the state of this sequence has ended; begin it again"));
        return;
    }
    for (int i = 0; i < answer->attempt_count; i++) {
        sp_status s = answer->attempts[i].status;
        if (s != SP_OK && s != SP_CANCELLED && (worst == SP_OK || sp_status_rank(s) > sp_status_rank(worst)))
            worst = s;
    }
    if (worst == SP_OK)
        worst = nobody_asked(request, pick);
    else if (answer->error.status != worst)
        (void)SP_FAIL_CODE(&answer->error, worst, "no_link", "no link is left for '%s' (tried %d): %s",
                           sp_task_name(request->task), answer->attempt_count,
                           answer->attempts[answer->attempt_count - 1].reason);
    sp_request_answer(request, worst);
}

/* --- giving ------------------------------------------------------------------------------------------------------ */

typedef enum verdict { TAKEN, WAITS, REMOVED } verdict;

static verdict give(sp_queue *queue, sp_request *request, sp_worker *worker, int entry, int key)
{
    sp_error err = { 0 };
    sp_queue_remove(queue, request);
    sp_status s = sp_lease_give(worker, request, entry, key, false, &err);
    if (!s) {
        if (entry >= 0)
            sp_dispatch_given(request, entry, false);
        sp_dispatch_arm(request);
        return TAKEN;
    }
    sp_queue_push_front(queue, request); /* BUSY: its socket is full; UNAVAILABLE: it just died; both pass */
    if (s != SP_BUSY && s != SP_UNAVAILABLE)
        sp_log_error("lease not given", sp_request_id(request), &err);
    return WAITS;
}

void sp_dispatch_given(sp_request *request, int entry, bool hedge)
{
    sp_house *house = request->house;
    const sp_chain *chain = request->chain;
    request->pinned = -1;
    request->wake_ns = 0;
    if (hedge)
        return;
    if (chain->written && !request->answer.attempt_count)
        sp_retry_budget_first_try(&house->budgets[request->task], sp_loop_now_ns(house->loop));
    if (chain->entries[entry].config->hedge != SP_HEDGE_NEVER)
        sp_hedge_plan(request, entry);
}

/* Entries of the chain that stand before the one that was taken, and why they were not. */
static void count_skips(sp_house *house, const sp_request *request, const sp_pick *pick)
{
    for (int e = 0; e < request->chain->count; e++) {
        const sp_chain_entry *entry = &request->chain->entries[e];
        if (entry->group < request->chain->entries[pick->entry].group && pick->skips[e] > SP_SKIP_ONLY)
            sp_link_note_skip(&house->links[entry->link], pick->skips[e]);
    }
    house->links[request->chain->entries[pick->entry].link].last_skip = SP_SKIP_NONE;
}

static verdict try_chain(sp_house *house, sp_queue *queue, sp_request *request, const sp_pick *pick)
{
    if (!pick->possible) {
        sp_queue_remove(queue, request);
        answer_exhausted(request, pick);
        return REMOVED;
    }
    if (decode_comes_first(request, pick)) {
        sp_queue_remove(queue, request);
        begin_decode(request);
        return REMOVED;
    }
    if (pick->entry < 0 || (sp_chain_wants_output(request, pick->entry) && !has_output(request))) {
        if (pick->wake_ns != request->wake_ns) {
            request->wake_ns = pick->wake_ns;
            sp_dispatch_arm(request);
        }
        return WAITS;
    }
    count_skips(house, request, pick);
    return give(queue, request, pick->worker, pick->entry, pick->key);
}

/* A step of its own that nobody can do: a picture that no codec here reads may still be read by a remote. */
static void pool_exhausted(sp_request *request)
{
    if (request->op == SP_OP_DECODE && !request->no_decode && !sp_infer_wants_pixels(request)) {
        request->no_decode = true;
        sp_dispatch_go_on(request);
        return;
    }
    if (request->op == SP_OP_UNPACK && !request->house->role_counts[SP_ROLE_CODEC]) {
        sp_request_answer(request, SP_FAIL_CODE(&request->answer.error, SP_UNSUPPORTED, "no_codec",
                                                "compressed or large JSON requests need a codec worker (--workers codec0,...)"));
        return;
    }
    answer_exhausted(request, NULL);
}

static verdict try_pool(sp_house *house, sp_queue *queue, sp_request *request)
{
    bool possible;
    sp_worker *worker = sp_chain_pick_pool(house, request, &possible);
    if (!possible) {
        sp_queue_remove(queue, request);
        pool_exhausted(request);
        return REMOVED;
    }
    return worker ? give(queue, request, worker, -1, -1) : WAITS;
}

static bool is_codecs(sp_op op)
{
    return op == SP_OP_DECODE || op == SP_OP_UNPACK || op == SP_OP_INDEX || op == SP_OP_REPORT;
}

static bool is_pool(sp_op op)
{
    return is_codecs(op) || op == SP_OP_FETCH || op == SP_OP_SEND;
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
    if (is_pool(request->op))
        return try_pool(house, queue, request);
    sp_pick pick;
    sp_chain_pick(house, request, false, &pick);
    return try_chain(house, queue, request, &pick);
}

static bool may_do(const sp_worker *worker, const sp_request *request)
{
    if (is_codecs(request->op))
        return worker->role == SP_ROLE_CODEC;
    if (is_pool(request->op))
        return worker->role == SP_ROLE_NET;
    return sp_chain_may_take(request->house, request, worker);
}

/* A suspect needs a worker that has nothing else in hand: one is drained for it. One that has nothing in hand now is not what it
 * waits for; it would be kept for ever, because nothing comes back that could give it free. */
static void reserve_for(sp_house *house, const sp_request *request)
{
    sp_worker *best = NULL;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        bool busy = worker->in_flight > worker->models_in_flight;
        if (worker->state != SP_WORKER_READY || !busy || !may_do(worker, request))
            continue;
        if (worker->reserved)
            return;
        if (!best || worker->in_flight < best->in_flight)
            best = worker;
    }
    if (best)
        best->reserved = true;
}

static bool may_go_anywhere(const sp_request *request)
{
    uint32_t all = (1u << request->chain->count) - 1;
    return is_pool(request->op) || (request->only == -1 && !request->local_only && !request->force_cpu && !request->barred &&
                                    request->allowed == all && !request->wake_ns && !request->pin.incarnation);
}

static void run_queue(sp_house *house, sp_op op)
{
    sp_queue *suspects = &house->suspects[op], *queue = &house->queues[op];
    for (sp_request *request = suspects->first, *next; request; request = next) {
        next = request->next;
        if (try_one(house, suspects, request) == WAITS) {
            reserve_for(house, request);
            break;
        }
    }
    int waits = 0;
    uint32_t round = ++house->rounds;
    for (sp_request *request = queue->first, *next; request && waits < WAITING_LOOKED_AT; request = next) {
        next = request->next;
        sp_loaded *model = request->model;
        if (model && model->waits_round == round && may_go_anywhere(request))
            continue; /* one like it has just found no place; another model may have one */
        if (try_one(house, queue, request) != WAITS)
            continue;
        if (model && may_go_anywhere(request))
            model->waits_round = round;
        else
            waits += may_go_anywhere(request) ? 8 : 1;
    }
}

void sp_dispatch_run(sp_house *house)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(turn_order); i++) {
        if (house->queues[turn_order[i]].count || house->suspects[turn_order[i]].count)
            run_queue(house, turn_order[i]);
    }
}

void sp_dispatch_submit(sp_request *request)
{
    sp_house *house = request->house;
    sp_pick pick;
    bool weighed = false;
    sp_chain_judge_payload(request);
    if (!sp_shed_admit(request, &pick, &weighed))
        return;
    sp_dispatch_go_on(request);
    sp_queue *queue = &house->queues[request->op];
    if (is_pool(request->op) || queue->count > 1 || house->suspects[request->op].count || house->poison.count) {
        sp_dispatch_run(house);
        return;
    }
    /* Nobody is before it: given at once, by what has been weighed for shedding already. */
    if (!weighed)
        sp_chain_pick(house, request, false, &pick);
    (void)try_chain(house, queue, request, &pick);
}

int64_t sp_dispatch_hook(void *context)
{
    sp_house *house = context;
    for (int i = 0; i < house->worker_count; i++)
        sp_dispatch_collect(&house->workers[i]);
    sp_models_turn(house);
    sp_dispatch_run(house);
    sp_guard_turn(house);
    sp_request_deliver(house);
    return house->answered.count || house->models.due ? 0 : -1;
}
