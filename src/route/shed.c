/* SPDX-License-Identifier: Apache-2.0
 * Load shedding by deadline: whoever cannot be answered in time behind all that waits already is told so at once, while
 * its client still has time to ask elsewhere. */
#include "base/clock.h"
#include "base/event.h"
#include "route/chain.h"
#include "route/dispatch.h"

#include <stdio.h>

/* Requests that go before it: those that wait with at least its priority. Those in hand are counted with their worker. */
static int ahead_of(const sp_house *house, const sp_request *request)
{
    int count = 0;
    const sp_op ops[] = { SP_OP_NOOP, SP_OP_DECODE, SP_OP_CLASSIFY };
    for (size_t i = 0; i < SP_ARRAY_LEN(ops); i++) {
        for (const sp_request *other = house->queues[ops[i]].first; other && other->priority >= request->priority;
             other = other->next)
            count += other->task == request->task;
    }
    return count;
}

/* How long until its turn and through it, if all usable workers work off the queue together. 0 = no reason to fear: a
 * link is free, a remote can take it, or nothing is known yet. */
static int64_t expected_ns(sp_house *house, sp_request *request, const sp_pick *pick)
{
    double per_ns = 0;
    int64_t quickest_ns = INT64_MAX;
    int in_flight = 0;
    for (int e = 0; e < request->chain->count; e++) {
        const sp_chain_entry *entry = &request->chain->entries[e];
        if (pick->skips[e] != SP_SKIP_NONE && pick->skips[e] != SP_SKIP_FULL && pick->skips[e] != SP_SKIP_SLOW &&
            pick->skips[e] != SP_SKIP_BREAKER && pick->skips[e] != SP_SKIP_DOWN)
            continue;
        if (entry->worker < 0) {
            if (pick->skips[e] == SP_SKIP_NONE)
                return 0;
            continue;
        }
        const sp_worker *worker = &house->workers[entry->worker];
        if (worker->state != SP_WORKER_READY)
            continue;
        if (!worker->service_ns || worker->in_flight < (int)worker->card.executors)
            return 0;
        per_ns += (double)worker->card.executors / (double)worker->service_ns;
        quickest_ns = SP_MIN(quickest_ns, worker->service_ns);
        in_flight += worker->in_flight;
    }
    if (per_ns <= 0)
        return 0;
    return quickest_ns + (int64_t)((ahead_of(house, request) + in_flight) / per_ns);
}

bool sp_shed_admit(sp_request *request, sp_pick *ret_pick, bool *ret_weighed)
{
    sp_house *house = request->house;
    /* A served model's queue is its worker's, with a policy of its own; how fast it goes is not seen from here. */
    if (request->task == SP_TASK_SEND || request->task == SP_TASK_FETCH || sp_request_is_of_video(request) || request->model || request->internal || house->active[request->task] < 2)
        return true;
    sp_chain_pick(house, request, false, ret_pick);
    *ret_weighed = true;
    if (!ret_pick->possible)
        return true; /* its own answer says why */
    int64_t needs_ns = expected_ns(house, request, ret_pick);
    int64_t left_ns = request->shared->deadline_ns - sp_clock_now_ns();
    if (needs_ns <= left_ns)
        return true;
    sp_metric_add(house->shed_metric, 1);
    sp_event_emit("shed", "house", "", "{\"task\":\"%s\",\"needs_ms\":%lld,\"left_ms\":%lld}", sp_task_name(request->task),
                  (long long)(needs_ns / SP_NS_PER_MS), (long long)(left_ns / SP_NS_PER_MS));
    request->answer.retry_after_s = (int)SP_CLAMP((needs_ns - left_ns) / SP_NS_PER_S + 1, (int64_t)1, (int64_t)60);
    sp_status s = SP_FAIL_CODE(&request->answer.error, SP_BUSY, "deadline_shed",
                               "behind %d others it would need %lld ms and has %lld; come back in %d s",
                               house->active[request->task] - 1, (long long)(needs_ns / SP_NS_PER_MS),
                               (long long)(left_ns / SP_NS_PER_MS), request->answer.retry_after_s);
    sp_request_answer(request, s);
    return false;
}
