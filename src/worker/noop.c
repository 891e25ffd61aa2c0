/* SPDX-License-Identifier: Apache-2.0
 * The kind that has nothing to offer but the worker loop itself: it answers no-ops, which the loop does, and refuses
 * the rest. The bare hop is measured with it, and route tests use it as a worker that starts in a millisecond. */
#include "worker/kinds.h"

#include <stdio.h>

static sp_status noop_open(const sp_worker_config *config, sp_worker_card *card, void **ret_state, sp_error *reterr)
{
    (void)snprintf(card->device, sizeof(card->device), "cpu");
    (void)snprintf(card->precision, sizeof(card->precision), "none");
    (void)snprintf(card->engine, sizeof(card->engine), "none");
    (void)snprintf(card->sandbox, sizeof(card->sandbox), "none");
    card->executors = 1;
    card->max_batch = 1;
    card->window = SP_LIMIT_SLOTS;
    *ret_state = NULL;
    return SP_OK;
}

static void noop_run(void *state, int executor, sp_work_item *items, int count)
{
    for (int i = 0; i < count; i++)
        items[i].status = SP_FAIL(&items[i].error, SP_UNSUPPORTED, "a noop worker answers no-ops only");
}

const sp_worker_kind sp_worker_kind_noop = { .name = "noop", .open = noop_open, .run = noop_run };
