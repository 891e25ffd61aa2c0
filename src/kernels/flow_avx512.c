/* SPDX-License-Identifier: Apache-2.0
 * The rows of the dense flow for CPUs with AVX-512 F, BW, DQ, VL: sixteen pixels at a time.
 *
 * Where a flow points to is looked up without gathers. Neighbours nearly always point to neighbours: all lanes that lie in
 * the row and the 31 columns of the first lane that is left are taken at once, either as they lie (all of them moved by
 * the same whole pixels) or by a permutation of two registers; the rest go round again. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

static __mmask16 first_lanes(int n)
{
    return (__mmask16)(n >= LANES ? 0xffff : n > 0 ? (1 << n) - 1 : 0);
}

/* --- pictures --- */

/* The column sum of sixteen pixels, of 0 .. 1020. */
INLINE __m256i sum_down(const uint8_t *const rows[3], int x, __mmask16 lanes)
{
    __m256i a = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(lanes, rows[0] + x));
    __m256i b = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(lanes, rows[1] + x));
    __m256i c = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(lanes, rows[2] + x));
    return _mm256_add_epi16(_mm256_add_epi16(a, c), _mm256_add_epi16(b, b));
}

/* The outermost pixels are the scalar code's. */
void sp_flow_smooth_avx512(float *SP_RESTRICT dst, const uint8_t *const rows[3], int n)
{
    if (n < 3) {
        sp_flow_smooth_c(dst, rows, n);
        return;
    }
    for (int x = 1; x < n - 1; x += LANES) {
        __mmask16 lanes = first_lanes(n - 1 - x);
        __m256i middle = sum_down(rows, x, lanes);
        __m256i sum = _mm256_add_epi16(_mm256_add_epi16(sum_down(rows, x - 1, lanes), sum_down(rows, x + 1, lanes)),
                                       _mm256_add_epi16(middle, middle));
        __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sum));
        _mm512_mask_storeu_ps(dst + x, lanes, _mm512_mul_ps(value, _mm512_set1_ps(0.0625f)));
    }
    for (int end = 0; end < 2; end++) {
        int x = end ? n - 1 : 0, inner = end ? n - 2 : 1, sum = 0;
        for (int r = 0; r < 3; r++)
            sum += (2 * rows[r][inner] + 2 * rows[r][x]) * (r == 1 ? 2 : 1);
        dst[x] = (float)sum * 0.0625f;
    }
}

INLINE __m512 bytes_at(const uint8_t *row, __mmask16 lanes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, row)));
}

void sp_flow_mix_u8_avx512(float *SP_RESTRICT dst, const uint8_t *const *rows, const float *weight, int taps, int n)
{
    for (int x = 0; x < n; x += 4 * LANES) {
        __mmask16 lanes[4];
        __m512 sum[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            lanes[v] = first_lanes(n - x - v * LANES);
            sum[v] = _mm512_mul_ps(_mm512_set1_ps(weight[0]), bytes_at(rows[0] + x + v * LANES, lanes[v]));
        }
        for (int t = 1; t < taps; t++) {
            const __m512 w = _mm512_set1_ps(weight[t]);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                sum[v] = _mm512_fmadd_ps(w, bytes_at(rows[t] + x + v * LANES, lanes[v]), sum[v]);
        }
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            _mm512_mask_storeu_ps(dst + x + v * LANES, lanes[v], sum[v]);
    }
}

void sp_flow_mix_f32_avx512(float *SP_RESTRICT dst, const float *const *rows, const float *weight, int taps, int n)
{
    for (int x = 0; x < n; x += LANES) {
        __mmask16 lanes = first_lanes(n - x);
        __m512 sum = _mm512_mul_ps(_mm512_set1_ps(weight[0]), _mm512_maskz_loadu_ps(lanes, rows[0] + x));
        for (int t = 1; t < taps; t++)
            sum = _mm512_fmadd_ps(_mm512_set1_ps(weight[t]), _mm512_maskz_loadu_ps(lanes, rows[t] + x), sum);
        _mm512_mask_storeu_ps(dst + x, lanes, sum);
    }
}

void sp_flow_across_avx512(float *SP_RESTRICT dst, const float *SP_RESTRICT src, const sp_flow_axis *axis)
{
    for (int x = 0; x < axis->n; x += LANES) {
        __mmask16 lanes = first_lanes(axis->n - x);
        __m512i first = _mm512_loadu_si512(axis->first + x); /* not falling */
        const float *weight = axis->weight + x, *from = src + axis->first[x];
        int span = axis->first[x + LANES - 1] - axis->first[x];
        __m512i at = _mm512_sub_epi32(first, _mm512_set1_epi32(axis->first[x]));
        __m512 sum = _mm512_setzero_ps();
        for (int t = 0; t < axis->taps; t++, weight += axis->stride) {
            __m512 value;
            if (span < LANES)
                value = _mm512_permutexvar_ps(at, _mm512_loadu_ps(from + t));
            else if (span < 2 * LANES)
                value = _mm512_permutex2var_ps(_mm512_loadu_ps(from + t), at, _mm512_loadu_ps(from + t + LANES));
            else
                value = _mm512_i32gather_ps(at, from + t, 4);
            sum = t ? _mm512_fmadd_ps(_mm512_loadu_ps(weight), value, sum) : _mm512_mul_ps(_mm512_loadu_ps(weight), value);
        }
        _mm512_mask_storeu_ps(dst + x, lanes, sum);
    }
}

/* --- expansion --- */

INLINE void expand_down(float *mean, float *slope, float *curve, const float *const *rows, const sp_flow_poly *poly, int n,
                        int width)
{
    const __m512 ig03 = _mm512_set1_ps(poly->ig03), ig03_rest = _mm512_set1_ps(poly->ig03_rest);
    const __m512 ig33 = _mm512_set1_ps(poly->ig33), ig33_rest = _mm512_set1_ps(poly->ig33_rest);
    for (int x = 0; x < width; x += LANES) {
        __m512 t0 = _mm512_mul_ps(_mm512_loadu_ps(rows[n] + x), _mm512_set1_ps(poly->g[0]));
        __m512 t1 = _mm512_setzero_ps(), t2 = _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int k = 1; k <= n; k++) {
            __m512 up = _mm512_loadu_ps(rows[n - k] + x), down = _mm512_loadu_ps(rows[n + k] + x), both = _mm512_add_ps(up, down);
            t0 = _mm512_add_ps(t0, _mm512_mul_ps(_mm512_set1_ps(poly->g[k]), both));
            t1 = _mm512_add_ps(t1, _mm512_mul_ps(_mm512_set1_ps(poly->xg[k]), _mm512_sub_ps(down, up)));
            t2 = _mm512_add_ps(t2, _mm512_mul_ps(_mm512_set1_ps(poly->xxg[k]), both));
        }
        __m512 p = _mm512_mul_ps(ig03, t0), rest = _mm512_fmsub_ps(ig03, t0, p); /* sp_flow_curve */
        rest = _mm512_fmadd_ps(ig03_rest, t0, rest);
        rest = _mm512_fmadd_ps(ig33_rest, t2, rest);
        _mm512_storeu_ps(mean + x, t0);
        _mm512_storeu_ps(slope + x, t1);
        _mm512_storeu_ps(curve + x, _mm512_add_ps(_mm512_fmadd_ps(ig33, t2, p), rest));
    }
}

static void repeat_ends(float *row, int n, int margin)
{
    const __m512 left = _mm512_set1_ps(row[0]), right = _mm512_set1_ps(row[n - 1]);
    for (int i = 0; i < margin; i += LANES) {
        _mm512_storeu_ps(row - LANES - i, left);
        _mm512_storeu_ps(row + n + i, right);
    }
}

INLINE void expand_across(float *SP_RESTRICT dst, size_t stride, const float *mean, const float *slope, const float *curve,
                          const sp_flow_poly *poly, int n, int width)
{
    const __m512 ig11 = _mm512_set1_ps(poly->ig11), ig55 = _mm512_set1_ps(poly->ig55), g0 = _mm512_set1_ps(poly->g[0]);
    const __m512 at_rest = _mm512_set1_ps(poly->rest);
    for (int x = 0; x < width; x += LANES) {
        __m512 c = _mm512_loadu_ps(mean + x), xx = _mm512_mul_ps(at_rest, c), slope_x = _mm512_setzero_ps();
        __m512 slope_y = _mm512_mul_ps(g0, _mm512_loadu_ps(slope + x)), xy = _mm512_setzero_ps();
        __m512 yy = _mm512_mul_ps(g0, _mm512_loadu_ps(curve + x));
#pragma GCC unroll 8
        for (int k = 1; k <= n; k++) {
            const __m512 g = _mm512_set1_ps(poly->g[k]), xg = _mm512_set1_ps(poly->xg[k]);
            __m512 right = _mm512_sub_ps(_mm512_loadu_ps(mean + x + k), c), left = _mm512_sub_ps(_mm512_loadu_ps(mean + x - k), c);
            slope_x = _mm512_fmadd_ps(xg, _mm512_sub_ps(right, left), slope_x);
            xx = _mm512_fmadd_ps(_mm512_set1_ps(poly->curve[k]), _mm512_add_ps(right, left), xx);
            right = _mm512_loadu_ps(slope + x + k);
            left = _mm512_loadu_ps(slope + x - k);
            slope_y = _mm512_fmadd_ps(g, _mm512_add_ps(right, left), slope_y);
            xy = _mm512_fmadd_ps(xg, _mm512_sub_ps(right, left), xy);
            yy = _mm512_fmadd_ps(g, _mm512_add_ps(_mm512_loadu_ps(curve + x + k), _mm512_loadu_ps(curve + x - k)), yy);
        }
        _mm512_storeu_ps(dst + x, _mm512_mul_ps(slope_y, ig11));
        _mm512_storeu_ps(dst + stride + x, _mm512_mul_ps(slope_x, ig11));
        _mm512_storeu_ps(dst + 2 * stride + x, yy);
        _mm512_storeu_ps(dst + 3 * stride + x, xx);
        _mm512_storeu_ps(dst + 4 * stride + x, _mm512_mul_ps(xy, ig55));
    }
}

INLINE void expand(float *SP_RESTRICT dst, size_t stride, const float *const *rows, const sp_flow_poly *poly,
                   float *SP_RESTRICT spare, int n, int width)
{
    size_t margin = sp_flow_margin_stride(width);
    float *mean = spare + SP_FLOW_MARGIN, *slope = mean + margin, *curve = slope + margin;
    expand_down(mean, slope, curve, rows, poly, n, width);
    repeat_ends(mean, width, n);
    repeat_ends(slope, width, n);
    repeat_ends(curve, width, n);
    expand_across(dst, stride, mean, slope, curve, poly, n, width);
}

/* The usual neighbourhoods are unrolled. */
void sp_flow_expand_avx512(float *SP_RESTRICT dst, size_t stride, const float *const *rows, const sp_flow_poly *poly,
                           float *SP_RESTRICT spare, int n)
{
    if (poly->n == 5)
        expand(dst, stride, rows, poly, spare, 5, n);
    else if (poly->n == 7)
        expand(dst, stride, rows, poly, spare, 7, n);
    else
        expand(dst, stride, rows, poly, spare, poly->n, n);
}

/* --- matrices --- */

typedef struct spots {
    __m512i x, y;
    __m512 w00, w01, w10, w11;
} spots;

INLINE int lane_of(__m512i v, int lane)
{
    return _mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32((__mmask16)(1u << lane), v)));
}

INLINE __m512 blend(const spots *s, __m512 p00, __m512 p01, __m512 p10, __m512 p11)
{
    __m512 sum = _mm512_fmadd_ps(s->w01, p01, _mm512_mul_ps(s->w00, p00));
    return _mm512_fmadd_ps(s->w11, p11, _mm512_fmadd_ps(s->w10, p10, sum));
}

/* The other frame's coefficients for the lanes in `wanted`. */
INLINE void look_up(__m512 b[SP_FLOW_CHANNELS], const spots *s, __mmask16 wanted, const sp_flow_row *row)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const size_t below = SP_FLOW_CHANNELS * row->stride;
    while (wanted) {
        int leader = __builtin_ctz(wanted), x0 = lane_of(s->x, leader), y0 = lane_of(s->y, leader);
        const float *line = row->b + (size_t)y0 * below;
        __mmask16 level = _mm512_mask_cmpeq_epi32_mask(wanted, s->y, _mm512_set1_epi32(y0));
        __mmask16 aligned = _mm512_mask_cmpeq_epi32_mask(level, _mm512_sub_epi32(s->x, lane), _mm512_set1_epi32(x0 - leader));
        if (aligned == level) {
            const float *from = line + (x0 - leader);
#pragma GCC unroll 5
            for (int c = 0; c < SP_FLOW_CHANNELS; c++, from += row->stride) {
                __m512 v = blend(s, _mm512_maskz_loadu_ps(level, from), _mm512_maskz_loadu_ps(level, from + 1),
                                 _mm512_maskz_loadu_ps(level, from + below), _mm512_maskz_loadu_ps(level, from + below + 1));
                b[c] = _mm512_mask_mov_ps(b[c], level, v);
            }
            wanted = (__mmask16)(wanted & ~level);
            continue;
        }
        int base = x0 > 8 ? x0 - 8 : 0;
        __m512i at = _mm512_sub_epi32(s->x, _mm512_set1_epi32(base)), next = _mm512_add_epi32(at, _mm512_set1_epi32(1));
        __mmask16 near = _mm512_mask_cmplt_epu32_mask(level, at, _mm512_set1_epi32(2 * LANES - 1));
        const float *from = line + base;
#pragma GCC unroll 5
        for (int c = 0; c < SP_FLOW_CHANNELS; c++, from += row->stride) {
            __m512 top0 = _mm512_loadu_ps(from), top1 = _mm512_loadu_ps(from + LANES);
            __m512 low0 = _mm512_loadu_ps(from + below), low1 = _mm512_loadu_ps(from + below + LANES);
            __m512 v = blend(s, _mm512_permutex2var_ps(top0, at, top1), _mm512_permutex2var_ps(top0, next, top1),
                             _mm512_permutex2var_ps(low0, at, low1), _mm512_permutex2var_ps(low0, next, low1));
            b[c] = _mm512_mask_mov_ps(b[c], near, v);
        }
        wanted = (__mmask16)(wanted & ~near);
    }
}

/* sp_flow_matrix; weight only where it is not 1. */
INLINE void matrix(float *dst, size_t stride, const __m512 a[SP_FLOW_CHANNELS], const __m512 b[SP_FLOW_CHANNELS], __m512 dx,
                   __m512 dy, bool weighted, __m512 weight)
{
    const __m512 half = _mm512_set1_ps(0.5f), quarter = _mm512_set1_ps(0.25f);
    __m512 slope_y = _mm512_mul_ps(_mm512_sub_ps(a[0], b[0]), half), slope_x = _mm512_mul_ps(_mm512_sub_ps(a[1], b[1]), half);
    __m512 yy = _mm512_mul_ps(_mm512_add_ps(a[2], b[2]), half), xx = _mm512_mul_ps(_mm512_add_ps(a[3], b[3]), half);
    __m512 xy = _mm512_mul_ps(_mm512_add_ps(a[4], b[4]), quarter);
    slope_y = _mm512_fmadd_ps(xy, dx, _mm512_fmadd_ps(yy, dy, slope_y));
    slope_x = _mm512_fmadd_ps(xx, dx, _mm512_fmadd_ps(xy, dy, slope_x));
    if (weighted) {
        slope_y = _mm512_mul_ps(slope_y, weight);
        slope_x = _mm512_mul_ps(slope_x, weight);
        yy = _mm512_mul_ps(yy, weight);
        xx = _mm512_mul_ps(xx, weight);
        xy = _mm512_mul_ps(xy, weight);
    }
    _mm512_storeu_ps(dst, _mm512_fmadd_ps(xy, xy, _mm512_mul_ps(yy, yy)));
    _mm512_storeu_ps(dst + stride, _mm512_mul_ps(_mm512_add_ps(yy, xx), xy));
    _mm512_storeu_ps(dst + 2 * stride, _mm512_fmadd_ps(xy, xy, _mm512_mul_ps(xx, xx)));
    _mm512_storeu_ps(dst + 3 * stride, _mm512_fmadd_ps(xy, slope_x, _mm512_mul_ps(yy, slope_y)));
    _mm512_storeu_ps(dst + 4 * stride, _mm512_fmadd_ps(xx, slope_x, _mm512_mul_ps(xy, slope_y)));
}

void sp_flow_update_avx512(float *SP_RESTRICT dst, size_t stride, const sp_flow_row *row)
{
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1), at_y = _mm512_set1_ps((float)row->y);
    const __m512 right_end = _mm512_set1_ps((float)(row->w - 1)), low_end = _mm512_set1_ps((float)(row->h - 1));
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int x = 0; x < row->w; x += LANES) {
        __mmask16 lanes = first_lanes(row->w - x);
        __m512 dx = _mm512_maskz_loadu_ps(lanes, row->dx + x), dy = _mm512_maskz_loadu_ps(lanes, row->dy + x);
        __m512 fx = _mm512_add_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_set1_epi32(x), lane)), dx);
        __m512 fy = _mm512_add_ps(at_y, dy);
        __m512 ix = _mm512_floor_ps(fx), iy = _mm512_floor_ps(fy), a[SP_FLOW_CHANNELS], b[SP_FLOW_CHANNELS];
        lanes = _mm512_mask_cmp_ps_mask(lanes, ix, zero, _CMP_GE_OQ);
        lanes = _mm512_mask_cmp_ps_mask(lanes, iy, zero, _CMP_GE_OQ);
        lanes = _mm512_mask_cmp_ps_mask(lanes, ix, right_end, _CMP_LT_OQ);
        lanes = _mm512_mask_cmp_ps_mask(lanes, iy, low_end, _CMP_LT_OQ);
        __m512 right = _mm512_sub_ps(fx, ix), low = _mm512_sub_ps(fy, iy);
        __m512 left = _mm512_sub_ps(one, right), high = _mm512_sub_ps(one, low);
        const spots s = { .x = _mm512_cvttps_epi32(ix), .y = _mm512_cvttps_epi32(iy), .w00 = _mm512_mul_ps(left, high),
                          .w01 = _mm512_mul_ps(right, high), .w10 = _mm512_mul_ps(left, low), .w11 = _mm512_mul_ps(right, low) };
#pragma GCC unroll 5
        for (int c = 0; c < SP_FLOW_CHANNELS; c++) {
            a[c] = _mm512_loadu_ps(row->a + (size_t)c * row->stride + x);
            b[c] = c < 2 ? zero : a[c];
        }
        look_up(b, &s, lanes, row);
        if (row->weight_y == 1.0f && x >= SP_FLOW_BORDER && x + LANES <= row->w - SP_FLOW_BORDER)
            matrix(dst + x, stride, a, b, dx, dy, false, one);
        else
            matrix(dst + x, stride, a, b, dx, dy, true,
                   _mm512_mul_ps(_mm512_loadu_ps(row->weight + x), _mm512_set1_ps(row->weight_y)));
    }
}

/* --- windows --- */

/* `low` begins at lane `by` of a, `a` goes on in `b`. */
#define SHIFT(a, b, by) \
    _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), by))

/* A box of 15 in registers. Each round loads one register further and finishes what lies three behind:
 * v, s2, s4 are the values and the sums of two and four from there on; [0] is three registers behind, [1] two, ... */
static void window_15(float *SP_RESTRICT dst, const float *SP_RESTRICT src, int n)
{
    const float *from = src - 7;
    __m512 v0 = _mm512_loadu_ps(from), v1 = _mm512_loadu_ps(from + LANES), v2 = _mm512_loadu_ps(from + 2 * LANES);
    __m512 two0 = _mm512_add_ps(v0, SHIFT(v0, v1, 1)), two1 = _mm512_add_ps(v1, SHIFT(v1, v2, 1));
    __m512 four0 = _mm512_add_ps(two0, SHIFT(two0, two1, 2));
    for (int x = 0; x < n; x += LANES) {
        __m512 v3 = _mm512_loadu_ps(from + x + 3 * LANES);
        __m512 two2 = _mm512_add_ps(v2, SHIFT(v2, v3, 1)), four1 = _mm512_add_ps(two1, SHIFT(two1, two2, 2));
        __m512 sum = _mm512_add_ps(four0, SHIFT(four0, four1, 4));
        sum = _mm512_add_ps(sum, SHIFT(four0, four1, 8));
        sum = _mm512_add_ps(sum, SHIFT(two0, two1, 12));
        _mm512_storeu_ps(dst + x, _mm512_add_ps(sum, SHIFT(v0, v1, 14)));
        v0 = v1;
        v1 = v2;
        v2 = v3;
        two0 = two1;
        two1 = two2;
        four0 = four1;
    }
}

static void window_gaussian(float *SP_RESTRICT dst, const float *SP_RESTRICT src, const sp_flow_window *window, int n)
{
    for (int x = 0; x < n; x += LANES) {
        __m512 sum = _mm512_mul_ps(_mm512_set1_ps(window->weight[0]), _mm512_loadu_ps(src + x));
        for (int i = 1; i <= window->n / 2; i++)
            sum = _mm512_fmadd_ps(_mm512_set1_ps(window->weight[i]),
                                  _mm512_add_ps(_mm512_loadu_ps(src + x - i), _mm512_loadu_ps(src + x + i)), sum);
        _mm512_storeu_ps(dst + x, sum);
    }
}

/* Any box: sums of 1, 2, 4, ... from every position, in place; each is wanted where its digit of the side begins. The
 * digits are added from the highest down, so the lower ones wait in `parts`. */
static void window_box(float *SP_RESTRICT dst, const float *src, int side, float *SP_RESTRICT spare, int n)
{
    int top = 1;
    while (2 * top <= side)
        top *= 2;
    for (int x = 0; x < n; x += LANES) {
        __m512 sum = _mm512_setzero_ps();
        int done = 0;
        for (int k = top; k; k /= 2) {
            if (!(side & k))
                continue;
            const float *from = src + x - side / 2 + done;
            __m512 part[8]; /* by levels: a binary counter of finished pairs */
            for (int i = 0; i < k; i++) {
                __m512 v = _mm512_loadu_ps(from + i);
                int level = 0;
                for (; i >> level & 1; level++)
                    v = _mm512_add_ps(part[level], v);
                part[level] = v;
            }
            __m512 whole = part[__builtin_ctz((unsigned)k)];
            sum = done ? _mm512_add_ps(sum, whole) : whole;
            done += k;
        }
        _mm512_storeu_ps(dst + x, sum);
    }
    (void)spare;
}

void sp_flow_window_avx512(float *SP_RESTRICT dst, size_t dst_stride, float *SP_RESTRICT src, size_t src_stride,
                           const sp_flow_window *window, float *SP_RESTRICT spare, int n)
{
    for (int c = 0; c < SP_FLOW_CHANNELS; c++, dst += dst_stride, src += src_stride) {
        repeat_ends(src, n, window->n / 2);
        if (window->gaussian)
            window_gaussian(dst, src, window, n);
        else if (window->n == 15)
            window_15(dst, src, n);
        else
            window_box(dst, src, window->n, spare, n);
    }
}

/* --- flow --- */

INLINE __m512 minor(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 p = _mm512_mul_ps(c, d), lost = _mm512_fnmadd_ps(c, d, p);
    return _mm512_add_ps(_mm512_fmsub_ps(a, b, p), lost);
}

INLINE __m512 near(__m512 v)
{
    v = _mm512_min_ps(v, _mm512_set1_ps(SP_FLOW_FAR)); /* (x, y) is x < y ? x : y, NaN included: arith.h's order */
    return _mm512_max_ps(v, _mm512_set1_ps(-SP_FLOW_FAR));
}

INLINE void solve(float *dx, float *dy, __mmask16 lanes, const __m512 m[SP_FLOW_CHANNELS], __m512 regular)
{
    __m512 det = _mm512_max_ps(minor(m[0], m[2], m[1], m[1]), _mm512_setzero_ps());
    __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), _mm512_add_ps(det, regular));
    _mm512_mask_storeu_ps(dx, lanes, near(_mm512_mul_ps(minor(m[0], m[4], m[1], m[3]), inverse)));
    _mm512_mask_storeu_ps(dy, lanes, near(_mm512_mul_ps(minor(m[2], m[3], m[1], m[4]), inverse)));
}

/* Sums of 15 down eight neighbouring rows share their parts: eight and a half additions each, not fourteen. */
static void solve_band_15(float *dx, float *dy, size_t stride, const float *const *sums, size_t sums_stride,
                          const sp_flow_window *window, int n)
{
    enum { BAND = SP_FLOW_BAND, ROWS = BAND + 14 };
    const __m512 regular = _mm512_set1_ps(window->regular);
    for (int x = 0; x < n; x += LANES) {
        __mmask16 lanes = first_lanes(n - x);
        __m512 m[BAND][SP_FLOW_CHANNELS];
        for (size_t c = 0; c < SP_FLOW_CHANNELS; c++) {
            size_t at = c * sums_stride + (size_t)x;
            __m512 v[ROWS], two[ROWS], four[ROWS], eight[ROWS];
#pragma GCC unroll 22
            for (int r = 0; r < ROWS; r++) {
                v[r] = _mm512_loadu_ps(sums[r] + at);
                if (r >= 1)
                    two[r - 1] = _mm512_add_ps(v[r - 1], v[r]);
                if (r >= 3)
                    four[r - 3] = _mm512_add_ps(two[r - 3], two[r - 1]);
                if (r >= 7)
                    eight[r - 7] = _mm512_add_ps(four[r - 7], four[r - 3]);
                if (r >= 14) {
                    __m512 sum = _mm512_add_ps(eight[r - 14], four[r - 6]);
                    m[r - 14][c] = _mm512_add_ps(_mm512_add_ps(sum, two[r - 2]), v[r]);
                }
            }
        }
        for (int r = 0; r < BAND; r++)
            solve(dx + (size_t)r * stride + x, dy + (size_t)r * stride + x, lanes, m[r], regular);
    }
}

INLINE __m512 sum_down_box(const float *const *sums, size_t at, int side)
{
    int done = 0, k = 1;
    __m512 sum = _mm512_setzero_ps();
    while (2 * k <= side)
        k *= 2;
    for (; k; k /= 2) {
        if (!(side & k))
            continue;
        __m512 part[8];
        for (int i = 0; i < k; i++) {
            __m512 v = _mm512_loadu_ps(sums[done + i] + at);
            int level = 0;
            for (; i >> level & 1; level++)
                v = _mm512_add_ps(part[level], v);
            part[level] = v;
        }
        __m512 whole = part[__builtin_ctz((unsigned)k)];
        sum = done ? _mm512_add_ps(sum, whole) : whole;
        done += k;
    }
    return sum;
}

INLINE __m512 sum_down_gaussian(const float *const *sums, size_t at, const sp_flow_window *window)
{
    int m = window->n / 2;
    __m512 sum = _mm512_mul_ps(_mm512_set1_ps(window->weight[0]), _mm512_loadu_ps(sums[m] + at));
    for (int i = 1; i <= m; i++)
        sum = _mm512_fmadd_ps(_mm512_set1_ps(window->weight[i]),
                              _mm512_add_ps(_mm512_loadu_ps(sums[m - i] + at), _mm512_loadu_ps(sums[m + i] + at)), sum);
    return sum;
}

void sp_flow_solve_avx512(float *SP_RESTRICT dx, float *SP_RESTRICT dy, size_t stride, const float *const *sums,
                          size_t sums_stride, const sp_flow_window *window, int rows, int n)
{
    if (window->n == 15 && !window->gaussian && rows == SP_FLOW_BAND) {
        solve_band_15(dx, dy, stride, sums, sums_stride, window, n);
        return;
    }
    const __m512 regular = _mm512_set1_ps(window->regular);
    for (int r = 0; r < rows; r++, sums++, dx += stride, dy += stride) {
        for (int x = 0; x < n; x += LANES) {
            __m512 m[SP_FLOW_CHANNELS];
            for (size_t c = 0; c < SP_FLOW_CHANNELS; c++) {
                size_t at = c * sums_stride + (size_t)x;
                m[c] = window->gaussian ? sum_down_gaussian(sums, at, window) : sum_down_box(sums, at, window->n);
            }
            solve(dx + x, dy + x, first_lanes(n - x), m, regular);
        }
    }
}
