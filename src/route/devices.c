/* SPDX-License-Identifier: Apache-2.0
 * Samples and counters, taken out of the workers' pages. */
#include "route/devices.h"

#include "base/clock.h"
#include "base/log.h"
#include "route/supervisor.h"
#include "worker/device_fault.h"
#include "worker/sample.h"
#include "worker/visible.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In periods; a sampler writes every one to five of them. */
#define FRESH_PERIODS 15
#define SILENT_PERIODS 20 /* a sampler that has not written for so long hangs in a library */
#define ROUND_PERIODS 2

static bool is_sampler(const sp_worker *worker)
{
    return strcmp(worker->kind, "sampler") == 0;
}

static bool read_sample(const sp_worker *worker, int place, sp_device_sample *ret_sample)
{
    return worker->page && worker->state == SP_WORKER_READY &&
           sp_device_sample_read(&worker->page->samples[place], ret_sample);
}

static int64_t periods_ns(int count)
{
    static int64_t period_ns;
    if (!period_ns)
        period_ns = sp_sample_period_ns(getenv("SPILLWAY_SAMPLE_MS"));
    return count * period_ns;
}

static bool is_fresh(const sp_device_sample *sample)
{
    return sp_clock_now_ns() - sample->sampled_ns < periods_ns(FRESH_PERIODS);
}

/* cuda1 is the second GPU that the sampler sees. */
static int number_of(const sp_worker *worker)
{
    return sp_worker_number(worker->name);
}

static const sp_worker *sampler_of(const sp_house *house)
{
    for (int i = 0; i < house->worker_count; i++) {
        if (is_sampler(&house->workers[i]))
            return &house->workers[i];
    }
    return NULL;
}

bool sp_worker_throttled(const sp_worker *worker)
{
    sp_device_sample sample;
    bool simulated = strcmp(worker->kind, "sim") == 0;
    if (worker->role != SP_ROLE_DEVICE || strcmp(worker->kind, "cpu") == 0)
        return false;
    const sp_worker *source = simulated ? worker : sampler_of(worker->house);
    int place = simulated ? 0 : number_of(worker);
    if (!source || place >= SP_LIMIT_DEVICE_SAMPLES || !read_sample(source, place, &sample) || !is_fresh(&sample))
        return false;
    if (!simulated && (!sample.source[0] || strcmp(sample.source, "host") == 0))
        return false; /* there are not so many GPUs */
    return sample.throttle_thermal == 1 || sample.throttle_power == 1;
}

static void set_memory(const sp_worker *worker, const char *what, const _Atomic uint64_t *bytes)
{
    char labels[96];
    uint64_t seen = atomic_load_explicit(bytes, memory_order_relaxed);
    (void)snprintf(labels, sizeof(labels), "worker=\"%s\",what=\"%s\"", worker->name, what);
    sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, "spillway_cuda_memory_bytes", labels,
                                "What Spillway's own CUDA memory is: held, the most ever held, taken from the driver; pinned: of the host"),
                  (int64_t)SP_MIN(seen, (uint64_t)INT64_MAX));
}

static void count_memory(const sp_worker *worker, const sp_device_counters *counters)
{
    if (!atomic_load_explicit(&counters->pinned_high_bytes, memory_order_relaxed) &&
        !atomic_load_explicit(&counters->device_high_bytes, memory_order_relaxed))
        return;
    set_memory(worker, "device", &counters->device_bytes);
    set_memory(worker, "device_high", &counters->device_high_bytes);
    set_memory(worker, "device_reserved", &counters->device_reserved_bytes);
    set_memory(worker, "pinned", &counters->pinned_bytes);
    set_memory(worker, "pinned_high", &counters->pinned_high_bytes);
}

void sp_devices_count(sp_worker *worker)
{
    if (worker->role != SP_ROLE_DEVICE || !worker->page)
        return;
    sp_device_counters *counters = &worker->page->counters;
    uint64_t runs = atomic_load_explicit(&counters->oom_runs, memory_order_relaxed);
    uint64_t alone = atomic_load_explicit(&counters->oom_alone, memory_order_relaxed);
    uint32_t limit = atomic_load_explicit(&counters->batch_limit, memory_order_relaxed);
    char labels[64];
    (void)snprintf(labels, sizeof(labels), "worker=\"%s\"", worker->name);
    if (runs > worker->oom_runs_seen) { /* it wrote them: less than before is nonsense */
        sp_metric_add(sp_metric_get(SP_METRIC_COUNTER, "spillway_oom_runs_total", labels,
                                    "Runs that did not fit into a device's memory"),
                      (int64_t)SP_MIN(runs - worker->oom_runs_seen, 1u << 30));
        worker->oom_runs_seen = runs;
    }
    if (alone > worker->oom_alone_seen) {
        sp_metric_add(sp_metric_get(SP_METRIC_COUNTER, "spillway_oom_alone_total", labels,
                                    "Of them those of a single item: the next link had it"),
                      (int64_t)SP_MIN(alone - worker->oom_alone_seen, 1u << 30));
        worker->oom_alone_seen = alone;
    }
    if (limit && limit <= SP_LIMIT_BATCH)
        sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, "spillway_device_batch_limit", labels,
                                    "Items of one run that fit into a device's memory"), limit);
    count_memory(worker, counters);
}

int sp_house_device_samples(const sp_house *house, sp_device_info *ret_devices, int capacity)
{
    int count = 0;
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *worker = &house->workers[i];
        if (!is_sampler(worker) && strcmp(worker->kind, "sim") != 0)
            continue;
        for (int place = 0; place < SP_LIMIT_DEVICE_SAMPLES && count < capacity; place++) {
            sp_device_info *info = &ret_devices[count];
            if (!read_sample(worker, place, &info->sample) || !info->sample.source[0])
                continue; /* never written, or its device is gone */
            info->worker = worker->name;
            info->number = place;
            info->fresh = !is_sampler(worker) || is_fresh(&info->sample);
            count++;
        }
    }
    return count;
}

/* --- a sampler that hangs ---------------------------------------------------------------------------------------- */

static void judge_sampler(sp_worker *worker, int64_t now_ns)
{
    if (worker->state != SP_WORKER_READY || worker->killed_for != SP_DEATH_OUTSIDER)
        return;
    int64_t newest_ns = worker->ready_ns;
    for (int place = 0; place < SP_LIMIT_DEVICE_SAMPLES; place++) {
        sp_device_sample sample;
        if (read_sample(worker, place, &sample))
            newest_ns = SP_MAX(newest_ns, SP_MIN(sample.sampled_ns, now_ns));
    }
    if (now_ns - newest_ns > periods_ns(SILENT_PERIODS))
        sp_supervisor_kill(worker, SP_DEATH_WATCHDOG, "sampler hung: no sample for a while");
}

static void look_round(sp_timer *timer, void *context)
{
    sp_house *house = context;
    int64_t now_ns = sp_clock_now_ns();
    bool late = now_ns - house->devices_due_ns > periods_ns(ROUND_PERIODS); /* we were starved ourselves: so was it */
    for (int i = 0; i < house->worker_count && !late; i++) {
        if (is_sampler(&house->workers[i]))
            judge_sampler(&house->workers[i], now_ns);
    }
    sp_devices_arm(house);
}

void sp_devices_arm(sp_house *house)
{
    if (house->devices_timer.heap_index || house->ending || !sampler_of(house))
        return;
    house->devices_timer.fire = look_round;
    house->devices_timer.context = house;
    house->devices_due_ns = sp_clock_now_ns() + periods_ns(ROUND_PERIODS);
    sp_error err = { 0 };
    if (sp_loop_timer_set(house->loop, &house->devices_timer, house->devices_due_ns, &err))
        sp_log_error("no timer for the sampler", NULL, &err);
}
