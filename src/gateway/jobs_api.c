/* SPDX-License-Identifier: Apache-2.0
 * /v1/jobs: looking at jobs, deleting them, following them. How they are handed in: jobs_take.c. */
#include "gateway/events.h"
#include "gateway/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define FINAL_KINDS "job.done,job.failed,job.cancelled"

/* --- looking ------------------------------------------------------------------------------------------------------ */

static void no_such_job(gw_conn *conn)
{
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_NOT_FOUND, "no_such_job", "there is no job %.60s", conn->params[0]);
    gw_conn_fail(conn, 404, &err, 0);
}

/* Later than a handler's run. */
void gw_jobs_none(gw_conn *conn)
{
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_NOT_FOUND, "no_such_job", "there is no job %.60s", conn->params[0]);
    gw_call_fail(conn, SP_NOT_FOUND, &err);
}

/* Under /v1/videos/analyses only analyses are seen. */
static bool is_video_route(const gw_conn *conn)
{
    return strncmp(conn->route->path, "/v1/videos/", 11) == 0;
}

static bool hidden(const gw_conn *conn, const sp_job *job)
{
    return is_video_route(conn) && strcmp(job->task, "analyze") != 0;
}

bool gw_jobs_ready(gw_conn *conn, bool by_id)
{
    sp_error err = { 0 };
    const gw_jobs *jobs = conn->server->jobs;
    if (!jobs->store) {
        (void)SP_FAIL_CODE(&err, SP_UNAVAILABLE, "store_down", "there is no job store: %s", jobs->why);
        gw_conn_fail(conn, 503, &err, GW_STORE_RETRY_S);
        return false;
    }
    if (by_id && (!gw_id_good(conn->params[0]) || strlen(conn->params[0]) >= SP_LIMIT_JOB_ID_BYTES)) {
        no_such_job(conn);
        return false;
    }
    return true;
}

/* The store knows a running job's progress of its last renewal; here we know it of now. */
static sp_job job_now(const gw_jobs *jobs, const sp_job *stored)
{
    sp_job job = *stored;
    if (job.state == SP_JOB_RUNNING)
        (void)sp_runner_progress(jobs->runner, job.id, &job.progress_percent);
    return job;
}

void gw_jobs_write(gw_jobs *jobs, const sp_job *stored, const sp_view *result, sp_buf *out)
{
    sp_job job = job_now(jobs, stored);
    sp_job_write(out, &job, result, NULL);
    if (job.state != SP_JOB_RUNNING || !out->size_bytes)
        return;
    out->size_bytes--; /* its last brace */
    sp_runner_analysis_write(jobs->runner, job.id, out);
    sp_buf_append_text(out, "}");
}

static void got(const sp_job_reply *reply, void *context)
{
    sp_status s = !reply->status && !reply->count ? SP_NOT_FOUND : reply->status;
    gw_conn *conn = gw_call_reply(context, s, reply->error);
    sp_buf json;
    if (!conn)
        return;
    if (hidden(conn, &reply->jobs[0])) {
        gw_jobs_none(conn);
        return;
    }
    sp_buf_init(&json, GW_JOB_JSON_BYTES);
    gw_jobs_write(conn->server->jobs, &reply->jobs[0], &reply->result, &json);
    sp_buf_append_text(&json, "\n");
    gw_call_answer(conn, &json);
}

void gw_jobs_get(gw_conn *conn)
{
    gw_call *call = gw_jobs_ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call)
        sp_jobs_get(conn->server->jobs->store, gw_tenant(conn), conn->params[0], got, call);
}

static void listed(const sp_job_reply *reply, void *context)
{
    gw_conn *conn = gw_call_reply(context, reply->status, reply->error);
    sp_buf json;
    if (!conn)
        return;
    sp_buf_init(&json, GW_PAGE_MOST * (sizeof(sp_job) + 1024));
    sp_buf_append_text(&json, "{\"jobs\":[");
    for (int i = 0; i < reply->count; i++) {
        sp_job job = job_now(conn->server->jobs, &reply->jobs[i]);
        sp_buf_append_text(&json, i ? "," : "");
        sp_job_write(&json, &job, NULL, NULL);
    }
    sp_buf_append_text(&json, "]");
    gw_cursor_write(&json, reply->cursor);
    sp_buf_append_text(&json, "}\n");
    gw_call_answer(conn, &json);
}

static sp_status state_read(const char *text, int *ret_state, sp_error *reterr)
{
    *ret_state = -1;
    if (!text || !*text)
        return SP_OK;
    for (int i = SP_JOB_QUEUED; i <= SP_JOB_CANCELLED; i++) {
        if (strcmp(text, sp_job_state_name((sp_job_state)i)) == 0)
            *ret_state = i;
    }
    if (*ret_state < 0)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter",
                            "query parameter status must be queued, running, done, failed or cancelled, not \"%.20s\"", text);
    return SP_OK;
}

void gw_jobs_list(gw_conn *conn)
{
    const char *task = is_video_route(conn) ? "analyze" : gw_query(conn, "task"), *cursor = gw_query(conn, "cursor");
    sp_error err = { 0 };
    int state = -1, limit = 0;
    if (!gw_jobs_ready(conn, false))
        return;
    sp_status s = state_read(gw_query(conn, "status"), &state, &err);
    if (!s)
        s = gw_page_limit(conn, &limit, &err);
    if (!s && cursor && *cursor && (!gw_id_good(cursor) || strlen(cursor) >= SP_LIMIT_JOB_ID_BYTES))
        s = SP_FAIL_CODE(&err, SP_INVALID, "bad_parameter", "query parameter cursor is none that this server gave");
    if (s) {
        gw_conn_fail_status(conn, s, &err, 0);
        return;
    }
    gw_call *call = gw_call_begin(conn);
    if (call)
        sp_jobs_list(conn->server->jobs->store, gw_tenant(conn), state, task ? task : "", cursor ? cursor : "", limit, listed, call);
}

/* What is not there need not be erased; what cannot be now goes with its retention. */
static void result_erased(const sp_results_reply *reply, void *context)
{
    (void)reply;
    (void)context;
}

/* --- deleting ----------------------------------------------------------------------------------------------------- */

static void deleted(const sp_job_reply *reply, void *context)
{
    gw_call *call = context;
    gw_jobs *jobs = call->jobs;
    int64_t asked_unix_ms = call->begun_unix_ms;
    gw_conn *conn = gw_call_end(call);
    if (reply->status || !reply->count) {
        if (conn)
            gw_call_fail(conn, reply->status ? reply->status : SP_NOT_FOUND, reply->error);
        return;
    }
    const sp_job *job = &reply->jobs[0];
    bool cancelled = job->state == SP_JOB_CANCELLED && job->finished_unix_ms >= asked_unix_ms;
    if (cancelled) {
        (void)sp_runner_cancel(jobs->runner, job->id);
        sp_job_emit(job, "job.cancelled");
        gw_jobs_watch_told(jobs, job);
    } else if (jobs->results) {
        sp_results_erase(jobs->results, job->tenant, job->id, result_erased, NULL);
    }
    if (!conn)
        return;
    sp_buf json;
    sp_buf_init(&json, 256);
    sp_buf_printf(&json, "{\"id\":\"%s\",\"status\":\"%s\"}\n", job->id, cancelled ? "cancelled" : "erased");
    gw_call_answer(conn, &json);
}

/* By the way of the videos: only if it is one. */
static void delete_if_seen(const sp_job_reply *reply, void *context)
{
    gw_call *call = context;
    gw_conn *conn = call->conn;
    if (conn && !reply->status && reply->count && !hidden(conn, &reply->jobs[0])) {
        sp_jobs_delete(call->jobs->store, gw_tenant(conn), conn->params[0], deleted, call);
        return;
    }
    conn = gw_call_end(call);
    if (conn && reply->status && reply->status != SP_NOT_FOUND)
        gw_call_fail(conn, reply->status, reply->error);
    else if (conn)
        gw_jobs_none(conn);
}

void gw_jobs_delete(gw_conn *conn)
{
    gw_call *call = gw_jobs_ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call && is_video_route(conn))
        sp_jobs_get(conn->server->jobs->store, gw_tenant(conn), conn->params[0], delete_if_seen, call);
    else if (call)
        sp_jobs_delete(conn->server->jobs->store, gw_tenant(conn), conn->params[0], deleted, call);
}

/* --- following ---------------------------------------------------------------------------------------------------- */

/* The job as it is now comes first, so that nobody has to ask again for what happened before. */
static void follow(const sp_job_reply *reply, void *context)
{
    static const char *const kinds[] = { "job.queued", "job.running", "job.done", "job.failed", "job.cancelled" };
    gw_conn *conn = gw_call_end(context);
    char topic[80];
    sp_buf json;
    if (!conn)
        return;
    if (reply->status || !reply->count) {
        gw_call_fail(conn, reply->status ? reply->status : SP_NOT_FOUND, reply->error);
        return;
    }
    if (hidden(conn, &reply->jobs[0])) {
        gw_jobs_none(conn);
        return;
    }
    sp_job job = job_now(conn->server->jobs, &reply->jobs[0]);
    (void)snprintf(topic, sizeof(topic), "job/%s", job.id);
    sp_buf_init(&json, GW_JOB_JSON_BYTES);
    sp_job_write(&json, &job, NULL, NULL);
    char *text = sp_buf_take(&json, NULL);
    const gw_follow what = {
        .topics = topic,
        .kinds = "job.*",
        .until = FINAL_KINDS,
        .first_kind = kinds[job.state],
        .first_data = text,
        .granted = true,
        .ended = job.state >= SP_JOB_DONE,
    };
    gw_events_follow(conn, &what);
    gw_jobs_watch(conn->server->jobs, &job);
    if (conn->error_status) /* too many streams, no memory */
        gw_reply_problem(conn, conn->error_status, &conn->error, conn->retry_after_s, NULL);
    gw_conn_answered(conn);
    free(text);
}

void gw_jobs_events(gw_conn *conn)
{
    gw_call *call = gw_jobs_ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call)
        sp_jobs_get(conn->server->jobs->store, gw_tenant(conn), conn->params[0], follow, call);
}
