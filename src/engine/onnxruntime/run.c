/* SPDX-License-Identifier: Apache-2.0
 * Running: buffers are bound once and stay bound while they are the same; a new address or shape binds anew. */
#include "ort.h"

#include <stdlib.h>
#include <string.h>

sp_engine_status ort_lane_init(const sp_engine_model *model, ort_lane *lane, sp_engine_error *reterr)
{
    const OrtApi *api = model->library->api;
    size_t ports = (size_t)(model->input_count + model->output_count);
    lane->bound = calloc(ports, sizeof(*lane->bound));
    lane->values = calloc(ports, sizeof(OrtValue *));
    lane->left = calloc((size_t)model->output_count, sizeof(OrtValue *));
    if (!lane->bound || !lane->values || !lane->left)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for a lane");
    OrtStatus *st = api->CreateIoBinding(model->session, &lane->binding);
    if (!st)
        st = api->CreateRunOptions(&lane->run_options);
    return ort_check(model->library, st, ORT_PHASE_LOAD, reterr);
}

static void release_left(const sp_engine_model *model, ort_lane *lane)
{
    for (int32_t i = 0; lane->left && i < model->output_count; i++) {
        if (lane->left[i])
            model->library->api->ReleaseValue(lane->left[i]);
        lane->left[i] = NULL;
    }
}

void ort_lane_done(const sp_engine_model *model, ort_lane *lane)
{
    const OrtApi *api = model->library->api;
    release_left(model, lane);
    for (int32_t i = 0; lane->values && i < model->input_count + model->output_count; i++)
        if (lane->values[i])
            api->ReleaseValue(lane->values[i]);
    if (lane->binding)
        api->ReleaseIoBinding(lane->binding);
    if (lane->run_options)
        api->ReleaseRunOptions(lane->run_options);
    free(lane->bound);
    free(lane->values);
    free(lane->left);
}

/* What the host asks must be what the model takes; the library would say so too, but only after work was done. */
static sp_engine_status check_tensor(const sp_engine_port *port, const sp_engine_tensor *tensor,
                                     sp_engine_error *reterr)
{
    if (tensor->dtype != port->dtype)
        return ort_fail(reterr, SP_ENGINE_INVALID, "%s: type %d given, the model has %d", port->name, tensor->dtype,
                        port->dtype);
    if (!port->dtype)
        return ort_fail(reterr, SP_ENGINE_UNSUPPORTED, "%s is no plain tensor", port->name);
    if (!tensor->data)
        return SP_ENGINE_OK; /* an output left to the library; inputs are checked by the caller of this */
    if (tensor->rank != port->rank)
        return ort_fail(reterr, SP_ENGINE_INVALID, "%s: rank %d given, the model has %d", port->name, tensor->rank,
                        port->rank);
    uint64_t bytes = ort_dtype_bytes(tensor->dtype);
    for (int32_t i = 0; i < tensor->rank; i++) {
        if (tensor->dims[i] < 0 || (port->dims[i] >= 0 && tensor->dims[i] != port->dims[i]))
            return ort_fail(reterr, SP_ENGINE_INVALID, "%s: dimension %d is %lld, the model has %lld", port->name, i,
                            (long long)tensor->dims[i], (long long)port->dims[i]);
        if (__builtin_mul_overflow(bytes, (uint64_t)tensor->dims[i], &bytes))
            return ort_fail(reterr, SP_ENGINE_INVALID, "%s: its size overflows", port->name);
    }
    if (tensor->size_bytes < bytes)
        return ort_fail(reterr, SP_ENGINE_INVALID, "%s: %llu bytes needed, %llu given", port->name,
                        (unsigned long long)bytes, (unsigned long long)tensor->size_bytes);
    return SP_ENGINE_OK;
}

static bool same_tensor(const sp_engine_tensor *a, const sp_engine_tensor *b)
{
    return a->data == b->data && a->size_bytes == b->size_bytes && a->dtype == b->dtype && a->memory == b->memory &&
           a->device_index == b->device_index && a->rank == b->rank &&
           memcmp(a->dims, b->dims, (size_t)a->rank * sizeof(a->dims[0])) == 0;
}

static OrtStatus *wrap_tensor(const sp_engine_model *model, const sp_engine_tensor *tensor, OrtValue **ret_value)
{
    const OrtApi *api = model->library->api;
    if (tensor->memory == SP_ENGINE_HOST)
        return api->CreateTensorWithDataAsOrtValue(model->library->host_memory, tensor->data,
                                                   (size_t)tensor->size_bytes, tensor->dims, (size_t)tensor->rank,
                                                   (ONNXTensorElementDataType)tensor->dtype, ret_value);
    OrtMemoryInfo *memory = NULL;
    OrtStatus *st = api->CreateMemoryInfo("Cuda", OrtDeviceAllocator, tensor->device_index, OrtMemTypeDefault, &memory);
    if (st)
        return st;
    st = api->CreateTensorWithDataAsOrtValue(memory, tensor->data, (size_t)tensor->size_bytes, tensor->dims,
                                             (size_t)tensor->rank, (ONNXTensorElementDataType)tensor->dtype, ret_value);
    api->ReleaseMemoryInfo(memory);
    return st;
}

/* Binds port `index` (inputs, then outputs) to `tensor`, unless it already is. */
static sp_engine_status bind_port(sp_engine_model *model, ort_lane *lane, int32_t index, const sp_engine_tensor *tensor,
                                  sp_engine_error *reterr)
{
    const OrtApi *api = model->library->api;
    const sp_engine_port *port = &model->ports[index];
    bool input = index < model->input_count;
    if (tensor->data && lane->values[index] && same_tensor(&lane->bound[index], tensor))
        return SP_ENGINE_OK;
    OrtValue *value = NULL;
    OrtStatus *st = NULL;
    if (tensor->data) {
        st = wrap_tensor(model, tensor, &value);
        if (!st)
            st = input ? api->BindInput(lane->binding, port->name, value)
                       : api->BindOutput(lane->binding, port->name, value);
    } else {
        st = api->BindOutputToDevice(lane->binding, port->name, model->library->host_memory);
    }
    if (st) {
        if (value)
            api->ReleaseValue(value);
        return ort_check(model->library, st, ORT_PHASE_RUN, reterr);
    }
    if (lane->values[index])
        api->ReleaseValue(lane->values[index]);
    lane->values[index] = value;
    lane->bound[index] = *tensor;
    return SP_ENGINE_OK;
}

/* Describes what the library allocated for output `index`. */
static OrtStatus *describe_left(const OrtApi *api, OrtValue *value, sp_engine_tensor *tensor)
{
    OrtTensorTypeAndShapeInfo *shape = NULL;
    size_t rank = 0, count = 0;
    OrtStatus *st = api->GetTensorTypeAndShape(value, &shape);
    if (st)
        return st;
    st = api->GetDimensionsCount(shape, &rank);
    if (!st && rank > SP_ENGINE_MAX_RANK)
        st = api->CreateStatus(ORT_NOT_IMPLEMENTED, "an output has more than 8 dimensions");
    if (!st)
        st = api->GetDimensions(shape, tensor->dims, rank);
    if (!st)
        st = api->GetTensorShapeElementCount(shape, &count);
    if (!st)
        st = api->GetTensorMutableData(value, &tensor->data);
    api->ReleaseTensorTypeAndShapeInfo(shape);
    tensor->rank = (int32_t)rank;
    tensor->size_bytes = count * ort_dtype_bytes(tensor->dtype);
    tensor->memory = SP_ENGINE_HOST;
    return st;
}

static sp_engine_status take_left(sp_engine_model *model, ort_lane *lane, sp_engine_tensor *outputs,
                                  sp_engine_error *reterr)
{
    const OrtApi *api = model->library->api;
    OrtAllocator *allocator = NULL;
    OrtValue **values = NULL;
    size_t count = 0;
    OrtStatus *st = api->GetAllocatorWithDefaultOptions(&allocator);
    if (!st)
        st = api->GetBoundOutputValues(lane->binding, allocator, &values, &count);
    /* They come in the order of binding, which is not the ports' once a lane has rebound one; a lane that leaves
     * outputs to the library therefore binds all of them anew each run (clear_outputs). */
    for (size_t i = 0; i < count; i++) {
        if (!st && !outputs[i].data) {
            lane->left[i] = values[i];
            st = describe_left(api, values[i], &outputs[i]);
        } else {
            api->ReleaseValue(values[i]);
        }
    }
    if (values)
        allocator->Free(allocator, values);
    return ort_check(model->library, st, ORT_PHASE_RUN, reterr);
}

static void clear_outputs(sp_engine_model *model, ort_lane *lane)
{
    model->library->api->ClearBoundOutputs(lane->binding);
    for (int32_t i = model->input_count; i < model->input_count + model->output_count; i++) {
        if (lane->values[i])
            model->library->api->ReleaseValue(lane->values[i]);
        lane->values[i] = NULL;
    }
}

static sp_engine_status check_call(const sp_engine_model *model, int32_t lane, const sp_engine_tensor *inputs,
                                   int32_t input_count, const sp_engine_tensor *outputs, int32_t output_count,
                                   sp_engine_error *reterr)
{
    if (lane < 0 || lane >= model->lane_count || input_count != model->input_count ||
        output_count != model->output_count)
        return ort_fail(reterr, SP_ENGINE_INVALID, "lane %d of %d, %d inputs of %d, %d outputs of %d", lane,
                        model->lane_count, input_count, model->input_count, output_count, model->output_count);
    for (int32_t i = 0; i < input_count + output_count; i++) {
        const sp_engine_tensor *tensor = i < input_count ? &inputs[i] : &outputs[i - input_count];
        if (i < input_count && !tensor->data)
            return ort_fail(reterr, SP_ENGINE_INVALID, "%s: an input without data", model->ports[i].name);
        sp_engine_status s = check_tensor(&model->ports[i], tensor, reterr);
        if (s)
            return s;
    }
    return SP_ENGINE_OK;
}

sp_engine_status ort_model_run(sp_engine_model *model, int32_t lane_index, const sp_engine_tensor *inputs,
                               int32_t input_count, sp_engine_tensor *outputs, int32_t output_count,
                               sp_engine_error *reterr)
{
    sp_engine_status s = check_call(model, lane_index, inputs, input_count, outputs, output_count, reterr);
    if (s)
        return s;
    ort_lane *lane = &model->lanes[lane_index];
    const OrtApi *api = model->library->api;
    bool leaves = false;
    for (int32_t i = 0; i < output_count; i++)
        leaves = leaves || !outputs[i].data;
    release_left(model, lane);
    if (leaves)
        clear_outputs(model, lane);
    for (int32_t i = 0; i < input_count + output_count && !s; i++)
        s = bind_port(model, lane, i, i < input_count ? &inputs[i] : &outputs[i - input_count], reterr);
    if (!s)
        s = ort_check(model->library, api->RunOptionsUnsetTerminate(lane->run_options), ORT_PHASE_RUN, reterr);
    if (!s)
        s = ort_check(model->library, api->RunWithBinding(model->session, lane->run_options, lane->binding),
                      ORT_PHASE_RUN, reterr);
    if (!s && leaves)
        s = take_left(model, lane, outputs, reterr);
    if (leaves)
        clear_outputs(model, lane);
    return s;
}

void ort_model_cancel(sp_engine_model *model, int32_t lane)
{
    if (lane >= 0 && lane < model->lane_count) /* fails only for memory; then the run goes on, as cancel allows */
        (void)ort_check(model->library, model->library->api->RunOptionsSetTerminate(model->lanes[lane].run_options),
                        ORT_PHASE_RUN, NULL);
}
