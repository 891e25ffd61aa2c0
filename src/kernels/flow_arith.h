/* SPDX-License-Identifier: Apache-2.0
 * The arithmetic of one pixel of the dense flow, for C and CUDA (arith.h says how). An expansion has five coefficients,
 * the channels of its rows: 0 the slope down, 1 the slope across, 2 the curve down, 3 the curve across, 4 the mixed one. A
 * matrix has five: g11, g12, g22 of the symmetric 2x2 and h1, h2; 1 is down, 2 is across. */
#ifndef SP_KERNELS_FLOW_ARITH_H
#define SP_KERNELS_FLOW_ARITH_H

#include "kernels/arith.h"

#define SP_FLOW_CHANNELS 5

/* A flow beyond this many pixels, or one that is no number, becomes this: everything stays finite, and any picture's
 * far side is nearer. */
#define SP_FLOW_FAR 1048576.0f

/* Products of nearly equal size lose what matters when each is rounded before they are subtracted: a*b - c*d to within
 * two ulp of its own size. */
SP_HD float sp_flow_minor(float a, float b, float c, float d)
{
    float p = c * d, lost = sp_fma(-c, d, p);
    return sp_fma(a, b, -p) + lost;
}

/* The curve of a column: ig03 * t0 + ig33 * t2 are near opposites where the picture is flat and bright, so both factors
 * come in two parts and the first product's rounding is taken along. */
SP_HD float sp_flow_curve(float t0, float t2, float ig03, float ig03_rest, float ig33, float ig33_rest)
{
    float p = ig03 * t0, rest = sp_fma(ig03, t0, -p);
    rest = sp_fma(ig03_rest, t0, rest);
    rest = sp_fma(ig33_rest, t2, rest);
    return sp_fma(ig33, t2, p) + rest;
}

/* One step of the expansion down a column, by the weights of one distance: t is the mean, the slope and the raw curve.
 * Products are rounded before they are added, as in the reference: its bits. The mean begins as g[0] times the pixel. */
SP_HD void sp_flow_down_step(float t[3], float up, float down, float g, float xg, float xxg)
{
    float both = up + down;
    t[0] = t[0] + g * both;
    t[1] = t[1] + xg * (down - up);
    t[2] = t[2] + xxg * both;
}

/* One step across: e is a pixel's expansion before its last factors, `middle` its column's mean. Differences from the
 * middle keep what the picture's brightness would drown. e begins as g[0] * slope, 0, g[0] * curve, rest * middle, 0. */
SP_HD void sp_flow_across_step(float e[SP_FLOW_CHANNELS], float middle, const float mean[2], const float slope[2],
                               const float curve[2], float g, float xg, float weight)
{
    float left = mean[0] - middle, right = mean[1] - middle;
    e[0] = sp_fma(g, slope[1] + slope[0], e[0]);
    e[1] = sp_fma(xg, right - left, e[1]);
    e[2] = sp_fma(g, curve[1] + curve[0], e[2]);
    e[3] = sp_fma(weight, right + left, e[3]);
    e[4] = sp_fma(xg, slope[1] - slope[0], e[4]);
}

/* Where a pixel is found in the other frame. */
typedef struct sp_flow_spot {
    int x, y;                  /* top left of the four neighbours; only when inside */
    int inside;                /* all four lie in the picture */
    float w00, w01, w10, w11;  /* of (x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1) */
} sp_flow_spot;

SP_HD sp_flow_spot sp_flow_find(int x, int y, float dx, float dy, int w, int h)
{
    float fx = (float)x + dx, fy = (float)y + dy, ix = floorf(fx), iy = floorf(fy);
    sp_flow_spot s = { 0, 0, 0, 0.0f, 0.0f, 0.0f, 0.0f };
    s.inside = ix >= 0.0f && iy >= 0.0f && ix < (float)(w - 1) && iy < (float)(h - 1); /* false for NaN */
    if (!s.inside)
        return s;
    s.x = (int)ix;
    s.y = (int)iy;
    float right = fx - ix, left = 1.0f - right, low = fy - iy, high = 1.0f - low;
    s.w00 = left * high;
    s.w01 = right * high;
    s.w10 = left * low;
    s.w11 = right * low;
    return s;
}

SP_HD float sp_flow_blend(const sp_flow_spot *s, float p00, float p01, float p10, float p11)
{
    return sp_fma(s->w11, p11, sp_fma(s->w10, p10, sp_fma(s->w01, p01, s->w00 * p00)));
}

/* One pixel's matrix. a: the first frame's coefficients here; b: the second's where the flow points to (slopes 0 and
 * curves as in a when that is outside). weight: less than 1 near the picture's border. */
SP_HD void sp_flow_matrix(float m[SP_FLOW_CHANNELS], const float a[SP_FLOW_CHANNELS], const float b[SP_FLOW_CHANNELS],
                          float dx, float dy, float weight)
{
    float slope_y = (a[0] - b[0]) * 0.5f, slope_x = (a[1] - b[1]) * 0.5f;
    float yy = (a[2] + b[2]) * 0.5f, xx = (a[3] + b[3]) * 0.5f, xy = (a[4] + b[4]) * 0.25f;
    slope_y = sp_fma(xy, dx, sp_fma(yy, dy, slope_y));
    slope_x = sp_fma(xx, dx, sp_fma(xy, dy, slope_x));
    slope_y = slope_y * weight;
    slope_x = slope_x * weight;
    yy = yy * weight;
    xx = xx * weight;
    xy = xy * weight;
    m[0] = sp_fma(xy, xy, yy * yy);
    m[1] = (yy + xx) * xy;
    m[2] = sp_fma(xy, xy, xx * xx);
    m[3] = sp_fma(xy, slope_x, yy * slope_y);
    m[4] = sp_fma(xx, slope_x, xy * slope_y);
}

SP_HD float sp_flow_near(float v)
{
    v = v < SP_FLOW_FAR ? v : SP_FLOW_FAR;
    return v > -SP_FLOW_FAR ? v : -SP_FLOW_FAR;
}

/* The flow that a window's summed matrix asks for. `regular` keeps the determinant from 0 where nothing has structure. */
SP_HD void sp_flow_solve(float *dx, float *dy, const float m[SP_FLOW_CHANNELS], float regular)
{
    float det = sp_flow_minor(m[0], m[2], m[1], m[1]);
    det = det > 0.0f ? det : 0.0f; /* it is never below 0 but for rounding */
    float inverse = 1.0f / (det + regular);
    *dx = sp_flow_near(sp_flow_minor(m[0], m[4], m[1], m[3]) * inverse);
    *dy = sp_flow_near(sp_flow_minor(m[2], m[3], m[1], m[4]) * inverse);
}

#endif
