/* SPDX-License-Identifier: Apache-2.0
 * See call.h: a blocking client on bench_http's parser, with poll() keeping the time. */
#include "cli/call.h"

#include "base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

sp_status sp_caller_init(sp_caller *caller, const char *host, const char *port, size_t keep_limit, sp_error *reterr)
{
    *caller = (sp_caller){ .host = host, .port = port, .fd = -1 };
    caller->answer.kept = malloc(keep_limit ? keep_limit : 1);
    caller->answer.keep_limit = keep_limit;
    return caller->answer.kept ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of answer", keep_limit);
}

void sp_caller_done(sp_caller *caller)
{
    free(caller->answer.kept);
    caller->answer.kept = NULL;
    sp_fd_closep(&caller->fd);
}

/* False: the time is up. */
static bool wait_for(int fd, short events, int64_t end_ns, short *ret_events)
{
    for (;;) {
        int64_t left_ns = end_ns - sp_clock_now_ns();
        if (left_ns <= 0)
            return false;
        struct pollfd wait = { .fd = fd, .events = events };
        int n = poll(&wait, 1, (int)SP_MIN(left_ns / SP_NS_PER_MS + 1, 60000));
        if (n > 0) {
            *ret_events = wait.revents;
            return true;
        }
        if (n < 0 && errno != EINTR)
            return false;
    }
}

static sp_status connect_one(sp_caller *caller, const struct addrinfo *at, int64_t end_ns, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1, code = 0;
    socklen_t code_bytes = sizeof(code);
    short events;

    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "socket");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, at->ai_addr, at->ai_addrlen) < 0 && errno != EINPROGRESS)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "no connection to %s:%s", caller->host, caller->port);
    if (!wait_for(fd, POLLOUT, end_ns, &events))
        return SP_FAIL(reterr, SP_TIMEOUT, "no connection to %s:%s in time", caller->host, caller->port);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &code_bytes) < 0 || code) {
        errno = code;
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "no connection to %s:%s", caller->host, caller->port);
    }
    caller->fd = fd;
    caller->used = false;
    fd = -1;
    return SP_OK;
}

static sp_status open_connection(sp_caller *caller, int64_t end_ns, sp_error *reterr)
{
    struct addrinfo *list = NULL, hints = { .ai_socktype = SOCK_STREAM };
    int code = getaddrinfo(caller->host, caller->port, &hints, &list);
    sp_status s = SP_UNAVAILABLE;

    if (code)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "%s:%s: %s", caller->host, caller->port, gai_strerror(code));
    for (const struct addrinfo *at = list; at && s == SP_UNAVAILABLE; at = at->ai_next)
        s = connect_one(caller, at, end_ns, reterr);
    freeaddrinfo(list);
    return s;
}

/* Takes what is there. SP_OK: go on; look at the answer's phase. */
static sp_status receive(sp_caller *caller, sp_error *reterr)
{
    uint8_t block[65536];
    ssize_t n = recv(caller->fd, block, sizeof(block), 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return SP_OK;
    if (n < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "the connection broke");
    if (n == 0)
        return sp_bench_answer_closed(&caller->answer) ?
                   SP_OK :
                   SP_FAIL(reterr, SP_INTERNAL, "the server closed the connection %s",
                           caller->answer.head_bytes ? "in the middle of an answer" : "without an answer");
    (void)sp_bench_answer_feed(&caller->answer, block, (size_t)n);
    return caller->answer.phase == SP_BENCH_BAD ? SP_FAIL(reterr, SP_INTERNAL, "what came back is no HTTP") : SP_OK;
}

/* Reads while it writes: a server may answer before it has read everything (413), and then close. */
static sp_status exchange(sp_caller *caller, sp_view request, int64_t end_ns, sp_error *reterr)
{
    size_t sent = 0;

    sp_bench_answer_reset(&caller->answer);
    while (caller->answer.phase != SP_BENCH_DONE) {
        short events;
        bool writes = sent < request.size_bytes;
        if (!wait_for(caller->fd, (short)(POLLIN | (writes ? POLLOUT : 0)), end_ns, &events))
            return SP_FAIL(reterr, SP_TIMEOUT, "no whole answer in time (%zu of %zu bytes sent)", sent, request.size_bytes);
        if (events & (POLLIN | POLLHUP | POLLERR)) {
            sp_status s = receive(caller, reterr);
            if (s)
                return s;
        } else if (writes) {
            ssize_t n = send(caller->fd, request.data + sent, request.size_bytes - sent, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN && errno != EINTR && errno != EPIPE && errno != ECONNRESET)
                return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "send");
            if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
                sent = request.size_bytes; /* the answer, if there is one, is still to be read */
            sent += n > 0 ? (size_t)n : 0;
        }
    }
    caller->answer.close |= sent < request.size_bytes; /* the rest would be read as the next request */
    return SP_OK;
}

sp_status sp_caller_call(sp_caller *caller, sp_view request, int64_t timeout_ns, int *ret_status, sp_view *ret_body,
                         sp_error *reterr)
{
    int64_t end_ns = sp_clock_now_ns() + timeout_ns;
    sp_status s;

    for (;;) {
        if (caller->fd < 0 && (s = open_connection(caller, end_ns, reterr)))
            return s;
        s = exchange(caller, request, end_ns, reterr);
        if (!s)
            break;
        sp_fd_closep(&caller->fd);
        if (s != SP_INTERNAL || !caller->used || caller->answer.head_bytes)
            return s;
    }
    caller->used = true;
    if (caller->answer.close)
        sp_fd_closep(&caller->fd);
    *ret_status = caller->answer.status;
    *ret_body = sp_view_make(caller->answer.kept, caller->answer.kept_bytes);
    return SP_OK;
}
