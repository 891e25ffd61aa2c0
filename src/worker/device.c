/* SPDX-License-Identifier: Apache-2.0
 * The device worker ("cpu", "cuda", "tensorrt", "sim"): opening a device, its own task's model if there is one
 * (device_classify.c), and the hall of the models that it serves beside it (hall.h). Who runs when: device_queue.c. */
#include "worker/device.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/machine.h"
#include "task/analyze_cuda.h"
#include "worker/device_fault.h"
#include "worker/kinds.h"
#include "worker/mxcsr.h"
#include "worker/sample.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- opening -------------------------------------------------------------------------------------------------- */

typedef struct opening {
    const sp_worker_config *config;
    const char *provider;
    int index, cpus;
    char engine_key[64];
} opening;

/* Of its own task; what a worker without one leaves as it is. */
static void fill_task(const sp_device *dev, const char *engine_key, sp_worker_card *card)
{
    const sp_device_plan *plan = &dev->plan;
    (void)snprintf(card->model, sizeof(card->model), "%s", dev->model->name);
    (void)snprintf(card->version, sizeof(card->version), "%s", dev->model->version);
    (void)snprintf(card->digest, sizeof(card->digest), "%s", dev->model->digest);
    (void)snprintf(card->precision, sizeof(card->precision), "%s", dev->model->precision);
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

/* Of a GPU's own task: where its nodes are. */
static void tell_placement(const sp_device *dev, sp_worker_card *card)
{
    sp_classifier *c = dev->sessions.wide ? dev->sessions.wide : dev->sessions.narrow;
    size_t length = strlen(card->detail);
    sp_engine_report report;
    if (!c || sp_session_report(sp_classify_session(c), &report, NULL) || !report.run_count)
        return;
    (void)snprintf(card->detail + length, sizeof(card->detail) - length, "; %d nodes, %d on the CPU%s%.60s%s, %.0f %% of a run; %d graphs",
                   report.node_count, report.host_node_count, report.host_node_count ? " (" : "", report.host_nodes,
                   report.host_node_count ? ")" : "", report.host_share * 100, report.graph_count);
}

static void fill_card(const sp_device *dev, const char *kind, const sp_engine_probe_result *probe, const char *engine_key,
                      sp_worker_card *card)
{
    (void)snprintf(card->device, sizeof(card->device), "%s", kind);
    (void)snprintf(card->engine, sizeof(card->engine), "%.15s%s%.15s", dev->no_engine[0] ? "none" : probe->engine,
                   dev->no_engine[0] ? "" : " ", dev->no_engine[0] ? "" : probe->version);
    (void)snprintf(card->sandbox, sizeof(card->sandbox), "none");
    card->max_batch = 1;
    card->executors = (uint32_t)dev->places;
    card->window = (uint32_t)dev->places;
    card->infer_window = SP_LIMIT_SLOTS;
    card->analyze_window = !dev->analyze.lane ? 0 : strcmp(kind, "cpu") == 0 ? 1 : 2; /* a device is not to wait for the next chunk */
    if (dev->model) {
        fill_task(dev, engine_key, card);
        tell_placement(dev, card);
    } else if (dev->no_engine[0]) {
        (void)snprintf(card->detail, sizeof(card->detail), "videos only, no models: %.*s", (int)sizeof(dev->no_engine), dev->no_engine);
    } else {
        (void)snprintf(card->detail, sizeof(card->detail), "no picture classifier: served models only");
    }
    size_t at = strlen(card->detail);
    if (dev->analyze.why_not[0])
        at += (size_t)snprintf(card->detail + at, sizeof(card->detail) - at, "; %.*s", (int)sizeof(dev->analyze.why_not), dev->analyze.why_not);
    at = SP_MIN(at, sizeof(card->detail) - 1);
    (void)snprintf(card->nvjpeg, sizeof(card->nvjpeg), "%s", dev->nvjpeg);
    card->takes_jpeg = dev->model && dev->target.nvjpeg;
    if (dev->cuda_note[0])
        (void)snprintf(card->detail + at, sizeof(card->detail) - at, "; %.*s", (int)sizeof(dev->cuda_note), dev->cuda_note);
}

static void device_close(void *state)
{
    sp_device *dev = state;
    if (!dev)
        return;
    sp_device_analyze_close(dev);
    sp_hall_free(dev->hall);
    sp_device_sessions_close(&dev->sessions);
    sp_model_free(dev->model);
    sp_device_cuda_close(dev);
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
static sp_status plan_simulated(sp_device *dev, int cpus, sp_error *reterr)
{
    sp_device_plan *plan = &dev->plan;
    sp_status s = sp_device_plan_simulated(&dev->target, dev->model, cpus, sp_sim_batch(dev->sim), plan, reterr);
    if (s)
        return s;
    plan->alone_p50_ns = SP_MAX(plan->alone_p50_ns, sp_sim_latency_ns(dev->sim, 1));
    plan->alone_p99_ns = SP_MAX(plan->alone_p99_ns, plan->alone_p50_ns);
    plan->loaded_run_ns = SP_MAX(plan->loaded_run_ns, sp_sim_latency_ns(dev->sim, plan->batch));
    plan->loaded_item_ns = SP_MAX(plan->loaded_run_ns / plan->batch, 1);
    return SP_OK;
}

void sp_device_publish_simulated(sp_device *dev)
{
    sp_device_sample sample = { 0 };
    sp_sim_sample(dev->sim, &sample);
    sp_device_sample_write(&sp_worker_page_now()->samples[0], &sample);
}

static bool is_detector(const char *repository, const char *name)
{
    sp_model *model = NULL;
    bool detector = sp_model_describe(repository, name, &model, NULL) == SP_OK && model->task == SP_MODEL_DETECT;
    sp_model_free(model);
    return detector;
}

/* Which model of the repository the own task is to have: the one that is asked for; else the first that says it is a picture
 * classifier (spillway.json); else the first that is not described as something to be served (config.pbtxt). False: none. */
static bool find_classifier(const char *repository, char *ret_name, size_t size)
{
    sp_model_names *names = malloc(sizeof(*names));
    bool found = false;
    if (names && sp_model_list(repository, names, NULL) == SP_OK) {
        for (int wish = 0; wish < 2 && !found; wish++) {
            for (int i = 0; i < names->count && !found; i++) {
                char described[1024], served[1024];
                (void)snprintf(described, sizeof(described), "%s/%s/spillway.json", repository, names->names[i]);
                (void)snprintf(served, sizeof(served), "%s/%s/config.pbtxt", repository, names->names[i]);
                found = (wish == 0 ? access(described, R_OK) == 0 : access(served, F_OK) != 0) &&
                        !is_detector(repository, names->names[i]);
                if (found)
                    (void)snprintf(ret_name, size, "%s", names->names[i]);
            }
        }
    }
    free(names);
    return found;
}

static bool is_described(const sp_model *model)
{
    return access(model->settings_path, F_OK) == 0;
}

static sp_status plan_own_task(sp_device *dev, const opening *o, sp_error *reterr)
{
    sp_status s = SP_OK;
    if (dev->sim)
        s = sp_sim_load(dev->sim, dev->model->size_bytes, reterr);
    if (s)
        return s;
    if (!sp_device_plan_read(o->config->plan, dev->model->digest, o->engine_key, o->cpus, &dev->plan))
        s = dev->sim ? plan_simulated(dev, o->cpus, reterr)
                     : sp_device_plan_measure(&dev->target, dev->model, o->cpus, &dev->plan, reterr);
    if (!s)
        s = sp_device_sessions_open(&dev->target, dev->model, &dev->plan, &dev->sessions, reterr);
    return s;
}

/* The task of a device worker's own, if the repository has a model for it. One that was asked for, or that says what it is,
 * must load; of any other, that it is no picture classifier only means that it is not this. */
static sp_status open_own_task(sp_device *dev, const opening *o, sp_error *reterr)
{
    char name[SP_LIMIT_MODEL_NAME_BYTES];
    const char *wanted = o->config->model;
    if (!o->config->model_repository && wanted)
        return SP_FAIL(reterr, SP_NOT_FOUND, "worker %s needs a model repository (--model-repository)", o->config->name);
    if (!o->config->model_repository)
        return SP_OK;
    if (!wanted && !find_classifier(o->config->model_repository, name, sizeof(name)))
        return SP_OK;
    sp_status s = sp_model_find(o->config->model_repository, wanted ? wanted : name, &dev->model, reterr);
    if (s)
        return s;
    s = plan_own_task(dev, o, reterr);
    bool about_the_file = s == SP_INVALID || s == SP_CORRUPT || s == SP_UNSUPPORTED || s == SP_TOO_LARGE;
    if (about_the_file && !wanted && !is_described(dev->model)) {
        sp_log(SP_LOG_INFO, "no picture classifier", SP_LOG_TEXT("model", dev->model->name),
               SP_LOG_TEXT("reason", reterr ? reterr->message : ""));
        sp_device_sessions_close(&dev->sessions);
        dev->sessions = (sp_device_sessions){ 0 };
        sp_model_free(dev->model);
        dev->model = NULL;
        dev->plan = (sp_device_plan){ 0 };
        s = SP_OK;
    }
    return s;
}

/* Of all models together, when nobody says how much: what the system, other workers and requests need besides is unknown. */
#define MODEL_MEMORY_PERCENT 40

static sp_status open_hall(sp_device *dev, const opening *o, uint64_t memory_bytes, sp_error *reterr)
{
    dev->places = SP_CLAMP(SP_MAX(dev->plan.lanes + 1, 2 * o->cpus) + 1, 5, SP_LIMIT_EXECUTORS - 1); /* one of them for a video */
    sp_hall_settings settings = { .worker = o->config->name,
                                        .kind = o->config->kind,
                                        .provider = o->provider,
                                        .device_index = o->index,
                                        .cpus = o->cpus,
                                        .places = dev->places,
                                        .memory_bytes = memory_bytes,
                                        .refuse_cpu_nodes = o->config->refuse_cpu_nodes,
                                        .cuda_api = dev->target.cuda_api,
                                        .cuda = dev->target.cuda,
                                        .sim = dev->sim,
                                        .counters = dev->counters };
    if (o->config->data_dir)
        (void)snprintf(settings.cache_directory, sizeof(settings.cache_directory), "%s/engines", o->config->data_dir);
    return sp_hall_new(&settings, &dev->hall, reterr);
}

static sp_status open_engine(sp_device *dev, const char *provider, sp_engine_probe_result *ret_probe, sp_error *reterr)
{
    sp_status s = sp_engine_open(sp_engine_name_at(0), &dev->engine, reterr);
    if (!s)
        s = sp_engine_probe(dev->engine, ret_probe, reterr);
    return s ? s : check_provider(ret_probe, provider, reterr);
}

/* A GPU without an engine for it still analyses videos, which use none: then models are refused, each with that reason. Without
 * our kernels either there is nothing that it could do. */
static sp_status go_on_for_videos(sp_device *dev, const sp_worker_config *config, sp_status status, const sp_error *why, sp_error *reterr)
{
    (void)snprintf(dev->no_engine, sizeof(dev->no_engine), "%.*s", (int)sizeof(dev->no_engine) - 1, why->message);
    if (strcmp(config->kind, "cuda") == 0 && sp_device_cuda_open(dev, config->kind, 0, NULL) == SP_OK && dev->target.cuda &&
        sp_analyze_cuda_check(dev->target.cuda_api, NULL) == SP_OK) {
        sp_log(SP_LOG_WARN, "a GPU for videos only", SP_LOG_TEXT("worker", config->name), SP_LOG_TEXT("reason", why->message));
        return SP_OK;
    }
    if (reterr)
        *reterr = *why;
    return status;
}

static sp_status open_device(sp_device *dev, const sp_worker_config *config, sp_worker_card *card, sp_error *reterr)
{
    sp_engine_probe_result probe = { 0 };
    sp_machine machine;
    sp_error why = { 0 };
    opening o = { .config = config };
    bool simulated = strcmp(config->kind, "sim") == 0;
    o.provider = simulated ? "cpu" : config->kind;
    sp_status s = open_engine(dev, o.provider, &probe, &why);
    dev->target = (sp_device_target){ .engine = dev->engine, .provider = o.provider, .index = 0,
                                      .refuse_cpu_nodes = config->refuse_cpu_nodes };
    dev->counters = &sp_worker_page_now()->counters;
    if (s)
        s = go_on_for_videos(dev, config, s, &why, reterr);
    else
        s = sp_device_cuda_open(dev, config->kind, 0, reterr);
    if (!s && simulated)
        s = sp_sim_new(getenv("SPILLWAY_SIM"), config->name, &dev->sim, reterr);
    if (s)
        return s;
    sp_machine_read(&machine);
    o.cpus = machine.cpu_count;
    o.index = 0; /* of those that this process sees: worker/visible.h */
    if (config->nvjpeg && (strcmp(config->kind, "cuda") == 0 || strcmp(config->kind, "tensorrt") == 0))
        sp_device_cuda_open_nvjpeg(dev);
    (void)snprintf(o.engine_key, sizeof(o.engine_key), "%s%s-%s-%s", dev->target.cuda ? "+" : "", probe.engine, probe.version,
                   config->kind); /* a plan of lanes on the device suits none without */
    if (!dev->no_engine[0])
        s = open_own_task(dev, &o, reterr);
    uint64_t memory_bytes = machine.memory_limit_bytes / 100 * MODEL_MEMORY_PERCENT;
    if (!s)
        s = open_hall(dev, &o, config->model_memory_bytes ? config->model_memory_bytes : memory_bytes, reterr);
    if (!s)
        s = sp_device_analyze_open(dev, config, o.cpus, machine.memory_limit_bytes, reterr);
    if (s)
        return s;
    if (simulated)
        sp_device_publish_simulated(dev);
    (void)malloc_trim(0); /* best effort: loading leaves holes, 40 MB of 125 with the default model */
    sp_batch_limit_init(&dev->batch_limit, SP_MAX(dev->plan.batch, 1));
    atomic_store_explicit(&dev->counters->batch_limit, (uint32_t)dev->plan.batch, memory_order_relaxed);
    atomic_init(&dev->alone_ns[1], dev->plan.alone_p50_ns);
    atomic_init(&dev->alone_ns[0], dev->plan.one_p50_ns);
    fill_card(dev, config->kind, &probe, o.engine_key, card);
    return SP_OK;
}

static sp_status device_open(const sp_worker_config *config, sp_worker_card *card, void **ret_state, sp_error *reterr)
{
    sp_device *dev = calloc(1, sizeof(*dev));
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

/* --- the kind ------------------------------------------------------------------------------------------------- */

static int device_choose(void *state, int waiting, int busy, int64_t *ret_wait_ns)
{
    return sp_device_choose(state, waiting, busy, ret_wait_ns);
}

static void device_run(void *state, int executor, sp_work_item *items, int count)
{
    sp_work_item *pointers[SP_LIMIT_BATCH];
    for (int i = 0; i < count; i++)
        pointers[i] = &items[i];
    sp_device_classify(state, executor, executor, pointers, count);
}

static bool device_mapped(void *state, void *memory, size_t bytes)
{
    return sp_device_cuda_mapped(state, memory, bytes);
}

static void device_unmapped(void *state, void *memory)
{
    sp_device_cuda_unmapped(state, memory);
}

const sp_worker_kind sp_worker_kind_device = {
    .name = "cpu", .queue = &sp_device_queue_calls, .open = device_open, .run = device_run, .choose = device_choose,
    .close = device_close, .mapped = device_mapped, .unmapped = device_unmapped
};
