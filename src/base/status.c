/* SPDX-License-Identifier: Apache-2.0
 * The status tables and the error writer. */
#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct status_row {
    const char *name;
    int http;
    int rank;
    bool tries_next;
    bool feeds_breaker;
} status_row;

static const status_row status_rows[] = {
    [SP_OK] = { "ok", 200, 0, false, false },
    [SP_INVALID] = { "invalid", 400, 12, false, false },
    [SP_TOO_LARGE] = { "too_large", 413, 11, false, false },
    [SP_NOT_FOUND] = { "not_found", 404, 10, false, false },
    [SP_CONFLICT] = { "conflict", 409, 9, false, false },
    [SP_DENIED] = { "denied", 403, 13, false, false },
    [SP_UNSUPPORTED] = { "unsupported", 501, 3, true, false },
    [SP_NOMEM] = { "nomem", 503, 6, true, true },
    [SP_BUSY] = { "busy", 429, 7, true, false },
    [SP_REFUSED] = { "refused", 422, 8, true, false },
    [SP_TIMEOUT] = { "timeout", 504, 5, true, true },
    [SP_UNAVAILABLE] = { "unavailable", 503, 4, true, true },
    [SP_CANCELLED] = { "cancelled", 499, 14, false, false },
    [SP_CORRUPT] = { "corrupt", 500, 2, true, true },
    [SP_INTERNAL] = { "internal", 500, 1, true, true },
};
_Static_assert(SP_ARRAY_LEN(status_rows) == SP_STATUS_COUNT, "each status has its row");

static const status_row *row_of(sp_status status)
{
    /* A number from another process may be anything; unknown ones read as our own bug. */
    return (unsigned)status < SP_STATUS_COUNT ? &status_rows[status] : &status_rows[SP_INTERNAL];
}

const char *sp_status_name(sp_status status)
{
    return row_of(status)->name;
}

int sp_status_http(sp_status status)
{
    return row_of(status)->http;
}

bool sp_status_tries_next(sp_status status)
{
    return row_of(status)->tries_next;
}

bool sp_status_feeds_breaker(sp_status status)
{
    return row_of(status)->feeds_breaker;
}

int sp_status_rank(sp_status status)
{
    return row_of(status)->rank;
}

static const char *file_tail(const char *file)
{
    /* room/file.c is enough to find it and fits the field. */
    const char *src = strstr(file, "src/");
    return src ? src + 4 : file;
}

static void error_fill(sp_error *err, sp_status status, const char *code, const char *origin, int origin_code,
                       const char *file, int line)
{
    memset(err, 0, sizeof(*err));
    err->status = status;
    err->origin_code = origin_code;
    err->line = line;
    (void)snprintf(err->origin, sizeof(err->origin), "%s", origin);
    (void)snprintf(err->code, sizeof(err->code), "%s", code);
    (void)snprintf(err->file, sizeof(err->file), "%s", file_tail(file));
}

static void (*watcher)(const sp_error *err);

void sp_error_watch(void (*unexpected)(const sp_error *err))
{
    watcher = unexpected;
}

static void tell_watcher(const sp_error *err)
{
    if (SP_UNLIKELY(err->status == SP_INTERNAL && watcher))
        watcher(err);
}

sp_status sp_error_set(sp_error *reterr, sp_status status, const char *code, const char *origin, int origin_code,
                       const char *file, int line, const char *format, ...)
{
    if (!reterr)
        return status;
    error_fill(reterr, status, code, origin, origin_code, file, line);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(reterr->message, sizeof(reterr->message), format, args);
    va_end(args);
    tell_watcher(reterr);
    return status;
}

sp_status sp_error_set_errno(sp_error *reterr, sp_status status, const char *file, int line, const char *format, ...)
{
    int saved = errno;
    if (!reterr)
        return status;
    error_fill(reterr, status, "", "kernel", saved, file, line);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(reterr->message, sizeof(reterr->message), format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof(reterr->message)) {
        char text[96];
        const char *words = strerror_r(saved, text, sizeof(text));
        (void)snprintf(reterr->message + n, sizeof(reterr->message) - (size_t)n, ": %s", words);
    }
    tell_watcher(reterr);
    errno = saved;
    return status;
}

void sp_assert_failed(const char *expr, const char *file, int line)
{
    char text[256];
    int n = snprintf(text, sizeof(text), "spillway: assertion failed: %s (%s:%d)\n", expr, file_tail(file), line);
    if (n > 0)
        (void)!write(STDERR_FILENO, text, (size_t)SP_MIN(n, (int)sizeof(text) - 1));
    abort();
}

void sp_fd_closep(int *fd)
{
    if (*fd < 0)
        return;
    int saved = errno;
    (void)close(*fd); /* nothing sensible follows a failed close */
    *fd = -1;
    errno = saved;
}
