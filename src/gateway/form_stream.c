/* SPDX-License-Identifier: Apache-2.0
 * BEGIN, LINE, HEAD, FIELD look at `kept`, to which every byte is added; in FILE bytes pass by.
 *
 *   BEGIN -> LINE (rest of a delimiter's line) -> HEAD -> FIELD or FILE -> LINE ... -> END (an epilogue, which nobody reads)
 *
 * What is malformed is left for sp_multipart_next to say when the body is through, unless reading on makes no sense. */
#include "gateway/form_stream.h"

#include <stdlib.h>
#include <string.h>

bool sp_form_name_is_file(sp_view name)
{
    return sp_view_equals(name, "file") || sp_view_equals(name, "video") || sp_view_equals(name, "image");
}

sp_status sp_form_stream_init(sp_form_stream *form, const char *content_type, sp_form_sink_fn *sink, void *context, sp_error *reterr)
{
    *form = (sp_form_stream){ .sink = sink, .context = context };
    sp_buf_init(&form->kept, SP_LIMIT_FORM_KEPT_BYTES);
    return sp_multipart_expect(&form->parser, content_type, reterr);
}

void sp_form_stream_done(sp_form_stream *form)
{
    sp_buf_done(&form->kept);
}

/* The delimiter in kept from `at` on; NULL: it has not come, and `at` stands where it may begin. */
static const uint8_t *delimiter_look(sp_form_stream *form)
{
    const sp_multipart *p = &form->parser;
    size_t size = form->kept.size_bytes;
    const uint8_t *found = size > form->at ? memmem(form->kept.data + form->at, size - form->at, p->delimiter, p->delimiter_bytes) : NULL;
    if (!found && size >= p->delimiter_bytes)
        form->at = SP_MAX(form->at, size - p->delimiter_bytes + 1);
    return found;
}

static bool step_begin(sp_form_stream *form)
{
    const sp_multipart *p = &form->parser;
    size_t bare = p->delimiter_bytes - 2; /* at the very begin no line end stands before it */
    if (form->kept.size_bytes < bare)
        return false;
    if (memcmp(form->kept.data, p->delimiter + 2, bare) == 0) {
        form->at = bare;
    } else {
        const uint8_t *found = delimiter_look(form);
        if (!found)
            return false;
        form->at = (size_t)(found - form->kept.data) + p->delimiter_bytes;
    }
    form->state = SP_FORM_LINE;
    return true;
}

static bool step_line(sp_form_stream *form)
{
    const uint8_t *data = form->kept.data;
    size_t at = form->at, size = form->kept.size_bytes;
    if (size - at < 2)
        return false;
    if (memcmp(data + at, "--", 2) == 0) {
        form->state = SP_FORM_END;
        return true;
    }
    while (at < size && (data[at] == ' ' || data[at] == '\t'))
        at++;
    if (size - at < 2)
        return false;
    form->state = memcmp(data + at, "\r\n", 2) == 0 ? SP_FORM_HEAD : SP_FORM_END;
    form->at = at + 2;
    return true;
}

static sp_status file_take(sp_form_stream *form, const uint8_t *data, size_t size_bytes, sp_error *reterr);

/* What has come of the file lies in kept already: it is moved on. */
static sp_status file_begin(sp_form_stream *form, size_t content, sp_error *reterr)
{
    size_t size = form->kept.size_bytes - content;
    if (form->has_file)
        return SP_FAIL_CODE(reterr, SP_INVALID, "second_file", "the form has more than one file; one job is one video");
    form->has_file = true;
    form->state = SP_FORM_FILE;
    /* The delimiter of an empty file may begin with the header's own line end, so that is looked at too, and given to nobody. */
    uint8_t *copy = malloc(size + 2);
    if (!copy)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the form");
    memcpy(copy, form->kept.data + content, size);
    form->kept.size_bytes = content;
    sp_status s = file_take(form, copy, size, reterr);
    free(copy);
    return s;
}

static sp_status step_head(sp_form_stream *form, bool *ret_more, sp_error *reterr)
{
    sp_multipart_part part;
    size_t content = 0;
    bool whole = false;
    form->parser.body = sp_buf_view(&form->kept);
    form->parser.position = form->at;
    sp_status s = sp_multipart_head(&form->parser, &part, &content, &whole, reterr);
    *ret_more = !s && whole;
    if (s || !whole)
        return s;
    form->at = content - 2;
    if (!sp_form_name_is_file(part.name)) {
        form->state = SP_FORM_FIELD;
        return SP_OK;
    }
    return file_begin(form, content, reterr);
}

static bool step_field(sp_form_stream *form)
{
    const uint8_t *found = delimiter_look(form);
    if (!found)
        return false;
    form->at = (size_t)(found - form->kept.data) + form->parser.delimiter_bytes;
    form->state = SP_FORM_LINE;
    return true;
}

static sp_status kept_add(sp_form_stream *form, const uint8_t *data, size_t size_bytes, sp_error *reterr)
{
    bool more = true;
    sp_status s = SP_OK;
    if (form->state == SP_FORM_END)
        return SP_OK;
    bool fits = size_bytes <= SP_LIMIT_FORM_KEPT_BYTES - form->kept.size_bytes;
    sp_buf_append(&form->kept, data, size_bytes);
    if (!sp_buf_ok(&form->kept))
        return fits ? SP_FAIL(reterr, SP_NOMEM, "no memory for the form")
                    : SP_FAIL_CODE(reterr, SP_TOO_LARGE, "form_too_large", "the form has more than %u bytes beside its file",
                                   SP_LIMIT_FORM_KEPT_BYTES);
    while (!s && more && form->state != SP_FORM_FILE) {
        switch (form->state) {
        case SP_FORM_BEGIN:
            more = step_begin(form);
            break;
        case SP_FORM_LINE:
            more = step_line(form);
            break;
        case SP_FORM_HEAD:
            s = step_head(form, &more, reterr);
            break;
        case SP_FORM_FIELD:
            more = step_field(form);
            break;
        case SP_FORM_FILE:
        case SP_FORM_END:
            more = false;
            break;
        }
    }
    return s;
}

/* `data`: all that is not yet given away. */
static sp_status file_take(sp_form_stream *form, const uint8_t *data, size_t size_bytes, sp_error *reterr)
{
    const sp_multipart *p = &form->parser;
    const uint8_t *found = memmem(data, size_bytes, p->delimiter, p->delimiter_bytes);
    /* An empty file: its delimiter lacks the line end that was the header's. It comes before any that is found behind it. */
    if (!form->tail_bytes && size_bytes >= p->delimiter_bytes - 2 && form->at + 2 == form->kept.size_bytes &&
        memcmp(data, p->delimiter + 2, p->delimiter_bytes - 2) == 0) {
        form->at = form->kept.size_bytes + p->delimiter_bytes - 2;
        form->state = SP_FORM_LINE;
        return kept_add(form, data, size_bytes, reterr);
    }
    size_t keep = found ? 0 : SP_MIN(size_bytes, p->delimiter_bytes - 1);
    size_t give = found ? (size_t)(found - data) : size_bytes - keep;
    sp_status s = SP_OK;
    for (size_t done = 0; !s && done < give; done += SP_FORM_PIECE_BYTES)
        s = form->sink(form->context, data + done, SP_MIN(give - done, (size_t)SP_FORM_PIECE_BYTES), reterr);
    if (give)
        form->at = 0; /* the file is not empty */
    if (s)
        return s;
    if (!found) {
        memcpy(form->tail, data + give, keep);
        form->tail_bytes = keep;
        return SP_OK;
    }
    form->tail_bytes = 0;
    form->at = form->kept.size_bytes + p->delimiter_bytes;
    form->state = SP_FORM_LINE;
    return kept_add(form, data + give, size_bytes - give, reterr);
}

static sp_status file_feed(sp_form_stream *form, const uint8_t *data, size_t size_bytes, sp_error *reterr)
{
    uint8_t joined[sizeof(form->tail) + SP_FORM_PIECE_BYTES];
    size_t had = form->tail_bytes;
    memcpy(joined, form->tail, had);
    memcpy(joined + had, data, size_bytes);
    form->tail_bytes = 0;
    return file_take(form, joined, had + size_bytes, reterr);
}

sp_status sp_form_stream_feed(sp_form_stream *form, const void *data, size_t size_bytes, sp_error *reterr)
{
    const uint8_t *at = data;
    sp_status s = SP_OK;
    while (!s && size_bytes) {
        size_t n = SP_MIN(size_bytes, (size_t)SP_FORM_PIECE_BYTES);
        s = form->state == SP_FORM_FILE ? file_feed(form, at, n, reterr) : kept_add(form, at, n, reterr);
        at += n;
        size_bytes -= n;
    }
    return s;
}
