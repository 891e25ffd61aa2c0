/* SPDX-License-Identifier: Apache-2.0
 * The access log, and what begins and ends a request's story. */
#include "gateway/story.h"

#include "base/sink.h"
#include "gateway/tracing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct gw_stories {
    sp_sink *sink; /* NULL = no access log */
    gw_tracing *tracing;
    sp_metric *dropped;
    uint64_t dropped_seen;
};

void gw_trace_begin(gw_server *server, gw_story *story, const char *traceparent, const char *tracestate)
{
    const sp_tracing_config *config = &gw_config(server)->tracing;
    uint64_t words[3];
    uint8_t random[24];
    for (int i = 0; i < 3; i++)
        words[i] = gw_random(server);
    memcpy(random, words, sizeof(random));
    sp_trace_begin(&story->trace, traceparent, tracestate, *config->otlp ? config->rate : 0, random);
    story->answered = false;
    story->cache = NULL;
    story->link[0] = story->model[0] = story->version[0] = story->code[0] = 0;
    story->attempt_count = 0;
    story->batch_size = 0;
    story->queue_ns = story->decode_ns = story->preprocess_ns = story->inference_ns = story->postprocess_ns = 0;
}

void gw_story_answer(gw_story *story, const sp_answer *answer, const char *cache)
{
    story->answered = true;
    story->cache = cache;
    (void)snprintf(story->link, sizeof(story->link), "%s", answer->link);
    (void)snprintf(story->model, sizeof(story->model), "%s", answer->model);
    (void)snprintf(story->version, sizeof(story->version), "%s", answer->version);
    if (answer->status)
        (void)snprintf(story->code, sizeof(story->code), "%.31s",
                       *answer->error.code ? answer->error.code : sp_status_name(answer->status));
    story->batch_size = answer->batch_size;
    story->done_ns = sp_clock_now_ns();
    story->begun_ns = answer->received_ns;
    story->queue_ns = answer->queue_ns;
    story->decode_ns = answer->decode_ns;
    story->preprocess_ns = answer->preprocess_ns;
    story->inference_ns = answer->inference_ns;
    story->postprocess_ns = answer->postprocess_ns;
    story->attempt_count = SP_CLAMP(answer->attempt_count, 0, SP_LIMIT_ATTEMPTS);
    memcpy(story->attempts, answer->attempts, (size_t)story->attempt_count * sizeof(story->attempts[0]));
}

/* --- the access log ---------------------------------------------------------------------------------------------------- */

static void put_text(sp_buf *line, const char *key, const char *text)
{
    if (!text || !*text)
        return;
    sp_buf_printf(line, ",\"%s\":", key);
    sp_buf_append_json_text(line, text);
}

static void put_ms(sp_buf *line, const char *key, int64_t ns)
{
    if (ns > 0)
        sp_buf_printf(line, ",\"%s\":%.3f", key, (double)ns / (double)SP_NS_PER_MS);
}

static void put_time(sp_buf *line, int64_t wall_ns)
{
    time_t seconds = (time_t)(wall_ns / SP_NS_PER_S);
    struct tm tm;
    char text[32];
    gmtime_r(&seconds, &tm);
    (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    sp_buf_printf(line, "{\"time\":\"%s.%03dZ\"", text, (int)(wall_ns / SP_NS_PER_MS % 1000));
}

static void write_line(struct gw_stories *stories, const gw_story *s)
{
    char id[33];
    sp_buf line;
    sp_buf_init(&line, SP_LIMIT_LOG_LINE_BYTES);
    put_time(&line, sp_clock_wall_ns() - (s->ended_ns - s->received_ns));
    put_text(&line, "method", s->method);
    put_text(&line, "route", s->route);
    sp_buf_printf(&line, ",\"status\":%d", s->status);
    put_text(&line, "code", s->code);
    sp_buf_printf(&line, ",\"ms\":%.3f", (double)(s->ended_ns - s->received_ns) / (double)SP_NS_PER_MS);
    put_ms(&line, "queue_ms", s->queue_ns);
    put_ms(&line, "decode_ms", s->decode_ns);
    put_ms(&line, "preprocess_ms", s->preprocess_ns);
    put_ms(&line, "inference_ms", s->inference_ns);
    put_ms(&line, "postprocess_ms", s->postprocess_ns);
    put_text(&line, "model", s->model);
    put_text(&line, "version", s->version);
    put_text(&line, "link", s->link);
    put_text(&line, "cache", s->cache);
    if (s->attempt_count)
        sp_buf_printf(&line, ",\"attempts\":%d", s->attempt_count);
    if (s->batch_size)
        sp_buf_printf(&line, ",\"batch_size\":%u", s->batch_size);
    sp_buf_printf(&line, ",\"bytes_in\":%llu,\"bytes_out\":%llu", (unsigned long long)s->bytes_in,
                  (unsigned long long)s->bytes_out);
    put_text(&line, "request_id", s->request_id);
    sp_trace_hex(s->trace.trace_id, 16, id);
    put_text(&line, "trace_id", id);
    sp_trace_hex(s->trace.span_id, 8, id);
    put_text(&line, "span_id", id);
    put_text(&line, "token", s->token);
    put_text(&line, "tenant", s->tenant);
    put_text(&line, "address", s->address);
    sp_buf_append_text(&line, "}\n");
    if (sp_buf_ok(&line)) /* every text above is bounded; together they fit */
        sp_sink_write(stories->sink, line.data, line.size_bytes);
    sp_buf_done(&line);
    uint64_t dropped = sp_sink_dropped_count(stories->sink);
    if (dropped != stories->dropped_seen)
        sp_metric_add(stories->dropped, (int64_t)(dropped - stories->dropped_seen));
    stories->dropped_seen = dropped;
}

static bool is_exported(const gw_server *server, const gw_story *story)
{
    return (story->trace.flags & SP_TRACE_SAMPLED) && *gw_config(server)->tracing.otlp;
}

bool gw_stories_want(const gw_server *server, const gw_story *story)
{
    return server->stories && (server->stories->sink || is_exported(server, story));
}

void gw_story_end(gw_server *server, gw_story *story)
{
    struct gw_stories *stories = server->stories;
    if (!stories)
        return;
    if (stories->sink)
        write_line(stories, story);
    if (is_exported(server, story))
        gw_tracing_add(stories->tracing, story);
}

/* --- life -------------------------------------------------------------------------------------------------------------- */

sp_status gw_stories_open(gw_server *server, sp_error *reterr)
{
    struct gw_stories *stories = server->stories = calloc(1, sizeof(*stories));
    if (!stories)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the access log");
    stories->dropped = sp_metric_get(SP_METRIC_COUNTER, "spillway_access_log_dropped_total", "",
                                     "Lines of the access log that the disk or the reader was too slow for");
    sp_status s = gw_tracing_new(server, &stories->tracing, reterr);
    if (!s && *gw_config(server)->access_log)
        s = sp_sink_open(gw_config(server)->access_log, &stories->sink, reterr);
    return s;
}

void gw_stories_reload(gw_server *server)
{
    if (server->stories && server->stories->sink)
        sp_sink_reopen(server->stories->sink);
}

void gw_stories_flush(gw_server *server)
{
    if (server->stories)
        gw_tracing_flush(server->stories->tracing);
}

bool gw_stories_busy(const gw_server *server)
{
    return server->stories && gw_tracing_busy(server->stories->tracing);
}

void gw_stories_close(gw_server *server)
{
    if (!server->stories)
        return;
    gw_tracing_free(server->stories->tracing);
    sp_sink_close(server->stories->sink);
    free(server->stories);
    server->stories = NULL;
}
