/* SPDX-License-Identifier: Apache-2.0
 * What the files of src/gateway share: the server, one connection, one reply. Private to this room.
 *
 * A connection goes through these phases, one request at a time (pipelined requests wait in libmicrohttpd's buffer):
 *
 *   IDLE -> HEADERS -> BODY ----> WAITING -> READY -> SENDING -> IDLE ...
 *               \         \                    ^
 *                \         `-> SWALLOW --------'      an error is known, the rest of the body is read and dropped
 *                 `-> (no body) READY                 GET and friends
 *   BODY, SWALLOW, HEADERS -> LINGER                  answered past libmicrohttpd, which cannot answer inside a body
 *   READY -> STREAMING -> IDLE ...                    an answer without an end that is known: events (stream.c)
 *   READY -> UPGRADED                                 no HTTP any more: WebSocket (ws.c)
 *   any -> DEAD                                       the client is gone
 *
 * How to add a handler: a line in the table of routes.c (path, method, listeners, scopes) with up to three functions.
 *
 *   begin(conn)               headers are read, access is granted, the route and conn->params are known. Without it a
 *                             body is read and dropped. It refuses with gw_conn_fail, or enters GW_BODY to get the body
 *                             in pieces through append. gw_body_begin and gw_body_append are ready-made: they collect up
 *                             to GW_JSON_BYTES in conn->body (a JSON type is demanded); a begin of your own may call
 *                             them for some media types and do other things for the rest.
 *   append(conn, data, n)     a piece of the body; may gw_conn_fail (then no more pieces and no run come).
 *   run(conn)                 the body is through. It either answers (gw_reply_json, gw_reply_problem ...), or fails
 *                             (gw_conn_fail), or suspends: gw_conn_wait now, and later, from any callback on the loop,
 *                             gw_reply_... and then gw_conn_answered. gw_events_follow makes the answer a stream.
 *
 * A handler's own state hangs on conn->state with conn->drop, which is called exactly once when the request is over,
 * however it ended (answered, refused, client gone, server stopped). A callback that is still to come after that must not
 * touch conn: let the state outlive the request and clear its pointer to conn in drop.
 * Query parameters: gw_query(conn, "cursor"). Header fields: gw_header(conn, "If-Match"). Both are good until the request
 * is over. Who asks: conn->access. No callback may take over 100 us: what blocks goes to a store thread.
 */
#ifndef SP_GATEWAY_SERVER_H
#define SP_GATEWAY_SERVER_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/event.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "gateway/gateway.h"
#include "gateway/story.h"
#include "route/house.h"

#include <microhttpd.h>
#include <netinet/in.h>

/* A connection that is in no request, or still sending headers, is closed after this: long enough for keep-alive
 * between a person's clicks, short enough that a thousand silent sockets do not stay. */
#define GW_IDLE_MS 30000
/* From request line to the empty line; a header that drips in slower is an attack (408). */
#define GW_HEADER_MS 10000
/* A reader that does not take its answer for this long is cut. */
#define GW_SEND_MS 30000
/* After an answer in the middle of an upload we go on reading this long, so that the client gets to read it. */
#define GW_LINGER_MS 2000
/* Connections over a limit that still get a worded 429; beyond them the socket is closed at once. */
#define GW_REFUSED_CONNECTIONS 32
/* A no-op answer is back in 50 us, suspending costs eight system calls: requests younger than this, and fewer than
 * GW_POLLED at once, are asked again by libmicrohttpd instead of being suspended. */
#define GW_POLL_NS (2 * SP_NS_PER_MS)
#define GW_POLLED  32
/* A half-closed client that waits is asked this often whether it is still there. */
#define GW_PROBE_MS 1000
/* How often the connections are looked through for the times above. */
#define GW_SWEEP_MS 250
/* Keep-alive connections get this long to bring their next request, and take its answer, once we are draining. */
#define GW_DRAIN_IDLE_MS 1000
/* Failed requests logged in any one second; the rest are counted in the metrics only. */
#define GW_LOGGED_FAILURES 10
/* Bodies that are collected whole for a handler (JSON): what is larger would hold the loop while it is parsed. Beyond:
 * 413. */
#define GW_JSON_BYTES (64u * 1024)
/* Segments of a path that a route takes as parameters, and their length. */
#define GW_PARAMS      3
#define GW_PARAM_BYTES 132 /* a served model's name */
/* Workers get this long to end by themselves. */
#define GW_WORKER_GRACE_MS 2000

typedef enum gw_phase {
    GW_IDLE,
    GW_HEADERS,
    GW_BODY,
    GW_SWALLOW,
    GW_WAITING,
    GW_READY,
    GW_SENDING,
    GW_STREAMING,
    GW_UPGRADED,
    GW_LINGER,
    GW_DEAD
} gw_phase;

typedef struct gw_reload gw_reload;
typedef enum gw_listener_kind { GW_LISTEN_HTTP, GW_LISTEN_METRICS, GW_LISTEN_ADMIN, GW_LISTEN_COUNT } gw_listener_kind;

typedef struct gw_conn gw_conn;

/* One line of the API; the table stands in routes.c. GET lines answer HEAD as well. */
typedef struct gw_route {
    const char *method, *path; /* "/v1/jobs/{id}": a segment in braces takes any one segment */
    unsigned listeners;        /* bits of gw_listener_kind */
    unsigned scopes;           /* SP_SCOPE_...: any of them will do; 0 = open to everybody */
    void (*run)(gw_conn *conn);
    void (*begin)(gw_conn *conn);
    void (*append)(gw_conn *conn, const void *data, size_t size_bytes);
} gw_route;

/* Who asks (auth.c). Without tokens everybody on loopback may do everything. */
typedef struct gw_access {
    char token[48];  /* name of the token; "" = none was needed */
    char tenant[48]; /* "" = the operator's */
    char tier[24];
    unsigned scopes; /* SP_SCOPE_... */
    bool local_only;
    int hops;
} gw_access;

/* What the request line and the headers said; filled once, by options.c. Texts are libmicrohttpd's, good until the
 * request is completed. */
typedef struct gw_headers {
    const char *content_type; /* NULL = none */
    const char *timeout_text; /* X-Spillway-Timeout-Ms */
    const char *local_text;   /* X-Spillway-Local-Only */
    const char *traceparent, *tracestate;
    const char *authorization, *host, *origin, *fetch_site, *hops, *cache_control, *socket_key;
    const char *content_encoding; /* NULL = none, or "identity" */
    uint64_t content_length;  /* when has_length */
    bool has_length, chunked;
    bool expects_continue;
    bool http10;
    bool has_request_id;
    int status; /* not 0: refuse with this status, `error` says why, and close */
    sp_error error;
} gw_headers;

/* cache=0 (neither look nor keep), cache=1 (even for a task that is not kept by itself). */
typedef enum gw_cache_wish { GW_CACHE_DEFAULT, GW_CACHE_OFF, GW_CACHE_ON } gw_cache_wish;

/* What the client asked for beside the picture. */
typedef struct gw_options {
    sp_task task;
    uint32_t top_k; /* 0 = default */
    float threshold, iou; /* detect; < 0 = the model's own */
    sp_decode decode;
    char model[64];     /* "" = default */
    char link[32];      /* this link or none; "" = the chain. Admins only: it goes around policy */
    bool force_cpu;
    bool local_only;    /* nothing of it may leave this machine */
    gw_cache_wish cache;
    int priority;       /* -10 .. 10; above 0 only for admins */
    int64_t timeout_ms; /* least of all that were given; 0 = none */
} gw_options;

typedef struct gw_server gw_server; /* story.h knows it as a struct */
typedef struct gw_flights gw_flights;

struct gw_conn {
    gw_server *server;
    struct MHD_Connection *mhd;
    struct gw_conn *next, *prev;
    int fd;
    gw_listener_kind listener;
    bool refused;     /* over the connection limits: gets one 429 and is closed */
    bool suspended;   /* in libmicrohttpd's sense */
    bool polled;      /* WAITING, asked again by libmicrohttpd */
    bool quick;       /* its answer will be there in a moment: worth asking again instead of suspending */
    bool kserve;      /* a path under /v2: errors are worded as KServe's */
    bool half_closed; /* the client has ended its sending side: 100 Continue tells whether it still reads */
    int64_t probed_ns;
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
    gw_phase phase;
    int64_t since_ns;    /* of the phase, for the sweep */
    int64_t received_ns; /* request line seen */
    sp_watch hangup;     /* while suspended */

    /* The request in hand: */
    const gw_route *route; /* NULL = there is none */
    char params[GW_PARAMS][GW_PARAM_BYTES]; /* what stood where the route's path has braces */
    const char *method;        /* libmicrohttpd's text */
    gw_access access;
    bool head;
    char request_id[SP_LIMIT_REQUEST_ID_BYTES];
    gw_headers headers;
    gw_options options;
    gw_story story;
    sp_request *request; /* the house's; NULL = none open */
    uint64_t body_bytes;
    int64_t body_begin_ns;
    sp_buf body;                  /* collected by gw_body_append */
    void *state;                  /* the handler's own, see above */
    void (*drop)(gw_conn *conn);
    void *socket;                 /* ws.c's, beside its state */

    /* The answer: either ready made ... */
    struct MHD_Response *response;
    int response_status;
    uint64_t response_bytes; /* of its body; 0 when nobody knows beforehand */
    bool streaming; /* the answer goes on after its headers: STREAMING, not SENDING */
    /* ... or an error to be worded when the body is through. */
    sp_error error;
    int error_status;
    int retry_after_s;
    const char *challenge; /* WWW-Authenticate; NULL = none */
    bool close_after;
};

typedef struct gw_listener {
    gw_server *server;
    gw_listener_kind kind;
    sp_watch watch; /* fd -1 = closed */
    int port;
} gw_listener;

struct gw_server {
    const sp_gateway_config *config;
    sp_config *snapshot; /* read it through gw_config */
    gw_reload *reload;   /* reload.c */
    sp_loop *loop;
    sp_house *house;
    struct MHD_Daemon *daemon;
    sp_watch mhd_watch, signal_watch;
    gw_listener listeners[GW_LISTEN_COUNT];
    gw_listener *accepting; /* while MHD_add_connection runs */
    bool accept_refused;    /* the connection being added is over a limit */
    char address_text[INET6_ADDRSTRLEN];

    gw_conn *conns; /* all */
    int conn_count, refused_count, polled_count, suspended_count;
    bool mhd_due;      /* MHD_run has something to do */
    bool mhd_followup; /* a callback of this run left work for the next */
    sp_timer sweep;

    int64_t log_second; /* failures are logged, but no more than a few in any second */
    int logged_in_second;

    sp_error end_error; /* why the server ended by itself; status SP_OK = it did not */
    int drain_signals;
    bool draining, listeners_closed;
    int64_t listeners_closed_ns, longest_deadline_ns;
    sp_timer drain_timer, hard_stop;
    int64_t started_ns;
    uint64_t id_state[2];
    bool loopback;         /* every listener is on loopback */
    struct gw_auth *auth;
    struct gw_grpc *grpc; /* grpc.h; NULL = none */
    int grpc_port;
    struct gw_kserve *kserve; /* kserve.h; NULL in a server that has not started */
    gw_flights *flights;   /* NULL = neither cache nor single-flight (flight.h) */
    uint32_t boot_id; /* of this process; stands in event ids */
    struct gw_follower *followers;
    int follower_count;
    sp_event_subscriber subscriber;
    struct gw_stories *stories; /* story.c */
    struct gw_jobs *jobs; /* jobs.h; never NULL while connections are open */
    sp_timer follow_timer;
    sp_metric *connections, *refused, *hangups, *received_bytes, *followers_metric;
};

/* The configuration as it is now: never NULL, good until this callback returns; sp_config_ref keeps it for longer. A
 * reload replaces it between two callbacks. */
static inline sp_config *gw_config(const gw_server *server)
{
    return server->snapshot;
}

/* reload.c: SIGHUP. */
sp_status gw_reload_open(gw_server *server, sp_error *reterr);
void gw_reload_begin(gw_server *server);
void gw_reload_close(gw_server *server);

/* listen.c: binds, accepts under the limits. */
sp_status gw_listen_open(gw_server *server, gw_listener_kind kind, int port, sp_error *reterr);
void gw_listen_drain(gw_server *server); /* takes what is in the backlogs, then closes the listeners */
void gw_listen_close(gw_server *server);
void gw_listen_resume(gw_server *server); /* after accept had failed */
void gw_address_bytes(const struct sockaddr *address, uint8_t ret_bytes[16]);

/* http.c: libmicrohttpd's callbacks and the phases. */
sp_status gw_http_start(gw_server *server, sp_error *reterr);
void gw_http_stop(gw_server *server); /* every open request is cancelled, every connection closed */
void gw_conn_enter(gw_conn *conn, gw_phase phase);
void gw_conn_suspend(gw_conn *conn); /* libmicrohttpd shall leave it alone; its end is watched by us */
void gw_conn_resume(gw_conn *conn);  /* READY or DEAD: libmicrohttpd shall look at it again */
void gw_conn_probe(gw_conn *conn);   /* suspended: is the client still there? */
/* Refuses; before or inside the body, or from run. Not after gw_conn_wait. */
void gw_conn_fail(gw_conn *conn, int http_status, const sp_error *err, int retry_after_s);
void gw_conn_fail_status(gw_conn *conn, sp_status status, sp_error *err, int retry_after_s); /* gw_http_status(status) */
void gw_conn_wait(gw_conn *conn);     /* from run: the answer comes later */
void gw_conn_answered(gw_conn *conn); /* after gw_reply_...: it has come */
/* In the middle of a body: answers past libmicrohttpd and reads on for a moment. */
void gw_conn_answer_inside(gw_conn *conn, int http_status, const sp_error *err);
bool gw_conn_is_local(const gw_conn *conn); /* the client is on this machine */
void gw_conn_cut(gw_conn *conn); /* libmicrohttpd shall see the end and close */
const char *gw_query(const gw_conn *conn, const char *name);  /* NULL = not there, "" = without a value */
const char *gw_header(const gw_conn *conn, const char *name); /* NULL = not there */

/* sweep.c: connections that take too long. */
void gw_sweep_init(gw_server *server);
void gw_sweep_arm(gw_server *server);      /* there is something to look through, soon */
int gw_http_busy_count(gw_server *server); /* connections that keep a drain waiting */

/* routes.c: which handler a path and method have. Sets conn->route and conn->params, or refuses (404, 405). */
void gw_route_find(gw_conn *conn, const char *url, const char *method);
void gw_route_allow(const gw_conn *conn, sp_buf *ret_methods); /* "GET, HEAD, DELETE" */
void gw_route_count(const gw_conn *conn); /* the metrics of an answered request */

/* body.c: the ready-made begin and append for handlers that want a small JSON body whole. */
void gw_body_begin(gw_conn *conn);
void gw_body_append(gw_conn *conn, const void *data, size_t size_bytes);
bool gw_media_is(const char *type, const char *name); /* "image/" = any image; parameters are left aside */

/* options.c: what was asked for. */
void gw_headers_read(gw_conn *conn, const char *version);
gw_options gw_options_none(const gw_conn *conn); /* nothing was asked for but what the path says */
sp_status gw_options_read(gw_conn *conn, sp_error *reterr);
sp_status gw_option_set(gw_options *options, const char *key, sp_view value, const char *where, sp_error *reterr);
int64_t gw_deadline_ns(const gw_conn *conn);
uint64_t gw_random(gw_server *server); /* for ids: no two alike; no secret */
void gw_request_id_make(gw_server *server, char ret_id[SP_LIMIT_REQUEST_ID_BYTES]);

/* infer.c: POST /infer, from the first header to the answer. */
void gw_infer_begin(gw_conn *conn);
void gw_infer_append(gw_conn *conn, const void *data, size_t size_bytes);
void gw_infer_run(gw_conn *conn);
/* detect.c: which loaded version of a served model a picture goes to; "" = the only one there is, or `any`. SP_INVALID, code
 * "no_model": there are several; else as sp_serving_find. */
sp_status gw_detect_model(gw_server *server, const char *name, bool any, sp_served_model *ret_model, sp_error *reterr);
/* What a form, a query and a job call a share from 0 to 1. False: it is none. */
bool gw_share_read(sp_view text, float *ret_share);
/* ,"width":...,"height":...,"detections":[...] */
void gw_detections_write(sp_buf *out, const sp_answer *answer);
/* infer_url.c: {"url": ...} in conn->body, the other members into conn->options. */
sp_status gw_infer_url_read(gw_conn *conn, char *ret_url, size_t url_bytes, sp_error *reterr);
extern const char *const gw_form_options[]; /* what a form's fields and a JSON's members may be; NULL ends it */
/* The answer as the reply. `cache`: what the cache did for it, "hit", "miss", "shared" or "off". */
void gw_infer_reply(gw_conn *conn, const sp_answer *answer, const char *cache);

/* pages.c: what the gateway answers by itself; each sets conn->response. */
void gw_page_landing(gw_conn *conn);
void gw_page_icon(gw_conn *conn);
void gw_page_healthz(gw_conn *conn);
void gw_page_readyz(gw_conn *conn);
void gw_page_metrics(gw_conn *conn);
void gw_page_links(gw_conn *conn);
void gw_page_devices(gw_conn *conn); /* devices.c */
#define GW_DEVICES 32 /* samples shown at most */
void gw_devices_metrics(const gw_server *server, sp_buf *out);

/* reply.c: the one place where answers get their headers. `who` NULL = the gateway itself answers. */
typedef struct gw_who {
    const char *link, *device, *precision, *reason;
    const sp_attempt *attempts;
    int attempt_count;
} gw_who;
typedef enum gw_memory { GW_STATIC, GW_COPY, GW_TAKE } gw_memory; /* what happens to the body's bytes */
void gw_reply(gw_conn *conn, int http_status, const char *media_type, void *body, size_t body_bytes, gw_memory memory,
              const gw_who *who);
/* The body lies in pieces, good until `release` is called, which happens exactly once. */
void gw_reply_pieces(gw_conn *conn, int http_status, const char *media_type, const struct MHD_IoVec *pieces, unsigned count,
                     void (*release)(void *context), void *context, const gw_who *who);
/* The body comes from `read` (context: conn) until it says that it ends. */
void gw_reply_stream(gw_conn *conn, int http_status, const char *media_type, MHD_ContentReaderCallback read);
/* The same with a length that is known (or MHD_SIZE_UNKNOWN); asked for in blocks. It may suspend the connection. */
void gw_reply_reader(gw_conn *conn, int http_status, const char *media_type, uint64_t size_bytes, size_t block_bytes,
                     MHD_ContentReaderCallback read);
void gw_reply_json(gw_conn *conn, int http_status, sp_buf *json, const gw_who *who); /* takes the buffer */
void gw_reply_problem(gw_conn *conn, int http_status, const sp_error *err, int retry_after_s, const gw_who *who);
void gw_reply_header(gw_conn *conn, const char *name, const char *value); /* after one of the above */
void gw_log_failure(gw_conn *conn, int http_status, const sp_error *err); /* once for each 5xx */
bool gw_reply_queue(gw_conn *conn);                                       /* hands conn->response to libmicrohttpd */
/* The same problem past libmicrohttpd, straight to the socket: for answers inside a body. */
void gw_reply_raw(gw_conn *conn, int http_status, const sp_error *err, int retry_after_s);
int gw_http_status(sp_status status, const sp_error *err);

/* answer.c: the house's answer as JSON. */
void gw_answer_write(sp_buf *out, const char *request_id, const sp_answer *answer);
void gw_answer_write_cache(sp_buf *out, const char *request_id, const sp_answer *answer, const char *cache);
void gw_who_write(sp_buf *out, const gw_who *who); /* "provider", "device", "precision", "reason", "attempts" */
gw_who gw_who_of(const sp_answer *answer);

#endif
