/* SPDX-License-Identifier: Apache-2.0
 * ModelInferRequest and ModelInferResponse on the protobuf wire, read and written without a message tree: tensors stay where
 * the transport put them (slices) until they are copied once into the slot. All other messages are protobuf-c's (inference.proto
 * of this directory holds our own definitions; field numbers are Triton's grpc_service.proto's). */
#ifndef SP_KSERVE_WIRE_H
#define SP_KSERVE_WIRE_H

#include "kserve/json.h"

/* A message in pieces, as it came from the network. */
typedef struct sp_slices {
    const sp_view *pieces;
    int count;
    size_t bytes; /* of all pieces together */
} sp_slices;

/* A part of a message. */
typedef struct sp_wire_part {
    size_t offset, bytes;
} sp_wire_part;

typedef struct sp_wire_request {
    char model[SP_LIMIT_KSERVE_NAME_BYTES], version[24];
    bool empty_final; /* triton_enable_empty_final_response: a stream's last answer is marked by an empty one */
    int raw_count;
    sp_wire_part raw[SP_INFER_PORTS]; /* raw_input_contents, in order */
    bool has_typed;
    sp_wire_part typed[SP_INFER_PORTS]; /* by input: its InferTensorContents; bytes 0 and offset 0 = none */
    sp_kserve_request request;
} sp_wire_request;

/* Reads a ModelInferRequest: model, version, id, parameters, inputs and outputs as sp_kserve_request has them. Raw contents
 * (place BINARY): `offset` counts over all raw_input_contents one behind the other, and raw[i] says where piece i lies in the
 * message. Typed contents (fp32_contents ...) are left for sp_wire_request_typed; until then such an input has place DATA and
 * no bytes. SP_INVALID: not the wire format, a field of the wrong kind, more inputs than there may be, both kinds of contents,
 * an input without any. The message says which; it is valid UTF-8 only if what the client sent was. */
sp_status sp_wire_request_read(const sp_slices *message, sp_wire_request *ret_request, sp_error *reterr);

/* Copies typed contents into the sink, packed, and sets place, offset and bytes of their inputs. SP_INVALID: contents of
 * another type than the input's, a value that does not fit it, other than as many as its shape says. */
sp_status sp_wire_request_typed(const sp_slices *message, sp_wire_request *request, const sp_kserve_sink *sink, sp_error *reterr);

/* Copies `bytes` from `offset` of the message. */
void sp_slices_copy(const sp_slices *message, size_t offset, size_t bytes, void *dst);
/* Calls `take` with that part of the message, piece by piece, until it fails. */
typedef sp_status sp_slices_take_fn(void *context, const void *data, size_t bytes, sp_error *reterr);
sp_status sp_slices_walk(const sp_slices *message, sp_wire_part part, sp_slices_take_fn *take, void *context, sp_error *reterr);

/* The response up to its raw_output_contents: name, version, id, parameters, outputs. The caller appends for each output, in
 * order, sp_wire_raw_head (tag and length) and its bytes: also for those in shared memory, with length 0, because clients
 * count both lists in step. */
typedef struct sp_wire_output {
    const char *name;
    int dtype, rank;
    const int64_t *dims;
    bool shared; /* its parameters name region and size */
    const char *region;
    uint64_t offset, bytes;
} sp_wire_output;
void sp_wire_response_head(const char *model, const char *version, const char *id, const sp_wire_output *outputs, int count,
                           sp_buf *out);
void sp_wire_final_mark(bool final, sp_buf *out); /* the parameter triton_final_response, behind the head */
void sp_wire_raw_head(uint64_t bytes, sp_buf *out);

/* Building blocks, for messages that are written by hand. */
void sp_wire_put_varint(sp_buf *out, uint64_t value);
void sp_wire_put_bytes(sp_buf *out, uint32_t field, const void *data, size_t bytes); /* also of length 0 */
void sp_wire_put_text(sp_buf *out, uint32_t field, const char *text);                /* "" is left out */
void sp_wire_put_number(sp_buf *out, uint32_t field, uint64_t value);                /* 0 is left out */
size_t sp_wire_varint_bytes(uint64_t value);

#endif
