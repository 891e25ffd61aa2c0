/* SPDX-License-Identifier: Apache-2.0
 * Pre-processing on a GPU: RGB8 pictures in device memory to a model's input tensors. A graph makes several batches, each from
 * pictures of its own (over 200 MB in all, so that the cache does not answer) into tensors of its own; a row's times are one
 * batch's share. Before anything is timed, the first and the last picture's tensors are compared with the CPU's, bit for bit.
 *
 *   bench-gpu-prep [repeats [pictures [WIDTHxHEIGHT]]]        one JSON row a case (gpu.h)
 *
 * Floor: each source byte that the crop needs is read once, each byte of the tensor written once. */
#include "gpu.h"

#include "kernels/cuda_prep.h"
#include "kernels/kernels.h"
#include "kernels/prep_run.h"
#include "kernels/yuv.h"

#define ROTATE_BYTES (200u * 1000 * 1000)
#define BATCHES_MOST 128

typedef struct recipe {
    const char *name;
    sp_prep_spec spec;
    bool one;       /* a batch is one picture */
    bool portrait;  /* the sides change places */
    bool exact;     /* norm_batch of pictures of the tensor's size */
} recipe;

#define VALUES .divisor = 255, .mean = { 0.485f, 0.456f, 0.406f }, .std = { 0.229f, 0.224f, 0.225f }
#define SQUARE(side) .resize_w = (side), .resize_h = (side), .crop_w = (side), .crop_h = (side)

static const recipe hows[] = {
    { .name = "224x224 f32", .spec = { .filter = SP_FILTER_BILINEAR, .fit = SP_FIT_STRETCH, .dtype = SP_DTYPE_F32, SQUARE(224), VALUES } },
    { .name = "224x224 f16", .spec = { .filter = SP_FILTER_BILINEAR, .fit = SP_FIT_STRETCH, .dtype = SP_DTYPE_F16, SQUARE(224), VALUES } },
    { .name = "224x224 f32, bicubic",
      .spec = { .filter = SP_FILTER_BICUBIC, .fit = SP_FIT_STRETCH, .dtype = SP_DTYPE_F32, SQUARE(224), VALUES } },
    { .name = "256, crop 224x224 f32",
      .spec = { .filter = SP_FILTER_BILINEAR, .fit = SP_FIT_SHORT_SIDE, .dtype = SP_DTYPE_F32, .resize_w = 256, .crop_w = 224, .crop_h = 224,
                VALUES } },
    { .name = "letterbox 640x640 f32, plain",
      .spec = { .filter = SP_FILTER_PLAIN, .fit = SP_FIT_LETTERBOX, .dtype = SP_DTYPE_F32, .pad_value = 114, SQUARE(640), VALUES } },
    { .name = "224x224 f32, down first", .portrait = true,
      .spec = { .filter = SP_FILTER_BILINEAR, .fit = SP_FIT_STRETCH, .dtype = SP_DTYPE_F32, SQUARE(224), VALUES } },
    { .name = "224x224 f32, one picture", .one = true,
      .spec = { .filter = SP_FILTER_BILINEAR, .fit = SP_FIT_STRETCH, .dtype = SP_DTYPE_F32, SQUARE(224), VALUES } },
    { .name = "normalise 224x224 f32", .exact = true,
      .spec = { .filter = SP_FILTER_BILINEAR, .fit = SP_FIT_STRETCH, .dtype = SP_DTYPE_F32, SQUARE(224), VALUES } },
};

typedef struct job {
    gpu *g;
    const recipe *how;
    int w, h, count, batches, repeats;
    size_t picture_bytes, tensor_bytes;
    uint8_t *host;      /* one picture; all are made of it, each begins 3 bytes further */
    uint8_t *pictures, *tensors; /* device */
    sp_cuda_prep *prep;
} job;

static void *room(size_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory)
        exit(1);
    return memory;
}

static void fill(uint8_t *bytes, size_t n)
{
    uint64_t state = 720;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(state >> 56);
    }
}

static void enqueue(const job *j, int batch)
{
    sp_error error = { 0 };
    sp_cuda_picture *pictures = room((size_t)j->count * sizeof(*pictures));
    for (int i = 0; i < j->count; i++)
        pictures[i] = (sp_cuda_picture){ j->pictures + ((size_t)batch * (size_t)j->count + (size_t)i) * j->picture_bytes, j->w, j->h,
                                         (size_t)j->w * 3 };
    uint8_t *dst = j->tensors + (size_t)batch * (size_t)j->count * j->tensor_bytes;
    const sp_cuda_prep_api *api = j->g->api->prep;
    gpu_need((j->how->exact ? api->norm_batch : api->prep_batch)(j->prep, j->g->stream, pictures, j->count, dst, &error), &error);
    free(pictures);
}

static void compare(const job *j, size_t which)
{
    sp_error error = { 0 };
    uint8_t *want = room(j->tensor_bytes), *got = room(j->tensor_bytes), *picture = room(j->picture_bytes);
    sp_prep_scratch *scratch = sp_prep_scratch_new();
    if (!scratch)
        exit(1);
    gpu_need(j->g->api->copy_out(j->g->stream, picture, j->pictures + which * j->picture_bytes, j->picture_bytes, &error), &error);
    gpu_need(j->g->api->copy_out(j->g->stream, got, j->tensors + which * j->tensor_bytes, j->tensor_bytes, &error), &error);
    gpu_need(j->g->api->stream_sync(j->g->stream, &error), &error);
    gpu_need(sp_prep_image(&j->how->spec, picture, j->w, j->h, (size_t)j->w * 3, want, scratch, &error), &error);
    if (memcmp(want, got, j->tensor_bytes) != 0) {
        (void)fprintf(stderr, "%s: the GPU's tensor is not the CPU's\n", j->how->name);
        exit(1);
    }
    sp_prep_scratch_free(scratch);
    free(want);
    free(got);
    free(picture);
}

static double bytes_of(const job *j)
{
    sp_error error = { 0 };
    sp_prep_geometry g;
    gpu_need(sp_prep_geometry_of(&j->how->spec, j->w, j->h, &g, &error), &error);
    double across = (double)j->how->spec.crop_w / (double)g.scaled_w, down = (double)j->how->spec.crop_h / (double)g.scaled_h;
    double used = (across < 1 ? across : 1) * (down < 1 ? down : 1);
    return j->count * (3.0 * j->w * j->h * used + (double)j->tensor_bytes);
}

static void run(gpu *g, const recipe *how, int w, int h, int count, int repeats)
{
    job j = { .g = g, .how = how, .w = how->portrait ? h : w, .h = how->portrait ? w : h, .count = how->one ? 1 : count, .repeats = repeats };
    sp_error error = { 0 };
    sp_cuda_graph *graph = NULL;
    char name[120];
    double median_us, best_us;
    if (how->exact)
        j.w = how->spec.crop_w, j.h = how->spec.crop_h;
    j.picture_bytes = (size_t)j.w * (size_t)j.h * 3;
    j.tensor_bytes = sp_prep_output_bytes(&how->spec);
    j.batches = g->info.simulated ? 2 : (int)(ROTATE_BYTES / (j.picture_bytes * (size_t)j.count)) + 1;
    j.batches = SP_MIN(j.batches, BATCHES_MOST);
    size_t all = (size_t)j.batches * (size_t)j.count;
    j.host = room(j.picture_bytes);
    fill(j.host, j.picture_bytes);
    j.pictures = gpu_reserve(g, all * j.picture_bytes);
    j.tensors = gpu_reserve(g, all * j.tensor_bytes);
    for (size_t i = 0; i < all; i++) {
        size_t turn = 3 * i % j.picture_bytes;
        gpu_need(g->api->copy_in(g->stream, j.pictures + i * j.picture_bytes, j.host + turn, j.picture_bytes - turn, &error), &error);
        if (turn)
            gpu_need(g->api->copy_in(g->stream, j.pictures + (i + 1) * j.picture_bytes - turn, j.host, turn, &error), &error);
    }
    gpu_need(g->api->prep->prep_new(g->cuda, &how->spec, j.count, &j.prep, &error), &error);
    for (int i = 0; i < j.batches; i++)
        enqueue(&j, i);
    compare(&j, 0);
    compare(&j, all - 1);

    gpu_need(g->api->graph_begin(g->stream, &error), &error);
    for (int i = 0; i < j.batches; i++)
        enqueue(&j, i);
    gpu_need(g->api->graph_end(g->stream, &graph, &error), &error);
    gpu_time(g, graph, repeats, &median_us, &best_us);
    (void)snprintf(name, sizeof(name), "%d x %dx%d to %s", j.count, j.w, j.h, how->name);
    /* The goal's case alone is named as the goal is. */
    if (how != &hows[0])
        (void)snprintf(name, sizeof(name), "%s, %d of %dx%d", how->name, j.count, j.w, j.h);
    gpu_row(g, "prep", name, repeats, bytes_of(&j), median_us / j.batches, best_us / j.batches);

    g->api->graph_free(graph);
    g->api->prep->prep_free(j.prep);
    g->api->release(g->cuda, j.pictures);
    g->api->release(g->cuda, j.tensors);
    free(j.host);
}

/* Whole pictures to RGB8 of 224x224, one behind the other: resizing alone. */
static void run_resize(gpu *g, int w, int h, int count, int repeats)
{
    enum { SIDE = 224 };
    const sp_prep_spec *spec = &hows[0].spec;
    sp_error error = { 0 };
    size_t from = (size_t)w * (size_t)h * 3, to = (size_t)SIDE * SIDE * 3;
    int batches = g->info.simulated ? 1 : (int)(ROTATE_BYTES / (from * (size_t)count)) + 1;
    size_t all = (size_t)batches * (size_t)count;
    uint8_t *host = room(from), *want = room(to), *got = room(to), *pictures = gpu_reserve(g, all * from), *dst = gpu_reserve(g, all * to);
    sp_cuda_prep *prep = NULL;
    sp_cuda_graph *graph = NULL;
    double median_us, best_us;
    char name[80];
    fill(host, from);
    gpu_need(g->api->prep->prep_new(g->cuda, spec, count, &prep, &error), &error);
    for (size_t i = 0; i < all; i++)
        gpu_need(g->api->copy_in(g->stream, pictures + i * from, host, from, &error), &error);
    for (int turn = 0; turn < 2; turn++) { /* the first makes the tables */
        if (turn)
            gpu_need(g->api->graph_begin(g->stream, &error), &error);
        for (size_t i = 0; i < (turn ? all : 1); i++) {
            const sp_cuda_picture picture = { pictures + i * from, w, h, (size_t)w * 3 };
            gpu_need(g->api->prep->resize_rgb8(prep, g->stream, &picture, dst + i * to, SIDE, SIDE, (size_t)SIDE * 3, &error), &error);
        }
    }
    gpu_need(g->api->graph_end(g->stream, &graph, &error), &error);
    gpu_time(g, graph, repeats, &median_us, &best_us);
    gpu_need(g->api->copy_out(g->stream, got, dst + (all - 1) * to, to, &error), &error);
    gpu_need(g->api->stream_sync(g->stream, &error), &error);
    sp_prep_scratch *scratch = sp_prep_scratch_new();
    if (!scratch)
        exit(1);
    gpu_need(sp_resize_rgb8(spec->filter, host, w, h, (size_t)w * 3, want, SIDE, SIDE, (size_t)SIDE * 3, scratch, &error), &error);
    if (memcmp(want, got, to) != 0) {
        (void)fprintf(stderr, "the GPU's resized picture is not the CPU's\n");
        exit(1);
    }
    (void)snprintf(name, sizeof(name), "resize 224x224 RGB8, %d of %dx%d", count, w, h);
    gpu_row(g, "prep", name, repeats, (double)count * (double)(from + to), median_us / batches, best_us / batches);
    sp_prep_scratch_free(scratch);
    g->api->graph_free(graph);
    g->api->prep->prep_free(prep);
    g->api->release(g->cuda, pictures);
    g->api->release(g->cuda, dst);
    free(host);
    free(want);
    free(got);
}

/* NV12 frames, one behind the other. */
static void run_yuv(gpu *g, int w, int h, int repeats)
{
    sp_error error = { 0 };
    size_t chroma_stride = ((size_t)w + 1) / 2 * 2, luma = (size_t)w * (size_t)h, frame = luma + chroma_stride * (((size_t)h + 1) / 2);
    size_t rgb = luma * 3;
    int frames = g->info.simulated ? 2 : SP_MIN((int)(ROTATE_BYTES / frame) + 1, BATCHES_MOST);
    uint8_t *host = room(frame), *want = room(rgb), *got = room(rgb);
    uint8_t *device = gpu_reserve(g, frame * (size_t)frames), *dst = gpu_reserve(g, rgb * (size_t)frames);
    fill(host, frame);
    for (int i = 0; i < frames; i++)
        gpu_need(g->api->copy_in(g->stream, device + (size_t)i * frame, host, frame, &error), &error);
    gpu_need(g->api->stream_sync(g->stream, &error), &error);
    sp_cuda_graph *graph = NULL;
    double median_us, best_us;
    char name[80];
    gpu_need(g->api->graph_begin(g->stream, &error), &error);
    for (int i = 0; i < frames; i++) {
        uint8_t *from = device + (size_t)i * frame;
        sp_cuda_yuv yuv = { .y = from, .u = from + luma, .y_stride_bytes = (size_t)w, .uv_stride_bytes = chroma_stride, .w = w, .h = h,
                            .bt709 = true };
        gpu_need(g->api->prep->yuv_to_rgb8(g->stream, &yuv, dst + (size_t)i * rgb, (size_t)w * 3, &error), &error);
    }
    gpu_need(g->api->graph_end(g->stream, &graph, &error), &error);
    gpu_time(g, graph, repeats, &median_us, &best_us);
    gpu_need(g->api->copy_out(g->stream, got, dst + (size_t)(frames - 1) * rgb, rgb, &error), &error);
    gpu_need(g->api->stream_sync(g->stream, &error), &error);
    sp_yuv_to_rgb8_c(want, (size_t)w * 3, host, (size_t)w, host + luma, NULL, chroma_stride, w, h, true, false);
    if (memcmp(want, got, rgb) != 0) {
        (void)fprintf(stderr, "the GPU's frame is not the CPU's\n");
        exit(1);
    }
    (void)snprintf(name, sizeof(name), "NV12 to RGB8, %dx%d", w, h);
    gpu_row(g, "prep", name, repeats, (double)(frame + rgb), median_us / frames, best_us / frames);
    g->api->graph_free(graph);
    g->api->release(g->cuda, device);
    g->api->release(g->cuda, dst);
    free(host);
    free(want);
    free(got);
}

int main(int argc, char **argv)
{
    int repeats = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 200, count = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 32;
    int w = 1280, h = 720;
    if (repeats < 1 || repeats > 100000 || count < 1 || count > 256 ||
        (argc > 3 && (sscanf(argv[3], "%dx%d", &w, &h) != 2 || w < 1 || h < 1 || w > 16384 || h > 16384))) {
        (void)fprintf(stderr, "bench-gpu-prep [repeats [pictures [WIDTHxHEIGHT]]]\n");
        return 2;
    }
    sp_kernels_init();
    gpu g = gpu_open();
    for (size_t i = 0; i < SP_ARRAY_LEN(hows); i++)
        run(&g, &hows[i], w, h, count, repeats);
    run_resize(&g, w, h, count, repeats);
    run_yuv(&g, w, h, repeats);
    gpu_close(&g);
    return 0;
}
