/* SPDX-License-Identifier: Apache-2.0
 * The walk over a TIFF file's first directory. */
#include "media/tiff_layout.h"

#include "media/decoders.h"

enum tag {
    TAG_WIDTH = 256, TAG_HEIGHT = 257, TAG_BITS = 258, TAG_COMPRESSION = 259, TAG_PHOTOMETRIC = 262, TAG_FILL_ORDER = 266,
    TAG_STRIP_OFFSETS = 273, TAG_SAMPLES = 277, TAG_ROWS_PER_STRIP = 278, TAG_STRIP_BYTES = 279, TAG_PLANAR = 284,
    TAG_T4_OPTIONS = 292, TAG_PREDICTOR = 317, TAG_COLORS = 320, TAG_TILE_WIDTH = 322, TAG_TILE_HEIGHT = 323,
    TAG_TILE_OFFSETS = 324, TAG_TILE_BYTES = 325, TAG_EXTRA_SAMPLES = 338, TAG_SAMPLE_FORMAT = 339, TAG_JPEG_TABLES = 347,
    TAG_XMP = 700,
};

/* The arrays that a directory may hold, as found; count 0 = absent. */
typedef struct tiff_tags {
    sp_tiff_array width, height, bits, compression, photometric, fill_order, strip_offsets, samples, rows_per_strip,
        strip_bytes, planar, t4_options, predictor, colors, tile_width, tile_height, tile_offsets, tile_bytes, extra_samples,
        sample_format, jpeg_tables, xmp;
} tiff_tags;

static uint32_t get16(const sp_tiff_layout *layout, size_t at)
{
    return layout->big_endian ? sp_be16(layout->file.data + at) : sp_le16(layout->file.data + at);
}

static uint32_t get32(const sp_tiff_layout *layout, size_t at)
{
    return layout->big_endian ? sp_be32(layout->file.data + at) : sp_le32(layout->file.data + at);
}

uint32_t sp_tiff_array_get(const sp_tiff_layout *layout, const sp_tiff_array *array, size_t index)
{
    if (index >= array->count)
        return 0;
    switch (array->type) {
    case 3:
        return get16(layout, array->offset + index * 2);
    case 4:
        return get32(layout, array->offset + index * 4);
    default:
        return layout->file.data[array->offset + index];
    }
}

static sp_status unsupported(sp_error *reterr, const char *what, uint32_t value)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "unsupported_variant", "tiff: %s %u cannot be read; save it as an uncompressed or "
                        "LZW 8-bit RGB TIFF, or as PNG", what, value);
}

static sp_tiff_array *tag_of(tiff_tags *tags, uint32_t tag)
{
    switch (tag) {
    case TAG_WIDTH: return &tags->width;
    case TAG_HEIGHT: return &tags->height;
    case TAG_BITS: return &tags->bits;
    case TAG_COMPRESSION: return &tags->compression;
    case TAG_PHOTOMETRIC: return &tags->photometric;
    case TAG_FILL_ORDER: return &tags->fill_order;
    case TAG_STRIP_OFFSETS: return &tags->strip_offsets;
    case TAG_SAMPLES: return &tags->samples;
    case TAG_ROWS_PER_STRIP: return &tags->rows_per_strip;
    case TAG_STRIP_BYTES: return &tags->strip_bytes;
    case TAG_PLANAR: return &tags->planar;
    case TAG_T4_OPTIONS: return &tags->t4_options;
    case TAG_PREDICTOR: return &tags->predictor;
    case TAG_COLORS: return &tags->colors;
    case TAG_TILE_WIDTH: return &tags->tile_width;
    case TAG_TILE_HEIGHT: return &tags->tile_height;
    case TAG_TILE_OFFSETS: return &tags->tile_offsets;
    case TAG_TILE_BYTES: return &tags->tile_bytes;
    case TAG_EXTRA_SAMPLES: return &tags->extra_samples;
    case TAG_SAMPLE_FORMAT: return &tags->sample_format;
    case TAG_JPEG_TABLES: return &tags->jpeg_tables;
    case TAG_XMP: return &tags->xmp;
    default: return NULL;
    }
}

/* One entry of twelve bytes: where its values lie, once they are known to lie in the file. */
static sp_status read_entry(const sp_tiff_layout *layout, size_t entry, tiff_tags *tags, sp_error *reterr)
{
    uint32_t tag = get16(layout, entry), type = get16(layout, entry + 2), count = get32(layout, entry + 4);
    sp_tiff_array *array = tag_of(tags, tag);
    if (!array || count == 0)
        return SP_OK;
    if (type == 7)
        type = 1; /* UNDEFINED: bytes */
    if (type != 1 && type != 3 && type != 4)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "tiff: tag %u (byte %zu) has type %u", tag, entry, type);
    size_t unit = type == 1 ? 1 : type == 3 ? 2 : 4, bytes = (size_t)count * unit;
    size_t offset = bytes <= 4 ? entry + 8 : get32(layout, entry + 8);
    if (offset > layout->file.size_bytes || bytes > layout->file.size_bytes - offset)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "tiff: the %u values of tag %u (byte %zu) reach beyond the file's "
                            "end at byte %zu", count, tag, entry, layout->file.size_bytes);
    *array = (sp_tiff_array){ type, count, offset };
    return SP_OK;
}

static sp_status read_tags(sp_tiff_layout *layout, tiff_tags *tags, sp_error *reterr)
{
    sp_view file = layout->file;
    if (file.size_bytes < 8)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "tiff: the file ends inside its header");
    layout->big_endian = file.data[0] == 'M';
    if (get16(layout, 2) == 43)
        return unsupported(reterr, "BigTIFF, version", 43);
    size_t directory = get32(layout, 4);
    if (directory < 8 || directory > file.size_bytes || file.size_bytes - directory < 2)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "tiff: the directory at byte %zu lies outside the file of %zu "
                            "bytes", directory, file.size_bytes);
    uint32_t count = get16(layout, directory);
    if ((file.size_bytes - directory - 2) / 12 < count)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "tiff: the file ends at byte %zu, inside its directory of %u "
                            "entries", file.size_bytes, count);
    for (uint32_t i = 0; i < count; i++) {
        sp_status s = read_entry(layout, directory + 2 + (size_t)i * 12, tags, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static uint32_t value_of(const sp_tiff_layout *layout, const sp_tiff_array *array, uint32_t otherwise)
{
    return array->count ? sp_tiff_array_get(layout, array, 0) : otherwise;
}

/* How the samples lie and what they mean. The combinations are those that Pillow reads. */
static sp_status read_samples(sp_tiff_layout *layout, const tiff_tags *tags, sp_error *reterr)
{
    uint32_t samples = value_of(layout, &tags->samples, 1), bits = value_of(layout, &tags->bits, 1);
    if (samples < 1 || samples > 6)
        return unsupported(reterr, "samples a pixel:", samples);
    for (uint32_t i = 1; i < SP_MIN(samples, tags->bits.count); i++) {
        if (sp_tiff_array_get(layout, &tags->bits, i) != bits)
            return unsupported(reterr, "samples of different sizes, one of bits:", bits);
    }
    if (bits != 1 && bits != 2 && bits != 4 && bits != 8 && bits != 16)
        return unsupported(reterr, "bits a sample:", bits);
    if (value_of(layout, &tags->sample_format, 1) != 1)
        return unsupported(reterr, "sample format (signed or floating point)", value_of(layout, &tags->sample_format, 1));
    uint32_t extra = tags->extra_samples.count, meaning = value_of(layout, &tags->extra_samples, 0);
    uint32_t colors = layout->photometric == SP_TIFF_CMYK ? 4
                      : layout->photometric == SP_TIFF_RGB || layout->photometric == SP_TIFF_YCBCR ? 3 : 1;
    bool bare_alpha = layout->photometric == SP_TIFF_RGB && samples == 4 && !extra;
    if (samples != colors + extra && !bare_alpha)
        return unsupported(reterr, "an unknown arrangement of samples a pixel:", samples);
    if (colors == 1 && samples > 1 && meaning == 1)
        return unsupported(reterr, "grey with premultiplied alpha, extra sample kind", meaning);
    if ((samples > 1 && bits < 8) || (layout->photometric == SP_TIFF_PALETTE && bits > 8))
        return unsupported(reterr, "this colour form with bits a sample:", bits);
    layout->samples = (int)samples;
    layout->bits = (int)bits;
    layout->premultiplied = layout->photometric == SP_TIFF_RGB && samples > 3 && extra && meaning == 1;
    if (layout->planar && samples > 1 && (layout->photometric != SP_TIFF_RGB || layout->premultiplied))
        return unsupported(reterr, "separate planes with photometric interpretation", layout->photometric);
    if (layout->photometric == SP_TIFF_PALETTE && tags->colors.count < (3u << bits))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "tiff: a colour map of %u values (tag 320), %u are needed",
                            tags->colors.count, 3u << bits);
    return SP_OK;
}

static sp_status read_coding(sp_tiff_layout *layout, const tiff_tags *tags, sp_error *reterr)
{
    layout->compression = value_of(layout, &tags->compression, SP_TIFF_NONE);
    layout->photometric = value_of(layout, &tags->photometric, SP_TIFF_WHITE_IS_ZERO);
    layout->predictor = value_of(layout, &tags->predictor, 1);
    layout->fill_order = value_of(layout, &tags->fill_order, 1);
    layout->planar = value_of(layout, &tags->planar, 1) == 2 && value_of(layout, &tags->samples, 1) > 1;
    layout->t4_options = value_of(layout, &tags->t4_options, 0);
    layout->colors = tags->colors;
    layout->jpeg_tables = tags->jpeg_tables;
    switch (layout->compression) {
    case SP_TIFF_NONE: case SP_TIFF_LZW: case SP_TIFF_DEFLATE: case SP_TIFF_DEFLATE_OLD: case SP_TIFF_PACKBITS:
    case SP_TIFF_CCITT_RLE: case SP_TIFF_GROUP3: case SP_TIFF_GROUP4: case SP_TIFF_JPEG:
        break;
    default:
        return unsupported(reterr, "compression", layout->compression);
    }
    bool ycbcr = layout->photometric == SP_TIFF_YCBCR && layout->compression == SP_TIFF_JPEG;
    if (!ycbcr && (layout->photometric > SP_TIFF_CMYK || layout->photometric == 4))
        return unsupported(reterr, "photometric interpretation", layout->photometric);
    /* The tag belongs to LZW and Deflate; others ignore it. */
    if (layout->compression != SP_TIFF_LZW && layout->compression != SP_TIFF_DEFLATE &&
        layout->compression != SP_TIFF_DEFLATE_OLD)
        layout->predictor = 1;
    if (layout->predictor != 1 && layout->predictor != 2)
        return unsupported(reterr, "predictor", layout->predictor);
    if (layout->fill_order != 1 && layout->fill_order != 2)
        return unsupported(reterr, "fill order", layout->fill_order);
    return SP_OK;
}

static sp_status check_coding(const sp_tiff_layout *layout, sp_error *reterr)
{
    bool fax = layout->compression >= SP_TIFF_CCITT_RLE && layout->compression <= SP_TIFF_GROUP4;
    if (fax && (layout->bits != 1 || layout->samples != 1))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "tiff: fax compression %u with %d bits of %d samples",
                            layout->compression, layout->bits, layout->samples);
    bool jpeg = layout->compression == SP_TIFF_JPEG;
    if (jpeg && (layout->bits != 8 || (layout->samples != 1 && layout->samples != 3) || layout->planar ||
                 layout->photometric == SP_TIFF_PALETTE || layout->fill_order != 1))
        return unsupported(reterr, "JPEG compression of this form, samples a pixel:", (uint32_t)layout->samples);
    if (layout->predictor == 2 && layout->bits < 8)
        return unsupported(reterr, "a predictor with bits a sample:", (uint32_t)layout->bits);
    return SP_OK;
}

/* Strips are tiles as wide as the picture. */
static sp_status read_blocks(sp_tiff_layout *layout, const tiff_tags *tags, sp_error *reterr)
{
    bool tiled = tags->tile_offsets.count > 0;
    layout->offsets = tiled ? tags->tile_offsets : tags->strip_offsets;
    layout->byte_counts = tags->tile_bytes.count && tiled ? tags->tile_bytes : tags->strip_bytes;
    if (!layout->offsets.count)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "tiff: neither strips (tag 273) nor tiles (tag 324)");
    if (layout->width < 1 || layout->height < 1 || layout->width > SP_LIMIT_IMAGE_SIDE || layout->height > SP_LIMIT_IMAGE_SIDE)
        return SP_OK; /* image.c refuses it, in its own words */
    int64_t rows = value_of(layout, &tags->rows_per_strip, UINT32_MAX);
    layout->block_width = tiled ? value_of(layout, &tags->tile_width, 0) : layout->width;
    layout->block_height = tiled ? value_of(layout, &tags->tile_height, 0) : SP_MIN(rows, layout->height);
    if (layout->block_width < 1 || layout->block_height < 1 || layout->block_width > SP_LIMIT_IMAGE_SIDE ||
        layout->block_height > SP_LIMIT_IMAGE_SIDE)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "tiff: strips or tiles of %lld x %lld pixels",
                            (long long)layout->block_width, (long long)layout->block_height);
    layout->blocks_across = (layout->width + layout->block_width - 1) / layout->block_width;
    layout->blocks_down = (layout->height + layout->block_height - 1) / layout->block_height;
    int64_t need = layout->blocks_across * layout->blocks_down * (layout->planar ? layout->samples : 1);
    if (layout->offsets.count < need)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "tiff: %u strips or tiles, the size needs %lld",
                            layout->offsets.count, (long long)need);
    if (layout->byte_counts.count < need && (layout->compression != SP_TIFF_NONE || layout->byte_counts.count))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "tiff: byte counts of %u strips or tiles, the size needs %lld",
                            layout->byte_counts.count, (long long)need);
    return SP_OK;
}

sp_status sp_tiff_layout_read(sp_view file, sp_tiff_layout *layout, sp_error *reterr)
{
    tiff_tags tags = { 0 };
    *layout = (sp_tiff_layout){ .file = file };
    sp_status s = read_tags(layout, &tags, reterr);
    if (s)
        return s;
    layout->width = value_of(layout, &tags.width, 0);
    layout->height = value_of(layout, &tags.height, 0);
    int xmp = tags.xmp.count && tags.xmp.type == 1
                  ? sp_xmp_orientation(sp_view_make(file.data + tags.xmp.offset, tags.xmp.count)) : 0;
    layout->orientation = sp_orientation_pick(sp_exif_orientation(file), xmp);
    s = read_coding(layout, &tags, reterr);
    if (!s)
        s = read_samples(layout, &tags, reterr);
    if (!s)
        s = check_coding(layout, reterr);
    if (!s)
        s = read_blocks(layout, &tags, reterr);
    return s;
}

sp_status sp_tiff_block_bytes(const sp_tiff_layout *layout, size_t index, sp_view *ret_bytes, sp_error *reterr)
{
    size_t offset = sp_tiff_array_get(layout, &layout->offsets, index), size = layout->file.size_bytes;
    size_t bytes = layout->byte_counts.count ? sp_tiff_array_get(layout, &layout->byte_counts, index)
                                             : offset < size ? size - offset : 0;
    if (offset > size || bytes > size - offset)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "tiff: strip or tile %zu (%zu bytes at byte %zu) reaches beyond the "
                            "file's end at byte %zu; send the whole file", index, bytes, offset, size);
    *ret_bytes = sp_view_make(layout->file.data + offset, bytes);
    return SP_OK;
}
