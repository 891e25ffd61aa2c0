/* SPDX-License-Identifier: Apache-2.0
 * Replies: every answer of the HTTP API is made here, so each one names link, device, precision, attempts and reason,
 * and each error has the same shape (RFC 9457, application/problem+json). The exceptions are libmicrohttpd's own pages
 * for bytes that are no HTTP request at all. */
#include "gateway/kserve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>

#define HEADER_VALUE_BYTES 512
#define STREAM_BLOCK_BYTES 4096 /* of a stream, asked for at once */

static const gw_who gateway_itself = { .link = "gateway", .device = "cpu", .precision = "none", .reason = "" };

int gw_http_status(sp_status status, const sp_error *err)
{
    if (err && status == SP_INVALID &&
        (strcmp(err->code, "unknown_format") == 0 || strcmp(err->code, "media_type") == 0))
        return 415;
    if (err && status == SP_BUSY && strncmp(err->code, "deadline", 8) == 0)
        return 504;
    if (err && status == SP_REFUSED && strcmp(err->code, "crashed_model") == 0)
        return 500;
    return sp_status_http(status);
}

/* Header values are visible ASCII on one line; whatever else a reason holds becomes a blank. */
static void value_clean(char *dst, size_t dst_bytes, const char *src, const char *when_empty)
{
    if (!src || !*src)
        src = when_empty;
    size_t n = 0;
    for (; src[n] && n + 1 < dst_bytes; n++)
        dst[n] = src[n] >= ' ' && src[n] <= '~' ? src[n] : ' ';
    while (n && dst[n - 1] == ' ')
        n--;
    dst[n] = 0;
}

/* "codec0=ok, cpu0=unavailable". */
static void attempts_text(char *dst, size_t dst_bytes, const gw_who *who)
{
    size_t n = 0;
    dst[0] = 0;
    for (int i = 0; i < who->attempt_count && n < dst_bytes; i++) {
        int more = snprintf(dst + n, dst_bytes - n, "%s%s=%s", i ? ", " : "", who->attempts[i].link,
                            sp_status_name(who->attempts[i].status));
        n += more > 0 ? (size_t)more : 0;
    }
    if (!*dst)
        (void)snprintf(dst, dst_bytes, "none");
}

void gw_reply_header(gw_conn *conn, const char *name, const char *value)
{
    /* Out of memory costs a header, not the answer. */
    if (conn->response)
        (void)MHD_add_response_header(conn->response, name, value);
}

static void who_headers(gw_conn *conn, const gw_who *who)
{
    char value[HEADER_VALUE_BYTES];
    gw_reply_header(conn, "X-Request-Id", conn->request_id);
    gw_reply_header(conn, "X-Spillway-Link", *who->link ? who->link : "none");
    gw_reply_header(conn, "X-Spillway-Device", *who->device ? who->device : "none");
    gw_reply_header(conn, "X-Spillway-Precision", *who->precision ? who->precision : "none");
    attempts_text(value, sizeof(value), who);
    gw_reply_header(conn, "X-Spillway-Attempts", value);
    value_clean(value, sizeof(value), who->reason, "none");
    gw_reply_header(conn, "X-Spillway-Reason", value);
}

void gw_reply(gw_conn *conn, int http_status, const char *media_type, void *body, size_t body_bytes, gw_memory memory,
              const gw_who *who)
{
    static const enum MHD_ResponseMemoryMode modes[] = {
        [GW_STATIC] = MHD_RESPMEM_PERSISTENT,
        [GW_COPY] = MHD_RESPMEM_MUST_COPY,
        [GW_TAKE] = MHD_RESPMEM_MUST_FREE,
    };
    if (conn->response)
        MHD_destroy_response(conn->response);
    conn->response = MHD_create_response_from_buffer(body_bytes, body, modes[memory]);
    if (!conn->response && memory == GW_TAKE)
        free(body);
    conn->response_status = http_status;
    conn->response_bytes = body_bytes;
    if (media_type)
        gw_reply_header(conn, "Content-Type", media_type);
    who_headers(conn, who ? who : &gateway_itself);
}

void gw_reply_pieces(gw_conn *conn, int http_status, const char *media_type, const struct MHD_IoVec *pieces, unsigned count,
                     void (*release)(void *context), void *context, const gw_who *who)
{
    if (conn->response)
        MHD_destroy_response(conn->response);
    conn->response = MHD_create_response_from_iovec(pieces, count, release, context);
    if (!conn->response)
        release(context);
    conn->response_status = http_status;
    gw_reply_header(conn, "Content-Type", media_type);
    who_headers(conn, who ? who : &gateway_itself);
}

void gw_reply_stream(gw_conn *conn, int http_status, const char *media_type, MHD_ContentReaderCallback read)
{
    gw_reply_reader(conn, http_status, media_type, MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read);
}

void gw_reply_reader(gw_conn *conn, int http_status, const char *media_type, uint64_t size_bytes, size_t block_bytes,
                     MHD_ContentReaderCallback read)
{
    if (conn->response)
        MHD_destroy_response(conn->response);
    conn->response = MHD_create_response_from_callback(size_bytes, block_bytes, read, conn, NULL);
    if (size_bytes != MHD_SIZE_UNKNOWN)
        conn->response_bytes = size_bytes;
    conn->response_status = http_status;
    gw_reply_header(conn, "Content-Type", media_type);
    who_headers(conn, &gateway_itself);
}

static void json_reply(gw_conn *conn, int http_status, const char *media_type, sp_buf *json, const gw_who *who)
{
    static char no_memory[] = "{\"status\":503,\"error\":\"out of memory\"}\n";
    size_t size_bytes = 0;
    char *text = sp_buf_take(json, &size_bytes);
    if (text)
        gw_reply(conn, http_status, media_type, text, size_bytes, GW_TAKE, who);
    else
        gw_reply(conn, 503, "application/problem+json", no_memory, sizeof(no_memory) - 1, GW_STATIC, who);
    sp_buf_done(json);
}

void gw_reply_json(gw_conn *conn, int http_status, sp_buf *json, const gw_who *who)
{
    json_reply(conn, http_status, "application/json", json, who);
}

/* What to do about it, where the status alone tells. */
static const char *advice(int http_status)
{
    switch (http_status) {
    case 408:
        return "Send the body faster, or in smaller pictures.";
    case 413:
        return "Send a smaller picture.";
    case 429:
        return "Wait as long as Retry-After says, then send it again.";
    case 503:
        return "Wait as long as Retry-After says, then send it again; /healthz names the workers.";
    case 504:
        return "Give the request more time (X-Spillway-Timeout-Ms) or the server less to do.";
    case 501:
        return "No link of this server can do it; /healthz lists the workers.";
    default:
        return "";
    }
}

static void problem_write(sp_buf *out, const gw_conn *conn, int http_status, const sp_error *err, int retry_after_s,
                          const gw_who *who)
{
    const char *words = *err->message ? err->message : sp_status_name(err->status);
    const char *title = MHD_get_reason_phrase_for((unsigned)http_status);
    const char *hint = advice(http_status);
    char text[512];
    (void)snprintf(text, sizeof(text), "%s%s%s", words, *hint ? ". " : "", hint);

    sp_buf_append_text(out, "{\"type\":\"about:blank\",\"title\":");
    sp_buf_append_json_text(out, title ? title : "Error");
    sp_buf_printf(out, ",\"status\":%d,\"detail\":", http_status);
    sp_buf_append_json_text(out, text);
    sp_buf_append_text(out, ",\"error\":");
    sp_buf_append_json_text(out, text);
    sp_buf_append_text(out, ",\"code\":");
    sp_buf_append_json_text(out, *err->code ? err->code : sp_status_name(err->status));
    if (*err->origin) {
        sp_buf_append_text(out, ",\"origin\":");
        sp_buf_append_json_text(out, err->origin);
        sp_buf_printf(out, ",\"origin_code\":%d", err->origin_code);
    }
    if (retry_after_s > 0)
        sp_buf_printf(out, ",\"retry_after_s\":%d", retry_after_s);
    sp_buf_append_text(out, ",\"request_id\":");
    sp_buf_append_json_text(out, conn->request_id);
    sp_buf_append_text(out, ",");
    gw_who_write(out, who);
    sp_buf_append_text(out, "}\n");
}

/* Triton's clients read {"error": ...} as plain JSON. */
static const char *problem_type(const gw_conn *conn)
{
    return conn->kserve ? "application/json" : "application/problem+json";
}

void gw_log_failure(gw_conn *conn, int http_status, const sp_error *err)
{
    gw_server *server = conn->server;
    int64_t second = sp_loop_now_ns(server->loop) / SP_NS_PER_S;
    if (http_status < 500 || (conn->kserve && http_status == 501))
        return; /* the caller's own, and the caller has been told */
    if (second != server->log_second)
        server->logged_in_second = 0;
    server->log_second = second;
    if (server->logged_in_second++ < GW_LOGGED_FAILURES)
        sp_log_error("request failed", conn->request_id, err);
}

void gw_reply_problem(gw_conn *conn, int http_status, const sp_error *err, int retry_after_s, const gw_who *who)
{
    sp_buf json;
    gw_who named = who ? *who : gateway_itself;
    if (!named.reason || !*named.reason)
        named.reason = *err->code ? err->code : err->message;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    if (conn->kserve)
        gw_kserve_error_write(&json, err);
    else
        problem_write(&json, conn, http_status, err, retry_after_s, &named);
    json_reply(conn, http_status, problem_type(conn), &json, &named);
    if (retry_after_s > 0) {
        char seconds[16];
        (void)snprintf(seconds, sizeof(seconds), "%d", retry_after_s);
        gw_reply_header(conn, "Retry-After", seconds);
    }
}

void gw_reply_raw(gw_conn *conn, int http_status, const sp_error *err, int retry_after_s)
{
    const char *title = MHD_get_reason_phrase_for((unsigned)http_status);
    char reason[HEADER_VALUE_BYTES];
    gw_who who = gateway_itself;
    who.reason = *err->code ? err->code : err->message;
    value_clean(reason, sizeof(reason), who.reason, "none");
    sp_buf json, text;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_init(&text, SP_LIMIT_JSON_BYTES);
    if (conn->kserve)
        gw_kserve_error_write(&json, err);
    else
        problem_write(&json, conn, http_status, err, retry_after_s, &who);
    sp_buf_printf(
        &text,
        "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
        "X-Request-Id: %s\r\nX-Spillway-Link: gateway\r\nX-Spillway-Device: cpu\r\nX-Spillway-Precision: none\r\n"
        "X-Spillway-Attempts: none\r\nX-Spillway-Reason: %s\r\n\r\n",
        http_status, title ? title : "Error", problem_type(conn), json.size_bytes, conn->request_id, reason);
    sp_buf_append(&text, json.data, json.size_bytes);
    if (sp_buf_ok(&text)) /* under 2 KiB into a socket that has sent nothing: it fits, or nobody is there */
        (void)!send(conn->fd, text.data, text.size_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)shutdown(conn->fd, SHUT_WR);
    sp_buf_done(&json);
    sp_buf_done(&text);
}

bool gw_reply_queue(gw_conn *conn)
{
    if (!conn->response)
        return false;
    if ((conn->server->draining || conn->close_after) && conn->response_status != MHD_HTTP_SWITCHING_PROTOCOLS)
        gw_reply_header(conn, "Connection", "close");
    bool queued = MHD_queue_response(conn->mhd, (unsigned)conn->response_status, conn->response) == MHD_YES;
    MHD_destroy_response(conn->response);
    conn->response = NULL;
    conn->server->mhd_followup = true; /* queued in this run, written in the next */
    return queued;
}
