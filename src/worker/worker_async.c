/* SPDX-License-Identifier: Apache-2.0
 * The loop of an asynchronous kind (net): one thread has all leases in hand at once; its progress is that it comes round. */
#include "worker/loop.h"

#include "base/clock.h"
#include "worker/ring.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

/* A lease in the kind's hands. A worker holds a slot at most once, so the slot is its place. */
struct sp_async_item {
    sp_work_item item;
    sp_submission submission;
    int64_t begun_ns;
    bool finished, cancelled;
};

/* How often it looks for withdrawn leases while it has any; nobody rings for them. */
#define ASYNC_LOOK_NS (25 * SP_NS_PER_MS)

/* All that is in hand, and that the thread has come round: spread over the marks of as many executors as that takes. */
static void async_mark(void)
{
    for (int e = 0; e < (int)sp_process.card.executors; e++) {
        int first = e * SP_LIMIT_BATCH;
        int count = SP_CLAMP(sp_process.in_hand_count - first, 0, SP_LIMIT_BATCH);
        for (int i = 0; i < count; i++)
            sp_process_mark_item(e, i, &sp_process.in_hand[first + i]->submission);
        if (count)
            sp_process_stage(e, SP_STAGE_INFERENCE, 0);
        sp_process_mark_count(e, count);
    }
}

void sp_async_finish(sp_work_item *item)
{
    sp_async_item *entry = (sp_async_item *)(void *)item; /* its first member */
    SP_ASSERT(!entry->finished);
    entry->finished = true;
}

static void async_begin(const sp_submission *submission)
{
    sp_async_item *entry = &sp_process.async_items[submission->slot];
    *entry = (sp_async_item){ .submission = *submission, .begun_ns = sp_clock_now_ns() };
    sp_process.in_hand[sp_process.in_hand_count++] = entry;
    async_mark(); /* before its first byte is looked at */
    sp_process_init(&entry->item, &entry->submission);
    sp_process_prepare(&entry->item);
    if (!entry->item.status)
        entry->item.status = sp_process_batch_fault(&entry->item);
    if (entry->item.status)
        entry->finished = true;
    else
        sp_process.kind->async->start(sp_process.state, &entry->item);
}

static void async_give_back(void)
{
    int kept = 0, given = 0;
    for (int i = 0; i < sp_process.in_hand_count; i++) {
        sp_async_item *entry = sp_process.in_hand[i];
        if (!entry->finished) {
            sp_process.in_hand[kept++] = entry;
            continue;
        }
        if (entry->submission.op == SP_OP_FETCH && !entry->item.status)
            sp_maps_drop_output(&sp_process.maps, entry->submission.slot); /* it is a body now */
        sp_process_complete(&entry->item, entry->begun_ns);
        given++;
    }
    sp_process.in_hand_count = kept;
    if (given)
        sp_process_wake_gateway();
}

static void async_cancel_withdrawn(void)
{
    for (int i = 0; i < sp_process.in_hand_count; i++) {
        sp_async_item *entry = sp_process.in_hand[i];
        if (entry->finished || entry->cancelled || !sp_work_item_cancelled(&entry->item))
            continue;
        entry->cancelled = true;
        sp_process.kind->async->cancel(sp_process.state, &entry->item);
    }
}

static void async_wait(void)
{
    struct pollfd bell = { .fd = sp_process.maps.submit_fd, .events = POLLIN };
    uint64_t rings;
    sp_ring_announce_sleep(&sp_process.maps.page->worker_sleeping);
    int64_t wait_ns = !sp_process_ring_is_empty() ? 0 : sp_process.in_hand_count ? ASYNC_LOOK_NS : -1;
    sp_process.kind->async->drive(sp_process.state, sp_process.maps.submit_fd, wait_ns);
    atomic_store_explicit(&sp_process.maps.page->worker_sleeping, 0, memory_order_relaxed);
    if (poll(&bell, 1, 0) == 1)
        (void)!read(sp_process.maps.submit_fd, &rings, sizeof(rings));
}

static void async_receive(void)
{
    sp_error err = { 0 };
    if (sp_maps_receive(&sp_process.maps, &err) == SP_UNAVAILABLE)
        _exit(0); /* the gateway is gone */
}

void *sp_async_main(void *argument)
{
    sp_executor *self = argument;
    for (;;) {
        sp_process_take_in();
        async_receive(); /* also a configuration that came without a lease */
        sp_process_answer_noops(self);
        for (int i = 0; i < sp_process.waiting_count; i++)
            async_begin(&sp_process.waiting[i]);
        sp_process.waiting_count = 0;
        async_cancel_withdrawn();
        async_give_back();
        async_mark();
        async_wait();
        async_give_back();
    }
    return NULL;
}

sp_status sp_async_open(sp_error *reterr)
{
    if (sp_process.card.window > sp_process.card.executors * SP_LIMIT_BATCH)
        return SP_FAIL(reterr, SP_INTERNAL, "kind %s asks for %u leases, its marks hold %u", sp_process.kind->name,
                       sp_process.card.window, sp_process.card.executors * SP_LIMIT_BATCH);
    sp_process.async_items = calloc(SP_LIMIT_SLOTS, sizeof(*sp_process.async_items));
    if (!sp_process.async_items)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d items", SP_LIMIT_SLOTS);
    sp_process.maps.on_config = sp_process.kind->async->config;
    sp_process.maps.on_config_context = sp_process.state;
    return SP_OK;
}
