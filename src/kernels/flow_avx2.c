/* SPDX-License-Identifier: Apache-2.0
 * The rows of the dense flow for CPUs with AVX2 and FMA: flow_rows.inc, eight pixels at a time. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#include <immintrin.h>

#define LANES 8
#define ROW(name) sp_flow_##name##_avx2
#define INLINE static inline __attribute__((always_inline, unused))

typedef __m256 vf;
typedef __m256i vi;
typedef __m256i mask; /* all bits of a lane, or none */

INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
INLINE vf vf_load_some(mask m, const float *p) { return _mm256_maskload_ps(p, m); }
INLINE void vf_store_some(mask m, float *p, vf v) { _mm256_maskstore_ps(p, m, v); }
INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_fms(vf a, vf b, vf c) { return _mm256_fmsub_ps(a, b, c); }
INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE vf vf_less(vf a, vf b) { return _mm256_min_ps(a, b); } /* b when a is NaN */
INLINE vf vf_more(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_floor(vf a) { return _mm256_floor_ps(a); }
INLINE vi vi_from(vf a) { return _mm256_cvttps_epi32(a); }

INLINE vf vf_bytes(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

INLINE vi lane_numbers(void)
{
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

INLINE vf vf_count(int x)
{
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_set1_epi32(x), lane_numbers()));
}

INLINE mask first_lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane_numbers());
}

INLINE mask vf_inside(mask m, vf v, float end)
{
    vf in = _mm256_and_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ), _mm256_cmp_ps(v, _mm256_set1_ps(end), _CMP_LT_OQ));
    return _mm256_and_si256(m, _mm256_castps_si256(in));
}

INLINE vf vf_select(mask m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m)); }
INLINE vi vi_plus(vi v, int x) { return _mm256_add_epi32(v, _mm256_set1_epi32(x)); }
INLINE vi vi_minus(vi a, vi b) { return _mm256_sub_epi32(a, b); }
INLINE unsigned mask_bits(mask m) { return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(m)); }
INLINE mask mask_or(mask a, mask b) { return _mm256_or_si256(a, b); }
INLINE mask mask_without(mask m, mask out) { return _mm256_andnot_si256(out, m); }

INLINE mask mask_equal(mask m, vi v, int x)
{
    return _mm256_and_si256(m, _mm256_cmpeq_epi32(v, _mm256_set1_epi32(x)));
}

INLINE int vi_lane(vi v, int lane)
{
    return _mm_cvtsi128_si32(_mm256_castsi256_si128(_mm256_permutevar8x32_epi32(v, _mm256_set1_epi32(lane))));
}

/* Those of `m` whose value and the next one lie among the 2 * LANES floats that pick() sees. */
INLINE mask mask_in_two(mask m, vi at)
{
    mask in = _mm256_and_si256(_mm256_cmpgt_epi32(at, _mm256_set1_epi32(-1)), _mm256_cmpgt_epi32(_mm256_set1_epi32(2 * LANES - 1), at));
    return _mm256_and_si256(m, in);
}

/* `at` counts from `from`. */
INLINE vf pick(const float *from, vi at)
{
    vf low = _mm256_permutevar8x32_ps(vf_load(from), at), high = _mm256_permutevar8x32_ps(vf_load(from + LANES), at);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at, 28))); /* by bit 3 */
}

#include "kernels/flow_rows.inc"

void sp_flow_across_avx2(float *SP_RESTRICT dst, const float *SP_RESTRICT src, const sp_flow_axis *axis)
{
    for (int x = 0; x < axis->n; x += LANES) {
        vi first = _mm256_loadu_si256((const __m256i *)(const void *)(axis->first + x)); /* not falling */
        const float *weight = axis->weight + x, *from = src + axis->first[x];
        int span = axis->first[x + LANES - 1] - axis->first[x];
        vi at = _mm256_sub_epi32(first, _mm256_set1_epi32(axis->first[x]));
        vf sum = vf_zero();
        for (int t = 0; t < axis->taps; t++, weight += axis->stride) {
            vf value;
            if (span < LANES)
                value = _mm256_permutevar8x32_ps(vf_load(from + t), at);
            else if (span < 2 * LANES)
                value = pick(from + t, at);
            else
                value = _mm256_i32gather_ps(from + t, at, 4);
            sum = t ? vf_fma(vf_load(weight), value, sum) : vf_mul(vf_load(weight), value);
        }
        vf_store_some(first_lanes(axis->n - x), dst + x, sum);
    }
}

/* Sums of two and of four are laid down first: shifting across a register's halves costs more than reading again. */
static void window_15(float *SP_RESTRICT dst, const float *SP_RESTRICT src, float *SP_RESTRICT spare, int n)
{
    const float *from = src - 7;
    float *two = spare, *four = spare + sp_flow_margin_stride(n);
    for (int x = 0; x < n + 14; x += LANES)
        vf_store(two + x, vf_add(vf_load(from + x), vf_load(from + x + 1)));
    for (int x = 0; x < n + 12; x += LANES)
        vf_store(four + x, vf_add(vf_load(two + x), vf_load(two + x + 2)));
    for (int x = 0; x < n; x += LANES) {
        vf sum = vf_add(vf_add(vf_load(four + x), vf_load(four + x + 4)), vf_load(four + x + 8));
        vf_store(dst + x, vf_add(vf_add(sum, vf_load(two + x + 12)), vf_load(from + x + 14)));
    }
}
