/* SPDX-License-Identifier: Apache-2.0
 * test_kernels --bench [PART OF A NAME]: how long each level takes, best of many runs, on the core it is pinned to. One table, no verdict.
 * The harness owns main(), so this runs before it and leaves. bench/kernels.py adds Pillow and OpenCV in the same run. */
#include "base/clock.h"
#include "kernels/axis.h"
#include "kernels/kernels.h"
#include "kernels/nms_run.h"
#include "kernels/prep_run.h"
#include "test.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BENCH_NS (200 * SP_NS_PER_MS)

typedef struct bench_case {
    const char *name;
    int w, h;
    uint8_t filter, fit, dtype;
    uint16_t resize, crop;
    bool sizes_change; /* the tables are made again every time, as when every picture has another size */
} bench_case;

static const bench_case cases[] = {
    { "1280x720 -> 224x224 bilinear", 1280, 720, SP_FILTER_BILINEAR, SP_FIT_STRETCH, SP_DTYPE_F32, 224, 224, false },
    { "1280x720 -> 224x224 bilinear, new size", 1280, 720, SP_FILTER_BILINEAR, SP_FIT_STRETCH, SP_DTYPE_F32, 224, 224, true },
    { "1280x720 -> 224x224 bicubic", 1280, 720, SP_FILTER_BICUBIC, SP_FIT_STRETCH, SP_DTYPE_F32, 224, 224, false },
    { "1280x720 -> 224x224 bicubic, new size", 1280, 720, SP_FILTER_BICUBIC, SP_FIT_STRETCH, SP_DTYPE_F32, 224, 224, true },
    { "1280x720 -> 224x224 plain", 1280, 720, SP_FILTER_PLAIN, SP_FIT_STRETCH, SP_DTYPE_F32, 224, 224, false },
    { "1280x720 -> 224x224 plain, f16", 1280, 720, SP_FILTER_PLAIN, SP_FIT_STRETCH, SP_DTYPE_F16, 224, 224, false },
    { "275x183 -> 256 crop 224 bicubic, new size", 275, 183, SP_FILTER_BICUBIC, SP_FIT_SHORT_SIDE, SP_DTYPE_F32, 256, 224, true },
    { "577x577 -> 256 crop 224 bicubic, new size", 577, 577, SP_FILTER_BICUBIC, SP_FIT_SHORT_SIDE, SP_DTYPE_F32, 256, 224, true },
    { "4000x3000 -> 256 crop 224 bicubic", 4000, 3000, SP_FILTER_BICUBIC, SP_FIT_SHORT_SIDE, SP_DTYPE_F32, 256, 224, false },
    { "4000x3000 -> 256 crop 224 bilinear", 4000, 3000, SP_FILTER_BILINEAR, SP_FIT_SHORT_SIDE, SP_DTYPE_F32, 256, 224, false },
    { "720x1280 -> 224x224 bilinear (down first)", 720, 1280, SP_FILTER_BILINEAR, SP_FIT_STRETCH, SP_DTYPE_F32, 224, 224, false },
    { "1280x720 -> 640x640 letterbox bilinear", 1280, 720, SP_FILTER_BILINEAR, SP_FIT_LETTERBOX, SP_DTYPE_F32, 640, 640, false },
};

static double time_case(const bench_case *c, sp_kernel_level level)
{
    sp_prep_spec spec = { .filter = c->filter, .fit = c->fit, .dtype = c->dtype, .resize_w = c->resize, .resize_h = c->resize,
                          .crop_w = c->crop, .crop_h = c->crop, .divisor = 255, .mean = { 0.485f, 0.456f, 0.406f },
                          .std = { 0.229f, 0.224f, 0.225f } };
    size_t bytes = (size_t)c->w * (size_t)c->h * 3;
    sp_prep_scratch *scratch = sp_prep_scratch_new();
    uint8_t *rgb = malloc(bytes);
    void *dst = malloc(sp_prep_output_bytes(&spec));
    int64_t best = INT64_MAX, begun = sp_clock_now_ns();
    if (!scratch || !rgb || !dst || !sp_kernels_force(level))
        exit(2);
    for (size_t i = 0; i < bytes; i++)
        rgb[i] = (uint8_t)(i * 2654435761u >> 13);
    for (int i = 0; sp_clock_now_ns() - begun < BENCH_NS || i < 3; i++) {
        spec.pad_value = (uint8_t)(c->sizes_change ? i : 0); /* another spec: the tables are not those of before */
        int64_t t = sp_clock_now_ns();
        if (sp_prep_image(&spec, rgb, c->w, c->h, (size_t)c->w * 3, dst, scratch, NULL))
            exit(2);
        t = sp_clock_now_ns() - t;
        best = t < best ? t : best;
    }
    sp_prep_scratch_free(scratch);
    free(rgb);
    free(dst);
    return (double)best / 1000;
}

static double time_post(bool softmax, const sp_kernel_table *table)
{
    static float x[1000], y[1000];
    int32_t index[5];
    float value[5];
    int64_t best = INT64_MAX;
    for (int i = 0; i < 1000; i++)
        x[i] = (float)(i * 7919 % 1009) / 60.0f;
    for (int i = 0; i < 2000; i++) {
        int64_t t = sp_clock_now_ns();
        for (int k = 0; k < 10; k++) {
            if (softmax)
                table->softmax_f32(y, x, 1000);
            else
                table->topk_f32(index, value, x, 1000, 5);
        }
        t = sp_clock_now_ns() - t;
        best = t < best ? t : best;
    }
    return (double)best / 10000;
}

/* 8,400 boxes around 300 objects, as the largest usual YOLO gives them when the threshold is low. */
static double time_nms(sp_kernel_level level)
{
    enum { N = 8400 };
    static float boxes[N][4], score[N];
    static int32_t kept[N];
    const sp_nms_params params = { .threshold = 0.001f, .iou = 0.45f };
    sp_nms_scratch *scratch = sp_nms_scratch_new(N);
    int64_t best = INT64_MAX;
    uint32_t state = 1;
    if (!scratch || !sp_kernels_force(level))
        exit(2);
    for (int i = 0; i < N; i++) {
        float at[5];
        for (int k = 0; k < 5; k++)
            at[k] = (float)((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f;
        float x = (float)(i % 300 % 20) * 30 + at[0] * 8, y = (float)(i % 300 / 20) * 40 + at[1] * 8;
        boxes[i][0] = x;
        boxes[i][1] = y;
        boxes[i][2] = x + 40 + at[2] * 10;
        boxes[i][3] = y + 50 + at[3] * 10;
        score[i] = at[4];
    }
    for (int i = 0; i < 50; i++) {
        int64_t t = sp_clock_now_ns();
        (void)sp_nms_run(scratch, boxes[0], score, NULL, N, &params, kept);
        t = sp_clock_now_ns() - t;
        best = t < best ? t : best;
    }
    sp_nms_scratch_free(scratch);
    return (double)best / 1000;
}

/* Expansion of one frame, or the flow of a pair whose frames are expanded; moved waves. */
static double time_flow(bool pair, int w, int h, sp_kernel_level level)
{
    const sp_flow_params params = sp_flow_params_default();
    size_t pixels = (size_t)w * (size_t)h;
    sp_flow *flow;
    sp_flow_frame *frame[2];
    sp_flow_scratch *scratch;
    uint8_t *grey = malloc(pixels);
    float *field = malloc(2 * pixels * sizeof(float));
    int64_t best = INT64_MAX;
    if (!grey || !field || !sp_kernels_force(level) || sp_flow_new(&params, w, h, &flow, NULL) ||
        sp_flow_frame_new(flow, &frame[0], NULL) || sp_flow_frame_new(flow, &frame[1], NULL) ||
        sp_flow_scratch_new(flow, &scratch, NULL))
        exit(2);
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < pixels; k++)
            grey[k] = (uint8_t)(((k % (size_t)w + 3 * (size_t)i) * 7 % 97 + (k / (size_t)w + (size_t)i) * 5 % 61) + (k * 2654435761u >> 29));
        sp_flow_expand(flow, frame[i], grey, (size_t)w, scratch);
    }
    for (int i = 0; i < (level ? 8 : 2); i++) {
        int64_t t = sp_clock_now_ns();
        if (pair)
            sp_flow_pair(flow, frame[0], frame[1], NULL, NULL, field, field + pixels, (size_t)w, scratch);
        else
            sp_flow_expand(flow, frame[1], grey, (size_t)w, scratch);
        t = sp_clock_now_ns() - t;
        best = t < best ? t : best;
    }
    sp_flow_frame_free(frame[0]);
    sp_flow_frame_free(frame[1]);
    sp_flow_scratch_free(scratch);
    sp_flow_free(flow);
    free(grey);
    free(field);
    return (double)best / 1000;
}

static void print_row(const char *name, const double us[SP_LEVEL_COUNT])
{
    printf("%-46s", name);
    for (int level = 0; level < SP_LEVEL_COUNT; level++) {
        if (us[level] < 0)
            printf("%18s", "-");
        else
            printf("%10.1f (%4.1fx)", us[level], us[0] / us[level]);
    }
    printf("\n");
}

static void bench_flow(const char *wanted)
{
    static const int sizes[][2] = { { 640, 360 }, { 1280, 720 }, { 1920, 1080 } };
    sp_kernel_table table;
    for (size_t i = 0; i < 2 * SP_ARRAY_LEN(sizes); i++) {
        const int *size = sizes[i / 2];
        char name[64];
        double us[SP_LEVEL_COUNT];
        (void)snprintf(name, sizeof(name), "flow: %s at %dx%d", i % 2 ? "a pair" : "expansion", size[0], size[1]);
        if (!strstr(name, wanted))
            continue;
        for (int level = 0; level < SP_LEVEL_COUNT; level++)
            us[level] = sp_kernels_at((sp_kernel_level)level, &table) ? time_flow(i % 2, size[0], size[1], (sp_kernel_level)level) : -1;
        print_row(name, us);
    }
}

static void bench(const char *wanted)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    (void)sched_setaffinity(0, sizeof(one), &one); /* only steadier with it */
    printf("%-46s%18s%18s%18s\n", "microseconds, best run (times the scalar speed)", "scalar", "avx2", "avx512");
    double us[SP_LEVEL_COUNT];
    sp_kernel_table table;
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        if (!strstr(cases[i].name, wanted))
            continue;
        for (int level = 0; level < SP_LEVEL_COUNT; level++)
            us[level] = sp_kernels_at((sp_kernel_level)level, &table) ? time_case(&cases[i], (sp_kernel_level)level) : -1;
        print_row(cases[i].name, us);
    }
    for (int softmax = 1; softmax >= 0; softmax--) {
        for (int level = 0; level < SP_LEVEL_COUNT; level++)
            us[level] = sp_kernels_at((sp_kernel_level)level, &table) ? time_post(softmax, &table) : -1;
        print_row(softmax ? "softmax of 1000" : "top 5 of 1000", us);
    }
    for (int level = 0; level < SP_LEVEL_COUNT; level++)
        us[level] = sp_kernels_at((sp_kernel_level)level, &table) ? time_nms((sp_kernel_level)level) : -1;
    print_row("filter, order and nms of 8400 boxes", us);
    bench_flow(wanted);
}

static __attribute__((constructor)) void maybe_bench(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--bench") != 0)
        return;
    bench(argc > 2 ? argv[2] : "");
    (void)fflush(stdout);
    _exit(0);
}
