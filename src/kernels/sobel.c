/* SPDX-License-Identifier: Apache-2.0
 * First derivatives by Sobel's kernels of side 3, 5 and 7: rows with their borders to the kernels. */
#include "kernels/kernels.h"
#include "kernels/plane_rows.h"

#include <string.h>

size_t sp_sobel_room(int w, int h)
{
    (void)h;
    return 7 * SP_PLANE_TAKEN((size_t)w + 128) + SP_PLANE_TAKEN(((size_t)w + 8) * 4);
}

void sp_sobel(int16_t *dx, int16_t *dy, size_t stride_elements, sp_plane src, int aperture, bool reflect,
              sp_plane_scratch *scratch)
{
    sp_plane_room room = sp_plane_room_of(scratch, src.w, src.h);
    int w = src.w, h = src.h, reach = aperture / 2;
    uint8_t *ring[7];
    for (int i = 0; i < aperture; i++)
        ring[i] = (uint8_t *)sp_plane_take(&room, (size_t)w + 128) + 64;
    int16_t *spare = sp_plane_take(&room, ((size_t)w + 8) * 4);
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
            sp_kernels.sobel_wide(dx, dy, rows, aperture, w, false, spare);
    }
}
