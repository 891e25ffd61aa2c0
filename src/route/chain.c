/* SPDX-License-Identifier: Apache-2.0
 * The chain of a request: which workers may do its step, which of them should, and for how long. Decides, changes
 * nothing. */
#include "route/chain.h"

#include <string.h>

static bool can_do(const sp_worker *worker, const sp_request *request)
{
    switch (request->op) {
    case SP_OP_NOOP:
        return worker->role != SP_ROLE_CODEC;
    case SP_OP_DECODE:
        return worker->role == SP_ROLE_CODEC;
    case SP_OP_CLASSIFY:
        return worker->role == SP_ROLE_DEVICE && !worker->without_model &&
               (!worker->has_card || !request->answer.model[0] || strcmp(worker->card.model, request->answer.model) == 0);
    case SP_OP_FETCH:
    case SP_OP_REMOTE:
    case SP_OP_SEND:
        break;
    }
    return false;
}

/* It may answer this request, now or when it is up again. */
bool sp_chain_may_answer(const sp_worker *worker, const sp_request *request)
{
    return worker->state != SP_WORKER_QUARANTINED && worker->state != SP_WORKER_ENDING && can_do(worker, request) &&
           request->tries[worker->index] < SP_TRIES_PER_WORKER;
}

static bool has_room(const sp_worker *worker, const sp_request *request, bool alone)
{
    if (worker->state != SP_WORKER_READY || worker->leases[request->slot].number)
        return false;
    if (alone)
        return worker->in_flight == 0;
    return !worker->reserved && (uint32_t)worker->in_flight < worker->card.window;
}

/* The chain: workers in the order they were named, same kind = same link. A worker that failed this request comes
 * after one that did not; inside a link the one with the fewest leases. */
static bool better(const sp_request *request, const sp_worker *a, const sp_worker *b)
{
    if (!b)
        return true;
    if (request->tries[a->index] != request->tries[b->index])
        return request->tries[a->index] < request->tries[b->index];
    if (strcmp(a->kind, b->kind) != 0)
        return a->index < b->index;
    return a->in_flight != b->in_flight ? a->in_flight < b->in_flight : a->index < b->index;
}

/* A link that usually needs longer than is left comes last: it is taken only when nobody quicker can be. */
static bool too_slow(const sp_worker *worker, const sp_request *request, int64_t now_ns)
{
    return worker->card.p50_ns > request->shared->deadline_ns - now_ns;
}

sp_worker *sp_chain_pick(sp_house *house, const sp_request *request, bool alone, bool *ret_possible)
{
    sp_worker *best = NULL, *best_slow = NULL;
    int64_t now_ns = sp_loop_now_ns(house->loop);
    *ret_possible = false;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        if (!sp_chain_may_answer(worker, request))
            continue;
        *ret_possible = true;
        sp_worker **place = too_slow(worker, request, now_ns) ? &best_slow : &best;
        if (has_room(worker, request, alone) && better(request, worker, *place))
            *place = worker;
    }
    return best ? best : best_slow;
}

/* An attempt may take what is left, minus what the quickest later worker needs; the last one gets all of it. */
int64_t sp_chain_attempt_deadline(const sp_house *house, const sp_worker *chosen, const sp_request *request, int64_t now_ns)
{
    int64_t deadline_ns = request->shared->deadline_ns, later_ns = INT64_MAX;
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *other = &house->workers[i];
        if (other != chosen && other->state == SP_WORKER_READY && sp_chain_may_answer(other, request))
            later_ns = SP_MIN(later_ns, other->card.p99_ns);
    }
    if (later_ns == INT64_MAX)
        return deadline_ns;
    int64_t until_ns = deadline_ns - later_ns;
    if (house->config.link_timeout_ns)
        until_ns = SP_MIN(until_ns, now_ns + house->config.link_timeout_ns);
    return until_ns;
}

/* Pixels suit every device; the tensor itself is made ahead only when nothing but CPUs can come next. */
uint32_t sp_chain_wanted_output(const sp_house *house)
{
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *worker = &house->workers[i];
        if (worker->role == SP_ROLE_DEVICE && worker->state != SP_WORKER_QUARANTINED && strcmp(worker->kind, "cpu") != 0)
            return SP_OUTPUT_RGB8;
    }
    return SP_OUTPUT_TENSOR;
}

const sp_worker_card *sp_chain_card(const sp_house *house, const sp_request *request)
{
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *w = &house->workers[i];
        if (w->role == SP_ROLE_DEVICE && w->has_card && w->card.model[0] &&
            (!request->answer.model[0] || strcmp(w->card.model, request->answer.model) == 0))
            return &w->card;
    }
    return NULL;
}

bool sp_chain_model_may_come(const sp_house *house)
{
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *w = &house->workers[i];
        if (w->role == SP_ROLE_DEVICE && !w->has_card && !w->without_model && w->state != SP_WORKER_QUARANTINED)
            return true;
    }
    return false;
}
