/* SPDX-License-Identifier: Apache-2.0
 * Gaussian, box and Sobel, equal to kernels/blur.c and sobel.c: whole numbers, but for the box's one division a pixel.
 *
 *   Gaussian  one launch: 64 x 32 pixels a block, across into 16 bits, down with one rounding, both in shared memory.
 *   box       two launches with 16-bit sums of rows between them (255 * 255 fits); running sums in both.
 *   Sobel     one launch (plane_sobel.cuh), 4 bytes written a pixel.
 *
 * Bound by memory for small kernels: 2 bytes a pixel (Gaussian), 6 (box), 5 (Sobel): 4, 12 and 10 MB at 1080p, 1.2, 3.7 and 3.1 us
 * at 3.35 TB/s. The analysis uses none of these. */
#include "kernels/cuda/plane_sobel.cuh"

#define WIDE 64
#define TALL 32

/* --- Gaussian --- */

typedef struct gaussian_taps {
    int count;
    uint32_t weight[SP_GAUSSIAN_TAPS_MAX];
} gaussian_taps;

typedef struct gaussian_tile {
    uint16_t across[TALL + SP_GAUSSIAN_TAPS_MAX - 1][WIDE];
    uint8_t pixels[TALL + SP_GAUSSIAN_TAPS_MAX - 1][WIDE + SP_GAUSSIAN_TAPS_MAX - 1];
} gaussian_tile;

__global__ void plane_gaussian_kernel(sp_plane dst, sp_plane src, const __grid_constant__ gaussian_taps taps)
{
    SP_SHARED(gaussian_tile, t);
    int half = taps.count / 2, wide = WIDE + 2 * half, tall = TALL + 2 * half;
    int x0 = (int)blockIdx.x * WIDE, y0 = (int)blockIdx.y * TALL;
    for (int row = (int)threadIdx.x / 32; row < tall; row += SP_PLANE_WARPS) {
        const uint8_t *from = src.data + (size_t)sp_reflect(y0 + row - half, src.h) * src.stride_bytes;
        for (int i = (int)threadIdx.x % 32; i < wide; i += 32)
            t->pixels[row][i] = from[sp_reflect(x0 + i - half, src.w)];
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < tall * WIDE; i += SP_PLANE_THREADS) {
        uint32_t sum = 0;
        for (int k = 0; k < taps.count; k++)
            sum += taps.weight[k] * t->pixels[i / WIDE][i % WIDE + k];
        t->across[i / WIDE][i % WIDE] = (uint16_t)sum;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < TALL * WIDE; i += SP_PLANE_THREADS) {
        int x = x0 + i % WIDE, y = y0 + i / WIDE;
        uint32_t sum = 32768;
        for (int k = 0; k < taps.count; k++)
            sum += taps.weight[k] * t->across[i / WIDE + k][i % WIDE];
        if (x < dst.w && y < dst.h)
            dst.data[(size_t)y * dst.stride_bytes + x] = (uint8_t)(sum >> 16);
    }
}

sp_status sp_cuda_blur_gaussian(sp_cuda_stream *stream, sp_plane dst, sp_plane src, int ksize, double sigma,
                                sp_cuda_plane_scratch *scratch, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    sp_status s = sp_plane_fits(scratch, src, reterr);
    if (s)
        return s;
    gaussian_taps taps = { ksize, { 0 } };
    uint16_t weight[SP_GAUSSIAN_TAPS_MAX];
    sp_gaussian_weights(weight, ksize, sigma);
    for (int i = 0; i < ksize; i++)
        taps.weight[i] = weight[i];
    return sp_cuda_check(SP_LAUNCH(plane_gaussian_kernel, dim3(sp_blocks(src.w, WIDE), sp_blocks(src.h, TALL)), SP_PLANE_THREADS,
                                   sizeof(gaussian_tile), stream->stream, dst, src, taps),
                         "plane_gaussian", reterr);
}

/* --- box --- */

#define BOX_ACROSS 1024 /* sums that a block makes of a row, BOX_EACH a thread */
#define BOX_EACH (BOX_ACROSS / SP_PLANE_THREADS)
#define BOX_DOWN 32     /* rows that a thread goes down */

/* sums[y][x] = pixels x - before .. x - before + k - 1 of row y. */
__global__ void plane_box_across_kernel(uint16_t *sums, sp_plane src, int k)
{
    SP_SHARED(uint8_t, pixels);
    int x0 = (int)blockIdx.x * BOX_ACROSS, y = (int)blockIdx.y, first = (int)threadIdx.x * BOX_EACH;
    const uint8_t *from = src.data + (size_t)y * src.stride_bytes;
    for (int i = (int)threadIdx.x; i < BOX_ACROSS + k; i += SP_PLANE_THREADS)
        pixels[i] = from[sp_reflect(x0 + i - k / 2, src.w)];
    __syncthreads();
    uint32_t sum = 0;
    for (int i = 0; i < k; i++)
        sum += pixels[first + i];
    for (int i = 0; i < BOX_EACH && x0 + first + i < src.w; i++) {
        sums[(size_t)y * src.w + x0 + first + i] = (uint16_t)sum;
        sum += (uint32_t)pixels[first + i + k] - pixels[first + i];
    }
}

/* As box_across of plane_loops.inc divides: by a multiplication of 23 fractional bits, or in float, or in double. */
typedef struct box_division {
    uint32_t area, half, scale;
    float factor;
    double exact;
} box_division;

__device__ static inline uint8_t divide(const box_division *d, uint32_t sum, int x, int w)
{
    if (d->area == 1)
        return (uint8_t)sum;
    if (d->area <= 256)
        return (uint8_t)((sum + d->half) * d->scale >> 23);
    if (x < (w & ~7))
        return (uint8_t)(int32_t)rintf((float)(int32_t)sum * d->factor);
    return (uint8_t)rint(sum * d->exact);
}

__global__ void plane_box_down_kernel(sp_plane dst, const uint16_t *sums, int k, box_division division)
{
    int x = (int)(blockIdx.x * SP_PLANE_THREADS + threadIdx.x), y0 = (int)blockIdx.y * BOX_DOWN, w = dst.w, h = dst.h;
    if (x >= w)
        return;
    uint32_t sum = 0;
    for (int i = 0; i < k; i++)
        sum += sums[(size_t)sp_reflect(y0 + i - k / 2, h) * w + x];
    for (int y = y0; y < h && y < y0 + BOX_DOWN; y++) {
        dst.data[(size_t)y * dst.stride_bytes + x] = divide(&division, sum, x, w);
        sum += sums[(size_t)sp_reflect(y + k - k / 2, h) * w + x];
        sum -= sums[(size_t)sp_reflect(y - k / 2, h) * w + x];
    }
}

sp_status sp_cuda_blur_box(sp_cuda_stream *stream, sp_plane dst, sp_plane src, int ksize, sp_cuda_plane_scratch *scratch,
                           sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    sp_status s = sp_plane_fits(scratch, src, reterr);
    if (s)
        return s;
    uint32_t area = (uint32_t)(ksize * ksize), scale = (1u << 23) / area, rest = (1u << 23) % area;
    bool up = 2 * rest >= area;
    box_division division = { area, area / 2 + (up ? 0 : 1), scale + (up ? 1 : 0), (float)(1.0 / (double)area), 1.0 / (double)area };
    uint16_t *sums = (uint16_t *)(void *)scratch->labels;
    SP_PLANE_TRY(SP_LAUNCH(plane_box_across_kernel, dim3(sp_blocks(src.w, BOX_ACROSS), (unsigned)src.h), SP_PLANE_THREADS,
                           BOX_ACROSS + SP_BOX_SIDE_MAX + 1, stream->stream, sums, src, ksize),
                 "plane_box_across");
    SP_PLANE_TRY(SP_LAUNCH(plane_box_down_kernel, dim3(sp_blocks(src.w, SP_PLANE_THREADS), sp_blocks(src.h, BOX_DOWN)), SP_PLANE_THREADS,
                           0, stream->stream, dst, sums, ksize, division),
                 "plane_box_down");
    return SP_OK;
}

/* --- Sobel --- */

template <int APERTURE> __global__ void plane_sobel_kernel(int16_t *dx, int16_t *dy, size_t stride, sp_plane src, bool reflect)
{
    typedef sp_sobel_tile<APERTURE, WIDE, TALL> tile;
    SP_SHARED(tile, t);
    int x0 = (int)blockIdx.x * WIDE, y0 = (int)blockIdx.y * TALL;
    t->load(src, x0, y0, reflect);
    for (int i = (int)threadIdx.x; i < TALL * WIDE; i += SP_PLANE_THREADS) {
        int x = x0 + i % WIDE, y = y0 + i / WIDE, right, down;
        t->at(i % WIDE, i / WIDE, false, &right, &down);
        if (x < src.w && y < src.h) {
            dx[(size_t)y * stride + x] = (int16_t)right;
            dy[(size_t)y * stride + x] = (int16_t)down;
        }
    }
}

template <int APERTURE>
static sp_status sobel_of(sp_cuda_stream *stream, int16_t *dx, int16_t *dy, size_t stride, sp_plane src, bool reflect, sp_error *reterr)
{
    return sp_cuda_check(SP_LAUNCH((plane_sobel_kernel<APERTURE>), dim3(sp_blocks(src.w, WIDE), sp_blocks(src.h, TALL)), SP_PLANE_THREADS,
                                   sizeof(sp_sobel_tile<APERTURE, WIDE, TALL>), stream->stream, dx, dy, stride, src, reflect),
                         "plane_sobel", reterr);
}

sp_status sp_cuda_sobel(sp_cuda_stream *stream, int16_t *dx, int16_t *dy, size_t stride_elements, sp_plane src, int aperture,
                        bool reflect, sp_cuda_plane_scratch *scratch, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    sp_status s = sp_plane_fits(scratch, src, reterr);
    if (s)
        return s;
    return aperture == 3   ? sobel_of<3>(stream, dx, dy, stride_elements, src, reflect, reterr)
           : aperture == 5 ? sobel_of<5>(stream, dx, dy, stride_elements, src, reflect, reterr)
                           : sobel_of<7>(stream, dx, dy, stride_elements, src, reflect, reterr);
}
