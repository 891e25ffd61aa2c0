/* SPDX-License-Identifier: Apache-2.0
 * TIFF, first page. Strips and tiles are unpacked one by one (zlib for Deflate, libjpeg for JPEG; libavcodec for LZW,
 * PackBits and fax, shown as a grey file of that one block) into a band of rows, and the samples become RGB here, as Pillow reads them.
 * Not read, and said so: BigTIFF, old-style JPEG, YCbCr without JPEG, Lab, signed and floating-point samples. */
#include "media/decoders.h"
#include "media/libav.h"
#include "media/tiff_layout.h"

#include <stdlib.h>

#include <zlib.h>

typedef struct tiff_job {
    const sp_tiff_layout *layout;
    sp_libav av; /* opened when the compression needs it */
    bool av_open;
    uint8_t *unpacked;      /* one block */
    size_t unpacked_bytes;  /* of a full block */
    size_t row_bytes;       /* of one row of a block */
    uint8_t *reversed;      /* a block's stored bytes with their bits turned round (fill order 2) */
    size_t reversed_bytes;
    uint8_t palette[256 * 3];
} tiff_job;

static sp_status tiff_probe(sp_view file, sp_image_header *ret_header, sp_error *reterr)
{
    sp_tiff_layout layout;
    sp_status s = sp_tiff_layout_read(file, &layout, reterr);
    if (s)
        return s;
    ret_header->width = layout.width;
    ret_header->height = layout.height;
    ret_header->bits = layout.bits;
    ret_header->orientation = layout.orientation;
    return SP_OK;
}

/* ------------------------------------------------------------------------------------------------------ unpacking */

static sp_status fail_block(const tiff_job *job, sp_view stored, const char *what, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "tiff: the strip or tile at byte %zu %s",
                        (size_t)(stored.data - job->layout->file.data), what);
}

static sp_status unpack_deflate(tiff_job *job, sp_view stored, size_t need_bytes, size_t offset, sp_error *reterr)
{
    uLongf size = need_bytes;
    uLong used = stored.size_bytes;
    int code = uncompress2(job->unpacked, &size, stored.data, &used);
    if (code == Z_MEM_ERROR)
        return SP_FAIL(reterr, SP_NOMEM, "tiff: out of memory");
    if (size == need_bytes && (code == Z_OK || code == Z_BUF_ERROR))
        return SP_OK; /* more than the rows need is no harm: the last strip of some writers is a full one */
    return sp_error_set(reterr, SP_INVALID, "corrupt", "zlib", code, __FILE__, __LINE__, "tiff: the strip or tile at byte %zu "
                        "unpacks to %lu bytes of %zu", offset, (unsigned long)size, need_bytes);
}

typedef struct packet_writer {
    uint8_t *entry;
} packet_writer;

static void put_entry(packet_writer *writer, uint32_t tag, uint32_t value)
{
    uint8_t bytes[12] = { (uint8_t)tag, (uint8_t)(tag >> 8), 4, 0, 1, 0, 0, 0, (uint8_t)value, (uint8_t)(value >> 8),
                          (uint8_t)(value >> 16), (uint8_t)(value >> 24) };
    memcpy(writer->entry, bytes, sizeof(bytes));
    writer->entry += sizeof(bytes);
}

#define PACKET_ENTRIES 10u
#define PACKET_HEAD_BYTES (8 + 2 + PACKET_ENTRIES * 12 + 4)

/* A grey TIFF file of one strip: `width` samples of `bits` in each of `rows` rows. */
static sp_status make_packet(tiff_job *job, sp_view stored, uint32_t width, uint32_t rows, uint32_t bits, sp_error *reterr)
{
    const sp_tiff_layout *layout = job->layout;
    uint8_t *p = sp_libav_packet(&job->av, PACKET_HEAD_BYTES + stored.size_bytes);
    if (!p)
        return SP_FAIL(reterr, SP_NOMEM, "tiff: out of memory");
    memset(p, 0, PACKET_HEAD_BYTES);
    memcpy(p, "II*\0\x08\0\0\0", 8);
    p[8] = PACKET_ENTRIES;
    packet_writer writer = { p + 10 };
    put_entry(&writer, 256, width);
    put_entry(&writer, 257, rows);
    put_entry(&writer, 258, bits);
    put_entry(&writer, 259, layout->compression);
    put_entry(&writer, 262, SP_TIFF_BLACK_IS_ZERO);
    put_entry(&writer, 273, PACKET_HEAD_BYTES);
    put_entry(&writer, 277, 1);
    put_entry(&writer, 278, rows);
    put_entry(&writer, 279, (uint32_t)stored.size_bytes);
    put_entry(&writer, 292, layout->t4_options);
    memcpy(p + PACKET_HEAD_BYTES, stored.data, stored.size_bytes);
    return SP_OK;
}

static sp_status unpack_libav(tiff_job *job, sp_view stored, int rows, size_t offset, sp_error *reterr)
{
    bool fax = job->layout->bits == 1 && job->layout->compression <= SP_TIFF_GROUP4;
    int width = fax ? (int)job->layout->block_width : (int)job->row_bytes;
    sp_status s = SP_OK;
    if (!job->av_open)
        s = sp_libav_init(&job->av, AV_CODEC_ID_TIFF, "tiff", reterr);
    job->av_open = true;
    if (!s)
        s = make_packet(job, stored, (uint32_t)width, (uint32_t)rows, fax ? 1 : 8, reterr);
    if (!s)
        s = sp_libav_run(&job->av, width, rows, fax ? AV_PIX_FMT_MONOBLACK : AV_PIX_FMT_GRAY8, AV_PIX_FMT_NONE, offset, reterr);
    for (int y = 0; !s && y < rows; y++)
        memcpy(job->unpacked + (size_t)y * job->row_bytes,
               job->av.frame->data[0] + (ptrdiff_t)y * job->av.frame->linesize[0], job->row_bytes);
    return s;
}

static sp_status unpack_jpeg(tiff_job *job, sp_view stored, int rows, size_t offset, sp_error *reterr)
{
    const sp_tiff_layout *layout = job->layout;
    const sp_tiff_array *tables = &layout->jpeg_tables;
    bool has_tables = tables->count && tables->type == 1;
    sp_jpeg_block block = {
        .tables = has_tables ? sp_view_make(layout->file.data + tables->offset, tables->count) : (sp_view){ 0 },
        .width = (int)layout->block_width,
        .rows = rows,
        .samples = layout->samples,
        .ycbcr = layout->photometric == SP_TIFF_YCBCR,
        .dst = job->unpacked,
        .stride_bytes = job->row_bytes,
    };
    return sp_jpeg_block_decode(stored, offset, &block, reterr);
}

static uint8_t reverse_bits(uint8_t v)
{
    v = (uint8_t)((v & 0x55) << 1 | (v & 0xaa) >> 1);
    v = (uint8_t)((v & 0x33) << 2 | (v & 0xcc) >> 2);
    return (uint8_t)(v << 4 | v >> 4);
}

static sp_status turn_bits(tiff_job *job, sp_view *stored, sp_error *reterr)
{
    if (job->reversed_bytes < stored->size_bytes) {
        free(job->reversed);
        job->reversed = malloc(stored->size_bytes);
        job->reversed_bytes = job->reversed ? stored->size_bytes : 0;
        if (!job->reversed)
            return SP_FAIL(reterr, SP_NOMEM, "tiff: out of memory");
    }
    for (size_t i = 0; i < stored->size_bytes; i++)
        job->reversed[i] = reverse_bits(stored->data[i]);
    stored->data = job->reversed;
    return SP_OK;
}

/* Differences along the row, back to samples. */
static void undo_predictor(const sp_tiff_layout *layout, uint8_t *row)
{
    size_t step = layout->planar ? 1 : (size_t)layout->samples, count = (size_t)layout->block_width * step;
    if (layout->bits == 8) {
        for (size_t i = step; i < count; i++)
            row[i] = (uint8_t)(row[i] + row[i - step]);
        return;
    }
    int low = layout->big_endian ? 1 : 0, high = 1 - low;
    for (size_t i = step; i < count; i++) {
        uint8_t *p = row + i * 2;
        const uint8_t *q = p - step * 2;
        unsigned v = (unsigned)(p[high] << 8 | p[low]) + (unsigned)(q[high] << 8 | q[low]);
        p[low] = (uint8_t)v;
        p[high] = (uint8_t)(v >> 8);
    }
}

/* The first `rows` rows of block `index`, unpacked; *ret_rows stays valid until the next call. */
static sp_status unpack_block(tiff_job *job, size_t index, int rows, const uint8_t **ret_rows, sp_error *reterr)
{
    const sp_tiff_layout *layout = job->layout;
    sp_view stored;
    sp_status s = sp_tiff_block_bytes(layout, index, &stored, reterr);
    if (s)
        return s;
    sp_view as_stored = stored;
    size_t need = (size_t)rows * job->row_bytes, offset = (size_t)(stored.data - layout->file.data);
    if (layout->fill_order == 2)
        s = turn_bits(job, &stored, reterr);
    if (s)
        return s;
    if (layout->compression == SP_TIFF_NONE) {
        if (stored.size_bytes < need)
            return fail_block(job, as_stored, "has fewer bytes than its rows need", reterr);
        *ret_rows = stored.data;
        return SP_OK;
    }
    if (layout->compression == SP_TIFF_DEFLATE || layout->compression == SP_TIFF_DEFLATE_OLD)
        s = unpack_deflate(job, stored, need, offset, reterr);
    else if (layout->compression == SP_TIFF_JPEG)
        s = unpack_jpeg(job, stored, rows, offset, reterr);
    else
        s = unpack_libav(job, stored, rows, offset, reterr);
    for (int y = 0; !s && layout->predictor == 2 && y < rows; y++)
        undo_predictor(layout, job->unpacked + (size_t)y * job->row_bytes);
    *ret_rows = job->unpacked;
    return s;
}

/* --------------------------------------------------------------------------------------------- samples to RGB8 */

static void make_palette(tiff_job *job)
{
    const sp_tiff_layout *layout = job->layout;
    size_t count = (size_t)1 << SP_MIN(layout->bits, 8);
    for (size_t i = 0; i < count; i++) {
        unsigned grey = (unsigned)(i * 255 / (count - 1));
        if (layout->photometric == SP_TIFF_WHITE_IS_ZERO)
            grey = 255 - grey;
        for (size_t c = 0; c < 3; c++)
            job->palette[i * 3 + c] = layout->photometric == SP_TIFF_PALETTE
                                          ? (uint8_t)(sp_tiff_array_get(layout, &layout->colors, c * count + i) >> 8)
                                          : (uint8_t)grey;
    }
}

/* One sample a pixel that counts: grey or palette, 1 to 16 bits. Two samples: the second is dropped. */
static void grey_row(const tiff_job *job, const uint8_t *src, uint8_t *dst, int width)
{
    const sp_tiff_layout *layout = job->layout;
    size_t bits = (size_t)layout->bits, step = (size_t)layout->samples;
    size_t high = layout->big_endian ? 0 : 1;
    for (size_t x = 0; x < (size_t)width; x++, dst += 3) {
        size_t index;
        if (bits == 16)
            index = src[x * step * 2 + high]; /* v >> 8 */
        else if (bits == 8)
            index = src[x * step];
        else
            index = src[x * bits / 8] >> (8 - bits - x * bits % 8) & ((1u << bits) - 1);
        memcpy(dst, job->palette + index * 3, 3);
    }
}

static void rgb_row(const sp_tiff_layout *layout, const uint8_t *src, uint8_t *dst, int width)
{
    size_t bytes = (size_t)layout->bits / 8, step = (size_t)layout->samples * bytes;
    const uint8_t *p = src + (bytes == 2 && !layout->big_endian ? 1 : 0); /* the high byte of 16 bits */
    for (int x = 0; x < width; x++, p += step, dst += 3) {
        for (size_t c = 0; c < 3; c++)
            dst[c] = p[c * bytes];
        int alpha = layout->premultiplied ? p[3 * bytes] : 255;
        if (alpha == 255)
            continue;
        for (int c = 0; c < 3; c++)
            dst[c] = (uint8_t)(alpha ? SP_MIN(dst[c] * 255 / alpha, 255) : 0);
    }
}

static void cmyk_row(const sp_tiff_layout *layout, const uint8_t *src, uint8_t *dst, int width)
{
    size_t bytes = (size_t)layout->bits / 8, step = (size_t)layout->samples * bytes;
    const uint8_t *p = src + (bytes == 2 && !layout->big_endian ? 1 : 0);
    for (int x = 0; x < width; x++, p += step, dst += 3) {
        int light = 255 - p[3 * bytes];
        for (size_t c = 0; c < 3; c++) {
            int t = p[c * bytes] * light + 128;
            int v = light - (((t >> 8) + t) >> 8);
            dst[c] = (uint8_t)SP_MAX(v, 0);
        }
    }
}

static void plane_row(const sp_tiff_layout *layout, const uint8_t *src, uint8_t *dst, int width)
{
    size_t bytes = (size_t)layout->bits / 8;
    const uint8_t *p = src + (bytes == 2 && !layout->big_endian ? 1 : 0);
    for (int x = 0; x < width; x++)
        dst[x * 3] = p[(size_t)x * bytes];
}

static void convert_row(const tiff_job *job, const uint8_t *src, uint8_t *dst, int width)
{
    if (job->layout->photometric == SP_TIFF_RGB || job->layout->photometric == SP_TIFF_YCBCR)
        rgb_row(job->layout, src, dst, width);
    else if (job->layout->photometric == SP_TIFF_CMYK)
        cmyk_row(job->layout, src, dst, width);
    else
        grey_row(job, src, dst, width);
}

/* ------------------------------------------------------------------------------------------------------- picture */

/* Row of blocks number `down` into `band`, rows of the picture's width. */
static sp_status fill_band(tiff_job *job, int64_t down, int rows, uint8_t *band, sp_error *reterr)
{
    const sp_tiff_layout *layout = job->layout;
    size_t band_stride = (size_t)layout->width * 3;
    bool planar = layout->planar && layout->samples > 1;
    for (int plane = 0; plane < (planar ? 3 : 1); plane++) {
        for (int64_t across = 0; across < layout->blocks_across; across++) {
            int64_t x = across * layout->block_width;
            int width = (int)SP_MIN(layout->block_width, layout->width - x);
            size_t index = (size_t)((plane * layout->blocks_down + down) * layout->blocks_across + across);
            const uint8_t *src = NULL;
            sp_status s = unpack_block(job, index, rows, &src, reterr);
            if (s)
                return s;
            for (int y = 0; y < rows; y++) {
                uint8_t *dst = band + (size_t)y * band_stride + (size_t)x * 3;
                if (planar)
                    plane_row(layout, src + (size_t)y * job->row_bytes, dst + plane, width);
                else
                    convert_row(job, src + (size_t)y * job->row_bytes, dst, width);
            }
        }
    }
    return SP_OK;
}

static sp_status fill_picture(tiff_job *job, const sp_rows *rows, sp_error *reterr)
{
    const sp_tiff_layout *layout = job->layout;
    size_t stride = (size_t)layout->width * 3;
    uint8_t *turned = NULL; /* a band on its way to another orientation */
    if (!sp_rows_direct(rows, 0)) {
        turned = malloc((size_t)layout->block_height * stride);
        if (!turned)
            return SP_FAIL(reterr, SP_NOMEM, "tiff: no memory for %lld rows", (long long)layout->block_height);
    }
    sp_status s = SP_OK;
    for (int64_t down = 0; !s && down < layout->blocks_down; down++) {
        int first = (int)(down * layout->block_height);
        int count = (int)SP_MIN(layout->block_height, layout->height - first);
        s = fill_band(job, down, count, turned ? turned : sp_rows_direct(rows, first), reterr);
        if (!s && turned)
            sp_rows_put(rows, first, count, turned, stride);
    }
    free(turned);
    return s;
}

static sp_status need_block(tiff_job *job, sp_error *reterr)
{
    const sp_tiff_layout *layout = job->layout;
    size_t samples = layout->planar ? 1 : (size_t)layout->samples;
    job->row_bytes = ((size_t)layout->block_width * samples * (size_t)layout->bits + 7) / 8;
    int64_t rows = SP_MIN(layout->block_height, layout->height);
    if (!sp_size_mul(job->row_bytes, (size_t)rows, &job->unpacked_bytes) || job->unpacked_bytes > SP_LIMIT_TIFF_BLOCK_BYTES)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "image_block", "tiff: strips or tiles of %zu bytes, %u may be; save it with "
                            "smaller ones", job->unpacked_bytes, SP_LIMIT_TIFF_BLOCK_BYTES);
    if (layout->compression == SP_TIFF_NONE)
        return SP_OK; /* read where it lies */
    job->unpacked = malloc(job->unpacked_bytes);
    return job->unpacked ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "tiff: no memory for %zu bytes", job->unpacked_bytes);
}

static sp_status tiff_decode(sp_view file, const sp_image_header *header, int scale, const sp_rows *rows, sp_error *reterr)
{
    (void)header;
    (void)scale;
    sp_tiff_layout layout;
    sp_status s = sp_tiff_layout_read(file, &layout, reterr);
    if (s)
        return s;
    tiff_job job = { .layout = &layout };
    s = need_block(&job, reterr);
    if (!s) {
        make_palette(&job);
        s = fill_picture(&job, rows, reterr);
    }
    sp_libav_done(&job.av);
    free(job.unpacked);
    free(job.reversed);
    return s;
}

const sp_image_decoder sp_decoder_tiff = { SP_IMAGE_TIFF, "tiff", tiff_probe, tiff_decode };
