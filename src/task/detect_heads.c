/* SPDX-License-Identifier: Apache-2.0
 * The heads, as their own projects decode them:
 *   YOLOX    (v0 + grid) * stride, exp(v2) * stride; score = objectness * class; the best class of a box
 *   YOLOv5   centre and size are given; the same scores
 *   YOLOv8   centre and size are given, one column a box; score = class
 *   SSD      boxes and scores apart; every class of a box over the threshold is a candidate of its own
 *   NanoDet  each side's distance is the mean of a distribution over whole numbers of strides */
#include "task/detect_heads.h"

#include "kernels/kernels.h"
#include "kernels/post_arith.h"

#include <string.h>

/* A box that is not finite is left out. */
static void put(sp_candidates *out, const float *corners, float score, int32_t class_id)
{
    if (out->count == out->capacity || !sp_head_finite(corners))
        return;
    memcpy(out->boxes + 4 * (size_t)out->count, corners, 4 * sizeof(float));
    out->score[out->count] = score;
    out->class_id[out->count++] = class_id;
}

static void put_centre(sp_candidates *out, float cx, float cy, float w, float h, float score, int32_t class_id)
{
    float box[4];
    sp_head_centre(box, cx, cy, w, h);
    put(out, box, score, class_id);
}

/* The best class of a row of numbers. */
static int32_t best_of(const float *values, int count, float *ret_best)
{
    int32_t which = 0;
    sp_kernels.topk_f32(&which, ret_best, values, count, 1);
    return which;
}

/* Objectness first: with classes of at most 1 it decides about most boxes. Classes above 1 (not the family's) are scored
 * all the same. */
static bool scored(const float *row, int columns, float threshold, sp_candidates *out, float *ret_score, int32_t *ret_class)
{
    float best;
    if (row[4] != row[4])
        out->not_finite = true;
    if (!(row[4] > threshold))
        return false;
    *ret_class = best_of(row + 5, columns - 5, &best);
    *ret_score = row[4] * best;
    if (*ret_score != *ret_score)
        out->not_finite = true;
    return *ret_score > threshold;
}

static int cells(int side, int stride)
{
    return (side + stride - 1) / stride;
}

int sp_head_expected(const sp_model *model)
{
    int count = 0;
    if (model->detect.boxes == SP_BOXES_OFFSETS && model->detect.head == SP_HEAD_SSD)
        return sp_head_anchors(model, NULL);
    if (model->detect.head != SP_HEAD_YOLOX && model->detect.head != SP_HEAD_NANODET)
        return 0;
    for (int i = 0; i < model->detect.level_count; i++)
        count += cells(model->prep.crop_w, model->detect.strides[i]) * cells(model->prep.crop_h, model->detect.strides[i]);
    return count;
}

int sp_head_anchors(const sp_model *model, float *ret_anchors)
{
    const sp_detect_settings *d = &model->detect;
    int count = 0;
    for (int level = 0; level < d->level_count; level++) {
        float stride = (float)d->strides[level];
        int columns = cells(model->prep.crop_w, d->strides[level]), rows = cells(model->prep.crop_h, d->strides[level]);
        for (int y = 0; y < rows; y++) {
            for (int x = 0; x < columns; x++) {
                for (int a = 0; a < d->anchor_counts[level]; a++, count++) {
                    if (!ret_anchors)
                        continue;
                    float *anchor = ret_anchors + 4 * (size_t)count;
                    anchor[0] = ((float)x + 0.5f) * stride;
                    anchor[1] = ((float)y + 0.5f) * stride;
                    anchor[2] = d->anchors[level][a][0];
                    anchor[3] = d->anchors[level][a][1];
                }
            }
        }
    }
    return count;
}

void sp_head_yolox(const sp_model *model, const sp_head_tensor *t, float threshold, sp_candidates *out)
{
    const float *row = t->data;
    for (int level = 0; level < model->detect.level_count; level++) {
        float stride = (float)model->detect.strides[level];
        int columns = cells(model->prep.crop_w, model->detect.strides[level]);
        int rows = cells(model->prep.crop_h, model->detect.strides[level]);
        for (int i = 0; i < rows * columns; i++, row += t->columns) {
            float score, box[4];
            int32_t class_id;
            if (!scored(row, t->columns, threshold, out, &score, &class_id))
                continue;
            sp_head_grid(box, row, i % columns, i / columns, stride);
            put(out, box, score, class_id);
        }
    }
}

void sp_head_yolov5(const sp_head_tensor *t, float threshold, sp_candidates *out)
{
    const float *row = t->data;
    for (int i = 0; i < t->rows; i++, row += t->columns) {
        float score;
        int32_t class_id;
        if (scored(row, t->columns, threshold, out, &score, &class_id))
            put_centre(out, row[0], row[1], row[2], row[3], score, class_id);
    }
}

void sp_head_yolov8(const sp_head_tensor *t, float threshold, sp_candidates *out)
{
    const float *cx = t->data, *cy = cx + t->columns, *w = cy + t->columns, *h = w + t->columns;
    sp_kernels.best_columns_f32(out->best, out->which, h + t->columns, t->columns, t->rows - 4, (size_t)t->columns);
    for (int i = 0; i < t->columns; i++) {
        if (out->best[i] == -INFINITY)
            out->not_finite = true; /* nothing but NaN: a class's score is never infinite */
        if (out->best[i] > threshold)
            put_centre(out, cx[i], cy[i], w[i], h[i], out->best[i], out->which[i]);
    }
}

static void put_ssd(const sp_model *model, const float *v, const float *anchor, float score, int32_t class_id,
                    sp_candidates *out)
{
    const sp_detect_settings *d = &model->detect;
    float sx = d->fractions ? (float)model->prep.crop_w : 1, sy = d->fractions ? (float)model->prep.crop_h : 1;
    float box[4] = { v[0] * sx, v[1] * sy, v[2] * sx, v[3] * sy };
    if (d->boxes == SP_BOXES_CENTRE)
        sp_head_centre(box, v[0] * sx, v[1] * sy, v[2] * sx, v[3] * sy);
    else if (d->boxes == SP_BOXES_OFFSETS)
        sp_head_offsets(box, v, anchor, d->variances[0], d->variances[1]);
    put(out, box, score, class_id);
}

/* The scores of one box as probabilities. */
static const float *activated(const sp_detect_settings *d, const float *scores, int count, float *spare)
{
    if (d->activation == SP_SCORES_PLAIN)
        return scores;
    if (d->activation == SP_SCORES_SOFTMAX) {
        sp_kernels.softmax_f32(spare, scores, count);
        return spare;
    }
    for (int c = 0; c < count; c++)
        spare[c] = sp_head_sigmoid(scores[c]);
    return spare;
}

void sp_head_ssd(const sp_model *model, const sp_head_tensor *boxes, const sp_head_tensor *scores, const float *anchors,
                 float threshold, sp_candidates *out)
{
    for (int i = 0; i < boxes->rows; i++) {
        const float *row = activated(&model->detect, scores->data + (size_t)i * (size_t)scores->columns, scores->columns,
                                     out->best);
        for (int c = 0; c < scores->columns; c++) {
            if (row[c] != row[c])
                out->not_finite = true;
            if (row[c] > threshold && c != model->detect.background)
                put_ssd(model, boxes->data + 4 * (size_t)i, anchors ? anchors + 4 * (size_t)i : NULL, row[c], c, out);
        }
    }
}

/* The mean of a distribution over 0 .. bins - 1, given as logits. */
static float mean_of(const float *logits, int bins)
{
    float share[64], mean = 0;
    sp_kernels.softmax_f32(share, logits, bins);
    for (int b = 1; b < bins; b++)
        mean += share[b] * (float)b;
    return mean;
}

void sp_head_nanodet(const sp_model *model, const sp_head_tensor *classes, const sp_head_tensor *distances, float threshold,
                     sp_candidates *out)
{
    for (int level = 0; level < model->detect.level_count; level++) {
        const sp_head_tensor *c = &classes[level], *d = &distances[level];
        float stride = (float)model->detect.strides[level];
        int columns = cells(model->prep.crop_w, model->detect.strides[level]), bins = d->columns / 4;
        for (int i = 0; i < c->rows; i++) {
            float best, side[4], box[4];
            int32_t which = best_of(c->data + (size_t)i * (size_t)c->columns, c->columns, &best);
            if (best != best)
                out->not_finite = true;
            if (!(best > threshold))
                continue;
            for (int s = 0; s < 4; s++)
                side[s] = mean_of(d->data + (size_t)i * (size_t)d->columns + s * bins, bins) * stride;
            sp_head_sides(box, side, i % columns, i / columns, stride);
            put(out, box, best, which);
        }
    }
}
