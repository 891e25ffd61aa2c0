/* SPDX-License-Identifier: Apache-2.0
 * From a detector's numbers to the boxes that are kept, the scalar reference: filter, best of columns, order, suppression. */
#include "kernels/arith.h"
#include "kernels/kernels.h"
#include "kernels/post_arith.h"

#include <string.h>

int sp_filter_f32_c(int32_t *SP_RESTRICT ret_index, const float *SP_RESTRICT score, int n, float threshold)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        ret_index[count] = i;
        count += score[i] > threshold;
    }
    return count;
}

void sp_best_columns_f32_c(float *SP_RESTRICT ret_best, int32_t *SP_RESTRICT ret_which, const float *SP_RESTRICT src, int n,
                           int rows, size_t row_stride)
{
    for (int i = 0; i < n; i++) {
        ret_best[i] = -INFINITY;
        ret_which[i] = 0;
    }
    for (int r = 0; r < rows; r++, src += row_stride) {
        for (int i = 0; i < n; i++) {
            if (src[i] > ret_best[i]) {
                ret_best[i] = src[i];
                ret_which[i] = r;
            }
        }
    }
}

static void insert_all(uint64_t *pairs, int n)
{
    for (int i = 1; i < n; i++) {
        uint64_t pair = pairs[i];
        int at = i;
        for (; at > 0 && pairs[at - 1] > pair; at--)
            pairs[at] = pairs[at - 1];
        pairs[at] = pair;
    }
}

/* (key, index) pairs are all different, so any sort gives the one order. Above a few dozen: by digits of 11 bits, least
 * significant first; digits that all pairs share are skipped. */
void sp_order_f32_c(int32_t *SP_RESTRICT ret_index, const float *SP_RESTRICT score, int n, uint64_t *SP_RESTRICT spare)
{
    enum { DIGITS = 3, BITS = 11, VALUES = 1 << BITS, FEW = 48 };
    uint64_t *from = spare, *to = spare + n;
    uint32_t starts[DIGITS][VALUES];
    for (int i = 0; i < n; i++)
        from[i] = (uint64_t)sp_order_key(score[i]) << 32 | (uint32_t)i;
    if (n <= FEW) {
        insert_all(from, n);
    } else {
        memset(starts, 0, sizeof(starts));
        for (int i = 0; i < n; i++) {
            for (int d = 0; d < DIGITS; d++)
                starts[d][from[i] >> (32 + BITS * d) & (VALUES - 1)]++;
        }
        for (int d = 0; d < DIGITS; d++) {
            int shift = 32 + BITS * d;
            if (starts[d][from[0] >> shift & (VALUES - 1)] == (uint32_t)n)
                continue;
            for (uint32_t v = 0, sum = 0; v < VALUES; v++) {
                uint32_t count = starts[d][v];
                starts[d][v] = sum;
                sum += count;
            }
            for (int i = 0; i < n; i++)
                to[starts[d][from[i] >> shift & (VALUES - 1)]++] = from[i];
            uint64_t *sorted = to;
            to = from;
            from = sorted;
        }
    }
    for (int i = 0; i < n; i++)
        ret_index[i] = (int32_t)(uint32_t)from[i];
}

/* The kept boxes stand in six planes of the spare: x0, y0, x1, y1, area, class. */
int sp_nms_f32_c(int32_t *SP_RESTRICT ret_kept, const sp_box_planes *boxes, int n, float iou, int most,
                 float *SP_RESTRICT spare)
{
    size_t stride = SP_NMS_SPARE(most) / 6;
    float *x0 = spare, *y0 = x0 + stride, *x1 = y0 + stride, *y1 = x1 + stride, *area = y1 + stride;
    int32_t *class_id = (int32_t *)(void *)(area + stride);
    int kept = 0;
    for (int i = 0; i < n && kept < most; i++) {
        float a = sp_box_area(boxes->x0[i], boxes->y0[i], boxes->x1[i], boxes->y1[i]);
        int32_t c = boxes->class_id ? boxes->class_id[i] : 0;
        bool suppressed = false;
        for (int k = 0; k < kept && !suppressed; k++) {
            float inter = sp_box_shared(boxes->x0[i], boxes->x1[i], x0[k], x1[k]) *
                          sp_box_shared(boxes->y0[i], boxes->y1[i], y0[k], y1[k]);
            suppressed = c == class_id[k] && sp_box_suppressed(inter, a, area[k], iou);
        }
        if (suppressed)
            continue;
        x0[kept] = boxes->x0[i];
        y0[kept] = boxes->y0[i];
        x1[kept] = boxes->x1[i];
        y1[kept] = boxes->y1[i];
        area[kept] = a;
        class_id[kept] = c;
        ret_kept[kept++] = i;
    }
    return kept;
}
