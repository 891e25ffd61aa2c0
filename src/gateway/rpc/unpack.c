/* SPDX-License-Identifier: Apache-2.0
 * Compressed messages (gzip, and deflate in zlib's form). The library could unpack them itself, but bounds neither what they
 * unpack to nor how long it holds the loop; so it hands them over as they came, and here they are unpacked under the limit that
 * plain ones have.
 *
 *   packed and unpacked at most 16 KiB   at once, where the message arrived
 *   larger                               in turns of 16 KiB, LANES messages in turn about; the others stay packed and wait
 *
 * A lane's memory is a mapping of the limit's size whose pages come as they are written, so all bombs together cost LANES times
 * the limit at most, and nothing once they are refused. */
#include "gateway/rpc/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* What one turn reads and writes at most: 0.1 to 0.3 ms of zlib (50 to 210 MB/s on two shared vCPUs). */
#define AT_ONCE (16u * 1024)
/* Messages that have memory to be unpacked into, those that were handed over and not given back included. There is one thread:
 * more of them would not make it faster. */
#define LANES 4

typedef enum outcome { GO_ON, DONE, DAMAGED, TOO_LARGE } outcome;

struct rpc_unpack {
    rpc_unpack *next;
    sp_rpc_call *call;
    grpc_byte_buffer *packed;
    size_t slice, at, read; /* how far it has been read; all of it */
    z_stream zlib;
    bool running; /* zlib is set up */
    uint8_t *out;
    size_t bytes, mapped_bytes; /* written; 0 = `out` is from malloc */
};

/* --- the queues ----------------------------------------------------------------------------------------------------- */

static void queue_put(rpc_unpack **queue, rpc_unpack *unpack)
{
    while (*queue)
        queue = &(*queue)->next;
    unpack->next = NULL;
    *queue = unpack;
}

static bool queue_remove(rpc_unpack **queue, const rpc_unpack *unpack)
{
    while (*queue && *queue != unpack)
        queue = &(*queue)->next;
    if (!*queue)
        return false;
    *queue = unpack->next;
    return true;
}

/* --- one message ---------------------------------------------------------------------------------------------------- */

static int window_bits(const rpc_unpack *unpack)
{
    return unpack->packed->data.raw.compression == GRPC_COMPRESS_GZIP ? 15 + 16 : 15;
}

/* Until the message is through, `room` is full, or `most_in` bytes were read. */
static outcome inflate_some(rpc_unpack *unpack, z_stream *zlib, uint8_t *out, size_t room, size_t most_in)
{
    const grpc_slice_buffer *slices = &unpack->packed->data.raw.slice_buffer;
    zlib->next_out = out;
    zlib->avail_out = (uInt)room;
    for (;;) {
        while (unpack->slice < slices->count && unpack->at == GRPC_SLICE_LENGTH(slices->slices[unpack->slice])) {
            unpack->slice++;
            unpack->at = 0;
        }
        bool end = unpack->slice == slices->count;
        grpc_slice slice = end ? grpc_empty_slice() : slices->slices[unpack->slice];
        size_t n = SP_MIN(GRPC_SLICE_LENGTH(slice) - (end ? 0 : unpack->at), most_in);
        zlib->next_in = GRPC_SLICE_START_PTR(slice) + unpack->at;
        zlib->avail_in = (uInt)n;
        int code = inflate(zlib, Z_NO_FLUSH);
        n -= zlib->avail_in;
        unpack->at += n;
        unpack->read += n;
        most_in -= n;
        if (code == Z_STREAM_END) /* what stands behind it is an error to the library as well */
            return unpack->read == slices->length ? DONE : DAMAGED;
        if ((code != Z_OK && code != Z_BUF_ERROR) || (end && code == Z_BUF_ERROR))
            return DAMAGED; /* the latter: it ends before its end */
        if (!zlib->avail_out || !most_in)
            return GO_ON;
    }
}

void rpc_unpack_free(rpc_unpack *unpack)
{
    if (!unpack)
        return;
    sp_rpc_server *server = unpack->call->server;
    if (unpack->running)
        (void)inflateEnd(&unpack->zlib); /* says that there was more to come: so there was */
    if (unpack->mapped_bytes) {
        (void)munmap(unpack->out, unpack->mapped_bytes); /* what mmap gave */
        server->unpack_lanes--;
    } else {
        free(unpack->out);
    }
    grpc_byte_buffer_destroy(unpack->packed);
    free(unpack);
}

static bool refuse(rpc_unpack *unpack, int code, const char *why, sp_rpc_event *ret_event)
{
    ret_event->kind = SP_RPC_UNREADABLE;
    ret_event->code = code;
    ret_event->failure = why;
    rpc_unpack_free(unpack);
    return true;
}

static bool refuse_as(rpc_unpack *unpack, outcome how, sp_rpc_event *ret_event)
{
    sp_rpc_server *server = unpack->call->server;
    if (how == DAMAGED)
        return refuse(unpack, GRPC_STATUS_INVALID_ARGUMENT, "the compressed message is damaged", ret_event);
    (void)snprintf(server->failure, sizeof(server->failure), "the compressed message unpacks to more than the limit of %zu bytes",
                   server->config.most_message_bytes);
    return refuse(unpack, GRPC_STATUS_RESOURCE_EXHAUSTED, server->failure, ret_event);
}

static bool deliver(rpc_unpack *unpack, sp_rpc_event *ret_event)
{
    sp_view *piece = malloc(sizeof(*piece));
    if (!piece)
        return refuse(unpack, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory for the message", ret_event);
    *piece = sp_view_make(unpack->out, unpack->bytes);
    grpc_byte_buffer_destroy(SP_STEAL(unpack->packed));
    ret_event->kind = SP_RPC_MESSAGE;
    ret_event->pieces = piece;
    ret_event->piece_count = 1;
    ret_event->bytes = unpack->bytes;
    ret_event->lent = unpack;
    ret_event->unpacked = true;
    return true;
}

/* --- at once -------------------------------------------------------------------------------------------------------- */

/* Into the server's scratch. GO_ON: it is larger than that; nothing has happened. */
static outcome try_small(rpc_unpack *unpack)
{
    sp_rpc_server *server = unpack->call->server;
    rpc_small *small = server->unpack_small;
    if (unpack->packed->data.raw.slice_buffer.length > AT_ONCE)
        return GO_ON;
    if (!small) {
        small = server->unpack_small = calloc(1, sizeof(*small) + AT_ONCE);
        if (!small)
            return GO_ON; /* the long way may have better luck */
    }
    if (!small->ready && inflateInit2(&small->zlib, 15) != Z_OK)
        return GO_ON;
    small->ready = true;
    if (inflateReset2(&small->zlib, window_bits(unpack)) != Z_OK)
        return GO_ON;
    outcome how = inflate_some(unpack, &small->zlib, small->out, AT_ONCE, AT_ONCE);
    unpack->bytes = AT_ONCE - small->zlib.avail_out;
    if (how != DAMAGED && unpack->bytes > server->config.most_message_bytes)
        return TOO_LARGE;
    if (how == DONE) {
        unpack->out = malloc(SP_MAX(unpack->bytes, (size_t)1));
        if (unpack->out)
            memcpy(unpack->out, small->out, unpack->bytes);
        else
            how = GO_ON;
    }
    if (how == GO_ON)
        unpack->slice = unpack->at = unpack->read = unpack->bytes = 0;
    return how;
}

bool rpc_unpack_begin(sp_rpc_call *call, sp_rpc_event *ret_event)
{
    rpc_unpack *unpack = calloc(1, sizeof(*unpack));
    if (!unpack) {
        grpc_byte_buffer_destroy(SP_STEAL(call->received));
        ret_event->kind = SP_RPC_UNREADABLE;
        ret_event->code = GRPC_STATUS_RESOURCE_EXHAUSTED;
        ret_event->failure = "no memory for the message";
        return true;
    }
    unpack->call = call;
    unpack->packed = SP_STEAL(call->received);
    outcome how = try_small(unpack);
    if (how == DONE)
        return deliver(unpack, ret_event);
    if (how != GO_ON)
        return refuse_as(unpack, how, ret_event);
    call->unpack = unpack;
    queue_put(&call->server->unpack_waiting, unpack);
    return false;
}

/* --- in turns ------------------------------------------------------------------------------------------------------- */

static bool lane_take(rpc_unpack *unpack)
{
    sp_rpc_server *server = unpack->call->server;
    size_t bytes = server->config.most_message_bytes + 1; /* one more: to see that there is more */
    if (inflateInit2(&unpack->zlib, window_bits(unpack)) != Z_OK)
        return false;
    unpack->running = true;
    void *out = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (out == MAP_FAILED)
        return false;
    unpack->out = out;
    unpack->mapped_bytes = bytes;
    server->unpack_lanes++;
    return true;
}

bool rpc_unpack_turn(sp_rpc_server *server, sp_rpc_event *ret_event)
{
    rpc_unpack *unpack = server->unpack_waiting;
    bool fresh = unpack && server->unpack_lanes < LANES;
    if (fresh)
        server->unpack_waiting = unpack->next;
    else if ((unpack = server->unpack_running) != NULL)
        server->unpack_running = unpack->next;
    else
        return false;
    sp_rpc_call *call = unpack->call;
    *ret_event = (sp_rpc_event){ .call = call, .context = call->context };
    call->unpack = NULL;
    if (fresh && !lane_take(unpack))
        return refuse(unpack, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory to unpack the message", ret_event);
    size_t room = SP_MIN(unpack->mapped_bytes - unpack->bytes, (size_t)AT_ONCE);
    outcome how = inflate_some(unpack, &unpack->zlib, unpack->out + unpack->bytes, room, AT_ONCE);
    unpack->bytes += room - unpack->zlib.avail_out;
    if (how != DAMAGED && unpack->bytes > server->config.most_message_bytes)
        how = TOO_LARGE;
    if (how == DONE)
        return deliver(unpack, ret_event);
    if (how != GO_ON)
        return refuse_as(unpack, how, ret_event);
    call->unpack = unpack;
    queue_put(&server->unpack_running, unpack);
    return false;
}

bool rpc_unpack_due(const sp_rpc_server *server)
{
    return server->unpack_running || (server->unpack_waiting && server->unpack_lanes < LANES);
}

void rpc_unpack_drop(sp_rpc_call *call)
{
    rpc_unpack *unpack = SP_STEAL(call->unpack);
    sp_rpc_server *server = call->server;
    if (!unpack)
        return;
    if (!queue_remove(&server->unpack_running, unpack))
        (void)queue_remove(&server->unpack_waiting, unpack); /* it is in one of the two */
    rpc_unpack_free(unpack);
}

void rpc_unpack_done(sp_rpc_server *server)
{
    if (server->unpack_small && server->unpack_small->ready)
        (void)inflateEnd(&server->unpack_small->zlib); /* says that there was more to come */
    free(SP_STEAL(server->unpack_small));
}
