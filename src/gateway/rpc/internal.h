/* SPDX-License-Identifier: Apache-2.0
 * What the files of libspillway_rpc.so share. server.c: start, stop, where events come from. call.c: one call. unpack.c:
 * compressed messages. */
#ifndef SP_GATEWAY_RPC_INTERNAL_H
#define SP_GATEWAY_RPC_INTERNAL_H

#include "base/attr.h"
#include "gateway/rpc.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <zlib.h>

/* Calls that the library may match with a client at once, before we have come round to asking for more. */
#define RPC_WAITING 64
/* Every open call has at most four operations out. */
#define RPC_QUEUE 16384u
#define RPC_PATH_BYTES 128
#define RPC_NS_PER_S INT64_C(1000000000)

typedef enum tag_kind { TAG_REQUEST, TAG_CLOSE, TAG_READ, TAG_SEND, TAG_STATUS, TAG_COUNT } tag_kind;

/* What the library hands back when an operation is through. */
typedef struct rpc_tag {
    tag_kind kind;
    sp_rpc_call *call; /* NULL = the server's shutdown */
} rpc_tag;

typedef struct rpc_text {
    struct rpc_text *next;
    char text[];
} rpc_text;

typedef struct rpc_unpack rpc_unpack; /* a compressed message */

/* To unpack small ones into. */
typedef struct rpc_small {
    z_stream zlib;
    bool ready;
    uint8_t out[];
} rpc_small;

struct sp_rpc_call {
    sp_rpc_server *server;
    sp_rpc_call *next, *prev; /* open ones; `next` alone: those ended, those free */
    grpc_call *call;
    void *context;
    rpc_tag tags[TAG_COUNT];
    grpc_call_details details;
    grpc_metadata_array metadata;
    rpc_text *texts; /* what metadata() gave out */
    grpc_byte_buffer *received;
    rpc_unpack *unpack; /* its message, being unpacked */
    int close_flag;
    int pending;     /* operations out, but TAG_REQUEST */
    bool told;       /* OPENED was delivered */
    bool first_sent; /* initial metadata are out */
    bool finishing, closed, sending;
    bool watched;    /* its end has been asked for */
    bool ends_with_status; /* by the same tag as the status */
    bool over;       /* nothing is out and nothing may be started: ENDED is next */
    char path[RPC_PATH_BYTES];
};

typedef struct rpc_done {
    rpc_tag *tag;
    bool success;
} rpc_done;

struct sp_rpc_server {
    sp_rpc_config config;
    grpc_server *server;
    grpc_completion_queue *queue;
    int poll_fd;
    sp_rpc_call *open, *ended, *spare;
    sp_rpc_call *last; /* its ENDED was delivered by the last next() */
    sp_rpc_call *fresh; /* came by the last next(); its end is asked for after the next one */
    sp_rpc_call *watch_next;
    int open_count, waiting_count, spare_count;
    bool stopping, stopped;
    rpc_tag stop_tag;
    rpc_unpack *unpack_waiting, *unpack_running;
    rpc_small *unpack_small; /* NULL until one comes */
    int unpack_lanes;        /* that are taken */
    unsigned events;         /* handed over: for turns of unpacking while there are always more */
    char failure[96];        /* an UNREADABLE's words */
    /* inline: */
    bool busy;           /* something was started since the queue was last found empty */
    int quiet;           /* looks in a row that found nothing */
    int64_t sleep_ns, look_at_ns;
    /* threaded: one producer (the thread), one consumer (the loop) */
    pthread_t thread;
    bool has_thread;
    _Alignas(64) _Atomic uint32_t tail;
    _Alignas(64) _Atomic uint32_t head;
    _Atomic bool rung;
    rpc_done *ring;
};

int64_t rpc_now_ns(void);
sp_rpc_call *rpc_call_new(sp_rpc_server *server); /* NULL = no memory */
void rpc_call_free(sp_rpc_call *call);
/* An operation is through. True = *ret_event is to be delivered. */
bool rpc_call_done(rpc_tag *tag, bool success, sp_rpc_event *ret_event);
void rpc_call_watch(sp_rpc_call *call); /* asks for its end, unless that has been done */

/* Takes call->received. True = *ret_event is to be delivered: MESSAGE or UNREADABLE; false = rpc_unpack_turn() will. */
bool rpc_unpack_begin(sp_rpc_call *call, sp_rpc_event *ret_event);
bool rpc_unpack_turn(sp_rpc_server *server, sp_rpc_event *ret_event); /* some more of one of them; true as above */
bool rpc_unpack_due(const sp_rpc_server *server);                     /* a turn would do something */
void rpc_unpack_drop(sp_rpc_call *call);                              /* the call is over */
void rpc_unpack_free(rpc_unpack *unpack);
void rpc_unpack_done(sp_rpc_server *server);

void rpc_release(sp_rpc_event *event);
void rpc_read(sp_rpc_call *call);
void rpc_set_context(sp_rpc_call *call, void *context);
const char *rpc_metadata(sp_rpc_call *call, const char *key);
bool rpc_peer(const sp_rpc_call *call, char *ret_text, size_t text_bytes);
void rpc_send(sp_rpc_call *call, const sp_view *pieces, int count, bool last);
void rpc_finish(sp_rpc_call *call, int code, const char *message, const char *trailers);

#endif
