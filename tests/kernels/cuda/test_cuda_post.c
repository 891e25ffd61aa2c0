/* SPDX-License-Identifier: Apache-2.0
 * What comes after a model, on the device: softmax, top-k, best of columns, suppression, against the scalar reference, to the
 * bit and index for index, in all orders of threads and blocks. Detectors' heads: tests/task/detect_cuda.c.
 * SPILLWAY_FULL=1 adds the sizes of real detectors. */
#include <math.h>
#include <stdio.h>

#include "house.h"
#include "kernels/cuda_post.h"
#include "kernels/kernels.h"

#define GUARD 64

static bool full(void)
{
    const char *value = getenv("SPILLWAY_FULL");
    return value && *value == '1';
}

static bool sanitized(void)
{
    return getenv("SPILLWAY_SANITIZER") != NULL;
}

static float random_unit(void)
{
    return (float)((double)(test_random() >> 11) / 9007199254740992.0);
}

/* Kinds: even, ties, few (most are 0), odd ones. */
enum { EVEN, TIES, FEW, ODD, KINDS };

static float random_score(int kind)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-42f, 3e38f, -3e38f, 0.5f };
    switch (kind) {
    case EVEN:
        return random_unit();
    case TIES:
        return (float)test_random_between(0, 4) / 4;
    case FEW:
        return random_unit() < 0.02f ? random_unit() : 0.0f;
    default:
        return test_random() % 2 ? odd[test_random() % SP_ARRAY_LEN(odd)] : random_unit() * 2 - 1;
    }
}

static void *room(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);
    REQUIRE(memory != NULL);
    return memory;
}

static float *scores_new(size_t n, int kind)
{
    float *score = room(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        score[i] = random_score(kind);
    return score;
}

/* Device memory of exactly `bytes`, with bytes behind it that nobody may touch (where the address sanitizer does not say so). */
typedef struct area {
    uint8_t *device;
    size_t bytes;
} area;

static area area_new(cuda_house *house, const void *from, size_t bytes)
{
    size_t guard = sanitized() ? 0 : GUARD;
    uint8_t *host = room(bytes + guard);
    memset(host, 0xa7, bytes + guard);
    if (from)
        memcpy(host, from, bytes);
    area a = { cuda_house_put(house, host, bytes + guard), bytes };
    free(host);
    return a;
}

/* Brings the bytes back (ret_host may be NULL), looks behind them, frees. */
static void area_end(cuda_house *house, area *a, void *ret_host)
{
    size_t guard = sanitized() ? 0 : GUARD;
    uint8_t *host = room(a->bytes + guard);
    cuda_house_get(house, host, a->device, a->bytes + guard);
    if (ret_host)
        memcpy(ret_host, host, a->bytes);
    for (size_t i = 0; i < guard; i++)
        CHECK(host[a->bytes + i] == 0xa7);
    house->api->release(house->cuda, a->device);
    free(host);
}

/* --- rows of numbers --- */

static void softmax_case(cuda_house *house, int rows, int n, int kind, bool in_place)
{
    size_t count = (size_t)rows * (size_t)n;
    float *src = scores_new(count, kind), *expected = room(count * 4), *got = room(count * 4);
    sp_error err = { 0 };
    for (int r = 0; r < rows; r++)
        sp_softmax_f32_c(expected + (size_t)r * (size_t)n, src + (size_t)r * (size_t)n, n);
    area from = area_new(house, src, count * 4), to = area_new(house, NULL, count * 4);
    float *device_src = (float *)(void *)from.device, *device_dst = in_place ? device_src : (float *)(void *)to.device;
    CHECK_INT(house->api->post->softmax_f32(house->stream, device_dst, device_src, rows, n, &err), SP_OK);
    area_end(house, &from, in_place ? got : NULL);
    area_end(house, &to, in_place ? NULL : got);
    CHECK_BYTES(got, expected, count * 4);
    free(src);
    free(expected);
    free(got);
}

TEST(cuda_post_softmax)
{
    static const int sizes[] = { 1, 2, 31, 32, 33, 127, 128, 129, 1000, 1023, 1024, 1025, 2500 };
    cuda_house house;
    CUDA_HOUSE(&house);
    CUDA_ORDERS(&house, order) {
        for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
            softmax_case(&house, test_random_between(1, 17), sizes[i], EVEN, order % 2);
            softmax_case(&house, 3, sizes[i], ODD, order % 2 == 0);
        }
    }
    cuda_house_done(&house);
}

TEST(cuda_post_softmax_of_what_is_no_number)
{
    float rows[4][40];
    cuda_house house;
    CUDA_HOUSE(&house);
    for (int i = 0; i < 40; i++) {
        rows[0][i] = -INFINITY;
        rows[1][i] = i == 7 ? NAN : 1.0f;
        rows[2][i] = i == 39 ? INFINITY : 1.0f;
        rows[3][i] = i % 2 ? -INFINITY : 3e38f;
    }
    area at = area_new(&house, rows, sizeof(rows));
    float *device = (float *)(void *)at.device;
    CHECK_INT(house.api->post->softmax_f32(house.stream, device, device, 4, 40, NULL), SP_OK);
    area_end(&house, &at, rows);
    for (int i = 0; i < 40; i++) {
        uint32_t bits[3];
        for (int r = 0; r < 3; r++)
            memcpy(&bits[r], &rows[r][i], 4);
        CHECK(bits[0] == 0x7fc00000u && bits[1] == 0x7fc00000u && bits[2] == 0x7fc00000u);
        CHECK(rows[3][i] == (i % 2 ? 0.0f : 0.05f));
    }
    cuda_house_done(&house);
}

static void topk_case(cuda_house *house, int rows, int n, int k, int kind)
{
    size_t count = (size_t)rows * (size_t)n, told = (size_t)rows * (size_t)k, bytes = house->api->post->topk_space(rows, n, k);
    float *src = scores_new(count, kind), *value[2] = { room(told * 4), room(told * 4) };
    int32_t *index[2] = { room(told * 4), room(told * 4) };
    for (int r = 0; r < rows; r++)
        sp_topk_f32_c(index[0] + r * k, value[0] + r * k, src + (size_t)r * (size_t)n, n, k);
    area from = area_new(house, src, count * 4), values = area_new(house, NULL, told * 4), indices = area_new(house, NULL, told * 4);
    area space = area_new(house, NULL, bytes);
    CHECK_INT(house->api->post->topk_f32(house->stream, (int32_t *)(void *)indices.device, (float *)(void *)values.device,
                                         (float *)(void *)from.device, rows, n, k, space.device, NULL), SP_OK);
    area_end(house, &from, NULL);
    area_end(house, &space, NULL);
    area_end(house, &values, value[1]);
    area_end(house, &indices, index[1]);
    CHECK_BYTES(index[1], index[0], told * 4);
    CHECK_BYTES(value[1], value[0], told * 4);
    free(src);
    for (int i = 0; i < 2; i++) {
        free(value[i]);
        free(index[i]);
    }
}

TEST(cuda_post_topk)
{
    static const int sizes[] = { 1, 2, 31, 32, 33, 64, 65, 1000, 2047, 2048, 2049, 5000 };
    cuda_house house;
    CUDA_HOUSE(&house);
    CUDA_ORDERS(&house, order) {
        for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
            int n = sizes[i], kind = (order + (int)i) % KINDS;
            topk_case(&house, n > 1000 ? 2 : 5, n, SP_MIN(n, 5), kind);
            topk_case(&house, 1, n, n > 1000 ? test_random_between(1, 150) : n, (kind + 1) % KINDS);
        }
    }
    topk_case(&house, 1, 4097, 4097, ODD);
    topk_case(&house, 1, 4097, 2300, TIES);
    CHECK_INT(house.api->post->topk_f32(house.stream, NULL, NULL, NULL, 1, 4, 5, NULL, NULL), SP_INTERNAL);
    cuda_house_done(&house);
}

static void columns_case(cuda_house *house, int batch, int n, int rows, int kind)
{
    size_t stride = (size_t)n + (size_t)test_random_between(0, 5), apart = stride * (size_t)rows + (size_t)test_random_between(0, 9);
    size_t told = (size_t)batch * (size_t)n;
    float *src = scores_new((size_t)batch * apart, kind), *best[2] = { room((told + SP_BOX_SLACK) * 4), room(told * 4) };
    int32_t *which[2] = { room((told + SP_BOX_SLACK) * 4), room(told * 4) };
    for (int b = 0; b < batch; b++)
        sp_best_columns_f32_c(best[0] + b * n, which[0] + b * n, src + (size_t)b * apart, n, rows, stride);
    area from = area_new(house, src, (size_t)batch * apart * 4), to = area_new(house, NULL, told * 4), at = area_new(house, NULL, told * 4);
    CHECK_INT(house->api->post->best_columns_f32(house->stream, (float *)(void *)to.device, (int32_t *)(void *)at.device,
                                                 (float *)(void *)from.device, batch, n, rows, stride, apart, NULL), SP_OK);
    area_end(house, &from, NULL);
    area_end(house, &to, best[1]);
    area_end(house, &at, which[1]);
    CHECK_BYTES(best[1], best[0], told * 4);
    CHECK_BYTES(which[1], which[0], told * 4);
    free(src);
    for (int i = 0; i < 2; i++) {
        free(best[i]);
        free(which[i]);
    }
}

TEST(cuda_post_best_columns)
{
    static const int sizes[] = { 1, 31, 32, 33, 100, 333 };
    cuda_house house;
    CUDA_HOUSE(&house);
    CUDA_ORDERS(&house, order) {
        for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
            for (int kind = 0; kind < KINDS; kind++)
                columns_case(&house, test_random_between(1, 3), sizes[i], (int)i + kind == 0 ? 1 : test_random_between(1, 81), kind);
        }
    }
    cuda_house_done(&house);
}

/* --- suppression --- */

typedef struct nms_case {
    int batch, n, labels; /* labels 1: a class each */
    int scores;           /* a kind of scores */
    int boxes;            /* 0 scattered, 1 crowded, 2 small whole numbers, 3 odd, 4 all the same, 5 none meet, 6 a chain */
    int classes;          /* 0 = agnostic */
    sp_nms_params params;
} nms_case;

static void random_box(int kind, int i, float *box)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, 1e30f, -1e30f };
    float side = kind == 0 ? 640.0f : 60.0f, x = random_unit() * side, y = random_unit() * side;
    box[0] = x;
    box[1] = y;
    box[2] = x + random_unit() * 50;
    box[3] = y + random_unit() * 50;
    for (int p = 0; p < 4; p++) {
        if (kind == 2)
            box[p] = (float)test_random_between(0, 6); /* equal ones, without area, exact ratios */
        else if (kind == 4)
            box[p] = (float)(p * 3);
        else if (kind == 5)
            box[p] = (float)(10 * i + 3 * p);
        else if (kind == 6) /* each meets the one before and the one after */
            box[p] = p & 1 ? (float)(10 * (p / 2)) : (float)(4 * i + 10 * (p / 2));
    }
    if (kind == 3 && test_random() % 4 == 0)
        box[test_random() % 4] = odd[test_random() % SP_ARRAY_LEN(odd)];
}

/* What the scalar code keeps of one picture: indices as the device numbers them. */
static int expect(const nms_case *c, const float *boxes, const float *score, const int32_t *class_id, int32_t *ret_kept)
{
    float *all = room((size_t)c->n * 16);
    int32_t *classes = room((size_t)c->n * 4);
    sp_nms_scratch *scratch = sp_nms_scratch_new(c->n);
    REQUIRE(scratch != NULL);
    for (int i = 0; i < c->n; i++) {
        memcpy(all + 4 * i, boxes + 4 * (i / c->labels), 16);
        classes[i] = c->labels > 1 ? i % c->labels : class_id[i];
    }
    int kept = sp_nms_run(scratch, all, score, c->classes ? classes : NULL, c->n, &c->params, ret_kept);
    sp_nms_scratch_free(scratch);
    free(all);
    free(classes);
    return kept;
}

static void nms_check(cuda_house *house, const nms_case *c)
{
    size_t all = (size_t)c->batch * (size_t)c->n, box_count = all / (size_t)c->labels;
    int most = c->params.most > 0 ? c->params.most : c->n;
    float *boxes = room(box_count * 16), *score = scores_new(all, c->scores);
    int32_t *class_id = room(all * 4), *expected = room((size_t)SP_MAX(c->n, most) * 4), *kept = room((size_t)c->batch * (size_t)most * 4);
    int32_t *counts = room((size_t)c->batch * 4);
    for (size_t i = 0; i < box_count; i++)
        random_box(c->boxes, (int)i, boxes + 4 * i);
    for (size_t i = 0; i < all; i++) /* any numbers are classes */
        class_id[i] = test_random_between(0, SP_MAX(c->classes - 1, 0)) * (c->classes > 4 ? -2000003 : 1);
    area at_boxes = area_new(house, boxes, box_count * 16), at_score = area_new(house, score, all * 4);
    area at_class = area_new(house, class_id, all * 4), at_kept = area_new(house, NULL, (size_t)c->batch * (size_t)most * 4);
    area at_count = area_new(house, NULL, (size_t)c->batch * 4);
    area space = area_new(house, NULL, house->api->post->nms_space(c->batch, c->n, &c->params));
    const sp_cuda_nms nms = {
        .boxes = (float *)(void *)at_boxes.device, .score = (float *)(void *)at_score.device,
        .class_id = c->classes && c->labels == 1 ? (int32_t *)(void *)at_class.device : NULL, .batch = c->batch, .n = c->n,
        .params = c->params, .kept = (int32_t *)(void *)at_kept.device, .kept_count = (int32_t *)(void *)at_count.device,
        .labels = c->labels, .agnostic = !c->classes,
    };
    sp_error err = { 0 };
    CHECK_INT(house->api->post->nms(house->stream, &nms, space.device, &err), SP_OK);
    area_end(house, &at_boxes, NULL);
    area_end(house, &at_score, NULL);
    area_end(house, &at_class, NULL);
    area_end(house, &space, NULL);
    area_end(house, &at_kept, kept);
    area_end(house, &at_count, counts);
    for (int b = 0; b < c->batch; b++) {
        int count = expect(c, boxes + 4 * (size_t)b * (size_t)(c->n / c->labels), score + (size_t)b * (size_t)c->n,
                           class_id + (size_t)b * (size_t)c->n, expected);
        CHECK_INT(counts[b], count);
        if (counts[b] == count && memcmp(kept + (size_t)b * (size_t)most, expected, (size_t)count * 4) != 0)
            test_fail(__FILE__, __LINE__, "other indices: batch %d of %d, n %d, labels %d, scores %d, boxes %d, classes %d, iou %g, "
                      "candidates %d, most %d", b, c->batch, c->n, c->labels, c->scores, c->boxes, c->classes, (double)c->params.iou,
                      c->params.candidates, c->params.most);
    }
    free(boxes);
    free(score);
    free(class_id);
    free(expected);
    free(kept);
    free(counts);
}

static nms_case random_case(int n)
{
    static const float ious[] = { 0.0f, 0.3f, 0.45f, 0.5f, 0.9f, 1.0f, 7.0f };
    static const float thresholds[] = { -INFINITY, 0.0f, 0.001f, 0.25f, 0.5f, 1.0f };
    static const int classes[] = { 0, 0, 1, 2, 7, 80 };
    nms_case c = {
        .batch = n > 200 ? 1 : test_random_between(1, 8), .n = n, .labels = 1, .scores = test_random_between(0, KINDS - 1),
        .boxes = test_random_between(0, 6), .classes = classes[test_random() % SP_ARRAY_LEN(classes)],
        .params = { .threshold = thresholds[test_random() % SP_ARRAY_LEN(thresholds)], .iou = ious[test_random() % SP_ARRAY_LEN(ious)] },
    };
    if (test_random() % 3 == 0)
        c.params.candidates = test_random_between(1, n + 3);
    if (test_random() % 3 == 0)
        c.params.most = test_random_between(1, n + 3);
    return c;
}

TEST(cuda_post_nms)
{
    static const int sizes[] = { 1, 2, 31, 32, 33, 63, 64, 65, 127, 129, 255, 256, 257, 511, 513, 700 };
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_kernels_init();
    CUDA_ORDERS(&house, order) {
        for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
            nms_case c = random_case(sizes[i]);
            nms_check(&house, &c);
        }
    }
    cuda_house_done(&house);
}

/* More than one tile of keys, several panels to pull from; chains that are settled late. */
TEST(cuda_post_nms_of_many)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_kernels_init();
    CUDA_ORDERS(&house, order) {
        nms_case c = { .batch = 1, .n = sanitized() ? 2100 : 2600, .labels = 1, .scores = order % 2 ? TIES : EVEN, .boxes = order % 3 == 2 ? 6 : order % 3,
                       .classes = order % 2 ? 3 : 0, .params = { .threshold = -1.0f, .iou = 0.3f } };
        if (order == 5)
            c.params.candidates = 2050;
        nms_check(&house, &c);
        if (order > 1 && sanitized())
            break;
    }
    nms_case kinds = { .batch = 2, .n = 600, .labels = 1, .scores = EVEN, .boxes = 4, .params = { .threshold = 0.0f, .iou = 0.5f } };
    nms_check(&house, &kinds); /* all the same box: one stays */
    kinds.boxes = 5;
    nms_check(&house, &kinds); /* none meet: all stay */
    kinds.classes = 600;
    nms_check(&house, &kinds);
    kinds.params.threshold = 2.0f;
    nms_check(&house, &kinds); /* nothing passes */
    (void)cuda_house_order(&house, 0);
    nms_case list = { .batch = 1, .n = 8800, .labels = 1, .scores = EVEN, .boxes = 0, .classes = 900, .params = { .threshold = -1.0f, .iou = 0.5f } };
    nms_check(&house, &list); /* more than are told at a time */
    cuda_house_done(&house);
}

/* So many scores that they are made dense first, most of them for classes of few boxes (multi-label). */
TEST(cuda_post_nms_of_labels)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_kernels_init();
    CUDA_ORDERS(&house, order) {
        nms_case c = { .batch = 1, .n = 80 * 850, .labels = 80, .scores = FEW, .boxes = 1, .classes = order % 3 == 2 ? 0 : 80,
                       .params = { .threshold = 0.001f, .iou = 0.45f, .candidates = order % 2 ? 300 : 2000, .most = 300 } };
        if (sanitized())
            c.params.candidates = 300;
        nms_check(&house, &c);
        nms_case few = { .batch = 3, .n = 20 * 15, .labels = 20, .scores = EVEN, .boxes = 1, .classes = 20,
                         .params = { .threshold = 0.5f, .iou = 0.45f, .candidates = 150 } };
        nms_check(&house, &few);
        if (order > 1 && sanitized())
            break;
    }
    cuda_house_done(&house);
}

TEST(cuda_post_nms_at_full_size)
{
    cuda_house house;
    if (!full())
        SKIP("8,400 boxes and 30,000 candidates: only with SPILLWAY_FULL=1");
    CUDA_HOUSE(&house);
    sp_kernels_init();
    nms_case one_class = { .batch = 1, .n = 8400, .labels = 1, .scores = EVEN, .boxes = 0, .params = { .threshold = 0.0f, .iou = 0.45f } };
    nms_check(&house, &one_class);
    one_class.boxes = 1;
    nms_check(&house, &one_class);
    nms_case labels = { .batch = 1, .n = 8400 * 80, .labels = 80, .scores = EVEN, .boxes = 0, .classes = 80,
                        .params = { .threshold = 0.9f, .iou = 0.45f, .candidates = 30000, .most = 300 } };
    nms_check(&house, &labels);
    cuda_house_done(&house);
}

TEST(cuda_post_nms_that_is_too_large_is_refused)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_cuda_nms nms = { .batch = 1, .n = SP_LIMIT_CUDA_NMS + 1, .params = { .iou = 0.5f } };
    sp_error err = { 0 };
    CHECK_INT(house.api->post->nms_space(1, nms.n, &nms.params), 0);
    CHECK_INT(house.api->post->nms(house.stream, &nms, NULL, &err), SP_UNSUPPORTED);
    nms.params.candidates = 30000;
    CHECK(house.api->post->nms_space(1, nms.n, &nms.params) > 0);
    cuda_house_done(&house);
}

/* A graph of it answers each picture that is put where it looks. */
TEST(cuda_post_nms_repeats_as_a_graph)
{
    enum { N = 300 };
    cuda_house house;
    CUDA_HOUSE(&house);
    const sp_nms_params params = { .threshold = 0.25f, .iou = 0.45f, .most = 100 };
    float boxes[N * 4], score[N];
    int32_t class_id[N], kept[N], expected[N], count;
    sp_cuda_graph *graph = NULL;
    sp_kernels_init();
    area at_boxes = area_new(&house, NULL, sizeof(boxes)), at_score = area_new(&house, NULL, sizeof(score));
    area at_class = area_new(&house, NULL, sizeof(class_id)), at_kept = area_new(&house, NULL, 100 * 4), at_count = area_new(&house, NULL, 4);
    area space = area_new(&house, NULL, house.api->post->nms_space(1, N, &params));
    const sp_cuda_nms nms = { .boxes = (float *)(void *)at_boxes.device, .score = (float *)(void *)at_score.device,
                              .class_id = (int32_t *)(void *)at_class.device, .batch = 1, .n = N, .params = params,
                              .kept = (int32_t *)(void *)at_kept.device, .kept_count = (int32_t *)(void *)at_count.device };
    REQUIRE(house.api->graph_begin(house.stream, NULL) == SP_OK);
    CHECK_INT(house.api->post->nms(house.stream, &nms, space.device, NULL), SP_OK);
    REQUIRE(house.api->graph_end(house.stream, &graph, NULL) == SP_OK);
    for (int round = 0; round < 4; round++) {
        nms_case c = { .batch = 1, .n = N, .labels = 1, .classes = 3, .params = params };
        for (int i = 0; i < N; i++) {
            score[i] = random_score(round % KINDS);
            random_box(round, i, boxes + 4 * i);
            class_id[i] = test_random_between(0, 2);
        }
        REQUIRE(house.api->copy_in(house.stream, at_boxes.device, boxes, sizeof(boxes), NULL) == SP_OK);
        REQUIRE(house.api->copy_in(house.stream, at_score.device, score, sizeof(score), NULL) == SP_OK);
        REQUIRE(house.api->copy_in(house.stream, at_class.device, class_id, sizeof(class_id), NULL) == SP_OK);
        REQUIRE(house.api->graph_launch(graph, house.stream, NULL) == SP_OK);
        cuda_house_get(&house, &count, at_count.device, 4);
        cuda_house_get(&house, kept, at_kept.device, 100 * 4);
        CHECK_INT(count, expect(&c, boxes, score, class_id, expected));
        CHECK_BYTES(kept, expected, (size_t)SP_MIN(count, 100) * 4);
    }
    house.api->graph_free(graph);
    area_end(&house, &at_boxes, NULL);
    area_end(&house, &at_score, NULL);
    area_end(&house, &at_class, NULL);
    area_end(&house, &at_kept, NULL);
    area_end(&house, &at_count, NULL);
    area_end(&house, &space, NULL);
    cuda_house_done(&house);
}
