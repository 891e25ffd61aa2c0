/* SPDX-License-Identifier: Apache-2.0
 * DETECT: a picture to a served model that spillway.json describes as a detector. The request stands in the model's own queue
 * among its inferences and runs with them: its input is made of the pixels just before the run, its boxes of the outputs
 * just after it (task/detect.h). */
#include "worker/hall_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "kernels/prep_run.h"
#include "task/detect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct detect_lane {
    sp_detect_decoder *decoder;
    sp_prep_scratch *scratch;
    sp_hall_buffer tensors[SP_LIMIT_BATCH]; /* one per request of a run */
} detect_lane;

struct sp_hall_detector {
    sp_model *model; /* the description, fitted */
    int input;       /* port of the configuration */
    uint64_t tensor_bytes;
    int lane_count;
    detect_lane *lanes;
    sp_hall_detect_cuda *cuda; /* NULL: pixels are prepared, and boxes found, on the host */
};

void sp_hall_detector_free(sp_hall_model *model)
{
    sp_hall_detector *d = SP_STEAL(model->detector);
    if (!d)
        return;
    sp_hall_detect_cuda_free(d->cuda);
    for (int i = 0; d->lanes && i < d->lane_count; i++) {
        sp_detect_decoder_free(d->lanes[i].decoder);
        sp_prep_scratch_free(d->lanes[i].scratch);
        for (int k = 0; k < SP_LIMIT_BATCH; k++)
            free(d->lanes[i].tensors[k].data);
    }
    free(d->lanes);
    sp_model_free(d->model);
    free(d);
}

static sp_status describe(sp_hall_model *model, sp_model **ret_model, sp_error *reterr)
{
    char repository[sizeof(model->spec->directory)];
    (void)snprintf(repository, sizeof(repository), "%s", model->spec->directory);
    size_t n = strlen(repository);
    while (n > 1 && repository[n - 1] == '/')
        repository[--n] = 0;
    char *slash = strrchr(repository, '/');
    if (!slash || slash == repository)
        return SP_FAIL(reterr, SP_NOT_FOUND, "'%s' lies in no repository", model->config->name);
    *slash = 0;
    return sp_model_describe(repository, slash + 1, ret_model, reterr);
}

static sp_status open_lanes(sp_hall_model *model, sp_hall_detector *d, sp_error *reterr)
{
    d->lanes = calloc((size_t)model->instances, sizeof(*d->lanes));
    if (!d->lanes)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d instances", model->instances);
    d->lane_count = model->instances;
    for (int i = 0; i < d->lane_count; i++) {
        sp_status s = sp_detect_decoder_new(d->model, sp_session_ports(model->session), &d->lanes[i].decoder, reterr);
        if (s)
            return s;
        d->lanes[i].scratch = sp_prep_scratch_new();
        if (!d->lanes[i].scratch)
            return SP_FAIL(reterr, SP_NOMEM, "no memory to prepare pictures");
    }
    d->input = model->inputs[d->model->input_index].config;
    d->tensor_bytes = sp_prep_output_bytes(&d->model->prep);
    return SP_OK;
}

void sp_hall_detector_open(const sp_hall *hall, sp_hall_model *model)
{
    sp_error err = { 0 };
    sp_hall_detector *d = NULL;
    if (model->identity || model->ensemble || model->sequences || !model->session)
        return;
    d = calloc(1, sizeof(*d));
    if (!d)
        return; /* a DETECT is told that it is none; its inferences need none of this */
    sp_status s = describe(model, &d->model, &err);
    model->detector = d;
    bool is_one = !s && d->model->task == SP_MODEL_DETECT;
    if (is_one)
        s = open_lanes(model, d, &err);
    if (is_one && s)
        sp_log(SP_LOG_WARN, "served model is described as a detector that it is not", SP_LOG_TEXT("model", model->config->name),
               SP_LOG_TEXT("error", err.message));
    if (!is_one || s)
        sp_hall_detector_free(model);
    else
        d->cuda = sp_hall_detect_cuda_new(hall, model, d->model, d->lanes[0].decoder);
}

bool sp_hall_detect_on_device(const sp_hall *hall, sp_hall_model *model, int lane, int executor, sp_hall_request **requests, int count)
{
    sp_hall_detector *d = model->detector;
    return d && d->cuda && sp_hall_detect_cuda_run(d->cuda, hall, model, d->lanes[lane].decoder, lane, executor, requests, count);
}

void sp_hall_detect_put(const sp_hall_model *model, sp_work_item *item, const sp_detect_box *boxes, int count)
{
    sp_answer_boxes *answer = (sp_answer_boxes *)(void *)item->answer; /* page-aligned */
    _Static_assert(SP_LIMIT_DETECT_BOXES <= SP_ARRAY_LEN(answer->boxes), "the most boxes fit an answer");
    answer->count = (uint32_t)count;
    answer->reserved = 0;
    for (int i = 0; i < count; i++) {
        sp_answer_box *box = &answer->boxes[i];
        *box = (sp_answer_box){ .x0 = boxes[i].x0, .y0 = boxes[i].y0, .x1 = boxes[i].x1, .y1 = boxes[i].y1,
                                .score = boxes[i].score, .class_id = boxes[i].class_id };
        (void)snprintf(box->label, sizeof(box->label), "%s", sp_model_label(model->detector->model, boxes[i].class_id));
    }
    item->done.answer_bytes = (uint32_t)(offsetof(sp_answer_boxes, boxes) + (size_t)count * sizeof(sp_answer_box));
}

/* The shape in the client's terms: what an INFER with the same tensor would say. */
sp_status sp_hall_detect_check(const sp_hall_model *model, sp_hall_request *request, sp_error *reterr)
{
    const sp_hall_detector *d = model->detector;
    if (!d)
        return SP_FAIL_CODE(reterr, SP_INVALID, "no_detector",
                            "the model '%s' is no detector: its spillway.json says no \"task\": \"detect\", or the log says why "
                            "it is not what it says", model->config->name);
    const sp_prep_spec *prep = &d->model->prep;
    for (int i = 0; i < model->config->input_count; i++)
        request->inputs[i].given = false;
    sp_hall_tensor *input = &request->inputs[d->input];
    *input = (sp_hall_tensor){ .given = true, .dtype = prep->dtype, .bytes = d->tensor_bytes,
                               .dims = { 1, 3, prep->crop_h, prep->crop_w }, .rank = 4 };
    if (!model->batches && model->config->inputs[d->input].rank == 3) {
        input->rank = 3;
        memmove(input->dims, input->dims + 1, 3 * sizeof(input->dims[0]));
    }
    request->detect = true;
    request->input_count = 1;
    request->wish_count = model->config->output_count;
    for (int i = 0; i < request->wish_count; i++)
        request->wishes[i] = (sp_infer_wish){ .port = (uint16_t)i };
    request->waiting.priority = 0;
    request->waiting.timeout_ns = 0;
    return sp_hall_check_inputs(model, request, reterr);
}

sp_status sp_hall_detect_prepare(sp_hall_model *model, int lane, int place, sp_hall_request *request, sp_error *reterr)
{
    sp_hall_detector *d = model->detector;
    sp_work_item *item = request->item;
    const sp_submission *sub = item->submission;
    int64_t begun_ns = sp_clock_now_ns();
    if (sub->output_kind != SP_OUTPUT_RGB8 || sub->image_w < 1 || sub->image_h < 1 || sub->image_w > SP_LIMIT_IMAGE_SIDE ||
        sub->image_h > SP_LIMIT_IMAGE_SIDE || (uint64_t)sub->image_w * (uint64_t)sub->image_h * 3 > item->input.size_bytes)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "a picture of %dx%d in %zu bytes", sub->image_w, sub->image_h,
                       item->input.size_bytes);
    uint8_t *room = sp_hall_buffer_room(&d->lanes[lane].tensors[place], (size_t)d->tensor_bytes);
    if (!room)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a tensor of %llu bytes", (unsigned long long)d->tensor_bytes);
    sp_status s = sp_prep_image(&d->model->prep, item->input.data, sub->image_w, sub->image_h, (size_t)sub->image_w * 3, room,
                                d->lanes[lane].scratch, reterr);
    request->inputs[d->input].data = room;
    item->done.preprocess_ns = sp_clock_now_ns() - begun_ns;
    return s;
}

sp_status sp_hall_detect_answer(sp_hall_model *model, int lane, const sp_engine_tensor *outputs, int row,
                                sp_hall_request *request, sp_error *reterr)
{
    sp_hall_detector *d = model->detector;
    sp_work_item *item = request->item;
    const sp_detect_params params = { .threshold = item->request->threshold, .iou = item->request->iou,
                                      .top_k = (int)SP_MIN(item->request->top_k, SP_LIMIT_DETECT_BOXES) };
    sp_detect_box boxes[SP_LIMIT_DETECT_BOXES];
    int count = 0;
    sp_status s = sp_detect_decode(d->lanes[lane].decoder, outputs, row, item->submission->image_w, item->submission->image_h,
                                   &params, boxes, &count, reterr);
    if (s)
        return s;
    /* The outputs may have lain where this goes: nothing reads them any more. */
    sp_hall_detect_put(model, item, boxes, count);
    return SP_OK;
}
