/* SPDX-License-Identifier: Apache-2.0
 * multipart/form-data (RFC 7578) read in place: parts come out as offsets into the body, nothing is copied or kept.
 * Pure functions over bytes that a stranger sent; knows nothing of HTTP connections. */
#ifndef SP_GATEWAY_MULTIPART_H
#define SP_GATEWAY_MULTIPART_H

#include "base/status.h"
#include "base/view.h"

/* A form for one picture has a handful of fields; more is somebody trying things. SP_INVALID. */
#define SP_LIMIT_FORM_PARTS 16
/* Header lines of one part; browsers send under 300 bytes. SP_INVALID. */
#define SP_LIMIT_FORM_PART_HEADER_BYTES 4096
/* RFC 2046: a boundary has 1 to 70 characters. */
#define SP_LIMIT_FORM_BOUNDARY_BYTES 70

typedef struct sp_multipart {
    sp_view body;
    char delimiter[SP_LIMIT_FORM_BOUNDARY_BYTES + 5]; /* CR LF - - boundary NUL */
    size_t delimiter_bytes;
    size_t position; /* of the next part's first header line */
    int part_count;
    bool ended; /* the closing delimiter was read */
} sp_multipart;

typedef struct sp_multipart_part {
    sp_view name;         /* of the field, without quotes; as sent (percent or backslash escapes stay) */
    sp_view content_type; /* empty = none */
    bool has_filename;
    size_t offset, size_bytes; /* of the content, inside the body */
} sp_multipart_part;

/* Reads the boundary out of a Content-Type value ("multipart/form-data; boundary=...") and finds the first delimiter.
 * `body` is borrowed for as long as the parser is used. SP_INVALID with a code and the reason. */
sp_status sp_multipart_begin(sp_multipart *parser, const char *content_type, sp_view body, sp_error *reterr);

/* The next part, or *ret_more = false after the last one. SP_INVALID: says what is wrong at which byte. */
sp_status sp_multipart_next(sp_multipart *parser, sp_multipart_part *ret_part, bool *ret_more, sp_error *reterr);

/* The header of the part that begins at parser->position. *ret_whole false: it has not all come yet. *ret_content: where the
 * content begins. SP_INVALID as sp_multipart_next. For readers of a body that is still coming (form_stream.h). */
sp_status sp_multipart_head(sp_multipart *parser, sp_multipart_part *ret_part, size_t *ret_content, bool *ret_whole, sp_error *reterr);
/* As sp_multipart_begin without a body: knows the delimiter. */
sp_status sp_multipart_expect(sp_multipart *parser, const char *content_type, sp_error *reterr);

#endif
