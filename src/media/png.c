/* SPDX-License-Identifier: Apache-2.0
 * PNG by libspng. The library sees only the chunks that make pixels (IHDR, PLTE, IDAT, IEND and critical ones that
 * it should refuse): text, profiles and other compressed extras never reach it, so no bomb can hide there. Alpha and
 * tRNS are dropped, 16-bit samples are v >> 8, gamma is not applied. An APNG gives its default image. */
#include "media/decoders.h"

#include <stdlib.h>

#include <spng.h>
#include <zlib.h>

#define SIGNATURE_BYTES 8u
#define CHUNK_EXTRA_BYTES 12u /* length, type, crc */
#define COLOR_INDEXED 3

/* One chunk of the walk; `offset` is that of its length field. */
typedef struct png_chunk {
    size_t offset;
    const uint8_t *type;
    sp_view data;
} png_chunk;

static bool chunk_is(const png_chunk *chunk, const char *type)
{
    return memcmp(chunk->type, type, 4) == 0;
}

/* The chunk at *offset, which moves behind it. */
static sp_status next_chunk(sp_view file, size_t *offset, png_chunk *ret_chunk, sp_error *reterr)
{
    size_t at = *offset, left = file.size_bytes - at;
    if (left < CHUNK_EXTRA_BYTES)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "png: the file ends at byte %zu where a chunk should begin; "
                            "send the whole file", file.size_bytes);
    uint32_t length = sp_be32(file.data + at);
    if (length > INT32_MAX)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "png: chunk length %u at byte %zu is more than PNG allows", length,
                            at);
    if (length > left - CHUNK_EXTRA_BYTES)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "png: the file ends at byte %zu, the chunk at byte %zu needs %zu "
                            "more; send the whole file", file.size_bytes, at, length + CHUNK_EXTRA_BYTES - left);
    *ret_chunk = (png_chunk){ at, file.data + at + 4, sp_view_make(file.data + at + 8, length) };
    *offset = at + CHUNK_EXTRA_BYTES + length;
    return SP_OK;
}

static sp_status read_ihdr(const png_chunk *chunk, sp_image_header *header, sp_error *reterr)
{
    if (!chunk_is(chunk, "IHDR") || chunk->data.size_bytes != 13)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "png: no IHDR chunk of 13 bytes at byte 8");
    const uint8_t *p = chunk->data.data;
    header->width = sp_be32(p);
    header->height = sp_be32(p + 4);
    header->bits = p[8];
    static const uint8_t depths[] = { [0] = 1 | 2 | 4 | 8 | 16, [2] = 8 | 16, [3] = 1 | 2 | 4 | 8, [4] = 8 | 16, [6] = 8 | 16 };
    int bits = p[8], color = p[9];
    if (color > 6 || bits == 0 || (bits & (bits - 1)) != 0 || !(depths[color] & bits))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "png: colour type %d with %d bits (byte 24) does not exist",
                            color, bits);
    if (p[10] || p[11] || p[12] > 1)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "png: compression %d, filter %d, interlace %d (byte 26) is "
                            "unknown", p[10], p[11], p[12]);
    return SP_OK;
}

/* Unpacks a zlib stream up to `capacity_bytes`; what is there when it fails counts. */
static size_t inflate_some(sp_view packed, uint8_t *dst, size_t capacity_bytes)
{
    z_stream z = { .next_in = (Bytef *)(uintptr_t)packed.data, .avail_in = (uInt)packed.size_bytes,
                   .next_out = dst, .avail_out = (uInt)capacity_bytes };
    if (inflateInit(&z) != Z_OK)
        return 0;
    (void)inflate(&z, Z_SYNC_FLUSH); /* broken text turns nothing; the picture still stands */
    size_t size_bytes = capacity_bytes - z.avail_out;
    (void)inflateEnd(&z);
    return size_bytes;
}

/* ImageMagick's "\nexif\n<length>\n<hex over lines>". */
static int raw_profile_orientation(sp_view text)
{
    size_t at = 0;
    for (int lines = 0; lines < 3; lines++) {
        const uint8_t *newline = at < text.size_bytes ? memchr(text.data + at, '\n', text.size_bytes - at) : NULL;
        if (!newline)
            return 0;
        at = (size_t)(newline - text.data) + 1;
    }
    uint8_t bytes[4096]; /* the orientation stands in the first directory */
    size_t count = 0;
    int high = -1;
    for (; at < text.size_bytes && count < sizeof(bytes); at++) {
        int c = text.data[at] | 0x20;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            continue;
        if (high >= 0)
            bytes[count++] = (uint8_t)(high << 4 | digit);
        high = high >= 0 ? -1 : digit;
    }
    return sp_exif_orientation(sp_view_make(bytes, count));
}

typedef struct png_turns {
    int exif, raw_profile, xmp;
    bool exif_seen;
} png_turns;

/* The text of a tEXt, zTXt or iTXt chunk whose keyword is `key`; unpacked into `scratch` where it is compressed. */
static sp_view text_of(const png_chunk *chunk, const char *key, uint8_t *scratch)
{
    sp_view none = { 0 }, data = chunk->data;
    size_t skip = strlen(key) + 1;
    if (!sp_view_starts_with(data, key, skip))
        return none;
    bool packed = false;
    if (chunk_is(chunk, "zTXt")) {
        if (data.size_bytes <= skip || data.data[skip] != 0)
            return none;
        packed = true;
        skip += 1;
    } else if (chunk_is(chunk, "iTXt")) {
        if (data.size_bytes < skip + 2 || (data.data[skip] != 0 && data.data[skip + 1] != 0))
            return none;
        packed = data.data[skip] != 0;
        skip += 2;
        for (int i = 0; i < 2; i++) { /* language, translated keyword */
            const uint8_t *end = memchr(data.data + skip, 0, data.size_bytes - skip);
            if (!end)
                return none;
            skip = (size_t)(end - data.data) + 1;
        }
    }
    sp_view text = sp_view_make(data.data + skip, data.size_bytes - skip);
    if (packed)
        return sp_view_make(scratch, inflate_some(text, scratch, SP_LIMIT_IMAGE_TEXT_BYTES));
    return text;
}

static void read_turns(const png_chunk *chunk, png_turns *turns)
{
    static const char raw_key[] = "Raw profile type exif", xmp_key[] = "XML:com.adobe.xmp";
    if (chunk_is(chunk, "eXIf")) {
        turns->exif = sp_exif_orientation(chunk->data);
        turns->exif_seen = true;
        return;
    }
    bool international = chunk_is(chunk, "iTXt");
    if (!international && !chunk_is(chunk, "tEXt") && !chunk_is(chunk, "zTXt"))
        return;
    const char *key = sp_view_starts_with(chunk->data, raw_key, sizeof(raw_key))   ? raw_key
                      : sp_view_starts_with(chunk->data, xmp_key, sizeof(xmp_key)) ? xmp_key
                                                                                   : NULL;
    if (!key)
        return;
    uint8_t *scratch = malloc(SP_LIMIT_IMAGE_TEXT_BYTES);
    if (!scratch)
        return; /* the decode that follows needs more and will say so */
    sp_view text = text_of(chunk, key, scratch);
    if (key == raw_key)
        turns->raw_profile = raw_profile_orientation(text);
    else
        turns->xmp = sp_xmp_orientation(text);
    free(scratch);
}

static sp_status png_probe(sp_view file, sp_image_header *ret_header, sp_error *reterr)
{
    size_t offset = SIGNATURE_BYTES;
    png_chunk chunk;
    png_turns turns = { 0 };
    bool data_seen = false;

    sp_status s = next_chunk(file, &offset, &chunk, reterr);
    if (!s)
        s = read_ihdr(&chunk, ret_header, reterr);
    while (!s && !chunk_is(&chunk, "IEND")) {
        s = next_chunk(file, &offset, &chunk, reterr);
        if (s)
            return s;
        data_seen = data_seen || chunk_is(&chunk, "IDAT");
        read_turns(&chunk, &turns);
    }
    if (s)
        return s;
    if (!data_seen)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "png: IEND at byte %zu, but no IDAT chunk before it", chunk.offset);
    ret_header->orientation = sp_orientation_pick(turns.exif_seen ? turns.exif : turns.raw_profile, turns.xmp);
    return SP_OK;
}

/* What libspng reads: the signature, then the wanted chunks one after the other. */
typedef struct png_stream {
    sp_view file;
    size_t at, end; /* the range being delivered */
    size_t next;    /* the chunk to look at after it */
    bool indexed;
} png_stream;

static bool stream_wants(const png_stream *stream, const png_chunk *chunk)
{
    if (chunk_is(chunk, "PLTE"))
        return stream->indexed; /* elsewhere it only suggests */
    return (chunk->type[0] & 0x20) == 0;
}

static int stream_read(spng_ctx *ctx, void *user, void *dst, size_t size_bytes)
{
    (void)ctx;
    png_stream *stream = user;
    uint8_t *out = dst;
    while (size_bytes > 0) {
        if (stream->at == stream->end) {
            png_chunk chunk;
            do {
                if (next_chunk(stream->file, &stream->next, &chunk, NULL))
                    return SPNG_IO_EOF;
            } while (!stream_wants(stream, &chunk));
            stream->at = chunk.offset;
            stream->end = stream->next;
        }
        size_t n = SP_MIN(size_bytes, stream->end - stream->at);
        memcpy(out, stream->file.data + stream->at, n);
        out += n;
        stream->at += n;
        size_bytes -= n;
    }
    return 0;
}

static sp_status fail_spng(int code, const png_stream *stream, sp_error *reterr)
{
    if (code == SPNG_EMEM)
        return SP_FAIL(reterr, SP_NOMEM, "png: out of memory");
    bool cut = code == SPNG_IO_EOF || code == SPNG_EIDAT_TOO_SHORT || code == SPNG_EOF;
    return sp_error_set(reterr, SP_INVALID, cut ? "truncated" : "corrupt", "libspng", code, __FILE__, __LINE__,
                        "png: near byte %zu: %s%s", stream->at, spng_strerror(code),
                        cut ? "; send the whole file" : "");
}

/* Turned pictures, rows as they come. */
static int decode_rows(spng_ctx *ctx, const sp_rows *rows, uint8_t *strip, size_t row_bytes)
{
    int code = spng_decode_image(ctx, NULL, 0, SPNG_FMT_RGB8, SPNG_DECODE_PROGRESSIVE);
    int strip_rows = sp_rows_strip(rows);
    for (int first = 0; !code && first < rows->height; first += strip_rows) {
        int count = SP_MIN(strip_rows, rows->height - first);
        for (int i = 0; !code && i < count; i++) {
            code = spng_decode_row(ctx, strip + (size_t)i * row_bytes, row_bytes);
            if (code == SPNG_EOI && first + i == rows->height - 1)
                code = 0;
        }
        if (!code)
            sp_rows_put(rows, first, count, strip, row_bytes);
    }
    return code;
}

static sp_status decode_with(spng_ctx *ctx, png_stream *stream, const sp_rows *rows, bool interlaced, sp_error *reterr)
{
    size_t row_bytes = (size_t)rows->width * 3, all_bytes = row_bytes * (size_t)rows->height;
    (void)spng_set_image_limits(ctx, SP_LIMIT_IMAGE_SIDE, SP_LIMIT_IMAGE_SIDE);
    int code = spng_set_png_stream(ctx, stream_read, stream);
    if (code)
        return fail_spng(code, stream, reterr);

    uint8_t *whole = sp_rows_direct(rows, 0);
    if (whole) {
        code = spng_decode_image(ctx, whole, all_bytes, SPNG_FMT_RGB8, 0);
    } else {
        /* Adam7 delivers every row seven times, so its turn has to wait for the whole picture. */
        size_t scratch_bytes = interlaced ? all_bytes : row_bytes * (size_t)sp_rows_strip(rows);
        uint8_t *scratch = malloc(scratch_bytes);
        if (!scratch)
            return SP_FAIL(reterr, SP_NOMEM, "png: no memory for %zu bytes", scratch_bytes);
        if (interlaced) {
            code = spng_decode_image(ctx, scratch, all_bytes, SPNG_FMT_RGB8, 0);
            if (!code)
                sp_rows_put(rows, 0, rows->height, scratch, row_bytes);
        } else {
            code = decode_rows(ctx, rows, scratch, row_bytes);
        }
        free(scratch);
    }
    if (!code)
        code = spng_decode_chunks(ctx); /* the checksums behind the last row */
    return code ? fail_spng(code, stream, reterr) : SP_OK;
}

static sp_status png_decode(sp_view file, const sp_image_header *header, int scale, const sp_rows *rows, sp_error *reterr)
{
    (void)header;
    (void)scale;
    png_stream stream = {
        .file = file,
        .end = SIGNATURE_BYTES,
        .next = SIGNATURE_BYTES,
        .indexed = file.data[25] == COLOR_INDEXED, /* probe found IHDR there */
    };
    spng_ctx *ctx = spng_ctx_new(0);
    if (!ctx)
        return SP_FAIL(reterr, SP_NOMEM, "png: out of memory");
    sp_status s = decode_with(ctx, &stream, rows, file.data[28] != 0, reterr);
    spng_ctx_free(ctx);
    return s;
}

const sp_image_decoder sp_decoder_png = { SP_IMAGE_PNG, "png", png_probe, png_decode };
