/* SPDX-License-Identifier: Apache-2.0
 * Loading a model: session options from ours, its ports described once, its lanes made ready. */
#include "ort.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Heap in use by the process, all arenas. Resident size would not do: a load after an unload grows into freed pages. */
static uint64_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return (uint64_t)info.uordblks + (uint64_t)info.hblkhd;
}

static uint64_t model_bytes(const sp_engine_load_options *options)
{
    struct stat info;
    if (!options->path)
        return options->byte_count;
    return stat(options->path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

/* "cuda" and "tensorrt" go through key-value options, so that no struct of the library's is laid out here. */
static OrtStatus *append_cuda(const ort_library *lib, OrtSessionOptions *so, const sp_engine_load_options *options)
{
    OrtCUDAProviderOptionsV2 *cuda = NULL;
    OrtStatus *st = lib->api->CreateCUDAProviderOptions(&cuda);
    if (st)
        return st;
    char device[16], limit[32];
    (void)snprintf(device, sizeof(device), "%d", options->device_index);
    (void)snprintf(limit, sizeof(limit), "%llu", (unsigned long long)options->device_memory_limit_bytes);
    /* TF32 rounds inputs to 10 bits of mantissa: not the same answer as the CPU's. */
    const char *keys[] = { "device_id", "use_tf32", "arena_extend_strategy", "gpu_mem_limit" };
    const char *values[] = { device, "0", "kSameAsRequested", limit };
    st = lib->api->UpdateCUDAProviderOptions(cuda, keys, values, options->device_memory_limit_bytes ? 4 : 3);
    if (!st)
        st = lib->api->SessionOptionsAppendExecutionProvider_CUDA_V2(so, cuda);
    lib->api->ReleaseCUDAProviderOptions(cuda);
    return st;
}

static OrtStatus *append_tensorrt(const ort_library *lib, OrtSessionOptions *so, const sp_engine_load_options *options)
{
    OrtTensorRTProviderOptionsV2 *trt = NULL;
    OrtStatus *st = lib->api->CreateTensorRTProviderOptions(&trt);
    if (st)
        return st;
    char device[16];
    (void)snprintf(device, sizeof(device), "%d", options->device_index);
    const char *keys[] = { "device_id" };
    const char *values[] = { device };
    st = lib->api->UpdateTensorRTProviderOptions(trt, keys, values, 1);
    if (!st)
        st = lib->api->SessionOptionsAppendExecutionProvider_TensorRT_V2(so, trt);
    lib->api->ReleaseTensorRTProviderOptions(trt);
    return st;
}

static sp_engine_status append_provider(const ort_library *lib, OrtSessionOptions *so,
                                        const sp_engine_load_options *options, sp_engine_error *reterr)
{
    const char *name = options->provider ? options->provider : "cpu";
    OrtStatus *st = NULL;
    if (strcmp(name, "cpu") == 0)
        return SP_ENGINE_OK;
    if (strcmp(name, "cuda") == 0) {
        st = append_cuda(lib, so, options);
    } else if (strcmp(name, "tensorrt") == 0) {
        st = append_tensorrt(lib, so, options);
        if (!st) /* what TensorRT leaves over runs on CUDA, not on the CPU */
            st = append_cuda(lib, so, options);
    } else {
        return ort_fail(reterr, SP_ENGINE_INVALID, "unknown provider '%s' (cpu, cuda, tensorrt)", name);
    }
    sp_engine_status s = ort_check(lib, st, ORT_PHASE_LOAD, reterr);
    return s == SP_ENGINE_OK || s == SP_ENGINE_NOMEM ? s : SP_ENGINE_UNSUPPORTED; /* not present, whatever its code */
}

static OrtStatus *set_threads(const ort_library *lib, OrtSessionOptions *so, const sp_engine_load_options *options)
{
    OrtStatus *st = lib->api->SetIntraOpNumThreads(so, options->threads);
    if (!st)
        st = lib->api->SetInterOpNumThreads(so, 1);
    if (!st)
        st = lib->api->AddSessionConfigEntry(so, "session.intra_op.allow_spinning", options->spin ? "1" : "0");
    if (!st && options->spin) /* spin within a run, never between runs: an idle worker burns nothing */
        st = lib->api->AddSessionConfigEntry(so, "session.force_spinning_stop", "1");
    return st;
}

static OrtStatus *set_optimisation(const ort_library *lib, OrtSessionOptions *so, const sp_engine_load_options *options)
{
    static const GraphOptimizationLevel levels[] = { ORT_DISABLE_ALL, ORT_ENABLE_BASIC, ORT_ENABLE_EXTENDED,
                                                     ORT_ENABLE_ALL };
    int level = options->optimisation < 0 || options->optimisation > 3 ? 3 : options->optimisation;
    return lib->api->SetSessionGraphOptimizationLevel(so, levels[level]);
}

static sp_engine_status make_options(const ort_library *lib, const sp_engine_load_options *options,
                                     OrtSessionOptions **ret_options, sp_engine_error *reterr)
{
    OrtSessionOptions *so = NULL;
    sp_engine_status s = ort_check(lib, lib->api->CreateSessionOptions(&so), ORT_PHASE_LOAD, reterr);
    if (s)
        return s;
    s = ort_check(lib, set_threads(lib, so, options), ORT_PHASE_LOAD, reterr);
    if (!s)
        s = ort_check(lib, set_optimisation(lib, so, options), ORT_PHASE_LOAD, reterr);
    if (!s)
        s = append_provider(lib, so, options, reterr);
    if (s)
        lib->api->ReleaseSessionOptions(so);
    else
        *ret_options = so;
    return s;
}

static sp_engine_status open_session(sp_engine_model *model, const sp_engine_load_options *options,
                                     sp_engine_error *reterr)
{
    const ort_library *lib = model->library;
    OrtSessionOptions *so = NULL;
    sp_engine_status s = make_options(lib, options, &so, reterr);
    if (s)
        return s;
    /* Two things that were measured and left out (EfficientNet-Lite0): a prepacked-weights container shared between
     * sessions saved nothing, 38 + 31 MB either way, since it holds only initialisers that the host gave; loading a saved
     * optimised graph took 15 ms instead of 32, too little for a file that must match model, library and machine. */
    OrtStatus *st = options->path ? lib->api->CreateSession(lib->env, options->path, so, &model->session)
                                  : lib->api->CreateSessionFromArray(lib->env, options->bytes,
                                                                     (size_t)options->byte_count, so, &model->session);
    s = ort_check(lib, st, ORT_PHASE_LOAD, reterr);
    lib->api->ReleaseSessionOptions(so);
    return s;
}

/* dtype and shape of one port; a type that is no tensor leaves dtype 0. */
static OrtStatus *read_type(const ort_library *lib, const OrtTypeInfo *type, sp_engine_port *port)
{
    const OrtTensorTypeAndShapeInfo *shape = NULL;
    OrtStatus *st = lib->api->CastTypeInfoToTensorInfo(type, &shape);
    if (st || !shape)
        return st;
    ONNXTensorElementDataType dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    st = lib->api->GetTensorElementType(shape, &dtype);
    if (!st)
        st = lib->api->GetDimensionsCount(shape, &rank);
    if (st || rank > SP_ENGINE_MAX_RANK)
        return st;
    st = lib->api->GetDimensions(shape, port->dims, rank);
    if (!st && (plug_dtype_bytes((int32_t)dtype) || dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING)) {
        port->dtype = (int32_t)dtype; /* the library's numbers are ONNX's */
        port->rank = (int32_t)rank;
    }
    return st;
}

static sp_engine_status read_port(sp_engine_model *model, int32_t index, sp_engine_error *reterr)
{
    const OrtApi *api = model->library->api;
    bool input = index < model->input_count;
    size_t place = (size_t)(input ? index : index - model->input_count);
    sp_engine_port *port = &model->ports[index];
    OrtAllocator *allocator = NULL;
    OrtTypeInfo *type = NULL;
    char *name = NULL;
    OrtStatus *st = api->GetAllocatorWithDefaultOptions(&allocator);
    if (!st)
        st = input ? api->SessionGetInputName(model->session, place, allocator, &name)
                   : api->SessionGetOutputName(model->session, place, allocator, &name);
    if (!st)
        st = input ? api->SessionGetInputTypeInfo(model->session, place, &type)
                   : api->SessionGetOutputTypeInfo(model->session, place, &type);
    if (!st)
        st = read_type(model->library, type, port);
    bool no_memory = false;
    if (!st) {
        port->name = strdup(name);
        no_memory = port->name == NULL;
    }
    if (type)
        api->ReleaseTypeInfo(type);
    if (name)
        allocator->Free(allocator, name);
    return no_memory ? ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for the model's description")
                     : ort_check(model->library, st, ORT_PHASE_LOAD, reterr);
}

static sp_engine_status read_ports(sp_engine_model *model, sp_engine_error *reterr)
{
    const OrtApi *api = model->library->api;
    size_t inputs = 0, outputs = 0;
    OrtStatus *st = api->SessionGetInputCount(model->session, &inputs);
    if (!st)
        st = api->SessionGetOutputCount(model->session, &outputs);
    sp_engine_status s = ort_check(model->library, st, ORT_PHASE_LOAD, reterr);
    if (s)
        return s;
    if (inputs > SP_ENGINE_MAX_PORTS || outputs > SP_ENGINE_MAX_PORTS)
        return ort_fail(reterr, SP_ENGINE_TOO_LARGE, "the model has %zu inputs and %zu outputs; at most %d of each",
                        inputs, outputs, SP_ENGINE_MAX_PORTS);
    model->ports = calloc(inputs + outputs, sizeof(*model->ports));
    if (!model->ports)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for the model's description");
    model->input_count = (int32_t)inputs;
    model->output_count = (int32_t)outputs;
    for (int32_t i = 0; i < model->input_count + model->output_count; i++) {
        s = read_port(model, i, reterr);
        if (s)
            return s;
    }
    return SP_ENGINE_OK;
}

static sp_engine_status make_lanes(sp_engine_model *model, int32_t count, sp_engine_error *reterr)
{
    model->lanes = calloc((size_t)count, sizeof(*model->lanes));
    if (!model->lanes)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for %d lanes", count);
    model->lane_count = count;
    for (int32_t i = 0; i < count; i++) {
        sp_engine_status s = ort_lane_init(model, &model->lanes[i], reterr);
        if (s)
            return s;
    }
    return SP_ENGINE_OK;
}

sp_engine_status ort_model_load(const sp_engine_load_options *given, sp_engine_model **ret_model,
                                sp_engine_error *reterr)
{
    sp_engine_load_options options = { 0 };
    sp_engine_status s = plug_options_copy(given, "onnxruntime", &options, reterr);
    if (s)
        return s;
    const ort_library *lib = NULL;
    s = ort_library_get(&lib, reterr);
    if (s)
        return s;
    sp_engine_model *model = calloc(1, sizeof(*model));
    if (!model)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for a model");
    model->library = lib;
    uint64_t before = heap_bytes();
    s = open_session(model, &options, reterr);
    if (!s)
        s = read_ports(model, reterr);
    if (!s)
        s = make_lanes(model, options.lanes, reterr);
    if (s) {
        ort_model_unload(model);
        return s;
    }
    uint64_t after = heap_bytes(), weights = model_bytes(&options);
    model->host_bytes = after > before + weights ? after - before : weights; /* never less than what the file carries */
    *ret_model = model;
    return SP_ENGINE_OK;
}

void ort_model_describe(const sp_engine_model *model, sp_engine_ports *ret_ports)
{
    *ret_ports = (sp_engine_ports){ .input_count = model->input_count,
                                    .output_count = model->output_count,
                                    .inputs = model->ports,
                                    .outputs = model->ports + model->input_count };
}

void ort_model_unload(sp_engine_model *model)
{
    if (!model)
        return;
    for (int32_t i = 0; i < model->lane_count; i++)
        ort_lane_done(model, &model->lanes[i]);
    free(model->lanes);
    for (int32_t i = 0; model->ports && i < model->input_count + model->output_count; i++)
        free((char *)model->ports[i].name);
    free(model->ports);
    const OrtApi *api = model->library->api;
    if (model->session)
        api->ReleaseSession(model->session);
    free(model);
}

sp_engine_status ort_model_memory(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr)
{
    (void)reterr; /* cannot fail: it reports what load measured */
    *ret_memory = (sp_engine_memory){ .host_bytes = model->host_bytes };
    return SP_ENGINE_OK;
}
