/* SPDX-License-Identifier: Apache-2.0
 * Many transfers on one thread: libcurl's multi interface under an epoll set of our own, because two multis (see
 * sp_net_pool_index) and the caller's bell are waited for together. */
#include "provider/internal.h"

#include "base/clock.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_MAX 64
#define KEPT_CONNECTIONS 64L /* a pool: more than any chain's remotes times their concurrency in practice */
#define WAKE_MARK UINT64_MAX

SP_EXPORT const sp_net_api *sp_net_api_get(void);

/* --- what libcurl wants to hear of -------------------------------------------------------------------------------- */

static uint64_t mark_of(const sp_net_pool *pool, curl_socket_t fd)
{
    return (uint64_t)pool->index << 32 | (uint32_t)fd;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context)
{
    (void)easy;
    (void)socket_context;
    sp_net_pool *pool = context;
    struct epoll_event event = { .data.u64 = mark_of(pool, fd) };
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(pool->net->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* it may be closed already */
        return 0;
    }
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
    if (epoll_ctl(pool->net->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0)
        return 0;
    return epoll_ctl(pool->net->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -1;
}

static int on_timer(CURLM *multi, long timeout_ms, void *context)
{
    (void)multi;
    sp_net_pool *pool = context;
    pool->timer_ns = timeout_ms < 0 ? 0 : sp_clock_now_ns() + timeout_ms * SP_NS_PER_MS;
    return 0;
}

/* --- ended transfers ---------------------------------------------------------------------------------------------- */

static void unlink_call(sp_net_call *call)
{
    if (call->previous)
        call->previous->next = call->next;
    else
        call->net->calls = call->next;
    if (call->next)
        call->next->previous = call->previous;
}

static void end_call(sp_net_call *call, const sp_http_result *result)
{
    unlink_call(call);
    call->request.done(call->request.context, result);
    sp_net_call_free(call);
}

static void collect(sp_net_pool *pool)
{
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(pool->multi, &left)) != NULL;) {
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode code = message->data.result; /* the message is gone once its handle is */
        sp_net_call *call = NULL;
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        (void)curl_multi_remove_handle(pool->multi, message->easy_handle);
        sp_http_result result = { 0 };
        bool again = sp_net_call_ended(call, code, &result);
        if (again && curl_multi_add_handle(pool->multi, call->easy) == CURLM_OK)
            continue;
        if (again)
            result.status = SP_FAIL(&result.error, SP_NOMEM, "libcurl has no memory for a redirect");
        end_call(call, &result);
    }
}

/* --- the interface ------------------------------------------------------------------------------------------------ */

static void net_close(sp_net *net)
{
    if (!net)
        return;
    while (net->calls) {
        sp_net_call *call = net->calls;
        (void)curl_multi_remove_handle(call->pool->multi, call->easy);
        unlink_call(call);
        sp_net_call_free(call);
    }
    for (int i = 0; i < net->idle_count; i++)
        curl_easy_cleanup(net->idle[i]);
    for (int i = 0; i < SP_NET_POOLS; i++) {
        if (net->pools[i].multi)
            (void)curl_multi_cleanup(net->pools[i].multi);
    }
    sp_fd_closep(&net->epoll_fd);
    free(net);
}

static bool open_pool(sp_net *net, int index)
{
    sp_net_pool *pool = &net->pools[index];
    *pool = (sp_net_pool){ .net = net, .index = index, .multi = curl_multi_init() };
    return pool->multi && curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, on_socket) == CURLM_OK &&
           curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool) == CURLM_OK &&
           curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, on_timer) == CURLM_OK &&
           curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool) == CURLM_OK &&
           curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, KEPT_CONNECTIONS) == CURLM_OK;
}

static sp_status net_open(const sp_net_options *options, sp_net **ret_net, sp_error *reterr)
{
    sp_net *net = calloc(1, sizeof(*net));
    if (!net)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the transport");
    net->options = *options;
    net->wake_fd = -1;
    net->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bool good = net->epoll_fd >= 0 && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    for (int i = 0; i < SP_NET_POOLS && good; i++)
        good = open_pool(net, i);
    if (!good) {
        net_close(net);
        return SP_FAIL(reterr, SP_NOMEM, "libcurl cannot start");
    }
    *ret_net = net;
    return SP_OK;
}

static sp_status net_start(sp_net *net, const sp_http_request *request, sp_net_call **ret_call, sp_error *reterr)
{
    sp_net_call *call = NULL;
    sp_status s = sp_net_call_new(net, request, &call, reterr);
    if (s)
        return s;
    call->pool = &net->pools[request->guarded ? SP_NET_GUARDED : SP_NET_TRUSTED];
    CURLMcode code = sp_net_faulted(net) ? CURLM_OUT_OF_MEMORY : curl_multi_add_handle(call->pool->multi, call->easy);
    if (code != CURLM_OK) {
        sp_net_call_free(call);
        return SP_FAIL_FROM(reterr, SP_NOMEM, "libcurl", (int)code, "%s", curl_multi_strerror(code));
    }
    call->next = net->calls;
    if (net->calls)
        net->calls->previous = call;
    net->calls = call;
    *ret_call = call;
    return SP_OK;
}

static void net_cancel(sp_net *net, sp_net_call *call)
{
    (void)net;
    (void)curl_multi_remove_handle(call->pool->multi, call->easy);
    unlink_call(call);
    sp_net_call_free(call);
}

static void watch_bell(sp_net *net, int wake_fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = WAKE_MARK };
    if (wake_fd == net->wake_fd || wake_fd < 0)
        return;
    if (epoll_ctl(net->epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) == 0)
        net->wake_fd = wake_fd;
}

/* The sooner of `wait_ns` and libcurl's timers, in whole milliseconds upwards. */
static int wait_ms(const sp_net *net, int64_t wait_ns)
{
    int64_t now_ns = sp_clock_now_ns();
    for (int i = 0; i < SP_NET_POOLS; i++) {
        int64_t timer_ns = net->pools[i].timer_ns;
        if (timer_ns && (wait_ns < 0 || timer_ns - now_ns < wait_ns))
            wait_ns = SP_MAX(timer_ns - now_ns, 0);
    }
    if (wait_ns < 0)
        return -1;
    return (int)SP_MIN((wait_ns + SP_NS_PER_MS - 1) / SP_NS_PER_MS, 60000);
}

static void net_drive(sp_net *net, int wake_fd, int64_t wait_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int running;
    watch_bell(net, wake_fd);
    int count = epoll_wait(net->epoll_fd, events, EVENTS_MAX, wait_ms(net, wait_ns));
    for (int i = 0; i < count; i++) {
        uint64_t mark = events[i].data.u64;
        if (mark == WAKE_MARK)
            continue;
        int what = (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
        (void)curl_multi_socket_action(net->pools[mark >> 32].multi, (curl_socket_t)(uint32_t)mark, what, &running);
    }
    int64_t now_ns = sp_clock_now_ns();
    for (int i = 0; i < SP_NET_POOLS; i++) {
        sp_net_pool *pool = &net->pools[i];
        if (pool->timer_ns && now_ns >= pool->timer_ns) {
            pool->timer_ns = 0; /* libcurl sets the next one from inside */
            (void)curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        }
        collect(pool);
    }
}

static const char *net_versions(void)
{
    static char text[128];
    (void)snprintf(text, sizeof(text), "libcurl %s, %s", curl_version_info(CURLVERSION_NOW)->version,
                   OpenSSL_version(OPENSSL_VERSION));
    return text;
}

const sp_net_api *sp_net_api_get(void)
{
    static const sp_net_api api = {
        .abi = SP_NET_ABI, .open = net_open, .close = net_close, .start = net_start, .cancel = net_cancel,
        .drive = net_drive, .versions = net_versions,
    };
    return &api;
}
