/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: what one format's decoder gives to image.c, and the sink that it writes rows into.
 *
 *   file ─> probe (own header walk, no library) ─> sp_image_header ─> limits (image.c) ─> decode (library) ─> sp_rows
 *
 * A decoder emits its rows as stored; sp_rows puts them where the EXIF orientation wants them. */
#ifndef SP_MEDIA_DECODERS_H
#define SP_MEDIA_DECODERS_H

#include "base/limits.h"
#include "media/image.h"

/* What a header walk found. Sizes are as stored, before orientation and before fast scaling. */
typedef struct sp_image_header {
    int64_t width, height; /* wide enough for whatever a header claims; image.c checks them */
    int bits;
    int orientation; /* 1..8 */
} sp_image_header;

/* Where decoded rows go. `width` and `height` are those of the rows as stored (after fast scaling). */
typedef struct sp_rows {
    uint8_t *dst;
    int width, height;
    int orientation;
} sp_rows;

/* Writes `count` rows of RGB8, the first of which is row `first` of the stored picture. */
void sp_rows_put(const sp_rows *rows, int first, int count, const uint8_t *rgb, size_t stride_bytes);

/* The place of row `row` in the output when rows lie there as stored (orientation 1), else NULL: a decoder may then
 * write into it directly, packed, and need not put it. */
uint8_t *sp_rows_direct(const sp_rows *rows, int row);

/* How many rows a decoder should gather before it puts them: enough that a transposed write fills whole cache lines,
 * few enough that the strip stays in the second-level cache. At least 1, at most `height`. */
int sp_rows_strip(const sp_rows *rows);

typedef struct sp_image_decoder {
    sp_image_format format;
    const char *name;
    sp_status (*probe)(sp_view file, sp_image_header *ret_header, sp_error *reterr);
    /* Only called after probe and the limits; `scale` is 1 unless the format is JPEG. */
    sp_status (*decode)(sp_view file, const sp_image_header *header, int scale, const sp_rows *rows, sp_error *reterr);
} sp_image_decoder;

extern const sp_image_decoder sp_decoder_jpeg, sp_decoder_png, sp_decoder_webp, sp_decoder_gif, sp_decoder_bmp,
    sp_decoder_tiff;

/* One strip or tile of a TIFF file that holds JPEG data. */
typedef struct sp_jpeg_block {
    sp_view tables; /* shared by all blocks; may be empty */
    int width, rows, samples;
    bool ycbcr; /* convert to RGB; else samples come as they are */
    uint8_t *dst;
    size_t stride_bytes;
} sp_jpeg_block;

/* Failures as sp_image_decode's; `offset` is where `data` lie in the file, for messages. */
sp_status sp_jpeg_block_decode(sp_view data, size_t offset, const sp_jpeg_block *block, sp_error *reterr);

/* The orientation in an EXIF block (with or without its "Exif\0\0" prefix) or a TIFF file's first directory: the tag's
 * value, or 0 when it has none. Values outside 1..8 are returned as they are; they turn nothing. */
int sp_exif_orientation(sp_view exif);

/* The same from an XMP packet: tiff:Orientation as attribute or element; 0 when absent. */
int sp_xmp_orientation(sp_view xmp);

/* What the APP1 segments of a JPEG say of it: of several EXIF blocks the first counts, of several XMP packets the last. */
typedef struct sp_turns {
    int exif, xmp;
    bool exif_seen;
} sp_turns;
void sp_turns_app1(sp_turns *turns, sp_view body);

/* Pillow's rule: the EXIF tag counts, XMP only where EXIF has none, and values outside 2..8 turn nothing. */
int sp_orientation_pick(int exif_orientation, int xmp_orientation);

static inline uint32_t sp_be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}
static inline uint32_t sp_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline uint32_t sp_le16(const uint8_t *p)
{
    return (uint32_t)p[1] << 8 | p[0];
}
static inline uint32_t sp_le24(const uint8_t *p)
{
    return (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}
static inline uint32_t sp_le32(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

#endif
