/* SPDX-License-Identifier: Apache-2.0
 * libFuzzer target for one decoder (SP_FUZZ_FORMAT, a sp_image_format) or, with SP_IMAGE_UNKNOWN, for sniffing and the
 * header walks of all. Bytes that sniff as another format get this one's magic, so that no run is wasted.
 * Also linked into the replay test, which feeds it the kept seeds. */
#include "base/limits.h"
#include "media/image.h"
#include "media/jpeg_plain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef SP_FUZZ_FORMAT
#define SP_FUZZ_FORMAT SP_IMAGE_UNKNOWN
#endif

/* Enough for every path, small enough for thousands of runs a second. */
#define FUZZ_PIXELS (128 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static void put_magic(uint8_t *file, size_t size_bytes)
{
    static const struct {
        const char *bytes;
        size_t count;
    } magics[] = {
        [SP_IMAGE_UNKNOWN] = { "", 0 },
        [SP_IMAGE_JPEG] = { "\xff\xd8\xff", 3 },
        [SP_IMAGE_PNG] = { "\x89PNG\r\n\x1a\n", 8 },
        [SP_IMAGE_WEBP] = { "RIFF", 4 },
        [SP_IMAGE_GIF] = { "GIF89a", 6 },
        [SP_IMAGE_BMP] = { "BM", 2 },
        [SP_IMAGE_TIFF] = { "II*\0", 4 },
    };
    if (SP_FUZZ_FORMAT == SP_IMAGE_UNKNOWN || sp_image_sniff(sp_view_make(file, size_bytes)) == SP_FUZZ_FORMAT)
        return;
    memcpy(file, magics[SP_FUZZ_FORMAT].bytes, SP_MIN(magics[SP_FUZZ_FORMAT].count, size_bytes));
    if (SP_FUZZ_FORMAT == SP_IMAGE_WEBP && size_bytes >= 12)
        memcpy(file + 8, "WEBP", 4);
}

/* A failure must say what it is; anything else is a bug of ours. */
static void check_error(sp_status s, const sp_error *err)
{
    SP_ASSERT(s == SP_INVALID || s == SP_TOO_LARGE || s == SP_NOMEM);
    SP_ASSERT(s == SP_NOMEM || (err->code[0] && err->message[0]));
    SP_ASSERT(err->status == s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    /* Heap blocks of exactly the size, so that the address sanitizer sees the first byte beyond. */
    uint8_t *copy = malloc(size_bytes ? size_bytes : 1);
    SP_ASSERT(copy);
    memcpy(copy, data, size_bytes);
    put_magic(copy, size_bytes);
    sp_view file = sp_view_make(copy, size_bytes);
    sp_image_options options = { .max_pixels = FUZZ_PIXELS, .fast_short_side = size_bytes % 5 == 0 ? 16 : 0 };
    sp_image_info info;
    sp_error err = { 0 };

    sp_jpeg_plain plain;
    if (sp_jpeg_plain_read(file, &plain, &err))
        SP_ASSERT(err.status == SP_UNSUPPORTED && err.code[0] && err.message[0]);
    else
        SP_ASSERT(plain.file_bytes <= size_bytes && (uint64_t)plain.width * (uint64_t)plain.height <= SP_LIMIT_IMAGE_PIXELS);
    err = (sp_error){ 0 };
    sp_status s = sp_image_probe(file, &options, &info, &err);
    if (s) {
        check_error(s, &err);
    } else if (SP_FUZZ_FORMAT == SP_IMAGE_UNKNOWN || info.format == SP_FUZZ_FORMAT) {
        SP_ASSERT(info.rgb_bytes == (size_t)info.width * (size_t)info.height * 3 && info.rgb_bytes <= FUZZ_PIXELS * 3);
        uint8_t *rgb = malloc(info.rgb_bytes);
        SP_ASSERT(rgb);
        s = sp_image_decode(file, &options, &info, rgb, info.rgb_bytes, &err);
        if (s)
            check_error(s, &err);
        free(rgb);
    }
    free(copy);
    return 0;
}
