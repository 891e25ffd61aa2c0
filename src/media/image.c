/* SPDX-License-Identifier: Apache-2.0
 * The calls of image.h: which decoder, the limits, and the one symbol that libspillway_media.so exports.
 * Decides; the decoders' files compute. */
#include "media/decoders.h"
#include "media/video_index.h"

#include <stdio.h>

#include "media/versions.h"

static const sp_image_decoder *const decoders[] = {
    &sp_decoder_jpeg, &sp_decoder_png, &sp_decoder_webp, &sp_decoder_gif, &sp_decoder_bmp, &sp_decoder_tiff,
};

static const sp_image_decoder *decoder_of(sp_image_format format)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(decoders); i++) {
        if (decoders[i]->format == format)
            return decoders[i];
    }
    return NULL;
}

sp_image_format sp_image_sniff(sp_view file)
{
    if (sp_view_starts_with(file, "\xff\xd8\xff", 3))
        return SP_IMAGE_JPEG;
    if (sp_view_starts_with(file, "\x89PNG\r\n\x1a\n", 8))
        return SP_IMAGE_PNG;
    if (sp_view_starts_with(file, "RIFF", 4) && file.size_bytes >= 12 && memcmp(file.data + 8, "WEBP", 4) == 0)
        return SP_IMAGE_WEBP;
    if (sp_view_starts_with(file, "GIF87a", 6) || sp_view_starts_with(file, "GIF89a", 6))
        return SP_IMAGE_GIF;
    if (sp_view_starts_with(file, "BM", 2))
        return SP_IMAGE_BMP;
    if (sp_view_starts_with(file, "II*\0", 4) || sp_view_starts_with(file, "MM\0*", 4) ||
        sp_view_starts_with(file, "II+\0", 4) || sp_view_starts_with(file, "MM\0+", 4))
        return SP_IMAGE_TIFF;
    return SP_IMAGE_UNKNOWN;
}

const char *sp_image_format_name(sp_image_format format)
{
    const sp_image_decoder *decoder = decoder_of(format);
    return decoder ? decoder->name : "unknown";
}

/* "ff d8 00 ...": the first bytes, so that a person sees what was sent. */
static void first_bytes(sp_view file, char *text, size_t text_bytes)
{
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < SP_MIN(file.size_bytes, (size_t)8) && n + 4 < text_bytes; i++)
        n += (size_t)snprintf(text + n, text_bytes - n, "%s%02x", i ? " " : "", file.data[i]);
}

static sp_status check_limits(const sp_image_decoder *decoder, const sp_image_header *header,
                              const sp_image_options *options, sp_error *reterr)
{
    if (header->width < 1 || header->height < 1)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "%s: the header says %lld x %lld pixels; send a picture "
                            "with at least one", decoder->name, (long long)header->width, (long long)header->height);
    if (header->width > SP_LIMIT_IMAGE_SIDE || header->height > SP_LIMIT_IMAGE_SIDE)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "image_side", "%s: the header says %lld x %lld pixels, a side may have "
                            "%d; send a smaller picture", decoder->name, (long long)header->width,
                            (long long)header->height, SP_LIMIT_IMAGE_SIDE);
    uint64_t limit = options && options->max_pixels ? options->max_pixels : SP_LIMIT_IMAGE_PIXELS;
    uint64_t pixels = (uint64_t)header->width * (uint64_t)header->height; /* both sides are under 2^16 here */
    if (pixels > limit)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "image_pixels", "%s: the header says %lld x %lld = %llu pixels, the limit "
                            "is %llu; send a smaller picture", decoder->name, (long long)header->width,
                            (long long)header->height, (unsigned long long)pixels, (unsigned long long)limit);
    return SP_OK;
}

/* The strongest of 1/8, 1/4, 1/2 that leaves the short side at least `short_side` pixels; 1 when none does. */
static int fast_scale(const sp_image_header *header, int short_side)
{
    int64_t stored = SP_MIN(header->width, header->height);
    for (int scale = 8; scale > 1; scale /= 2) {
        if ((stored + scale - 1) / scale >= short_side)
            return scale;
    }
    return 1;
}

static sp_status read_header(sp_view file, const sp_image_options *options, const sp_image_decoder **ret_decoder,
                             sp_image_header *ret_header, sp_error *reterr)
{
    const sp_image_decoder *decoder = decoder_of(sp_image_sniff(file));
    if (!decoder) {
        char bytes[32];
        if (file.size_bytes == 0)
            return SP_FAIL_CODE(reterr, SP_INVALID, "empty", "the file is empty; send a picture");
        first_bytes(file, bytes, sizeof(bytes));
        return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_format", "the first bytes (%s) are of no format we read; send "
                            "JPEG, PNG, WebP, GIF, BMP or TIFF", bytes);
    }
    sp_image_header header = { .orientation = 1 };
    sp_status s = decoder->probe(file, &header, reterr);
    if (s)
        return s;
    s = check_limits(decoder, &header, options, reterr);
    if (s)
        return s;
    *ret_decoder = decoder;
    *ret_header = header;
    return SP_OK;
}

static sp_image_info info_of(const sp_image_decoder *decoder, const sp_image_header *header,
                             const sp_image_options *options)
{
    int scale = 1;
    if (decoder->format == SP_IMAGE_JPEG && options && options->fast_short_side > 0)
        scale = fast_scale(header, options->fast_short_side);
    int w = (int)((header->width + scale - 1) / scale), h = (int)((header->height + scale - 1) / scale);
    bool turned = header->orientation >= 5;
    return (sp_image_info){
        .format = decoder->format,
        .width = turned ? h : w,
        .height = turned ? w : h,
        .orientation = header->orientation,
        .bits = header->bits,
        .scale_denominator = scale,
        .rgb_bytes = (size_t)w * (size_t)h * 3, /* both under 2^16 */
    };
}

sp_status sp_image_probe(sp_view file, const sp_image_options *options, sp_image_info *ret_info, sp_error *reterr)
{
    const sp_image_decoder *decoder;
    sp_image_header header;
    sp_status s = read_header(file, options, &decoder, &header, reterr);
    if (s)
        return s;
    *ret_info = info_of(decoder, &header, options);
    return SP_OK;
}

sp_status sp_image_decode(sp_view file, const sp_image_options *options, const sp_image_info *info, uint8_t *dst,
                          size_t dst_bytes, sp_error *reterr)
{
    /* The header is walked again instead of carried over: it costs a microsecond, and the file is the only truth. */
    const sp_image_decoder *decoder;
    sp_image_header header;
    sp_status s = read_header(file, options, &decoder, &header, reterr);
    if (s)
        return s;
    sp_image_info now = info_of(decoder, &header, options);
    if (now.format != info->format || now.width != info->width || now.height != info->height ||
        now.orientation != info->orientation || now.scale_denominator != info->scale_denominator)
        return SP_FAIL(reterr, SP_INTERNAL, "decode was given what probe said of another file or other options");
    if (dst_bytes < now.rgb_bytes)
        return SP_FAIL(reterr, SP_INTERNAL, "decode was given %zu bytes for %zu", dst_bytes, now.rgb_bytes);

    bool turned = now.orientation >= 5;
    sp_rows rows = {
        .dst = dst,
        .width = turned ? now.height : now.width,
        .height = turned ? now.width : now.height,
        .orientation = now.orientation,
    };
    return decoder->decode(file, &header, now.scale_denominator, &rows, reterr);
}

static const sp_media_api api = {
    .abi = SP_MEDIA_ABI,
    .image_sniff = sp_image_sniff,
    .image_probe = sp_image_probe,
    .image_decode = sp_image_decode,
    .image_encode_jpeg = sp_image_encode_jpeg,
    .video = &sp_video_calls,
    .versions = SP_MEDIA_VERSIONS,
};

SP_EXPORT const sp_media_api *sp_media_api_get(void);

const sp_media_api *sp_media_api_get(void)
{
    return &api;
}
