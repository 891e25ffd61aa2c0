/* SPDX-License-Identifier: Apache-2.0
 * Suppression on a GPU, device scores to kept indices, as one graph: a picture's usual output, all boxes in one class, every
 * label of every box over .001; and a YOLOX head's numbers to boxes. What is kept is compared with the CPU's, index for index.
 *
 *   bench-gpu-nms [repeats [boxes [classes [FILE]]]]        one JSON row a case (gpu.h)
 *
 * FILE: a real head's numbers, f32 [boxes][5 + classes], little-endian (YOLOX-s at 640: 8,400 x 85); else such ones are made up.
 *
 * Floors: what must be read once (scores, boxes) at the device's bandwidth, or the pairs that must be compared (each candidate
 * with the kept ones of its class before it) at 22 instructions on all lanes, whichever takes longer. */
#include "gpu.h"

#include "kernels/cuda_post.h"
#include "kernels/kernels.h"
#include "kernels/post_arith.h"

#include <math.h>

#define PAIR_INSTRUCTIONS 22.0
#define LANES 128.0 /* of one multiprocessor */
#define MOST 300

typedef struct job {
    gpu *g;
    const char *name;
    int n, labels, classes; /* classes 0: agnostic */
    float *boxes, *score;
    int32_t *class_id;
    sp_nms_params params;
} job;

static uint64_t state = 8400;

static float random_unit(void)
{
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = (state ^ state >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)((z ^ z >> 31) >> 11) / 9007199254740992.0);
}

static void *room(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);
    if (!memory)
        exit(1);
    return memory;
}

static int class_of(const job *j, int i)
{
    return !j->classes ? 0 : j->labels > 1 ? i % j->labels : j->class_id[i];
}

/* What the CPU keeps. */
static int expect(const job *j, int32_t *ret_kept)
{
    sp_nms_scratch *scratch = sp_nms_scratch_new(j->n);
    float *boxes = room((size_t)j->n * 16);
    int32_t *classes = room((size_t)j->n * 4);
    if (!scratch)
        exit(1);
    for (int i = 0; i < j->n; i++) {
        memcpy(boxes + 4 * (size_t)i, j->boxes + 4 * (size_t)(i / j->labels), 16);
        classes[i] = class_of(j, i);
    }
    int kept = sp_nms_run(scratch, boxes, j->score, classes, j->n, &j->params, ret_kept);
    sp_nms_scratch_free(scratch);
    free(boxes);
    free(classes);
    return kept;
}

/* Pairs of a kept box and a candidate of its class behind it. */
static double pairs_of(const job *j, const int32_t *kept, int count)
{
    double pairs = 0;
    for (int k = 0; k < count; k++) {
        for (int i = 0; i < j->n; i++)
            pairs += class_of(j, i) == class_of(j, kept[k]) && j->score[i] > j->params.threshold && j->score[i] < j->score[kept[k]];
    }
    return pairs;
}

static double instructions_us(const gpu *g, double pairs)
{
    double rate = (double)g->info.multiprocessors * LANES * (double)g->info.clock_khz * 1e3;
    return rate > 0 ? 1e6 * pairs * PAIR_INSTRUCTIONS / rate : 0;
}

static void release_all(gpu *g, void *const *all, size_t count)
{
    for (size_t i = 0; i < count; i++)
        g->api->release(g->cuda, all[i]);
}

static void run(job *j, int repeats)
{
    gpu *g = j->g;
    sp_error error = { 0 };
    int most = j->params.most > 0 ? j->params.most : j->n, count = 0;
    size_t box_count = (size_t)(j->n / j->labels), all = (size_t)j->n;
    float *boxes = gpu_reserve(g, box_count * 16), *score = gpu_reserve(g, all * 4);
    int32_t *class_id = gpu_reserve(g, all * 4), *kept = gpu_reserve(g, (size_t)most * 4), *kept_count = gpu_reserve(g, 4);
    void *space = gpu_reserve(g, g->api->post->nms_space(1, j->n, &j->params));
    int32_t *expected = room(all * 4), *got = room((size_t)most * 4);
    sp_cuda_graph *graph;
    double median_us, best_us;
    gpu_need(g->api->copy_in(g->stream, boxes, j->boxes, box_count * 16, &error), &error);
    gpu_need(g->api->copy_in(g->stream, score, j->score, all * 4, &error), &error);
    gpu_need(g->api->copy_in(g->stream, class_id, j->class_id, box_count * 4, &error), &error);
    const sp_cuda_nms nms = { .boxes = boxes, .score = score, .class_id = j->classes && j->labels == 1 ? class_id : NULL, .batch = 1,
                              .n = j->n, .params = j->params, .kept = kept, .kept_count = kept_count, .labels = j->labels,
                              .agnostic = !j->classes };
    gpu_need(g->api->graph_begin(g->stream, &error), &error);
    gpu_need(g->api->post->nms(g->stream, &nms, space, &error), &error);
    gpu_need(g->api->graph_end(g->stream, &graph, &error), &error);
    gpu_time(g, graph, repeats, &median_us, &best_us);
    gpu_need(g->api->copy_out(g->stream, &count, kept_count, 4, &error), &error);
    gpu_need(g->api->copy_out(g->stream, got, kept, (size_t)most * 4, &error), &error);
    gpu_need(g->api->stream_sync(g->stream, &error), &error);
    int want = expect(j, expected);
    if (want != count || memcmp(got, expected, (size_t)want * 4) != 0) {
        (void)fprintf(stderr, "%s: %d kept on the device, %d on the CPU, or other ones\n", j->name, count, want);
        exit(1);
    }
    gpu_row_above(g, "nms", j->name, repeats, (double)all * 4 + (double)box_count * 16,
                  instructions_us(g, pairs_of(j, expected, want)), median_us, best_us);
    g->api->graph_free(graph);
    void *const device[] = { boxes, score, class_id, kept, kept_count, space };
    release_all(g, device, SP_ARRAY_LEN(device));
    free(expected);
    free(got);
}

/* The head to boxes: decode, suppression, boxes side by side. tests/task/detect_cuda.c compares them. */
static void run_head(gpu *g, const float *numbers, int n, int classes, int repeats)
{
    sp_error error = { 0 };
    size_t bytes = (size_t)n * (size_t)(5 + classes) * 4;
    float *device = gpu_reserve(g, bytes);
    sp_cuda_head head = { .kind = SP_CUDA_HEAD_YOLOX, .batch = 1, .boxes = n, .classes = classes, .tensors = { device }, .levels = 3,
                          .strides = { 8, 16, 32 }, .grid_w = { 80, 40, 20 }, .grid_h = { 80, 40, 20 }, .background = -1 };
    if (n != 8400) { /* any grid will do */
        head.levels = 1;
        head.grid_w[0] = n;
        head.grid_h[0] = 1;
    }
    const sp_nms_params params = { .threshold = 0.3f, .iou = 0.45f, .candidates = 30000, .most = MOST };
    const sp_cuda_detections ret = { gpu_reserve(g, MOST * sizeof(sp_cuda_detection)), gpu_reserve(g, 4), gpu_reserve(g, 4) };
    void *space = gpu_reserve(g, g->api->post->detect_space(&head, &params));
    sp_cuda_graph *graph;
    double median_us, best_us;
    gpu_need(g->api->copy_in(g->stream, device, numbers, bytes, &error), &error);
    gpu_need(g->api->graph_begin(g->stream, &error), &error);
    gpu_need(g->api->post->detect(g->stream, &head, &params, true, &ret, space, &error), &error);
    gpu_need(g->api->graph_end(g->stream, &graph, &error), &error);
    gpu_time(g, graph, repeats, &median_us, &best_us);
    gpu_row(g, "nms", "YOLOX head to boxes", repeats, (double)n * 32, median_us, best_us); /* a sector with each objectness */
    g->api->graph_free(graph);
    void *const all[] = { device, ret.boxes, ret.count, ret.bad, space };
    release_all(g, all, SP_ARRAY_LEN(all));
}

/* A head's numbers: a dozen boxes over the threshold for each of n / 280 objects, and nothing much elsewhere. */
static float *numbers_of(const char *path, int n, int classes)
{
    size_t columns = (size_t)(5 + classes), count = (size_t)n * columns;
    float *numbers = room(count * sizeof(float));
    FILE *file = path ? fopen(path, "rbe") : NULL;
    if (path && (!file || fread(numbers, sizeof(float), count, file) != count)) {
        (void)fprintf(stderr, "%s: not %d x %d numbers\n", path, n, 5 + classes);
        exit(1);
    }
    if (file)
        (void)fclose(file);
    for (int i = 0; !path && i < n; i++) {
        float *row = numbers + (size_t)i * columns;
        for (size_t c = 0; c < columns; c++)
            row[c] = c < 2 ? random_unit() : c < 4 ? 1 + random_unit() : 0.05f * random_unit();
        if (i % 280 < 12)
            row[4] = 0.5f + 0.5f * random_unit();
        row[5 + (i / 280) % classes] = 0.7f + 0.3f * random_unit();
    }
    return numbers;
}

/* Each box with its best class, whatever its score. */
static void best_of(const float *numbers, int classes, job *j)
{
    for (int i = 0; i < j->n; i++) {
        const float *row = numbers + (size_t)i * (size_t)(5 + classes);
        int level = j->n == 8400 ? (i >= 6400) + (i >= 8000) : 0, within = i - (level == 1 ? 6400 : level == 2 ? 8000 : 0);
        int w = j->n == 8400 ? 80 >> level : j->n;
        float best;
        sp_kernels.topk_f32(&j->class_id[i], &best, row + 5, classes, 1);
        j->score[i] = row[4] * best;
        sp_head_grid(j->boxes + 4 * (size_t)i, row, within % w, within / w, (float)(8 << level));
    }
}

int main(int argc, char **argv)
{
    long asked[3] = { 200, 8400, 80 };
    for (int i = 1; i < argc && i < 4; i++)
        asked[i - 1] = strtol(argv[i], NULL, 10);
    if (asked[0] < 1 || asked[0] > 1 << 20 || asked[1] < 1 || asked[2] < 1 || asked[1] > 1 << 20 || asked[2] > (1 << 24) / asked[1])
        return 2;
    const int repeats = (int)asked[0], n = (int)asked[1], classes = (int)asked[2];
    gpu g = gpu_open();
    sp_kernels_init();
    float *numbers = numbers_of(argc > 4 ? argv[4] : NULL, n, classes);
    size_t all = (size_t)n * (size_t)classes;
    job j = { .g = &g, .name = "a picture, class-wise", .n = n, .labels = 1, .classes = classes, .boxes = room((size_t)n * 16),
              .score = room(all * 4), .class_id = room((size_t)n * 4),
              .params = { .threshold = 0.3f, .iou = 0.45f, .candidates = 30000, .most = MOST } };
    best_of(numbers, classes, &j);
    run(&j, repeats);

    j.name = "all in one class";
    j.classes = 0;
    j.params = (sp_nms_params){ .threshold = 0, .iou = 0.45f };
    for (int i = 0; i < n; i++) {
        float *box = j.boxes + 4 * (size_t)i;
        j.score[i] = random_unit();
        box[0] = 600 * random_unit();
        box[1] = 600 * random_unit();
        box[2] = box[0] + 8 + 72 * random_unit();
        box[3] = box[1] + 8 + 72 * random_unit();
    }
    run(&j, repeats);

    j.name = "all labels over .001, 30,000 at most";
    j.n = n * classes;
    j.labels = j.classes = classes;
    j.params = (sp_nms_params){ .threshold = 0.001f, .iou = 0.65f, .candidates = SP_MIN(30000, j.n), .most = MOST };
    for (size_t i = 0; i < all; i++) {
        float u = random_unit();
        j.score[i] = random_unit() < 0.09f ? u * u * u : 0;
    }
    run(&j, repeats);
    run_head(&g, numbers, n, classes, repeats);
    free(numbers);
    free(j.boxes);
    free(j.score);
    free(j.class_id);
    gpu_close(&g);
    return 0;
}
