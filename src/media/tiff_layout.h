/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: the first directory of a TIFF file, checked. tiff_layout.c walks it, tiff.c makes pixels. */
#ifndef SP_MEDIA_TIFF_LAYOUT_H
#define SP_MEDIA_TIFF_LAYOUT_H

#include "base/status.h"
#include "base/view.h"

enum {
    SP_TIFF_NONE = 1,
    SP_TIFF_CCITT_RLE = 2,
    SP_TIFF_GROUP3 = 3,
    SP_TIFF_GROUP4 = 4,
    SP_TIFF_LZW = 5,
    SP_TIFF_JPEG = 7,
    SP_TIFF_DEFLATE = 8,
    SP_TIFF_PACKBITS = 32773,
    SP_TIFF_DEFLATE_OLD = 32946,
};
enum { SP_TIFF_WHITE_IS_ZERO = 0, SP_TIFF_BLACK_IS_ZERO = 1, SP_TIFF_RGB = 2, SP_TIFF_PALETTE = 3, SP_TIFF_CMYK = 5,
       SP_TIFF_YCBCR = 6 };

/* An array of whole numbers somewhere in the file: read element by element, so that its claimed length costs nothing. */
typedef struct sp_tiff_array {
    uint32_t type; /* 1 BYTE, 3 SHORT, 4 LONG */
    uint32_t count; /* 0 = the file has no such tag */
    size_t offset;
} sp_tiff_array;

typedef struct sp_tiff_layout {
    sp_view file;
    bool big_endian;
    int64_t width, height;
    int orientation;
    int bits, samples;
    uint32_t compression, photometric, predictor, fill_order, t4_options;
    bool planar;          /* each sample in a plane of its own */
    bool premultiplied;   /* the fourth sample of RGB is an alpha that the others were multiplied with */
    int64_t block_width, block_height; /* of a strip or tile */
    int64_t blocks_across, blocks_down;
    sp_tiff_array offsets, byte_counts, colors, jpeg_tables;
} sp_tiff_layout;

/* SP_INVALID: "truncated", "bad_header", "corrupt", or "unsupported_variant" for what is TIFF but not ours. */
sp_status sp_tiff_layout_read(sp_view file, sp_tiff_layout *ret_layout, sp_error *reterr);

/* Element `index` of an array that the layout has; 0 beyond its end (callers have checked the count). */
uint32_t sp_tiff_array_get(const sp_tiff_layout *layout, const sp_tiff_array *array, size_t index);

/* The stored bytes of one block. SP_INVALID "truncated" when they reach beyond the file. */
sp_status sp_tiff_block_bytes(const sp_tiff_layout *layout, size_t index, sp_view *ret_bytes, sp_error *reterr);

#endif
