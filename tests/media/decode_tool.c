/* SPDX-License-Identifier: Apache-2.0
 * What the pytest files talk to: reads lines on stdin, each the path of a file (optionally "fast=N " before it),
 * answers one JSON line each. With a second path after a tab, the decoded RGB8 goes there.
 *
 *   {"status":"ok","format":"jpeg","width":3,"height":2,"orientation":1,"bits":8,"scale":1}
 *   {"status":"invalid","code":"truncated","message":"..."} */
#include "base/buf.h"
#include "media/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *read_all(const char *path, size_t *ret_size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    (void)fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    /* Exactly as many bytes as the file has, so that the address sanitizer sees a read past its end. */
    void *data = malloc(size > 0 ? (size_t)size : 1);
    if (data && size > 0 && fread(data, 1, (size_t)size, f) != (size_t)size) {
        free(data);
        data = NULL;
    }
    (void)fclose(f);
    *ret_size = size > 0 ? (size_t)size : 0;
    return data;
}

static void print_error(sp_status s, const sp_error *err)
{
    sp_buf line;
    sp_buf_init(&line, 4096);
    sp_buf_printf(&line, "{\"status\":\"%s\",\"code\":", sp_status_name(s));
    sp_buf_append_json_text(&line, err->code);
    sp_buf_append_text(&line, ",\"message\":");
    sp_buf_append_json_text(&line, err->message);
    (void)printf("%.*s}\n", (int)line.size_bytes, (const char *)line.data);
    sp_buf_done(&line);
}

static void answer(const sp_media_api *api, const char *path, const char *out_path, int fast)
{
    sp_error err = { 0 };
    sp_image_info info;
    sp_image_options options = { .fast_short_side = fast };
    size_t size = 0;
    void *data = read_all(path, &size);
    sp_view file = sp_view_make(data, size);

    sp_status s = data ? api->image_probe(file, &options, &info, &err) : SP_NOT_FOUND;
    uint8_t *rgb = s ? NULL : malloc(info.rgb_bytes);
    if (!s)
        s = rgb ? api->image_decode(file, &options, &info, rgb, info.rgb_bytes, &err) : SP_NOMEM;
    if (s) {
        print_error(s, &err);
    } else {
        FILE *f = out_path ? fopen(out_path, "wb") : NULL;
        if (f) {
            (void)fwrite(rgb, 1, info.rgb_bytes, f);
            (void)fclose(f);
        }
        (void)printf("{\"status\":\"ok\",\"format\":%d,\"width\":%d,\"height\":%d,\"orientation\":%d,\"bits\":%d,"
                     "\"scale\":%d}\n", (int)info.format, info.width, info.height, info.orientation, info.bits,
                     info.scale_denominator);
    }
    (void)fflush(stdout);
    free(rgb);
    free(data);
}

int main(void)
{
    const sp_media_api *api;
    sp_error err = { 0 };
    if (sp_media_load(&api, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    (void)fprintf(stderr, "%s\n", api->versions);

    char line[8192];
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        char *path = line;
        int fast = 0;
        if (strncmp(path, "fast=", 5) == 0)
            fast = (int)strtol(path + 5, &path, 10), path++;
        char *out_path = strchr(path, '\t');
        if (out_path)
            *out_path++ = '\0';
        answer(api, path, out_path, fast);
    }
    return 0;
}
