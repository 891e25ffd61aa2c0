/* SPDX-License-Identifier: Apache-2.0
 * Antialiased resize, across first, with crop, normalise and HWC -> NCHW: one pass, no picture in between.
 *
 * A block owns a tile of one tensor and streams the source rows that it needs, four times `groups` at a time:
 *
 *   device --16-byte copies--> stage of RGB8 rows --across--> ring of blocks --down, table--> planes in device memory
 *                              (two; one arrives while      (u32 = 4 rows of one column
 *                               the other one is read)       and channel, tile_cols wide)
 *
 * Across: a thread owns an output column for four source rows at once, so each weight is loaded once for 12 sums. Down: a
 * word of the ring is four taps, one dp4a a digit. A tile as wide as the tensor (up to 256 columns) reads each source byte
 * once but for the rows that two bands share.
 *
 * What bounds it: bytes. 32 pictures of 1280x720 to 224x224 f32 are 88.5 MB in and 19.3 MB out, 107.7 MB: 32 us at 3.35 TB/s.
 * Bands of 14 rows read 51 source rows for 45, the rest from L2. Arithmetic: 720 * 224 * 32 pixel rows of 3 quads of taps,
 * 21 instructions a quad and 20 more, times 51 / 45: 5.8 M * 90 = 0.53 G instructions of a lane, and 0.05 G for the way down;
 * 132 multiprocessors at 1.7 GHz issue 28.7 T/s: 20 us beside the copies. Two stages of 4 rows of 3.9 KB, four blocks a
 * multiprocessor: 62 KB on their way to each, three times what latency (0.7 us) times bandwidth (25 KB/us) asks for. */
#include "kernels/cuda/prep.cuh"

/* `b`: the first block of the stage that has arrived in `raw`. */
SP_DEVICE void stage_across(const sp_prep_job *job, const sp_prep_picture *p, const tile_part *t, const unsigned char *raw, uint32_t *ring, int b,
                            int i, int group, int first_column)
{
    if (i >= t->i1 - t->i0 || group >= p->groups || b + group >= t->block1)
        return;
    int y = p->top + 4 * (b + group), rows[4];
    uint32_t words[3];
#pragma unroll
    for (int j = 0; j < 4; j++)
        rows[j] = (4 * group + j) * p->pitch + lead_of(p, t->left, y + j) + first_column;
    across_four(raw, rows, across_digits(job, p, t->i0 + i), p->x1 - p->x0, p->quads, words);
    uint32_t *to = ring + (b + group - t->block0) % p->ring * 3 * p->tile_cols + i;
#pragma unroll
    for (int c = 0; c < 3; c++)
        to[c * p->tile_cols] = words[c];
}

/* Output row j of one column. */
template <int OUT>
SP_DEVICE void row_down(const sp_prep_job *job, const sp_prep_picture *p, const tile_part *t, const uint32_t *ring,
                        const unsigned char *table, int i, int j)
{
    sp_prep_pair at = down_at(job, p, j);
    int begin = block_begin(p, at), blocks = block_end(p, at) - begin, slot = (begin - t->block0) % p->ring;
    const sp_prep_digits *digits = down_digits(job, p, j);
    digit_sums sums[3] = { { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } };
    for (int b = 0; b < blocks; b++) {
        const uint32_t *from = ring + slot * 3 * p->tile_cols + i;
        uint4 w = load_digits(digits + b);
#pragma unroll
        for (int c = 0; c < 3; c++)
            add4(&sums[c], from[c * p->tile_cols], w);
        slot = slot + 1 == p->ring ? 0 : slot + 1;
    }
    uint8_t rgb[3] = { byte_of(sums[0]), byte_of(sums[1]), byte_of(sums[2]) };
    put<OUT>(job, p->index, p->x0 + t->i0 + i, p->y0 + j, rgb, table);
}

template <int OUT>
__global__ void __launch_bounds__(SP_PREP_THREADS_MAX, SP_PREP_RESIDENT) prep_across(const __grid_constant__ sp_prep_job job)
{
    SP_SHARED(unsigned char, shared);
    const sp_prep_picture *p = picture_of(&job, (int)blockIdx.x);
    int tile = (int)blockIdx.x - p->first_tile;
    bool padding = tile >= p->tiles;
    if (padding)
        put_padding<OUT>(&job, p, tile - p->tiles);
    if (padding)
        return; /* the whole block */

    unsigned char *table = shared + SP_PREP_TILE_BYTES, *raw = table + norm_bytes<OUT>();
    int stage_rows = 4 * p->groups, stage_bytes = stage_rows * p->pitch;
    uint32_t *ring = reinterpret_cast<uint32_t *>(raw + SP_PREP_STAGES * stage_bytes);
    tile_part *t = reinterpret_cast<tile_part *>(shared); /* in registers it would cost too many */
    if (threadIdx.x == 0)
        *t = part_of(&job, p, tile);
    load_norm<OUT>(&job, table);
    __syncthreads();
    int group = (int)threadIdx.x / p->tile_cols, i = (int)threadIdx.x - group * p->tile_cols;
    int first_column = i < t->i1 - t->i0 ? (across_at(&job, p, t->i0 + i).at - t->left) * 3 : 0;

    load_rows(p, t, raw, t->block0, stage_rows);
    int j = t->j0, stage = 0;
    for (int b = t->block0; b < t->block1; b += p->groups) {
        wait_rows();
        __syncthreads(); /* the stage is there; the ring's oldest blocks and the other stage are free */
        load_rows(p, t, raw + (stage ^ 1) * stage_bytes, b + p->groups, stage_rows);
        stage_across(&job, p, t, raw + stage * stage_bytes, ring, b, i, group, first_column);
        stage ^= 1;
        __syncthreads();
        int ready = j;
        while (ready < t->j1 && block_end(p, down_at(&job, p, ready)) <= b + p->groups)
            ready++;
        if (group < p->groups && i < t->i1 - t->i0) {
            for (int y = j + group; y < ready; y += p->groups)
                row_down<OUT>(&job, p, t, ring, table, i, y);
        }
        j = ready;
    }
}

extern "C" cudaError_t sp_prep_launch_across(const sp_prep_job *job, sp_prep_out out, int tiles, int threads, size_t shared_bytes,
                                             cudaStream_t stream)
{
    switch (out) {
    case SP_PREP_OUT_F32:
        return SP_LAUNCH((prep_across<SP_PREP_OUT_F32>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    case SP_PREP_OUT_F16:
        return SP_LAUNCH((prep_across<SP_PREP_OUT_F16>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    default:
        return SP_LAUNCH((prep_across<SP_PREP_OUT_RGB8>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    }
}
