/* SPDX-License-Identifier: Apache-2.0
 * Row ops of plane.inc for CPUs with AVX-512 (F, BW, DQ, VL): pixels in lanes of 16 bits, comparisons as mask bits, ends of
 * rows by masked loads and stores. */
#include "kernels/kernels.h"
#include "kernels/plane_arith.h"
#include "kernels/plane_rows.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* The lanes that n elements fill. */
INLINE __mmask64 first64(int n)
{
    return n >= 64 ? ~0ull : (1ull << n) - 1;
}

INLINE __mmask32 first32(int n)
{
    return n >= 32 ? ~0u : (1u << n) - 1;
}

INLINE __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* 32 pixels as 16-bit numbers. */
INLINE __m512i wide(const uint8_t *p)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* sp_grey_expand: t * 255 / 219 as a product of 16 bits, which is exact for every t (the test compares them all). */
INLINE __m512i expand(__m512i y)
{
    const __m512i zero = _mm512_setzero_si512(), factor = _mm512_set1_epi16((short)38154), half = _mm512_set1_epi16(64);
    __m512i t = _mm512_subs_epu8(y, _mm512_set1_epi8(16));
    __m512i low = _mm512_mulhi_epu16(_mm512_unpacklo_epi8(zero, t), factor);
    __m512i high = _mm512_mulhi_epu16(_mm512_unpackhi_epi8(zero, t), factor);
    return _mm512_packus_epi16(_mm512_srli_epi16(_mm512_add_epi16(low, half), 7),
                               _mm512_srli_epi16(_mm512_add_epi16(high, half), 7));
}

void sp_grey_y8_avx512(uint8_t *dst, const uint8_t *y, int n)
{
    int i = 0;
    for (; i + 64 <= n; i += 64)
        _mm512_storeu_si512(dst + i, expand(load(y + i)));
    if (i < n) {
        __mmask64 k = first64(n - i);
        _mm512_mask_storeu_epi8(dst + i, k, expand(_mm512_maskz_loadu_epi8(k, y + i)));
    }
}

void sp_grey_y16_avx512(uint8_t *SP_RESTRICT dst, const uint16_t *SP_RESTRICT y, int n, int bits, bool limited)
{
    const __m512i half = _mm512_set1_epi16((short)(1 << (bits - 9))), most = _mm512_set1_epi16(255);
    const __m128i shift = _mm_cvtsi32_si128(bits - 8);
    for (int i = 0; i < n; i += 32) {
        __mmask32 k = first32(n - i);
        __m512i v = _mm512_srl_epi16(_mm512_adds_epu16(_mm512_maskz_loadu_epi16(k, y + i), half), shift);
        __m256i narrow = _mm512_cvtepi16_epi8(_mm512_min_epu16(v, most));
        if (limited)
            narrow = _mm512_castsi512_si256(expand(_mm512_castsi256_si512(narrow)));
        _mm256_mask_storeu_epi8(dst + i, k, narrow);
    }
}

/* The weights are the same from both ends, so two taps are one product. */
void sp_blur_across_avx512(uint16_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT src, const uint16_t *weight, int taps, int n)
{
    int half = taps / 2;
    for (int i = 0; i < n; i += 32) {
        const uint8_t *from = src + i;
        __m512i sum = _mm512_mullo_epi16(wide(from + half), _mm512_set1_epi16((short)weight[half]));
        for (int t = 0; t < half; t++) {
            __m512i both = _mm512_add_epi16(wide(from + t), wide(from + taps - 1 - t));
            sum = _mm512_add_epi16(sum, _mm512_mullo_epi16(both, _mm512_set1_epi16((short)weight[t])));
        }
        _mm512_storeu_si512(dst + i, sum);
    }
}

/* Rows in pairs by pmaddwd, whose factors are signed: 32768 less each, which the weights' sum turns into 32768 * 256. */
void sp_blur_down_avx512(uint8_t *SP_RESTRICT dst, const uint16_t *const *rows, const uint16_t *weight, int taps, int n)
{
    const __m512i bias = _mm512_set1_epi16((short)0x8000), start = _mm512_set1_epi32(32768 * 256 + 32768);
    for (int i = 0; i < n; i += 32) {
        __m512i low = start, high = start;
        for (int t = 0; t < taps; t += 2) {
            __m512i a = _mm512_xor_si512(load(rows[t] + i), bias), b = _mm512_setzero_si512();
            int w = weight[t];
            if (t + 1 < taps) {
                b = _mm512_xor_si512(load(rows[t + 1] + i), bias);
                w |= weight[t + 1] << 16;
            }
            low = _mm512_add_epi32(low, _mm512_madd_epi16(_mm512_unpacklo_epi16(a, b), _mm512_set1_epi32(w)));
            high = _mm512_add_epi32(high, _mm512_madd_epi16(_mm512_unpackhi_epi16(a, b), _mm512_set1_epi32(w)));
        }
        __m512i v = _mm512_packus_epi32(_mm512_srli_epi32(low, 16), _mm512_srli_epi32(high, 16));
        _mm256_mask_storeu_epi8(dst + i, first32(n - i), _mm512_cvtepi16_epi8(v));
    }
}

typedef struct slopes {
    __m512i x, y;
} slopes;

INLINE slopes slopes_at(const uint8_t *a, const uint8_t *b, const uint8_t *c)
{
    __m512i a0 = wide(a - 1), a1 = wide(a), a2 = wide(a + 1), b0 = wide(b - 1), b2 = wide(b + 1);
    __m512i c0 = wide(c - 1), c1 = wide(c), c2 = wide(c + 1);
    __m512i beside = _mm512_sub_epi16(b2, b0), below = _mm512_sub_epi16(c1, a1);
    __m512i falling = _mm512_sub_epi16(c2, a0), rising = _mm512_sub_epi16(c0, a2);
    return (slopes){
        _mm512_add_epi16(_mm512_add_epi16(beside, beside), _mm512_sub_epi16(falling, rising)),
        _mm512_add_epi16(_mm512_add_epi16(below, below), _mm512_add_epi16(falling, rising)),
    };
}

void sp_sobel3_avx512(int16_t *SP_RESTRICT dx, int16_t *SP_RESTRICT dy, const uint8_t *const rows[3], int n)
{
    for (int i = 0; i < n; i += 32) {
        slopes s = slopes_at(rows[0] + i, rows[1] + i, rows[2] + i);
        __mmask32 k = first32(n - i);
        _mm512_mask_storeu_epi16(dx + i, k, s.x);
        _mm512_mask_storeu_epi16(dy + i, k, s.y);
    }
}

void sp_gradient3_avx512(uint16_t *SP_RESTRICT size, int16_t *SP_RESTRICT dx, int16_t *SP_RESTRICT dy,
                         const uint8_t *const rows[3], int n)
{
    for (int i = 0; i < n; i += 32) {
        slopes s = slopes_at(rows[0] + i, rows[1] + i, rows[2] + i);
        _mm512_storeu_si512(dx + i, s.x);
        _mm512_storeu_si512(dy + i, s.y);
        _mm512_storeu_si512(size + i, _mm512_add_epi16(_mm512_abs_epi16(s.x), _mm512_abs_epi16(s.y)));
    }
}

/* The maxima among 32 sizes of which those in k are large enough. y * 2^15 < x * TG22 is y <= floor(x * TG22 / 2^15) for
 * whole numbers (the product is never a multiple of 2^15 but for x = 0, where size 0 is no maximum anyway). */
INLINE __mmask32 maxima(__mmask32 k, __m512i m, const uint16_t *up, const uint16_t *row, const uint16_t *down, __m512i dx,
                        __m512i dy)
{
    __m512i x = _mm512_abs_epi16(dx), y = _mm512_abs_epi16(dy);
    __m512i low = _mm512_mulhi_epu16(x, _mm512_set1_epi16(2 * SP_CANNY_TG22));
    __mmask32 across = _mm512_mask_cmple_epu16_mask(k, y, low);
    __mmask32 along = _mm512_mask_cmpgt_epu16_mask(k, y, _mm512_add_epi16(_mm512_add_epi16(x, x), low));
    __mmask32 slanted = k & ~(across | along), rising = slanted & _mm512_movepi16_mask(_mm512_xor_si512(dx, dy));
    slanted ^= rising;
    across = _mm512_mask_cmpgt_epu16_mask(across, m, load(row - 1));
    across = _mm512_mask_cmpge_epu16_mask(across, m, load(row + 1));
    along = _mm512_mask_cmpgt_epu16_mask(along, m, load(up));
    along = _mm512_mask_cmpge_epu16_mask(along, m, load(down));
    slanted = _mm512_mask_cmpgt_epu16_mask(slanted, m, load(up - 1));
    slanted = _mm512_mask_cmpgt_epu16_mask(slanted, m, load(down + 1));
    rising = _mm512_mask_cmpgt_epu16_mask(rising, m, load(up + 1));
    rising = _mm512_mask_cmpgt_epu16_mask(rising, m, load(down - 1));
    return across | along | slanted | rising;
}

void sp_maxima3_avx512(uint64_t *SP_RESTRICT weak, uint64_t *SP_RESTRICT strong, const uint16_t *const size[3],
                       const int16_t *dx, const int16_t *dy, int n, int low, int high)
{
    const __m512i least = _mm512_set1_epi16((short)low), sure = _mm512_set1_epi16((short)high);
    for (int i = 0; i < n; i += 64) {
        uint64_t w = 0, s = 0;
        for (int part = 0; part < 64 && i + part < n; part += 32) {
            int at = i + part;
            __m512i m = load(size[1] + at);
            __mmask32 k = _mm512_mask_cmpgt_epu16_mask(first32(n - at), m, least);
            if (!k)
                continue;
            k = maxima(k, m, size[0] + at, size[1] + at, size[2] + at, load(dx + at), load(dy + at));
            w |= (uint64_t)k << part;
            s |= (uint64_t)_mm512_mask_cmpgt_epu16_mask(k, m, sure) << part;
        }
        *weak++ = w;
        *strong++ = s;
    }
}

void sp_mask_of_bits_avx512(uint8_t *SP_RESTRICT dst, const uint64_t *SP_RESTRICT bits, int n)
{
    int i = 0;
    for (; i + 64 <= n; i += 64)
        _mm512_storeu_si512(dst + i, _mm512_movm_epi8(*bits++));
    if (i < n)
        _mm512_mask_storeu_epi8(dst + i, first64(n - i), _mm512_movm_epi8(*bits));
}

void sp_bits_of_mask_avx512(uint64_t *SP_RESTRICT bits, const uint8_t *SP_RESTRICT src, int n)
{
    for (int i = 0; i < n; i += 64) {
        __m512i v = _mm512_maskz_loadu_epi8(first64(n - i), src + i);
        *bits++ = _mm512_test_epi8_mask(v, v);
    }
}

INLINE __m512i fold2(bool max, __m512i a, __m512i b)
{
    return max ? _mm512_max_epu8(a, b) : _mm512_min_epu8(a, b);
}

/* With a constant count the addresses stay in registers. */
INLINE void fold_rows(bool max, uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    int i = 0;
    for (; i + 128 <= n; i += 128) {
        __m512i a = load(rows[0] + i), b = load(rows[0] + i + 64);
        for (int r = 1; r < count; r++) {
            a = fold2(max, a, load(rows[r] + i));
            b = fold2(max, b, load(rows[r] + i + 64));
        }
        _mm512_storeu_si512(dst + i, a);
        _mm512_storeu_si512(dst + i + 64, b);
    }
    for (; i < n; i += 64) {
        __mmask64 k = first64(n - i);
        __m512i a = _mm512_maskz_loadu_epi8(k, rows[0] + i);
        for (int r = 1; r < count; r++)
            a = fold2(max, a, _mm512_maskz_loadu_epi8(k, rows[r] + i));
        _mm512_mask_storeu_epi8(dst + i, k, a);
    }
}

INLINE void fold_any(bool max, uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    const uint8_t *const few[5] = { rows[0], count > 1 ? rows[1] : NULL, count > 2 ? rows[2] : NULL, count > 3 ? rows[3] : NULL,
                                    count > 4 ? rows[4] : NULL };
    if (count == 5)
        fold_rows(max, dst, few, 5, n);
    else if (count == 4)
        fold_rows(max, dst, few, 4, n);
    else if (count == 3)
        fold_rows(max, dst, few, 3, n);
    else if (count == 2)
        fold_rows(max, dst, few, 2, n);
    else
        fold_rows(max, dst, rows, count, n);
}

void sp_rows_max_avx512(uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    fold_any(true, dst, rows, count, n);
}

void sp_rows_min_avx512(uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    fold_any(false, dst, rows, count, n);
}

/* 64 bytes that begin `by` (a constant, 1 .. 15) bytes into `row`, which `next` (row moved by 16) follows. */
#define MOVED(row, next, by) _mm512_alignr_epi8(next, row, by)

INLINE __m512i fold_line(bool max, __m512i a, __m512i b, int across)
{
    __m512i next = _mm512_alignr_epi64(b, a, 2), v = a;
    v = across > 1 ? fold2(max, v, MOVED(a, next, 1)) : v;
    v = across > 2 ? fold2(max, v, MOVED(a, next, 2)) : v;
    v = across > 3 ? fold2(max, v, MOVED(a, next, 3)) : v;
    v = across > 4 ? fold2(max, v, MOVED(a, next, 4)) : v;
    v = across > 5 ? fold2(max, v, MOVED(a, next, 5)) : v;
    v = across > 6 ? fold2(max, v, MOVED(a, next, 6)) : v;
    v = across > 7 ? fold2(max, v, MOVED(a, next, 7)) : v;
    return v;
}

INLINE void fold_across(bool max, uint8_t *dst, const uint8_t *line, int across, int n)
{
    __m512i a = load(line);
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512i b = load(line + i + 64);
        _mm512_storeu_si512(dst + i, fold_line(max, a, b, across));
        a = b;
    }
    if (i < n)
        _mm512_mask_storeu_epi8(dst + i, first64(n - i), fold_line(max, a, load(line + i + 64), across));
}

INLINE void fold_box(bool max, uint8_t *dst, uint8_t *line, const uint8_t *const *rows, int count, int across, int n)
{
    fold_any(max, line + across / 2, rows, count, n);
    if (across == 5)
        fold_across(max, dst, line, 5, n);
    else if (across == 3)
        fold_across(max, dst, line, 3, n);
    else
        fold_across(max, dst, line, across, n);
}

void sp_fold_box_avx512(uint8_t *SP_RESTRICT dst, uint8_t *SP_RESTRICT line, const uint8_t *const *rows, int count, int across,
                        int n, bool largest)
{
    if (largest)
        fold_box(true, dst, line, rows, count, across, n);
    else
        fold_box(false, dst, line, rows, count, across, n);
}

/* Two rows to one, element by element. */
#define PAIRWISE(name, op)                                                                                   \
    void sp_##name##_avx512(uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)                         \
    {                                                                                                        \
        int i = 0;                                                                                           \
        for (; i + 64 <= n; i += 64)                                                                         \
            _mm512_storeu_si512(dst + i, op(load(a + i), load(b + i)));                                      \
        if (i < n) {                                                                                         \
            __mmask64 k = first64(n - i);                                                                    \
            _mm512_mask_storeu_epi8(dst + i, k,                                                              \
                                    op(_mm512_maskz_loadu_epi8(k, a + i), _mm512_maskz_loadu_epi8(k, b + i))); \
        }                                                                                                    \
    }
PAIRWISE(subtract_u8, _mm512_subs_epu8)
PAIRWISE(or_u8, _mm512_or_si512)
PAIRWISE(and_u8, _mm512_and_si512)

void sp_threshold_u8_avx512(uint8_t *dst, const uint8_t *src, int n, uint8_t threshold)
{
    const __m512i limit = _mm512_set1_epi8((char)threshold);
    int i = 0;
    for (; i + 64 <= n; i += 64)
        _mm512_storeu_si512(dst + i, _mm512_movm_epi8(_mm512_cmpgt_epu8_mask(load(src + i), limit)));
    if (i < n) {
        __mmask64 k = first64(n - i);
        __m512i v = _mm512_maskz_loadu_epi8(k, src + i);
        _mm512_mask_storeu_epi8(dst + i, k, _mm512_movm_epi8(_mm512_cmpgt_epu8_mask(v, limit)));
    }
}
