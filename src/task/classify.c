/* SPDX-License-Identifier: Apache-2.0
 * The classify task. */
#include "task/classify.h"

#include "base/machine.h"
#include "base/view.h"
#include "engine/bucket.h"
#include "kernels/kernels.h"
#include "kernels/prep_run.h"
#include "task/classify_cuda.h"

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
    bool nvjpeg;
    size_t tensor_bytes;
    size_t row_bytes; /* of the output, one item */
    int output_count;
    sp_engine_port output_port;
    classify_lane *lanes;
    sp_classify_cuda *cuda; /* NULL: on the host */
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
    if (!c->cuda) {
        lane->input = reserve((size_t)c->max_batch, c->tensor_bytes);
        lane->output = reserve((size_t)c->max_batch, c->row_bytes);
        lane->scratch = sp_prep_scratch_new();
    } else {
        lane->output = reserve(1, c->row_bytes);
    }
    lane->values = reserve(c->model->class_count, sizeof(float));
    lane->probabilities = reserve(c->model->class_count, sizeof(float));
    lane->outputs = calloc((size_t)c->output_count, sizeof(*lane->outputs));
    bool host = c->cuda || (lane->input && lane->scratch);
    if (!host || !lane->output || !lane->values || !lane->probabilities || !lane->outputs)
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

/* The model's numbers of an item into the lane's values. Of a lane on the host it cannot fail. */
static sp_status read_raw(sp_classifier *c, int lane_index, int index, sp_error *reterr)
{
    SP_ASSERT(lane_index >= 0 && lane_index < c->lane_count && index >= 0 && index < c->max_batch);
    classify_lane *lane = &c->lanes[lane_index];
    const uint8_t *row = lane->output + (c->cuda ? 0 : (size_t)index * c->row_bytes);
    sp_status s = c->cuda ? sp_classify_cuda_raw(c->cuda, lane_index, index, lane->output, reterr) : SP_OK;
    if (s)
        return s;
    if (c->output_port.dtype == SP_ENGINE_F32) {
        memcpy(lane->values, row, c->row_bytes);
        return SP_OK;
    }
    for (uint32_t i = 0; i < c->model->class_count; i++) {
        uint16_t half;
        memcpy(&half, row + 2 * (size_t)i, sizeof(half));
        lane->values[i] = sp_rank_widen_f16(half);
    }
    return SP_OK;
}

/* Each size of run of a device's, until the last is as quick as it will be. */
static sp_status warm_up_device(sp_classifier *c, const void *zeros, sp_error *reterr)
{
    sp_status s = SP_OK;
    for (int i = 0; i < c->max_batch && !s; i++)
        s = sp_classify_put_tensor(c, 0, i, zeros, false, reterr);
    for (int size = 1; !s; size = SP_MIN(size * 2, c->max_batch)) {
        for (int turn = 0; turn < SP_BUCKET_WARM_UPS && !s; turn++)
            s = sp_classify_run_items(c, 0, 0, size, 1, reterr);
        if (size == c->max_batch)
            break;
    }
    return s;
}

static sp_status warm_up_lanes(sp_classifier *c, const void *zeros, sp_error *reterr)
{
    for (int lane = 0; lane < c->lane_count; lane++) {
        sp_class_score score;
        int count;
        sp_status s = sp_classify_put_tensor(c, lane, 0, zeros, false, reterr);
        if (!s)
            s = sp_classify_run_items(c, lane, 0, 1, 1, reterr);
        if (!s)
            s = read_raw(c, lane, 0, reterr);
        if (s)
            return s;
        if (c->model->meaning == SP_OUTPUT_UNKNOWN)
            c->model->meaning = sp_rank_meaning(c->lanes[lane].values, c->model->class_count);
        s = sp_classify_answer(c, lane, 0, 1, &score, &count, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status warm_up(sp_classifier *c, sp_error *reterr)
{
    void *zeros = reserve(1, c->tensor_bytes);
    if (!zeros)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a tensor of %zu bytes", c->tensor_bytes);
    sp_status s = warm_up_lanes(c, zeros, reterr);
    if (!s && c->cuda)
        s = warm_up_device(c, zeros, reterr);
    free(zeros);
    return s;
}

static sp_status reserve_device(sp_classifier *c, int device_index, sp_error *reterr)
{
    const sp_classify_cuda_shape shape = { .model = c->model,
                                           .session = c->session,
                                           .device_index = device_index,
                                           .lanes = c->lane_count,
                                           .max_batch = c->max_batch,
                                           .nvjpeg = c->nvjpeg,
                                           .tensor_bytes = c->tensor_bytes,
                                           .row_bytes = c->row_bytes,
                                           .output = &c->output_port };
    return sp_classify_cuda_reserve(c->cuda, &shape, reterr);
}

static sp_status open_lanes(sp_classifier *c, int lanes, int device_index, sp_error *reterr)
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
    if (!s && c->cuda)
        s = reserve_device(c, device_index, reterr);
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
    c->nvjpeg = options->nvjpeg;
    sp_session_options session = sp_session_options_default(model->path);
    session.provider = options->provider;
    session.device_index = options->device_index;
    session.threads = options->threads;
    session.lanes = options->cuda ? 1 : options->lanes; /* a device computes one batch after the other */
    session.spin = options->spin;
    const sp_engine_option refuse = { "host_nodes", "refuse" };
    session.options = &refuse;
    session.option_count = options->refuse_cpu_nodes;
    sp_status s = options->cuda ? sp_classify_cuda_new(options->cuda_api, options->cuda, &c->cuda, reterr) : SP_OK;
    if (!s && c->cuda) {
        session.compute_stream = sp_classify_cuda_stream(c->cuda);
        session.flags = SP_ENGINE_ORDERED | SP_ENGINE_GRAPHS;
    }
    if (!s)
        s = sp_session_open(engine, &session, &c->session, reterr);
    if (!s)
        s = open_lanes(c, SP_MAX(options->lanes, 1), options->device_index, reterr);
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
    sp_classify_cuda_free(c->cuda);
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

bool sp_classify_on_device(const sp_classifier *c)
{
    return c->cuda != NULL;
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
    SP_ASSERT(!c->cuda && lane >= 0 && lane < c->lane_count && index >= 0 && index < c->max_batch);
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
    SP_ASSERT(!c->cuda && lane_index >= 0 && lane_index < c->lane_count);
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

sp_status sp_classify_put_picture(sp_classifier *c, int lane, int index, const uint8_t *rgb, int w, int h, bool pinned,
                                  sp_error *reterr)
{
    if (!c->cuda)
        return sp_classify_prepare(c, lane, index, rgb, w, h, reterr);
    SP_ASSERT(lane >= 0 && lane < c->lane_count && index >= 0 && index < c->max_batch);
    return sp_classify_cuda_picture(c->cuda, lane, index, rgb, w, h, pinned, reterr);
}

sp_status sp_classify_put_tensor(sp_classifier *c, int lane, int index, const void *tensor, bool pinned, sp_error *reterr)
{
    SP_ASSERT(lane >= 0 && lane < c->lane_count && index >= 0 && index < c->max_batch);
    if (c->cuda)
        return sp_classify_cuda_tensor(c->cuda, lane, index, tensor, pinned, reterr);
    memcpy(sp_classify_input(c, lane, index), tensor, c->tensor_bytes);
    return SP_OK;
}

sp_status sp_classify_put_jpeg(sp_classifier *c, int lane, int index, sp_view file, sp_error *reterr)
{
    if (!c->cuda)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "off", "no device decodes pictures here");
    SP_ASSERT(lane >= 0 && lane < c->lane_count && index >= 0 && index < c->max_batch);
    return sp_classify_cuda_jpeg(c->cuda, lane, index, file, reterr);
}

sp_status sp_classify_run_items(sp_classifier *c, int lane, int first, int count, int top_k, sp_error *reterr)
{
    SP_ASSERT(lane >= 0 && lane < c->lane_count);
    SP_ASSERT(first >= 0 && count >= 1 && first + count <= c->max_batch);
    if (c->cuda)
        return sp_classify_cuda_run(c->cuda, lane, first, count, top_k, reterr);
    return sp_classify_run(c, lane, sp_classify_input(c, lane, first), count, reterr);
}

const float *sp_classify_raw(sp_classifier *c, int lane, int index)
{
    return read_raw(c, lane, index, NULL) ? NULL : c->lanes[lane].values;
}

sp_status sp_classify_answer(sp_classifier *c, int lane_index, int index, int top_k, sp_class_score *ret_scores,
                             int *ret_count, sp_error *reterr)
{
    const sp_model *model = c->model;
    if (c->cuda && !sp_classify_cuda_row(c->cuda, lane_index, index))
        return sp_classify_cuda_answer(c->cuda, lane_index, index, top_k, ret_scores, ret_count, reterr);
    const float *values = sp_classify_raw(c, lane_index, index);
    return sp_rank_top(model->name, values, model->class_count, model->meaning, top_k, c->lanes[lane_index].probabilities,
                       ret_scores, ret_count, reterr);
}
