/* SPDX-License-Identifier: Apache-2.0
 * Row ops of plane.inc for CPUs with AVX2: pixels in lanes of 16 bits. A row that must be written to the element ends with a
 * vector that overlaps the one before; it is computed first, because the row may be written in place. Rows shorter than a
 * vector go to the reference. */
#include "kernels/kernels.h"
#include "kernels/plane_arith.h"
#include "kernels/plane_rows.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE void store(void *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

/* 16 pixels as 16-bit numbers. */
INLINE __m256i wide(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* 32 numbers of 16 bits, which fit bytes, in their order. */
INLINE __m256i narrow(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8);
}

/* sp_grey_expand: t * 255 / 219 as a product of 16 bits, which is exact for every t (the test compares them all). */
INLINE __m256i expand(__m256i y)
{
    const __m256i zero = _mm256_setzero_si256(), factor = _mm256_set1_epi16((short)38154), half = _mm256_set1_epi16(64);
    __m256i t = _mm256_subs_epu8(y, _mm256_set1_epi8(16));
    __m256i low = _mm256_mulhi_epu16(_mm256_unpacklo_epi8(zero, t), factor);
    __m256i high = _mm256_mulhi_epu16(_mm256_unpackhi_epi8(zero, t), factor);
    return _mm256_packus_epi16(_mm256_srli_epi16(_mm256_add_epi16(low, half), 7),
                               _mm256_srli_epi16(_mm256_add_epi16(high, half), 7));
}

void sp_grey_y8_avx2(uint8_t *dst, const uint8_t *y, int n)
{
    if (n < 32) {
        sp_grey_y8_c(dst, y, n);
        return;
    }
    __m256i last = expand(load(y + n - 32));
    for (int i = 0; i + 32 <= n; i += 32)
        store(dst + i, expand(load(y + i)));
    store(dst + n - 32, last);
}

void sp_grey_y16_avx2(uint8_t *SP_RESTRICT dst, const uint16_t *SP_RESTRICT y, int n, int bits, bool limited)
{
    const __m256i half = _mm256_set1_epi16((short)(1 << (bits - 9))), most = _mm256_set1_epi16(255);
    const __m128i shift = _mm_cvtsi32_si128(bits - 8);
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = _mm256_srl_epi16(_mm256_adds_epu16(load(y + i), half), shift);
        __m256i b = _mm256_srl_epi16(_mm256_adds_epu16(load(y + i + 16), half), shift);
        __m256i v = narrow(_mm256_min_epu16(a, most), _mm256_min_epu16(b, most));
        store(dst + i, limited ? expand(v) : v);
    }
    if (i < n)
        sp_grey_y16_c(dst + i, y + i, n - i, bits, limited);
}

/* The weights are the same from both ends, so two taps are one product. */
void sp_blur_across_avx2(uint16_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT src, const uint16_t *weight, int taps, int n)
{
    int half = taps / 2;
    for (int i = 0; i < n; i += 16) {
        const uint8_t *from = src + i;
        __m256i sum = _mm256_mullo_epi16(wide(from + half), _mm256_set1_epi16((short)weight[half]));
        for (int t = 0; t < half; t++) {
            __m256i both = _mm256_add_epi16(wide(from + t), wide(from + taps - 1 - t));
            sum = _mm256_add_epi16(sum, _mm256_mullo_epi16(both, _mm256_set1_epi16((short)weight[t])));
        }
        store(dst + i, sum);
    }
}

/* 16 pixels down. Rows in pairs by pmaddwd, whose factors are signed: 32768 less each, which the weights' sum turns into
 * 32768 * 256. */
INLINE __m256i down(const uint16_t *const *rows, const uint16_t *weight, int taps, int at)
{
    const __m256i bias = _mm256_set1_epi16((short)0x8000), start = _mm256_set1_epi32(32768 * 256 + 32768);
    __m256i low = start, high = start;
    for (int t = 0; t < taps; t += 2) {
        __m256i a = _mm256_xor_si256(load(rows[t] + at), bias), b = _mm256_setzero_si256();
        int w = weight[t];
        if (t + 1 < taps) {
            b = _mm256_xor_si256(load(rows[t + 1] + at), bias);
            w |= weight[t + 1] << 16;
        }
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_set1_epi32(w)));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), _mm256_set1_epi32(w)));
    }
    return _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
}

void sp_blur_down_avx2(uint8_t *SP_RESTRICT dst, const uint16_t *const *rows, const uint16_t *weight, int taps, int n)
{
    if (n < 32) {
        sp_blur_down_c(dst, rows, weight, taps, n);
        return;
    }
    for (int i = 0; i + 32 <= n; i += 32)
        store(dst + i, narrow(down(rows, weight, taps, i), down(rows, weight, taps, i + 16)));
    if (n & 31)
        store(dst + n - 32, narrow(down(rows, weight, taps, n - 32), down(rows, weight, taps, n - 16)));
}

typedef struct slopes {
    __m256i x, y;
} slopes;

INLINE slopes slopes_at(const uint8_t *a, const uint8_t *b, const uint8_t *c)
{
    __m256i a0 = wide(a - 1), a1 = wide(a), a2 = wide(a + 1), b0 = wide(b - 1), b2 = wide(b + 1);
    __m256i c0 = wide(c - 1), c1 = wide(c), c2 = wide(c + 1);
    __m256i beside = _mm256_sub_epi16(b2, b0), below = _mm256_sub_epi16(c1, a1);
    __m256i falling = _mm256_sub_epi16(c2, a0), rising = _mm256_sub_epi16(c0, a2);
    return (slopes){
        _mm256_add_epi16(_mm256_add_epi16(beside, beside), _mm256_sub_epi16(falling, rising)),
        _mm256_add_epi16(_mm256_add_epi16(below, below), _mm256_add_epi16(falling, rising)),
    };
}

void sp_sobel3_avx2(int16_t *SP_RESTRICT dx, int16_t *SP_RESTRICT dy, const uint8_t *const rows[3], int n)
{
    if (n < 16) {
        sp_sobel3_c(dx, dy, rows, n);
        return;
    }
    for (int i = 0; i < n; i += 16) {
        int at = SP_MIN(i, n - 16);
        slopes s = slopes_at(rows[0] + at, rows[1] + at, rows[2] + at);
        store(dx + at, s.x);
        store(dy + at, s.y);
    }
}

void sp_gradient3_avx2(uint16_t *SP_RESTRICT size, int16_t *SP_RESTRICT dx, int16_t *SP_RESTRICT dy, const uint8_t *const rows[3],
                       int n)
{
    for (int i = 0; i < n; i += 16) {
        slopes s = slopes_at(rows[0] + i, rows[1] + i, rows[2] + i);
        store(dx + i, s.x);
        store(dy + i, s.y);
        store(size + i, _mm256_add_epi16(_mm256_abs_epi16(s.x), _mm256_abs_epi16(s.y)));
    }
}

INLINE __m256i above(__m256i m, const uint16_t *p)
{
    return _mm256_cmpgt_epi16(m, load(p));
}

/* All lanes where m >= p. */
INLINE __m256i not_below(__m256i m, const uint16_t *p)
{
    return _mm256_cmpeq_epi16(m, _mm256_max_epi16(m, load(p)));
}

/* The maxima among the 16 sizes m. y * 2^15 < x * TG22 is y <= floor(x * TG22 / 2^15) for whole numbers (the product is never a
 * multiple of 2^15 but for x = 0, where size 0 is no maximum anyway). */
INLINE __m256i maxima(__m256i m, const uint16_t *up, const uint16_t *row, const uint16_t *down_row, const int16_t *dx,
                      const int16_t *dy)
{
    __m256i sx = load(dx), sy = load(dy), x = _mm256_abs_epi16(sx), y = _mm256_abs_epi16(sy);
    __m256i low = _mm256_mulhi_epu16(x, _mm256_set1_epi16(2 * SP_CANNY_TG22));
    __m256i not_across = _mm256_cmpgt_epi16(y, low);
    __m256i along = _mm256_cmpgt_epi16(y, _mm256_add_epi16(_mm256_add_epi16(x, x), low));
    __m256i rising = _mm256_srai_epi16(_mm256_xor_si256(sx, sy), 15);
    __m256i h = _mm256_and_si256(above(m, row - 1), not_below(m, row + 1));
    __m256i v = _mm256_and_si256(above(m, up), not_below(m, down_row));
    __m256i f = _mm256_and_si256(above(m, up - 1), above(m, down_row + 1));
    __m256i r = _mm256_and_si256(above(m, up + 1), above(m, down_row - 1));
    return _mm256_blendv_epi8(h, _mm256_blendv_epi8(_mm256_blendv_epi8(f, r, rising), v, along), not_across);
}

/* A bit for each of 32 lanes of 16. */
INLINE uint32_t bits_of(__m256i a, __m256i b)
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8));
}

void sp_maxima3_avx2(uint64_t *SP_RESTRICT weak, uint64_t *SP_RESTRICT strong, const uint16_t *const size[3], const int16_t *dx,
                     const int16_t *dy, int n, int low, int high)
{
    const __m256i least = _mm256_set1_epi16((short)low), sure = _mm256_set1_epi16((short)high);
    const uint16_t *up = size[0], *row = size[1], *lower = size[2];
    for (int i = 0; i < n; i += 64) {
        uint64_t w = 0, s = 0;
        for (int part = 0; part < 64 && i + part < n; part += 32) {
            int at = i + part;
            __m256i m0 = load(row + at), m1 = load(row + at + 16);
            __m256i k0 = _mm256_cmpgt_epi16(m0, least), k1 = _mm256_cmpgt_epi16(m1, least);
            if (_mm256_testz_si256(_mm256_or_si256(k0, k1), _mm256_or_si256(k0, k1)))
                continue;
            k0 = _mm256_and_si256(k0, maxima(m0, up + at, row + at, lower + at, dx + at, dy + at));
            k1 = _mm256_and_si256(k1, maxima(m1, up + at + 16, row + at + 16, lower + at + 16, dx + at + 16, dy + at + 16));
            uint32_t inside = n - at >= 32 ? ~0u : (1u << (n - at)) - 1, weak32 = bits_of(k0, k1) & inside;
            w |= (uint64_t)weak32 << part;
            s |= (uint64_t)(weak32 & bits_of(_mm256_cmpgt_epi16(m0, sure), _mm256_cmpgt_epi16(m1, sure))) << part;
        }
        *weak++ = w;
        *strong++ = s;
    }
}

/* A byte of ones for each set bit. */
INLINE __m256i spread(uint32_t bits)
{
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte), bit), bit);
}

void sp_mask_of_bits_avx2(uint8_t *SP_RESTRICT dst, const uint64_t *SP_RESTRICT bits, int n)
{
    int i = 0;
    for (; i + 32 <= n; i += 32)
        store(dst + i, spread((uint32_t)(bits[i >> 6] >> (i & 32))));
    for (; i < n; i++)
        dst[i] = (uint8_t)-(int)(bits[i >> 6] >> (i & 63) & 1);
}

void sp_bits_of_mask_avx2(uint64_t *SP_RESTRICT bits, const uint8_t *SP_RESTRICT src, int n)
{
    const __m256i zero = _mm256_setzero_si256();
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        uint32_t a = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(load(src + i), zero));
        uint32_t b = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(load(src + i + 32), zero));
        *bits++ = ~((uint64_t)b << 32 | a);
    }
    if (i < n)
        sp_bits_of_mask_c(bits, src + i, n - i);
}

INLINE __m256i fold2(bool max, __m256i a, __m256i b)
{
    return max ? _mm256_max_epu8(a, b) : _mm256_min_epu8(a, b);
}

INLINE __m256i fold_at(bool max, const uint8_t *const *rows, int count, int at)
{
    __m256i a = load(rows[0] + at);
    for (int r = 1; r < count; r++)
        a = fold2(max, a, load(rows[r] + at));
    return a;
}

/* With a constant count the addresses stay in registers. The overlapping end folds folded bytes once more, which changes
 * nothing. */
INLINE void fold_rows(bool max, uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    int i = 0;
    for (; i + 128 <= n; i += 128) {
        __m256i a = load(rows[0] + i), b = load(rows[0] + i + 32), c = load(rows[0] + i + 64), d = load(rows[0] + i + 96);
        for (int r = 1; r < count; r++) {
            const uint8_t *row = rows[r] + i;
            a = fold2(max, a, load(row));
            b = fold2(max, b, load(row + 32));
            c = fold2(max, c, load(row + 64));
            d = fold2(max, d, load(row + 96));
        }
        store(dst + i, a);
        store(dst + i + 32, b);
        store(dst + i + 64, c);
        store(dst + i + 96, d);
    }
    for (; i < n; i += 32) {
        int at = SP_MIN(i, n - 32);
        store(dst + at, fold_at(max, rows, count, at));
    }
}

INLINE void fold_any(bool max, uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    const uint8_t *const few[5] = { rows[0], count > 1 ? rows[1] : NULL, count > 2 ? rows[2] : NULL, count > 3 ? rows[3] : NULL,
                                    count > 4 ? rows[4] : NULL };
    if (n < 32)
        (max ? sp_rows_max_c : sp_rows_min_c)(dst, rows, count, n);
    else if (count == 5)
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

void sp_rows_max_avx2(uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    fold_any(true, dst, rows, count, n);
}

void sp_rows_min_avx2(uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    fold_any(false, dst, rows, count, n);
}

/* 32 bytes that begin `by` (a constant, 1 .. 15) bytes into `row`, which `next` (row moved by 16) follows. */
#define MOVED(row, next, by) _mm256_alignr_epi8(next, row, by)

INLINE __m256i fold_line(bool max, const uint8_t *p, int across)
{
    __m256i a = load(p), next = load(p + 16), v = a;
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
    for (int i = 0; i < n; i += 32) {
        int at = SP_MIN(i, n - 32);
        store(dst + at, fold_line(max, line + at, across));
    }
}

INLINE void fold_box(bool max, uint8_t *dst, uint8_t *line, const uint8_t *const *rows, int count, int across, int n)
{
    fold_any(max, line + across / 2, rows, count, n);
    if (n < 32) {
        const uint8_t *shifted[8];
        for (int i = 0; i < across; i++)
            shifted[i] = line + i;
        (max ? sp_rows_max_c : sp_rows_min_c)(dst, shifted, across, n);
    } else if (across == 5) {
        fold_across(max, dst, line, 5, n);
    } else if (across == 3) {
        fold_across(max, dst, line, 3, n);
    } else {
        fold_across(max, dst, line, across, n);
    }
}

void sp_fold_box_avx2(uint8_t *SP_RESTRICT dst, uint8_t *SP_RESTRICT line, const uint8_t *const *rows, int count, int across, int n,
                      bool largest)
{
    if (largest)
        fold_box(true, dst, line, rows, count, across, n);
    else
        fold_box(false, dst, line, rows, count, across, n);
}

/* Two rows to one, element by element. */
#define PAIRWISE(name, op)                                                           \
    void sp_##name##_avx2(uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)   \
    {                                                                                \
        if (n < 32) {                                                                \
            sp_##name##_c(dst, a, b, n);                                             \
            return;                                                                  \
        }                                                                            \
        __m256i last = op(load(a + n - 32), load(b + n - 32));                       \
        for (int i = 0; i + 32 <= n; i += 32)                                        \
            store(dst + i, op(load(a + i), load(b + i)));                            \
        store(dst + n - 32, last);                                                   \
    }
PAIRWISE(subtract_u8, _mm256_subs_epu8)
PAIRWISE(or_u8, _mm256_or_si256)
PAIRWISE(and_u8, _mm256_and_si256)

/* v > limit is: v - limit, held at 0, is not 0. */
INLINE __m256i over(__m256i v, __m256i limit)
{
    const __m256i zero = _mm256_setzero_si256();
    return _mm256_xor_si256(_mm256_cmpeq_epi8(_mm256_subs_epu8(v, limit), zero), _mm256_cmpeq_epi8(zero, zero));
}

void sp_threshold_u8_avx2(uint8_t *dst, const uint8_t *src, int n, uint8_t threshold)
{
    const __m256i limit = _mm256_set1_epi8((char)threshold);
    if (n < 32) {
        sp_threshold_u8_c(dst, src, n, threshold);
        return;
    }
    __m256i last = over(load(src + n - 32), limit);
    for (int i = 0; i + 32 <= n; i += 32)
        store(dst + i, over(load(src + i), limit));
    store(dst + n - 32, last);
}
