/* SPDX-License-Identifier: Apache-2.0
 * Is this a plain JPEG: the kind that a decoder may be given which is no sandboxed one and none of ours (nvjpeg.h)? A walk over
 * the whole file that decodes nothing: every header that decides how much is written where is read and checked here first.
 * Whatever is unusual, or may be damaged, is left to the ordinary decoder, which knows what to do with it. */
#ifndef SP_MEDIA_JPEG_PLAIN_H
#define SP_MEDIA_JPEG_PLAIN_H

#include "base/status.h"
#include "base/view.h"

typedef struct sp_jpeg_plain {
    int width, height;
    size_t file_bytes; /* up to the end marker: what some cameras put behind it is not part of the picture */
} sp_jpeg_plain;

/* SP_OK: baseline, 8 bits, one component or three of YCbCr in one scan, not turned by EXIF or XMP, within the limits of pictures;
 * tables that are complete and consistent; and from the scan to the end marker nothing but data and the restart markers that
 * belong there. SP_UNSUPPORTED, with one of these codes:
 *   not_jpeg     it begins like none
 *   progressive  or of another process that is not baseline
 *   colours      CMYK, RGB, or a sampling that is rare
 *   turned       EXIF or XMP say that it is
 *   too_large    for SP_LIMIT_IMAGE_SIDE or SP_LIMIT_IMAGE_PIXELS
 *   unusual      what is allowed but rare: several scans, bytes between segments, 16-bit tables
 *   damaged      what is not allowed, or ends early
 * Threads: any. */
sp_status sp_jpeg_plain_read(sp_view file, sp_jpeg_plain *ret_plain, sp_error *reterr);

#endif
