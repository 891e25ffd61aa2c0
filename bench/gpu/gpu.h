/* SPDX-License-Identifier: Apache-2.0
 * What the benches of the GPU's kernels share: a device, a graph's time, one JSON row for each case. Included once, by a program.
 *
 * A row says what was moved at the least (`bytes`), how long that takes at the device's bandwidth (`floor_us`), how long the
 * graph took (`median_us`, `best_us` of `repeats`, by events around each launch) and floor / median (`share`). Where the driver
 * does not tell its memory's clock, floor and share are null. On the tests' stand-in (`simulated`) the times mean nothing. */
#ifndef SP_BENCH_GPU_GPU_H
#define SP_BENCH_GPU_GPU_H

#include "kernels/cuda.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GPU_WARM_UP 20

typedef struct gpu {
    const sp_cuda_api *api;
    sp_cuda *cuda;
    sp_cuda_stream *stream;
    sp_cuda_event *from, *to;
    sp_cuda_info info;
} gpu;

static inline void gpu_need(sp_status status, const sp_error *error)
{
    if (status == SP_OK)
        return;
    (void)fprintf(stderr, "%s\n", error->message);
    exit(status == SP_UNSUPPORTED ? 77 : 1); /* 77: a skip, for test runners */
}

static inline gpu gpu_open(void)
{
    gpu g = { 0 };
    sp_error error = { 0 };
    gpu_need(sp_cuda_load(&g.api, &error), &error);
    gpu_need(g.api->describe(0, &g.info, &error), &error);
    gpu_need(g.api->open(0, 0, &g.cuda, &error), &error);
    gpu_need(g.api->stream_new(g.cuda, &g.stream, &error), &error);
    gpu_need(g.api->event_new(g.cuda, true, &g.from, &error), &error);
    gpu_need(g.api->event_new(g.cuda, true, &g.to, &error), &error);
    return g;
}

static inline void gpu_close(gpu *g)
{
    g->api->event_free(g->from);
    g->api->event_free(g->to);
    g->api->stream_free(g->stream);
    g->api->close(g->cuda);
}

static inline void *gpu_reserve(gpu *g, size_t bytes)
{
    void *device = NULL;
    sp_error error = { 0 };
    gpu_need(g->api->reserve(g->cuda, bytes, &device, &error), &error);
    return device;
}

static inline int gpu_by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Launches the graph as often as it takes; microseconds. */
static inline void gpu_time(gpu *g, sp_cuda_graph *graph, int repeats, double *ret_median_us, double *ret_best_us)
{
    sp_error error = { 0 };
    float *ms = malloc(sizeof(*ms) * (size_t)repeats);
    if (!ms)
        exit(1);
    for (int i = -(repeats < GPU_WARM_UP ? 1 : GPU_WARM_UP); i < repeats; i++) {
        gpu_need(g->api->event_record(g->from, g->stream, &error), &error);
        gpu_need(g->api->graph_launch(graph, g->stream, &error), &error);
        gpu_need(g->api->event_record(g->to, g->stream, &error), &error);
        gpu_need(g->api->stream_sync(g->stream, &error), &error);
        if (i >= 0)
            gpu_need(g->api->event_elapsed_ms(g->from, g->to, &ms[i], &error), &error);
    }
    qsort(ms, (size_t)repeats, sizeof(*ms), gpu_by_size);
    *ret_median_us = 1e3 * (double)ms[repeats / 2];
    *ret_best_us = 1e3 * (double)ms[0];
    free(ms);
}

static inline void gpu_number(const char *key, double value, bool known)
{
    if (known)
        (void)printf(", \"%s\": %.4g", key, value);
    else
        (void)printf(", \"%s\": null", key);
}

/* `least_us`: what something else than memory takes at the least; the floor is the larger one. */
static inline void gpu_row_above(const gpu *g, const char *bench, const char *name, int repeats, double bytes, double least_us,
                                 double median_us, double best_us)
{
    /* Two transfers a clock, as with every memory that GPUs of these years have. */
    double rate = 2e3 * (double)g->info.memory_clock_khz * (double)g->info.memory_bus_bits / 8;
    double floor_us = rate > 0 ? 1e6 * bytes / rate : 0;
    floor_us = floor_us < least_us ? least_us : floor_us;
    (void)printf("{\"bench\": \"%s\", \"case\": \"%s\", \"device\": \"%s\", \"driver\": %d, \"runtime\": %d, \"simulated\": %s", bench, name,
                 g->info.name, g->info.driver_version, g->info.runtime_version, g->info.simulated ? "true" : "false");
    (void)printf(", \"repeats\": %d, \"bytes\": %.0f", repeats, bytes);
    gpu_number("bandwidth_gb_s", rate / 1e9, rate > 0);
    gpu_number("floor_us", floor_us, rate > 0);
    gpu_number("median_us", median_us, true);
    gpu_number("best_us", best_us, true);
    gpu_number("share", floor_us / median_us, rate > 0 && median_us > 0);
    (void)printf("}\n");
    (void)fflush(stdout);
}

static inline void gpu_row(const gpu *g, const char *bench, const char *name, int repeats, double bytes, double median_us, double best_us)
{
    gpu_row_above(g, bench, name, repeats, bytes, 0, median_us, best_us);
}

#endif
