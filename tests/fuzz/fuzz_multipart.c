/* SPDX-License-Identifier: Apache-2.0
 * Forms from strangers. Input: a Content-Type value, a line feed, the body. What must hold whatever they hold: each part
 * lies inside the body, behind the one before it, and does not contain its own delimiter. Read as it comes, in pieces, a form with
 * one file gives the same bytes. */
#include "gateway/form_stream.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static sp_status keep(void *context, const void *data, size_t size_bytes, sp_error *reterr)
{
    (void)reterr;
    sp_buf_append(context, data, size_bytes);
    return SP_OK;
}

/* `file`: what the reader of whole forms found; data NULL = the form is bad, or has not just one file. */
static void stream(const char *content_type, const uint8_t *body, size_t body_bytes, sp_view file)
{
    sp_form_stream form;
    sp_buf got;
    sp_error err = { 0 };
    size_t step = body_bytes ? 1 + body[body_bytes - 1] % 61u : 1;
    sp_buf_init(&got, 1u << 24);
    sp_status s = sp_form_stream_init(&form, content_type, keep, &got, &err);
    for (size_t at = 0; !s && at < body_bytes; at += step)
        s = sp_form_stream_feed(&form, body + at, SP_MIN(step, body_bytes - at), &err);
    SP_ASSERT(!s || (err.status == s && *err.code));
    if (file.data) {
        SP_ASSERT(!s || s == SP_TOO_LARGE);
        SP_ASSERT(s || (got.size_bytes == file.size_bytes && (!got.size_bytes || !memcmp(got.data, file.data, got.size_bytes))));
    }
    sp_form_stream_done(&form);
    sp_buf_done(&got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *line_end = size ? memchr(data, '\n', size) : NULL;
    if (!line_end || memchr(data, 0, (size_t)(line_end - data)))
        return 0; /* libmicrohttpd hands out texts */
    char *content_type = strndup((const char *)data, (size_t)(line_end - data));
    size_t body_bytes = size - (size_t)(line_end - data) - 1;
    uint8_t *body = malloc(body_bytes + 1); /* of its own, so that the sanitizer sees its end */
    if (!content_type || !body)
        abort();
    memcpy(body, line_end + 1, body_bytes);
    body = realloc(body, body_bytes ? body_bytes : 1);

    sp_multipart form;
    sp_multipart_part part;
    sp_error err = { 0 };
    bool more = true;
    size_t end = 0;
    int count = 0, files = 0;
    sp_view file = { 0 };
    sp_status s = sp_multipart_begin(&form, content_type, sp_view_make(body, body_bytes), &err);
    while (!s && more) {
        s = sp_multipart_next(&form, &part, &more, &err);
        if (s || !more)
            break;
        SP_ASSERT(++count <= SP_LIMIT_FORM_PARTS);
        SP_ASSERT(part.offset > end && part.offset <= body_bytes && part.size_bytes <= body_bytes - part.offset);
        SP_ASSERT(part.name.size_bytes <= body_bytes);
        SP_ASSERT(!part.size_bytes ||
                  !memmem(body + part.offset, part.size_bytes, form.delimiter, form.delimiter_bytes));
        end = part.offset + part.size_bytes;
        if (sp_form_name_is_file(part.name) && !files++)
            file = sp_view_make(body + part.offset, part.size_bytes);
    }
    stream(content_type, body, body_bytes, !s && files == 1 ? file : (sp_view){ 0 });
    if (s)
        SP_ASSERT(s == SP_INVALID && err.status == s && *err.code && *err.message);
    free(body);
    free(content_type);
    return 0;
}
