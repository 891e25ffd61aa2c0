/* SPDX-License-Identifier: Apache-2.0
 * GET /v1/events/ws: the events over a WebSocket. libmicrohttpd answers 101 and hands the socket over; from then on it is
 * read and written here, on the same loop. A client may send what it likes, within the limits; it is read, checked and
 * dropped. */
#include "gateway/events.h"
#include "gateway/ws_frame.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define MESSAGE_BYTES 65536u /* of one message from a client; beyond: 1009 */
#define CLOSE_WAIT_MS 2000   /* for the other side's close frame, or its end */

typedef struct ws_conn {
    gw_follower *follower;
    struct MHD_UpgradeResponseHandle *handle; /* NULL until the socket is ours */
    sp_watch watch;
    int fd;
    gw_ws_reader reader;
    bool close_sent, close_seen;
    bool failed; /* what still comes is read and dropped, so that our close frame is not overtaken by a reset */
    int64_t close_sent_ns;
    bool want_write;
} ws_conn;

/* The follower is the connection's state; the rest hangs on the connection too. */
static ws_conn *ws_of(const gw_follower *f)
{
    return f->conn->socket;
}

static void close_send(gw_follower *f, int code, const char *reason)
{
    ws_conn *ws = ws_of(f);
    if (ws->close_sent)
        return;
    gw_ws_write_close(&f->out, code, reason);
    ws->close_sent = true;
    ws->close_sent_ns = sp_loop_now_ns(f->conn->server->loop);
    f->ending = true; /* no events behind it */
}

/* Gives the socket back to libmicrohttpd, which closes it. */
static void end(gw_follower *f)
{
    ws_conn *ws = ws_of(f);
    f->broken = true;
    if (!ws->handle)
        return;
    sp_loop_unwatch(f->conn->server->loop, &ws->watch);
    (void)shutdown(ws->fd, SHUT_WR);
    f->conn->server->mhd_due = true;
    (void)MHD_upgrade_action(SP_STEAL(ws->handle), MHD_UPGRADE_ACTION_CLOSE);
}

static void watch_set(gw_follower *f, bool want_write)
{
    ws_conn *ws = ws_of(f);
    if (ws->watch.active && ws->want_write == want_write)
        return;
    ws->want_write = want_write;
    if (sp_loop_watch(f->conn->server->loop, &ws->watch, EPOLLIN | (want_write ? EPOLLOUT : 0u), NULL))
        end(f);
}

static void ws_flush(gw_follower *f)
{
    ws_conn *ws = ws_of(f);
    if (!ws->handle)
        return;
    if (f->broken) {
        end(f);
        return;
    }
    if (f->ending && !ws->close_sent) {
        bool going = f->conn->server->draining;
        close_send(f, going ? GW_WS_GOING_AWAY : GW_WS_NORMAL, going ? "the server is stopping" : "");
    }
    while (gw_follower_waiting(f)) {
        ssize_t n = send(ws->fd, f->out.data + f->out_sent, gw_follower_waiting(f), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            end(f);
            return;
        }
        if (n < 0)
            break;
        gw_follower_took(f, (size_t)n);
    }
    if (!gw_follower_waiting(f) && ws->close_sent && ws->close_seen)
        end(f);
    else if (!gw_follower_waiting(f) && ws->failed)
        (void)shutdown(ws->fd, SHUT_WR);
    if (!f->broken)
        watch_set(f, gw_follower_waiting(f) > 0);
}

static void ws_frame(gw_follower *f, const char *id, const char *kind, sp_view json)
{
    (void)id; /* both stand in the JSON */
    (void)kind;
    gw_ws_write(&f->out, GW_WS_TEXT, json);
    f->wrote_ns = sp_loop_now_ns(f->conn->server->loop);
}

static void ws_beat(gw_follower *f)
{
    if (!ws_of(f)->close_sent)
        gw_ws_write(&f->out, GW_WS_PING, (sp_view){ 0 });
    f->wrote_ns = f->progress_ns = sp_loop_now_ns(f->conn->server->loop);
}

static void taken(void *context, gw_ws_opcode opcode, sp_view payload)
{
    gw_follower *f = context;
    ws_conn *ws = ws_of(f);
    if (opcode == GW_WS_PING && !ws->close_sent && gw_follower_waiting(f) < GW_FOLLOW_BYTES)
        gw_ws_write(&f->out, GW_WS_PONG, payload); /* who does not read gets no more of them */
    if (opcode == GW_WS_CLOSE) {
        int code = payload.size_bytes ? payload.data[0] << 8 | payload.data[1] : GW_WS_NORMAL;
        ws->close_seen = true;
        close_send(f, code, "");
    }
}

static void bytes_take(gw_follower *f, const void *data, size_t size_bytes)
{
    ws_conn *ws = ws_of(f);
    if (ws->close_seen || ws->failed)
        return;
    int code = gw_ws_read(&ws->reader, data, size_bytes, taken, f);
    if (!code)
        return;
    const char *why = code == GW_WS_TOO_BIG    ? "a message is larger than 64 KiB"
                      : code == GW_WS_BAD_TEXT ? "text that is not UTF-8"
                      : code == GW_WS_PROTOCOL ? "a frame that RFC 6455 does not allow"
                                               : "no memory";
    ws->failed = true;
    close_send(f, code, why);
}

static void socket_ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    gw_follower *f = context;
    uint8_t data[4096];
    if (epoll_events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(watch->fd, data, sizeof(data), MSG_DONTWAIT);
        if (n > 0)
            bytes_take(f, data, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            end(f);
            return;
        }
    }
    /* Room again: more events may be waiting in the ring. */
    ws_flush(f);
    if (!f->broken)
        gw_follower_kick(f);
}

static void socket_drop(gw_conn *conn)
{
    ws_conn *ws = SP_STEAL(conn->socket);
    gw_follower *f = SP_STEAL(conn->state);
    sp_loop_unwatch(conn->server->loop, &ws->watch);
    gw_ws_reader_done(&ws->reader);
    free(ws);
    gw_follower_free(f);
}

void gw_socket_sweep(gw_conn *conn, int64_t now_ns)
{
    gw_follower *f = conn->state;
    ws_conn *ws = conn->socket;
    if (f && ws && ws->close_sent && now_ns - ws->close_sent_ns > CLOSE_WAIT_MS * SP_NS_PER_MS)
        end(f);
}

void gw_socket_cut(gw_conn *conn)
{
    if (conn->state && conn->socket)
        end(conn->state);
}

/* libmicrohttpd has sent the 101; `extra` was read behind the request's headers. */
static void upgraded(void *context, struct MHD_Connection *mhd, void *request_context, const char *extra,
                     size_t extra_bytes, MHD_socket fd, struct MHD_UpgradeResponseHandle *handle)
{
    (void)mhd;
    (void)request_context;
    gw_conn *conn = context;
    gw_follower *f = conn->state;
    ws_conn *ws = conn->socket;
    ws->handle = handle;
    ws->fd = fd;
    ws->watch = (sp_watch){ .fd = fd, .ready = socket_ready, .context = f };
    gw_conn_enter(conn, GW_UPGRADED);
    if (extra_bytes)
        bytes_take(f, extra, extra_bytes);
    ws_flush(f);
    if (!f->broken)
        gw_follower_kick(f); /* what it has missed */
}

/* One of the comma-separated words of a header. */
static bool header_has(const gw_conn *conn, const char *name, const char *word)
{
    const char *value = gw_header(conn, name);
    size_t n = strlen(word);
    while (value && *value) {
        value += strspn(value, " \t,");
        size_t m = strcspn(value, " \t,");
        if (m == n && strncasecmp(value, word, n) == 0)
            return true;
        value += m;
    }
    return false;
}

/* The handshake's demands (section 4.2.1). */
static int handshake_check(const gw_conn *conn, char ret_accept[29], sp_error *reterr)
{
    const char *key = conn->headers.socket_key, *version = gw_header(conn, "Sec-WebSocket-Version");
    if (conn->headers.http10 || conn->head || !header_has(conn, "Upgrade", "websocket") ||
        !header_has(conn, "Connection", "Upgrade")) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "upgrade_required",
                           "this is a WebSocket (Upgrade: websocket); the same events come as text/event-stream from "
                           "/v1/events");
        return 426;
    }
    if (!version || strcmp(version, "13") != 0) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "websocket_version", "the WebSocket version must be 13");
        return 426;
    }
    if (!key || !gw_ws_key_good(key)) {
        (void)SP_FAIL_CODE(reterr, SP_INVALID, "websocket_key", "Sec-WebSocket-Key must be 16 bytes in base64");
        return 400;
    }
    if (!gw_ws_accept(key, ret_accept)) {
        (void)SP_FAIL(reterr, SP_NOMEM, "no memory for the handshake");
        return 503;
    }
    return 0;
}

static void socket_open(gw_conn *conn, const gw_follow *what, const char *accept)
{
    sp_error err = { 0 };
    gw_follower *f = gw_follower_new(conn, what);
    if (!f)
        return;
    ws_conn *ws = calloc(1, sizeof(*ws));
    if (ws)
        conn->response = MHD_create_response_for_upgrade(upgraded, conn);
    if (!ws || !conn->response) {
        free(ws);
        gw_follower_free(f);
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the socket");
        gw_conn_fail(conn, 503, &err, 1);
        return;
    }
    ws->follower = f;
    ws->watch.fd = ws->fd = -1;
    gw_ws_reader_init(&ws->reader, MESSAGE_BYTES);
    f->frame = ws_frame;
    f->beat = ws_beat;
    f->flush = ws_flush;
    conn->state = f;
    conn->socket = ws;
    conn->drop = socket_drop;
    conn->response_status = MHD_HTTP_SWITCHING_PROTOCOLS;
    gw_reply_header(conn, "Upgrade", "websocket");
    gw_reply_header(conn, "Sec-WebSocket-Accept", accept);
    gw_reply_header(conn, "X-Request-Id", conn->request_id);
}

void gw_events_socket_run(gw_conn *conn)
{
    sp_error err = { 0 };
    gw_follow what;
    char accept[29];
    int refused = handshake_check(conn, accept, &err);
    if (refused)
        gw_conn_fail(conn, refused, &err, refused == 503);
    else if (gw_events_wanted(conn, &what))
        socket_open(conn, &what, accept);
}
