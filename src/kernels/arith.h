/* SPDX-License-Identifier: Apache-2.0
 * The arithmetic of one element, spelled once for C and CUDA: every twin computes these expressions, in this order.
 * Loops, tiles and vectors live elsewhere. Nothing here may be contracted (-ffp-contract=off, nvcc -fmad=false). */
#ifndef SP_KERNELS_ARITH_H
#define SP_KERNELS_ARITH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SP_HD __host__ __device__ static inline
#else
#define SP_HD static inline __attribute__((always_inline, unused))
#endif

/* Fixed point of the antialiased resize: Pillow's 8-bit path keeps 32 - 8 - 2 bits of each coefficient. */
#define SP_RESIZE_BITS 22
#define SP_RESIZE_HALF (1 << (SP_RESIZE_BITS - 1))

/* The only fused multiply-add. */
SP_HD float sp_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

/* Saturating, truncating; NaN = 0. */
SP_HD int32_t sp_f32_to_i32(float x)
{
    if (!(x == x))
        return 0;
    if (x >= 2147483648.0f)
        return INT32_MAX;
    if (x <= -2147483648.0f)
        return INT32_MIN;
    return (int32_t)x;
}

SP_HD uint32_t sp_f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

SP_HD float sp_f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* f32 to IEEE binary16, to nearest even; NaN stays NaN (quiet), too large becomes infinity. */
SP_HD uint16_t sp_f32_to_f16(float x)
{
    uint32_t bits = sp_f32_bits(x), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x1ffu));
    if (a >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u);
    if (a >= 0x38800000u) /* normal: add half an ulp, the odd bit decides ties */
        return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13));
    if (a < 0x33000000u)
        return (uint16_t)sign;
    uint32_t shift = 126u - (a >> 23), mantissa = (a & 0x7fffffu) | 0x800000u, half = 1u << (shift - 1);
    return (uint16_t)(sign | ((mantissa + half - 1u + (mantissa >> shift & 1u)) >> shift));
}

/* Resampling filters in double, as Pillow 9 to 13 evaluates them; the support is 1 and 2. */
SP_HD double sp_filter_triangle(double x)
{
    if (x < 0.0)
        x = -x;
    return x < 1.0 ? 1.0 - x : 0.0;
}

SP_HD double sp_filter_cubic(double x)
{
    const double a = -0.5;
    if (x < 0.0)
        x = -x;
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* A normalised coefficient in fixed point: rounded half away from zero. */
SP_HD int32_t sp_resize_fixed(double weight)
{
    return weight < 0 ? (int32_t)(-0.5 + weight * (1 << SP_RESIZE_BITS)) : (int32_t)(0.5 + weight * (1 << SP_RESIZE_BITS));
}

/* `sum` already has SP_RESIZE_HALF in it. */
SP_HD uint8_t sp_resize_clip(int32_t sum)
{
    int32_t v = sum >> SP_RESIZE_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Plain bilinear, across: 8 fractional bits, exact. w1 (0..256) is the right pixel's weight. */
SP_HD uint16_t sp_plain_h(uint8_t a, uint8_t b, int w1)
{
    return (uint16_t)(a * 256 + (b - a) * w1);
}

/* Plain bilinear, down: 16 fractional bits, rounded half up. */
SP_HD uint8_t sp_plain_v(uint16_t a, uint16_t b, int w1)
{
    return (uint8_t)(((uint32_t)a * (uint32_t)(256 - w1) + (uint32_t)b * (uint32_t)w1 + 32768u) >> 16);
}

/* A model's input value, each operation rounded to f32. */
SP_HD float sp_norm_value(int x, float divisor, float mean, float std)
{
    float v = (float)x / divisor;
    v = v - mean;
    return v / std;
}

/* Area of a box given by its corners: 0 when it is turned inside out, NaN when a corner is. */
SP_HD float sp_box_area(float x0, float y0, float x1, float y1)
{
    float w = x1 - x0, h = y1 - y0;
    w = w < 0.0f ? 0.0f : w;
    h = h < 0.0f ? 0.0f : h;
    return w * h;
}

/* The part that two intervals share: `a` of the candidate, `b` of a box that is kept. */
SP_HD float sp_box_shared(float a0, float a1, float b0, float b1)
{
    float low = a0 > b0 ? a0 : b0, high = a1 < b1 ? a1 : b1, length = high - low;
    return length > 0.0f ? length : 0.0f;
}

/* intersection / union > iou, without the division; false whenever a NaN or an infinite area is among them. */
SP_HD int sp_box_suppressed(float inter, float area_a, float area_b, float iou)
{
    return inter > iou * ((area_a + area_b) - inter);
}

#endif
