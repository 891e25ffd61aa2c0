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

static bool is_host(const sp_engine_load_options *options)
{
    return !options->provider || strcmp(options->provider, "cpu") == 0;
}

static sp_engine_status make_options(const ort_library *lib, const sp_engine_load_options *options, bool graphs,
                                     char prefix[ORT_WATCH_PREFIX_BYTES], OrtSessionOptions **ret_options, sp_engine_error *reterr)
{
    OrtSessionOptions *so = NULL;
    sp_engine_status s = ort_check(lib, lib->api->CreateSessionOptions(&so), ORT_PHASE_LOAD, reterr);
    if (s)
        return s;
    s = ort_check(lib, set_threads(lib, so, options), ORT_PHASE_LOAD, reterr);
    if (!s)
        s = ort_check(lib, set_optimisation(lib, so, options), ORT_PHASE_LOAD, reterr);
    if (!s)
        s = ort_provider_append(lib, so, options, graphs, reterr);
    if (!s && !is_host(options))
        ort_watch_begin(lib, so, prefix);
    if (s)
        lib->api->ReleaseSessionOptions(so);
    else
        *ret_options = so;
    return s;
}

static sp_engine_status open_session_as(sp_engine_model *model, const sp_engine_load_options *options, bool graphs,
                                        sp_engine_error *reterr)
{
    const ort_library *lib = model->library;
    OrtSessionOptions *so = NULL;
    char prefix[ORT_WATCH_PREFIX_BYTES] = "";
    sp_engine_status s = make_options(lib, options, graphs, prefix, &so, reterr);
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
    if (s)
        ort_watch_drop(prefix);
    return s;
}

/* A model that the library will not capture (nodes on the CPU) is loaded without graphs; it would be refused for another reason
 * again. */
static sp_engine_status open_session(sp_engine_model *model, const sp_engine_load_options *options, sp_engine_error *reterr)
{
    sp_engine_error why = { 0 };
    bool cuda = !is_host(options) && strcmp(options->provider, "cuda") == 0;
    model->on_device = !is_host(options);
    model->ordered = model->on_device && (options->flags & SP_ENGINE_ORDERED) && options->compute_stream;
    model->graphs = cuda && (options->flags & SP_ENGINE_GRAPHS);
    model->in_turns = model->graphs || (model->on_device && options->compute_stream);
    sp_engine_status s = open_session_as(model, options, model->graphs, &why);
    if (s && model->graphs && strcasestr(why.message, "graph capture")) {
        model->graphs = false;
        model->in_turns = options->compute_stream != NULL;
        why = (sp_engine_error){ 0 };
        s = open_session_as(model, options, false, &why);
    }
    atomic_store(&model->watch_left, !s && model->on_device ? ORT_WATCHED_RUNS : 0);
    if (s && reterr)
        *reterr = why;
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
    (void)pthread_mutex_init(&model->turn, NULL);
    (void)pthread_mutex_init(&model->watch_lock, NULL);
    model->file_bytes = model_bytes(&options);
    uint64_t before = heap_bytes(), total;
    if (!is_host(&options) && !ort_device_memory(&model->free_before, &total))
        model->free_before = 0;
    s = open_session(model, &options, reterr);
    if (!s)
        s = read_ports(model, reterr);
    if (!s)
        s = make_lanes(model, options.lanes, reterr);
    if (!s && model->graphs)
        s = ort_thread_new(&model->thread, reterr);
    if (s) {
        ort_model_unload(model);
        return s;
    }
    uint64_t after = heap_bytes(), weights = model->file_bytes;
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
    ort_thread_free(model->thread);
    ort_watch_close(model);
    for (int32_t i = 0; i < model->lane_count; i++)
        ort_lane_done(model, &model->lanes[i]);
    free(model->lanes);
    for (int32_t i = 0; model->ports && i < model->input_count + model->output_count; i++)
        free((char *)model->ports[i].name);
    free(model->ports);
    const OrtApi *api = model->library->api;
    if (model->session)
        api->ReleaseSession(model->session);
    (void)pthread_mutex_destroy(&model->turn);
    (void)pthread_mutex_destroy(&model->watch_lock);
    free(model);
}

sp_engine_status ort_model_memory(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr)
{
    (void)reterr; /* cannot fail */
    uint64_t now = 0, total, device = 0;
    if (model->on_device) {
        bool known = model->free_before && ort_device_memory(&now, &total) && now < model->free_before;
        device = known ? model->free_before - now : 0;
        device = device < model->file_bytes ? model->file_bytes : device;
    }
    *ret_memory = (sp_engine_memory){ .host_bytes = model->host_bytes, .device_bytes = device };
    return SP_ENGINE_OK;
}
