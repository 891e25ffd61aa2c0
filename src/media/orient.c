/* SPDX-License-Identifier: Apache-2.0
 * sp_rows: puts rows where the EXIF orientation wants them, a strip at a time, so that no decoder needs a second
 * full-size picture.
 *
 *   1 as stored   2 mirrored   3 half turn   4 upside down
 *   5 transposed  6 quarter turn clockwise  7 transposed over the other diagonal  8 quarter turn counter-clockwise */
#include "media/decoders.h"

uint8_t *sp_rows_direct(const sp_rows *rows, int row)
{
    if (rows->orientation != 1)
        return NULL;
    return rows->dst + (size_t)row * (size_t)rows->width * 3;
}

int sp_rows_strip(const sp_rows *rows)
{
    /* 64 rows make a transposed write 192 bytes long: three whole cache lines. Wide pictures get fewer rows, so that
     * the strip stays under 512 KiB; 16 rows are still most of a line. */
    int count = 64;
    while (count > 16 && (size_t)count * (size_t)rows->width * 3 > 512u * 1024)
        count /= 2;
    return SP_MIN(count, rows->height);
}

static void put_mirrored(uint8_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT src, int width)
{
    const uint8_t *p = src + (size_t)width * 3;
    for (int x = 0; x < width; x++) {
        p -= 3;
        dst[0] = p[0];
        dst[1] = p[1];
        dst[2] = p[2];
        dst += 3;
    }
}

/* Orientations 1 to 4: rows stay rows. */
static void put_rows(const sp_rows *rows, int first, int count, const uint8_t *rgb, size_t stride_bytes)
{
    size_t row_bytes = (size_t)rows->width * 3;
    bool flip_x = rows->orientation == 2 || rows->orientation == 3;
    bool flip_y = rows->orientation == 3 || rows->orientation == 4;

    for (int i = 0; i < count; i++) {
        int y = flip_y ? rows->height - 1 - (first + i) : first + i;
        uint8_t *dst = rows->dst + (size_t)y * row_bytes;
        const uint8_t *src = rgb + (size_t)i * stride_bytes;
        if (flip_x)
            put_mirrored(dst, src, rows->width);
        else
            memcpy(dst, src, row_bytes);
    }
}

/* Orientations 5 to 8: each stored column becomes a row of the output; the strip is `count` pixels of each. */
static void put_columns(const sp_rows *rows, int first, int count, const uint8_t *rgb, size_t stride_bytes)
{
    size_t dst_row_bytes = (size_t)rows->height * 3;
    bool flip_column = rows->orientation == 7 || rows->orientation == 8; /* the last stored column is the first row */
    bool flip_row = rows->orientation == 6 || rows->orientation == 7;    /* the first stored row is the last column */
    int dst_x = flip_row ? rows->height - first - count : first;
    const uint8_t *top = flip_row ? rgb + (size_t)(count - 1) * stride_bytes : rgb;
    ptrdiff_t step = flip_row ? -(ptrdiff_t)stride_bytes : (ptrdiff_t)stride_bytes;

    for (int x = 0; x < rows->width; x++) {
        int dst_y = flip_column ? rows->width - 1 - x : x;
        uint8_t *dst = rows->dst + (size_t)dst_y * dst_row_bytes + (size_t)dst_x * 3;
        const uint8_t *src = top + (size_t)x * 3;
        for (int i = 0; i < count; i++) {
            dst[0] = src[0];
            dst[1] = src[1];
            dst[2] = src[2];
            dst += 3;
            src += step;
        }
    }
}

void sp_rows_put(const sp_rows *rows, int first, int count, const uint8_t *rgb, size_t stride_bytes)
{
    SP_DASSERT(first >= 0 && count >= 0 && first + count <= rows->height);
    if (rows->orientation >= 5)
        put_columns(rows, first, count, rgb, stride_bytes);
    else
        put_rows(rows, first, count, rgb, stride_bytes);
}
