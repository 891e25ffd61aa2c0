/* SPDX-License-Identifier: Apache-2.0
 * What an operation on planes prepares once, before it looks at a pixel: a Gaussian's taps, a box's division, Canny's thresholds,
 * the pixels of a structuring element. Doubles, on the host only; the CPU's operations and the CUDA ones begin with the same. */
#ifndef SP_KERNELS_PLANE_SPEC_H
#define SP_KERNELS_PLANE_SPEC_H

#include "base/attr.h"
#include "kernels/plane.h"

#include <math.h>

#define SP_GAUSSIAN_TAPS_MAX 31
#define SP_BOX_SIDE_MAX 255
#define SP_MORPH_SIDE_MAX 63
#define SP_MORPH_ITERATIONS_MAX 32

/* The kernel's taps in 1/256: in double, then by error diffusion from the rim inwards, so that their sum is exactly 256. */
static inline SP_UNUSED void sp_gaussian_weights(uint16_t *weight, int taps, double sigma)
{
    static const uint16_t small[4][5] = { { 256 }, { 64, 128 }, { 16, 64, 96 }, { 8, 28, 56, 72 } };
    static const uint16_t nine[5] = { 4, 13, 30, 51, 60 };
    int half = taps / 2;
    double value[SP_GAUSSIAN_TAPS_MAX / 2 + 1], sum = 0, err = 0;
    if (!(sigma > 0) && taps <= 9) {
        for (int i = 0; i <= half; i++)
            weight[i] = weight[taps - 1 - i] = taps == 9 ? nine[i] : small[half][i];
        return;
    }
    double s = sigma > 0 ? sigma : fma(taps, 0.15, 0.35), scale = -0.125 / (s * s);
    for (int i = 0; i < half; i++) {
        int x = 2 * i + 1 - taps;
        value[i] = exp((double)(x * x) * scale);
        sum += value[i];
    }
    double unit = 1.0 / (2 * sum + 1);
    int total = 0;
    for (int i = 0; i < half; i++) {
        double v = value[i] * unit * 256 + err, whole = rint(v);
        err = v - whole;
        weight[i] = weight[taps - 1 - i] = (uint16_t)whole;
        total += 2 * (int)whole;
    }
    weight[half] = (uint16_t)(256 - total);
}

/* A threshold of Canny's as a whole number, as OpenCV makes it. Below 0 there is nothing more to find than at 0: a maximum is larger
 * than a neighbour. NaN = 0. */
static inline SP_UNUSED int sp_canny_threshold(double t, int aperture, bool l2)
{
    double most = aperture != 3 || l2 ? INT32_MAX : INT16_MAX;
    if (aperture == 7)
        t /= 16;
    if (!(t > 0))
        return 0;
    if (l2) {
        t = t < 32767.0 ? t : 32767.0;
        t *= t;
    }
    return (int)(t < most ? floor(t) : most);
}

/* Both, the lower one first. */
static inline SP_UNUSED void sp_canny_thresholds(double a, double b, int aperture, bool l2, int *ret_low, int *ret_high)
{
    int one = sp_canny_threshold(a, aperture, l2), two = sp_canny_threshold(b, aperture, l2);
    *ret_low = SP_MIN(one, two);
    *ret_high = SP_MAX(one, two);
}

/* A structuring element: one run of pixels per row, [x0, x1) of kw columns. */
typedef struct sp_morph_element {
    int kw, kh;
    int8_t x0[SP_MORPH_SIDE_MAX], x1[SP_MORPH_SIDE_MAX];
} sp_morph_element;

static inline SP_UNUSED void sp_morph_element_fill(sp_morph_element *e, sp_morph_shape shape, int kw, int kh)
{
    int r = kh / 2, c = kw / 2;
    e->kw = kw;
    e->kh = kh;
    double inverse = r ? 1.0 / ((double)r * r) : 0;
    for (int i = 0; i < kh; i++) {
        int dy = i - r, x0 = 0, x1 = kw;
        if (shape == SP_MORPH_CROSS && i != r) {
            x0 = c;
            x1 = c + 1;
        } else if (shape == SP_MORPH_ELLIPSE) {
            int dx = (int)rint(c * sqrt((r * r - dy * dy) * inverse));
            x0 = SP_MAX(c - dx, 0);
            x1 = SP_MIN(c + dx + 1, kw);
        }
        e->x0[i] = (int8_t)x0;
        e->x1[i] = (int8_t)x1;
    }
}

static inline SP_UNUSED bool sp_morph_element_is_rect(const sp_morph_element *e)
{
    for (int i = 0; i < e->kh; i++) {
        if (e->x0[i] != 0 || e->x1[i] != e->kw)
            return false;
    }
    return true;
}

#endif
