/* SPDX-License-Identifier: Apache-2.0
 * A file as a request: reads it, says its type by its name, and builds what goes over the wire. */
#include "cli/bench_http.h"

#include <stdio.h>
#include <string.h>

static const char *type_by_name(const char *name)
{
    static const struct { const char *end, *type; } types[] = {
        { ".jpg", "image/jpeg" }, { ".jpeg", "image/jpeg" }, { ".png", "image/png" }, { ".webp", "image/webp" },
        { ".gif", "image/gif" }, { ".bmp", "image/bmp" }, { ".tif", "image/tiff" }, { ".tiff", "image/tiff" },
        { ".json", "application/json" }, { ".wav", "audio/wav" },
    };
    size_t n = strlen(name);
    for (size_t i = 0; i < SP_ARRAY_LEN(types); i++) {
        size_t m = strlen(types[i].end);
        if (n > m && strcasecmp(name + n - m, types[i].end) == 0)
            return types[i].type;
    }
    return "application/octet-stream";
}

static sp_status file_read(const char *name, sp_buf *ret_bytes, sp_error *reterr)
{
    uint8_t block[65536];
    size_t n;
    FILE *file = fopen(name, "rb");

    if (!file)
        return SP_FAIL_ERRNO(reterr, SP_NOT_FOUND, "%s", name);
    while ((n = fread(block, 1, sizeof block, file)) > 0)
        sp_buf_append(ret_bytes, block, n);
    bool bad = ferror(file) != 0;
    (void)fclose(file);
    if (bad || !sp_buf_ok(ret_bytes))
        return SP_FAIL(reterr, SP_INVALID, "%s cannot be read, or is larger than %u MiB", name, SP_BENCH_BODY_BYTES >> 20);
    return SP_OK;
}

sp_status sp_bench_file_request(const sp_bench_request_params *like, const char *file, sp_buf *ret_request, sp_error *reterr)
{
    SP_CLEANUP(sp_buf_done) sp_buf body = { 0 };
    sp_bench_request_params params = *like;

    sp_buf_init(&body, SP_BENCH_BODY_BYTES);
    sp_status s = file_read(file, &body, reterr);
    if (s)
        return s;
    const char *slash = strrchr(file, '/');
    params.file_name = slash ? slash + 1 : file;
    if (!params.content_type)
        params.content_type = type_by_name(file);
    params.has_body = true;
    params.body = sp_buf_view(&body);
    sp_buf_init(ret_request, SP_BENCH_BODY_BYTES + 65536);
    return sp_bench_request_build(&params, ret_request, reterr);
}
