/* SPDX-License-Identifier: Apache-2.0
 * UNPACK, the codec's second operation: a KServe request that is compressed, or whose tensors are JSON, becomes its binary
 * form. What this reads is as hostile as a picture and may be as large, so it is done in the sandbox and off the gateway's
 * loop. Pure: no slot, no process. */
#ifndef SP_WORKER_UNPACK_H
#define SP_WORKER_UNPACK_H

#include "base/buf.h"
#include "base/view.h"
#include "worker/slot.h"

/* At least `size_bytes` of output, with what was written before still there; may move. NULL: *reterr says why. */
typedef uint8_t *sp_unpack_grow_fn(void *context, size_t size_bytes, sp_error *reterr);

/* `header_bytes`: of the JSON in front, once decompressed; 0 = all of it is JSON. *ret_header: the request as a header of the
 * binary form; its tensors lie in the output one behind the other, *ret_tensor_bytes in all. SP_INVALID: no such encoding, no
 * JSON, what it says; SP_TOO_LARGE: beyond SP_LIMIT_INFER_BODY_BYTES once decompressed; SP_NOMEM. */
sp_status sp_unpack(sp_view body, sp_encoding encoding, uint32_t header_bytes, sp_unpack_grow_fn *grow, void *context,
                    sp_buf *ret_header, uint64_t *ret_tensor_bytes, sp_error *reterr);

#endif
