/* SPDX-License-Identifier: Apache-2.0
 * The arithmetic of one pixel of a grey plane, spelled once for C and CUDA (see arith.h). */
#ifndef SP_KERNELS_PLANE_ARITH_H
#define SP_KERNELS_PLANE_ARITH_H

#include "kernels/arith.h"

/* The place that BORDER_REFLECT_101 reads for i: dcb|abcd|cba, as often as needed; 0 where n is 1. */
SP_HD int sp_reflect(int i, int n)
{
    if (n == 1)
        return 0;
    int period = 2 * (n - 1);
    i %= period;
    if (i < 0)
        i += period;
    return i < n ? i : period - i;
}

/* Limited range (16 .. 235) to full range; there are no ties: 255/219 = 85/73. */
SP_HD uint8_t sp_grey_expand(int y)
{
    int t = y < 16 ? 0 : y - 16, v = (t * 510 + 219) / 438;
    return (uint8_t)(v > 255 ? 255 : v);
}

SP_HD uint8_t sp_grey_narrow(uint16_t y, int bits)
{
    uint32_t v = ((uint32_t)y + (1u << (bits - 9))) >> (bits - 8);
    return (uint8_t)(v > 255 ? 255 : v);
}

/* Full-range BT.601 in 15 fractional bits. */
SP_HD uint8_t sp_grey_of_rgb(uint8_t r, uint8_t g, uint8_t b)
{
    return (uint8_t)((9798u * r + 19235u * g + 3735u * b + 16384u) >> 15);
}

/* Which neighbours a gradient is compared with: 0 left and right, 1 above and below, 2 the falling diagonal (above left and
 * below right), 3 the rising one. tan(22.5 degrees) = 13573 / 2^15, tan(67.5) = that + 2. */
#define SP_CANNY_TG22 13573
SP_HD int sp_canny_direction(int dx, int dy)
{
    int64_t x = dx < 0 ? -dx : dx, y = (int64_t)(dy < 0 ? -dy : dy) * 32768, low = x * SP_CANNY_TG22;
    if (y < low)
        return 0;
    if (y > low + x * 65536)
        return 1;
    return (dx ^ dy) < 0 ? 3 : 2;
}

/* Whether m is a maximum between its two neighbours, `before` (left or above) and `after`. */
SP_HD int sp_canny_maximum(int direction, int m, int before, int after)
{
    return m > before && (direction < 2 ? m >= after : m > after);
}

/* Flow in 1/1024 px, held to 16,384 px; NaN = 0. */
#define SP_FLOW_QUANTUM 1024.0f
#define SP_FLOW_LIMIT (1 << 24)
SP_HD int32_t sp_flow_quantise(float v)
{
    int32_t q = sp_f32_to_i32(rintf(v * SP_FLOW_QUANTUM));
    return q > SP_FLOW_LIMIT ? SP_FLOW_LIMIT : q < -SP_FLOW_LIMIT ? -SP_FLOW_LIMIT : q;
}

SP_HD float sp_flow_magnitude(float dx, float dy)
{
    return sqrtf(dx * dx + dy * dy);
}

/* 0 = [0, 45) degrees and so on, y downwards; (0, 0) is never asked for. */
SP_HD int sp_flow_octant(float dx, float dy)
{
    int turned = !(dy > 0.0f || (dy == 0.0f && dx > 0.0f)), octant;
    float x = turned ? -dx : dx, y = turned ? -dy : dy;
    if (x > 0.0f)
        octant = y < x ? 0 : 1;
    else
        octant = -x < y ? 2 : 3;
    return octant + (turned ? 4 : 0);
}

#endif
