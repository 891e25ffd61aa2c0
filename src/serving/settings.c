/* SPDX-License-Identifier: Apache-2.0
 * Trace and log settings as Triton's clients read and write them. Log settings act on our own log as far as it has
 * something like it: a level. Trace settings are kept and shown; spans are exported by telemetry, by its own configuration. */
#include "base/log.h"
#include "serving/parts.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define TIMESTAMPS 1u
#define TENSORS    2u

/* A model's own; what is not `has` is as the global one says. */
typedef struct trace {
    char model[SP_LIMIT_SERVED_NAME_BYTES];
    bool has_level, has_rate, has_count, has_frequency;
    unsigned level;
    uint32_t rate, frequency;
    int32_t count;
    struct trace *next;
} trace;

struct sp_settings {
    trace global;
    trace *models;
    int model_count;
    bool info, warning, error;
    uint32_t verbose;
    bool iso8601;
};

static const trace trace_default = { .has_level = true, .has_rate = true, .has_count = true, .has_frequency = true, .rate = 1000, .count = -1 };

sp_status sp_settings_new(sp_settings **ret_settings, sp_error *reterr)
{
    sp_settings *settings = calloc(1, sizeof(*settings));
    if (!settings)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for trace and log settings");
    settings->global = trace_default;
    settings->info = settings->warning = settings->error = true;
    *ret_settings = settings;
    return SP_OK;
}

void sp_settings_free(sp_settings *settings)
{
    while (settings && settings->models) {
        trace *t = settings->models;
        settings->models = t->next;
        free(t);
    }
    free(settings);
}

/* An empty body is an empty object, as for Triton. */
static sp_status object_read(sp_view text, json_t **ret_root, sp_error *reterr)
{
    json_error_t at;
    json_t *root = text.size_bytes ? json_loadb((const char *)text.data, text.size_bytes, JSON_REJECT_DUPLICATES, &at) : json_object();
    if (!root && text.size_bytes)
        return SP_FAIL(reterr, SP_INVALID, "failed to parse the request JSON buffer: %.100s at %d", at.text, at.position);
    if (!json_is_object(root)) {
        json_decref(root);
        return SP_FAIL(reterr, SP_INVALID, "the request must be a JSON object");
    }
    *ret_root = root;
    return SP_OK;
}

/* Triton has numbers as texts here. */
static sp_status number_read(const json_t *value, const char *key, int64_t least, int64_t most, int64_t *ret_number, sp_error *reterr)
{
    const char *text = json_string_value(value);
    char *end = NULL;
    int64_t number = json_is_integer(value) ? json_integer_value(value) : text ? strtoll(text, &end, 10) : 0;
    if (!json_is_integer(value) && (!text || !*text || *end))
        return SP_FAIL(reterr, SP_INVALID, "Unable to parse '%s', got: %.60s", key, text ? text : "no text");
    if (number < least || number > most)
        return SP_FAIL(reterr, SP_INVALID, "Unable to parse '%s', value is out of range [ %lld, %lld ], got: %lld", key,
                       (long long)least, (long long)most, (long long)number);
    *ret_number = number;
    return SP_OK;
}

static sp_status level_read(const json_t *value, unsigned *ret_level, sp_error *reterr)
{
    unsigned level = 0;
    size_t i;
    json_t *item;
    if (!json_is_array(value))
        return SP_FAIL(reterr, SP_INVALID, "'trace_level' must be an array of OFF, TIMESTAMPS and TENSORS");
    json_array_foreach(value, i, item)
    {
        const char *name = json_string_value(item);
        if (name && strcmp(name, "TIMESTAMPS") == 0)
            level |= TIMESTAMPS;
        else if (name && strcmp(name, "TENSORS") == 0)
            level |= TENSORS;
        else if (!name || strcmp(name, "OFF") != 0)
            return SP_FAIL(reterr, SP_INVALID, "unknown trace level '%.40s'; there are OFF, TIMESTAMPS and TENSORS", name ? name : "");
        else if (json_array_size(value) > 1)
            return SP_FAIL(reterr, SP_INVALID, "Expect only one trace level 'OFF' is specified");
    }
    *ret_level = level;
    return SP_OK;
}

/* One member. JSON's null takes the model's own value away, or sets the global one back to its default. */
static sp_status member_set(trace *t, const char *key, const json_t *value, sp_error *reterr)
{
    bool keep = !json_is_null(value);
    bool global = !*t->model;
    int64_t number = 0;
    sp_status s = SP_OK;
    if (strcmp(key, "trace_file") == 0)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "trace file location can not be updated through network protocol");
    if (strcmp(key, "trace_level") == 0) {
        unsigned level = 0;
        s = keep ? level_read(value, &level, reterr) : SP_OK;
        if (!s) {
            t->has_level = keep || global;
            t->level = level;
        }
    } else if (strcmp(key, "trace_rate") == 0) {
        s = keep ? number_read(value, key, 0, UINT32_MAX, &number, reterr) : SP_OK;
        if (!s) {
            t->has_rate = keep || global;
            t->rate = keep ? (uint32_t)number : trace_default.rate;
        }
    } else if (strcmp(key, "trace_count") == 0) {
        s = keep ? number_read(value, key, -1, INT32_MAX, &number, reterr) : SP_OK;
        if (!s) {
            t->has_count = keep || global;
            t->count = keep ? (int32_t)number : trace_default.count;
        }
    } else if (strcmp(key, "log_frequency") == 0) {
        s = keep ? number_read(value, key, 0, UINT32_MAX, &number, reterr) : SP_OK;
        if (!s) {
            t->has_frequency = keep || global;
            t->frequency = keep ? (uint32_t)number : 0;
        }
    }
    return s; /* members that Triton does not know it passes over */
}

static trace *trace_of(const sp_settings *settings, const char *model)
{
    trace *t = settings->models;
    while (t && strcmp(t->model, model) != 0)
        t = t->next;
    return t;
}

static sp_status trace_make(sp_settings *settings, const char *model, trace **ret_trace, sp_error *reterr)
{
    trace *t = trace_of(settings, model);
    if (!t && settings->model_count >= SP_LIMIT_TRACE_MODELS)
        return SP_FAIL(reterr, SP_BUSY, "%d models have trace settings of their own already", SP_LIMIT_TRACE_MODELS);
    if (!t) {
        t = calloc(1, sizeof(*t));
        if (!t)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for trace settings");
        (void)snprintf(t->model, sizeof(t->model), "%s", model);
        t->next = settings->models;
        settings->models = t;
        settings->model_count++;
    }
    *ret_trace = t;
    return SP_OK;
}

sp_status sp_serving_trace_update(sp_serving *serving, const char *model, sp_view json, sp_error *reterr)
{
    sp_settings *settings = sp_serving_parts_of(serving)->settings;
    trace *target = &settings->global, changed;
    json_t *root = NULL, *value;
    const char *key;
    sp_served *served = NULL;
    sp_status s = *model ? sp_serving_find(serving, model, "", &served, reterr) : SP_OK;
    if (!s)
        s = object_read(json, &root, reterr);
    if (!s && *model)
        s = trace_make(settings, model, &target, reterr);
    if (!s) {
        changed = *target; /* all of it or nothing */
        json_object_foreach(root, key, value)
        {
            s = member_set(&changed, key, value, reterr);
            if (s)
                break;
        }
        if (!s)
            *target = changed;
    }
    json_decref(root);
    return s;
}

void sp_serving_trace_write(const sp_serving *serving, const char *model, sp_buf *out)
{
    const sp_settings *settings = sp_serving_parts_of(serving)->settings;
    const trace *g = &settings->global, *t = *model ? trace_of(settings, model) : NULL;
    t = t ? t : g;
    unsigned level = t->has_level ? t->level : g->level;
    sp_buf_append_text(out, "{\"trace_level\":[");
    sp_buf_append_text(out, !level ? "\"OFF\"" : level == (TIMESTAMPS | TENSORS) ? "\"TIMESTAMPS\",\"TENSORS\""
                                             : level == TENSORS                 ? "\"TENSORS\""
                                                                                : "\"TIMESTAMPS\"");
    sp_buf_printf(out, "],\"trace_rate\":\"%u\",\"trace_count\":\"%d\",\"log_frequency\":\"%u\",\"trace_file\":\"\",\"trace_mode\":\"triton\"}",
                  t->has_rate ? t->rate : g->rate, (int)(t->has_count ? t->count : g->count),
                  t->has_frequency ? t->frequency : g->frequency);
}

/* --- log ---------------------------------------------------------------------------------------------------------------- */

static sp_status flag_read(const json_t *value, const char *key, bool *flag, sp_error *reterr)
{
    if (json_is_null(value))
        return SP_OK;
    if (!json_is_boolean(value))
        return SP_FAIL(reterr, SP_INVALID, "'%s' must be true or false", key);
    *flag = json_is_true(value);
    return SP_OK;
}

static sp_status log_member(sp_settings *to, const char *key, const json_t *value, sp_error *reterr)
{
    if (strcmp(key, "log_info") == 0)
        return flag_read(value, key, &to->info, reterr);
    if (strcmp(key, "log_warning") == 0 || strcmp(key, "log_warnings") == 0)
        return flag_read(value, key, &to->warning, reterr);
    if (strcmp(key, "log_error") == 0 || strcmp(key, "log_errors") == 0)
        return flag_read(value, key, &to->error, reterr);
    if (json_is_null(value))
        return SP_OK;
    if (strcmp(key, "log_file") == 0)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "log file location can not be updated through network protocol");
    if (strcmp(key, "log_verbose_level") == 0) {
        if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > INT32_MAX)
            return SP_FAIL(reterr, SP_INVALID, "'log_verbose_level' must be a whole number from 0");
        to->verbose = (uint32_t)json_integer_value(value);
    } else if (strcmp(key, "log_format") == 0) {
        const char *format = json_string_value(value);
        if (!format || (strcmp(format, "default") != 0 && strcmp(format, "ISO8601") != 0))
            return SP_FAIL(reterr, SP_UNAVAILABLE, "invalid argument for --log_format, got: %.60s", format ? format : "no text");
        to->iso8601 = strcmp(format, "ISO8601") == 0;
    }
    return SP_OK;
}

sp_status sp_serving_log_update(sp_serving *serving, sp_view json, sp_error *reterr)
{
    sp_settings *settings = sp_serving_parts_of(serving)->settings, changed = *settings;
    json_t *root = NULL, *value;
    const char *key;
    sp_status s = object_read(json, &root, reterr);
    if (s)
        return s;
    json_object_foreach(root, key, value)
    {
        s = log_member(&changed, key, value, reterr);
        if (s)
            break;
    }
    if (!s) {
        *settings = changed;
        if (json_object_size(root)) /* the least of what is wanted; an error is always told */
            sp_log_set_level(changed.verbose ? SP_LOG_DEBUG : changed.info ? SP_LOG_INFO : changed.warning ? SP_LOG_WARN : SP_LOG_ERROR);
    }
    json_decref(root);
    return s;
}

void sp_serving_log_write(const sp_serving *serving, sp_buf *out)
{
    const sp_settings *settings = sp_serving_parts_of(serving)->settings;
    sp_buf_printf(out,
                  "{\"log_file\":\"\",\"log_info\":%s,\"log_warning\":%s,\"log_error\":%s,\"log_verbose_level\":%u,\"log_format\":\"%s\"}",
                  settings->info ? "true" : "false", settings->warning ? "true" : "false", settings->error ? "true" : "false",
                  settings->verbose, settings->iso8601 ? "ISO8601" : "default");
}
