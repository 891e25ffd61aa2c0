/* SPDX-License-Identifier: Apache-2.0
 * One call: which operations it has out, and what their ends mean.
 *
 *   request ──> OPENED    read, at once ──> MESSAGE | HALF_CLOSED    send ──> SENT
 *   send with last, finish: with the status, in one batch
 *   close: comes when the call is over, however. Asked for when the message has been handed over, so that it delays nobody,
 *   or in one batch with the status of a call that was answered on the spot.
 *   ENDED when `close` is back and nothing else is out. */
#include "gateway/rpc/internal.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SPARE_CALLS 256
#define TRAILERS 8
#define PIECES_KEPT 64 /* longer messages take an allocation for their list */

int64_t rpc_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* fails for an unknown clock only */
    return now.tv_sec * RPC_NS_PER_S + now.tv_nsec;
}

sp_rpc_call *rpc_call_new(sp_rpc_server *server)
{
    sp_rpc_call *call = server->spare;
    if (call) {
        server->spare = call->next;
        server->spare_count--;
        memset(call, 0, sizeof(*call));
    } else {
        call = calloc(1, sizeof(*call));
        if (!call)
            return NULL;
    }
    call->server = server;
    for (int i = 0; i < TAG_COUNT; i++)
        call->tags[i] = (rpc_tag){ (tag_kind)i, call };
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    return call;
}

void rpc_call_free(sp_rpc_call *call)
{
    sp_rpc_server *server = call->server;
    rpc_unpack_drop(call);
    grpc_byte_buffer_destroy(call->received);
    grpc_call_details_destroy(&call->details);
    grpc_metadata_array_destroy(&call->metadata);
    for (rpc_text *text = call->texts, *next; text; text = next) {
        next = text->next;
        free(text);
    }
    if (call->call)
        grpc_call_unref(call->call);
    if (server->spare_count >= SPARE_CALLS) {
        free(call);
        return;
    }
    call->next = server->spare;
    server->spare = call;
    server->spare_count++;
}

static bool batch_start(sp_rpc_call *call, const grpc_op *ops, size_t count, tag_kind kind)
{
    if (call->over)
        return false;
    /* Refused only for a misuse of ours or a call that is no more; then ENDED is on its way. */
    if (grpc_call_start_batch(call->call, ops, count, &call->tags[kind], NULL) != GRPC_CALL_OK)
        return false;
    call->pending++;
    call->server->busy = true;
    return true;
}

void rpc_read(sp_rpc_call *call)
{
    const grpc_op op = { .op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->received };
    (void)batch_start(call, &op, 1, TAG_READ);
}

/* CLOCK_MONOTONIC, whatever clock the library wrote it in. */
static int64_t deadline_of(gpr_timespec deadline)
{
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return INT64_MAX;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    if (left.tv_sec > 1000000000)
        return INT64_MAX;
    if (left.tv_sec < 0)
        return rpc_now_ns();
    return rpc_now_ns() + left.tv_sec * RPC_NS_PER_S + left.tv_nsec;
}

static void open_link(sp_rpc_call *call)
{
    sp_rpc_server *server = call->server;
    call->prev = NULL;
    call->next = server->open;
    if (server->open)
        server->open->prev = call;
    server->open = call;
    server->open_count++;
}

static void open_unlink(sp_rpc_call *call)
{
    sp_rpc_server *server = call->server;
    if (call->prev)
        call->prev->next = call->next;
    else
        server->open = call->next;
    if (call->next)
        call->next->prev = call->prev;
    server->open_count--;
}

/* A client has come. True: OPENED. */
static bool arrived(sp_rpc_call *call, sp_rpc_event *ret_event)
{
    sp_rpc_server *server = call->server;
    size_t bytes = GRPC_SLICE_LENGTH(call->details.method);
    if (bytes < sizeof(call->path))
        memcpy(call->path, GRPC_SLICE_START_PTR(call->details.method), bytes);
    open_link(call);
    if (server->open_count > server->config.most_calls) {
        rpc_finish(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "the server has as many calls open as it may: try again later", NULL);
        return false;
    }
    rpc_read(call);
    server->fresh = call;
    call->told = true;
    ret_event->kind = SP_RPC_OPENED;
    ret_event->path = call->path;
    ret_event->deadline_ns = deadline_of(call->details.deadline);
    return true;
}

/* Lists the message's pieces. They lie in the byte buffer, which the call keeps until release(). */
static bool message(sp_rpc_call *call, sp_rpc_event *ret_event)
{
    if (!call->received) {
        ret_event->kind = SP_RPC_HALF_CLOSED;
        return true;
    }
    if (call->received->data.raw.compression != GRPC_COMPRESS_NONE)
        return rpc_unpack_begin(call, ret_event);
    const grpc_slice_buffer *slices = &call->received->data.raw.slice_buffer;
    sp_view *pieces = malloc(SP_MAX(slices->count, (size_t)1) * sizeof(*pieces));
    if (!pieces) {
        grpc_byte_buffer_destroy(SP_STEAL(call->received));
        (void)grpc_call_cancel_with_status(call->call, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory for the message", NULL);
        return false;
    }
    for (size_t i = 0; i < slices->count; i++)
        pieces[i] = sp_view_make(GRPC_SLICE_START_PTR(slices->slices[i]), GRPC_SLICE_LENGTH(slices->slices[i]));
    ret_event->kind = SP_RPC_MESSAGE;
    ret_event->pieces = pieces;
    ret_event->piece_count = (int)slices->count;
    ret_event->bytes = slices->length;
    ret_event->lent = call->received;
    call->received = NULL;
    return true;
}

void rpc_release(sp_rpc_event *event)
{
    free((void *)(uintptr_t)event->pieces);
    event->pieces = NULL;
    if (event->unpacked)
        rpc_unpack_free(event->lent);
    else
        grpc_byte_buffer_destroy(event->lent);
    event->lent = NULL;
}

static void end_if_over(sp_rpc_call *call)
{
    sp_rpc_server *server = call->server;
    if (!call->closed || call->pending)
        return;
    open_unlink(call);
    rpc_unpack_drop(call);
    call->next = NULL;
    call->over = true;
    if (server->fresh == call)
        server->fresh = NULL;
    if (server->watch_next == call)
        server->watch_next = NULL;
    if (!call->told) {
        rpc_call_free(call);
        return;
    }
    sp_rpc_call **tail = &server->ended;
    while (*tail)
        tail = &(*tail)->next;
    *tail = call;
}

bool rpc_call_done(rpc_tag *tag, bool success, sp_rpc_event *ret_event)
{
    sp_rpc_call *call = tag->call;
    sp_rpc_server *server = call->server;
    bool deliver = false;
    *ret_event = (sp_rpc_event){ .call = call, .context = call->context };
    if (tag->kind == TAG_REQUEST) {
        server->waiting_count--;
        if (!success) { /* the server is being stopped */
            rpc_call_free(call);
            return false;
        }
        return arrived(call, ret_event);
    }
    call->pending--;
    switch (tag->kind) {
    case TAG_CLOSE:
        call->closed = true;
        break;
    case TAG_READ:
        deliver = call->told && message(call, ret_event);
        break;
    case TAG_SEND:
        call->sending = false;
        ret_event->kind = SP_RPC_SENT;
        deliver = !call->closed; /* else nobody waits for it: ENDED follows */
        break;
    default:
        call->closed = call->closed || call->ends_with_status;
        break;
    }
    end_if_over(call);
    return deliver;
}

void rpc_set_context(sp_rpc_call *call, void *context)
{
    call->context = context;
}

const char *rpc_metadata(sp_rpc_call *call, const char *key)
{
    size_t key_bytes = strlen(key);
    for (size_t i = 0; i < call->metadata.count; i++) {
        const grpc_metadata *entry = &call->metadata.metadata[i];
        if (GRPC_SLICE_LENGTH(entry->key) != key_bytes || memcmp(GRPC_SLICE_START_PTR(entry->key), key, key_bytes) != 0)
            continue;
        size_t bytes = GRPC_SLICE_LENGTH(entry->value);
        rpc_text *text = malloc(sizeof(*text) + bytes + 1);
        if (!text)
            return NULL;
        memcpy(text->text, GRPC_SLICE_START_PTR(entry->value), bytes);
        text->text[bytes] = 0;
        text->next = call->texts;
        call->texts = text;
        return text->text;
    }
    return NULL;
}

bool rpc_peer(const sp_rpc_call *call, char *ret_text, size_t text_bytes)
{
    char *peer = grpc_call_get_peer(call->call);
    int n = peer ? snprintf(ret_text, text_bytes, "%s", peer) : -1;
    gpr_free(peer);
    return n > 0 && (size_t)n < text_bytes;
}

static grpc_byte_buffer *buffer_of(const sp_view *pieces, int count)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += pieces[i].size_bytes;
    grpc_slice slice = grpc_slice_malloc(bytes);
    uint8_t *to = GRPC_SLICE_START_PTR(slice);
    for (int i = 0; i < count; i++) {
        if (pieces[i].size_bytes)
            memcpy(to, pieces[i].data, pieces[i].size_bytes);
        to += pieces[i].size_bytes;
    }
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

void rpc_call_watch(sp_rpc_call *call)
{
    const grpc_op op = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &call->close_flag };
    if (call->watched)
        return;
    call->watched = true;
    (void)batch_start(call, &op, 1, TAG_CLOSE);
}

/* What goes before: initial metadata, once, none of our own. */
static size_t begin_ops(sp_rpc_call *call, grpc_op *ops)
{
    if (call->first_sent)
        return 0;
    call->first_sent = true;
    ops[0] = (grpc_op){ .op = GRPC_OP_SEND_INITIAL_METADATA };
    return 1;
}

/* And behind a status: the call's end, if nobody has asked for it. Then the status' tag stands for both. */
static size_t end_ops(sp_rpc_call *call, grpc_op *ops, size_t n)
{
    if (call->watched)
        return n;
    call->watched = call->ends_with_status = true;
    ops[n] = (grpc_op){ .op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &call->close_flag };
    return n + 1;
}

void rpc_send(sp_rpc_call *call, const sp_view *pieces, int count, bool last)
{
    grpc_op ops[4];
    if (call->finishing || call->sending)
        return;
    size_t n = begin_ops(call, ops);
    grpc_byte_buffer *buffer = buffer_of(pieces, count);
    ops[n++] = (grpc_op){ .op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer };
    if (last)
        ops[n++] = (grpc_op){ .op = GRPC_OP_SEND_STATUS_FROM_SERVER, .data.send_status_from_server.status = GRPC_STATUS_OK };
    if (last)
        n = end_ops(call, ops, n);
    call->finishing = last;
    call->sending = batch_start(call, ops, n, last ? TAG_STATUS : TAG_SEND) && !last;
    grpc_byte_buffer_destroy(buffer); /* the library holds its slices */
}

void rpc_finish(sp_rpc_call *call, int code, const char *message, const char *trailers)
{
    grpc_op ops[3];
    grpc_metadata entries[TRAILERS];
    size_t entry_count = 0;
    if (call->finishing)
        return;
    call->finishing = true;
    size_t n = begin_ops(call, ops);
    for (; trailers && *trailers && entry_count < TRAILERS; entry_count++) {
        const char *value = trailers + strlen(trailers) + 1;
        entries[entry_count] = (grpc_metadata){ .key = grpc_slice_from_copied_string(trailers),
                                                .value = grpc_slice_from_copied_string(value) };
        trailers = value + strlen(value) + 1;
    }
    grpc_slice details = grpc_slice_from_copied_string(message ? message : "");
    ops[n++] = (grpc_op){ .op = GRPC_OP_SEND_STATUS_FROM_SERVER,
                          .data.send_status_from_server = { .trailing_metadata_count = entry_count,
                                                            .trailing_metadata = entries,
                                                            .status = (grpc_status_code)code,
                                                            .status_details = &details } };
    n = end_ops(call, ops, n);
    (void)batch_start(call, ops, n, TAG_STATUS);
    grpc_slice_unref(details);
    for (size_t i = 0; i < entry_count; i++) {
        grpc_slice_unref(entries[i].key);
        grpc_slice_unref(entries[i].value);
    }
}
