/* SPDX-License-Identifier: Apache-2.0
 * REMOTE: which remote with which key, and one that is a Spillway. A KServe server is asked by net_kserve.c. */
#include "worker/net.h"

#include "base/clock.h"
#include "provider/spillway.h"

#include <stdio.h>
#include <string.h>

enum { TASK_NOOP = 0, TASK_CLASSIFY = 1, TASK_INFER = 3 }; /* sp_slot_request.task: sp_task of a higher room; tests/net holds them together */

#define URL_BYTES 2048
#define HEADERS_BYTES 2048

static sp_status find_remote(net_job *job, sp_error *reterr)
{
    const sp_submission *submission = job->item->submission;
    const sp_config *config = NULL;
    sp_status s = net_config(job->net, submission, &config, reterr);
    if (s)
        return s;
    if (submission->remote >= config->remote_count)
        return SP_FAIL(reterr, SP_INTERNAL, "remote %u of %d", submission->remote, config->remote_count);
    job->config = sp_config_ref((sp_config *)(uintptr_t)config);
    job->remote = &config->remotes[submission->remote];
    if (!job->remote->key_count)
        return SP_OK;
    if (submission->key >= job->remote->key_count)
        return SP_FAIL(reterr, SP_INTERNAL, "key %u of %d of remote %s", submission->key, job->remote->key_count, job->remote->name);
    s = sp_secret_read(&job->remote->keys[submission->key].secret, job->key, sizeof(job->key), reterr);
    if (s) /* it names the place that is empty, which is the operator's to fill: the link is down until then */
        (void)snprintf(reterr->code, sizeof(reterr->code), "remote_key");
    return s ? SP_UNAVAILABLE : SP_OK;
}

static void choose_model(net_job *job)
{
    const char *asked = job->item->request->model, *name = job->remote->model;
    if (!*name)
        name = *asked ? asked : job->net->default_model ? job->net->default_model : "";
    size_t n = strnlen(name, sizeof(job->model) - 1); /* another process wrote it */
    memcpy(job->model, name, n);
    job->model[n] = 0;
}

void net_remote_fill(const net_job *job, sp_http_request *request)
{
    request->bearer = *job->key ? job->key : NULL;
    request->connect_timeout_ns = job->remote->connect_timeout_ns;
    request->insecure_tls = !job->remote->verify_tls;
    request->ca_file = job->remote->ca_file;
    request->sink_fd = -1;
    request->body_limit_bytes = job->remote->response_limit_bytes ? job->remote->response_limit_bytes : SP_LIMIT_JSON_BYTES;
}

/* --- a Spillway --------------------------------------------------------------------------------------------------- */

static void put_who(const sp_provider_answer *from, sp_answer_remote *to)
{
    memset(to, 0, sizeof(*to));
    (void)snprintf(to->link, sizeof(to->link), "%s", from->link);
    (void)snprintf(to->device, sizeof(to->device), "%s", from->device);
    (void)snprintf(to->precision, sizeof(to->precision), "%s", from->precision);
    (void)snprintf(to->model, sizeof(to->model), "%s", from->model);
    (void)snprintf(to->version, sizeof(to->version), "%s", from->version);
    (void)snprintf(to->engine, sizeof(to->engine), "%s", from->engine);
    to->attempt_count = (uint32_t)from->attempt_count;
    for (int i = 0; i < from->attempt_count; i++) {
        sp_remote_attempt *attempt = &to->attempts[i];
        (void)snprintf(attempt->link, sizeof(attempt->link), "%s", from->attempts[i].link);
        (void)snprintf(attempt->reason, sizeof(attempt->reason), "%s", from->attempts[i].reason);
        attempt->status = from->attempts[i].status;
        attempt->duration_ns = from->attempts[i].duration_ns;
    }
}

static void put_classes(const sp_provider_answer *from, sp_answer_classes *to)
{
    to->count = (uint32_t)from->class_count;
    to->reserved = 0;
    for (int i = 0; i < from->class_count; i++) {
        to->classes[i] = (sp_answer_class){ .class_id = from->classes[i].class_id, .probability = from->classes[i].probability };
        (void)snprintf(to->classes[i].label, sizeof(to->classes[i].label), "%s", from->classes[i].label);
    }
}

_Static_assert(sizeof(sp_answer_remote) % 8 == 0, "what follows is aligned");
_Static_assert(sizeof(sp_answer_remote) + offsetof(sp_answer_classes, classes) + SP_LIMIT_TOP_K * sizeof(sp_answer_class) <=
                   SP_LIMIT_ANSWER_BYTES, "the most classes fit behind it");

void net_remote_put(net_job *job, const sp_provider_answer *answer)
{
    sp_work_item *item = job->item;
    sp_completion *done = &item->done;
    sp_answer_remote *remote = (sp_answer_remote *)(void *)item->answer; /* page-aligned array of 72 KiB answers */
    put_who(answer, remote);
    put_classes(answer, (sp_answer_classes *)(void *)(item->answer + sizeof(*remote)));
    done->answer_bytes = (uint32_t)(sizeof(*remote) + offsetof(sp_answer_classes, classes) +
                                    (size_t)answer->class_count * sizeof(sp_answer_class));
    done->decode_ns = answer->decode_ns;
    done->preprocess_ns = answer->preprocess_ns;
    done->inference_ns = done->batch_run_ns = answer->inference_ns;
    done->postprocess_ns = answer->postprocess_ns;
    done->batch_size = SP_MAX(answer->batch_size, 1u);
}

static void put_failure(sp_work_item *item, const sp_provider_answer *tried)
{
    sp_answer_remote_failure *failure = (sp_answer_remote_failure *)(void *)item->answer;
    if (!tried->attempt_count && !*tried->link)
        return;
    put_who(tried, &failure->remote);
    item->done.answer_bytes = sizeof(*failure); /* the loop puts the error in front */
}

static sp_status put_noop(sp_work_item *item, const sp_http_result *result, sp_error *reterr)
{
    sp_answer_remote *remote = (sp_answer_remote *)(void *)item->answer;
    const char *const values[SP_NET_KEPT] = { result->kept[0], result->kept[1], result->kept[2], result->kept[3] };
    sp_provider_answer answer;
    if (result->body.size_bytes > SP_LIMIT_ANSWER_BYTES - sizeof(*remote))
        return SP_FAIL(reterr, SP_TOO_LARGE, "an echo carries at most %zu bytes", SP_LIMIT_ANSWER_BYTES - sizeof(*remote));
    sp_spillway_read_headers(values, &answer);
    put_who(&answer, remote);
    if (result->body.size_bytes)
        memcpy(item->answer + sizeof(*remote), result->body.data, result->body.size_bytes);
    item->done.answer_bytes = (uint32_t)(sizeof(*remote) + result->body.size_bytes);
    return SP_OK;
}

sp_status net_remote_transport_failed(const net_job *job, const sp_http_result *result, sp_error *reterr)
{
    sp_status s = result->status == SP_TIMEOUT || result->status == SP_NOMEM ? result->status : SP_UNAVAILABLE;
    *reterr = result->error;
    reterr->status = s;
    (void)snprintf(reterr->message, sizeof(reterr->message), "remote %s: %.200s", job->remote->name, result->error.message);
    return s;
}

static void spillway_done(void *context, const sp_http_result *result)
{
    net_job *job = context;
    sp_work_item *item = job->item;
    sp_provider_answer answer;
    job->call = NULL;
    item->done.retry_after_ns = result->retry_after_ns;
    if (result->status) {
        item->status = net_remote_transport_failed(job, result, &item->error);
    } else if (result->http_status != 200) {
        item->status = sp_spillway_read_problem(result->http_status, result->body, &answer, &item->error);
        put_failure(item, &answer);
    } else if (item->request->task == TASK_NOOP) {
        item->status = put_noop(item, result, &item->error);
    } else {
        item->status = sp_spillway_read_answer(result->body, &answer, &item->error);
        if (!item->status)
            net_remote_put(job, &answer);
    }
    net_job_finish(job);
}

/* "" when the request is part of no trace; the state is the client's and not believed to end. */
void net_trace_headers(const net_job *job, char ret_parent[SP_TRACEPARENT_BYTES], char ret_state[SP_TRACESTATE_BYTES])
{
    const sp_trace *trace = &job->item->request->trace;
    ret_parent[0] = ret_state[0] = 0;
    if (!sp_trace_exists(trace))
        return;
    sp_trace_write(trace->trace_id, job->item->submission->span_id, trace->flags, ret_parent);
    memcpy(ret_state, trace->state, SP_TRACESTATE_BYTES);
    ret_state[SP_TRACESTATE_BYTES - 1] = 0;
}

static sp_status ask_spillway(net_job *job, sp_buf *url, sp_buf *headers, sp_error *reterr)
{
    const sp_slot_request *asked = job->item->request;
    if (asked->task != TASK_NOOP && asked->task != TASK_CLASSIFY)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "task %u cannot be forwarded", asked->task);
    char request_id[sizeof(asked->request_id)], content_type[sizeof(asked->content_type)];
    memcpy(request_id, asked->request_id, sizeof(request_id));
    memcpy(content_type, asked->content_type, sizeof(content_type));
    request_id[sizeof(request_id) - 1] = content_type[sizeof(content_type) - 1] = 0;
    char traceparent[SP_TRACEPARENT_BYTES], tracestate[SP_TRACESTATE_BYTES];
    net_trace_headers(job, traceparent, tracestate);
    const sp_spillway_question question = {
        .traceparent = traceparent,
        .tracestate = tracestate,
        .base_url = job->remote->url,
        .task = asked->task == TASK_NOOP ? "noop" : "classify",
        .model = asked->task == TASK_NOOP ? "" : job->model,
        .top_k = asked->task == TASK_NOOP ? 0 : SP_MIN(asked->top_k, (uint32_t)SP_LIMIT_TOP_K),
        .decode_fast = asked->flags & SP_SLOT_DECODE_FAST,
        .request_id = request_id,
        .content_type = content_type,
        .timeout_ms = (job->deadline_ns - sp_clock_now_ns()) / SP_NS_PER_MS,
        .hops = asked->hops,
    };
    return sp_spillway_ask(&question, url, headers, reterr);
}

static void spillway(net_job *job)
{
    sp_buf url, headers;
    sp_buf_init(&url, URL_BYTES);
    sp_buf_init(&headers, HEADERS_BYTES);
    sp_status s = ask_spillway(job, &url, &headers, &job->item->error);
    if (s) {
        net_job_fail(job, s);
    } else {
        sp_http_request request = {
            .method = SP_HTTP_POST,
            .url = (const char *)url.data,
            .headers = (const char *)headers.data,
            .body = { job->item->body }, /* straight from the mapped memfd */
            .keep_headers = SP_SPILLWAY_HEADERS,
            .done = spillway_done,
        };
        net_remote_fill(job, &request);
        request.body_limit_bytes = SP_MIN(request.body_limit_bytes, (uint64_t)SP_LIMIT_JSON_BYTES); /* no house writes more */
        net_job_ask(job, &request);
    }
    sp_buf_done(&url);
    sp_buf_done(&headers);
}

void net_remote(net_job *job)
{
    sp_status s = find_remote(job, &job->item->error);
    if (s) {
        net_job_fail(job, s);
        return;
    }
    choose_model(job);
    if (job->item->request->task == TASK_INFER)
        net_infer(job);
    else if (job->remote->kind == SP_REMOTE_SPILLWAY)
        spillway(job);
    else
        net_kserve(job);
}
