/* SPDX-License-Identifier: Apache-2.0
 * CUDA twins of softmax_f32, topk_f32 and best_columns_f32 (kernels.h), and the table of this room's calls. The suppression of
 * boxes: post_nms.cu; detectors' heads: post_heads.cu.
 *
 * What bounds them on an H100 (3.35 TB/s, as arithmetic): softmax and top-k of 32 x 1,000 numbers move 256 KB (0.08 us), so
 * it is the launch and the chain of a row's own steps; the best of 80 x 8,400 columns reads 2.7 MB: 0.8 us. */
#include "kernels/cuda/post.cuh"
#include "kernels/cuda/rank.h"
#include "kernels/cuda/sort.cuh"
#include "kernels/post_arith.h"

#define WARP_ROW 1024 /* a longer row is a block's */
#define ROW_THREADS 256

/* --- softmax ---
 * The sum is the 32-accumulator tree of kernels.h: accumulator l takes elements l, l + 32, ... in this order, then halves. That
 * is one warp's work for any length; a block shares the maximum and the exponentials of a long row. */

static __device__ __forceinline__ float warp_max(float most)
{
    for (int half = 16; half; half /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, most, half);
        most = other > most ? other : most;
    }
    return most;
}

static __device__ __forceinline__ float warp_sum(float sum)
{
    for (int half = 16; half; half /= 2)
        sum = sum + __shfl_down_sync(0xffffffffu, sum, half);
    return __shfl_sync(0xffffffffu, sum, 0);
}

static __device__ __forceinline__ float share_of(float power, float sum)
{
    return sum == sum ? power / sum : sp_f32_from_bits(0x7fc00000u);
}

/* A warp a row; each lane's PER elements stay in registers, so that dst may be src. */
template <int PER> static __global__ void softmax_warp(float *dst, const float *src, int rows, int n)
{
    int row = (int)(blockIdx.x * (ROW_THREADS / 32) + threadIdx.x / 32), lane = (int)threadIdx.x & 31;
    bool here = row < rows;
    const float *from = src + (size_t)(here ? row : 0) * (size_t)n;
    float *to = dst + (size_t)(here ? row : 0) * (size_t)n;
    float v[PER], most = -INFINITY, sum = 0.0f;
    for (int k = 0; k < PER; k++) {
        int i = k * 32 + lane;
        v[k] = here && i < n ? from[i] : -INFINITY;
        most = v[k] > most ? v[k] : most;
    }
    most = warp_max(most);
    for (int k = 0; k < PER; k++) {
        if (k * 32 + lane < n) {
            v[k] = sp_expf(v[k] - most);
            sum += v[k];
        }
    }
    sum = warp_sum(sum);
    for (int k = 0; k < PER; k++) {
        if (here && k * 32 + lane < n)
            to[k * 32 + lane] = share_of(v[k], sum);
    }
}

static __global__ void softmax_block(float *dst, const float *src, int n)
{
    SP_SHARED(float, shared); /* one number a warp, then the sum */
    const float *from = src + (size_t)blockIdx.x * (size_t)n;
    float *to = dst + (size_t)blockIdx.x * (size_t)n, most = -INFINITY;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x & 31;
    for (int i = (int)threadIdx.x; i < n; i += ROW_THREADS)
        most = from[i] > most ? from[i] : most;
    most = warp_max(most);
    if (lane == 0)
        shared[warp] = most;
    __syncthreads();
    most = warp_max(lane < ROW_THREADS / 32 ? shared[lane] : -INFINITY);
    for (int i = (int)threadIdx.x; i < n; i += ROW_THREADS)
        to[i] = sp_expf(from[i] - most);
    __syncthreads();
    if (warp == 0) {
        float sum = 0.0f;
        int i = lane;
        for (; i + 7 * 32 < n; i += 8 * 32) { /* eight loads under way, the additions one after the other */
            float v[8];
            for (int k = 0; k < 8; k++)
                v[k] = to[i + k * 32];
            for (int k = 0; k < 8; k++)
                sum += v[k];
        }
        for (; i < n; i += 32)
            sum += to[i];
        sum = warp_sum(sum);
        if (lane == 0)
            shared[ROW_THREADS / 32] = sum;
    }
    __syncthreads();
    float sum = shared[ROW_THREADS / 32];
    for (int i = (int)threadIdx.x; i < n; i += ROW_THREADS)
        to[i] = share_of(to[i], sum);
}

static cudaError_t softmax_start(cudaStream_t stream, float *dst, const float *src, int rows, int n)
{
    unsigned grid = ((unsigned)rows + ROW_THREADS / 32 - 1) / (ROW_THREADS / 32);
    if (n <= 128)
        return SP_LAUNCH((softmax_warp<4>), dim3(grid), dim3(ROW_THREADS), 0, stream, dst, src, rows, n);
    if (n <= WARP_ROW)
        return SP_LAUNCH((softmax_warp<WARP_ROW / 32>), dim3(grid), dim3(ROW_THREADS), 0, stream, dst, src, rows, n);
    return SP_LAUNCH(softmax_block, dim3((unsigned)rows), dim3(ROW_THREADS), (ROW_THREADS / 32 + 1) * sizeof(float), stream, dst,
                     src, n);
}

static sp_status softmax_f32(sp_cuda_stream *stream, float *dst, const float *src, int rows, int n, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    if (rows < 1 || n < 1)
        return SP_OK;
    return sp_cuda_check(softmax_start(stream->stream, dst, src, rows, n), "softmax", reterr);
}

/* --- top-k ---
 * A row of one tile is sorted and its head told; of a longer one each tile keeps its k best, which then find their places. */

static __device__ __forceinline__ void tell(int32_t *ret_index, float *ret_value, const float *row, int place, uint64_t key)
{
    int32_t index = (int32_t)(uint32_t)key;
    ret_index[place] = index;
    ret_value[place] = row[index];
}

static __global__ void topk_tile(int32_t *ret_index, float *ret_value, const float *src, int n, int k, uint64_t *tiles,
                                 int32_t *counts)
{
    SP_SHARED(uint64_t, keys);
    const float *row = src + (size_t)blockIdx.y * (size_t)n;
    int first = (int)blockIdx.x * SP_SORT_TILE, count = min(n - first, SP_SORT_TILE), told = min(count, k);
    for (int i = (int)threadIdx.x; i < count; i += SP_SORT_THREADS)
        keys[i] = (uint64_t)sp_order_key(row[first + i]) << 32 | (uint32_t)(first + i);
    sp_sort_block(keys, count);
    for (int i = (int)threadIdx.x; i < told; i += SP_SORT_THREADS) {
        if (tiles)
            tiles[((size_t)blockIdx.y * gridDim.x + blockIdx.x) * SP_SORT_TILE + (size_t)i] = keys[i];
        else
            tell(ret_index + (size_t)blockIdx.y * (size_t)k, ret_value + (size_t)blockIdx.y * (size_t)k, row, i, keys[i]);
    }
    if (counts && threadIdx.x == 0)
        counts[(size_t)blockIdx.y * gridDim.x + blockIdx.x] = told;
}

static __global__ void topk_place(int32_t *ret_index, float *ret_value, const float *src, int n, int k, const uint64_t *all,
                                  const int32_t *all_counts, int tiles)
{
    const uint64_t *keys = all + (size_t)blockIdx.y * (size_t)tiles * SP_SORT_TILE;
    const int32_t *counts = all_counts + (size_t)blockIdx.y * (size_t)tiles;
    size_t slot = (size_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if ((int)(slot % SP_SORT_TILE) < counts[slot / SP_SORT_TILE]) {
        int place = sp_sort_place(keys, counts, tiles, keys[slot]);
        if (place < k)
            tell(ret_index + (size_t)blockIdx.y * (size_t)k, ret_value + (size_t)blockIdx.y * (size_t)k,
                 src + (size_t)blockIdx.y * (size_t)n, place, keys[slot]);
    }
}

static size_t tiles_of(int n)
{
    return ((size_t)n + SP_SORT_TILE - 1) / SP_SORT_TILE;
}

static size_t topk_space(int rows, int n, int k)
{
    size_t tiles = tiles_of(n);
    (void)k; /* a tile's place does not shrink with it */
    return rows < 1 || n < 1 || tiles == 1 ? 0 : (size_t)rows * tiles * (SP_SORT_TILE * sizeof(uint64_t) + sizeof(int32_t));
}

static cudaError_t topk_start(cudaStream_t stream, int32_t *ret_index, float *ret_value, const float *src, int rows, int n, int k,
                              void *space)
{
    unsigned tiles = (unsigned)tiles_of(n);
    uint64_t *keys = tiles > 1 ? (uint64_t *)space : NULL;
    int32_t *counts = keys ? (int32_t *)(keys + (size_t)rows * tiles * SP_SORT_TILE) : NULL;
    cudaError_t error = SP_LAUNCH(topk_tile, dim3(tiles, (unsigned)rows), dim3(SP_SORT_THREADS), SP_SORT_TILE * sizeof(uint64_t), stream,
                                  ret_index, ret_value, src, n, k, keys, counts);
    if (error == cudaSuccess && keys)
        error = SP_LAUNCH(topk_place, dim3(tiles * (SP_SORT_TILE / ROW_THREADS), (unsigned)rows), dim3(ROW_THREADS), 0, stream, ret_index,
                          ret_value, src, n, k, keys, counts, (int)tiles);
    return error;
}

static sp_status topk_f32(sp_cuda_stream *stream, int32_t *ret_index, float *ret_value, const float *src, int rows, int n, int k,
                          void *space, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    if (rows < 1 || n < 1 || k < 1)
        return SP_OK;
    if (k > n || rows > SP_LIMIT_CUDA_ROWS)
        return SP_FAIL(reterr, SP_INTERNAL, "the best %d of %d rows of %d", k, rows, n);
    return sp_cuda_check(topk_start(stream->stream, ret_index, ret_value, src, rows, n, k, space), "topk", reterr);
}

/* --- best of columns ---
 * 32 columns a block, its warps share the rows: warp g takes a run of them, and the runs' answers are compared in order, so
 * that the first of equal values wins as it does in one loop. */

#define COLUMN_WARPS 8

static __global__ void best_columns(float *ret_best, int32_t *ret_which, const float *src, int n, int rows, size_t row_stride,
                                    size_t batch_stride)
{
    SP_SHARED(float, best); /* [COLUMN_WARPS][32], and which as many */
    int32_t *which = (int32_t *)(best + COLUMN_WARPS * 32);
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32, column = (int)blockIdx.x * 32 + lane;
    int each = (rows + COLUMN_WARPS - 1) / COLUMN_WARPS, first = warp * each, end = min(rows, first + each);
    float most = -INFINITY;
    int32_t at = 0;
    if (column < n) {
        const float *from = src + (size_t)blockIdx.y * batch_stride + (size_t)column;
        for (int r = first; r < end; r++) {
            float value = from[(size_t)r * row_stride];
            at = value > most ? r : at;
            most = value > most ? value : most;
        }
    }
    best[threadIdx.x] = most;
    which[threadIdx.x] = at;
    __syncthreads();
    if (warp == 0 && column < n) {
        for (int g = 1; g < COLUMN_WARPS; g++) {
            float value = best[g * 32 + lane];
            at = value > most ? which[g * 32 + lane] : at;
            most = value > most ? value : most;
        }
        ret_best[(size_t)blockIdx.y * (size_t)n + (size_t)column] = most;
        ret_which[(size_t)blockIdx.y * (size_t)n + (size_t)column] = at;
    }
}

static cudaError_t best_columns_start(cudaStream_t stream, float *ret_best, int32_t *ret_which, const float *src, int batch, int n,
                                      int rows, size_t row_stride, size_t batch_stride)
{
    return SP_LAUNCH(best_columns, dim3(((unsigned)n + 31) / 32, (unsigned)batch), dim3(COLUMN_WARPS * 32),
                     COLUMN_WARPS * 32 * (sizeof(float) + sizeof(int32_t)), stream, ret_best, ret_which, src, n, rows, row_stride,
                     batch_stride);
}

static sp_status best_columns_f32(sp_cuda_stream *stream, float *ret_best, int32_t *ret_which, const float *src, int batch, int n,
                                  int rows, size_t row_stride, size_t batch_stride, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    if (batch < 1 || n < 1)
        return SP_OK;
    if (batch > SP_LIMIT_CUDA_ROWS)
        return SP_FAIL(reterr, SP_INTERNAL, "%d times the best of columns", batch);
    return sp_cuda_check(best_columns_start(stream->stream, ret_best, ret_which, src, batch, n, rows, row_stride, batch_stride),
                         "best_columns", reterr);
}

extern "C" const sp_cuda_post_api sp_cuda_post_calls = {
    .softmax_f32 = softmax_f32,
    .topk_space = topk_space,
    .topk_f32 = topk_f32,
    .best_columns_f32 = best_columns_f32,
    .nms_space = sp_cuda_nms_space,
    .nms = sp_cuda_nms_run,
    .gather_f32 = sp_cuda_gather_f32,
    .first_bad_f32 = sp_cuda_first_bad_f32,
    .widen_f16 = sp_cuda_widen_f16,
    .decode_boxes = sp_cuda_decode_boxes,
    .detect_space = sp_cuda_detect_space,
    .detect = sp_cuda_detect_run,
};
