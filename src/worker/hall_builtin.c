/* SPDX-License-Identifier: Apache-2.0
 * The steps that an ensemble has without a model of its own:
 *
 *   spillway/preprocess   one picture -> the input of the step that takes it. The picture comes as BYTES, which a codec worker
 *                         has decoded before the lease came here (this process never decodes), or as UINT8 [H, W, 3] RGB.
 *   spillway/postprocess  a model's outputs -> what people ask for: of a classifier "probability:index:label" (BYTES) or all
 *                         probabilities (FP32), of a detector rows of x0 y0 x1 y1 score class (FP32) and labels (BYTES).
 *
 * How is said by spillway.json beside the model that the tensors go to or come from, as for /v1/classify and /v1/detect; the
 * ensemble's parameters `preprocess` and `postprocess` (the same JSON) go before it. */
#include "worker/hall_ensemble.h"

#include "kernels/prep_run.h"
#include "task/detect.h"
#include "task/rank.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOP_K_DEFAULT 5

struct sp_hall_builtin {
    sp_ensemble_kind kind;
    char name[SP_LIMIT_SERVED_NAME_BYTES]; /* of the model it works for */
    sp_model *model;                       /* its description */
    int rows_dimension;                    /* 1: tensors of the ensemble begin with rows */
    pthread_mutex_t lock;                  /* guards scratch and decoder: one call at a time */
    /* preprocess */
    sp_prep_scratch *scratch;
    int output_rank;
    /* postprocess */
    uint8_t output_dtype; /* of output 0 */
    int top_k;
    float *probabilities;
    uint32_t probability_count;
    sp_detect_decoder *decoder;
    int port_of_input[SP_INFER_PORTS]; /* the model's output that input i of the step is */
    int input_count;
    /* What stands for the model's session: */
    sp_engine_ports ports;
    sp_engine_port inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS];
};

/* --- settings ----------------------------------------------------------------------------------------------------- */

static const char *parameter(const sp_model_config *config, const char *key)
{
    for (int i = 0; i < config->parameter_count; i++)
        if (strcmp(config->parameters[i].key, key) == 0)
            return config->parameters[i].value;
    return NULL;
}

static void describe_port(sp_engine_port *to, const sp_model_port *from, bool batches)
{
    int first = batches ? 1 : 0;

    *to = (sp_engine_port){.name = from->name, .dtype = from->dtype, .rank = SP_MIN(from->rank + first, SP_ENGINE_MAX_RANK)};
    to->dims[0] = -1;
    for (int i = first; i < to->rank; i++)
        to->dims[i] = from->dims[i - first];
}

/* spillway.json beside `model`, and over it the ensemble's parameter `key`. */
static sp_status read_description(sp_hall_builtin *b, const sp_hall_model *ensemble, const sp_hall_model *model, const char *key,
                                  sp_error *reterr)
{
    char repository[1024], labels[256] = "";
    const char *text = parameter(ensemble->config, key);

    (void)snprintf(repository, sizeof(repository), "%s", model->spec->directory);
    char *name = strrchr(repository, '/');
    if (!name || !name[1])
        return SP_FAIL(reterr, SP_INVALID, "model '%s' has no directory", model->config->name);
    *name++ = 0;
    sp_status s = sp_model_describe(repository, name, &b->model, reterr);
    if (!s && text)
        s = sp_model_parse_settings(b->model, text, strlen(text), labels, sizeof(labels), reterr);
    return s;
}

static sp_hall_model *model_of(sp_hall *hall, const sp_hall_model *ensemble, int step)
{
    return step >= 0 && ensemble->spec->step_models[step] ? sp_hall_find(hall, ensemble->spec->step_models[step]) : NULL;
}

/* --- preprocess --------------------------------------------------------------------------------------------------- */

static int port_that_takes(const sp_ensemble_planned *step, int tensor)
{
    for (int i = 0; i < step->input_count; i++)
        if (step->inputs[i].tensor == tensor)
            return step->inputs[i].port;
    return -1;
}

static sp_status make_preprocess(sp_hall_builtin *b, sp_hall *hall, const sp_hall_model *ensemble, const sp_ensemble_plan *plan,
                                 int step, sp_error *reterr)
{
    const sp_ensemble_planned *planned = &plan->steps[step];
    if (planned->input_count != 1 || planned->output_count != 1)
        return SP_FAIL(reterr, SP_INVALID, "in ensemble '%s', spillway/preprocess takes one picture and makes one tensor",
                       ensemble->config->name);
    int tensor = planned->outputs[0].tensor, taker = sp_ensemble_consumer(plan, tensor);
    sp_hall_model *model = model_of(hall, ensemble, taker);
    if (!model)
        return SP_FAIL(reterr, SP_INVALID, "in ensemble '%s', no model takes what spillway/preprocess makes (%s)",
                       ensemble->config->name, plan->tensors[tensor].name);
    sp_status s = read_description(b, ensemble, model, "preprocess", reterr);
    if (s)
        return s;
    const sp_model_port *port = &model->config->inputs[port_that_takes(&plan->steps[taker], tensor)];
    describe_port(&b->inputs[0], port, model->batches);
    b->output_rank = b->inputs[0].rank;
    if (b->inputs[0].rank == 3) { /* [3, H, W] of a model without batch dimension */
        memmove(&b->inputs[0].dims[1], b->inputs[0].dims, sizeof(int64_t) * 3);
        b->inputs[0].dims[0] = -1;
        b->inputs[0].rank = 4;
    }
    /* Only the input is fitted here: whatever the outputs are, a classifier of two classes stands in for them. */
    if (b->model->task == SP_MODEL_DETECT)
        sp_detect_defaults(b->model); /* its head's usual preparation */
    b->model->task = SP_MODEL_CLASSIFY;
    b->outputs[0] = (sp_engine_port){.name = b->model->output[0] ? b->model->output : "output", .dtype = SP_ENGINE_F32, .rank = 2,
                                     .dims = {-1, b->model->label_count > 1 ? (int64_t)b->model->label_count : 2}};
    b->ports = (sp_engine_ports){.input_count = 1, .output_count = 1, .inputs = b->inputs, .outputs = b->outputs};
    b->model->input[0] = 0;
    s = sp_model_fit(b->model, &b->ports, reterr);
    if (!s)
        s = sp_prep_spec_check(&b->model->prep, reterr);
    if (s)
        return s;
    b->scratch = sp_prep_scratch_new();
    return b->scratch ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for scaling pictures");
}

typedef struct pixels {
    const uint8_t *rgb;
    int w, h;
} pixels;

/* UINT8 [H, W, 3], perhaps with one row before it. */
static bool raw_pixels(const sp_hall_tensor *input, pixels *ret_pixels)
{
    const int64_t *dims = input->dims;

    if (input->rank == 4 && dims[0] == 1)
        dims++;
    else if (input->rank != 3)
        return false;
    if (dims[0] < 1 || dims[1] < 1 || dims[2] != 3 || dims[0] > SP_LIMIT_IMAGE_SIDE || dims[1] > SP_LIMIT_IMAGE_SIDE)
        return false;
    *ret_pixels = (pixels){.rgb = input->data, .w = (int)dims[1], .h = (int)dims[0]};
    return input->bytes == (uint64_t)dims[0] * (uint64_t)dims[1] * 3;
}

static sp_status find_pixels(const sp_hall_tensor *input, const sp_work_item *lease, pixels *ret_pixels, sp_error *reterr)
{
    const sp_submission *submission = lease->submission;

    if (input->dtype == SP_ENGINE_U8)
        return raw_pixels(input, ret_pixels)
                   ? SP_OK
                   : SP_FAIL(reterr, SP_INVALID, "spillway/preprocess takes UINT8 pictures of the shape [height, width, 3], one a request");
    if (input->dtype != SP_DTYPE_BYTES)
        return SP_FAIL(reterr, SP_INVALID, "spillway/preprocess takes a picture as BYTES or as UINT8 [height, width, 3]");
    if (submission->output_kind != SP_OUTPUT_RGB8)
        return SP_FAIL(reterr, SP_INVALID, "the picture was not decoded: send one file a request, as a binary BYTES tensor of one element");
    uint64_t bytes = (uint64_t)submission->image_w * (uint64_t)submission->image_h * 3;
    if (submission->image_w < 1 || submission->image_h < 1 || bytes > lease->input.size_bytes)
        return SP_FAIL(reterr, SP_INTERNAL, "a picture of %d x %d pixels lies in %zu bytes", submission->image_w, submission->image_h,
                       lease->input.size_bytes);
    *ret_pixels = (pixels){.rgb = lease->input.data, .w = submission->image_w, .h = submission->image_h};
    return SP_OK;
}

static void finish_item(sp_hall_request *request, const sp_hall_writer *writer)
{
    sp_infer_answer *answer = (sp_infer_answer *)(void *)writer->answer;

    answer->count = (uint32_t)writer->count;
    answer->batch_rows = 1;
    answer->batch_leader = 1;
    answer->step_count = 0;
    answer->queue_ns = answer->input_ns = answer->infer_ns = answer->output_ns = 0;
    request->item->done.answer_bytes = (uint32_t)writer->at;
    request->item->answer_touched = writer->at;
}

static const sp_infer_wish *wish_of(const sp_hall_request *request, int port)
{
    for (int i = 0; i < request->wish_count; i++)
        if (request->wishes[i].port == port)
            return &request->wishes[i];
    return NULL;
}

static uint8_t *put(sp_hall_writer *writer, const sp_hall_request *request, int port, sp_hall_tensor *tensor)
{
    const sp_infer_wish *wish = wish_of(request, port);
    uint8_t *room = wish ? sp_hall_writer_room(writer, tensor->bytes) : NULL;

    if (room) {
        tensor->data = room;
        sp_hall_writer_note(writer, wish, tensor, (size_t)(room - writer->answer));
    }
    return room;
}

static sp_status run_preprocess(sp_hall_builtin *b, sp_hall_request *request, const sp_work_item *lease, sp_error *reterr)
{
    const sp_prep_spec *prep = &b->model->prep;
    pixels p = {0};
    sp_hall_writer writer;
    sp_status s = find_pixels(&request->inputs[0], lease, &p, reterr);
    if (s || !request->wish_count)
        return s;
    sp_hall_writer_begin(&writer, request->item, 1);
    sp_hall_tensor tensor = {.bytes = sp_prep_output_bytes(prep), .given = true, .dtype = prep->dtype, .rank = (uint8_t)b->output_rank,
                             .dims = {1, 3, prep->crop_h, prep->crop_w}};
    if (b->output_rank == 3)
        memcpy(tensor.dims, (int64_t[]){3, prep->crop_h, prep->crop_w}, sizeof(int64_t) * 3);
    uint8_t *room = put(&writer, request, 0, &tensor);
    if (!room)
        return SP_FAIL(reterr, SP_TOO_LARGE, "the tensor of a picture has %llu bytes", (unsigned long long)tensor.bytes);
    s = sp_prep_image(prep, p.rgb, p.w, p.h, (size_t)p.w * 3, room, b->scratch, reterr);
    finish_item(request, &writer);
    return s;
}

/* --- postprocess -------------------------------------------------------------------------------------------------- */

static sp_status make_postprocess(sp_hall_builtin *b, sp_hall *hall, const sp_hall_model *ensemble, const sp_ensemble_plan *plan,
                                  int step, sp_error *reterr)
{
    const sp_ensemble_planned *planned = &plan->steps[step];
    if (planned->input_count < 1 || planned->output_count < 1 || planned->output_count > 2)
        return SP_FAIL(reterr, SP_INVALID, "in ensemble '%s', spillway/postprocess takes a model's outputs and makes one or two tensors",
                       ensemble->config->name);
    int maker = plan->tensors[planned->inputs[0].tensor].producer;
    sp_hall_model *model = model_of(hall, ensemble, maker);
    if (!model)
        return SP_FAIL(reterr, SP_INVALID, "in ensemble '%s', what spillway/postprocess takes (%s) comes from no model",
                       ensemble->config->name, plan->tensors[planned->inputs[0].tensor].name);
    for (int i = 0; i < planned->input_count; i++) {
        int tensor = planned->inputs[i].tensor;
        b->port_of_input[i] = -1;
        for (int k = 0; plan->tensors[tensor].producer == maker && k < plan->steps[maker].output_count; k++)
            if (plan->steps[maker].outputs[k].tensor == tensor)
                b->port_of_input[i] = plan->steps[maker].outputs[k].port;
        if (b->port_of_input[i] < 0)
            return SP_FAIL(reterr, SP_INVALID, "in ensemble '%s', spillway/postprocess takes outputs of one model; %s is none of '%s'",
                           ensemble->config->name, plan->tensors[tensor].name, model->config->name);
    }
    b->input_count = planned->input_count;
    b->output_dtype = plan->tensors[planned->outputs[0].tensor].dtype;
    sp_status s = read_description(b, ensemble, model, "postprocess", reterr);
    if (s)
        return s;
    for (int i = 0; i < model->config->input_count; i++)
        describe_port(&b->inputs[i], &model->config->inputs[i], model->batches);
    for (int i = 0; i < model->config->output_count; i++)
        describe_port(&b->outputs[i], &model->config->outputs[i], model->batches);
    b->ports = (sp_engine_ports){.input_count = model->config->input_count, .output_count = model->config->output_count,
                                 .inputs = b->inputs, .outputs = b->outputs};
    if (b->model->task == SP_MODEL_DETECT)
        return sp_detect_decoder_new(b->model, &b->ports, &b->decoder, reterr);
    const char *top_k = parameter(ensemble->config, "top_k");
    b->top_k = top_k ? SP_CLAMP((int)strtol(top_k, NULL, 10), 1, SP_LIMIT_TOP_K) : TOP_K_DEFAULT;
    if (b->output_dtype && b->output_dtype != SP_DTYPE_BYTES && b->output_dtype != SP_ENGINE_F32)
        return SP_FAIL(reterr, SP_INVALID, "in ensemble '%s', spillway/postprocess makes TYPE_STRING (classes) or TYPE_FP32 (probabilities)",
                       ensemble->config->name);
    return SP_OK;
}

/* Scores as f32, widened into b->probabilities' second half where they are halves. */
static sp_status widen(sp_hall_builtin *b, const sp_hall_tensor *input, uint32_t classes, const float **ret_values, sp_error *reterr)
{
    size_t room = (size_t)classes * 2;

    if (b->probability_count < classes) {
        float *grown = realloc(b->probabilities, room * sizeof(float));
        if (!grown)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for %u classes", classes);
        b->probabilities = grown;
        b->probability_count = classes;
    }
    float *values = b->probabilities + classes;
    if (input->dtype == SP_ENGINE_F32) {
        memcpy(values, input->data, sizeof(float) * classes);
    } else if (input->dtype == SP_ENGINE_F16) {
        for (uint32_t i = 0; i < classes; i++) {
            uint16_t half;
            memcpy(&half, input->data + 2 * (size_t)i, sizeof(half));
            values[i] = sp_rank_widen_f16(half);
        }
    } else {
        return SP_FAIL(reterr, SP_INVALID, "spillway/postprocess takes FP32 or FP16 scores, not %s", sp_dtype_kserve(input->dtype));
    }
    *ret_values = values;
    return SP_OK;
}

static void put_text(uint8_t *room, size_t *at, const char *text)
{
    uint32_t length = (uint32_t)strlen(text);

    memcpy(room + *at, &length, sizeof(length));
    memcpy(room + *at + sizeof(length), text, length);
    *at += sizeof(length) + length;
}

static const char *label_of(const sp_hall_builtin *b, uint32_t class_id)
{
    return b->model->label_count ? sp_model_label(b->model, class_id) : "";
}

/* The best of one row as strings behind *at; `room` has sp_limit for each. */
static void write_classes(const sp_hall_builtin *b, const sp_class_score *scores, int count, uint8_t *room, size_t *at)
{
    for (int i = 0; i < count; i++) {
        char text[64 + SP_LIMIT_LABEL_BYTES];
        const char *label = label_of(b, scores[i].class_id);
        (void)snprintf(text, sizeof(text), label[0] ? "%f:%u:%.*s" : "%f:%u", (double)scores[i].probability, scores[i].class_id,
                       SP_LIMIT_LABEL_BYTES, label);
        put_text(room, at, text);
    }
}

static sp_status run_classes(sp_hall_builtin *b, sp_hall_request *request, sp_error *reterr)
{
    const sp_hall_tensor *input = &request->inputs[0];
    bool has_rows = b->outputs[b->port_of_input[0]].rank > 1 && input->rank > 1;
    uint64_t elements, rows = has_rows ? (uint64_t)input->dims[0] : 1;
    if (!sp_hall_elements(input->dims, input->rank, &elements) || !rows || elements / rows < 1 || elements / rows > SP_LIMIT_CLASSES)
        return SP_FAIL(reterr, SP_INVALID, "spillway/postprocess: a classifier's output is [rows, classes]");
    uint32_t classes = (uint32_t)(elements / rows);
    int k = SP_MIN(b->top_k, (int)classes);
    bool as_text = b->output_dtype != SP_ENGINE_F32;
    sp_hall_writer writer;
    sp_hall_writer_begin(&writer, request->item, request->wish_count);
    sp_hall_tensor out = {.given = true, .dtype = as_text ? SP_DTYPE_BYTES : SP_ENGINE_F32, .rank = input->rank};
    memcpy(out.dims, input->dims, sizeof(out.dims));
    out.bytes = as_text ? rows * (uint64_t)k * (4 + 64 + SP_LIMIT_LABEL_BYTES) : elements * sizeof(float);
    uint8_t *room = sp_hall_writer_room(&writer, out.bytes);
    if (!room)
        return SP_FAIL(reterr, SP_TOO_LARGE, "the answer of spillway/postprocess has %llu bytes", (unsigned long long)out.bytes);
    size_t at = 0, element = sp_dtype_bytes(input->dtype);
    for (uint64_t row = 0; row < rows; row++) {
        sp_hall_tensor part = *input;
        const float *values = NULL;
        sp_class_score scores[SP_LIMIT_TOP_K];
        int count = 0;
        part.data = input->data + row * classes * element;
        sp_status s = widen(b, &part, classes, &values, reterr);
        if (!s)
            s = sp_rank_top(b->name, values, classes, b->model->meaning, k, b->probabilities, scores, &count, reterr);
        if (s)
            return s;
        if (as_text)
            write_classes(b, scores, count, room, &at);
        else
            memcpy(room + row * classes * sizeof(float), b->probabilities, classes * sizeof(float));
    }
    if (as_text) {
        out.bytes = at;
        out.rank = has_rows ? 2 : 1;
        out.dims[0] = has_rows ? (int64_t)rows : k;
        out.dims[1] = k;
    }
    sp_hall_writer_note(&writer, &request->wishes[0], &out, (size_t)(room - writer.answer));
    finish_item(request, &writer);
    return SP_OK;
}

static sp_status decode_boxes(sp_hall_builtin *b, const sp_hall_request *request, const sp_work_item *lease, sp_detect_box *boxes,
                              int *count, sp_error *reterr)
{
    sp_engine_tensor outputs[SP_INFER_PORTS];
    const sp_detect_params params = sp_detect_params_default();
    const sp_submission *submission = lease->submission;
    bool decoded = submission->output_kind == SP_OUTPUT_RGB8;

    for (int i = 0; i < b->ports.output_count; i++)
        outputs[i] = (sp_engine_tensor){.dtype = b->outputs[i].dtype, .rank = SP_ENGINE_ABSENT};
    for (int i = 0; i < b->input_count; i++) {
        const sp_hall_tensor *input = &request->inputs[i];
        sp_engine_tensor *to = &outputs[b->port_of_input[i]];
        *to = (sp_engine_tensor){.data = (void *)(uintptr_t)input->data, .size_bytes = input->bytes, .dtype = input->dtype,
                                 .rank = input->rank};
        memcpy(to->dims, input->dims, sizeof(int64_t) * input->rank);
    }
    /* Without a decoded picture, boxes are in pixels of the model's input. */
    int w = decoded ? submission->image_w : b->model->prep.crop_w, h = decoded ? submission->image_h : b->model->prep.crop_h;
    return sp_detect_decode(b->decoder, outputs, 0, w, h, &params, boxes, count, reterr);
}

static sp_status run_boxes(sp_hall_builtin *b, sp_hall_request *request, const sp_work_item *lease, sp_error *reterr)
{
    sp_detect_box boxes[SP_LIMIT_DETECT_BOXES];
    int count = 0;
    sp_hall_writer writer;
    bool rows = request->inputs[0].rank > 2;
    sp_status s = decode_boxes(b, request, lease, boxes, &count, reterr);
    if (s)
        return s;
    sp_hall_writer_begin(&writer, request->item, request->wish_count);
    sp_hall_tensor out = {.given = true, .dtype = SP_ENGINE_F32, .rank = rows ? 3 : 2, .bytes = (uint64_t)count * 6 * sizeof(float),
                          .dims = {1, count, 6}};
    if (!rows)
        memcpy(out.dims, (int64_t[]){count, 6}, sizeof(int64_t) * 2);
    uint8_t *room = put(&writer, request, 0, &out);
    for (int i = 0; room && i < count; i++) {
        float row[6] = {boxes[i].x0, boxes[i].y0, boxes[i].x1, boxes[i].y1, boxes[i].score, (float)boxes[i].class_id};
        memcpy(room + (size_t)i * sizeof(row), row, sizeof(row));
    }
    const sp_infer_wish *wish = wish_of(request, 1);
    if (wish) {
        sp_hall_tensor labels = {.given = true, .dtype = SP_DTYPE_BYTES, .rank = rows ? 2 : 1, .dims = {1, count}};
        size_t at = 0;
        room = sp_hall_writer_room(&writer, (size_t)count * (4 + SP_LIMIT_LABEL_BYTES));
        for (int i = 0; i < count; i++)
            put_text(room, &at, label_of(b, boxes[i].class_id));
        labels.bytes = at;
        if (!rows)
            labels.dims[0] = count;
        sp_hall_writer_note(&writer, wish, &labels, (size_t)(room - writer.answer));
    }
    finish_item(request, &writer);
    return SP_OK;
}

/* --- both --------------------------------------------------------------------------------------------------------- */

sp_status sp_hall_builtin_new(sp_hall *hall, const sp_hall_model *ensemble, const sp_ensemble_plan *plan, int step,
                              sp_hall_builtin **ret_builtin, sp_error *reterr)
{
    sp_hall_builtin *b = calloc(1, sizeof(*b));
    if (!b)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a step");
    (void)pthread_mutex_init(&b->lock, NULL);
    b->kind = plan->steps[step].kind;
    (void)snprintf(b->name, sizeof(b->name), "%s", ensemble->config->steps[step].model);
    sp_status s = b->kind == SP_STEP_PREPROCESS ? make_preprocess(b, hall, ensemble, plan, step, reterr)
                                                : make_postprocess(b, hall, ensemble, plan, step, reterr);
    if (s)
        sp_hall_builtin_free(b);
    else
        *ret_builtin = b;
    return s;
}

void sp_hall_builtin_free(sp_hall_builtin *b)
{
    if (!b)
        return;
    sp_detect_decoder_free(b->decoder);
    sp_prep_scratch_free(b->scratch);
    sp_model_free(b->model);
    free(b->probabilities);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
}

sp_status sp_hall_builtin_run(sp_hall_builtin *b, sp_hall_request *request, const sp_work_item *lease, sp_error *reterr)
{
    (void)pthread_mutex_lock(&b->lock);
    sp_status s = b->kind == SP_STEP_PREPROCESS ? run_preprocess(b, request, lease, reterr)
                  : b->decoder                  ? run_boxes(b, request, lease, reterr)
                                                : run_classes(b, request, reterr);
    (void)pthread_mutex_unlock(&b->lock);
    return s;
}
