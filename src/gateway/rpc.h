/* SPDX-License-Identifier: Apache-2.0
 * libspillway_rpc.so: a gRPC transport that knows no message. It wraps libgrpc's C core (whose forty libraries are thus loaded
 * by `spillway serve` alone): one completion-queue thread, which puts what happens into a queue and rings an eventfd; the loop
 * takes it from there and replies from its own thread. What calls mean is gateway/grpc*.c's.
 *
 * Every call of a service named in `services` arrives, unary or streaming alike: the handler knows by its path which it is. */
#ifndef SP_GATEWAY_RPC_H
#define SP_GATEWAY_RPC_H

#include "base/view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_RPC_ABI 1u
#define SP_RPC_SYMBOL "sp_rpc_api_get"

typedef struct sp_rpc_server sp_rpc_server;
typedef struct sp_rpc_call sp_rpc_call; /* one client's call; the loop's until sp_rpc end event */

typedef enum sp_rpc_event_kind {
    SP_RPC_OPENED,  /* a call: path, metadata, deadline. Next comes a message or HALF_CLOSED */
    SP_RPC_MESSAGE, /* pieces are good until release() */
    SP_RPC_HALF_CLOSED, /* the client sends no more */
    SP_RPC_SENT,    /* a send() is through: another may be made */
    SP_RPC_ENDED,   /* the call is over (answered, cancelled, connection lost): forget it. Comes exactly once, last */
} sp_rpc_event_kind;

typedef struct sp_rpc_event {
    sp_rpc_event_kind kind;
    sp_rpc_call *call;
    void *context;          /* set_context()'s */
    const char *path;       /* OPENED: "/inference.GRPCInferenceService/ModelInfer" */
    const char *peer;       /* OPENED: "ipv4:127.0.0.1:1234" */
    int64_t deadline_ns;    /* OPENED: CLOCK_MONOTONIC; INT64_MAX = none */
    const sp_view *pieces;  /* MESSAGE */
    int piece_count;
    size_t bytes;
    bool cancelled;         /* ENDED: not by our finish() */
} sp_rpc_event;

typedef struct sp_rpc_config {
    uint32_t struct_bytes;
    const char *address;  /* "127.0.0.1:8001", "[::1]:0" */
    size_t most_message_bytes;
    int most_calls;       /* at once; beyond: RESOURCE_EXHAUSTED */
    int event_fd;         /* rung when there are events and the loop may sleep */
    /* HTTP/2 keep-alive, in ms; 0 = the library's default */
    int keepalive_ms, keepalive_timeout_ms;
} sp_rpc_config;

typedef struct sp_rpc_api {
    uint32_t abi, struct_bytes;
    const char *version; /* of the library */
    int (*start)(const sp_rpc_config *config, sp_rpc_server **ret_server, int *ret_port, char *ret_message, size_t message_bytes);
    /* The loop's thread, all of these: */
    bool (*next)(sp_rpc_server *server, sp_rpc_event *ret_event); /* false = none now */
    void (*release)(sp_rpc_event *event);                         /* of a MESSAGE: gives its pieces back, asks for the next */
    void (*set_context)(sp_rpc_call *call, void *context);
    const char *(*metadata)(const sp_rpc_call *call, const char *key); /* NULL = not there */
    /* One message in pieces (copied). Unary: send and finish in one go with last = true. */
    void (*send)(sp_rpc_call *call, const sp_view *pieces, int count, bool last);
    /* code: google.rpc.Code. Metadata "key\0value\0...\0\0" goes out as trailers; NULL = none. */
    void (*finish)(sp_rpc_call *call, int code, const char *message, const char *trailers);
    void (*stop)(sp_rpc_server *server, int grace_ms); /* no new calls; those open are cancelled after the grace. Then every call has ENDED */
    void (*free)(sp_rpc_server *server);
} sp_rpc_api;

typedef const sp_rpc_api *sp_rpc_api_get_fn(uint32_t host_abi);

#endif
