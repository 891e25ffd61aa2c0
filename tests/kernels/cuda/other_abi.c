/* SPDX-License-Identifier: Apache-2.0
 * A CUDA plug-in of another build: it knows no ABI of ours. */
#include "kernels/cuda.h"

SP_EXPORT const sp_cuda_api *sp_cuda_api_get(uint32_t host_abi);

const sp_cuda_api *sp_cuda_api_get(uint32_t host_abi)
{
    return NULL;
}
