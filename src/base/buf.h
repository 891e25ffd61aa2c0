/* SPDX-License-Identifier: Apache-2.0
 * sp_buf: a growable byte buffer that is created with its ceiling. Appends after a failure are no-ops that keep
 * failing, so a writer checks once at the end (sp_buf_ok). */
#ifndef SP_BASE_BUF_H
#define SP_BASE_BUF_H

#include "base/status.h"
#include "base/view.h"

typedef struct sp_buf {
    uint8_t *data;
    size_t size_bytes;
    size_t capacity_bytes;
    size_t limit_bytes;
    bool failed; /* the ceiling or the heap was reached; content up to there is intact */
} sp_buf;

void sp_buf_init(sp_buf *buf, size_t limit_bytes);
void sp_buf_done(sp_buf *buf); /* frees; leaves an empty buffer with the same ceiling */
void sp_buf_clear(sp_buf *buf); /* size 0, failure forgotten, memory kept */

void sp_buf_append(sp_buf *buf, const void *data, size_t size_bytes);
void sp_buf_append_text(sp_buf *buf, const char *text);
void sp_buf_printf(sp_buf *buf, const char *format, ...) SP_PRINTF(2, 3);
/* A JSON string with its quotes: control characters, quote and backslash escaped; invalid UTF-8 becomes U+FFFD. */
void sp_buf_append_json_text(sp_buf *buf, const char *text);

static inline bool sp_buf_ok(const sp_buf *buf)
{
    return !buf->failed;
}

static inline sp_view sp_buf_view(const sp_buf *buf)
{
    return sp_view_make(buf->data, buf->size_bytes);
}

/* Moves the bytes out (caller frees with free()); a NUL stands behind them. NULL when failed or out of memory. */
char *sp_buf_take(sp_buf *buf, size_t *ret_size_bytes);

#endif
