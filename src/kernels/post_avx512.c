/* SPDX-License-Identifier: Apache-2.0
 * What needs only AVX-512 F, BW, DQ, VL: plain bilinear's second half, softmax, top-k. */
#include "kernels/kernels.h"
#include "kernels/math.h"

#include <immintrin.h>

void sp_plain_v_avx512(uint8_t *SP_RESTRICT dst, int cols, const uint16_t *SP_RESTRICT a, const uint16_t *SP_RESTRICT b, int w1)
{
    /* vpmaddwd is signed: 32768 is taken off both values and comes back, times 256, with the rounding. */
    const __m512i sign = _mm512_set1_epi16(INT16_MIN), back = _mm512_set1_epi32(32768 * 256 + 32768);
    const __m512i weight = _mm512_set1_epi32((int32_t)((uint32_t)(256 - w1) | (uint32_t)w1 << 16));
    const __m512i in_order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (int i = 0; i < cols; i += 64) {
        __m512i words[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            __m512i x = _mm512_xor_si512(_mm512_loadu_si512(a + i + 32 * v), sign);
            __m512i y = _mm512_xor_si512(_mm512_loadu_si512(b + i + 32 * v), sign);
            __m512i low = _mm512_add_epi32(_mm512_madd_epi16(_mm512_unpacklo_epi16(x, y), weight), back);
            __m512i high = _mm512_add_epi32(_mm512_madd_epi16(_mm512_unpackhi_epi16(x, y), weight), back);
            words[v] = _mm512_packus_epi32(_mm512_srli_epi32(low, 16), _mm512_srli_epi32(high, 16));
        }
        _mm512_storeu_si512(dst + i, _mm512_permutexvar_epi64(in_order, _mm512_packus_epi16(words[0], words[1])));
    }
}

/* sp_expf, sixteen at a time. */
static inline __m512 exp_16(__m512 x)
{
    __m512 a = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(SP_EXP_MAX)), _mm512_set1_ps(SP_EXP_MIN));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(a, _mm512_set1_ps(SP_EXP_LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-SP_EXP_LN2_HI), a);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-SP_EXP_LN2_LO), r);
    __m512 p = _mm512_set1_ps(SP_EXP_C6);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(SP_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    const __m512i bias = _mm512_set1_epi32(127);
    __m512i whole = _mm512_cvttps_epi32(n), half = _mm512_srai_epi32(whole, 1);
    p = _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23)));
    p = _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(whole, half), bias), 23)));
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), p, x);
}

static __mmask16 first_lanes(int n)
{
    return (__mmask16)(n >= 16 ? 0xffff : n > 0 ? (1 << n) - 1 : 0);
}

/* max_ps(x, m) is x > m ? x : m, which skips NaN; the largest of numbers is the same in any order. */
static float largest(const float *src, int n)
{
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 most = least;
    for (int i = 0; i < n; i += 16)
        most = _mm512_max_ps(_mm512_mask_loadu_ps(least, first_lanes(n - i), src + i), most);
    return _mm512_reduce_max_ps(most);
}

void sp_softmax_f32_avx512(float *dst, const float *src, int n)
{
    const __m512 most = _mm512_set1_ps(largest(src, n)), zero = _mm512_setzero_ps();
    __m512 lanes[2] = { zero, zero }; /* accumulators 0..15 and 16..31 */
    for (int i = 0; i < n; i += 32) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            __mmask16 mask = first_lanes(n - i - 16 * v);
            __m512 e = exp_16(_mm512_sub_ps(_mm512_mask_loadu_ps(most, mask, src + i + 16 * v), most));
            _mm512_mask_storeu_ps(dst + i + 16 * v, mask, e);
            lanes[v] = _mm512_mask_add_ps(lanes[v], mask, lanes[v], e);
        }
    }
    __m512 all = _mm512_add_ps(lanes[0], lanes[1]);
    __m256 by8 = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
    __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
    float sum = _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
    __m512 total = _mm512_set1_ps(sum), nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000));
    __mmask16 good = sum == sum ? 0xffff : 0;
    for (int i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 y = _mm512_div_ps(_mm512_maskz_loadu_ps(mask, dst + i), total);
        _mm512_mask_storeu_ps(dst + i, mask, _mm512_mask_blend_ps(good, nan, y));
    }
}

/* Sixteen at a time are compared with the k-th held so far; what beats it goes in by the scalar rule. */
void sp_topk_f32_avx512(int32_t *SP_RESTRICT ret_index, float *SP_RESTRICT ret_value, const float *SP_RESTRICT src, int n, int k)
{
    sp_topk_f32_c(ret_index, ret_value, src, k, k);
    for (int i = k; i < n; i += 16) {
        __m512 x = _mm512_maskz_loadu_ps(first_lanes(n - i), src + i);
        for (unsigned beats = first_lanes(n - i); beats;) {
            float worst = ret_value[k - 1];
            beats &= worst == worst ? _mm512_cmp_ps_mask(x, _mm512_set1_ps(worst), _CMP_GT_OQ)
                                    : _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
            if (!beats)
                break;
            int at = k - 1, index = i + __builtin_ctz(beats);
            float value = src[index];
            beats &= beats - 1;
            for (; at > 0 && (value > ret_value[at - 1] || ret_value[at - 1] != ret_value[at - 1]); at--) {
                ret_value[at] = ret_value[at - 1];
                ret_index[at] = ret_index[at - 1];
            }
            ret_value[at] = value;
            ret_index[at] = index;
        }
    }
}

void sp_canary_f32_avx512(float *SP_RESTRICT dst, const float *SP_RESTRICT a, const float *SP_RESTRICT b,
                          const float *SP_RESTRICT c, int n)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = first_lanes(n - i);
        __m512 product = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, a + i), _mm512_maskz_loadu_ps(m, b + i));
        _mm512_mask_storeu_ps(dst + i, m, _mm512_add_ps(product, _mm512_maskz_loadu_ps(m, c + i)));
    }
}
