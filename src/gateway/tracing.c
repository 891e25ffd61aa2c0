/* SPDX-License-Identifier: Apache-2.0
 * A request's spans, and the queue to the collector.
 *
 *   <method> <route>     server: from the first byte to the answer
 *   ├─ queue             in the house, before somebody began
 *   ├─ decode            by a codec
 *   └─ attempt <link>    client: one per link that was asked; a remote gets its id as its parent
 *      └─ preprocess, inference, postprocess   under the attempt that answered
 *
 * The house tells how long its stages took, not when they began: queue is laid behind the beginning, decode behind the queue,
 * the others are laid end to end before the end of the attempt. */
#include "gateway/tracing.h"

#include "base/log.h"
#include "jobs/send.h"
#include "telemetry/otlp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_BYTES   (1024u * 1024) /* of spans that wait: about 2,000 */
#define BATCH_BYTES   (256u * 1024)  /* are sent at once, or what came in a second */
#define BATCH_NS      SP_NS_PER_S
#define SEND_NS       (5 * SP_NS_PER_S)
#define TRIES         3
#define SPANS_MOST    (2 + SP_LIMIT_ATTEMPTS + 4)

struct gw_tracing {
    gw_server *server;
    sp_buf waiting; /* spans, separated by commas */
    int waiting_count;
    sp_buf batch; /* on its way, whole */
    int batch_count, tries;
    bool in_flight; /* or waiting for its next try */
    sp_send send;
    sp_timer timer; /* of the next batch, or of the next try */
    bool timed;
    char instance[40];
    sp_metric *exported, *dropped_full, *dropped_failed;
    int64_t complained_ns;
};

/* --- spans ------------------------------------------------------------------------------------------------------------- */

typedef struct span_writer {
    sp_buf *out;
    const gw_story *story;
    int64_t wall_ns; /* of the monotonic clock's zero */
    int count;
    bool first;
} span_writer;

static void put(span_writer *w, const char *name, uint64_t number, const uint8_t parent[8], sp_span_kind kind, int64_t start_ns,
                int64_t end_ns, const sp_span *more)
{
    uint8_t id[8];
    sp_span span = more ? *more : (sp_span){ 0 };
    span.trace_id = w->story->trace.trace_id;
    if (!span.span_id) {
        sp_trace_child(&w->story->trace, number, id);
        span.span_id = id;
    }
    span.parent_id = parent;
    span.state = w->story->trace.state;
    span.name = name;
    span.kind = kind;
    span.start_ns = start_ns + w->wall_ns;
    span.end_ns = end_ns + w->wall_ns;
    sp_otlp_span(w->out, &span, w->first);
    w->first = false;
    w->count++;
}

static void put_request(span_writer *w)
{
    const gw_story *s = w->story;
    char name[160];
    const sp_span_field fields[] = {
        { s->grpc ? "rpc.method" : "http.request.method", s->grpc ? s->route : s->method, 0 },
        { "http.route", s->grpc ? "" : s->route, 0 },
        { s->grpc ? "rpc.grpc.status_code" : "http.response.status_code", NULL, s->status },
        { "spillway.request_id", s->request_id ? s->request_id : "", 0 },
        { "spillway.model", s->model, 0 },
        { "spillway.model_version", s->version, 0 },
        { "spillway.link", s->link, 0 },
        { "spillway.cache", s->cache ? s->cache : "", 0 },
        { "spillway.tenant", s->tenant ? s->tenant : "", 0 },
        { "spillway.batch_size", NULL, s->batch_size },
        { "http.request.body.size", NULL, (int64_t)s->bytes_in },
        { "http.response.body.size", NULL, (int64_t)s->bytes_out },
    };
    const sp_span more = { .span_id = s->trace.span_id, .status = s->failed ? SP_SPAN_ERROR : SP_SPAN_UNSET, .message = s->code,
                           .fields = fields, .field_count = SP_ARRAY_LEN(fields) };
    (void)snprintf(name, sizeof(name), "%s%s%.120s", s->grpc ? "" : s->method, s->grpc ? "" : " ", s->route);
    put(w, name, 0, s->trace.parent_id, SP_SPAN_SERVER, s->received_ns, s->ended_ns, &more);
}

/* The stages of the attempt that answered, end to end before its end. */
static void put_stages(span_writer *w, const sp_attempt *attempt)
{
    const gw_story *s = w->story;
    uint8_t parent[8];
    const struct {
        const char *name;
        int64_t ns;
    } stages[] = { { "postprocess", s->postprocess_ns }, { "inference", s->inference_ns }, { "preprocess", s->preprocess_ns } };
    int64_t end_ns = attempt->end_ns;
    sp_trace_child(&s->trace, (uint64_t)attempt->start_ns, parent);
    for (size_t i = 0; i < SP_ARRAY_LEN(stages); i++) {
        int64_t start_ns = SP_MAX(end_ns - stages[i].ns, attempt->start_ns);
        if (stages[i].ns > 0)
            put(w, stages[i].name, (uint64_t)attempt->start_ns + 1 + i, parent, SP_SPAN_INTERNAL, start_ns, end_ns, NULL);
        end_ns = start_ns;
    }
}

static void put_attempt(span_writer *w, const sp_attempt *attempt)
{
    char name[48];
    const sp_span_field fields[] = {
        { "spillway.link", attempt->link, 0 },
        { "spillway.status", sp_status_name(attempt->status), 0 },
        { "spillway.reason", attempt->reason, 0 },
    };
    const sp_span more = { .status = attempt->status ? SP_SPAN_ERROR : SP_SPAN_UNSET, .message = attempt->reason,
                           .fields = fields, .field_count = SP_ARRAY_LEN(fields) };
    (void)snprintf(name, sizeof(name), "attempt %.31s", attempt->link);
    put(w, name, (uint64_t)attempt->start_ns, w->story->trace.span_id, SP_SPAN_CLIENT, attempt->start_ns, attempt->end_ns,
        &more);
}

static int put_story(sp_buf *out, const gw_story *s, bool first)
{
    span_writer w = { .out = out, .story = s, .wall_ns = sp_clock_wall_ns() - sp_clock_now_ns(), .first = first };
    const uint8_t *own = s->trace.span_id;
    put_request(&w);
    if (!s->answered)
        return w.count;
    int64_t at_ns = s->begun_ns;
    if (s->queue_ns > 0)
        put(&w, "queue", 1, own, SP_SPAN_INTERNAL, at_ns, at_ns + s->queue_ns, NULL);
    at_ns += s->queue_ns;
    if (s->decode_ns > 0)
        put(&w, "decode", 2, own, SP_SPAN_INTERNAL, at_ns, at_ns + s->decode_ns, NULL);
    const sp_attempt *last = NULL;
    for (int i = 0; i < s->attempt_count; i++) {
        put_attempt(&w, &s->attempts[i]);
        if (!s->attempts[i].status)
            last = &s->attempts[i];
    }
    if (last)
        put_stages(&w, last);
    return w.count;
}

/* --- the queue --------------------------------------------------------------------------------------------------------- */

static void sent(const sp_send_result *result, void *context);

static void complain(gw_tracing *t, const char *why)
{
    int64_t now_ns = sp_clock_now_ns();
    if (t->complained_ns && now_ns - t->complained_ns < 60 * SP_NS_PER_S)
        return;
    t->complained_ns = now_ns;
    sp_log(SP_LOG_WARN, "spans do not reach the collector", SP_LOG_TEXT("otlp", gw_config(t->server)->tracing.otlp),
           SP_LOG_TEXT("reason", why));
}

static void arm(gw_tracing *t, int64_t after_ns)
{
    t->timed = !sp_loop_timer_set(t->server->loop, &t->timer, sp_clock_now_ns() + after_ns, NULL);
}

static void batch_over(gw_tracing *t, bool delivered)
{
    sp_metric_add(delivered ? t->exported : t->dropped_failed, t->batch_count);
    sp_buf_clear(&t->batch);
    t->batch_count = 0;
    t->in_flight = false;
    if (t->waiting_count)
        arm(t, t->waiting.size_bytes >= BATCH_BYTES || t->server->draining ? 0 : BATCH_NS);
}

static void try_send(gw_tracing *t)
{
    const sp_tracing_config *config = &gw_config(t->server)->tracing;
    const char *authority = strstr(config->otlp, "://");
    bool bare = authority && !strchr(authority + 3, '/');
    char url[sizeof(config->otlp) + 16];
    sp_error err = { 0 };
    (void)snprintf(url, sizeof(url), "%s%s", config->otlp, bare ? "/v1/traces" : "");
    const sp_send_params params = { .url = url, .content_type = "application/json", .private_ok = true, .timeout_ns = SEND_NS,
                                    .body = sp_buf_view(&t->batch) };
    t->tries++;
    if (!*config->otlp) { /* switched off meanwhile */
        batch_over(t, false);
        return;
    }
    if (!sp_send_start(&t->send, t->server->house, &params, sent, t, &err))
        return;
    const sp_send_result refused = { .permanent = !sp_status_tries_next(err.status) && err.status != SP_BUSY };
    sp_send_result result = refused;
    (void)snprintf(result.detail, sizeof(result.detail), "%.255s", err.message);
    sent(&result, t);
}

static void sent(const sp_send_result *result, void *context)
{
    gw_tracing *t = context;
    if (!result->delivered)
        complain(t, result->detail);
    if (result->delivered || result->permanent || t->tries >= TRIES)
        batch_over(t, result->delivered);
    else
        arm(t, (int64_t)t->tries * BATCH_NS);
}

static void batch_begin(gw_tracing *t)
{
    sp_otlp_begin(&t->batch, gw_config(t->server)->tracing.service, t->instance);
    sp_buf_append(&t->batch, t->waiting.data, t->waiting.size_bytes);
    sp_otlp_end(&t->batch);
    t->batch_count = t->waiting_count;
    t->tries = 0;
    t->in_flight = true;
    sp_buf_clear(&t->waiting);
    t->waiting_count = 0;
    if (sp_buf_ok(&t->batch))
        try_send(t);
    else
        batch_over(t, false);
}

static void fire(sp_timer *timer, void *context)
{
    gw_tracing *t = context;
    (void)timer;
    t->timed = false;
    if (t->in_flight)
        try_send(t);
    else if (t->waiting_count)
        batch_begin(t);
}

void gw_tracing_add(gw_tracing *t, const gw_story *story)
{
    size_t before = t->waiting.size_bytes;
    int count = put_story(&t->waiting, story, !t->waiting_count);
    if (!sp_buf_ok(&t->waiting)) {
        t->waiting.size_bytes = before;
        t->waiting.failed = false;
        sp_metric_add(t->dropped_full, count);
        return;
    }
    t->waiting_count += count;
    if (!t->in_flight && (!t->timed || t->waiting.size_bytes >= BATCH_BYTES))
        arm(t, t->waiting.size_bytes >= BATCH_BYTES ? 0 : BATCH_NS);
}

void gw_tracing_flush(gw_tracing *t)
{
    if (!t->in_flight && t->waiting_count)
        arm(t, 0);
}

bool gw_tracing_busy(const gw_tracing *t)
{
    return t->waiting_count || t->in_flight;
}

sp_status gw_tracing_new(gw_server *server, gw_tracing **ret_tracing, sp_error *reterr)
{
    gw_tracing *t = calloc(1, sizeof(*t));
    if (!t)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for tracing");
    t->server = server;
    t->timer = (sp_timer){ .fire = fire, .context = t };
    sp_buf_init(&t->waiting, QUEUE_BYTES);
    sp_buf_init(&t->batch, QUEUE_BYTES + 4096);
    (void)snprintf(t->instance, sizeof(t->instance), "%08x-%d", server->boot_id, server->listeners[GW_LISTEN_HTTP].port);
    t->exported = sp_metric_get(SP_METRIC_COUNTER, "spillway_trace_spans_total", "outcome=\"exported\"",
                                "Spans of sampled requests, by what became of them");
    t->dropped_full = sp_metric_get(SP_METRIC_COUNTER, "spillway_trace_spans_total", "outcome=\"queue_full\"",
                                    "Spans of sampled requests, by what became of them");
    t->dropped_failed = sp_metric_get(SP_METRIC_COUNTER, "spillway_trace_spans_total", "outcome=\"not_delivered\"",
                                      "Spans of sampled requests, by what became of them");
    *ret_tracing = t;
    return SP_OK;
}

void gw_tracing_free(gw_tracing *t)
{
    if (!t)
        return;
    sp_loop_timer_clear(t->server->loop, &t->timer);
    sp_send_cancel(&t->send);
    sp_buf_done(&t->waiting);
    sp_buf_done(&t->batch);
    free(t);
}
