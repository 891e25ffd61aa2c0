/* SPDX-License-Identifier: Apache-2.0
 * The kernel table: one contract per op, a scalar reference and its AVX2 and AVX-512 twins, equal to the bit. Filled once:
 * scalar first, then each level that the CPU and the system have overwrites the entries it improves.
 * SPILLWAY_CPU=scalar|avx2|avx512 is the highest level that may be used (tests, and a way out when in doubt); any other
 * value masks nothing.
 *
 * Ops take plain pointers and trust their caller: sizes are checked in prep.c. None can fail, none allocates.
 *
 * The antialiased resize works on blocks of four source rows. A resampled block interleaves them, so that the vertical
 * pass finds the four bytes it multiplies side by side:
 *
 *     column:      0           1           2      ...   (column = 3 * x + channel)
 *     bytes:  r0 r1 r2 r3 r0 r1 r2 r3 r0 r1 r2 r3 ...
 *
 * Fixed point: pixel u8 times coefficient of 22 fractional bits, summed modulo 2^32 (the true sum always fits int32), so
 * any order and any split of the coefficients into digits gives the same bits. */
#ifndef SP_KERNELS_KERNELS_H
#define SP_KERNELS_KERNELS_H

#include "base/attr.h"
#include "kernels/flow_run.h"
#include "kernels/prep.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A source row handed to resize_h or plain_h can be read this far beyond its last pixel (any bytes: they are multiplied
 * by zero). */
#define SP_ROW_SLACK_BYTES 512

/* A block, a resampled row and the row that resize_v and plain_v write may be read and written this far beyond their
 * last column. */
#define SP_COLUMN_SLACK_BYTES 256

/* How one axis is resampled. Made by sp_axis_fill (axis.h), packed by the level that will run it. */
typedef struct sp_axis {
    int n;                   /* outputs */
    int quads;               /* ceil(most taps of any output / 4) */
    int stride;              /* 4 * quads: weights per output */
    int src_first, src_end;  /* the source indices that any output needs: [first, end) */
    int mode;                /* of the level's pack_h */
    const int32_t *first;    /* [n + 16] source index of tap 0, not falling; the 16 repeat the last */
    const int32_t *count;    /* [n + 16] taps of that output, >= 1 */
    const int32_t *weight;   /* [n][stride], 22 fractional bits, zero beyond count; plain: [n], w1 of 8 bits */
    void *packed;            /* sp_axis_packed_bytes() for pack_h / pack_v */
} sp_axis;

/* What one axis' coefficients are computed from (axis.c), in the reference's doubles. */
typedef struct sp_weight_params {
    bool cubic;
    int64_t out_first;
    double scale;   /* source samples per output */
    double inverse; /* 1 / max(scale, 1) */
    double *spare;  /* axis->stride doubles */
} sp_weight_params;

/* Value tables of one spec, f32 and f16, whole and cut into their bytes (least significant first) for the twins that
 * look bytes up in registers. */
typedef struct sp_norm_table {
    _Alignas(64) uint8_t f32_bytes[3][4][256];
    uint8_t f16_bytes[3][2][256];
    float f32[3][256];
    uint16_t f16[3][256];
} sp_norm_table;

/* filter_f32 and best_columns_f32 may write this many elements beyond their last one. */
#define SP_BOX_SLACK 16

/* Corners of boxes, one plane each, best score first. */
typedef struct sp_box_planes {
    const float *x0, *y0, *x1, *y1;
    const int32_t *class_id; /* boxes of different classes leave each other alone; NULL = all are one class */
} sp_box_planes;

/* Floats that nms_f32 wants as `spare`, 64-byte aligned. */
#define SP_NMS_SPARE(most) (6 * SP_ALIGN_UP((size_t)(most), (size_t)16))

struct sp_flow_measure;

/* weights: axis->weight from axis->first and axis->count; zero beyond count. Each double operation is the reference's, in
 *   its order; only taps are computed side by side.
 * pack_h, pack_v: bring axis->weight into the level's own order in axis->packed (may set axis->mode).
 * resize_h: rows[0..3] (absolute, pixel 0 at each pointer) to one block of axis->n pixels.
 * resize_v: output row y from blocks[i], i = 0 .. : the blocks that hold its source rows, the first one being block
 *   (axis->first[y] - axis->src_first) / 4, to `cols` bytes.
 * to_block: `cols` bytes of four rows, interleaved; from_block: row 0..3 of a block, `cols` bytes.
 * plain_h: one row to 8-fractional-bit columns (n * 3); plain_v: two of those to bytes, w1 (0..256) the weight of b.
 * norm_f32, norm_f16: n RGB8 pixels to three planes, `plane` elements apart, by table.
 * softmax_f32: dst may be src. max, then exp(x - max) by kernels/math.h, their sum as the 32-accumulator tree, then a
 *   division each. A NaN or +infinity among the inputs, or nothing but -infinity, makes every output NaN (0x7fc00000).
 * topk_f32: the k (1 <= k <= n) largest in falling order; equal values (and -0, +0) by lower index; NaN come after
 *   -infinity, by lower index.
 * filter_f32: the indices of all scores > threshold, rising; returns how many. A NaN is never one of them.
 * best_columns_f32: of each of n columns the largest of its `rows` values, row_stride apart, and in which row the first of
 *   them stands. NaN are passed over; a column of nothing else, or of -infinity, gives -infinity in row 0.
 * order_f32: the indices of all n scores in topk_f32's order. spare: 2 * n.
 * nms_f32: greedy suppression. A box is kept unless it overlaps a box that was kept before it (and is of its class) by
 *   intersection / union > iou, as arith.h computes it; at most `most` are kept, their indices rising. Returns how many.
 *   iou >= 0. Boxes without area or with a NaN neither suppress nor are suppressed.
 * The ops on grey planes: plane_rows.h; those of the dense flow: flow_run.h. */
#define SP_KERNEL(name, result, parameters) typedef result sp_##name##_fn parameters;
#include "kernels/kernels.inc"
#undef SP_KERNEL

typedef struct sp_kernel_table {
#define SP_KERNEL(name, result, parameters) sp_##name##_fn *name;
#include "kernels/kernels.inc"
#undef SP_KERNEL
} sp_kernel_table;

typedef enum sp_kernel_level {
    SP_LEVEL_SCALAR,
    SP_LEVEL_AVX2,   /* AVX2, FMA, F16C */
    SP_LEVEL_AVX512, /* F, BW, DQ, VL; entries that need VNNI and VBMI only where those are too */
    SP_LEVEL_COUNT
} sp_kernel_level;

/* The table in use; complete after sp_kernels_init(). Read-only afterwards. */
extern sp_kernel_table sp_kernels;

/* Fills the table, once; any thread, any number of times. */
void sp_kernels_init(void);

/* "scalar", "avx2", "avx512" or "avx512+vnni+vbmi": what the table in use was filled with. */
const char *sp_kernels_level(void);

/* The table as it would be at `level` (tests, benches): false when this machine lacks it. */
bool sp_kernels_at(sp_kernel_level level, sp_kernel_table *ret_table);

/* Tests and benches: the table in use is from now on that of `level`. Not thread-safe. */
bool sp_kernels_force(sp_kernel_level level);

/* The levels' own declarations: sp_<op>_c for all; the others define what they improve. */
#define SP_KERNEL(name, result, parameters) result sp_##name##_c parameters;
#include "kernels/kernels.inc"
#undef SP_KERNEL
#define SP_KERNEL(name, result, parameters) result sp_##name##_avx2 parameters;
#include "kernels/kernels.inc"
#undef SP_KERNEL
#define SP_KERNEL(name, result, parameters) result sp_##name##_avx512 parameters;
#include "kernels/kernels.inc"
#undef SP_KERNEL

#endif
