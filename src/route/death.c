/* SPDX-License-Identifier: Apache-2.0
 * What takes a request away from its worker: the worker's death, the attempt's or the request's deadline, the client's
 * leaving. */
#include "base/clock.h"
#include "route/chain.h"
#include "route/dispatch.h"
#include "route/lease.h"

static bool is_suspicious(sp_death_cause cause)
{
    return cause == SP_DEATH_CRASH || cause == SP_DEATH_OOM || cause == SP_DEATH_WATCHDOG || cause == SP_DEATH_OVERDUE;
}

static void orphaned(sp_worker *worker, sp_request *request, const sp_lease *given, sp_death_cause cause, bool in_hand,
                     const char *reason)
{
    request->lease = 0;
    sp_request_attempt_add(request, worker->name, SP_UNAVAILABLE, given->given_ns, reason);
    sp_metric_add(request->house->requeued_metric, 1);
    if (in_hand && is_suspicious(cause)) {
        if (sp_poison_death(&request->house->poison, sp_poison_hash(request), sp_clock_now_ns()) == SP_POISON_REFUSED) {
            sp_dispatch_answer_poisoned(request);
            return;
        }
        request->suspect = true;
    } else if (in_hand && cause == SP_DEATH_EXIT) {
        request->tries[worker->index]++;
    }
    sp_dispatch_requeue(request, true);
}

/* Nobody waits for it any more, but what it did is remembered: hanging up must not make a crasher anonymous. */
static void abandoned(sp_request *request, sp_death_cause cause, bool in_hand)
{
    if (in_hand && is_suspicious(cause))
        (void)sp_poison_death(&request->house->poison, sp_poison_hash(request), sp_clock_now_ns());
    sp_request_recycle_if_done(request);
}

void sp_dispatch_worker_gone(sp_worker *worker, sp_death_cause cause, const char *reason)
{
    sp_dispatch_collect(worker); /* what it had finished still counts */
    for (uint32_t slot = 0; slot < SP_LIMIT_SLOTS && worker->in_flight; slot++) {
        sp_lease given = worker->leases[slot];
        if (!given.number)
            continue;
        sp_request *request = &worker->house->requests[slot];
        bool in_hand = sp_lease_in_hand(worker, slot, given.number);
        sp_lease_returned(worker, request);
        if (request->state == SP_REQUEST_LEASED && request->lease == given.number)
            orphaned(worker, request, &given, cause, in_hand, reason);
        else
            abandoned(request, cause, in_hand);
    }
    worker->reserved = false;
}

static sp_worker *lease_holder(sp_request *request)
{
    return &request->house->workers[request->lease_worker];
}

void sp_dispatch_withdraw(sp_request *request)
{
    if (request->in_queue) {
        sp_house *house = request->house;
        sp_queue_remove(request->suspect ? &house->suspects[request->op] : &house->queues[request->op], request);
    } else if (request->lease) {
        sp_lease_cancel(lease_holder(request), request, false); /* the client left; that is no reason to kill anybody */
    }
}

static void deadline_passed(sp_request *request)
{
    bool executing = request->lease && sp_lease_in_hand(lease_holder(request), request->slot, request->lease);
    if (request->lease) {
        sp_worker *worker = lease_holder(request);
        sp_request_attempt_add(request, worker->name, executing ? SP_TIMEOUT : SP_BUSY,
                               worker->leases[request->slot].given_ns, "the deadline passed");
        sp_lease_cancel(worker, request, true);
    } else {
        sp_dispatch_withdraw(request);
    }
    int64_t had_ms = (request->shared->deadline_ns - request->answer.received_ns) / SP_NS_PER_MS;
    sp_status s = executing ? SP_FAIL_CODE(&request->answer.error, SP_TIMEOUT, "deadline",
                                           "the deadline of %lld ms passed while it was being executed", (long long)had_ms)
                            : SP_FAIL_CODE(&request->answer.error, SP_BUSY, "deadline",
                                           "the deadline of %lld ms passed before its turn came", (long long)had_ms);
    sp_request_answer(request, s);
}

void sp_dispatch_expire(sp_timer *timer, void *context)
{
    sp_request *request = context;
    int64_t now_ns = sp_clock_now_ns();
    if (now_ns >= request->shared->deadline_ns) {
        deadline_passed(request);
        return;
    }
    if (request->state != SP_REQUEST_LEASED || now_ns < request->attempt_deadline_ns)
        return;
    sp_worker *worker = lease_holder(request);
    sp_request_attempt_add(request, worker->name, SP_TIMEOUT, worker->leases[request->slot].given_ns,
                           "slower than its link may be; the next one took over");
    (void)SP_FAIL(&request->answer.error, SP_TIMEOUT, "%s did not answer in time", worker->name);
    sp_lease_cancel(worker, request, true);
    request->tries[worker->index] = SP_TRIES_PER_WORKER;
    sp_metric_add(request->house->fallback_metric, 1);
    sp_dispatch_requeue(request, true);
}
