/* SPDX-License-Identifier: Apache-2.0
 * sp_buf: growth by half, one NUL always behind the content. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sp_buf_init(sp_buf *buf, size_t limit_bytes)
{
    *buf = (sp_buf){ .limit_bytes = limit_bytes };
}

void sp_buf_done(sp_buf *buf)
{
    free(buf->data);
    sp_buf_init(buf, buf->limit_bytes);
}

void sp_buf_clear(sp_buf *buf)
{
    buf->size_bytes = 0;
    buf->failed = false;
    if (buf->data)
        buf->data[0] = 0;
}

/* Room for `extra_bytes` and a NUL behind them. */
static bool reserve(sp_buf *buf, size_t extra_bytes)
{
    if (buf->failed)
        return false;
    size_t need;
    if (extra_bytes > buf->limit_bytes - buf->size_bytes || !sp_size_add(buf->size_bytes + extra_bytes, 1, &need)) {
        buf->failed = true;
        return false;
    }
    if (need <= buf->capacity_bytes)
        return true;
    size_t grown = SP_MAX(need, buf->capacity_bytes + buf->capacity_bytes / 2);
    grown = SP_MAX(grown, (size_t)64);
    if (buf->limit_bytes < SIZE_MAX)
        grown = SP_MAX(need, SP_MIN(grown, buf->limit_bytes + 1)); /* never memory beyond the ceiling */
    uint8_t *data = realloc(buf->data, grown);
    if (!data) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->capacity_bytes = grown;
    return true;
}

void sp_buf_append(sp_buf *buf, const void *data, size_t size_bytes)
{
    if (!reserve(buf, size_bytes))
        return;
    if (size_bytes)
        memcpy(buf->data + buf->size_bytes, data, size_bytes);
    buf->size_bytes += size_bytes;
    buf->data[buf->size_bytes] = 0;
}

void sp_buf_append_text(sp_buf *buf, const char *text)
{
    sp_buf_append(buf, text, strlen(text));
}

void sp_buf_printf(sp_buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) {
        buf->failed = true;
    } else if (reserve(buf, (size_t)n)) {
        (void)vsnprintf((char *)buf->data + buf->size_bytes, (size_t)n + 1, format, again);
        buf->size_bytes += (size_t)n;
    }
    va_end(again);
}

/* Length of the valid UTF-8 sequence at `s` (1..4), or 0: Unicode 15 table 3-7. */
static size_t utf8_length(const uint8_t *s)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        return (s[1] & 0xC0) == 0x80 ? 2 : 0;
    if ((s[0] & 0xF0) == 0xE0) {
        bool ok = (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80 && !(s[0] == 0xE0 && s[1] < 0xA0) &&
                  !(s[0] == 0xED && s[1] > 0x9F);
        return ok ? 3 : 0;
    }
    if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        bool ok = (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80 && (s[3] & 0xC0) == 0x80 &&
                  !(s[0] == 0xF0 && s[1] < 0x90) && !(s[0] == 0xF4 && s[1] > 0x8F);
        return ok ? 4 : 0;
    }
    return 0;
}

void sp_buf_append_json_text(sp_buf *buf, const char *text)
{
    sp_buf_append(buf, "\"", 1);
    for (const uint8_t *s = (const uint8_t *)text; *s;) {
        if (*s == '"' || *s == '\\') {
            sp_buf_append(buf, (char[]){ '\\', (char)*s }, 2);
            s++;
        } else if (*s < 0x20 || *s == 0x7F) {
            sp_buf_printf(buf, "\\u%04x", *s);
            s++;
        } else {
            size_t n = utf8_length(s);
            if (n)
                sp_buf_append(buf, s, n);
            else
                sp_buf_append(buf, "\xEF\xBF\xBD", 3);
            s += n ? n : 1;
        }
    }
    sp_buf_append(buf, "\"", 1);
}

char *sp_buf_take(sp_buf *buf, size_t *ret_size_bytes)
{
    if (buf->failed || !reserve(buf, 0))
        return NULL;
    char *data = (char *)buf->data;
    data[buf->size_bytes] = 0;
    if (ret_size_bytes)
        *ret_size_bytes = buf->size_bytes;
    sp_buf_init(buf, buf->limit_bytes);
    return data;
}
