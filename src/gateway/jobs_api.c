/* SPDX-License-Identifier: Apache-2.0
 * /v1/jobs: handing jobs in, looking at them, deleting them, following them. Handing in: the body is collected in memory
 * of ours (no slot of the house is held), its fields are read, and 202 is said when the store has said that job and body
 * are durable, not before. */
#include "gateway/events.h"
#include "gateway/jobs.h"
#include "gateway/multipart.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define JOB_JSON_LIMIT_BYTES (SP_LIMIT_JOB_RESULT_BYTES + 65536)
#define HASHER_QUEUE 256
#define FINAL_KINDS "job.done,job.failed,job.cancelled"

/* One job on its way in. Outlives its connection while a thread or the store works for it. */
typedef struct handing_in {
    sp_store_work hash; /* first */
    gw_conn *conn;      /* NULL = the client is gone */
    gw_jobs *jobs;
    gw_submission submission;
    sp_buf body;        /* as it came */
    size_t counted;     /* of jobs->body_bytes */
    sp_view payload;    /* the picture inside it */
    bool collecting, away; /* away: a callback is to come */
} handing_in;

static void handing_in_free(handing_in *h)
{
    h->jobs->body_bytes -= h->counted;
    gw_submission_done(&h->submission);
    sp_buf_done(&h->body);
    free(h);
}

static void handing_in_drop(gw_conn *conn)
{
    handing_in *h = SP_STEAL(conn->state);
    h->conn = NULL;
    if (!h->away)
        handing_in_free(h);
}

/* The connection that still waits for it, after which `h` is gone. NULL: nobody does. */
static gw_conn *handing_in_end(handing_in *h)
{
    gw_conn *conn = h->conn;
    if (conn) {
        conn->state = NULL;
        conn->drop = NULL;
    }
    handing_in_free(h);
    return conn;
}

/* --- the body ----------------------------------------------------------------------------------------------------- */

static bool is_type(const gw_conn *conn, const char *name)
{
    return conn->headers.content_type && gw_media_is(conn->headers.content_type, name);
}

static sp_status store_check(const gw_jobs *jobs, sp_error *reterr)
{
    sp_durability least = jobs->store ? gw_config(jobs->server)->jobs.least : SP_DURABILITY_MEMORY;
    if (!jobs->store)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "store_down", "there is no job store: %s", jobs->why);
    if (jobs->durability < least)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "durability",
                            "the job store keeps jobs as \"%s\" and jobs.durability demands \"%s\"",
                            sp_durability_name(jobs->durability), sp_durability_name(least));
    return SP_OK;
}

/* What can be refused before the body is read. 0 or the HTTP status. */
static int begin_check(const gw_conn *conn, sp_error *reterr)
{
    const gw_headers *h = &conn->headers;
    sp_status s = store_check(conn->server->jobs, reterr);
    if (s)
        return gw_http_status(s, reterr);
    if (conn->server->draining) {
        (void)SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "draining", "this server is being stopped");
        return 503;
    }
    if (h->content_type && !is_type(conn, "multipart/form-data") && !is_type(conn, "image/") &&
        !is_type(conn, "application/octet-stream")) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "media_type",
                           "Content-Type \"%.60s\" is not taken: send JSON (application/json), a form (multipart/form-data with a "
                           "field \"file\"), or the bytes as image/* or application/octet-stream", h->content_type);
        return 415;
    }
    if (!h->chunked && !h->has_length && !gw_query(conn, "url")) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "no_length", "send a Content-Length or a chunked body");
        return 411;
    }
    if (h->has_length && h->content_length > SP_LIMIT_IMAGE_BODY_BYTES) {
        (void)SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the body has %llu bytes, the limit is %u",
                           (unsigned long long)h->content_length, SP_LIMIT_IMAGE_BODY_BYTES);
        return 413;
    }
    return 0;
}

static handing_in *handing_in_new(gw_conn *conn)
{
    sp_error err = { 0 };
    handing_in *h = calloc(1, sizeof(*h));
    if (!h || gw_submission_init(&h->submission, &err)) {
        free(h);
        return NULL;
    }
    h->conn = conn;
    h->jobs = conn->server->jobs;
    sp_buf_init(&h->body, SP_LIMIT_IMAGE_BODY_BYTES);
    conn->state = h;
    conn->drop = handing_in_drop;
    return h;
}

void gw_jobs_begin(gw_conn *conn)
{
    sp_error err = { 0 };
    sp_status s = store_check(conn->server->jobs, &err);
    if (!s && is_type(conn, "application/json")) {
        gw_body_begin(conn);
        return;
    }
    int refused = begin_check(conn, &err);
    if (refused) {
        gw_conn_fail(conn, refused, &err, refused == 503 ? GW_STORE_RETRY_S : 0);
        return;
    }
    if (!handing_in_new(conn)) {
        s = SP_FAIL(&err, SP_NOMEM, "no memory for the job");
        gw_conn_fail_status(conn, s, &err, 1);
        return;
    }
    gw_conn_enter(conn, GW_BODY);
}

void gw_jobs_append(gw_conn *conn, const void *data, size_t size_bytes)
{
    handing_in *h = conn->state;
    sp_error err = { 0 };
    sp_status s = SP_OK;
    if (!h) {
        gw_body_append(conn, data, size_bytes);
        return;
    }
    if (h->jobs->body_bytes + size_bytes > GW_JOB_BODIES_BYTES)
        s = SP_FAIL_CODE(&err, SP_BUSY, "bodies", "the jobs that are being handed in hold as many bytes as they may");
    else if (size_bytes > SP_LIMIT_IMAGE_BODY_BYTES - h->body.size_bytes)
        s = SP_FAIL_CODE(&err, SP_TOO_LARGE, "body_too_large", "the body is larger than %u bytes", SP_LIMIT_IMAGE_BODY_BYTES);
    else {
        sp_buf_append(&h->body, data, size_bytes);
        h->counted += size_bytes;
        h->jobs->body_bytes += size_bytes;
        if (!sp_buf_ok(&h->body))
            s = SP_FAIL(&err, SP_NOMEM, "no memory for the body");
    }
    if (s) {
        (void)handing_in_end(h);
        gw_conn_fail_status(conn, s, &err, s == SP_TOO_LARGE ? 0 : 1);
    }
}

/* --- its fields --------------------------------------------------------------------------------------------------- */

typedef struct query_state {
    gw_submission *submission;
    sp_status status;
    sp_error *reterr;
} query_state;

static enum MHD_Result query_take(void *context, enum MHD_ValueKind kind, const char *key, const char *value)
{
    (void)kind;
    query_state *state = context;
    state->status = gw_submission_set(state->submission, key, sp_view_of(value ? value : ""), "query parameter", state->reterr);
    return state->status ? MHD_NO : MHD_YES;
}

static sp_status query_read(gw_conn *conn, gw_submission *submission, sp_error *reterr)
{
    query_state state = { .submission = submission, .reterr = reterr };
    (void)MHD_get_connection_values(conn->mhd, MHD_GET_ARGUMENT_KIND, query_take, &state);
    return state.status;
}

static sp_status part_take(handing_in *h, sp_view body, const sp_multipart_part *part, sp_error *reterr)
{
    sp_view value = sp_view_make(body.data + part->offset, part->size_bytes);
    char name[24];
    if (sp_view_equals(part->name, "file") || sp_view_equals(part->name, "image")) {
        if (h->payload.data)
            return SP_FAIL_CODE(reterr, SP_INVALID, "second_file", "the form has more than one field \"file\" or \"image\"; one job is one picture");
        h->payload = value;
        return value.size_bytes ? SP_OK : SP_FAIL_CODE(reterr, SP_INVALID, "empty_file", "the field \"%.*s\" is empty",
                                                       (int)part->name.size_bytes, (const char *)part->name.data);
    }
    if (!gw_submission_field_known(part->name))
        return SP_OK; /* somebody's own field */
    (void)snprintf(name, sizeof(name), "%.*s", (int)part->name.size_bytes, (const char *)part->name.data);
    return gw_submission_set(&h->submission, name, value, "form field", reterr);
}

static sp_status form_read(gw_conn *conn, handing_in *h, sp_error *reterr)
{
    sp_view body = sp_buf_view(&h->body);
    sp_multipart form;
    sp_multipart_part part;
    bool more = true;
    sp_status s = sp_multipart_begin(&form, conn->headers.content_type, body, reterr);
    while (!s && more) {
        s = sp_multipart_next(&form, &part, &more, reterr);
        if (!s && more)
            s = part_take(h, body, &part, reterr);
    }
    return s;
}

/* Query first, then the body's fields, then the header: the later one wins. */
static sp_status fields_read(gw_conn *conn, handing_in *h, sp_error *reterr)
{
    const char *key = gw_header(conn, "Idempotency-Key");
    sp_status s = query_read(conn, &h->submission, reterr);
    if (!s && is_type(conn, "application/json"))
        s = gw_submission_parse(&h->submission, sp_buf_view(&conn->body), reterr);
    else if (!s && is_type(conn, "multipart/form-data"))
        s = form_read(conn, h, reterr);
    else
        h->payload = sp_buf_view(&h->body);
    if (!s && key)
        s = gw_submission_set(&h->submission, "idempotency_key", sp_view_of(key), "header", reterr);
    if (!s)
        s = gw_submission_check(&h->submission, conn->server, &conn->access, h->payload.size_bytes > 0, reterr);
    return s;
}

/* --- handing in --------------------------------------------------------------------------------------------------- */

static void accepted_write(gw_conn *conn, const sp_job *job, bool existed)
{
    const gw_jobs *jobs = conn->server->jobs;
    char location[80];
    sp_buf json;
    sp_buf_init(&json, 1024);
    sp_buf_printf(&json, "{\"id\":\"%s\",\"status\":\"%s\",\"durability\":\"%s\",\"task\":\"%s\",\"existed\":%s,\"client_id\":",
                  job->id, sp_job_state_name(job->state), sp_durability_name(jobs->durability), job->task,
                  existed ? "true" : "false");
    if (*job->client_id)
        sp_buf_append_json_text(&json, job->client_id);
    else
        sp_buf_append_text(&json, "null");
    sp_buf_append_text(&json, "}\n");
    gw_reply_json(conn, 202, &json, NULL);
    (void)snprintf(location, sizeof(location), "/v1/jobs/%s", job->id);
    gw_reply_header(conn, "Location", location);
    if (existed)
        gw_reply_header(conn, "Idempotency-Replayed", "true");
}

static void added(const sp_job_reply *reply, void *context)
{
    handing_in *h = context;
    gw_jobs *jobs = h->jobs;
    sp_job job = h->submission.job;
    h->away = false;
    gw_conn *conn = handing_in_end(h);
    if (!reply->status && reply->existed && reply->count)
        job = reply->jobs[0];
    if (!reply->status && !reply->existed) {
        sp_job_emit(&job, "job.queued");
        sp_runner_wake(jobs->runner);
    }
    if (!conn)
        return;
    if (reply->status) {
        gw_call_fail(conn, reply->status, reply->error);
        return;
    }
    accepted_write(conn, &job, reply->existed);
    gw_conn_answered(conn);
}

static void add(handing_in *h)
{
    h->away = true;
    sp_jobs_add(h->jobs->store, &h->submission.job, h->payload, added, h);
}

/* What a reused idempotency key is told by: everything that decides about the result. */
static void hash_run(sp_store_work *work)
{
    handing_in *h = (handing_in *)(void *)work;
    sp_job *job = &h->submission.job;
    const char *const texts[] = { job->task, job->parameters, job->url, job->output, job->local_only ? "local" : "" };
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    bool ok = digest && EVP_DigestInit_ex(digest, EVP_sha256(), NULL);
    for (size_t i = 0; ok && i < SP_ARRAY_LEN(texts); i++)
        ok = EVP_DigestUpdate(digest, texts[i], strlen(texts[i]) + 1);
    ok = ok && EVP_DigestUpdate(digest, h->payload.data, h->payload.size_bytes) &&
         EVP_DigestFinal_ex(digest, job->request_sha256, NULL);
    EVP_MD_CTX_free(digest);
    if (!ok)
        work->status = SP_FAIL_FROM(&work->error, SP_NOMEM, "libcrypto", 0, "cannot hash the request");
}

static void hash_done(sp_store_work *work)
{
    handing_in *h = (handing_in *)(void *)work;
    if (!work->status) {
        add(h);
        return;
    }
    sp_error err = work->error;
    sp_status s = work->status;
    h->away = false;
    gw_conn *conn = handing_in_end(h);
    if (conn)
        gw_call_fail(conn, s, &err);
}

static sp_status hash(handing_in *h, sp_error *reterr)
{
    gw_jobs *jobs = h->jobs;
    sp_status s = SP_OK;
    if (!jobs->hasher)
        s = sp_store_thread_new(jobs->server->loop, "jobs-hash", HASHER_QUEUE, NULL, NULL, &jobs->hasher, reterr);
    h->hash = (sp_store_work){ .run = hash_run, .done = hash_done };
    return s ? s : sp_store_submit(jobs->hasher, &h->hash, reterr);
}

void gw_jobs_run(gw_conn *conn)
{
    handing_in *h = conn->state;
    sp_error err = { 0 };
    sp_status s = SP_OK;
    if (!h) /* JSON was collected in conn->body, or there was no body at all */
        h = handing_in_new(conn);
    s = h ? fields_read(conn, h, &err) : SP_FAIL(&err, SP_NOMEM, "no memory for the job");
    bool keyed = !s && *h->submission.job.idempotency_key;
    if (keyed) {
        h->away = true;
        s = hash(h, &err);
        h->away = !s;
    }
    if (s) {
        if (h)
            (void)handing_in_end(h);
        gw_conn_fail_status(conn, s, &err, 0);
        return;
    }
    gw_conn_wait(conn);
    if (!keyed)
        add(h);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

static void no_such_job(gw_conn *conn)
{
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_NOT_FOUND, "no_such_job", "there is no job %.60s", conn->params[0]);
    gw_conn_fail(conn, 404, &err, 0);
}

/* The store is there and {id} may be one. */
static bool ready(gw_conn *conn, bool by_id)
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

static void got(const sp_job_reply *reply, void *context)
{
    sp_status s = !reply->status && !reply->count ? SP_NOT_FOUND : reply->status;
    gw_conn *conn = gw_call_reply(context, s, reply->error);
    sp_buf json;
    if (!conn)
        return;
    sp_job job = job_now(conn->server->jobs, &reply->jobs[0]);
    sp_buf_init(&json, JOB_JSON_LIMIT_BYTES);
    sp_job_write(&json, &job, &reply->result, NULL);
    sp_buf_append_text(&json, "\n");
    gw_call_answer(conn, &json);
}

void gw_jobs_get(gw_conn *conn)
{
    gw_call *call = ready(conn, true) ? gw_call_begin(conn) : NULL;
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
    const char *task = gw_query(conn, "task"), *cursor = gw_query(conn, "cursor");
    sp_error err = { 0 };
    int state = -1, limit = 0;
    if (!ready(conn, false))
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

void gw_jobs_delete(gw_conn *conn)
{
    gw_call *call = ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call)
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
    sp_job job = job_now(conn->server->jobs, &reply->jobs[0]);
    (void)snprintf(topic, sizeof(topic), "job/%s", job.id);
    sp_buf_init(&json, JOB_JSON_LIMIT_BYTES);
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
    gw_call *call = ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call)
        sp_jobs_get(conn->server->jobs->store, gw_tenant(conn), conn->params[0], follow, call);
}
