/* SPDX-License-Identifier: Apache-2.0
 * KServe V2: one inference over HTTP. The body goes into the slot as it arrives; a header of JSON up to 64 KiB is read here,
 * what is larger or compressed a codec worker unpacks first. */
#include "gateway/kserve.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

typedef struct infer {
    sp_call *call;
    uint32_t header_bytes; /* 0 = all of it is JSON */
    sp_encoding encoding;
    gw_kserve_accept accept;
} infer;

static void infer_drop(gw_conn *conn)
{
    infer *in = SP_STEAL(conn->state);
    sp_call_cancel(in->call);
    free(in);
}

/* --- before the body ------------------------------------------------------------------------------------------------- */

static sp_status encoding_read(const char *text, sp_encoding *ret_encoding, sp_error *reterr)
{
    *ret_encoding = SP_ENCODING_NONE;
    if (!text || !*text || strcasecmp(text, "identity") == 0)
        return SP_OK;
    if (strcasecmp(text, "gzip") == 0)
        *ret_encoding = SP_ENCODING_GZIP;
    else if (strcasecmp(text, "deflate") == 0)
        *ret_encoding = SP_ENCODING_DEFLATE;
    else
        return SP_FAIL_CODE(reterr, SP_INVALID, "media_type", "unsupported Content-Encoding '%.40s'; there are gzip and deflate", text);
    return SP_OK;
}

static sp_status header_bytes_read(const gw_conn *conn, bool encoded, uint32_t *ret_bytes, sp_error *reterr)
{
    const char *text = gw_header(conn, "Inference-Header-Content-Length");
    uint64_t number = 0;
    *ret_bytes = 0;
    if (!text)
        return SP_OK;
    size_t n = strspn(text, "0123456789");
    if (!n || text[n] || n > 10 || (number = strtoull(text, NULL, 10)) > UINT32_MAX)
        return SP_FAIL(reterr, SP_INVALID, "Unable to parse Inference-Header-Content-Length, got: %.40s", text);
    if (!encoded && conn->headers.has_length && number > conn->headers.content_length)
        return SP_FAIL(reterr, SP_INVALID, "inference header size should be in range (0, %llu), got: %llu",
                       (unsigned long long)conn->headers.content_length, (unsigned long long)number);
    *ret_bytes = (uint32_t)number;
    return SP_OK;
}

static sp_status length_check(const gw_conn *conn, sp_error *reterr)
{
    uint64_t limit = gw_config(conn->server)->http_max_input_bytes;
    if (conn->headers.has_length && conn->headers.content_length > limit)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large",
                            "the body has %llu bytes, the limit is %llu; configure http_max_input_size to raise it, or use shared memory",
                            (unsigned long long)conn->headers.content_length, (unsigned long long)limit);
    return SP_OK;
}

static const char *fact_header(void *context, const char *name)
{
    return gw_header(context, name);
}

static const char *fact_parameter(void *context, const char *name)
{
    return gw_query(context, name);
}

static sp_status call_open(gw_conn *conn, infer *in, int *ret_retry_after_s, sp_error *reterr)
{
    const sp_call_params params = {
        .model = conn->params[0],
        .version = conn->params[1],
        .local = gw_conn_is_local(conn),
        .request = {
            .request_id = conn->request_id,
            .deadline_ns = gw_deadline_ns(conn),
            .received_ns = conn->received_ns,
            .force_cpu = conn->options.force_cpu,
            .tier = conn->access.tier,
            .tenant = conn->access.tenant,
            .local_only = conn->options.local_only,
            .hops = conn->access.hops,
            .trace = &conn->story.trace,
            .header = fact_header,
            .parameter = fact_parameter,
            .facts_context = conn,
            .body_bytes_hint = conn->headers.has_length ? conn->headers.content_length : 0,
            .body_limit_bytes = gw_config(conn->server)->http_max_input_bytes,
        },
    };
    return sp_call_open(conn->server->kserve->serving, &params, &in->call, ret_retry_after_s, reterr);
}

void gw_kserve_infer_begin(gw_conn *conn)
{
    sp_error err = { 0 };
    int retry_after_s = 0;
    infer *in = calloc(1, sizeof(*in));
    if (!in) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for an inference");
        gw_kserve_fail(conn, SP_NOMEM, &err, 1);
        return;
    }
    sp_status s = gw_options_read(conn, &err);
    if (!s)
        s = encoding_read(conn->headers.content_encoding, &in->encoding, &err);
    if (!s)
        s = header_bytes_read(conn, in->encoding != SP_ENCODING_NONE, &in->header_bytes, &err);
    if (!s)
        s = length_check(conn, &err);
    if (!s)
        s = call_open(conn, in, &retry_after_s, &err);
    if (s) {
        free(in);
        gw_kserve_fail(conn, s, &err, retry_after_s);
        return;
    }
    in->accept = gw_kserve_accept_read(gw_header(conn, "Accept-Encoding"));
    conn->state = in;
    conn->drop = infer_drop;
    gw_conn_enter(conn, GW_BODY);
}

void gw_kserve_infer_append(gw_conn *conn, const void *data, size_t size_bytes)
{
    sp_error err = { 0 };
    sp_status s = sp_request_append(sp_call_request(((infer *)conn->state)->call), data, size_bytes, &err);
    if (!s)
        return;
    infer_drop(conn);
    conn->drop = NULL;
    gw_kserve_fail(conn, s, &err, 0);
}

/* --- the question and its answer --------------------------------------------------------------------------------------- */

static void tell(gw_story *story, const sp_call_result *result)
{
    if (result->answer)
        gw_story_answer(story, result->answer, result->cached ? "hit" : "off");
    if (result->model)
        (void)snprintf(story->model, sizeof(story->model), "%.63s", result->model);
    if (result->version)
        (void)snprintf(story->version, sizeof(story->version), "%.15s", result->version);
    if (result->cached)
        story->cache = "hit";
}

static void done(sp_call *call, const sp_call_result *result, void *context)
{
    gw_conn *conn = context;
    tell(&conn->story, result);
    infer *in = SP_STEAL(conn->state);
    gw_kserve_accept accept = in->accept;
    conn->drop = NULL;
    free(in);
    if (result->status) {
        int http_status = gw_kserve_status(result->status, result->error);
        gw_who who = { 0 };
        if (result->answer)
            who = gw_who_of(result->answer);
        gw_log_failure(conn, http_status, result->error);
        gw_reply_problem(conn, http_status, result->error,
                         result->retry_after_s ? result->retry_after_s : result->status == SP_BUSY, result->answer ? &who : NULL);
        sp_call_close(call);
    } else if (!gw_kserve_reply(conn, call, result, accept)) {
        return; /* being compressed */
    }
    gw_conn_answered(conn);
}

/* Its answers have been quick so far: not worth the system calls of being suspended. */
static bool is_quick(const sp_served *served)
{
    const sp_served_duration *success = &served->stats.success;
    return !success->count || success->ns / success->count < GW_KSERVE_QUICK_NS;
}

/* Reads the header. Its text is copied first: tensors that are read from it go behind the body, which may then move. */
static sp_status parse(infer *in, sp_view body, sp_kserve_request *ret_named, sp_error *reterr)
{
    static char text[SP_LIMIT_KSERVE_HEADER_BYTES]; /* the loop's thread only */
    const sp_kserve_sink sink = { .room = sp_call_room, .used = sp_call_room_used, .context = in->call };
    size_t header_bytes = in->header_bytes ? in->header_bytes : body.size_bytes;
    memcpy(text, body.data, header_bytes);
    return sp_kserve_request_parse(sp_view_make(text, header_bytes), body.size_bytes - header_bytes, &sink, ret_named, reterr);
}

static sp_status submit(gw_conn *conn, infer *in, sp_error *reterr)
{
    static sp_kserve_request named; /* 40 KiB; the loop's thread only */
    sp_view body = sp_request_body(sp_call_request(in->call));
    sp_call_body how = { .encoding = in->encoding, .header_bytes = in->header_bytes };
    if (!body.size_bytes)
        return SP_FAIL(reterr, SP_INVALID, "the request has no body; send the inference request as JSON");
    if (!in->encoding && in->header_bytes > body.size_bytes)
        return SP_FAIL(reterr, SP_INVALID, "inference header size should be in range (0, %zu), got: %u", body.size_bytes,
                       in->header_bytes);
    size_t header_bytes = in->header_bytes ? in->header_bytes : body.size_bytes;
    if (!in->encoding && header_bytes <= SP_LIMIT_KSERVE_HEADER_BYTES) {
        sp_status s = parse(in, body, &named, reterr);
        if (s)
            return s;
        how.named = &named;
        how.binary_base = header_bytes;
    }
    conn->quick = how.named && is_quick(sp_call_served(in->call));
    return sp_call_submit(in->call, &how, done, conn, reterr);
}

void gw_kserve_infer_run(gw_conn *conn)
{
    infer *in = conn->state;
    sp_error err = { 0 };
    sp_status s = submit(conn, in, &err);
    if (s) {
        infer_drop(conn);
        conn->drop = NULL;
        gw_kserve_fail(conn, s, &err, 0);
        return;
    }
    conn->server->longest_deadline_ns = SP_MAX(conn->server->longest_deadline_ns, gw_deadline_ns(conn));
    gw_conn_wait(conn);
}
