/* SPDX-License-Identifier: Apache-2.0
 * Hedging: a request whose link is slower than usual is given to the next link as well; the first right answer wins, the
 * other lease is withdrawn. Only tasks that can be done twice without harm. */
#include "base/clock.h"
#include "base/log.h"
#include "route/chain.h"
#include "route/dispatch.h"
#include "route/lease.h"
#include "route/models.h"
#include "route/quota.h"

#define TRY_AGAIN_NS (5 * SP_NS_PER_MS) /* nobody had room: looked at again, while the first is still at it */

static bool is_idempotent(sp_task task)
{
    return task == SP_TASK_NOOP || task == SP_TASK_CLASSIFY || task == SP_TASK_INFER || task == SP_TASK_DETECT;
}

void sp_hedge_plan(sp_request *request, int entry)
{
    sp_house *house = request->house;
    const sp_link_config *config = request->chain->entries[entry].config;
    int64_t p95_ns = sp_chain_p95_ns(house, request, &request->chain->entries[entry]);
    int64_t after_ns = config->hedge == SP_HEDGE_FIXED ? config->hedge_ns : p95_ns;
    if (after_ns <= 0 || !is_idempotent(request->task) || request->internal || request->suspect || sp_infer_is_sequence(request))
        return; /* p95 is not known before enough has been seen */
    request->hedge_at_ns = sp_clock_now_ns() + after_ns;
}

/* Pixels for the second link, while the first (a remote that needs none) is at work. */
static bool decode_for_it(sp_request *request)
{
    const sp_worker_card *card = sp_chain_card(request->house, request);
    if (!card)
        return false;
    sp_op op = request->op;
    bool possible;
    request->op = SP_OP_DECODE;
    sp_worker *worker = sp_chain_pick_pool(request->house, request, &possible);
    request->shared->prep = card->prep;
    bool given = worker && sp_lease_give(worker, request, -1, -1, true, NULL) == SP_OK;
    request->op = op;
    return given;
}

void sp_hedge_now(sp_request *request)
{
    sp_house *house = request->house;
    request->hedge_at_ns = 0;
    if (request->live_count != 1)
        return;
    const sp_worker *first = &house->workers[request->live_workers[0]];
    int busy = first->leases[request->slot].entry;
    if (busy < 0)
        return;
    uint32_t barred = request->barred;
    request->barred |= 1u << busy;
    sp_pick pick;
    sp_chain_pick(house, request, true, &pick);
    request->barred = barred;
    int entry = pick.entry >= 0 ? pick.entry : pick.ahead;
    if (entry < 0)
        return; /* nobody else may answer it */
    bool wants = sp_chain_wants_output(request, entry) && request->output_kind == SP_OUTPUT_NONE;
    bool given = false;
    if (wants)
        given = decode_for_it(request);
    else if (pick.entry >= 0)
        given = sp_lease_give(pick.worker, request, pick.entry, pick.key, true, NULL) == SP_OK;
    if (!given) {
        request->hedge_at_ns = sp_clock_now_ns() + TRY_AGAIN_NS;
    } else if (!wants) {
        sp_link *link = &house->links[request->chain->entries[entry].link];
        sp_metric_add(link->hedge_metric, 1);
        sp_link_event("hedge", link, ",\"beside\":\"%s\",\"request\":\"%.64s\"",
                      house->links[request->chain->entries[busy].link].name, sp_request_id(request));
        sp_dispatch_given(request, entry, true);
    }
    sp_dispatch_arm(request);
}

void sp_hedge_settle(sp_request *request)
{
    sp_house *house = request->house;
    int64_t now_ns = sp_clock_now_ns();
    for (int i = 0; i < request->live_count; i++) {
        const sp_worker *loser = &house->workers[request->live_workers[i]];
        const sp_lease *lease = &loser->leases[request->slot];
        if (lease->entry < 0)
            continue;
        const sp_chain_entry *entry = &request->chain->entries[lease->entry];
        if (!lease->hedge) /* it took at least so long: left out, its p95 would shrink with every hedge that wins */
            sp_latency_add(&house->links[entry->link].latency, now_ns - lease->given_ns);
        sp_request_attempt_add(request, house->links[entry->link].name, SP_CANCELLED, lease->given_ns,
                               "another link was asked as well and answered first");
        request->answer.microdollars += sp_quota_price(house, request, entry, now_ns - lease->given_ns);
    }
    sp_lease_cancel_all(request, false);
}
