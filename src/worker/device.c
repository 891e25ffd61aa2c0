/* SPDX-License-Identifier: Apache-2.0
 * The device worker: one model on one device ("cpu", "cuda", "sim"), pictures or tensors in, classes out. How it uses
 * the cores is its plan's business (device_plan.h); what a classification is, the task's (task/classify.h); how large a
 * batch may be after memory ran out, batch_limit.h's. Here: which session takes a batch, items that are bad before the
 * run, runs that fail, and the answer's form. */
#include "worker/kinds.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/metrics.h"
#include "task/classify.h"
#include "worker/batch_limit.h"
#include "worker/device_fault.h"
#include "worker/device_plan.h"
#include "worker/sample.h"
#include "worker/sim.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define MXCSR_FLUSH 0x8040u /* flush to zero, denormals are zero */
#endif

/* One run in so many that are alone goes the other way: 3 % of them, and a change is noticed within a few seconds. */
#define ALONE_TRY_EVERY 32

typedef struct device {
    const sp_engine *engine;
    sp_model *model;
    sp_device_plan plan;
    sp_device_sessions sessions;
    sp_sim *sim; /* NULL = a real device */
    sp_metric *mxcsr_repaired;
    atomic_bool wide_busy;
    _Atomic int64_t alone_ns[2]; /* averages of runs that were alone: [1] on the wide session, [0] on one thread */
    atomic_uint alone_turns;
    sp_batch_limit batch_limit;
    sp_device_counters *counters;
    int load_x8;            /* in-flight requests seen by choose(), an average; the loop's lead guards it */
} device;

/* One executor's batch on its way through a session. */
typedef struct batch {
    device *dev;
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

/* --- opening -------------------------------------------------------------------------------------------------- */

static int device_index_of(const char *name)
{
    size_t digits = strlen(name);
    while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9')
        digits--;
    return (int)strtol(name + digits, NULL, 10);
}

static void fill_card(const device *dev, const char *kind, const sp_engine_probe_result *probe, const char *engine_key,
                      sp_worker_card *card)
{
    const sp_device_plan *plan = &dev->plan;
    (void)snprintf(card->device, sizeof(card->device), "%s", kind);
    (void)snprintf(card->model, sizeof(card->model), "%s", dev->model->name);
    (void)snprintf(card->version, sizeof(card->version), "%s", dev->model->version);
    (void)snprintf(card->digest, sizeof(card->digest), "%s", dev->model->digest);
    (void)snprintf(card->precision, sizeof(card->precision), "%s", dev->model->precision);
    (void)snprintf(card->engine, sizeof(card->engine), "%.15s %.15s", probe->engine, probe->version);
    (void)snprintf(card->sandbox, sizeof(card->sandbox), "none");
    card->class_count = dev->model->class_count;
    card->max_batch = (uint32_t)plan->batch;
    card->executors = (uint32_t)SP_MAX(plan->lanes, 1);
    card->window = (uint32_t)SP_MIN((int)card->executors * plan->batch * 2, SP_LIMIT_SLOTS);
    card->p50_ns = plan->alone_p50_ns;
    card->p99_ns = plan->alone_p99_ns;
    card->prep = dev->model->prep;
    sp_device_plan_write(plan, dev->model->digest, engine_key, card->plan, sizeof(card->plan));
    (void)snprintf(
        card->detail, sizeof(card->detail),
        "alone: %d thread%s%s, %.2f ms (one thread: %.2f ms); loaded: %d at once, %d thread%s each, batches of %d, "
        "%.2f ms an item; measured in %.2f s",
        plan->wide_threads, plan->wide_threads > 1 ? "s" : "", plan->wide_spin ? " (spinning)" : "",
        (double)plan->alone_p50_ns / 1e6, (double)plan->one_p50_ns / 1e6, SP_MAX(plan->lanes, 1),
        plan->lanes ? 1 : plan->wide_threads, plan->lanes || plan->wide_threads == 1 ? "" : "s", plan->batch,
        (double)plan->loaded_item_ns / 1e6, (double)plan->measured_ns / 1e9);
}

static void device_close(void *state)
{
    device *dev = state;
    if (!dev)
        return;
    sp_device_sessions_close(&dev->sessions);
    sp_model_free(dev->model);
    sp_sim_free(dev->sim);
    free(dev);
}

/* The provider's own reason is better than what loading would say. */
static sp_status check_provider(const sp_engine_probe_result *probe, const char *kind, sp_error *reterr)
{
    for (int i = 0; i < probe->provider_count; i++) {
        const sp_engine_provider *provider = &probe->providers[i];
        if (strcmp(provider->name, kind) != 0)
            continue;
        if (provider->present)
            return SP_OK;
        const char *code = sp_device_code_of(provider->reason);
        const char *remedy = provider->remedy[0] ? provider->remedy : sp_device_remedy(code);
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, code, "%s: %.120s%s%.100s", kind, provider->reason,
                            remedy[0] ? "; " : "", remedy);
    }
    return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_device", "engine %s has no provider '%s'", probe->engine, kind);
}

/* The simulated device's own: is it there, does the model fit, how long does a run take. */
static sp_status plan_simulated(device *dev, int cpus, sp_error *reterr)
{
    sp_device_plan *plan = &dev->plan;
    sp_status s = sp_device_plan_simulated(dev->engine, dev->model, cpus, sp_sim_batch(dev->sim), plan, reterr);
    if (s)
        return s;
    plan->alone_p50_ns = SP_MAX(plan->alone_p50_ns, sp_sim_latency_ns(dev->sim, 1));
    plan->alone_p99_ns = SP_MAX(plan->alone_p99_ns, plan->alone_p50_ns);
    plan->loaded_run_ns = SP_MAX(plan->loaded_run_ns, sp_sim_latency_ns(dev->sim, plan->batch));
    plan->loaded_item_ns = SP_MAX(plan->loaded_run_ns / plan->batch, 1);
    return SP_OK;
}

static void publish_simulated(device *dev)
{
    sp_device_sample sample = { 0 };
    sp_sim_sample(dev->sim, &sample);
    sp_device_sample_write(&sp_worker_page_now()->samples[0], &sample);
}

static sp_status open_device(device *dev, const sp_worker_config *config, sp_worker_card *card, sp_error *reterr)
{
    sp_engine_probe_result probe;
    sp_machine machine;
    char engine_key[64];
    sp_status s = sp_engine_open(sp_engine_name_at(0), &dev->engine, reterr);
    if (!s)
        s = sp_engine_probe(dev->engine, &probe, reterr);
    bool simulated = strcmp(config->kind, "sim") == 0;
    const char *provider = simulated ? "cpu" : config->kind;
    if (!s)
        s = check_provider(&probe, provider, reterr);
    if (!s && simulated)
        s = sp_sim_new(getenv("SPILLWAY_SIM"), config->name, &dev->sim, reterr);
    if (!s && !config->model_repository)
        s = SP_FAIL(reterr, SP_NOT_FOUND, "worker %s needs a model repository (--model-repository)", config->name);
    if (!s)
        s = sp_model_find(config->model_repository, config->model, &dev->model, reterr);
    if (!s && simulated)
        s = sp_sim_load(dev->sim, dev->model->size_bytes, reterr);
    if (s)
        return s;
    sp_machine_read(&machine);
    (void)snprintf(engine_key, sizeof(engine_key), "%s-%s-%s", probe.engine, probe.version, config->kind);
    int index = strcmp(provider, "cpu") == 0 ? 0 : device_index_of(config->name);
    if (!sp_device_plan_read(config->plan, dev->model->digest, engine_key, machine.cpu_count, &dev->plan))
        s = simulated ? plan_simulated(dev, machine.cpu_count, reterr)
                      : sp_device_plan_measure(dev->engine, dev->model, provider, index, machine.cpu_count, &dev->plan, reterr);
    if (!s)
        s = sp_device_sessions_open(dev->engine, dev->model, provider, index, &dev->plan, &dev->sessions, reterr);
    if (s)
        return s;
    dev->counters = &sp_worker_page_now()->counters;
    if (simulated)
        publish_simulated(dev);
    (void)malloc_trim(0); /* best effort: loading leaves holes, 40 MB of 125 with the default model */
    sp_batch_limit_init(&dev->batch_limit, dev->plan.batch);
    atomic_store_explicit(&dev->counters->batch_limit, (uint32_t)dev->plan.batch, memory_order_relaxed);
    atomic_init(&dev->alone_ns[1], dev->plan.alone_p50_ns);
    atomic_init(&dev->alone_ns[0], dev->plan.one_p50_ns);
    fill_card(dev, config->kind, &probe, engine_key, card);
    return SP_OK;
}

static sp_status device_open(const sp_worker_config *config, sp_worker_card *card, void **ret_state, sp_error *reterr)
{
    device *dev = calloc(1, sizeof(*dev));
    if (!dev)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a device");
    dev->load_x8 = 8;
    dev->mxcsr_repaired = sp_metric_get(SP_METRIC_COUNTER, "spillway_mxcsr_repaired_total", "",
                                        "Times an engine left denormals flushed on the thread that called it");
    sp_status s = open_device(dev, config, card, reterr);
    if (s)
        device_close(dev);
    else
        *ret_state = dev;
    return s;
}

/* --- choosing ------------------------------------------------------------------------------------------------- */

/* Called under the loop's lead. A request counts as alone when nothing else is in the house and little was lately:
 * between two of a burst the house looks empty for a moment, and a wide run then would fight the next narrow one. */
static int device_choose(void *state, int waiting, int busy_executors, int64_t *ret_wait_ns)
{
    device *dev = state;
    int here = waiting + busy_executors;
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
static bool prefers_wide(device *dev)
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
static void pick_session(batch *b, int item_count)
{
    device *dev = b->dev;
    b->alone = run_is_alone && item_count == 1 && dev->sessions.wide && dev->sessions.narrow;
    bool wide = !dev->sessions.narrow || (b->alone && prefers_wide(dev) && !atomic_exchange(&dev->wide_busy, true));
    b->classifier = wide ? dev->sessions.wide : dev->sessions.narrow;
    b->lane = wide ? 0 : b->executor;
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
        else if (only)
            b->in_place = item->input.data;
        else
            memcpy(sp_classify_input(b->classifier, b->lane, b->count), item->input.data, tensor_bytes);
    } else if (sub->output_kind == SP_OUTPUT_RGB8) {
        if (sub->image_w < 1 || sub->image_h < 1 || sub->image_w > SP_LIMIT_IMAGE_SIDE ||
            sub->image_h > SP_LIMIT_IMAGE_SIDE ||
            (uint64_t)sub->image_w * (uint64_t)sub->image_h * 3 > item->input.size_bytes)
            item->status = SP_FAIL(err, SP_UNSUPPORTED, "a picture of %dx%d in %zu bytes", sub->image_w, sub->image_h,
                                   item->input.size_bytes);
        else
            item->status = sp_classify_prepare(b->classifier, b->lane, b->count, item->input.data, sub->image_w,
                                               sub->image_h, err);
    } else {
        item->status = SP_FAIL(err, SP_UNSUPPORTED, "nothing was decoded for this request");
    }
    if (item->status)
        return false;
    item->done.preprocess_ns = sp_clock_now_ns() - begun_ns;
    b->items[b->count++] = item;
    if (sub->attempt_deadline_ns && (!b->deadline_ns || sub->attempt_deadline_ns < b->deadline_ns))
        b->deadline_ns = sub->attempt_deadline_ns;
    return true;
}

/* ONNX Runtime may leave FTZ and DAZ on; our kernels promise the same bits on every thread. */
static void repair_mxcsr(const device *dev)
{
#if defined(__x86_64__)
    unsigned state = _mm_getcsr();
    if (SP_UNLIKELY(state & MXCSR_FLUSH)) {
        _mm_setcsr(state & ~MXCSR_FLUSH);
        sp_metric_add(dev->mxcsr_repaired, 1);
    }
#endif
}

static void answer_item(batch *b, int index, sp_work_item *item)
{
    sp_class_score scores[SP_LIMIT_TOP_K];
    int count = 0;
    int64_t begun_ns = sp_clock_now_ns();
    int top_k = item->request->top_k ? (int)SP_MIN(item->request->top_k, SP_LIMIT_TOP_K) : 5;
    item->status = sp_classify_answer(b->classifier, b->lane, index, top_k, scores, &count, &item->error);
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
static int64_t budget_of(const device *dev, int count)
{
    int64_t slowest_ns =
        SP_MAX(dev->plan.alone_p99_ns * count, dev->plan.loaded_run_ns * SP_MAX(count / dev->plan.batch, 1));
    return SP_MAX(10 * slowest_ns, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS);
}

static sp_status compute(batch *b, const void *input, int count, sp_error *reterr)
{
    sp_sim *sim = b->dev->sim;
    sp_sim_run run;
    if (SP_LIKELY(!sim))
        return sp_classify_run(b->classifier, b->lane, input, count, reterr);
    sp_status s = sp_sim_begin(sim, count, &run, reterr);
    publish_simulated(b->dev);
    if (!s)
        s = sp_classify_run(b->classifier, b->lane, input, count, reterr);
    if (!s)
        sp_sim_end(sim, &run);
    return s;
}

/* Items first .. first + count - 1 of the batch: run, answer. */
static sp_status run_range(batch *b, int first, int count, sp_error *reterr)
{
    const void *input = b->in_place ? b->in_place : sp_classify_input(b->classifier, b->lane, first);
    sp_worker_stage(b->executor, SP_STAGE_INFERENCE, budget_of(b->dev, count));
    int64_t begun_ns = sp_clock_now_ns();
    sp_status s = compute(b, input, count, reterr);
    int64_t took_ns = sp_clock_now_ns() - begun_ns;
    repair_mxcsr(b->dev);
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

static void publish_limit(device *dev)
{
    atomic_store_explicit(&dev->counters->batch_limit, (uint32_t)sp_batch_limit_now(&dev->batch_limit),
                          memory_order_relaxed);
}

/* A run of `count` did not fit. Other models on the device would be unloaded here, least recently used first; a device
 * worker holds one model (docs/known-limits.md), so there is nothing but the batch to make smaller. */
static void out_of_memory(batch *b, int count, sp_error *err)
{
    device *dev = b->dev;
    if (!err->code[0])
        (void)snprintf(err->code, sizeof(err->code), "oom");
    atomic_fetch_add_explicit(&dev->counters->oom_runs, 1, memory_order_relaxed);
    if (count > 1) {
        if (sp_batch_limit_failed(&dev->batch_limit, count, sp_clock_now_ns()))
            sp_log(SP_LOG_WARN, "device memory is short: smaller batches", SP_LOG_INT("items", count),
                   SP_LOG_INT("now", sp_batch_limit_now(&dev->batch_limit)), SP_LOG_TEXT("reason", err->message));
        publish_limit(dev);
        return;
    }
    atomic_fetch_add_explicit(&dev->counters->oom_alone, 1, memory_order_relaxed);
    b->no_room = true; /* items are of one size: what does not fit alone is no use trying on the others */
    b->no_room_error = *err;
}

/* The device itself failed, not the batch: no smaller one helps, no later one will run. */
static void device_lost(const batch *b, sp_error *err)
{
    if (!err->code[0])
        (void)snprintf(err->code, sizeof(err->code), "sticky");
    sp_worker_end_after_batch(err);
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
    if (!s) {
        if (sp_batch_limit_fitted(&b->dev->batch_limit, count, sp_clock_now_ns()))
            publish_limit(b->dev);
        return;
    }
    if (s == SP_NOMEM)
        out_of_memory(b, count, &err);
    else if (s == SP_UNAVAILABLE)
        device_lost(b, &err);
    bool late = b->deadline_ns && sp_clock_now_ns() > b->deadline_ns;
    if (count == 1 || late || s == SP_UNAVAILABLE) {
        fail_range(b, first, count, s, &err);
        return;
    }
    run_bisecting(b, first, count / 2);
    run_bisecting(b, first + count / 2, count - count / 2);
}

static void device_run(void *state, int executor, sp_work_item *items, int count)
{
    batch b = { .dev = state, .executor = executor };
    pick_session(&b, count);
    sp_worker_stage(executor, SP_STAGE_PREPROCESS, 0);
    for (int i = 0; i < count; i++)
        (void)take_item(&b, &items[i], count == 1); /* a bad item has its status and drops out before the batch forms */
    if (b.count)
        run_bisecting(&b, 0, b.count);
    leave_session(&b);
    run_is_alone = false;
}

const sp_worker_kind sp_worker_kind_device = {
    .name = "cpu", .open = device_open, .run = device_run, .choose = device_choose, .close = device_close
};
