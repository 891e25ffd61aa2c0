/* SPDX-License-Identifier: Apache-2.0
 * The reader of multipart/form-data.
 *
 *   [preamble CR LF] "--" boundary [blanks] CR LF
 *   header lines ... CR LF
 *   CR LF
 *   content                              <- what the caller wants
 *   CR LF "--" boundary ["--"] ...
 *
 * Line ends are CR LF only: a reader that also took a bare LF would see other parts than the proxy in front of it. */
#include "gateway/multipart.h"

#include <string.h>
#include <strings.h>

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t';
}

/* bchars of RFC 2046, section 5.1.1. */
static bool is_boundary_char(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("'()+_,-./:=? ", c));
}

static const uint8_t *find(const uint8_t *at, const uint8_t *end, const void *what, size_t what_bytes)
{
    return memmem(at, (size_t)(end - at), what, what_bytes);
}

/* Reads one `; key=value` parameter at *at. True: key and value are set and *at stands behind them. */
static bool next_parameter(const uint8_t **at, const uint8_t *end, sp_view *ret_key, sp_view *ret_value)
{
    const uint8_t *p = *at;
    while (p < end && (is_blank(*p) || *p == ';'))
        p++;
    const uint8_t *key = p;
    while (p < end && *p != '=' && *p != ';')
        p++;
    if (p == end || *p != '=' || p == key)
        return false;
    *ret_key = sp_view_make(key, (size_t)(p - key));
    p++;
    const uint8_t *value = p;
    if (p < end && *p == '"') {
        value = ++p;
        while (p < end && *p != '"')
            p += *p == '\\' && p + 1 < end ? 2 : 1;
        if (p >= end)
            return false; /* the quote never closes */
        *ret_value = sp_view_make(value, (size_t)(p - value));
        p++;
    } else {
        while (p < end && *p != ';')
            p++;
        size_t size = (size_t)(p - value);
        while (size && is_blank(value[size - 1]))
            size--;
        *ret_value = sp_view_make(value, size);
    }
    *at = p;
    return true;
}

static bool key_is(sp_view key, const char *name)
{
    return key.size_bytes == strlen(name) && strncasecmp((const char *)key.data, name, key.size_bytes) == 0;
}

static sp_status boundary_find(const char *content_type, sp_view *ret_boundary, sp_error *reterr)
{
    const char *semicolon = strchr(content_type, ';');
    const uint8_t *at = (const uint8_t *)(semicolon ? semicolon : "");
    const uint8_t *end = at + strlen((const char *)at);
    sp_view key, value = { 0 };
    bool found = false;
    while (!found && next_parameter(&at, end, &key, &value))
        found = key_is(key, "boundary");
    if (!found)
        return SP_FAIL_CODE(
            reterr, SP_INVALID, "no_boundary",
            "the Content-Type names no boundary; let your HTTP client set it instead of writing the header yourself");
    bool good = value.size_bytes >= 1 && value.size_bytes <= SP_LIMIT_FORM_BOUNDARY_BYTES;
    for (size_t i = 0; good && i < value.size_bytes; i++)
        good = is_boundary_char(value.data[i]);
    if (!good || value.data[value.size_bytes - 1] == ' ')
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_boundary",
                            "the boundary must have 1 to %d characters out of letters, digits and '()+_,-./:=?",
                            SP_LIMIT_FORM_BOUNDARY_BYTES);
    *ret_boundary = value;
    return SP_OK;
}

/* Stands behind a delimiter: reads what ends its line. Sets position or ended. */
static sp_status delimiter_finish(sp_multipart *parser, size_t at, sp_error *reterr)
{
    sp_view body = parser->body;
    if (body.size_bytes - at >= 2 && memcmp(body.data + at, "--", 2) == 0) {
        parser->ended = true; /* what follows is an epilogue, which nobody reads */
        return SP_OK;
    }
    while (at < body.size_bytes && is_blank(body.data[at]))
        at++;
    if (body.size_bytes - at < 2)
        return SP_FAIL_CODE(reterr, SP_INVALID, "truncated_form",
                            "the form ends at byte %zu inside a delimiter; the upload was cut short", body.size_bytes);
    if (memcmp(body.data + at, "\r\n", 2) != 0)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_delimiter",
                            "no line end after the delimiter at byte %zu of the form", at);
    parser->position = at + 2;
    return SP_OK;
}

sp_status sp_multipart_expect(sp_multipart *parser, const char *content_type, sp_error *reterr)
{
    *parser = (sp_multipart){ 0 };
    sp_view boundary = { 0 };
    sp_status s = boundary_find(content_type, &boundary, reterr);
    if (s)
        return s;
    memcpy(parser->delimiter, "\r\n--", 4);
    memcpy(parser->delimiter + 4, boundary.data, boundary.size_bytes);
    parser->delimiter_bytes = boundary.size_bytes + 4;
    return SP_OK;
}

sp_status sp_multipart_begin(sp_multipart *parser, const char *content_type, sp_view body, sp_error *reterr)
{
    sp_status s = sp_multipart_expect(parser, content_type, reterr);
    if (s)
        return s;
    parser->body = body;
    if (sp_view_starts_with(body, parser->delimiter + 2, parser->delimiter_bytes - 2))
        return delimiter_finish(parser, parser->delimiter_bytes - 2, reterr);
    const uint8_t *end = body.data + body.size_bytes;
    const uint8_t *at = body.size_bytes ? find(body.data, end, parser->delimiter, parser->delimiter_bytes) : NULL;
    if (!at)
        return SP_FAIL_CODE(reterr, SP_INVALID, "no_delimiter",
                            "the boundary of the Content-Type stands nowhere in the %zu bytes sent", body.size_bytes);
    return delimiter_finish(parser, (size_t)(at - body.data) + parser->delimiter_bytes, reterr);
}

/* "form-data; name="image"; filename="cat.jpg"". */
static bool disposition_read(sp_view value, sp_multipart_part *part)
{
    const uint8_t *at = value.data, *end = value.data + value.size_bytes;
    const uint8_t *semicolon = value.size_bytes ? memchr(at, ';', value.size_bytes) : NULL;
    sp_view kind = sp_view_make(at, (size_t)((semicolon ? semicolon : end) - at));
    while (kind.size_bytes && is_blank(kind.data[kind.size_bytes - 1]))
        kind.size_bytes--;
    if (!key_is(kind, "form-data") || !semicolon)
        return false;
    at = semicolon;
    sp_view key, text;
    bool named = false;
    while (next_parameter(&at, end, &key, &text)) {
        if (key_is(key, "name") && !named) {
            part->name = text;
            named = true;
        } else if (key_is(key, "filename") || key_is(key, "filename*")) {
            part->has_filename = true;
        }
    }
    return named;
}

/* One header line. True unless it is a Content-Disposition that names no field. */
static bool header_read(sp_view line, sp_multipart_part *part, bool *ret_disposition)
{
    const uint8_t *colon = memchr(line.data, ':', line.size_bytes);
    if (!colon)
        return false;
    sp_view key = sp_view_make(line.data, (size_t)(colon - line.data));
    sp_view value = sp_view_make(colon + 1, line.size_bytes - key.size_bytes - 1);
    while (value.size_bytes && is_blank(*value.data))
        value = sp_view_make(value.data + 1, value.size_bytes - 1);
    while (value.size_bytes && is_blank(value.data[value.size_bytes - 1]))
        value.size_bytes--;
    if (key_is(key, "Content-Disposition")) {
        if (*ret_disposition || !disposition_read(value, part))
            return false;
        *ret_disposition = true;
    } else if (key_is(key, "Content-Type")) {
        part->content_type = value;
    }
    return true;
}

/* Header lines up to the empty one; *ret_content is where the content begins. */
static sp_status headers_read(sp_multipart *parser, sp_multipart_part *part, size_t *ret_content, sp_error *reterr)
{
    const uint8_t *base = parser->body.data, *at = base + parser->position;
    const uint8_t *end = base + SP_MIN(parser->body.size_bytes, parser->position + SP_LIMIT_FORM_PART_HEADER_BYTES);
    bool disposition = false;
    for (;;) {
        const uint8_t *line_end = find(at, end, "\r\n", 2);
        if (!line_end && end < base + parser->body.size_bytes)
            return SP_FAIL_CODE(reterr, SP_INVALID, "part_header_too_long",
                                "the header of part %d (byte %zu) is longer than %d bytes", parser->part_count + 1,
                                parser->position, SP_LIMIT_FORM_PART_HEADER_BYTES);
        if (!line_end)
            return SP_FAIL_CODE(reterr, SP_INVALID, "truncated_form",
                                "the form ends at byte %zu inside the header of part %d; the upload was cut short",
                                parser->body.size_bytes, parser->part_count + 1);
        if (line_end == at)
            break;
        if (!header_read(sp_view_make(at, (size_t)(line_end - at)), part, &disposition))
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_part_header",
                                "part %d of the form has a header line at byte %zu that cannot be read",
                                parser->part_count + 1, (size_t)(at - base));
        at = line_end + 2;
    }
    if (!disposition)
        return SP_FAIL_CODE(reterr, SP_INVALID, "unnamed_part",
                            "part %d of the form (byte %zu) has no Content-Disposition: form-data with a name",
                            parser->part_count + 1, parser->position);
    *ret_content = (size_t)(at - base) + 2;
    return SP_OK;
}

sp_status sp_multipart_head(sp_multipart *parser, sp_multipart_part *ret_part, size_t *ret_content, bool *ret_whole, sp_error *reterr)
{
    sp_error err = { 0 };
    *ret_part = (sp_multipart_part){ 0 };
    sp_status s = headers_read(parser, ret_part, ret_content, &err);
    *ret_whole = !s;
    if (s && strcmp(err.code, "truncated_form") == 0)
        return SP_OK;
    if (s && reterr)
        *reterr = err;
    return s;
}

sp_status sp_multipart_next(sp_multipart *parser, sp_multipart_part *ret_part, bool *ret_more, sp_error *reterr)
{
    if (parser->ended) {
        *ret_more = false;
        return SP_OK;
    }
    if (parser->part_count == SP_LIMIT_FORM_PARTS)
        return SP_FAIL_CODE(reterr, SP_INVALID, "too_many_parts", "the form has more than %d parts",
                            SP_LIMIT_FORM_PARTS);
    sp_multipart_part part = { 0 };
    size_t content = 0;
    sp_status s = headers_read(parser, &part, &content, reterr);
    if (s)
        return s;

    /* The delimiter's CR LF may be the header's own when the content is empty. */
    sp_view body = parser->body;
    const uint8_t *at =
        find(body.data + content - 2, body.data + body.size_bytes, parser->delimiter, parser->delimiter_bytes);
    if (!at)
        return SP_FAIL_CODE(
            reterr, SP_INVALID, "truncated_form",
            "the form ends at byte %zu inside part %d, before its closing delimiter; the upload was cut short",
            body.size_bytes, parser->part_count + 1);
    size_t stop = (size_t)(at - body.data);
    part.offset = content;
    part.size_bytes = stop > content ? stop - content : 0;
    s = delimiter_finish(parser, stop + parser->delimiter_bytes, reterr);
    if (s)
        return s;
    parser->part_count++;
    *ret_part = part;
    *ret_more = true;
    return SP_OK;
}
