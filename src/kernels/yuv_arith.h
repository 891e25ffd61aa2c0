/* SPDX-License-Identifier: Apache-2.0
 * YUV of 8 bits to RGB: the arithmetic of one pixel, for media/video_frame.c, kernels/yuv.c and the CUDA twin. Integers of 16
 * binary places, whose factors are computed once in double; each chroma sample serves all its pixels. */
#ifndef SP_KERNELS_YUV_ARITH_H
#define SP_KERNELS_YUV_ARITH_H

#include "kernels/arith.h"

#include <stdbool.h>

typedef struct sp_yuv_matrix {
    int32_t y_base, y_gain, rv, gu, gv, bu; /* gains with 16 binary places */
} sp_yuv_matrix;

/* BT.601's or BT.709's matrix (also taken for BT.2020), of limited (16..235) or full range. */
SP_HD sp_yuv_matrix sp_yuv_matrix_of(bool bt709, bool limited)
{
    double kr = bt709 ? 0.2126 : 0.299, kb = bt709 ? 0.0722 : 0.114;
    double kg = 1 - kr - kb, y = limited ? 255.0 / 219 : 1, c = limited ? 255.0 / 224 : 1;
    sp_yuv_matrix m;
    m.y_base = limited ? 16 : 0;
    m.y_gain = (int32_t)(y * 65536 + 0.5);
    m.rv = (int32_t)(2 * (1 - kr) * c * 65536 + 0.5);
    m.bu = (int32_t)(2 * (1 - kb) * c * 65536 + 0.5);
    m.gu = (int32_t)(2 * (1 - kb) * kb / kg * c * 65536 + 0.5);
    m.gv = (int32_t)(2 * (1 - kr) * kr / kg * c * 65536 + 0.5);
    return m;
}

SP_HD uint8_t sp_yuv_clip(int32_t v)
{
    v >>= 16;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

SP_HD void sp_yuv_pixel(uint8_t *rgb, const sp_yuv_matrix *m, uint8_t y, uint8_t u, uint8_t v)
{
    int32_t light = (y - m->y_base) * m->y_gain + 32768, cu = u - 128, cv = v - 128;
    rgb[0] = sp_yuv_clip(light + cv * m->rv);
    rgb[1] = sp_yuv_clip(light - cu * m->gu - cv * m->gv);
    rgb[2] = sp_yuv_clip(light + cu * m->bu);
}

#endif
