/* SPDX-License-Identifier: Apache-2.0
 * Loading a model: read, described as the file has it, compiled for the CPU with a stream per lane. */
#include "ov.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return (uint64_t)info.uordblks + (uint64_t)info.hblkhd;
}

/* The file, and the weights beside an .xml. */
static uint64_t model_bytes(const sp_engine_load_options *options)
{
    struct stat info;
    char weights[4096];
    if (!options->path)
        return options->byte_count;
    size_t length = strlen(options->path);
    uint64_t bytes = stat(options->path, &info) == 0 ? (uint64_t)info.st_size : 0;
    if (length > 4 && length < sizeof(weights) && strcmp(options->path + length - 4, ".xml") == 0) {
        (void)snprintf(weights, sizeof(weights), "%.*s.bin", (int)(length - 4), options->path);
        bytes += stat(weights, &info) == 0 ? (uint64_t)info.st_size : 0;
    }
    return bytes;
}

static sp_engine_status read_model(sp_engine_model *model, const sp_engine_load_options *options, ov_model_t **ret_read,
                                   sp_engine_error *reterr)
{
    const ov_library *lib = model->library;
    struct stat info;
    if (options->path) {
        if (stat(options->path, &info) != 0)
            return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_NOT_FOUND, "%.200s is not there", options->path);
        return ovp_check(lib, lib->ov_core_read_model(lib->core, options->path, NULL, ret_read), OVP_LOAD, reterr);
    }
    model->file = malloc((size_t)options->byte_count + 1); /* the reader may keep pointers into it */
    if (!model->file)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_NOMEM, "no memory for the model");
    memcpy(model->file, options->bytes, (size_t)options->byte_count);
    return ovp_check(lib,
                     lib->ov_core_read_model_from_memory_buffer(lib->core, model->file, (size_t)options->byte_count,
                                                                NULL, ret_read),
                     OVP_LOAD, reterr);
}

/* bf16 and f16 are hints in the library's sense: operators that have no such form run in f32. f32 must be said, since the
 * library takes bf16 by itself where the CPU has AMX. */
static sp_engine_status choose_precision(const sp_engine_load_options *options, const char **ret_precision,
                                         sp_engine_error *reterr)
{
    const char *given = plug_option(options, "precision");
    *ret_precision = given[0] ? given : "f32";
    if (strcmp(*ret_precision, "f32") == 0 || strcmp(given, "bf16") == 0 || strcmp(given, "f16") == 0)
        return SP_ENGINE_OK;
    return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_INVALID, "unknown precision '%.32s' (f32, bf16, f16)", given);
}

static sp_engine_status compile(sp_engine_model *model, const sp_engine_load_options *options, const ov_model_t *read,
                                sp_engine_error *reterr)
{
    const ov_library *lib = model->library;
    const char *precision = NULL;
    char threads[16], streams[16];
    sp_engine_status s = choose_precision(options, &precision, reterr);
    if (s)
        return s;
    (void)snprintf(threads, sizeof(threads), "%d", options->threads * options->lanes); /* 0 = the library's choice */
    (void)snprintf(streams, sizeof(streams), "%d", options->lanes);
    return ovp_check(lib,
                     lib->ov_core_compile_model(lib->core, read, "CPU", 10, &model->compiled, /* five pairs */
                                                "NUM_STREAMS", streams, "INFERENCE_NUM_THREADS", threads,
                                                "INFERENCE_PRECISION_HINT", precision, "ENABLE_CPU_PINNING", "NO",
                                                "ENABLE_HYPER_THREADING", "YES"),
                     OVP_LOAD, reterr);
}

static void read_shape(const ov_library *lib, const ov_partial_shape_t *shape, sp_engine_port *port)
{
    if (lib->ov_rank_is_dynamic(shape->rank))
        return; /* any rank: 0 */
    port->rank = (int32_t)shape->rank.min;
    for (int32_t i = 0; i < port->rank && i < SP_ENGINE_MAX_RANK; i++)
        port->dims[i] = shape->dims[i].min == shape->dims[i].max ? shape->dims[i].min : -1;
}

static sp_engine_status read_port(sp_engine_model *model, const ov_model_t *read, int32_t index, sp_engine_error *reterr)
{
    const ov_library *lib = model->library;
    sp_engine_port *port = &model->ports[index];
    ov_output_const_port_t *theirs = NULL;
    ov_element_type_e type = DYNAMIC;
    ov_partial_shape_t shape = { 0 };
    char *name = NULL;
    ov_status_e st = index < model->input_count
                         ? lib->ov_model_const_input_by_index(read, (size_t)index, &theirs)
                         : lib->ov_model_const_output_by_index(read, (size_t)(index - model->input_count), &theirs);
    if (st != OK)
        return ovp_check(lib, st, OVP_LOAD, reterr);
    st = lib->ov_port_get_any_name(theirs, &name);
    if (st == OK)
        st = lib->ov_port_get_element_type(theirs, &type);
    if (st == OK)
        st = lib->ov_port_get_partial_shape(theirs, &shape);
    sp_engine_status s = ovp_check(lib, st, OVP_LOAD, reterr);
    if (!s) {
        port->dtype = ovp_dtype(type);
        read_shape(lib, &shape, port);
        port->name = strdup(name);
        lib->ov_partial_shape_free(&shape);
        if (!port->name)
            s = plug_fail(reterr, OV_ORIGIN, SP_ENGINE_NOMEM, "no memory for the model's description");
    }
    if (name)
        lib->ov_free(name);
    lib->ov_output_const_port_free(theirs);
    if (port->rank > SP_ENGINE_MAX_RANK)
        *port = (sp_engine_port){ .name = port->name }; /* does not cross */
    return s;
}

static sp_engine_status read_ports(sp_engine_model *model, const ov_model_t *read, sp_engine_error *reterr)
{
    const ov_library *lib = model->library;
    size_t inputs = 0, outputs = 0;
    ov_status_e st = lib->ov_model_inputs_size(read, &inputs);
    if (st == OK)
        st = lib->ov_model_outputs_size(read, &outputs);
    sp_engine_status s = ovp_check(lib, st, OVP_LOAD, reterr);
    if (s)
        return s;
    if (inputs > SP_ENGINE_MAX_PORTS || outputs > SP_ENGINE_MAX_PORTS)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_TOO_LARGE,
                         "the model has %zu inputs and %zu outputs; at most %d of each", inputs, outputs,
                         SP_ENGINE_MAX_PORTS);
    model->ports = calloc(inputs + outputs, sizeof(*model->ports));
    if (!model->ports)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_NOMEM, "no memory for the model's description");
    model->input_count = (int32_t)inputs;
    model->output_count = (int32_t)outputs;
    for (int32_t i = 0; i < model->input_count + model->output_count && !s; i++)
        s = read_port(model, read, i, reterr);
    return s;
}

static sp_engine_status make_lanes(sp_engine_model *model, int32_t count, sp_engine_error *reterr)
{
    sp_engine_status s = SP_ENGINE_OK;
    model->lanes = calloc((size_t)count, sizeof(*model->lanes));
    if (!model->lanes)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_NOMEM, "no memory for %d lanes", count);
    model->lane_count = count;
    for (int32_t i = 0; i < count && !s; i++)
        s = ovp_lane_init(model, &model->lanes[i], reterr);
    return s;
}

sp_engine_status ovp_model_load(const sp_engine_load_options *given, sp_engine_model **ret_model,
                                sp_engine_error *reterr)
{
    sp_engine_load_options options;
    const ov_library *lib = NULL;
    sp_engine_status s = plug_options_copy(given, OV_ORIGIN, &options, reterr);
    if (s)
        return s;
    if (options.provider && strcmp(options.provider, "cpu") != 0) {
        bool known = strcmp(options.provider, "cuda") == 0 || strcmp(options.provider, "tensorrt") == 0;
        return plug_fail(reterr, OV_ORIGIN, known ? SP_ENGINE_UNSUPPORTED : SP_ENGINE_INVALID,
                         "this engine has the provider cpu only, not '%.32s'", options.provider);
    }
    s = ovp_library_get(&lib, reterr);
    if (s)
        return s;
    sp_engine_model *model = calloc(1, sizeof(*model));
    if (!model)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_NOMEM, "no memory for a model");
    model->library = lib;
    uint64_t before = heap_bytes();
    ov_model_t *read = NULL;
    s = read_model(model, &options, &read, reterr);
    if (!s)
        s = read_ports(model, read, reterr);
    if (!s)
        s = compile(model, &options, read, reterr);
    if (read)
        lib->ov_model_free(read);
    if (!s)
        s = make_lanes(model, options.lanes, reterr);
    if (s) {
        ovp_model_unload(model);
        return s;
    }
    uint64_t after = heap_bytes(), weights = model_bytes(&options);
    model->host_bytes = after > before + weights ? after - before : weights;
    *ret_model = model;
    return SP_ENGINE_OK;
}

void ovp_model_describe(const sp_engine_model *model, sp_engine_ports *ret_ports)
{
    *ret_ports = (sp_engine_ports){ .input_count = model->input_count,
                                    .output_count = model->output_count,
                                    .inputs = model->ports,
                                    .outputs = model->ports + model->input_count };
}

void ovp_model_unload(sp_engine_model *model)
{
    if (!model)
        return;
    for (int32_t i = 0; i < model->lane_count; i++)
        ovp_lane_done(model, &model->lanes[i]);
    free(model->lanes);
    for (int32_t i = 0; model->ports && i < model->input_count + model->output_count; i++)
        free((char *)model->ports[i].name);
    free(model->ports);
    if (model->compiled)
        model->library->ov_compiled_model_free(model->compiled);
    free(model->file);
    free(model);
}

sp_engine_status ovp_model_memory(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr)
{
    (void)reterr; /* cannot fail: it reports what load measured */
    *ret_memory = (sp_engine_memory){ .host_bytes = model->host_bytes };
    return SP_ENGINE_OK;
}
