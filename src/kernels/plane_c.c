/* SPDX-License-Identifier: Apache-2.0
 * The row ops of plane.inc, scalar reference. */
#include "kernels/kernels.h"
#include "kernels/plane_arith.h"
#include "kernels/plane_rows.h"

#include <stdlib.h>
#include <string.h>

void sp_grey_y8_c(uint8_t *dst, const uint8_t *y, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = sp_grey_expand(y[i]);
}

void sp_grey_y16_c(uint8_t *SP_RESTRICT dst, const uint16_t *SP_RESTRICT y, int n, int bits, bool limited)
{
    for (int i = 0; i < n; i++) {
        uint8_t v = sp_grey_narrow(y[i], bits);
        dst[i] = limited ? sp_grey_expand(v) : v;
    }
}

void sp_blur_across_c(uint16_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT src, const uint16_t *weight, int taps, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t sum = 0;
        for (int t = 0; t < taps; t++)
            sum += (uint32_t)weight[t] * src[i + t];
        dst[i] = (uint16_t)sum;
    }
}

void sp_blur_down_c(uint8_t *SP_RESTRICT dst, const uint16_t *const *rows, const uint16_t *weight, int taps, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t sum = 32768;
        for (int t = 0; t < taps; t++)
            sum += (uint32_t)weight[t] * rows[t][i];
        dst[i] = (uint8_t)(sum >> 16);
    }
}

void sp_sobel3_c(int16_t *SP_RESTRICT dx, int16_t *SP_RESTRICT dy, const uint8_t *const rows[3], int n)
{
    const uint8_t *a = rows[0], *b = rows[1], *c = rows[2];
    for (int i = 0; i < n; i++) {
        dx[i] = (int16_t)((a[i + 1] - a[i - 1]) + 2 * (b[i + 1] - b[i - 1]) + (c[i + 1] - c[i - 1]));
        dy[i] = (int16_t)((c[i - 1] - a[i - 1]) + 2 * (c[i] - a[i]) + (c[i + 1] - a[i + 1]));
    }
}

void sp_gradient3_c(uint16_t *SP_RESTRICT size, int16_t *SP_RESTRICT dx, int16_t *SP_RESTRICT dy, const uint8_t *const rows[3],
                    int n)
{
    sp_sobel3_c(dx, dy, rows, n);
    for (int i = 0; i < n; i++)
        size[i] = (uint16_t)(abs(dx[i]) + abs(dy[i]));
}

void sp_maxima3_c(uint64_t *SP_RESTRICT weak, uint64_t *SP_RESTRICT strong, const uint16_t *const size[3], const int16_t *dx,
                  const int16_t *dy, int n, int low, int high)
{
    const uint16_t *up = size[0], *row = size[1], *down = size[2];
    memset(weak, 0, (size_t)((n + 63) / 64) * 8);
    memset(strong, 0, (size_t)((n + 63) / 64) * 8);
    for (int i = 0; i < n; i++) {
        int m = row[i];
        if (m <= low)
            continue;
        const uint16_t before[4] = { row[i - 1], up[i], up[i - 1], up[i + 1] };
        const uint16_t after[4] = { row[i + 1], down[i], down[i + 1], down[i - 1] };
        int direction = sp_canny_direction(dx[i], dy[i]);
        uint64_t bit = (uint64_t)sp_canny_maximum(direction, m, before[direction], after[direction]) << (i & 63);
        weak[i >> 6] |= bit;
        strong[i >> 6] |= m > high ? bit : 0;
    }
}

void sp_mask_of_bits_c(uint8_t *SP_RESTRICT dst, const uint64_t *SP_RESTRICT bits, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = (uint8_t)-(int)(bits[i >> 6] >> (i & 63) & 1);
}

void sp_bits_of_mask_c(uint64_t *SP_RESTRICT bits, const uint8_t *SP_RESTRICT src, int n)
{
    memset(bits, 0, (size_t)((n + 63) / 64) * 8);
    for (int i = 0; i < n; i++)
        bits[i >> 6] |= (uint64_t)(src[i] != 0) << (i & 63);
}

void sp_rows_max_c(uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    for (int i = 0; i < n; i++) {
        uint8_t v = rows[0][i];
        for (int r = 1; r < count; r++)
            v = rows[r][i] > v ? rows[r][i] : v;
        dst[i] = v;
    }
}

void sp_rows_min_c(uint8_t *dst, const uint8_t *const *rows, int count, int n)
{
    for (int i = 0; i < n; i++) {
        uint8_t v = rows[0][i];
        for (int r = 1; r < count; r++)
            v = rows[r][i] < v ? rows[r][i] : v;
        dst[i] = v;
    }
}

void sp_fold_box_c(uint8_t *SP_RESTRICT dst, uint8_t *SP_RESTRICT line, const uint8_t *const *rows, int count, int across, int n,
                   bool largest)
{
    sp_rows_max_fn *fold = largest ? sp_rows_max_c : sp_rows_min_c;
    const uint8_t *shifted[8];
    fold(line + across / 2, rows, count, n);
    for (int i = 0; i < across; i++)
        shifted[i] = line + i;
    fold(dst, shifted, across, n);
}

void sp_subtract_u8_c(uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = (uint8_t)(a[i] > b[i] ? a[i] - b[i] : 0);
}

/* Eight tables, so that equal neighbours do not wait for each other's count. */
static void count8(uint32_t part[8][256], uint64_t v)
{
    part[0][v & 255]++;
    part[1][v >> 8 & 255]++;
    part[2][v >> 16 & 255]++;
    part[3][v >> 24 & 255]++;
    part[4][v >> 32 & 255]++;
    part[5][v >> 40 & 255]++;
    part[6][v >> 48 & 255]++;
    part[7][v >> 56]++;
}

void sp_histogram_u8_c(uint32_t *SP_RESTRICT histogram, const uint8_t *SP_RESTRICT src, size_t stride, int w, int h)
{
    uint32_t part[8][256];
    memset(part, 0, sizeof(part));
    for (int y = 0; y < h; y++, src += stride) {
        int i = 0;
        for (; i + 8 <= w; i += 8) {
            uint64_t v;
            memcpy(&v, src + i, 8);
            count8(part, v);
        }
        for (; i < w; i++)
            part[0][src[i]]++;
    }
    for (int v = 0; v < 256; v++) {
        for (int t = 0; t < 8; t++)
            histogram[v] += part[t][v];
    }
}

void sp_laplace_u8_c(int64_t *sum, uint64_t *squares, const uint8_t *const rows[3], int n)
{
    const uint8_t *a = rows[0], *b = rows[1], *c = rows[2];
    int64_t s = 0, q = 0;
    for (int i = 0; i < n; i++) {
        int v = a[i] + c[i] + b[i - 1] + b[i + 1] - 4 * b[i];
        s += v;
        q += v * v;
    }
    *sum += s;
    *squares += (uint64_t)q;
}

uint64_t sp_difference_u8_c(const uint8_t *a, const uint8_t *b, int n)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += (uint64_t)abs(a[i] - b[i]);
    return sum;
}

uint64_t sp_nonzero_u8_c(const uint8_t *src, int n)
{
    uint64_t count = 0;
    for (int i = 0; i < n; i++)
        count += src[i] != 0;
    return count;
}

void sp_threshold_u8_c(uint8_t *dst, const uint8_t *src, int n, uint8_t threshold)
{
    for (int i = 0; i < n; i++)
        dst[i] = src[i] > threshold ? 255 : 0;
}

void sp_or_u8_c(uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = a[i] | b[i];
}

void sp_and_u8_c(uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = a[i] & b[i];
}

void sp_measure_flow_c(sp_flow_measure *measure, uint8_t *mask, const float *SP_RESTRICT dx, const float *SP_RESTRICT dy, int n,
                       uint32_t threshold)
{
    for (int i = 0; i < n; i++) {
        uint32_t m = (uint32_t)sp_flow_quantise(sp_flow_magnitude(dx[i], dy[i]));
        uint64_t coarse = m >> 4;
        measure->sum_dx += sp_flow_quantise(dx[i]);
        measure->sum_dy += sp_flow_quantise(dy[i]);
        measure->sum_magnitude += m;
        measure->sum_squares = (int64_t)((uint64_t)measure->sum_squares + coarse * coarse);
        measure->max_magnitude = SP_MAX(measure->max_magnitude, m);
        if (m > threshold) {
            measure->moving++;
            measure->direction[sp_flow_octant(dx[i], dy[i])] += m;
        }
        if (mask)
            mask[i] = m > threshold ? 255 : 0;
    }
}
