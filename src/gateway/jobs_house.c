/* SPDX-License-Identifier: Apache-2.0
 * Stores and runner of this server: opened after the house, closed before it. */
#include "gateway/jobs.h"
#include "store/upload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a job's result is: the same JSON that POST /infer gives. The no-op's answer is bytes, which JSON cannot hold: its
 * length stands for them. */
static void answer_write(sp_buf *out, sp_task task, const char *request_id, const sp_answer *answer)
{
    if (task != SP_TASK_NOOP) {
        gw_answer_write(out, request_id, answer);
        return;
    }
    gw_who who = gw_who_of(answer);
    sp_buf_append_text(out, "{\"request_id\":");
    sp_buf_append_json_text(out, request_id);
    sp_buf_append_text(out, ",");
    gw_who_write(out, &who);
    sp_buf_printf(out, ",\"payload_bytes\":%zu}", answer->payload.size_bytes);
}

static const sp_config *settings_now(void *context)
{
    return gw_config(context);
}

static sp_status find_model(void *context, const char *name, sp_served_model *ret_model, sp_error *reterr)
{
    return gw_detect_model(context, name, false, ret_model, reterr);
}

/* Names this process among those that share a store. */
static void owner_make(const gw_server *server, char *ret_owner, size_t size_bytes)
{
    char host[40] = "";
    if (gethostname(host, sizeof(host) - 1))
        host[0] = 0;
    (void)snprintf(ret_owner, size_bytes, "%.20s-%d-%08x", host, (int)getpid(), (unsigned)server->id_state[0]);
}

/* Says it once, not every few seconds. */
static void not_open(char why[256], const char *what, const sp_error *err)
{
    if (strcmp(why, err->message) != 0)
        sp_log_error(what, "", err);
    (void)snprintf(why, 256, "%s", err->message);
}

static void jobs_open(gw_jobs *jobs, const sp_config *config)
{
    sp_error err = { 0 };
    char owner[64];
    owner_make(jobs->server, owner, sizeof(owner));
    if (sp_jobs_open(jobs->server->loop, &config->jobs, config->data_dir, owner, &jobs->store, &jobs->durability, &err))
        not_open(jobs->why, "no job store: /v1/jobs answers 503", &err);
}

static void results_open(gw_jobs *jobs, const sp_config *config)
{
    sp_error err = { 0 };
    if (sp_results_open(jobs->server->loop, &config->results, config->data_dir, &jobs->results, &err))
        not_open(jobs->results_why, "no result store: /v1/results answers 503", &err);
}

/* The runner comes with the job store. A result store that comes later than it is for /v1/results only. */
static sp_status open_what_is_missing(gw_jobs *jobs, sp_error *reterr)
{
    gw_server *server = jobs->server;
    const sp_config *config = gw_config(server);
    if (!jobs->results)
        results_open(jobs, config);
    if (!jobs->store)
        jobs_open(jobs, config);
    if ((!jobs->store || !jobs->results) && !server->draining)
        (void)sp_loop_timer_set(server->loop, &jobs->reopen, sp_loop_now_ns(server->loop) + GW_STORE_REOPEN_MS * SP_NS_PER_MS, NULL);
    if (!jobs->store || jobs->runner)
        return SP_OK;
    const sp_runner_config runner = {
        .loop = server->loop,
        .house = server->house,
        .jobs = jobs->store,
        .results = jobs->results,
        .settings = settings_now,
        .settings_context = server,
        .find_model = find_model,
        .answer_write = answer_write,
    };
    return sp_runner_new(&runner, &jobs->runner, reterr);
}

static void reopen_fire(sp_timer *timer, void *context)
{
    (void)timer;
    gw_jobs *jobs = context;
    sp_error err = { 0 };
    bool had = jobs->store != NULL;
    if (open_what_is_missing(jobs, &err))
        sp_jobs_close(SP_STEAL(jobs->store)); /* no memory for the runner: next time */
    else if (!had && jobs->store)
        sp_log(SP_LOG_INFO, "job store opened");
}

sp_status gw_jobs_open(gw_server *server, sp_error *reterr)
{
    gw_jobs *jobs = calloc(1, sizeof(*jobs));
    if (!jobs)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the jobs");
    server->jobs = jobs;
    jobs->server = server;
    jobs->reopen = (sp_timer){ .fire = reopen_fire, .context = jobs };
    return open_what_is_missing(jobs, reterr);
}

void gw_jobs_drain(gw_server *server)
{
    if (!server->jobs || !server->jobs->runner)
        return;
    int64_t grace_ns = GW_JOBS_DRAIN_MS * SP_NS_PER_MS;
    sp_runner_drain(server->jobs->runner, grace_ns);
    if (gw_jobs_busy(server)) /* so that the drain waits as long for them */
        server->longest_deadline_ns = SP_MAX(server->longest_deadline_ns, sp_loop_now_ns(server->loop) + grace_ns);
}

int gw_jobs_busy(const gw_server *server)
{
    return server->jobs && server->jobs->runner ? sp_runner_busy(server->jobs->runner) : 0;
}

/* In this order: what is in the house is cancelled, results that jobs wait for are written, the jobs' last calls are
 * answered; only then is there nobody left who could be called. */
void gw_jobs_close(gw_server *server)
{
    gw_jobs *jobs = SP_STEAL(server->jobs);
    if (!jobs)
        return;
    sp_loop_timer_clear(jobs->server->loop, &jobs->reopen);
    sp_store_thread_free(SP_STEAL(jobs->hasher)); /* what it hands on goes to the store below */
    sp_runner_stop(jobs->runner);
    sp_results_close(jobs->results);
    sp_uploads_close(jobs->uploads);
    sp_jobs_close(jobs->store);
    gw_jobs_watch_end(jobs);
    sp_runner_free(jobs->runner);
    free(jobs);
}

/* --- calls -------------------------------------------------------------------------------------------------------- */

static void call_drop(gw_conn *conn)
{
    gw_call *call = SP_STEAL(conn->state);
    call->conn = NULL;
}

gw_call *gw_call_begin(gw_conn *conn)
{
    gw_call *call = calloc(1, sizeof(*call));
    if (!call) {
        sp_error err = { 0 };
        sp_status s = SP_FAIL(&err, SP_NOMEM, "no memory for the request");
        gw_conn_fail_status(conn, s, &err, 1);
        return NULL;
    }
    call->conn = conn;
    call->jobs = conn->server->jobs;
    call->begun_unix_ms = sp_unix_ms();
    conn->state = call;
    conn->drop = call_drop;
    gw_conn_wait(conn);
    return call;
}

gw_conn *gw_call_end(gw_call *call)
{
    gw_conn *conn = call->conn;
    free(call);
    if (conn) {
        conn->state = NULL;
        conn->drop = NULL;
    }
    return conn;
}

/* A store that is down is nobody's fault but ours, and it comes back. */
void gw_call_fail(gw_conn *conn, sp_status status, const sp_error *err)
{
    sp_error told = *err;
    told.status = status;
    int http_status = gw_http_status(status, &told);
    if (http_status >= 500 && status != SP_UNSUPPORTED) {
        http_status = 503;
        if (!*told.code)
            (void)snprintf(told.code, sizeof(told.code), "store_down");
    }
    gw_log_failure(conn, http_status, &told);
    gw_reply_problem(conn, http_status, &told, http_status == 503 || http_status == 429 ? GW_STORE_RETRY_S : 0, NULL);
    gw_conn_answered(conn);
}

gw_conn *gw_call_reply(gw_call *call, sp_status status, const sp_error *err)
{
    gw_conn *conn = gw_call_end(call);
    if (!conn || !status)
        return conn;
    gw_call_fail(conn, status, err);
    return NULL;
}

void gw_call_answer(gw_conn *conn, sp_buf *json)
{
    gw_reply_json(conn, 200, json, NULL);
    gw_conn_answered(conn);
}

void gw_cursor_write(sp_buf *json, const char *cursor)
{
    sp_buf_append_text(json, ",\"cursor\":");
    if (cursor && *cursor)
        sp_buf_append_json_text(json, cursor);
    else
        sp_buf_append_text(json, "null");
}

const char *gw_tenant(const gw_conn *conn)
{
    return conn->access.scopes & SP_SCOPE_ADMIN ? NULL : conn->access.tenant;
}

sp_status gw_page_limit(const gw_conn *conn, int *ret_limit, sp_error *reterr)
{
    const char *text = gw_query(conn, "limit");
    char *end = NULL;
    *ret_limit = GW_PAGE_DEFAULT;
    if (!text)
        return SP_OK;
    long limit = strtol(text, &end, 10);
    if (!*text || *end || limit < 1 || limit > GW_PAGE_MOST)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "query parameter limit must be a number from 1 to %d, not \"%.20s\"",
                            GW_PAGE_MOST, text);
    *ret_limit = (int)limit;
    return SP_OK;
}

bool gw_id_good(const char *id)
{
    size_t n = strlen(id);
    return n && n < sizeof(((sp_result *)NULL)->id) &&
           strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=@") == n;
}
