/* SPDX-License-Identifier: Apache-2.0
 * ModelInferRequest and ModelInferResponse on the protobuf wire (wire.h). */
#include "kserve/wire.h"

void sp_slices_copy(const sp_slices *message, size_t offset, size_t bytes, void *dst)
{
    uint8_t *to = dst;
    for (int i = 0; i < message->count && bytes; i++) {
        const sp_view *piece = &message->pieces[i];
        if (offset >= piece->size_bytes) {
            offset -= piece->size_bytes;
            continue;
        }
        size_t n = piece->size_bytes - offset < bytes ? piece->size_bytes - offset : bytes;
        memcpy(to, piece->data + offset, n);
        to += n;
        bytes -= n;
        offset = 0;
    }
}
