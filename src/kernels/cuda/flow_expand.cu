/* SPDX-License-Identifier: Apache-2.0
 * One frame's polynomial expansion on every level of the pyramid, in two launches: the twin of sp_flow_expand.
 *
 *   mix_rows     levels above 0: the frame's rows blurred and thinned to the level's, at the frame's full width
 *   expand       a tile of 64 x 16 pixels of any level: its picture with an apron (level 0 from the frame's bytes, others across
 *                those rows), down the columns, across the rows; the level's picture itself never reaches device memory
 *
 *     shared:  picture [16 + 2n][64 + 2n]  ->  mean, slope, curve [16][64 + 2n] each  ->  five channels [16][64]
 *
 * Bytes at 1920 x 1080 with levels of 1, 1/4, 1/16, 1/64: 55 MB out (20 B for each of 2.75 Mpx), 2 MB of frame in, 7 MB of mixed
 * rows out and in again (they stay in L2): 0.02 ms at 3.35 TB/s. About 190 instructions a pixel, as long again: bound by both.
 *
 * A neighbourhood of 5 or 7 is spelled out: a thread makes four rows of a column, then four pixels of a row, from values that it
 * reads once (18 instead of 44 loads). Any other goes pixel by pixel. */
#include "kernels/cuda/launch.cuh"

#include "kernels/cuda/flow_parts.h"

#define TILE_W SP_CUDA_FLOW_TILE_W
#define TILE_H SP_CUDA_FLOW_TILE_H
#define THREADS 320 /* (64 + 2 * 7) * 16 / 4 columns of four rows */
#define MIX_THREADS 128

/* --- rows of the levels above 0 --- */

/* grid: rows of all levels, fours of columns by MIX_THREADS. Rows of `wide` end in whole fours, so all four are written. */
static __global__ void __launch_bounds__(MIX_THREADS) mix_rows(sp_cuda_flow_expansion e, int words)
{
    int k = e.coarsest;
    while (k > 1 && (int)blockIdx.x >= e.levels[k - 1].first_row)
        k--;
    const sp_cuda_flow_level &level = e.levels[k];
    const int row = (int)blockIdx.x - level.first_row, x = 4 * (int)(blockIdx.y * MIX_THREADS + threadIdx.x);
    if (x >= e.w)
        return;
    const uint8_t *from = e.grey + ((size_t)__ldg(level.down.first + row) * e.grey_stride + (size_t)x);
    const float *weight = level.down.weight + (size_t)row * (size_t)level.down.taps;
    const int own = min(4, e.w - x); /* a row may end, and memory with it */
    float sum[4];
    for (int t = 0; t < level.down.taps; t++, from += e.grey_stride) {
        float share = __ldg(weight + t);
        uchar4 four;
        if (words && own == 4)
            four = __ldg(reinterpret_cast<const uchar4 *>(from));
        else
            four = make_uchar4(__ldg(from), own > 1 ? __ldg(from + 1) : 0, own > 2 ? __ldg(from + 2) : 0, own > 3 ? __ldg(from + 3) : 0);
        const float value[4] = { (float)four.x, (float)four.y, (float)four.z, (float)four.w };
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[i] = t ? sp_fma(share, value[i], sum[i]) : share * value[i];
    }
    *reinterpret_cast<float4 *>(e.wide + ((size_t)blockIdx.x * (size_t)e.wide_pitch + (size_t)x)) =
        make_float4(sum[0], sum[1], sum[2], sum[3]);
}

/* --- a tile's picture --- Its coordinates beyond the level's ends are the nearest inside. */

/* [1 2 1] along one row of the frame, mirrored at the ends; one pixel is its own neighbour. */
static __device__ __forceinline__ int smooth_row(const sp_cuda_flow_expansion &e, int x, int left, int right, int y)
{
    const uint8_t *row = e.grey + (size_t)y * e.grey_stride;
    return __ldg(row + left) + 2 * __ldg(row + x) + __ldg(row + right);
}

/* Level 0: a thread goes down a part of a column and keeps the rows it has summed. */
static __device__ __forceinline__ void picture_of_frame(float *picture, int pitch, int columns, int rows, const sp_cuda_flow_expansion &e,
                                                        int left, int top)
{
    const int parts = THREADS / columns, part_rows = (rows + parts - 1) / parts;
    const int column = (int)threadIdx.x % columns, part = (int)threadIdx.x / columns, end = min(rows, (part + 1) * part_rows);
    if (part >= parts)
        return;
    const int x = min(max(left + column, 0), e.w - 1);
    const int before = x > 0 ? x - 1 : e.w > 1 ? 1 : 0, after = x < e.w - 1 ? x + 1 : e.w > 1 ? e.w - 2 : 0;
    int y = -1, above = 0, here = 0, below = 0;
    for (int row = part * part_rows; row < end; row++) {
        int want = min(max(top + row, 0), e.h - 1);
        if (want != y) {
            if (y < 0) {
                above = smooth_row(e, x, before, after, want > 0 ? want - 1 : e.h > 1 ? 1 : 0);
                here = smooth_row(e, x, before, after, want);
            } else {
                above = here;
                here = below;
            }
            y = want;
            below = smooth_row(e, x, before, after, y < e.h - 1 ? y + 1 : e.h > 1 ? e.h - 2 : 0);
        }
        picture[row * pitch + column] = (float)(above + 2 * here + below) * 0.0625f;
    }
}

/* Other levels: across the rows that mix_rows has made. */
static __device__ __forceinline__ void picture_of_rows(float *picture, int pitch, int columns, int rows, const sp_cuda_flow_expansion &e,
                                                       const sp_cuda_flow_level &level, int left, int top)
{
    for (int i = (int)threadIdx.x; i < rows * columns; i += THREADS) {
        int row = i / columns, column = i % columns;
        int x = min(max(left + column, 0), level.w - 1), y = min(max(top + row, 0), level.h - 1);
        const float *from = e.wide + ((size_t)(level.first_row + y) * (size_t)e.wide_pitch + (size_t)__ldg(level.across.first + x));
        const float *weight = level.across.weight + x;
        float sum = __ldg(weight) * __ldg(from);
        for (int t = 1; t < level.across.taps; t++)
            sum = sp_fma(__ldg(weight + (size_t)t * (size_t)level.across.stride), __ldg(from + t), sum);
        picture[row * pitch + column] = sum;
    }
}

/* --- expansion --- */

typedef struct down_sums {
    float mean, slope, curve;
} down_sums;

/* v: the column's values, `step` apart, v[n * step] the pixel's own. */
static __device__ __forceinline__ down_sums sum_down(const float *v, int step, int n, const sp_flow_poly &poly)
{
    float t[3] = { v[n * step] * poly.g[0], 0.0f, 0.0f };
#pragma unroll
    for (int k = 1; k <= n; k++)
        sp_flow_down_step(t, v[(n - k) * step], v[(n + k) * step], poly.g[k], poly.xg[k], poly.xxg[k]);
    down_sums s = { t[0], t[1], sp_flow_curve(t[0], t[2], poly.ig03, poly.ig03_rest, poly.ig33, poly.ig33_rest) };
    return s;
}

/* A pixel's expansion from the three sums of its row, each at its own place. Where one of the three is all that is wanted of the
 * result, the compiler drops the other two. */
static __device__ __forceinline__ void sum_across(float e[SP_FLOW_CHANNELS], const float *mean, const float *slope, const float *curve,
                                                  int n, const sp_flow_poly &poly)
{
    e[0] = poly.g[0] * slope[0];
    e[1] = 0.0f;
    e[2] = poly.g[0] * curve[0];
    e[3] = poly.rest * mean[0];
    e[4] = 0.0f;
#pragma unroll
    for (int k = 1; k <= n; k++) {
        const float means[2] = { mean[-k], mean[k] }, slopes[2] = { slope[-k], slope[k] }, curves[2] = { curve[-k], curve[k] };
        sp_flow_across_step(e, mean[0], means, slopes, curves, poly.g[k], poly.xg[k], poly.curve[k]);
    }
    e[0] = e[0] * poly.ig11;
    e[1] = e[1] * poly.ig11;
    e[4] = e[4] * poly.ig55;
}

/* Four rows of a column at once. */
template <int N>
static __device__ __forceinline__ void expand_down(float *mean, float *slope, float *curve, const float *picture, int pitch,
                                                   const sp_flow_poly &poly)
{
    const int columns = TILE_W + 2 * N, column = (int)threadIdx.x % columns, top = (int)threadIdx.x / columns * 4;
    if (top >= TILE_H)
        return;
    float v[2 * N + 4];
#pragma unroll
    for (int i = 0; i < 2 * N + 4; i++)
        v[i] = picture[(top + i) * pitch + column];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        down_sums s = sum_down(v + i, 1, N, poly);
        int at = (top + i) * pitch + column;
        mean[at] = s.mean;
        slope[at] = s.slope;
        curve[at] = s.curve;
    }
}

/* The values that four pixels' neighbourhoods cover: whole 16-byte loads. */
template <int COUNT> static __device__ __forceinline__ void load_fours(float v[COUNT], const float *from)
{
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++) {
        float4 four = reinterpret_cast<const float4 *>(from)[i];
        v[4 * i] = four.x;
        v[4 * i + 1] = four.y;
        v[4 * i + 2] = four.z;
        v[4 * i + 3] = four.w;
    }
}

/* Four pixels of a row at once; what each sum gives is made before the next sum is loaded. */
template <int N>
static __device__ __forceinline__ void expand_across(float made[SP_FLOW_CHANNELS][4], const float *mean, const float *slope,
                                                     const float *curve, const sp_flow_poly &poly)
{
    const int COUNT = (2 * N + 4 + 3) & ~3;
    float v[COUNT], e[SP_FLOW_CHANNELS];
    load_fours<COUNT>(v, mean);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum_across(e, v + N + i, v + N + i, v + N + i, N, poly);
        made[1][i] = e[1];
        made[3][i] = e[3];
    }
    load_fours<COUNT>(v, slope);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum_across(e, v + N + i, v + N + i, v + N + i, N, poly);
        made[0][i] = e[0];
        made[4][i] = e[4];
    }
    load_fours<COUNT>(v, curve);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum_across(e, v + N + i, v + N + i, v + N + i, N, poly);
        made[2][i] = e[2];
    }
}

static __device__ __forceinline__ void store(const sp_cuda_flow_expansion &e, const sp_cuda_flow_level &level, int x, int y, float e0,
                                             float e1, float e2, float e3, float e4)
{
    if (x >= level.w || y >= level.h)
        return;
    size_t at = level.offset + (size_t)y * (size_t)level.pitch + (size_t)x;
    static_cast<float4 *>(e.heads)[at] = make_float4(e0, e1, e2, e3);
    e.mixed[at] = e4;
}

/* A tile's channels through shared memory, so that a warp's stores lie side by side. All other use of `tile` is over. */
static __device__ __forceinline__ void store_tile(float *tile, const float made[SP_FLOW_CHANNELS][4], int row, int column,
                                                  const sp_cuda_flow_expansion &e, const sp_cuda_flow_level &level, int left, int top)
{
    __syncthreads();
    if (row < TILE_H) {
#pragma unroll
        for (int c = 0; c < SP_FLOW_CHANNELS; c++)
            *reinterpret_cast<float4 *>(tile + (c * TILE_H + row) * TILE_W + column) =
                make_float4(made[c][0], made[c][1], made[c][2], made[c][3]);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < TILE_H * TILE_W; i += THREADS) {
        const float *at = tile + i;
        store(e, level, left + i % TILE_W, top + i / TILE_W, at[0], at[TILE_H * TILE_W], at[2 * TILE_H * TILE_W],
              at[3 * TILE_H * TILE_W], at[4 * TILE_H * TILE_W]);
    }
}

/* grid: tiles of all levels. N: the neighbourhood, 0 = any. */
template <int N> static __global__ void __launch_bounds__(THREADS, 3) expand(sp_cuda_flow_expansion e)
{
    SP_SHARED(float, picture);
    int k = e.coarsest;
    while (k > 0 && (int)blockIdx.x >= e.levels[k - 1].first_tile)
        k--;
    const sp_cuda_flow_level &level = e.levels[k];
    const int n = N ? N : e.poly.n, columns = TILE_W + 2 * n, rows = TILE_H + 2 * n, pitch = (columns + 3) & ~3;
    const int tile = (int)blockIdx.x - level.first_tile;
    const int left = tile % level.tiles_across * TILE_W, top = tile / level.tiles_across * TILE_H;
    float *mean = picture + rows * pitch, *slope = mean + TILE_H * pitch, *curve = slope + TILE_H * pitch;

    if (k == 0)
        picture_of_frame(picture, pitch, columns, rows, e, left - n, top - n);
    else
        picture_of_rows(picture, pitch, columns, rows, e, level, left - n, top - n);
    __syncthreads();

    if constexpr (N > 0) {
        expand_down<N>(mean, slope, curve, picture, pitch, e.poly);
        __syncthreads();
        const int row = (int)threadIdx.x / (TILE_W / 4), column = (int)threadIdx.x % (TILE_W / 4) * 4, at = row * pitch + column;
        float made[SP_FLOW_CHANNELS][4];
        if (row < TILE_H)
            expand_across<N>(made, mean + at, slope + at, curve + at, e.poly);
        store_tile(picture, made, row, column, e, level, left, top);
    } else {
        for (int i = (int)threadIdx.x; i < TILE_H * columns; i += THREADS) {
            int at = i / columns * pitch + i % columns;
            down_sums s = sum_down(picture + at, pitch, n, e.poly);
            mean[at] = s.mean;
            slope[at] = s.slope;
            curve[at] = s.curve;
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < TILE_H * TILE_W; i += THREADS) {
            int row = i / TILE_W, column = i % TILE_W, at = row * pitch + n + column;
            float made[SP_FLOW_CHANNELS];
            sum_across(made, mean + at, slope + at, curve + at, n, e.poly);
            store(e, level, left + column, top + row, made[0], made[1], made[2], made[3], made[4]);
        }
    }
}

/* The picture and its three sums; the five channels take their place. */
static size_t shared_bytes(int n)
{
    size_t pitch = (size_t)(TILE_W + 2 * n + 3) & ~(size_t)3, sums = ((size_t)(TILE_H + 2 * n) + 3 * TILE_H) * pitch;
    size_t tile = (size_t)SP_FLOW_CHANNELS * TILE_W * TILE_H;
    return sizeof(float) * (sums > tile ? sums : tile);
}

extern "C" cudaError_t sp_cuda_flow_launch_expansion(const sp_cuda_flow_expansion *e, cudaStream_t stream)
{
    if (e->rows) {
        dim3 grid((unsigned)e->rows, (unsigned)((e->w + 4 * MIX_THREADS - 1) / (4 * MIX_THREADS)));
        int words = ((uintptr_t)e->grey | e->grey_stride) % 4 == 0;
        cudaError_t error = SP_LAUNCH(mix_rows, grid, dim3(MIX_THREADS), 0, stream, *e, words);
        if (error != cudaSuccess)
            return error;
    }
    dim3 tiles((unsigned)e->tiles);
    size_t shared = shared_bytes(e->poly.n);
    if (e->poly.n == 5)
        return SP_LAUNCH((expand<5>), tiles, dim3(THREADS), shared, stream, *e);
    if (e->poly.n == 7)
        return SP_LAUNCH((expand<7>), tiles, dim3(THREADS), shared, stream, *e);
    return SP_LAUNCH((expand<0>), tiles, dim3(THREADS), shared, stream, *e);
}
