/* SPDX-License-Identifier: Apache-2.0
 * What an analysis has left: files of its report, which lie one behind the other in an archive that the store keeps. The job's
 * result says where each lies. Bytes come from the store piece by piece as the client takes them: the connection sleeps while
 * the store thread reads, and one piece is all that is held. */
#include "gateway/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Asked of libmicrohttpd's buffer at once. */
#define BLOCK_BYTES (32u * 1024)

typedef struct file_reply {
    gw_conn *conn; /* NULL = the client is gone */
    gw_jobs *jobs;
    char id[SP_LIMIT_JOB_ID_BYTES], tenant[48];
    bool any_tenant;
    uint64_t at, end; /* in the archive: asked for next; behind the last byte */
    uint8_t *piece;
    size_t piece_bytes, piece_sent;
    bool asked, failed;
} file_reply;

static void file_free(file_reply *f)
{
    free(f->piece);
    free(f);
}

static void file_drop(gw_conn *conn)
{
    file_reply *f = SP_STEAL(conn->state);
    f->conn = NULL;
    if (!f->asked)
        file_free(f);
}

static void piece_came(const sp_job_reply *reply, void *context)
{
    file_reply *f = context;
    f->asked = false;
    if (!f->conn) {
        file_free(f);
        return;
    }
    size_t size = (size_t)SP_MIN((uint64_t)reply->body.size_bytes, f->end - f->at);
    f->failed = reply->status || !size;
    if (!f->failed) {
        memcpy(f->piece, reply->body.data, size);
        f->piece_bytes = size;
        f->piece_sent = 0;
        f->at += size;
    }
    gw_conn_resume(f->conn);
}

/* libmicrohttpd's content reader. */
static ssize_t file_read(void *context, uint64_t position, char *buffer, size_t most)
{
    gw_conn *conn = context;
    file_reply *f = conn->state;
    (void)position;
    if (!f || f->failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (f->piece_sent < f->piece_bytes) {
        size_t n = SP_MIN(most, f->piece_bytes - f->piece_sent);
        memcpy(buffer, f->piece + f->piece_sent, n);
        f->piece_sent += n;
        gw_conn_enter(conn, conn->phase); /* it takes what we send: the sweep counts from here */
        return (ssize_t)n;
    }
    if (!f->asked && f->at < f->end) {
        f->asked = true;
        gw_conn_suspend(conn);
        sp_jobs_report_read(f->jobs->store, f->any_tenant ? NULL : f->tenant, f->id, f->at, piece_came, f);
    }
    return 0;
}

/* --- which bytes ------------------------------------------------------------------------------------------------------------ */

static const char *media_type_of(const char *name)
{
    static const struct {
        const char *end, *type;
    } types[] = {
        { ".json", "application/json" }, { ".csv", "text/csv; charset=utf-8" }, { ".html", "text/html; charset=utf-8" },
        { ".png", "image/png" }, { ".mp4", "video/mp4" }, { ".npz", "application/zip" },
    };
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < SP_ARRAY_LEN(types); i++) {
        if (strcmp(dot, types[i].end) == 0)
            return types[i].type;
    }
    return "application/octet-stream";
}

/* One range of bytes, "bytes=5-", "bytes=5-9" or "bytes=-5". False: none that is understood, so all of it is sent.
 * *ret_bad: understood, and it lies behind the end. */
static bool range_read(const char *text, uint64_t size_bytes, uint64_t *ret_first, uint64_t *ret_last, bool *ret_bad)
{
    char *end = NULL;
    *ret_bad = false;
    if (!text || strncmp(text, "bytes=", 6) != 0 || strchr(text, ','))
        return false;
    const char *dash = strchr(text += 6, '-');
    if (!dash || strspn(text, "0123456789-") != strlen(text) || strchr(dash + 1, '-') || (dash == text && !dash[1]))
        return false;
    uint64_t first = strtoull(text, &end, 10), last = dash[1] ? strtoull(dash + 1, &end, 10) : UINT64_MAX;
    if (dash == text) {
        first = size_bytes - SP_MIN(last, size_bytes);
        last = last ? UINT64_MAX : 0;
        *ret_bad = !size_bytes || !last;
    } else if (last < first) {
        return false;
    }
    *ret_bad = *ret_bad || first >= size_bytes;
    *ret_first = first;
    *ret_last = SP_MIN(last, size_bytes - SP_MIN(size_bytes, (uint64_t)1));
    return true;
}

/* {"files": [{"name": ..., "bytes": ..., "offset": ...}]} of a job's result. */
static bool place_find(sp_view result, const char *name, uint64_t *ret_offset, uint64_t *ret_bytes)
{
    size_t i;
    json_t *file, *root = json_loadb((const char *)result.data, result.size_bytes, 0, NULL);
    bool found = false;
    json_array_foreach(json_object_get(root, "files"), i, file)
    {
        const char *there = json_string_value(json_object_get(file, "name"));
        if (!there || strcmp(there, name) != 0)
            continue;
        *ret_offset = (uint64_t)json_integer_value(json_object_get(file, "offset"));
        *ret_bytes = (uint64_t)json_integer_value(json_object_get(file, "bytes"));
        found = true;
    }
    json_decref(root);
    return found;
}

static void name_of(const gw_conn *conn, char *ret_name, size_t size_bytes)
{
    bool file = strstr(conn->route->path, "/files/") != NULL;
    if (!file)
        (void)snprintf(ret_name, size_bytes, "report.json");
    else
        (void)snprintf(ret_name, size_bytes, "%s%s%s", conn->params[1], *conn->params[2] ? "/" : "", conn->params[2]);
}

static void refuse_range(gw_conn *conn, uint64_t size_bytes)
{
    sp_error err = { 0 };
    char text[48];
    (void)SP_FAIL_CODE(&err, SP_INVALID, "bad_range", "the file has %llu bytes, and the range lies behind them", (unsigned long long)size_bytes);
    gw_reply_problem(conn, 416, &err, 0, NULL);
    (void)snprintf(text, sizeof(text), "bytes */%llu", (unsigned long long)size_bytes);
    gw_reply_header(conn, "Content-Range", text);
    gw_conn_answered(conn);
}

/* Bytes first..last of the `size_bytes` at `offset`. */
static void file_answer(gw_conn *conn, const sp_job *job, const char *name, uint64_t offset, uint64_t size_bytes)
{
    uint64_t first = 0, last = 0;
    bool bad = false, part = range_read(gw_header(conn, "Range"), size_bytes, &first, &last, &bad);
    char text[80];
    if (part && bad) {
        refuse_range(conn, size_bytes);
        return;
    }
    uint64_t bytes = part ? last - first + 1 : size_bytes;
    file_reply *f = calloc(1, sizeof(*f));
    if (f)
        f->piece = malloc(SP_JOBS_PIECE_BYTES);
    if (!f || !f->piece) {
        sp_error err = { 0 };
        sp_status s = SP_FAIL(&err, SP_NOMEM, "no memory for the file");
        free(f);
        gw_call_fail(conn, s, &err);
        return;
    }
    f->conn = conn;
    f->jobs = conn->server->jobs;
    f->any_tenant = !gw_tenant(conn);
    memcpy(f->id, job->id, sizeof(f->id));
    memcpy(f->tenant, job->tenant, sizeof(f->tenant));
    f->at = offset + (part ? first : 0);
    f->end = f->at + bytes;
    conn->state = f;
    conn->drop = file_drop;
    gw_reply_reader(conn, part ? 206 : 200, media_type_of(name), bytes, BLOCK_BYTES, file_read);
    gw_reply_header(conn, "Accept-Ranges", "bytes");
    gw_reply_header(conn, "X-Content-Type-Options", "nosniff");
    /* The page is drawn from a stranger's video: it may show its own pictures and nothing else. */
    gw_reply_header(conn, "Content-Security-Policy", "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; media-src 'self'; sandbox");
    if (part) {
        (void)snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)first, (unsigned long long)last, (unsigned long long)size_bytes);
        gw_reply_header(conn, "Content-Range", text);
    }
    gw_conn_answered(conn);
}

static void job_came(const sp_job_reply *reply, void *context)
{
    sp_status s = !reply->status && !reply->count ? SP_NOT_FOUND : reply->status;
    gw_conn *conn = gw_call_reply(context, s, reply->error);
    sp_error err = { 0 };
    char name[2 * GW_PARAM_BYTES];
    uint64_t offset = 0, bytes = 0;
    if (!conn)
        return;
    const sp_job *job = &reply->jobs[0];
    name_of(conn, name, sizeof(name));
    if (strcmp(job->task, "analyze") != 0) {
        gw_jobs_none(conn);
    } else if (job->state == SP_JOB_QUEUED || job->state == SP_JOB_RUNNING) {
        s = SP_FAIL_CODE(&err, SP_CONFLICT, "not_finished", "the analysis is %s; its report comes when it is done", sp_job_state_name(job->state));
        gw_call_fail(conn, s, &err);
    } else if (job->state != SP_JOB_DONE) {
        s = SP_FAIL_CODE(&err, SP_NOT_FOUND, "no_report", "the analysis is %s and left no report", sp_job_state_name(job->state));
        gw_call_fail(conn, s, &err);
    } else if (!place_find(reply->result, name, &offset, &bytes)) {
        s = SP_FAIL_CODE(&err, SP_NOT_FOUND, "no_such_file", "the report has no file %.100s; the job's result lists its files", name);
        gw_call_fail(conn, s, &err);
    } else {
        file_answer(conn, job, name, offset, bytes);
    }
}

void gw_videos_file(gw_conn *conn)
{
    gw_call *call = gw_jobs_ready(conn, true) ? gw_call_begin(conn) : NULL;
    if (call)
        sp_jobs_get(conn->server->jobs->store, gw_tenant(conn), conn->params[0], job_came, call);
}

void gw_videos_report(gw_conn *conn)
{
    gw_videos_file(conn);
}
