/* SPDX-License-Identifier: Apache-2.0
 * An engine plug-in that tests steer by the numbers they put in: found under onnxruntime's name by SPILLWAY_PLUGINS.
 * Model: [N, 3, 8, 8] f32 -> [N, 4] f32, output c of an item = its input value c. An item's input value 4 misbehaves:
 *   1 the run fails   2 no memory in a batch of more than two   3 output is NaN   4 leaves denormals flushed
 *   5 the device is gone   6 the run goes on until it is cancelled
 * A model file that says "detector BOXES CLASSES" has the output [N, 4 + CLASSES, BOXES] of a YOLOv8 head instead, made of the
 * item's values, which are pixels; with "open" behind it the number of boxes is not declared.
 * SPILLWAY_FAKE_CUDA=1: it has a provider "cuda" too, for the stand-in of a GPU (tests/shim), whose stream it waits for. */
#include "shim.h"
#include "spillway_engine.h"

#include <immintrin.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ITEM_VALUES (3 * 8 * 8)
#define CLASSES     4

struct sp_engine_model {
    atomic_bool used;
    int lanes, threads;
    void *stream;
    int rows, boxes; /* of a detector's output; 0 = a classifier */
    sp_engine_port output;
    float *left[64]; /* by lane */
    size_t left_count[64];
    atomic_bool cancelled[64]; /* by lane */
};

static struct sp_engine_model models[16];

/* What the test reads: sizes of the runs since it cleared the count. */
__attribute__((visibility("default"))) int fake_engine_runs[256];
__attribute__((visibility("default"))) int fake_engine_threads[256]; /* that the model of each run was loaded with */
__attribute__((visibility("default"))) atomic_int fake_engine_run_count;
__attribute__((visibility("default"))) atomic_int fake_engine_device_runs; /* whose input lay on the device */

static const sp_engine_port input = { .name = "x", .dtype = SP_ENGINE_F32, .rank = 4, .dims = { -1, 3, 8, 8 } };
static const sp_engine_port output = { .name = "y", .dtype = SP_ENGINE_F32, .rank = 2, .dims = { -1, CLASSES } };

static sp_engine_status fail(sp_engine_error *reterr, sp_engine_status status, const char *message)
{
    if (reterr)
        (void)snprintf(reterr->message, sizeof(reterr->message), "%s", message);
    return status;
}

static sp_engine_status probe(sp_engine_probe_result *ret_result, sp_engine_error *reterr)
{
    *ret_result = (sp_engine_probe_result){ .engine = "fake", .version = "1.0", .provider_count = 1 };
    (void)snprintf(ret_result->providers[0].name, sizeof(ret_result->providers[0].name), "cpu");
    ret_result->providers[0].present = 1;
    if (getenv("SPILLWAY_FAKE_CUDA")) {
        ret_result->provider_count = 2;
        (void)snprintf(ret_result->providers[1].name, sizeof(ret_result->providers[1].name), "cuda");
        ret_result->providers[1].present = ret_result->providers[1].device_count = 1;
    }
    return SP_ENGINE_OK;
}

static void read_shape(const char *path, sp_engine_model *model)
{
    char word[8] = "";
    int classes = 0;
    FILE *file = path ? fopen(path, "re") : NULL;
    model->output = output;
    model->rows = model->boxes = 0;
    if (file && fscanf(file, "detector %d %d %7s", &model->boxes, &classes, word) >= 2) {
        model->rows = 4 + classes;
        model->output = (sp_engine_port){ .name = "y", .dtype = SP_ENGINE_F32, .rank = 3,
                                          .dims = { -1, model->rows, strcmp(word, "open") == 0 ? -1 : model->boxes } };
    }
    if (file)
        (void)fclose(file);
}

static sp_engine_status load(const sp_engine_load_options *options, sp_engine_model **ret_model,
                             sp_engine_error *reterr)
{
    int place = 0;
    while (place < 16 && atomic_exchange(&models[place].used, true))
        place++;
    if (place == 16)
        return fail(reterr, SP_ENGINE_NOMEM, "sixteen models are loaded");
    models[place].lanes = options->lanes;
    models[place].threads = options->threads;
    models[place].stream = options->compute_stream;
    read_shape(options->path, &models[place]);
    *ret_model = &models[place];
    return SP_ENGINE_OK;
}

static void describe(const sp_engine_model *model, sp_engine_ports *ret_ports)
{
    *ret_ports = (sp_engine_ports){ .input_count = 1, .output_count = 1, .inputs = &input, .outputs = &model->output };
}

/* Boxes about the picture, one in twelve large; every number is one of the item's, as a part of 256. */
static void detect(const sp_engine_model *model, const float *item, bool nan, float *head)
{
    for (int row = 0; row < model->rows; row++) {
        float scale = row < 2 ? 8.0f / 256 : row < 4 ? 3.0f / 256 : 1.0f / 256;
        for (int box = 0; box < model->boxes; box++)
            head[(size_t)row * (size_t)model->boxes + (size_t)box] =
                nan && row >= 4 ? NAN : item[(box * 37 + row * 11 + box / ITEM_VALUES * 5) % ITEM_VALUES] * scale * (row == 2 && box % 12 == 0 ? 3 : 1);
    }
}

/* Where a run's numbers go when the caller leaves that to the engine: until the lane's next run. */
static float *left_to_us(sp_engine_model *model, int lane, size_t count)
{
    if (model->left_count[lane] < count) {
        free(model->left[lane]);
        model->left[lane] = malloc(count * sizeof(float));
        model->left_count[lane] = model->left[lane] ? count : 0;
    }
    return model->left[lane];
}

static sp_engine_status run(sp_engine_model *model, int32_t lane, const sp_engine_tensor *inputs, int32_t input_count,
                            sp_engine_tensor *outputs, int32_t output_count, sp_engine_error *reterr)
{
    const float *values = inputs[0].data;
    int64_t count = inputs[0].dims[0];
    size_t each = model->boxes ? (size_t)model->rows * (size_t)model->boxes : CLASSES;
    int turn = atomic_fetch_add(&fake_engine_run_count, 1) & 255;
    fake_engine_runs[turn] = (int)count;
    fake_engine_threads[turn] = model->threads;
    if (lane < 0 || lane >= model->lanes)
        return fail(reterr, SP_ENGINE_INVALID, "no such lane");
    float *answers = outputs[0].data ? outputs[0].data : left_to_us(model, lane, (size_t)count * each);
    if (!answers)
        return fail(reterr, SP_ENGINE_NOMEM, "no memory for an output");
    atomic_fetch_add(&fake_engine_device_runs, inputs[0].memory == SP_ENGINE_CUDA);
    const sp_shim_control *shim = inputs[0].memory == SP_ENGINE_CUDA ? sp_shim() : NULL;
    int error = shim ? shim->sync(model->stream) : 0;
    if (error)
        return fail(reterr, error < 700 ? SP_ENGINE_INTERNAL : SP_ENGINE_UNAVAILABLE, "the stream has failed");
    for (int64_t i = 0; i < count; i++) {
        const float *item = values + i * ITEM_VALUES;
        int trick = (int)item[4];
        if (trick == 1)
            return fail(reterr, SP_ENGINE_INTERNAL, "this item breaks its run");
        if (trick == 2 && count > 2)
            return fail(reterr, SP_ENGINE_NOMEM, "more than two do not fit");
        if (trick == 4)
            _mm_setcsr(_mm_getcsr() | 0x8040u);
        if (trick == 6) {
            atomic_store(&model->cancelled[lane], false);
            while (!atomic_load(&model->cancelled[lane]))
                (void)poll(NULL, 0, 1);
            return fail(reterr, SP_ENGINE_CANCELLED, "cancelled");
        }
        if (trick == 5)
            return fail(reterr, SP_ENGINE_UNAVAILABLE, "the device fell off the bus");
        if (model->boxes)
            detect(model, item, trick == 3, answers + (size_t)i * each);
        for (int c = 0; c < CLASSES && !model->boxes; c++)
            answers[i * CLASSES + c] = trick == 3 ? NAN : item[c];
    }
    if (!outputs[0].data && outputs[0].rank >= 0)
        outputs[0] = (sp_engine_tensor){ .data = answers, .size_bytes = (uint64_t)count * each * sizeof(float),
                                         .dtype = SP_ENGINE_F32, .rank = model->boxes ? 3 : 2,
                                         .dims = { count, model->boxes ? model->rows : CLASSES, model->boxes } };
    return SP_ENGINE_OK;
}

static void unload(sp_engine_model *model)
{
    for (int i = 0; model && i < 64; i++) {
        free(model->left[i]);
        model->left[i] = NULL;
        model->left_count[i] = 0;
    }
    if (model)
        atomic_store(&model->used, false);
}
static void close_engine(void)
{
}
static void cancel(sp_engine_model *model, int32_t lane)
{
    atomic_store(&model->cancelled[lane], true);
}

static const sp_engine_api table = { .abi = SP_ENGINE_ABI,
                                     .struct_bytes = sizeof(sp_engine_api),
                                     .name = "fake",
                                     .probe = probe,
                                     .load = load,
                                     .describe = describe,
                                     .run = run,
                                     .unload = unload,
                                     .close = close_engine,
                                     .cancel = cancel };

__attribute__((visibility("default"))) const sp_engine_api *sp_engine_api_get(uint32_t host_abi);

const sp_engine_api *sp_engine_api_get(uint32_t host_abi)
{
    return host_abi == SP_ENGINE_ABI ? &table : NULL;
}
