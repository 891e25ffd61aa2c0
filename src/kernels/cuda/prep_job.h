/* SPDX-License-Identifier: Apache-2.0
 * What the host part of pre-processing (prep.c) tells its kernels (prep_*.cu). A job is one launch; it travels as the kernel's
 * parameter, so that nothing has to be copied to the device first and a captured launch keeps what it was given.
 *
 *   tensor of one picture           tiles: tile_cols x tile_rows of what the picture covers, row by row,
 *   +--------------------+          then (where there is padding) strips of SP_PREP_PAD_ROWS tensor rows
 *   |  padding           |
 *   |    x0         x1   |          axis tables, by position in the covered part:
 *   | y0 +--+--+--+--+   |            across_at[i] = { first tap's source column, taps }
 *   |    |  |  |  |  |   |            across[quad * cols + i] = the digits of 4 weights
 *   |    +--+--+--+--+   |            down_at[j]   = { first tap's source row, taps }
 *   |    |  |  |  |  |   |            down[j * span + block] = the digits of the weights of a block of 4 source rows;
 *   | y1 +--+--+--+--+   |              block 0 of the picture begins at source row `top`
 *   +--------------------+
 *
 * A weight w of 22 fractional bits is three signed digits, w = d0 + 256 d1 + 65536 d2, each -128 .. 127; the digits of four
 * weights lie in one word each (x: d0, y: d1, z: d2). Four bytes times four digits are one dp4a. Sums are modulo 2^32, and the
 * true sum fits: any order gives the same bits. Plain bilinear's tables are { first tap, weight of the second } alone. */
#ifndef SP_KERNELS_CUDA_PREP_JOB_H
#define SP_KERNELS_CUDA_PREP_JOB_H

#include "kernels/cuda_prep.h"
#include "kernels/yuv_arith.h"

#include <cuda_runtime_api.h>

#define SP_PREP_JOB_PICTURES 32   /* a job stays under 4 KB, the size that parameters always could have */
#define SP_PREP_THREADS_MAX 256
#define SP_PREP_PAD_ROWS 8
#define SP_PREP_STAGES 2          /* of source rows in shared memory: one is read while the next one arrives */
#define SP_PREP_ROW_SLACK 32      /* 15 before a row's first byte (16-byte alignment), the rest behind its last */
#define SP_PREP_TILE_BYTES 64     /* what a block knows about its tile, in front of everything */
#define SP_PREP_NORM_BYTES (3 * 256 * 4)

typedef struct sp_prep_pair {
    int32_t at, count;
} sp_prep_pair;

typedef struct sp_prep_digits {
    uint32_t x, y, z, w; /* w: 0 */
} sp_prep_digits;

typedef enum sp_prep_order {
    SP_PREP_ACROSS_FIRST,
    SP_PREP_DOWN_FIRST,
    SP_PREP_DIRECT_ACROSS, /* one warp an output pixel, where a tile's rows do not fit into shared memory */
    SP_PREP_DIRECT_DOWN,
    SP_PREP_PLAIN,
} sp_prep_order;

typedef enum sp_prep_out { SP_PREP_OUT_F32, SP_PREP_OUT_F16, SP_PREP_OUT_RGB8 } sp_prep_out;

typedef struct sp_prep_picture {
    const uint8_t *rgb, *end;           /* nothing else is read */
    size_t stride_bytes;
    uint32_t across_at, across;         /* tables, as offsets from sp_prep_job.tables */
    uint32_t down_at, down;
    int32_t top;
    int32_t first_tile, tiles, tiles_across;
    uint32_t chunk_inverse;             /* 2^32 / (pitch / 16), rounded up */
    int32_t pitch;                      /* bytes between source rows in shared memory */
    uint16_t index;                     /* which tensor of the batch */
    uint16_t order;                     /* sp_prep_order */
    uint16_t x0, x1, y0, y1;            /* the covered part */
    uint16_t quads, span;
    uint16_t tile_cols, tile_rows;
    uint16_t groups;                    /* tile_cols * groups threads compute; each group takes blocks (of 4 rows) of its own */
    uint16_t ring;                      /* blocks in the ring */
    uint16_t row_step, chunk_step;      /* from a thread's 16 bytes of a stage to its next ones */
} sp_prep_picture;

typedef struct sp_prep_job {
    const uint8_t *tables;
    uint8_t *dst;
    size_t image_bytes, stride_bytes;   /* of one tensor; rgb8: of one row */
    const uint8_t *norm;                /* [3][256] f32 or f16 */
    int32_t out_w, out_h;
    int32_t bgr, pad_value;
    int32_t count;
    sp_prep_picture pictures[SP_PREP_JOB_PICTURES];
} sp_prep_job;

/* Normalise alone. */
#define SP_NORM_JOB_PICTURES 128

typedef struct sp_norm_picture {
    const uint8_t *rgb;
    size_t stride_bytes;
} sp_norm_picture;

typedef struct sp_norm_job {
    const uint8_t *norm;
    uint8_t *dst;
    size_t image_bytes;
    int32_t w, h, bgr, count;
    sp_norm_picture pictures[SP_NORM_JOB_PICTURES];
} sp_norm_job;

typedef struct sp_yuv_job {
    sp_cuda_yuv yuv;
    sp_yuv_matrix matrix;
    uint8_t *dst;
    size_t dst_stride_bytes;
} sp_yuv_job;

#ifdef __cplusplus
extern "C" {
#endif

/* Each enqueues one kernel. `tiles`: blocks of the grid. */
cudaError_t sp_prep_launch_across(const sp_prep_job *job, sp_prep_out out, int tiles, int threads, size_t shared_bytes, cudaStream_t stream);
cudaError_t sp_prep_launch_down(const sp_prep_job *job, sp_prep_out out, int tiles, int threads, size_t shared_bytes, cudaStream_t stream);
cudaError_t sp_prep_launch_plain(const sp_prep_job *job, sp_prep_out out, int tiles, int threads, size_t shared_bytes, cudaStream_t stream);

cudaError_t sp_prep_launch_norm(const sp_norm_job *job, sp_prep_out out, cudaStream_t stream);
cudaError_t sp_yuv_launch(const sp_yuv_job *job, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
