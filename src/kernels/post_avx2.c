/* SPDX-License-Identifier: Apache-2.0
 * Softmax and top-k for CPUs with AVX2 and FMA. */
#include "kernels/kernels.h"
#include "kernels/math.h"

#include <immintrin.h>

/* sp_expf, eight at a time. */
static inline __m256 exp_8(__m256 x)
{
    __m256 a = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(SP_EXP_MAX)), _mm256_set1_ps(SP_EXP_MIN));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(a, _mm256_set1_ps(SP_EXP_LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-SP_EXP_LN2_HI), a);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-SP_EXP_LN2_LO), r);
    __m256 p = _mm256_set1_ps(SP_EXP_C6);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(SP_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i bias = _mm256_set1_epi32(127);
    __m256i whole = _mm256_cvttps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23)));
    return _mm256_blendv_ps(p, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

/* max_ps(x, m) is x > m ? x : m, which skips NaN; the largest of numbers is the same in any order. */
static float largest(const float *src, int n)
{
    __m256 most = _mm256_set1_ps(-INFINITY);
    float lanes[8], result = -INFINITY;
    int i = 0;
    for (; i + 8 <= n; i += 8)
        most = _mm256_max_ps(_mm256_loadu_ps(src + i), most);
    _mm256_storeu_ps(lanes, most);
    for (int l = 0; l < 8; l++)
        result = lanes[l] > result ? lanes[l] : result;
    for (; i < n; i++)
        result = src[i] > result ? src[i] : result;
    return result;
}

void sp_softmax_f32_avx2(float *dst, const float *src, int n)
{
    float most = largest(src, n), lanes[32];
    __m256 sum[4]; /* accumulators 0..7, 8..15, 16..23, 24..31 */
    int i = 0;
    for (int v = 0; v < 4; v++)
        sum[v] = _mm256_setzero_ps();
    for (; i + 32 <= n; i += 32) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            __m256 e = exp_8(_mm256_sub_ps(_mm256_loadu_ps(src + i + 8 * v), _mm256_set1_ps(most)));
            _mm256_storeu_ps(dst + i + 8 * v, e);
            sum[v] = _mm256_add_ps(sum[v], e);
        }
    }
    for (int v = 0; v < 4; v++)
        _mm256_storeu_ps(lanes + 8 * v, sum[v]);
    for (; i < n; i++) {
        dst[i] = sp_expf(src[i] - most);
        lanes[i & 31] += dst[i];
    }
    for (int half = 16; half; half /= 2) {
        for (int l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    }
    if (lanes[0] != lanes[0]) {
        for (i = 0; i < n; i++)
            dst[i] = sp_f32_from_bits(0x7fc00000u);
        return;
    }
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_div_ps(_mm256_loadu_ps(dst + i), _mm256_set1_ps(lanes[0])));
    for (; i < n; i++)
        dst[i] = dst[i] / lanes[0];
}

static bool goes_before(float a, float b)
{
    return a > b || (b != b && a == a);
}

static void put(int32_t *ret_index, float *ret_value, int k, int index, float value)
{
    int at = k - 1;
    for (; at > 0 && goes_before(value, ret_value[at - 1]); at--) {
        ret_value[at] = ret_value[at - 1];
        ret_index[at] = ret_index[at - 1];
    }
    ret_value[at] = value;
    ret_index[at] = index;
}

/* Eight at a time are compared with the k-th held so far; only a group with one that beats it is looked at. */
void sp_topk_f32_avx2(int32_t *SP_RESTRICT ret_index, float *SP_RESTRICT ret_value, const float *SP_RESTRICT src, int n, int k)
{
    sp_topk_f32_c(ret_index, ret_value, src, k, k);
    for (int i = k; i < n; i += 8) {
        if (i + 8 <= n && ret_value[k - 1] == ret_value[k - 1]) {
            __m256 beats = _mm256_cmp_ps(_mm256_loadu_ps(src + i), _mm256_set1_ps(ret_value[k - 1]), _CMP_GT_OQ);
            if (!_mm256_movemask_ps(beats))
                continue;
        }
        for (int l = i; l < SP_MIN(i + 8, n); l++) {
            if (goes_before(src[l], ret_value[k - 1]))
                put(ret_index, ret_value, k, l, src[l]);
        }
    }
}

void sp_canary_f32_avx2(float *SP_RESTRICT dst, const float *SP_RESTRICT a, const float *SP_RESTRICT b,
                        const float *SP_RESTRICT c, int n)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)),
                                                _mm256_loadu_ps(c + i)));
    for (; i < n; i++)
        dst[i] = a[i] * b[i] + c[i];
}
