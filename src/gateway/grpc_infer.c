/* SPDX-License-Identifier: Apache-2.0
 * gRPC: ModelInfer and ModelStreamInfer (grpc.h). Tensors go from the message's pieces into the slot, and from the answer's
 * memory into the library's; nothing of ours stands between. */
#include "gateway/grpc.h"

#include <stdio.h>
#include <stdlib.h>

#define PIECES (1 + 2 * SP_INFER_PORTS)

/* --- the question --------------------------------------------------------------------------------------------------- */

static sp_serving *serving_of(const gw_grpc_call *call)
{
    return call->grpc->server->kserve->serving;
}

static const char *fact_header(void *context, const char *name)
{
    const gw_grpc_call *call = context;
    char lower[64];
    size_t n = strlen(name);
    if (n >= sizeof(lower))
        return NULL;
    for (size_t i = 0; i <= n; i++)
        lower[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
    return call->grpc->api->metadata(call->rpc, lower);
}

static int64_t deadline_of(const gw_grpc_call *call, int64_t received_ns)
{
    return SP_MIN(call->deadline_ns, received_ns + SP_LIMIT_DEADLINE_DEFAULT_MS * SP_NS_PER_MS);
}

static sp_status append(void *context, const void *data, size_t bytes, sp_error *reterr)
{
    return sp_request_append(context, data, bytes, reterr);
}

static sp_status call_open(gw_grpc_call *call, const sp_wire_request *wire, size_t bytes, const gw_story *story, sp_call **ret_infer,
                           int *ret_retry_after_s, sp_error *reterr)
{
    gw_server *server = call->grpc->server;
    int64_t received_ns = sp_clock_now_ns(), deadline_ns = deadline_of(call, received_ns);
    const sp_call_params params = {
        .model = wire->model,
        .version = wire->version,
        .local = call->local,
        .request = {
            .request_id = call->request_id,
            .deadline_ns = deadline_ns,
            .received_ns = received_ns,
            .tier = call->access.tier,
            .tenant = call->access.tenant,
            .local_only = call->local_only,
            .hops = call->access.hops,
            .trace = &story->trace,
            .header = fact_header,
            .parameter = fact_header, /* a call has no query: metadata is all there is */
            .facts_context = call,
            .body_bytes_hint = bytes,
            .body_limit_bytes = gw_config(server)->http_max_input_bytes,
        },
    };
    server->longest_deadline_ns = SP_MAX(server->longest_deadline_ns, deadline_ns);
    return sp_call_open(serving_of(call), &params, ret_infer, ret_retry_after_s, reterr);
}

/* Raw contents are in the slot; typed ones go there now. */
static sp_status submit(sp_call *infer, const sp_slices *message, sp_wire_request *wire, sp_call_done_fn *done, void *context,
                        sp_error *reterr)
{
    const sp_kserve_sink sink = { .room = sp_call_room, .used = sp_call_room_used, .context = infer };
    const sp_call_body body = { .named = &wire->request, .grpc = true };
    sp_status s = wire->has_typed ? sp_wire_request_typed(message, wire, &sink, reterr) : SP_OK;
    return s ? s : sp_call_submit(infer, &body, done, context, reterr);
}

/* --- the answer ----------------------------------------------------------------------------------------------------- */

typedef struct answer_pieces {
    sp_view pieces[PIECES];
    int count;
    size_t bytes;
} answer_pieces;

/* Head and tensors of a ModelInferResponse. The heads lie in `head`, from `begin` on. False: no memory. */
static bool answer_make(const sp_call_result *result, bool streamed, sp_buf *head, answer_pieces *ret_answer)
{
    static sp_wire_output outputs[SP_INFER_PORTS]; /* the loop's thread only */
    size_t ends[SP_INFER_PORTS + 1], begin = head->size_bytes;
    for (int i = 0; i < result->output_count; i++) {
        const sp_call_output *out = &result->outputs[i];
        outputs[i] = (sp_wire_output){ .name = out->name, .dtype = out->dtype, .rank = out->rank, .dims = out->dims,
                                       .shared = out->shared, .region = out->region, .offset = out->region_offset,
                                       .bytes = out->region_bytes };
    }
    sp_wire_response_head(result->model, result->version, result->id ? result->id : "", outputs, result->output_count, head);
    if (streamed)
        sp_wire_final_mark(true, head); /* models here give one answer to one request */
    for (int i = 0; i < result->output_count; i++) {
        sp_wire_raw_head(result->outputs[i].shared ? 0 : result->outputs[i].data.size_bytes, head);
        ends[i] = head->size_bytes;
    }
    ends[result->output_count] = head->size_bytes;
    if (!sp_buf_ok(head))
        return false;
    ret_answer->count = 0;
    ret_answer->bytes = 0;
    for (int i = 0; i <= result->output_count; i++) {
        const sp_view data = i < result->output_count && !result->outputs[i].shared ? result->outputs[i].data : (sp_view){ 0 };
        ret_answer->pieces[ret_answer->count++] = sp_view_make(head->data + begin, ends[i] - begin);
        if (data.size_bytes)
            ret_answer->pieces[ret_answer->count++] = data;
        ret_answer->bytes += ends[i] - begin + data.size_bytes;
        begin = ends[i];
    }
    return true;
}

/* --- ModelInfer ------------------------------------------------------------------------------------------------------ */

static void infer_done(sp_call *infer, const sp_call_result *result, void *context)
{
    static answer_pieces answer; /* the loop's thread only */
    gw_grpc_call *call = context;
    sp_buf *head = &call->grpc->head;
    sp_error err = { 0 };
    call->infer = NULL;
    gw_grpc_story_tell(&call->story, result);
    sp_buf_clear(head);
    if (result->status) {
        gw_grpc_fail(call, result->status, result->error, result->retry_after_s);
    } else if (!answer_make(result, false, head, &answer)) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the answer");
        gw_grpc_fail(call, SP_NOMEM, &err, 1);
    } else {
        call->finished = true;
        call->bytes_out = answer.bytes;
        sp_metric_add(call->grpc->calls_metric, 1);
        call->grpc->api->send(call->rpc, answer.pieces, answer.count, true);
    }
    sp_call_close(infer);
}

/* --- ModelStreamInfer ------------------------------------------------------------------------------------------------- */

/* One request of a stream, in the house. */
typedef struct item {
    struct item *next, *prev;
    gw_grpc_call *call;
    sp_call *infer;
    char id[SP_LIMIT_KSERVE_NAME_BYTES];
    int64_t received_ns;
    gw_story story;
} item;

/* An answer that waits for those before it. */
typedef struct waiting {
    struct waiting *next;
    size_t bytes;
    uint8_t data[];
} waiting;

struct gw_grpc_stream {
    item *items;
    int open;
    waiting *first, **last;
    size_t queued_bytes;
    bool sending, half_closed, paused;
    bool asked_once; /* access was asked for when the call came */
    bool taking;     /* its last message is still being copied */
};

static bool has_room(const gw_grpc_stream *stream)
{
    return !stream->taking && stream->open < GW_GRPC_STREAM_OPEN && stream->queued_bytes < GW_GRPC_STREAM_BYTES;
}

static void go_on(gw_grpc_call *call)
{
    gw_grpc_stream *stream = call->stream;
    if (call->finished)
        return;
    if (stream->paused && has_room(stream)) {
        stream->paused = false;
        call->grpc->api->read(call->rpc);
    }
    if (stream->half_closed && !stream->open && !stream->sending && !stream->first)
        gw_grpc_finish(call, 0, "", NULL);
}

static void push(gw_grpc_call *call, const sp_view *pieces, int count, size_t bytes)
{
    gw_grpc_stream *stream = call->stream;
    if (call->finished)
        return;
    if (!stream->sending) {
        stream->sending = true;
        call->grpc->api->send(call->rpc, pieces, count, false);
        return;
    }
    waiting *w = malloc(sizeof(*w) + bytes);
    if (!w) {
        gw_grpc_finish(call, 8, "no memory for an answer of the stream", NULL);
        return;
    }
    w->next = NULL;
    w->bytes = bytes;
    uint8_t *to = w->data;
    for (int i = 0; i < count; to += pieces[i++].size_bytes) {
        if (pieces[i].size_bytes)
            memcpy(to, pieces[i].data, pieces[i].size_bytes);
    }
    *stream->last = w;
    stream->last = &w->next;
    stream->queued_bytes += bytes;
}

/* Protobuf's texts are UTF-8; what a client sent, or what was cut, may be none. */
static void text_clean(char *text)
{
    for (uint8_t *at = (uint8_t *)text; *at;) {
        int more = *at < 0x80 ? 0 : *at >= 0xc2 && *at < 0xe0 ? 1 : *at >= 0xe0 && *at < 0xf0 ? 2 : *at >= 0xf0 && *at < 0xf5 ? 3 : -1;
        bool good = more >= 0;
        for (int i = 1; good && i <= more; i++)
            good = (at[i] & 0xc0) == 0x80;
        if (good && ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
                     (at[0] == 0xf4 && at[1] > 0x8f)))
            good = false;
        if (!good)
            *at = '?';
        at += good ? more + 1 : 1;
    }
}

/* error_message, and an infer_response that says which request it was. */
static void push_error(gw_grpc_call *call, const sp_error *err, const char *id)
{
    sp_error named = *err;
    sp_buf out, inner;
    gw_grpc_log_failure(call, err);
    text_clean(named.message);
    sp_buf_init(&out, SP_LIMIT_JSON_BYTES);
    sp_buf_init(&inner, SP_LIMIT_JSON_BYTES);
    sp_wire_put_text(&out, 1, *named.message ? named.message : sp_status_name(named.status));
    sp_wire_put_text(&inner, 3, id);
    sp_wire_final_mark(true, &inner);
    sp_wire_put_bytes(&out, 2, inner.data, inner.size_bytes);
    const sp_view piece = sp_buf_view(&out);
    if (sp_buf_ok(&out) && sp_buf_ok(&inner))
        push(call, &piece, 1, piece.size_bytes);
    else
        gw_grpc_finish(call, 8, "no memory for an answer of the stream", NULL);
    sp_buf_done(&out);
    sp_buf_done(&inner);
}

static void push_answer(gw_grpc_call *call, const sp_call_result *result, const char *id)
{
    static answer_pieces answer; /* the loop's thread only */
    sp_buf *head = &call->grpc->head;
    sp_error err = { 0 };
    uint8_t outer[16];
    sp_buf_clear(head);
    if (!answer_make(result, true, head, &answer) || answer.count == PIECES) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the answer");
        push_error(call, &err, id);
        return;
    }
    /* infer_response: tag and length stand before it. */
    sp_buf tag;
    sp_buf_init(&tag, sizeof(outer));
    sp_wire_put_varint(&tag, 2 << 3 | 2);
    sp_wire_put_varint(&tag, answer.bytes);
    call->bytes_out += answer.bytes;
    size_t n = SP_MIN(tag.size_bytes, sizeof(outer));
    memcpy(outer, tag.data, n);
    sp_buf_done(&tag);
    memmove(answer.pieces + 1, answer.pieces, (size_t)answer.count * sizeof(*answer.pieces));
    answer.pieces[0] = sp_view_make(outer, n);
    push(call, answer.pieces, answer.count + 1, answer.bytes + n);
}

static void item_free(item *it)
{
    gw_grpc_stream *stream = it->call->stream;
    *(it->prev ? &it->prev->next : &stream->items) = it->next;
    if (it->next)
        it->next->prev = it->prev;
    stream->open--;
    free(it);
}

static void item_done(sp_call *infer, const sp_call_result *result, void *context)
{
    item *it = context;
    gw_grpc_call *call = it->call;
    if (result->status)
        push_error(call, result->error, it->id);
    else
        push_answer(call, result, it->id);
    gw_grpc_story_tell(&it->story, result);
    gw_grpc_story_end(call, &it->story, it->received_ns, result->status ? gw_grpc_code(result->status, result->error, 0) : 0);
    sp_call_close(infer);
    item_free(it);
    go_on(call);
}

static item *item_new(gw_grpc_call *call)
{
    gw_grpc_stream *stream = call->stream;
    item *it = calloc(1, sizeof(*it));
    if (!it)
        return NULL;
    it->call = call;
    it->received_ns = sp_clock_now_ns();
    gw_grpc_story_begin(call, &it->story);
    it->next = stream->items;
    if (stream->items)
        stream->items->prev = it;
    stream->items = it;
    stream->open++;
    return it;
}

static bool stream_begin(gw_grpc_call *call)
{
    if (!call->stream) {
        call->stream = calloc(1, sizeof(*call->stream));
        if (call->stream)
            call->stream->last = &call->stream->first;
        else
            gw_grpc_finish(call, 8, "no memory for a stream", NULL);
    }
    return call->stream != NULL;
}

/* Each request of a stream is one for rates and quotas, and a token may have been taken away since the last. */
static bool may_ask(gw_grpc_call *call, sp_error *reterr)
{
    int http_status = 0, retry_after_s = 0;
    if (!call->stream->asked_once) {
        call->stream->asked_once = true;
        return true;
    }
    return gw_grpc_access(call, reterr, &http_status, &retry_after_s);
}

/* --- from the message to the house ------------------------------------------------------------------------------------- */

/* A message that is copied over several turns. */
struct gw_grpc_big {
    gw_grpc_big *next;
    gw_grpc_call *call;
    item *it;       /* of a stream; NULL = the call's own */
    sp_call *infer; /* open, not submitted */
    sp_rpc_event event;
    int raw;        /* which of the raw contents, and how far */
    size_t at;
    sp_wire_request wire;
};

static void refuse(gw_grpc_call *call, item *it, sp_status status, sp_error *err, int retry_after_s)
{
    if (!it) {
        gw_grpc_fail(call, status, err, retry_after_s);
        return;
    }
    err->status = status;
    push_error(call, err, it->id);
    (void)snprintf(it->story.code, sizeof(it->story.code), "%.31s", *err->code ? err->code : sp_status_name(status));
    gw_grpc_story_end(call, &it->story, it->received_ns, gw_grpc_code(status, err, 0));
    item_free(it);
}

static sp_status go(gw_grpc_call *call, item *it, sp_call *infer, const sp_slices *message, sp_wire_request *wire, sp_error *reterr)
{
    sp_status s = it ? submit(infer, message, wire, item_done, it, reterr) : submit(infer, message, wire, infer_done, call, reterr);
    if (!s)
        *(it ? &it->infer : &call->infer) = infer;
    return s;
}

static void big_free(gw_grpc_big *big)
{
    gw_grpc *grpc = big->call->grpc;
    gw_grpc_big **link = &grpc->bigs;
    while (*link != big)
        link = &(*link)->next;
    *link = big->next;
    if (big->infer)
        sp_call_cancel(big->infer);
    grpc->api->release(&big->event);
    if (big->it)
        big->call->stream->taking = false;
    free(big);
}

static sp_status big_begin(gw_grpc_call *call, item *it, sp_call *infer, sp_rpc_event *event, const sp_wire_request *wire, sp_error *reterr)
{
    gw_grpc_big *big = malloc(sizeof(*big));
    if (!big)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a large message");
    *big = (gw_grpc_big){ .next = call->grpc->bigs, .call = call, .it = it, .infer = infer, .event = *event, .wire = *wire };
    call->grpc->bigs = big;
    event->pieces = NULL;
    event->lent = NULL;
    if (it)
        call->stream->taking = true;
    return SP_OK;
}

/* As much as one turn may take. */
static sp_status big_copy(gw_grpc_big *big, const sp_slices *message, sp_error *reterr)
{
    size_t left = GW_GRPC_AT_ONCE;
    while (big->raw < big->wire.raw_count && left) {
        const sp_wire_part *whole = &big->wire.raw[big->raw];
        size_t n = SP_MIN(whole->bytes - big->at, left);
        sp_status s = sp_slices_walk(message, (sp_wire_part){ whole->offset + big->at, n }, append, sp_call_request(big->infer), reterr);
        if (s)
            return s;
        left -= n;
        big->at += n;
        if (big->at == whole->bytes) {
            big->raw++;
            big->at = 0;
        }
    }
    return SP_OK;
}

bool gw_grpc_big_step(gw_grpc *grpc)
{
    gw_grpc_big *next;
    for (gw_grpc_big *big = grpc->bigs; big; big = next) {
        const sp_slices message = { big->event.pieces, big->event.piece_count, big->event.bytes };
        gw_grpc_call *call = big->call;
        item *it = big->it;
        sp_error err = { 0 };
        next = big->next;
        sp_status s = big_copy(big, &message, &err);
        bool through = s || big->raw == big->wire.raw_count;
        if (!s && through) {
            s = go(call, it, big->infer, &message, &big->wire, &err);
            if (!s)
                big->infer = NULL;
        }
        if (through)
            big_free(big);
        if (s)
            refuse(call, it, s, &err, 0);
        if (through && it)
            go_on(call);
    }
    return grpc->bigs != NULL;
}

/* `it`: of a stream; NULL = a call of its own. */
static void message_take(gw_grpc_call *call, item *it, sp_rpc_event *event)
{
    static sp_wire_request wire; /* 40 KiB; the loop's thread only */
    const sp_slices message = { event->pieces, event->piece_count, event->bytes };
    const gw_story *story = it ? &it->story : &call->story;
    sp_error err = { 0 };
    sp_call *infer = NULL;
    int retry_after_s = 0;
    wire.request.id[0] = 0;
    sp_status s = !it || may_ask(call, &err) ? sp_wire_request_read(&message, &wire, &err) : err.status;
    if (it) {
        memcpy(it->id, wire.request.id, sizeof(it->id));
        text_clean(it->id);
    }
    if (!s)
        s = call_open(call, &wire, message.bytes, story, &infer, &retry_after_s, &err);
    if (!s && wire.raw_count && message.bytes > GW_GRPC_AT_ONCE) {
        s = big_begin(call, it, infer, event, &wire, &err);
    } else if (!s) {
        for (int i = 0; i < wire.raw_count && !s; i++)
            s = sp_slices_walk(&message, wire.raw[i], append, sp_call_request(infer), &err);
        if (!s)
            s = go(call, it, infer, &message, &wire, &err);
    }
    if (s && infer)
        sp_call_close(infer);
    if (s)
        refuse(call, it, s, &err, retry_after_s);
}

void gw_grpc_infer_message(gw_grpc_call *call, sp_rpc_event *event)
{
    message_take(call, NULL, event);
}

void gw_grpc_stream_message(gw_grpc_call *call, sp_rpc_event *event)
{
    if (!stream_begin(call))
        return;
    item *it = item_new(call);
    if (!it) {
        gw_grpc_finish(call, 8, "no memory for a request of the stream", NULL);
        return;
    }
    it->story.bytes_in = event->bytes;
    message_take(call, it, event);
    call->stream->paused = true;
    go_on(call);
}

void gw_grpc_stream_half_closed(gw_grpc_call *call)
{
    if (!stream_begin(call))
        return;
    call->stream->half_closed = true;
    call->stream->paused = false;
    go_on(call);
}

void gw_grpc_stream_sent(gw_grpc_call *call)
{
    gw_grpc_stream *stream = call->stream;
    stream->sending = false;
    waiting *w = stream->first;
    if (w && !call->finished) {
        const sp_view piece = sp_view_make(w->data, w->bytes);
        stream->first = w->next;
        if (!stream->first)
            stream->last = &stream->first;
        stream->queued_bytes -= w->bytes;
        stream->sending = true;
        call->grpc->api->send(call->rpc, &piece, 1, false);
        free(w);
    }
    go_on(call);
}

bool gw_grpc_stream_idle(const gw_grpc_call *call)
{
    const gw_grpc_stream *stream = call->stream;
    return !stream || (!stream->open && !stream->sending && !stream->first);
}

void gw_grpc_infer_drop(gw_grpc_call *call)
{
    gw_grpc_big *next;
    for (gw_grpc_big *big = call->grpc->bigs; big; big = next) {
        next = big->next;
        if (big->call == call)
            big_free(big);
    }
    gw_grpc_stream *stream = SP_STEAL(call->stream);
    if (call->infer)
        sp_call_cancel(SP_STEAL(call->infer));
    if (!stream)
        return;
    for (item *it; (it = stream->items) != NULL;) {
        stream->items = it->next;
        if (it->infer)
            sp_call_cancel(it->infer);
        free(it);
    }
    for (waiting *w; (w = stream->first) != NULL;) {
        stream->first = w->next;
        free(w);
    }
    free(stream);
}
