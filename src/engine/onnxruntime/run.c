/* SPDX-License-Identifier: Apache-2.0
 * Running: buffers are bound once and stay bound while they are the same; a new address or shape binds anew. Strings are
 * copied into the library's objects on each run. A run that leaves outputs to the library, or does not want some, binds
 * all of its outputs anew. */
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
    lane->order = calloc((size_t)model->output_count, sizeof(*lane->order));
    lane->packed = calloc((size_t)model->output_count, sizeof(*lane->packed));
    if (!lane->bound || !lane->values || !lane->left || !lane->order || !lane->packed)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for a lane");
    OrtStatus *st = api->CreateIoBinding(model->session, &lane->binding);
    if (!st)
        st = ort_device_run_options(model, -1, false, &lane->run_options);
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
    for (int i = 0; i < ORT_ROUTES; i++)
        ort_route_done(model, &lane->routes[i]);
    for (int32_t i = 0; lane->values && i < model->input_count + model->output_count; i++)
        if (lane->values[i])
            api->ReleaseValue(lane->values[i]);
    if (lane->binding)
        api->ReleaseIoBinding(lane->binding);
    if (lane->run_options)
        api->ReleaseRunOptions(lane->run_options);
    for (int32_t i = 0; lane->packed && i < model->output_count; i++) {
        free(lane->packed[i].bytes);
        free(lane->packed[i].offsets);
    }
    free(lane->bound);
    free(lane->values);
    free(lane->left);
    free(lane->order);
    free(lane->packed);
}

bool ort_same_tensor(const sp_engine_tensor *a, const sp_engine_tensor *b)
{
    return a->data == b->data && a->size_bytes == b->size_bytes && a->dtype == b->dtype && a->memory == b->memory &&
           a->device_index == b->device_index && a->rank == b->rank &&
           memcmp(a->dims, b->dims, (size_t)a->rank * sizeof(a->dims[0])) == 0;
}

OrtStatus *ort_wrap_tensor(const sp_engine_model *model, const sp_engine_tensor *tensor, OrtValue **ret_value)
{
    static uint64_t nothing; /* the library wants an address for tensors without elements too */
    const OrtApi *api = model->library->api;
    if (tensor->dtype == SP_ENGINE_STRING)
        return ort_strings_wrap(api, tensor, ret_value);
    if (tensor->memory == SP_ENGINE_HOST)
        return api->CreateTensorWithDataAsOrtValue(model->library->host_memory, tensor->data ? tensor->data : &nothing,
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
    if (tensor->data && lane->values[index] && tensor->dtype != SP_ENGINE_STRING &&
        ort_same_tensor(&lane->bound[index], tensor))
        return SP_ENGINE_OK;
    OrtValue *value = NULL;
    OrtStatus *st = NULL;
    if (input || tensor->data) {
        st = ort_wrap_tensor(model, tensor, &value);
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

/* Describes what the library allocated for an output. */
static OrtStatus *describe_left(const OrtApi *api, OrtValue *value, ort_packed *packed, sp_engine_tensor *tensor)
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
    if (!st && tensor->dtype == SP_ENGINE_STRING)
        st = ort_strings_pack(api, value, count, packed, tensor);
    else if (!st)
        st = api->GetTensorMutableData(value, &tensor->data);
    api->ReleaseTensorTypeAndShapeInfo(shape);
    tensor->rank = (int32_t)rank;
    if (tensor->dtype != SP_ENGINE_STRING)
        tensor->size_bytes = count * plug_dtype_bytes(tensor->dtype);
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
    for (size_t k = 0; k < count; k++) { /* they come in the order of binding */
        int32_t i = lane->order[k];
        if (!st && !outputs[i].data) {
            lane->left[i] = values[k];
            st = describe_left(api, values[k], &lane->packed[i], &outputs[i]);
        } else {
            api->ReleaseValue(values[k]);
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

/* A run that binds all of its outputs anew remembers in which order. */
static sp_engine_status bind_all(sp_engine_model *model, ort_lane *lane, const sp_engine_tensor *inputs,
                                 const sp_engine_tensor *outputs, sp_engine_error *reterr)
{
    sp_engine_status s = SP_ENGINE_OK;
    int32_t bound = 0;
    for (int32_t i = 0; i < model->input_count && !s; i++)
        s = bind_port(model, lane, i, &inputs[i], reterr);
    for (int32_t i = 0; i < model->output_count && !s; i++) {
        if (outputs[i].rank == SP_ENGINE_ABSENT)
            continue;
        lane->order[bound++] = i;
        s = bind_port(model, lane, model->input_count + i, &outputs[i], reterr);
    }
    return s;
}

/* Any run: host tensors, outputs that are left to the library, strings. */
static sp_engine_status run_bound(sp_engine_model *model, ort_lane *lane, const sp_engine_tensor *inputs, sp_engine_tensor *outputs,
                                  sp_engine_error *reterr)
{
    const OrtApi *api = model->library->api;
    bool leaves = false;
    for (int32_t i = 0; i < model->output_count; i++)
        leaves = leaves || !outputs[i].data || outputs[i].rank == SP_ENGINE_ABSENT;
    release_left(model, lane);
    if (leaves)
        clear_outputs(model, lane);
    sp_engine_status s = bind_all(model, lane, inputs, outputs, reterr);
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

sp_engine_status ort_run_here(const ort_call *call)
{
    bool done = false;
    sp_engine_status s = SP_ENGINE_OK;
    if (ort_run_is_on_device(call->model, call->inputs, call->outputs))
        s = ort_device_run(call->model, call->lane, call->inputs, call->outputs, &done, call->error);
    return done ? s : run_bound(call->model, call->lane, call->inputs, call->outputs, call->error);
}

sp_engine_status ort_model_run(sp_engine_model *model, int32_t lane_index, const sp_engine_tensor *inputs,
                               int32_t input_count, sp_engine_tensor *outputs, int32_t output_count,
                               sp_engine_error *reterr)
{
    /* The library would refuse too, but only after work was done. A shape that the model leaves open has rank 0 here (the
     * library does not tell it from a scalar's), and takes any rank. */
    sp_engine_ports ports;
    ort_model_describe(model, &ports);
    sp_engine_status s = plug_call_check(
        &(plug_call){ .ports = &ports,
                      .origin = "onnxruntime",
                      .lane = lane_index,
                      .lane_count = model->lane_count,
                      .inputs = inputs,
                      .outputs = outputs,
                      .input_count = input_count,
                      .output_count = output_count },
        reterr);
    if (s)
        return s;
    ort_call call = { .model = model, .lane = &model->lanes[lane_index], .inputs = inputs, .outputs = outputs, .error = reterr };
    if (model->in_turns)
        (void)pthread_mutex_lock(&model->turn);
    s = model->thread ? ort_thread_run(model->thread, &call) : ort_run_here(&call);
    ort_watch_run_over(model);
    if (model->in_turns)
        (void)pthread_mutex_unlock(&model->turn);
    return s;
}

void ort_model_cancel(sp_engine_model *model, int32_t lane_index)
{
    if (lane_index < 0 || lane_index >= model->lane_count)
        return;
    ort_lane *lane = &model->lanes[lane_index];
    const OrtApi *api = model->library->api;
    /* Each fails only for memory; then the run goes on, as cancel allows. */
    (void)ort_check(model->library, api->RunOptionsSetTerminate(lane->run_options), ORT_PHASE_RUN, NULL);
    int routes = atomic_load_explicit(&lane->route_count, memory_order_acquire);
    for (int i = 0; i < routes; i++)
        (void)ort_check(model->library, api->RunOptionsSetTerminate(lane->routes[i].options), ORT_PHASE_RUN, NULL);
}
