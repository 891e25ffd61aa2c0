/* SPDX-License-Identifier: Apache-2.0
 * ModelInferRequests (kserve/wire.c). The first byte says into how many pieces the rest is cut. */
#include "kserve/wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static void *room(void *context, size_t bytes, sp_error *reterr)
{
    void **memory = context;
    free(*memory);
    *memory = malloc(bytes ? bytes : 1); /* of its own, so that a byte too far is seen */
    if (!*memory)
        (void)SP_FAIL(reterr, SP_NOMEM, "no memory");
    return *memory;
}

static uint64_t used(void *context, const void *at, size_t bytes)
{
    (void)context;
    (void)at;
    return bytes;
}

static sp_status count(void *context, const void *data, size_t bytes, sp_error *reterr)
{
    (void)data;
    (void)reterr;
    *(size_t *)context += bytes;
    return SP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static sp_wire_request request;
    sp_view pieces[16];
    void *memory = NULL;
    sp_error err = { 0 };
    if (!size_bytes)
        return 0;
    int wanted = 1 + data[0] % 15, pieces_count = 0;
    data++;
    size_bytes--;
    /* Each piece in memory of its own. */
    for (size_t at = 0; pieces_count < wanted; pieces_count++) {
        size_t n = pieces_count == wanted - 1 ? size_bytes - at : SP_MIN(size_bytes - at, size_bytes / (size_t)wanted);
        uint8_t *piece = malloc(n ? n : 1);
        if (!piece)
            return 0;
        memcpy(piece, data + at, n);
        pieces[pieces_count] = sp_view_make(piece, n);
        at += n;
    }
    const sp_slices message = { pieces, pieces_count, size_bytes };
    const sp_kserve_sink sink = { room, used, &memory };
    if (!sp_wire_request_read(&message, &request, &err)) {
        size_t walked = 0, told = 0;
        for (int i = 0; i < request.raw_count; i++) {
            SP_ASSERT(!sp_slices_walk(&message, request.raw[i], count, &walked, &err));
            told += request.raw[i].bytes;
        }
        SP_ASSERT(walked == told);
        (void)sp_wire_request_typed(&message, &request, &sink, &err);
    }
    free(memory);
    for (int i = 0; i < pieces_count; i++)
        free((void *)(uintptr_t)pieces[i].data);
    return 0;
}
