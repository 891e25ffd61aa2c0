/* SPDX-License-Identifier: Apache-2.0
 * WebP by libwebp, default options. The RIFF chunks are walked here: they carry the canvas, the EXIF block and the
 * frames; libwebp reads one frame. An animation gives its first frame on a black canvas, as Pillow's does once alpha is
 * dropped. Does not composite later frames. */
#include "media/decoders.h"

#include <stdlib.h>

#include <webp/decode.h>

#define FLAG_ANIMATION 0x02
#define FLAG_XMP 0x04
#define FLAG_EXIF 0x08
#define FRAME_HEADER_BYTES 16u

/* What the walk finds. */
typedef struct webp_layout {
    int64_t width, height; /* the canvas */
    int orientation;
    sp_view frame; /* what libwebp decodes: a bitstream chunk, with its ALPH chunk before it where there is one */
    int64_t x, y;  /* its place on the canvas; 0 unless animated */
    int64_t frame_width, frame_height;
} webp_layout;

typedef struct webp_chunk {
    size_t offset;
    const uint8_t *type;
    sp_view data;
} webp_chunk;

static bool chunk_is(const webp_chunk *chunk, const char *type)
{
    return memcmp(chunk->type, type, 4) == 0;
}

/* The chunk at *offset inside file[.., end), which moves behind it and its padding. */
static sp_status next_chunk(sp_view file, size_t end, size_t *offset, webp_chunk *ret_chunk, sp_error *reterr)
{
    size_t at = *offset;
    if (end - at < 8)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "webp: %zu stray bytes at byte %zu where a chunk should begin",
                            end - at, at);
    size_t length = sp_le32(file.data + at + 4);
    if (length > end - at - 8)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "webp: the chunk at byte %zu has %zu bytes, its container only %zu",
                            at, length, end - at - 8);
    *ret_chunk = (webp_chunk){ at, file.data + at, sp_view_make(file.data + at + 8, length) };
    *offset = SP_MIN(at + 8 + length + (length & 1), end);
    return SP_OK;
}

static sp_status bitstream_size(const webp_chunk *chunk, int64_t *ret_width, int64_t *ret_height, sp_error *reterr)
{
    const uint8_t *p = chunk->data.data;
    if (chunk_is(chunk, "VP8 ")) {
        if (chunk->data.size_bytes < 10 || memcmp(p + 3, "\x9d\x01\x2a", 3) != 0 || (p[0] & 1))
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "webp: no VP8 key frame at byte %zu", chunk->offset + 8);
        *ret_width = sp_le16(p + 6) & 0x3fff;
        *ret_height = sp_le16(p + 8) & 0x3fff;
        return SP_OK;
    }
    if (chunk->data.size_bytes < 5 || p[0] != 0x2f)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "webp: no VP8L signature at byte %zu", chunk->offset + 8);
    uint32_t bits = sp_le32(p + 1);
    *ret_width = (bits & 0x3fff) + 1;
    *ret_height = (bits >> 14 & 0x3fff) + 1;
    return SP_OK;
}

/* Finds the bitstream among the chunks in [offset, end): the picture of a still file, or of one animation frame. */
static sp_status find_frame(sp_view file, size_t offset, size_t end, webp_layout *layout, sp_error *reterr)
{
    size_t begin = offset;
    bool alpha_seen = false;
    while (offset < end) {
        webp_chunk chunk;
        sp_status s = next_chunk(file, end, &offset, &chunk, reterr);
        if (s)
            return s;
        if (chunk_is(&chunk, "ALPH")) {
            begin = chunk.offset;
            alpha_seen = true;
        }
        if (!chunk_is(&chunk, "VP8 ") && !chunk_is(&chunk, "VP8L"))
            continue;
        if (!alpha_seen)
            begin = chunk.offset;
        layout->frame = sp_view_make(file.data + begin, offset - begin);
        return bitstream_size(&chunk, &layout->frame_width, &layout->frame_height, reterr);
    }
    return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "webp: no picture data before byte %zu", end);
}

static sp_status read_animation_frame(sp_view file, const webp_chunk *chunk, webp_layout *layout, sp_error *reterr)
{
    if (chunk->data.size_bytes < FRAME_HEADER_BYTES)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "webp: the frame header at byte %zu is cut short", chunk->offset);
    const uint8_t *p = chunk->data.data;
    size_t begin = chunk->offset + 8 + FRAME_HEADER_BYTES, end = chunk->offset + 8 + chunk->data.size_bytes;
    layout->x = (int64_t)sp_le24(p) * 2;
    layout->y = (int64_t)sp_le24(p + 3) * 2;
    int64_t width = (int64_t)sp_le24(p + 6) + 1, height = (int64_t)sp_le24(p + 9) + 1;
    if (layout->x + width > layout->width || layout->y + height > layout->height)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "webp: the frame at byte %zu does not lie on the canvas",
                            chunk->offset);
    sp_status s = find_frame(file, begin, end, layout, reterr);
    if (!s && (layout->frame_width != width || layout->frame_height != height))
        s = SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "webp: frame header and picture at byte %zu disagree about the size",
                         chunk->offset);
    return s;
}

/* The extended form: canvas, flags, then chunks in any order. */
static sp_status read_extended(sp_view file, size_t offset, size_t end, const webp_chunk *head, webp_layout *layout,
                               sp_error *reterr)
{
    if (head->data.size_bytes < 10)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "webp: the VP8X chunk at byte %zu is cut short", head->offset);
    int flags = head->data.data[0], exif = 0, xmp = 0;
    layout->width = (int64_t)sp_le24(head->data.data + 4) + 1;
    layout->height = (int64_t)sp_le24(head->data.data + 7) + 1;
    bool found = false;
    while (offset < end) {
        size_t at = offset;
        webp_chunk chunk;
        sp_status s = next_chunk(file, end, &offset, &chunk, reterr);
        if (s)
            return s;
        if (chunk_is(&chunk, "EXIF") && (flags & FLAG_EXIF))
            exif = sp_exif_orientation(chunk.data);
        else if (chunk_is(&chunk, "XMP ") && (flags & FLAG_XMP))
            xmp = sp_xmp_orientation(chunk.data);
        else if (found)
            continue;
        else if ((flags & FLAG_ANIMATION) && chunk_is(&chunk, "ANMF"))
            s = read_animation_frame(file, &chunk, layout, reterr), found = true;
        else if (!(flags & FLAG_ANIMATION) && (chunk_is(&chunk, "ALPH") || chunk_is(&chunk, "VP8 ") || chunk_is(&chunk, "VP8L")))
            s = find_frame(file, at, end, layout, reterr), found = true;
        if (s)
            return s;
    }
    if (!found)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "webp: no picture data before byte %zu", end);
    if (!(flags & FLAG_ANIMATION) && (layout->frame_width != layout->width || layout->frame_height != layout->height))
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "webp: the canvas (byte %zu) and the picture differ in size",
                            head->offset);
    layout->orientation = sp_orientation_pick(exif, xmp);
    return SP_OK;
}

static sp_status read_layout(sp_view file, webp_layout *layout, sp_error *reterr)
{
    *layout = (webp_layout){ .orientation = 1 };
    size_t riff_bytes = sp_le32(file.data + 4); /* sniffed: twelve bytes are there */
    if (riff_bytes < 12)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "webp: the container says %zu bytes (byte 4)", riff_bytes);
    if (riff_bytes > file.size_bytes - 8)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "webp: the file ends at byte %zu of %zu; send the whole file",
                            file.size_bytes, riff_bytes + 8);
    size_t end = riff_bytes + 8, offset = 12;
    webp_chunk chunk;
    sp_status s = next_chunk(file, end, &offset, &chunk, reterr);
    if (s)
        return s;
    if (chunk_is(&chunk, "VP8X"))
        return read_extended(file, offset, end, &chunk, layout, reterr);
    s = find_frame(file, 12, end, layout, reterr);
    layout->width = layout->frame_width;
    layout->height = layout->frame_height;
    return s;
}

static sp_status webp_probe(sp_view file, sp_image_header *ret_header, sp_error *reterr)
{
    webp_layout layout;
    sp_status s = read_layout(file, &layout, reterr);
    if (s)
        return s;
    ret_header->width = layout.width;
    ret_header->height = layout.height;
    ret_header->bits = 8;
    ret_header->orientation = layout.orientation;
    return SP_OK;
}

static sp_status fail_webp(VP8StatusCode code, const webp_layout *layout, sp_view file, sp_error *reterr)
{
    static const char *const words[] = { "no error", "out of memory", "invalid parameter", "bitstream error",
                                         "unsupported feature", "suspended", "aborted by the caller", "not enough data" };
    if (code == VP8_STATUS_OUT_OF_MEMORY)
        return SP_FAIL(reterr, SP_NOMEM, "webp: out of memory");
    bool cut = code == VP8_STATUS_NOT_ENOUGH_DATA || code == VP8_STATUS_SUSPENDED;
    return sp_error_set(reterr, SP_INVALID, cut ? "truncated" : "corrupt", "libwebp", (int)code, __FILE__, __LINE__,
                        "webp: in the picture data at byte %zu: %s", (size_t)(layout->frame.data - file.data),
                        (size_t)code < SP_ARRAY_LEN(words) ? words[code] : "unknown error");
}

/* Decodes the frame to its place on a canvas of packed RGB8 rows. */
static sp_status decode_frame(sp_view file, const webp_layout *layout, uint8_t *canvas, sp_error *reterr)
{
    size_t stride = (size_t)layout->width * 3;
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return SP_FAIL(reterr, SP_INTERNAL, "webp: libwebp is of another version than its header");
    size_t place = (size_t)layout->y * stride + (size_t)layout->x * 3;
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = canvas + place;
    config.output.u.RGBA.stride = (int)stride;
    config.output.u.RGBA.size = (size_t)layout->height * stride - place;
    VP8StatusCode code = WebPDecode(layout->frame.data, layout->frame.size_bytes, &config);
    WebPFreeDecBuffer(&config.output);
    return code == VP8_STATUS_OK ? SP_OK : fail_webp(code, layout, file, reterr);
}

static sp_status webp_decode(sp_view file, const sp_image_header *header, int scale, const sp_rows *rows, sp_error *reterr)
{
    (void)header;
    (void)scale;
    webp_layout layout;
    sp_status s = read_layout(file, &layout, reterr);
    if (s)
        return s;
    size_t stride = (size_t)rows->width * 3, canvas_bytes = stride * (size_t)rows->height;
    uint8_t *direct = sp_rows_direct(rows, 0);
    uint8_t *canvas = direct ? direct : malloc(canvas_bytes);
    if (!canvas)
        return SP_FAIL(reterr, SP_NOMEM, "webp: no memory for %zu bytes", canvas_bytes);
    if (layout.frame_width < layout.width || layout.frame_height < layout.height)
        memset(canvas, 0, canvas_bytes);
    s = decode_frame(file, &layout, canvas, reterr);
    if (!direct) {
        if (!s)
            sp_rows_put(rows, 0, rows->height, canvas, stride);
        free(canvas);
    }
    return s;
}

const sp_image_decoder sp_decoder_webp = { SP_IMAGE_WEBP, "webp", webp_probe, webp_decode };
