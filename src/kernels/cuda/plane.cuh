/* SPDX-License-Identifier: Apache-2.0
 * What the plane_*.cu files share: the scratch, how pixels are read and written, and their calls, which plane.cu puts into the
 * table. A plane's rows may begin anywhere and be any number of bytes apart; where they allow it four pixels go at once. */
#ifndef SP_KERNELS_CUDA_PLANE_CUH
#define SP_KERNELS_CUDA_PLANE_CUH

#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/cuda_plane.h"
#include "kernels/plane_arith.h"
#include "kernels/plane_spec.h"
}

#define SP_PLANE_THREADS 256
#define SP_PLANE_WARPS (SP_PLANE_THREADS / 32)

/* Regions that one search can return; their order is found by comparing each with each. */
#define SP_LIMIT_CUDA_REGIONS 65536

/* What a search for regions counts on the device. */
typedef struct sp_plane_counts {
    uint32_t roots, candidates;
} sp_plane_counts;

/* One block of device memory. For w x h pixels: three planes (3 bytes a pixel), bits (1/8), labels (4), parts (48 for each 2 x 2
 * pixels: no more components can meet in them than one), two lists of components (1 each): 21 bytes a pixel. */
struct sp_cuda_plane_scratch {
    sp_cuda *cuda;
    int w, h, capacity;
    void *block;
    size_t stride;    /* of the planes */
    uint8_t *planes[3];
    uint32_t *bits;   /* rows of bit_words(w) words: pixel x is bit x % 32 of word x / 32 */
    int *labels;      /* [0], then one for each pixel */
    sp_region *parts;
    uint32_t *roots, *candidates;
    uint4 *keys;      /* of the regions that are returned */
    sp_plane_counts *counts;
};

SP_HD int sp_bit_words(int w)
{
    return (w + 31) / 32;
}

static inline sp_plane sp_scratch_plane(const sp_cuda_plane_scratch *s, int i, int w, int h)
{
    sp_plane p = { s->planes[i], w, h, s->stride };
    return p;
}

static inline unsigned sp_blocks(long long items, long long of)
{
    return (unsigned)((items + of - 1) / of);
}

static inline bool sp_words_ok(const void *data, size_t stride_bytes)
{
    return ((uintptr_t)data | stride_bytes) % 4 == 0;
}

static inline bool sp_plane_words_ok(sp_plane p)
{
    return sp_words_ok(p.data, p.stride_bytes);
}

/* A caller's mistake that would read or write beyond the scratch. */
static inline sp_status sp_plane_fits(const sp_cuda_plane_scratch *s, sp_plane p, sp_error *reterr)
{
    if (p.w < 1 || p.h < 1 || p.w > s->w || p.h > s->h)
        return SP_FAIL(reterr, SP_INTERNAL, "a plane of %d x %d pixels in a scratch for %d x %d", p.w, p.h, s->w, s->h);
    return SP_OK;
}

#define SP_PLANE_TRY(call, what)                                \
    do {                                                        \
        sp_status sp_tried_ = sp_cuda_check(call, what, reterr); \
        if (sp_tried_)                                          \
            return sp_tried_;                                   \
    } while (0)

/* Four pixels of a row from x on, the first one in the lowest byte; `outside` where x is not in [0, w). */
__device__ static inline uint32_t sp_load4(const uint8_t *row, int x, int w, bool words, uint32_t outside)
{
    if (words && x >= 0 && x + 4 <= w && (x & 3) == 0)
        return *reinterpret_cast<const uint32_t *>(row + x);
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t byte = x + i >= 0 && x + i < w ? row[x + i] : outside;
        v |= byte << (8 * i);
    }
    return v;
}

__device__ static inline void sp_store4(uint8_t *row, int x, int w, bool words, uint32_t v)
{
    if (words && x + 4 <= w && (x & 3) == 0) {
        *reinterpret_cast<uint32_t *>(row + x) = v;
        return;
    }
    for (int i = 0; i < 4 && x + i < w; i++)
        row[x + i] = (uint8_t)(v >> (8 * i));
}

__device__ static inline int sp_byte_of(uint32_t v, int i)
{
    return (int)(v >> (8 * i) & 255);
}

__device__ static inline int sp_clamp_to(int v, int most)
{
    return v < 0 ? 0 : v > most ? most : v;
}

/* Sums over the 32 lanes, in each of them. */
__device__ static inline uint32_t sp_warp_sum(uint32_t v)
{
    for (int k = 16; k; k >>= 1)
        v += __shfl_xor_sync(~0u, v, k);
    return v;
}

__device__ static inline unsigned long long sp_warp_sum64(unsigned long long v)
{
    for (int k = 16; k; k >>= 1) {
        uint32_t low = __shfl_xor_sync(~0u, (uint32_t)v, k), high = __shfl_xor_sync(~0u, (uint32_t)(v >> 32), k);
        v += (unsigned long long)high << 32 | low;
    }
    return v;
}

__device__ static inline uint32_t sp_warp_max(uint32_t v)
{
    for (int k = 16; k; k >>= 1) {
        uint32_t other = __shfl_xor_sync(~0u, v, k);
        v = other > v ? other : v;
    }
    return v;
}

/* cudaMemcpy2DAsync on the device. */
cudaError_t sp_plane_copy(sp_cuda_stream *stream, sp_plane dst, sp_plane src);

extern "C" {
/* plane_points.cu */
sp_status sp_cuda_grey_y8(sp_cuda_stream *stream, sp_plane dst, const uint8_t *y, size_t stride_bytes, bool limited, sp_error *reterr);
sp_status sp_cuda_grey_y16(sp_cuda_stream *stream, sp_plane dst, const uint16_t *y, size_t stride_bytes, int bits, bool limited,
                           sp_error *reterr);
sp_status sp_cuda_grey_rgb8(sp_cuda_stream *stream, sp_plane dst, const uint8_t *rgb, size_t stride_bytes, int step, int r, int g,
                            int b, sp_error *reterr);
sp_status sp_cuda_threshold(sp_cuda_stream *stream, sp_plane dst, sp_plane src, uint8_t threshold, sp_error *reterr);
sp_status sp_cuda_plane_or(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr);
sp_status sp_cuda_plane_and(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr);
sp_status sp_cuda_plane_max(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr);
sp_status sp_cuda_weigh_flow(sp_cuda_stream *stream, sp_plane dst, const float *dx, const float *dy, size_t stride_floats,
                             sp_error *reterr);
/* plane_filters.cu */
sp_status sp_cuda_blur_gaussian(sp_cuda_stream *stream, sp_plane dst, sp_plane src, int ksize, double sigma,
                                sp_cuda_plane_scratch *scratch, sp_error *reterr);
sp_status sp_cuda_blur_box(sp_cuda_stream *stream, sp_plane dst, sp_plane src, int ksize, sp_cuda_plane_scratch *scratch,
                           sp_error *reterr);
sp_status sp_cuda_sobel(sp_cuda_stream *stream, int16_t *dx, int16_t *dy, size_t stride_elements, sp_plane src, int aperture,
                        bool reflect, sp_cuda_plane_scratch *scratch, sp_error *reterr);
/* plane_edges.cu */
sp_status sp_cuda_canny(sp_cuda_stream *stream, sp_plane dst, sp_plane src, double low, double high, int aperture, bool l2,
                        sp_cuda_plane_scratch *scratch, sp_error *reterr);
/* plane_morph.cu */
sp_status sp_cuda_morph(sp_cuda_stream *stream, sp_plane dst, sp_plane src, sp_morph_op op, sp_morph_shape shape, int kw, int kh,
                        int iterations, sp_cuda_plane_scratch *scratch, sp_error *reterr);
/* plane_regions.cu */
sp_status sp_cuda_regions_find(sp_cuda_stream *stream, sp_plane mask, sp_plane weights, uint32_t min_area, sp_cuda_regions *ret_head,
                               sp_region *ret_regions, int capacity, sp_cuda_plane_scratch *scratch, sp_error *reterr);
/* plane_measures.cu */
sp_status sp_cuda_measure_plane(sp_cuda_stream *stream, sp_plane src, sp_plane_measure *ret_measure, sp_error *reterr);
sp_status sp_cuda_measure_difference(sp_cuda_stream *stream, sp_plane a, sp_plane b, uint64_t *ret_sum, sp_error *reterr);
sp_status sp_cuda_measure_nonzero(sp_cuda_stream *stream, sp_plane src, uint64_t *ret_count, sp_error *reterr);
sp_status sp_cuda_measure_flow(sp_cuda_stream *stream, const float *dx, const float *dy, size_t stride_floats, int w, int h,
                               uint32_t threshold_1024, sp_plane mask, sp_flow_measure *ret_measure, sp_error *reterr);
}

#endif
