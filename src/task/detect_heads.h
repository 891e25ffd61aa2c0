/* SPDX-License-Identifier: Apache-2.0
 * From a head's numbers to candidates: boxes in pixels of the input tensor, each with its score and class. Private to this
 * room. */
#ifndef SP_TASK_DETECT_HEADS_H
#define SP_TASK_DETECT_HEADS_H

#include "task/detect.h"

/* One output of one item, widened to f32. */
typedef struct sp_head_tensor {
    const float *data;
    int rows, columns; /* the last two dimensions */
} sp_head_tensor;

/* Candidates over the threshold; room for `capacity`. */
typedef struct sp_candidates {
    int capacity, count;
    float *boxes; /* rows of x0 y0 x1 y1 */
    float *score;
    int32_t *class_id;
    /* Scratch of `capacity` + SP_BOX_SLACK: */
    float *best;
    int32_t *which;
    bool not_finite; /* a score was no number */
} sp_candidates;

/* The anchors of SP_BOXES_OFFSETS: rows of cx cy w h in pixels of the input. How many; ret_anchors NULL only counts. */
int sp_head_anchors(const sp_model *model, float *ret_anchors);

/* Boxes that the head gives for the model's input (grids and anchors); 0 = only the run knows. */
int sp_head_expected(const sp_model *model);

void sp_head_yolox(const sp_model *model, const sp_head_tensor *t, float threshold, sp_candidates *out);
void sp_head_yolov5(const sp_head_tensor *t, float threshold, sp_candidates *out);
void sp_head_yolov8(const sp_head_tensor *t, float threshold, sp_candidates *out);
void sp_head_ssd(const sp_model *model, const sp_head_tensor *boxes, const sp_head_tensor *scores, const float *anchors,
                 float threshold, sp_candidates *out);
/* classes, distances: one pair per stride. */
void sp_head_nanodet(const sp_model *model, const sp_head_tensor *classes, const sp_head_tensor *distances, float threshold,
                     sp_candidates *out);

#endif
