/* SPDX-License-Identifier: Apache-2.0
 * The wire format of a KServe V2 server (Triton and its likes) over HTTP, with the binary tensor extension: the model's
 * input tensor goes out as bytes behind a JSON head, its output comes back as bytes or as JSON. Pure. Any thread. */
#ifndef SP_PROVIDER_KSERVE_H
#define SP_PROVIDER_KSERVE_H

#include "base/buf.h"
#include "base/limits.h"
#include "kernels/prep.h"

#define SP_LIMIT_KSERVE_NAME_BYTES 128

/* What must be known of a model before it can be asked. */
typedef struct sp_kserve_model {
    char input[SP_LIMIT_KSERVE_NAME_BYTES], output[SP_LIMIT_KSERVE_NAME_BYTES];
    sp_tensor_dtype dtype; /* of the input; 0 = not known, the slot's is tried */
    char platform[32];     /* "onnxruntime_onnx"; "" = not told */
} sp_kserve_model;

/* `{base}/v2/models/{model}`, with a NUL behind it; its answers come from there, its inference from `/infer` below. */
void sp_kserve_url(sp_buf *out, const char *base_url, const char *model);

/* The answer to GET /v2/models/{model}. `input` and `output`: names that the configuration gives, "" = the only one.
 * SP_UNSUPPORTED, code "remote_model": it takes or gives something else than one picture and one row of classes (the
 * message says what to configure). SP_CORRUPT, code "bad_answer". */
sp_status sp_kserve_read_metadata(sp_view body, const char *input, const char *output, sp_kserve_model *ret_model,
                                  sp_error *reterr);

/* The JSON head of an infer request for one tensor of [1, 3, h, w]; the tensor's bytes follow it. */
sp_status sp_kserve_write_head(sp_buf *out, const sp_kserve_model *model, const char *request_id, const sp_prep_spec *prep,
                               size_t tensor_bytes, sp_error *reterr);

typedef struct sp_kserve_row {
    float *values; /* count of them; free() */
    uint32_t count;
    char model[64], version[16];
} sp_kserve_row;

/* The row of output `name` ("" = the only one) of a 200. head_length: value of Inference-Header-Content-Length, "" = the
 * answer is all JSON. SP_CORRUPT, code "bad_answer". */
sp_status sp_kserve_read_answer(sp_view body, const char *head_length, const char *name, sp_kserve_row *ret_row, sp_error *reterr);

/* Any other HTTP status; never SP_OK. Nothing that such a server says ends the chain: it has not seen the request. */
sp_status sp_kserve_read_problem(int http_status, sp_view body, sp_error *reterr);

#endif
