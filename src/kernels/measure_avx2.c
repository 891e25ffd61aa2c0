/* SPDX-License-Identifier: Apache-2.0
 * Measures of planes and flow fields for CPUs with AVX2. All sums are of whole numbers, so their order is free; what does not
 * fill a vector goes to the reference. */
#include "kernels/kernels.h"
#include "kernels/plane_arith.h"
#include "kernels/plane_rows.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m256i wide(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE int64_t total_i64(__m256i v)
{
    __m128i two = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
}

/* The sum of lanes that hold numbers below 2^32. */
INLINE int64_t total_u32(__m256i v)
{
    return total_i64(_mm256_add_epi64(_mm256_and_si256(v, _mm256_set1_epi64x(0xffffffff)), _mm256_srli_epi64(v, 32)));
}

INLINE int64_t total_i32(__m256i v)
{
    return total_i64(_mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)),
                                      _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1))));
}

/* Values of at most 1020 in lanes of 16 bits: pairs of squares stay below 2^21, so 512 of them fit. */
void sp_laplace_u8_avx2(int64_t *sum, uint64_t *squares, const uint8_t *const rows[3], int n)
{
    enum { CHUNK = 16 * 512 };
    const uint8_t *a = rows[0], *b = rows[1], *c = rows[2];
    const __m256i ones = _mm256_set1_epi16(1);
    int i = 0;
    while (i + 16 <= n) {
        int end = SP_MIN(i + CHUNK, n & ~15);
        __m256i s = _mm256_setzero_si256(), q = s;
        for (; i < end; i += 16) {
            __m256i beside = _mm256_add_epi16(wide(b + i - 1), wide(b + i + 1));
            __m256i above = _mm256_add_epi16(wide(a + i), wide(c + i));
            __m256i v = _mm256_sub_epi16(_mm256_add_epi16(beside, above), _mm256_slli_epi16(wide(b + i), 2));
            s = _mm256_add_epi32(s, _mm256_madd_epi16(v, ones));
            q = _mm256_add_epi32(q, _mm256_madd_epi16(v, v));
        }
        *sum += total_i32(s);
        *squares += (uint64_t)total_u32(q);
    }
    if (i < n) {
        const uint8_t *const rest[3] = { a + i, b + i, c + i };
        sp_laplace_u8_c(sum, squares, rest, n - i);
    }
}

uint64_t sp_difference_u8_avx2(const uint8_t *a, const uint8_t *b, int n)
{
    __m256i sum = _mm256_setzero_si256(), more = sum;
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        sum = _mm256_add_epi64(sum, _mm256_sad_epu8(load(a + i), load(b + i)));
        more = _mm256_add_epi64(more, _mm256_sad_epu8(load(a + i + 32), load(b + i + 32)));
    }
    uint64_t rest = i < n ? sp_difference_u8_c(a + i, b + i, n - i) : 0;
    return (uint64_t)total_i64(_mm256_add_epi64(sum, more)) + rest;
}

uint64_t sp_nonzero_u8_avx2(const uint8_t *src, int n)
{
    const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi8(1);
    __m256i sum = zero;
    int i = 0;
    for (; i + 32 <= n; i += 32)
        sum = _mm256_add_epi64(sum, _mm256_sad_epu8(_mm256_min_epu8(load(src + i), one), zero));
    return (uint64_t)total_i64(sum) + (i < n ? sp_nonzero_u8_c(src + i, n - i) : 0);
}

INLINE __m256i quantise(__m256 v)
{
    const __m256 most = _mm256_set1_ps((float)SP_FLOW_LIMIT), least = _mm256_set1_ps(-(float)SP_FLOW_LIMIT);
    __m256 number = _mm256_cmp_ps(v, v, _CMP_ORD_Q);
    __m256 q = _mm256_round_ps(_mm256_mul_ps(v, _mm256_set1_ps(SP_FLOW_QUANTUM)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_cvtps_epi32(_mm256_and_ps(number, _mm256_min_ps(_mm256_max_ps(q, least), most)));
}

/* Adds m to the sum of its vector's octant. No NaN is among the moving ones. */
INLINE void add_directions(__m256i direction[8], __m256i moving, __m256 dx, __m256 dy, __m256i m)
{
    const __m256 zero = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    __m256 level = _mm256_cmp_ps(dy, zero, _CMP_EQ_OQ), east = _mm256_cmp_ps(dx, zero, _CMP_GT_OQ);
    __m256 upper = _mm256_or_ps(_mm256_cmp_ps(dy, zero, _CMP_GT_OQ), _mm256_and_ps(level, east));
    __m256 x = _mm256_xor_ps(dx, _mm256_andnot_ps(upper, sign)), y = _mm256_xor_ps(dy, _mm256_andnot_ps(upper, sign));
    __m256i forward = _mm256_castps_si256(_mm256_cmp_ps(x, zero, _CMP_GT_OQ));
    __m256i flat = _mm256_castps_si256(_mm256_cmp_ps(y, x, _CMP_LT_OQ));
    __m256i steep = _mm256_castps_si256(_mm256_cmp_ps(_mm256_xor_ps(x, sign), y, _CMP_LT_OQ));
    __m256i moved = _mm256_and_si256(m, moving), half = _mm256_castps_si256(upper);
    __m256i front = _mm256_and_si256(moved, forward), back = _mm256_andnot_si256(forward, moved);
    const __m256i part[4] = { _mm256_and_si256(front, flat), _mm256_andnot_si256(flat, front), _mm256_and_si256(back, steep),
                              _mm256_andnot_si256(steep, back) };
    for (int k = 0; k < 4; k++) {
        direction[k] = _mm256_add_epi32(direction[k], _mm256_and_si256(half, part[k]));
        direction[k + 4] = _mm256_add_epi32(direction[k + 4], _mm256_andnot_si256(half, part[k]));
    }
}

/* Eight lanes of ones and zeros as eight bytes. */
INLINE void store_mask(uint8_t *mask, __m256i lanes)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    _mm_storel_epi64((__m128i *)(void *)mask, _mm_packs_epi16(words, words));
}

void sp_measure_flow_avx2(sp_flow_measure *measure, uint8_t *mask, const float *SP_RESTRICT dx, const float *SP_RESTRICT dy, int n,
                          uint32_t threshold)
{
    enum { CHUNK = 8 * 64 }; /* 64 numbers of at most 2^24 in each lane */
    const __m256i limit = _mm256_set1_epi32(threshold > SP_FLOW_LIMIT ? SP_FLOW_LIMIT : (int)threshold);
    __m256i most = _mm256_setzero_si256();
    int i = 0;
    while (i + 8 <= n) {
        int end = SP_MIN(i + CHUNK, n & ~7);
        __m256i sum_x = _mm256_setzero_si256(), sum_y = sum_x, sum_m = sum_x, squares = sum_x;
        __m256i direction[8] = { sum_x, sum_x, sum_x, sum_x, sum_x, sum_x, sum_x, sum_x };
        for (; i < end; i += 8) {
            __m256 x = _mm256_loadu_ps(dx + i), y = _mm256_loadu_ps(dy + i);
            __m256i m = quantise(_mm256_sqrt_ps(_mm256_add_ps(_mm256_mul_ps(x, x), _mm256_mul_ps(y, y))));
            __m256i coarse = _mm256_srli_epi32(m, 4), odd = _mm256_srli_epi64(coarse, 32);
            sum_x = _mm256_add_epi32(sum_x, quantise(x));
            sum_y = _mm256_add_epi32(sum_y, quantise(y));
            sum_m = _mm256_add_epi32(sum_m, m);
            squares = _mm256_add_epi64(squares, _mm256_add_epi64(_mm256_mul_epu32(coarse, coarse), _mm256_mul_epu32(odd, odd)));
            most = _mm256_max_epi32(most, m);
            __m256i moving = _mm256_cmpgt_epi32(m, limit);
            int bits = _mm256_movemask_ps(_mm256_castsi256_ps(moving));
            if (bits) {
                measure->moving += (uint32_t)__builtin_popcount((unsigned)bits);
                add_directions(direction, moving, x, y, m);
            }
            if (mask)
                store_mask(mask + i, moving);
        }
        measure->sum_dx += total_i32(sum_x);
        measure->sum_dy += total_i32(sum_y);
        measure->sum_magnitude += total_u32(sum_m);
        measure->sum_squares = (int64_t)((uint64_t)measure->sum_squares + (uint64_t)total_i64(squares));
        for (int d = 0; d < 8; d++)
            measure->direction[d] += total_u32(direction[d]);
    }
    uint32_t lanes[8];
    _mm256_storeu_si256((__m256i *)(void *)lanes, most);
    for (int d = 0; d < 8; d++)
        measure->max_magnitude = SP_MAX(measure->max_magnitude, lanes[d]);
    if (i < n)
        sp_measure_flow_c(measure, mask ? mask + i : NULL, dx + i, dy + i, n - i, threshold);
}
