/* SPDX-License-Identifier: Apache-2.0
 * BMP by libavcodec. The walk understands the header's many forms and checks that the rows are there; libavcodec is
 * shown a bottom-up file with the 40-byte header and a full colour table. Which byte of a pixel is which colour is
 * applied afterwards, so that the alpha guesses of other readers cannot come in. Not read: JPEG and PNG inside BMP,
 * bit-field layouts that Pillow does not know, and RLE data with rows left out. */
#include "media/decoders.h"
#include "media/libav.h"

#define FILE_HEADER_BYTES 14u
#define INFO_HEADER_BYTES 40u

enum { RAW = 0, RLE8 = 1, RLE4 = 2, BITFIELDS = 3 };

typedef struct bmp_layout {
    int64_t width, height;
    int bits;
    uint32_t compression;
    bool top_down;
    bool is_565;
    uint8_t red, green, blue; /* byte of a 32-bit pixel */
    size_t data;
    uint8_t palette[256 * 4];
} bmp_layout;

static sp_status truncated(sp_view file, const char *where, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "bmp: the file ends at byte %zu, inside %s; send the whole file",
                        file.size_bytes, where);
}

static sp_status unsupported(sp_error *reterr, const char *what, uint32_t value, size_t at)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "unsupported_variant", "bmp: %s %u (byte %zu) cannot be read; save it as an "
                        "ordinary 24-bit BMP or as PNG", what, value, at);
}

/* The bit-field layouts that Pillow knows. */
static sp_status read_masks(const uint8_t *masks, bool with_alpha, size_t at, bmp_layout *layout, sp_error *reterr)
{
    static const struct {
        uint32_t masks[4];
        uint8_t red, green, blue;
    } rows[] = {
        { { 0xff0000, 0xff00, 0xff, 0 }, 2, 1, 0 },
        { { 0xff000000, 0xff0000, 0xff00, 0 }, 3, 2, 1 },
        { { 0xff000000, 0xff00, 0xff, 0 }, 3, 1, 0 },
        { { 0xff000000, 0xff0000, 0xff00, 0xff }, 3, 2, 1 },
        { { 0xff, 0xff00, 0xff0000, 0xff000000 }, 0, 1, 2 },
        { { 0xff0000, 0xff00, 0xff, 0xff000000 }, 2, 1, 0 },
        { { 0xff000000, 0xff00, 0xff, 0xff0000 }, 3, 1, 0 },
        { { 0, 0, 0, 0 }, 2, 1, 0 },
    };
    uint32_t red = sp_le32(masks), green = sp_le32(masks + 4), blue = sp_le32(masks + 8);
    uint32_t alpha = with_alpha ? sp_le32(masks + 12) : 0;
    if (layout->bits == 16 && green == 0x7e0 && red == 0xf800 && blue == 0x1f) {
        layout->is_565 = true;
        return SP_OK;
    }
    if (layout->bits == 16 && green == 0x3e0 && red == 0x7c00 && blue == 0x1f)
        return SP_OK;
    if (layout->bits == 24 && red == 0xff0000 && green == 0xff00 && blue == 0xff)
        return SP_OK;
    for (size_t i = 0; layout->bits == 32 && i < SP_ARRAY_LEN(rows); i++) {
        if (rows[i].masks[0] != red || rows[i].masks[1] != green || rows[i].masks[2] != blue || rows[i].masks[3] != alpha)
            continue;
        layout->red = rows[i].red;
        layout->green = rows[i].green;
        layout->blue = rows[i].blue;
        return SP_OK;
    }
    return unsupported(reterr, "bit-field layout with red mask", red, at);
}

/* `entry_bytes`: 3 in the oldest form, else 4. Colours that the file does not have are black; a table that only counts
 * up means grey to Pillow, however short it is. */
static sp_status read_palette(sp_view file, size_t at, uint32_t count, size_t entry_bytes, bmp_layout *layout,
                              sp_error *reterr)
{
    if (count < 1 || count > 65536)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "bmp: a colour table of %u entries (byte 46)", count);
    if (file.size_bytes - at < (size_t)count * entry_bytes)
        return truncated(file, "the colour table", reterr);
    bool grey = layout->bits == 8;
    for (uint32_t i = 0; i < SP_MIN(count, 256u); i++) {
        const uint8_t *entry = file.data + at + (size_t)i * entry_bytes;
        memcpy(layout->palette + (size_t)i * 4, entry, 3);
        grey = grey && entry[0] == i && entry[1] == i && entry[2] == i;
    }
    for (uint32_t i = 0; grey && i < 256; i++)
        memset(layout->palette + (size_t)i * 4, (int)i, 3);
    return SP_OK;
}

/* Everything behind the header's own fields: masks, colour table, where the rows begin. */
static sp_status read_tables(sp_view file, size_t header_bytes, uint32_t colors, bmp_layout *layout, sp_error *reterr)
{
    size_t at = FILE_HEADER_BYTES + header_bytes, entry_bytes = header_bytes == 12 ? 3 : 4;
    sp_status s = SP_OK;
    if (layout->compression == BITFIELDS) {
        /* Longer headers hold the masks themselves, the 40-byte one is followed by three. */
        bool inside = header_bytes >= 52;
        size_t masks = FILE_HEADER_BYTES + INFO_HEADER_BYTES;
        if (!inside)
            at += 12;
        if (file.size_bytes < at)
            return truncated(file, "the bit masks", reterr);
        s = read_masks(file.data + masks, header_bytes >= 56, masks, layout, reterr);
    }
    if (s)
        return s;
    if (!colors)
        colors = 1u << SP_MIN(layout->bits, 16);
    size_t data = sp_le32(file.data + 10);
    if (layout->bits <= 8) {
        /* Some writers forget the table when they say where the rows begin. */
        if (data == FILE_HEADER_BYTES + header_bytes)
            data += entry_bytes * colors;
        s = read_palette(file, at, colors, entry_bytes, layout, reterr);
        at += entry_bytes * colors;
    }
    layout->data = data ? data : at;
    return s;
}

static sp_status read_layout(sp_view file, bmp_layout *layout, sp_error *reterr)
{
    *layout = (bmp_layout){ .red = 2, .green = 1, .blue = 0 };
    if (file.size_bytes < FILE_HEADER_BYTES + 4)
        return truncated(file, "the header", reterr);
    size_t header_bytes = sp_le32(file.data + FILE_HEADER_BYTES);
    if (header_bytes != 12 && header_bytes != 40 && header_bytes != 52 && header_bytes != 56 && header_bytes != 64 &&
        header_bytes != 108 && header_bytes != 124)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "bmp: a header of %zu bytes (byte 14) does not exist",
                            header_bytes);
    if (file.size_bytes < FILE_HEADER_BYTES + header_bytes)
        return truncated(file, "the header", reterr);
    const uint8_t *p = file.data + FILE_HEADER_BYTES;
    uint32_t colors = 0;
    if (header_bytes == 12) {
        layout->width = sp_le16(p + 4);
        layout->height = sp_le16(p + 6);
        layout->bits = (int)sp_le16(p + 10);
    } else {
        layout->top_down = p[11] == 0xff;
        layout->width = sp_le32(p + 4);
        layout->height = layout->top_down ? (INT64_C(1) << 32) - sp_le32(p + 8) : sp_le32(p + 8);
        layout->bits = (int)sp_le16(p + 14);
        layout->compression = sp_le32(p + 16);
        colors = sp_le32(p + 32);
    }
    int bits = layout->bits;
    if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32)
        return unsupported(reterr, "bits a pixel:", (uint32_t)bits, FILE_HEADER_BYTES + (header_bytes == 12 ? 10 : 14));
    bool rle = layout->compression == RLE8 || layout->compression == RLE4;
    if (layout->compression > BITFIELDS || (rle && bits != (layout->compression == RLE8 ? 8 : 4)))
        return unsupported(reterr, "compression", layout->compression, FILE_HEADER_BYTES + 16);
    if (layout->compression == BITFIELDS && bits <= 8)
        return unsupported(reterr, "bit fields with bits a pixel:", (uint32_t)bits, FILE_HEADER_BYTES + 14);
    return read_tables(file, header_bytes, colors, layout, reterr);
}

static sp_status bmp_probe(sp_view file, sp_image_header *ret_header, sp_error *reterr)
{
    bmp_layout layout;
    sp_status s = read_layout(file, &layout, reterr);
    if (s)
        return s;
    ret_header->width = layout.width;
    ret_header->height = layout.height;
    ret_header->bits = layout.bits == 16 ? 5 : 8;
    return SP_OK;
}

/* Raw rows: all there? Only the last may lack its padding. */
static sp_status check_rows(sp_view file, const bmp_layout *layout, size_t row_bytes, size_t *ret_bytes, sp_error *reterr)
{
    size_t used = ((size_t)layout->width * (size_t)layout->bits + 7) / 8;
    size_t need = row_bytes * (size_t)(layout->height - 1) + used;
    if (layout->data > file.size_bytes || file.size_bytes - layout->data < need)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "bmp: the file ends at byte %zu, the rows from byte %zu on need "
                            "%zu bytes; send the whole file", file.size_bytes, layout->data, need);
    *ret_bytes = need;
    return SP_OK;
}

/* Follows the run-length codes without writing a pixel; they must fill every row exactly. */
static sp_status check_runs(sp_view file, const bmp_layout *layout, size_t *ret_bytes, sp_error *reterr)
{
    size_t at = SP_MIN(layout->data, file.size_bytes);
    int64_t x = 0, y = 0;
    for (;;) {
        if (file.size_bytes - at < 2)
            return truncated(file, "the run-length codes", reterr);
        int count = file.data[at], value = file.data[at + 1];
        at += 2;
        if (count) {
            x += count;
        } else if (value == 0) {
            if (x != layout->width)
                break; /* a row left unfinished or empty: readers differ */
            x = 0;
            y++;
        } else if (value == 1) {
            bool complete = y == layout->height || (y == layout->height - 1 && x == layout->width);
            if (!complete)
                break;
            *ret_bytes = at - layout->data;
            return SP_OK;
        } else if (value == 2) {
            if (file.size_bytes - at < 2)
                return truncated(file, "the run-length codes", reterr);
            if (file.data[at + 1])
                return unsupported(reterr, "run-length skip over rows:", file.data[at + 1], at + 1);
            x += file.data[at]; /* colour 0 */
            at += 2;
        } else {
            size_t bytes = layout->compression == RLE4 ? (size_t)(value + 1) / 2 : (size_t)value;
            bytes += bytes & 1;
            if (file.size_bytes - at < bytes)
                return truncated(file, "the run-length codes", reterr);
            at += bytes;
            x += value;
        }
        if (x > layout->width || (x > 0 && y >= layout->height))
            break;
    }
    return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "bmp: the run-length codes near byte %zu do not fill the rows exactly",
                        at);
}

static void put_le32(uint8_t *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

static sp_status make_packet(sp_libav *av, sp_view file, const bmp_layout *layout, size_t data_bytes, size_t row_bytes,
                             sp_error *reterr)
{
    bool rle = layout->compression == RLE8 || layout->compression == RLE4;
    size_t tables = layout->bits <= 8 ? (size_t)4 << layout->bits : layout->is_565 ? 12 : 0;
    size_t head = FILE_HEADER_BYTES + INFO_HEADER_BYTES + tables;
    size_t room = rle ? data_bytes : row_bytes * (size_t)layout->height;
    uint8_t *p = sp_libav_packet(av, head + room);
    if (!p)
        return SP_FAIL(reterr, SP_NOMEM, "bmp: out of memory");
    memset(p, 0, head);
    p[0] = 'B';
    p[1] = 'M';
    put_le32(p + 2, (uint32_t)(head + room));
    put_le32(p + 10, (uint32_t)head);
    put_le32(p + 14, INFO_HEADER_BYTES);
    put_le32(p + 18, (uint32_t)layout->width);
    put_le32(p + 22, (uint32_t)layout->height);
    p[26] = 1;
    p[28] = (uint8_t)layout->bits;
    p[30] = (uint8_t)(rle ? layout->compression : layout->is_565 ? BITFIELDS : RAW);
    put_le32(p + 34, (uint32_t)room);
    if (layout->is_565) {
        put_le32(p + 54, 0xf800);
        put_le32(p + 58, 0x7e0);
        put_le32(p + 62, 0x1f);
    } else {
        memcpy(p + 54, layout->palette, tables);
    }
    memcpy(p + head, file.data + layout->data, data_bytes);
    memset(p + head + data_bytes, 0, room - data_bytes); /* the last row's padding */
    return SP_OK;
}

static void draw_row(const bmp_layout *layout, const AVFrame *frame, int row, uint8_t *dst)
{
    const uint8_t *src = frame->data[0] + (ptrdiff_t)row * frame->linesize[0];
    for (int64_t x = 0; x < layout->width; x++, dst += 3) {
        if (layout->bits <= 8) {
            const uint8_t *entry = layout->palette + (size_t)src[x] * 4;
            dst[0] = entry[2];
            dst[1] = entry[1];
            dst[2] = entry[0];
        } else if (layout->bits == 16) {
            /* Pillow stretches 5 and 6 bits by a division that rounds down. */
            unsigned v = sp_le16(src + x * 2);
            dst[0] = (uint8_t)((v >> (layout->is_565 ? 11 : 10) & 31) * 255 / 31);
            dst[1] = (uint8_t)(layout->is_565 ? (v >> 5 & 63) * 255 / 63 : (v >> 5 & 31) * 255 / 31);
            dst[2] = (uint8_t)((v & 31) * 255 / 31);
        } else {
            const uint8_t *pixel = src + x * (layout->bits / 8);
            dst[0] = pixel[layout->red];
            dst[1] = pixel[layout->green];
            dst[2] = pixel[layout->blue];
        }
    }
}

static sp_status bmp_decode(sp_view file, const sp_image_header *header, int scale, const sp_rows *rows, sp_error *reterr)
{
    (void)header;
    (void)scale;
    bmp_layout layout;
    sp_libav av = { 0 };
    sp_status s = read_layout(file, &layout, reterr);
    if (s)
        return s;
    size_t row_bytes = ((size_t)layout.width * (size_t)layout.bits + 31) / 32 * 4, data_bytes = 0;
    bool rle = layout.compression == RLE8 || layout.compression == RLE4;
    s = rle ? check_runs(file, &layout, &data_bytes, reterr) : check_rows(file, &layout, row_bytes, &data_bytes, reterr);
    if (!s)
        s = sp_libav_init(&av, AV_CODEC_ID_BMP, "bmp", reterr);
    if (!s)
        s = make_packet(&av, file, &layout, data_bytes, row_bytes, reterr);
    if (!s) {
        enum AVPixelFormat format = layout.bits <= 8    ? AV_PIX_FMT_PAL8
                                    : layout.bits == 24 ? AV_PIX_FMT_BGR24
                                    : layout.bits == 32 ? AV_PIX_FMT_BGRA
                                    : layout.is_565     ? AV_PIX_FMT_RGB565LE
                                                        : AV_PIX_FMT_RGB555LE;
        s = sp_libav_run(&av, rows->width, rows->height, format, layout.bits == 32 ? AV_PIX_FMT_BGR0 : AV_PIX_FMT_NONE,
                         layout.data, reterr);
    }
    for (int row = 0; !s && row < rows->height; row++)
        draw_row(&layout, av.frame, layout.top_down ? rows->height - 1 - row : row, sp_rows_direct(rows, row));
    sp_libav_done(&av);
    return s;
}

const sp_image_decoder sp_decoder_bmp = { SP_IMAGE_BMP, "bmp", bmp_probe, bmp_decode };
