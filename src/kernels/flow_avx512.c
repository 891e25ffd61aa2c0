/* SPDX-License-Identifier: Apache-2.0
 * The rows of the dense flow for CPUs with AVX-512 F, BW, DQ, VL: flow_rows.inc, sixteen pixels at a time. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#include <immintrin.h>

#define LANES 16
#define ROW(name) sp_flow_##name##_avx512
#define INLINE static inline __attribute__((always_inline, unused))

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 mask;

INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf vf_load_some(mask m, const float *p) { return _mm512_maskz_loadu_ps(m, p); }
INLINE void vf_store_some(mask m, float *p, vf v) { _mm512_mask_storeu_ps(p, m, v); }
INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_fms(vf a, vf b, vf c) { return _mm512_fmsub_ps(a, b, c); }
INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE vf vf_less(vf a, vf b) { return _mm512_min_ps(a, b); } /* b when a is NaN */
INLINE vf vf_more(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_floor(vf a) { return _mm512_floor_ps(a); }
INLINE vi vi_from(vf a) { return _mm512_cvttps_epi32(a); }

INLINE vf vf_bytes(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

INLINE vi lane_numbers(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* x, x + 1, ... */
INLINE vf vf_count(int x)
{
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_set1_epi32(x), lane_numbers()));
}

INLINE mask first_lanes(int n)
{
    return (mask)(n >= LANES ? 0xffff : n > 0 ? (1 << n) - 1 : 0);
}

/* Those of `m` with 0 <= v < end. */
INLINE mask vf_inside(mask m, vf v, float end)
{
    m = _mm512_mask_cmp_ps_mask(m, v, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mask_cmp_ps_mask(m, v, _mm512_set1_ps(end), _CMP_LT_OQ);
}

INLINE vf vf_select(mask m, vf yes, vf no) { return _mm512_mask_mov_ps(no, m, yes); }
INLINE vi vi_plus(vi v, int x) { return _mm512_add_epi32(v, _mm512_set1_epi32(x)); }
INLINE vi vi_minus(vi a, vi b) { return _mm512_sub_epi32(a, b); }
INLINE unsigned mask_bits(mask m) { return m; }
INLINE mask mask_or(mask a, mask b) { return (mask)(a | b); }
INLINE mask mask_without(mask m, mask out) { return (mask)(m & ~out); }
INLINE mask mask_equal(mask m, vi v, int x) { return _mm512_mask_cmpeq_epi32_mask(m, v, _mm512_set1_epi32(x)); }

INLINE int vi_lane(vi v, int lane)
{
    return _mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32((mask)(1u << lane), v)));
}

/* Those of `m` whose value and the next one lie among the 2 * LANES floats that pick() sees. */
INLINE mask mask_in_two(mask m, vi at)
{
    return _mm512_mask_cmplt_epu32_mask(m, at, _mm512_set1_epi32(2 * LANES - 1));
}

/* `at` counts from `from`. */
INLINE vf pick(const float *from, vi at)
{
    return _mm512_permutex2var_ps(vf_load(from), at, vf_load(from + LANES));
}

#include "kernels/flow_rows.inc"

void sp_flow_across_avx512(float *SP_RESTRICT dst, const float *SP_RESTRICT src, const sp_flow_axis *axis)
{
    for (int x = 0; x < axis->n; x += LANES) {
        __m512i first = _mm512_loadu_si512(axis->first + x); /* not falling */
        const float *weight = axis->weight + x, *from = src + axis->first[x];
        int span = axis->first[x + LANES - 1] - axis->first[x];
        __m512i at = _mm512_sub_epi32(first, _mm512_set1_epi32(axis->first[x]));
        vf sum = vf_zero();
        for (int t = 0; t < axis->taps; t++, weight += axis->stride) {
            vf value;
            if (span < LANES)
                value = _mm512_permutexvar_ps(at, vf_load(from + t));
            else if (span < 2 * LANES)
                value = pick(from + t, at);
            else
                value = _mm512_i32gather_ps(at, from + t, 4);
            sum = t ? vf_fma(vf_load(weight), value, sum) : vf_mul(vf_load(weight), value);
        }
        vf_store_some(first_lanes(axis->n - x), dst + x, sum);
    }
}

/* From lane `by` of a on, going on in b. */
#define SHIFT(a, b, by) _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), by))

/* In registers. Each round loads one register further and finishes what lies three behind: v are values, two and four the
 * sums of so many from there on; 0 is three registers behind, 1 two, 2 one. */
static void window_15(float *SP_RESTRICT dst, const float *SP_RESTRICT src, float *SP_RESTRICT spare, int n)
{
    (void)spare;
    const float *from = src - 7;
    vf v0 = vf_load(from), v1 = vf_load(from + LANES), v2 = vf_load(from + 2 * LANES);
    vf two0 = vf_add(v0, SHIFT(v0, v1, 1)), two1 = vf_add(v1, SHIFT(v1, v2, 1)), four0 = vf_add(two0, SHIFT(two0, two1, 2));
    for (int x = 0; x < n; x += LANES) {
        vf v3 = vf_load(from + x + 3 * LANES), two2 = vf_add(v2, SHIFT(v2, v3, 1)), four1 = vf_add(two1, SHIFT(two1, two2, 2));
        vf sum = vf_add(vf_add(four0, SHIFT(four0, four1, 4)), SHIFT(four0, four1, 8));
        vf_store(dst + x, vf_add(vf_add(sum, SHIFT(two0, two1, 12)), SHIFT(v0, v1, 14)));
        v0 = v1;
        v1 = v2;
        v2 = v3;
        two0 = two1;
        two1 = two2;
        four0 = four1;
    }
}
