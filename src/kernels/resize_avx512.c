/* SPDX-License-Identifier: Apache-2.0
 * Resize and normalise for CPUs with AVX-512 VNNI and VBMI (Ice Lake, Zen 4 and later).
 *
 * A 22-bit coefficient is three signed bytes, k = d2 * 65536 + d1 * 256 + d0, and vpdpbusd sums four pixel * digit
 * products into each of sixteen int32 without saturation: three instructions do 4 taps of 16 columns, straight from
 * bytes, and the three sums join once at the end. vpermi2b fetches the four bytes of every lane from a window of 128
 * source bytes. Everything is modulo 2^32, so it equals the scalar sum to the bit. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

/* How resize_h walks: the outputs of a group share one 128-byte window (42 pixels); each tap quad of a group has its own
 * window; or, for strong reductions, one output at a time, sixteen taps a step. */
enum { WINDOW_PER_GROUP = 1, WINDOW_PER_QUAD = 2, ONE_OUTPUT = 3 };

#define GROUP 5 /* outputs of 3 channels in 16 lanes; the last lane is waste */
#define WINDOW_PIXELS 42

static size_t padded(const sp_axis *axis)
{
    return (size_t)axis->n + 16;
}

/* The filter at eight arguments: sp_filter_triangle, sp_filter_cubic. */
static inline __m512d filter_8(__m512d x, bool cubic)
{
    const __m512d one = _mm512_set1_pd(1.0), a = _mm512_set1_pd(-0.5);
    x = _mm512_abs_pd(x);
    if (!cubic)
        return _mm512_maskz_sub_pd(_mm512_cmp_pd_mask(x, one, _CMP_LT_OQ), one, x);
    __m512d near = _mm512_sub_pd(_mm512_mul_pd(_mm512_add_pd(a, _mm512_set1_pd(2.0)), x), _mm512_add_pd(a, _mm512_set1_pd(3.0)));
    near = _mm512_add_pd(_mm512_mul_pd(_mm512_mul_pd(near, x), x), one);
    __m512d far = _mm512_add_pd(_mm512_mul_pd(_mm512_sub_pd(x, _mm512_set1_pd(5.0)), x), _mm512_set1_pd(8.0));
    far = _mm512_mul_pd(_mm512_sub_pd(_mm512_mul_pd(far, x), _mm512_set1_pd(4.0)), a);
    far = _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, _mm512_set1_pd(2.0), _CMP_LT_OQ), far);
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x, one, _CMP_LT_OQ), far, near);
}

static inline __mmask8 first_taps(int count)
{
    return (__mmask8)(count >= 8 ? 0xff : count > 0 ? (1 << count) - 1 : 0);
}

/* Eight taps side by side; their sum is taken in order, as the reference does. */
void sp_weights_avx512(int32_t *SP_RESTRICT weight, const sp_axis *axis, const sp_weight_params *params)
{
    const __m512d inverse = _mm512_set1_pd(params->inverse), half = _mm512_set1_pd(0.5), one = _mm512_set1_pd(1 << SP_RESIZE_BITS);
    const __m512i step = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), sign = _mm512_set1_epi64(INT64_MIN);
    double *k = params->spare;
    for (int i = 0; i < axis->n; i++, weight += axis->stride) {
        const __m512d centre = _mm512_set1_pd(((double)(params->out_first + i) + 0.5) * params->scale);
        int taps = axis->count[i];
        double sum = 0.0;
        for (int t = 0; t < taps; t += 8) {
            __m512d at = _mm512_cvtepi64_pd(_mm512_add_epi64(step, _mm512_set1_epi64(t + axis->first[i])));
            at = _mm512_mul_pd(_mm512_add_pd(_mm512_sub_pd(at, centre), half), inverse);
            _mm512_storeu_pd(k + t, filter_8(at, params->cubic));
        }
        for (int t = 0; t < taps; t++)
            sum += k[t];
        const __m512d divisor = _mm512_set1_pd(sum != 0.0 ? sum : 1.0);
        for (int t = 0; t < axis->stride; t += 8) {
            __m512d w = _mm512_maskz_loadu_pd(first_taps(taps - t), k + t);
            w = _mm512_mul_pd(_mm512_div_pd(w, divisor), one);
            __m512i away = _mm512_or_si512(_mm512_and_si512(_mm512_castpd_si512(w), sign), _mm512_castpd_si512(half));
            w = _mm512_add_pd(w, _mm512_castsi512_pd(away)); /* half away from zero */
            _mm256_mask_storeu_epi32(weight + t, first_taps(axis->stride - t), _mm512_cvttpd_epi32(w));
        }
    }
}

/* The digits of 16 coefficients (4 quads), as 4 dwords of 4 bytes each: least significant digit first. */
static void split(__m512i k, uint32_t digits[3][4])
{
    const __m512i half = _mm512_set1_epi32(128);
    __m512i k1 = _mm512_srai_epi32(_mm512_add_epi32(k, half), 8);
    __m512i k2 = _mm512_srai_epi32(_mm512_add_epi32(k1, half), 8);
    _mm_storeu_si128((__m128i *)(void *)digits[0], _mm512_cvtepi32_epi8(k));
    _mm_storeu_si128((__m128i *)(void *)digits[1], _mm512_cvtepi32_epi8(k1));
    _mm_storeu_si128((__m128i *)(void *)digits[2], _mm512_cvtepi32_epi8(k2));
}

static __m512i load_quads(const int32_t *weight, int quads)
{
    return _mm512_maskz_loadu_epi32((__mmask16)(quads >= 4 ? 0xffff : (1 << (4 * quads)) - 1), weight);
}

static int widest_group(const sp_axis *axis)
{
    int widest = 0;
    for (int g = 0; g < axis->n; g += GROUP) {
        int reach = axis->first[g + GROUP - 1] - axis->first[g];
        widest = reach > widest ? reach : widest;
    }
    return widest;
}

/* Plain bilinear: per group of `mode` outputs (as many as one window holds, at most 10), 32 words of byte indices of the
 * left pixel and 32 words of the right pixel's weight. */
static void pack_plain(sp_axis *axis)
{
    int step = 10;
    for (int g = 0; step > 1 && g < axis->n; g++) {
        while (step > 1 && axis->first[SP_MIN(g + step, axis->n) - 1] - axis->first[g] > WINDOW_PIXELS - 2)
            step--;
    }
    uint16_t *out = axis->packed;
    for (int g = 0; g < axis->n; g += step, out += 64) {
        for (int l = 0; l < 32; l++) {
            int x = SP_MIN(g + l / 3, axis->n - 1);
            int at = 3 * (axis->first[x] - axis->first[g]) + l % 3;
            out[l] = (uint16_t)(at & 127); /* lanes beyond the group hold anything; the next group overwrites them */
            out[l + 32] = (uint16_t)axis->weight[x];
        }
    }
    axis->mode = step;
}

void sp_pack_h_avx512(sp_axis *axis)
{
    if (axis->stride == 1) {
        pack_plain(axis);
        return;
    }
    int widest = widest_group(axis), quads = axis->quads;
    axis->mode = widest + 4 * quads <= WINDOW_PIXELS ? WINDOW_PER_GROUP
                 : widest + 4 <= WINDOW_PIXELS       ? WINDOW_PER_QUAD
                                                     : ONE_OUTPUT;
    uint32_t *out = axis->packed, digits[3][4];
    size_t wide = padded(axis), steps = ((size_t)quads + 3) / 4;
    for (int x = 0; x < axis->n; x++) {
        const int32_t *weight = axis->weight + (size_t)x * (size_t)axis->stride;
        for (int t = 0; t < quads; t += 4) {
            split(load_quads(weight + 4 * t, quads - t), digits);
            if (axis->mode == ONE_OUTPUT) { /* [output][step][digit][4 quads] */
                memcpy(out + ((size_t)x * steps + (size_t)t / 4) * 12, digits, sizeof(digits));
                continue;
            }
            for (int q = 0; q < 4 && t + q < quads; q++) { /* [quad][digit][output] */
                for (int d = 0; d < 3; d++)
                    out[((size_t)(t + q) * 3 + (size_t)d) * wide + (size_t)x] = digits[d][q];
            }
        }
    }
    for (int t = 0; axis->mode != ONE_OUTPUT && t < 3 * quads; t++)
        memset(out + (size_t)t * wide + (size_t)axis->n, 0, 16 * sizeof(*out));
}

/* [output][block][4 dwords: the three digits of its four rows, and one unused]. */
void sp_pack_v_avx512(sp_axis *axis)
{
    uint32_t *out = axis->packed;
    size_t per_output = ((size_t)axis->quads + 1) * 4;
    if (axis->stride == 1)
        return;
    for (int y = 0; y < axis->n; y++, out += per_output) {
        const int32_t *weight = axis->weight + (size_t)y * (size_t)axis->stride;
        int lead = (axis->first[y] - axis->src_first) & 3, count = axis->count[y];
        uint8_t *bytes = (uint8_t *)out;
        memset(out, 0, per_output * sizeof(*out));
        for (int t = 0; t < count; t++) {
            int32_t k = weight[t], k1 = (k + 128) >> 8, at = lead + t;
            uint8_t *to = bytes + (at >> 2) * 16 + (at & 3);
            to[0] = (uint8_t)k;
            to[4] = (uint8_t)k1;
            to[8] = (uint8_t)((k1 + 128) >> 8);
        }
    }
}

/* _mm512_dpbusd_epi32 in place. Written out because gcc 12 copies every accumulator before and after the builtin: two
 * moves per product, a third of the loop (measured: 10 %). */
static inline __attribute__((always_inline)) void dot(__m512i *sum, __m512i pixels, __m512i digits)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(pixels), "v"(digits));
}

static inline __m512i joined(const __m512i digit[3])
{
    return _mm512_add_epi32(_mm512_add_epi32(digit[0], _mm512_slli_epi32(digit[1], 8)), _mm512_slli_epi32(digit[2], 16));
}

/* Four rows of sixteen sums, rounded and clipped, to sixteen columns of four interleaved bytes. */
static inline __m512i to_block(__m512i r0, __m512i r1, __m512i r2, __m512i r3)
{
    const __m512i transpose = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
    __m512i low = _mm512_packs_epi32(_mm512_srai_epi32(r0, SP_RESIZE_BITS), _mm512_srai_epi32(r1, SP_RESIZE_BITS));
    __m512i high = _mm512_packs_epi32(_mm512_srai_epi32(r2, SP_RESIZE_BITS), _mm512_srai_epi32(r3, SP_RESIZE_BITS));
    return _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), transpose);
}

/* Lane l is channel l % 3 of output l / 3; the byte index of tap 0..3 inside the group's window. */
static inline __m512i group_index(const int32_t *first, __m512i lane_output)
{
    const __m512i within = _mm512_setr_epi32(0x09060300, 0x0a070401, 0x0b080502, 0x09060300, 0x0a070401, 0x0b080502,
                                             0x09060300, 0x0a070401, 0x0b080502, 0x09060300, 0x0a070401, 0x0b080502,
                                             0x09060300, 0x0a070401, 0x0b080502, 0x09060300);
    const __m512i splat = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0x00000000);
    __m512i from = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)first));
    __m512i offset = _mm512_sub_epi32(_mm512_permutexvar_epi32(lane_output, from), _mm512_set1_epi32(first[0]));
    offset = _mm512_add_epi32(offset, _mm512_add_epi32(offset, offset));
    return _mm512_add_epi8(_mm512_shuffle_epi8(offset, splat), within);
}

static inline __m512i spread(const uint32_t *digits, __m512i lane_output)
{
    return _mm512_permutexvar_epi32(lane_output,
                                    _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)digits)));
}

/* The same place four rows further down, which the next call will read: the hardware's prefetchers stop at page ends, and
 * rows are shorter than a few pages (4000x3000 bilinear: 2.8 to 2.1 ms, measured). Past the picture it asks in vain. */
static inline size_t ask_for_next(const uint8_t *const rows[4], size_t asked, size_t end)
{
    for (; asked < end; asked += 64) {
        for (int r = 0; r < 4; r++)
            _mm_prefetch((const char *)((uintptr_t)rows[r] + (uintptr_t)(rows[1] - rows[0]) * 4 + asked), _MM_HINT_T0);
    }
    return asked;
}

static inline __attribute__((always_inline)) void resize_h_groups(uint8_t *SP_RESTRICT dst, const uint8_t *const rows[4],
                                                                  const sp_axis *axis, const int shared_window)
{
    const __m512i lane_output = _mm512_setr_epi32(0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4);
    const __m512i twelve = _mm512_set1_epi8(12), round = _mm512_set1_epi32(SP_RESIZE_HALF), zero = _mm512_setzero_si512();
    const uint8_t *row0 = rows[0], *row1 = rows[1], *row2 = rows[2], *row3 = rows[3];
    size_t asked = (size_t)axis->first[0] * 3;
    const size_t wide = padded(axis);
    for (int g = 0; g < axis->n; g += GROUP) {
        const uint32_t *digits = (const uint32_t *)axis->packed + g;
        const int32_t *first = axis->first + g;
        __m512i index = group_index(first, lane_output);
        __m512i sum[4][3] = { { round, zero, zero }, { round, zero, zero }, { round, zero, zero }, { round, zero, zero } };
        size_t at = (size_t)first[0] * 3;
        int quads = axis->quads;
        if (!shared_window) { /* only as far as this group's outputs look: the window must stay within the slack */
            int most = 0;
            for (int i = 0; i < GROUP; i++)
                most = SP_MAX(most, axis->count[g + i]);
            quads = (most + 3) / 4;
        }
        asked = ask_for_next(rows, asked, at + 128);
        __m512i a0 = _mm512_loadu_si512(row0 + at), b0 = _mm512_loadu_si512(row0 + at + 64);
        __m512i a1 = _mm512_loadu_si512(row1 + at), b1 = _mm512_loadu_si512(row1 + at + 64);
        __m512i a2 = _mm512_loadu_si512(row2 + at), b2 = _mm512_loadu_si512(row2 + at + 64);
        __m512i a3 = _mm512_loadu_si512(row3 + at), b3 = _mm512_loadu_si512(row3 + at + 64);
        for (int t = 0;;) {
            __m512i p0 = _mm512_permutex2var_epi8(a0, index, b0), p1 = _mm512_permutex2var_epi8(a1, index, b1);
            __m512i p2 = _mm512_permutex2var_epi8(a2, index, b2), p3 = _mm512_permutex2var_epi8(a3, index, b3);
#pragma GCC unroll 3
            for (int d = 0; d < 3; d++) {
                __m512i weight = spread(digits + (size_t)d * wide, lane_output);
                dot(&sum[0][d], p0, weight);
                dot(&sum[1][d], p1, weight);
                dot(&sum[2][d], p2, weight);
                dot(&sum[3][d], p3, weight);
            }
            if (++t == quads)
                break;
            digits += 3 * wide;
            if (shared_window) {
                index = _mm512_add_epi8(index, twelve);
                continue;
            }
            at += 12;
            a0 = _mm512_loadu_si512(row0 + at), b0 = _mm512_loadu_si512(row0 + at + 64);
            a1 = _mm512_loadu_si512(row1 + at), b1 = _mm512_loadu_si512(row1 + at + 64);
            a2 = _mm512_loadu_si512(row2 + at), b2 = _mm512_loadu_si512(row2 + at + 64);
            a3 = _mm512_loadu_si512(row3 + at), b3 = _mm512_loadu_si512(row3 + at + 64);
        }
        _mm512_storeu_si512(dst + (size_t)g * 12, to_block(joined(sum[0]), joined(sum[1]), joined(sum[2]), joined(sum[3])));
    }
}

static inline __m512i spread_quads(const uint32_t *digits, __m512i lane_quad)
{
    __m128i four = _mm_loadu_si128((const __m128i *)(const void *)digits);
    return _mm512_permutexvar_epi32(lane_quad, _mm512_castsi128_si512(four));
}

/* Lane 4q + c is channel c of taps 4q .. 4q + 3; the four q join after the last step. */
static void resize_h_single(uint8_t *SP_RESTRICT dst, const uint8_t *const rows[4], const sp_axis *axis)
{
    const __m512i lane_quad = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i index = _mm512_setr_epi32(0x09060300, 0x0a070401, 0x0b080502, 0, 0x15120f0c, 0x1613100d, 0x1714110e, 0,
                                            0x211e1b18, 0x221f1c19, 0x23201d1a, 0, 0x2d2a2724, 0x2e2b2825, 0x2f2c2926, 0);
    const __m128i transpose = _mm_setr_epi32(0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703);
    const __m512i zero = _mm512_setzero_si512();
    size_t asked = (size_t)axis->first[0] * 3;
    size_t steps_stride = ((size_t)axis->quads + 3) / 4 * 12;
    for (int x = 0; x < axis->n; x++) {
        const uint32_t *digits = (const uint32_t *)axis->packed + (size_t)x * steps_stride;
        __m512i sum[4][3] = { { zero, zero, zero }, { zero, zero, zero }, { zero, zero, zero }, { zero, zero, zero } };
        size_t at = (size_t)axis->first[x] * 3;
        asked = ask_for_next(rows, asked, at + 64);
        for (int left = axis->count[x]; left > 0; left -= 16, at += 48, digits += 12) {
            __m512i d0 = spread_quads(digits, lane_quad), d1 = spread_quads(digits + 4, lane_quad);
            __m512i d2 = spread_quads(digits + 8, lane_quad);
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                __m512i p = _mm512_permutexvar_epi8(index, _mm512_loadu_si512(rows[r] + at));
                dot(&sum[r][0], p, d0);
                dot(&sum[r][1], p, d1);
                dot(&sum[r][2], p, d2);
            }
        }
        __m512i joint[4] = { joined(sum[0]), joined(sum[1]), joined(sum[2]), joined(sum[3]) };
        __m512i r01 = _mm512_add_epi32(_mm512_shuffle_i32x4(joint[0], joint[1], 0x44),
                                       _mm512_shuffle_i32x4(joint[0], joint[1], 0xee));
        __m512i r23 = _mm512_add_epi32(_mm512_shuffle_i32x4(joint[2], joint[3], 0x44),
                                       _mm512_shuffle_i32x4(joint[2], joint[3], 0xee));
        __m512i all = _mm512_add_epi32(_mm512_shuffle_i32x4(r01, r23, 0x88), _mm512_shuffle_i32x4(r01, r23, 0xdd));
        all = _mm512_srai_epi32(_mm512_add_epi32(all, _mm512_set1_epi32(SP_RESIZE_HALF)), SP_RESIZE_BITS);
        __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(all, zero));
        _mm_storeu_si128((__m128i *)(void *)(dst + (size_t)x * 12), _mm_shuffle_epi8(bytes, transpose));
    }
}

void sp_resize_h_avx512(uint8_t *SP_RESTRICT dst, const uint8_t *const rows[4], const sp_axis *axis)
{
    if (axis->mode == WINDOW_PER_GROUP)
        resize_h_groups(dst, rows, axis, 1);
    else if (axis->mode == WINDOW_PER_QUAD)
        resize_h_groups(dst, rows, axis, 0);
    else
        resize_h_single(dst, rows, axis);
}

void sp_resize_v_avx512(uint8_t *SP_RESTRICT dst, int cols, const uint8_t *const *blocks, const sp_axis *axis, int y)
{
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i round = _mm512_set1_epi32(SP_RESIZE_HALF), zero = _mm512_setzero_si512();
    const int32_t *digits = (const int32_t *)axis->packed + (size_t)y * ((size_t)axis->quads + 1) * 4;
    int count = (((axis->first[y] - axis->src_first) & 3) + axis->count[y] + 3) / 4;
    for (int i = 0; i < cols; i += 64) {
        __m512i sum[4][3] = { { round, zero, zero }, { round, zero, zero }, { round, zero, zero }, { round, zero, zero } };
        for (int b = 0; b < count; b++) {
            const uint8_t *block = blocks[b] + (size_t)i * 4;
            __m512i d0 = _mm512_set1_epi32(digits[4 * b]), d1 = _mm512_set1_epi32(digits[4 * b + 1]);
            __m512i d2 = _mm512_set1_epi32(digits[4 * b + 2]);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                __m512i p = _mm512_loadu_si512(block + 64 * v);
                dot(&sum[v][0], p, d0);
                dot(&sum[v][1], p, d1);
                dot(&sum[v][2], p, d2);
            }
        }
        __m512i v0 = _mm512_srai_epi32(joined(sum[0]), SP_RESIZE_BITS), v1 = _mm512_srai_epi32(joined(sum[1]), SP_RESIZE_BITS);
        __m512i v2 = _mm512_srai_epi32(joined(sum[2]), SP_RESIZE_BITS), v3 = _mm512_srai_epi32(joined(sum[3]), SP_RESIZE_BITS);
        __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(v0, v1), _mm512_packs_epi32(v2, v3));
        _mm512_storeu_si512(dst + i, _mm512_permutexvar_epi32(in_order, bytes));
    }
}

void sp_plain_h_avx512(uint16_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT row, const sp_axis *axis)
{
    const __mmask64 low_bytes = 0x5555555555555555u; /* index byte picks, the other byte of the word is zero */
    const __m512i three = _mm512_set1_epi16(3);
    const uint16_t *packed = axis->packed;
    for (int g = 0; g < axis->n; g += axis->mode, packed += 64) {
        const uint8_t *window = row + (size_t)axis->first[g] * 3;
        __m512i low = _mm512_loadu_si512(window), high = _mm512_loadu_si512(window + 64);
        __m512i index = _mm512_loadu_si512(packed), w1 = _mm512_loadu_si512(packed + 32);
        __m512i a = _mm512_maskz_permutex2var_epi8(low_bytes, low, index, high);
        __m512i b = _mm512_maskz_permutex2var_epi8(low_bytes, low, _mm512_add_epi16(index, three), high);
        __m512i mixed = _mm512_add_epi16(_mm512_slli_epi16(a, 8), _mm512_mullo_epi16(_mm512_sub_epi16(b, a), w1));
        _mm512_storeu_si512(dst + (size_t)g * 3, mixed);
    }
}

/* 256-entry byte table in four registers. */
typedef struct byte_table {
    __m512i part[4];
} byte_table;

static inline byte_table load_table(const uint8_t *bytes)
{
    return (byte_table){ { _mm512_loadu_si512(bytes), _mm512_loadu_si512(bytes + 64), _mm512_loadu_si512(bytes + 128),
                           _mm512_loadu_si512(bytes + 192) } };
}

static inline __m512i look_up(const byte_table *t, __m512i x, __mmask64 upper)
{
    return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t->part[0], x, t->part[1]),
                                  _mm512_permutex2var_epi8(t->part[2], x, t->part[3]));
}

/* One channel of 64 pixels, byte p from source byte index[p] (0..191: 128 and above lie in the third load). */
static inline __m512i pick_channel(const uint8_t *src, __m512i index, __mmask64 third)
{
    __m512i a = _mm512_loadu_si512(src), b = _mm512_loadu_si512(src + 64), c = _mm512_loadu_si512(src + 128);
    return _mm512_mask_permutexvar_epi8(_mm512_permutex2var_epi8(a, index, b), third, index, c);
}

static inline uint64_t low_bits(int count)
{
    return count >= 64 ? UINT64_MAX : count > 0 ? (UINT64_C(1) << count) - 1 : 0;
}

/* The same for the last n < 64 pixels of a row: no byte beyond them is read. */
static inline __m512i pick_channel_end(const uint8_t *src, int n, __m512i index, __mmask64 third)
{
    __m512i a = _mm512_maskz_loadu_epi8(low_bits(3 * n), src), b = _mm512_maskz_loadu_epi8(low_bits(3 * n - 64), src + 64);
    __m512i c = _mm512_maskz_loadu_epi8(low_bits(3 * n - 128), src + 128);
    return _mm512_mask_permutexvar_epi8(_mm512_permutex2var_epi8(a, index, b), third, index, c);
}

static inline void store_f32(float *dst, int n, __m512i x, const byte_table table[4])
{
    __mmask64 upper = _mm512_movepi8_mask(x);
    __m512i b0 = look_up(&table[0], x, upper), b1 = look_up(&table[1], x, upper);
    __m512i b2 = look_up(&table[2], x, upper), b3 = look_up(&table[3], x, upper);
    __m512i low01 = _mm512_unpacklo_epi8(b0, b1), high01 = _mm512_unpackhi_epi8(b0, b1);
    __m512i low23 = _mm512_unpacklo_epi8(b2, b3), high23 = _mm512_unpackhi_epi8(b2, b3);
    __m512i v[4] = { _mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
                     _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23) };
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (n >= 16 * i + 16)
            _mm512_storeu_si512(dst + 16 * i, v[i]);
        else
            _mm512_mask_storeu_epi32(dst + 16 * i, (__mmask16)low_bits(n - 16 * i), v[i]);
    }
}

static inline void store_f16(uint16_t *dst, int n, __m512i x, const byte_table table[2])
{
    __mmask64 upper = _mm512_movepi8_mask(x);
    __m512i b0 = look_up(&table[0], x, upper), b1 = look_up(&table[1], x, upper);
    __m512i v[2] = { _mm512_unpacklo_epi8(b0, b1), _mm512_unpackhi_epi8(b0, b1) };
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        _mm512_mask_storeu_epi16(dst + 32 * i, (__mmask32)low_bits(n - 32 * i), v[i]);
}

/* The unpacks work inside 128-bit lanes; the pixels are picked in the order that makes what they write contiguous:
 * f32: byte 16q + 4v + e is pixel 16v + 4q + e; f16: byte 16q + 8v + e is pixel 32v + 8q + e. */
#define FOUR(byte) (int)(0x01010101u * (byte) + 0x09060300u)

static inline __m512i order_f32(int channel)
{
    const __m512i red = _mm512_setr_epi32(FOUR(0), FOUR(48), FOUR(96), FOUR(144), FOUR(12), FOUR(60), FOUR(108), FOUR(156),
                                          FOUR(24), FOUR(72), FOUR(120), FOUR(168), FOUR(36), FOUR(84), FOUR(132), FOUR(180));
    return _mm512_add_epi8(red, _mm512_set1_epi8((char)channel));
}

static inline __m512i order_f16(int channel)
{
    const __m512i red = _mm512_setr_epi32(FOUR(0), FOUR(12), FOUR(96), FOUR(108), FOUR(24), FOUR(36), FOUR(120), FOUR(132),
                                          FOUR(48), FOUR(60), FOUR(144), FOUR(156), FOUR(72), FOUR(84), FOUR(168), FOUR(180));
    return _mm512_add_epi8(red, _mm512_set1_epi8((char)channel));
}

void sp_norm_f32_avx512(float *SP_RESTRICT dst, ptrdiff_t plane, const uint8_t *SP_RESTRICT src, int n,
                        const sp_norm_table *table)
{
    for (int c = 0; c < 3; c++, dst += plane) {
        const __m512i index = order_f32(c);
        const __mmask64 third = _mm512_movepi8_mask(index); /* 128 and above: the third load */
        const byte_table parts[4] = { load_table(table->f32_bytes[c][0]), load_table(table->f32_bytes[c][1]),
                                      load_table(table->f32_bytes[c][2]), load_table(table->f32_bytes[c][3]) };
        int i = 0;
        for (; i + 64 <= n; i += 64)
            store_f32(dst + i, 64, pick_channel(src + (size_t)i * 3, index, third), parts);
        if (i < n)
            store_f32(dst + i, n - i, pick_channel_end(src + (size_t)i * 3, n - i, index, third), parts);
    }
}

void sp_norm_f16_avx512(uint16_t *SP_RESTRICT dst, ptrdiff_t plane, const uint8_t *SP_RESTRICT src, int n,
                        const sp_norm_table *table)
{
    for (int c = 0; c < 3; c++, dst += plane) {
        const __m512i index = order_f16(c);
        const __mmask64 third = _mm512_movepi8_mask(index); /* 128 and above: the third load */
        const byte_table parts[2] = { load_table(table->f16_bytes[c][0]), load_table(table->f16_bytes[c][1]) };
        int i = 0;
        for (; i + 64 <= n; i += 64)
            store_f16(dst + i, 64, pick_channel(src + (size_t)i * 3, index, third), parts);
        if (i < n)
            store_f16(dst + i, n - i, pick_channel_end(src + (size_t)i * 3, n - i, index, third), parts);
    }
}
