/* SPDX-License-Identifier: Apache-2.0
 * The sweep: four times a second each connection is looked at, and who takes too long in its phase is answered or cut.
 * libmicrohttpd's own timeouts are per activity, so a slow drip would never end. */
#include "gateway/events.h"
#include "gateway/server.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

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

void gw_conn_cut(gw_conn *conn)
{
    (void)shutdown(conn->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes */
}

static void answer_timeout(gw_conn *conn, const char *code, const char *text)
{
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_INVALID, code, "%s", text);
    gw_conn_answer_inside(conn, 408, &err);
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
    if (conn->phase == GW_BODY && conn->suspended) { /* we are behind, not the client; its hang-up is watched */
        conn->body_begin_ns += SP_MIN((int64_t)GW_SWEEP_MS * SP_NS_PER_MS, now_ns - conn->body_begin_ns);
        return;
    }
    if (conn->phase <= GW_SWALLOW && end_missed(conn)) {
        gw_conn_cut(conn);
        return;
    }
    switch (conn->phase) {
    case GW_IDLE:
        if (ms > (conn->refused ? GW_LINGER_MS : GW_IDLE_MS) ||
            (conn->server->listeners_closed && drain_idle(conn, now_ns)))
            gw_conn_cut(conn);
        break;
    case GW_HEADERS:
        if (ms > GW_HEADER_MS) {
            conn->route = NULL;
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
            gw_conn_answer_inside(conn, conn->error_status, &conn->error);
        else if (ms > SP_LIMIT_SWALLOW_MS)
            answer_timeout(conn, "slow_upload", "this request needs no body, and its body did not end within 5 s");
        break;
    case GW_LINGER:
        if (ms > GW_LINGER_MS)
            gw_conn_cut(conn);
        break;
    case GW_SENDING:
        if (ms > GW_SEND_MS)
            gw_conn_cut(conn);
        break;
    case GW_WAITING: /* the house keeps the deadline */
        /* Behind pipelined bytes that nobody reads yet, the peer's end may be unable to reach us. */
        if (conn->suspended && now_ns - SP_MAX(conn->probed_ns, conn->since_ns) > GW_PROBE_MS * SP_NS_PER_MS &&
            (conn->half_closed || bytes_wait(conn)))
            gw_conn_probe(conn);
        break;
    case GW_STREAMING:
        gw_events_sweep(conn, now_ns);
        break;
    case GW_UPGRADED:
        gw_events_sweep(conn, now_ns);
        gw_socket_sweep(conn, now_ns);
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

void gw_sweep_init(gw_server *server)
{
    server->sweep = (sp_timer){ .fire = sweep_fire, .context = server };
}
