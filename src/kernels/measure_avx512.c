/* SPDX-License-Identifier: Apache-2.0
 * Measures of planes and flow fields for CPUs with AVX-512. All sums are of whole numbers, so their order is free. */
#include "kernels/kernels.h"
#include "kernels/plane_arith.h"
#include "kernels/plane_rows.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask64 first64(int n)
{
    return n >= 64 ? ~0ull : (1ull << n) - 1;
}

INLINE __m512i wide(__mmask32 k, const uint8_t *p)
{
    return _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(k, p));
}

/* Values of at most 1020 in lanes of 16 bits: pairs of squares stay below 2^21, so 512 of them fit. */
void sp_laplace_u8_avx512(int64_t *sum, uint64_t *squares, const uint8_t *const rows[3], int n)
{
    enum { CHUNK = 32 * 512 };
    const uint8_t *a = rows[0], *b = rows[1], *c = rows[2];
    const __m512i ones = _mm512_set1_epi16(1);
    for (int begin = 0; begin < n; begin += CHUNK) {
        int end = SP_MIN(begin + CHUNK, n);
        __m512i s = _mm512_setzero_si512(), q = s;
        for (int i = begin; i < end; i += 32) {
            __mmask32 k = (__mmask32)first64(SP_MIN(end - i, 32));
            __m512i beside = _mm512_add_epi16(wide(k, b + i - 1), wide(k, b + i + 1));
            __m512i above = _mm512_add_epi16(wide(k, a + i), wide(k, c + i));
            __m512i v = _mm512_sub_epi16(_mm512_add_epi16(beside, above), _mm512_slli_epi16(wide(k, b + i), 2));
            s = _mm512_add_epi32(s, _mm512_madd_epi16(v, ones));
            q = _mm512_add_epi32(q, _mm512_madd_epi16(v, v));
        }
        __m512i low = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(q)), high = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(q, 1));
        *sum += _mm512_reduce_add_epi32(s);
        *squares += (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
    }
}

uint64_t sp_difference_u8_avx512(const uint8_t *a, const uint8_t *b, int n)
{
    __m512i sum = _mm512_setzero_si512(), more = sum;
    int i = 0;
    for (; i + 128 <= n; i += 128) {
        sum = _mm512_add_epi64(sum, _mm512_sad_epu8(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i)));
        more = _mm512_add_epi64(more, _mm512_sad_epu8(_mm512_loadu_si512(a + i + 64), _mm512_loadu_si512(b + i + 64)));
    }
    for (; i < n; i += 64) {
        __mmask64 k = first64(n - i);
        sum = _mm512_add_epi64(sum, _mm512_sad_epu8(_mm512_maskz_loadu_epi8(k, a + i), _mm512_maskz_loadu_epi8(k, b + i)));
    }
    return (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(sum, more));
}

uint64_t sp_nonzero_u8_avx512(const uint8_t *src, int n)
{
    uint64_t count = 0;
    for (int i = 0; i < n; i += 64) {
        __m512i v = _mm512_maskz_loadu_epi8(first64(n - i), src + i);
        count += (uint64_t)__builtin_popcountll(_mm512_test_epi8_mask(v, v));
    }
    return count;
}

/* The conversion itself rounds to nearest even; the bounds are whole numbers, so they may come first. */
INLINE __m512i quantise(__m512 v)
{
    const __m512 most = _mm512_set1_ps((float)SP_FLOW_LIMIT), least = _mm512_set1_ps(-(float)SP_FLOW_LIMIT);
    __mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
    __m512 q = _mm512_mul_ps(v, _mm512_set1_ps(SP_FLOW_QUANTUM));
    return _mm512_maskz_cvt_roundps_epi32(number, _mm512_min_ps(_mm512_max_ps(q, least), most),
                                           _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Adds m to the sum of its vector's octant. No NaN is among the moving ones. */
INLINE void add_directions(__m512i direction[8], __mmask16 moving, __m512 dx, __m512 dy, __m512i m)
{
    const __m512 zero = _mm512_setzero_ps();
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    __mmask16 level = _mm512_cmp_ps_mask(dy, zero, _CMP_EQ_OQ), east = _mm512_cmp_ps_mask(dx, zero, _CMP_GT_OQ);
    __mmask16 upper = _mm512_cmp_ps_mask(dy, zero, _CMP_GT_OQ) | (level & east), turned = (__mmask16)~upper;
    __m512 x = _mm512_castsi512_ps(_mm512_mask_xor_epi32(_mm512_castps_si512(dx), turned, _mm512_castps_si512(dx), sign));
    __m512 y = _mm512_castsi512_ps(_mm512_mask_xor_epi32(_mm512_castps_si512(dy), turned, _mm512_castps_si512(dy), sign));
    __mmask16 forward = _mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ);
    __mmask16 flat = _mm512_cmp_ps_mask(y, x, _CMP_LT_OQ);
    __mmask16 steep = _mm512_cmp_ps_mask(_mm512_castsi512_ps(_mm512_xor_epi32(_mm512_castps_si512(x), sign)), y, _CMP_LT_OQ);
    const __mmask16 part[4] = { forward & flat, forward & ~flat, ~forward & steep, ~forward & ~steep };
    for (int k = 0; k < 4; k++) {
        direction[k] = _mm512_mask_add_epi32(direction[k], moving & upper & part[k], direction[k], m);
        direction[k + 4] = _mm512_mask_add_epi32(direction[k + 4], moving & turned & part[k], direction[k + 4], m);
    }
}

/* The sum of lanes that hold numbers below 2^32. */
INLINE int64_t total_u32(__m512i v)
{
    return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_and_si512(v, _mm512_set1_epi64(0xffffffff)), _mm512_srli_epi64(v, 32)));
}

INLINE int64_t total_i32(__m512i v)
{
    return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(v)),
                                                    _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(v, 1))));
}

void sp_measure_flow_avx512(sp_flow_measure *measure, uint8_t *mask, const float *SP_RESTRICT dx, const float *SP_RESTRICT dy,
                            int n, uint32_t threshold)
{
    enum { CHUNK = 16 * 64 }; /* 64 numbers of at most 2^24 in each lane */
    const __m512i limit = _mm512_set1_epi32((int)threshold);
    __m512i most = _mm512_setzero_si512();
    for (int begin = 0; begin < n; begin += CHUNK) {
        int end = SP_MIN(begin + CHUNK, n);
        __m512i sum_x = _mm512_setzero_si512(), sum_y = sum_x, sum_m = sum_x, squares = sum_x;
        __m512i direction[8] = { sum_x, sum_x, sum_x, sum_x, sum_x, sum_x, sum_x, sum_x };
        for (int i = begin; i < end; i += 16) {
            __mmask16 k = (__mmask16)first64(SP_MIN(end - i, 16));
            __m512 x = _mm512_maskz_loadu_ps(k, dx + i), y = _mm512_maskz_loadu_ps(k, dy + i);
            __m512i m = quantise(_mm512_sqrt_ps(_mm512_add_ps(_mm512_mul_ps(x, x), _mm512_mul_ps(y, y))));
            __m512i coarse = _mm512_srli_epi32(m, 4), odd = _mm512_srli_epi64(coarse, 32);
            sum_x = _mm512_add_epi32(sum_x, quantise(x));
            sum_y = _mm512_add_epi32(sum_y, quantise(y));
            sum_m = _mm512_add_epi32(sum_m, m);
            squares = _mm512_add_epi64(squares, _mm512_add_epi64(_mm512_mul_epu32(coarse, coarse), _mm512_mul_epu32(odd, odd)));
            most = _mm512_max_epu32(most, m);
            __mmask16 moving = _mm512_cmpgt_epu32_mask(m, limit);
            if (moving) {
                measure->moving += (uint32_t)__builtin_popcount(moving);
                add_directions(direction, moving, x, y, m);
            }
            if (mask)
                _mm_mask_storeu_epi8(mask + i, k, _mm_movm_epi8(moving));
        }
        measure->sum_dx += total_i32(sum_x);
        measure->sum_dy += total_i32(sum_y);
        measure->sum_magnitude += total_u32(sum_m);
        measure->sum_squares = (int64_t)((uint64_t)measure->sum_squares + (uint64_t)_mm512_reduce_add_epi64(squares));
        for (int d = 0; d < 8; d++)
            measure->direction[d] += total_u32(direction[d]);
    }
    measure->max_magnitude = SP_MAX(measure->max_magnitude, _mm512_reduce_max_epu32(most));
}
