/* SPDX-License-Identifier: Apache-2.0
 * RGB8 pixels to a JPEG file in memory, by libjpeg-turbo with its default flags. */
#include "base/limits.h"
#include "media/image.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

typedef struct encoder {
    struct jpeg_compress_struct info;
    struct jpeg_error_mgr errors;
    jmp_buf out;
    char message[JMSG_LENGTH_MAX];
    unsigned char *file; /* libjpeg's, grown by realloc */
    unsigned long file_bytes;
} encoder;

static void leave(j_common_ptr info)
{
    encoder *e = info->client_data;
    info->err->format_message(info, e->message);
    longjmp(e->out, 1);
}

static void keep_quiet(j_common_ptr info)
{
    (void)info;
}

/* All that may jump; whatever lives longer hangs on `e`. */
static bool compress(encoder *e, const uint8_t *rgb, int width, int height, int quality)
{
    if (setjmp(e->out))
        return false;
    jpeg_create_compress(&e->info);
    jpeg_mem_dest(&e->info, &e->file, &e->file_bytes);
    e->info.image_width = (JDIMENSION)width;
    e->info.image_height = (JDIMENSION)height;
    e->info.input_components = 3;
    e->info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&e->info);
    jpeg_set_quality(&e->info, quality, TRUE);
    jpeg_start_compress(&e->info, TRUE);
    while (e->info.next_scanline < e->info.image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(rgb + (size_t)e->info.next_scanline * (size_t)width * 3); /* only read */
        (void)jpeg_write_scanlines(&e->info, &row, 1); /* memory takes every row */
    }
    jpeg_finish_compress(&e->info);
    return true;
}

sp_status sp_image_encode_jpeg(const uint8_t *rgb, int width, int height, int quality, uint8_t **ret_file,
                               size_t *ret_file_bytes, sp_error *reterr)
{
    if (!rgb || width < 1 || height < 1 || width > SP_LIMIT_IMAGE_SIDE || height > SP_LIMIT_IMAGE_SIDE || quality < 1 ||
        quality > 100)
        return SP_FAIL(reterr, SP_INVALID, "no JPEG has %dx%d pixels at quality %d", width, height, quality);
    encoder *e = calloc(1, sizeof(*e));
    if (!e)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an encoder");
    e->info.err = jpeg_std_error(&e->errors);
    e->errors.error_exit = leave;
    e->errors.output_message = keep_quiet;
    e->info.client_data = e;
    sp_status s = SP_OK;
    if (compress(e, rgb, width, height, quality)) {
        *ret_file = e->file;
        *ret_file_bytes = e->file_bytes;
        e->file = NULL;
    } else {
        s = SP_FAIL_FROM(reterr, SP_NOMEM, "libjpeg-turbo", e->errors.msg_code, "cannot write a JPEG of %dx%d: %s", width,
                         height, e->message);
    }
    jpeg_destroy_compress(&e->info);
    free(e->file);
    free(e);
    return s;
}
