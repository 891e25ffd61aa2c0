/* SPDX-License-Identifier: Apache-2.0
 * KServe V2 over HTTP, as Triton speaks it: /v2/... on the HTTP port. What a request means is serving/serving.h's; here are
 * paths, bodies and replies.
 *
 *   kserve.c          what there is: server, models, their configuration, statistics, repository index
 *   kserve_control.c  what changes something: load, unload, shared memory, trace and log settings
 *   kserve_infer.c    one inference: body into the slot, answer out of it
 *   kserve_reply.c    its reply: JSON and tensors, without a copy where they are large, compressed where it was asked for
 *
 * Errors are {"error": "..."} with Triton's codes. Paths are decoded by libmicrohttpd before they are looked at, so a
 * model's name may have anything in it but '/'. */
#ifndef SP_GATEWAY_KSERVE_H
#define SP_GATEWAY_KSERVE_H

#include "gateway/server.h"
#include "serving/serving.h"

/* Answers whose tensors are sent straight out of their slots, at once; beyond that many they are copied first, because a
 * slow reader keeps its slot. */
#define GW_KSERVE_HELD 32
/* Tensors larger than this in all are not copied. */
#define GW_KSERVE_COPY_BYTES (64u * 1024)
/* Replies smaller than this are not worth compressing. */
#define GW_KSERVE_COMPRESS_BYTES 1024u
/* A request whose model answers within this, by its mean so far, is asked about again instead of being suspended. */
#define GW_KSERVE_QUICK_NS (1500 * SP_NS_PER_US)

/* Beside what serves: opened after the house, closed before it. */
typedef struct gw_kserve {
    sp_serving *serving;
    sp_store_thread *store; /* compresses; made when it is first needed */
    int held;               /* replies that are being sent out of slots */
    bool shared_memory_anywhere;
    uint64_t cpu_busy, cpu_all; /* ticks at the last metrics page */
} gw_kserve;

sp_status gw_kserve_open(gw_server *server, sp_error *reterr);
void gw_kserve_close(gw_server *server); /* no connection is open */

/* Is it a path of this protocol: errors are then worded in its form. */
bool gw_kserve_path(const char *url);
int gw_kserve_status(sp_status status, const sp_error *err);
void gw_kserve_fail(gw_conn *conn, sp_status status, sp_error *err, int retry_after_s); /* as gw_conn_fail */
void gw_kserve_error_write(sp_buf *out, const sp_error *err);

/* kserve.c */
void gw_kserve_live(gw_conn *conn);
void gw_kserve_ready(gw_conn *conn);
void gw_kserve_server(gw_conn *conn);
void gw_kserve_model(gw_conn *conn);
void gw_kserve_model_ready(gw_conn *conn);
void gw_kserve_config(gw_conn *conn);
void gw_kserve_stats(gw_conn *conn);
void gw_kserve_index(gw_conn *conn);
/* The same as text, for gRPC too: members are named as the fields of its messages are. Index: the list alone. */
void gw_kserve_server_write(sp_buf *out);
void gw_kserve_model_write(sp_serving *serving, const sp_served *served, sp_buf *out);
void gw_kserve_stats_write(sp_serving *serving, const char *name, const char *version, sp_buf *out); /* "" = all */
void gw_kserve_index_write(sp_serving *serving, bool ready_only, sp_buf *out);

/* kserve_metrics.c */
void gw_kserve_metrics(gw_server *server, sp_buf *out);

/* kserve_control.c. Bodies are JSON whatever their media type says: Triton's clients send none. */
void gw_kserve_body_begin(gw_conn *conn);
void gw_kserve_load_begin(gw_conn *conn);
void gw_kserve_load(gw_conn *conn);
void gw_kserve_unload(gw_conn *conn);
void gw_kserve_repository_named(gw_conn *conn);
void gw_kserve_region_status(gw_conn *conn);
void gw_kserve_region_register(gw_conn *conn);
void gw_kserve_region_unregister(gw_conn *conn);
void gw_kserve_trace(gw_conn *conn);
void gw_kserve_trace_set(gw_conn *conn);
void gw_kserve_logging(gw_conn *conn);
void gw_kserve_logging_set(gw_conn *conn);
void gw_kserve_unsupported(gw_conn *conn); /* CUDA shared memory, generate */

/* kserve_infer.c */
void gw_kserve_infer_begin(gw_conn *conn);
void gw_kserve_infer_append(gw_conn *conn, const void *data, size_t size_bytes);
void gw_kserve_infer_run(gw_conn *conn);

/* kserve_reply.c: makes conn->response of it, now (true) or on the store thread (false: gw_conn_answered is called then). The
 * call is its own from here on. */
typedef struct gw_kserve_accept {
    sp_encoding encoding; /* what the client takes; NONE = as it is */
    bool only_text;       /* it listed some out of habit: text is worth it, tensors are not */
} gw_kserve_accept;
gw_kserve_accept gw_kserve_accept_read(const char *header);
bool gw_kserve_reply(gw_conn *conn, sp_call *call, const sp_call_result *result, gw_kserve_accept accept);

#endif
