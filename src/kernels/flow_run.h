/* SPDX-License-Identifier: Apache-2.0
 * What lies behind flow.h, for flow_spec.c (tables), flow_run.c (the order of the work) and the levels' files (rows).
 *
 * An expansion is kept row by row, the five channels of a row one behind the other, `stride` floats apart:
 *
 *     row 0:  slope down   [w .. stride]
 *             slope across [w .. stride]
 *             curve down, curve across, mixed
 *     row 1:  ...
 *
 * so that a pixel's neighbours lie in ten short runs, whatever row the flow points to, and both roles of a frame (the pair
 * before it, the pair after it) read the same memory. Rows of matrices and of their sums have the same form. */
#ifndef SP_KERNELS_FLOW_RUN_H
#define SP_KERNELS_FLOW_RUN_H

#include "kernels/flow.h"
#include "kernels/flow_arith.h"

/* Any row of floats that is not the caller's can be read this far beyond its last one (any bits: they are not used). */
#define SP_FLOW_SLACK 32

/* A row of matrices begins this far into its memory, so that its ends can be repeated to both sides: half the largest
 * window. The right side has as much, and the slack. */
#define SP_FLOW_MARGIN 128

/* Rows of sums that are solved at once: the twins share the sums of neighbouring rows. */
#define SP_FLOW_BAND 8

#define SP_FLOW_POLY_MAX 15

/* Columns and rows at each end whose matrices weigh less. */
#define SP_FLOW_BORDER 5

/* Iterations that go down the picture together, each a window's half behind the one before it, so that both expansions are
 * read from memory once for all of them. More than that take turns. */
#define SP_FLOW_FUSED 4

/* Weighted sums along one axis: output i = sum of weight[t] * source[first[i] + t], t rising, by fused multiply-adds onto
 * the first product. first[i] + taps <= the source's length. */
typedef struct sp_flow_axis {
    int n, taps;
    int stride;          /* n rounded up to 16 */
    const int32_t *first; /* [stride]; beyond n the last one is repeated */
    const float *weight; /* across: [taps][stride], zero beyond n; down: [n][taps] */
} sp_flow_axis;

/* The polynomial expansion's tables, index = distance from the pixel. */
typedef struct sp_flow_poly {
    int n;
    float g[SP_FLOW_POLY_MAX + 1], xg[SP_FLOW_POLY_MAX + 1], xxg[SP_FLOW_POLY_MAX + 1];
    float curve[SP_FLOW_POLY_MAX + 1]; /* ig03 * g + ig33 * xxg */
    float rest;                        /* the sum of curve over the whole neighbourhood: 0 but for g's rounding */
    float ig11, ig55;
    float ig03, ig03_rest, ig33, ig33_rest;
} sp_flow_poly;

typedef struct sp_flow_window {
    int n;          /* side, odd */
    bool gaussian;
    float regular;  /* 1e-3 in units of the window's sums */
    float weight[SP_FLOW_MARGIN]; /* Gaussian: [0 .. n / 2], by distance */
} sp_flow_window;

/* One row whose matrices are wanted. */
typedef struct sp_flow_row {
    const float *a;       /* this row of the first frame's expansion */
    const float *b;       /* row 0 of the second's */
    size_t stride;        /* of both */
    const float *dx, *dy; /* this row of the flow */
    const float *weight;  /* [w], by column; this row's own in weight_y */
    float weight_y;
    int y, w, h;
} sp_flow_row;

/* Level k = 0 is the frame itself. */
typedef struct sp_flow_level {
    int w, h;
    size_t stride;           /* of expansions and sums */
    size_t offset;           /* of this level in a frame's memory, in floats */
    sp_flow_axis across, down;       /* grey frame -> this level; unused at level 0 */
    sp_flow_axis up_across, up_down; /* the next coarser level's flow -> this level's */
    float *weight_x, *weight_y;      /* border weights */
} sp_flow_level;

/* Per level: two border weights, two axes from the frame and two from the coarser level of two tables each; at the coarsest
 * the caller's flow's axes instead. */
#define SP_FLOW_TABLES ((SP_FLOW_LEVELS_MAX + 1) * 10)

struct sp_flow {
    sp_flow_params params;
    int w, h;
    int levels; /* coarsest one's number */
    sp_flow_poly poly;
    sp_flow_window window;
    sp_flow_level level[SP_FLOW_LEVELS_MAX + 1];
    sp_flow_axis init_across, init_down; /* the caller's flow -> the coarsest level's */
    size_t frame_floats;
    void *tables[SP_FLOW_TABLES]; /* what the axes and weights point to */
    int table_count;
};

struct sp_flow_frame {
    float *data;
};

/* Memory that one thread works in; every part is 64-byte aligned. */
struct sp_flow_scratch {
    float *memory;
    const uint8_t **bytes;  /* row pointers: taps of the longest axis */
    const float **rows;     /* row pointers: of an expansion, of sums, of taps */
    float *image;           /* 2 * poly_n + 1 rows of a level's picture */
    float *wide;            /* one row, as wide as the frame */
    float *spare;           /* eight rows with margins: three of an expansion; sums of a window */
    float *matrix;          /* five rows with margins */
    float *sums;            /* per iteration a ring of rows of sums */
    float *field[2];        /* flow of odd and even levels: dx, then dy */
    size_t image_stride, margin_stride;
    int ring_rows;
};

/* The rows in the kernel table:
 * flow_smooth: one row of [1 2 1]/4 across and down three rows of n bytes, mirrored at the ends (101); exact.
 * flow_mix_u8, flow_mix_f32: sum of weight[t] * rows[t][x], t rising, fused onto the first product.
 * flow_across: the same along a row, by the axis; src has SP_FLOW_SLACK behind it.
 * flow_expand: one row's five channels, `stride` apart, from rows[0 .. 2 * poly->n] of n floats around it. spare: three rows
 *   of sp_flow_margin_stride(n). dst may be written up to the next multiple of 16.
 * flow_update: the matrices of one row, five channels `stride` apart; dst may be written as far.
 * flow_window: each of five rows summed across, its ends repeated; src begins SP_FLOW_MARGIN into its memory, and its
 *   margins are written here. A box is summed as a tree by the binary digits of its side, from the left: for 15
 *   ((S8 + S4) + S2) + x, S2k[i] = Sk[i] + Sk[i + k]; a Gaussian from the middle to the ends, fused. spare: eight rows of
 *   sp_flow_margin_stride(n). dst may be written up to the next multiple of 16.
 * flow_solve: 1 .. SP_FLOW_BAND rows of flow: row i from sums[i .. i + window->n - 1], summed down as flow_window does across.
 *   Nothing is written beyond n. */
static inline size_t sp_flow_stride(int w)
{
    return SP_ALIGN_UP((size_t)w, (size_t)16) + SP_FLOW_SLACK;
}

static inline size_t sp_flow_margin_stride(int w)
{
    return SP_ALIGN_UP((size_t)w, (size_t)16) + 2 * SP_FLOW_MARGIN + SP_FLOW_SLACK;
}

/* Rows of sums that one iteration keeps: a window, and the band that is solved at once. */
static inline int sp_flow_ring_rows(const sp_flow_window *window)
{
    return window->n - 1 + SP_FLOW_BAND;
}

#endif
