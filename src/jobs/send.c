/* SPDX-License-Identifier: Apache-2.0
 * One try to send bytes to a URL: a request of the house's own task "send". */
#include "jobs/send.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

bool sp_send_possible(const sp_house *house)
{
    for (int i = 0; i < sp_house_worker_count(house); i++) {
        sp_worker_info info = { 0 };
        sp_house_worker_info(house, i, &info);
        if (info.kind && strcmp(info.kind, "net") == 0)
            return true;
    }
    return false;
}

/* 4xx says that the request itself is not wanted; these four say "not now". */
static bool http_is_permanent(int http_status)
{
    return http_status >= 400 && http_status < 500 && http_status != 408 && http_status != 409 && http_status != 425 &&
           http_status != 429;
}

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    sp_send *send = context;
    /* A refusal comes as an error that has the far side's number. */
    bool refused = answer->status && strcmp(answer->error.origin, "http") == 0;
    sp_send_result result = { .http_status = refused ? answer->error.origin_code : (int)answer->sent.http_status,
                              .retry_after_s = answer->retry_after_s };
    result.reached = result.http_status != 0;
    result.delivered = !answer->status && (!result.http_status || (result.http_status >= 200 && result.http_status < 300));
    if (!result.delivered) {
        result.permanent = result.http_status ? http_is_permanent(result.http_status)
                                              : !sp_status_tries_next(answer->status) && answer->status != SP_OK;
        const char *detail = answer->status ? answer->error.message : answer->sent.detail;
        (void)snprintf(result.detail, sizeof(result.detail), "%.255s", *detail ? detail : sp_status_name(answer->status));
    }
    send->request = NULL;
    sp_request_close(request);
    send->done(&result, send->context);
}

sp_status sp_send_start(sp_send *send, sp_house *house, const sp_send_params *params, sp_send_done_fn *done_fn, void *context,
                        sp_error *reterr)
{
    int64_t now = sp_clock_now_ns();
    int retry_after_s = 0;
    char headers[SP_LIMIT_SEND_HEADERS_BYTES];
    int n = snprintf(headers, sizeof(headers), "Content-Type: %s\n%s", params->content_type, params->headers ? params->headers : "");
    if (n < 0 || (size_t)n >= sizeof(headers))
        return SP_FAIL(reterr, SP_TOO_LARGE, "the headers to send have more than %zu bytes", sizeof(headers) - 1);
    const sp_request_params request = {
        .task = SP_TASK_SEND,
        .request_id = params->request_id,
        .tenant = params->tenant,
        .received_ns = now,
        .deadline_ns = now + params->timeout_ns,
        .body_bytes_hint = params->body.size_bytes,
        .priority = -10, /* nobody waits for it */
        .url = params->url,
        .content_type = params->content_type,
        .send_headers = headers,
        .send_put = params->put,
        .send_s3 = params->s3,
        .private_ok = params->private_ok,
    };
    sp_status s = sp_request_open(house, &request, &send->request, &retry_after_s, reterr);
    if (s)
        return s;
    if (params->body.size_bytes)
        s = sp_request_append(send->request, params->body.data, params->body.size_bytes, reterr);
    if (s) {
        sp_request_close(SP_STEAL(send->request));
        return s;
    }
    send->done = done_fn;
    send->context = context;
    sp_request_submit(send->request, done, send);
    return SP_OK;
}

void sp_send_cancel(sp_send *send)
{
    if (send->request)
        sp_request_cancel(SP_STEAL(send->request));
}
