/* SPDX-License-Identifier: Apache-2.0
 * What a classifier's answer needs beside softmax and top-k: the probabilities of the best classes, which row has a number that
 * is none, and halves as floats. See task/rank.h for the order of things.
 *
 * What bounds them on an H100 (3.35 TB/s, as arithmetic): a batch of 32 x 1,000 numbers is 128 KB, 0.04 us; the launch is all
 * that counts. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rank.h"
#include "kernels/post_arith.h"

#define THREADS 256
#define MOST_BLOCKS 65535

static __global__ void gather(float *dst, const float *src, const int32_t *index, int rows, int n, int k)
{
    size_t all = (size_t)rows * (size_t)k, step = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < all; i += step)
        dst[i] = src[i / (size_t)k * (size_t)n + (size_t)index[i]];
}

static __device__ __forceinline__ bool is_bad(float x)
{
    return (sp_f32_bits(x) & 0x7f800000u) == 0x7f800000u;
}

/* A warp a row: each lane looks for its first one, the least of all wins. */
static __global__ void first_bad(int32_t *ret_first, const float *src, int rows, int n)
{
    int row = (int)(blockIdx.x * (THREADS / 32) + threadIdx.x / 32), lane = (int)threadIdx.x & 31;
    const float *from = src + (size_t)(row < rows ? row : 0) * (size_t)n;
    int first = n;
    for (int i = lane; row < rows && i < n; i += 32)
        first = is_bad(from[i]) && i < first ? i : first;
    for (int half = 16; half; half /= 2) {
        int other = __shfl_xor_sync(0xffffffffu, first, half);
        first = other < first ? other : first;
    }
    if (row < rows && lane == 0)
        ret_first[row] = first;
}

static __global__ void widen(float *dst, const uint16_t *src, size_t count)
{
    size_t step = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += step)
        dst[i] = sp_f16_to_f32(src[i]);
}

static unsigned blocks_of(size_t count)
{
    size_t blocks = (count + THREADS - 1) / THREADS;
    return (unsigned)(blocks < 1 ? 1 : blocks > MOST_BLOCKS ? MOST_BLOCKS : blocks);
}

extern "C" sp_status sp_cuda_gather_f32(sp_cuda_stream *stream, float *dst, const float *src, const int32_t *index, int rows, int n,
                                        int k, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    if (rows < 1 || k < 1)
        return SP_OK;
    return sp_cuda_check(SP_LAUNCH(gather, blocks_of((size_t)rows * (size_t)k), THREADS, 0, stream->stream, dst, src, index, rows, n, k),
                         "gather_f32", reterr);
}

extern "C" sp_status sp_cuda_first_bad_f32(sp_cuda_stream *stream, int32_t *ret_first, const float *src, int rows, int n,
                                           sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    if (rows < 1)
        return SP_OK;
    unsigned blocks = ((unsigned)rows + THREADS / 32 - 1) / (THREADS / 32);
    return sp_cuda_check(SP_LAUNCH(first_bad, blocks, THREADS, 0, stream->stream, ret_first, src, rows, n), "first_bad_f32", reterr);
}

extern "C" sp_status sp_cuda_widen_f16(sp_cuda_stream *stream, float *dst, const uint16_t *src, size_t count, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    if (!count)
        return SP_OK;
    return sp_cuda_check(SP_LAUNCH(widen, blocks_of(count), THREADS, 0, stream->stream, dst, src, count), "widen_f16", reterr);
}
