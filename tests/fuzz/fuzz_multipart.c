/* SPDX-License-Identifier: Apache-2.0
 * Forms from strangers. Input: a Content-Type value, a line feed, the body. What must hold whatever they hold: each part
 * lies inside the body, behind the one before it, and does not contain its own delimiter. */
#include "gateway/multipart.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
    int count = 0;
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
    }
    if (s)
        SP_ASSERT(s == SP_INVALID && err.status == s && *err.code && *err.message);
    free(body);
    free(content_type);
    return 0;
}
