/* SPDX-License-Identifier: Apache-2.0
 * GIF: the first frame on its screen, by libavcodec. The walk finds that frame and counts the pixels that its LZW codes
 * make, since libavcodec fills up what is missing and says nothing. Transparent pixels have their palette's colour, and
 * what the frame leaves free has the transparent colour, or colour 0, as in Pillow. */
#include "media/decoders.h"
#include "media/libav.h"

#include <stdlib.h>

#define SCREEN_BYTES 13u
#define FRAME_BYTES 9u
#define LZW_CODES 4096

typedef struct gif_layout {
    int64_t width, height; /* the canvas: the screen, widened where the frame needs it */
    uint32_t x, y, frame_width, frame_height;
    bool interlaced;
    int fill; /* palette index of what the frame leaves free */
    int code_bits;
    size_t data; /* the first sub-block */
    uint8_t palette[256 * 3];
} gif_layout;

static sp_status truncated(sp_view file, const char *where, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "gif: the file ends at byte %zu, inside %s; send the whole file",
                        file.size_bytes, where);
}

/* A table of `count` colours; colours beyond it are black. A table that only counts up is Pillow's way to see a grey
 * picture, in which index is brightness however long the table is. */
static void set_palette(gif_layout *layout, const uint8_t *table, int count)
{
    bool grey = true;
    for (int i = 0; i < count && grey; i++)
        grey = table[3 * i] == i && table[3 * i + 1] == i && table[3 * i + 2] == i;
    memset(layout->palette, 0, sizeof(layout->palette));
    for (int i = 0; i < 256; i++) {
        if (grey)
            memset(layout->palette + (size_t)i * 3, i, 3);
        else if (i < count)
            memcpy(layout->palette + (size_t)i * 3, table + (size_t)i * 3, 3);
    }
}

static sp_status read_palette(sp_view file, size_t *at, int flags, gif_layout *layout, sp_error *reterr)
{
    if (!(flags & 0x80))
        return SP_OK;
    int count = 2 << (flags & 7);
    if (file.size_bytes - *at < (size_t)count * 3)
        return truncated(file, "a colour table", reterr);
    set_palette(layout, file.data + *at, count);
    *at += (size_t)count * 3;
    return SP_OK;
}

static sp_status skip_blocks(sp_view file, size_t *at, sp_error *reterr)
{
    for (;;) {
        if (*at >= file.size_bytes)
            return truncated(file, "an extension", reterr);
        size_t length = file.data[*at];
        *at += 1 + length;
        if (length == 0)
            return SP_OK;
    }
}

/* At the byte behind '!'. */
static sp_status read_extension(sp_view file, size_t *at, gif_layout *layout, sp_error *reterr)
{
    if (file.size_bytes - *at < 2)
        return truncated(file, "an extension", reterr);
    const uint8_t *p = file.data + *at;
    if (p[0] == 0xf9 && p[1] >= 4 && file.size_bytes - *at >= 6 && (p[2] & 1))
        layout->fill = p[5];
    *at += 1;
    return skip_blocks(file, at, reterr);
}

/* At the byte behind ','. */
static sp_status read_frame(sp_view file, size_t at, gif_layout *layout, sp_error *reterr)
{
    if (file.size_bytes - at < FRAME_BYTES)
        return truncated(file, "the frame header", reterr);
    const uint8_t *p = file.data + at;
    layout->x = sp_le16(p);
    layout->y = sp_le16(p + 2);
    layout->frame_width = sp_le16(p + 4);
    layout->frame_height = sp_le16(p + 6);
    layout->interlaced = (p[8] & 0x40) != 0;
    if (!layout->frame_width || !layout->frame_height)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "gif: the first frame (byte %zu) has %u x %u pixels", at,
                            layout->frame_width, layout->frame_height);
    layout->width = SP_MAX(layout->width, (int64_t)layout->x + layout->frame_width);
    layout->height = SP_MAX(layout->height, (int64_t)layout->y + layout->frame_height);
    at += FRAME_BYTES;
    sp_status s = read_palette(file, &at, p[8], layout, reterr);
    if (s)
        return s;
    if (at >= file.size_bytes)
        return truncated(file, "the frame header", reterr);
    layout->code_bits = file.data[at];
    if (layout->code_bits < 1 || layout->code_bits > 11)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "gif: LZW code size %d at byte %zu; 1 to 11 can be read",
                            layout->code_bits, at);
    layout->data = at + 1;
    return SP_OK;
}

static sp_status read_layout(sp_view file, gif_layout *layout, sp_error *reterr)
{
    memset(layout, 0, sizeof(*layout));
    if (file.size_bytes < SCREEN_BYTES)
        return truncated(file, "the screen header", reterr);
    set_palette(layout, NULL, 0);
    layout->width = sp_le16(file.data + 6);
    layout->height = sp_le16(file.data + 8);
    size_t at = SCREEN_BYTES;
    sp_status s = read_palette(file, &at, file.data[10], layout, reterr);
    while (!s) {
        if (at >= file.size_bytes)
            return truncated(file, "the blocks before the first frame", reterr);
        int kind = file.data[at++];
        if (kind == ',')
            return read_frame(file, at, layout, reterr);
        if (kind == ';')
            return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "gif: the file's end mark at byte %zu comes before any frame",
                                at - 1);
        if (kind == '!')
            s = read_extension(file, &at, layout, reterr);
    }
    return s;
}

static sp_status gif_probe(sp_view file, sp_image_header *ret_header, sp_error *reterr)
{
    gif_layout layout;
    sp_status s = read_layout(file, &layout, reterr);
    if (s)
        return s;
    ret_header->width = layout.width;
    ret_header->height = layout.height;
    ret_header->bits = 8;
    return SP_OK;
}

/* Follows the codes without writing a pixel: the length of each code's string is all it keeps. */
typedef struct lzw_counter {
    uint16_t lengths[LZW_CODES];
    int clear, next, bits, last;
    uint64_t pixels;
} lzw_counter;

/* False when no encoder can have written this code here. */
static bool count_code(lzw_counter *counter, int code)
{
    if (counter->last < 0) {
        if (code >= counter->clear)
            return false;
        counter->pixels += 1;
    } else {
        if (code > counter->next || code == LZW_CODES)
            return false;
        int length = code == counter->next ? counter->lengths[counter->last] + 1 : counter->lengths[code];
        counter->pixels += (uint64_t)length;
        if (counter->next < LZW_CODES) {
            counter->lengths[counter->next] = (uint16_t)(counter->lengths[counter->last] + 1);
            counter->next++;
            if (counter->next == 1 << counter->bits && counter->bits < 12)
                counter->bits++;
        }
    }
    counter->last = code;
    return true;
}

static void reset_codes(lzw_counter *counter, int code_bits)
{
    counter->bits = code_bits + 1;
    counter->next = counter->clear + 2;
    counter->last = -1;
}

static sp_status fail_code(size_t at, const char *what, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "gif: %s near byte %zu", what, at);
}

/* Where the sub-blocks end that make the frame's pixels. */
static sp_status check_data(sp_view file, const gif_layout *layout, size_t *ret_end, sp_error *reterr)
{
    lzw_counter counter = { .clear = 1 << layout->code_bits };
    for (int i = 0; i < counter.clear; i++)
        counter.lengths[i] = 1;
    reset_codes(&counter, layout->code_bits);
    uint64_t need = (uint64_t)layout->frame_width * layout->frame_height;
    uint32_t buffer = 0;
    int buffered = 0;
    size_t at = layout->data, block_end;

    for (;; at = block_end) {
        if (at >= file.size_bytes || file.data[at] > file.size_bytes - at - 1)
            return truncated(file, "the image data", reterr);
        block_end = at + 1 + file.data[at];
        if (block_end == at + 1)
            return fail_code(at, "the image data end too early", reterr);
        for (size_t i = at + 1; i < block_end; i++) {
            buffer |= (uint32_t)file.data[i] << buffered;
            buffered += 8;
            while (buffered >= counter.bits && counter.pixels < need) {
                int code = (int)(buffer & ((1u << counter.bits) - 1));
                buffer >>= counter.bits;
                buffered -= counter.bits;
                if (code == counter.clear)
                    reset_codes(&counter, layout->code_bits);
                else if (code == counter.clear + 1)
                    return fail_code(i, "the image data end too early", reterr);
                else if (!count_code(&counter, code))
                    return fail_code(i, "impossible LZW code", reterr);
            }
            if (counter.pixels >= need) {
                *ret_end = block_end;
                return SP_OK;
            }
        }
    }
}

static void put_le16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

/* A GIF of nothing but this frame, with a table of 256 colours and no transparency. */
static sp_status make_packet(sp_libav *av, sp_view file, const gif_layout *layout, size_t end, sp_error *reterr)
{
    size_t data_bytes = end - layout->data;
    uint8_t *p = sp_libav_packet(av, SCREEN_BYTES + sizeof(layout->palette) + 1 + FRAME_BYTES + 1 + data_bytes + 2);
    if (!p)
        return SP_FAIL(reterr, SP_NOMEM, "gif: out of memory");
    memcpy(p, "GIF89a", 6);
    put_le16(p + 6, layout->frame_width);
    put_le16(p + 8, layout->frame_height);
    p[10] = 0xf7;
    p[11] = p[12] = 0;
    p += SCREEN_BYTES;
    memcpy(p, layout->palette, sizeof(layout->palette));
    p += sizeof(layout->palette);
    *p++ = ',';
    memset(p, 0, 4);
    put_le16(p + 4, layout->frame_width);
    put_le16(p + 6, layout->frame_height);
    p[8] = layout->interlaced ? 0x40 : 0;
    p += FRAME_BYTES;
    *p++ = (uint8_t)layout->code_bits;
    memcpy(p, file.data + layout->data, data_bytes);
    p[data_bytes] = 0;
    p[data_bytes + 1] = ';';
    return SP_OK;
}

static void draw_row(const gif_layout *layout, const AVFrame *frame, int row, uint8_t *rgb)
{
    const uint8_t *fill = layout->palette + (size_t)layout->fill * 3;
    bool covered = row >= (int)layout->y && row < (int)(layout->y + layout->frame_height);
    if (!covered || layout->frame_width < layout->width) {
        for (int64_t x = 0; x < layout->width; x++)
            memcpy(rgb + x * 3, fill, 3);
    }
    if (!covered)
        return;
    const uint8_t *src = frame->data[0] + (ptrdiff_t)(row - (int)layout->y) * frame->linesize[0];
    uint8_t *dst = rgb + (size_t)layout->x * 3;
    for (uint32_t x = 0; x < layout->frame_width; x++, src += 4, dst += 3) {
        dst[0] = src[2];
        dst[1] = src[1];
        dst[2] = src[0];
    }
}

static sp_status gif_decode(sp_view file, const sp_image_header *header, int scale, const sp_rows *rows, sp_error *reterr)
{
    (void)header;
    (void)scale;
    gif_layout layout;
    size_t end = 0;
    sp_libav av = { 0 };
    sp_status s = read_layout(file, &layout, reterr);
    if (!s)
        s = check_data(file, &layout, &end, reterr);
    if (!s)
        s = sp_libav_init(&av, AV_CODEC_ID_GIF, "gif", reterr);
    if (!s)
        s = make_packet(&av, file, &layout, end, reterr);
    if (!s)
        s = sp_libav_run(&av, (int)layout.frame_width, (int)layout.frame_height, AV_PIX_FMT_BGRA, AV_PIX_FMT_NONE,
                         layout.data, reterr);
    if (!s) {
        for (int row = 0; row < rows->height; row++)
            draw_row(&layout, av.frame, row, sp_rows_direct(rows, row)); /* GIF has no orientation: always direct */
    }
    sp_libav_done(&av);
    return s;
}

const sp_image_decoder sp_decoder_gif = { SP_IMAGE_GIF, "gif", gif_probe, gif_decode };
