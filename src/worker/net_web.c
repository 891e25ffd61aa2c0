/* SPDX-License-Identifier: Apache-2.0
 * FETCH: a user's URL into the slot's output. SEND: a body to a webhook or an upload. */
#include "worker/net.h"

#include "base/fault.h"

#include <stdio.h>
#include <string.h>

#define SEND_ANSWER_BYTES 4096 /* of what the far side says, the beginning is kept for people */

/* "https://host:port" of a URL, for messages: no path, no query, no user. */
static void host_of(const char *url, char *ret_host, size_t size_bytes)
{
    const char *at = strstr(url, "://");
    at = at ? at + 3 : url;
    size_t n = strcspn(at, "/?#");
    for (size_t i = 0; i < n; i++) {
        if (at[i] == '@') {
            at += i + 1;
            n -= i + 1;
            break;
        }
    }
    (void)snprintf(ret_host, size_bytes, "%.*s", (int)SP_MIN(n, size_bytes - 1), at);
}

/* The target, if somebody wrote one that ends. */
static sp_status target_of(const net_job *job, char ret_url[SP_LIMIT_TARGET_BYTES], sp_error *reterr)
{
    size_t n = strnlen(job->item->request->target, SP_LIMIT_TARGET_BYTES);
    if (n == 0 || n == SP_LIMIT_TARGET_BYTES)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "the request has no URL");
    memcpy(ret_url, job->item->request->target, n);
    ret_url[n] = 0;
    return SP_OK;
}

/* --- FETCH ------------------------------------------------------------------------------------------------------ */

static bool is_passing(int http_status)
{
    return http_status == 408 || http_status == 425 || http_status == 429 || http_status >= 500;
}

/* The URL is the user's own, so what it answers is about the request, not about this server, unless it may pass. */
static sp_status fetch_status(const net_job *job, const sp_http_result *result, sp_error *reterr)
{
    char host[200];
    host_of(job->item->request->target, host, sizeof(host));
    if (result->status) {
        const char *code = result->error.code;
        *reterr = result->error;
        if (result->status == SP_TOO_LARGE)
            return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "%s", result->error.message);
        if (result->status == SP_DENIED || result->status == SP_TIMEOUT || result->status == SP_NOMEM)
            return result->status;
        bool for_good = strcmp(code, "unknown_host") == 0 || strcmp(code, "tls_failed") == 0 || result->status == SP_INVALID;
        return SP_FAIL_CODE(reterr, for_good ? SP_INVALID : SP_UNAVAILABLE, "fetch_failed", "the URL could not be fetched: %s",
                            result->error.message);
    }
    if (result->http_status < 200 || result->http_status > 299)
        return SP_FAIL_CODE(reterr, is_passing(result->http_status) ? SP_UNAVAILABLE : SP_INVALID, "fetch_failed",
                            "the URL could not be fetched: %s answered %d", host, result->http_status);
    if (!result->sink_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "fetch_failed", "the URL gives nothing: %s answered %d without a body", host,
                            result->http_status);
    return SP_OK;
}

static void fetch_done(void *context, const sp_http_result *result)
{
    net_job *job = context;
    sp_work_item *item = job->item;
    job->call = NULL;
    item->status = fetch_status(job, result, &item->error);
    item->done.retry_after_ns = result->retry_after_ns;
    if (!item->status) {
        item->done.output_kind = SP_OUTPUT_BYTES;
        item->done.output_bytes = result->sink_bytes;
    }
    net_job_finish(job);
}

void net_fetch(net_job *job)
{
    const sp_slot_request *asked = job->item->request;
    char url[SP_LIMIT_TARGET_BYTES];
    int fd = -1;
    sp_status s = target_of(job, url, &job->item->error);
    if (!s)
        s = sp_worker_output_fd(job->item, &fd, &job->item->error);
    if (s) {
        net_job_fail(job, s);
        return;
    }
    sp_http_request request = {
        .method = SP_HTTP_GET,
        .url = url,
        .guarded = !(asked->flags & SP_SLOT_PRIVATE_OK),
        .redirects = 5,
        .sink_fd = fd,
        .body_limit_bytes = asked->fetch_limit_bytes ? asked->fetch_limit_bytes : SP_LIMIT_IMAGE_BODY_BYTES,
        .done = fetch_done,
    };
    net_job_ask(job, &request);
}

/* --- SEND ------------------------------------------------------------------------------------------------------- */

static sp_status send_status(const net_job *job, const sp_http_result *result, sp_error *reterr)
{
    char host[200];
    int code = result->http_status;
    sp_status s;
    host_of(job->item->request->target, host, sizeof(host));
    if (result->status) {
        *reterr = result->error;
        return result->status == SP_TOO_LARGE ? SP_UNAVAILABLE : result->status;
    }
    if (code >= 200 && code < 300)
        return SP_OK;
    if (is_passing(code))
        s = SP_UNAVAILABLE;
    else if (code == 401 || code == 402 || code == 403 || code == 451)
        s = SP_REFUSED;
    else
        s = SP_INVALID;
    s = SP_FAIL_FROM(reterr, s, "http", code, "%s answered %d", host, code);
    (void)snprintf(reterr->code, sizeof(reterr->code), "send_failed");
    return s;
}

/* Printable ASCII of what the far side said, so that it can be shown anywhere. */
static void keep_detail(sp_answer_sent *sent, sp_view body)
{
    size_t n = SP_MIN(body.size_bytes, sizeof(sent->detail) - 1);
    for (size_t i = 0; i < n; i++)
        sent->detail[i] = body.data[i] >= ' ' && body.data[i] <= '~' ? (char)body.data[i] : ' ';
    sent->detail[n] = 0;
}

static void send_done(void *context, const sp_http_result *result)
{
    net_job *job = context;
    sp_work_item *item = job->item;
    job->call = NULL;
    item->status = send_status(job, result, &item->error);
    item->done.retry_after_ns = result->retry_after_ns;
    if (!item->status) {
        sp_answer_sent sent = { .http_status = (uint32_t)result->http_status };
        keep_detail(&sent, result->body);
        memcpy(item->answer, &sent, sizeof(sent));
        item->done.answer_bytes = sizeof(sent);
    }
    net_job_finish(job);
}

typedef struct s3_signing {
    char scheme[64], access_key[256], secret_key[256];
} s3_signing;

static sp_status read_signing(const net_job *job, s3_signing *ret_signing, sp_error *reterr)
{
    const sp_config *config = NULL;
    sp_status s = net_config(job->net, job->item->submission, &config, reterr);
    if (!s)
        s = sp_secret_read(&config->s3.access_key, ret_signing->access_key, sizeof(ret_signing->access_key), reterr);
    if (!s)
        s = sp_secret_read(&config->s3.secret_key, ret_signing->secret_key, sizeof(ret_signing->secret_key), reterr);
    if (s == SP_NOT_FOUND) /* the operator's to mend: the store is down until then */
        s = reterr->status = SP_UNAVAILABLE;
    if (s)
        return s;
    (void)snprintf(ret_signing->scheme, sizeof(ret_signing->scheme), "aws:amz:%s:s3",
                   config->s3.region[0] ? config->s3.region : "us-east-1");
    return SP_OK;
}

void net_send(net_job *job)
{
    const sp_slot_request *asked = job->item->request;
    char url[SP_LIMIT_TARGET_BYTES], headers[SP_LIMIT_SEND_HEADERS_BYTES];
    s3_signing signing = { 0 };
    sp_error *err = &job->item->error;
    sp_status s = target_of(job, url, err);
    memcpy(headers, asked->send_headers, sizeof(headers));
    headers[sizeof(headers) - 1] = 0;
    if (!s && SP_FAULT("net.send") != SP_FAULT_NONE)
        s = SP_FAIL(err, SP_UNAVAILABLE, "fault point net.send");
    if (!s && (asked->flags & SP_SLOT_SEND_S3))
        s = read_signing(job, &signing, err);
    if (s) {
        net_job_fail(job, s);
        return;
    }
    bool signs = signing.scheme[0] != 0;
    sp_http_request request = {
        .method = asked->flags & SP_SLOT_SEND_PUT ? SP_HTTP_PUT : SP_HTTP_POST,
        .url = url,
        .headers = headers,
        .sigv4 = signs ? signing.scheme : NULL,
        .sigv4_access_key = signing.access_key,
        .sigv4_secret_key = signing.secret_key,
        .body = { job->item->body },
        .guarded = !(asked->flags & SP_SLOT_PRIVATE_OK),
        .redirects = signs ? 0 : 5, /* a signature is for one URL */
        .sink_fd = -1,
        .body_limit_bytes = SEND_ANSWER_BYTES,
        .cut_body = true,
        .done = send_done,
    };
    net_job_ask(job, &request);
    explicit_bzero(&signing, sizeof(signing));
}
