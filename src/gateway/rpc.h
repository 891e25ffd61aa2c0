/* SPDX-License-Identifier: Apache-2.0
 * libspillway_rpc.so: a gRPC transport that knows no message. It wraps libgrpc's C core (whose thirty libraries are thus loaded
 * by `spillway serve` alone); what calls mean is gateway/grpc*.c's. Every call of whatever path arrives, unary and streaming
 * alike: the handler knows by the path which it is. docs/internals/grpc.md says why it works as it does.
 *
 *   inline     the loop's own thread lets the library work: its epoll descriptor (poll_fd) sits in the loop's, and next()
 *              polls the completion queue with a deadline that has passed. No thread stands between socket and slot.
 *   threaded   one completion-queue thread puts what happens into a bounded queue and rings `event_fd`. Taken when the
 *              library's epoll descriptor cannot be had.
 *
 * All functions but start() belong to the loop's thread. */
#ifndef SP_GATEWAY_RPC_H
#define SP_GATEWAY_RPC_H

#include "base/view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_RPC_ABI 3u
#define SP_RPC_LIBRARY "libspillway_rpc.so"
#define SP_RPC_SYMBOL "sp_rpc_api_get"

typedef struct sp_rpc_server sp_rpc_server;
typedef struct sp_rpc_call sp_rpc_call; /* one client's call; good until its ENDED event */

typedef enum sp_rpc_event_kind {
    SP_RPC_OPENED,      /* a call: path, deadline, metadata(). A MESSAGE or HALF_CLOSED comes next, unasked for */
    SP_RPC_MESSAGE,     /* pieces are good until release(), which must come before the call's finish(). read() asks for the next */
    SP_RPC_UNREADABLE,  /* in its place: it was compressed and cannot be unpacked. finish() it with `code` and `failure` */
    SP_RPC_HALF_CLOSED, /* the client sends no more; or the call is broken, and ENDED follows */
    SP_RPC_SENT,        /* a send() is through: another may be made */
    SP_RPC_ENDED,       /* the call is over (answered, cancelled, connection lost): forget it. Comes exactly once, last */
} sp_rpc_event_kind;

typedef struct sp_rpc_event {
    sp_rpc_event_kind kind;
    sp_rpc_call *call;
    void *context;         /* set_context()'s */
    const char *path;      /* OPENED: "/inference.GRPCInferenceService/ModelInfer"; good until ENDED. "" = longer than 127 */
    int64_t deadline_ns;   /* OPENED: CLOCK_MONOTONIC; INT64_MAX = none. Nobody enforces it but the handler */
    const sp_view *pieces; /* MESSAGE */
    int piece_count;
    size_t bytes;
    int code;              /* UNREADABLE: google.rpc.Code */
    const char *failure;   /* UNREADABLE: good until next() */
    bool cancelled;        /* ENDED: not by our finish(), or the client did not wait for it */
    void *lent;            /* MESSAGE: the transport's own */
    bool unpacked;         /* and this */
} sp_rpc_event;

typedef struct sp_rpc_config {
    uint32_t struct_bytes;
    const char *address;       /* "127.0.0.1:8001", "[::1]:0" */
    size_t most_message_bytes; /* larger ones: the library answers RESOURCE_EXHAUSTED. Compressed ones: UNREADABLE with that code */
    size_t most_memory_bytes;  /* of all that is being received; beyond, the library reads no more */
    int most_calls;            /* open at once; beyond: RESOURCE_EXHAUSTED */
    int event_fd;              /* threaded: rung when there are events */
    bool threaded;             /* even if it could be inline */
    int keepalive_ms, keepalive_timeout_ms; /* HTTP/2 pings of ours; 0 = the library's default (two hours) */
    void (*log)(const char *text);          /* what the library complains about; any thread. NULL = nobody */
} sp_rpc_config;

typedef struct sp_rpc_api {
    uint32_t abi, struct_bytes;
    const char *version; /* of the library */
    /* 0 = it listens on *ret_port; else *ret_message says why not. */
    int (*start)(const sp_rpc_config *config, sp_rpc_server **ret_server, int *ret_port, char *ret_message, size_t message_bytes);
    int (*poll_fd)(const sp_rpc_server *server); /* inline: call next() when it is readable; -1 = threaded */
    bool (*next)(sp_rpc_server *server, sp_rpc_event *ret_event); /* false = nothing more now; due() says until when */
    /* In how many ns next() should be asked although poll_fd is silent: 0 = now, -1 = never. */
    int64_t (*due)(const sp_rpc_server *server, int64_t now_ns);
    void (*release)(sp_rpc_event *event); /* of a MESSAGE: gives its pieces back */
    void (*read)(sp_rpc_call *call);      /* streaming: asks for the next message */
    void (*set_context)(sp_rpc_call *call, void *context);
    const char *(*metadata)(sp_rpc_call *call, const char *key); /* NULL = not there. Good until ENDED */
    bool (*peer)(const sp_rpc_call *call, char *ret_text, size_t text_bytes); /* "ipv4:127.0.0.1:1234" */
    /* One message in pieces (copied). `last`: the call is finished with OK in the same go, and no SENT comes. Else one at a
     * time: the next after SENT. */
    void (*send)(sp_rpc_call *call, const sp_view *pieces, int count, bool last);
    /* code: google.rpc.Code. After SENT of what was sent, once; not after `last`. `trailers`: "key\0value\0...\0\0"; NULL = none. */
    void (*finish)(sp_rpc_call *call, int code, const char *message, const char *trailers);
    /* No new calls or connections from now on; clients are told to go elsewhere. stopped() = every call has ENDED. */
    void (*stop)(sp_rpc_server *server);
    bool (*stopped)(const sp_rpc_server *server);
    void (*cancel_all)(sp_rpc_server *server); /* after stop() */
    void (*free)(sp_rpc_server *server);       /* cancels what is open; no event comes any more */
} sp_rpc_api;

typedef const sp_rpc_api *sp_rpc_api_get_fn(uint32_t host_abi);

#endif
