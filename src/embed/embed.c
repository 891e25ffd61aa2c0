/* SPDX-License-Identifier: Apache-2.0
 * libspillway: include/spillway.h over the task rooms. `spillway classify` is built on the same calls.
 * Translates between the public types, which are frozen, and ours, which are not; holds the lanes' buffers. */
#include "spillway.h"

#include "base/machine.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/view.h"
#include "embed/lanes.h"
#include "engine/engine.h"
#include "media/load.h"
#include "task/classify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)SPILLWAY_INTERNAL == (int)SP_INTERNAL && (int)SPILLWAY_CORRUPT == (int)SP_CORRUPT &&
                   (int)SPILLWAY_UNAVAILABLE == (int)SP_UNAVAILABLE && (int)SPILLWAY_NOMEM == (int)SP_NOMEM &&
                   (int)SPILLWAY_UNSUPPORTED == (int)SP_UNSUPPORTED && (int)SPILLWAY_NOT_FOUND == (int)SP_NOT_FOUND &&
                   (int)SPILLWAY_TOO_LARGE == (int)SP_TOO_LARGE && (int)SPILLWAY_INVALID == (int)SP_INVALID,
               "public statuses are ours");
_Static_assert((int)SPILLWAY_BF16 == (int)SP_ENGINE_BF16 && (int)SPILLWAY_F16 == (int)SP_ENGINE_F16 &&
                   (int)SPILLWAY_I64 == (int)SP_ENGINE_I64 && SPILLWAY_MAX_RANK == SP_ENGINE_MAX_RANK,
               "public types are the engines'");

typedef struct pixels {
    uint8_t *rgb;
    size_t capacity_bytes;
} pixels;

struct spillway {
    sp_model *model;
    sp_classifier *classifier; /* NULL with tensors_only */
    sp_session *own_session;   /* only with tensors_only */
    sp_session *session;       /* whichever of the two's it is */
    const sp_media_api *media;
    char provider[16];
    const char *engine_name;
    sp_lanes lanes;
    pixels *pixels; /* one per lane, grown to the largest picture so far */
};

static spillway_status give(spillway_error *reterr, sp_status status, const sp_error *err)
{
    if (status && reterr) {
        *reterr = (spillway_error){ .status = (spillway_status)status, .origin_code = err->origin_code };
        memcpy(reterr->origin, err->origin, sizeof(reterr->origin));
        memcpy(reterr->code, err->code, sizeof(reterr->code));
        memcpy(reterr->message, err->message, sizeof(reterr->message));
    }
    return (spillway_status)status;
}

const char *spillway_version(void)
{
    return SP_VERSION;
}

const char *spillway_status_name(spillway_status status)
{
    return sp_status_name((sp_status)status);
}

spillway_options spillway_options_default(void)
{
    return (spillway_options){ .struct_bytes = sizeof(spillway_options), .lanes = 1 };
}

static sp_status check_options(const spillway_options *options, sp_error *err)
{
    if (options->struct_bytes < sizeof(*options))
        return SP_FAIL(err, SP_INVALID, "options.struct_bytes is %zu: begin with spillway_options_default()",
                       options->struct_bytes);
    if (options->lanes < 0 || options->lanes > SP_LIMIT_LANES)
        return SP_FAIL(err, SP_INVALID, "options.lanes must be from 0 to %d, not %d", SP_LIMIT_LANES, options->lanes);
    if (options->threads < 0 || options->threads > 1024)
        return SP_FAIL(err, SP_INVALID, "options.threads must be from 0 to 1024, not %d", options->threads);
    return SP_OK;
}

static int threads_of(const spillway_options *options)
{
    sp_machine machine;

    if (options->threads)
        return options->threads;
    sp_machine_read(&machine);
    return machine.cpu_count;
}

static sp_status open_session(spillway *h, const sp_engine *engine, const spillway_options *options, sp_error *err)
{
    sp_session_options session = sp_session_options_default(h->model->path);

    session.provider = h->provider;
    session.device_index = options->device_index;
    session.threads = threads_of(options);
    session.lanes = h->lanes.count;
    sp_status status = sp_session_open(engine, &session, &h->own_session, err);
    h->session = h->own_session;
    return status;
}

static sp_status open_classifier(spillway *h, const sp_engine *engine, const spillway_options *options, sp_error *err)
{
    sp_classify_options classify = sp_classify_options_default();

    classify.provider = h->provider;
    classify.device_index = options->device_index;
    classify.threads = threads_of(options);
    classify.lanes = h->lanes.count;
    sp_status status = sp_media_load(&h->media, err);
    if (status == SP_OK)
        status = sp_classify_open(engine, h->model, &classify, &h->classifier, err);
    if (status == SP_OK)
        h->session = sp_classify_session(h->classifier);
    return status;
}

static sp_status open_handle(spillway *h, const spillway_options *options, sp_error *err)
{
    const sp_engine *engine;
    const char *repository = options->model_repository ? options->model_repository : getenv("SPILLWAY_MODELS");

    sp_lanes_init(&h->lanes, options->lanes ? options->lanes : 1);
    h->pixels = calloc((size_t)h->lanes.count, sizeof(*h->pixels));
    if (!h->pixels)
        return SP_FAIL(err, SP_NOMEM, "no memory for %d lanes", h->lanes.count);
    if (!repository || !*repository)
        return SP_FAIL(err, SP_INVALID, "options.model_repository is NULL and SPILLWAY_MODELS is not set");
    snprintf(h->provider, sizeof(h->provider), "%s", options->provider ? options->provider : "cpu");
    h->engine_name = sp_engine_name_at(0);
    sp_status status = sp_model_find(repository, options->model, &h->model, err);
    if (status == SP_OK)
        status = sp_engine_open(h->engine_name, &engine, err);
    if (status)
        return status;
    return options->tensors_only ? open_session(h, engine, options, err) : open_classifier(h, engine, options, err);
}

spillway_status spillway_open(const spillway_options *options, spillway **ret_handle, spillway_error *reterr)
{
    sp_error err = { 0 };
    sp_status status = check_options(options, &err);

    if (status)
        return give(reterr, status, &err);
    spillway *h = calloc(1, sizeof(*h));
    if (!h)
        return give(reterr, SP_FAIL(&err, SP_NOMEM, "no memory for a handle"), &err);
    status = open_handle(h, options, &err);
    if (status)
        spillway_close(h);
    else
        *ret_handle = h;
    return give(reterr, status, &err);
}

void spillway_close(spillway *handle)
{
    if (!handle)
        return;
    sp_classify_close(handle->classifier);
    sp_session_free(handle->own_session);
    sp_model_free(handle->model);
    for (int i = 0; handle->pixels && i < handle->lanes.count; i++)
        free(handle->pixels[i].rgb);
    free(handle->pixels);
    sp_lanes_done(&handle->lanes);
    free(handle);
}

/* The pixels' place of a lane; kept for the next picture, so that pictures of one size allocate once. */
static sp_status reserve_pixels(pixels *p, size_t size_bytes, sp_error *err)
{
    if (size_bytes <= p->capacity_bytes)
        return SP_OK;
    uint8_t *rgb = malloc(size_bytes);
    if (!rgb)
        return SP_FAIL(err, SP_NOMEM, "no memory for %zu bytes of pixels", size_bytes);
    free(p->rgb);
    *p = (pixels){ rgb, size_bytes };
    return SP_OK;
}

static sp_status decode(spillway *h, int lane, sp_view file, const spillway_classify_options *options,
                        sp_image_info *ret_info, sp_error *err)
{
    sp_image_options image = { .max_pixels = options->max_pixels };

    if (options->decode_fast)
        image.fast_short_side = SP_MIN(h->model->prep.resize_w, h->model->prep.resize_h);
    sp_status status = h->media->image_probe(file, &image, ret_info, err);
    if (status == SP_OK)
        status = reserve_pixels(&h->pixels[lane], ret_info->rgb_bytes, err);
    if (status)
        return status;
    return h->media->image_decode(file, &image, ret_info, h->pixels[lane].rgb, ret_info->rgb_bytes, err);
}

static sp_status classify_in_lane(spillway *h, int lane, sp_view file, const spillway_classify_options *options,
                                  spillway_class *ret_classes, int capacity, int32_t *ret_count, spillway_timing *timing,
                                  sp_error *err)
{
    sp_image_info info;
    sp_class_score scores[SP_LIMIT_TOP_K];
    int count = 0;
    int64_t begun = sp_clock_now_ns(), decoded = 0, prepared = 0, inferred = 0;
    sp_status status = decode(h, lane, file, options, &info, err);

    decoded = sp_clock_now_ns();
    if (status == SP_OK)
        status = sp_classify_prepare(h->classifier, lane, 0, h->pixels[lane].rgb, info.width, info.height, err);
    prepared = sp_clock_now_ns();
    if (status == SP_OK)
        status = sp_classify_run(h->classifier, lane, NULL, 1, err);
    inferred = sp_clock_now_ns();
    if (status == SP_OK)
        status = sp_classify_answer(h->classifier, lane, 0, SP_CLAMP(capacity, 0, SP_LIMIT_TOP_K), scores, &count, err);
    if (status)
        return status;
    for (int i = 0; i < count; i++)
        ret_classes[i] = (spillway_class){ .class_id = scores[i].class_id, .probability = scores[i].probability,
                                           .label = sp_model_label(h->model, scores[i].class_id) };
    *ret_count = count;
    timing->decode_ns = decoded - begun;
    timing->preprocess_ns = prepared - decoded;
    timing->inference_ns = inferred - prepared;
    timing->postprocess_ns = sp_clock_now_ns() - inferred;
    return SP_OK;
}

spillway_status spillway_classify(spillway *handle, const void *bytes, size_t byte_count,
                                  const spillway_classify_options *options, spillway_class *ret_classes, int32_t capacity,
                                  int32_t *ret_count, spillway_timing *ret_timing, spillway_error *reterr)
{
    static const spillway_classify_options defaults = { .struct_bytes = sizeof(defaults) };
    sp_error err = { 0 };
    spillway_timing timing = { 0 };
    int64_t begun = sp_clock_now_ns();

    if (!handle->classifier)
        return give(reterr, SP_FAIL(&err, SP_UNSUPPORTED, "the handle was opened with tensors_only"), &err);
    if (options && options->struct_bytes < sizeof(*options))
        return give(reterr, SP_FAIL(&err, SP_INVALID, "options.struct_bytes must be sizeof(spillway_classify_options)"), &err);
    if (capacity < 1)
        return give(reterr, SP_FAIL(&err, SP_INVALID, "capacity must be at least 1, not %d", capacity), &err);
    int lane = sp_lanes_take(&handle->lanes);
    sp_status status = classify_in_lane(handle, lane, sp_view_make(bytes, byte_count), options ? options : &defaults,
                                        ret_classes, capacity, ret_count, &timing, &err);
    sp_lanes_give_back(&handle->lanes, lane);
    timing.total_ns = sp_clock_now_ns() - begun;
    if (status == SP_OK && ret_timing)
        *ret_timing = timing;
    return give(reterr, status, &err);
}

static sp_status to_engine(const spillway_tensor *tensors, int32_t count, const sp_engine_port *ports, int32_t port_count,
                           const char *what, sp_engine_tensor *ret_tensors, sp_error *err)
{
    if (count != port_count)
        return SP_FAIL(err, SP_INVALID, "%d %ss were given, the model has %d", count, what, port_count);
    for (int32_t i = 0; i < count; i++) {
        const spillway_tensor *t = &tensors[i];
        size_t needed = sp_engine_dtype_bytes(t->dtype);
        if (t->dtype != ports[i].dtype)
            return SP_FAIL(err, SP_INVALID, "%s '%s' is %s, not %s", what, ports[i].name, sp_engine_dtype_name(ports[i].dtype),
                           sp_engine_dtype_name(t->dtype));
        if (t->rank < 0 || t->rank > SPILLWAY_MAX_RANK || !t->data)
            return SP_FAIL(err, SP_INVALID, "%s '%s' has no data, or a rank that is not 0 to %d", what, ports[i].name,
                           SPILLWAY_MAX_RANK);
        for (int d = 0; d < t->rank; d++)
            if (t->dims[d] < 0 || !sp_size_mul(needed, (size_t)t->dims[d], &needed))
                return SP_FAIL(err, SP_INVALID, "dimension %d of %s '%s' is impossible", d, what, ports[i].name);
        if (t->size_bytes < needed)
            return SP_FAIL(err, SP_INVALID, "the buffer of %s '%s' has %zu bytes, its shape needs %zu", what, ports[i].name,
                           t->size_bytes, needed);
        ret_tensors[i] = (sp_engine_tensor){ .data = t->data, .size_bytes = t->size_bytes, .dtype = t->dtype,
                                             .memory = SP_ENGINE_HOST, .rank = t->rank };
        memcpy(ret_tensors[i].dims, t->dims, sizeof(t->dims));
    }
    return SP_OK;
}

spillway_status spillway_infer(spillway *handle, const spillway_tensor *inputs, int32_t input_count,
                               spillway_tensor *outputs, int32_t output_count, spillway_error *reterr)
{
    const sp_engine_ports *ports = sp_session_ports(handle->session);
    sp_engine_tensor in[SP_ENGINE_MAX_PORTS], out[SP_ENGINE_MAX_PORTS];
    sp_error err = { 0 };

    sp_status status = to_engine(inputs, input_count, ports->inputs, ports->input_count, "input", in, &err);
    if (status == SP_OK)
        status = to_engine(outputs, output_count, ports->outputs, ports->output_count, "output", out, &err);
    if (status)
        return give(reterr, status, &err);
    int lane = sp_lanes_take(&handle->lanes);
    status = sp_session_run(handle->session, lane, in, input_count, out, output_count, &err);
    sp_lanes_give_back(&handle->lanes, lane);
    return give(reterr, status, &err);
}

void spillway_describe(const spillway *handle, spillway_model_info *ret_info)
{
    const sp_engine_ports *ports = sp_session_ports(handle->session);

    *ret_info = (spillway_model_info){
        .name = handle->model->name,
        .version = handle->model->version,
        .digest = handle->model->digest,
        .precision = handle->model->precision,
        .engine = handle->engine_name,
        .provider = handle->provider,
        .class_count = handle->classifier ? handle->model->class_count : 0,
        .input_count = ports->input_count,
        .output_count = ports->output_count,
    };
}

static spillway_status describe_port(const sp_engine_port *ports, int32_t count, int32_t index, spillway_port *ret_port)
{
    if (index < 0 || index >= count)
        return SPILLWAY_INVALID;
    *ret_port = (spillway_port){ .name = ports[index].name, .dtype = ports[index].dtype, .rank = ports[index].rank };
    memcpy(ret_port->dims, ports[index].dims, sizeof(ret_port->dims));
    return SPILLWAY_OK;
}

spillway_status spillway_input(const spillway *handle, int32_t index, spillway_port *ret_port)
{
    const sp_engine_ports *ports = sp_session_ports(handle->session);

    return describe_port(ports->inputs, ports->input_count, index, ret_port);
}

spillway_status spillway_output(const spillway *handle, int32_t index, spillway_port *ret_port)
{
    const sp_engine_ports *ports = sp_session_ports(handle->session);

    return describe_port(ports->outputs, ports->output_count, index, ret_port);
}
