/* SPDX-License-Identifier: Apache-2.0
 * The wire format of another Spillway: POST /infer with the body as it came, its JSON answer, its problem+json. Pure:
 * who sends is provider/transport.h, who asks worker/net_remote.c. Any thread. */
#ifndef SP_PROVIDER_SPILLWAY_H
#define SP_PROVIDER_SPILLWAY_H

#include "base/buf.h"
#include "provider/answer.h"

/* Response headers of an answer that is no JSON (noop), in the order of sp_http_request.keep_headers. */
#define SP_SPILLWAY_HEADERS { "X-Spillway-Link", "X-Spillway-Device", "X-Spillway-Precision", "X-Spillway-Attempts" }

typedef struct sp_spillway_question {
    const char *base_url; /* "http://house:8000"; a slash at its end is fine */
    const char *task;     /* "classify", "noop" */
    const char *model;    /* "" = its default */
    uint32_t top_k;       /* 0 = its default */
    bool decode_fast;
    const char *request_id, *content_type; /* "" = none, unknown */
    int64_t timeout_ms;
    const char *traceparent, *tracestate; /* NULL or "" = none */
    uint32_t hops; /* that the request has come through before this one */
} sp_spillway_question;

/* The URL, and "Name: value\n" lines. SP_UNSUPPORTED, code "too_many_hops"; SP_INTERNAL: they do not fit. */
sp_status sp_spillway_ask(const sp_spillway_question *question, sp_buf *url, sp_buf *headers, sp_error *reterr);

/* A 200 of classify. SP_CORRUPT, code "bad_answer": it is not one. */
sp_status sp_spillway_read_answer(sp_view body, sp_provider_answer *ret_answer, sp_error *reterr);

/* Who answered and what was tried, from the headers of a noop's answer. */
void sp_spillway_read_headers(const char *const values[4], sp_provider_answer *ret_answer);

/* Any other HTTP status: the status that it means here, never SP_OK, with the far side's code and words where it said
 * some; *ret_tried: who spoke and its attempts (empty when it said none). Only what the far side's decoders, which are
 * ours too, say of the bytes ends the chain; that it does not know a model, a parameter or us is its own affair. */
sp_status sp_spillway_read_problem(int http_status, sp_view body, sp_provider_answer *ret_tried, sp_error *reterr);

#endif
