/* SPDX-License-Identifier: Apache-2.0
 * Start and stop, and where events come from.
 *
 * Inline: libgrpc's epoll1 engine has one epoll descriptor for the whole process, made by grpc_init. It is found by
 * comparing /proc/self/fd before and after, and sits in the loop's epoll. A queue polled with a deadline that has passed
 * lets the engine do one look at its sockets on our thread: reading, HTTP/2, writing, and the ends of operations, without
 * any hop. Two things are not told by that descriptor:
 *   - the engine takes up to 100 events from the kernel at once and handles one a look;
 *   - an operation that ends on one of the library's own threads (timers) wakes nobody.
 * So we look until nothing came QUIET_LOOKS times in a row, and then again after 1, 2, 4 ... 256 ms of silence. */
#include "gateway/rpc/internal.h"

#include <dirent.h>
#include <errno.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define QUIET_LOOKS 3
#define FIRST_SLEEP_NS INT64_C(1000000)
#define LONGEST_SLEEP_NS INT64_C(256000000)
#define EPOLL_SETS 64
#define EVENTS_A_TURN 16 /* of unpacking, while there are always more */

static void (*complain)(const char *text); /* set once, before the library's threads */

static void log_line(gpr_log_func_args *args)
{
    if (complain && args->severity == GPR_LOG_SEVERITY_ERROR)
        complain(args->message);
}

/* --- the library's epoll descriptor ------------------------------------------------------------------------------ */

/* Epoll descriptors of this process, up to EPOLL_SETS; -1 = cannot be listed. */
static int epoll_sets(int fds[EPOLL_SETS])
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    if (!dir)
        return -1;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL && count < EPOLL_SETS;) {
        char target[64];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        if (n <= 0)
            continue;
        target[n] = 0;
        if (strcmp(target, "anon_inode:[eventpoll]") == 0)
            fds[count++] = (int)strtol(entry->d_name, NULL, 10);
    }
    (void)closedir(dir); /* it was only read */
    return count;
}

/* The one that is new; -1 when there is not exactly one. */
static int epoll_set_new(const int *before, int before_count)
{
    int now[EPOLL_SETS], found = -1;
    int count = epoll_sets(now);
    if (before_count < 0 || count < 0 || count == EPOLL_SETS)
        return -1;
    for (int i = 0; i < count; i++) {
        bool known = false;
        for (int j = 0; j < before_count; j++)
            known |= before[j] == now[i];
        if (known)
            continue;
        if (found >= 0)
            return -1;
        found = now[i];
    }
    return found;
}

static bool other_strategy(void)
{
    const char *strategy = getenv("GRPC_POLL_STRATEGY");
    return strategy && *strategy && strcmp(strategy, "epoll1") != 0;
}

/* --- threaded ---------------------------------------------------------------------------------------------------- */

static void ring_push(sp_rpc_server *server, rpc_tag *tag, bool success)
{
    uint32_t tail = atomic_load_explicit(&server->tail, memory_order_relaxed);
    while (tail - atomic_load_explicit(&server->head, memory_order_acquire) >= RPC_QUEUE)
        (void)sched_yield(); /* cannot fail. More than all calls can have out: the loop is far behind */
    server->ring[tail % RPC_QUEUE] = (rpc_done){ tag, success };
    atomic_store_explicit(&server->tail, tail + 1, memory_order_release);
    if (!atomic_exchange(&server->rung, true)) {
        const uint64_t one = 1;
        (void)!write(server->config.event_fd, &one, sizeof(one)); /* full = rung already */
    }
}

static bool ring_pop(sp_rpc_server *server, rpc_done *ret_done)
{
    uint32_t head = atomic_load_explicit(&server->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&server->tail, memory_order_acquire)) {
        if (!atomic_load_explicit(&server->rung, memory_order_relaxed))
            return false;
        uint64_t count;
        (void)!read(server->config.event_fd, &count, sizeof(count)); /* empty = not rung yet: it wakes us for nothing once */
        atomic_store(&server->rung, false);
        if (head == atomic_load(&server->tail))
            return false;
    }
    *ret_done = server->ring[head % RPC_QUEUE];
    atomic_store_explicit(&server->head, head + 1, memory_order_release);
    return true;
}

static void *thread_main(void *context)
{
    sp_rpc_server *server = context;
    for (;;) {
        grpc_event event = grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (event.type == GRPC_OP_COMPLETE)
            ring_push(server, event.tag, event.success != 0);
    }
}

/* With every signal blocked: they are the loop's. */
static bool thread_start(sp_rpc_server *server)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    server->has_thread = pthread_create(&server->thread, NULL, thread_main, server) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return server->has_thread;
}

/* --- inline ------------------------------------------------------------------------------------------------------ */

static bool inline_pop(sp_rpc_server *server, rpc_done *ret_done)
{
    while (server->quiet < QUIET_LOOKS) {
        grpc_event event = grpc_completion_queue_next(server->queue, gpr_inf_past(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_OP_COMPLETE) {
            server->quiet = 0;
            server->sleep_ns = FIRST_SLEEP_NS;
            *ret_done = (rpc_done){ event.tag, event.success != 0 };
            return true;
        }
        server->quiet++;
    }
    return false;
}

/* The queue is empty: until when? */
static void inline_rest(sp_rpc_server *server)
{
    int64_t sleep_ns = server->sleep_ns;
    server->quiet = 0;
    server->busy = false;
    server->look_at_ns = rpc_now_ns() + sleep_ns;
    server->sleep_ns = SP_MIN(sleep_ns * 2, LONGEST_SLEEP_NS);
}

/* ----------------------------------------------------------------------------------------------------------------- */

/* Asks for as many calls as may come before we are here again. */
static bool ask(sp_rpc_server *server)
{
    while (server->waiting_count < RPC_WAITING && !server->stopping) {
        sp_rpc_call *call = rpc_call_new(server);
        if (!call)
            return false;
        if (grpc_server_request_call(server->server, &call->call, &call->details, &call->metadata, server->queue, server->queue,
                                     &call->tags[TAG_REQUEST]) != GRPC_CALL_OK) {
            rpc_call_free(call);
            return false;
        }
        server->waiting_count++;
        server->busy = true;
    }
    return true;
}

static bool next(sp_rpc_server *server, sp_rpc_event *ret_event)
{
    rpc_done done;
    if (server->last)
        rpc_call_free(SP_STEAL(server->last));
    if (server->watch_next)
        rpc_call_watch(SP_STEAL(server->watch_next));
    server->watch_next = SP_STEAL(server->fresh); /* not before its message, if that is here, has been delivered */
    if (++server->events % EVENTS_A_TURN == 0 && rpc_unpack_turn(server, ret_event))
        return true;
    for (;;) {
        if (server->ended) {
            sp_rpc_call *call = server->ended;
            server->ended = call->next;
            server->last = call;
            *ret_event = (sp_rpc_event){ .kind = SP_RPC_ENDED, .call = call, .context = call->context,
                                         .cancelled = !call->finishing || call->close_flag };
            return true;
        }
        if (!(server->poll_fd >= 0 ? inline_pop(server, &done) : ring_pop(server, &done)))
            break;
        if (done.tag == &server->stop_tag)
            server->stopped = true;
        else if (rpc_call_done(done.tag, done.success, ret_event))
            return true;
    }
    if (server->watch_next)
        rpc_call_watch(SP_STEAL(server->watch_next));
    (void)ask(server); /* without memory there are fewer; the next look asks again */
    if (rpc_unpack_turn(server, ret_event))
        return true;
    if (server->poll_fd >= 0)
        inline_rest(server);
    return false;
}

static int64_t due(const sp_rpc_server *server, int64_t now_ns)
{
    if (rpc_unpack_due(server))
        return 0;
    if (server->poll_fd < 0)
        return server->ended ? 0 : -1;
    return server->busy || server->ended ? 0 : SP_MAX(server->look_at_ns - now_ns, (int64_t)0);
}

static int poll_fd(const sp_rpc_server *server)
{
    return server->poll_fd;
}

static void stop(sp_rpc_server *server)
{
    if (server->stopping)
        return;
    server->stopping = true;
    server->busy = true;
    grpc_server_shutdown_and_notify(server->server, server->queue, &server->stop_tag);
}

static bool stopped(const sp_rpc_server *server)
{
    return server->stopped && !server->open && !server->ended;
}

static void cancel_all(sp_rpc_server *server)
{
    server->busy = true;
    grpc_server_cancel_all_calls(server->server);
}

static void server_free(sp_rpc_server *server)
{
    if (!server)
        return;
    if (server->server) {
        stop(server);
        cancel_all(server);
        /* Every operation comes back now, on whichever thread; events are thrown away. */
        while (!stopped(server)) {
            sp_rpc_event event;
            while (next(server, &event)) {
                if (event.kind == SP_RPC_MESSAGE)
                    rpc_release(&event);
                if (event.kind == SP_RPC_OPENED)
                    (void)grpc_call_cancel(event.call->call, NULL);
            }
            struct pollfd news = { .fd = server->poll_fd >= 0 ? server->poll_fd : server->config.event_fd, .events = POLLIN };
            if (!stopped(server))
                (void)poll(&news, 1, 1); /* whatever it says: the next look decides */
        }
        if (server->last)
            rpc_call_free(SP_STEAL(server->last));
        grpc_server_destroy(server->server);
    }
    if (server->queue) {
        grpc_completion_queue_shutdown(server->queue);
        if (server->has_thread)
            (void)pthread_join(server->thread, NULL);
        else
            while (grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type != GRPC_QUEUE_SHUTDOWN)
                ;
        grpc_completion_queue_destroy(server->queue);
    }
    for (sp_rpc_call *call; (call = server->spare) != NULL;) {
        server->spare = call->next;
        free(call);
    }
    rpc_unpack_done(server);
    free(server->ring);
    free(server);
    grpc_shutdown_blocking();
    complain = NULL;
}

static grpc_arg number(const char *key, int value)
{
    return (grpc_arg){ .type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value };
}

static void server_make(sp_rpc_server *server)
{
    const sp_rpc_config *config = &server->config;
    grpc_arg args[16];
    size_t n = 0;
    args[n++] = number(GRPC_ARG_ALLOW_REUSEPORT, 0); /* a port that is taken is an error */
    args[n++] = number(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)SP_MIN(config->most_message_bytes, (size_t)INT32_MAX));
    args[n++] = number(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1);
    args[n++] = number(GRPC_ARG_MAX_CONCURRENT_STREAMS, config->most_calls);
    args[n++] = number(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 0); /* the house keeps them: no timer of the library a call */
    args[n++] = number(GRPC_ARG_HTTP2_BDP_PROBE, 0);        /* no pings, no timers; windows are wide from the start */
    args[n++] = number(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024 * 1024);
    args[n++] = number(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, 256 * 1024); /* one look holds the loop no longer than that */
    /* Compressed messages are taken and left to unpack.c: what they unpack to is not bounded by the library. */
    args[n++] = number(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET,
                       1 << GRPC_COMPRESS_NONE | 1 << GRPC_COMPRESS_DEFLATE | 1 << GRPC_COMPRESS_GZIP);
    args[n++] = number(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    args[n++] = number(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000); /* clients may ping that often */
    if (config->keepalive_ms)
        args[n++] = number(GRPC_ARG_KEEPALIVE_TIME_MS, config->keepalive_ms);
    if (config->keepalive_timeout_ms)
        args[n++] = number(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, config->keepalive_timeout_ms);
    grpc_resource_quota *quota = grpc_resource_quota_create("spillway");
    grpc_resource_quota_resize(quota, config->most_memory_bytes);
    args[n++] = (grpc_arg){ .type = GRPC_ARG_POINTER, .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
                            .value.pointer = { quota, grpc_resource_quota_arg_vtable() } };
    const grpc_channel_args all = { n, args };
    server->server = grpc_server_create(&all, NULL);
    grpc_resource_quota_unref(quota);
    grpc_server_register_completion_queue(server->server, server->queue, NULL);
}

static int start(const sp_rpc_config *config, sp_rpc_server **ret_server, int *ret_port, char *ret_message, size_t message_bytes)
{
    int before[EPOLL_SETS];
    sp_rpc_server *server = aligned_alloc(64, SP_ALIGN_UP(sizeof(*server), (size_t)64));
    if (!server || config->struct_bytes != sizeof(*config)) {
        free(server);
        (void)snprintf(ret_message, message_bytes, "%s", server ? "the plug-in is of another build" : "no memory");
        return -1;
    }
    memset(server, 0, sizeof(*server));
    server->config = *config;
    server->sleep_ns = FIRST_SLEEP_NS;
    complain = config->log;
    gpr_set_log_function(log_line);
    int before_count = epoll_sets(before);
    grpc_init();
    server->poll_fd = config->threaded || other_strategy() ? -1 : epoll_set_new(before, before_count);
    server->queue = grpc_completion_queue_create_for_next(NULL);
    server_make(server);
    grpc_server_credentials *open = grpc_insecure_server_credentials_create();
    *ret_port = grpc_server_add_http2_port(server->server, config->address, open);
    grpc_server_credentials_release(open);
    const char *failed = *ret_port <= 0 ? "the address is taken or cannot be listened on" : NULL;
    grpc_server_start(server->server); /* also when it has no port: only a started one can be stopped */
    if (!failed && server->poll_fd < 0) {
        server->ring = calloc(RPC_QUEUE, sizeof(*server->ring));
        if (!server->ring || !thread_start(server))
            failed = "no memory for the completion queue's thread";
    }
    if (!failed && !ask(server))
        failed = "no memory for calls";
    if (failed) {
        (void)snprintf(ret_message, message_bytes, "%s: %s", config->address, failed);
        if (!server->has_thread && server->poll_fd < 0)
            server->poll_fd = 0; /* nobody else empties the queue: as if it were inline */
        server_free(server);
        return -1;
    }
    *ret_server = server;
    return 0;
}

SP_EXPORT const sp_rpc_api *sp_rpc_api_get(uint32_t host_abi);
const sp_rpc_api *sp_rpc_api_get(uint32_t host_abi)
{
    static sp_rpc_api api = {
        .abi = SP_RPC_ABI,
        .struct_bytes = sizeof(api),
        .start = start,
        .poll_fd = poll_fd,
        .next = next,
        .due = due,
        .release = rpc_release,
        .read = rpc_read,
        .set_context = rpc_set_context,
        .metadata = rpc_metadata,
        .peer = rpc_peer,
        .send = rpc_send,
        .finish = rpc_finish,
        .stop = stop,
        .stopped = stopped,
        .cancel_all = cancel_all,
        .free = server_free,
    };
    api.version = grpc_version_string();
    return host_abi == SP_RPC_ABI ? &api : NULL;
}
