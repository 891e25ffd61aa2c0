/* SPDX-License-Identifier: Apache-2.0
 * What one request costs when nothing surrounds it: CPU time of decoding a file, of its pre-processing and of the
 * model's run, each called in a loop on one thread. bench/serve/run makes the ideal of them: cores / their sum.
 *
 *   bare MODEL.onnx FILE [repeats]      -> one JSON line
 *
 * The pre-processing is the default model's (bicubic short side 256, centre crop 224). */
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "kernels/prep_run.h"
#include "media/image.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REPEATS_MAX 10000
#define SIDE 224
#define CLASSES 1000

typedef struct bare {
    sp_view file;
    sp_image_info info;
    uint8_t *rgb;
    float *tensor, *logits;
    sp_prep_scratch *scratch;
    sp_session *session;
} bare;

static const sp_prep_spec spec = {
    .filter = SP_FILTER_BICUBIC, .fit = SP_FIT_SHORT_SIDE, .dtype = SP_DTYPE_F32, .resize_w = 256, .resize_h = 256,
    .crop_w = SIDE, .crop_h = SIDE, .divisor = 1, .mean = { 127, 127, 127 }, .std = { 128, 128, 128 },
};

static int64_t cpu_ns(void) /* of the whole process: threads that an engine starts count */
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static sp_status step_decode(bare *b, sp_error *reterr)
{
    sp_status s = sp_image_probe(b->file, &(sp_image_options){ 0 }, &b->info, reterr);
    return s ? s : sp_image_decode(b->file, &(sp_image_options){ 0 }, &b->info, b->rgb, b->info.rgb_bytes, reterr);
}

static sp_status step_preprocess(bare *b, sp_error *reterr)
{
    return sp_prep_image(&spec, b->rgb, b->info.width, b->info.height, (size_t)b->info.width * 3, b->tensor, b->scratch,
                         reterr);
}

static sp_status step_run(bare *b, sp_error *reterr)
{
    sp_engine_tensor in = { .data = b->tensor, .size_bytes = 3 * SIDE * SIDE * sizeof(float), .dtype = SP_DTYPE_F32,
                            .rank = 4, .dims = { 1, 3, SIDE, SIDE } };
    sp_engine_tensor out = { .data = b->logits, .size_bytes = CLASSES * sizeof(float), .dtype = SP_DTYPE_F32, .rank = 2,
                             .dims = { 1, CLASSES } };
    return sp_session_run(b->session, 0, &in, 1, &out, 1, reterr);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

typedef sp_status step_fn(bare *b, sp_error *reterr);

/* Median CPU microseconds of one call. */
static sp_status measure(bare *b, step_fn *step, int repeats, double *ret_us, sp_error *reterr)
{
    static int64_t times[REPEATS_MAX];

    for (int i = -repeats / 10; i < repeats; i++) {
        int64_t begin_ns = cpu_ns();
        sp_status s = step(b, reterr);
        if (s)
            return s;
        if (i >= 0)
            times[i] = cpu_ns() - begin_ns;
    }
    qsort(times, (size_t)repeats, sizeof times[0], by_value);
    *ret_us = (double)times[repeats / 2] / 1e3;
    return SP_OK;
}

static sp_status file_read(const char *name, sp_view *ret_file, sp_error *reterr)
{
    FILE *file = fopen(name, "rb");
    long size;

    if (!file)
        return SP_FAIL_ERRNO(reterr, SP_NOT_FOUND, "%s", name);
    if (fseek(file, 0, SEEK_END) || (size = ftell(file)) <= 0 || fseek(file, 0, SEEK_SET)) {
        (void)fclose(file);
        return SP_FAIL(reterr, SP_INVALID, "%s is empty or no file", name);
    }
    uint8_t *data = malloc((size_t)size);
    size_t got = data ? fread(data, 1, (size_t)size, file) : 0;
    (void)fclose(file);
    if (got != (size_t)size)
        return SP_FAIL(reterr, SP_INVALID, "%s cannot be read", name);
    *ret_file = sp_view_make(data, got);
    return SP_OK;
}

static sp_status bare_open(bare *b, const char *model, const char *file, sp_error *reterr)
{
    const sp_engine *engine;
    sp_session_options options = sp_session_options_default(model);

    sp_status s = file_read(file, &b->file, reterr);
    if (!s)
        s = sp_image_probe(b->file, &(sp_image_options){ 0 }, &b->info, reterr);
    if (!s)
        s = sp_engine_open(sp_engine_name_at(0), &engine, reterr);
    if (!s)
        s = sp_session_open(engine, &options, &b->session, reterr);
    if (s)
        return s;
    b->rgb = malloc(b->info.rgb_bytes);
    b->tensor = aligned_alloc(64, 3 * SIDE * SIDE * sizeof(float));
    b->logits = aligned_alloc(64, SP_ALIGN_UP(CLASSES * sizeof(float), (size_t)64));
    b->scratch = sp_prep_scratch_new();
    if (!b->rgb || !b->tensor || !b->logits || !b->scratch)
        return SP_FAIL(reterr, SP_NOMEM, "no memory");
    return SP_OK;
}

static void bare_done(bare *b)
{
    sp_session_free(b->session);
    sp_prep_scratch_free(b->scratch);
    free(b->logits);
    free(b->tensor);
    free(b->rgb);
    free((void *)(uintptr_t)b->file.data);
}

int main(int argc, char **argv)
{
    bare b = { 0 };
    sp_error error = { 0 };
    double decode_us = 0, preprocess_us = 0, run_us = 0;

    if (argc < 3) {
        (void)fputs("usage: bare MODEL.onnx FILE [repeats]\n", stderr);
        return 2;
    }
    int repeats = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 200;
    repeats = SP_CLAMP(repeats, 1, REPEATS_MAX);
    sp_kernels_init();
    sp_status s = bare_open(&b, argv[1], argv[2], &error);
    if (!s)
        s = measure(&b, step_decode, repeats, &decode_us, &error);
    if (!s)
        s = measure(&b, step_preprocess, repeats, &preprocess_us, &error);
    if (!s)
        s = measure(&b, step_run, repeats, &run_us, &error);
    if (s)
        (void)fprintf(stderr, "bare: %s\n", error.message);
    else
        printf("{\"width\":%d,\"height\":%d,\"repeats\":%d,\"kernels\":\"%s\",\"decode_us\":%.1f,\"preprocess_us\":%.1f,"
               "\"run_us\":%.1f}\n", b.info.width, b.info.height, repeats, sp_kernels_level(), decode_us, preprocess_us,
               run_us);
    bare_done(&b);
    return s ? 1 : 0;
}
