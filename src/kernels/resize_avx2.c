/* SPDX-License-Identifier: Apache-2.0
 * Resize for CPUs with AVX2.
 *
 * A 22-bit coefficient is k = hi * 65536 + lo, both signed 16-bit; vpmaddwd multiplies widened pixels by either half and
 * adds neighbours, the halves join once at the end. Modulo 2^32 throughout, so equal to the scalar sum to the bit.
 * Normalising looks up eight values by eight loads: a gather is slower, and so are eight stores (for 224 rows of 224
 * pixels on Zen 4: stores 44 us, gather 51, inserts 35). f16 stays with the scalar look-up. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

/* The filter at four arguments: sp_filter_triangle, sp_filter_cubic. */
static inline __m256d filter_4(__m256d x, bool cubic)
{
    const __m256d one = _mm256_set1_pd(1.0), a = _mm256_set1_pd(-0.5);
    x = _mm256_andnot_pd(_mm256_set1_pd(-0.0), x);
    __m256d inner = _mm256_cmp_pd(x, one, _CMP_LT_OQ);
    if (!cubic)
        return _mm256_and_pd(inner, _mm256_sub_pd(one, x));
    __m256d near = _mm256_sub_pd(_mm256_mul_pd(_mm256_add_pd(a, _mm256_set1_pd(2.0)), x), _mm256_add_pd(a, _mm256_set1_pd(3.0)));
    near = _mm256_add_pd(_mm256_mul_pd(_mm256_mul_pd(near, x), x), one);
    __m256d far = _mm256_add_pd(_mm256_mul_pd(_mm256_sub_pd(x, _mm256_set1_pd(5.0)), x), _mm256_set1_pd(8.0));
    far = _mm256_mul_pd(_mm256_sub_pd(_mm256_mul_pd(far, x), _mm256_set1_pd(4.0)), a);
    far = _mm256_and_pd(_mm256_cmp_pd(x, _mm256_set1_pd(2.0), _CMP_LT_OQ), far);
    return _mm256_blendv_pd(far, near, inner);
}

/* Four taps side by side; their sum is taken in order, as the reference does. */
void sp_weights_avx2(int32_t *SP_RESTRICT weight, const sp_axis *axis, const sp_weight_params *params)
{
    const __m256d inverse = _mm256_set1_pd(params->inverse), half = _mm256_set1_pd(0.5), one = _mm256_set1_pd(1 << SP_RESIZE_BITS);
    const __m256d sign = _mm256_set1_pd(-0.0);
    const __m128i step = _mm_setr_epi32(0, 1, 2, 3);
    double *k = params->spare;
    for (int i = 0; i < axis->n; i++, weight += axis->stride) {
        const __m256d centre = _mm256_set1_pd(((double)(params->out_first + i) + 0.5) * params->scale);
        int taps = axis->count[i], t = 0;
        double sum = 0.0;
        for (; t < taps; t += 4) {
            __m256d at = _mm256_cvtepi32_pd(_mm_add_epi32(step, _mm_set1_epi32(t + axis->first[i])));
            at = _mm256_mul_pd(_mm256_add_pd(_mm256_sub_pd(at, centre), half), inverse);
            _mm256_storeu_pd(k + t, filter_4(at, params->cubic));
        }
        for (int end = taps; end < t; end++)
            k[end] = 0.0;
        for (int u = 0; u < taps; u++)
            sum += k[u];
        const __m256d divisor = _mm256_set1_pd(sum != 0.0 ? sum : 1.0);
        for (t = 0; t < taps; t += 4) {
            __m256d w = _mm256_mul_pd(_mm256_div_pd(_mm256_loadu_pd(k + t), divisor), one);
            w = _mm256_add_pd(w, _mm256_or_pd(_mm256_and_pd(w, sign), half)); /* half away from zero */
            _mm_storeu_si128((__m128i *)(void *)(weight + t), _mm256_cvttpd_epi32(w));
        }
        for (; t < axis->stride; t += 4)
            _mm_storeu_si128((__m128i *)(void *)(weight + t), _mm_setzero_si128());
    }
}

/* [4 outputs] 16 words: the right pixel's weight, three times per output, two outputs and 4 unused bytes per lane. */
static void pack_plain(sp_axis *axis)
{
    uint16_t *out = axis->packed;
    for (int x = 0; x < axis->n; x += 4, out += 16) {
        for (int l = 0; l < 16; l++)
            out[l] = (uint16_t)axis->weight[SP_MIN(x + l / 8 * 2 + (l % 8 >= 3), axis->n - 1)];
    }
}

/* [output][quad] 4 words hi, 4 words lo. */
void sp_pack_h_avx2(sp_axis *axis)
{
    if (axis->stride == 1) {
        pack_plain(axis);
        return;
    }
    const __m128i round = _mm_set1_epi32(32768);
    const __m128i halves = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    const int32_t *weight = axis->weight;
    __m128i *out = axis->packed;
    size_t count = (size_t)axis->n * (size_t)axis->quads;
    for (size_t i = 0; i < count; i++) {
        __m128i k = _mm_loadu_si128((const __m128i *)(const void *)(weight + 4 * i));
        __m128i hi = _mm_shuffle_epi8(_mm_srai_epi32(_mm_add_epi32(k, round), 16), halves);
        _mm_storeu_si128(out + i, _mm_unpacklo_epi64(hi, _mm_shuffle_epi8(k, halves)));
    }
}

/* [output][block] hi of rows 0 and 2, hi of 1 and 3, lo of 0 and 2, lo of 1 and 3. */
void sp_pack_v_avx2(sp_axis *axis)
{
    int16_t *out = axis->packed;
    size_t per_output = ((size_t)axis->quads + 1) * 8;
    if (axis->stride == 1)
        return;
    for (int y = 0; y < axis->n; y++, out += per_output) {
        const int32_t *weight = axis->weight + (size_t)y * (size_t)axis->stride;
        int lead = (axis->first[y] - axis->src_first) & 3;
        memset(out, 0, per_output * sizeof(*out));
        for (int t = 0; t < axis->count[y]; t++) {
            int row = lead + t;
            int16_t *to = out + (row >> 2) * 8 + (row & 1) * 2 + (row >> 1 & 1);
            to[0] = (int16_t)((weight[t] + 32768) >> 16);
            to[4] = (int16_t)(uint16_t)weight[t];
        }
    }
}

static inline __m256i joined(__m256i hi, __m256i lo)
{
    return _mm256_add_epi32(_mm256_slli_epi32(hi, 16), lo);
}

static inline __m256i two_rows(const uint8_t *a, const uint8_t *b)
{
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)a), high = _mm_loadu_si128((const __m128i *)(const void *)b);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* Red and green of rows 0 | 1 and 2 | 3 fill a register each, and the blue of all four a third:
 *   words of a lane   R R R R G G G G (4 taps of row 0 | row 1)   the same of 2 | 3   B B B B (0 | 1) B B B B (2 | 3) */
void sp_resize_h_avx2(uint8_t *SP_RESTRICT dst, const uint8_t *const rows[4], const sp_axis *axis)
{
    const __m256i red_green = _mm256_setr_epi8(0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1,
                                               0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1);
    const __m256i blue_low = _mm256_setr_epi8(2, -1, 5, -1, 8, -1, 11, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                              2, -1, 5, -1, 8, -1, 11, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i blue_high = _mm256_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 2, -1, 5, -1, 8, -1, 11, -1,
                                               -1, -1, -1, -1, -1, -1, -1, -1, 2, -1, 5, -1, 8, -1, 11, -1);
    const __m256i zero = _mm256_setzero_si256(), round = _mm256_set1_epi64x(SP_RESIZE_HALF); /* once per pair of dwords */
    const __m128i by_channel = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1);
    const uint8_t *row0 = rows[0], *row1 = rows[1], *row2 = rows[2], *row3 = rows[3];
    for (int x = 0; x < axis->n; x++) {
        const int64_t *weight = (const int64_t *)axis->packed + (size_t)x * (size_t)axis->quads * 2;
        size_t at = (size_t)axis->first[x] * 3;
        __m256i hi01 = zero, hi23 = zero, hi_b = zero, lo01 = round, lo23 = round, lo_b = round;
        for (int left = axis->count[x]; left > 0; left -= 4, at += 12, weight += 2) {
            __m256i whi = _mm256_set1_epi64x(weight[0]), wlo = _mm256_set1_epi64x(weight[1]);
            __m256i v01 = two_rows(row0 + at, row1 + at), v23 = two_rows(row2 + at, row3 + at);
            __m256i b = _mm256_or_si256(_mm256_shuffle_epi8(v01, blue_low), _mm256_shuffle_epi8(v23, blue_high));
            v01 = _mm256_shuffle_epi8(v01, red_green);
            v23 = _mm256_shuffle_epi8(v23, red_green);
            hi01 = _mm256_add_epi32(hi01, _mm256_madd_epi16(v01, whi));
            lo01 = _mm256_add_epi32(lo01, _mm256_madd_epi16(v01, wlo));
            hi23 = _mm256_add_epi32(hi23, _mm256_madd_epi16(v23, whi));
            lo23 = _mm256_add_epi32(lo23, _mm256_madd_epi16(v23, wlo));
            hi_b = _mm256_add_epi32(hi_b, _mm256_madd_epi16(b, whi));
            lo_b = _mm256_add_epi32(lo_b, _mm256_madd_epi16(b, wlo));
        }
        /* R0 G0 R2 G2 | R1 G1 R3 G3, and B0 B2 B0 B2 | B1 B3 B1 B3 */
        __m256i rg = _mm256_hadd_epi32(joined(hi01, lo01), joined(hi23, lo23));
        __m256i bb = joined(hi_b, lo_b);
        bb = _mm256_hadd_epi32(bb, bb);
        __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(rg, SP_RESIZE_BITS), _mm256_srai_epi32(bb, SP_RESIZE_BITS));
        __m256i bytes = _mm256_packus_epi16(words, words);
        __m128i pairs = _mm_unpacklo_epi8(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        _mm_storeu_si128((__m128i *)(void *)(dst + (size_t)x * 12), _mm_shuffle_epi8(pairs, by_channel));
    }
}

void sp_resize_v_avx2(uint8_t *SP_RESTRICT dst, int cols, const uint8_t *const *blocks, const sp_axis *axis, int y)
{
    const __m256i even = _mm256_set1_epi16(255), in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i round = _mm256_set1_epi32(SP_RESIZE_HALF), zero = _mm256_setzero_si256();
    const int32_t *weight = (const int32_t *)axis->packed + (size_t)y * ((size_t)axis->quads + 1) * 4;
    int count = (((axis->first[y] - axis->src_first) & 3) + axis->count[y] + 3) / 4;
    for (int i = 0; i < cols; i += 32) {
        __m256i hi[4] = { zero, zero, zero, zero }, lo[4] = { round, round, round, round };
        for (int b = 0; b < count; b++) {
            const uint8_t *block = blocks[b] + (size_t)i * 4;
            __m256i hi02 = _mm256_set1_epi32(weight[4 * b]), hi13 = _mm256_set1_epi32(weight[4 * b + 1]);
            __m256i lo02 = _mm256_set1_epi32(weight[4 * b + 2]), lo13 = _mm256_set1_epi32(weight[4 * b + 3]);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                __m256i four = _mm256_loadu_si256((const __m256i *)(const void *)(block + 32 * v));
                __m256i r02 = _mm256_and_si256(four, even), r13 = _mm256_srli_epi16(four, 8);
                hi[v] = _mm256_add_epi32(hi[v], _mm256_add_epi32(_mm256_madd_epi16(r02, hi02), _mm256_madd_epi16(r13, hi13)));
                lo[v] = _mm256_add_epi32(lo[v], _mm256_add_epi32(_mm256_madd_epi16(r02, lo02), _mm256_madd_epi16(r13, lo13)));
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            lo[v] = _mm256_srai_epi32(joined(hi[v], lo[v]), SP_RESIZE_BITS);
        __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(lo[0], lo[1]), _mm256_packs_epi32(lo[2], lo[3]));
        _mm256_storeu_si256((__m256i *)(void *)(dst + i), _mm256_permutevar8x32_epi32(bytes, in_order));
    }
}

/* Two neighbouring pixels (6 bytes, 8 are read) of each of two outputs. */
static inline __m128i two_outputs(const uint8_t *row, const int32_t *first)
{
    __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(row + (size_t)first[0] * 3));
    __m128i high = _mm_loadl_epi64((const __m128i *)(const void *)(row + (size_t)first[1] * 3));
    return _mm_unpacklo_epi64(low, high);
}

void sp_plain_h_avx2(uint16_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT row, const sp_axis *axis)
{
    const __m256i left = _mm256_setr_epi8(0, -1, 1, -1, 2, -1, 8, -1, 9, -1, 10, -1, -1, -1, -1, -1,
                                          0, -1, 1, -1, 2, -1, 8, -1, 9, -1, 10, -1, -1, -1, -1, -1);
    const __m256i right = _mm256_setr_epi8(3, -1, 4, -1, 5, -1, 11, -1, 12, -1, 13, -1, -1, -1, -1, -1,
                                           3, -1, 4, -1, 5, -1, 11, -1, 12, -1, 13, -1, -1, -1, -1, -1);
    const __m256i *packed = axis->packed;
    for (int x = 0; x < axis->n; x += 4, packed++) {
        __m256i four = _mm256_inserti128_si256(_mm256_castsi128_si256(two_outputs(row, axis->first + x)),
                                               two_outputs(row, axis->first + x + 2), 1);
        __m256i a = _mm256_shuffle_epi8(four, left), b = _mm256_shuffle_epi8(four, right);
        __m256i mixed = _mm256_mullo_epi16(_mm256_sub_epi16(b, a), _mm256_loadu_si256(packed));
        mixed = _mm256_add_epi16(_mm256_slli_epi16(a, 8), mixed);
        _mm_storeu_si128((__m128i *)(void *)(dst + (size_t)x * 3), _mm256_castsi256_si128(mixed));
        _mm_storeu_si128((__m128i *)(void *)(dst + (size_t)x * 3 + 6), _mm256_extracti128_si256(mixed, 1));
    }
}

void sp_plain_v_avx2(uint8_t *SP_RESTRICT dst, int cols, const uint16_t *SP_RESTRICT a, const uint16_t *SP_RESTRICT b, int w1)
{
    /* vpmaddwd is signed: 32768 is taken off both values and comes back, times 256, with the rounding. */
    const __m256i sign = _mm256_set1_epi16(INT16_MIN), back = _mm256_set1_epi32(32768 * 256 + 32768);
    const __m256i weight = _mm256_set1_epi32((int32_t)((uint32_t)(256 - w1) | (uint32_t)w1 << 16));
    for (int i = 0; i < cols; i += 32) {
        __m256i words[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            __m256i x = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(a + i + 16 * v)), sign);
            __m256i y = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(b + i + 16 * v)), sign);
            __m256i low = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(x, y), weight), back);
            __m256i high = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(x, y), weight), back);
            words[v] = _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
        }
        _mm256_storeu_si256((__m256i *)(void *)(dst + i),
                            _mm256_permute4x64_epi64(_mm256_packus_epi16(words[0], words[1]), 0xd8));
    }
}

void sp_to_block_avx2(uint8_t *SP_RESTRICT dst, const uint8_t *const rows[4], int cols)
{
    for (int i = 0; i < cols; i += 16) {
        __m128i r0 = _mm_loadu_si128((const __m128i *)(const void *)(rows[0] + i));
        __m128i r1 = _mm_loadu_si128((const __m128i *)(const void *)(rows[1] + i));
        __m128i r2 = _mm_loadu_si128((const __m128i *)(const void *)(rows[2] + i));
        __m128i r3 = _mm_loadu_si128((const __m128i *)(const void *)(rows[3] + i));
        __m128i low01 = _mm_unpacklo_epi8(r0, r1), high01 = _mm_unpackhi_epi8(r0, r1);
        __m128i low23 = _mm_unpacklo_epi8(r2, r3), high23 = _mm_unpackhi_epi8(r2, r3);
        __m128i *to = (__m128i *)(void *)(dst + (size_t)i * 4);
        _mm_storeu_si128(to, _mm_unpacklo_epi16(low01, low23));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low01, low23));
        _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(high01, high23));
        _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(high01, high23));
    }
}

void sp_from_block_avx2(uint8_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT block, int cols, int row)
{
    const __m256i byte = _mm256_set1_epi32(255), in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m128i shift = _mm_cvtsi32_si128(8 * row);
    for (int i = 0; i < cols; i += 32) {
        __m256i v[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            __m256i four = _mm256_loadu_si256((const __m256i *)(const void *)(block + (size_t)i * 4 + 32 * (size_t)k));
            v[k] = _mm256_and_si256(_mm256_srl_epi32(four, shift), byte);
        }
        __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        _mm256_storeu_si256((__m256i *)(void *)(dst + i), _mm256_permutevar8x32_epi32(bytes, in_order));
    }
}

/* The values of eight pixels' one channel. */
static inline __m256 eight_values(const float *table, const uint8_t *src)
{
    __m128 low = _mm_insert_ps(_mm_load_ss(table + src[0]), _mm_load_ss(table + src[3]), 0x10);
    __m128 high = _mm_insert_ps(_mm_load_ss(table + src[12]), _mm_load_ss(table + src[15]), 0x10);
    low = _mm_insert_ps(_mm_insert_ps(low, _mm_load_ss(table + src[6]), 0x20), _mm_load_ss(table + src[9]), 0x30);
    high = _mm_insert_ps(_mm_insert_ps(high, _mm_load_ss(table + src[18]), 0x20), _mm_load_ss(table + src[21]), 0x30);
    return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}

void sp_norm_f32_avx2(float *SP_RESTRICT dst, ptrdiff_t plane, const uint8_t *SP_RESTRICT src, int n, const sp_norm_table *table)
{
    int x = 0;
    for (; x + 8 <= n; x += 8, src += 24) {
        _mm256_storeu_ps(dst + x, eight_values(table->f32[0], src));
        _mm256_storeu_ps(dst + x + plane, eight_values(table->f32[1], src + 1));
        _mm256_storeu_ps(dst + x + 2 * plane, eight_values(table->f32[2], src + 2));
    }
    if (x < n)
        sp_norm_f32_c(dst + x, plane, src, n - x, table);
}
