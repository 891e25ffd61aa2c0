/* SPDX-License-Identifier: Apache-2.0
 * Pictures in, oriented RGB8 out. The reference is Pillow: exif_transpose + convert('RGB') (alpha dropped, ICC ignored,
 * first frame or page, CMYK as Pillow does), except 16-bit samples, which are v >> 8.
 *
 * These calls live in libspillway_media.so, which only workers and one-shot commands dlopen (media/load.h): a program
 * that serves must not carry decoders in its own process. */
#ifndef SP_MEDIA_IMAGE_H
#define SP_MEDIA_IMAGE_H

#include "base/status.h"
#include "base/view.h"

#define SP_MEDIA_ABI 3

typedef enum sp_image_format {
    SP_IMAGE_UNKNOWN = 0,
    SP_IMAGE_JPEG,
    SP_IMAGE_PNG,
    SP_IMAGE_WEBP,
    SP_IMAGE_GIF,
    SP_IMAGE_BMP,
    SP_IMAGE_TIFF,
} sp_image_format;

/* What the header says, checked against the limits; no pixel has been allocated. */
typedef struct sp_image_info {
    sp_image_format format;
    int width, height; /* after orientation: what decode writes */
    int orientation;   /* EXIF 1..8; 1 = as stored */
    int bits;          /* per sample, as stored */
    int scale_denominator; /* 1; 2, 4 or 8 when fast decoding will shrink (width and height are the shrunk ones) */
    size_t rgb_bytes;  /* width * height * 3 */
} sp_image_info;

typedef struct sp_image_options {
    uint64_t max_pixels; /* as stored in the file; 0 = SP_LIMIT_IMAGE_PIXELS */
    /* decode=fast: JPEG only. DCT-scaled decoding to the smallest of 1/1, 1/2, 1/4, 1/8 whose short side is still at
     * least this; 0 = full size. It changes the pixels, so the answer must name it. */
    int fast_short_side;
} sp_image_options;

/* SP_IMAGE_UNKNOWN when the first bytes are none of ours. Needs at most 16 bytes. */
sp_image_format sp_image_sniff(sp_view file);
const char *sp_image_format_name(sp_image_format format); /* "jpeg", ...; "unknown" */

/* Reads the header only.
 * SP_UNSUPPORTED never; SP_INVALID code "unknown_format" (the caller answers 415), "truncated", "bad_header" ... with
 * the byte or field at fault in the message; SP_TOO_LARGE when a limit is passed. */
sp_status sp_image_probe(sp_view file, const sp_image_options *options, sp_image_info *ret_info, sp_error *reterr);

/* Decodes into `dst`: info->height rows of info->width RGB8 pixels, rows packed, dst_bytes >= info->rgb_bytes; `info` is
 * what probe said of the same bytes and options. On failure dst is undefined.
 * SP_INVALID with code "truncated", "corrupt" and the place; SP_NOMEM. Threads: any, no shared state. */
sp_status sp_image_decode(sp_view file, const sp_image_options *options, const sp_image_info *info, uint8_t *dst,
                          size_t dst_bytes, sp_error *reterr);

/* Writes a baseline JPEG (4:2:0, JFIF) of `height` packed rows of RGB8 pixels; quality 1 .. 100. *ret_file is the caller's,
 * to be freed with free(). SP_INVALID: sides that JPEG does not have (1 .. 65,500); SP_NOMEM. Threads: any. */
sp_status sp_image_encode_jpeg(const uint8_t *rgb, int width, int height, int quality, uint8_t **ret_file,
                               size_t *ret_file_bytes, sp_error *reterr);

/* What dlopen gives: the calls above behind one exported symbol, sp_media_api_get. */
typedef struct sp_media_api {
    uint32_t abi; /* SP_MEDIA_ABI */
    sp_image_format (*image_sniff)(sp_view file);
    sp_status (*image_probe)(sp_view file, const sp_image_options *options, sp_image_info *ret_info, sp_error *reterr);
    sp_status (*image_decode)(sp_view file, const sp_image_options *options, const sp_image_info *info, uint8_t *dst,
                              size_t dst_bytes, sp_error *reterr);
    sp_status (*image_encode_jpeg)(const uint8_t *rgb, int width, int height, int quality, uint8_t **ret_file,
                                   size_t *ret_file_bytes, sp_error *reterr);
    const struct sp_video_api *video; /* media/video.h; NULL = built without */
    /* "libjpeg-turbo 2.1.5, libspng 0.7.3, ...": for doctor. */
    const char *versions;
} sp_media_api;

#endif
