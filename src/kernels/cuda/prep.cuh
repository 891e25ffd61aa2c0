/* SPDX-License-Identifier: Apache-2.0
 * What the kernels of pre-processing share: source rows into shared memory, sums of digits, values out. */
#ifndef SP_KERNELS_CUDA_PREP_CUH
#define SP_KERNELS_CUDA_PREP_CUH

#include "kernels/cuda/launch.cuh"

#include "kernels/arith.h"
#include "kernels/cuda/prep_job.h"

/* Blocks of 256 threads that a multiprocessor should hold at least: as many as leave ptxas registers enough not to spill. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#define SP_PREP_RESIDENT 4 /* 64 registers a thread */
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define SP_PREP_RESIDENT 2
#else
#define SP_PREP_RESIDENT 3
#endif

#define SP_DEVICE static __device__ __forceinline__

/* sum + four bytes times four signed bytes. */
SP_DEVICE int dot4(uint32_t bytes, uint32_t digits, int sum)
{
#ifdef __CUDA_ARCH__
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(bytes), "r"(digits));
#else
    for (int i = 0; i < 4; i++)
        sum += (int)(bytes >> (8 * i) & 255u) * (int8_t)(digits >> (8 * i) & 255u);
#endif
    return sum;
}

/* One output: a sum for each digit. */
typedef struct digit_sums {
    int d0, d1, d2;
} digit_sums;

SP_DEVICE void add4(digit_sums *sums, uint32_t bytes, uint4 digits)
{
    sums->d0 = dot4(bytes, digits.x, sums->d0);
    sums->d1 = dot4(bytes, digits.y, sums->d1);
    sums->d2 = dot4(bytes, digits.z, sums->d2);
}

SP_DEVICE uint8_t byte_of(digit_sums sums)
{
    uint32_t sum = (uint32_t)SP_RESIZE_HALF + (uint32_t)sums.d0 + ((uint32_t)sums.d1 << 8) + ((uint32_t)sums.d2 << 16);
    return sp_resize_clip((int32_t)sum);
}

SP_DEVICE uint4 load_digits(const sp_prep_digits *digits)
{
    return __ldg(reinterpret_cast<const uint4 *>(digits));
}

SP_DEVICE sp_prep_pair load_pair(const sp_prep_pair *pair)
{
    int2 v = __ldg(reinterpret_cast<const int2 *>(pair));
    sp_prep_pair p = { v.x, v.y };
    return p;
}

/* Tables of one picture. */
SP_DEVICE sp_prep_pair across_at(const sp_prep_job *job, const sp_prep_picture *p, int i)
{
    return load_pair(reinterpret_cast<const sp_prep_pair *>(job->tables + p->across_at) + i);
}

SP_DEVICE sp_prep_pair down_at(const sp_prep_job *job, const sp_prep_picture *p, int j)
{
    return load_pair(reinterpret_cast<const sp_prep_pair *>(job->tables + p->down_at) + j);
}

SP_DEVICE const sp_prep_digits *across_digits(const sp_prep_job *job, const sp_prep_picture *p, int i)
{
    return reinterpret_cast<const sp_prep_digits *>(job->tables + p->across) + i;
}

SP_DEVICE const sp_prep_digits *down_digits(const sp_prep_job *job, const sp_prep_picture *p, int j)
{
    return reinterpret_cast<const sp_prep_digits *>(job->tables + p->down) + (size_t)j * p->span;
}

/* The picture that this block works for; the tiles of a job lie one picture behind the other. */
SP_DEVICE const sp_prep_picture *picture_of(const sp_prep_job *job, int tile)
{
    int low = 0, high = job->count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (tile >= job->pictures[middle].first_tile)
            low = middle;
        else
            high = middle;
    }
    return &job->pictures[low];
}

/* --- values --- */

template <int OUT> SP_DEVICE int norm_bytes()
{
    return OUT == SP_PREP_OUT_F32 ? 3 * 256 * 4 : OUT == SP_PREP_OUT_F16 ? 3 * 256 * 2 : 0;
}

template <int OUT> SP_DEVICE void load_norm(const sp_prep_job *job, unsigned char *table)
{
    const uint4 *from = reinterpret_cast<const uint4 *>(job->norm);
    for (int i = (int)threadIdx.x; i < norm_bytes<OUT>() / 16; i += (int)blockDim.x)
        reinterpret_cast<uint4 *>(table)[i] = __ldg(from + i);
}

/* Pixel (x, y) of one tensor. Neighbouring threads hold neighbouring x. */
template <int OUT> SP_DEVICE void put(const sp_prep_job *job, int index, int x, int y, const uint8_t rgb[3], const unsigned char *table)
{
    uint8_t *dst = job->dst + (size_t)index * job->image_bytes;
    if (OUT == SP_PREP_OUT_RGB8) {
        dst += (size_t)y * job->stride_bytes + (size_t)x * 3;
        for (int c = 0; c < 3; c++)
            dst[c] = rgb[c];
        return;
    }
    size_t plane = (size_t)job->out_w * (size_t)job->out_h, at = (size_t)y * (size_t)job->out_w + (size_t)x;
    for (int c = 0; c < 3; c++) {
        size_t to = at + (size_t)(job->bgr ? 2 - c : c) * plane;
        if (OUT == SP_PREP_OUT_F32)
            reinterpret_cast<float *>(dst)[to] = reinterpret_cast<const float *>(table)[c * 256 + rgb[c]];
        else
            reinterpret_cast<uint16_t *>(dst)[to] = reinterpret_cast<const uint16_t *>(table)[c * 256 + rgb[c]];
    }
}

/* Strip `strip` of the tensor: what no pixel covers. The whole block comes here, or none of it. */
template <int OUT> SP_DEVICE void put_padding(const sp_prep_job *job, const sp_prep_picture *p, int strip)
{
    uint8_t value[3] = { (uint8_t)job->pad_value, (uint8_t)job->pad_value, (uint8_t)job->pad_value };
    int end = min((strip + 1) * SP_PREP_PAD_ROWS, job->out_h);
    for (int y = strip * SP_PREP_PAD_ROWS; y < end; y++) {
        bool inside = y >= p->y0 && y < p->y1;
        int left = inside ? p->x0 : job->out_w, right = inside ? p->x1 : job->out_w;
        for (int x = (int)threadIdx.x; x < left; x += (int)blockDim.x)
            put<OUT>(job, p->index, x, y, value, job->norm);
        for (int x = right + (int)threadIdx.x; x < job->out_w; x += (int)blockDim.x)
            put<OUT>(job, p->index, x, y, value, job->norm);
    }
}

/* --- source rows --- */

/* 16 bytes on their way to shared memory; arrived after wait_rows() and a barrier. */
SP_DEVICE void copy16(unsigned char *shared, const uint8_t *from)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(shared)), "l"(from) : "memory");
#else
    *reinterpret_cast<uint4 *>(shared) = __ldg(reinterpret_cast<const uint4 *>(from));
#endif
}

SP_DEVICE void wait_rows()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

/* How far into its place source row y begins: chunks are aligned in both memories. */
SP_DEVICE int lead_of(const sp_prep_picture *p, int left, int y)
{
    return (int)(((unsigned)reinterpret_cast<uintptr_t>(p->rgb) + (unsigned)left * 3 + (unsigned)y * (unsigned)p->stride_bytes) & 15u);
}

/* --- across --- */

/* One output column of four rows: rows[j] is where the first tap of row j stands in `raw`. ret[c] has the four rows' bytes of
 * channel c, row 0 lowest. Reads up to 16 bytes behind the taps (their weights are 0).
 *
 *   words of 12 bytes, aligned     a: r0 g0 b0 r1   b: g1 b1 r2 g2   c: b2 r3 g3 b3  */
SP_DEVICE void across_four(const unsigned char *raw, const int rows[4], const sp_prep_digits *digits, int cols, int quads, uint32_t ret[3])
{
    digit_sums sums[4][3];
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int c = 0; c < 3; c++)
            sums[j][c].d0 = sums[j][c].d1 = sums[j][c].d2 = 0;
    }
    for (int q = 0; q < quads; q++) {
        uint4 w = load_digits(digits + (size_t)q * (size_t)cols);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t *word = reinterpret_cast<const uint32_t *>(raw + (rows[j] & ~3)) + 3 * q;
            unsigned shift = (unsigned)(rows[j] & 3) * 8;
            uint32_t w0 = word[0], w1 = word[1], w2 = word[2], w3 = word[3];
            uint32_t a = __funnelshift_r(w0, w1, shift), b = __funnelshift_r(w1, w2, shift), c = __funnelshift_r(w2, w3, shift);
            add4(&sums[j][0], __byte_perm(__byte_perm(a, b, 0x0630), c, 0x5210), w);
            add4(&sums[j][1], __byte_perm(__byte_perm(a, b, 0x0741), c, 0x6210), w);
            add4(&sums[j][2], __byte_perm(__byte_perm(a, b, 0x0052), c, 0x7410), w);
        }
    }
#pragma unroll
    for (int c = 0; c < 3; c++)
        ret[c] = (uint32_t)byte_of(sums[0][c]) | (uint32_t)byte_of(sums[1][c]) << 8 | (uint32_t)byte_of(sums[2][c]) << 16 |
                 (uint32_t)byte_of(sums[3][c]) << 24;
}

/* --- blocks of four source rows, counted from the picture's `top` --- */

SP_DEVICE int block_begin(const sp_prep_picture *p, sp_prep_pair at)
{
    return (at.at - p->top) >> 2;
}

SP_DEVICE int block_end(const sp_prep_picture *p, sp_prep_pair at)
{
    return (at.at - p->top + at.count + 3) >> 2;
}

/* A tile: outputs [i0, i1) x [j0, j1) of the covered part, and what of the source it needs. */
typedef struct tile_part {
    int i0, i1, j0, j1;
    int left, right;       /* source columns */
    int low_row, end_row;  /* source rows */
    int block0, block1;
} tile_part;
static_assert(sizeof(tile_part) <= SP_PREP_TILE_BYTES, "the rest of shared memory begins behind it");

SP_DEVICE tile_part part_of(const sp_prep_job *job, const sp_prep_picture *p, int tile)
{
    tile_part t;
    int band = tile / p->tiles_across;
    t.i0 = (tile - band * p->tiles_across) * p->tile_cols;
    t.i1 = min(t.i0 + p->tile_cols, p->x1 - p->x0);
    t.j0 = band * p->tile_rows;
    t.j1 = min(t.j0 + p->tile_rows, p->y1 - p->y0);
    sp_prep_pair last_col = across_at(job, p, t.i1 - 1), top = down_at(job, p, t.j0), low = down_at(job, p, t.j1 - 1);
    t.left = across_at(job, p, t.i0).at;
    t.right = last_col.at + last_col.count;
    t.low_row = top.at;
    t.end_row = low.at + low.count;
    t.block0 = block_begin(p, top);
    t.block1 = block_end(p, low);
    return t;
}

/* The tile's columns of `rows` source rows from `block` on, but only of rows that it needs; the others' places keep what they
 * had (it is multiplied by 0). Nothing outside the picture is read. */
SP_DEVICE void load_rows(const sp_prep_picture *p, const tile_part *t, unsigned char *stage, int block, int rows)
{
    int y = p->top + 4 * block, left = t->left, low_row = t->low_row, end_row = t->end_row;
    int chunks = p->pitch / 16, r = (int)__umulhi(threadIdx.x, p->chunk_inverse), c = (int)threadIdx.x - r * chunks;
    while (r < rows) {
        int at = y + r;
        if (at >= low_row && at < end_row) {
            const uint8_t *row = p->rgb + (size_t)at * p->stride_bytes, *end = row + (size_t)t->right * 3;
            const uint8_t *from = row + (size_t)left * 3 - lead_of(p, left, at) + (size_t)c * 16;
            unsigned char *to = stage + r * p->pitch + c * 16;
            if (from < end && from >= p->rgb && from + 16 <= p->end) {
                copy16(to, from);
            } else if (from < end) {
                for (int i = 0; i < 16; i++) {
                    if (from + i >= p->rgb && from + i < p->end)
                        to[i] = from[i];
                }
            }
        }
        r += p->row_step;
        c += p->chunk_step;
        if (c >= chunks) {
            c -= chunks;
            r++;
        }
    }
}

#endif
