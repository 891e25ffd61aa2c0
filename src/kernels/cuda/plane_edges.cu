/* SPDX-License-Identifier: Apache-2.0
 * Canny's edges, equal to kernels/canny.c, in three launches, whatever the picture:
 *
 *   tiles    64 x 32 pixels a block: derivatives, sizes of gradients, maxima, and the components of the weak pixels inside the tile.
 *            A component that holds a strong pixel gets label 0, the others their first pixel (plane_label.cuh).
 *   borders  joins components over the borders of tiles; 0 is the least label, so whatever touches it becomes 0 too.
 *   draw     a weak pixel whose root is 0 is an edge.
 *
 * Moved a pixel: 1 byte read (1.27 with the apron, which the cache holds), 1/8 written and read as bits, 1 written, 4 for each weak
 * pixel: 4.7 MB at 1080p without those, 1.4 us at 3.35 TB/s. The tile launch is bound by what it computes in shared memory. */
#include "kernels/cuda/plane_label.cuh"
#include "kernels/cuda/plane_sobel.cuh"

template <int APERTURE> struct canny_tile {
    enum { WIDE = SP_TILE_W + 2, TALL = SP_TILE_H + 2 };
    union {
        sp_sobel_tile<APERTURE, WIDE, TALL> slopes;
        int label[SP_TILE_PIXELS]; /* once the sizes stand */
    };
    int size[TALL][WIDE]; /* 0 outside the picture */
    uint8_t direction[TALL][WIDE];
    uint64_t weak[SP_TILE_H], strong[SP_TILE_H];
    uint32_t strong_root[SP_TILE_PIXELS / 32];
};

/* As plane_arith.h's, in 32 bits: derivatives of 8-bit pixels stay below 2^14 here. */
__device__ static inline int direction_of(int dx, int dy)
{
    uint32_t x = (uint32_t)(dx < 0 ? -dx : dx), y = (uint32_t)(dy < 0 ? -dy : dy) << 15, low = x * SP_CANNY_TG22;
    return y < low ? 0 : y > low + (x << 16) ? 1 : (dx ^ dy) < 0 ? 3 : 2;
}

template <int APERTURE> __device__ static inline bool is_maximum(const canny_tile<APERTURE> *t, int x, int y)
{
    int m = t->size[y][x], direction = t->direction[y][x];
    int ax = direction == 1 ? 0 : direction == 3 ? 1 : -1, ay = direction == 0 ? 0 : -1;
    return sp_canny_maximum(direction, m, t->size[y + ay][x + ax], t->size[y - ay][x - ax]);
}

template <int APERTURE, bool L2>
__global__ void plane_canny_kernel(sp_plane src, int low, int high, uint32_t *bits, int *labels)
{
    SP_SHARED(canny_tile<APERTURE>, t);
    int x0 = (int)blockIdx.x * SP_TILE_W, y0 = (int)blockIdx.y * SP_TILE_H, words = sp_bit_words(src.w);
    t->slopes.load(src, x0 - 1, y0 - 1, false);
    for (int i = (int)threadIdx.x; i < t->TALL * t->WIDE; i += SP_PLANE_THREADS) {
        int tx = i % t->WIDE, ty = i / t->WIDE, x = x0 - 1 + tx, y = y0 - 1 + ty, dx, dy;
        t->slopes.at(tx, ty, APERTURE == 7, &dx, &dy);
        int size = L2 ? dx * dx + dy * dy : (dx < 0 ? -dx : dx) + (dy < 0 ? -dy : dy);
        t->size[ty][tx] = x >= 0 && x < src.w && y >= 0 && y < src.h ? size : 0;
        t->direction[ty][tx] = (uint8_t)direction_of(dx, dy);
    }
    if (threadIdx.x < SP_TILE_PIXELS / 32)
        t->strong_root[threadIdx.x] = 0;
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0)
        labels[0] = 0;
    __syncthreads();
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        int x = p % SP_TILE_W, y = p / SP_TILE_W, m = t->size[y + 1][x + 1];
        bool weak = m > low && is_maximum(t, x + 1, y + 1); /* sizes outside are 0, and low is not less */
        sp_tile_bits(t->weak, p, weak);
        sp_tile_bits(t->strong, p, weak && m > high);
    }
    __syncthreads();
    sp_label_tile(t->weak, t->label);
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        if (t->strong[p / SP_TILE_W] >> (p % SP_TILE_W) & 1)
            atomicOr(&t->strong_root[t->label[p] / 32], 1u << (t->label[p] % 32));
    }
    __syncthreads();
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        int x = x0 + p % SP_TILE_W, y = y0 + p / SP_TILE_W;
        if (p % 32 == 0 && x < src.w && y < src.h)
            bits[(size_t)y * words + x / 32] = reinterpret_cast<const uint32_t *>(t->weak)[p / 32];
        if (!(t->weak[p / SP_TILE_W] >> (p % SP_TILE_W) & 1))
            continue;
        int root = t->label[p], strong = t->strong_root[root / 32] >> (root % 32) & 1;
        labels[y * src.w + x + 1] = strong ? 0 : (y0 + root / SP_TILE_W) * src.w + x0 + root % SP_TILE_W + 1;
    }
}

__global__ void plane_draw_edges_kernel(sp_plane dst, const uint32_t *bits, const int *labels, bool words)
{
    int x = 4 * (int)(blockIdx.x * 32 + threadIdx.x % 32), y = (int)(blockIdx.y * SP_PLANE_WARPS + threadIdx.x / 32);
    if (x >= dst.w || y >= dst.h)
        return;
    uint32_t weak = bits[(size_t)y * sp_bit_words(dst.w) + x / 32] >> (x % 32) & 15, made = 0;
    for (int i = 0; i < 4; i++) {
        if ((weak >> i & 1) && sp_label_root(labels, y * dst.w + x + i + 1) == 0)
            made |= 255u << (8 * i);
    }
    sp_store4(dst.data + (size_t)y * dst.stride_bytes, x, dst.w, words, made);
}

template <int APERTURE, bool L2>
static cudaError_t run_tiles(sp_cuda_stream *stream, sp_plane src, int low, int high, sp_cuda_plane_scratch *s)
{
    return SP_LAUNCH((plane_canny_kernel<APERTURE, L2>), sp_tile_grid(src.w, src.h), SP_PLANE_THREADS, sizeof(canny_tile<APERTURE>),
                     stream->stream, src, low, high, s->bits, s->labels);
}

template <int APERTURE>
static cudaError_t run_tiles_of(sp_cuda_stream *stream, sp_plane src, int low, int high, bool l2, sp_cuda_plane_scratch *s)
{
    return l2 ? run_tiles<APERTURE, true>(stream, src, low, high, s) : run_tiles<APERTURE, false>(stream, src, low, high, s);
}

sp_status sp_cuda_canny(sp_cuda_stream *stream, sp_plane dst, sp_plane src, double low, double high, int aperture, bool l2,
                        sp_cuda_plane_scratch *scratch, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    sp_status s = sp_plane_fits(scratch, src, reterr);
    if (s)
        return s;
    int least, most;
    sp_canny_thresholds(low, high, aperture, l2, &least, &most);
    SP_PLANE_TRY(aperture == 3   ? run_tiles_of<3>(stream, src, least, most, l2, scratch)
                 : aperture == 5 ? run_tiles_of<5>(stream, src, least, most, l2, scratch)
                                 : run_tiles_of<7>(stream, src, least, most, l2, scratch),
                 "plane_canny");
    SP_PLANE_TRY(sp_label_borders(stream, scratch, src.w, src.h), "plane_borders");
    SP_PLANE_TRY(SP_LAUNCH(plane_draw_edges_kernel, dim3(sp_blocks(dst.w, 128), sp_blocks(dst.h, SP_PLANE_WARPS)), SP_PLANE_THREADS, 0,
                           stream->stream, dst, scratch->bits, scratch->labels, sp_plane_words_ok(dst)),
                 "plane_draw_edges");
    return SP_OK;
}
