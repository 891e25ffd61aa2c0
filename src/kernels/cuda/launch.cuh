/* SPDX-License-Identifier: Apache-2.0
 * What every .cu file includes first. Kernels start only through SP_LAUNCH and take shared memory only by SP_SHARED, so that the
 * tests' stand-in for the device (tests/shim, C++ fibres) can run them on any machine, in any order of threads and blocks.
 *
 * A kernel may use: threadIdx, blockIdx, blockDim, gridDim; __syncthreads, __syncwarp; shuffles, ballot, any, all with the full
 * mask and all 32 lanes there; atomics on integers; __popc, __ffs, __clz and their 64-bit forms, __brev, __byte_perm, __ldg,
 * __threadfence; CUDA's vector types. A block's threads are a multiple of 32. No block waits for another one: "the last block
 * that is done" by an atomic counter is fine, spinning is not. Anything else (inline PTX, textures, cooperative groups,
 * clusters, asynchronous copies) stands behind __CUDA_ARCH__ with a plain path beside it.
 *
 * The law: kernels/arith.h and its sisters hold the arithmetic; no float atomics; no float sum whose order depends on a thread's,
 * block's or tile's place; nothing may be read that was not written (memory starts as NaN bytes in the tests). */
#ifndef SP_KERNELS_CUDA_LAUNCH_CUH
#define SP_KERNELS_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

extern "C" {
#include "base/status.h"
#include "kernels/cuda/device.h"
}

#ifdef __CUDACC__

/* `name` is the block's shared memory, as many bytes as the launch gave. */
#define SP_SHARED(type, name)                                      \
    extern __shared__ __align__(128) unsigned char sp_shared_[];   \
    type *const name = reinterpret_cast<type *>(sp_shared_)

/* More shared memory than this a kernel must be allowed to have, once. */
#define SP_SHARED_PLAIN_BYTES (48u * 1024)

template <typename Kernel> static inline cudaError_t sp_launch_allow(Kernel kernel, size_t shared_bytes)
{
    if (shared_bytes <= SP_SHARED_PLAIN_BYTES)
        return cudaSuccess;
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
}

/* Enqueues one kernel; a cudaError_t. A template's name stands in parentheses: SP_LAUNCH((blend<4, true>), ...). */
#define SP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                             \
    ([&]() -> cudaError_t {                                                                                   \
        cudaError_t sp_allowed_ = sp_launch_allow(kernel, (shared_bytes));                                    \
        if (sp_allowed_ != cudaSuccess)                                                                       \
            return sp_allowed_;                                                                               \
        (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__);                                 \
        return cudaGetLastError();                                                                            \
    }())

#else /* the stand-in's cuda_runtime.h gives sp_shim_shared() and sp_shim_launch() */

#define SP_SHARED(type, name) type *const name = reinterpret_cast<type *>(sp_shim_shared())
#define SP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    sp_shim_launch(#kernel, (kernel), (grid), (block), (shared_bytes), (stream), ##__VA_ARGS__)

#endif

#endif
