/* SPDX-License-Identifier: Apache-2.0
 * Inside the CUDA twin of the dense flow: what its host part (flow.c) hands to its kernels. C and C++.
 *
 * An expansion on the device, one level:
 *
 *     heads  float4 [h][pitch]   slope down, slope across, curve down, curve across
 *     mixed  float  [h][pitch]   the mixed one
 *
 * so that a pixel is two loads, of 16 and of 4 bytes, each next to its neighbour's: 20 bytes a pixel and none for padding (five
 * floats padded to eight would move 60 % more, five planes take 20 loads for four neighbours instead of 8). */
#ifndef SP_KERNELS_CUDA_FLOW_PARTS_H
#define SP_KERNELS_CUDA_FLOW_PARTS_H

#include "kernels/flow_run.h"

#include <cuda_runtime_api.h>

typedef struct sp_cuda_flow_axis { /* sp_flow_axis, its tables on the device */
    int taps, stride;
    const int32_t *first;
    const float *weight;
} sp_cuda_flow_axis;

/* Level k = 0 is the frame. The expansion's launches take all levels at once, the coarsest first: `first_*` say where a level
 * begins among them. */
typedef struct sp_cuda_flow_level {
    int w, h, pitch;
    int tiles_across, first_tile;
    int first_row;              /* of the frame's rows mixed for the levels above 0 */
    size_t offset;              /* in a frame's planes, in pixels */
    sp_cuda_flow_axis across, down, up_across, up_down;
    const float *weight_x, *weight_y;
} sp_cuda_flow_level;

typedef struct sp_cuda_flow_expansion {
    const uint8_t *grey;
    size_t grey_stride;
    int w, h;                   /* of the frame */
    const sp_cuda_flow_level *levels; /* device */
    int coarsest;
    int rows, tiles;            /* of all levels above 0; of all levels */
    float *wide;                /* [rows][wide_pitch]: the frame's rows, mixed down to the levels' */
    int wide_pitch;
    void *heads;                /* float4 */
    float *mixed;
    sp_flow_poly poly;
} sp_cuda_flow_expansion;

#define SP_CUDA_FLOW_TILE_W 64
#define SP_CUDA_FLOW_TILE_H 16

/* What an iteration begins with. */
typedef enum sp_cuda_flow_from { SP_CUDA_FLOW_ZEROS, SP_CUDA_FLOW_FIELD, SP_CUDA_FLOW_COARSER } sp_cuda_flow_from;

/* One iteration on one level. `to` is another field than `from`. */
typedef struct sp_cuda_flow_step {
    const void *a_heads, *b_heads; /* float4 */
    const float *a_mixed, *b_mixed;
    int w, h, pitch;
    sp_cuda_flow_from kind;
    const float *from_dx, *from_dy;
    size_t from_stride;
    sp_cuda_flow_axis across, down; /* SP_CUDA_FLOW_COARSER: of at most two taps */
    float *to_dx, *to_dy;
    size_t to_stride;
    const float *weight_x, *weight_y;
    sp_flow_window window;
} sp_cuda_flow_step;

/* How a level is cut: columns of a block (128, 64; 0 = the window is too wide for a ring), outputs in a strip, rows in a band. */
typedef struct sp_cuda_flow_cut {
    int columns, strip, band;
} sp_cuda_flow_cut;

/* Rows of matrices that a block makes at once. */
#define SP_CUDA_FLOW_ROWS 8

/* Columns of a block of the wide path; less the window's apron, its outputs. */
#define SP_CUDA_FLOW_WIDE 512

static inline bool sp_cuda_flow_is_box15(const sp_flow_window *window)
{
    return window->n == 15 && !window->gaussian;
}

/* Floats from one row of the ring to the next, by the window's side: fours of outputs. Of 128 columns also the last, cut four (the
 * default's 114 outputs cut 1920 into 17 strips); of 64 only whole ones: two blocks of 48 then fit into 64 KiB, a T4's. */
SP_HD int sp_cuda_flow_ring_pitch(int n, int columns)
{
    return (columns - n + 1 + (columns == 128 ? 3 : 0)) & ~3;
}

/* Outputs that a block's strip has at most. */
static inline int sp_cuda_flow_strip(int n, int columns)
{
    return SP_MIN(columns - n + 1, sp_cuda_flow_ring_pitch(n, columns));
}

/* A block's shared memory: rows of matrices (and three floats that are read beyond the last), then the ring of sums. */
static inline size_t sp_cuda_flow_shared_bytes(const sp_flow_window *window, int columns)
{
    size_t ring = (size_t)(window->n - 1 + SP_CUDA_FLOW_ROWS) * (size_t)sp_cuda_flow_ring_pitch(window->n, columns);
    return sizeof(float) * (SP_FLOW_CHANNELS * ((size_t)SP_CUDA_FLOW_ROWS * (size_t)columns + ring) + 4);
}

#ifdef __cplusplus
extern "C" {
#endif

/* Launches (flow_expand.cu, flow_march.cu, flow_wide.cu); everything asynchronous. sums: [SP_FLOW_CHANNELS][h][pitch]. */
cudaError_t sp_cuda_flow_launch_expansion(const sp_cuda_flow_expansion *expansion, cudaStream_t stream);
cudaError_t sp_cuda_flow_launch_march(const sp_cuda_flow_step *step, const sp_cuda_flow_cut *cut, cudaStream_t stream);
cudaError_t sp_cuda_flow_launch_wide(const sp_cuda_flow_step *step, float *sums, cudaStream_t stream);
/* The flow that the coarsest level begins with, from the caller's, by axes of any number of taps. */
cudaError_t sp_cuda_flow_launch_begin(float *dx, float *dy, size_t stride, int w, int h, const float *init_dx, const float *init_dy,
                                      size_t init_stride, const sp_cuda_flow_axis *across, const sp_cuda_flow_axis *down,
                                      cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
