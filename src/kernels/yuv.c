/* SPDX-License-Identifier: Apache-2.0
 * 4:2:0 to RGB8, the scalar reference. */
#include "kernels/yuv.h"

#include "kernels/yuv_arith.h"

void sp_yuv_to_rgb8_c(uint8_t *dst, size_t dst_stride_bytes, const uint8_t *y, size_t y_stride_bytes, const uint8_t *u, const uint8_t *v,
                      size_t uv_stride_bytes, int w, int h, bool bt709, bool full_range)
{
    sp_yuv_matrix m = sp_yuv_matrix_of(bt709, !full_range);
    int step = v ? 1 : 2;
    for (int row = 0; row < h; row++) {
        const uint8_t *luma = y + (size_t)row * y_stride_bytes, *cu = u + (size_t)(row / 2) * uv_stride_bytes;
        const uint8_t *cv = v ? v + (size_t)(row / 2) * uv_stride_bytes : cu + 1;
        uint8_t *to = dst + (size_t)row * dst_stride_bytes;
        for (int x = 0; x < w; x++, to += 3)
            sp_yuv_pixel(to, &m, luma[x], cu[x / 2 * step], cv[x / 2 * step]);
    }
}
