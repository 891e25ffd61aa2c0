/* SPDX-License-Identifier: Apache-2.0
 * 8-connected components by union-find, for Canny's hysteresis and for regions. A fixed number of launches, and a result that
 * depends on no order: of all labels that a component could get it always ends with the least.
 *
 *   tile      a block joins the runs of 64 x 32 pixels in shared memory (label_tile)
 *   borders   one launch joins what touches over the borders of tiles (sp_label_borders)
 *   roots     whoever wants to know follows the labels up (sp_label_root)
 *
 * Pixel (x, y) has the number y * w + x + 1; labels[number] is a number of the same component that is not greater, the pixel's own
 * at a root. Number 0 belongs to no pixel: Canny joins to it what holds a strong pixel. Labels that nobody asks for (pixels that
 * are not set) are not written.
 *
 * Two threads that join at the same time: the one whose atomicMin finds that its root has already been joined to another goes on
 * with that one. Labels only become smaller, so this ends. (V. Oliveira and R. Lotufo, "A study on connected components labeling
 * algorithms using GPUs", SIBGRAPI 2010, has the idea.) */
#ifndef SP_KERNELS_CUDA_PLANE_LABEL_CUH
#define SP_KERNELS_CUDA_PLANE_LABEL_CUH

#include "kernels/cuda/plane.cuh"

#define SP_TILE_W 64
#define SP_TILE_H 32
#define SP_TILE_PIXELS (SP_TILE_W * SP_TILE_H)

__device__ static inline int sp_label_root(const volatile int *labels, int at)
{
    for (int up = labels[at]; up != at; up = labels[at])
        at = up;
    return at;
}

__device__ static inline void sp_label_join(int *labels, int a, int b)
{
    for (;;) {
        a = sp_label_root(labels, a);
        b = sp_label_root(labels, b);
        if (a == b)
            return;
        if (a < b) {
            int least = a;
            a = b;
            b = least;
        }
        int was = atomicMin(&labels[a], b);
        if (was == a)
            return;
        a = was;
    }
}

/* Where the run of set bits that holds bit x begins. */
__device__ static inline int sp_run_begin(uint64_t row, int x)
{
    uint64_t clear = ~row & ((1ull << x) - 1);
    return clear ? 64 - __clzll((long long)clear) : 0;
}

/* One round of a tile's pixels: a warp has half a row at a time, and `rows` becomes what the lanes say. */
__device__ static inline void sp_tile_bits(uint64_t *rows, int p, bool set)
{
    uint32_t half = __ballot_sync(~0u, set);
    if (p % 32 == 0)
        reinterpret_cast<uint32_t *>(rows)[p / 32] = half;
}

/* label[p] = the component of each set pixel p of a tile (p = y * 64 + x): its first pixel in reading order. All threads call; `rows`
 * stands. Behind the call a thread knows the labels of its own pixels (threadIdx.x, and then each SP_PLANE_THREADS on), no others. */
__device__ static inline void sp_label_tile(const uint64_t *rows, int *label)
{
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        uint64_t row = rows[p / SP_TILE_W];
        if (row >> (p % SP_TILE_W) & 1)
            label[p] = p / SP_TILE_W * SP_TILE_W + sp_run_begin(row, p % SP_TILE_W);
    }
    __syncthreads();
    for (int p = (int)threadIdx.x + SP_TILE_W; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        int x = p % SP_TILE_W;
        uint64_t row = rows[p / SP_TILE_W], above = rows[p / SP_TILE_W - 1];
        bool set = row >> x & 1, left = x > 0 && (row >> (x - 1) & 1), right = x < SP_TILE_W - 1 && (row >> (x + 1) & 1);
        bool up_left = x > 0 && (above >> (x - 1) & 1), up = above >> x & 1, up_right = x < SP_TILE_W - 1 && (above >> (x + 1) & 1);
        if (!set)
            continue;
        if (up && !(left && up_left)) /* else the pixel on the left joins the same two runs */
            sp_label_join(label, p, p - SP_TILE_W);
        if (!up && up_left && !left)
            sp_label_join(label, p, p - SP_TILE_W - 1);
        if (!up && up_right && !right)
            sp_label_join(label, p, p - SP_TILE_W + 1);
    }
    __syncthreads();
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        if (rows[p / SP_TILE_W] >> (p % SP_TILE_W) & 1)
            label[p] = sp_label_root(label, p);
    }
}

__device__ static inline bool sp_bit_at(const uint32_t *bits, int words, int x, int y)
{
    return bits[(size_t)y * words + x / 32] >> (x % 32) & 1;
}

/* Joins what pixels on the borders of tiles touch in the tile on the left, or above. */
static __global__ void plane_borders_kernel(const uint32_t *bits, int *labels, int w, int h)
{
    int words = sp_bit_words(w), columns = (w - 1) / SP_TILE_W, rows = (h - 1) / SP_TILE_H;
    long long at = (long long)blockIdx.x * SP_PLANE_THREADS + threadIdx.x, beside = (long long)columns * h;
    if (at >= beside + (long long)rows * w)
        return;
    if (at < beside) {
        int x = (int)(at / h + 1) * SP_TILE_W, y = (int)(at % h), number = y * w + x + 1;
        if (!sp_bit_at(bits, words, x, y))
            return;
        if (sp_bit_at(bits, words, x - 1, y))
            sp_label_join(labels, number, number - 1);
        if (y > 0 && sp_bit_at(bits, words, x - 1, y - 1))
            sp_label_join(labels, number, number - w - 1);
        if (y + 1 < h && sp_bit_at(bits, words, x - 1, y + 1))
            sp_label_join(labels, number, number + w - 1);
        return;
    }
    at -= beside;
    int x = (int)(at % w), y = (int)(at / w + 1) * SP_TILE_H, number = y * w + x + 1;
    if (!sp_bit_at(bits, words, x, y))
        return;
    bool up_left = x > 0 && sp_bit_at(bits, words, x - 1, y - 1);
    if (sp_bit_at(bits, words, x, y - 1)) { /* a pixel that continues a run over another one has nothing to add */
        if (!(up_left && x % SP_TILE_W > 0 && sp_bit_at(bits, words, x - 1, y)))
            sp_label_join(labels, number, number - w);
        return;
    }
    if (up_left)
        sp_label_join(labels, number, number - w - 1);
    if (x + 1 < w && sp_bit_at(bits, words, x + 1, y - 1))
        sp_label_join(labels, number, number - w + 1);
}

static inline cudaError_t sp_label_borders(sp_cuda_stream *stream, const sp_cuda_plane_scratch *s, int w, int h)
{
    long long pixels = (long long)((w - 1) / SP_TILE_W) * h + (long long)((h - 1) / SP_TILE_H) * w;
    if (!pixels)
        return cudaSuccess;
    return SP_LAUNCH(plane_borders_kernel, sp_blocks(pixels, SP_PLANE_THREADS), SP_PLANE_THREADS, 0, stream->stream, s->bits, s->labels, w, h);
}

static inline dim3 sp_tile_grid(int w, int h)
{
    return dim3(sp_blocks(w, SP_TILE_W), sp_blocks(h, SP_TILE_H));
}

#endif
