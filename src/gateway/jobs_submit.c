/* SPDX-License-Identifier: Apache-2.0
 * A job's submission: its fields come from JSON, from a query, from a form or from headers, and mean the same in each. */
#include "gateway/jobs.h"

#include "jobs/outputs.h"
#include "jobs/send.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#define TTL_MOST_S (3650 * INT64_C(86400))
#define PRIORITY_MOST 10

static const char *const fields[] = { "task", "url", "client_id", "metadata", "webhook", "output", "priority", "ttl",
                                      "idempotency_key", "local_only", "parameters" };
/* Of every job, and of POST /v1/videos/analyses alone; video_url is url. */
static const char *const waits[] = { "sync", "wait" };
static const char *const video_fields[] = { "video_url", "chunks", "overlay" };
/* Of the task; in a query or form they stand by themselves. */
static const char *const parameters[] = { "top_k", "decode", "model", "timeout_ms", "stream", "force_cpu", "threshold", "iou" };

static sp_status bad(sp_view value, const char *where, const char *name, const char *wanted, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s %s must be %s, not \"%.*s\"", where, name, wanted,
                        (int)SP_MIN(value.size_bytes, (size_t)40), (const char *)value.data);
}

/* Printable UTF-8 as it is; no control characters. */
static sp_status text_take(char *dst, size_t dst_bytes, sp_view value, const char *where, const char *name, sp_error *reterr)
{
    if (value.size_bytes >= dst_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s %s has %zu bytes, the limit is %zu", where, name,
                            value.size_bytes, dst_bytes - 1);
    for (size_t i = 0; i < value.size_bytes; i++) {
        if (value.data[i] < ' ' || value.data[i] == 127)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s %s has a control character at byte %zu", where, name, i);
    }
    memcpy(dst, value.data, value.size_bytes);
    dst[value.size_bytes] = 0;
    return SP_OK;
}

static sp_status number_take(int64_t *dst, int64_t least, int64_t most, sp_view value, const char *where, const char *name,
                             sp_error *reterr)
{
    char text[24] = "", wanted[64], *end = text;
    (void)snprintf(wanted, sizeof(wanted), "a whole number from %lld to %lld", (long long)least, (long long)most);
    if (value.size_bytes && value.size_bytes < sizeof(text)) {
        memcpy(text, value.data, value.size_bytes);
        *dst = strtoll(text, &end, 10);
    }
    if (end == text || *end || isspace((unsigned char)*text) || *dst < least || *dst > most)
        return bad(value, where, name, wanted, reterr);
    return SP_OK;
}

static sp_status bool_take(bool *dst, sp_view value, const char *where, const char *name, sp_error *reterr)
{
    bool yes = sp_view_equals(value, "true") || sp_view_equals(value, "1");
    if (!yes && !sp_view_equals(value, "false") && !sp_view_equals(value, "0"))
        return bad(value, where, name, "true or false", reterr);
    *dst = yes;
    return SP_OK;
}

/* JSON on one line, so that it may stand in an event stream and is compared as text. */
static sp_status json_store(char *dst, size_t dst_bytes, const json_t *value, const char *name, sp_error *reterr)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %s", name);
    size_t n = strlen(text);
    sp_status s = SP_OK;
    if (n >= dst_bytes)
        s = SP_FAIL_CODE(reterr, SP_TOO_LARGE, "field_too_large", "%s has %zu bytes of JSON, the limit is %zu", name, n, dst_bytes - 1);
    else
        memcpy(dst, text, n + 1);
    free(text);
    return s;
}

/* --- parameters --------------------------------------------------------------------------------------------------- */

static bool listed(sp_view name, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (sp_view_equals(name, list[i]))
            return true;
    }
    return false;
}

static sp_status parameter_check(const char *name, sp_view value, const char *where, sp_error *reterr)
{
    gw_options unused = { 0 };
    char stream[sizeof(((sp_result *)NULL)->stream)];
    bool flag;
    if (strcmp(name, "stream") == 0)
        return text_take(stream, sizeof(stream), value, where, name, reterr);
    if (strcmp(name, "force_cpu") == 0)
        return bool_take(&flag, value, where, name, reterr);
    return gw_option_set(&unused, name, value, where, reterr);
}

static json_t *parameter_make(const char *name, sp_view value)
{
    char text[24] = "";
    if (strcmp(name, "force_cpu") == 0)
        return json_boolean(sp_view_equals(value, "true") || sp_view_equals(value, "1"));
    if (strcmp(name, "threshold") == 0 || strcmp(name, "iou") == 0) {
        float share = 0;
        (void)gw_share_read(value, &share); /* it was checked */
        return json_real((double)share);
    }
    if (strcmp(name, "top_k") != 0 && strcmp(name, "timeout_ms") != 0)
        return json_stringn((const char *)value.data, value.size_bytes);
    memcpy(text, value.data, SP_MIN(value.size_bytes, sizeof(text) - 1)); /* digits: it was checked */
    return json_integer(strtoll(text, NULL, 10));
}

static sp_status parameter_take(gw_submission *submission, const char *name, sp_view value, const char *where, sp_error *reterr)
{
    sp_status s = parameter_check(name, value, where, reterr);
    if (s)
        return s;
    if (json_object_set_new(submission->parameters, name, parameter_make(name, value)))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s %s is no valid UTF-8", where, name);
    return SP_OK;
}

/* Those that are not ours are kept for conditions (`parameter quality == high`). */
static sp_status parameters_parse(gw_submission *submission, const json_t *object, sp_error *reterr)
{
    const char *name;
    json_t *value;
    if (!json_is_object(object))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "parameters must be a JSON object");
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        char number[32];
        const char *text = json_string_value(value);
        if (json_is_integer(value)) {
            (void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
            text = number;
        } else if (json_is_real(value)) {
            (void)snprintf(number, sizeof(number), "%.9g", json_real_value(value));
            text = number;
        } else if (json_is_boolean(value)) {
            text = json_is_true(value) ? "true" : "false";
        }
        if (!text)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "parameters.%.40s must be a string, a number or a boolean", name);
        sp_status s = SP_OK;
        if (listed(sp_view_of(name), parameters, SP_ARRAY_LEN(parameters)))
            s = parameter_take(submission, name, sp_view_of(text), "parameters", reterr);
        else if (json_object_set(submission->parameters, name, value))
            s = SP_FAIL(reterr, SP_NOMEM, "no memory for the parameters");
        if (s)
            return s;
    }
    return SP_OK;
}

/* --- fields ------------------------------------------------------------------------------------------------------- */

sp_status gw_submission_init(gw_submission *submission, sp_error *reterr)
{
    *submission = (gw_submission){ .parameters = json_object() };
    return submission->parameters ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the job");
}

void gw_submission_done(gw_submission *submission)
{
    json_decref(submission->parameters);
    submission->parameters = NULL;
}

static sp_status json_field(gw_submission *submission, const char *name, const json_t *value, sp_error *reterr)
{
    sp_job *job = &submission->job;
    if (strcmp(name, "metadata") == 0)
        return json_store(job->metadata, sizeof(job->metadata), value, name, reterr);
    if (strcmp(name, "output") == 0)
        return json_store(job->output, sizeof(job->output), value, name, reterr);
    return parameters_parse(submission, value, reterr);
}

static sp_status wait_take(gw_submission *submission, const char *name, sp_view value, const char *where, sp_error *reterr)
{
    bool yes = false;
    if (strcmp(name, "wait") == 0)
        return number_take(&submission->wait_s, 0, GW_WAIT_MOST_S, value, where, name, reterr);
    sp_status s = bool_take(&yes, value, where, name, reterr);
    if (!s)
        submission->wait_s = !yes ? 0 : submission->wait_s ? submission->wait_s : GW_WAIT_DEFAULT_S;
    return s;
}

void gw_submission_prefer(gw_submission *submission, const char *prefer)
{
    const char *at = strstr(prefer, "wait");
    if (!at || strstr(prefer, "respond-async"))
        return;
    long seconds = at[4] == '=' ? strtol(at + 5, NULL, 10) : GW_WAIT_DEFAULT_S;
    submission->wait_s = SP_CLAMP(seconds, 0, GW_WAIT_MOST_S); /* a preference: never refused */
}

/* Of a video: kept as it came, with its type where it has one, and looked at by the task (gw_submission_check). Unknown ones are
 * left alone in a form, where strangers' fields may stand. */
static sp_status video_take(gw_submission *submission, const char *name, sp_view value, bool known, const char *where, sp_error *reterr)
{
    char text[64], single[160];
    sp_error err = { 0 };
    json_t *object, *json;
    if (!known && value.size_bytes >= sizeof(text))
        return SP_OK;
    (void)snprintf(text, sizeof(text), "%.*s", (int)SP_MIN(value.size_bytes, sizeof(text) - 1), (const char *)value.data);
    json = json_string(text);
    object = json_pack("{s:O?}", name, json);
    char *dumped = object ? json_dumps(object, JSON_COMPACT) : NULL;
    (void)snprintf(single, sizeof(single), "%s", dumped ? dumped : "{}");
    bool whole = dumped && strlen(dumped) < sizeof(single);
    free(dumped);
    json_decref(object);
    sp_status s = whole ? sp_runner_analysis_check(single, &err) : SP_OK;
    if (s && strcmp(err.code, "unknown_parameter") == 0 && !known) {
        json_decref(json);
        return SP_OK;
    }
    if (s) {
        json_decref(json);
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s %s", where, err.message);
    }
    if (!json || json_object_set_new(submission->parameters, name, json))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s %s is no valid UTF-8", where, name);
    return SP_OK;
}

static bool is_json_field(const char *name)
{
    return strcmp(name, "metadata") == 0 || strcmp(name, "output") == 0 || strcmp(name, "parameters") == 0;
}

static sp_status json_text_field(gw_submission *submission, const char *name, sp_view value, const char *where, sp_error *reterr)
{
    json_error_t at;
    json_t *json = json_loadb((const char *)value.data, value.size_bytes, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &at);
    if (!json)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_json", "%s %s is no JSON: %.120s at line %d, column %d", where, name, at.text,
                            at.line, at.column);
    sp_status s = json_field(submission, name, json, reterr);
    json_decref(json);
    return s;
}

sp_status gw_submission_set(gw_submission *submission, const char *name, sp_view value, const char *where, sp_error *reterr)
{
    sp_job *job = &submission->job;
    int64_t number = 0;
    if (is_json_field(name))
        return json_text_field(submission, name, value, where, reterr);
    if (strcmp(name, "priority") == 0) {
        sp_status s = number_take(&number, -PRIORITY_MOST, PRIORITY_MOST, value, where, name, reterr);
        job->priority = (int)number;
        return s;
    }
    if (strcmp(name, "ttl") == 0)
        return number_take(&submission->ttl_s, 1, TTL_MOST_S, value, where, name, reterr);
    if (strcmp(name, "local_only") == 0)
        return bool_take(&job->local_only, value, where, name, reterr);
    const struct {
        const char *name;
        char *dst;
        size_t dst_bytes;
    } texts[] = {
        { "task", job->task, sizeof(job->task) },
        { "url", job->url, sizeof(job->url) },
        { "client_id", job->client_id, sizeof(job->client_id) },
        { "webhook", job->webhook, sizeof(job->webhook) },
        { "idempotency_key", job->idempotency_key, sizeof(job->idempotency_key) },
    };
    if (listed(sp_view_of(name), waits, SP_ARRAY_LEN(waits)))
        return wait_take(submission, name, value, where, reterr);
    if (submission->video && strcmp(name, "video_url") == 0)
        return text_take(job->url, sizeof(job->url), value, where, name, reterr);
    for (size_t i = 0; i < SP_ARRAY_LEN(texts); i++) {
        if (strcmp(name, texts[i].name) == 0)
            return text_take(texts[i].dst, texts[i].dst_bytes, value, where, name, reterr);
    }
    if (listed(sp_view_of(name), parameters, SP_ARRAY_LEN(parameters)))
        return parameter_take(submission, name, value, where, reterr);
    if (submission->video)
        return video_take(submission, name, value, listed(sp_view_of(name), video_fields, SP_ARRAY_LEN(video_fields)) ||
                          strcmp(where, "query parameter") == 0, where, reterr);
    return SP_OK;
}

/* {"url": "..."} as well as {"url": {...}}: a member of the wrong type is told what it should be. */
static sp_status member_take(gw_submission *submission, const char *name, const json_t *value, sp_error *reterr)
{
    char number[32];
    const char *text = json_string_value(value);
    if (json_is_null(value))
        return SP_OK; /* the same as leaving it out */
    bool of_video = submission->video && listed(sp_view_of(name), video_fields, SP_ARRAY_LEN(video_fields));
    if (!of_video && !listed(sp_view_of(name), fields, SP_ARRAY_LEN(fields)) && !listed(sp_view_of(name), waits, SP_ARRAY_LEN(waits)))
        return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_field",
                            "unknown field \"%.40s\"; a job has %s, parameters, client_id, metadata, webhook, output, "
                            "priority, ttl, idempotency_key, local_only, sync and wait", name,
                            submission->video ? "video_url, chunks, overlay" : "task, url");
    if (is_json_field(name))
        return json_field(submission, name, value, reterr);
    bool wants_number = strcmp(name, "priority") == 0 || strcmp(name, "ttl") == 0 || strcmp(name, "wait") == 0 ||
                        strcmp(name, "chunks") == 0;
    bool wants_bool = strcmp(name, "local_only") == 0 || strcmp(name, "sync") == 0 || strcmp(name, "overlay") == 0;
    if (wants_number && json_is_integer(value)) {
        (void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
        text = number;
    } else if (wants_number) {
        text = NULL;
    } else if (wants_bool) {
        text = json_is_boolean(value) ? (json_is_true(value) ? "true" : "false") : NULL;
    }
    if (!text)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "field %s must be %s", name,
                            wants_number ? "a whole number" : wants_bool ? "true or false" : "a string");
    return gw_submission_set(submission, name, sp_view_of(text), "field", reterr);
}

sp_status gw_submission_parse(gw_submission *submission, sp_view json, sp_error *reterr)
{
    json_error_t at;
    const char *name;
    json_t *value;
    sp_status s = SP_OK;
    json_t *root = json_loadb((const char *)json.data, json.size_bytes, JSON_REJECT_DUPLICATES, &at);
    if (!root)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_json", "the body is no JSON: %.120s at line %d, column %d (byte %d)", at.text,
                            at.line, at.column, at.position);
    if (!json_is_object(root))
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_json", "the body must be a JSON object like {\"task\": \"classify\", \"url\": \"https://...\"}");
    json_object_foreach(root, name, value)
    {
        if (!s)
            s = member_take(submission, name, value, reterr);
    }
    json_decref(root);
    return s;
}

/* --- the whole ---------------------------------------------------------------------------------------------------- */

/* Time first (us, never the same twice in this process), so that ids sort in the order in which jobs came; then 64 bits
 * that nobody has to guess twice. */
static sp_status id_make(char ret_id[SP_LIMIT_JOB_ID_BYTES], sp_error *reterr)
{
    static int64_t last_us;
    uint64_t random;
    int64_t now_us = sp_clock_wall_ns() / SP_NS_PER_US;
    last_us = SP_MAX(now_us, last_us + 1);
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "no randomness for the job's id");
    (void)snprintf(ret_id, SP_LIMIT_JOB_ID_BYTES, "job-%013llx-%016llx", (unsigned long long)last_us, (unsigned long long)random);
    return SP_OK;
}

static sp_status task_check(const sp_job *job, sp_error *reterr)
{
    sp_task task = SP_TASK_CLASSIFY;
    char names[128];
    size_t used = 0;
    names[0] = 0;
    if (*job->task && sp_job_task_parse(job->task, &task))
        return SP_OK;
    for (int i = 0; i < SP_TASK_COUNT && used < sizeof(names); i++) {
        if (sp_job_task_parse(sp_task_name((sp_task)i), &task))
            used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", sp_task_name((sp_task)i));
    }
    if (!*job->task)
        return SP_FAIL_CODE(reterr, SP_INVALID, "no_task", "which task? Send ?task= or the field \"task\": %s", names);
    return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_task", "unknown task \"%.24s\"; this server has %s", job->task, names);
}

/* What leaves the machine needs somebody to carry it, and may not leave when the job is local. */
static sp_status remote_check(const gw_submission *submission, const gw_server *server, sp_error *reterr)
{
    const sp_job *job = &submission->job;
    const char *what = *job->url ? "url" : *job->webhook ? "webhook" : *job->output ? "output" : NULL;
    sp_status s = SP_OK;
    if (!what)
        return SP_OK;
    if (job->local_only)
        return SP_FAIL_CODE(reterr, SP_DENIED, "local_only",
                            "a local_only job takes no %s: nothing of it may leave this machine; send the bytes as the body and "
                            "ask for the result", what);
    if (*job->url)
        s = sp_url_check(job->url, sizeof(job->url), "url", reterr);
    if (!s && *job->webhook)
        s = sp_url_check(job->webhook, sizeof(job->webhook), "webhook", reterr);
    if (!s && *job->output) {
        sp_outputs *outputs = calloc(1, sizeof(*outputs));
        s = outputs ? sp_outputs_parse(job->output, &gw_config(server)->s3, outputs, reterr)
                    : SP_FAIL(reterr, SP_NOMEM, "no memory for the job");
        free(outputs);
    }
    if (!s && !sp_send_possible(server->house))
        s = SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_net_worker",
                         "%s needs a net worker and this server has none: start it with --workers ...,net0", what);
    return s;
}

sp_status gw_submission_check(gw_submission *submission, const gw_server *server, const gw_access *access, bool has_body,
                              sp_error *reterr)
{
    sp_job *job = &submission->job;
    int64_t now = sp_unix_ms();
    int64_t ttl_s = submission->ttl_s ? submission->ttl_s : gw_config(server)->jobs.ttl_s;
    if (submission->video && !*job->task)
        (void)snprintf(job->task, sizeof(job->task), "analyze");
    sp_status s = task_check(job, reterr);
    bool analyze = strcmp(job->task, "analyze") == 0;
    if (!s && submission->video && !analyze)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "a video is analysed (task \"analyze\"); for %.24s there is /v1/jobs", job->task);
    if (s)
        return s;
    job->local_only = job->local_only || access->local_only;
    if (has_body && *job->url)
        return SP_FAIL_CODE(reterr, SP_INVALID, "two_bodies", "the job has a body and a url; send one of them");
    if (!has_body && !*job->url)
        return SP_FAIL_CODE(reterr, SP_INVALID, "empty_body", "the job has neither a body nor a %s; send the %s, or say where it lies",
                            analyze ? "video_url" : "url", analyze ? "video" : "picture");
    s = remote_check(submission, server, reterr);
    if (!s && json_object_size(submission->parameters))
        s = json_store(job->parameters, sizeof(job->parameters), submission->parameters, "parameters", reterr);
    if (!s && analyze)
        s = sp_runner_analysis_check(job->parameters, reterr);
    if (!s)
        s = id_make(job->id, reterr);
    if (s)
        return s;
    (void)snprintf(job->tenant, sizeof(job->tenant), "%s", access->tenant);
    (void)snprintf(job->tier, sizeof(job->tier), "%s", access->tier);
    job->state = SP_JOB_QUEUED;
    job->created_unix_ms = now;
    job->expires_unix_ms = now + ttl_s * 1000;
    return SP_OK;
}
