/* SPDX-License-Identifier: Apache-2.0
 * Antialiased resize, down first (Pillow 13's order for pictures that lose far more rows than columns), and the direct form for
 * filters that are too long for a tile. Crop, normalise and HWC -> NCHW are fused here as in prep_across.cu.
 *
 *   device --16-byte copies--> stage of RGB8 rows --interleave--> ring of blocks --down--> lines of RGB8 --across, table--> planes
 *
 * The ring holds source columns here, so a tile is narrower: pitch * 4 bytes a block. 4 * groups lines are collected before
 * they go across, since across_four() makes four rows at once. Bound by bytes as prep_across.cu is; each source byte goes through
 * shared memory three times, which is half of what it can move at that rate.
 *
 * Direct: a warp makes one output pixel, its lanes take source rows (or columns, down first). Each source byte is read by about
 * four warps; that is meant for scales of hundreds, where the output is small. */
#include "kernels/cuda/prep.cuh"

/* Block b of the stage: four rows' words become a word per column. Element 0 of a slot is source column `left`. */
SP_DEVICE void interleave(const sp_prep_picture *p, const tile_part *t, const unsigned char *raw, unsigned char *ring, int b)
{
    int words = p->pitch / 4, used = ((t->right - t->left) * 3 + 3) / 4;
    for (int g = 0; g < p->groups && b + g < t->block1; g++) {
        unsigned char *slot = ring + (size_t)((b + g - t->block0) % p->ring) * (size_t)words * 16;
        int y = p->top + 4 * (b + g);
        for (int i = (int)threadIdx.x; i < used; i += (int)blockDim.x) {
            uint32_t w[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int at = (4 * g + j) * p->pitch + lead_of(p, t->left, y + j) + 4 * i;
                const uint32_t *word = reinterpret_cast<const uint32_t *>(raw + (at & ~3));
                w[j] = __funnelshift_r(word[0], word[1], (unsigned)(at & 3) * 8);
            }
            uint32_t low0 = __byte_perm(w[0], w[1], 0x5140), high0 = __byte_perm(w[0], w[1], 0x7362); /* 0a 0b 1a 1b, 2a 2b 3a 3b */
            uint32_t low1 = __byte_perm(w[2], w[3], 0x5140), high1 = __byte_perm(w[2], w[3], 0x7362);
            reinterpret_cast<uint4 *>(slot)[i] = make_uint4(__byte_perm(low0, low1, 0x5410), __byte_perm(low0, low1, 0x7632),
                                                            __byte_perm(high0, high1, 0x5410), __byte_perm(high0, high1, 0x7632));
        }
    }
}

/* Output row j of every source column of the tile, to `line`. */
SP_DEVICE void line_down(const sp_prep_job *job, const sp_prep_picture *p, const tile_part *t, const unsigned char *ring, unsigned char *line, int j)
{
    sp_prep_pair at = down_at(job, p, j);
    int begin = block_begin(p, at), blocks = block_end(p, at) - begin, first = (begin - t->block0) % p->ring;
    int words = p->pitch / 4, used = ((t->right - t->left) * 3 + 3) / 4;
    const sp_prep_digits *digits = down_digits(job, p, j);
    for (int i = (int)threadIdx.x; i < used; i += (int)blockDim.x) {
        digit_sums sums[4] = { { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } };
        for (int b = 0, slot = first; b < blocks; b++, slot = slot + 1 == p->ring ? 0 : slot + 1) {
            uint4 v = reinterpret_cast<const uint4 *>(ring)[(size_t)slot * (size_t)words + (size_t)i], w = load_digits(digits + b);
            add4(&sums[0], v.x, w);
            add4(&sums[1], v.y, w);
            add4(&sums[2], v.z, w);
            add4(&sums[3], v.w, w);
        }
        reinterpret_cast<uint32_t *>(line)[i] = (uint32_t)byte_of(sums[0]) | (uint32_t)byte_of(sums[1]) << 8 |
                                                (uint32_t)byte_of(sums[2]) << 16 | (uint32_t)byte_of(sums[3]) << 24;
    }
}

/* Lines [j, end) lie in `lines`, from its start on; at most four for each group. */
template <int OUT>
SP_DEVICE void lines_across(const sp_prep_job *job, const sp_prep_picture *p, const tile_part *t, const unsigned char *lines,
                            const unsigned char *table, int j, int end)
{
    int group = (int)threadIdx.x / p->tile_cols, i = (int)threadIdx.x - group * p->tile_cols, rows[4];
    if (i >= t->i1 - t->i0 || group >= p->groups || j + 4 * group >= end)
        return;
    uint32_t words[3];
    int column = (across_at(job, p, t->i0 + i).at - t->left) * 3;
#pragma unroll
    for (int r = 0; r < 4; r++)
        rows[r] = (4 * group + r) * p->pitch + column;
    across_four(lines, rows, across_digits(job, p, t->i0 + i), p->x1 - p->x0, p->quads, words);
    for (int r = 0; r < 4 && j + 4 * group + r < end; r++) {
        uint8_t rgb[3] = { (uint8_t)(words[0] >> (8 * r)), (uint8_t)(words[1] >> (8 * r)), (uint8_t)(words[2] >> (8 * r)) };
        put<OUT>(job, p->index, p->x0 + t->i0 + i, p->y0 + j + 4 * group + r, rgb, table);
    }
}

template <int OUT> SP_DEVICE void down_tile(const sp_prep_job *job, const sp_prep_picture *p, int tile, unsigned char *shared)
{
    unsigned char *table = shared + SP_PREP_TILE_BYTES, *raw = table + norm_bytes<OUT>();
    int stage_rows = 4 * p->groups, stage_bytes = stage_rows * p->pitch;
    unsigned char *lines = raw + SP_PREP_STAGES * stage_bytes, *ring = lines + stage_bytes;
    tile_part *t = reinterpret_cast<tile_part *>(shared);
    if (threadIdx.x == 0)
        *t = part_of(job, p, tile);
    load_norm<OUT>(job, table);
    __syncthreads();

    load_rows(p, t, raw, t->block0, stage_rows);
    int j = t->j0, held = j, stage = 0; /* lines [held, j) are made and not yet across */
    for (int b = t->block0; b < t->block1; b += p->groups) {
        wait_rows();
        __syncthreads();
        load_rows(p, t, raw + (stage ^ 1) * stage_bytes, b + p->groups, stage_rows);
        interleave(p, t, raw + stage * stage_bytes, ring, b);
        stage ^= 1; /* no barrier: of the ring a thread reads the words that it wrote */
        while (j < t->j1 && block_end(p, down_at(job, p, j)) <= b + p->groups) {
            line_down(job, p, t, ring, lines + (j - held) * p->pitch, j);
            j++;
            if (j - held == stage_rows || j == t->j1) {
                __syncthreads();
                lines_across<OUT>(job, p, t, lines, table, held, j);
                __syncthreads(); /* the next line may be of the same rows */
                held = j;
            }
        }
    }
}

/* --- direct --- */

SP_DEVICE int32_t weight_of(uint4 digits, int tap)
{
    int shift = 8 * tap;
    return (int32_t)((uint32_t)(int32_t)(int8_t)(digits.x >> shift) + ((uint32_t)(int32_t)(int8_t)(digits.y >> shift) << 8) +
                     ((uint32_t)(int32_t)(int8_t)(digits.z >> shift) << 16));
}

/* One resampled pixel, rounded to bytes, into the sums of the other direction. */
SP_DEVICE void add_pixel(uint32_t sums[3], uint32_t red, uint32_t green, uint32_t blue, int32_t weight)
{
    sums[0] += sp_resize_clip((int32_t)red) * (uint32_t)weight;
    sums[1] += sp_resize_clip((int32_t)green) * (uint32_t)weight;
    sums[2] += sp_resize_clip((int32_t)blue) * (uint32_t)weight;
}

/* Source row y across, at output column i. */
SP_DEVICE void pixel_across(const sp_prep_job *job, const sp_prep_picture *p, int y, int i, int32_t weight, uint32_t sums[3])
{
    sp_prep_pair at = across_at(job, p, i);
    const uint8_t *pixel = p->rgb + (size_t)y * p->stride_bytes + (size_t)at.at * 3;
    const sp_prep_digits *digits = across_digits(job, p, i);
    uint32_t red = SP_RESIZE_HALF, green = SP_RESIZE_HALF, blue = SP_RESIZE_HALF;
    for (int tap = 0; tap < at.count; tap += 4) {
        uint4 four = load_digits(digits + (size_t)(tap / 4) * (size_t)(p->x1 - p->x0));
        for (int i4 = 0; i4 < 4 && tap + i4 < at.count; i4++, pixel += 3) {
            uint32_t w = (uint32_t)weight_of(four, i4);
            red += pixel[0] * w;
            green += pixel[1] * w;
            blue += pixel[2] * w;
        }
    }
    add_pixel(sums, red, green, blue, weight);
}

/* Source column x down, at output row j. */
SP_DEVICE void pixel_down(const sp_prep_job *job, const sp_prep_picture *p, int x, int j, int32_t weight, uint32_t sums[3])
{
    sp_prep_pair at = down_at(job, p, j);
    const uint8_t *pixel = p->rgb + (size_t)at.at * p->stride_bytes + (size_t)x * 3;
    const sp_prep_digits *digits = down_digits(job, p, j);
    uint32_t red = SP_RESIZE_HALF, green = SP_RESIZE_HALF, blue = SP_RESIZE_HALF;
    int lead = (at.at - p->top) & 3;
    for (int tap = lead; tap < lead + at.count; tap++, pixel += p->stride_bytes) {
        uint32_t w = (uint32_t)weight_of(load_digits(digits + tap / 4), tap & 3);
        red += pixel[0] * w;
        green += pixel[1] * w;
        blue += pixel[2] * w;
    }
    add_pixel(sums, red, green, blue, weight);
}

/* A tile is as many pixels of the covered part, counted row by row, as the block has warps. */
template <int OUT> SP_DEVICE void direct_tile(const sp_prep_job *job, const sp_prep_picture *p, int tile, unsigned char *table)
{
    load_norm<OUT>(job, table);
    __syncthreads();
    int cols = p->x1 - p->x0, pixels = cols * (p->y1 - p->y0), lane = (int)threadIdx.x & 31;
    int pixel = tile * ((int)blockDim.x / 32) + (int)threadIdx.x / 32, known = min(pixel, pixels - 1), j = known / cols, i = known - j * cols;
    sp_prep_pair across = across_at(job, p, i), down = down_at(job, p, j);
    uint32_t sums[3] = { 0, 0, 0 };
    if (p->order == SP_PREP_DIRECT_ACROSS) {
        int lead = (down.at - p->top) & 3;
        for (int tap = lane; tap < down.count; tap += 32)
            pixel_across(job, p, down.at + tap, i, weight_of(load_digits(down_digits(job, p, j) + (lead + tap) / 4), (lead + tap) & 3), sums);
    } else {
        for (int tap = lane; tap < across.count; tap += 32)
            pixel_down(job, p, across.at + tap, j, weight_of(load_digits(across_digits(job, p, i) + (size_t)(tap / 4) * (size_t)cols), tap & 3),
                       sums);
    }
    uint8_t rgb[3];
    for (int c = 0; c < 3; c++) {
        for (int distance = 16; distance > 0; distance /= 2)
            sums[c] += __shfl_xor_sync(0xffffffffu, sums[c], distance);
        rgb[c] = sp_resize_clip((int32_t)(sums[c] + (uint32_t)SP_RESIZE_HALF));
    }
    if (lane == 0 && pixel < pixels)
        put<OUT>(job, p->index, p->x0 + i, p->y0 + j, rgb, table);
}

template <int OUT>
__global__ void __launch_bounds__(SP_PREP_THREADS_MAX, SP_PREP_RESIDENT < 3 ? 2 : 3) prep_down(const __grid_constant__ sp_prep_job job)
{
    SP_SHARED(unsigned char, shared);
    const sp_prep_picture *p = picture_of(&job, (int)blockIdx.x);
    int tile = (int)blockIdx.x - p->first_tile;
    if (tile >= p->tiles) /* the whole block goes one way */
        put_padding<OUT>(&job, p, tile - p->tiles);
    else if (p->order == SP_PREP_DOWN_FIRST)
        down_tile<OUT>(&job, p, tile, shared);
    else
        direct_tile<OUT>(&job, p, tile, shared);
}

extern "C" cudaError_t sp_prep_launch_down(const sp_prep_job *job, sp_prep_out out, int tiles, int threads, size_t shared_bytes,
                                           cudaStream_t stream)
{
    switch (out) {
    case SP_PREP_OUT_F32:
        return SP_LAUNCH((prep_down<SP_PREP_OUT_F32>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    case SP_PREP_OUT_F16:
        return SP_LAUNCH((prep_down<SP_PREP_OUT_F16>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    default:
        return SP_LAUNCH((prep_down<SP_PREP_OUT_RGB8>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    }
}
