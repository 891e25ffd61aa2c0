/* SPDX-License-Identifier: Apache-2.0
 * Reading JSON text (text.h). */
#include "kserve/text.h"

#include "base/limits.h"

#include <stdio.h>
#include <string.h>

#define KEY_BYTES 128 /* longer keys are nobody's that we know: cut */

sp_status sp_text_fail(const sp_text *text, const char *expected, sp_error *reterr)
{
    size_t left = (size_t)(text->end - text->at);
    if (!left)
        return SP_FAIL_CODE(reterr, SP_INVALID, "json", "the JSON ends after %zu bytes, expected %s",
                            (size_t)(text->end - text->begin), expected);
    char found[24];
    size_t n = left < sizeof(found) - 1 ? left : sizeof(found) - 1;
    for (size_t i = 0; i < n; i++)
        found[i] = text->at[i] >= ' ' && text->at[i] < 127 ? (char)text->at[i] : '?';
    found[n] = 0;
    return SP_FAIL_CODE(reterr, SP_INVALID, "json", "byte %zu of the JSON: expected %s, found \"%s\"",
                        (size_t)(text->at - text->begin), expected, found);
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hex digits; -1 = they are not. */
static int32_t hex4(sp_text *text)
{
    int32_t value = 0;
    if (text->end - text->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(text->at[i]);
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    text->at += 4;
    return value;
}

/* The code point of a \u escape whose 'u' is taken; a half of a pair without the other one becomes U+FFFD. -1 = bad digits. */
static int32_t escape_u(sp_text *text)
{
    int32_t high = hex4(text);
    if (high < 0xd800 || high > 0xdfff)
        return high;
    if (high > 0xdbff || text->end - text->at < 6 || text->at[0] != '\\' || text->at[1] != 'u')
        return 0xfffd;
    const uint8_t *back = text->at;
    text->at += 2;
    int32_t low = hex4(text);
    if (low >= 0xdc00 && low <= 0xdfff)
        return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    text->at = back;
    return low < 0 ? -1 : 0xfffd;
}

static size_t utf8_put(uint32_t c, uint8_t *dst)
{
    if (c < 0x80) {
        dst[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        dst[0] = (uint8_t)(0xc0 | c >> 6);
        dst[1] = (uint8_t)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        dst[0] = (uint8_t)(0xe0 | c >> 12);
        dst[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        dst[2] = (uint8_t)(0x80 | (c & 63));
        return 3;
    }
    dst[0] = (uint8_t)(0xf0 | c >> 18);
    dst[1] = (uint8_t)(0x80 | (c >> 12 & 63));
    dst[2] = (uint8_t)(0x80 | (c >> 6 & 63));
    dst[3] = (uint8_t)(0x80 | (c & 63));
    return 4;
}

/* One escape whose backslash is taken, as up to four bytes of UTF-8 (never more than its text has); 0 = bad. */
static size_t escape(sp_text *text, uint8_t dst[4])
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (text->at == text->end)
        return 0;
    uint8_t c = *text->at++;
    if (c == 'u') {
        int32_t point = escape_u(text);
        return point < 0 ? 0 : utf8_put((uint32_t)point, dst);
    }
    const char *found = c ? strchr(from, c) : NULL;
    if (!found)
        return 0;
    dst[0] = (uint8_t)to[found - from];
    return 1;
}

/* `most` bytes at most; *ret_cut when there were more. */
static sp_status string_read(sp_text *text, uint8_t *dst, size_t most, size_t *ret_bytes, bool *ret_cut, sp_error *reterr)
{
    size_t n = 0;
    bool cut = false;
    if (!sp_text_take(text, '"'))
        return sp_text_fail(text, "a string", reterr);
    for (;;) {
        const uint8_t *run = text->at;
        while (text->at < text->end && *text->at != '"' && *text->at != '\\' && *text->at >= ' ')
            text->at++;
        size_t length = (size_t)(text->at - run);
        cut |= length > most - n;
        length = SP_MIN(length, most - n);
        memcpy(dst + n, run, length);
        n += length;
        if (text->at == text->end || *text->at < ' ')
            return sp_text_fail(text, "the end of a string", reterr);
        if (*text->at++ == '"')
            break;
        uint8_t bytes[4];
        length = escape(text, bytes);
        if (!length)
            return sp_text_fail(text, "an escape (\\n, \\u00e9 ...)", reterr);
        cut |= length > most - n;
        length = SP_MIN(length, most - n);
        memcpy(dst + n, bytes, length);
        n += length;
    }
    *ret_bytes = n;
    *ret_cut = cut;
    return SP_OK;
}

size_t sp_utf8_length(const uint8_t *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static bool is_utf8(const uint8_t *p, size_t left)
{
    for (size_t n; left; p += n, left -= n) {
        n = sp_utf8_length(p, left);
        if (!n)
            return false;
    }
    return true;
}

sp_status sp_text_string(sp_text *text, char *dst, size_t capacity, sp_error *reterr)
{
    size_t n = 0;
    bool cut = false;
    (void)sp_text_peek(text);
    sp_text begin = *text;
    dst[0] = 0;
    sp_status s = string_read(text, (uint8_t *)dst, capacity - 1, &n, &cut, reterr);
    if (s)
        return s;
    dst[n] = 0;
    if (cut) {
        char expected[48];
        (void)snprintf(expected, sizeof(expected), "a string of at most %zu bytes", capacity - 1);
        return sp_text_fail(&begin, expected, reterr);
    }
    if (memchr(dst, 0, n))
        return sp_text_fail(&begin, "a string without \\u0000", reterr);
    if (!is_utf8((const uint8_t *)dst, n))
        return sp_text_fail(&begin, "a string in UTF-8", reterr);
    return SP_OK;
}

sp_status sp_text_bytes(sp_text *text, uint8_t *dst, size_t *ret_bytes, sp_error *reterr)
{
    bool cut = false;
    return string_read(text, dst, (size_t)(text->end - text->at), ret_bytes, &cut, reterr);
}

sp_status sp_text_u64(sp_text *text, uint64_t *ret_value, sp_error *reterr)
{
    return sp_text_take_u64(text, ret_value) ? SP_OK : sp_text_fail(text, "a whole number from 0 on", reterr);
}

static bool word(sp_text *text, const char *name)
{
    size_t n = strlen(name);
    if ((size_t)(text->end - text->at) < n || memcmp(text->at, name, n) != 0)
        return false;
    text->at += n;
    return true;
}

sp_status sp_text_bool(sp_text *text, bool *ret_value, sp_error *reterr)
{
    (void)sp_text_peek(text);
    if (word(text, "true"))
        *ret_value = true;
    else if (word(text, "false"))
        *ret_value = false;
    else
        return sp_text_fail(text, "true or false", reterr);
    return SP_OK;
}

static sp_status skip_string(sp_text *text, sp_error *reterr)
{
    text->at++;
    while (text->at < text->end && *text->at != '"') {
        if (*text->at < ' ')
            return sp_text_fail(text, "the end of a string", reterr);
        text->at += *text->at == '\\' && text->end - text->at > 1 ? 2 : 1;
    }
    return sp_text_take(text, '"') ? SP_OK : sp_text_fail(text, "the end of a string", reterr);
}

static sp_status skip_scalar(sp_text *text, sp_error *reterr)
{
    static const char *const words[] = { "true", "false", "null", "NaN", "Infinity", "-Infinity" };
    if (sp_text_peek(text) == '"')
        return skip_string(text, reterr);
    for (size_t i = 0; i < SP_ARRAY_LEN(words); i++) {
        if (word(text, words[i]))
            return SP_OK;
    }
    return sp_text_skip_number(text) ? SP_OK : sp_text_fail(text, "a value", reterr);
}

/* Loops, with what is open in `inside`, so that depth costs no stack. */
sp_status sp_text_skip(sp_text *text, sp_error *reterr)
{
    uint8_t inside[SP_LIMIT_JSON_DEPTH];
    int depth = 0;
    bool fresh = false; /* just behind an opening bracket: it may close at once */
    for (;;) {
        uint8_t next = sp_text_peek(text);
        bool closes = depth && fresh && next == inside[depth - 1];
        if (!closes && depth && inside[depth - 1] == '}') { /* a key comes first */
            if (next != '"')
                return sp_text_fail(text, "a key", reterr);
            sp_status s = skip_string(text, reterr);
            if (s)
                return s;
            if (!sp_text_take(text, ':'))
                return sp_text_fail(text, "':'", reterr);
            next = sp_text_peek(text);
        }
        fresh = false;
        if (!closes && (next == '{' || next == '[')) {
            if (depth == SP_LIMIT_JSON_DEPTH)
                return sp_text_fail(text, "no more than 32 brackets inside each other", reterr);
            inside[depth++] = next == '{' ? '}' : ']';
            text->at++;
            fresh = true;
            continue;
        }
        if (!closes) {
            sp_status s = skip_scalar(text, reterr);
            if (s)
                return s;
        }
        while (depth && sp_text_take(text, inside[depth - 1]))
            depth--;
        if (!depth)
            return SP_OK;
        if (!sp_text_take(text, ','))
            return sp_text_fail(text, inside[depth - 1] == ']' ? "',' or ']'" : "',' or '}'", reterr);
    }
}

sp_status sp_text_object(sp_text *text, sp_text_member_fn *member, void *context, sp_error *reterr)
{
    if (!sp_text_take(text, '{'))
        return sp_text_fail(text, "an object", reterr);
    if (sp_text_take(text, '}'))
        return SP_OK;
    do {
        char key[KEY_BYTES];
        size_t n = 0;
        bool cut = false;
        (void)sp_text_peek(text);
        sp_status s = string_read(text, (uint8_t *)key, sizeof(key) - 1, &n, &cut, reterr);
        key[s ? 0 : n] = 0;
        if (!s && !sp_text_take(text, ':'))
            s = sp_text_fail(text, "':'", reterr);
        if (!s)
            s = member(text, key, context, reterr);
        if (s)
            return s;
    } while (sp_text_take(text, ','));
    return sp_text_take(text, '}') ? SP_OK : sp_text_fail(text, "',' or '}'", reterr);
}

sp_status sp_text_array(sp_text *text, sp_text_element_fn *element, void *context, sp_error *reterr)
{
    int index = 0;
    if (!sp_text_take(text, '['))
        return sp_text_fail(text, "an array", reterr);
    if (sp_text_take(text, ']'))
        return SP_OK;
    do {
        sp_status s = element(text, index++, context, reterr);
        if (s)
            return s;
    } while (sp_text_take(text, ','));
    return sp_text_take(text, ']') ? SP_OK : sp_text_fail(text, "',' or ']'", reterr);
}
