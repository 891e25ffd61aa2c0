/* SPDX-License-Identifier: Apache-2.0
 * Listening sockets. We accept ourselves and hand the sockets to libmicrohttpd, because it knows no words for a
 * connection over a limit (it just closes) and cannot take a backlog in before it stops listening. */
#include "gateway/auth.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTEN_BACKLOG 1024
#define ACCEPT_AT_ONCE 64 /* then the other connections get their turn */

typedef union sockaddr_any {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} sockaddr_any;

static sp_status address_read(const char *text, int port, sockaddr_any *ret_address, socklen_t *ret_bytes,
                              bool *ret_loopback, sp_error *reterr)
{
    sockaddr_any a = { 0 };
    if (!text || !*text || strcasecmp(text, "localhost") == 0)
        text = "127.0.0.1";
    bool loopback = false;
    if (inet_pton(AF_INET, text, &a.v4.sin_addr) == 1) {
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = htons((uint16_t)port);
        *ret_bytes = sizeof(a.v4);
        loopback = (ntohl(a.v4.sin_addr.s_addr) >> 24) == 127;
    } else if (inet_pton(AF_INET6, text, &a.v6.sin6_addr) == 1) {
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = htons((uint16_t)port);
        *ret_bytes = sizeof(a.v6);
        loopback = IN6_IS_ADDR_LOOPBACK(&a.v6.sin6_addr);
    } else {
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_address",
                            "\"%.60s\" is no IP address; use 127.0.0.1, ::1, or with tokens 0.0.0.0 or ::", text);
    }
    *ret_loopback = loopback;
    *ret_address = a;
    return SP_OK;
}

void gw_address_bytes(const struct sockaddr *address, uint8_t ret_bytes[16])
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    if (address->sa_family == AF_INET6) {
        memcpy(ret_bytes, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
    } else {
        memcpy(ret_bytes, mapped, sizeof(mapped));
        memcpy(ret_bytes + sizeof(mapped), &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    }
}

static int count_from(const gw_server *server, const sockaddr_any *address)
{
    uint8_t bytes[16];
    int count = 0;
    gw_address_bytes(&address->any, bytes);
    for (const gw_conn *c = server->conns; c; c = c->next)
        count += memcmp(c->address, bytes, 16) == 0;
    return count;
}

/* The socket is libmicrohttpd's, or closed, when this returns. */
static void connection_add(gw_listener *listener, int fd, const sockaddr_any *address, socklen_t address_size)
{
    gw_server *server = listener->server;
    bool over = server->conn_count - server->refused_count >= SP_LIMIT_CONNECTIONS;
    /* Counting is linear, so it begins only where the limit could be reached. */
    if (!over && server->conn_count >= SP_LIMIT_CONNECTIONS_PER_ADDRESS)
        over = count_from(server, address) >= SP_LIMIT_CONNECTIONS_PER_ADDRESS;
    if (over)
        sp_metric_add(server->refused, 1);
    if (over && server->refused_count >= GW_REFUSED_CONNECTIONS) {
        (void)close(fd);
        return;
    }
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* without it answers are late, not wrong */
    server->accepting = listener;
    server->accept_refused = over;
    (void)MHD_add_connection(server->daemon, fd, &address->any, address_size); /* closes it when it fails */
    server->accepting = NULL;
}

/* False when the backlog is empty. */
static bool accept_one(gw_listener *listener)
{
    sockaddr_any address;
    socklen_t size = sizeof(address);
    int fd = accept4(listener->watch.fd, &address.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
        return true;
    if (fd < 0 && errno != EAGAIN) {
        /* Out of descriptors or memory. The backlog waits for the next sweep; asking again at once is a busy loop. */
        sp_log(SP_LOG_WARN, "accept failed", SP_LOG_INT("errno", errno));
        sp_loop_unwatch(listener->server->loop, &listener->watch);
        gw_sweep_arm(listener->server);
    }
    if (fd < 0)
        return false;
    connection_add(listener, fd, &address, size);
    return true;
}

static void listener_ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    (void)watch;
    (void)epoll_events;
    gw_listener *listener = context;
    for (int i = 0; i < ACCEPT_AT_ONCE && accept_one(listener); i++)
        listener->server->mhd_due = true;
}

static sp_status bind_and_listen(int fd, const sockaddr_any *address, socklen_t size, int port, sp_error *reterr)
{
    int one = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* a restart need not wait for TIME_WAIT */
    if (bind(fd, &address->any, size) < 0)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot listen on port %d; choose another one, or 0 for any",
                             port);
    if (listen(fd, LISTEN_BACKLOG) < 0)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot listen on port %d", port);
    return SP_OK;
}

sp_status gw_listen_open(gw_server *server, gw_listener_kind kind, int port, sp_error *reterr)
{
    gw_listener *listener = &server->listeners[kind];
    const char *text = server->config->bind_address;
    if (port < 0 || port > 65535)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_port", "port %d is not between 0 and 65535", port);
    sockaddr_any address;
    socklen_t size = 0;
    bool loopback = false;
    sp_status s = address_read(text, port, &address, &size, &loopback, reterr);
    if (!s)
        s = gw_auth_may_bind(server, loopback, text, reterr);
    if (s)
        return s;
    server->loopback = loopback; /* one address for all listeners */
    SP_CLEANUP(sp_fd_closep) int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot make a socket");
    s = bind_and_listen(fd, &address, size, port, reterr);
    if (s)
        return s;
    size = sizeof(address);
    if (getsockname(fd, &address.any, &size) < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "getsockname");
    bool v6 = address.any.sa_family == AF_INET6;
    listener->port = ntohs(v6 ? address.v6.sin6_port : address.v4.sin_port);
    (void)inet_ntop(address.any.sa_family, v6 ? (void *)&address.v6.sin6_addr : (void *)&address.v4.sin_addr,
                    server->address_text, sizeof(server->address_text));
    listener->watch = (sp_watch){ .fd = fd, .ready = listener_ready, .context = listener };
    s = sp_loop_watch(server->loop, &listener->watch, EPOLLIN, reterr);
    if (s) {
        listener->watch.fd = -1;
        return s;
    }
    fd = -1; /* the listener's now */
    return SP_OK;
}

void gw_listen_resume(gw_server *server)
{
    for (int i = 0; i < GW_LISTEN_COUNT; i++) {
        gw_listener *listener = &server->listeners[i];
        if (listener->watch.fd >= 0 && !listener->watch.active &&
            sp_loop_watch(server->loop, &listener->watch, EPOLLIN, NULL))
            gw_sweep_arm(server); /* again later */
    }
}

/* Lets no new connection into the backlog, so that none is reset between the last accept and the close: packets for the
 * listener are dropped, and a client that tries again after the close is refused. Where the kernel does not do it, that
 * moment stays. */
static void backlog_seal(int fd)
{
    struct sock_filter drop_all = BPF_STMT(BPF_RET | BPF_K, 0);
    const struct sock_fprog program = { .len = 1, .filter = &drop_all };
    (void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

void gw_listen_drain(gw_server *server)
{
    for (int i = 0; i < GW_LISTEN_COUNT; i++) {
        gw_listener *listener = &server->listeners[i];
        if (listener->watch.fd >= 0)
            backlog_seal(listener->watch.fd);
        /* Bounded: a flood of connections may not keep us from stopping. */
        for (int n = 0; listener->watch.fd >= 0 && n < 2 * LISTEN_BACKLOG && accept_one(listener); n++)
            server->mhd_due = true;
    }
    gw_listen_close(server);
}

void gw_listen_close(gw_server *server)
{
    for (int i = 0; i < GW_LISTEN_COUNT; i++) {
        gw_listener *listener = &server->listeners[i];
        sp_loop_unwatch(server->loop, &listener->watch);
        sp_fd_closep(&listener->watch.fd);
    }
}
