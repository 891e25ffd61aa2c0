/* SPDX-License-Identifier: Apache-2.0
 * For tests of the device worker's kind without a worker: the loop's calls that it makes, items with right answers for the steered
 * engine's model. Included once, by a test's file. */
#ifndef SP_TESTS_TASK_DEVICE_STUBS_H
#define SP_TESTS_TASK_DEVICE_STUBS_H

#include "base/clock.h"
#include "steered_model.h"
#include "test.h"
#include "worker/kinds.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VALUES (3 * 8 * 8)
#define ITEMS  8

static bool cancelled[ITEMS];
static sp_slot_request requests[ITEMS];
static sp_submission submissions[ITEMS];
static sp_work_item items[ITEMS];
static float tensors[ITEMS][VALUES];
_Alignas(64) static uint8_t answers[ITEMS][SP_LIMIT_ANSWER_BYTES];
static _Atomic int64_t least_budget_ns;

void sp_worker_stage(int executor, sp_stage stage, int64_t budget_ns)
{
    if (stage == SP_STAGE_INFERENCE && (!least_budget_ns || budget_ns < least_budget_ns))
        least_budget_ns = budget_ns;
}

bool sp_work_item_cancelled(const sp_work_item *item)
{
    return cancelled[item - items];
}

static sp_worker_page page;
sp_worker_page *sp_worker_page_now(void)
{
    return &page;
}

void sp_worker_finish(sp_work_item *item)
{
    (void)item; /* the queue's calls are tested elsewhere (tests/worker) */
}

void sp_worker_wait(sp_work_item *item)
{
    (void)item;
}

const sp_infer_head *sp_worker_infer_head(const sp_work_item *item)
{
    (void)item;
    return NULL;
}

sp_status sp_worker_media(const sp_work_item *item, int *ret_fd, uint64_t *ret_size_bytes, sp_error *reterr)
{
    (void)item;
    *ret_fd = -1;
    *ret_size_bytes = 0;
    return SP_FAIL(reterr, SP_INTERNAL, "no videos here (tests/worker has them)");
}

void sp_worker_progress(const sp_work_item *item, uint32_t frames)
{
    (void)item;
    (void)frames;
}

static sp_error ended;
void sp_worker_end_after_batch(const sp_error *why)
{
    ended = *why;
}

static void *device;
static sp_worker_card card;
static _Atomic int *run_count; /* the steered engine's, when a test has looked it up */

/* Item i is a tensor whose best class is i % 4; trick[i] as fake_engine.c has them. */
static void make_items(const int *tricks)
{
    for (int i = 0; i < ITEMS; i++) {
        memset(tensors[i], 0, sizeof(tensors[i]));
        tensors[i][i % 4] = 5;
        tensors[i][4] = tricks ? (float)tricks[i] : 0;
        requests[i] = (sp_slot_request){ .top_k = 2, .prep = card.prep };
        submissions[i] = (sp_submission){ .op = SP_OP_CLASSIFY, .output_kind = SP_OUTPUT_TENSOR };
        items[i] = (sp_work_item){ .request = &requests[i],
                                   .submission = &submissions[i],
                                   .answer = answers[i],
                                   .input = sp_view_make(tensors[i], sizeof(tensors[i])) };
        cancelled[i] = false;
    }
    if (run_count)
        *run_count = 0;
}

static void check_right(int i)
{
    const sp_answer_classes *answer = (const sp_answer_classes *)(const void *)answers[i];
    static const char *const labels[] = { "ant", "bee", "cow", "dog" };
    CHECK_INT(items[i].status, SP_OK);
    REQUIRE(items[i].status == SP_OK && answer->count == 2);
    CHECK_INT(answer->classes[0].class_id, i % 4);
    CHECK_TEXT(answer->classes[0].label, labels[i % 4]);
    CHECK(fabs((double)answer->classes[0].probability - exp(5) / (exp(5) + 3)) < 1e-6);
    CHECK_INT(items[i].done.answer_bytes, 8 + 2 * sizeof(sp_answer_class));
}

#endif
