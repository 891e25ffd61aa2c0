/* SPDX-License-Identifier: Apache-2.0
 * First derivatives by Sobel's kernels of side 3 (a kernel of the table), 5 and 7. */
#include "kernels/kernels.h"
#include "kernels/plane_rows.h"

#include <math.h>
#include <string.h>

#define REACH 3 /* of aperture 7 */

size_t sp_sobel_room(int w, int h)
{
    (void)h;
    return 7 * SP_PLANE_TAKEN((size_t)w + 128) + SP_PLANE_TAKEN(((size_t)w + 2 * REACH) * 8) + 2 * SP_PLANE_TAKEN((size_t)w * 2);
}

static int16_t saturate(int32_t v)
{
    return (int16_t)SP_CLAMP(v, INT16_MIN, INT16_MAX);
}

void sp_sobel_row(int16_t *dx, int16_t *dy, const uint8_t *const *rows, int aperture, int n, bool sixteenth, int32_t *spare)
{
    static const int8_t smooth_taps[3][7] = { { 1, 2, 1 }, { 1, 4, 6, 4, 1 }, { 1, 6, 15, 20, 15, 6, 1 } };
    static const int8_t slope_taps[3][7] = { { -1, 0, 1 }, { -1, -2, 0, 2, 1 }, { -1, -4, -5, 0, 5, 4, 1 } };
    const int8_t *smooth = smooth_taps[aperture / 2 - 1], *slope = slope_taps[aperture / 2 - 1];
    int reach = aperture / 2, wide = n + 2 * reach;
    int32_t *smoothed = spare, *sloped = spare + wide; /* column -reach at [0] */
    memset(spare, 0, (size_t)wide * 8);
    for (int t = 0; t < aperture; t++) {
        const uint8_t *row = rows[t] - reach;
        for (int i = 0; i < wide; i++) {
            smoothed[i] += smooth[t] * row[i];
            sloped[i] += slope[t] * row[i];
        }
    }
    for (int i = 0; i < n; i++) {
        int32_t x = 0, y = 0;
        for (int t = 0; t < aperture; t++) {
            x += slope[t] * smoothed[i + t];
            y += smooth[t] * sloped[i + t];
        }
        dx[i] = sixteenth ? (int16_t)rintf((float)x * 0.0625f) : saturate(x);
        dy[i] = sixteenth ? (int16_t)rintf((float)y * 0.0625f) : saturate(y);
    }
}

void sp_sobel(int16_t *dx, int16_t *dy, size_t stride_elements, sp_plane src, int aperture, bool reflect,
              sp_plane_scratch *scratch)
{
    sp_plane_room room = sp_plane_room_of(scratch, src.w, src.h);
    int w = src.w, h = src.h, reach = aperture / 2;
    uint8_t *ring[7];
    for (int i = 0; i < aperture; i++)
        ring[i] = (uint8_t *)sp_plane_take(&room, (size_t)w + 128) + 64;
    int32_t *spare = sp_plane_take(&room, ((size_t)w + 2 * REACH) * 8);
    int made = 0;
    for (int y = 0; y < h; y++, dx += stride_elements, dy += stride_elements) {
        const uint8_t *rows[7];
        for (; made < h && made <= y + reach; made++) {
            const uint8_t *from = sp_plane_row(src, made);
            uint8_t *row = ring[made % aperture];
            memcpy(row, from, (size_t)w);
            for (int i = 1; i <= reach; i++) {
                row[-i] = from[reflect ? sp_reflect(-i, w) : 0];
                row[w - 1 + i] = from[reflect ? sp_reflect(w - 1 + i, w) : w - 1];
            }
        }
        for (int t = 0; t < aperture; t++) {
            int at = y + t - reach;
            rows[t] = ring[(reflect ? sp_reflect(at, h) : SP_CLAMP(at, 0, h - 1)) % aperture];
        }
        if (aperture == 3)
            sp_kernels.sobel3(dx, dy, rows, w);
        else
            sp_sobel_row(dx, dy, rows, aperture, w, false, spare);
    }
}
