/* SPDX-License-Identifier: Apache-2.0
 * From candidates to the boxes that a detector answers: scores over a threshold, best first, greedy suppression. Runs the
 * kernels filter_f32, order_f32 and nms_f32 over buffers that are reserved once. */
#ifndef SP_KERNELS_NMS_RUN_H
#define SP_KERNELS_NMS_RUN_H

#include "base/attr.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_nms_scratch sp_nms_scratch;
/* Room for `capacity` candidates (1 or more). NULL: out of memory. */
sp_nms_scratch *sp_nms_scratch_new(int capacity);
void sp_nms_scratch_free(sp_nms_scratch *scratch); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_nms_scratch, sp_nms_scratch_free)

typedef struct sp_nms_params {
    float threshold; /* score must be above it; a NaN is not */
    float iou;       /* >= 0; 1 and above suppresses nothing */
    int candidates;  /* at most so many of the best go into the suppression; 0 = all */
    int most;        /* boxes answered at most; 0 = all */
} sp_nms_params;

/* `boxes`: n (at most the capacity) rows of x0 y0 x1 y1; `class_id` NULL = agnostic. Writes the indices of the boxes that
 * are kept to ret_kept (room for min(n, most)), best score first, equal scores by lower index; returns how many. */
int sp_nms_run(sp_nms_scratch *scratch, const float *boxes, const float *score, const int32_t *class_id, int n,
               const sp_nms_params *params, int32_t *ret_kept);

#endif
