/* SPDX-License-Identifier: Apache-2.0
 * Dense flow: each row's twins against the scalar reference, and whole flows at every level, bit for bit: random sizes and
 * parameters, misaligned rows, guard bytes, flows that are huge or no numbers. Blocks are as long as the contract says and
 * no longer, so that an address sanitizer sees what is read beyond them. test_flow.py compares with OpenCV. */
#include "flow.h"

#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sanitizers make the scalar reference ten times slower. */
static size_t rounds(size_t n)
{
    return getenv("SPILLWAY_SANITIZER") ? n / 4 : n;
}

static const int sizes[] = { 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 30, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100, 129, 333 };

static float random_float(float low, float high)
{
    return low + (high - low) * (float)((double)(test_random() >> 11) / 9007199254740992.0);
}

static float *floats_new(size_t n, float low, float high)
{
    float *x = malloc(n * sizeof(float));
    REQUIRE(x != NULL);
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(low, high);
    return x;
}

static uint8_t *bytes_new(size_t n)
{
    uint8_t *x = malloc(n);
    REQUIRE(x != NULL);
    for (size_t i = 0; i < n; i++)
        x[i] = (uint8_t)test_random();
    return x;
}

/* Two equal blocks of NaN: what is written differently, or where it must not be, differs. */
static void outputs_new(float *out[2], size_t n)
{
    for (int i = 0; i < 2; i++) {
        out[i] = malloc(n * sizeof(float));
        REQUIRE(out[i] != NULL);
        memset(out[i], 0xff, n * sizeof(float));
    }
}

static void outputs_free(float *out[2])
{
    free(out[0]);
    free(out[1]);
}

static size_t round16(int n)
{
    return SP_ALIGN_UP((size_t)n, (size_t)16);
}

void check_flow_smooth(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        int n = sizes[i];
        uint8_t *rows[3];
        float *out[2];
        outputs_new(out, (size_t)n);
        for (int r = 0; r < 3; r++)
            rows[r] = bytes_new((size_t)n);
        const uint8_t *const at[3] = { rows[0], rows[1], rows[2] };
        sp_flow_smooth_c(out[0], at, n);
        twin->flow_smooth(out[1], at, n);
        CHECK_BYTES(out[0], out[1], (size_t)n * 4);
        for (int r = 0; r < 3; r++)
            free(rows[r]);
        outputs_free(out);
    }
}

void check_flow_mix_u8(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        int n = sizes[i], taps = test_random_between(1, 21);
        const uint8_t *rows[21];
        uint8_t *bytes = bytes_new((size_t)n * (size_t)taps);
        float *weight = floats_new((size_t)taps, -0.1f, 1), *out[2];
        outputs_new(out, (size_t)n);
        for (int t = 0; t < taps; t++)
            rows[t] = bytes + (size_t)t * (size_t)n;
        sp_flow_mix_u8_c(out[0], rows, weight, taps, n);
        twin->flow_mix_u8(out[1], rows, weight, taps, n);
        CHECK_BYTES(out[0], out[1], (size_t)n * 4);
        outputs_free(out);
        free(weight);
        free(bytes);
    }
}

void check_flow_mix_f32(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        int n = sizes[i], taps = test_random_between(1, 9);
        const float *rows[9];
        float *values = floats_new((size_t)n * (size_t)taps, -300, 300), *weight = floats_new((size_t)taps, -1, 1), *out[2];
        outputs_new(out, (size_t)n);
        for (int t = 0; t < taps; t++)
            rows[t] = values + (size_t)t * (size_t)n;
        sp_flow_mix_f32_c(out[0], rows, weight, taps, n);
        twin->flow_mix_f32(out[1], rows, weight, taps, n);
        CHECK_BYTES(out[0], out[1], (size_t)n * 4);
        outputs_free(out);
        free(weight);
        free(values);
    }
}

/* Reading positions that rise as an axis' do: slowly (a finer level), by whole numbers, or by leaps. */
void check_flow_across(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < 4 * SP_ARRAY_LEN(sizes); i++) {
        int n = sizes[i / 4], taps = i % 4 == 0 ? 2 : test_random_between(1, 20), stride = (int)round16(n);
        double step = i % 4 == 0 ? 0.5 : i % 4 == 1 ? 2 : random_float(0.3f, 9);
        int32_t *first = malloc((size_t)stride * 4);
        float *weight = floats_new((size_t)stride * (size_t)taps, -1, 1), *out[2];
        REQUIRE(first != NULL);
        for (int x = 0; x < stride; x++)
            first[x] = x < n ? (int32_t)(x * step) : first[n - 1];
        float *src = floats_new((size_t)(first[n - 1] + taps) + SP_FLOW_SLACK, -300, 300);
        const sp_flow_axis axis = { .n = n, .taps = taps, .stride = stride, .first = first, .weight = weight };
        outputs_new(out, (size_t)n);
        sp_flow_across_c(out[0], src, &axis);
        twin->flow_across(out[1], src, &axis);
        CHECK_BYTES(out[0], out[1], (size_t)n * 4);
        outputs_free(out);
        free(src);
        free(weight);
        free(first);
    }
}

/* The tables of a flow with these parameters. */
static sp_flow *flow_of(sp_flow_params params, int w, int h)
{
    sp_flow *flow = NULL;
    sp_error error = { 0 };
    if (sp_flow_new(&params, w, h, &flow, &error))
        test_fail(__FILE__, __LINE__, "%s", error.message);
    REQUIRE(flow != NULL);
    return flow;
}

void check_flow_expand(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < 3 * SP_ARRAY_LEN(sizes); i++) {
        int n = sizes[i / 3], kind = (int)i % 3;
        sp_flow_params params = sp_flow_params_default();
        params.poly_n = kind == 0 ? 5 : kind == 1 ? 7 : test_random_between(1, SP_FLOW_POLY_MAX);
        sp_flow *flow = flow_of(params, n, 1);
        size_t stride = round16(n) + (size_t)test_random_between(0, 9);
        float *values = floats_new((size_t)(n + SP_FLOW_SLACK) * 31, 0, 255), *out[2];
        const float *rows[2 * SP_FLOW_POLY_MAX + 1];
        for (int r = 0; r <= 2 * params.poly_n; r++)
            rows[r] = values + (size_t)r * (size_t)(n + SP_FLOW_SLACK);
        float *spare = floats_new(3 * sp_flow_margin_stride(n), 0, 1);
        outputs_new(out, 5 * stride);
        sp_flow_expand_c(out[0], stride, rows, &flow->poly, spare, n);
        twin->flow_expand(out[1], stride, rows, &flow->poly, spare, n);
        for (size_t c = 0; c < 5; c++)
            CHECK_BYTES(out[0] + c * stride, out[1] + c * stride, (size_t)n * 4);
        outputs_free(out);
        free(spare);
        free(values);
        sp_flow_free(flow);
    }
}

/* Flows as they are met: still, all alike, smooth, leaping, beyond the border, without sense. */
static void random_flow(float *dx, float *dy, int n, int kind)
{
    float ux = random_float(-9, 9), uy = random_float(-3, 3), slope = random_float(-0.2f, 0.2f);
    for (int x = 0; x < n; x++) {
        float at = (float)x;
        dx[x] = kind == 0 ? 0 : kind == 1 ? ux : kind == 2 ? ux + at * slope : random_float(-20, 20);
        dy[x] = kind == 0 ? 0 : kind == 1 ? uy : kind == 2 ? uy - at * slope * 0.3f : random_float(-6, 6);
        if (kind == 4 && test_random() % 4 == 0) {
            static const float odd[] = { 1e9f, -1e9f, 3e38f, -3e38f, NAN, INFINITY, -INFINITY, -0.0f };
            dx[x] = odd[test_random() % SP_ARRAY_LEN(odd)];
            dy[x] = test_random() % 2 ? odd[test_random() % SP_ARRAY_LEN(odd)] : dy[x];
        }
    }
}

/* NaN of any sign and payload are one NaN here: a NaN flow never leaves a solve. */
static void tame_nan(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = isnan(x[i]) ? NAN : x[i];
}

void check_flow_update(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < rounds(10 * SP_ARRAY_LEN(sizes)); i++) {
        int w = sizes[i % SP_ARRAY_LEN(sizes)], h = test_random_between(1, 14), kind = (int)(i / SP_ARRAY_LEN(sizes)) % 5;
        size_t stride = sp_flow_stride(w), out_stride = round16(w) + (size_t)test_random_between(0, 5);
        float *a = floats_new(5 * stride, -20, 20), *b = floats_new(5 * stride * (size_t)h, -20, 20), *out[2];
        float *dx = floats_new((size_t)w + 1, 0, 1), *dy = floats_new((size_t)w + 1, 0, 1);
        float *weight = floats_new((size_t)w + SP_FLOW_SLACK, 1, 1);
        size_t skew = test_random() % 2;
        random_flow(dx + skew, dy + skew, w, kind);
        for (int x = 0; x < w; x++)
            weight[x] = x < 5 || x >= w - 5 ? 0.4472f : 1;
        sp_flow_row row = { .a = a, .b = b, .stride = stride, .dx = dx + skew, .dy = dy + skew, .weight = weight,
                            .weight_y = test_random() % 2 ? 1.0f : 0.14f, .y = test_random_between(0, h - 1), .w = w, .h = h };
        outputs_new(out, 5 * out_stride);
        sp_flow_update_c(out[0], out_stride, &row);
        twin->flow_update(out[1], out_stride, &row);
        for (size_t c = 0; c < 5; c++) {
            tame_nan(out[0] + c * out_stride, (size_t)w);
            tame_nan(out[1] + c * out_stride, (size_t)w);
            CHECK_BYTES(out[0] + c * out_stride, out[1] + c * out_stride, (size_t)w * 4);
        }
        outputs_free(out);
        free(weight);
        free(dx);
        free(dy);
        free(a);
        free(b);
    }
}

static sp_flow_params random_window(size_t round)
{
    static const int usual[] = { 15, 13, 1, 2, 5, 9, 21, 14 };
    sp_flow_params params = sp_flow_params_default();
    params.winsize = round % 12 < 8 ? usual[round % 12] : test_random_between(1, round % 12 == 8 ? 255 : 40);
    params.gaussian = round % 12 == 9 || (round % 12 < 8 && test_random() % 4 == 0);
    return params;
}

void check_flow_window(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < rounds(12 * SP_ARRAY_LEN(sizes)); i++) {
        int n = sizes[i % SP_ARRAY_LEN(sizes)];
        sp_flow *flow = flow_of(random_window(i), n, 1);
        size_t stride = sp_flow_margin_stride(n), out_stride = round16(n) + (size_t)test_random_between(0, 5);
        float *src[2] = { floats_new(5 * stride, -50, 50), floats_new(5 * stride, -50, 50) }, *out[2];
        float *spare = floats_new(8 * stride, 0, 1);
        for (size_t c = 0; c < 5; c++) /* the margins stay different: they are the kernel's to write */
            memcpy(src[1] + c * stride + SP_FLOW_MARGIN, src[0] + c * stride + SP_FLOW_MARGIN, (size_t)n * 4);
        outputs_new(out, 5 * out_stride);
        sp_flow_window_c(out[0], out_stride, src[0] + SP_FLOW_MARGIN, stride, &flow->window, spare, n);
        twin->flow_window(out[1], out_stride, src[1] + SP_FLOW_MARGIN, stride, &flow->window, spare, n);
        for (size_t c = 0; c < 5; c++)
            CHECK_BYTES(out[0] + c * out_stride, out[1] + c * out_stride, (size_t)n * 4);
        outputs_free(out);
        free(spare);
        free(src[0]);
        free(src[1]);
        sp_flow_free(flow);
    }
}

void check_flow_solve(const sp_kernel_table *twin)
{
    for (size_t i = 0; i < rounds(12 * SP_ARRAY_LEN(sizes)); i++) {
        int n = sizes[i % SP_ARRAY_LEN(sizes)], rows = test_random_between(1, SP_FLOW_BAND);
        sp_flow *flow = flow_of(random_window(i), n, 1);
        int count = flow->window.n - 1 + rows;
        size_t sums_stride = sp_flow_stride(n), stride = (size_t)n + (size_t)test_random_between(0, 3);
        float *values = floats_new(5 * sums_stride * (size_t)count, -50, 50), *dx[2], *dy[2];
        const float *sums[2 * SP_FLOW_MARGIN + SP_FLOW_BAND];
        for (int r = 0; r < count; r++) /* some rows stand for several, as beyond the border */
            sums[r] = r && test_random() % 8 == 0 ? sums[r - 1] : values + (size_t)r * 5 * sums_stride;
        if (i % 5 == 0)
            values[test_random() % (5 * sums_stride)] = i % 2 ? NAN : INFINITY;
        outputs_new(dx, stride * (size_t)rows);
        outputs_new(dy, stride * (size_t)rows);
        sp_flow_solve_c(dx[0], dy[0], stride, sums, sums_stride, &flow->window, rows, n);
        twin->flow_solve(dx[1], dy[1], stride, sums, sums_stride, &flow->window, rows, n);
        CHECK_BYTES(dx[0], dx[1], stride * (size_t)rows * 4); /* the gaps between rows are untouched in both */
        CHECK_BYTES(dy[0], dy[1], stride * (size_t)rows * 4);
        for (int x = 0; x < n; x++)
            CHECK(fabsf(dx[0][x]) <= SP_FLOW_FAR && fabsf(dy[0][x]) <= SP_FLOW_FAR);
        outputs_free(dx);
        outputs_free(dy);
        free(values);
        sp_flow_free(flow);
    }
}

/* --- whole flows --- */

typedef struct picture {
    uint8_t *memory, *grey;
    size_t stride_bytes;
} picture;

/* Smooth blobs over a flat ground with some noise, moved by (mx, my). */
static picture picture_new(int w, int h, float mx, float my, uint32_t noise)
{
    picture p = { .stride_bytes = (size_t)w + (size_t)test_random_between(0, 3) };
    size_t skew = (size_t)test_random_between(0, 3);
    p.memory = bytes_new(skew + p.stride_bytes * (size_t)(h - 1) + (size_t)w);
    p.grey = p.memory + skew;
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            float fx = ((float)x - mx) * 0.21f, fy = ((float)y - my) * 0.17f;
            float v = 90 + 70 * sinf(fx) * cosf(fy) + 30 * sinf(0.37f * fx + fy);
            v = x < w / 4 ? 60 : v; /* a flat part that stands still */
            p.grey[(size_t)y * p.stride_bytes + (size_t)x] = (uint8_t)(v + (noise ? (float)(test_random() % noise) : 0));
        }
    }
    return p;
}

typedef struct run {
    float *dx, *dy;
    size_t floats;
} run;

/* One flow at the level in use, with gaps between its rows. */
static run run_flow(const sp_flow *flow, picture a, picture b, const run *init, size_t stride)
{
    sp_flow_frame *frame[2];
    sp_flow_scratch *scratch;
    run r = { .floats = stride * (size_t)flow->h };
    REQUIRE(!sp_flow_frame_new(flow, &frame[0], NULL) && !sp_flow_frame_new(flow, &frame[1], NULL));
    REQUIRE(!sp_flow_scratch_new(flow, &scratch, NULL));
    r.dx = malloc(r.floats * 4);
    r.dy = malloc(r.floats * 4);
    REQUIRE(r.dx && r.dy);
    memset(r.dx, 0xff, r.floats * 4);
    memset(r.dy, 0xff, r.floats * 4);
    sp_flow_expand(flow, frame[0], a.grey, a.stride_bytes, scratch);
    sp_flow_expand(flow, frame[1], b.grey, b.stride_bytes, scratch);
    if (init) { /* begun in place */
        memcpy(r.dx, init->dx, r.floats * 4);
        memcpy(r.dy, init->dy, r.floats * 4);
    }
    sp_flow_pair(flow, frame[0], frame[1], init ? r.dx : NULL, init ? r.dy : NULL, r.dx, r.dy, stride, scratch);
    sp_flow_frame_free(frame[0]);
    sp_flow_frame_free(frame[1]);
    sp_flow_scratch_free(scratch);
    return r;
}

static void run_free(run *r)
{
    free(r->dx);
    free(r->dy);
}

static sp_flow_params random_params(int round)
{
    static const double scales[] = { 0.5, 0.5, 0.8, 0.37, 0.9 };
    if (round % 3 == 0)
        return sp_flow_params_default();
    return (sp_flow_params){ .pyr_scale = scales[test_random() % 5], .levels = test_random_between(0, 5),
                             .winsize = test_random_between(1, 31), .iterations = test_random_between(1, 6),
                             .poly_n = test_random_between(1, 9), .poly_sigma = random_float(0, 2),
                             .gaussian = test_random() % 3 == 0 };
}

TEST(flow_is_the_same_at_every_level)
{
    static const int some[][2] = { { 1, 1 }, { 1, 9 }, { 12, 1 }, { 7, 5 }, { 33, 31 }, { 64, 48 }, { 65, 70 }, { 131, 97 },
                                   { 200, 67 }, { 260, 150 } };
    for (int round = 0; round < (int)rounds(30); round++) {
        const int *size = some[(size_t)round % SP_ARRAY_LEN(some)];
        int w = size[0], h = size[1];
        sp_flow *flow = flow_of(random_params(round), w, h);
        size_t stride = (size_t)w + (size_t)test_random_between(0, 5);
        picture a = picture_new(w, h, 0, 0, 4), b = picture_new(w, h, random_float(-4, 4), random_float(-4, 4), 4);
        REQUIRE(sp_kernels_force(SP_LEVEL_SCALAR));
        run expected = run_flow(flow, a, b, NULL, stride);
        run further = run_flow(flow, a, b, &expected, stride);
        for (int level = SP_LEVEL_AVX2; level < SP_LEVEL_COUNT; level++) {
            if (!sp_kernels_force((sp_kernel_level)level))
                continue;
            run got = run_flow(flow, a, b, NULL, stride), more = run_flow(flow, a, b, &got, stride);
            CHECK_BYTES(expected.dx, got.dx, expected.floats * 4);
            CHECK_BYTES(expected.dy, got.dy, expected.floats * 4);
            CHECK_BYTES(further.dx, more.dx, expected.floats * 4);
            CHECK_BYTES(further.dy, more.dy, expected.floats * 4);
            run_free(&got);
            run_free(&more);
        }
        run_free(&expected);
        run_free(&further);
        free(a.memory);
        free(b.memory);
        sp_flow_free(flow);
    }
    REQUIRE(sp_kernels_force(SP_LEVEL_AVX512) || sp_kernels_force(SP_LEVEL_AVX2) || sp_kernels_force(SP_LEVEL_SCALAR));
}

/* The most levels there can be, and more iterations than go together. */
TEST(flow_has_room_for_every_level)
{
    sp_flow_params params = sp_flow_params_default();
    params.pyr_scale = 0.95;
    params.levels = SP_FLOW_LEVELS_MAX;
    params.iterations = 9;
    sp_flow *flow = flow_of(params, 130, 90);
    CHECK_INT(flow->levels, SP_FLOW_LEVELS_MAX);
    picture a = picture_new(130, 90, 0, 0, 3);
    run r = run_flow(flow, a, a, NULL, 130);
    for (int y = 40; y < 50; y++)
        CHECK(fabsf(r.dx[y * 130 + 65]) < 0.1f && fabsf(r.dy[y * 130 + 65]) < 0.1f);
    run_free(&r);
    free(a.memory);
    sp_flow_free(flow);
}

TEST(flow_finds_a_known_motion)
{
    const float mx = 2.25f, my = -1.5f;
    int w = 240, h = 160;
    sp_flow *flow = flow_of(sp_flow_params_default(), w, h);
    picture a = picture_new(w, h, 0, 0, 0), b = picture_new(w, h, mx, my, 0);
    run r = run_flow(flow, a, b, NULL, (size_t)w);
    double sum = 0;
    int count = 0;
    for (int y = 20; y < h - 20; y++) {
        for (int x = w / 4 + 20; x < w - 20; x++, count++) {
            float ex = r.dx[y * w + x] - mx, ey = r.dy[y * w + x] - my;
            sum += ex * ex + ey * ey;
        }
    }
    printf("# RMSE of a motion by (2.25, -1.5): %.4f px\n", sqrt(sum / count));
    CHECK(sqrt(sum / count) < 0.25); /* waves of 30 px, in eight bits */
    run_free(&r);
    free(a.memory);
    free(b.memory);
    sp_flow_free(flow);
}

TEST(flow_says_which_parameter_is_wrong)
{
    static const struct {
        sp_flow_params params;
        int w, h;
        sp_status status;
        const char *word;
    } cases[] = {
        { { 1.0, 3, 15, 3, 5, 1.2, false }, 64, 64, SP_INVALID, "pyr_scale" },
        { { NAN, 3, 15, 3, 5, 1.2, false }, 64, 64, SP_INVALID, "pyr_scale" },
        { { 0.5, 17, 15, 3, 5, 1.2, false }, 64, 64, SP_INVALID, "levels" },
        { { 0.5, 3, 0, 3, 5, 1.2, false }, 64, 64, SP_INVALID, "winsize" },
        { { 0.5, 3, 256, 3, 5, 1.2, false }, 64, 64, SP_INVALID, "winsize" },
        { { 0.5, 3, 15, 0, 5, 1.2, false }, 64, 64, SP_INVALID, "iterations" },
        { { 0.5, 3, 15, 3, 16, 1.2, false }, 64, 64, SP_INVALID, "poly_n" },
        { { 0.5, 3, 15, 3, 5, -1, false }, 64, 64, SP_INVALID, "poly_sigma" },
        { { 0.5, 3, 15, 3, 5, 1.2, false }, 0, 64, SP_INVALID, "0 x 64" },
        { { 0.5, 3, 15, 3, 5, 1.2, false }, 64, 16385, SP_TOO_LARGE, "16384" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        sp_error error = { 0 };
        sp_flow *flow = NULL;
        CHECK_INT(sp_flow_new(&cases[i].params, cases[i].w, cases[i].h, &flow, &error), cases[i].status);
        CHECK(flow == NULL);
        if (!strstr(error.message, cases[i].word))
            test_fail(__FILE__, __LINE__, "\"%s\" does not say %s", error.message, cases[i].word);
    }
}
