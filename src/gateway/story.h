/* SPDX-License-Identifier: Apache-2.0
 * The story of one request, whatever front end it came through: what the access log tells in a line and a trace in spans.
 *
 *   gw_trace_begin    when its headers (or metadata) are known: this hop's ids
 *   sp_request_params.trace = &story->trace   the house sends them on to remotes
 *   gw_story_answer   in the house's callback, while the answer is good: copies what will be told
 *   gw_story_end      when the answer is out, or nobody wants it any more: exactly once
 *
 * Loop thread only. */
#ifndef SP_GATEWAY_STORY_H
#define SP_GATEWAY_STORY_H

#include "base/trace.h"
#include "route/house.h"

struct gw_server;

typedef struct gw_story {
    sp_trace trace;
    /* Set by whoever ends it; texts need only live until gw_story_end returns. */
    const char *method, *route; /* "POST", "/v2/models/{}/infer"; of gRPC "grpc", "/inference.GRPCInferenceService/ModelInfer" */
    const char *request_id, *token, *tenant, *address;
    int status;                 /* HTTP's, or gRPC's code; 499: the client has gone away */
    bool grpc, failed;          /* failed: the server's fault, or nobody's answer */
    uint64_t bytes_in, bytes_out;
    int64_t received_ns, ended_ns;
    /* Copied by gw_story_answer: */
    bool answered;
    char link[32], model[64], version[16], code[32];
    const char *cache; /* literal: "hit", "miss", "shared", "off"; NULL = not asked */
    uint32_t batch_size;
    int64_t begun_ns, done_ns; /* in the house */
    int64_t queue_ns, decode_ns, preprocess_ns, inference_ns, postprocess_ns;
    int attempt_count;
    sp_attempt attempts[SP_LIMIT_ATTEMPTS];
} gw_story;

/* The one place where trace context comes in: HTTP header fields, or gRPC metadata of the same names. NULL = not there. */
void gw_trace_begin(struct gw_server *server, gw_story *story, const char *traceparent, const char *tracestate);
void gw_story_answer(gw_story *story, const sp_answer *answer, const char *cache);
/* Will gw_story_end do anything? So that nobody gathers what is not told. */
bool gw_stories_want(const struct gw_server *server, const gw_story *story);
void gw_story_end(struct gw_server *server, gw_story *story);

/* The access log's and the exporter's life; NULL members = off. */
sp_status gw_stories_open(struct gw_server *server, sp_error *reterr);
void gw_stories_reload(struct gw_server *server); /* the configuration is another one; SIGHUP */
void gw_stories_flush(struct gw_server *server);  /* draining: send what there is now */
bool gw_stories_busy(const struct gw_server *server);
void gw_stories_close(struct gw_server *server);  /* before the house is freed */

#endif
