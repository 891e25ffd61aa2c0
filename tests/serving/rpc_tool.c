/* SPDX-License-Identifier: Apache-2.0
 * The gRPC transport alone, for its tests and for measuring what it costs.
 *
 *   rpc_tool serve inline|threaded SPIN_US    answers every message of every call with itself; what a path ends in decides:
 *                                             .../Echo one message, .../Many each message until half-close, .../Hold never,
 *                                             .../Fail FAILED_PRECONDITION with a trailer. Prints "port N". SIGTERM drains.
 *   rpc_tool ask PORT SECONDS STREAMS BYTES   echoes over one connection, so many at once, by libgrpc's own client.
 *   rpc_tool pass PORT PATH gzip|deflate      sends what stands on stdin (messages of a 4-byte length, little-endian, each) as
 *                                             it is, but marked as compressed. Prints a line each: code, bytes, words. */
#include "base/clock.h"
#include "base/loop.h"
#include "base/plugin.h"
#include "base/spin.h"
#include "gateway/rpc.h"

#include <grpc/byte_buffer.h>
#include <grpc/compression.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- the server --------------------------------------------------------------------------------------------------- */

typedef struct echo {
    const sp_rpc_api *api;
    sp_rpc_server *server;
    sp_loop *loop;
    sp_watch watch;
    sp_spin spin;
    bool rung;
    int64_t slept_ns;
} echo;

static volatile sig_atomic_t ending;

static bool path_is(const char *path, const char *end)
{
    size_t a = strlen(path), b = strlen(end);
    return a >= b && strcmp(path + a - b, end) == 0;
}

typedef struct echo_call {
    bool half_closed, sending, many;
} echo_call;

static void handle(echo *e, sp_rpc_event *event)
{
    const sp_rpc_api *api = e->api;
    echo_call *state = event->context;
    switch (event->kind) {
    case SP_RPC_OPENED:
        if (path_is(event->path, "/Fail")) {
            api->finish(event->call, 9, "it fails because it was asked to", "why\0asked\0\0");
        } else if (!path_is(event->path, "/Hold")) {
            state = calloc(1, sizeof(*state));
            state->many = path_is(event->path, "/Many");
            api->set_context(event->call, state);
        }
        break;
    case SP_RPC_MESSAGE:
        if (state)
            api->send(event->call, event->pieces, event->piece_count, !state->many);
        if (state && state->many)
            state->sending = true;
        api->release(event);
        break;
    case SP_RPC_UNREADABLE:
        api->finish(event->call, event->code, event->failure, NULL);
        break;
    case SP_RPC_SENT:
        state->sending = false;
        if (state->half_closed)
            api->finish(event->call, 0, "", NULL);
        else
            api->read(event->call);
        break;
    case SP_RPC_HALF_CLOSED:
        if (state && state->many) {
            state->half_closed = true;
            if (!state->sending)
                api->finish(event->call, 0, "", NULL);
        }
        break;
    case SP_RPC_ENDED:
        free(state);
        break;
    }
}

static int64_t work(void *context)
{
    echo *e = context;
    sp_rpc_event event;
    if (e->rung || !e->api->due(e->server, sp_clock_now_ns())) {
        e->rung = false;
        while (e->api->next(e->server, &event))
            handle(e, &event);
    }
    if (ending == 1) {
        e->api->stop(e->server);
        ending = 2;
    }
    if (ending && e->api->stopped(e->server))
        sp_loop_stop(e->loop);
    int64_t sleep_ns = e->api->due(e->server, sp_clock_now_ns());
    return ending && (sleep_ns < 0 || sleep_ns > SP_NS_PER_MS) ? SP_NS_PER_MS : sleep_ns < 0 ? 50 * SP_NS_PER_MS : sleep_ns;
}

static void ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    (void)watch;
    (void)epoll_events;
    ((echo *)context)->rung = true;
}

static bool has_events(const void *context)
{
    return sp_loop_has_events(((const echo *)context)->loop);
}

static bool prepare(void *context)
{
    echo *e = context;
    e->slept_ns = sp_clock_now_ns();
    return e->spin.longest_ns && sp_spin_until(&e->spin, has_events, e);
}

static void wake(void *context)
{
    echo *e = context;
    sp_spin_note(&e->spin, sp_clock_now_ns() - e->slept_ns);
}

static void end_signal(int number)
{
    (void)number;
    if (!ending)
        ending = 1;
}

static int serve(bool threaded, int spin_us)
{
    sp_error err = { 0 };
    void *library, *symbol;
    echo e = { .spin.longest_ns = spin_us * SP_NS_PER_US };
    char message[256];
    int port, fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (sp_plugin_open(SP_RPC_LIBRARY, &library, NULL, &err) ||
        sp_plugin_symbol(library, SP_RPC_LIBRARY, SP_RPC_SYMBOL, &symbol, &err) || sp_loop_new(&e.loop, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    e.api = ((sp_rpc_api_get_fn *)symbol)(SP_RPC_ABI);
    const sp_rpc_config config = { .struct_bytes = sizeof(config), .address = "127.0.0.1:0", .most_message_bytes = 8 << 20,
                                   .most_memory_bytes = 256 << 20, .most_calls = 64, .event_fd = fd, .threaded = threaded };
    if (e.api->start(&config, &e.server, &port, message, sizeof(message))) {
        (void)fprintf(stderr, "%s\n", message);
        return 1;
    }
    int poll_fd = e.api->poll_fd(e.server);
    e.watch = (sp_watch){ .fd = poll_fd >= 0 ? poll_fd : fd, .ready = ready, .context = &e };
    (void)signal(SIGTERM, end_signal);
    if (sp_loop_watch(e.loop, &e.watch, EPOLLIN, &err) || sp_loop_hook_add(e.loop, work, &e, &err))
        return 1;
    sp_loop_set_sleep(e.loop, prepare, wake, &e);
    (void)printf("port %d %s %s\n", port, poll_fd >= 0 ? "inline" : "threaded", e.api->version);
    (void)fflush(stdout);
    int status = sp_loop_run(e.loop, &err) ? 1 : 0;
    sp_loop_unwatch(e.loop, &e.watch);
    e.api->free(e.server);
    sp_loop_free(e.loop);
    (void)close(fd);
    return status;
}

/* --- the client --------------------------------------------------------------------------------------------------- */

typedef struct asking {
    grpc_call *call;
    grpc_byte_buffer *received;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    int64_t begun_ns;
} asking;

static void ask_one(asking *a, grpc_channel *channel, grpc_completion_queue *queue, grpc_byte_buffer *body, const char *path,
                    grpc_metadata *encoding)
{
    grpc_slice method = grpc_slice_from_static_string(path);
    *a = (asking){ .begun_ns = sp_clock_now_ns() };
    a->call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue, method, NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    grpc_metadata_array_init(&a->initial);
    grpc_metadata_array_init(&a->trailing);
    const grpc_op ops[] = {
        { .op = GRPC_OP_SEND_INITIAL_METADATA, .data.send_initial_metadata = { .count = encoding ? 1 : 0, .metadata = encoding } },
        { .op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = body },
        { .op = GRPC_OP_SEND_CLOSE_FROM_CLIENT },
        { .op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &a->initial },
        { .op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &a->received },
        { .op = GRPC_OP_RECV_STATUS_ON_CLIENT,
          .data.recv_status_on_client = { .trailing_metadata = &a->trailing, .status = &a->status, .status_details = &a->details } },
    };
    if (grpc_call_start_batch(a->call, ops, 6, a, NULL) != GRPC_CALL_OK)
        exit(1);
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

#define SAMPLES (4 << 20)

static int ask(int port, double seconds, int streams, size_t bytes)
{
    char target[64];
    static asking asked[256];
    int64_t *times = malloc(SAMPLES * sizeof(*times));
    int count = 0, open = 0;
    grpc_init();
    (void)snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(target, insecure, NULL);
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    grpc_slice slice = grpc_slice_malloc(bytes);
    memset(GRPC_SLICE_START_PTR(slice), 7, bytes);
    grpc_byte_buffer *body = grpc_raw_byte_buffer_create(&slice, 1);
    int64_t begun_ns = sp_clock_now_ns(), until_ns = begun_ns + (int64_t)(seconds * 1e9);
    for (int i = 0; i < streams && i < 256; i++, open++)
        ask_one(&asked[i], channel, queue, body, "/bench/Echo", NULL);
    while (open) {
        grpc_event event = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        asking *a = event.tag;
        int64_t now_ns = sp_clock_now_ns();
        if (a->status != GRPC_STATUS_OK) {
            (void)fprintf(stderr, "status %d\n", (int)a->status);
            return 1;
        }
        if (count < SAMPLES)
            times[count++] = now_ns - a->begun_ns;
        grpc_byte_buffer_destroy(a->received);
        grpc_metadata_array_destroy(&a->initial);
        grpc_metadata_array_destroy(&a->trailing);
        grpc_slice_unref(a->details);
        grpc_call_unref(a->call);
        if (now_ns < until_ns)
            ask_one(a, channel, queue, body, "/bench/Echo", NULL);
        else
            open--;
    }
    double taken_s = (double)(sp_clock_now_ns() - begun_ns) / 1e9;
    qsort(times, (size_t)count, sizeof(*times), by_size);
    (void)printf("{\"streams\": %d, \"per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", streams, count / taken_s,
                 (double)times[count / 2] / 1e3, (double)times[(size_t)count * 99 / 100] / 1e3);
    grpc_byte_buffer_destroy(body);
    grpc_slice_unref(slice);
    grpc_channel_destroy(channel);
    grpc_channel_credentials_release(insecure);
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(queue);
    grpc_shutdown_blocking();
    free(times);
    return 0;
}

static bool pass_one(grpc_channel *channel, grpc_completion_queue *queue, const char *path, const char *encoding)
{
    uint8_t head[4];
    asking a;
    if (fread(head, 1, sizeof(head), stdin) != sizeof(head))
        return false;
    grpc_slice slice = grpc_slice_malloc((size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24);
    if (fread(GRPC_SLICE_START_PTR(slice), 1, GRPC_SLICE_LENGTH(slice), stdin) != GRPC_SLICE_LENGTH(slice))
        exit(2);
    bool gzip = strcmp(encoding, "gzip") == 0;
    grpc_byte_buffer *body = grpc_raw_compressed_byte_buffer_create(&slice, 1, gzip ? GRPC_COMPRESS_GZIP : GRPC_COMPRESS_DEFLATE);
    grpc_metadata entry = { .key = grpc_slice_from_static_string(GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY),
                            .value = grpc_slice_from_static_string(encoding) };
    ask_one(&a, channel, queue, body, path, &entry);
    (void)grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL); /* its only one */
    (void)printf("%d %zu %.*s\n", (int)a.status, a.received ? grpc_byte_buffer_length(a.received) : 0,
                 (int)GRPC_SLICE_LENGTH(a.details), (const char *)GRPC_SLICE_START_PTR(a.details));
    (void)fflush(stdout);
    grpc_byte_buffer_destroy(a.received);
    grpc_byte_buffer_destroy(body);
    grpc_metadata_array_destroy(&a.initial);
    grpc_metadata_array_destroy(&a.trailing);
    grpc_slice_unref(a.details);
    grpc_slice_unref(slice);
    grpc_call_unref(a.call);
    return true;
}

static int pass(int port, const char *path, const char *encoding)
{
    char target[64];
    grpc_init();
    (void)snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(target, insecure, NULL);
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    while (pass_one(channel, queue, path, encoding))
        ;
    grpc_channel_destroy(channel);
    grpc_channel_credentials_release(insecure);
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(queue);
    grpc_shutdown_blocking();
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "serve") == 0)
        return serve(strcmp(argv[2], "threaded") == 0, (int)strtol(argv[3], NULL, 10));
    if (argc == 6 && strcmp(argv[1], "ask") == 0)
        return ask((int)strtol(argv[2], NULL, 10), strtod(argv[3], NULL), (int)strtol(argv[4], NULL, 10), strtoul(argv[5], NULL, 10));
    if (argc == 5 && strcmp(argv[1], "pass") == 0)
        return pass((int)strtol(argv[2], NULL, 10), argv[3], argv[4]);
    (void)fprintf(stderr, "usage: rpc_tool serve inline|threaded SPIN_US | ask PORT SECONDS STREAMS BYTES | "
                          "pass PORT PATH gzip|deflate\n");
    return 2;
}
