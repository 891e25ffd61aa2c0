/* SPDX-License-Identifier: Apache-2.0
 * Measures of a plane and the operations on single pixels: rows to kernels. Rows that follow each other without a gap are
 * one long row. */
#include "kernels/kernels.h"
#include "kernels/plane_rows.h"

#include <string.h>

/* Rows and pixels per row as the kernels see them. */
typedef struct extent {
    int rows, n;
} extent;

static extent extent_of(int w, int h, bool gapless)
{
    return gapless ? (extent){ 1, w * h } : (extent){ h, w };
}

static bool gapless(sp_plane p)
{
    return p.stride_bytes == (size_t)p.w;
}

/* Columns 0 and w - 1, whose neighbours are reflected, and the pixels between them. */
static void laplace_row(sp_plane_measure *m, const uint8_t *const rows[3], int w)
{
    int last = w - 1, second = w > 1 ? 1 : 0, before = w > 1 ? w - 2 : 0;
    int edge[2] = { rows[0][0] + rows[2][0] + 2 * rows[1][second] - 4 * rows[1][0],
                    rows[0][last] + rows[2][last] + 2 * rows[1][before] - 4 * rows[1][last] };
    for (int i = 0; i < (w > 1 ? 2 : 1); i++) {
        m->laplace_sum += edge[i];
        m->laplace_squares += (uint64_t)(edge[i] * edge[i]);
    }
    if (w > 2) {
        const uint8_t *const inner[3] = { rows[0] + 1, rows[1] + 1, rows[2] + 1 };
        sp_kernels.laplace_u8(&m->laplace_sum, &m->laplace_squares, inner, w - 2);
    }
}

void sp_measure_plane(sp_plane src, sp_plane_measure *ret_measure)
{
    enum { BAND = 16 }; /* rows that are still in the cache when they are asked for the second time */
    sp_kernels_init();
    memset(ret_measure, 0, sizeof(*ret_measure));
    for (int y = 0; y < src.h; y += BAND) {
        int rows = SP_MIN(BAND, src.h - y);
        sp_kernels.histogram_u8(ret_measure->histogram, sp_plane_row(src, y), src.stride_bytes, src.w, rows);
        for (int k = y; k < y + rows; k++) {
            const uint8_t *const three[3] = { sp_plane_row(src, sp_reflect(k - 1, src.h)), sp_plane_row(src, k),
                                              sp_plane_row(src, sp_reflect(k + 1, src.h)) };
            laplace_row(ret_measure, three, src.w);
        }
    }
    for (uint64_t v = 0; v < 256; v++) {
        ret_measure->sum += v * ret_measure->histogram[v];
        ret_measure->sum_squares += v * v * ret_measure->histogram[v];
    }
}

uint64_t sp_measure_difference(sp_plane a, sp_plane b)
{
    extent e = extent_of(a.w, a.h, gapless(a) && gapless(b));
    uint64_t sum = 0;
    sp_kernels_init();
    for (int y = 0; y < e.rows; y++)
        sum += sp_kernels.difference_u8(sp_plane_row(a, y), sp_plane_row(b, y), e.n);
    return sum;
}

uint64_t sp_measure_nonzero(sp_plane src)
{
    extent e = extent_of(src.w, src.h, gapless(src));
    uint64_t count = 0;
    sp_kernels_init();
    for (int y = 0; y < e.rows; y++)
        count += sp_kernels.nonzero_u8(sp_plane_row(src, y), e.n);
    return count;
}

void sp_threshold(sp_plane dst, sp_plane src, uint8_t threshold)
{
    extent e = extent_of(src.w, src.h, gapless(src) && gapless(dst));
    sp_kernels_init();
    for (int y = 0; y < e.rows; y++)
        sp_kernels.threshold_u8(sp_plane_row_out(dst, y), sp_plane_row(src, y), e.n, threshold);
}

void sp_plane_or(sp_plane dst, sp_plane a, sp_plane b)
{
    extent e = extent_of(a.w, a.h, gapless(a) && gapless(b) && gapless(dst));
    sp_kernels_init();
    for (int y = 0; y < e.rows; y++)
        sp_kernels.or_u8(sp_plane_row_out(dst, y), sp_plane_row(a, y), sp_plane_row(b, y), e.n);
}

void sp_plane_and(sp_plane dst, sp_plane a, sp_plane b)
{
    extent e = extent_of(a.w, a.h, gapless(a) && gapless(b) && gapless(dst));
    sp_kernels_init();
    for (int y = 0; y < e.rows; y++)
        sp_kernels.and_u8(sp_plane_row_out(dst, y), sp_plane_row(a, y), sp_plane_row(b, y), e.n);
}

void sp_measure_flow(const float *dx, const float *dy, size_t stride_floats, int w, int h, uint32_t threshold_1024,
                     sp_plane mask, sp_flow_measure *ret_measure)
{
    sp_kernels_init();
    memset(ret_measure, 0, sizeof(*ret_measure));
    for (int y = 0; y < h; y++) {
        size_t at = (size_t)y * stride_floats;
        sp_kernels.measure_flow(ret_measure, mask.data ? sp_plane_row_out(mask, y) : NULL, dx + at, dy + at, w, threshold_1024);
    }
}
