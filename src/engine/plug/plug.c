/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/plug/plug.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sp_engine_status plug_fail(sp_engine_error *reterr, const char *origin, sp_engine_status status, const char *format, ...)
{
    if (reterr) {
        va_list args;
        va_start(args, format);
        memset(reterr, 0, sizeof(*reterr));
        (void)snprintf(reterr->origin, sizeof(reterr->origin), "%s", origin);
        (void)vsnprintf(reterr->message, sizeof(reterr->message), format, args);
        va_end(args);
    }
    return status;
}

static void *open_file(const char *path, char *why, size_t why_size)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *text = handle ? NULL : dlerror();
    if (text)
        (void)snprintf(why, why_size, "%s", text);
    return handle;
}

void *plug_library_open(const char *variable, const char *file, const char *build_dir, char *why, size_t why_size)
{
    const char *chosen = getenv(variable);
    if (chosen && *chosen)
        return open_file(chosen, why, why_size);
    char path[1024];
    Dl_info self; /* this code is in the plug-in */
    if (dladdr((void *)open_file, &self) && self.dli_fname && strchr(self.dli_fname, '/')) {
        int dir_length = (int)(strrchr(self.dli_fname, '/') - self.dli_fname);
        (void)snprintf(path, sizeof(path), "%.*s/%s", dir_length, self.dli_fname, file);
        void *handle = open_file(path, why, why_size);
        if (handle)
            return handle;
    }
    if (*build_dir) {
        (void)snprintf(path, sizeof(path), "%s/%s", build_dir, file);
        void *handle = open_file(path, why, why_size);
        if (handle)
            return handle;
    }
    return open_file(file, why, why_size);
}

size_t plug_dtype_bytes(int32_t dtype)
{
    switch (dtype) {
    case SP_ENGINE_U8:
    case SP_ENGINE_I8:
    case SP_ENGINE_BOOL:
        return 1;
    case SP_ENGINE_U16:
    case SP_ENGINE_I16:
    case SP_ENGINE_F16:
    case SP_ENGINE_BF16:
        return 2;
    case SP_ENGINE_F32:
    case SP_ENGINE_I32:
    case SP_ENGINE_U32:
        return 4;
    case SP_ENGINE_I64:
    case SP_ENGINE_F64:
    case SP_ENGINE_U64:
        return 8;
    default:
        return 0;
    }
}

uint32_t plug_length_read(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

void plug_length_write(uint8_t *at, uint32_t length)
{
    at[0] = (uint8_t)length;
    at[1] = (uint8_t)(length >> 8);
    at[2] = (uint8_t)(length >> 16);
    at[3] = (uint8_t)(length >> 24);
}

sp_engine_status plug_options_copy(const sp_engine_load_options *given, const char *origin,
                                   sp_engine_load_options *ret_options, sp_engine_error *reterr)
{
    sp_engine_load_options options = { 0 };
    memcpy(&options, given, given->struct_bytes < sizeof(options) ? given->struct_bytes : sizeof(options));
    if (!options.path == !options.bytes)
        return plug_fail(reterr, origin, SP_ENGINE_INVALID, "a model is given either as a path or as bytes");
    if (options.threads < 0 || options.lanes < 0 || options.lanes > 1024)
        return plug_fail(reterr, origin, SP_ENGINE_INVALID, "threads %d, lanes %d: out of range", options.threads,
                         options.lanes);
    if (!options.lanes)
        options.lanes = 1;
    *ret_options = options;
    return SP_ENGINE_OK;
}

const char *plug_option(const sp_engine_load_options *options, const char *key)
{
    for (int32_t i = 0; i < options->option_count; i++)
        if (strcmp(options->options[i].key, key) == 0)
            return options->options[i].value;
    return "";
}

uint64_t plug_count(const sp_engine_tensor *tensor)
{
    uint64_t count = 1;
    for (int32_t i = 0; i < tensor->rank; i++)
        count *= (uint64_t)tensor->dims[i];
    return count;
}

static sp_engine_status check_shape(const plug_call *call, const sp_engine_port *port, const sp_engine_tensor *tensor,
                                    uint64_t *ret_count, sp_engine_error *reterr)
{
    uint64_t count = 1;
    if (tensor->rank < 0 || tensor->rank > SP_ENGINE_MAX_RANK || (port->rank && tensor->rank != port->rank))
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: rank %d given, the model has %d", port->name,
                         tensor->rank, port->rank);
    for (int32_t i = 0; i < tensor->rank; i++) {
        int64_t wanted = port->rank ? port->dims[i] : -1;
        if (tensor->dims[i] < 0 || (wanted >= 0 && tensor->dims[i] != wanted))
            return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: dimension %d is %lld, the model has %lld",
                             port->name, i, (long long)tensor->dims[i], (long long)wanted);
        if (__builtin_mul_overflow(count, (uint64_t)tensor->dims[i], &count))
            return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: its size overflows", port->name);
    }
    *ret_count = count;
    return SP_ENGINE_OK;
}

static sp_engine_status check_strings(const plug_call *call, const sp_engine_port *port,
                                      const sp_engine_tensor *tensor, uint64_t count, sp_engine_error *reterr)
{
    const uint8_t *bytes = tensor->data;
    uint64_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t left = tensor->size_bytes - at;
        uint32_t length = left >= 4 ? plug_length_read(bytes + at) : 0;
        if (left < 4 || length > left - 4)
            return plug_fail(reterr, call->origin, SP_ENGINE_INVALID,
                             "%s: string %llu of %llu ends beyond the tensor's %llu bytes", port->name,
                             (unsigned long long)i, (unsigned long long)count, (unsigned long long)tensor->size_bytes);
        at += 4 + (uint64_t)length;
    }
    if (at != tensor->size_bytes)
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: %llu bytes follow the last of %llu strings",
                         port->name, (unsigned long long)(tensor->size_bytes - at), (unsigned long long)count);
    return SP_ENGINE_OK;
}

/* An input, or an output that the caller has a buffer for. */
static sp_engine_status check_buffer(const plug_call *call, const sp_engine_port *port, const sp_engine_tensor *tensor,
                                     sp_engine_error *reterr)
{
    uint64_t count = 0, bytes = 0;
    sp_engine_status s = check_shape(call, port, tensor, &count, reterr);
    if (s)
        return s;
    if (count && !tensor->data)
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: an input without data", port->name);
    if (tensor->dtype == SP_ENGINE_STRING)
        return check_strings(call, port, tensor, count, reterr);
    if (__builtin_mul_overflow(count, (uint64_t)plug_dtype_bytes(tensor->dtype), &bytes) || tensor->size_bytes < bytes)
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: %llu elements needed, %llu bytes given",
                         port->name, (unsigned long long)count, (unsigned long long)tensor->size_bytes);
    return SP_ENGINE_OK;
}

static sp_engine_status check_tensor(const plug_call *call, const sp_engine_port *port, const sp_engine_tensor *tensor,
                                     bool input, sp_engine_error *reterr)
{
    if (tensor->rank == SP_ENGINE_ABSENT && (!input || call->absent_inputs))
        return SP_ENGINE_OK;
    if (tensor->rank == SP_ENGINE_ABSENT)
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: the model needs this input", port->name);
    if (!port->dtype)
        return plug_fail(reterr, call->origin, SP_ENGINE_UNSUPPORTED,
                         "%s is no tensor of a type that this engine takes (a sequence, map, optional ...)", port->name);
    if (tensor->dtype != port->dtype)
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: type %d given, the model has %d", port->name,
                         tensor->dtype, port->dtype);
    if (!input && !tensor->data)
        return SP_ENGINE_OK; /* left to the engine */
    if (!input && tensor->dtype == SP_ENGINE_STRING)
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "%s: strings are left to the engine", port->name);
    return check_buffer(call, port, tensor, reterr);
}

sp_engine_status plug_call_check(const plug_call *call, sp_engine_error *reterr)
{
    const sp_engine_ports *ports = call->ports;
    bool wanted = false;
    if (call->lane < 0 || call->lane >= call->lane_count || call->input_count != ports->input_count ||
        call->output_count != ports->output_count)
        return plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "lane %d of %d, %d inputs of %d, %d outputs of %d",
                         call->lane, call->lane_count, call->input_count, ports->input_count, call->output_count,
                         ports->output_count);
    for (int32_t i = 0; i < call->input_count; i++) {
        sp_engine_status s = check_tensor(call, &ports->inputs[i], &call->inputs[i], true, reterr);
        if (s)
            return s;
    }
    for (int32_t i = 0; i < call->output_count; i++) {
        sp_engine_status s = check_tensor(call, &ports->outputs[i], &call->outputs[i], false, reterr);
        if (s)
            return s;
        wanted = wanted || call->outputs[i].rank != SP_ENGINE_ABSENT;
    }
    return wanted ? SP_ENGINE_OK
                  : plug_fail(reterr, call->origin, SP_ENGINE_INVALID, "none of the model's outputs is wanted");
}
