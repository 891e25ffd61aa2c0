/* SPDX-License-Identifier: Apache-2.0
 * The engine registry and sessions. */
#include "engine/engine.h"

#include "base/fault.h"
#include "base/limits.h"
#include "base/plugin.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct sp_session {
    const sp_engine *engine;
    sp_engine_model *model;
    sp_engine_ports ports;
};

static const char *const engine_names[] = { "onnxruntime", "openvino", "python" };
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER; /* guards `registry` */
static sp_engine registry[SP_ARRAY_LEN(engine_names)];            /* api NULL = not opened yet */

const char *sp_engine_name_at(int index)
{
    return index >= 0 && (size_t)index < SP_ARRAY_LEN(engine_names) ? engine_names[index] : NULL;
}

/* The numbers of the ABI are ours; one that is none of them is the plug-in's bug. */
static sp_status from_engine(const sp_engine *engine, sp_engine_status status, const sp_engine_error *why,
                             sp_error *reterr)
{
    if (status == SP_ENGINE_OK)
        return SP_OK;
    sp_status ours = status > 0 && status < SP_STATUS_COUNT ? (sp_status)status : SP_INTERNAL;
    return SP_FAIL_FROM(reterr, ours, why->origin[0] ? why->origin : engine->api->name, why->origin_code, "%.*s",
                        (int)sizeof(why->message), why->message[0] ? why->message : "no reason given");
}

sp_status sp_engine_wrap(const sp_engine_api *api, sp_engine *storage, sp_error *reterr)
{
    size_t needed = offsetof(sp_engine_api, close) + sizeof(api->close);
    if (!api || api->abi != SP_ENGINE_ABI || api->struct_bytes < needed)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "engine_abi", "the engine plug-in speaks ABI %u, this program %u",
                            api ? api->abi : 0, SP_ENGINE_ABI);
    if (!api->name || !api->probe || !api->load || !api->describe || !api->run || !api->unload || !api->close)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "engine_abi",
                            "the engine plug-in lacks an entry that is not optional");
    *storage = (sp_engine){ .api = api };
    return SP_OK;
}

static sp_status open_plugin(const char *name, sp_engine *storage, sp_error *reterr)
{
    char file[64], path[SP_LIMIT_PLUGIN_PATH_BYTES];
    (void)snprintf(file, sizeof(file), "libspillway_engine_%s.so", name);
    void *handle = NULL;
    sp_status s = sp_plugin_open(file, &handle, path, reterr);
    if (s)
        return s;
    union {
        void *symbol;
        sp_engine_api_get_fn *get;
    } entry = { 0 };
    s = sp_plugin_symbol(handle, path, SP_ENGINE_SYMBOL, &entry.symbol, reterr);
    if (s)
        return s;
    const sp_engine_api *api = entry.get(SP_ENGINE_ABI);
    if (!api)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "engine_abi",
                            "%s does not speak ABI %u: rebuild it with this program", path, SP_ENGINE_ABI);
    return sp_engine_wrap(api, storage, reterr);
}

sp_status sp_engine_open(const char *name, const sp_engine **ret_engine, sp_error *reterr)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(engine_names); i++) {
        if (strcmp(engine_names[i], name) != 0)
            continue;
        (void)pthread_mutex_lock(&registry_lock);
        sp_status s = registry[i].api ? SP_OK : open_plugin(name, &registry[i], reterr);
        (void)pthread_mutex_unlock(&registry_lock);
        if (!s)
            *ret_engine = &registry[i];
        return s;
    }
    return SP_FAIL(reterr, SP_INVALID, "no engine is called '%s'", name);
}

sp_status sp_engine_probe(const sp_engine *engine, sp_engine_probe_result *ret_result, sp_error *reterr)
{
    sp_engine_error why = { 0 };
    return from_engine(engine, engine->api->probe(ret_result, &why), &why, reterr);
}

sp_session_options sp_session_options_default(const char *path)
{
    return (sp_session_options){ .path = path, .provider = "cpu", .threads = 1, .lanes = 1, .optimisation = -1 };
}

static sp_status check_file(const char *path, sp_error *reterr)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_UNAVAILABLE, "%s", path);
    if (!S_ISREG(info.st_mode))
        return SP_FAIL(reterr, SP_INVALID, "%s is no file", path);
    if ((uint64_t)info.st_size > SP_LIMIT_MODEL_BYTES)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s has %llu bytes; a model file has at most %u", path,
                       (unsigned long long)info.st_size, SP_LIMIT_MODEL_BYTES);
    return SP_OK;
}

static sp_status check_source(const sp_session_options *options, sp_error *reterr)
{
    if (!options->path == !options->bytes.data)
        return SP_FAIL(reterr, SP_INVALID, "a model is given either as a path or as bytes");
    if (options->path)
        return check_file(options->path, reterr);
    if (options->bytes.size_bytes > SP_LIMIT_MODEL_BYTES)
        return SP_FAIL(reterr, SP_TOO_LARGE, "a model of %zu bytes; at most %u are taken", options->bytes.size_bytes,
                       SP_LIMIT_MODEL_BYTES);
    return SP_OK;
}

static sp_status injected(sp_fault_action action, const char *point, sp_error *reterr)
{
    if (action == SP_FAULT_NOMEM)
        return SP_FAIL(reterr, SP_NOMEM, "fault point %s: out of memory", point);
    return action == SP_FAULT_FAIL ? SP_FAIL(reterr, SP_INTERNAL, "fault point %s: failed", point) : SP_OK;
}

sp_status sp_session_open(const sp_engine *engine, const sp_session_options *options, sp_session **ret_session,
                          sp_error *reterr)
{
    sp_status s = injected(SP_FAULT("engine.load"), "engine.load", reterr);
    if (!s)
        s = check_source(options, reterr);
    if (s)
        return s;
    sp_session *session = calloc(1, sizeof(*session));
    if (!session)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a session");
    sp_engine_load_options load = {
        .struct_bytes = sizeof(load),
        .device_index = options->device_index,
        .provider = options->provider,
        .path = options->path,
        .bytes = options->bytes.data,
        .byte_count = options->bytes.size_bytes,
        .threads = options->threads,
        .lanes = options->lanes,
        .optimisation = options->optimisation < 0 ? 3 : options->optimisation,
        .spin = options->spin,
        .device_memory_limit_bytes = options->device_memory_limit_bytes,
        .options = options->options,
        .option_count = options->option_count,
        .flags = options->flags,
        .compute_stream = options->compute_stream,
    };
    sp_engine_error why = { 0 };
    s = from_engine(engine, engine->api->load(&load, &session->model, &why), &why, reterr);
    if (s) {
        free(session);
        return s;
    }
    session->engine = engine;
    engine->api->describe(session->model, &session->ports);
    *ret_session = session;
    return SP_OK;
}

void sp_session_free(sp_session *session)
{
    if (!session)
        return;
    session->engine->api->unload(session->model);
    free(session);
}

const sp_engine_ports *sp_session_ports(const sp_session *session)
{
    return &session->ports;
}

sp_status sp_session_run(sp_session *session, int lane, const sp_engine_tensor *inputs, int input_count,
                         sp_engine_tensor *outputs, int output_count, sp_error *reterr)
{
    sp_status s = injected(SP_FAULT("engine.run"), "engine.run", reterr);
    if (s)
        return s;
    sp_engine_error why;
    why.message[0] = why.origin[0] = 0;
    why.origin_code = 0;
    return from_engine(
        session->engine,
        session->engine->api->run(session->model, lane, inputs, input_count, outputs, output_count, &why), &why,
        reterr);
}

/* An optional entry of a plug-in that may be older than it. */
#define HAS_ENTRY(api, entry)                                                                                          \
    ((api)->struct_bytes >= offsetof(sp_engine_api, entry) + sizeof((api)->entry) && (api)->entry)

void sp_session_divide(sp_session *session, int lane, const int64_t *rows, int count)
{
    const sp_engine_api *api = session->engine->api;
    if (HAS_ENTRY(api, divide))
        api->divide(session->model, lane, rows, count);
}

bool sp_session_cancel(sp_session *session, int lane)
{
    const sp_engine_api *api = session->engine->api;
    if (!HAS_ENTRY(api, cancel))
        return false;
    api->cancel(session->model, lane);
    return true;
}

sp_status sp_session_memory(const sp_session *session, sp_engine_memory *ret_memory, sp_error *reterr)
{
    const sp_engine_api *api = session->engine->api;
    if (!HAS_ENTRY(api, memory))
        return SP_FAIL(reterr, SP_UNSUPPORTED, "%s does not tell what a model occupies", api->name);
    sp_engine_error why = { 0 };
    return from_engine(session->engine, api->memory(session->model, ret_memory, &why), &why, reterr);
}

sp_status sp_session_report(const sp_session *session, sp_engine_report *ret_report, sp_error *reterr)
{
    const sp_engine_api *api = session->engine->api;
    if (!HAS_ENTRY(api, report))
        return SP_FAIL(reterr, SP_UNSUPPORTED, "%s does not tell where a model's nodes are", api->name);
    sp_engine_error why = { 0 };
    *ret_report = (sp_engine_report){ .struct_bytes = sizeof(*ret_report) };
    return from_engine(session->engine, api->report(session->model, ret_report, &why), &why, reterr);
}

static const struct {
    const char *name;
    uint8_t bytes;
} dtypes[] = {
    [SP_ENGINE_F32] = { "f32", 4 },   [SP_ENGINE_U8] = { "u8", 1 },     [SP_ENGINE_I8] = { "i8", 1 },
    [SP_ENGINE_U16] = { "u16", 2 },   [SP_ENGINE_I16] = { "i16", 2 },   [SP_ENGINE_I32] = { "i32", 4 },
    [SP_ENGINE_I64] = { "i64", 8 },   [SP_ENGINE_BOOL] = { "bool", 1 }, [SP_ENGINE_F16] = { "f16", 2 },
    [SP_ENGINE_F64] = { "f64", 8 },   [SP_ENGINE_U32] = { "u32", 4 },   [SP_ENGINE_U64] = { "u64", 8 },
    [SP_ENGINE_BF16] = { "bf16", 2 }, [SP_ENGINE_STRING] = { "string", 0 },
};

size_t sp_engine_dtype_bytes(int dtype)
{
    return dtype > 0 && (size_t)dtype < SP_ARRAY_LEN(dtypes) ? dtypes[dtype].bytes : 0;
}

const char *sp_engine_dtype_name(int dtype)
{
    return dtype > 0 && (size_t)dtype < SP_ARRAY_LEN(dtypes) && dtypes[dtype].name ? dtypes[dtype].name : "?";
}
