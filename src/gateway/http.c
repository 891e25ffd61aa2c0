/* SPDX-License-Identifier: Apache-2.0
 * HTTP/1.1 by libmicrohttpd 0.9.75 in external-epoll mode: its epoll descriptor sits in our loop, MHD_run is called
 * from a loop hook. What was learnt about it and shapes this file:
 *   - a response can be queued before the body or after it, never inside: answers inside a body go straight to the
 *     socket (GW_LINGER);
 *   - one queued before the body closes the connection, so errors wait until a body of bearable size is through;
 *   - a suspended connection's hang-up is not noticed and its timeout does not run: its descriptor is in our epoll too;
 *   - MHD_stop_daemon with a suspended connection aborts: each is resumed and answered first;
 *   - suspend and resume cost eight system calls; returning without an answer instead makes it ask again on its next
 *     run, which is what very short requests get (GW_POLL_NS). */
#include "gateway/auth.h"
#include "gateway/events.h"
#include "gateway/kserve.h"
#include "gateway/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define RUNS_AT_ONCE 8 /* of MHD_run, before other work of the loop gets its turn */

void gw_conn_enter(gw_conn *conn, gw_phase phase)
{
    conn->phase = phase;
    conn->since_ns = sp_loop_now_ns(conn->server->loop);
}

static void unpoll(gw_conn *conn)
{
    if (conn->polled)
        conn->server->polled_count--;
    conn->polled = false;
}

void gw_conn_resume(gw_conn *conn)
{
    unpoll(conn);
    conn->server->mhd_due = true;
    if (!conn->suspended)
        return;
    conn->suspended = false;
    conn->server->suspended_count--;
    sp_loop_unwatch(conn->server->loop, &conn->hangup);
    MHD_resume_connection(conn->mhd);
}

/* Whatever is being done for the request in hand is no longer wanted. */
static void work_drop(gw_conn *conn)
{
    if (conn->request)
        sp_request_cancel(SP_STEAL(conn->request));
    if (conn->drop)
        SP_STEAL(conn->drop)(conn);
    conn->state = NULL;
}

/* The client of a request that is being worked on is gone. */
static void client_gone(gw_conn *conn)
{
    sp_metric_add(conn->server->hangups, 1);
    if (conn->phase == GW_STREAMING) { /* libmicrohttpd has the answer in hand and must end it itself */
        ((gw_follower *)conn->state)->broken = true;
        gw_conn_resume(conn);
        return;
    }
    work_drop(conn);
    gw_conn_enter(conn, GW_DEAD);
    gw_conn_resume(conn);
}

/* A close and a shutdown of the sending side look the same from here (FIN). Something sent tells them apart: a closed
 * peer answers with a reset, which arrives as EPOLLHUP. "100 Continue" is the one thing that may be sent before the
 * answer without changing it; HTTP/1.0 has no such thing, so there the answer itself is the probe. */
void gw_conn_probe(gw_conn *conn)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    conn->probed_ns = sp_loop_now_ns(conn->server->loop);
    if (!conn->headers.http10 && send(conn->fd, interim, sizeof(interim) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
        errno != EAGAIN)
        client_gone(conn);
}

static void hangup_ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    gw_conn *conn = context;
    conn->half_closed = true;
    if ((epoll_events & (EPOLLHUP | EPOLLERR)) || sp_loop_watch(conn->server->loop, watch, 0, NULL))
        client_gone(conn);
    else if (conn->phase == GW_STREAMING)
        gw_events_half_closed(conn);
    else if (conn->phase != GW_SENDING) /* in the middle of an answer nothing may be put; sending on tells */
        gw_conn_probe(conn); /* and from now on only errors wake us */
}

void gw_conn_suspend(gw_conn *conn)
{
    unpoll(conn);
    conn->suspended = true;
    conn->server->suspended_count++;
    conn->hangup = (sp_watch){ .fd = conn->fd, .ready = hangup_ready, .context = conn };
    MHD_suspend_connection(conn->mhd);
    /* Without memory for the watch a hang-up is noticed when the answer is sent. */
    (void)sp_loop_watch(conn->server->loop, &conn->hangup, conn->half_closed ? 0 : EPOLLRDHUP, NULL);
}

void gw_conn_fail(gw_conn *conn, int http_status, const sp_error *err, int retry_after_s)
{
    gw_log_failure(conn, http_status, err);
    conn->error = *err;
    conn->error_status = http_status;
    conn->retry_after_s = retry_after_s;
    conn->close_after = http_status == 413; /* who sends that much is not worth another 32 MiB of swallowing */
    gw_conn_enter(conn, GW_SWALLOW);
}

void gw_conn_fail_status(gw_conn *conn, sp_status status, sp_error *err, int retry_after_s)
{
    err->status = status;
    gw_conn_fail(conn, gw_http_status(status, err), err, retry_after_s);
}

void gw_conn_wait(gw_conn *conn)
{
    gw_conn_enter(conn, GW_WAITING);
}

void gw_conn_answered(gw_conn *conn)
{
    gw_conn_enter(conn, GW_READY);
    gw_conn_resume(conn);
}

void gw_conn_answer_inside(gw_conn *conn, int http_status, const sp_error *err)
{
    work_drop(conn);
    conn->response_status = http_status;
    gw_route_count(conn);
    gw_reply_raw(conn, http_status, err, conn->retry_after_s);
    gw_conn_enter(conn, GW_LINGER);
}

static bool has_body(const gw_conn *conn)
{
    return conn->headers.chunked || conn->headers.content_length > 0;
}

static enum MHD_Result answer_send(gw_conn *conn)
{
    gw_route_count(conn);
    gw_conn_enter(conn, conn->streaming ? GW_STREAMING : GW_SENDING);
    return gw_reply_queue(conn) ? MHD_YES : MHD_NO;
}

/* The error that was noted when it happened becomes the answer. */
static void problem_make(gw_conn *conn)
{
    gw_reply_problem(conn, conn->error_status, &conn->error, conn->retry_after_s, NULL);
    if (conn->challenge)
        gw_reply_header(conn, "WWW-Authenticate", conn->challenge);
    if (conn->error_status == 426) {
        gw_reply_header(conn, "Upgrade", "websocket");
        gw_reply_header(conn, "Sec-WebSocket-Version", "13");
    }
    if (conn->error_status == 405 && conn->route) {
        sp_buf methods;
        sp_buf_init(&methods, 128);
        gw_route_allow(conn, &methods);
        if (methods.data)
            gw_reply_header(conn, "Allow", (const char *)methods.data);
        sp_buf_done(&methods);
    }
}

/* Only inference takes compressed bodies: a worker of its own unpacks them. */
static void encoding_check(gw_conn *conn)
{
    gw_headers *h = &conn->headers;
    if (!h->content_encoding || h->status || (conn->route && conn->route->begin == gw_kserve_infer_begin))
        return;
    h->status = 415;
    (void)SP_FAIL_CODE(&h->error, SP_INVALID, "content_encoding", "compressed request bodies are not taken here; send the body as it is");
}

/* First call of a request: everything is known but the body. */
static enum MHD_Result request_begin(gw_conn *conn, const char *url, const char *method, const char *version)
{
    conn->error_status = conn->retry_after_s = 0;
    conn->close_after = conn->streaming = conn->quick = false;
    conn->kserve = gw_kserve_path(url);
    conn->body_bytes = conn->response_bytes = 0;
    conn->response_status = 0;
    conn->options = (gw_options){ .task = SP_TASK_CLASSIFY, .threshold = -1, .iou = -1 };
    gw_headers_read(conn, version);
    gw_conn_enter(conn, GW_SWALLOW); /* a page is made when the body, which it has no use for, is through */
    conn->body_begin_ns = conn->since_ns;
    conn->method = method;
    conn->challenge = NULL;
    conn->head = strcmp(method, "HEAD") == 0;
    gw_route_find(conn, url, method);
    encoding_check(conn);
    bool at_once = conn->headers.expects_continue && has_body(conn);
    if (conn->headers.status) {
        gw_conn_fail(conn, conn->headers.status, &conn->headers.error, 0);
        /* 400: where the next request begins is anybody's guess; 417: the client waits before it sends its body. */
        if (conn->headers.status == 400 || conn->headers.status == 417)
            conn->close_after = at_once = true;
    } else if (conn->refused) {
        sp_error err = { 0 };
        (void)SP_FAIL_CODE(&err, SP_BUSY, "too_many_connections",
                           "too many connections (at most %d, and %d from one address)", SP_LIMIT_CONNECTIONS,
                           SP_LIMIT_CONNECTIONS_PER_ADDRESS);
        gw_conn_fail(conn, 429, &err, 1);
        conn->close_after = true;
    } else if (!conn->error_status) {
        gw_auth_check(conn);
        if (!conn->error_status && conn->route->begin)
            conn->route->begin(conn);
    }
    if (conn->phase != GW_SWALLOW || !conn->error_status || !at_once)
        return MHD_YES;
    problem_make(conn);
    return answer_send(conn);
}

static void swallow(gw_conn *conn)
{
    if (conn->body_bytes <= SP_LIMIT_SWALLOW_BYTES)
        return;
    if (!conn->error_status) {
        conn->error_status = 413;
        (void)SP_FAIL_CODE(&conn->error, SP_TOO_LARGE, "body_too_large",
                           "this request needs no body, and its body is larger than %u bytes", SP_LIMIT_SWALLOW_BYTES);
    }
    gw_conn_answer_inside(conn, conn->error_status, &conn->error);
}

static void body_take(gw_conn *conn, const char *data, size_t size_bytes)
{
    conn->body_bytes += size_bytes;
    /* There may be more in the socket than was read at once. */
    if (conn->headers.chunked || conn->body_bytes < conn->headers.content_length)
        conn->server->mhd_followup = true;
    sp_metric_add(conn->server->received_bytes, (int64_t)size_bytes);
    if (conn->phase == GW_BODY)
        conn->route->append(conn, data, size_bytes);
    else if (conn->phase == GW_SWALLOW)
        swallow(conn);
}

/* The body is through: work begins, or the error or answer is sent. */
static enum MHD_Result body_end(gw_conn *conn)
{
    if (!conn->error_status)
        conn->route->run(conn);
    if (conn->phase == GW_WAITING) {
        conn->polled = (conn->options.task == SP_TASK_NOOP || conn->quick) && conn->server->polled_count < GW_POLLED;
        if (conn->polled)
            conn->server->polled_count++;
        else
            gw_conn_suspend(conn);
        return MHD_YES;
    }
    if (conn->error_status)
        problem_make(conn);
    return answer_send(conn);
}

static enum MHD_Result handle(void *context, struct MHD_Connection *mhd, const char *url, const char *method,
                              const char *version, const char *upload_data, size_t *upload_data_size,
                              void **request_context)
{
    (void)context;
    (void)mhd;
    gw_conn *conn = *request_context;
    if (!conn)
        return MHD_NO; /* no memory when it was accepted */
    switch (conn->phase) {
    case GW_IDLE:
    case GW_HEADERS:
        return request_begin(conn, url, method, version);
    case GW_BODY:
    case GW_SWALLOW:
    case GW_LINGER:
        if (*upload_data_size) {
            body_take(conn, upload_data, *upload_data_size);
            *upload_data_size = 0;
            return MHD_YES;
        }
        return conn->phase == GW_LINGER ? MHD_NO : body_end(conn);
    case GW_WAITING:
        if (conn->polled && sp_loop_now_ns(conn->server->loop) - conn->since_ns > GW_POLL_NS)
            gw_conn_suspend(conn);
        return MHD_YES;
    case GW_READY:
        return answer_send(conn);
    case GW_SENDING:
    case GW_STREAMING:
    case GW_UPGRADED:
    case GW_DEAD:
        break;
    }
    return MHD_NO;
}

const char *gw_query(const gw_conn *conn, const char *name)
{
    const char *value = NULL;
    size_t size_bytes = 0;
    if (MHD_lookup_connection_value_n(conn->mhd, MHD_GET_ARGUMENT_KIND, name, strlen(name), &value, &size_bytes) != MHD_YES)
        return NULL;
    return value ? value : "";
}

bool gw_conn_is_local(const gw_conn *conn)
{
    static const uint8_t mapped[13] = { [10] = 0xff, [11] = 0xff, [12] = 127 }, one[16] = { [15] = 1 };
    return memcmp(conn->address, mapped, sizeof(mapped)) == 0 || memcmp(conn->address, one, sizeof(one)) == 0;
}

const char *gw_header(const gw_conn *conn, const char *name)
{
    return MHD_lookup_connection_value(conn->mhd, MHD_HEADER_KIND, name);
}

static gw_conn *conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* The request line has been read: this is when a request begins. Its return value is `handle`'s *request_context. */
static void *uri_seen(void *context, const char *uri, struct MHD_Connection *mhd)
{
    (void)context;
    (void)uri;
    gw_conn *conn = conn_of(mhd);
    if (!conn)
        return NULL;
    conn->received_ns = sp_clock_now_ns();
    if (conn->phase == GW_IDLE)
        gw_conn_enter(conn, GW_HEADERS);
    return conn;
}

/* Leaves nothing of the request in hand. */
static void request_forget(gw_conn *conn)
{
    work_drop(conn);
    if (conn->response)
        MHD_destroy_response(SP_STEAL(conn->response));
    sp_buf_done(&conn->body);
    unpoll(conn);
}

/* The request is over, however it ended. */
static void story_end(gw_conn *conn, bool delivered)
{
    gw_story *story = &conn->story;
    char address[INET6_ADDRSTRLEN] = "";
    const uint8_t *bytes = conn->address;
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    if (!conn->method || !gw_stories_want(conn->server, story))
        return;
    if (memcmp(bytes, mapped, sizeof(mapped)) == 0)
        (void)inet_ntop(AF_INET, bytes + 12, address, sizeof(address));
    else
        (void)inet_ntop(AF_INET6, bytes, address, sizeof(address));
    story->method = conn->method;
    story->route = conn->route ? conn->route->path : "other";
    story->request_id = conn->request_id;
    story->token = conn->access.token;
    story->tenant = conn->access.tenant;
    story->address = address;
    story->status = delivered && conn->response_status ? conn->response_status : 499;
    story->failed = story->status >= 500;
    if (!*story->code && conn->error_status)
        (void)snprintf(story->code, sizeof(story->code), "%.31s",
                       *conn->error.code ? conn->error.code : sp_status_name(conn->error.status));
    story->bytes_in = conn->body_bytes;
    story->bytes_out = conn->response_bytes;
    story->received_ns = conn->received_ns;
    story->ended_ns = sp_clock_now_ns();
    gw_story_end(conn->server, story);
}

static void completed(void *context, struct MHD_Connection *mhd, void **request_context,
                      enum MHD_RequestTerminationCode why)
{
    (void)context;
    (void)mhd;
    gw_conn *conn = *request_context;
    if (!conn)
        return;
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK && conn->request)
        sp_metric_add(conn->server->hangups, 1);
    story_end(conn, why == MHD_REQUEST_TERMINATED_COMPLETED_OK || conn->phase == GW_LINGER);
    conn->method = NULL;
    request_forget(conn);
    conn->half_closed = false;
    gw_conn_enter(conn, GW_IDLE);
}

static void address_take(gw_conn *conn)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (!info || !info->client_addr)
        return;
    gw_address_bytes(info->client_addr, conn->address);
}

static void conn_add(gw_server *server, struct MHD_Connection *mhd, void **socket_context)
{
    gw_conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return;
    conn->server = server;
    conn->mhd = mhd;
    conn->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    conn->listener = server->accepting ? server->accepting->kind : GW_LISTEN_HTTP;
    conn->refused = server->accept_refused;
    conn->next = server->conns;
    if (conn->next)
        conn->next->prev = conn;
    server->conns = conn;
    server->conn_count++;
    server->refused_count += conn->refused;
    sp_metric_set(server->connections, server->conn_count);
    address_take(conn);
    gw_conn_enter(conn, GW_IDLE);
    *socket_context = conn;
    gw_sweep_arm(server);
}

static void conn_remove(gw_conn *conn)
{
    gw_server *server = conn->server;
    sp_loop_unwatch(server->loop, &conn->hangup);
    request_forget(conn);
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        server->conns = conn->next;
    if (conn->next)
        conn->next->prev = conn->prev;
    server->conn_count--;
    server->refused_count -= conn->refused;
    sp_metric_set(server->connections, server->conn_count);
    free(conn);
}

static void connection_changed(void *context, struct MHD_Connection *mhd, void **socket_context,
                               enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        conn_add(context, mhd, socket_context);
    else if (*socket_context)
        conn_remove(SP_STEAL(*socket_context));
}

/* Runs libmicrohttpd until it has nothing to do. While requests are polled it always claims to have something, so then
 * our own callbacks tell whether another run is worth its system call; the 1 ms is for what they cannot see (half a
 * header that filled its buffer). */
static int64_t mhd_hook(void *context)
{
    gw_server *server = context;
    if (!server->mhd_due && !server->polled_count)
        return -1;
    MHD_UNSIGNED_LONG_LONG timeout_ms = 1;
    bool more = true;
    for (int i = 0; i < RUNS_AT_ONCE && more; i++) {
        server->mhd_due = server->mhd_followup = false;
        (void)MHD_run(server->daemon);
        more = MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES && timeout_ms == 0 &&
               (!server->polled_count || server->mhd_followup);
    }
    server->mhd_due = server->mhd_due || more;
    if (server->mhd_due)
        return 0;
    return server->polled_count ? SP_NS_PER_MS : -1;
}

static void mhd_ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    (void)watch;
    (void)epoll_events;
    ((gw_server *)context)->mhd_due = true;
}

sp_status gw_http_start(gw_server *server, sp_error *reterr)
{
    server->daemon =
        MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE, 0, NULL, NULL, handle,
                         server, MHD_OPTION_CONNECTION_LIMIT, (unsigned)(SP_LIMIT_CONNECTIONS + GW_REFUSED_CONNECTIONS),
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)SP_LIMIT_HTTP_CONNECTION_BYTES,
                         MHD_OPTION_URI_LOG_CALLBACK, uri_seen, server, MHD_OPTION_NOTIFY_COMPLETED, completed, server,
                         MHD_OPTION_NOTIFY_CONNECTION, connection_changed, server, MHD_OPTION_STRICT_FOR_CLIENT, 1,
                         MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (!server->daemon)
        return SP_FAIL_FROM(reterr, SP_INTERNAL, "libmicrohttpd", errno, "cannot start the HTTP server");
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || info->epoll_fd < 0)
        return SP_FAIL_FROM(reterr, SP_INTERNAL, "libmicrohttpd", 0, "this libmicrohttpd was built without epoll");
    server->mhd_watch = (sp_watch){ .fd = info->epoll_fd, .ready = mhd_ready, .context = server };
    gw_sweep_init(server);
    gw_events_start(server);
    sp_status s = sp_loop_watch(server->loop, &server->mhd_watch, EPOLLIN, reterr);
    return s ? s : sp_loop_hook_add(server->loop, mhd_hook, server, reterr);
}

void gw_http_stop(gw_server *server)
{
    if (!server->daemon)
        return;
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_UNAVAILABLE, "stopped", "the server was stopped before the request was done");
    gw_events_stop(server);
    for (gw_conn *conn = server->conns; conn; conn = conn->next) {
        if (conn->phase == GW_WAITING) {
            work_drop(conn);
            gw_reply_problem(conn, 503, &err, 1, NULL);
            gw_conn_enter(conn, GW_READY);
        }
        if (conn->phase == GW_BODY && conn->suspended) { /* more of its body would only suspend it again */
            work_drop(conn);
            gw_conn_enter(conn, GW_DEAD);
        }
        if (conn->phase == GW_UPGRADED)
            gw_socket_cut(conn);
        gw_conn_resume(conn);
    }
    for (int i = 0; i < RUNS_AT_ONCE && server->conns; i++)
        (void)MHD_run(server->daemon);
    sp_loop_unwatch(server->loop, &server->mhd_watch);
    sp_loop_timer_clear(server->loop, &server->sweep);
    MHD_stop_daemon(SP_STEAL(server->daemon));
}
