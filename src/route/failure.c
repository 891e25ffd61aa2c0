/* SPDX-License-Identifier: Apache-2.0
 * What comes after an attempt that failed: the same link again after a random pause, the next link, or the end. */
#include "base/clock.h"
#include "base/event.h"
#include "route/chain.h"
#include "route/dispatch.h"
#include "route/lease.h"
#include "route/models.h"

#include <stdio.h>

/* Trying again may change it. */
static bool is_transient(sp_status status)
{
    return status == SP_TIMEOUT || status == SP_UNAVAILABLE || status == SP_INTERNAL;
}

/* Trying again will not change it. */
static bool is_for_good(sp_status status)
{
    return status == SP_UNSUPPORTED || status == SP_REFUSED || status == SP_CORRUPT;
}

static uint64_t next_random(sp_house *house)
{
    uint64_t z = house->random_state += 0x9E3779B97F4A7C15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static bool another_may(sp_request *request, int entry)
{
    uint32_t barred = request->barred;
    sp_pick pick;
    request->barred |= 1u << entry;
    sp_chain_pick(request->house, request, false, &pick);
    request->barred = barred;
    return pick.possible;
}

/* The same link once more, after a pause: inside the deadline, and paid from the chain's budget. */
static bool plan_retry(sp_request *request, int entry, sp_link *link)
{
    sp_house *house = request->house;
    const sp_link_config *config = request->chain->entries[entry].config;
    int tried = request->tries[entry];
    if (tried > config->retry.retries)
        return false;
    int64_t now_ns = sp_clock_now_ns();
    int64_t at_ns = now_ns + sp_backoff_ns(&config->retry, tried - 1, next_random(house));
    if (at_ns + link->latency.p50_ns >= request->shared->deadline_ns)
        return false;
    if (!sp_retry_budget_take(&house->budgets[request->task], now_ns)) {
        sp_link_event("retry.denied", link, ",\"reason\":\"the chain's retry budget is used up\"");
        return false;
    }
    sp_metric_add(link->retry_metric, 1);
    sp_link_event("retry", link, ",\"request\":\"%.64s\",\"in_ms\":%lld", sp_request_id(request),
                  (long long)((at_ns - now_ns) / SP_NS_PER_MS));
    request->pinned = entry;
    request->state = SP_REQUEST_QUEUED;
    request->hedge_at_ns = 0;
    request->retry_at_ns = SP_MAX(at_ns, now_ns + 1);
    sp_dispatch_arm(request);
    return true;
}

/* True: the request waits for its next try already. */
static bool written_link_failed(sp_request *request, int entry, sp_link *link, sp_status status, int64_t pause_ns)
{
    bool again = is_transient(status);
    if (status == SP_BUSY || status == SP_NOMEM) {
        /* Another link at once. With a pause the breaker or the key keeps this one shut until it may be asked again. */
        if (pause_ns > 0 && request->tries[entry] <= request->chain->entries[entry].config->retry.retries + 1)
            return false;
        again = !another_may(request, entry);
    }
    if (again && plan_retry(request, entry, link))
        return true;
    request->barred |= 1u << entry;
    return false;
}

static void tell(sp_request *request, sp_link *link, sp_status status)
{
    if (!link->failure_metrics[status]) {
        char labels[96];
        (void)snprintf(labels, sizeof(labels), "task=\"%s\",link=\"%s\",status=\"%s\"", sp_task_name(link->task), link->name,
                       sp_status_name(status));
        link->failure_metrics[status] = sp_metric_get(SP_METRIC_COUNTER, "spillway_link_failures_total", labels,
                                                      "Attempts that failed, by link and status");
    }
    sp_metric_add(link->failure_metrics[status], 1);
    sp_link_event("fallback", link, ",\"status\":\"%s\",\"request\":\"%.64s\"", sp_status_name(status), sp_request_id(request));
}

void sp_dispatch_failed(sp_request *request, int entry, const sp_worker *worker, sp_status status, int64_t pause_ns)
{
    sp_house *house = request->house;
    sp_metric_add(house->fallback_metric, 1);
    if (entry < 0) {
        request->pool_tries[worker->index] =
            (uint8_t)(is_for_good(status) ? SP_TRIES_PER_WORKER : request->pool_tries[worker->index] + 1);
        if (request->op == SP_OP_SEND) {
            sp_request_answer(request, status); /* whoever sends has his own schedule, and it may have arrived */
            return;
        }
        if (request->live_count)
            return; /* a hedge's preparation failed; the attempt it was to help goes on */
        sp_dispatch_requeue(request, true);
        return;
    }
    sp_link *link = &house->links[request->chain->entries[entry].link];
    request->tries[entry]++;
    tell(request, link, status);
    /* The model's queue there was full, or its time in it was over: that is its policy, and the same is said again. */
    bool policy = status == SP_BUSY && request->model && request->chain->entries[entry].worker >= 0;
    if (is_for_good(status) || policy || request->pin.incarnation) { /* a sequence's state may have moved on: never twice */
        request->barred |= 1u << entry;
    } else if (request->live_count) {
        if (request->tries[entry] > request->chain->entries[entry].config->retry.retries)
            request->barred |= 1u << entry;
    } else if (!request->chain->written) {
        if (request->tries[entry] > request->chain->entries[entry].config->retry.retries)
            request->barred |= 1u << entry;
    } else if (written_link_failed(request, entry, link, status, pause_ns)) {
        return;
    }
    if (request->live_count)
        sp_dispatch_arm(request); /* the other one goes on */
    else
        sp_dispatch_requeue(request, true);
}
