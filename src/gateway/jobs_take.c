/* SPDX-License-Identifier: Apache-2.0
 * Handing jobs in: POST /v1/jobs and POST /v1/videos/analyses. A picture is collected in memory of ours (no slot of the house is
 * held); a video goes to disk as it comes (store/upload.h), and its connection pauses while the disk is behind. Then the fields
 * are read, and 202 is said when the store has said that job and body are durable, not before. Who asked to wait gets the
 * finished job instead, when it is finished soon enough. */
#include "gateway/form_stream.h"
#include "gateway/jobs.h"
#include "gateway/multipart.h"
#include "store/upload.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define HASHER_QUEUE 256
/* Who waits is looked after this often; at first sooner. */
#define WAIT_LOOK_MS 250
#define WAIT_FIRST_MS 50
/* A form is a little longer than its file. */
#define FORM_EXTRA_BYTES (SP_LIMIT_FORM_KEPT_BYTES + 4096u)

/* One job on its way in. Outlives its connection while a thread or the store works for it. */
typedef struct handing_in {
    sp_store_work hash; /* first */
    gw_conn *conn;      /* NULL = the client is gone */
    gw_jobs *jobs;
    gw_submission submission;
    sp_buf body;        /* as it came */
    size_t counted;     /* of jobs->body_bytes */
    sp_view payload;    /* the picture inside it */
    bool video;
    sp_upload *upload;  /* a video's body goes here */
    sp_form_stream form; /* of a form with a video in it */
    bool is_form, checked; /* checked: the fields are known and good since before the body */
    bool pause;         /* the disk is behind */
    bool away;          /* a callback is to come */
    /* Waiting for its end: */
    sp_timer look;
    int64_t until_ns;
    bool existed;
} handing_in;

static void handing_in_free(handing_in *h)
{
    h->jobs->body_bytes -= h->counted;
    sp_loop_timer_clear(h->jobs->server->loop, &h->look);
    sp_upload_free(h->upload);
    sp_form_stream_done(&h->form);
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

static bool media_taken(const gw_conn *conn, bool video)
{
    return !conn->headers.content_type || is_type(conn, "multipart/form-data") || is_type(conn, "application/octet-stream") ||
           is_type(conn, video ? "video/" : "image/");
}

/* What can be refused before the body is read. 0 or the HTTP status. */
static int begin_check(const gw_conn *conn, bool video, sp_error *reterr)
{
    const gw_headers *h = &conn->headers;
    uint64_t limit = video ? SP_LIMIT_VIDEO_BODY_BYTES + (is_type(conn, "multipart/form-data") ? FORM_EXTRA_BYTES : 0)
                           : SP_LIMIT_IMAGE_BODY_BYTES;
    sp_status s = store_check(conn->server->jobs, reterr);
    if (s)
        return gw_http_status(s, reterr);
    if (conn->server->draining) {
        (void)SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "draining", "this server is being stopped");
        return 503;
    }
    if (!media_taken(conn, video)) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "media_type",
                           "Content-Type \"%.60s\" is not taken: send JSON (application/json), a form (multipart/form-data with a "
                           "field \"file\"), or the bytes as %s/* or application/octet-stream", h->content_type, video ? "video" : "image");
        return 415;
    }
    if (!h->chunked && !h->has_length && !gw_query(conn, "url") && !gw_query(conn, "video_url")) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "no_length", "send a Content-Length or a chunked body");
        return 411;
    }
    if (h->has_length && h->content_length > limit) {
        (void)SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the body has %llu bytes, the limit is %llu",
                           (unsigned long long)h->content_length, (unsigned long long)limit);
        return 413;
    }
    return 0;
}

static handing_in *handing_in_new(gw_conn *conn, bool video)
{
    sp_error err = { 0 };
    handing_in *h = calloc(1, sizeof(*h));
    if (!h || gw_submission_init(&h->submission, &err)) {
        free(h);
        return NULL;
    }
    h->conn = conn;
    h->jobs = conn->server->jobs;
    h->video = h->submission.video = video;
    sp_buf_init(&h->body, SP_LIMIT_IMAGE_BODY_BYTES);
    conn->state = h;
    conn->drop = handing_in_drop;
    return h;
}

static bool is_video(const gw_conn *conn)
{
    const char *task = gw_query(conn, "task");
    return strcmp(conn->route->path, "/v1/videos/analyses") == 0 || (task && strcmp(task, "analyze") == 0);
}

static void refuse(gw_conn *conn, handing_in *h, sp_status status, sp_error *err, int retry_after_s)
{
    if (h)
        (void)handing_in_end(h);
    gw_conn_fail_status(conn, status, err, retry_after_s);
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
    char name[40];
    if (h->video && sp_form_name_is_file(part->name))
        return SP_OK; /* it went to disk */
    if (sp_view_equals(part->name, "file") || sp_view_equals(part->name, "image")) {
        if (h->payload.data)
            return SP_FAIL_CODE(reterr, SP_INVALID, "second_file", "the form has more than one field \"file\" or \"image\"; one job is one picture");
        h->payload = value;
        return value.size_bytes ? SP_OK : SP_FAIL_CODE(reterr, SP_INVALID, "empty_file", "the field \"%.*s\" is empty",
                                                       (int)part->name.size_bytes, (const char *)part->name.data);
    }
    if (part->name.size_bytes >= sizeof(name))
        return SP_OK; /* somebody's own field */
    (void)snprintf(name, sizeof(name), "%.*s", (int)part->name.size_bytes, (const char *)part->name.data);
    return gw_submission_set(&h->submission, name, value, "form field", reterr);
}

static sp_status form_read(gw_conn *conn, handing_in *h, sp_error *reterr)
{
    sp_view body = sp_buf_view(h->video ? &h->form.kept : &h->body);
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
static sp_status fields_read(gw_conn *conn, handing_in *h, bool has_body, sp_error *reterr)
{
    const char *key = gw_header(conn, "Idempotency-Key"), *prefer = gw_header(conn, "Prefer");
    sp_status s = query_read(conn, &h->submission, reterr);
    if (!s && is_type(conn, "application/json"))
        s = gw_submission_parse(&h->submission, sp_buf_view(&conn->body), reterr);
    else if (!s && is_type(conn, "multipart/form-data"))
        s = form_read(conn, h, reterr);
    else
        h->payload = sp_buf_view(&h->body);
    if (!s && key)
        s = gw_submission_set(&h->submission, "idempotency_key", sp_view_of(key), "header", reterr);
    if (!s && prefer)
        gw_submission_prefer(&h->submission, prefer);
    if (!s)
        s = gw_submission_check(&h->submission, conn->server, &conn->access, has_body || h->payload.size_bytes > 0, reterr);
    return s;
}

/* --- a video's body: to disk as it comes -------------------------------------------------------------------------------------- */

/* The disk has taken what came: libmicrohttpd may read on. */
static void upload_room(void *context)
{
    handing_in *h = context;
    if (h->conn && h->conn->suspended && h->conn->phase == GW_BODY)
        gw_conn_resume(h->conn);
}

static sp_status upload_take(void *context, const void *data, size_t size_bytes, sp_error *reterr)
{
    handing_in *h = context;
    bool full = false;
    sp_status s = sp_upload_append(h->upload, data, size_bytes, &full, reterr);
    if (!s && full)
        h->pause = true;
    return s;
}

static sp_status uploads_open(gw_jobs *jobs, sp_error *reterr)
{
    if (jobs->uploads)
        return SP_OK;
    return sp_uploads_open(jobs->server->loop, sp_jobs_data_dir(jobs->store), !sp_jobs_several(jobs->store), &jobs->uploads, reterr);
}

static sp_status video_begin(gw_conn *conn, handing_in *h, sp_error *reterr)
{
    const gw_headers *headers = &conn->headers;
    h->is_form = is_type(conn, "multipart/form-data");
    bool has_body = headers->chunked || headers->content_length > 0;
    sp_status s = SP_OK;
    if (has_body)
        s = uploads_open(h->jobs, reterr);
    if (!s && has_body)
        s = sp_upload_new(h->jobs->uploads, SP_MIN(headers->content_length, SP_LIMIT_VIDEO_BODY_BYTES), upload_room, h, &h->upload, reterr);
    if (!s && h->is_form)
        return sp_form_stream_init(&h->form, headers->content_type, upload_take, h, reterr);
    /* Without a form all is known now, before a gigabyte has come for nothing. */
    if (!s)
        s = fields_read(conn, h, has_body, reterr);
    h->checked = !s;
    return s;
}

static void video_append(gw_conn *conn, handing_in *h, const void *data, size_t size_bytes)
{
    sp_error err = { 0 };
    sp_status s = h->is_form ? sp_form_stream_feed(&h->form, data, size_bytes, &err) : upload_take(h, data, size_bytes, &err);
    if (s) {
        refuse(conn, h, s, &err, s == SP_TOO_LARGE || s == SP_INVALID ? 0 : GW_STORE_RETRY_S);
        return;
    }
    bool pause = h->pause;
    h->pause = false;
    if (pause && !conn->suspended)
        gw_conn_suspend(conn);
}

/* --- a picture's body: in memory ------------------------------------------------------------------------------------------------- */

static void picture_append(gw_conn *conn, handing_in *h, const void *data, size_t size_bytes)
{
    sp_error err = { 0 };
    sp_status s = SP_OK;
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
    if (s)
        refuse(conn, h, s, &err, s == SP_TOO_LARGE ? 0 : 1);
}

void gw_jobs_begin(gw_conn *conn)
{
    sp_error err = { 0 };
    bool video = is_video(conn);
    sp_status s = store_check(conn->server->jobs, &err);
    if (!s && is_type(conn, "application/json")) {
        gw_body_begin(conn);
        return;
    }
    int refused = begin_check(conn, video, &err);
    if (refused) {
        gw_conn_fail(conn, refused, &err, refused == 503 ? GW_STORE_RETRY_S : 0);
        return;
    }
    handing_in *h = handing_in_new(conn, video);
    s = h ? SP_OK : SP_FAIL(&err, SP_NOMEM, "no memory for the job");
    if (!s && video)
        s = video_begin(conn, h, &err);
    if (s)
        refuse(conn, h, s, &err, s == SP_INVALID ? 0 : 1);
    else
        gw_conn_enter(conn, GW_BODY);
}

void gw_jobs_append(gw_conn *conn, const void *data, size_t size_bytes)
{
    handing_in *h = conn->state;
    if (!h)
        gw_body_append(conn, data, size_bytes);
    else if (!h->upload)
        picture_append(conn, h, data, size_bytes);
    else
        video_append(conn, h, data, size_bytes);
}

static void location_write(const gw_conn *conn, const sp_job *job, char *ret_location, size_t size_bytes)
{
    bool videos = strncmp(conn->route->path, "/v1/videos/", 11) == 0;
    (void)snprintf(ret_location, size_bytes, "%s/%s", videos ? "/v1/videos/analyses" : "/v1/jobs", job->id);
}

static void accepted_write(gw_conn *conn, const sp_job *job, bool existed)
{
    const gw_jobs *jobs = conn->server->jobs;
    char location[96];
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
    location_write(conn, job, location, sizeof(location));
    gw_reply_header(conn, "Location", location);
    if (existed)
        gw_reply_header(conn, "Idempotency-Replayed", "true");
}

/* --- who waits for the end ------------------------------------------------------------------------------------------------------- */

static void look_later(handing_in *h, int64_t ms);

/* The wait is over: 200 with the job that has ended, or 202. */
static void wait_end(handing_in *h, const sp_job *job, const sp_view *result)
{
    gw_jobs *jobs = h->jobs;
    bool existed = h->existed;
    sp_buf json;
    gw_conn *conn = handing_in_end(h);
    if (job->state < SP_JOB_DONE) {
        accepted_write(conn, job, existed);
    } else {
        char location[96];
        sp_buf_init(&json, GW_JOB_JSON_BYTES);
        gw_jobs_write(jobs, job, result, &json);
        sp_buf_append_text(&json, "\n");
        gw_reply_json(conn, 200, &json, NULL);
        location_write(conn, job, location, sizeof(location));
        gw_reply_header(conn, "Content-Location", location);
    }
    gw_conn_answered(conn);
}

static void looked(const sp_job_reply *reply, void *context)
{
    handing_in *h = context;
    h->away = false;
    if (!h->conn) {
        handing_in_free(h);
        return;
    }
    bool there = !reply->status && reply->count;
    bool over = sp_loop_now_ns(h->jobs->server->loop) >= h->until_ns || h->jobs->server->draining;
    if (there && (over || reply->jobs[0].state >= SP_JOB_DONE)) {
        sp_job job = reply->jobs[0];
        wait_end(h, &job, &reply->result);
    } else if (over || reply->status == SP_NOT_FOUND) { /* the store is away, or somebody has erased it: it was accepted */
        sp_job job = h->submission.job;
        wait_end(h, &job, NULL);
    } else {
        look_later(h, WAIT_LOOK_MS);
    }
}

static void look_fire(sp_timer *timer, void *context)
{
    handing_in *h = context;
    (void)timer;
    h->away = true;
    sp_jobs_get(h->jobs->store, NULL, h->submission.job.id, looked, h);
}

static void look_later(handing_in *h, int64_t ms)
{
    sp_loop *loop = h->jobs->server->loop;
    h->look = (sp_timer){ .fire = look_fire, .context = h };
    if (sp_loop_timer_set(loop, &h->look, sp_loop_now_ns(loop) + ms * SP_NS_PER_MS, NULL)) {
        sp_job job = h->submission.job;
        wait_end(h, &job, NULL);
    }
}

/* --- handing in ------------------------------------------------------------------------------------------------------------------ */

static void added(const sp_job_reply *reply, void *context)
{
    handing_in *h = context;
    gw_jobs *jobs = h->jobs;
    h->away = false;
    sp_upload_free(SP_STEAL(h->upload)); /* it is the job's now, or not needed */
    if (!reply->status && reply->existed && reply->count)
        h->submission.job = reply->jobs[0];
    h->existed = reply->existed;
    sp_job job = h->submission.job;
    if (!reply->status && !reply->existed) {
        sp_job_emit(&job, "job.queued");
        sp_runner_wake(jobs->runner);
    }
    if (h->conn && !reply->status && h->submission.wait_s > 0) {
        h->until_ns = sp_loop_now_ns(jobs->server->loop) + h->submission.wait_s * SP_NS_PER_S;
        look_later(h, WAIT_FIRST_MS);
        return;
    }
    gw_conn *conn = handing_in_end(h);
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
    if (h->upload) {
        uint8_t sha256[32];
        sp_body_file file = sp_upload_file(h->upload, sha256);
        sp_jobs_add_file(h->jobs->store, &h->submission.job, &file, added, h);
    } else {
        sp_jobs_add(h->jobs->store, &h->submission.job, h->payload, added, h);
    }
}

/* What a reused idempotency key is told by: everything that decides about the result. */
static bool request_hash(sp_job *job, sp_view payload)
{
    const char *const texts[] = { job->task, job->parameters, job->url, job->output, job->local_only ? "local" : "" };
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    bool ok = digest && EVP_DigestInit_ex(digest, EVP_sha256(), NULL);
    for (size_t i = 0; ok && i < SP_ARRAY_LEN(texts); i++)
        ok = EVP_DigestUpdate(digest, texts[i], strlen(texts[i]) + 1);
    ok = ok && EVP_DigestUpdate(digest, payload.data, payload.size_bytes) && EVP_DigestFinal_ex(digest, job->request_sha256, NULL);
    EVP_MD_CTX_free(digest);
    return ok;
}

static void hash_run(sp_store_work *work)
{
    handing_in *h = (handing_in *)(void *)work;
    if (!request_hash(&h->submission.job, h->payload))
        work->status = SP_FAIL_FROM(&work->error, SP_NOMEM, "libcrypto", 0, "cannot hash the request");
}

/* The client is told of what happened while it waited. */
static void fail_later(handing_in *h, sp_status status, const sp_error *err)
{
    sp_error told = *err;
    h->away = false;
    gw_conn *conn = handing_in_end(h);
    if (conn)
        gw_call_fail(conn, status, &told);
}

static void hash_done(sp_store_work *work)
{
    handing_in *h = (handing_in *)(void *)work;
    if (work->status)
        fail_later(h, work->status, &work->error);
    else
        add(h);
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

/* The whole video is on disk. Its own digest stands for it in that of the request. */
static void uploaded(sp_status status, const sp_error *err, void *context)
{
    handing_in *h = context;
    uint8_t sha256[32];
    sp_error problem = { 0 };
    if (!status) {
        (void)sp_upload_file(h->upload, sha256);
        if (!request_hash(&h->submission.job, sp_view_make(sha256, sizeof(sha256))))
            status = SP_FAIL_FROM(&problem, SP_NOMEM, "libcrypto", 0, "cannot hash the request");
        err = &problem;
    }
    if (status)
        fail_later(h, status, err);
    else
        add(h);
}

static sp_status video_end(gw_conn *conn, handing_in *h, sp_error *reterr)
{
    uint64_t bytes = h->upload ? sp_upload_bytes(h->upload) : 0;
    if (!bytes)
        sp_upload_free(SP_STEAL(h->upload));
    if (!h->checked)
        return fields_read(conn, h, bytes > 0, reterr);
    if (!bytes && !*h->submission.job.url)
        return SP_FAIL_CODE(reterr, SP_INVALID, "empty_body", "the body is empty; send the video, or say where it lies (video_url)");
    return SP_OK;
}

void gw_jobs_run(gw_conn *conn)
{
    handing_in *h = conn->state;
    sp_error err = { 0 };
    sp_status s = SP_OK;
    if (!h) /* JSON was collected in conn->body, or there was no body at all */
        h = handing_in_new(conn, is_video(conn));
    if (!h)
        s = SP_FAIL(&err, SP_NOMEM, "no memory for the job");
    else
        s = h->video ? video_end(conn, h, &err) : fields_read(conn, h, false, &err);
    bool keyed = !s && !h->upload && *h->submission.job.idempotency_key;
    if (keyed)
        s = hash(h, &err);
    if (s) {
        refuse(conn, h, s, &err, 0);
        return;
    }
    gw_conn_wait(conn);
    h->away = true;
    if (h->upload)
        sp_upload_finish(h->upload, uploaded, h);
    else if (!keyed)
        add(h);
}
