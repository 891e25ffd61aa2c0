/* SPDX-License-Identifier: Apache-2.0
 * DETECT on a CUDA device: u8 pixels in, boxes out. A batch of detections only, of a model whose shapes are known, takes this way;
 * whatever it cannot do (other requests beside them, no device memory, a head the device lacks) is left to the way of hall_run.c,
 * which gives the same boxes.
 *
 *   slots ──copy in──> pictures ─> letterbox ─> engine ─> head, suppression ──copy out──> at most 300 boxes a picture
 *
 * One batch at a time, in order, on one stream. */
#include "worker/hall_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "kernels/cuda_places.h"
#include "kernels/cuda_prep.h"
#include "kernels/prep_run.h"
#include "task/detect_cuda.h"

#include <stdlib.h>
#include <string.h>

struct sp_hall_detect_cuda {
    const sp_cuda_api *api;
    sp_cuda *cuda;
    pthread_mutex_t turn; /* guards all of it */
    sp_cuda_stream *stream;
    sp_cuda_prep *prep;
    int most; /* pictures of one run */
    size_t tensor_bytes;
    uint8_t *input; /* most tensors */
    uint8_t *outputs[SP_INFER_PORTS];
    size_t output_bytes[SP_INFER_PORTS]; /* of one picture */
    float *anchors;
    sp_cuda_places pictures;
    uint8_t *space;
    size_t space_bytes;
    uint8_t *kept, *answers; /* on the device, and pinned: | boxes most x 300 | count most | bad most | */
};

#define BOXES_BYTES (SP_LIMIT_DETECT_BOXES * sizeof(sp_cuda_detection))

static sp_cuda_detections kept_of(const sp_hall_detect_cuda *d, uint8_t *at)
{
    uint8_t *counts = at + (size_t)d->most * BOXES_BYTES;
    return (sp_cuda_detections){ .boxes = (sp_cuda_detection *)(void *)at,
                                 .count = (int32_t *)(void *)counts,
                                 .bad = (int32_t *)(void *)(counts + (size_t)d->most * sizeof(int32_t)) };
}

static size_t kept_bytes(const sp_hall_detect_cuda *d)
{
    return (size_t)d->most * (BOXES_BYTES + 2 * sizeof(int32_t));
}

/* --- reserving ------------------------------------------------------------------------------------------------------- */

void sp_hall_detect_cuda_free(sp_hall_detect_cuda *d)
{
    if (!d)
        return;
    const sp_cuda_api *api = d->api;
    if (d->stream)
        (void)api->stream_sync(d->stream, NULL); /* whatever it says, it is over */
    if (d->prep)
        api->prep->prep_free(d->prep);
    api->release(d->cuda, d->input);
    for (int i = 0; i < SP_INFER_PORTS; i++)
        api->release(d->cuda, d->outputs[i]);
    api->release(d->cuda, d->anchors);
    api->release(d->cuda, d->space);
    api->release(d->cuda, d->kept);
    sp_cuda_places_done(api, d->cuda, &d->pictures);
    api->pinned_free(d->cuda, d->answers);
    if (d->stream)
        api->stream_free(d->stream);
    (void)pthread_mutex_destroy(&d->turn);
    free(d);
}

/* Every output's size is known but for the rows. */
static bool measure_outputs(const sp_hall_model *model, sp_hall_detect_cuda *d)
{
    const sp_engine_ports *ports = sp_session_ports(model->session);
    for (int i = 0; i < ports->output_count; i++) {
        const sp_engine_port *port = &ports->outputs[i];
        size_t bytes = sp_engine_dtype_bytes(port->dtype);
        if (port->rank < 1 || !bytes || (port->dims[0] > 0 && port->dims[0] != 1))
            return false;
        for (int k = 1; k < port->rank; k++)
            if (port->dims[k] < 1 || !sp_size_mul(bytes, (size_t)port->dims[k], &bytes))
                return false;
        d->output_bytes[i] = bytes;
        d->most = port->dims[0] == 1 ? 1 : d->most;
    }
    return ports->input_count == 1 && ports->inputs[0].rank == 4;
}

static sp_status copy_anchors(sp_hall_detect_cuda *d, const sp_detect_decoder *decoder, sp_error *reterr)
{
    int rows = 0;
    const float *anchors = sp_detect_anchors(decoder, &rows);
    if (!anchors || !rows)
        return SP_OK;
    size_t bytes = (size_t)rows * 4 * sizeof(float);
    sp_status s = d->api->reserve(d->cuda, bytes, (void **)&d->anchors, reterr);
    if (!s)
        s = d->api->copy_in(d->stream, d->anchors, anchors, bytes, reterr);
    return s ? s : d->api->stream_sync(d->stream, reterr);
}

static sp_status reserve_all(sp_hall_detect_cuda *d, const sp_hall_model *model, const sp_model *description,
                             const sp_detect_decoder *decoder, sp_error *reterr)
{
    const sp_cuda_api *api = d->api;
    int outputs = sp_session_ports(model->session)->output_count;
    sp_status s = api->stream_new(d->cuda, &d->stream, reterr);
    if (!s)
        s = api->prep->prep_new(d->cuda, &description->prep, d->most, &d->prep, reterr);
    if (!s)
        s = api->reserve(d->cuda, (size_t)d->most * d->tensor_bytes, (void **)&d->input, reterr);
    if (!s) /* rows that only fill a batch up are run too */
        s = api->fill(d->stream, d->input, 0, (size_t)d->most * d->tensor_bytes, reterr);
    for (int i = 0; i < outputs && !s; i++)
        s = api->reserve(d->cuda, (size_t)d->most * d->output_bytes[i], (void **)&d->outputs[i], reterr);
    if (!s)
        s = api->reserve(d->cuda, kept_bytes(d), (void **)&d->kept, reterr);
    if (!s)
        s = api->pinned_new(d->cuda, kept_bytes(d), (void **)&d->answers, reterr);
    return s ? s : copy_anchors(d, decoder, reterr);
}

sp_hall_detect_cuda *sp_hall_detect_cuda_new(const sp_hall *hall, const sp_hall_model *model, const sp_model *description,
                                             const sp_detect_decoder *decoder)
{
    const sp_cuda_api *api = hall->settings.cuda_api;
    sp_error err = { 0 };
    if (!hall->settings.cuda || !api->prep || !api->prep->prep_batch || !api->post || !api->post->detect ||
        strcmp(model->provider, "cpu") == 0)
        return NULL;
    sp_hall_detect_cuda *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->api = api;
    d->cuda = hall->settings.cuda;
    d->most = model->batches ? SP_CLAMP(model->config->max_batch_size, 1, SP_LIMIT_BATCH) : 1;
    d->tensor_bytes = sp_prep_output_bytes(&description->prep);
    (void)pthread_mutex_init(&d->turn, NULL); /* cannot fail with default attributes */
    bool fits = measure_outputs(model, d);
    if (fits && reserve_all(d, model, description, decoder, &err) == SP_OK)
        return d;
    sp_log(SP_LOG_INFO, "detector's pixels stay on the host", SP_LOG_TEXT("model", model->config->name),
           SP_LOG_TEXT("reason", fits ? err.message : "sizes of its outputs are open"));
    sp_hall_detect_cuda_free(d);
    return NULL;
}

/* --- one batch ------------------------------------------------------------------------------------------------------- */

static bool is_picture(const sp_work_item *item)
{
    const sp_submission *sub = item->submission;
    return sub->output_kind == SP_OUTPUT_RGB8 && sub->image_w >= 1 && sub->image_h >= 1 && sub->image_w <= SP_LIMIT_IMAGE_SIDE &&
           sub->image_h <= SP_LIMIT_IMAGE_SIDE && (uint64_t)sub->image_w * (uint64_t)sub->image_h * 3 <= item->input.size_bytes;
}

static size_t picture_bytes(const sp_work_item *item)
{
    return (size_t)item->submission->image_w * (size_t)item->submission->image_h * 3;
}

/* Grows to the largest batch that was seen. */
static sp_status make_room(sp_hall_detect_cuda *d, size_t bytes, sp_error *reterr)
{
    if (bytes <= d->pictures.bytes)
        return SP_OK;
    if (bytes > SP_LIMIT_CUDA_PLACES_BYTES)
        return SP_FAIL(reterr, SP_NOMEM, "a batch of pictures of %zu bytes", bytes);
    return sp_cuda_places_renew(d->api, d->cuda, &d->pictures, SP_MIN(bytes + bytes / 4, SP_LIMIT_CUDA_PLACES_BYTES), reterr);
}

static sp_status prepare(sp_hall_detect_cuda *d, sp_hall_request **requests, int count, sp_error *reterr)
{
    sp_cuda_picture pictures[SP_LIMIT_BATCH];
    size_t at = 0, all = 0;
    for (int i = 0; i < count; i++)
        all += SP_ALIGN_UP(picture_bytes(requests[i]->item), SP_CUDA_PLACE_ALIGN);
    sp_status s = make_room(d, all, reterr);
    for (int i = 0; i < count && !s; i++) {
        const sp_work_item *item = requests[i]->item;
        size_t bytes = picture_bytes(item);
        const void *from = item->input.data;
        if (!item->input_pinned)
            from = memcpy(d->pictures.staging + at, item->input.data, bytes);
        s = d->api->copy_in(d->stream, d->pictures.device + at, from, bytes, reterr);
        pictures[i] = (sp_cuda_picture){ .rgb = d->pictures.device + at, .w = item->submission->image_w, .h = item->submission->image_h,
                                         .stride_bytes = (size_t)item->submission->image_w * 3 };
        at += SP_ALIGN_UP(bytes, SP_CUDA_PLACE_ALIGN);
    }
    if (!s)
        s = d->api->prep->prep_batch(d->prep, d->stream, pictures, count, d->input, reterr);
    return s ? s : d->api->stream_sync(d->stream, reterr); /* the session has a stream of its own */
}

static sp_status run_engine(sp_hall_detect_cuda *d, const sp_hall *hall, sp_hall_model *model, int lane, int count,
                            sp_engine_tensor *outputs, sp_error *reterr)
{
    const sp_engine_ports *ports = sp_session_ports(model->session);
    int64_t rows = model->bucket_most ? sp_bucket_of(count, d->most) : count;
    sp_engine_tensor input = { .data = d->input, .size_bytes = (uint64_t)rows * d->tensor_bytes, .dtype = ports->inputs[0].dtype,
                               .memory = SP_ENGINE_CUDA, .device_index = hall->settings.device_index, .rank = 4 };
    memcpy(input.dims, ports->inputs[0].dims, sizeof(input.dims));
    input.dims[0] = rows;
    for (int i = 0; i < ports->output_count; i++) {
        outputs[i] = (sp_engine_tensor){ .data = d->outputs[i], .size_bytes = (uint64_t)rows * d->output_bytes[i],
                                         .dtype = ports->outputs[i].dtype, .memory = SP_ENGINE_CUDA,
                                         .device_index = hall->settings.device_index, .rank = ports->outputs[i].rank };
        memcpy(outputs[i].dims, ports->outputs[i].dims, sizeof(outputs[i].dims));
        outputs[i].dims[0] = rows;
    }
    return sp_session_run(model->session, lane, &input, 1, outputs, ports->output_count, reterr);
}

static sp_status ensure_space(sp_hall_detect_cuda *d, size_t bytes, sp_error *reterr)
{
    if (bytes <= d->space_bytes)
        return SP_OK;
    sp_status s = d->api->stream_sync(d->stream, reterr); /* pictures before these may still be in it */
    if (s)
        return s;
    d->api->release(d->cuda, d->space);
    d->space = NULL;
    d->space_bytes = 0;
    s = d->api->reserve(d->cuda, bytes, (void **)&d->space, reterr);
    if (!s)
        d->space_bytes = bytes;
    return s;
}

/* Pictures first .. first + count - 1, which want the same. */
static sp_status decode(sp_hall_detect_cuda *d, sp_detect_decoder *decoder, const sp_engine_tensor *outputs, int output_count,
                        int first, int count, const sp_detect_params *params, sp_error *reterr)
{
    sp_engine_tensor part[SP_INFER_PORTS];
    sp_detect_on_device on;
    for (int i = 0; i < output_count; i++) {
        part[i] = outputs[i];
        part[i].data = (uint8_t *)outputs[i].data + (size_t)first * d->output_bytes[i];
        part[i].size_bytes -= (uint64_t)first * d->output_bytes[i];
        part[i].dims[0] -= first;
    }
    sp_status s = sp_detect_head_on(decoder, part, count, params, d->anchors, &on, reterr);
    size_t space = s ? 0 : d->api->post->detect_space(&on.head, &on.nms);
    if (!s && on.nms.most != SP_LIMIT_DETECT_BOXES)
        s = SP_FAIL(reterr, SP_UNSUPPORTED, "the device keeps %d boxes", on.nms.most);
    if (!s)
        s = ensure_space(d, space, reterr);
    if (s)
        return s;
    sp_cuda_detections kept = kept_of(d, d->kept);
    kept.boxes += (size_t)first * SP_LIMIT_DETECT_BOXES;
    kept.count += first;
    kept.bad += first;
    return d->api->post->detect(d->stream, &on.head, &on.nms, on.classwise, &kept, d->space, reterr);
}

static sp_detect_params params_of(const sp_hall_request *request)
{
    const sp_slot_request *wish = request->item->request;
    return (sp_detect_params){ .threshold = wish->threshold, .iou = wish->iou,
                               .top_k = (int)SP_MIN(wish->top_k, SP_LIMIT_DETECT_BOXES) };
}

static sp_status decode_all(sp_hall_detect_cuda *d, sp_detect_decoder *decoder, const sp_engine_tensor *outputs, int output_count,
                            sp_hall_request **requests, int count, sp_error *reterr)
{
    sp_status s = SP_OK;
    for (int first = 0, n; first < count && !s; first += n) {
        sp_detect_params params = params_of(requests[first]);
        for (n = 1; first + n < count; n++) {
            sp_detect_params other = params_of(requests[first + n]);
            if (other.threshold != params.threshold || other.iou != params.iou)
                break;
        }
        s = decode(d, decoder, outputs, output_count, first, n, &params, reterr);
    }
    if (!s)
        s = d->api->copy_out(d->stream, d->answers, d->kept, kept_bytes(d), reterr);
    return s ? s : d->api->stream_sync(d->stream, reterr);
}

static void answer_one(sp_hall_model *model, const sp_hall_detect_cuda *d, const sp_detect_decoder *decoder, int i,
                       sp_hall_request *request)
{
    sp_work_item *item = request->item;
    sp_cuda_detections kept = kept_of(d, d->answers);
    sp_detect_params params = params_of(request);
    sp_detect_box boxes[SP_LIMIT_DETECT_BOXES];
    int count = 0;
    item->status = sp_detect_answer(decoder, kept.boxes + (size_t)i * SP_LIMIT_DETECT_BOXES, kept.count[i], kept.bad[i],
                                    item->submission->image_w, item->submission->image_h, &params, boxes, &count, &item->error);
    if (!item->status)
        sp_hall_detect_put(model, item, boxes, count);
}

static sp_status run(sp_hall_detect_cuda *d, const sp_hall *hall, sp_hall_model *model, sp_detect_decoder *decoder, int lane,
                     int executor, sp_hall_request **requests, int count, sp_error *reterr)
{
    sp_engine_tensor outputs[SP_INFER_PORTS];
    int64_t begun_ns = sp_clock_now_ns();
    sp_status s = prepare(d, requests, count, reterr);
    int64_t prepared_ns = sp_clock_now_ns();
    sp_worker_stage(executor, SP_STAGE_INFERENCE, 0);
    if (!s)
        s = run_engine(d, hall, model, lane, count, outputs, reterr);
    sp_hall_mxcsr_repair();
    int64_t inferred_ns = sp_clock_now_ns();
    sp_worker_stage(executor, SP_STAGE_POSTPROCESS, 0);
    if (!s)
        s = decode_all(d, decoder, outputs, sp_session_ports(model->session)->output_count, requests, count, reterr);
    if (s) {
        (void)d->api->stream_sync(d->stream, NULL); /* the failure is known; nothing reads from slots any more */
        return s;
    }
    for (int i = 0; i < count; i++) {
        sp_work_item *item = requests[i]->item;
        answer_one(model, d, decoder, i, requests[i]);
        item->done.batch_size = (uint32_t)count;
        item->done.preprocess_ns = prepared_ns - begun_ns;
        item->done.inference_ns = item->done.batch_run_ns = inferred_ns - prepared_ns;
        item->done.postprocess_ns = sp_clock_now_ns() - inferred_ns;
        item->answer_touched = item->done.answer_bytes;
    }
    return SP_OK;
}

bool sp_hall_detect_cuda_run(sp_hall_detect_cuda *d, const sp_hall *hall, sp_hall_model *model, sp_detect_decoder *decoder, int lane,
                             int executor, sp_hall_request **requests, int count)
{
    sp_error err = { 0 };
    bool here = d && count <= d->most;
    for (int i = 0; i < count && here; i++)
        here = requests[i]->detect && !requests[i]->item->status && is_picture(requests[i]->item);
    if (!here)
        return false;
    (void)pthread_mutex_lock(&d->turn);
    sp_status s = run(d, hall, model, decoder, lane, executor, requests, count, &err);
    (void)pthread_mutex_unlock(&d->turn);
    if (s != SP_UNAVAILABLE)
        return s == SP_OK;
    for (int i = 0; i < count; i++) {
        requests[i]->item->status = s;
        requests[i]->item->error = err;
    }
    sp_worker_end_after_batch(&err);
    return true;
}
