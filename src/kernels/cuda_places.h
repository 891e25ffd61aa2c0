/* SPDX-License-Identifier: Apache-2.0
 * Room for the pictures of a batch, twice: on the device, and the same places in pinned memory for what cannot be copied from where it
 * lies. It stands on cuda.h alone.
 *
 *   staging | picture 0 | tensor 1 | picture 2 ...      SP_CUDA_PLACE_ALIGN apart
 *   device  | picture 0 | tensor 1 | picture 2 ... */
#ifndef SP_KERNELS_CUDA_PLACES_H
#define SP_KERNELS_CUDA_PLACES_H

#include "kernels/cuda.h"

#define SP_CUDA_PLACE_ALIGN ((size_t)256)

/* Of one batch at most, unless its tensors alone take more. A picture of the largest size that is decoded has 192 MB; pinned memory
 * is taken from everybody on the machine. */
#define SP_LIMIT_CUDA_PLACES_BYTES ((size_t)256 * 1024 * 1024)

typedef struct sp_cuda_places {
    uint8_t *device, *staging;
    size_t bytes; /* of each; all zero = none yet */
} sp_cuda_places;

/* Both anew, of `bytes`. What was there is let go of only when there is the new: after a failure (SP_NOMEM and others, as cuda.h) it
 * stands. Nothing that is enqueued uses the old ones any more; their contents are not kept. */
sp_status sp_cuda_places_renew(const sp_cuda_api *api, sp_cuda *cuda, sp_cuda_places *places, size_t bytes, sp_error *reterr);

/* Lets go of both; none is fine. */
void sp_cuda_places_done(const sp_cuda_api *api, sp_cuda *cuda, sp_cuda_places *places);

#endif
