/* SPDX-License-Identifier: Apache-2.0
 * POST /infer: the body goes into the house's slot as it arrives, a form's fields are found there in place, the answer
 * comes back through a callback. */
#include "gateway/jobs.h"
#include "gateway/flight.h"
#include "gateway/multipart.h"
#include "gateway/server.h"

#include <stdio.h>

static bool is_form(const gw_conn *conn)
{
    return conn->headers.content_type && gw_media_is(conn->headers.content_type, "multipart/form-data");
}

static bool is_json(const gw_conn *conn)
{
    return conn->headers.content_type && gw_media_is(conn->headers.content_type, "application/json");
}

/* What goes around policy, or before others, is not for everybody. */
static sp_status admin_options_check(const gw_conn *conn, sp_error *reterr)
{
    if (conn->access.scopes & SP_SCOPE_ADMIN)
        return SP_OK;
    if (*conn->options.link)
        return SP_FAIL_CODE(reterr, SP_DENIED, "scope",
                            "the parameter link= goes around the chain and needs a token with the scope admin");
    if (conn->options.priority > 0)
        return SP_FAIL_CODE(reterr, SP_DENIED, "scope",
                            "a priority above 0 goes before others and needs a token with the scope admin");
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

/* Type, length and options, before a slot is taken. 0 or the HTTP status to refuse with. */
static int check(gw_conn *conn, sp_error *reterr)
{
    const gw_headers *h = &conn->headers;
    sp_status s = gw_options_read(conn, reterr);
    if (s)
        return gw_http_status(s, reterr);
    s = admin_options_check(conn, reterr);
    if (s)
        return gw_http_status(s, reterr);
    if (h->content_type && !is_form(conn) && !gw_media_is(h->content_type, "image/") &&
        !gw_media_is(h->content_type, "application/octet-stream")) {
        (void)SP_FAIL_CODE(
            reterr, SP_INVALID, "media_type",
            "Content-Type \"%.60s\" is not taken: send multipart/form-data with a field \"image\" or \"file\" "
            "(curl -F image=@cat.jpg), or the bytes as image/* or application/octet-stream",
            h->content_type);
        return 415;
    }
    if (!h->chunked && !h->has_length) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "no_length", "send a Content-Length or a chunked body");
        return 411;
    }
    if (h->has_length && h->content_length == 0) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "empty_body", "the request has no body; send a picture");
        return 400;
    }
    if (h->has_length && h->content_length > SP_LIMIT_IMAGE_BODY_BYTES) {
        (void)SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the body has %llu bytes, the limit is %u",
                           (unsigned long long)h->content_length, SP_LIMIT_IMAGE_BODY_BYTES);
        return 413;
    }
    return 0;
}

/* A form may name its model behind the picture: until then any detector stands in, and the request is opened anew. */
static bool model_may_come(const gw_conn *conn)
{
    return is_form(conn) && conn->phase != GW_BODY && !*conn->options.model;
}

static sp_status open_request(gw_conn *conn, const char *url, sp_request **ret_request, int *ret_retry_after_s,
                              sp_error *reterr)
{
    bool detect = conn->options.task == SP_TASK_DETECT;
    sp_served_model served = { 0 };
    sp_status s = detect ? gw_detect_model(conn->server, conn->options.model, model_may_come(conn), &served, reterr) : SP_OK;
    if (s)
        return s;
    const sp_request_params params = {
        .task = conn->options.task,
        .model_id = served.id,
        .model_version = served.version,
        .model = detect ? served.name : *conn->options.model ? conn->options.model : NULL,
        .request_id = conn->request_id,
        .deadline_ns = gw_deadline_ns(conn),
        .received_ns = conn->received_ns,
        .top_k = conn->options.top_k,
        .decode = detect ? SP_DECODE_EXACT : conn->options.decode, /* boxes are in pixels of the picture as it is */
        .only_link = *conn->options.link ? conn->options.link : NULL,
        .force_cpu = conn->options.force_cpu,
        .tier = conn->access.tier,
        .tenant = conn->access.tenant,
        .local_only = conn->options.local_only,
        .priority = conn->options.priority,
        .hops = conn->access.hops,
        .trace = &conn->story.trace,
        .url = url,
        .private_ok = gw_config(conn->server)->fetch_private,
        .header = fact_header,
        .parameter = fact_parameter,
        .facts_context = conn,
        .body_bytes_hint = !url && conn->headers.has_length ? conn->headers.content_length : 0,
        .body_limit_bytes = url ? gw_config(conn->server)->fetch_limit_bytes : SP_LIMIT_IMAGE_BODY_BYTES,
    };
    s = sp_request_open(conn->server->house, &params, ret_request, ret_retry_after_s, reterr);
    if (!s && detect)
        sp_request_set_detect(*ret_request, conn->options.threshold, conn->options.iou);
    return s;
}

void gw_infer_begin(gw_conn *conn)
{
    sp_error err = { 0 };
    int retry_after_s = 0;
    if (is_json(conn)) { /* says where the picture lies */
        gw_body_begin(conn);
        return;
    }
    int refused = check(conn, &err);
    if (!refused) {
        sp_status s = open_request(conn, NULL, &conn->request, &retry_after_s, &err);
        if (s) {
            err.status = s;
            refused = gw_http_status(s, &err);
        }
    }
    if (refused) {
        gw_conn_fail(conn, refused, &err, retry_after_s);
        return;
    }
    gw_flight_begin(conn, !is_form(conn));
    gw_conn_enter(conn, GW_BODY);
}

void gw_infer_append(gw_conn *conn, const void *data, size_t size_bytes)
{
    sp_error err = { 0 };
    if (!conn->request) {
        gw_body_append(conn, data, size_bytes);
        return;
    }
    sp_status s = sp_request_append(conn->request, data, size_bytes, &err);
    if (s) {
        sp_request_close(SP_STEAL(conn->request));
        gw_conn_fail(conn, gw_http_status(s, &err), &err, 0);
    } else if (conn->state) {
        gw_flight_append(conn, data, size_bytes);
    }
}

const char *const gw_form_options[] = { "timeout_ms", "top_k",    "decode", "model",     "force_cpu",
                                        "local_only", "priority", "cache",  "threshold", "iou",
                                        NULL };

/* One field of a form. *file is set when it is the picture. */
static sp_status field_take(gw_options *options, sp_view body, const sp_multipart_part *part, sp_multipart_part *file,
                            sp_error *reterr)
{
    if (sp_view_equals(part->name, "file") || sp_view_equals(part->name, "image")) {
        if (file->offset)
            return SP_FAIL_CODE(reterr, SP_INVALID, "second_file",
                                "the form has more than one field \"file\" or \"image\"; send one picture a request");
        *file = *part;
        return SP_OK;
    }
    for (size_t i = 0; gw_form_options[i]; i++) {
        if (sp_view_equals(part->name, gw_form_options[i]))
            return gw_option_set(options, gw_form_options[i], sp_view_make(body.data + part->offset, part->size_bytes),
                                 "form field", reterr);
    }
    return SP_OK; /* somebody's own field */
}

static sp_status form_read(gw_conn *conn, sp_view body, sp_multipart_part *ret_file, sp_error *reterr)
{
    sp_multipart form;
    sp_multipart_part part, file = { 0 };
    bool more = true;
    sp_status s = sp_multipart_begin(&form, conn->headers.content_type, body, reterr);
    while (!s && more) {
        s = sp_multipart_next(&form, &part, &more, reterr);
        if (!s && more)
            s = field_take(&conn->options, body, &part, &file, reterr);
    }
    if (s)
        return s;
    if (!file.offset)
        return SP_FAIL_CODE(reterr, SP_INVALID, "no_file_field",
                            "the form has %d field(s), none of them \"file\" or \"image\"", form.part_count);
    if (!file.size_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "empty_file", "the field \"%.*s\" is empty; send a picture",
                            (int)file.name.size_bytes, (const char *)file.name.data);
    *ret_file = file;
    return SP_OK;
}

/* A form may name its model, or what policy asks about, after the picture: then the request is opened anew with the chain that fits. */
static sp_status reopen(gw_conn *conn, sp_view body, int *ret_retry_after_s, sp_error *reterr)
{
    sp_request *other = NULL;
    sp_status s = open_request(conn, NULL, &other, ret_retry_after_s, reterr);
    if (s)
        return s;
    s = sp_request_append(other, body.data, body.size_bytes, reterr);
    if (s) {
        sp_request_close(other);
        return s;
    }
    sp_request_close(conn->request);
    conn->request = other;
    return SP_OK;
}

void gw_infer_reply(gw_conn *conn, const sp_answer *answer, const char *cache)
{
    gw_who who = gw_who_of(answer);
    gw_story_answer(&conn->story, answer, cache);
    if (answer->status) {
        gw_log_failure(conn, gw_http_status(answer->status, &answer->error), &answer->error);
        gw_reply_problem(conn, gw_http_status(answer->status, &answer->error), &answer->error, answer->retry_after_s,
                         &who);
    } else if (conn->options.task == SP_TASK_NOOP) {
        gw_reply(conn, 200, "application/octet-stream", (void *)(uintptr_t)answer->payload.data,
                 answer->payload.size_bytes, GW_COPY, &who);
    } else {
        sp_buf json;
        sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
        gw_answer_write_cache(&json, conn->request_id, answer, cache);
        gw_results_take(conn, answer, sp_buf_view(&json));
        gw_reply_json(conn, 200, &json, &who);
    }
    gw_reply_header(conn, "X-Spillway-Cache", cache);
}

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    gw_conn *conn = context;
    gw_infer_reply(conn, answer, "off");
    conn->request = NULL;
    sp_request_close(request);
    gw_conn_answered(conn);
}

static void run_submit(gw_conn *conn)
{
    conn->server->longest_deadline_ns = SP_MAX(conn->server->longest_deadline_ns, gw_deadline_ns(conn));
    gw_conn_wait(conn);
    sp_request_submit(conn->request, done, conn);
}

/* Not cached: what lies at a URL may change. */
static void run_url(gw_conn *conn)
{
    sp_error err = { 0 };
    char url[SP_LIMIT_TARGET_BYTES];
    int retry_after_s = 0;
    sp_status s = gw_options_read(conn, &err);
    if (!s)
        s = gw_infer_url_read(conn, url, sizeof(url), &err);
    if (!s)
        s = admin_options_check(conn, &err);
    if (!s)
        s = open_request(conn, url, &conn->request, &retry_after_s, &err);
    if (s)
        gw_conn_fail_status(conn, s, &err, retry_after_s);
    else
        run_submit(conn);
}

void gw_infer_run(gw_conn *conn)
{
    if (!conn->request) {
        run_url(conn);
        return;
    }
    sp_view body = sp_request_body(conn->request);
    sp_error err = { 0 };
    sp_status s = SP_OK;
    int retry_after_s = 0;
    if (!body.size_bytes)
        s = SP_FAIL_CODE(&err, SP_INVALID, "empty_body", "the request has no body; send a picture");
    if (!s && is_form(conn)) {
        const gw_options before = conn->options;
        sp_multipart_part file = { 0 };
        s = form_read(conn, body, &file, &err);
        if (!s)
            s = admin_options_check(conn, &err);
        bool stood_in = conn->options.task == SP_TASK_DETECT && !*before.model;
        if (!s && (stood_in || strcmp(before.model, conn->options.model) != 0 || before.force_cpu != conn->options.force_cpu ||
                   before.local_only != conn->options.local_only || before.priority != conn->options.priority))
            s = reopen(conn, body, &retry_after_s, &err);
        if (!s) {
            sp_request_set_payload(conn->request, file.offset, file.size_bytes);
            sp_request_set_deadline(conn->request, gw_deadline_ns(conn));
            sp_request_set_options(conn->request, conn->options.top_k,
                                   conn->options.task == SP_TASK_DETECT ? SP_DECODE_EXACT : conn->options.decode);
            sp_request_set_detect(conn->request, conn->options.threshold, conn->options.iou);
            body = sp_request_body(conn->request);
            body = sp_view_make(body.data + file.offset, file.size_bytes);
        }
    }
    if (s) {
        sp_request_close(SP_STEAL(conn->request));
        gw_conn_fail(conn, gw_http_status(s, &err), &err, retry_after_s);
        return;
    }
    if (conn->state && gw_flight_enter(conn, body))
        return;
    run_submit(conn);
}
