/* SPDX-License-Identifier: Apache-2.0
 * The chain of a request: which of its links may answer it, which of them should now, and for how long. Decides, changes
 * nothing (but a breaker whose pause is over becomes half-open when it is looked at). */
#include "route/chain.h"

#include "base/clock.h"
#include "route/devices.h"
#include "route/direct.h"
#include "route/models.h"
#include "route/quota.h"

#include <string.h>
#include <time.h>

/* Left for a later remote of which no latency is known yet. */
#define UNKNOWN_REMOTE_NS SP_NS_PER_S

/* --- conditions -------------------------------------------------------------------------------------------------- */

void sp_chain_judge_open(sp_request *request, const sp_request_params *params)
{
    const sp_chain *chain = request->chain;
    sp_facts facts = {
        .tier = params->tier ? params->tier : "",
        .duration_s = params->duration_s > 0 ? params->duration_s : -1,
        .force_cpu = params->force_cpu,
        .header = params->header,
        .parameter = params->parameter,
        .context = params->facts_context,
    };
    request->allowed = 0;
    for (int e = 0; e < chain->count; e++) {
        const sp_link_config *config = chain->entries[e].config;
        bool holds = true;
        for (int c = 0; c < config->condition_count && holds; c++) {
            const sp_condition *condition = &config->conditions[c];
            if (!sp_condition_is_live(condition) && condition->kind != SP_CONDITION_PAYLOAD_BYTES)
                holds = sp_condition_holds(condition, &facts);
        }
        request->allowed |= (uint32_t)holds << e;
    }
}

void sp_chain_judge_payload(sp_request *request)
{
    sp_facts facts = { .tier = "", .duration_s = -1, .payload_bytes = request->shared->payload_bytes };
    for (int e = 0; e < request->chain->count; e++) {
        const sp_link_config *config = request->chain->entries[e].config;
        for (int c = 0; c < config->condition_count; c++) {
            if (config->conditions[c].kind == SP_CONDITION_PAYLOAD_BYTES && !sp_condition_holds(&config->conditions[c], &facts))
                request->allowed &= ~(1u << e);
        }
    }
}

int sp_chain_queue_depth(const sp_house *house, const sp_request *request)
{
    int running = 0;
    for (int e = 0; e < request->chain->count; e++) {
        int w = request->chain->entries[e].worker;
        if (w >= 0 && house->workers[w].state == SP_WORKER_READY && request->task == SP_TASK_ANALYZE)
            running += house->workers[w].analyze_in_flight;
        else if (w >= 0 && house->workers[w].state == SP_WORKER_READY)
            running += SP_MIN(house->workers[w].in_flight, (int)house->workers[w].card.executors);
    }
    return SP_MAX(house->active[request->task] - running, 0);
}

static int minute_of_day(void)
{
    static int64_t known_minute;
    static int minute;
    int64_t unix_minute = sp_clock_wall_ns() / SP_NS_PER_S / 60;
    if (unix_minute != known_minute) { /* local time costs a lock and a look at the zone: once a minute */
        time_t now = (time_t)(unix_minute * 60);
        struct tm local;
        if (localtime_r(&now, &local))
            minute = local.tm_hour * 60 + local.tm_min;
        known_minute = unix_minute;
    }
    return minute;
}

/* The conditions that change while a request waits. */
static sp_skip judge_live(const sp_house *house, const sp_request *request, const sp_link_config *config)
{
    sp_skip skip = SP_SKIP_NONE;
    for (int c = 0; c < config->condition_count; c++) {
        const sp_condition *condition = &config->conditions[c];
        if (!sp_condition_is_live(condition))
            continue;
        sp_facts facts = { .tier = "", .duration_s = -1, .queue_depth = sp_chain_queue_depth(house, request) };
        if (condition->kind == SP_CONDITION_TIME)
            facts.minute_of_day = minute_of_day();
        if (!sp_condition_holds(condition, &facts)) {
            if (condition->kind == SP_CONDITION_TIME)
                return SP_SKIP_CONDITION;
            skip = SP_SKIP_LOAD;
        }
    }
    return skip;
}

/* --- one entry --------------------------------------------------------------------------------------------------- */

bool sp_chain_wants_output(const sp_request *request, int entry)
{
    if (request->task == SP_TASK_CLASSIFY)
        return !request->chain->entries[entry].spillway && !sp_direct_may(request, entry);
    return sp_infer_wants_pixels(request);
}

/* Of a served model: who has it, or will; of a sequence: the one that has its state. A remote is asked by any net worker that
 * knows the model's names, and keeps no state for us. */
static sp_skip judge_place(const sp_house *house, const sp_request *request, const sp_worker *worker)
{
    if (!worker) {
        bool known = false;
        if (request->pin.incarnation)
            return SP_SKIP_ONLY;
        for (int w = 0; w < house->worker_count && !known; w++)
            known = house->workers[w].role == SP_ROLE_NET && (request->model->places[w].state == SP_PLACE_READY ||
                                                              sp_loaded_coming_at(request->model, w));
        return known && !sp_infer_is_sequence(request) ? SP_SKIP_NONE : SP_SKIP_CANNOT;
    }
    if (request->pin.incarnation) {
        if (worker->index != request->pin.worker)
            return SP_SKIP_ONLY;
        if (worker->incarnation != request->pin.incarnation || worker->state != SP_WORKER_READY)
            return SP_SKIP_DOWN;
    }
    bool ready = request->model->places[worker->index].state == SP_PLACE_READY;
    return ready || sp_loaded_coming_at(request->model, worker->index) ? SP_SKIP_NONE : SP_SKIP_CANNOT;
}

/* What will not change for this request any more. */
static sp_skip judge_for_good(const sp_house *house, const sp_request *request, int e)
{
    const sp_chain_entry *entry = &request->chain->entries[e];
    const sp_link *link = &house->links[entry->link];
    if (request->only != -1 && request->only != e)
        return SP_SKIP_ONLY;
    if (entry->worker < 0 && request->local_only)
        return SP_SKIP_LOCAL_ONLY;
    if (entry->worker >= 0 && !entry->is_cpu && (request->force_cpu || !request->snapshot->config->use_gpu))
        return SP_SKIP_NOT_CPU;
    if (!request->internal && link->quarantined)
        return SP_SKIP_QUARANTINE;
    if (request->barred & (1u << e))
        return SP_SKIP_TRIED;
    if (request->only != e && !(request->allowed & (1u << e)))
        return SP_SKIP_CONDITION;
    bool decoded = request->output_kind == SP_OUTPUT_RGB8 || request->output_kind == SP_OUTPUT_TENSOR;
    if (sp_chain_wants_output(request, e) && !decoded && (request->no_decode || !house->role_counts[SP_ROLE_CODEC]))
        return SP_SKIP_CANNOT;
    if (entry->worker < 0 && request->model)
        return judge_place(house, request, NULL);
    if (entry->worker < 0) {
        bool known = entry->spillway || sp_chain_card(house, request); /* a tensor is made by a model's card */
        return house->role_counts[SP_ROLE_NET] && known ? SP_SKIP_NONE : SP_SKIP_CANNOT;
    }
    const sp_worker *worker = &house->workers[entry->worker];
    if (worker->state == SP_WORKER_QUARANTINED || worker->state == SP_WORKER_ENDING)
        return SP_SKIP_DOWN;
    if (request->model)
        return judge_place(house, request, worker);
    if (request->task == SP_TASK_ANALYZE && worker->has_card && !worker->card.analyze_window)
        return SP_SKIP_CANNOT;
    if (request->task == SP_TASK_CLASSIFY &&
        worker->has_card && request->answer.model[0] && strcmp(worker->card.model, request->answer.model) != 0)
        return SP_SKIP_CANNOT;
    return SP_SKIP_NONE;
}

bool sp_chain_may_take(const sp_house *house, const sp_request *request, const sp_worker *worker)
{
    if (request->model && request->model->places[worker->index].state != SP_PLACE_READY)
        return false;
    for (int e = 0; e < request->chain->count; e++) {
        if (request->chain->entries[e].worker == worker->index && !judge_for_good(house, request, e))
            return true;
    }
    return false;
}

static sp_skip room_at(const sp_worker *worker, const sp_request *request, bool alone)
{
    if (worker->state != SP_WORKER_READY)
        return SP_SKIP_DOWN;
    int others = worker->in_flight - worker->models_in_flight; /* a load may take a minute: nobody waits for it */
    if (worker->leases[request->slot].number || (alone ? others > 0 : worker->reserved))
        return SP_SKIP_FULL;
    bool served = request->model && worker->role == SP_ROLE_DEVICE, to_remote = request->model && worker->role == SP_ROLE_NET;
    to_remote &= request->op == SP_OP_INFER;
    if ((served || to_remote) && request->model->places[worker->index].state != SP_PLACE_READY)
        return SP_SKIP_LOADING;
    if (request->op == SP_OP_ANALYZE) /* one takes seconds to minutes; others go on beside it, and do not wait behind it */
        return worker->analyze_in_flight < (int)worker->card.analyze_window ? SP_SKIP_NONE : SP_SKIP_FULL;
    uint32_t out = (uint32_t)(served ? worker->infer_in_flight - worker->models_in_flight
                                     : worker->in_flight - worker->infer_in_flight - worker->analyze_in_flight);
    return out < (served ? worker->card.infer_window : worker->card.window) ? SP_SKIP_NONE : SP_SKIP_FULL;
}

/* A net worker with room; NULL with the reason. Any of them can run any remote. */
static sp_worker *net_worker(sp_house *house, const sp_request *request, bool alone, sp_skip *ret_skip)
{
    sp_worker *best = NULL;
    *ret_skip = SP_SKIP_DOWN;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        if (worker->role != SP_ROLE_NET)
            continue;
        sp_skip skip = room_at(worker, request, alone);
        if (skip == SP_SKIP_FULL || (skip == SP_SKIP_LOADING && *ret_skip == SP_SKIP_DOWN))
            *ret_skip = skip;
        if (skip == SP_SKIP_NONE && (!best || worker->in_flight < best->in_flight))
            best = worker;
    }
    if (best)
        *ret_skip = SP_SKIP_NONE;
    return best;
}

/* A link serves many models, of a millisecond and of seconds: what counts is how long it takes with this one. */
static const sp_latency *latency_of(const sp_house *house, const sp_request *request, const sp_chain_entry *entry)
{
    return request->model && entry->worker >= 0 ? &request->model->places[entry->worker].latency
                                                : &house->links[entry->link].latency;
}

int64_t sp_chain_p50_ns(const sp_house *house, const sp_request *request, const sp_chain_entry *entry)
{
    int64_t seen_ns = latency_of(house, request, entry)->p50_ns;
    if (seen_ns || request->model || request->task == SP_TASK_ANALYZE) /* the card speaks of classify */
        return seen_ns;
    return entry->worker >= 0 ? house->workers[entry->worker].card.p50_ns : 0;
}

int64_t sp_chain_p95_ns(const sp_house *house, const sp_request *request, const sp_chain_entry *entry)
{
    return latency_of(house, request, entry)->p95_ns;
}

static int64_t p99_of(const sp_house *house, const sp_request *request, const sp_chain_entry *entry)
{
    int64_t seen_ns = latency_of(house, request, entry)->p99_ns;
    if (seen_ns)
        return seen_ns;
    if (entry->worker < 0)
        return UNKNOWN_REMOTE_NS;
    return request->model || request->task == SP_TASK_ANALYZE ? 0 : house->workers[entry->worker].card.p99_ns;
}

/* --- the choice -------------------------------------------------------------------------------------------------- */

/* Order of preference; least first. */
enum { AS_WRITTEN = 0, THROTTLED = 1, DEMOTED = 2, SLOW = 3, AGAINST_ITS_LOAD = 4 };

typedef struct candidate {
    int entry;
    sp_worker *worker;
    int key;
    uint32_t rank; /* class, tries, place */
    int in_flight;
} candidate;

static void soonest(int64_t *at_ns, int64_t candidate_ns)
{
    if (candidate_ns > 0 && (!*at_ns || candidate_ns < *at_ns))
        *at_ns = candidate_ns;
}

/* What passes by waiting: breaker, quota, cost. Sets *ret_class; *ret_wake_ns says when it may be open again. */
static sp_skip judge_for_now(sp_house *house, const sp_request *request, int e, int64_t now_ns, int *ret_class, int *ret_key,
                             int64_t *ret_wake_ns)
{
    const sp_chain_entry *entry = &request->chain->entries[e];
    sp_link *link = &house->links[entry->link];
    bool allowed = sp_breaker_would_allow(sp_loaded_breaker(request, entry), now_ns);
    if (!request->model)
        sp_link_note_breaker(link, now_ns);
    if (!allowed && entry->worker < 0) {
        *ret_wake_ns = sp_breaker_retry_at(&link->breaker, now_ns);
        return SP_SKIP_BREAKER;
    }
    sp_skip skip = sp_quota_look(house, request, entry, now_ns, ret_key, ret_wake_ns);
    if (skip)
        return skip;
    if (entry->worker >= 0 && sp_worker_throttled(&house->workers[entry->worker]))
        *ret_class = THROTTLED;
    if (!allowed)
        *ret_class = DEMOTED; /* a local link is never shut: it may be the last */
    if (sp_chain_p50_ns(house, request, entry) > request->shared->deadline_ns - now_ns)
        *ret_class = SP_MAX(*ret_class, SLOW);
    return SP_SKIP_NONE;
}

static uint32_t rank_of(const sp_request *request, int e, int class, bool alone)
{
    const sp_chain_entry *entry = &request->chain->entries[e];
    uint32_t tries = request->chain->written ? 0 : request->tries[e]; /* unwritten: who failed it comes after who did not */
    uint32_t off_cpu = alone && !entry->is_cpu; /* a suspect never goes to a GPU first */
    if (request->pinned == e && class == AS_WRITTEN && !alone)
        return 0;
    return (uint32_t)class << 24 | off_cpu << 23 | tries << 16 | (uint32_t)entry->group << 8 | 1;
}

static bool better(const candidate *a, const candidate *b)
{
    if (b->entry < 0 || a->rank != b->rank)
        return b->entry < 0 || a->rank < b->rank;
    return a->in_flight < b->in_flight; /* of one group: whoever has less to do */
}

typedef struct choice {
    candidate best, ahead; /* with room now · with room or without */
    bool possible;
    int64_t wake_ns, opens_ns;
} choice;

static void weigh(sp_house *house, sp_request *request, int e, int64_t now_ns, bool ignore_load, choice *all, sp_skip *ret_skip)
{
    const sp_chain_entry *entry = &request->chain->entries[e];
    const sp_link *link = &house->links[entry->link];
    int class = AS_WRITTEN, key = -1;
    int64_t wake_ns = 0;
    *ret_skip = judge_for_good(house, request, e);
    if (*ret_skip)
        return;
    if (request->only != e)
        *ret_skip = judge_live(house, request, entry->config);
    if (*ret_skip == SP_SKIP_LOAD && ignore_load) {
        class = AGAINST_ITS_LOAD;
        *ret_skip = SP_SKIP_NONE;
    }
    if (!*ret_skip)
        *ret_skip = judge_for_now(house, request, e, now_ns, &class, &key, &wake_ns);
    if (*ret_skip) {
        soonest(&all->opens_ns, wake_ns);
        if (wake_ns && wake_ns < request->shared->deadline_ns) {
            all->possible = true; /* it opens in time */
            soonest(&all->wake_ns, wake_ns);
        }
        return;
    }
    all->possible = true;
    bool alone = request->suspect;
    sp_worker *worker = entry->worker >= 0 ? &house->workers[entry->worker] : NULL;
    sp_skip room = SP_SKIP_NONE;
    if (worker)
        room = room_at(worker, request, alone);
    else
        worker = net_worker(house, request, alone, &room);
    if (!room && !sp_limiter_has_room(&link->limiter))
        room = SP_SKIP_FULL;
    candidate one = { .entry = e, .worker = worker, .key = key, .rank = rank_of(request, e, class, alone),
                      .in_flight = entry->worker >= 0 ? worker->in_flight : link->in_flight };
    if (better(&one, &all->ahead))
        all->ahead = one;
    if (!room && better(&one, &all->best))
        all->best = one;
    *ret_skip = room ? room : class == SLOW ? SP_SKIP_SLOW : class == DEMOTED ? SP_SKIP_BREAKER :
                class == THROTTLED ? SP_SKIP_THROTTLED : SP_SKIP_NONE;
}

void sp_chain_pick(sp_house *house, sp_request *request, bool hedge, sp_pick *ret_pick)
{
    int64_t now_ns = sp_loop_now_ns(house->loop);
    choice all = { .best.entry = -1, .ahead.entry = -1 };
    const sp_chain *chain = request->chain;
    for (int e = 0; e < chain->count; e++)
        weigh(house, request, e, now_ns, false, &all, &ret_pick->skips[e]);
    if (!all.possible && !hedge) { /* a link that waits for load is better than no answer */
        for (int e = 0; e < chain->count; e++) {
            if (ret_pick->skips[e] == SP_SKIP_LOAD)
                weigh(house, request, e, now_ns, true, &all, &ret_pick->skips[e]);
        }
    }
    ret_pick->entry = all.best.entry;
    ret_pick->worker = all.best.worker;
    ret_pick->key = all.best.key;
    ret_pick->possible = all.possible;
    ret_pick->ahead = all.ahead.entry;
    ret_pick->wake_ns = all.wake_ns;
    ret_pick->opens_ns = all.opens_ns;
}

/* --- steps that are no link's ------------------------------------------------------------------------------------ */

static sp_worker_role pool_role(sp_op op)
{
    bool net = op == SP_OP_FETCH || op == SP_OP_SEND;
    return net ? SP_ROLE_NET : SP_ROLE_CODEC;
}

sp_worker *sp_chain_pick_pool(sp_house *house, const sp_request *request, bool *ret_possible)
{
    sp_worker *best = NULL;
    *ret_possible = false;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        if (worker->role != pool_role(request->op) || worker->state == SP_WORKER_QUARANTINED ||
            worker->state == SP_WORKER_ENDING || request->pool_tries[i] >= SP_TRIES_PER_WORKER)
            continue;
        *ret_possible = true;
        if (room_at(worker, request, request->suspect))
            continue;
        if (!best || request->pool_tries[i] < request->pool_tries[best->index] ||
            (request->pool_tries[i] == request->pool_tries[best->index] && worker->in_flight < best->in_flight))
            best = worker;
    }
    return best;
}

/* --- how long ---------------------------------------------------------------------------------------------------- */

/* The p99 of the quickest other entry that could still take over; INT64_MAX = there is none. */
static int64_t quickest_other_ns(const sp_house *house, const sp_request *request, int entry)
{
    int64_t quickest_ns = INT64_MAX;
    for (int e = 0; e < request->chain->count; e++) {
        const sp_chain_entry *other = &request->chain->entries[e];
        if (e == entry || judge_for_good(house, request, e))
            continue;
        if (other->worker >= 0 && house->workers[other->worker].state != SP_WORKER_READY)
            continue;
        if (request->model && other->worker >= 0 && request->model->places[other->worker].state != SP_PLACE_READY)
            continue;
        if (other->worker < 0 && house->links[other->link].breaker.state == SP_BREAKER_OPEN)
            continue;
        quickest_ns = SP_MIN(quickest_ns, p99_of(house, request, other));
    }
    return quickest_ns;
}

int64_t sp_chain_attempt_deadline(const sp_house *house, const sp_request *request, int entry, const sp_worker *worker,
                                  int64_t now_ns)
{
    int64_t deadline_ns = request->shared->deadline_ns, timeout_ns = house->config.link_timeout_ns, later_ns = INT64_MAX;
    bool again = false;
    if (sp_request_is_of_video(request))
        timeout_ns = 0; /* how long it takes is the file's business; the worker's progress is watched, and a chain may say more */
    if (request->task == SP_TASK_MODELS)
        return deadline_ns; /* this worker is meant, nobody can take over */
    if (entry < 0) { /* a step of its own: another worker of the same role takes over */
        for (int i = 0; i < house->worker_count; i++) {
            const sp_worker *other = &house->workers[i];
            if (other != worker && other->role == worker->role && other->state == SP_WORKER_READY &&
                request->pool_tries[i] < SP_TRIES_PER_WORKER)
                later_ns = SP_MIN(later_ns, other->card.p99_ns);
        }
    } else {
        const sp_link_config *config = request->chain->entries[entry].config;
        later_ns = quickest_other_ns(house, request, entry);
        timeout_ns = config->timeout_ns ? config->timeout_ns : timeout_ns;
        again = config->timeout_ns && request->tries[entry] < config->retry.retries;
    }
    if (later_ns == INT64_MAX && !again)
        return deadline_ns;
    int64_t left_ns = deadline_ns - now_ns;
    int64_t until_ns = later_ns == INT64_MAX ? deadline_ns : deadline_ns - SP_MIN(later_ns, left_ns / 2);
    return timeout_ns ? SP_MIN(until_ns, now_ns + timeout_ns) : until_ns;
}

/* --- models ------------------------------------------------------------------------------------------------------ */

/* Pixels suit every device; the tensor itself is made ahead only when nothing but CPUs and tensor remotes can come next. */
uint32_t sp_chain_wanted_output(const sp_house *house, const sp_request *request)
{
    if (sp_infer_wants_pixels(request))
        return SP_OUTPUT_RGB8; /* the model's own worker fits it in */
    for (int e = 0; e < request->chain->count; e++) {
        const sp_chain_entry *entry = &request->chain->entries[e];
        if (entry->worker < 0 && !entry->spillway)
            return SP_OUTPUT_TENSOR; /* a remote needs the tensor, and every device takes one of its own model */
    }
    for (int e = 0; e < request->chain->count; e++) {
        const sp_chain_entry *entry = &request->chain->entries[e];
        if (entry->worker >= 0 && !entry->is_cpu && house->workers[entry->worker].state != SP_WORKER_QUARANTINED)
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
