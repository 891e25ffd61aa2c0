/* SPDX-License-Identifier: Apache-2.0
 * What takes a request away from its worker: the worker's death, the attempt's or the request's deadline, the client's
 * leaving. */
#include "base/clock.h"
#include "route/chain.h"
#include "route/direct.h"
#include "route/dispatch.h"
#include "route/lease.h"
#include "route/models.h"

static bool is_suspicious(sp_death_cause cause)
{
    return cause == SP_DEATH_CRASH || cause == SP_DEATH_OOM || cause == SP_DEATH_WATCHDOG || cause == SP_DEATH_OVERDUE;
}

static void costs_a_try(sp_request *request, const sp_worker *worker, const sp_lease *given)
{
    if (given->entry < 0)
        request->pool_tries[worker->index]++;
    else if (++request->tries[given->entry] > request->chain->entries[given->entry].config->retry.retries)
        request->barred |= 1u << given->entry;
}

/* The request had its live lease there; it has been taken back already. */
static void orphaned(sp_worker *worker, sp_request *request, const sp_lease *given, sp_death_cause cause, bool in_hand,
                     const char *reason)
{
    sp_house *house = request->house;
    const char *name = given->link >= 0 ? house->links[given->link].name : worker->name;
    sp_request_attempt_add(request, name, SP_UNAVAILABLE, given->given_ns, reason);
    sp_metric_add(house->requeued_metric, 1);
    if (worker->role == SP_ROLE_NET) {
        /* It carries bodies, it does not read them: hundreds that were in the air are not suspects. */
        if (in_hand && cause != SP_DEATH_OUTSIDER && cause != SP_DEATH_STOPPED)
            costs_a_try(request, worker, given);
    } else if (given->direct) {
        /* It was the decoder, we take it, which it does not meet again; if not, its next death is its own. */
    } else if (in_hand && is_suspicious(cause)) {
        if (sp_poison_death(&house->poison, sp_poison_hash(request), house->deaths, sp_clock_now_ns()) == SP_POISON_REFUSED) {
            sp_lease_cancel_all(request, false);
            sp_dispatch_answer_poisoned(request);
            return;
        }
        request->suspect = true;
    } else if (in_hand && cause == SP_DEATH_EXIT) {
        costs_a_try(request, worker, given);
    }
    if (request->live_count)
        sp_dispatch_arm(request); /* it was asked elsewhere as well */
    else
        sp_dispatch_requeue(request, true);
}

/* Nobody waits for it any more, but what it did is remembered: hanging up must not make a crasher anonymous. */
static void abandoned(sp_request *request, sp_worker_role role, bool direct, sp_death_cause cause, bool in_hand)
{
    if (in_hand && is_suspicious(cause) && role != SP_ROLE_NET && !direct && request->task != SP_TASK_MODELS)
        (void)sp_poison_death(&request->house->poison, sp_poison_hash(request), request->house->deaths, sp_clock_now_ns());
    sp_request_recycle_if_done(request);
}

static bool anything_in_hand(const sp_worker *worker)
{
    for (uint32_t slot = 0; slot < SP_LIMIT_SLOTS; slot++) {
        if (worker->leases[slot].number && sp_lease_in_hand(worker, slot, worker->leases[slot].number))
            return true;
    }
    return false;
}

/* It may have been a load that ended the worker: one that was in hand, or any when nothing was. */
static void hand_back_loads(sp_worker *worker, sp_death_cause cause)
{
    bool ended_itself = is_suspicious(cause) || cause == SP_DEATH_EXIT || cause == SP_DEATH_MEMORY;
    bool known = ended_itself && worker->models_in_flight && anything_in_hand(worker);
    for (uint32_t slot = 0; slot < SP_LIMIT_SLOTS && worker->models_in_flight; slot++) {
        sp_lease given = worker->leases[slot];
        if (!given.number || (given.op != SP_OP_LOAD && given.op != SP_OP_UNLOAD))
            continue;
        sp_request *request = &worker->house->requests[slot];
        bool counts = ended_itself && (!known || sp_lease_in_hand(worker, slot, given.number));
        sp_lease_returned(worker, request, SP_VERDICT_SILENT, 0);
        if (request->state == SP_REQUEST_LEASED && given.live)
            sp_models_orphaned(worker, request, counts);
        else
            sp_request_recycle_if_done(request);
    }
}

void sp_dispatch_worker_gone(sp_worker *worker, sp_death_cause cause, const char *reason)
{
    sp_dispatch_collect(worker); /* what it had finished still counts */
    worker->house->deaths++;
    sp_models_worker_gone(worker);
    hand_back_loads(worker, cause);
    for (uint32_t slot = 0; slot < SP_LIMIT_SLOTS && worker->in_flight; slot++) {
        sp_lease given = worker->leases[slot];
        if (!given.number)
            continue;
        sp_request *request = &worker->house->requests[slot];
        bool in_hand = sp_lease_in_hand(worker, slot, given.number);
        if (given.direct && in_hand && (is_suspicious(cause) || cause == SP_DEATH_EXIT))
            sp_direct_ended(worker);
        sp_lease_returned(worker, request, SP_VERDICT_SILENT, 0);
        if (request->state == SP_REQUEST_LEASED && given.live)
            orphaned(worker, request, &given, cause, in_hand, reason);
        else
            abandoned(request, worker->role, given.direct, cause, in_hand);
    }
    worker->reserved = false;
}

void sp_dispatch_withdraw(sp_request *request)
{
    if (request->in_queue) {
        sp_house *house = request->house;
        sp_queue_remove(request->suspect ? &house->suspects[request->op] : &house->queues[request->op], request);
    }
    sp_lease_cancel_all(request, false); /* the client left; that is no reason to kill anybody */
}

/* --- timers ------------------------------------------------------------------------------------------------------ */

/* A net worker has hundreds of calls in the air and marks none; what it was given counts as being executed. */
static bool is_executing(const sp_request *request, const sp_worker *worker)
{
    return worker->role == SP_ROLE_NET || sp_lease_in_hand(worker, request->slot, worker->leases[request->slot].number);
}

/* One live lease ran out of time. Only what was being executed says something of its link. Returns the status. */
static sp_status give_up(sp_request *request, sp_worker *worker, const char *reason)
{
    sp_lease given = worker->leases[request->slot];
    sp_status status = is_executing(request, worker) ? SP_TIMEOUT : SP_BUSY;
    const char *name = given.link >= 0 ? request->house->links[given.link].name : worker->name;
    sp_request_attempt_add(request, name, status, given.given_ns, reason);
    if (status == SP_TIMEOUT)
        sp_lease_blame(worker, request);
    sp_lease_cancel(worker, request, true);
    return status;
}

static void deadline_passed(sp_request *request)
{
    bool executing = false;
    sp_house *house = request->house;
    while (request->live_count) {
        sp_worker *worker = &house->workers[request->live_workers[0]];
        executing |= give_up(request, worker, "the deadline passed") == SP_TIMEOUT;
    }
    sp_dispatch_withdraw(request);
    int64_t had_ms = (request->shared->deadline_ns - request->answer.received_ns) / SP_NS_PER_MS;
    sp_status s = executing ? SP_FAIL_CODE(&request->answer.error, SP_TIMEOUT, "deadline",
                                           "the deadline of %lld ms passed while it was being executed", (long long)had_ms)
                            : SP_FAIL_CODE(&request->answer.error, SP_BUSY, "deadline",
                                           "the deadline of %lld ms passed before its turn came", (long long)had_ms);
    sp_request_answer(request, s);
}

static void attempts_passed(sp_request *request, int64_t now_ns)
{
    sp_house *house = request->house;
    for (int i = request->live_count - 1; i >= 0 && request->state == SP_REQUEST_LEASED; i--) {
        sp_worker *worker = &house->workers[request->live_workers[i]];
        sp_lease given = worker->leases[request->slot];
        if (now_ns < given.deadline_ns)
            continue;
        sp_status status = give_up(request, worker, "slower than its link may be; the next one took over");
        (void)SP_FAIL(&request->answer.error, status, "%s did not answer in time",
                      given.link >= 0 ? house->links[given.link].name : worker->name);
        if (given.entry >= 0 && !request->chain->written)
            request->barred |= 1u << given.entry; /* once too slow, too slow for this request */
        if (given.entry < 0)
            request->pool_tries[worker->index] = SP_TRIES_PER_WORKER - 1;
        sp_dispatch_failed(request, given.entry, worker, status, 0);
    }
}

void sp_dispatch_expire(sp_timer *timer, void *context)
{
    sp_request *request = context;
    int64_t now_ns = sp_clock_now_ns();
    if (now_ns >= request->shared->deadline_ns) {
        deadline_passed(request);
        return;
    }
    if (request->wake_ns && now_ns >= request->wake_ns)
        request->wake_ns = 0; /* the turn's end looks at the queues */
    if (request->retry_at_ns && now_ns >= request->retry_at_ns)
        sp_dispatch_requeue(request, true);
    if (request->state == SP_REQUEST_LEASED)
        attempts_passed(request, now_ns);
    if (request->state == SP_REQUEST_LEASED && request->hedge_at_ns && now_ns >= request->hedge_at_ns)
        sp_hedge_now(request);
    if (request->state == SP_REQUEST_LEASED || request->state == SP_REQUEST_QUEUED)
        sp_dispatch_arm(request);
}
