/* SPDX-License-Identifier: Apache-2.0
 * gRPC: server reflection (grpc.h), v1 and v1alpha, which are the same on the wire. A stream of questions, each answered before
 * the next is read. The descriptors were made with the server (kserve/described.h); nothing is looked up but in their tables.
 * Extensions are proto2's; there are none here. */
#include "gateway/grpc.h"

#include "kserve/described.h"
#include "reflection.pb-c.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest question;

enum { INVALID_ARGUMENT = 3, NOT_FOUND = 5 };
/* Fields of ServerReflectionResponse. */
enum { VALID_HOST = 1, ORIGINAL_REQUEST, FILES = 4, EXTENSIONS, SERVICES, ERROR };

/* A message inside another. */
static void put_inner(sp_buf *out, uint32_t field, sp_buf *inner)
{
    if (!sp_buf_ok(inner))
        out->failed = true;
    sp_wire_put_bytes(out, field, inner->data, inner->size_bytes);
    sp_buf_done(inner);
}

/* An answer like any other: the stream goes on. */
static void put_error(sp_buf *out, int code, const char *message)
{
    sp_buf inner;
    sp_buf_init(&inner, 256);
    sp_wire_put_number(&inner, 1, (uint64_t)code);
    sp_wire_put_text(&inner, 2, message);
    put_inner(out, ERROR, &inner);
}

static void put_file(sp_buf *out, const sp_described_file *file, const char *missing)
{
    sp_buf inner;
    if (!file) {
        put_error(out, NOT_FOUND, missing);
        return;
    }
    sp_buf_init(&inner, SP_LIMIT_JSON_BYTES);
    for (int i = 0; i < file->count; i++)
        sp_wire_put_bytes(&inner, 1, file->descriptors[i].data, file->descriptors[i].size_bytes);
    put_inner(out, FILES, &inner);
}

static void put_services(sp_buf *out)
{
    sp_buf inner, one;
    sp_buf_init(&inner, SP_LIMIT_JSON_BYTES);
    for (const char *const *service = sp_described_services(); *service; service++) {
        sp_buf_init(&one, 256);
        sp_wire_put_text(&one, 1, *service);
        put_inner(&inner, 1, &one);
    }
    put_inner(out, SERVICES, &inner);
}

/* A message's extensions: none. */
static void put_extensions(sp_buf *out, const char *type)
{
    const sp_described_symbol *symbol = sp_described_symbol_find(type);
    sp_buf inner;
    if (!symbol || !symbol->is_message) {
        put_error(out, NOT_FOUND, "there is no such message");
        return;
    }
    sp_buf_init(&inner, 512);
    sp_wire_put_text(&inner, 1, symbol->name);
    put_inner(out, EXTENSIONS, &inner);
}

static void put_answer(sp_buf *out, const question *q)
{
    const sp_described_symbol *symbol;
    switch ((int)q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        put_file(out, sp_described_file_find(q->file_by_filename), "there is no such file");
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        symbol = sp_described_symbol_find(q->file_containing_symbol);
        put_file(out, symbol ? symbol->file : NULL, "there is no such symbol");
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        put_error(out, NOT_FOUND, "there is no such extension");
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        put_extensions(out, q->all_extension_numbers_of_type);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        put_services(out);
        break;
    default:
        put_error(out, INVALID_ARGUMENT, "the request asks for nothing that is known here");
    }
}

/* Each question is one for rates, and a token may have been taken away since the last. */
static bool may_ask(gw_grpc_call *call)
{
    sp_error err = { 0 };
    int http_status, retry_after_s;
    if (!call->told++ || gw_grpc_access(call, &err, &http_status, &retry_after_s))
        return true;
    gw_grpc_fail(call, err.status, &err, retry_after_s);
    return false;
}

static void ask(gw_grpc_call *call, sp_view message)
{
    sp_error err = { 0 };
    sp_buf out;
    if (!may_ask(call))
        return;
    question *q = grpc__reflection__v1__server_reflection_request__unpack(NULL, message.size_bytes, message.data);
    if (!q) {
        (void)SP_FAIL_CODE(&err, SP_INVALID, "bad_message", "the message is no ServerReflectionRequest");
        gw_grpc_fail(call, SP_INVALID, &err, 0);
        return;
    }
    sp_buf_init(&out, 2 * GW_GRPC_CONTROL_BYTES);
    sp_wire_put_text(&out, VALID_HOST, q->host);
    sp_wire_put_bytes(&out, ORIGINAL_REQUEST, message.data, message.size_bytes);
    put_answer(&out, q);
    grpc__reflection__v1__server_reflection_request__free_unpacked(q, NULL);
    const sp_view piece = sp_buf_view(&out);
    if (sp_buf_ok(&out)) {
        call->bytes_out += piece.size_bytes;
        call->telling = true;
        call->grpc->api->send(call->rpc, &piece, 1, false);
    } else {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the answer");
        gw_grpc_fail(call, SP_NOMEM, &err, 1);
    }
    sp_buf_done(&out);
}

const gw_grpc_method gw_grpc_reflection[] = {
    { "ServerReflectionInfo", SP_SCOPE_INFER | SP_SCOPE_ADMIN | SP_SCOPE_METRICS, true, ask },
    { NULL, 0, false, NULL },
};
