/* SPDX-License-Identifier: Apache-2.0
 * Who is next at a device: its own task (classify, device.c), in batches that grow with what waits, a chunk of
 * a video (device_analyze.c), or a served model (hall.h). They share the places to run at and are asked in turns. */
#include "worker/device.h"

#include "base/clock.h"

static int places(const void *state)
{
    const sp_device *dev = state;
    return dev->places;
}

static void add(void *state, sp_work_item *item, int64_t now_ns)
{
    sp_device *dev = state;
    if (item->submission->op == SP_OP_ANALYZE) {
        sp_device_analyze_add(dev, item);
    } else if (item->submission->op != SP_OP_CLASSIFY) {
        sp_hall_add(dev->hall, item, now_ns);
    } else if (!dev->model) {
        item->status = SP_FAIL_CODE(&item->error, SP_UNSUPPORTED, "no_model", "this worker has no picture classifier");
        sp_worker_finish(item);
    } else {
        dev->queue.waiting[dev->queue.waiting_count++] = item;
    }
}

static void forget(sp_device_queue *queue, int index)
{
    queue->waiting_count--;
    for (int i = index; i < queue->waiting_count; i++)
        queue->waiting[i] = queue->waiting[i + 1];
}

static void drop(void *state, sp_work_item *item)
{
    sp_device *dev = state;
    if (item->submission->op == SP_OP_ANALYZE) {
        sp_device_analyze_remove(dev, item);
        return;
    }
    if (item->submission->op != SP_OP_CLASSIFY) {
        sp_hall_remove(dev->hall, item);
        return;
    }
    for (int i = 0; i < dev->queue.waiting_count; i++) {
        if (dev->queue.waiting[i] == item) {
            forget(&dev->queue, i);
            return;
        }
    }
}

/* Lanes of the own task: the narrow session's, else the wide one's only. */
static uint32_t free_lanes(const sp_device *dev)
{
    return ~dev->queue.lanes_busy & ((1u << SP_MAX(dev->plan.lanes, 1)) - 1);
}

/* A suspect runs alone. */
static int take(sp_device_queue *queue, int want, sp_worker_batch *batch)
{
    bool alone = queue->waiting[0]->submission->alone;
    int kept = 0;
    for (int i = 0; i < queue->waiting_count; i++) {
        sp_work_item *item = queue->waiting[i];
        bool fits = batch->count < (alone ? 1 : want) && (batch->count == 0 || !item->submission->alone);
        if (fits)
            batch->items[batch->count++] = item;
        else
            queue->waiting[kept++] = item;
    }
    queue->waiting_count = kept;
    return batch->count;
}

static void next_own(sp_device *dev, int64_t now_ns, sp_worker_batch *batch)
{
    sp_device_queue *queue = &dev->queue;
    uint32_t lanes = free_lanes(dev);
    if (!queue->waiting_count || !lanes)
        return;
    int64_t wait_ns = 0;
    int want = 1;
    if (!queue->waiting[0]->submission->alone)
        want = sp_device_choose(dev, queue->waiting_count, queue->busy, &wait_ns);
    if (wait_ns > 0 && !queue->wait_until_ns)
        queue->wait_until_ns = now_ns + wait_ns;
    if (wait_ns > 0 && now_ns < queue->wait_until_ns) {
        batch->due_ns = SP_MIN(batch->due_ns, queue->wait_until_ns);
        return;
    }
    queue->wait_until_ns = 0;
    int lane = __builtin_ctz(lanes);
    (void)take(queue, SP_CLAMP(want, 1, SP_MIN(dev->plan.batch, SP_LIMIT_BATCH)), batch);
    queue->lanes_busy |= 1u << lane;
    queue->lane_of_batch[lane] = lane;
    batch->own = &queue->lane_of_batch[lane];
    batch->more = (queue->waiting_count && free_lanes(dev)) || sp_hall_waiting(dev->hall) > 0;
}

static void next(void *state, int executor, int64_t now_ns, sp_worker_batch *batch)
{
    sp_device *dev = state;
    (void)executor;
    if (sp_device_analyze_next(dev, now_ns, batch))
        return; /* counted in no load: it leaves most places free */
    for (int turn = 0; turn < 2 && !batch->own; turn++) {
        bool hall = (turn == 0) == dev->queue.hall_turn;
        if (hall)
            sp_hall_next(dev->hall, now_ns, batch);
        else
            next_own(dev, now_ns, batch);
        if (batch->own) {
            dev->queue.hall_turn = !hall;
            dev->queue.busy++;
            batch->more |= hall && dev->queue.waiting_count && free_lanes(dev);
        }
    }
}

static bool is_own(const sp_device *dev, const sp_worker_batch *batch)
{
    const int *own = batch->own;
    return own >= dev->queue.lane_of_batch && own < dev->queue.lane_of_batch + SP_ARRAY_LEN(dev->queue.lane_of_batch);
}

static void run(void *state, int executor, sp_worker_batch *batch)
{
    sp_device *dev = state;
    sp_work_item *items[SP_LIMIT_BATCH];
    int count = 0;
    if (sp_device_analyze_owns(dev, batch)) {
        sp_device_analyze_run(dev, executor, batch);
        return;
    }
    if (!is_own(dev, batch)) {
        sp_hall_run(dev->hall, executor, batch);
        return;
    }
    for (int i = 0; i < batch->count; i++)
        if (!batch->items[i]->status)
            items[count++] = batch->items[i];
    if (count)
        sp_device_classify(dev, executor, *(const int *)batch->own, items, count);
}

static void over(void *state, int executor, sp_worker_batch *batch, int64_t now_ns)
{
    sp_device *dev = state;
    (void)executor;
    if (sp_device_analyze_owns(dev, batch)) {
        sp_device_analyze_over(dev, batch, now_ns);
        return;
    }
    dev->queue.busy--;
    if (!is_own(dev, batch)) {
        sp_hall_over(dev->hall, batch, now_ns);
        return;
    }
    dev->queue.lanes_busy &= ~(1u << *(const int *)batch->own);
    for (int i = 0; i < batch->count; i++)
        sp_worker_finish(batch->items[i]);
}

static void expire(void *state, int64_t now_ns)
{
    sp_hall_expire(((sp_device *)state)->hall, now_ns);
}

static void withdrawn(void *state)
{
    sp_hall_withdrawn(((sp_device *)state)->hall);
}

const sp_worker_queue sp_device_queue_calls = {
    .places = places, .add = add, .remove = drop, .next = next, .run = run, .over = over, .expire = expire,
    .withdrawn = withdrawn
};
