/* SPDX-License-Identifier: Apache-2.0
 * What a request asks for: headers, query and form fields, each read once and checked. */
#include "gateway/server.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define TOP_K_MAX 100
#define PRIORITY_MAX 10

/* Digits only, no sign, no blanks. */
static bool number_read(sp_view text, uint64_t max, uint64_t *ret_number)
{
    uint64_t number = 0;
    if (!text.size_bytes || text.size_bytes > 19)
        return false;
    for (size_t i = 0; i < text.size_bytes; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        number = number * 10 + (uint64_t)(text.data[i] - '0');
    }
    *ret_number = number;
    return number <= max;
}

static void refuse(gw_headers *h, int status, const char *code, const char *text)
{
    if (h->status)
        return;
    h->status = status;
    (void)SP_FAIL_CODE(&h->error, SP_INVALID, code, "%s", text);
}

/* Two answers to who asks, or whom: somebody before us may have looked at the other one. */
static void once(gw_headers *h, const char **place, const char *value, const char *complaint)
{
    if (*place)
        refuse(h, 400, "ambiguous_header", complaint);
    *place = value;
}

static void request_id_take(gw_conn *conn, const char *value)
{
    size_t n = strlen(value);
    bool good = n > 0 && n < sizeof(conn->request_id);
    for (size_t i = 0; good && i < n; i++)
        good = isalnum((unsigned char)value[i]) || strchr("-_.:/+=@", value[i]);
    if (!good)
        return; /* not worth an error: the client gets ours */
    memcpy(conn->request_id, value, n + 1);
    conn->headers.has_request_id = true;
}

static enum MHD_Result header_take(void *context, enum MHD_ValueKind kind, const char *key, const char *value)
{
    (void)kind;
    gw_conn *conn = context;
    gw_headers *h = &conn->headers;
    if (!value)
        value = "";
    /* The length tells most names apart without a compare. */
    switch (strlen(key)) {
    case 4:
        if (strcasecmp(key, "Host") == 0)
            once(h, &h->host, value, "the request has more than one Host");
        break;
    case 6:
        if (strcasecmp(key, "Origin") == 0) {
            once(h, &h->origin, value, "the request has more than one Origin");
        } else if (strcasecmp(key, "Expect") == 0) {
            h->expects_continue = strcasecmp(value, "100-continue") == 0;
            if (!h->expects_continue)
                refuse(h, 417, "expectation_failed", "the only expectation this server knows is \"100-continue\"");
        }
        break;
    case 10:
        if (strcasecmp(key, "tracestate") == 0 && !h->tracestate)
            h->tracestate = value;
        break;
    case 11:
        if (strcasecmp(key, "traceparent") == 0)
            h->traceparent = h->traceparent ? "" : value; /* two of them are none */
        break;
    case 12:
        if (strcasecmp(key, "Content-Type") == 0)
            h->content_type = value;
        else if (strcasecmp(key, "X-Request-Id") == 0)
            request_id_take(conn, value);
        break;
    case 13:
        if (strcasecmp(key, "Authorization") == 0)
            once(h, &h->authorization, value, "the request has more than one Authorization");
        else if (strcasecmp(key, "Cache-Control") == 0)
            h->cache_control = value;
        break;
    case 14:
        if (strcasecmp(key, "Sec-Fetch-Site") == 0) {
            h->fetch_site = value;
        } else if (strcasecmp(key, "Content-Length") == 0) {
            if (h->has_length)
                refuse(h, 400, "ambiguous_length", "the request has more than one Content-Length");
            else if (!number_read(sp_view_of(value), INT64_MAX, &h->content_length))
                refuse(h, 400, "bad_length", "Content-Length must be a number");
            h->has_length = true;
        }
        break;
    case 15:
        if (strcasecmp(key, "X-Spillway-Hops") == 0)
            h->hops = value;
        break;
    case 16:
        if (strcasecmp(key, "Content-Encoding") == 0 && strcasecmp(value, "identity") != 0)
            h->content_encoding = value; /* refused by all but inference (http.c) */
        break;
    case 17:
        if (strcasecmp(key, "Sec-WebSocket-Key") == 0) {
            h->socket_key = value;
        } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
            if (h->chunked || strcasecmp(value, "chunked") != 0)
                refuse(h, 400, "bad_transfer_encoding", "the only transfer encoding this server reads is \"chunked\"");
            h->chunked = true;
        }
        break;
    case 21:
        if (strcasecmp(key, "X-Spillway-Timeout-Ms") == 0)
            h->timeout_text = value;
        else if (strcasecmp(key, "X-Spillway-Local-Only") == 0)
            h->local_text = value;
        break;
    default:
        break;
    }
    return MHD_YES;
}

void gw_headers_read(gw_conn *conn, const char *version)
{
    gw_headers *h = &conn->headers;
    h->content_type = h->timeout_text = h->local_text = h->traceparent = h->tracestate = NULL;
    h->authorization = h->host = h->origin = h->fetch_site = h->hops = h->cache_control = h->socket_key = NULL;
    h->content_encoding = NULL;
    h->content_length = 0;
    h->has_length = h->chunked = h->expects_continue = h->has_request_id = false;
    h->status = 0;
    h->http10 = strcmp(version, "HTTP/1.0") == 0;
    (void)MHD_get_connection_values(conn->mhd, MHD_HEADER_KIND, header_take, conn);
    if (!h->has_request_id)
        gw_request_id_make(conn->server, conn->request_id);
    gw_trace_begin(conn->server, &conn->story, h->traceparent, h->tracestate);
    /* Two answers to "where does the body end" are how one request is smuggled inside another. */
    if (h->chunked && h->has_length)
        refuse(h, 400, "ambiguous_length", "the request has both Content-Length and Transfer-Encoding");
    if (h->chunked && h->http10)
        refuse(h, 400, "bad_transfer_encoding", "HTTP/1.0 has no chunked bodies; send a Content-Length");
}

/* xorshift128+, seeded by the kernel: ids must not collide, nobody must be kept from guessing them. */
uint64_t gw_random(gw_server *server)
{
    uint64_t x = server->id_state[0], y = server->id_state[1];
    server->id_state[0] = y;
    x ^= x << 23;
    server->id_state[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
    return server->id_state[1] + y;
}

void gw_request_id_make(gw_server *server, char ret_id[SP_LIMIT_REQUEST_ID_BYTES])
{
    static const char hex[] = "0123456789abcdef";
    uint64_t words[2] = { gw_random(server), gw_random(server) };
    for (int i = 0; i < 32; i++)
        ret_id[i] = hex[(words[i / 16] >> (4 * (i % 16))) & 15];
    ret_id[32] = 0;
}

static sp_status bad_option(sp_view value, const char *where, const char *key, const char *wanted, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s %s must be %s, not \"%.*s\"", where, key, wanted,
                        (int)SP_MIN(value.size_bytes, (size_t)40), (const char *)value.data);
}

static bool name_take(sp_view value, char *ret_name, size_t size_bytes)
{
    bool good = value.size_bytes > 0 && value.size_bytes < size_bytes;
    for (size_t i = 0; good && i < value.size_bytes; i++)
        good = isalnum(value.data[i]) || memchr("-_.", value.data[i], 3);
    if (good) {
        memcpy(ret_name, value.data, value.size_bytes);
        ret_name[value.size_bytes] = 0;
    }
    return good;
}

/* Keys that are none of ours are left alone: forms and caches add their own. */
sp_status gw_option_set(gw_options *options, const char *key, sp_view value, const char *where, sp_error *reterr)
{
    uint64_t number = 0;
    if (strcmp(key, "timeout_ms") == 0) {
        if (!number_read(value, INT64_MAX / SP_NS_PER_MS, &number) || number == 0)
            return bad_option(value, where, key, "a number of milliseconds from 1", reterr);
        if (!options->timeout_ms || (int64_t)number < options->timeout_ms)
            options->timeout_ms = (int64_t)number;
    } else if (strcmp(key, "top_k") == 0) {
        if (!number_read(value, TOP_K_MAX, &number) || number == 0)
            return bad_option(value, where, key, "a number from 1 to 100", reterr);
        options->top_k = (uint32_t)number;
    } else if (strcmp(key, "threshold") == 0 || strcmp(key, "iou") == 0) {
        if (!gw_share_read(value, *key == 't' ? &options->threshold : &options->iou))
            return bad_option(value, where, key, "a number from 0 to 1", reterr);
    } else if (strcmp(key, "decode") == 0) {
        if (!sp_decode_parse(value, &options->decode))
            return bad_option(value, where, key, "\"exact\", \"fast\" or \"nvjpeg\"", reterr);
    } else if (strcmp(key, "force_cpu") == 0 || strcmp(key, "local_only") == 0) {
        bool yes = sp_view_equals(value, "1") || sp_view_equals(value, "true");
        if (!yes && !sp_view_equals(value, "0") && !sp_view_equals(value, "false"))
            return bad_option(value, where, key, "true or false", reterr);
        if (*key == 'f')
            options->force_cpu = yes;
        else
            options->local_only = options->local_only || yes; /* whoever says it last cannot take it back */
    } else if (strcmp(key, "cache") == 0) {
        if (!sp_view_equals(value, "0") && !sp_view_equals(value, "1"))
            return bad_option(value, where, key, "0 or 1", reterr);
        options->cache = sp_view_equals(value, "1") ? GW_CACHE_ON : GW_CACHE_OFF;
    } else if (strcmp(key, "priority") == 0) {
        bool negative = value.size_bytes && value.data[0] == '-';
        sp_view digits = sp_view_make(value.data + negative, value.size_bytes - negative);
        if (!number_read(digits, PRIORITY_MAX, &number))
            return bad_option(value, where, key, "a whole number from -10 to 10", reterr);
        options->priority = negative ? -(int)number : (int)number;
    } else if (strcmp(key, "model") == 0) {
        if (!name_take(value, options->model, sizeof(options->model)))
            return bad_option(value, where, key, "a model's name (letters, digits, '-', '_', '.')", reterr);
    } else if (strcmp(key, "link") == 0) {
        if (!name_take(value, options->link, sizeof(options->link)))
            return bad_option(value, where, key, "a link's name (letters, digits, '-', '_', '.'), as in /healthz", reterr);
    }
    return SP_OK;
}

typedef struct query_state {
    gw_options *options;
    bool task_is_known; /* by the path */
    sp_status status;
    sp_error *reterr;
} query_state;

static enum MHD_Result query_take(void *context, enum MHD_ValueKind kind, const char *key, const char *value)
{
    (void)kind;
    query_state *state = context;
    if (!value)
        value = "";
    if (strcmp(key, "task") == 0) {
        sp_task task = state->options->task;
        bool known = sp_task_parse(value, &task);
        if (!known || (state->task_is_known && task != state->options->task))
            state->status = bad_option(sp_view_of(value), "query parameter", key,
                                       state->task_is_known ? "left out here" : "\"classify\", \"detect\" or \"noop\"",
                                       state->reterr);
        else
            state->options->task = task;
    } else {
        state->status = gw_option_set(state->options, key, sp_view_of(value), "query parameter", state->reterr);
    }
    return state->status ? MHD_NO : MHD_YES;
}

gw_options gw_options_none(const gw_conn *conn)
{
    bool detect = conn->route && strcmp(conn->route->path, "/v1/detect") == 0;
    return (gw_options){ .task = detect ? SP_TASK_DETECT : SP_TASK_CLASSIFY, .threshold = -1, .iou = -1 };
}

sp_status gw_options_read(gw_conn *conn, sp_error *reterr)
{
    conn->options = gw_options_none(conn);
    query_state state = { .options = &conn->options, .reterr = reterr,
                          .task_is_known = conn->options.task == SP_TASK_DETECT };
    (void)MHD_get_connection_values(conn->mhd, MHD_GET_ARGUMENT_KIND, query_take, &state);
    if (!state.status && conn->headers.timeout_text)
        state.status = gw_option_set(&conn->options, "timeout_ms", sp_view_of(conn->headers.timeout_text),
                                     "header X-Spillway-Timeout-Ms:", reterr);
    if (!state.status && conn->headers.local_text)
        state.status = gw_option_set(&conn->options, "local_only", sp_view_of(conn->headers.local_text),
                                     "header X-Spillway-Local-Only:", reterr);
    conn->options.local_only = conn->options.local_only || conn->access.local_only;
    return state.status;
}

int64_t gw_deadline_ns(const gw_conn *conn)
{
    int64_t ms = SP_LIMIT_DEADLINE_DEFAULT_MS;
    if (conn->options.timeout_ms && conn->options.timeout_ms < ms)
        ms = conn->options.timeout_ms;
    return conn->received_ns + ms * SP_NS_PER_MS;
}
