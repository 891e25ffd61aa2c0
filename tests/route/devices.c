/* SPDX-License-Identifier: Apache-2.0
 * What the route reads out of workers' pages: samples, throttling, counters. Pages are made here, no process runs. */
#include "test.h"

#include "base/clock.h"
#include "route/devices.h"
#include "worker/sample.h"
#include "worker/sampler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_house *house;
static int64_t now_ns;

static sp_worker *add(const char *name, const char *kind, sp_worker_role role)
{
    sp_worker *worker = &house->workers[house->worker_count];
    worker->house = house;
    worker->index = house->worker_count++;
    worker->role = role;
    worker->state = SP_WORKER_READY;
    (void)snprintf(worker->name, sizeof(worker->name), "%s", name);
    (void)snprintf(worker->kind, sizeof(worker->kind), "%s", kind);
    worker->page = aligned_alloc(64, SP_ALIGN_UP(sizeof(*worker->page), (size_t)64));
    REQUIRE(worker->page != NULL);
    memset(worker->page, 0, sizeof(*worker->page));
    return worker;
}

static void open_house(void)
{
    house = calloc(1, sizeof(*house));
    REQUIRE(house != NULL);
    now_ns = 100 * SP_NS_PER_S;
    sp_clock_inject(&now_ns);
}

static void close_house(void)
{
    for (int i = 0; i < house->worker_count; i++)
        free(house->workers[i].page);
    free(house);
    sp_clock_inject(NULL);
}

static void publish(sp_worker *worker, int place, const char *source, uint64_t reasons)
{
    sp_device_sample sample;
    sp_device_sample_blank(&sample, source);
    sp_device_sample_reasons(&sample, reasons);
    sp_device_sample_write(&worker->page->samples[place], &sample);
}

TEST(a_gpu_is_throttled_when_its_sample_says_so)
{
    open_house();
    sp_worker *cuda0 = add("cuda0", "cuda", SP_ROLE_DEVICE), *cuda1 = add("cuda1", "cuda", SP_ROLE_DEVICE);
    sp_worker *cpu0 = add("cpu0", "cpu", SP_ROLE_DEVICE), *sim0 = add("sim0", "sim", SP_ROLE_DEVICE);
    sp_worker *cuda9 = add("cuda9", "cuda", SP_ROLE_DEVICE);
    CHECK(!sp_worker_throttled(cuda0)); /* no sampler */
    sp_worker *sampler = add("sampler0", "sampler", SP_ROLE_SAMPLER);
    CHECK(!sp_worker_throttled(cuda0)); /* no sample */
    publish(sampler, 0, "nvml", 0x4);
    publish(sampler, 1, "nvml", 0x40);
    publish(sampler, 2, "host", 0x40);
    CHECK(!sp_worker_throttled(cuda0));
    CHECK(sp_worker_throttled(cuda1));
    CHECK(!sp_worker_throttled(cuda9) && !sp_worker_throttled(cpu0) && !sp_worker_throttled(sim0));
    publish(sim0, 0, "sim", 0x80);
    CHECK(sp_worker_throttled(sim0));
    sampler->state = SP_WORKER_BACKOFF;
    CHECK(!sp_worker_throttled(cuda1));
    sampler->state = SP_WORKER_READY;
    now_ns += 16 * SP_NS_PER_S;
    CHECK(!sp_worker_throttled(cuda1) && !sp_worker_throttled(sim0)); /* nobody has looked lately */
    publish(sampler, 0, "host", 0x40); /* the driver is gone: the host has the first place */
    CHECK(!sp_worker_throttled(cuda0));
    close_house();
}

TEST(samples_of_all_who_measure)
{
    open_house();
    sp_device_info devices[4];
    sp_worker *sim0 = add("sim0", "sim", SP_ROLE_DEVICE);
    sp_worker *sampler = add("sampler0", "sampler", SP_ROLE_SAMPLER);
    add("cpu0", "cpu", SP_ROLE_DEVICE);
    CHECK_INT(sp_house_device_samples(house, devices, 4), 0);
    publish(sim0, 0, "sim", 0);
    publish(sampler, 0, "nvml", 0);
    publish(sampler, 3, "host", 0);
    memset(sampler->page->samples[3].name, 'x', sizeof(sampler->page->samples[3].name)); /* it is another process's */
    REQUIRE(sp_house_device_samples(house, devices, 4) == 3);
    CHECK_TEXT(devices[0].worker, "sim0");
    CHECK_TEXT(devices[2].sample.source, "host");
    CHECK_INT(devices[2].number, 3);
    CHECK_INT(strlen(devices[2].sample.name), sizeof(devices[2].sample.name) - 1);
    CHECK(devices[1].fresh);
    now_ns += 60 * SP_NS_PER_S;
    CHECK_INT(sp_house_device_samples(house, devices, 2), 2);
    CHECK(!devices[1].fresh);
    sp_device_sample none = { 0 };
    sp_device_sample_write(&sampler->page->samples[0], &none);
    CHECK_INT(sp_house_device_samples(house, devices, 4), 2);
    close_house();
}

TEST(counters_are_added_up_over_incarnations)
{
    open_house();
    sp_worker *sim0 = add("sim0", "sim", SP_ROLE_DEVICE);
    sp_metric *runs = sp_metric_get(SP_METRIC_COUNTER, "spillway_oom_runs_total", "worker=\"sim0\"", "");
    sim0->page->counters.oom_runs = 5;
    sp_devices_count(sim0);
    sp_devices_count(sim0);
    CHECK_INT(sp_metric_value(runs), 5);
    sim0->page->counters.oom_runs = 3; /* nonsense */
    sp_devices_count(sim0);
    CHECK_INT(sp_metric_value(runs), 5);
    sim0->page->counters.oom_runs = 2; /* the next incarnation's */
    sim0->oom_runs_seen = 0;
    sp_devices_count(sim0);
    CHECK_INT(sp_metric_value(runs), 7);
    close_house();
}
