/* SPDX-License-Identifier: Apache-2.0
 * Dense optical flow on a GPU, as graphs: one frame's expansion; a pair of frames that are expanded already; both together, which
 * is what each further frame of a video costs; and a pair with both expansions. Default parameters (four scales at 1080p). Before
 * anything is timed, the flow is compared with the CPU's, bit for bit.
 *
 *   bench-gpu-flow [repeats [SIZE ...]]                one JSON row a case (gpu.h)
 *
 * A size is WIDTHxHEIGHT, or WIDTHxHEIGHT:FIRST,SECOND with the pictures' files: grey bytes, nothing else. */
#include "gpu.h"

#include "kernels/cuda_flow.h"
#include "kernels/flow_run.h"
#include "kernels/kernels.h"

#include <math.h>

#define PATH_BYTES 512

typedef struct job {
    gpu *g;
    int w, h;
    char path[2][PATH_BYTES]; /* "" = drawn */
    sp_flow *flow;
    sp_cuda_flow *own;
    sp_cuda_flow_frame *frame[2];
    sp_cuda_flow_scratch *scratch;
    uint8_t *grey[2];   /* host */
    uint8_t *device[2];
    float *field;       /* device: dx, dy */
} job;

/* What a graph does. */
typedef struct part {
    const char *name;
    int expansions;
    bool pair;
} part;

static const part parts[] = {
    { "expansion", 1, false }, { "pair", 0, true }, { "pair, in sequence", 1, true }, { "pair, both expanded", 2, true },
};

/* Waves of several lengths, the second picture's moved and turned a little: a flow of some pixels that differs everywhere. */
static void draw(uint8_t *grey, int w, int h, int second)
{
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            float fx = (float)x - (float)second * (2.3f + 0.004f * (float)y), fy = (float)y - (float)second * (0.7f - 0.003f * (float)x);
            float v = 128 + 50 * sinf(0.19f * fx) * cosf(0.23f * fy) + 30 * sinf(0.61f * fx + 0.3f * fy) + 20 * cosf(0.05f * fx - 0.41f * fy);
            grey[(size_t)y * (size_t)w + (size_t)x] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
    }
}

static void read_file(uint8_t *grey, size_t bytes, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fread(grey, 1, bytes, file) != bytes) {
        (void)fprintf(stderr, "%s does not hold %zu bytes\n", path, bytes);
        exit(2);
    }
    (void)fclose(file);
}

static void open_job(job *j)
{
    const sp_cuda_flow_api *api = j->g->api->flow;
    sp_error error = { 0 };
    const sp_flow_params params = sp_flow_params_default();
    size_t pixels = (size_t)j->w * (size_t)j->h;
    gpu_need(sp_flow_new(&params, j->w, j->h, &j->flow, &error), &error);
    gpu_need(api->flow_new(j->g->cuda, j->flow, &j->own, &error), &error);
    gpu_need(api->scratch_new(j->own, &j->scratch, &error), &error);
    for (int i = 0; i < 2; i++) {
        gpu_need(api->frame_new(j->own, &j->frame[i], &error), &error);
        j->device[i] = gpu_reserve(j->g, pixels);
        j->grey[i] = malloc(pixels);
        if (!j->grey[i])
            exit(1);
        if (j->path[i][0])
            read_file(j->grey[i], pixels, j->path[i]);
        else
            draw(j->grey[i], j->w, j->h, i);
        gpu_need(j->g->api->copy_in(j->g->stream, j->device[i], j->grey[i], pixels, &error), &error);
    }
    j->field = gpu_reserve(j->g, 2 * pixels * sizeof(float));
}

static void close_job(job *j)
{
    const sp_cuda_flow_api *api = j->g->api->flow;
    for (int i = 0; i < 2; i++) {
        api->frame_free(j->frame[i]);
        j->g->api->release(j->g->cuda, j->device[i]);
        free(j->grey[i]);
    }
    j->g->api->release(j->g->cuda, j->field);
    api->scratch_free(j->scratch);
    api->flow_free(j->own);
    sp_flow_free(j->flow);
}

static void enqueue(job *j, const part *p)
{
    const sp_cuda_flow_api *api = j->g->api->flow;
    sp_error error = { 0 };
    for (int i = 2 - p->expansions; i < 2; i++)
        gpu_need(api->expand(j->own, j->g->stream, j->frame[i], j->device[i], (size_t)j->w, j->scratch, &error), &error);
    if (p->pair)
        gpu_need(api->pair(j->own, j->g->stream, j->frame[0], j->frame[1], NULL, NULL, j->field, j->field + (size_t)j->w * (size_t)j->h,
                           (size_t)j->w, j->scratch, &error), &error);
}

/* 20 bytes a pixel of an expansion, of which an iteration reads two, and 8 of flow each way. */
static double bytes_of(const job *j, const part *p)
{
    double pixels = 0;
    for (int k = 0; k <= j->flow->levels; k++)
        pixels += (double)j->flow->level[k].w * j->flow->level[k].h;
    return p->expansions * (20 * pixels + (double)j->w * j->h) + (p->pair ? j->flow->params.iterations * 56 * pixels : 0);
}

static void compare(job *j)
{
    size_t pixels = (size_t)j->w * (size_t)j->h, bytes = 2 * pixels * sizeof(float);
    sp_error error = { 0 };
    sp_flow_frame *frame[2];
    sp_flow_scratch *scratch;
    float *expected = malloc(bytes), *got = malloc(bytes);
    if (!expected || !got)
        exit(1);
    enqueue(j, &parts[3]);
    gpu_need(j->g->api->copy_out(j->g->stream, got, j->field, bytes, &error), &error);
    gpu_need(sp_flow_scratch_new(j->flow, &scratch, &error), &error);
    for (int i = 0; i < 2; i++) {
        gpu_need(sp_flow_frame_new(j->flow, &frame[i], &error), &error);
        sp_flow_expand(j->flow, frame[i], j->grey[i], (size_t)j->w, scratch);
    }
    sp_flow_pair(j->flow, frame[0], frame[1], NULL, NULL, expected, expected + pixels, (size_t)j->w, scratch);
    gpu_need(j->g->api->stream_sync(j->g->stream, &error), &error);
    if (memcmp(expected, got, bytes) != 0) {
        (void)fprintf(stderr, "%d x %d: the GPU's flow is not the CPU's\n", j->w, j->h);
        exit(1);
    }
    sp_flow_frame_free(frame[0]);
    sp_flow_frame_free(frame[1]);
    sp_flow_scratch_free(scratch);
    free(expected);
    free(got);
}

static void run(job *j, int repeats)
{
    gpu *g = j->g;
    open_job(j);
    compare(j);
    for (size_t i = 0; i < SP_ARRAY_LEN(parts); i++) {
        char name[96];
        double median_us, best_us;
        sp_error error = { 0 };
        sp_cuda_graph *graph = NULL;
        gpu_need(g->api->graph_begin(g->stream, &error), &error);
        enqueue(j, &parts[i]);
        gpu_need(g->api->graph_end(g->stream, &graph, &error), &error);
        gpu_time(g, graph, repeats, &median_us, &best_us);
        (void)snprintf(name, sizeof(name), "%dx%d, scales %d, %s", j->w, j->h, j->flow->levels + 1, parts[i].name);
        gpu_row(g, "flow", name, repeats, bytes_of(j, &parts[i]), median_us, best_us);
        g->api->graph_free(graph);
    }
    close_job(j);
}

int main(int argc, char **argv)
{
    static char *usual[] = { "640x360", "1280x720", "1920x1080" };
    int repeats = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 200, count = argc > 2 ? argc - 2 : (int)SP_ARRAY_LEN(usual);
    char **sizes = argc > 2 ? argv + 2 : usual;
    if (repeats < 1 || repeats > 100000) {
        (void)fprintf(stderr, "bench-gpu-flow [repeats [WIDTHxHEIGHT[:FIRST,SECOND] ...]]\n");
        return 2;
    }
    sp_kernels_init();
    gpu g = gpu_open();
    for (int i = 0; i < count; i++) {
        job j = { .g = &g };
        int fields = sscanf(sizes[i], "%dx%d:%511[^,],%511s", &j.w, &j.h, j.path[0], j.path[1]);
        if (fields != 2 && fields != 4) {
            (void)fprintf(stderr, "%s is no WIDTHxHEIGHT[:FIRST,SECOND]\n", sizes[i]);
            return 2;
        }
        run(&j, repeats);
    }
    gpu_close(&g);
    return 0;
}
