/* SPDX-License-Identifier: Apache-2.0
 * The device worker's own task: pictures or tensors in, classes out. Which session takes a batch, items that are bad before
 * the run, runs that fail, and the answer's form. What a classification is, is the task's (task/classify.h); how the cores
 * are used, the plan's (device_plan.h); how large a batch may be after memory ran out, batch_limit.h's. */
#include "worker/device.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "worker/mxcsr.h"

#include <stdio.h>
#include <string.h>

/* One run in so many that are alone goes the other way: 3 % of them, and a change is noticed within a few seconds. */
#define ALONE_TRY_EVERY 32

/* Before a decoder on the device counts as hung. Its host part reads every byte of the file. */
#define JPEG_BUDGET_NS_PER_BYTE 1000

/* One executor's batch on its way through a session. */
typedef struct batch {
    sp_device *dev;
    int executor;
    sp_classifier *classifier;
    int lane;
    sp_work_item *items[SP_LIMIT_BATCH]; /* in the order of the lane's inputs */
    int count;
    bool alone;
    const void *in_place; /* the only item's tensor where an earlier link left it; NULL = the lane's inputs */
    int64_t deadline_ns;  /* the earliest */
    bool no_room;         /* not even one item fitted: nothing more is tried */
    sp_error no_room_error;
} batch;

/* Set by choose() for the run that follows on the same thread. */
static __thread bool run_is_alone;

/* --- choosing ------------------------------------------------------------------------------------------------- */

/* Called under the loop's lead. A request counts as alone when nothing else is in the house and little was lately:
 * between two of a burst the house looks empty for a moment, and a wide run then would fight the next narrow one. */
int sp_device_choose(sp_device *dev, int waiting, int busy, int64_t *ret_wait_ns)
{
    int here = waiting + busy;
    dev->load_x8 += here - (dev->load_x8 + 4) / 8; /* rounded: cut off, it would stay at 15 after a burst for ever */
    run_is_alone = here == 1 && dev->load_x8 < 12;
    int limit = sp_batch_limit_now(&dev->batch_limit);
    *ret_wait_ns = 0;
    /* A batch that is sure to fill is worth a short wait: never more than an eighth of what running it takes. */
    if (limit > 1 && waiting < limit && dev->load_x8 / 8 > waiting)
        *ret_wait_ns = SP_MIN(dev->plan.loaded_run_ns / 8, 2 * SP_NS_PER_MS);
    return SP_MIN(waiting, limit);
}

/* For a run that is alone: the wide session or one thread, whichever was faster lately. The other one is tried now and
 * then, because neighbours on the machine come and go. */
static bool prefers_wide(sp_device *dev)
{
    int64_t wide_ns = atomic_load_explicit(&dev->alone_ns[1], memory_order_relaxed);
    int64_t one_ns = atomic_load_explicit(&dev->alone_ns[0], memory_order_relaxed);
    bool wide = !one_ns || wide_ns <= one_ns;
    bool try_other =
        atomic_fetch_add_explicit(&dev->alone_turns, 1, memory_order_relaxed) % ALONE_TRY_EVERY == ALONE_TRY_EVERY - 1;
    return one_ns && try_other ? !wide : wide;
}

static void learn_alone(const batch *b, int64_t took_ns)
{
    _Atomic int64_t *average = &b->dev->alone_ns[b->classifier == b->dev->sessions.wide];
    int64_t old_ns = atomic_load_explicit(average, memory_order_relaxed);
    atomic_store_explicit(average, old_ns + (took_ns - old_ns) / 8, memory_order_relaxed);
}

/* The session for this batch: a narrow lane, unless it is alone and the wide one is free and faster. */
static void pick_session(batch *b, int lane, int item_count)
{
    sp_device *dev = b->dev;
    b->alone = run_is_alone && item_count == 1 && dev->sessions.wide && dev->sessions.narrow;
    bool wide = !dev->sessions.narrow || (b->alone && prefers_wide(dev) && !atomic_exchange(&dev->wide_busy, true));
    b->classifier = wide ? dev->sessions.wide : dev->sessions.narrow;
    b->lane = wide ? 0 : lane;
}

static void leave_session(const batch *b)
{
    if (b->classifier == b->dev->sessions.wide)
        atomic_store(&b->dev->wide_busy, false);
}

/* --- running -------------------------------------------------------------------------------------------------- */

static void fail_item(sp_work_item *item, sp_status status, const sp_error *err)
{
    item->status = status;
    item->error = *err;
}

/* The device itself failed, not the batch: no smaller one helps, no later one will run. */
static void device_lost(sp_error *err)
{
    if (!err->code[0])
        (void)snprintf(err->code, sizeof(err->code), "sticky");
    sp_worker_end_after_batch(err);
}

/* A file as it was sent, where no link was before. Its time is the host's part; the device's is in that of the run. */
static sp_status take_jpeg(batch *b, sp_work_item *item)
{
    int64_t begun_ns = sp_clock_now_ns();
    sp_worker_stage(b->executor, SP_STAGE_DECODE, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS +
                                                      (int64_t)item->body.size_bytes * JPEG_BUDGET_NS_PER_BYTE);
    sp_status s = sp_classify_put_jpeg(b->classifier, b->lane, b->count, item->body, &item->error);
    sp_worker_stage(b->executor, SP_STAGE_PREPROCESS, 0);
    item->done.decode_ns = sp_clock_now_ns() - begun_ns;
    return s;
}

/* Pixels or a tensor of an earlier link into the batch's next input; false = the item has its status. */
static bool take_item(batch *b, sp_work_item *item, bool only)
{
    const sp_submission *sub = item->submission;
    const sp_prep_spec *prep = &b->dev->model->prep;
    size_t tensor_bytes = sp_classify_tensor_bytes(b->classifier);
    sp_error *err = &item->error;
    int64_t begun_ns = sp_clock_now_ns();
    if (sp_work_item_cancelled(item)) {
        item->status = SP_FAIL(err, SP_CANCELLED, "the request was withdrawn");
    } else if (sub->op != SP_OP_CLASSIFY) {
        item->status = SP_FAIL(err, SP_UNSUPPORTED, "a device worker cannot do operation %u", sub->op);
    } else if (sub->output_kind == SP_OUTPUT_TENSOR) {
        if (item->input.size_bytes != tensor_bytes || memcmp(&item->request->prep, prep, sizeof(*prep)) != 0)
            item->status = SP_FAIL(err, SP_UNSUPPORTED, "a tensor of %zu bytes, made for another model than %s",
                                   item->input.size_bytes, b->dev->model->name);
        else if (only && !sp_classify_on_device(b->classifier))
            b->in_place = item->input.data;
        else
            item->status = sp_classify_put_tensor(b->classifier, b->lane, b->count, item->input.data, item->input_pinned, err);
    } else if (sub->output_kind == SP_OUTPUT_RGB8) {
        if (sub->image_w < 1 || sub->image_h < 1 || sub->image_w > SP_LIMIT_IMAGE_SIDE ||
            sub->image_h > SP_LIMIT_IMAGE_SIDE ||
            (uint64_t)sub->image_w * (uint64_t)sub->image_h * 3 > item->input.size_bytes)
            item->status = SP_FAIL(err, SP_UNSUPPORTED, "a picture of %dx%d in %zu bytes", sub->image_w, sub->image_h,
                                   item->input.size_bytes);
        else
            item->status = sp_classify_put_picture(b->classifier, b->lane, b->count, item->input.data, sub->image_w,
                                                   sub->image_h, item->input_pinned, err);
    } else if (sub->output_kind == SP_OUTPUT_NONE && item->request->flags & SP_SLOT_DECODE_NVJPEG) {
        item->status = take_jpeg(b, item);
    } else {
        item->status = SP_FAIL(err, SP_UNSUPPORTED, "nothing was decoded for this request");
    }
    if (item->status == SP_UNAVAILABLE)
        device_lost(err);
    if (item->status)
        return false;
    item->done.preprocess_ns = sp_clock_now_ns() - begun_ns - item->done.decode_ns;
    b->items[b->count++] = item;
    if (sub->attempt_deadline_ns && (!b->deadline_ns || sub->attempt_deadline_ns < b->deadline_ns))
        b->deadline_ns = sub->attempt_deadline_ns;
    return true;
}

static int top_k_of(const sp_work_item *item)
{
    return item->request->top_k ? (int)SP_MIN(item->request->top_k, SP_LIMIT_TOP_K) : 5;
}

static void answer_item(batch *b, int index, sp_work_item *item)
{
    sp_class_score scores[SP_LIMIT_TOP_K];
    int count = 0;
    int64_t begun_ns = sp_clock_now_ns();
    item->status = sp_classify_answer(b->classifier, b->lane, index, top_k_of(item), scores, &count, &item->error);
    if (item->status)
        return;
    sp_answer_classes *answer = (sp_answer_classes *)(void *)item->answer; /* page-aligned array of 72 KiB answers */
    count = SP_MIN(count, (int)SP_ARRAY_LEN(answer->classes));
    bool wrong = SP_FAULT("device.answer") == SP_FAULT_FAIL; /* by 1 %: what the route's guard must notice */
    answer->count = (uint32_t)count;
    answer->reserved = 0;
    for (int i = 0; i < count; i++) {
        sp_answer_class *class = &answer->classes[i];
        class->class_id = scores[i].class_id;
        class->probability = wrong ? scores[i].probability * 1.01f : scores[i].probability;
        (void)snprintf(class->label, sizeof(class->label), "%s", sp_model_label(b->dev->model, scores[i].class_id));
    }
    item->done.answer_bytes =
        (uint32_t)(offsetof(sp_answer_classes, classes) + (size_t)count * sizeof(sp_answer_class));
    item->done.postprocess_ns = sp_clock_now_ns() - begun_ns;
}

/* How long a run of `count` items may take before the watchdog asks: ten times the slowest that was measured. */
static int64_t budget_of(const sp_device *dev, int count)
{
    int64_t slowest_ns =
        SP_MAX(dev->plan.alone_p99_ns * count, dev->plan.loaded_run_ns * SP_MAX(count / dev->plan.batch, 1));
    return SP_MAX(10 * slowest_ns, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS);
}

static sp_status compute_here(batch *b, int first, int count, sp_error *reterr)
{
    int top_k = 1;
    for (int i = first; i < first + count; i++)
        top_k = SP_MAX(top_k, top_k_of(b->items[i]));
    return b->in_place ? sp_classify_run(b->classifier, b->lane, b->in_place, count, reterr)
                       : sp_classify_run_items(b->classifier, b->lane, first, count, top_k, reterr);
}

static sp_status compute(batch *b, int first, int count, sp_error *reterr)
{
    sp_sim *sim = b->dev->sim;
    sp_sim_run run;
    if (SP_LIKELY(!sim))
        return compute_here(b, first, count, reterr);
    sp_status s = sp_sim_begin(sim, count, &run, reterr);
    sp_device_publish_simulated(b->dev);
    if (!s)
        s = compute_here(b, first, count, reterr);
    if (!s)
        sp_sim_end(sim, &run);
    return s;
}

/* Items first .. first + count - 1 of the batch: run, answer. */
static sp_status run_range(batch *b, int first, int count, sp_error *reterr)
{
    sp_worker_stage(b->executor, SP_STAGE_INFERENCE, budget_of(b->dev, count));
    int64_t begun_ns = sp_clock_now_ns();
    sp_status s = compute(b, first, count, reterr);
    int64_t took_ns = sp_clock_now_ns() - begun_ns;
    sp_mxcsr_repair(b->dev->mxcsr_repaired);
    if (s)
        return s;
    if (b->alone)
        learn_alone(b, took_ns);
    sp_worker_stage(b->executor, SP_STAGE_POSTPROCESS, 0);
    for (int i = 0; i < count; i++) {
        sp_work_item *item = b->items[first + i];
        item->done.inference_ns = item->done.batch_run_ns = took_ns;
        item->done.batch_size = (uint32_t)count;
        answer_item(b, i, item);
    }
    return SP_OK;
}

static void publish_limit(sp_device *dev)
{
    atomic_store_explicit(&dev->counters->batch_limit, (uint32_t)sp_batch_limit_now(&dev->batch_limit),
                          memory_order_relaxed);
}

/* A run of `count` did not fit. True: a served model made room, the same is tried again; else only the batch can be made
 * smaller. */
static bool out_of_memory(batch *b, int count, sp_error *err)
{
    sp_device *dev = b->dev;
    if (!err->code[0])
        (void)snprintf(err->code, sizeof(err->code), "oom");
    atomic_fetch_add_explicit(&dev->counters->oom_runs, 1, memory_order_relaxed);
    if (sp_hall_put_one_aside(dev->hall, NULL))
        return true;
    if (count > 1) {
        if (sp_batch_limit_failed(&dev->batch_limit, count, sp_clock_now_ns()))
            sp_log(SP_LOG_WARN, "device memory is short: smaller batches", SP_LOG_INT("items", count),
                   SP_LOG_INT("now", sp_batch_limit_now(&dev->batch_limit)), SP_LOG_TEXT("reason", err->message));
        publish_limit(dev);
        return false;
    }
    atomic_fetch_add_explicit(&dev->counters->oom_alone, 1, memory_order_relaxed);
    b->no_room = true; /* items are of one size: what does not fit alone is no use trying on the others */
    b->no_room_error = *err;
    return false;
}

static void fail_range(batch *b, int first, int count, sp_status status, const sp_error *err)
{
    for (int i = first; i < first + count; i++)
        fail_item(b->items[i], status, err);
}

/* Runs the whole batch; when that fails, its halves, down to singles: only what fails alone fails. Depth is log2 of a
 * batch. Past the earliest deadline nothing more is tried, what has no answer gets the last reason. */
static void run_bisecting(batch *b, int first, int count)
{
    sp_error err = { 0 };
    if (b->no_room) {
        fail_range(b, first, count, SP_NOMEM, &b->no_room_error);
        return;
    }
    sp_status s = run_range(b, first, count, &err);
    while (s == SP_NOMEM && out_of_memory(b, count, &err)) {
        err = (sp_error){ 0 };
        s = run_range(b, first, count, &err);
    }
    if (!s) {
        if (sp_batch_limit_fitted(&b->dev->batch_limit, count, sp_clock_now_ns()))
            publish_limit(b->dev);
        return;
    }
    if (s == SP_UNAVAILABLE)
        device_lost(&err);
    bool late = b->deadline_ns && sp_clock_now_ns() > b->deadline_ns;
    if (count == 1 || late || s == SP_UNAVAILABLE) {
        fail_range(b, first, count, s, &err);
        return;
    }
    run_bisecting(b, first, count / 2);
    run_bisecting(b, first + count / 2, count - count / 2);
}

void sp_device_classify(sp_device *dev, int executor, int lane, sp_work_item **items, int count)
{
    batch b = { .dev = dev, .executor = executor };
    pick_session(&b, lane, count);
    sp_worker_stage(executor, SP_STAGE_PREPROCESS, 0);
    for (int i = 0; i < count; i++)
        (void)take_item(&b, items[i], count == 1); /* a bad item has its status and drops out before the batch forms */
    if (b.count)
        run_bisecting(&b, 0, b.count);
    leave_session(&b);
    sp_device_cuda_publish(dev);
    run_is_alone = false;
}
