/* SPDX-License-Identifier: Apache-2.0
 * Inside the CUDA plug-in: what its files share. C and C++. */
#ifndef SP_KERNELS_CUDA_DEVICE_H
#define SP_KERNELS_CUDA_DEVICE_H

#include "kernels/cuda.h"

#include <cuda_runtime_api.h>

struct sp_cuda_stream {
    cudaStream_t stream;
    sp_cuda *cuda;
};

/* Translates, once: cudaSuccess is SP_OK; memory SP_NOMEM "oom"; no code for the device SP_UNSUPPORTED "no_code"; errors that
 * stay SP_UNAVAILABLE "sticky"; a wrong argument is ours, SP_INTERNAL. `what`: the call or the kernel. */
sp_status sp_cuda_check(cudaError_t error, const char *what, sp_error *reterr);

/* First in each call that enqueues on `stream` (and has `reterr`): launches go to the thread's device, which is the stream's then. */
#define SP_CUDA_BEGIN(stream)                                            \
    do {                                                                 \
        sp_status sp_used_ = sp_cuda_use((stream)->cuda, reterr);        \
        if (sp_used_)                                                    \
            return sp_used_;                                             \
    } while (0)

/* Makes the device the calling thread's; cheap when it is already (device.c). */
sp_status sp_cuda_use(sp_cuda *cuda, sp_error *reterr);

/* The entries of the API table, as in cuda.h (memory.c): for the twins' own objects. */
sp_status sp_cuda_reserve(sp_cuda *cuda, size_t bytes, void **ret_device, sp_error *reterr);
void sp_cuda_release(sp_cuda *cuda, void *device);
sp_status sp_cuda_pinned_new(sp_cuda *cuda, size_t bytes, void **ret_host, sp_error *reterr);
void sp_cuda_pinned_free(sp_cuda *cuda, void *host);

/* Of the twins' files. */
extern const struct sp_cuda_prep_api sp_cuda_prep_calls;
extern const struct sp_cuda_post_api sp_cuda_post_calls;
extern const struct sp_cuda_flow_api sp_cuda_flow_calls;
extern const struct sp_cuda_plane_api sp_cuda_plane_calls;

#endif
