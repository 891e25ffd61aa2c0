/* SPDX-License-Identifier: Apache-2.0
 * A row of decoded luma or RGB to a row of grey: picks the kernel. */
#include "kernels/kernels.h"
#include "kernels/plane.h"

#include <string.h>

void sp_grey_from_y8(uint8_t *dst, const uint8_t *y, int n, bool limited)
{
    sp_kernels_init();
    if (limited)
        sp_kernels.grey_y8(dst, y, n);
    else if (dst != y)
        memmove(dst, y, (size_t)n);
}

void sp_grey_from_y16(uint8_t *dst, const uint16_t *y, int n, int bits, bool limited)
{
    sp_kernels_init();
    sp_kernels.grey_y16(dst, y, n, bits, limited);
}

void sp_grey_from_rgb8(uint8_t *dst, const uint8_t *rgb, int n, int step, int r, int g, int b)
{
    sp_kernels_init();
    sp_kernels.grey_rgb8(dst, rgb, n, step, r, g, b);
}
