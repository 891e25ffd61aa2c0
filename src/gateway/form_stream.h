/* SPDX-License-Identifier: Apache-2.0
 * A form whose file is too large for memory: as the body comes, the content of its file goes to a sink, and everything else is
 * kept. What is kept is the same form with an empty file, which multipart.h reads when the body is through; so both know one
 * grammar. Knows nothing of HTTP connections. */
#ifndef SP_GATEWAY_FORM_STREAM_H
#define SP_GATEWAY_FORM_STREAM_H

#include "base/buf.h"
#include "gateway/multipart.h"

/* Everything but the file: fields, headers, delimiters. Beyond: SP_TOO_LARGE. */
#define SP_LIMIT_FORM_KEPT_BYTES (128u * 1024)
/* The most that is fed at once, and that the sink is given at once. */
#define SP_FORM_PIECE_BYTES (48u * 1024)

typedef sp_status sp_form_sink_fn(void *context, const void *data, size_t size_bytes, sp_error *reterr);

typedef enum sp_form_state { SP_FORM_BEGIN, SP_FORM_LINE, SP_FORM_HEAD, SP_FORM_FIELD, SP_FORM_FILE, SP_FORM_END } sp_form_state;

typedef struct sp_form_stream {
    sp_multipart parser;
    sp_buf kept;
    size_t at; /* in kept: where what is looked for may begin */
    sp_form_state state;
    bool has_file;
    sp_form_sink_fn *sink;
    void *context;
    /* Of the file: its last bytes, which may be a delimiter's first. */
    uint8_t tail[SP_LIMIT_FORM_BOUNDARY_BYTES + 8];
    size_t tail_bytes;
} sp_form_stream;

/* The file is the first part named "file", "video" or "image". SP_INVALID: no boundary. */
sp_status sp_form_stream_init(sp_form_stream *form, const char *content_type, sp_form_sink_fn *sink, void *context, sp_error *reterr);
void sp_form_stream_done(sp_form_stream *form); /* zeroed ones are fine */
/* SP_INVALID (a second file, a header that cannot be read), SP_TOO_LARGE, or what the sink failed with. */
sp_status sp_form_stream_feed(sp_form_stream *form, const void *data, size_t size_bytes, sp_error *reterr);
bool sp_form_name_is_file(sp_view name);

#endif
