/* SPDX-License-Identifier: Apache-2.0
 * KServe V2 over gRPC, as Triton speaks it: inference.GRPCInferenceService and grpc.health.v1.Health over the transport of
 * gateway/rpc.h. What a request means is serving/serving.h's, what documents say is kserve.h's; here are methods, messages and
 * status codes. docs/internals/grpc.md.
 *
 *   grpc.c          start and end, calls as they come, access, failures
 *   grpc_infer.c    ModelInfer and ModelStreamInfer: tensors from the message's pieces into the slot, and back
 *   grpc_reflect.c  grpc.reflection: what there is to be called
 *   grpc_control.c  everything else: small messages by protobuf-c */
#ifndef SP_GATEWAY_GRPC_H
#define SP_GATEWAY_GRPC_H

#include "gateway/kserve.h"
#include "gateway/rpc.h"
#include "gateway/story.h"
#include "kserve/wire.h"

/* Messages of every method but the inferences'. A model's configuration in a load request is the largest of them. */
#define GW_GRPC_CONTROL_BYTES (1024u * 1024 + 64 * 1024)
/* Calls open at once: four times what the house takes, so that the rest is told so by the house. */
#define GW_GRPC_CALLS (4 * SP_LIMIT_SLOTS)
/* What the library may hold of messages that are still arriving, of all connections together. */
#define GW_GRPC_MEMORY_BYTES ((size_t)SP_LIMIT_BODIES_BYTES)
/* Requests of one stream that are in the house at once, and bytes of answers that its client has not taken; beyond either,
 * its next message is not read. */
#define GW_GRPC_STREAM_OPEN 64
#define GW_GRPC_STREAM_BYTES (16u * 1024 * 1024)
/* Bytes of a message that are copied into the slot in one turn of the loop: about a tenth of a millisecond's work. */
#define GW_GRPC_AT_ONCE (1024u * 1024)
/* Calls kept for the next client, so that a call takes no allocation here. */
#define GW_GRPC_SPARE 256

typedef struct gw_grpc gw_grpc;
typedef struct gw_grpc_call gw_grpc_call;
typedef struct gw_grpc_stream gw_grpc_stream;
typedef struct gw_grpc_big gw_grpc_big;

typedef struct gw_grpc_method {
    const char *name;  /* "ModelInfer"; of the health service "Check" */
    unsigned scopes;   /* as those of the same thing over HTTP; 0 = open to everybody */
    bool reads;        /* it is a GET there */
    /* The message is through. Control methods: `message` is all of it, good until it returns. */
    void (*run)(gw_grpc_call *call, sp_view message);
} gw_grpc_method;
extern const gw_grpc_method gw_grpc_inference[], gw_grpc_health[], gw_grpc_reflection[]; /* a NULL name ends them */

struct gw_grpc_call {
    gw_grpc *grpc;
    sp_rpc_call *rpc;
    gw_grpc_call *next, *prev;
    const gw_grpc_method *method; /* NULL = none such */
    enum { GW_GRPC_CONTROL, GW_GRPC_INFER, GW_GRPC_STREAM, GW_GRPC_WATCH, GW_GRPC_REFLECT } kind;
    gw_access access;
    int64_t received_ns, deadline_ns; /* INT64_MAX = the client set none */
    bool local, finished, local_only;
    char request_id[SP_LIMIT_REQUEST_ID_BYTES];
    sp_call *infer;         /* INFER: in the house */
    gw_grpc_stream *stream; /* STREAM */
    void *state;            /* a control method's own: what waits for its answer; told of the end by clearing *(gw_grpc_call **) */
    int code;               /* that it was finished with */
    uint64_t bytes_in, bytes_out;
    gw_story story;         /* of the whole call; each request of a stream has its own as well */
    int told;               /* WATCH: the last status that was sent; REFLECT: how many answers */
    bool telling;           /* both: it is on its way */
};

struct gw_grpc {
    gw_server *server;
    const sp_rpc_api *api;
    sp_rpc_server *rpc;
    sp_watch watch;
    int event_fd;
    bool rung, watching, stopping;
    gw_grpc_call *calls, *spare;
    int count, spare_count, watchers;
    gw_grpc_big *bigs;    /* messages that are being copied, turn by turn */
    sp_timer watch_timer; /* of health watchers */
    sp_buf head;          /* of the response being made */
    sp_metric *calls_metric;
};

/* grpc.c */
sp_status gw_grpc_open(gw_server *server, sp_error *reterr); /* SP_OK also without: a log line says why there is none */
void gw_grpc_stop(gw_server *server);                        /* no new calls; those open go on */
int gw_grpc_busy(const gw_server *server);                   /* calls that keep a drain waiting */
void gw_grpc_cancel(gw_server *server);                      /* every request in the house is given up; no event comes any more */
void gw_grpc_close(gw_server *server);
int gw_grpc_port(const gw_server *server);                   /* 0 = none */
int gw_grpc_code(sp_status status, const sp_error *err, int http_status); /* google.rpc.Code; http_status 0 = not known */
void gw_grpc_fail(gw_grpc_call *call, sp_status status, const sp_error *err, int retry_after_s);
void gw_grpc_log_failure(const gw_grpc_call *call, const sp_error *err);
void gw_grpc_reply(gw_grpc_call *call, const sp_buf *message); /* the one answer of a unary call */
void gw_grpc_finish(gw_grpc_call *call, int code, const char *message, const char *trailers);
bool gw_grpc_admin_here(const gw_grpc_call *call, sp_error *reterr); /* not on a port of its own */
bool gw_grpc_access(gw_grpc_call *call, sp_error *reterr, int *ret_http_status, int *ret_retry_after_s); /* asks again */

void gw_grpc_story_begin(gw_grpc_call *call, gw_story *story);
void gw_grpc_story_tell(gw_story *story, const sp_call_result *result);
/* `code`: google.rpc.Code, or 499 when the client has gone. */
void gw_grpc_story_end(gw_grpc_call *call, gw_story *story, int64_t received_ns, int code);

/* grpc_infer.c */
/* A large message is taken (the event is empty then) and copied over several turns. */
void gw_grpc_infer_message(gw_grpc_call *call, sp_rpc_event *event);
void gw_grpc_stream_message(gw_grpc_call *call, sp_rpc_event *event);
bool gw_grpc_big_step(gw_grpc *grpc); /* true = there is more to copy */
void gw_grpc_stream_half_closed(gw_grpc_call *call);
void gw_grpc_stream_sent(gw_grpc_call *call);
void gw_grpc_infer_drop(gw_grpc_call *call); /* the call is over: gives up what is in the house */
bool gw_grpc_stream_idle(const gw_grpc_call *call);

/* grpc_control.c */
void gw_grpc_watch_tell(gw_grpc_call *call); /* sends the status if it is another than before */

#endif
