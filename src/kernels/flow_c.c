/* SPDX-License-Identifier: Apache-2.0
 * The rows of the dense flow, scalar: what the twins are held to.
 *
 * Each row is compiled twice, for any CPU and for one with a fused multiply-add: fmaf is then an instruction instead of a
 * call (and, in a C library without one, of many integer operations). The bits are the same by fmaf's definition. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

#ifdef __x86_64__
#define ROW(name, parameters, arguments)                                                         \
    static __attribute__((target("fma"))) void name##_fused parameters { name##_row arguments; } \
    void sp_flow_##name##_c parameters                                                           \
    {                                                                                            \
        if (__builtin_cpu_supports("fma"))                                                       \
            name##_fused arguments;                                                              \
        else                                                                                     \
            name##_row arguments;                                                                \
    }
#else
#define ROW(name, parameters, arguments) \
    void sp_flow_##name##_c parameters { name##_row arguments; }
#endif

/* The ends are mirrored about the outermost pixel; one pixel is its own neighbour. */
void sp_flow_smooth_c(float *SP_RESTRICT dst, const uint8_t *const rows[3], int n)
{
    for (int x = 0; x < n; x++) {
        int left = x > 0 ? x - 1 : n > 1 ? 1 : 0, right = x < n - 1 ? x + 1 : n > 1 ? n - 2 : 0, sum = 0;
        for (int r = 0; r < 3; r++)
            sum += (rows[r][left] + 2 * rows[r][x] + rows[r][right]) * (r == 1 ? 2 : 1);
        dst[x] = (float)sum * 0.0625f;
    }
}

INLINE void mix_u8_row(float *SP_RESTRICT dst, const uint8_t *const *rows, const float *weight, int taps, int n)
{
    for (int x = 0; x < n; x++) {
        float sum = weight[0] * (float)rows[0][x];
        for (int t = 1; t < taps; t++)
            sum = sp_fma(weight[t], (float)rows[t][x], sum);
        dst[x] = sum;
    }
}
ROW(mix_u8,
    (float *SP_RESTRICT dst, const uint8_t *const *rows, const float *weight, int taps, int n),
    (dst, rows, weight, taps, n))

INLINE void mix_f32_row(float *SP_RESTRICT dst, const float *const *rows, const float *weight, int taps, int n)
{
    for (int x = 0; x < n; x++) {
        float sum = weight[0] * rows[0][x];
        for (int t = 1; t < taps; t++)
            sum = sp_fma(weight[t], rows[t][x], sum);
        dst[x] = sum;
    }
}
ROW(mix_f32,
    (float *SP_RESTRICT dst, const float *const *rows, const float *weight, int taps, int n),
    (dst, rows, weight, taps, n))

INLINE void across_row(float *SP_RESTRICT dst, const float *SP_RESTRICT src, const sp_flow_axis *axis)
{
    for (int x = 0; x < axis->n; x++) {
        const float *s = src + axis->first[x], *weight = axis->weight + x;
        float sum = weight[0] * s[0];
        for (int t = 1; t < axis->taps; t++)
            sum = sp_fma(weight[(size_t)t * (size_t)axis->stride], s[t], sum);
        dst[x] = sum;
    }
}
ROW(across,
    (float *SP_RESTRICT dst, const float *SP_RESTRICT src, const sp_flow_axis *axis),
    (dst, src, axis))

/* --- expansion --- */

/* Down the columns: mean, slope, and the curve already joined with the mean. */
INLINE void expand_down(float *SP_RESTRICT mean, float *SP_RESTRICT slope, float *SP_RESTRICT curve,
                        const float *const *rows, const sp_flow_poly *poly, int n)
{
    for (int x = 0; x < n; x++) {
        float t[3] = { rows[poly->n][x] * poly->g[0], 0, 0 };
        for (int k = 1; k <= poly->n; k++)
            sp_flow_down_step(t, rows[poly->n - k][x], rows[poly->n + k][x], poly->g[k], poly->xg[k], poly->xxg[k]);
        mean[x] = t[0];
        slope[x] = t[1];
        curve[x] = sp_flow_curve(t[0], t[2], poly->ig03, poly->ig03_rest, poly->ig33, poly->ig33_rest);
    }
}

static void repeat_ends(float *row, int n, int margin)
{
    for (int i = 1; i <= margin; i++) {
        row[-i] = row[0];
        row[n - 1 + i] = row[n - 1];
    }
}

INLINE void expand_row(float *SP_RESTRICT dst, size_t stride, const float *const *rows, const sp_flow_poly *poly,
                      float *SP_RESTRICT spare, int n)
{
    size_t margin = sp_flow_margin_stride(n);
    float *mean = spare + SP_FLOW_MARGIN, *slope = mean + margin, *curve = slope + margin;
    expand_down(mean, slope, curve, rows, poly, n);
    repeat_ends(mean, n, poly->n);
    repeat_ends(slope, n, poly->n);
    repeat_ends(curve, n, poly->n);
    for (int x = 0; x < n; x++) {
        float e[SP_FLOW_CHANNELS] = { poly->g[0] * slope[x], 0, poly->g[0] * curve[x], poly->rest * mean[x], 0 };
        for (int k = 1; k <= poly->n; k++) {
            const float means[2] = { mean[x - k], mean[x + k] }, slopes[2] = { slope[x - k], slope[x + k] };
            const float curves[2] = { curve[x - k], curve[x + k] };
            sp_flow_across_step(e, mean[x], means, slopes, curves, poly->g[k], poly->xg[k], poly->curve[k]);
        }
        dst[x] = e[0] * poly->ig11;
        dst[stride + (size_t)x] = e[1] * poly->ig11;
        dst[2 * stride + (size_t)x] = e[2];
        dst[3 * stride + (size_t)x] = e[3];
        dst[4 * stride + (size_t)x] = e[4] * poly->ig55;
    }
}
ROW(expand,
    (float *SP_RESTRICT dst, size_t stride, const float *const *rows, const sp_flow_poly *poly, float *SP_RESTRICT
     spare, int n),
    (dst, stride, rows, poly, spare, n))

/* --- matrices, windows, flow --- */

INLINE void update_row(float *SP_RESTRICT dst, size_t stride, const sp_flow_row *row)
{
    for (int x = 0; x < row->w; x++) {
        float dx = row->dx[x], dy = row->dy[x], a[SP_FLOW_CHANNELS], b[SP_FLOW_CHANNELS], m[SP_FLOW_CHANNELS];
        sp_flow_spot spot = sp_flow_find(x, row->y, dx, dy, row->w, row->h);
        const float *at = row->b + ((size_t)spot.y * SP_FLOW_CHANNELS * row->stride + (size_t)spot.x);
        for (size_t c = 0; c < SP_FLOW_CHANNELS; c++, at += row->stride) {
            const float *below = at + SP_FLOW_CHANNELS * row->stride;
            a[c] = row->a[c * row->stride + (size_t)x];
            b[c] = spot.inside ? sp_flow_blend(&spot, at[0], at[1], below[0], below[1]) : c < 2 ? 0.0f : a[c];
        }
        sp_flow_matrix(m, a, b, dx, dy, row->weight[x] * row->weight_y);
        for (size_t c = 0; c < SP_FLOW_CHANNELS; c++)
            dst[c * stride + (size_t)x] = m[c];
    }
}
ROW(update,
    (float *SP_RESTRICT dst, size_t stride, const sp_flow_row *row),
    (dst, stride, row))

/* The sum of k = 2^i values `step` apart as pairs of pairs. */
static float sum_pairs(const float *const *at, size_t x, int k)
{
    return k == 1 ? at[0][x] : sum_pairs(at, x, k / 2) + sum_pairs(at + k / 2, x, k / 2);
}

/* Of values at[0][x], at[1][x], ... */
INLINE float window_sum(const float *const *at, size_t x, const sp_flow_window *window)
{
    int n = window->n, m = n / 2;
    if (window->gaussian) {
        float sum = window->weight[0] * at[m][x];
        for (int i = 1; i <= m; i++)
            sum = sp_fma(window->weight[i], at[m - i][x] + at[m + i][x], sum);
        return sum;
    }
    if (n == 15) { /* the same, spelled out */
        float two0 = at[0][x] + at[1][x], two2 = at[2][x] + at[3][x], two4 = at[4][x] + at[5][x];
        float two6 = at[6][x] + at[7][x], two8 = at[8][x] + at[9][x], two10 = at[10][x] + at[11][x];
        float two12 = at[12][x] + at[13][x];
        float eight = (two0 + two2) + (two4 + two6), four = two8 + two10;
        return ((eight + four) + two12) + at[14][x];
    }
    int k = 1;
    while (2 * k <= n)
        k *= 2;
    float sum = sum_pairs(at, x, k);
    for (int done = k; done < n; done += k) {
        while (done + k > n)
            k /= 2;
        sum = sum + sum_pairs(at + done, x, k);
    }
    return sum;
}

INLINE void window_row(float *SP_RESTRICT dst, size_t dst_stride, float *SP_RESTRICT src, size_t src_stride,
                      const sp_flow_window *window, float *SP_RESTRICT spare, int n)
{
    (void)spare; /* the twins' */
    int m = window->n / 2;
    const float *at[2 * SP_FLOW_MARGIN];
    for (int c = 0; c < SP_FLOW_CHANNELS; c++, dst += dst_stride, src += src_stride) {
        repeat_ends(src, n, m);
        for (int i = 0; i < window->n; i++)
            at[i] = src + i - m;
        for (int x = 0; x < n; x++)
            dst[x] = window_sum(at, (size_t)x, window);
    }
}
ROW(window,
    (float *SP_RESTRICT dst, size_t dst_stride, float *SP_RESTRICT src, size_t src_stride, const sp_flow_window
     *window, float *SP_RESTRICT spare, int n),
    (dst, dst_stride, src, src_stride, window, spare, n))

INLINE void solve_row(float *SP_RESTRICT dx, float *SP_RESTRICT dy, size_t stride, const float *const *sums, size_t sums_stride,
                     const sp_flow_window *window, int rows, int n)
{
    for (int r = 0; r < rows; r++, sums++, dx += stride, dy += stride) {
        for (int x = 0; x < n; x++) {
            float m[SP_FLOW_CHANNELS];
            for (size_t c = 0; c < SP_FLOW_CHANNELS; c++)
                m[c] = window_sum(sums, c * sums_stride + (size_t)x, window);
            sp_flow_solve(&dx[x], &dy[x], m, window->regular);
        }
    }
}
ROW(solve,
    (float *SP_RESTRICT dx, float *SP_RESTRICT dy, size_t stride, const float *const *sums, size_t sums_stride,
     const sp_flow_window *window, int rows, int n),
    (dx, dy, stride, sums, sums_stride, window, rows, n))
