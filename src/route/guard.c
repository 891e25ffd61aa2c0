/* SPDX-License-Identifier: Apache-2.0
 * The equivalence guard (guard.h). It is a client of the house like any other: it opens requests, only that they name their
 * link and go last. */
#include "route/guard.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "route/chain.h"
#include "route/dispatch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define LOOK_NS (50 * SP_NS_PER_MS)
#define HOLD_NS (30 * SP_NS_PER_S)   /* a house that is never idle for so long gives its samples up */
#define ANSWER_NS (20 * SP_NS_PER_S) /* longest wait for an answer of the guard's own */
#define FREE_SLOTS_LEAST 32          /* with fewer, nothing is kept */
#define LEAST_PRIORITY (-10)

/* --- comparing --------------------------------------------------------------------------------------------------- */

static bool find(const sp_guard_classes *in, uint32_t class_id, double *ret_probability)
{
    for (uint32_t i = 0; i < in->count; i++) {
        if (in->top[i].class_id == class_id) {
            *ret_probability = (double)in->top[i].probability;
            return true;
        }
    }
    return false;
}

static double one_way(const sp_guard_classes *a, const sp_guard_classes *b)
{
    double largest = 0;
    /* One that is not listed has at most what the last listed one has; with all classes listed it has nothing. */
    double least = b->count ? (double)b->top[b->count - 1].probability : 0;
    for (uint32_t i = 0; i < a->count; i++) {
        double mine = (double)a->top[i].probability, theirs = 0;
        bool both = find(b, a->top[i].class_id, &theirs);
        double difference = both ? fabs(mine - theirs) : SP_MAX(mine - least, 0.0);
        if (!(difference <= largest)) /* not a number is the largest difference there is */
            largest = isnan(difference) ? INFINITY : difference;
    }
    return largest;
}

double sp_guard_difference(const sp_guard_classes *a, const sp_guard_classes *b)
{
    if (!a->count != !b->count)
        return INFINITY;
    return SP_MAX(one_way(a, b), one_way(b, a));
}

static void take_classes(const sp_answer *answer, sp_guard_classes *ret_classes)
{
    *ret_classes = (sp_guard_classes){ 0 };
    for (uint32_t i = 0; answer->classes && i < SP_MIN(answer->classes->count, (uint32_t)SP_GUARD_CLASSES); i++) {
        ret_classes->top[i].class_id = answer->classes->classes[i].class_id;
        ret_classes->top[i].probability = answer->classes->classes[i].probability;
        ret_classes->count++;
    }
}

static double tolerance_of(const sp_snapshot *snapshot, const sp_chain_entry *entry)
{
    return entry->config->tolerance > 0 ? entry->config->tolerance : snapshot->config->guard.tolerance;
}

static void judge(sp_house *house, const sp_snapshot *snapshot, const sp_chain_entry *entry, const sp_guard_classes *reference,
                  const sp_guard_classes *seen, const char *where)
{
    sp_link *link = &house->links[entry->link];
    double tolerance = tolerance_of(snapshot, entry);
    double difference = sp_guard_difference(reference, seen);
    sp_metric_add(house->guard.checks_metric, 1);
    if (difference <= tolerance)
        return;
    char reason[96];
    (void)snprintf(reason, sizeof(reason), "differs from the reference by %.3g (%s); %.3g is allowed", difference, where,
                   tolerance);
    sp_metric_add(house->guard.mismatches_metric, 1);
    sp_link_event("guard.mismatch", link, ",\"difference\":%.6g,\"tolerance\":%.6g,\"where\":\"%s\"",
                  isfinite(difference) ? difference : 1.0, tolerance, where);
    sp_link_quarantine(house, link, true, reason);
}

/* --- golden inputs ----------------------------------------------------------------------------------------------- */

#define SIDE 128
#define HEADER_BYTES 54
#define BMP_BYTES (HEADER_BYTES + SIDE * SIDE * 3) /* inline in a slot */
_Static_assert(BMP_BYTES <= SP_LIMIT_SLOT_INLINE_BYTES, "no memfd for a golden picture");

static uint8_t pictures[SP_GUARD_INPUTS][BMP_BYTES];

static void put32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static int root_of(int square)
{
    int root = 0;
    while ((root + 1) * (root + 1) <= square)
        root++;
    return root;
}

/* Textures that classifiers of photographs are sure about (a window screen, a maze, a theatre curtain): an error of 1 % shows
 * only where a probability is large. */
static void paint(int input, int x, int y, uint8_t pixel[3])
{
    int wave = x % 26 < 13 ? x % 26 : 26 - x % 26; /* 0 .. 13 .. 0 */
    int ring = root_of((x - SIDE / 2) * (x - SIDE / 2) + (y - SIDE / 2) * (y - SIDE / 2)) % 12;
    bool line = input == 0 ? x % 4 == 0 || y % 4 == 0 : ring < 2;
    static const uint8_t colours[2][2][3] = { { { 200, 205, 200 }, { 30, 30, 30 } }, { { 30, 20, 20 }, { 255, 255, 255 } } };
    if (input < 2)
        memcpy(pixel, colours[input][line], 3);
    else
        memcpy(pixel, (uint8_t[]){ 40, (uint8_t)(20 + wave * 3), (uint8_t)(70 + wave * 12) }, 3); /* blue first */
}

/* Uncompressed pictures, the same in every house. Made at start: it takes longer than a callback of the loop may. */
static void make_pictures(void)
{
    for (int input = 0; input < SP_GUARD_INPUTS; input++) {
        uint8_t *bmp = pictures[input];
        memcpy(bmp, "BM", 2);
        put32(bmp + 2, BMP_BYTES);
        put32(bmp + 10, HEADER_BYTES);
        put32(bmp + 14, 40);
        put32(bmp + 18, SIDE);
        put32(bmp + 22, SIDE);
        bmp[26] = 1;
        bmp[28] = 24;
        put32(bmp + 34, SIDE * SIDE * 3);
        for (int i = 0; i < SIDE * SIDE; i++)
            paint(input, i % SIDE, i / SIDE, bmp + HEADER_BYTES + i * 3);
    }
}

static const sp_chain *classify_chain(const sp_house *house)
{
    return &house->snapshot->chains[SP_TASK_CLASSIFY];
}

static const sp_chain_entry *entry_of(const sp_house *house, int link)
{
    const sp_chain *chain = classify_chain(house);
    for (int e = 0; e < chain->count; e++) {
        if (chain->entries[e].link == link)
            return &chain->entries[e];
    }
    return NULL;
}

static bool is_up(const sp_house *house, const sp_chain_entry *entry)
{
    if (entry->worker >= 0)
        return house->workers[entry->worker].state == SP_WORKER_READY && house->workers[entry->worker].card.model[0];
    return house->links[entry->link].breaker.state == SP_BREAKER_CLOSED;
}

static const char *model_of(const sp_house *house, const sp_chain_entry *entry)
{
    return entry->worker >= 0 ? house->workers[entry->worker].card.model : "";
}

/* Held to the reference: another link that does the same. No two probabilities differ by more than 1: that turns it off. */
static bool is_comparable(const sp_house *house, const sp_snapshot *snapshot, const sp_chain_entry *entry,
                          const sp_chain_entry *reference)
{
    if (entry->link == reference->link || entry->config->simpler || tolerance_of(snapshot, entry) >= 1)
        return false;
    return entry->worker < 0 || strcmp(model_of(house, entry), model_of(house, reference)) == 0;
}

static int restarts_of(const sp_house *house, const sp_chain_entry *entry)
{
    return entry->worker >= 0 ? house->workers[entry->worker].restarts : 0;
}

static void end_check(sp_guard *guard)
{
    guard->checking = -1;
    guard->golden_pending = true; /* others may be due as well */
}

static void golden_answered(sp_request *request, const sp_answer *answer, void *context);

static bool ask(sp_house *house, const sp_chain_entry *entry, const sp_chain_entry *reference, int input)
{
    sp_guard *guard = &house->guard;
    sp_error err = { 0 };
    int retry_after_s;
    int64_t now_ns = sp_clock_now_ns();
    const sp_request_params params = {
        .task = SP_TASK_CLASSIFY,
        .model = model_of(house, reference),
        .received_ns = now_ns,
        .deadline_ns = now_ns + ANSWER_NS,
        .top_k = SP_GUARD_CLASSES,
        .priority = LEAST_PRIORITY,
        .only_link = house->links[entry->link].name,
    };
    sp_request *request = NULL;
    sp_status s = sp_request_open(house, &params, &request, &retry_after_s, &err);
    if (!s)
        s = sp_request_append(request, pictures[input], BMP_BYTES, &err);
    if (s) {
        if (request)
            sp_request_close(request);
        return false;
    }
    request->internal = true;
    guard->asked = request;
    sp_request_submit(request, golden_answered, house);
    return true;
}

static void ask_next(sp_house *house)
{
    sp_guard *guard = &house->guard;
    const sp_chain_entry *entry = entry_of(house, guard->checking), *reference = entry_of(house, guard->reference);
    if (!entry || !reference || guard->input == SP_GUARD_INPUTS) {
        end_check(guard);
        return;
    }
    bool known = guard->golden_of == reference->link && guard->golden_restarts == restarts_of(house, reference);
    if (!known) {
        guard->golden_of = reference->link;
        guard->golden_restarts = restarts_of(house, reference);
        guard->golden_count = 0;
    }
    guard->of_reference = guard->input >= guard->golden_count;
    if (!ask(house, guard->of_reference ? reference : entry, reference, guard->input))
        end_check(guard);
}

static void golden_answered(sp_request *request, const sp_answer *answer, void *context)
{
    sp_house *house = context;
    sp_guard *guard = &house->guard;
    sp_guard_classes seen;
    char where[32];
    bool ok = answer->status == SP_OK;
    take_classes(answer, &seen);
    guard->asked = NULL;
    sp_request_close(request);
    const sp_chain_entry *entry = entry_of(house, guard->checking);
    if (!ok || !entry) {
        end_check(guard); /* it did not answer: that is the breaker's business */
        return;
    }
    if (guard->of_reference) {
        guard->golden[guard->golden_count++] = seen;
    } else {
        (void)snprintf(where, sizeof(where), "golden input %d", guard->input);
        judge(house, house->snapshot, entry, &guard->golden[guard->input], &seen, where);
        guard->input++;
    }
    ask_next(house);
}

static void begin_check(sp_house *house)
{
    sp_guard *guard = &house->guard;
    const sp_chain *chain = classify_chain(house);
    if (chain->reference < 0 || !is_up(house, &chain->entries[chain->reference]))
        return;
    const sp_chain_entry *reference = &chain->entries[chain->reference];
    for (int e = 0; e < chain->count; e++) {
        const sp_chain_entry *entry = &chain->entries[e];
        sp_link *link = &house->links[entry->link];
        if (!link->golden_due || link->quarantined || !is_up(house, entry))
            continue;
        link->golden_due = false;
        if (!is_comparable(house, house->snapshot, entry, reference))
            continue;
        guard->checking = entry->link;
        guard->reference = reference->link;
        guard->input = 0;
        ask_next(house);
        return;
    }
}

void sp_guard_worker_ready(sp_worker *worker)
{
    sp_house *house = worker->house;
    for (int i = 0; i < house->link_count; i++) {
        sp_link *link = &house->links[i];
        if (link->worker == worker->index && link->task == SP_TASK_CLASSIFY)
            house->guard.golden_pending = link->golden_due = true;
    }
}

/* --- live answers ------------------------------------------------------------------------------------------------ */

void sp_guard_look(sp_request *request, const sp_lease *lease)
{
    sp_house *house = request->house;
    sp_guard *guard = &house->guard;
    const sp_chain *chain = request->chain;
    if (request->task != SP_TASK_CLASSIFY || request->internal || chain->reference < 0)
        return;
    const sp_chain_entry *entry = &chain->entries[lease->entry];
    sp_link *link = &house->links[entry->link];
    if (entry->worker < 0 && !link->answered_once) {
        link->answered_once = true;
        guard->golden_pending = link->golden_due = true;
    }
    int rate = request->snapshot->config->guard.per_mille;
    if (!rate || link->quarantined || !is_comparable(house, request->snapshot, entry, &chain->entries[chain->reference]))
        return;
    guard->per_mille_due += (uint32_t)rate;
    if (guard->per_mille_due < 1000)
        return;
    guard->per_mille_due -= 1000;
    bool room = guard->held_count < SP_LIMIT_GUARD_HELD && house->free_count >= FREE_SLOTS_LEAST &&
                request->body_bytes <= SP_LIMIT_GUARD_BODY_BYTES && !house->ending;
    if (!room) {
        sp_metric_add(guard->dropped_metric, 1);
        return;
    }
    request->guard = (sp_guard_note){ .sampled = true, .link = entry->link, .entry = lease->entry };
    take_classes(&request->answer, &request->guard.seen);
}

bool sp_guard_hold(sp_request *request)
{
    sp_guard *guard = &request->house->guard;
    if (!request->guard.sampled || guard->held_count == SP_LIMIT_GUARD_HELD || request->house->ending)
        return false;
    request->guard.sampled = false;
    request->guard.held = true;
    request->guard.held_since_ns = sp_clock_now_ns();
    guard->held[guard->held_count++] = request;
    return true;
}

static void let_go(sp_house *house, int index)
{
    sp_guard *guard = &house->guard;
    sp_request *request = guard->held[index];
    guard->held[index] = guard->held[--guard->held_count];
    request->guard.held = false;
    sp_request_recycle_if_done(request);
}

bool sp_guard_give_back(sp_house *house)
{
    if (!house->guard.held_count)
        return false;
    sp_metric_add(house->guard.dropped_metric, 1);
    let_go(house, 0);
    return true;
}

static void computed_again(sp_request *request, const sp_answer *answer, void *context)
{
    sp_house *house = context;
    house->guard.again = NULL;
    sp_guard_classes reference;
    take_classes(answer, &reference);
    if (answer->status == SP_OK)
        judge(house, request->snapshot, &request->chain->entries[request->guard.entry], &reference, &request->guard.seen,
              "a live answer");
    else
        sp_metric_add(house->guard.dropped_metric, 1);
    sp_request_close(request);
}

/* The request lives once more, for the reference alone; what was decoded for it is still there. */
static void compute_again(sp_house *house, int index)
{
    sp_guard *guard = &house->guard;
    sp_request *request = guard->held[index];
    guard->held[index] = guard->held[--guard->held_count];
    request->guard.held = false;
    char model[sizeof(request->answer.model)];
    memcpy(model, request->answer.model, sizeof(model));
    memset(&request->answer, 0, offsetof(sp_answer, attempts));
    request->answer.output_fd = -1; /* 0 is a descriptor, which would be closed with it */
    memcpy(request->answer.model, model, sizeof(model));
    int64_t now_ns = sp_clock_now_ns();
    request->answer.received_ns = now_ns;
    request->shared->deadline_ns = now_ns + ANSWER_NS;
    request->internal = true;
    request->only = request->chain->reference;
    request->barred = 0;
    request->pinned = -1;
    memset(request->tries, 0, sizeof(request->tries));
    request->priority = LEAST_PRIORITY;
    request->done = computed_again;
    request->context = house;
    house->open_count++;
    house->active[request->task]++;
    guard->again = request;
    sp_dispatch_go_on(request);
    sp_dispatch_run(house);
}

static bool reference_is_idle(const sp_house *house, const sp_request *request)
{
    const sp_chain_entry *entry = &request->chain->entries[request->chain->reference];
    if (house->queues[SP_OP_CLASSIFY].count || house->queues[SP_OP_DECODE].count)
        return false;
    return entry->worker < 0 || (house->workers[entry->worker].state == SP_WORKER_READY &&
                                 house->workers[entry->worker].in_flight == 0);
}

/* --- the turn ---------------------------------------------------------------------------------------------------- */

static void look_again(sp_timer *timer, void *context)
{
    (void)timer;
    (void)context; /* the turn that follows does the work */
}

static void keep_looking(sp_house *house)
{
    sp_guard *guard = &house->guard;
    sp_error err = { 0 };
    if (guard->timer.heap_index)
        return;
    guard->timer.fire = look_again;
    if (sp_loop_timer_set(house->loop, &guard->timer, sp_clock_now_ns() + LOOK_NS, &err))
        sp_log_error("no timer for the guard", NULL, &err);
}

static void look_at_held(sp_house *house)
{
    sp_guard *guard = &house->guard;
    int64_t now_ns = sp_loop_now_ns(house->loop);
    for (int i = guard->held_count - 1; i >= 0; i--) {
        sp_request *request = guard->held[i];
        if (now_ns - request->guard.held_since_ns > HOLD_NS) {
            sp_metric_add(guard->dropped_metric, 1);
            let_go(house, i);
        } else if (!guard->again && !request->leases_out && reference_is_idle(house, request)) {
            compute_again(house, i);
        }
    }
    if (guard->held_count)
        keep_looking(house);
}

void sp_guard_turn(sp_house *house)
{
    sp_guard *guard = &house->guard;
    if (house->ending)
        return;
    if (guard->golden_pending && guard->checking < 0) {
        guard->golden_pending = false; /* a link that is down now, or whose reference is, sets it when it is ready */
        begin_check(house);
    }
    if (guard->held_count)
        look_at_held(house);
}

void sp_guard_open(sp_house *house)
{
    sp_guard *guard = &house->guard;
    make_pictures();
    guard->checking = guard->golden_of = -1;
    guard->checks_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_guard_checks_total", "",
                                         "Answers that were compared with the reference link's");
    guard->mismatches_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_guard_mismatches_total", "",
                                             "Answers that differed from the reference link's by more than is allowed");
    guard->dropped_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_guard_dropped_total", "",
                                          "Samples that were not compared: no room, or the reference was never idle");
}

void sp_guard_close(sp_house *house)
{
    sp_guard *guard = &house->guard;
    sp_loop_timer_clear(house->loop, &guard->timer);
    if (guard->asked)
        sp_request_cancel(SP_STEAL(guard->asked));
    if (guard->again)
        sp_request_cancel(SP_STEAL(guard->again));
    while (guard->held_count)
        let_go(house, guard->held_count - 1);
}
