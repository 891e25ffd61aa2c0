/* SPDX-License-Identifier: Apache-2.0
 * Sobel's derivatives of a tile in shared memory, for sp_sobel's twin and for Canny: down first, then across, sums of whole
 * numbers, held to 16 bits at the end as the row ops do it. */
#ifndef SP_KERNELS_CUDA_PLANE_SOBEL_CUH
#define SP_KERNELS_CUDA_PLANE_SOBEL_CUH

#include "kernels/cuda/plane.cuh"

/* 1 2 1; 1 4 6 4 1; 1 6 15 20 15 6 1: five bits each, so that they need no memory. */
template <int APERTURE> __device__ static inline int sp_smooth_tap(int t)
{
    const uint64_t taps = APERTURE == 3 ? 0x441ull : APERTURE == 5 ? 0x121881ull : 0x4cfa3cc1ull;
    return (int)(taps >> (5 * t) & 31);
}

/* -1 0 1; -1 -2 0 2 1; -1 -4 -5 0 5 4 1: each and 8 in four bits. */
template <int APERTURE> __device__ static inline int sp_slope_tap(int t)
{
    const uint32_t taps = APERTURE == 3 ? 0x987u : APERTURE == 5 ? 0x9a867u : 0x9cd8347u;
    return (int)(taps >> (4 * t) & 15) - 8;
}

__device__ static inline int sp_slope_hold(int v, bool sixteenth)
{
    if (sixteenth) { /* to nearest, ties to even */
        int low = v & 15, whole = v >> 4;
        v = whole + (low > 8 || (low == 8 && (whole & 1)));
    }
    return v < -32768 ? -32768 : v > 32767 ? 32767 : v;
}

/* A tile of W x H derivatives from (x0, y0) on, APERTURE / 2 more pixels on each side. */
template <int APERTURE, int W, int H> struct sp_sobel_tile {
    enum { REACH = APERTURE / 2, WIDE = W + 2 * REACH, TALL = H + 2 * REACH };
    uint8_t pixels[TALL][WIDE];
    int16_t smoothed[H][WIDE], sloped[H][WIDE];

    /* All threads; a barrier stands behind it. */
    __device__ void load(sp_plane src, int x0, int y0, bool reflect)
    {
        for (int i = (int)threadIdx.x; i < TALL * WIDE; i += SP_PLANE_THREADS) {
            int x = x0 - REACH + i % WIDE, y = y0 - REACH + i / WIDE;
            x = reflect ? sp_reflect(x, src.w) : sp_clamp_to(x, src.w - 1);
            y = reflect ? sp_reflect(y, src.h) : sp_clamp_to(y, src.h - 1);
            pixels[i / WIDE][i % WIDE] = src.data[(size_t)y * src.stride_bytes + x];
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < H * WIDE; i += SP_PLANE_THREADS) {
            int smooth = 0, slope = 0;
            for (int t = 0; t < APERTURE; t++) {
                int v = pixels[i / WIDE + t][i % WIDE];
                smooth += sp_smooth_tap<APERTURE>(t) * v;
                slope += sp_slope_tap<APERTURE>(t) * v;
            }
            smoothed[i / WIDE][i % WIDE] = (int16_t)smooth;
            sloped[i / WIDE][i % WIDE] = (int16_t)slope;
        }
        __syncthreads();
    }

    __device__ void at(int x, int y, bool sixteenth, int *ret_dx, int *ret_dy) const
    {
        int dx = 0, dy = 0;
        for (int t = 0; t < APERTURE; t++) {
            dx += sp_slope_tap<APERTURE>(t) * smoothed[y][x + t];
            dy += sp_smooth_tap<APERTURE>(t) * sloped[y][x + t];
        }
        *ret_dx = sp_slope_hold(dx, sixteenth);
        *ret_dy = sp_slope_hold(dy, sixteenth);
    }
};

#endif
