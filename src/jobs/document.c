/* SPDX-License-Identifier: Apache-2.0
 * A job as JSON. Metadata and results were checked to be JSON when they came in, so they are copied as they are. */
#include "jobs/document.h"

#include "base/clock.h"
#include "base/event.h"

#include <stdio.h>
#include <time.h>

/* An event holds 1 KiB of JSON; the rest of it takes less than 500 bytes. */
#define EVENT_METADATA_BYTES 480

int64_t sp_unix_ms(void)
{
    return sp_clock_wall_ns() / SP_NS_PER_MS;
}

/* Not the house's own tasks, and not tensors, whose answers lie in a worker's memory. */
bool sp_job_task_parse(const char *text, sp_task *ret_task)
{
    static const struct {
        const char *name;
        sp_task task;
    } tasks[] = { { "noop", SP_TASK_NOOP }, { "classify", SP_TASK_CLASSIFY }, { "detect", SP_TASK_DETECT }, { "analyze", SP_TASK_ANALYZE } };
    for (size_t i = 0; i < SP_ARRAY_LEN(tasks); i++) {
        if (strcmp(text, tasks[i].name) == 0) {
            *ret_task = tasks[i].task;
            return true;
        }
    }
    return false;
}

void sp_time_text(int64_t unix_ms, char ret_text[SP_TIME_TEXT_BYTES])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm parts;
    char text[SP_TIME_TEXT_BYTES] = "";
    if (gmtime_r(&seconds, &parts))
        (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    (void)snprintf(ret_text, SP_TIME_TEXT_BYTES, "%.23s.%03dZ", text, (int)(unix_ms % 1000));
}

static void time_or_null(sp_buf *out, const char *key, int64_t unix_ms)
{
    char text[SP_TIME_TEXT_BYTES];
    if (unix_ms <= 0) {
        sp_buf_printf(out, ",\"%s\":null", key);
        return;
    }
    sp_time_text(unix_ms, text);
    sp_buf_printf(out, ",\"%s\":\"%s\"", key, text);
}

static void text_or_null(sp_buf *out, const char *key, const char *text)
{
    sp_buf_printf(out, ",\"%s\":", key);
    if (*text)
        sp_buf_append_json_text(out, text);
    else
        sp_buf_append_text(out, "null");
}

static void json_or_null(sp_buf *out, const char *key, sp_view json)
{
    while (json.size_bytes && (json.data[json.size_bytes - 1] == '\n' || json.data[json.size_bytes - 1] == ' '))
        json.size_bytes--;
    sp_buf_printf(out, ",\"%s\":", key);
    if (json.size_bytes)
        sp_buf_append(out, json.data, json.size_bytes);
    else
        sp_buf_append_text(out, "null");
}

static void webhook_write(sp_buf *out, const sp_job *job)
{
    if (!*job->webhook) {
        sp_buf_append_text(out, ",\"webhook\":null");
        return;
    }
    sp_buf_append_text(out, ",\"webhook\":{\"url\":");
    sp_buf_append_json_text(out, job->webhook);
    bool finished = job->state >= SP_JOB_DONE;
    sp_buf_printf(out, ",\"pending\":%s,\"tries\":%d", job->webhook_pending ? "true" : "false", job->webhook_tries);
    if (finished && job->webhook_pending)
        time_or_null(out, "next_try_at", job->webhook_at_unix_ms);
    sp_buf_append_text(out, "}");
}

void sp_job_write(sp_buf *out, const sp_job *job, const sp_view *result, const char *event)
{
    const sp_view none = { 0 };
    sp_buf_append_text(out, "{");
    if (event)
        sp_buf_printf(out, "\"event\":\"%s\",\"event_id\":\"%s\",", event, job->id);
    sp_buf_printf(out, "\"id\":\"%s\",\"task\":\"%s\",\"status\":\"%s\"", job->id, job->task,
                  sp_job_state_name(job->state));
    text_or_null(out, "client_id", job->client_id);
    json_or_null(out, "metadata", sp_view_of(job->metadata));
    sp_buf_printf(out, ",\"attempts\":%d,\"progress\":%d,\"priority\":%d,\"local_only\":%s", job->tries,
                  job->state == SP_JOB_DONE ? 100 : job->progress_percent, job->priority,
                  job->local_only ? "true" : "false");
    text_or_null(out, "url", job->url);
    json_or_null(out, "parameters", sp_view_of(job->parameters));
    time_or_null(out, "created_at", job->created_unix_ms);
    time_or_null(out, "started_at", job->started_unix_ms);
    time_or_null(out, "finished_at", job->finished_unix_ms);
    time_or_null(out, "expires_at", job->expires_unix_ms);
    if (!event)
        webhook_write(out, job);
    if (result) {
        json_or_null(out, "result", job->state == SP_JOB_DONE ? *result : none);
        json_or_null(out, "error", job->state == SP_JOB_FAILED ? *result : none);
    }
    sp_buf_append_text(out, "}");
}

void sp_job_emit(const sp_job *job, const char *kind)
{
    sp_job_emit_more(job, kind, "");
}

void sp_job_emit_more(const sp_job *job, const char *kind, const char *more)
{
    char topic[80];
    sp_buf data;
    (void)snprintf(topic, sizeof(topic), "job/%s", job->id);
    sp_buf_init(&data, 4096);
    sp_buf_printf(&data, "{\"id\":\"%s\",\"task\":\"%s\",\"status\":\"%s\",\"progress\":%d,\"attempts\":%d", job->id,
                  job->task, sp_job_state_name(job->state), job->state == SP_JOB_DONE ? 100 : job->progress_percent,
                  job->tries);
    sp_buf_append_text(&data, more);
    text_or_null(&data, "client_id", job->client_id);
    if (strlen(job->metadata) + strlen(more) > EVENT_METADATA_BYTES)
        sp_buf_append_text(&data, ",\"metadata\":null,\"metadata_cut\":true}");
    else {
        json_or_null(&data, "metadata", sp_view_of(job->metadata));
        sp_buf_append_text(&data, "}");
    }
    if (sp_buf_ok(&data)) /* without memory an event is missed; the job itself is not */
        sp_event_emit(kind, topic, job->tenant, "%.*s", (int)data.size_bytes, (const char *)data.data);
    sp_buf_done(&data);
}

void sp_job_error_write(sp_buf *out, const sp_error *err, const sp_attempt *attempts, int attempt_count)
{
    sp_buf_append_text(out, "{\"error\":");
    sp_buf_append_json_text(out, *err->message ? err->message : sp_status_name(err->status));
    sp_buf_append_text(out, ",\"code\":");
    sp_buf_append_json_text(out, *err->code ? err->code : sp_status_name(err->status));
    sp_buf_printf(out, ",\"status\":\"%s\",\"attempts\":[", sp_status_name(err->status));
    for (int i = 0; i < attempt_count; i++) {
        sp_buf_append_text(out, i ? ",{\"link\":" : "{\"link\":");
        sp_buf_append_json_text(out, attempts[i].link);
        sp_buf_printf(out, ",\"status\":\"%s\",\"reason\":", sp_status_name(attempts[i].status));
        sp_buf_append_json_text(out, attempts[i].reason);
        sp_buf_append_text(out, "}");
    }
    sp_buf_append_text(out, "]}");
}

void sp_result_take_answer(sp_result *result, const sp_answer *answer)
{
    size_t used = 0;
    (void)snprintf(result->provider, sizeof(result->provider), "%s", answer->link);
    for (int i = 0; i < answer->attempt_count; i++)
        result->fallback = result->fallback || answer->attempts[i].status;
    result->unix_ms = sp_unix_ms();
    result->duration_ns = answer->total_ns;
    result->device_ns = answer->device_ns;
    result->microdollars = answer->microdollars;
    for (uint32_t i = 0; answer->classes && i < answer->classes->count && used < sizeof(result->text); i++) {
        int n = snprintf(result->text + used, sizeof(result->text) - used, "%s%s", used ? ", " : "",
                         answer->classes->classes[i].label);
        used += n > 0 ? (size_t)n : 0;
    }
}
