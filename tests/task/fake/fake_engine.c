/* SPDX-License-Identifier: Apache-2.0
 * An engine plug-in that tests steer by the numbers they put in: found under onnxruntime's name by SPILLWAY_PLUGINS.
 * Model: [N, 3, 8, 8] f32 -> [N, 4] f32, output c of an item = its input value c. An item's input value 4 misbehaves:
 *   1 the run fails   2 no memory in a batch of more than two   3 output is NaN   4 leaves denormals flushed
 *   5 the device is gone   6 the run goes on until it is cancelled
 * SPILLWAY_FAKE_CUDA=1: it has a provider "cuda" too, for the stand-in of a GPU (tests/shim), whose stream it waits for. */
#include "shim.h"
#include "spillway_engine.h"

#include <immintrin.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <poll.h>

#define ITEM_VALUES (3 * 8 * 8)
#define CLASSES     4

struct sp_engine_model {
    atomic_bool used;
    int lanes, threads;
    void *stream;
    atomic_bool cancelled[64]; /* by lane */
};

static struct sp_engine_model models[16];

/* What the test reads: sizes of the runs since it cleared the count. */
__attribute__((visibility("default"))) int fake_engine_runs[256];
__attribute__((visibility("default"))) int fake_engine_threads[256]; /* that the model of each run was loaded with */
__attribute__((visibility("default"))) atomic_int fake_engine_run_count;

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
    *ret_model = &models[place];
    return SP_ENGINE_OK;
}

static void describe(const sp_engine_model *model, sp_engine_ports *ret_ports)
{
    *ret_ports = (sp_engine_ports){ .input_count = 1, .output_count = 1, .inputs = &input, .outputs = &output };
}

static sp_engine_status run(sp_engine_model *model, int32_t lane, const sp_engine_tensor *inputs, int32_t input_count,
                            sp_engine_tensor *outputs, int32_t output_count, sp_engine_error *reterr)
{
    const float *values = inputs[0].data;
    static _Thread_local float left[64 * CLASSES];
    float *answers = outputs[0].data ? outputs[0].data : left;
    int64_t count = inputs[0].dims[0];
    int turn = atomic_fetch_add(&fake_engine_run_count, 1) & 255;
    fake_engine_runs[turn] = (int)count;
    fake_engine_threads[turn] = model->threads;
    if (lane < 0 || lane >= model->lanes)
        return fail(reterr, SP_ENGINE_INVALID, "no such lane");
    const sp_shim_control *shim = inputs[0].memory == SP_ENGINE_CUDA ? sp_shim() : NULL;
    if (shim && shim->sync(model->stream))
        return fail(reterr, SP_ENGINE_UNAVAILABLE, "the stream has failed");
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
        for (int c = 0; c < CLASSES; c++)
            answers[i * CLASSES + c] = trick == 3 ? NAN : item[c];
    }
    if (!outputs[0].data && outputs[0].rank >= 0)
        outputs[0] = (sp_engine_tensor){ .data = left, .size_bytes = (uint64_t)count * CLASSES * sizeof(float),
                                         .dtype = SP_ENGINE_F32, .rank = 2, .dims = { count, CLASSES } };
    return SP_ENGINE_OK;
}

static void unload(sp_engine_model *model)
{
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
