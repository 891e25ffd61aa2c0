/* SPDX-License-Identifier: Apache-2.0
 * The classify task. */
#include "task/classify.h"

#include "base/machine.h"
#include "base/view.h"
#include "kernels/kernels.h"
#include "kernels/prep_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct classify_lane {
    uint8_t *input;  /* max_batch tensors */
    uint8_t *output; /* max_batch rows of class_count, of the model's type */
    float *values;   /* one row, f32 */
    float *probabilities;
    sp_prep_scratch *scratch;
    sp_engine_tensor *outputs; /* one per output of the model */
} classify_lane;

struct sp_classifier {
    sp_model *model;
    sp_session *session;
    int lane_count, max_batch;
    size_t tensor_bytes;
    size_t row_bytes; /* of the output, one item */
    int output_count;
    sp_engine_port output_port;
    classify_lane *lanes;
};

sp_classify_options sp_classify_options_default(void)
{
    sp_machine machine;
    sp_machine_read(&machine);
    return (sp_classify_options){ .provider = "cpu", .threads = machine.cpu_count, .lanes = 1, .max_batch = 1 };
}

/* 64-byte aligned and touched, so that no request pays for a first page fault. */
static void *reserve(size_t count, size_t size_bytes)
{
    size_t bytes;
    if (!sp_size_mul(count, size_bytes, &bytes) || !sp_size_add(bytes, 63, &bytes))
        return NULL;
    void *memory = aligned_alloc(64, bytes & ~(size_t)63);
    if (memory)
        memset(memory, 0, bytes & ~(size_t)63);
    return memory;
}

static sp_status init_lane(sp_classifier *c, classify_lane *lane, sp_error *reterr)
{
    lane->input = reserve((size_t)c->max_batch, c->tensor_bytes);
    lane->output = reserve((size_t)c->max_batch, c->row_bytes);
    lane->values = reserve(c->model->class_count, sizeof(float));
    lane->probabilities = reserve(c->model->class_count, sizeof(float));
    lane->outputs = calloc((size_t)c->output_count, sizeof(*lane->outputs));
    lane->scratch = sp_prep_scratch_new();
    if (!lane->input || !lane->output || !lane->values || !lane->probabilities || !lane->outputs || !lane->scratch)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a batch of %d", c->max_batch);
    return SP_OK;
}

static void done_lane(classify_lane *lane)
{
    free(lane->input);
    free(lane->output);
    free(lane->values);
    free(lane->probabilities);
    free(lane->outputs);
    sp_prep_scratch_free(lane->scratch);
}

static sp_status warm_up(sp_classifier *c, sp_error *reterr)
{
    for (int lane = 0; lane < c->lane_count; lane++) {
        sp_class_score score;
        int count;
        sp_status s = sp_classify_run(c, lane, NULL, 1, reterr);
        if (s)
            return s;
        if (c->model->meaning == SP_OUTPUT_UNKNOWN)
            c->model->meaning = sp_rank_meaning(sp_classify_raw(c, lane, 0), c->model->class_count);
        s = sp_classify_answer(c, lane, 0, 1, &score, &count, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status open_lanes(sp_classifier *c, int lanes, sp_error *reterr)
{
    const sp_engine_ports *ports = sp_session_ports(c->session);
    sp_status s = sp_model_fit(c->model, ports, reterr);
    if (!s)
        s = sp_prep_spec_check(&c->model->prep, reterr);
    if (s)
        return s;
    c->output_port = ports->outputs[c->model->output_index];
    c->output_count = ports->output_count;
    c->max_batch = SP_CLAMP(c->max_batch, 1, c->model->max_batch);
    c->tensor_bytes = sp_prep_output_bytes(&c->model->prep);
    c->row_bytes = c->model->class_count * sp_engine_dtype_bytes(c->output_port.dtype);
    c->lanes = calloc((size_t)lanes, sizeof(*c->lanes));
    if (!c->lanes)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d lanes", lanes);
    c->lane_count = lanes;
    for (int i = 0; i < lanes && !s; i++)
        s = init_lane(c, &c->lanes[i], reterr);
    return s ? s : warm_up(c, reterr);
}

sp_status sp_classify_open(const sp_engine *engine, sp_model *model, const sp_classify_options *options,
                           sp_classifier **ret_classifier, sp_error *reterr)
{
    if (model->task == SP_MODEL_DETECT)
        return SP_FAIL_CODE(reterr, SP_INVALID, "model_settings", "%s: task: it is a detector, which finds things and classifies "
                            "no pictures; ask it by `detect`", model->settings_path);
    SP_CLEANUP(sp_classify_closep) sp_classifier *c = calloc(1, sizeof(*c));
    if (!c)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a classifier");
    sp_kernels_init();
    c->model = model;
    c->max_batch = options->max_batch;
    sp_session_options session = sp_session_options_default(model->path);
    session.provider = options->provider;
    session.device_index = options->device_index;
    session.threads = options->threads;
    session.lanes = options->lanes;
    session.spin = options->spin;
    sp_status s = sp_session_open(engine, &session, &c->session, reterr);
    if (!s)
        s = open_lanes(c, SP_MAX(options->lanes, 1), reterr);
    if (!s)
        *ret_classifier = SP_STEAL(c);
    return s;
}

void sp_classify_close(sp_classifier *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->lane_count; i++)
        done_lane(&c->lanes[i]);
    free(c->lanes);
    sp_session_free(c->session);
    free(c);
}

const sp_model *sp_classify_model(const sp_classifier *c)
{
    return c->model;
}

sp_session *sp_classify_session(sp_classifier *classifier)
{
    return classifier->session;
}

int sp_classify_max_batch(const sp_classifier *c)
{
    return c->max_batch;
}

int sp_classify_lanes(const sp_classifier *c)
{
    return c->lane_count;
}

size_t sp_classify_tensor_bytes(const sp_classifier *c)
{
    return c->tensor_bytes;
}

void *sp_classify_input(sp_classifier *c, int lane, int index)
{
    SP_ASSERT(lane >= 0 && lane < c->lane_count && index >= 0 && index < c->max_batch);
    return c->lanes[lane].input + (size_t)index * c->tensor_bytes;
}

sp_status sp_classify_prepare(sp_classifier *c, int lane, int index, const uint8_t *rgb, int w, int h, sp_error *reterr)
{
    return sp_prep_image(&c->model->prep, rgb, w, h, (size_t)w * 3, sp_classify_input(c, lane, index),
                         c->lanes[lane].scratch, reterr);
}

static void describe_output(const sp_classifier *c, classify_lane *lane, int count)
{
    /* Other outputs of the model are nobody's business here: data NULL leaves them to the engine. */
    const sp_engine_ports *ports = sp_session_ports(c->session);
    for (int i = 0; i < c->output_count; i++)
        lane->outputs[i] = (sp_engine_tensor){ .dtype = ports->outputs[i].dtype };
    sp_engine_tensor *output = &lane->outputs[c->model->output_index];
    output->data = lane->output;
    output->size_bytes = c->row_bytes * (size_t)count;
    output->rank = c->output_port.rank;
    for (int i = 0; i < output->rank; i++)
        output->dims[i] = i == 0 ? count : i == 1 ? (int64_t)c->model->class_count : 1;
}

sp_status sp_classify_run(sp_classifier *c, int lane_index, const void *input, int count, sp_error *reterr)
{
    SP_ASSERT(lane_index >= 0 && lane_index < c->lane_count);
    SP_ASSERT(count >= 1 && count <= c->max_batch);
    classify_lane *lane = &c->lanes[lane_index];
    const sp_prep_spec *prep = &c->model->prep;
    sp_engine_tensor tensor = {
        .data = input ? (void *)(uintptr_t)input : lane->input, /* the engine does not write inputs */
        .size_bytes = c->tensor_bytes * (size_t)count,
        .dtype = prep->dtype,
        .rank = 4,
        .dims = { count, 3, prep->crop_h, prep->crop_w },
    };
    describe_output(c, lane, count);
    return sp_session_run(c->session, lane_index, &tensor, 1, lane->outputs, c->output_count, reterr);
}

const float *sp_classify_raw(sp_classifier *c, int lane_index, int index)
{
    SP_ASSERT(lane_index >= 0 && lane_index < c->lane_count && index >= 0 && index < c->max_batch);
    classify_lane *lane = &c->lanes[lane_index];
    const uint8_t *row = lane->output + (size_t)index * c->row_bytes;
    if (c->output_port.dtype == SP_ENGINE_F32) {
        memcpy(lane->values, row, c->row_bytes);
    } else {
        for (uint32_t i = 0; i < c->model->class_count; i++) {
            uint16_t half;
            memcpy(&half, row + 2 * (size_t)i, sizeof(half));
            lane->values[i] = sp_rank_widen_f16(half);
        }
    }
    return lane->values;
}

sp_status sp_classify_answer(sp_classifier *c, int lane_index, int index, int top_k, sp_class_score *ret_scores,
                             int *ret_count, sp_error *reterr)
{
    const sp_model *model = c->model;
    const float *values = sp_classify_raw(c, lane_index, index);
    return sp_rank_top(model->name, values, model->class_count, model->meaning, top_k, c->lanes[lane_index].probabilities,
                       ret_scores, ret_count, reterr);
}
