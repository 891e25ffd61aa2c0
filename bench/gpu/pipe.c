/* SPDX-License-Identifier: Apache-2.0
 * How much of the copies a pipeline hides: frames go in from pinned memory, their flow against the lane's frame before comes out
 * (10 bytes a pixel copied), over three lanes. sp_cuda_pipe_measure times the same frames only copied, only computed, and both.
 *
 *   bench-gpu-pipe [repeats [frames [WIDTHxHEIGHT]]]        one JSON row a size: 1280x720 and 1920x1080, or the one that is given
 *
 * A row's times are one frame's share; its floor is the longer of copies and computing, which is what hiding all of the other one
 * would come to. `hidden` is cuda_pipe.h's, of the measure with the median time. */
#include "gpu.h"

#include "kernels/cuda_flow.h"
#include "kernels/cuda_pipe.h"
#include "kernels/kernels.h"

#define LANES 3
#define REPEATS_MOST 1000

typedef struct lane {
    sp_cuda_flow_frame *frame[2]; /* expanded last, expanded now: they change places */
    sp_cuda_flow_scratch *scratch;
} lane;

typedef struct job {
    gpu *g;
    sp_cuda_flow *flow;
    lane lanes[LANES];
    int w, h;
} job;

static sp_status compute(void *context, int number, sp_cuda_stream *stream, const void *in, void *out, sp_error *reterr)
{
    const job *j = context;
    const lane *l = &j->lanes[number];
    const sp_cuda_flow_api *api = j->g->api->flow;
    float *dx = out, *dy = dx + (size_t)j->w * (size_t)j->h;
    sp_status s = api->expand(j->flow, stream, l->frame[1], in, (size_t)j->w, l->scratch, reterr);
    if (s)
        return s;
    /* Which of the two is older makes no difference to the time. */
    return api->pair(j->flow, stream, l->frame[0], l->frame[1], NULL, NULL, dx, dy, (size_t)j->w, l->scratch, reterr);
}

static int by_wall(const void *a, const void *b)
{
    const sp_cuda_overlap *x = a, *y = b;
    return (x->wall_ms > y->wall_ms) - (x->wall_ms < y->wall_ms);
}

static void row(const job *j, int repeats, int frames, const sp_cuda_overlap *median, const sp_cuda_overlap *best)
{
    const sp_cuda_info *info = &j->g->info;
    float floor_ms = median->copy_ms > median->compute_ms ? median->copy_ms : median->compute_ms;
    (void)printf("{\"bench\": \"pipe\", \"case\": \"%dx%d in, flow out, %d lanes\", \"device\": \"%s\", \"driver\": %d, \"runtime\": %d", j->w,
                 j->h, LANES, info->name, info->driver_version, info->runtime_version);
    (void)printf(", \"simulated\": %s, \"repeats\": %d, \"bytes\": %.0f", info->simulated ? "true" : "false", repeats,
                 10.0 * j->w * j->h);
    gpu_number("copy_us", 1e3 * (double)median->copy_ms / frames, true);
    gpu_number("compute_us", 1e3 * (double)median->compute_ms / frames, true);
    gpu_number("floor_us", 1e3 * (double)floor_ms / frames, true);
    gpu_number("median_us", 1e3 * (double)median->wall_ms / frames, true);
    gpu_number("best_us", 1e3 * (double)best->wall_ms / frames, true);
    gpu_number("share", (double)floor_ms / (double)median->wall_ms, median->wall_ms > 0);
    gpu_number("hidden", median->hidden, true);
    (void)printf("}\n");
    (void)fflush(stdout);
}

static void lane_open(const job *j, lane *l, const uint8_t *grey)
{
    const sp_cuda_flow_api *api = j->g->api->flow;
    sp_error error = { 0 };
    gpu_need(api->scratch_new(j->flow, &l->scratch, &error), &error);
    for (int i = 0; i < 2; i++)
        gpu_need(api->frame_new(j->flow, &l->frame[i], &error), &error);
    gpu_need(api->expand(j->flow, j->g->stream, l->frame[0], grey, (size_t)j->w, l->scratch, &error), &error);
    gpu_need(j->g->api->stream_sync(j->g->stream, &error), &error);
}

static void lane_close(const job *j, lane *l)
{
    const sp_cuda_flow_api *api = j->g->api->flow;
    api->frame_free(l->frame[0]);
    api->frame_free(l->frame[1]);
    api->scratch_free(l->scratch);
}

static void run(gpu *g, int w, int h, int repeats, int frames)
{
    static sp_cuda_overlap measured[REPEATS_MOST];
    job j = { .g = g, .w = w, .h = h };
    const sp_flow_params params = sp_flow_params_default();
    size_t pixels = (size_t)w * (size_t)h;
    sp_error error = { 0 };
    sp_cuda_pipe *pipe = NULL;
    sp_flow *flow;
    uint8_t *grey = gpu_reserve(g, pixels);
    gpu_need(g->api->fill(g->stream, grey, 90, pixels, &error), &error);
    gpu_need(sp_flow_new(&params, w, h, &flow, &error), &error);
    gpu_need(g->api->flow->flow_new(g->cuda, flow, &j.flow, &error), &error);
    for (int i = 0; i < LANES; i++)
        lane_open(&j, &j.lanes[i], grey);
    gpu_need(sp_cuda_pipe_new(g->api, g->cuda, LANES, pixels, 2 * pixels * sizeof(float), &pipe, &error), &error);
    const sp_cuda_pipe_work work = { .context = &j, .compute = compute };
    for (int i = 0; i < repeats; i++)
        gpu_need(sp_cuda_pipe_measure(pipe, &work, frames, &measured[i], &error), &error);
    qsort(measured, (size_t)repeats, sizeof(*measured), by_wall);
    row(&j, repeats, frames, &measured[repeats / 2], &measured[0]);
    sp_cuda_pipe_free(pipe);
    for (int i = 0; i < LANES; i++)
        lane_close(&j, &j.lanes[i]);
    g->api->flow->flow_free(j.flow);
    sp_flow_free(flow);
    g->api->release(g->cuda, grey);
}

int main(int argc, char **argv)
{
    static const int usual[][2] = { { 1280, 720 }, { 1920, 1080 } };
    int repeats = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 20, frames = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 60, w = 0, h = 0;
    if (repeats < 1 || repeats > REPEATS_MOST || frames < 1 || frames > 10000 ||
        (argc > 3 && (sscanf(argv[3], "%dx%d", &w, &h) != 2 || w < 1 || h < 1))) {
        (void)fprintf(stderr, "bench-gpu-pipe [repeats [frames [WIDTHxHEIGHT]]]\n");
        return 2;
    }
    sp_kernels_init();
    gpu g = gpu_open();
    if (argc > 3)
        run(&g, w, h, repeats, frames);
    else
        for (size_t i = 0; i < SP_ARRAY_LEN(usual); i++)
            run(&g, usual[i][0], usual[i][1], repeats, frames);
    gpu_close(&g);
    return 0;
}
