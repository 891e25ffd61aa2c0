/* SPDX-License-Identifier: Apache-2.0
 * Loading: what initialize() is told is put together once, every lane gets a child, and the first tells the ports. */
#include "py.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Appends `"key":"text"`, escaped. The configuration goes as a string too, as a TritonPythonModel is given it. */
static void put(FILE *out, const char *key, const char *text)
{
    (void)fprintf(out, ",\"%s\":\"", key);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            (void)fprintf(out, "\\%c", *c);
        else if (*c < 0x20)
            (void)fprintf(out, "\\u%04x", *c);
        else
            (void)fputc(*c, out);
    }
    (void)fputc('"', out);
}

static char *make_hello(const sp_engine_load_options *options)
{
    static const char *const keys[] = { "model_config", "model_name", "model_version", "model_repository", "instance_name" };
    bool gpu = options->provider && strcmp(options->provider, "cpu") != 0;
    char *text = NULL, device[16];
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    (void)snprintf(device, sizeof(device), "%d", options->device_index);
    (void)fprintf(out, "{\"threads\":%d", options->threads);
    put(out, "path", options->path);
    put(out, "kind", gpu ? "GPU" : "CPU");
    put(out, "device", device);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        put(out, keys[i], plug_option(options, keys[i]));
    (void)fputc('}', out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}

static sp_engine_status read_ports(sp_engine_model *model, const py_packet *ready, const py_memory *memory,
                                   sp_engine_error *reterr)
{
    uint32_t count = ready->input_count + ready->output_count;
    model->ports = calloc(count + 1, sizeof(*model->ports));
    if (!model->ports)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for the model's description");
    model->input_count = (int32_t)ready->input_count;
    model->output_count = (int32_t)ready->output_count;
    for (uint32_t i = 0; i < count; i++) {
        const py_tensor *t = &ready->tensors[i];
        sp_engine_port *port = &model->ports[i];
        *port = (sp_engine_port){ .dtype = t->dtype, .rank = t->rank };
        memcpy(port->dims, t->dims, sizeof(port->dims));
        if (!plug_dtype_bytes(t->dtype) && t->dtype != SP_ENGINE_STRING)
            return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_UNSUPPORTED, "the configuration has a type that is not served");
        port->name = strndup((const char *)memory->data + t->offset, (size_t)t->bytes);
        if (!port->name)
            return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for the model's description");
    }
    return SP_ENGINE_OK;
}

static sp_engine_status make_lanes(sp_engine_model *model, int32_t count, sp_engine_error *reterr)
{
    model->lanes = calloc((size_t)count, sizeof(*model->lanes));
    if (!model->lanes)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for %d lanes", count);
    model->lane_count = count;
    for (int32_t i = 0; i < count; i++)
        (void)pthread_mutex_init(&model->lanes[i].lock, NULL); /* cannot fail with default attributes */
    sp_engine_status s = SP_ENGINE_OK;
    for (int32_t i = 0; i < count && !s; i++) /* all start at once, then each is awaited */
        s = py_lane_start(model, i, reterr);
    return s;
}

static sp_engine_status await_lanes(sp_engine_model *model, sp_engine_error *reterr)
{
    static _Thread_local py_packet ready; /* 11 KB */
    sp_engine_status s = SP_ENGINE_OK;
    for (int32_t i = 0; i < model->lane_count && !s; i++) {
        s = py_lane_ready(model, i, &ready, reterr);
        if (!s && i == 0)
            s = read_ports(model, &ready, &model->lanes[0].child.from, reterr);
    }
    for (int32_t i = 0; i < model->lane_count && !s; i++) {
        model->lanes[i].strings = calloc((size_t)model->output_count + 1, sizeof(uint8_t *));
        if (!model->lanes[i].strings)
            s = plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for a lane");
    }
    return s;
}

sp_engine_status py_model_load(const sp_engine_load_options *given, sp_engine_model **ret_model, sp_engine_error *reterr)
{
    sp_engine_load_options options;
    struct stat info;
    sp_engine_status s = plug_options_copy(given, PY_ORIGIN, &options, reterr);
    if (s)
        return s;
    if (!options.path)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INVALID, "a Python model is a file (model.py)");
    if (stat(options.path, &info) != 0)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOT_FOUND, "%.200s is not there", options.path);
    if (!*plug_option(&options, "model_config"))
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INVALID, "a Python model needs its configuration (model_config)");
    sp_engine_model *model = calloc(1, sizeof(*model));
    if (!model)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for a model");
    model->hello = make_hello(&options);
    s = model->hello ? make_lanes(model, options.lanes, reterr)
                     : plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for the configuration");
    if (!s)
        s = await_lanes(model, reterr);
    if (s) {
        for (int32_t i = 0; i < model->lane_count; i++) /* others may be in the midst of a long initialize() */
            py_child_kill(&model->lanes[i].child);
        py_model_unload(model);
        return s;
    }
    *ret_model = model;
    return SP_ENGINE_OK;
}

void py_model_describe(const sp_engine_model *model, sp_engine_ports *ret_ports)
{
    *ret_ports = (sp_engine_ports){ .input_count = model->input_count,
                                    .output_count = model->output_count,
                                    .inputs = model->ports,
                                    .outputs = model->ports + model->input_count };
}

void py_model_unload(sp_engine_model *model)
{
    if (!model)
        return;
    for (int32_t i = 0; i < model->lane_count; i++) {
        py_lane *lane = &model->lanes[i];
        py_child_end(&lane->child);
        for (int32_t k = 0; lane->strings && k < model->output_count; k++)
            free(lane->strings[k]);
        free(lane->strings);
        (void)pthread_mutex_destroy(&lane->lock);
    }
    free(model->lanes);
    for (int32_t i = 0; model->ports && i < model->input_count + model->output_count; i++)
        free((char *)model->ports[i].name);
    free(model->ports);
    free(model->hello);
    free(model);
}

sp_engine_status py_model_memory(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr)
{
    (void)reterr; /* cannot fail: a child that is gone occupies nothing */
    sp_engine_memory memory = { 0 };
    for (int32_t i = 0; i < model->lane_count; i++)
        memory.host_bytes += py_child_resident(&model->lanes[i].child);
    *ret_memory = memory;
    return SP_ENGINE_OK;
}
