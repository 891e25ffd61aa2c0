/* SPDX-License-Identifier: Apache-2.0
 * Decompresses, reads the JSON, lays the tensors one behind the other (unpack.h). */
#include "worker/unpack.h"

#include "kserve/json.h"

#include <stdlib.h>
#include <zlib.h>

#define FIRST_ROOM_BYTES (256u * 1024) /* for what comes out; doubled as need be */

/* --- decompressing -------------------------------------------------------------------------------------------------- */

/* "deflate" means zlib's form, but some clients send it bare. */
static int window_bits(sp_view body, sp_encoding encoding)
{
    if (encoding == SP_ENCODING_GZIP)
        return 15 + 16;
    bool zlib = body.size_bytes >= 2 && (body.data[0] & 0x0f) == 8 && (body.data[0] << 8 | body.data[1]) % 31 == 0;
    return zlib ? 15 : -15;
}

static sp_status room_double(uint8_t **bytes, size_t *capacity, sp_error *reterr)
{
    if (*capacity > SP_LIMIT_INFER_BODY_BYTES)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the body has more than %u bytes once it is decompressed",
                            SP_LIMIT_INFER_BODY_BYTES);
    /* One byte more than may come tells "just so much" from "more". */
    size_t more = SP_MIN(SP_MAX(*capacity * 2, (size_t)FIRST_ROOM_BYTES), (size_t)SP_LIMIT_INFER_BODY_BYTES + 1);
    uint8_t *larger = realloc(*bytes, more);
    if (!larger)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to decompress %zu bytes", more);
    *bytes = larger;
    *capacity = more;
    return SP_OK;
}

static sp_status inflate_all(z_stream *z, uint8_t **bytes, size_t *ret_bytes, sp_error *reterr)
{
    size_t capacity = 0, n = 0;
    for (;;) {
        if (n == capacity) {
            sp_status s = room_double(bytes, &capacity, reterr);
            if (s)
                return s;
        }
        z->next_out = *bytes + n;
        z->avail_out = (uInt)(capacity - n);
        int code = inflate(z, Z_NO_FLUSH);
        n = capacity - z->avail_out;
        if (code == Z_STREAM_END)
            break;
        if (code == Z_MEM_ERROR)
            return SP_FAIL_FROM(reterr, SP_NOMEM, "zlib", code, "no memory to decompress");
        if (code != Z_OK || (!z->avail_in && z->avail_out))
            return SP_FAIL_CODE(reterr, SP_INVALID, "encoding", "the body cannot be decompressed: %s",
                                z->msg ? z->msg : "it ends too early");
    }
    if (z->avail_in)
        return SP_FAIL_CODE(reterr, SP_INVALID, "encoding", "%u bytes lie behind the end of the compressed body", z->avail_in);
    if (n > SP_LIMIT_INFER_BODY_BYTES)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the body has more than %u bytes once it is decompressed",
                            SP_LIMIT_INFER_BODY_BYTES);
    *ret_bytes = n;
    return SP_OK;
}

static sp_status decompress(sp_view body, sp_encoding encoding, uint8_t **ret_bytes, size_t *ret_size, sp_error *reterr)
{
    z_stream z = { .next_in = (Bytef *)(uintptr_t)body.data, .avail_in = (uInt)body.size_bytes };
    if (encoding != SP_ENCODING_GZIP && encoding != SP_ENCODING_DEFLATE)
        return SP_FAIL_CODE(reterr, SP_INVALID, "encoding", "no encoding of number %d", (int)encoding);
    if (body.size_bytes > SP_LIMIT_INFER_BODY_BYTES)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "a body of %zu bytes", body.size_bytes);
    if (inflateInit2(&z, window_bits(body, encoding)) != Z_OK)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to decompress");
    sp_status s = inflate_all(&z, ret_bytes, ret_size, reterr);
    (void)inflateEnd(&z); /* only a stream that was never begun fails */
    return s;
}

/* --- laying out ------------------------------------------------------------------------------------------------------- */

typedef struct layout {
    sp_unpack_grow_fn *grow;
    void *context;
    uint8_t *output;
    uint64_t bytes; /* taken so far */
} layout;

static void *layout_room(void *context, size_t bytes, sp_error *reterr)
{
    layout *l = context;
    size_t need;
    if (!sp_size_add(l->bytes, bytes, &need) || need > SP_LIMIT_INFER_BODY_BYTES) {
        (void)SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the tensors have more than %u bytes", SP_LIMIT_INFER_BODY_BYTES);
        return NULL;
    }
    l->output = l->grow(l->context, SP_MAX(need, (size_t)1), reterr);
    return l->output ? l->output + l->bytes : NULL;
}

static uint64_t layout_used(void *context, const void *room, size_t bytes)
{
    layout *l = context;
    (void)room;
    uint64_t offset = l->bytes;
    l->bytes += bytes;
    return offset;
}

/* Those that were binary come between those that were JSON: from the last one on, each to its place. */
static sp_status merge_binary(const sp_kserve_request *request, sp_view binary, layout *l, sp_error *reterr)
{
    uint64_t binary_bytes = 0;
    for (int i = 0; i < request->input_count; i++)
        binary_bytes += request->inputs[i].place == SP_PLACE_BINARY ? request->inputs[i].bytes : 0;
    if (!binary_bytes)
        return SP_OK;
    if (!layout_room(l, binary_bytes, reterr)) /* what is binary was checked to lie in `binary` */
        return reterr->status;
    uint64_t end = l->bytes + binary_bytes;
    l->bytes = end;
    for (int i = request->input_count - 1; i >= 0; i--) {
        const sp_kserve_input *input = &request->inputs[i];
        if (input->place != SP_PLACE_BINARY && input->place != SP_PLACE_DATA)
            continue;
        end -= input->bytes;
        if (input->place == SP_PLACE_DATA)
            memmove(l->output + end, l->output + input->offset, input->bytes);
        else
            memcpy(l->output + end, binary.data + input->offset, input->bytes);
    }
    return SP_OK;
}

static sp_status unpack_plain(sp_view body, uint32_t header_bytes, layout *l, sp_kserve_request *request, sp_buf *ret_header,
                              sp_error *reterr)
{
    const sp_kserve_sink sink = { .room = layout_room, .used = layout_used, .context = l };
    if (header_bytes > body.size_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "header_length", "Inference-Header-Content-Length is %u, the body has %zu bytes",
                            header_bytes, body.size_bytes);
    size_t json_bytes = header_bytes ? header_bytes : body.size_bytes;
    sp_view binary = sp_view_make(body.data + json_bytes, body.size_bytes - json_bytes);
    sp_status s = sp_kserve_request_parse(sp_view_make(body.data, json_bytes), binary.size_bytes, &sink, request, reterr);
    if (!s)
        s = merge_binary(request, binary, l, reterr);
    if (s)
        return s;
    sp_kserve_request_write(request, ret_header);
    if (!sp_buf_ok(ret_header))
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "header_too_large", "the request's names and shapes take more than %zu bytes",
                            ret_header->limit_bytes);
    return SP_OK;
}

sp_status sp_unpack(sp_view body, sp_encoding encoding, uint32_t header_bytes, sp_unpack_grow_fn *grow, void *context,
                    sp_buf *ret_header, uint64_t *ret_tensor_bytes, sp_error *reterr)
{
    sp_error unread = { 0 };
    reterr = reterr ? reterr : &unread;
    layout l = { .grow = grow, .context = context };
    uint8_t *plain = NULL;
    size_t plain_bytes = 0;
    sp_status s = SP_OK;
    sp_kserve_request *request = malloc(sizeof(*request)); /* 60 KB: too much for a thread's stack to be sure of */
    if (!request)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a request");
    if (encoding != SP_ENCODING_NONE)
        s = decompress(body, encoding, &plain, &plain_bytes, reterr);
    if (!s)
        s = unpack_plain(encoding ? sp_view_make(plain, plain_bytes) : body, header_bytes, &l, request, ret_header, reterr);
    if (!s)
        *ret_tensor_bytes = l.bytes;
    free(plain);
    free(request);
    return s;
}
