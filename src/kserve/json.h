/* SPDX-License-Identifier: Apache-2.0
 * KServe V2's inference request and response as JSON, without a document tree: one pass over the text, tensors straight into
 * memory. Used by the gateway for headers (up to SP_LIMIT_KSERVE_HEADER_BYTES) and by the codec worker for anything larger.
 * Sources: KServe V2 REST; Triton's extensions binary_data, classification, schedule_policy, sequence, shared_memory.
 *
 * Numbers: any JSON number for any numeric type; one that does not fit the type is an error, as are NaN and Infinity unless
 * spelled as Python's json does (NaN, Infinity, -Infinity). Nested arrays are flattened in order, as Triton does; the count of
 * elements must be the shape's. */
#ifndef SP_KSERVE_JSON_H
#define SP_KSERVE_JSON_H

#include "base/buf.h"
#include "base/view.h"
#include "model/infer.h"

#define SP_LIMIT_KSERVE_HEADER_BYTES (64u * 1024)
#define SP_LIMIT_KSERVE_NAME_BYTES 128

/* Where a tensor's bytes are. */
typedef enum sp_kserve_place {
    SP_PLACE_NONE,
    SP_PLACE_BINARY, /* binary_data_size: behind the header, in order; `offset` is from the end of the header */
    SP_PLACE_DATA,   /* was JSON: now at `offset`, as the sink's used() said */
    SP_PLACE_SHARED, /* shared_memory_region, _offset, _byte_size */
} sp_kserve_place;

typedef struct sp_kserve_input {
    char name[SP_LIMIT_KSERVE_NAME_BYTES];
    uint8_t dtype; /* ONNX's number */
    uint8_t rank;
    sp_kserve_place place;
    uint64_t offset, bytes;
    int64_t dims[SP_INFER_RANK];
    char region[SP_LIMIT_KSERVE_NAME_BYTES];
} sp_kserve_input;

typedef struct sp_kserve_output {
    char name[SP_LIMIT_KSERVE_NAME_BYTES];
    bool binary;
    bool has_binary; /* the client said so for this output */
    uint32_t classes;
    bool shared;
    char region[SP_LIMIT_KSERVE_NAME_BYTES];
    uint64_t offset, bytes;
} sp_kserve_output;

typedef struct sp_kserve_request {
    char id[SP_LIMIT_KSERVE_NAME_BYTES]; /* "" = none */
    bool binary_output;      /* parameters.binary_data_output */
    bool start, end;
    uint64_t sequence_id;
    char sequence_text[SP_LIMIT_KSERVE_NAME_BYTES];
    uint64_t priority, timeout_us;
    bool has_custom;         /* parameters that are not reserved: ignored for plain models */
    int input_count, output_count;
    sp_kserve_input inputs[SP_INFER_PORTS];
    sp_kserve_output outputs[SP_INFER_PORTS];
} sp_kserve_request;

/* Takes tensors that were JSON. */
typedef struct sp_kserve_sink {
    /* Memory for one tensor, good until the next call; NULL: *reterr says why. */
    void *(*room)(void *context, size_t bytes, sp_error *reterr);
    /* It took `bytes` of them (strings are shorter than was feared). Returns where the tensor lies: its `offset`. */
    uint64_t (*used)(void *context, const void *room, size_t bytes);
    void *context;
} sp_kserve_sink;

/* `sink` NULL: "data" is refused (SP_UNSUPPORTED, code "json_data"). `header_binary_bytes`: what lies behind the header.
 * SP_INVALID names the member and what it should be ("inputs[0].shape: ..."). */
sp_status sp_kserve_request_parse(sp_view text, uint64_t binary_bytes, const sp_kserve_sink *sink, sp_kserve_request *ret_request,
                                  sp_error *reterr);
/* The request as a header of the binary form: what an UNPACK answers. */
void sp_kserve_request_write(const sp_kserve_request *request, sp_buf *out);

/* "[1,2.5]" of packed elements; floats in the shortest form that reads back to the same value of their type. BYTES that are
 * no UTF-8 get U+FFFD. Returns the bytes that it takes, which may be more than `capacity`: then nothing useful was written. */
size_t sp_kserve_data_write(int dtype, const void *data, size_t bytes, char *dst, size_t capacity);

#endif
