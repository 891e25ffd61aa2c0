/* SPDX-License-Identifier: Apache-2.0
 * What comes after a model, one element at a time, spelled once for C and CUDA: the order of scores, halves to floats, and how
 * a detector's heads write their boxes (task/detect_heads.c, cuda/post_heads.cu). As arith.h: the same bits everywhere. */
#ifndef SP_KERNELS_POST_ARITH_H
#define SP_KERNELS_POST_ARITH_H

#include "kernels/arith.h"
#include "kernels/math.h"

/* Smaller keys go first: falling scores, -0 as +0, NaN last. With the index below it, all keys are different. */
SP_HD uint32_t sp_order_key(float score)
{
    uint32_t bits = sp_f32_bits(score + 0.0f);
    if (score != score)
        return UINT32_MAX;
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

/* IEEE 754 half to float; exact. */
SP_HD float sp_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent == 0) /* zero and subnormals: fraction * 2^-24 */
        return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
    return sp_f32_from_bits(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13);
}

SP_HD int sp_f32_finite(float x)
{
    return (sp_f32_bits(x) & 0x7f800000u) != 0x7f800000u;
}

/* --- heads: boxes as x0 y0 x1 y1 in pixels of the input --- */

SP_HD int sp_head_finite(const float *box)
{
    return sp_f32_finite(box[0]) && sp_f32_finite(box[1]) && sp_f32_finite(box[2]) && sp_f32_finite(box[3]);
}

SP_HD void sp_head_centre(float *box, float cx, float cy, float w, float h)
{
    box[0] = cx - w / 2;
    box[1] = cy - h / 2;
    box[2] = cx + w / 2;
    box[3] = cy + h / 2;
}

/* YOLOX: offsets from the cell (x, y) of a grid, logarithms of sizes, all in strides. */
SP_HD void sp_head_grid(float *box, const float *v, int x, int y, float stride)
{
    sp_head_centre(box, (v[0] + (float)x) * stride, (v[1] + (float)y) * stride, sp_expf(v[2]) * stride, sp_expf(v[3]) * stride);
}

/* SSD: offsets from an anchor (cx cy w h). */
SP_HD void sp_head_offsets(float *box, const float *v, const float *anchor, float variance, float size_variance)
{
    sp_head_centre(box, anchor[0] + v[0] * variance * anchor[2], anchor[1] + v[1] * variance * anchor[3],
                   anchor[2] * sp_expf(v[2] * size_variance), anchor[3] * sp_expf(v[3] * size_variance));
}

SP_HD float sp_head_sigmoid(float x)
{
    return 1.0f / (1.0f + sp_expf(-x));
}

/* NanoDet: four distances from the middle of the cell (x, y), given as pixel centres: (x + 1/2) * stride - 1/2. */
SP_HD void sp_head_sides(float *box, const float *side, int x, int y, float stride)
{
    float cx = (float)x * stride + 0.5f * (stride - 1), cy = (float)y * stride + 0.5f * (stride - 1);
    box[0] = cx - side[0];
    box[1] = cy - side[1];
    box[2] = cx + side[2];
    box[3] = cy + side[3];
}

#endif
