/* SPDX-License-Identifier: Apache-2.0
 * The dense flow's CUDA twin against the scalar one, bit for bit: sizes around the blocks' edges, every kind of window, all
 * parameters, rows and pixels that are not aligned, flows to begin with that are huge or no numbers, a frame that serves two
 * pairs, a graph, and memory that is refused. On the tests' stand-in for a GPU each run has another order of threads and blocks. */
#include "kernels/cuda_flow.h"
#include "kernels/flow_run.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "house.h"

static cuda_house house; /* of the test that runs */

static void begin(void)
{
    CUDA_HOUSE(&house);
    REQUIRE(sp_kernels_force(SP_LEVEL_SCALAR));
}

/* Each run has the next of the six orders. */
static void next_order(void)
{
    static int turn;
    if (!cuda_house_order(&house, turn++))
        turn = cuda_house_order(&house, 0) ? 1 : 0;
}

#define REQUIRE_OK(call)                                                         \
    do {                                                                         \
        sp_error error_ = { 0 };                                                 \
        if ((call) != SP_OK) {                                                   \
            test_fail(__FILE__, __LINE__, "%s: %s", #call, error_.message);      \
            test_end();                                                          \
        }                                                                        \
    } while (0)

static float random_float(float low, float high)
{
    return low + (high - low) * (float)((double)(test_random() >> 11) / 9007199254740992.0);
}

/* --- pictures, flows: on the host and on the device --- */

typedef struct picture {
    uint8_t *memory, *grey;
    char *device;
    size_t skew, stride_bytes, bytes;
} picture;

/* Waves over a flat ground with some noise, moved by (mx, my). Its rows and its first pixel lie anywhere, and memory ends with
 * the last pixel. */
static picture picture_new(int w, int h, float mx, float my, bool aligned)
{
    picture p = { .skew = aligned ? 0 : (size_t)test_random_between(0, 5),
                  .stride_bytes = aligned ? SP_ALIGN_UP((size_t)w, (size_t)4) : (size_t)w + (size_t)test_random_between(0, 5) };
    p.bytes = p.skew + p.stride_bytes * (size_t)(h - 1) + (size_t)w;
    p.memory = malloc(p.bytes);
    REQUIRE(p.memory != NULL);
    memset(p.memory, 0xa5, p.bytes);
    p.grey = p.memory + p.skew;
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            float fx = ((float)x - mx) * 0.21f, fy = ((float)y - my) * 0.17f;
            float v = 90 + 70 * sinf(fx) * cosf(fy) + 30 * sinf(0.37f * fx + fy);
            p.grey[(size_t)y * p.stride_bytes + (size_t)x] = (uint8_t)((x < w / 4 ? 60 : v) + (float)(test_random() % 4));
        }
    }
    void *device = NULL;
    REQUIRE_OK(house.api->reserve(house.cuda, p.bytes, &device, &error_));
    REQUIRE_OK(house.api->copy_in(house.stream, device, p.memory, p.bytes, &error_));
    p.device = device;
    return p;
}

static void picture_free(picture *p)
{
    house.api->release(house.cuda, p->device);
    free(p->memory);
}

typedef struct field { /* dx, then dy */
    float *host, *device;
    size_t stride, floats; /* floats: of one */
} field;

static field field_new(int h, size_t stride, size_t w)
{
    field f = { .stride = stride, .floats = stride * (size_t)(h - 1) + w };
    f.host = malloc(2 * f.floats * sizeof(float));
    REQUIRE(f.host != NULL);
    memset(f.host, 0xff, 2 * f.floats * sizeof(float));
    void *device = NULL;
    REQUIRE_OK(house.api->reserve(house.cuda, (2 * f.floats + 1) * sizeof(float), &device, &error_));
    f.device = (float *)device + 1; /* aligned to no more than a float */
    REQUIRE_OK(house.api->fill(house.stream, device, 0xff, (2 * f.floats + 1) * sizeof(float), &error_));
    return f;
}

static void field_free(field *f)
{
    house.api->release(house.cuda, f->device - 1);
    free(f->host);
}

/* Where a pair begins: mostly sensible, here and there beyond any picture or no number at all. */
static void field_begin(field *f)
{
    static const float odd[] = { 1e9f, -1e9f, 3e38f, -3e38f, NAN, INFINITY, -INFINITY, -0.0f };
    for (size_t i = 0; i < 2 * f->floats; i++)
        f->host[i] = test_random() % 64 ? random_float(-9, 9) : odd[test_random() % SP_ARRAY_LEN(odd)];
    REQUIRE_OK(house.api->copy_in(house.stream, f->device, f->host, 2 * f->floats * sizeof(float), &error_));
}

/* The device's against what the host has, gaps between rows included. */
static void check_field(const field *f, const char *what)
{
    float *got = malloc(2 * f->floats * sizeof(float));
    REQUIRE(got != NULL);
    REQUIRE_OK(house.api->copy_out(house.stream, got, f->device, 2 * f->floats * sizeof(float), &error_));
    REQUIRE_OK(house.api->stream_sync(house.stream, &error_));
    for (size_t i = 0; i < 2 * f->floats; i++) {
        if (memcmp(got + i, f->host + i, sizeof(float)) != 0) {
            size_t at = i % f->floats;
            test_fail(__FILE__, __LINE__, "%s: d%c of (%zu, %zu) is %.9g, not %.9g", what, i < f->floats ? 'x' : 'y', at % f->stride,
                      at / f->stride, (double)got[i], (double)f->host[i]);
            break;
        }
    }
    free(got);
}

/* --- both twins of one flow --- */

typedef struct both {
    sp_flow *flow;
    sp_flow_frame *frame[3];
    sp_flow_scratch *scratch;
    sp_cuda_flow *own;
    sp_cuda_flow_frame *own_frame[3];
    sp_cuda_flow_scratch *own_scratch;
} both;

static both both_new(const sp_flow_params *params, int w, int h)
{
    both b = { 0 };
    REQUIRE_OK(sp_flow_new(params, w, h, &b.flow, &error_));
    REQUIRE_OK(sp_flow_scratch_new(b.flow, &b.scratch, &error_));
    REQUIRE_OK(house.api->flow->flow_new(house.cuda, b.flow, &b.own, &error_));
    REQUIRE_OK(house.api->flow->scratch_new(b.own, &b.own_scratch, &error_));
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(sp_flow_frame_new(b.flow, &b.frame[i], &error_));
        REQUIRE_OK(house.api->flow->frame_new(b.own, &b.own_frame[i], &error_));
    }
    return b;
}

static void both_free(both *b)
{
    for (int i = 0; i < 3; i++) {
        sp_flow_frame_free(b->frame[i]);
        house.api->flow->frame_free(b->own_frame[i]);
    }
    sp_flow_scratch_free(b->scratch);
    house.api->flow->scratch_free(b->own_scratch);
    house.api->flow->flow_free(b->own);
    sp_flow_free(b->flow);
}

static void both_expand(const both *b, int i, const picture *p)
{
    sp_flow_expand(b->flow, b->frame[i], p->grey, p->stride_bytes, b->scratch);
    REQUIRE_OK(house.api->flow->expand(b->own, house.stream, b->own_frame[i], (const uint8_t *)p->device + p->skew,
                                       p->stride_bytes, b->own_scratch, &error_));
}

/* With `init` the pair begins where `f` stands, and in place. */
static void both_pair(const both *b, int from, int to, field *f, bool init)
{
    float *dx = f->host, *dy = dx + f->floats, *own_dx = f->device, *own_dy = own_dx + f->floats;
    sp_flow_pair(b->flow, b->frame[from], b->frame[to], init ? dx : NULL, init ? dy : NULL, dx, dy, f->stride, b->scratch);
    REQUIRE_OK(house.api->flow->pair(b->own, house.stream, b->own_frame[from], b->own_frame[to], init ? own_dx : NULL,
                                     init ? own_dy : NULL, own_dx, own_dy, f->stride, b->own_scratch, &error_));
}

static void check_pair(const sp_flow_params *params, int w, int h, bool init)
{
    char what[160];
    (void)snprintf(what, sizeof(what), "%d x %d, scale %g, levels %d, winsize %d%s, iterations %d, poly %d, %g%s", w, h, params->pyr_scale,
                   params->levels, params->winsize, params->gaussian ? " (Gaussian)" : "", params->iterations, params->poly_n,
                   params->poly_sigma, init ? ", begun" : "");
    both b = both_new(params, w, h);
    picture from = picture_new(w, h, 0, 0, false), to = picture_new(w, h, random_float(-4, 4), random_float(-4, 4), true);
    field f = field_new(h, (size_t)w + (size_t)test_random_between(0, 5), (size_t)w);
    if (init)
        field_begin(&f);
    next_order();
    both_expand(&b, 0, &from);
    both_expand(&b, 1, &to);
    both_pair(&b, 0, 1, &f, init);
    check_field(&f, what);
    field_free(&f);
    picture_free(&from);
    picture_free(&to);
    both_free(&b);
}

/* Sanitizers make the stand-in slow: then every third case. */
static bool left_out(size_t i)
{
    return getenv("SPILLWAY_SANITIZER") && !getenv("SPILLWAY_FULL") && i % 3 != 0;
}

TEST(cuda_flow_of_any_size_is_the_scalar_one)
{
    begin();
    /* A block has 128 columns or 64, less 14 that only its neighbours' sums want; tiles of an expansion are 64 x 16. */
    static const int sizes[][2] = { { 1, 1 }, { 1, 9 }, { 12, 1 }, { 2, 2 }, { 7, 5 }, { 33, 65 }, { 47, 16 }, { 48, 17 }, { 49, 18 },
                                    { 64, 31 }, { 65, 33 }, { 113, 11 }, { 114, 10 }, { 115, 9 }, { 130, 97 }, { 229, 6 } };
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        sp_flow_params params = sp_flow_params_default();
        if (!left_out(i))
            check_pair(&params, sizes[i][0], sizes[i][1], i % 4 == 3);
    }
    cuda_house_done(&house);
}

/* One case for each kernel, each in all orders. */
TEST(cuda_flow_is_the_same_in_any_order)
{
    begin();
    static const sp_flow_params cases[] = {
        { 0.5, 1, 15, 2, 5, 1.2, false }, { 0.6, 1, 9, 2, 7, 1.5, true }, { 0.7, 1, 77, 1, 3, 0, false },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        for (int turn = 0; turn < 6; turn++)
            check_pair(&cases[i], 69, 35, i == 1);
    }
    cuda_house_done(&house);
}

TEST(cuda_flow_has_every_window)
{
    begin();
    /* In a ring of 128 columns up to 65, of 64 up to 33; wider ones over device memory. */
    static const int sides[] = { 1, 2, 3, 5, 8, 14, 16, 17, 21, 31, 33, 35, 64, 66, 101, 127, 200, 255 };
    for (size_t i = 0; i < SP_ARRAY_LEN(sides); i++) {
        for (int gaussian = 0; gaussian < 2; gaussian++) {
            sp_flow_params params = sp_flow_params_default();
            params.winsize = sides[i];
            params.gaussian = gaussian != 0;
            params.levels = 1;
            params.iterations = 2;
            if (!left_out(i))
                check_pair(&params, i % 2 ? 70 : 67, sides[i] > 35 ? 13 : 34, false);
        }
    }
    sp_flow_params params = sp_flow_params_default();
    params.gaussian = true; /* of the default's own side */
    check_pair(&params, 67, 40, false);
    cuda_house_done(&house);
}

TEST(cuda_flow_has_every_neighbourhood_and_count)
{
    begin();
    static const double scales[] = { 0.5, 0.8, 0.37, 0.9, 0.95 };
    for (int n = 1; n <= SP_FLOW_POLY_MAX; n++) {
        sp_flow_params params = { .pyr_scale = scales[n % 5], .levels = n % 4, .winsize = n % 3 ? 15 : 9, .iterations = 1 + n % 6,
                                  .poly_n = n, .poly_sigma = n % 4 ? random_float(0.5f, 2) : 0, .gaussian = n % 5 == 4 };
        if (!left_out((size_t)n))
            check_pair(&params, 66 + n, 35 + n % 3, n % 2 == 0);
    }
    cuda_house_done(&house);
}

/* A pyramid so steep that one pixel of the coarse level is a sum over a hundred of the frame's. */
TEST(cuda_flow_has_steep_pyramids)
{
    begin();
    sp_flow_params params = sp_flow_params_default();
    params.pyr_scale = 0.05;
    params.levels = 1;
    params.iterations = 1;
    params.winsize = 5;
    if (!left_out(1))
        check_pair(&params, 650, 645, false);
    params.pyr_scale = 0.95;
    params.levels = SP_FLOW_LEVELS_MAX;
    check_pair(&params, 75, 74, true);
    cuda_house_done(&house);
}

/* Less shared memory means other blocks, or none for the window: the same bits. */
TEST(cuda_flow_is_the_same_on_any_device)
{
    begin();
    const sp_shim_control *shim = house.shim;
    if (!shim) {
        cuda_house_done(&house);
        SKIP("a real GPU has the shared memory that it has");
    }
    const sp_shim_device before = shim->device(NULL);
    static const size_t shared[] = { 227 * 1024, 99 * 1024, 64 * 1024, 48 * 1024, 32 * 1024 };
    for (size_t i = 0; i < SP_ARRAY_LEN(shared); i++) {
        sp_shim_device device = before;
        device.shared_bytes = shared[i];
        (void)shim->device(&device);
        sp_flow_params params = sp_flow_params_default();
        params.levels = 1;
        params.iterations = 2;
        params.winsize = i % 2 ? 15 : 29;
        check_pair(&params, 131, 37, false);
    }
    (void)shim->device(&before);
    cuda_house_done(&house);
}

/* Each frame is the second of one pair and the first of the next. */
TEST(cuda_flow_frames_serve_twice)
{
    begin();
    const int w = 90, h = 50;
    sp_flow_params params = sp_flow_params_default();
    both b = both_new(&params, w, h);
    picture p[4];
    for (int i = 0; i < 4; i++)
        p[i] = picture_new(w, h, (float)i * 1.5f, (float)i * -0.75f, false);
    both_expand(&b, 0, &p[0]);
    field f = field_new(h, (size_t)w, (size_t)w);
    for (int i = 1; i < 4; i++) {
        next_order();
        both_expand(&b, i % 3, &p[i]);
        both_pair(&b, (i - 1) % 3, i % 3, &f, i > 1); /* begun where the last pair ended */
        check_field(&f, "frames in a row");
    }
    field_free(&f);
    for (int i = 0; i < 4; i++)
        picture_free(&p[i]);
    both_free(&b);
    cuda_house_done(&house);
}

TEST(cuda_flow_runs_as_a_graph)
{
    begin();
    const int w = 66, h = 40;
    sp_flow_params params = sp_flow_params_default();
    both b = both_new(&params, w, h);
    picture p = picture_new(w, h, 0, 0, false);
    field f = field_new(h, (size_t)w + 3, (size_t)w);
    both_expand(&b, 0, &p);
    both_expand(&b, 1, &p);
    REQUIRE_OK(house.api->stream_sync(house.stream, &error_));

    const sp_shim_control *shim = house.shim;
    sp_shim_counters before = { 0 }, after = { 0 };
    sp_cuda_graph *graph = NULL;
    REQUIRE_OK(house.api->graph_begin(house.stream, &error_));
    REQUIRE_OK(house.api->flow->expand(b.own, house.stream, b.own_frame[1], (const uint8_t *)p.device + p.skew, p.stride_bytes,
                                       b.own_scratch, &error_));
    REQUIRE_OK(house.api->flow->pair(b.own, house.stream, b.own_frame[0], b.own_frame[1], NULL, NULL, f.device,
                                     f.device + f.floats, f.stride, b.own_scratch, &error_));
    REQUIRE_OK(house.api->graph_end(house.stream, &graph, &error_));
    if (shim)
        shim->counters(&before);
    for (int i = 0; i < 3; i++) { /* each time of other pixels in the same place */
        for (int y = 0; y < h; y++)
            memmove(p.grey + (size_t)y * p.stride_bytes, p.grey + (size_t)y * p.stride_bytes + 1, (size_t)w - 1);
        REQUIRE_OK(house.api->copy_in(house.stream, p.device, p.memory, p.bytes, &error_));
        next_order();
        REQUIRE_OK(house.api->graph_launch(graph, house.stream, &error_));
        sp_flow_expand(b.flow, b.frame[1], p.grey, p.stride_bytes, b.scratch);
        sp_flow_pair(b.flow, b.frame[0], b.frame[1], NULL, NULL, f.host, f.host + f.floats, f.stride, b.scratch);
        check_field(&f, "a graph");
    }
    if (shim) {
        shim->counters(&after);
        CHECK_INT(after.allocations, before.allocations);
        CHECK_INT(after.launches, before.launches);
        CHECK_INT(after.device_syncs, before.device_syncs);
    }
    house.api->graph_free(graph);
    field_free(&f);
    picture_free(&p);
    both_free(&b);
    cuda_house_done(&house);
}

/* Whatever allocation is refused, the call says SP_NOMEM and holds nothing. */
TEST(cuda_flow_survives_refused_memory)
{
    begin();
    const sp_shim_control *shim = house.shim;
    if (!shim) {
        cuda_house_done(&house);
        SKIP("only the stand-in's memory can be refused");
    }
    const int out_of_memory = 2; /* cudaErrorMemoryAllocation */
    static const char *const calls[] = { "cudaMallocFromPoolAsync", "cudaMalloc" };
    sp_flow_params params = sp_flow_params_default();
    params.winsize = 255; /* sums too */
    sp_flow *flow = NULL;
    REQUIRE_OK(sp_flow_new(&params, 80, 70, &flow, &error_));
    REQUIRE_OK(house.api->stream_sync(house.stream, &error_));
    sp_cuda_memory before, after;
    house.api->memory(house.cuda, &before);
    int refused = 0, succeeded = 0;
    for (uint64_t nth = 1; nth < 16 && !succeeded; nth++) {
        sp_cuda_flow *own = NULL;
        sp_cuda_flow_frame *frame = NULL;
        sp_cuda_flow_scratch *scratch = NULL;
        shim->reset();
        for (size_t i = 0; i < SP_ARRAY_LEN(calls); i++)
            shim->fail(calls[i], nth, out_of_memory, 1);
        sp_status s = house.api->flow->flow_new(house.cuda, flow, &own, NULL);
        s = s ? s : house.api->flow->frame_new(own, &frame, NULL);
        s = s ? s : house.api->flow->scratch_new(own, &scratch, NULL);
        succeeded = s == SP_OK;
        refused += s == SP_NOMEM;
        CHECK(s == SP_OK || s == SP_NOMEM);
        house.api->flow->scratch_free(scratch);
        house.api->flow->frame_free(frame);
        house.api->flow->flow_free(own);
        house.api->memory(house.cuda, &after);
        CHECK_INT(after.device_bytes, before.device_bytes);
    }
    shim->reset();
    CHECK(succeeded);
    CHECK_INT(refused, 6); /* tables, a frame, rows, two fields, sums */
    sp_flow_free(flow);
    cuda_house_done(&house);
}

/* Whatever launch fails, the call says so; the next one is whole again. */
TEST(cuda_flow_tells_of_failed_launches)
{
    begin();
    const sp_shim_control *shim = house.shim;
    if (!shim) {
        cuda_house_done(&house);
        SKIP("only the stand-in's launches can be made to fail");
    }
    const int out_of_resources = 701; /* cudaErrorLaunchOutOfResources */
    sp_flow_params params = sp_flow_params_default();
    params.levels = 1;
    both b = both_new(&params, 70, 66);
    picture p = picture_new(70, 66, 0, 0, true);
    field f = field_new(66, 70, 70);
    const int launches = 2 + 2 * 3;
    for (int nth = 1; nth <= launches + 1; nth++) {
        shim->fail("cudaLaunchKernel", (uint64_t)nth, out_of_resources, 1);
        sp_status s = house.api->flow->expand(b.own, house.stream, b.own_frame[0], (const uint8_t *)p.device, p.stride_bytes,
                                              b.own_scratch, NULL);
        s = s ? s : house.api->flow->pair(b.own, house.stream, b.own_frame[0], b.own_frame[0], NULL, NULL, f.device,
                                          f.device + f.floats, f.stride, b.own_scratch, NULL);
        CHECK((s == SP_OK) == (nth > launches));
        REQUIRE_OK(house.api->stream_sync(house.stream, &error_));
        shim->reset();
    }
    field_free(&f);
    picture_free(&p);
    both_free(&b);
    cuda_house_done(&house);
}

/* The whole of it once, at a size that has every level. */
TEST(cuda_flow_of_a_larger_picture)
{
    if (getenv("SPILLWAY_SANITIZER") && !getenv("SPILLWAY_FULL"))
        SKIP("a sanitizer makes it slow (SPILLWAY_FULL=1)");
    begin();
    sp_flow_params params = sp_flow_params_default();
    check_pair(&params, 320, 180, false);
    cuda_house_done(&house);
}
