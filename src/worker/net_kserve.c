/* SPDX-License-Identifier: Apache-2.0
 * REMOTE by a KServe V2 server: the tensor that an earlier link made goes there, the row that comes back is ranked and
 * labelled here as the local classifier does it (task/rank.h). */
#include "worker/net.h"

#include "provider/kserve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES 2048

/* --- what a server said of its model ------------------------------------------------------------------------------ */

static const sp_kserve_model *recall(const net_job *job)
{
    for (int i = 0; i < NET_KSERVE_MODELS; i++) {
        if (strcmp(job->net->kserve_models[i].url, job->model_url) == 0)
            return &job->net->kserve_models[i].model;
    }
    return NULL;
}

static void remember(const net_job *job)
{
    net_kserve_model *place = &job->net->kserve_models[job->net->next_kserve_model++ % NET_KSERVE_MODELS];
    (void)snprintf(place->url, sizeof(place->url), "%s", job->model_url);
    place->model = job->kserve_model;
}

/* It may have been replaced by one of another shape. */
static void forget(const net_job *job)
{
    for (int i = 0; i < NET_KSERVE_MODELS; i++) {
        if (strcmp(job->net->kserve_models[i].url, job->model_url) == 0)
            job->net->kserve_models[i].url[0] = 0;
    }
}

/* --- the answer --------------------------------------------------------------------------------------------------- */

static sp_status rank(net_job *job, const sp_kserve_row *row, sp_error *reterr)
{
    const sp_slot_request *asked = job->item->request;
    const sp_model *local = net_model_find(job->net, *asked->model ? asked->model
                                                     : job->net->default_model ? job->net->default_model : job->model);
    if (local && local->label_count && local->label_count != row->count)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "bad_answer", "the remote gives %u classes, %s has %u labels", row->count,
                            local->name, local->label_count);
    sp_output_meaning meaning = local ? local->meaning : SP_OUTPUT_UNKNOWN;
    if (meaning == SP_OUTPUT_UNKNOWN)
        meaning = sp_rank_meaning(row->values, row->count);
    float *probabilities = malloc(row->count * sizeof(*probabilities));
    if (!probabilities)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %u classes", row->count);
    sp_class_score scores[SP_LIMIT_TOP_K];
    int top_k = asked->top_k ? (int)SP_MIN(asked->top_k, (uint32_t)SP_LIMIT_TOP_K) : 5;
    static sp_provider_answer answer; /* one thread, and large */
    memset(&answer, 0, sizeof(answer));
    sp_status s = sp_rank_top(job->model, row->values, row->count, meaning, top_k, probabilities, scores, &answer.class_count, reterr);
    free(probabilities);
    if (s)
        return s;
    for (int i = 0; i < answer.class_count; i++) {
        sp_provider_class *class = &answer.classes[i];
        class->class_id = scores[i].class_id;
        class->probability = scores[i].probability;
        (void)snprintf(class->label, sizeof(class->label), "%s", local ? sp_model_label(local, class->class_id) : "");
    }
    (void)snprintf(answer.model, sizeof(answer.model), "%s", *row->model ? row->model : job->model);
    (void)snprintf(answer.version, sizeof(answer.version), "%s", row->version);
    (void)snprintf(answer.engine, sizeof(answer.engine), "%s", *job->kserve_model.platform ? job->kserve_model.platform : "kserve");
    net_remote_put(job, &answer);
    return SP_OK;
}

static void infer_done(void *context, const sp_http_result *result)
{
    net_job *job = context;
    sp_work_item *item = job->item;
    sp_kserve_row row = { 0 };
    job->call = NULL;
    item->done.retry_after_ns = result->retry_after_ns;
    if (result->status) {
        item->status = net_remote_transport_failed(job, result, &item->error);
    } else if (result->http_status != 200) {
        item->status = sp_kserve_read_problem(result->http_status, result->body, &item->error);
        forget(job);
    } else {
        item->status = sp_kserve_read_answer(result->body, result->kept[0], job->kserve_model.output, &row, &item->error);
        if (!item->status)
            item->status = rank(job, &row, &item->error);
        free(row.values);
    }
    net_job_finish(job);
}

/* --- the question ------------------------------------------------------------------------------------------------- */

void net_kserve_headers(const net_job *job, char ret_headers[NET_KSERVE_HEADERS_BYTES])
{
    char traceparent[SP_TRACEPARENT_BYTES], tracestate[SP_TRACESTATE_BYTES];
    net_trace_headers(job, traceparent, tracestate);
    (void)snprintf(ret_headers, NET_KSERVE_HEADERS_BYTES, "Inference-Header-Content-Length: %zu\n%s%s%s%s%s%s", job->head.size_bytes,
                   *traceparent ? "traceparent: " : "", traceparent, *traceparent ? "\n" : "", *tracestate ? "tracestate: " : "",
                   tracestate, *tracestate ? "\n" : "");
}

static void ask(net_job *job)
{
    sp_work_item *item = job->item;
    char url[sizeof(job->model_url) + 8], headers[NET_KSERVE_HEADERS_BYTES], id[sizeof(item->request->request_id)];
    const sp_prep_spec prep = item->request->prep; /* a copy: what is checked is what is used */
    memcpy(id, item->request->request_id, sizeof(id));
    id[sizeof(id) - 1] = 0;
    sp_buf_init(&job->head, HEAD_BYTES);
    sp_status s = sp_kserve_write_head(&job->head, &job->kserve_model, id, &prep, item->input.size_bytes, &item->error);
    if (s) {
        net_job_fail(job, s);
        return;
    }
    (void)snprintf(url, sizeof(url), "%s/infer", job->model_url);
    net_kserve_headers(job, headers);
    sp_http_request request = {
        .method = SP_HTTP_POST,
        .url = url,
        .headers = headers, /* Content-Type: application/octet-stream is the transport's own default */
        .body = { sp_buf_view(&job->head), item->input },
        .keep_headers = { "Inference-Header-Content-Length" },
        .done = infer_done,
    };
    net_remote_fill(job, &request);
    net_job_ask(job, &request);
}

static void metadata_done(void *context, const sp_http_result *result)
{
    net_job *job = context;
    sp_work_item *item = job->item;
    sp_status s;
    job->call = NULL;
    item->done.retry_after_ns = result->retry_after_ns;
    if (result->status)
        s = net_remote_transport_failed(job, result, &item->error);
    else if (result->http_status != 200)
        s = sp_kserve_read_problem(result->http_status, result->body, &item->error);
    else
        s = sp_kserve_read_metadata(result->body, job->remote->input, job->remote->output, &job->kserve_model, &item->error);
    if (s) {
        net_job_fail(job, s);
        return;
    }
    remember(job);
    ask(job);
}

void net_kserve(net_job *job)
{
    sp_work_item *item = job->item;
    sp_buf url;
    const sp_kserve_model *known;
    if (item->submission->output_kind != SP_OUTPUT_TENSOR) {
        net_job_fail(job, SP_FAIL(&item->error, SP_UNSUPPORTED, "remote %s takes tensors, and none was made", job->remote->name));
        return;
    }
    if (!*job->model) {
        net_job_fail(job, SP_FAIL_CODE(&item->error, SP_UNSUPPORTED, "remote_model", "no model is named for remote %s: give "
                                       "model: NAME under it", job->remote->name));
        return;
    }
    sp_buf_init(&url, sizeof(job->model_url));
    sp_kserve_url(&url, job->remote->url, job->model);
    bool fits = sp_buf_ok(&url);
    if (fits)
        memcpy(job->model_url, url.data, url.size_bytes);
    sp_buf_done(&url);
    if (!fits) {
        net_job_fail(job, SP_FAIL(&item->error, SP_UNAVAILABLE, "the URL of remote %s is too long", job->remote->name));
        return;
    }
    known = recall(job);
    if (known) {
        job->kserve_model = *known;
        ask(job);
        return;
    }
    sp_http_request request = { .method = SP_HTTP_GET, .url = job->model_url, .done = metadata_done };
    net_remote_fill(job, &request);
    net_job_ask(job, &request);
}
