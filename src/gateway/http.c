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
#include "gateway/server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define RUNS_AT_ONCE 8 /* of MHD_run, before other work of the loop gets its turn */

typedef struct gw_route {
    const char *path, *method;
    unsigned listeners;          /* bits of gw_listener_kind */
    void (*page)(gw_conn *conn); /* NULL = /infer */
} gw_route;

static const gw_route routes[] = {
    { "/infer", "POST", 1u << GW_LISTEN_HTTP, NULL },
    { "/", "GET", 1u << GW_LISTEN_HTTP, gw_page_landing },
    { "/favicon.ico", "GET", 1u << GW_LISTEN_HTTP, gw_page_icon },
    { "/healthz", "GET", 1u << GW_LISTEN_HTTP | 1u << GW_LISTEN_METRICS, gw_page_healthz },
    { "/readyz", "GET", 1u << GW_LISTEN_HTTP | 1u << GW_LISTEN_METRICS, gw_page_readyz },
    { "/metrics", "GET", 1u << GW_LISTEN_HTTP | 1u << GW_LISTEN_METRICS, gw_page_metrics },
};
#define ROUTE_NONE ((int)SP_ARRAY_LEN(routes))

void gw_conn_enter(gw_conn *conn, gw_phase phase)
{
    conn->phase = phase;
    conn->since_ns = sp_loop_now_ns(conn->server->loop);
}

/* Metrics: one series per route, task and status; looked up once, kept here. */
static void count_reply(const gw_conn *conn)
{
    static sp_metric *counters[SP_ARRAY_LEN(routes) + 1][SP_TASK_COUNT][600];
    static sp_metric *times[SP_ARRAY_LEN(routes) + 1][SP_TASK_COUNT];
    const char *path = conn->route < ROUTE_NONE ? routes[conn->route].path : "other";
    bool infer = conn->route < ROUTE_NONE && !routes[conn->route].page;
    sp_task task = infer ? conn->options.task : 0;
    int status = conn->response_status >= 100 && conn->response_status < 600 ? conn->response_status : 599;
    sp_metric **counter = &counters[conn->route][task][status];
    char labels[96];
    if (!*counter) {
        (void)snprintf(labels, sizeof(labels), "route=\"%s\",task=\"%s\",code=\"%d\"", path,
                       infer ? sp_task_name(task) : "", status);
        *counter = sp_metric_get(SP_METRIC_COUNTER, "spillway_requests_total", labels, "Requests answered");
    }
    sp_metric_add(*counter, 1);
    sp_metric **time = &times[conn->route][task];
    if (!*time) {
        (void)snprintf(labels, sizeof(labels), "route=\"%s\",task=\"%s\"", path, infer ? sp_task_name(task) : "");
        *time = sp_metric_get(SP_METRIC_HISTOGRAM, "spillway_request_seconds", labels,
                              "From the request line to the answer being handed to the socket");
    }
    sp_metric_observe_ns(*time, sp_clock_now_ns() - conn->received_ns);
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

/* The client of a request that is being worked on is gone. */
static void client_gone(gw_conn *conn)
{
    sp_metric_add(conn->server->hangups, 1);
    if (conn->request)
        sp_request_cancel(SP_STEAL(conn->request));
    gw_conn_enter(conn, GW_DEAD);
    gw_conn_resume(conn);
}

/* A close and a shutdown of the sending side look the same from here (FIN). Something sent tells them apart: a closed
 * peer answers with a reset, which arrives as EPOLLHUP. "100 Continue" is the one thing that may be sent before the
 * answer without changing it; HTTP/1.0 has no such thing, so there the answer itself is the probe. */
static void probe(gw_conn *conn)
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
    else
        probe(conn); /* and from now on only errors wake us */
}

static void suspend(gw_conn *conn)
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

/* In the middle of a body: answers past libmicrohttpd and reads on for a moment. */
static void answer_inside(gw_conn *conn, int http_status, const sp_error *err)
{
    if (conn->request)
        sp_request_close(SP_STEAL(conn->request));
    conn->response_status = http_status;
    count_reply(conn);
    gw_reply_raw(conn, http_status, err, conn->retry_after_s);
    gw_conn_enter(conn, GW_LINGER);
}

static bool has_body(const gw_conn *conn)
{
    return conn->headers.chunked || conn->headers.content_length > 0;
}

static void route_find(gw_conn *conn, const char *url, const char *method)
{
    sp_error err = { 0 };
    conn->route = 0;
    while (conn->route < ROUTE_NONE &&
           (strcmp(routes[conn->route].path, url) != 0 || !(routes[conn->route].listeners & 1u << conn->listener)))
        conn->route++;
    conn->head = strcmp(method, "HEAD") == 0;
    if (conn->route == ROUTE_NONE) {
        (void)SP_FAIL_CODE(
            &err, SP_NOT_FOUND, "no_such_path",
            "there is nothing at %.100s; this server has POST /infer, GET /, /healthz, /readyz and /metrics", url);
        gw_conn_fail(conn, 404, &err, 0);
    } else if (strcmp(method, routes[conn->route].method) != 0 && !(conn->head && routes[conn->route].page)) {
        (void)SP_FAIL_CODE(&err, SP_INVALID, "method", "%s takes %s, not %.20s", url, routes[conn->route].method,
                           method);
        gw_conn_fail(conn, 405, &err, 0);
    }
}

static enum MHD_Result answer_send(gw_conn *conn)
{
    count_reply(conn);
    gw_conn_enter(conn, GW_SENDING);
    return gw_reply_queue(conn) ? MHD_YES : MHD_NO;
}

/* The error that was noted when it happened becomes the answer. */
static void problem_make(gw_conn *conn)
{
    gw_reply_problem(conn, conn->error_status, &conn->error, conn->retry_after_s, NULL);
    if (conn->error_status == 405)
        gw_reply_header(conn, "Allow", routes[conn->route].page ? "GET, HEAD" : "POST");
}

/* First call of a request: everything is known but the body. */
static enum MHD_Result request_begin(gw_conn *conn, const char *url, const char *method, const char *version)
{
    conn->error_status = conn->retry_after_s = 0;
    conn->close_after = false;
    conn->body_bytes = 0;
    conn->options = (gw_options){ .task = SP_TASK_CLASSIFY };
    gw_headers_read(conn, version);
    gw_conn_enter(conn, GW_SWALLOW); /* a page is made when the body, which it has no use for, is through */
    conn->body_begin_ns = conn->since_ns;
    route_find(conn, url, method);
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
    } else if (!conn->error_status && !routes[conn->route].page) {
        gw_infer_begin(conn);
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
    answer_inside(conn, conn->error_status, &conn->error);
}

static void body_take(gw_conn *conn, const char *data, size_t size_bytes)
{
    conn->body_bytes += size_bytes;
    /* There may be more in the socket than was read at once. */
    if (conn->headers.chunked || conn->body_bytes < conn->headers.content_length)
        conn->server->mhd_followup = true;
    sp_metric_add(conn->server->received_bytes, (int64_t)size_bytes);
    if (conn->phase == GW_BODY)
        gw_infer_append(conn, data, size_bytes);
    else if (conn->phase == GW_SWALLOW)
        swallow(conn);
}

/* The body is through: work begins, or the error or page is sent. */
static enum MHD_Result body_end(gw_conn *conn)
{
    if (conn->phase == GW_BODY)
        gw_infer_end(conn);
    if (conn->phase == GW_WAITING) {
        conn->polled = conn->options.task == SP_TASK_NOOP && conn->server->polled_count < GW_POLLED;
        if (conn->polled)
            conn->server->polled_count++;
        else
            suspend(conn);
        return MHD_YES;
    }
    if (conn->error_status)
        problem_make(conn);
    else
        routes[conn->route].page(conn);
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
            suspend(conn);
        return MHD_YES;
    case GW_READY:
        return answer_send(conn);
    case GW_SENDING:
    case GW_DEAD:
        break;
    }
    return MHD_NO;
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
    if (conn->request)
        sp_request_cancel(SP_STEAL(conn->request));
    if (conn->response)
        MHD_destroy_response(SP_STEAL(conn->response));
    unpoll(conn);
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
    request_forget(conn);
    conn->half_closed = false;
    gw_conn_enter(conn, GW_IDLE);
}

static void address_take(gw_conn *conn)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (!info || !info->client_addr)
        return;
    if (info->client_addr->sa_family == AF_INET6)
        memcpy(conn->address, &((struct sockaddr_in6 *)(void *)info->client_addr)->sin6_addr, 16);
    else
        memcpy(conn->address, &((struct sockaddr_in *)(void *)info->client_addr)->sin_addr, 4);
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
    conn->route = ROUTE_NONE;
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

/* libmicrohttpd can miss an end that came together with the last bytes it read (its epoll is edge-triggered). */
static bool end_missed(const gw_conn *conn)
{
    char byte;
    return recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static bool bytes_wait(const gw_conn *conn)
{
    int count = 0;
    return ioctl(conn->fd, FIONREAD, &count) == 0 && count > 0;
}

/* Idle for so long that it need not keep a drain waiting. */
static bool drain_idle(const gw_conn *conn, int64_t now_ns)
{
    int64_t since = SP_MAX(conn->since_ns, conn->server->listeners_closed_ns);
    return conn->phase == GW_IDLE && now_ns - since > GW_DRAIN_IDLE_MS * SP_NS_PER_MS && !bytes_wait(conn);
}

int gw_http_busy_count(gw_server *server)
{
    int64_t now = sp_clock_now_ns();
    int count = 0;
    for (const gw_conn *conn = server->conns; conn; conn = conn->next)
        count += !drain_idle(conn, now);
    return count;
}

static void cut(gw_conn *conn)
{
    (void)shutdown(conn->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes */
}

static void answer_timeout(gw_conn *conn, const char *code, const char *text)
{
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_INVALID, code, "%s", text);
    answer_inside(conn, 408, &err);
}

static void sweep_body(gw_conn *conn, int64_t now_ns)
{
    int64_t ms = (now_ns - conn->body_begin_ns) / SP_NS_PER_MS;
    if (ms > SP_LIMIT_UPLOAD_FLOOR_AFTER_MS &&
        (int64_t)conn->body_bytes * 1000 / ms < SP_LIMIT_UPLOAD_FLOOR_BYTES_PER_S)
        answer_timeout(conn, "slow_upload", "the body came slower than 16 KiB/s for 5 s");
}

static void sweep_one(gw_conn *conn, int64_t now_ns)
{
    int64_t ms = (now_ns - conn->since_ns) / SP_NS_PER_MS;
    if (conn->phase <= GW_SWALLOW && end_missed(conn)) {
        cut(conn);
        return;
    }
    switch (conn->phase) {
    case GW_IDLE:
        if (ms > (conn->refused ? GW_LINGER_MS : GW_IDLE_MS) ||
            (conn->server->listeners_closed && drain_idle(conn, now_ns)))
            cut(conn);
        break;
    case GW_HEADERS:
        if (ms > GW_HEADER_MS) {
            conn->route = ROUTE_NONE;
            conn->retry_after_s = 0;
            gw_request_id_make(conn->server, conn->request_id);
            answer_timeout(conn, "slow_headers", "the headers did not end within 10 s");
        }
        break;
    case GW_BODY:
        sweep_body(conn, now_ns);
        break;
    case GW_SWALLOW:
        if (ms > SP_LIMIT_SWALLOW_MS && conn->error_status)
            answer_inside(conn, conn->error_status, &conn->error);
        else if (ms > SP_LIMIT_SWALLOW_MS)
            answer_timeout(conn, "slow_upload", "this request needs no body, and its body did not end within 5 s");
        break;
    case GW_LINGER:
        if (ms > GW_LINGER_MS)
            cut(conn);
        break;
    case GW_SENDING:
        if (ms > GW_SEND_MS)
            cut(conn);
        break;
    case GW_WAITING: /* the house keeps the deadline */
        /* Behind pipelined bytes that nobody reads yet, the peer's end may be unable to reach us. */
        if (conn->suspended && now_ns - SP_MAX(conn->probed_ns, conn->since_ns) > GW_PROBE_MS * SP_NS_PER_MS &&
            (conn->half_closed || bytes_wait(conn)))
            probe(conn);
        break;
    case GW_READY:
    case GW_DEAD:
        break;
    }
}

void gw_sweep_arm(gw_server *server)
{
    int64_t ms = server->draining ? GW_SWEEP_MS / 5 : GW_SWEEP_MS;
    if (!server->sweep.heap_index) /* without memory for a timer the next connection tries again */
        (void)sp_loop_timer_set(server->loop, &server->sweep, sp_loop_now_ns(server->loop) + ms * SP_NS_PER_MS, NULL);
}

static void sweep_fire(sp_timer *timer, void *context)
{
    (void)timer;
    gw_server *server = context;
    int64_t now = sp_loop_now_ns(server->loop);
    for (gw_conn *conn = server->conns, *next; conn; conn = next) {
        next = conn->next;
        sweep_one(conn, now);
    }
    gw_listen_resume(server);
    if (server->conns)
        gw_sweep_arm(server);
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
        MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle,
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
    server->sweep = (sp_timer){ .fire = sweep_fire, .context = server };
    sp_status s = sp_loop_watch(server->loop, &server->mhd_watch, EPOLLIN, reterr);
    return s ? s : sp_loop_hook_add(server->loop, mhd_hook, server, reterr);
}

void gw_http_stop(gw_server *server)
{
    if (!server->daemon)
        return;
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_UNAVAILABLE, "stopped", "the server was stopped before the request was done");
    for (gw_conn *conn = server->conns; conn; conn = conn->next) {
        if (conn->phase == GW_WAITING) {
            sp_request_cancel(SP_STEAL(conn->request));
            gw_reply_problem(conn, 503, &err, 1, NULL);
            gw_conn_enter(conn, GW_READY);
        }
        gw_conn_resume(conn);
    }
    for (int i = 0; i < RUNS_AT_ONCE && server->conns; i++)
        (void)MHD_run(server->daemon);
    sp_loop_unwatch(server->loop, &server->mhd_watch);
    sp_loop_timer_clear(server->loop, &server->sweep);
    MHD_stop_daemon(SP_STEAL(server->daemon));
}
