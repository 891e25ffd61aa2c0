/* SPDX-License-Identifier: Apache-2.0
 * /v1/results and /v1/costs: what was answered and what it cost. The store keeps the documents (store/results.h). */
#include "gateway/flight.h"
#include "gateway/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RESULT_JSON_BYTES (16u * 1024 * 1024)
#define DAY_MS (86400 * INT64_C(1000))

static bool ready(gw_conn *conn, bool by_id)
{
    sp_error err = { 0 };
    const gw_jobs *jobs = conn->server->jobs;
    if (!jobs->results) {
        (void)SP_FAIL_CODE(&err, SP_UNAVAILABLE, "store_down", "there is no result store: %s", jobs->results_why);
        gw_conn_fail(conn, 503, &err, GW_STORE_RETRY_S);
        return false;
    }
    if (by_id && !gw_id_good(conn->params[0])) {
        (void)SP_FAIL_CODE(&err, SP_NOT_FOUND, "no_such_result", "there is no result %.60s", conn->params[0]);
        gw_conn_fail(conn, 404, &err, 0);
        return false;
    }
    return true;
}

/* A date (2026-11-21), a time (2026-11-21T10:00:00Z) or milliseconds since 1970; `end_of_day` for a date that is the end
 * of a range. */
static sp_status time_read(const gw_conn *conn, const char *name, bool end_of_day, int64_t *ret_unix_ms, sp_error *reterr)
{
    const char *text = gw_query(conn, name), *end = NULL;
    char *digits_end = NULL;
    struct tm parts = { 0 };
    *ret_unix_ms = 0;
    if (!text || !*text)
        return SP_OK;
    long long number = strtoll(text, &digits_end, 10);
    if (!*digits_end && number > 0) {
        *ret_unix_ms = number;
        return SP_OK;
    }
    end = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
    bool date = !end;
    if (date) {
        parts = (struct tm){ 0 };
        end = strptime(text, "%Y-%m-%d", &parts);
    }
    if (end && !date && *end == '.')
        end += 1 + strspn(end + 1, "0123456789");
    if (!end || (*end && strcmp(end, "Z") != 0))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter",
                            "query parameter %s must be a date (2026-11-21), a UTC time (2026-11-21T10:00:00Z) or milliseconds "
                            "since 1970, not \"%.40s\"", name, text);
    *ret_unix_ms = (int64_t)timegm(&parts) * 1000 + (date && end_of_day ? DAY_MS : 0);
    return SP_OK;
}

static sp_status filter_fill(const gw_conn *conn, sp_result_filter *ret_filter, sp_error *reterr)
{
    const char *fallback = gw_query(conn, "fallback");
    sp_status s = time_read(conn, "from", false, &ret_filter->from_unix_ms, reterr);
    if (!s)
        s = time_read(conn, "to", true, &ret_filter->to_unix_ms, reterr);
    if (!s)
        s = gw_page_limit(conn, &ret_filter->limit, reterr);
    if (!s && fallback && strcmp(fallback, "true") != 0 && strcmp(fallback, "false") != 0)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "query parameter fallback must be true or false, not \"%.20s\"", fallback);
    ret_filter->fallback = fallback ? strcmp(fallback, "true") == 0 : -1;
    return s;
}

static const char *word(const gw_conn *conn, const char *name)
{
    const char *text = gw_query(conn, name);
    return text ? text : "";
}

static void queried(const sp_results_reply *reply, void *context)
{
    gw_conn *conn = gw_call_reply(context, reply->status, reply->error);
    sp_buf json;
    if (!conn)
        return;
    sp_buf_init(&json, RESULT_JSON_BYTES);
    sp_buf_append_text(&json, "{\"results\":");
    if (reply->json.size_bytes)
        sp_buf_append(&json, reply->json.data, reply->json.size_bytes);
    else
        sp_buf_append_text(&json, "[]");
    gw_cursor_write(&json, reply->cursor);
    sp_buf_append_text(&json, "}\n");
    gw_call_answer(conn, &json);
}

void gw_results_list(gw_conn *conn)
{
    sp_error err = { 0 };
    sp_result_filter filter = {
        .tenant = gw_tenant(conn),
        .task = word(conn, "task"),
        .stream = word(conn, "stream"),
        .provider = word(conn, "provider"),
        .text = word(conn, "text"),
        .cursor = word(conn, "cursor"),
    };
    if (!ready(conn, false))
        return;
    sp_status s = filter_fill(conn, &filter, &err);
    if (s) {
        gw_conn_fail_status(conn, s, &err, 0);
        return;
    }
    gw_call *call = gw_call_begin(conn);
    if (call)
        sp_results_query(conn->server->jobs->results, &filter, queried, call);
}

static void got(const sp_results_reply *reply, void *context)
{
    gw_conn *conn = gw_call_reply(context, reply->status, reply->error);
    sp_buf json;
    if (!conn)
        return;
    sp_buf_init(&json, RESULT_JSON_BYTES);
    sp_buf_append(&json, reply->json.data, reply->json.size_bytes);
    gw_call_answer(conn, &json);
}

void gw_results_get(gw_conn *conn)
{
    gw_call *call = ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call)
        sp_results_get(conn->server->jobs->results, gw_tenant(conn), conn->params[0], got, call);
}

/* --- erasing: the result, then the job that made it with its body, and the cached answer -------------------------- */

static void erased_write(gw_conn *conn)
{
    sp_buf json;
    sp_buf_init(&json, 256);
    sp_buf_append_text(&json, "{\"id\":");
    sp_buf_append_json_text(&json, conn->params[0]);
    sp_buf_append_text(&json, ",\"status\":\"erased\"}\n");
    gw_call_answer(conn, &json);
}

static void job_erased(const sp_job_reply *reply, void *context)
{
    gw_conn *conn = gw_call_end(context);
    if (!conn)
        return;
    if (reply->status && reply->status != SP_NOT_FOUND) /* the result of a plain request has no job */
        gw_call_fail(conn, reply->status, reply->error);
    else
        erased_write(conn);
}

static void erased(const sp_results_reply *reply, void *context)
{
    gw_call *call = context;
    gw_conn *conn = call->conn;
    bool is_job = conn && call->jobs->store && strlen(conn->params[0]) < SP_LIMIT_JOB_ID_BYTES;
    if (!reply->status && *reply->cache_key)
        gw_flight_erase(call->jobs->server, reply->cache_key);
    if (!reply->status && is_job) {
        sp_jobs_delete(call->jobs->store, gw_tenant(conn), conn->params[0], job_erased, call);
        return;
    }
    (void)gw_call_end(call);
    if (!conn)
        return;
    if (reply->status)
        gw_call_fail(conn, reply->status, reply->error);
    else
        erased_write(conn);
}

void gw_results_delete(gw_conn *conn)
{
    gw_call *call = ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call)
        sp_results_erase(conn->server->jobs->results, gw_tenant(conn), conn->params[0], erased, call);
}

/* --- costs -------------------------------------------------------------------------------------------------------- */

static void costed(const sp_results_reply *reply, void *context)
{
    gw_conn *conn = gw_call_reply(context, reply->status, reply->error);
    sp_buf json;
    if (!conn)
        return;
    sp_buf_init(&json, RESULT_JSON_BYTES);
    sp_buf_append_text(&json, "{\"costs\":");
    if (reply->json.size_bytes)
        sp_buf_append(&json, reply->json.data, reply->json.size_bytes);
    else
        sp_buf_append_text(&json, "[]");
    sp_buf_append_text(&json, "}\n");
    gw_call_answer(conn, &json);
}

void gw_costs(gw_conn *conn)
{
    sp_error err = { 0 };
    int64_t from = 0, to = 0;
    if (!ready(conn, false))
        return;
    sp_status s = time_read(conn, "from", false, &from, &err);
    if (!s)
        s = time_read(conn, "to", true, &to, &err);
    if (s) {
        gw_conn_fail_status(conn, s, &err, 0);
        return;
    }
    gw_call *call = gw_call_begin(conn);
    if (call)
        sp_results_costs(conn->server->jobs->results, gw_tenant(conn), from, to, costed, call);
}

/* --- plain requests ----------------------------------------------------------------------------------------------- */

void gw_results_take(gw_conn *conn, const sp_answer *answer, sp_view json)
{
    const gw_server *server = conn->server;
    const char *stream = gw_query(conn, "stream"), *client = gw_query(conn, "client_id");
    if (!server->jobs || !server->jobs->results || !gw_config(server)->results.all)
        return;
    sp_result result = { 0 };
    (void)snprintf(result.id, sizeof(result.id), "%.47s", conn->request_id);
    (void)snprintf(result.tenant, sizeof(result.tenant), "%s", conn->access.tenant);
    (void)snprintf(result.tier, sizeof(result.tier), "%s", conn->access.tier);
    (void)snprintf(result.task, sizeof(result.task), "%s", sp_task_name(conn->options.task));
    (void)snprintf(result.stream, sizeof(result.stream), "%s", stream ? stream : "");
    (void)snprintf(result.client_id, sizeof(result.client_id), "%s", client ? client : "");
    sp_result_take_answer(&result, answer);
    gw_flight_key(conn, result.cache_key);
    sp_results_put(server->jobs->results, &result, json);
}
