/* SPDX-License-Identifier: Apache-2.0
 * gRPC: start and end, calls as they come, who may make them, how they fail (grpc.h). */
#include "gateway/grpc.h"

#include "base/plugin.h"
#include "gateway/auth.h"
#include "gateway/names.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Events taken in one turn before other work of the loop gets its own. */
#define EVENTS_AT_ONCE 64

/* --- answers -------------------------------------------------------------------------------------------------------- */

enum { CODE_OK = 0, CANCELLED = 1, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED = 4, NOT_FOUND = 5, PERMISSION_DENIED = 7,
       RESOURCE_EXHAUSTED = 8, FAILED_PRECONDITION = 9, ABORTED = 10, UNIMPLEMENTED = 12, INTERNAL = 13, UNAVAILABLE = 14,
       DATA_LOSS = 15, UNAUTHENTICATED = 16, GONE = 499 };

int gw_grpc_code(sp_status status, const sp_error *err, int http_status)
{
    static const uint8_t codes[SP_STATUS_COUNT] = {
        [SP_INVALID] = INVALID_ARGUMENT,     [SP_TOO_LARGE] = INVALID_ARGUMENT, [SP_NOT_FOUND] = NOT_FOUND,
        [SP_CONFLICT] = ABORTED,             [SP_DENIED] = PERMISSION_DENIED,   [SP_UNSUPPORTED] = UNIMPLEMENTED,
        [SP_NOMEM] = RESOURCE_EXHAUSTED,     [SP_BUSY] = RESOURCE_EXHAUSTED,    [SP_REFUSED] = FAILED_PRECONDITION,
        [SP_TIMEOUT] = DEADLINE_EXCEEDED,    [SP_UNAVAILABLE] = UNAVAILABLE,    [SP_CANCELLED] = CANCELLED,
        [SP_CORRUPT] = DATA_LOSS,            [SP_INTERNAL] = INTERNAL,
    };
    int http = http_status ? http_status : gw_http_status(status, err);
    if (http == 504)
        return DEADLINE_EXCEEDED;
    if (http == 401)
        return UNAUTHENTICATED;
    if (http == 500 && status == SP_REFUSED) /* it crashed its model */
        return INTERNAL;
    return (unsigned)status < SP_STATUS_COUNT ? codes[status] : INTERNAL;
}

void gw_grpc_log_failure(const gw_grpc_call *call, const sp_error *err)
{
    gw_server *server = call->grpc->server;
    int64_t second = sp_loop_now_ns(server->loop) / SP_NS_PER_S;
    if (gw_http_status(err->status, err) < 500)
        return; /* the caller's own, and the caller has been told */
    if (second != server->log_second)
        server->logged_in_second = 0;
    server->log_second = second;
    if (server->logged_in_second++ < GW_LOGGED_FAILURES)
        sp_log_error("request failed", call->request_id, err);
}

static void count(const gw_grpc_call *call, int code)
{
    char labels[80];
    if (!code && call->kind == GW_GRPC_INFER) {
        sp_metric_add(call->grpc->calls_metric, 1);
        return;
    }
    (void)snprintf(labels, sizeof(labels), "method=\"%s\",code=\"%d\"", call->method ? call->method->name : "unknown", code);
    sp_metric_add(sp_metric_get(SP_METRIC_COUNTER, "spillway_grpc_calls_total", labels, "Calls over gRPC by google.rpc.Code"), 1);
}

void gw_grpc_finish(gw_grpc_call *call, int code, const char *message, const char *trailers)
{
    if (call->finished)
        return;
    call->finished = true;
    call->code = code;
    count(call, code);
    call->grpc->api->finish(call->rpc, code, message, trailers);
}

static void fail_as(gw_grpc_call *call, int code, const sp_error *err, int retry_after_s)
{
    char trailers[32] = "";
    if (retry_after_s > 0)
        (void)snprintf(trailers, sizeof(trailers) - 1, "retry-after%c%d%c", 0, retry_after_s, 0);
    gw_grpc_log_failure(call, err);
    if (!*call->story.code)
        (void)snprintf(call->story.code, sizeof(call->story.code), "%.31s", *err->code ? err->code : sp_status_name(err->status));
    gw_grpc_finish(call, code, *err->message ? err->message : sp_status_name(err->status), *trailers ? trailers : NULL);
}

void gw_grpc_fail(gw_grpc_call *call, sp_status status, const sp_error *err, int retry_after_s)
{
    sp_error named = *err;
    named.status = status;
    fail_as(call, gw_grpc_code(status, &named, 0), &named, retry_after_s ? retry_after_s : status == SP_BUSY);
}

void gw_grpc_reply(gw_grpc_call *call, const sp_buf *message)
{
    const sp_view piece = sp_buf_view(message);
    sp_error err = { 0 };
    if (call->finished)
        return;
    if (!sp_buf_ok(message)) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the answer");
        gw_grpc_fail(call, SP_NOMEM, &err, 1);
        return;
    }
    call->finished = true;
    count(call, CODE_OK);
    call->bytes_out += piece.size_bytes;
    call->grpc->api->send(call->rpc, &piece, 1, true);
}

/* --- what is told of a request ---------------------------------------------------------------------------------------- */

void gw_grpc_story_begin(gw_grpc_call *call, gw_story *story)
{
    const sp_rpc_api *api = call->grpc->api;
    gw_trace_begin(call->grpc->server, story, api->metadata(call->rpc, "traceparent"), api->metadata(call->rpc, "tracestate"));
}

void gw_grpc_story_tell(gw_story *story, const sp_call_result *result)
{
    if (result->answer)
        gw_story_answer(story, result->answer, result->cached ? "hit" : "off");
    else if (result->cached)
        story->cache = "hit";
    if (result->model)
        (void)snprintf(story->model, sizeof(story->model), "%.63s", result->model);
    if (result->version)
        (void)snprintf(story->version, sizeof(story->version), "%.15s", result->version);
}

void gw_grpc_story_end(gw_grpc_call *call, gw_story *story, int64_t received_ns, int code)
{
    char peer[128] = "", route[96];
    if (!gw_stories_want(call->grpc->server, story))
        return;
    (void)call->grpc->api->peer(call->rpc, peer, sizeof(peer)); /* of another kind: left empty */
    (void)snprintf(route, sizeof(route), "%s", call->method ? call->method->name : "other");
    story->method = "grpc";
    story->route = route;
    story->request_id = call->request_id;
    story->token = call->access.token;
    story->tenant = call->access.tenant;
    story->address = peer;
    story->grpc = true;
    story->status = code;
    story->failed = code == INTERNAL || code == UNAVAILABLE || code == DATA_LOSS || code == DEADLINE_EXCEEDED;
    story->received_ns = received_ns;
    story->ended_ns = sp_clock_now_ns();
    gw_story_end(call->grpc->server, story);
}

/* --- access --------------------------------------------------------------------------------------------------------- */

static const char *metadata(void *context, const char *name)
{
    const gw_grpc_call *call = context;
    return call->grpc->api->metadata(call->rpc, name);
}

/* "ipv4:127.0.0.1:1234", "ipv6:%5B::1%5D:1234" (brackets may stand as they are). False: another kind of peer. */
static bool address_of(const gw_grpc_call *call, uint8_t ret_bytes[16])
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    char peer[128], host[INET6_ADDRSTRLEN];
    if (!call->grpc->api->peer(call->rpc, peer, sizeof(peer)))
        return false;
    char *colon = strrchr(peer, ':');
    if (!colon)
        return false;
    *colon = 0;
    if (strncmp(peer, "ipv4:", 5) == 0) {
        memcpy(ret_bytes, mapped, sizeof(mapped));
        return inet_pton(AF_INET, peer + 5, ret_bytes + 12) == 1;
    }
    const char *from = peer + 5;
    if (strncmp(peer, "ipv6:", 5) != 0)
        return false;
    from += strncmp(from, "%5B", 3) == 0 ? 3 : *from == '[';
    size_t n = strcspn(from, "%]");
    if (n >= sizeof(host))
        return false;
    memcpy(host, from, n);
    host[n] = 0;
    return inet_pton(AF_INET6, host, ret_bytes) == 1;
}

static bool is_loopback(const uint8_t address[16])
{
    static const uint8_t mapped[13] = { [10] = 0xff, [11] = 0xff, [12] = 127 }, one[16] = { [15] = 1 };
    return memcmp(address, mapped, sizeof(mapped)) == 0 || memcmp(address, one, sizeof(one)) == 0;
}

bool gw_grpc_admin_here(const gw_grpc_call *call, sp_error *reterr)
{
    int port = call->grpc->server->listeners[GW_LISTEN_ADMIN].port;
    if (port)
        (void)SP_FAIL_CODE(reterr, SP_DENIED, "admin_port", "this is answered over HTTP on the admin port (%d) alone", port);
    return !port;
}

bool gw_grpc_access(gw_grpc_call *call, sp_error *reterr, int *ret_http_status, int *ret_retry_after_s)
{
    gw_server *server = call->grpc->server;
    uint8_t address[16];
    const char *authorization = metadata(call, "authorization");
    gw_asker asker = {
        .server = server,
        .scopes = call->method->scopes,
        .reads = call->method->reads,
        .token_given = authorization != NULL,
        .hops = metadata(call, "x-spillway-hops"),
        .header = metadata,
        .context = call,
        .access = &call->access,
    };
    asker.token_readable = authorization && gw_bearer_read(authorization, &asker.token);
    /* On loopback alone everybody is local; asking the library costs an allocation. */
    call->local = server->loopback;
    if (!server->loopback || gw_config(server)->trusted_peer_count) {
        asker.address = address_of(call, address) ? address : NULL;
        call->local = asker.address && is_loopback(address);
    }
    *ret_http_status = *ret_retry_after_s = 0;
    if (gw_auth_ask(&asker))
        return call->method->scopes != SP_SCOPE_ADMIN || gw_grpc_admin_here(call, reterr);
    *reterr = asker.error;
    *ret_http_status = asker.http_status;
    *ret_retry_after_s = asker.retry_after_s;
    return false;
}

/* --- calls ---------------------------------------------------------------------------------------------------------- */

static const gw_grpc_method *method_find(const char *path)
{
    static const struct { const char *path; const gw_grpc_method *methods; } services[] = {
        { "/inference.GRPCInferenceService/", gw_grpc_inference },
        { "/grpc.health.v1.Health/", gw_grpc_health },
        { "/grpc.reflection.v1.ServerReflection/", gw_grpc_reflection },
        { "/grpc.reflection.v1alpha.ServerReflection/", gw_grpc_reflection },
    };
    const gw_grpc_method *m = NULL;
    for (size_t i = 0; i < SP_ARRAY_LEN(services) && !m; i++) {
        size_t n = strlen(services[i].path);
        if (strncmp(path, services[i].path, n) != 0)
            continue;
        m = services[i].methods;
        path += n;
    }
    while (m && m->name && strcmp(m->name, path) != 0)
        m++;
    return m && m->name ? m : NULL;
}

static gw_grpc_call *call_new(gw_grpc *grpc, sp_rpc_call *rpc)
{
    gw_grpc_call *call = grpc->spare;
    if (call) {
        grpc->spare = call->next;
        grpc->spare_count--;
        memset(call, 0, sizeof(*call));
    } else {
        call = calloc(1, sizeof(*call));
        if (!call)
            return NULL;
    }
    call->grpc = grpc;
    call->rpc = rpc;
    call->next = grpc->calls;
    if (grpc->calls)
        grpc->calls->prev = call;
    grpc->calls = call;
    grpc->count++;
    return call;
}

static void call_free(gw_grpc_call *call)
{
    gw_grpc *grpc = call->grpc;
    gw_grpc_infer_drop(call);
    if (call->state)
        *(gw_grpc_call **)call->state = NULL; /* its answer will find nobody */
    if (call->kind == GW_GRPC_WATCH)
        grpc->watchers--;
    *(call->prev ? &call->prev->next : &grpc->calls) = call->next;
    if (call->next)
        call->next->prev = call->prev;
    grpc->count--;
    if (grpc->spare_count >= GW_GRPC_SPARE) {
        free(call);
        return;
    }
    call->next = grpc->spare;
    grpc->spare = call;
    grpc->spare_count++;
}

static bool is_true(const char *text)
{
    return text && (strcmp(text, "1") == 0 || strcmp(text, "true") == 0);
}

/* Ids of others are taken when they are visible ASCII of a bearable length. */
static void request_id_take(gw_grpc_call *call)
{
    const char *text = metadata(call, "x-request-id");
    size_t n = text ? strlen(text) : 0;
    bool good = n > 0 && n < sizeof(call->request_id);
    for (size_t i = 0; good && i < n; i++)
        good = text[i] > ' ' && text[i] <= '~' && text[i] != '"' && text[i] != '\\';
    if (good)
        memcpy(call->request_id, text, n + 1);
    else
        gw_request_id_make(call->grpc->server, call->request_id);
}

static void opened(gw_grpc *grpc, const sp_rpc_event *event)
{
    sp_error err = { 0 };
    int http_status = 0, retry_after_s = 0;
    gw_grpc_call *call = call_new(grpc, event->call);
    if (!call) {
        grpc->api->finish(event->call, RESOURCE_EXHAUSTED, "no memory for a call", NULL);
        return;
    }
    grpc->api->set_context(event->call, call);
    call->received_ns = sp_clock_now_ns();
    call->deadline_ns = event->deadline_ns;
    call->method = method_find(event->path);
    if (!call->method) {
        gw_grpc_finish(call, UNIMPLEMENTED, "there is no such method here", NULL);
        return;
    }
    request_id_take(call);
    gw_grpc_story_begin(call, &call->story);
    if (!gw_grpc_access(call, &err, &http_status, &retry_after_s)) {
        fail_as(call, gw_grpc_code(err.status, &err, http_status), &err, retry_after_s);
        return;
    }
    call->local_only = call->access.local_only || is_true(metadata(call, "x-spillway-local-only"));
    if (strcmp(call->method->name, "ModelInfer") == 0)
        call->kind = GW_GRPC_INFER;
    else if (strcmp(call->method->name, "ModelStreamInfer") == 0)
        call->kind = GW_GRPC_STREAM;
    else if (call->method == gw_grpc_reflection)
        call->kind = GW_GRPC_REFLECT;
}

/* Small messages, in one piece. */
static void control_message(gw_grpc_call *call, const sp_slices *message)
{
    sp_error err = { 0 };
    uint8_t *copy = NULL;
    if (message->bytes > GW_GRPC_CONTROL_BYTES) {
        (void)SP_FAIL(&err, SP_TOO_LARGE, "the message has %zu bytes, the limit of %s is %u", message->bytes, call->method->name,
                      GW_GRPC_CONTROL_BYTES);
        gw_grpc_fail(call, SP_TOO_LARGE, &err, 0);
        return;
    }
    if (message->count == 1) {
        call->method->run(call, message->pieces[0]);
        return;
    }
    copy = malloc(SP_MAX(message->bytes, (size_t)1));
    if (!copy) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the message");
        gw_grpc_fail(call, SP_NOMEM, &err, 1);
        return;
    }
    sp_slices_copy(message, 0, message->bytes, copy);
    call->method->run(call, sp_view_make(copy, message->bytes));
    free(copy);
}

static void message(gw_grpc_call *call, sp_rpc_event *event)
{
    const sp_slices slices = { event->pieces, event->piece_count, event->bytes };
    if (call->kind == GW_GRPC_INFER)
        gw_grpc_infer_message(call, event);
    else if (call->kind == GW_GRPC_STREAM)
        gw_grpc_stream_message(call, event);
    else
        control_message(call, &slices);
}

/* As with a message that is too large: of a stream it ends the whole. */
static void unreadable(gw_grpc_call *call, const sp_rpc_event *event)
{
    sp_error err = { 0 };
    (void)SP_FAIL(&err, event->code == RESOURCE_EXHAUSTED ? SP_TOO_LARGE : SP_INVALID, "%s", event->failure);
    fail_as(call, event->code, &err, 0);
}

static void half_closed(gw_grpc_call *call)
{
    if (call->kind == GW_GRPC_STREAM)
        gw_grpc_stream_half_closed(call);
    else if (call->kind == GW_GRPC_REFLECT)
        gw_grpc_finish(call, CODE_OK, "", NULL); /* the last question has been answered: it would not be read before that */
    else if (call->kind != GW_GRPC_WATCH) /* a unary call without a message */
        gw_grpc_finish(call, INVALID_ARGUMENT, "the call brought no message", NULL);
}

static void handle(gw_grpc *grpc, sp_rpc_event *event)
{
    gw_grpc_call *call = event->context;
    switch (event->kind) {
    case SP_RPC_OPENED:
        opened(grpc, event);
        break;
    case SP_RPC_MESSAGE:
        if (call && !call->finished) {
            call->bytes_in += event->bytes;
            message(call, event);
        }
        grpc->api->release(event);
        break;
    case SP_RPC_UNREADABLE:
        if (call && !call->finished)
            unreadable(call, event);
        break;
    case SP_RPC_HALF_CLOSED:
        if (call && !call->finished)
            half_closed(call);
        break;
    case SP_RPC_SENT:
        if (call && call->kind == GW_GRPC_STREAM)
            gw_grpc_stream_sent(call);
        else if (call)
            call->telling = false;
        if (call && call->kind == GW_GRPC_REFLECT && !call->finished)
            grpc->api->read(call->rpc); /* the next question */
        break;
    case SP_RPC_ENDED:
        if (!call)
            break;
        if (!call->finished)
            count(call, CANCELLED);
        call->story.bytes_in = call->bytes_in;
        call->story.bytes_out = call->bytes_out;
        if (call->method)
            gw_grpc_story_end(call, &call->story, call->received_ns, event->cancelled ? GONE : call->code);
        call_free(call);
        break;
    }
}

/* --- the loop ------------------------------------------------------------------------------------------------------- */

static int64_t work(void *context)
{
    gw_grpc *grpc = context;
    sp_rpc_event event;
    bool more = grpc->bigs && gw_grpc_big_step(grpc);
    int64_t due_ns = grpc->rung ? 0 : grpc->api->due(grpc->rpc, sp_clock_now_ns());
    if (due_ns)
        return more ? 0 : due_ns;
    grpc->rung = false;
    for (int i = 0; i < EVENTS_AT_ONCE; i++) {
        if (!grpc->api->next(grpc->rpc, &event))
            return more || grpc->bigs ? 0 : grpc->api->due(grpc->rpc, sp_clock_now_ns());
        handle(grpc, &event);
    }
    grpc->rung = true;
    return 0;
}

static void ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    (void)watch;
    (void)epoll_events;
    ((gw_grpc *)context)->rung = true; /* the hook of this turn's end looks */
}

/* Every quarter of a second while somebody watches the server's health. */
static void watch_fire(sp_timer *timer, void *context)
{
    gw_grpc *grpc = context;
    gw_grpc_call *next;
    for (gw_grpc_call *call = grpc->calls; call; call = next) {
        next = call->next;
        if (call->kind == GW_GRPC_WATCH && !call->finished)
            gw_grpc_watch_tell(call);
    }
    if (grpc->watchers)
        (void)sp_loop_timer_set(grpc->server->loop, timer, sp_loop_now_ns(grpc->server->loop) + GW_SWEEP_MS * SP_NS_PER_MS, NULL);
}

/* --- start and end -------------------------------------------------------------------------------------------------- */

static void complain(const char *text)
{
    sp_log(SP_LOG_WARN, "gRPC's library complains", SP_LOG_TEXT("text", text));
}

static sp_status api_load(const sp_rpc_api **ret_api, sp_error *reterr)
{
    void *library, *symbol;
    sp_status s = sp_plugin_open(SP_RPC_LIBRARY, &library, NULL, reterr);
    if (!s)
        s = sp_plugin_symbol(library, SP_RPC_LIBRARY, SP_RPC_SYMBOL, &symbol, reterr);
    if (s)
        return s;
    *ret_api = ((sp_rpc_api_get_fn *)symbol)(SP_RPC_ABI);
    if (!*ret_api || (*ret_api)->struct_bytes != sizeof(**ret_api))
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", SP_RPC_LIBRARY " is of another build than this program");
    return SP_OK;
}

sp_status sp_gateway_grpc_version(const char **ret_version, sp_error *reterr)
{
    const sp_rpc_api *api = NULL;
    sp_status s = api_load(&api, reterr);
    if (!s)
        *ret_version = api->version;
    return s;
}

static sp_status rpc_start(gw_grpc *grpc, int port, int *ret_port, sp_error *reterr)
{
    gw_server *server = grpc->server;
    char address[96], message[256] = "";
    bool v6 = strchr(server->address_text, ':') != NULL;
    (void)snprintf(address, sizeof(address), v6 ? "[%s]:%d" : "%s:%d", server->address_text, port);
    const sp_rpc_config config = {
        .struct_bytes = sizeof(config),
        .address = address,
        .most_message_bytes = gw_config(server)->http_max_input_bytes,
        .most_memory_bytes = GW_GRPC_MEMORY_BYTES,
        .most_calls = GW_GRPC_CALLS,
        .event_fd = grpc->event_fd,
        .threaded = getenv("SPILLWAY_GRPC_THREAD") != NULL, /* to measure it, and for its tests */
        .log = complain,
    };
    if (grpc->api->start(&config, &grpc->rpc, ret_port, message, sizeof(message)))
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "port_taken", "gRPC cannot listen: %s", message);
    return SP_OK;
}

sp_status gw_grpc_open(gw_server *server, sp_error *reterr)
{
    int port = server->config->grpc_port;
    sp_error err = { 0 };
    if (port < 0)
        return SP_OK;
    gw_grpc *grpc = calloc(1, sizeof(*grpc));
    if (!grpc)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for gRPC");
    *grpc = (gw_grpc){ .server = server, .event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                       .watch_timer = { .fire = watch_fire, .context = grpc } };
    sp_buf_init(&grpc->head, SP_LIMIT_JSON_BYTES);
    server->grpc = grpc;
    sp_status s = grpc->event_fd < 0 ? SP_FAIL_ERRNO(&err, SP_UNAVAILABLE, "eventfd") : api_load(&grpc->api, &err);
    bool missing = s == SP_UNSUPPORTED;
    if (!s)
        s = rpc_start(grpc, port, &server->grpc_port, &err);
    if (s && (missing || port == SP_GRPC_PORT_DEFAULT)) {
        /* Nobody asked for it by name: HTTP is served all the same. */
        sp_log(SP_LOG_WARN, "no gRPC", SP_LOG_TEXT("reason", err.message));
        gw_grpc_close(server);
        return SP_OK;
    }
    if (s) {
        *reterr = err;
        return s;
    }
    grpc->calls_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_grpc_calls_total", "method=\"ModelInfer\",code=\"0\"",
                                       "Calls over gRPC by google.rpc.Code");
    int fd = grpc->api->poll_fd(grpc->rpc);
    grpc->watch = (sp_watch){ .fd = fd >= 0 ? fd : grpc->event_fd, .ready = ready, .context = grpc };
    grpc->rung = true;
    s = sp_loop_watch(server->loop, &grpc->watch, EPOLLIN, reterr);
    return s ? s : sp_loop_hook_add(server->loop, work, grpc, reterr);
}

int gw_grpc_port(const gw_server *server)
{
    return server->grpc ? server->grpc_port : 0;
}

void gw_grpc_stop(gw_server *server)
{
    gw_grpc *grpc = server->grpc;
    if (!grpc || grpc->stopping)
        return;
    grpc->stopping = true;
    grpc->api->stop(grpc->rpc);
}

/* Streams that have nothing in the house are ended by us: their clients have been told (GOAWAY) to go elsewhere. */
int gw_grpc_busy(const gw_server *server)
{
    const gw_grpc *grpc = server->grpc;
    gw_grpc_call *next;
    if (!grpc)
        return 0;
    bool patience_over = server->listeners_closed &&
                         sp_loop_now_ns(server->loop) > server->listeners_closed_ns + GW_DRAIN_IDLE_MS * SP_NS_PER_MS;
    for (gw_grpc_call *call = grpc->calls; call && patience_over; call = next) {
        next = call->next;
        if ((call->kind == GW_GRPC_STREAM && gw_grpc_stream_idle(call)) || call->kind == GW_GRPC_WATCH ||
            (call->kind == GW_GRPC_REFLECT && !call->telling))
            gw_grpc_finish(call, UNAVAILABLE, "the server is about to stop", NULL);
    }
    return grpc->count;
}

void gw_grpc_cancel(gw_server *server)
{
    gw_grpc *grpc = server->grpc;
    if (!grpc)
        return;
    while (grpc->calls)
        call_free(grpc->calls);
    if (grpc->watch.fd >= 0)
        sp_loop_unwatch(server->loop, &grpc->watch);
    sp_loop_hook_remove(server->loop, work, grpc);
    sp_loop_timer_clear(server->loop, &grpc->watch_timer);
    if (grpc->rpc)
        grpc->api->free(SP_STEAL(grpc->rpc));
}

void gw_grpc_close(gw_server *server)
{
    gw_grpc *grpc = server->grpc;
    if (!grpc)
        return;
    gw_grpc_cancel(server);
    for (gw_grpc_call *call; (call = grpc->spare) != NULL;) {
        grpc->spare = call->next;
        free(call);
    }
    sp_fd_closep(&grpc->event_fd);
    sp_buf_done(&grpc->head);
    free(grpc);
    server->grpc = NULL;
}
