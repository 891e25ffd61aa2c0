/* SPDX-License-Identifier: Apache-2.0
 * Elementary functions, our own polynomials: the same operations in the same order on every twin and on the GPU, so the
 * same bits. libm differs between machines and cannot be vectorised to the bit. */
#ifndef SP_KERNELS_MATH_H
#define SP_KERNELS_MATH_H

#include "kernels/arith.h"

/* exp(x) = 2^n * e^r, n = rint(x / ln 2), |r| <= ln 2 / 2. The polynomial is a minimax fit of degree 6 (relative error
 * 4e-9); what is left is rounding: at most 1 ulp for normal results (tests/kernels measures it). Below -104 it is 0,
 * above 88.73 infinity; results under 2^-126 are rounded twice. NaN gives NaN of unspecified payload. */
#define SP_EXP_MAX 89.0f
#define SP_EXP_MIN -104.0f
#define SP_EXP_LOG2E 0x1.715476p+0f
#define SP_EXP_LN2_HI 0x1.62e4p-1f
#define SP_EXP_LN2_LO 0x1.7f7d1cp-20f
#define SP_EXP_C2 0x1.fffffcp-2f
#define SP_EXP_C3 0x1.555492p-3f
#define SP_EXP_C4 0x1.5558f2p-5f
#define SP_EXP_C5 0x1.1239e0p-7f
#define SP_EXP_C6 0x1.6a243ap-10f

SP_HD float sp_expf(float x)
{
    float a = x < SP_EXP_MAX ? x : SP_EXP_MAX;
    a = a > SP_EXP_MIN ? a : SP_EXP_MIN;
    float n = rintf(a * SP_EXP_LOG2E);
    float r = sp_fma(n, -SP_EXP_LN2_HI, a);
    r = sp_fma(n, -SP_EXP_LN2_LO, r);
    float p = SP_EXP_C6;
    p = sp_fma(p, r, SP_EXP_C5);
    p = sp_fma(p, r, SP_EXP_C4);
    p = sp_fma(p, r, SP_EXP_C3);
    p = sp_fma(p, r, SP_EXP_C2);
    p = sp_fma(p, r, 1.0f);
    p = sp_fma(p, r, 1.0f);
    int32_t whole = sp_f32_to_i32(n), half = whole >> 1; /* two factors: one alone cannot reach the subnormals */
    p = p * sp_f32_from_bits((uint32_t)(half + 127) << 23);
    p = p * sp_f32_from_bits((uint32_t)(whole - half + 127) << 23);
    return x == x ? p : x;
}

#endif
