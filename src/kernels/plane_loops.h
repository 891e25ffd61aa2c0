/* SPDX-License-Identifier: Apache-2.0
 * Row ops that the compiler makes into vectors as well as a hand would: whole numbers, no branches. Included once per level by
 * loops_c.c, loops_avx2.c, loops_avx512.c, which say SP_LOOP(name) and are compiled for their CPU. */
#include "kernels/kernels.h"
#include "kernels/plane_arith.h"
#include "kernels/plane_rows.h"

#include <math.h>
#include <string.h>

static const int16_t smooth_taps[3][7] = { { 1, 2, 1 }, { 1, 4, 6, 4, 1 }, { 1, 6, 15, 20, 15, 6, 1 } };
static const int16_t slope_taps[3][7] = { { -1, 0, 1 }, { -1, -2, 0, 2, 1 }, { -1, -4, -5, 0, 5, 4, 1 } };

/* Down: sums of at most 64 * 255 fit 16 bits. Across: 5 fits them as well, 7 does not. */
static inline __attribute__((always_inline)) void sobel_down(int16_t *SP_RESTRICT smoothed, int16_t *SP_RESTRICT sloped,
                                                             const uint8_t *const *rows, int aperture, int n)
{
    const int16_t *smooth = smooth_taps[aperture / 2 - 1], *slope = slope_taps[aperture / 2 - 1];
    int reach = aperture / 2;
    for (int i = 0; i < n + 2 * reach; i++) {
        int16_t a = 0, b = 0;
        for (int t = 0; t < aperture; t++) {
            int16_t v = rows[t][i - reach];
            a = (int16_t)(a + smooth[t] * v);
            b = (int16_t)(b + slope[t] * v);
        }
        smoothed[i] = a;
        sloped[i] = b;
    }
}

static inline __attribute__((always_inline)) int32_t taps_across(const int16_t *row, const int16_t *taps, int aperture)
{
    int32_t sum = 0;
    for (int t = 0; t < aperture; t++)
        sum += taps[t] * row[t];
    return sum;
}

static inline __attribute__((always_inline)) void sobel_across(int16_t *SP_RESTRICT out, const int16_t *SP_RESTRICT row,
                                                               const int16_t *taps, int aperture, int n, bool sixteenth)
{
    for (int i = 0; i < n; i++) {
        int32_t v = taps_across(row + i, taps, aperture);
        if (sixteenth) { /* to nearest, ties to even */
            int32_t low = v & 15, whole = v >> 4;
            v = whole + (low > 8 || (low == 8 && (whole & 1)));
        }
        out[i] = (int16_t)SP_CLAMP(v, INT16_MIN, INT16_MAX);
    }
}

void SP_LOOP(sobel_wide)(int16_t *SP_RESTRICT dx, int16_t *SP_RESTRICT dy, const uint8_t *const *rows, int aperture, int n,
                         bool sixteenth, int16_t *SP_RESTRICT spare)
{
    int16_t *smoothed = spare, *sloped = spare + n + 8;
    if (aperture == 5) {
        sobel_down(smoothed, sloped, rows, 5, n);
        sobel_across(dx, smoothed, slope_taps[1], 5, n, false);
        sobel_across(dy, sloped, smooth_taps[1], 5, n, false);
        return;
    }
    sobel_down(smoothed, sloped, rows, 7, n);
    sobel_across(dx, smoothed, slope_taps[2], 7, n, sixteenth);
    sobel_across(dy, sloped, smooth_taps[2], 7, n, sixteenth);
}

void SP_LOOP(sizes32)(int32_t *SP_RESTRICT size, const int16_t *SP_RESTRICT dx, const int16_t *SP_RESTRICT dy, int n, bool l2)
{
    if (l2) {
        for (int i = 0; i < n; i++)
            size[i] = dx[i] * dx[i] + dy[i] * dy[i];
    } else {
        for (int i = 0; i < n; i++)
            size[i] = (dx[i] < 0 ? -dx[i] : dx[i]) + (dy[i] < 0 ? -dy[i] : dy[i]);
    }
}

/* All four directions are looked at and one is chosen, which is less work than to branch. |dx| * (TG22 + 2^16) stays below
 * 2^32. */
void SP_LOOP(maxima32)(uint8_t *SP_RESTRICT weak, uint8_t *SP_RESTRICT strong, const int32_t *const size[3], const int16_t *dx,
                       const int16_t *dy, int n, int low, int high)
{
    const int32_t *up = size[0], *row = size[1], *down = size[2];
    for (int i = 0; i < n; i++) {
        int32_t m = row[i], sx = dx[i], sy = dy[i];
        uint32_t x = (uint32_t)(sx < 0 ? -sx : sx), y = (uint32_t)(sy < 0 ? -sy : sy) << 15, flat = x * SP_CANNY_TG22;
        int across = (m > row[i - 1]) & (m >= row[i + 1]), along = (m > up[i]) & (m >= down[i]);
        int falling = (m > up[i - 1]) & (m > down[i + 1]), rising = (m > up[i + 1]) & (m > down[i - 1]);
        int slanted = (sx ^ sy) < 0 ? rising : falling;
        int maximum = y < flat ? across : y > flat + (x << 16) ? along : slanted;
        weak[i] = (uint8_t)(maximum & (m > low));
        strong[i] = (uint8_t)(maximum & (m > high));
    }
}

void SP_LOOP(box_down)(uint16_t *SP_RESTRICT column, const uint8_t *SP_RESTRICT comes, const uint8_t *SP_RESTRICT goes, int n)
{
    for (int i = 0; i < n; i++)
        column[i] = (uint16_t)(column[i] + comes[i] - goes[i]);
}

/* Running sums, or k additions where k is small. */
static inline __attribute__((always_inline)) void box_sums(uint32_t *SP_RESTRICT sums, const uint16_t *SP_RESTRICT column, int k, int n)
{
    if (k <= 16) {
        for (int i = 0; i < n; i++) {
            uint16_t sum = 0; /* 256 * 255 fits */
            for (int t = 0; t < k; t++)
                sum = (uint16_t)(sum + column[i + t]);
            sums[i] = sum;
        }
        return;
    }
    uint32_t sum = 0;
    for (int i = 0; i < k; i++)
        sum += column[i];
    for (int i = 0; i < n; i++) {
        sums[i] = sum;
        sum += (uint32_t)column[i + k] - column[i];
    }
}

void SP_LOOP(box_across)(uint8_t *SP_RESTRICT dst, const uint16_t *SP_RESTRICT column, int k, int n, uint32_t *SP_RESTRICT spare)
{
    uint32_t area = (uint32_t)k * (uint32_t)k, scale = (1u << 23) / area, rest = (1u << 23) % area, half = area / 2;
    if (k == 1) {
        for (int i = 0; i < n; i++)
            dst[i] = (uint8_t)column[i];
        return;
    }
    if (k == 3)
        box_sums(spare, column, 3, n);
    else if (k == 5)
        box_sums(spare, column, 5, n);
    else
        box_sums(spare, column, k, n);
    if (area <= 256) {
        half += 2 * rest < area;
        scale += 2 * rest >= area;
        for (int i = 0; i < n; i++)
            dst[i] = (uint8_t)((spare[i] + half) * scale >> 23);
        return;
    }
    float factor = (float)(1.0 / (double)area);
    int vectors = n & ~7;
    for (int i = 0; i < vectors; i++)
        dst[i] = (uint8_t)(int32_t)rintf((float)(int32_t)spare[i] * factor);
    for (int i = vectors; i < n; i++)
        dst[i] = (uint8_t)rint(spare[i] * (1.0 / (double)area));
}

void SP_LOOP(grey_rgb8)(uint8_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT rgb, int n, int step, int r, int g, int b)
{
    if (step == 3) {
        for (int i = 0; i < n; i++)
            dst[i] = sp_grey_of_rgb(rgb[3 * i + r], rgb[3 * i + g], rgb[3 * i + b]);
    } else {
        for (int i = 0; i < n; i++)
            dst[i] = sp_grey_of_rgb(rgb[step * i + r], rgb[step * i + g], rgb[step * i + b]);
    }
}
