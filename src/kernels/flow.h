/* SPDX-License-Identifier: Apache-2.0
 * Dense optical flow between two grey pictures by Farneback's polynomial expansion (G. Farnebäck, "Two-frame motion
 * estimation based on polynomial expansion", SCIA 2003), with the parameters and the conventions of OpenCV's
 * calcOpticalFlowFarneback.
 *
 *   sp_flow        what depends on size and parameters only: tables, sizes of levels. Immutable, shared by threads.
 *   sp_flow_frame  one frame's expansion on every level: made once, used for the pair before it and the pair after it.
 *   sp_flow_scratch rows and fields that one thread works in.
 *
 * Exactness: the same bits on every CPU level and on every number of threads ("One arithmetic"). Against OpenCV 5's CPU
 * result, which sums in double and in another order: a 99th percentile of at most 1e-4 px and an RMS of at most 1e-3 px on
 * real pictures; single pixels may differ by more, in any two implementations. */
#ifndef SP_KERNELS_FLOW_H
#define SP_KERNELS_FLOW_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sides of a frame: below 1 or beyond it SP_INVALID / SP_TOO_LARGE. 16,384 is more than any camera's. */
#define SP_FLOW_SIDE_MAX 16384
#define SP_FLOW_LEVELS_MAX 16

typedef struct sp_flow_params {
    double pyr_scale;  /* of one level to the next finer one: (0, 1) */
    int levels;        /* 0 = the frame itself only, as OpenCV counts; cut where a side would fall below 32 */
    int winsize;       /* 1 .. 255: side of the averaging window */
    int iterations;    /* 1 .. 64 on each level */
    int poly_n;        /* 1 .. 15: neighbourhood of the expansion (5 or 7 are usual) */
    double poly_sigma; /* of its Gaussian; below FLT_EPSILON: 0.3 * poly_n */
    bool gaussian;     /* OPTFLOW_FARNEBACK_GAUSSIAN: the window is a Gaussian, not a box */
} sp_flow_params;
sp_flow_params sp_flow_params_default(void); /* .5, 3, 15, 3, 5, 1.2, box */

typedef struct sp_flow sp_flow;
typedef struct sp_flow_frame sp_flow_frame;
typedef struct sp_flow_scratch sp_flow_scratch;

/* SP_INVALID: a parameter (the message names it and its range); SP_TOO_LARGE; SP_NOMEM. Threads: any. */
sp_status sp_flow_new(const sp_flow_params *params, int w, int h, sp_flow **ret_flow, sp_error *reterr);
void sp_flow_free(sp_flow *flow); /* NULL is fine; frames and scratch of it are freed before */
sp_status sp_flow_frame_new(const sp_flow *flow, sp_flow_frame **ret_frame, sp_error *reterr);
void sp_flow_frame_free(sp_flow_frame *frame);
sp_status sp_flow_scratch_new(const sp_flow *flow, sp_flow_scratch **ret_scratch, sp_error *reterr);
void sp_flow_scratch_free(sp_flow_scratch *scratch);
SP_DEFINE_CLEANUP(sp_flow, sp_flow_free)
SP_DEFINE_CLEANUP(sp_flow_frame, sp_flow_frame_free)
SP_DEFINE_CLEANUP(sp_flow_scratch, sp_flow_scratch_free)

/* Expands one frame: h rows of w bytes, stride_bytes apart. Nothing outside the rows is read. Allocates nothing. */
void sp_flow_expand(const sp_flow *flow, sp_flow_frame *ret_frame, const uint8_t *grey, size_t stride_bytes,
                    sp_flow_scratch *scratch);

/* The flow from `a` to `b`: a's pixel (x, y) is found in b at (x + dx[i], y + dy[i]), in pixels. dx, dy: h rows of w floats,
 * stride_floats apart (>= w). init_dx, init_dy (both or neither NULL): where to begin, same layout. May be dx and dy
 * themselves. Allocates nothing. */
void sp_flow_pair(const sp_flow *flow, const sp_flow_frame *a, const sp_flow_frame *b, const float *init_dx,
                  const float *init_dy, float *dx, float *dy, size_t stride_floats, sp_flow_scratch *scratch);

#endif
