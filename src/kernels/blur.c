/* SPDX-License-Identifier: Apache-2.0
 * Gaussian and box blur as OpenCV 5 computes them on 8-bit pictures.
 *
 * Gaussian: the kernel in double, then to 8 fractional bits by error diffusion from the rim inwards (its sum is exactly
 * 256); across into 16 bits, which is exact; down with one rounding. Box: exact sums; up to 256 pixels under the window the
 * division is a multiplication with 23 fractional bits, above that a multiplication in float, and in double for the last
 * w % 8 columns, where OpenCV's vectors end. */
#include "kernels/kernels.h"
#include "kernels/plane_rows.h"
#include "kernels/plane_spec.h"

#include <string.h>

/* A row with `reach` reflected pixels on both sides; returns its pixel 0. */
static uint8_t *reflected(uint8_t *line, const uint8_t *src, int w, int reach)
{
    uint8_t *row = line + SP_ALIGN_UP(reach, 64);
    memcpy(row, src, (size_t)w);
    for (int i = 1; i <= reach; i++) {
        row[-i] = src[sp_reflect(-i, w)];
        row[w - 1 + i] = src[sp_reflect(w - 1 + i, w)];
    }
    return row;
}

size_t sp_blur_room(int w, int h)
{
    size_t gaussian = SP_PLANE_TAKEN((size_t)w + 256) + SP_GAUSSIAN_TAPS_MAX * SP_PLANE_TAKEN((size_t)w * 2);
    size_t box = SP_PLANE_TAKEN(((size_t)w + 2 * SP_BOX_SIDE_MAX) * 2) + SP_PLANE_TAKEN((size_t)w * 4) + SP_PLANE_TAKEN(w);
    (void)h;
    return SP_MAX(gaussian, box);
}

void sp_blur_gaussian(sp_plane dst, sp_plane src, int ksize, double sigma, sp_plane_scratch *scratch)
{
    sp_plane_room room = sp_plane_room_of(scratch, src.w, src.h);
    int w = src.w, h = src.h, half = ksize / 2;
    uint16_t weight[SP_GAUSSIAN_TAPS_MAX];
    uint16_t *ring[SP_GAUSSIAN_TAPS_MAX];
    sp_gaussian_weights(weight, ksize, sigma);
    uint8_t *line = sp_plane_take(&room, (size_t)w + 256);
    for (int i = 0; i < ksize; i++)
        ring[i] = sp_plane_take(&room, (size_t)w * 2);
    int made = 0; /* rows across, row y in ring[y % ksize] */
    for (int y = 0; y < h; y++) {
        const uint16_t *rows[SP_GAUSSIAN_TAPS_MAX];
        for (; made < h && made <= y + half; made++) {
            const uint8_t *row = reflected(line, sp_plane_row(src, made), w, half);
            sp_kernels.blur_across(ring[made % ksize], row - half, weight, ksize, w);
        }
        for (int t = 0; t < ksize; t++)
            rows[t] = ring[sp_reflect(y + t - half, h) % ksize];
        sp_kernels.blur_down(sp_plane_row_out(dst, y), rows, weight, ksize, w);
    }
}

/* Sums of columns, whose borders are reflected as the picture's are; then means of those. */
void sp_blur_box(sp_plane dst, sp_plane src, int ksize, sp_plane_scratch *scratch)
{
    sp_plane_room room = sp_plane_room_of(scratch, src.w, src.h);
    int w = src.w, h = src.h, before = ksize / 2, after = ksize - 1 - before;
    uint16_t *line = sp_plane_take(&room, ((size_t)w + 2 * SP_BOX_SIDE_MAX) * 2), *column = line + SP_BOX_SIDE_MAX;
    uint32_t *spare = sp_plane_take(&room, (size_t)w * 4);
    uint8_t *none = sp_plane_take(&room, (size_t)w);
    memset(none, 0, (size_t)w);
    memset(column, 0, (size_t)w * 2);
    for (int t = -before; t < after; t++)
        sp_kernels.box_down(column, sp_plane_row(src, sp_reflect(t, h)), none, w);
    for (int y = 0; y < h; y++) {
        const uint8_t *goes = y ? sp_plane_row(src, sp_reflect(y - before - 1, h)) : none;
        sp_kernels.box_down(column, sp_plane_row(src, sp_reflect(y + after, h)), goes, w);
        for (int i = 1; i <= before; i++)
            column[-i] = column[sp_reflect(-i, w)];
        for (int i = 1; i <= after + 1; i++)
            column[w - 1 + i] = column[sp_reflect(w - 1 + i, w)];
        sp_kernels.box_across(sp_plane_row_out(dst, y), column - before, ksize, w, spare);
    }
}
