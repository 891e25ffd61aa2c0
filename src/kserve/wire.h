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
    size_t bytes;
} sp_slices;

/* Reads the request: model name and version, id, parameters, inputs and outputs as sp_kserve_request has them. Raw contents
 * (place BINARY): `offset` counts over all raw_input_contents one behind the other, and raw[i] says where piece i lies in the
 * message. Typed contents (fp32_contents ...) go to `sink` (place DATA). SP_INVALID: not the wire format, or both kinds. */
typedef struct sp_wire_request {
    char model[SP_LIMIT_KSERVE_NAME_BYTES], version[24];
    int raw_count;
    struct {
        size_t offset, bytes; /* in the message */
    } raw[SP_INFER_PORTS];
    sp_kserve_request request;
} sp_wire_request;
sp_status sp_wire_request_read(const sp_slices *message, const sp_kserve_sink *sink, sp_wire_request *ret_request,
                               sp_error *reterr);
/* Copies `bytes` from `offset` of the message. */
void sp_slices_copy(const sp_slices *message, size_t offset, size_t bytes, void *dst);

/* The response up to its raw_output_contents: name, version, id, parameters, outputs. The caller appends, for each output that
 * is not in shared memory, sp_wire_raw_head (tag and length) and its bytes. */
typedef struct sp_wire_output {
    const char *name;
    int dtype, rank;
    const int64_t *dims;
    bool shared; /* nothing raw follows; its parameters name region and size */
    const char *region;
    uint64_t offset, bytes;
} sp_wire_output;
void sp_wire_response_head(const char *model, const char *version, const char *id, const sp_wire_output *outputs, int count,
                           sp_buf *out);
void sp_wire_raw_head(uint64_t bytes, sp_buf *out);

#endif
