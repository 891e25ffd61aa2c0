/* SPDX-License-Identifier: Apache-2.0
 * The log writer: a line is built on the stack and leaves in one write(2), so lines of several processes never mix. */
#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *log_component = "spillway";
static sp_log_level log_least = SP_LOG_INFO;
static int log_is_terminal = -1;
static int log_fd = STDERR_FILENO;
static atomic_uint_fast64_t log_dropped;

/* Fields end here, so that the line's own end always fits. */
#define LOG_ROOM_BYTES (SP_LIMIT_LOG_LINE_BYTES - 32)

/* What stands of a message or of a text value that would not fit its line; six bytes at most become of one. */
#define LOG_CUT_BYTES 200
#define LOG_MESSAGE_BYTES 1024 /* of a message on a terminal */

static const char *const level_names[] = { "debug", "info", "warn", "error" };

void sp_log_set_level(sp_log_level least)
{
    __atomic_store_n(&log_least, least, __ATOMIC_RELAXED);
}

void sp_log_open(const char *component, sp_log_level least)
{
    log_component = component;
    sp_log_set_level(least);
    log_is_terminal = isatty(STDERR_FILENO);
    if (log_fd != STDERR_FILENO)
        sp_fd_closep(&log_fd);
    log_fd = STDERR_FILENO;
    /* Several processes write to one pipe, so "there is room" may be untrue a moment later, and a blocked write would
     * stop the gateway. A description of our own can be non-blocking without making theirs so. */
    struct stat info;
    if (fstat(STDERR_FILENO, &info) == 0 && S_ISFIFO(info.st_mode)) {
        int own = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        if (own >= 0)
            log_fd = own;
    }
}

bool sp_log_level_parse(const char *text, sp_log_level *ret_level)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(level_names); i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *ret_level = (sp_log_level)i;
            return true;
        }
    }
    return false;
}

static void append_time(sp_buf *line, bool terminal)
{
    int64_t wall_ns = sp_clock_wall_ns();
    time_t seconds = (time_t)(wall_ns / SP_NS_PER_S);
    struct tm tm;
    char text[32];
    gmtime_r(&seconds, &tm);
    (void)strftime(text, sizeof(text), terminal ? "%H:%M:%S" : "%Y-%m-%dT%H:%M:%S", &tm);
    sp_buf_printf(line, "%s.%03dZ", text, (int)(wall_ns / SP_NS_PER_MS % 1000));
}

/* `text` as a JSON string; when the line has no room for it, its beginning and "...". */
static void append_text(sp_buf *line, const char *text)
{
    size_t before = line->size_bytes;
    sp_buf_append_json_text(line, text);
    if (sp_buf_ok(line) && line->size_bytes <= LOG_ROOM_BYTES)
        return;
    char cut[LOG_CUT_BYTES + 4];
    (void)snprintf(cut, sizeof(cut), "%.*s...", LOG_CUT_BYTES, text);
    line->size_bytes = before;
    line->failed = false;
    sp_buf_append_json_text(line, cut);
}

static void append_field(sp_buf *line, const sp_log_field *field, bool terminal)
{
    if (terminal) {
        sp_buf_printf(line, " %s=", field->key);
    } else {
        sp_buf_append_text(line, ",");
        sp_buf_append_json_text(line, field->key);
        sp_buf_append_text(line, ":");
    }
    switch (field->kind) {
    case SP_LOG_KIND_TEXT:
        append_text(line, field->text ? field->text : "");
        break;
    case SP_LOG_KIND_INT:
        sp_buf_printf(line, "%lld", (long long)field->integer);
        break;
    case SP_LOG_KIND_REAL:
        if (isfinite(field->real))
            sp_buf_printf(line, "%.6g", field->real);
        else
            sp_buf_append_text(line, "null"); /* JSON has no word for it */
        break;
    }
}

static void write_line(sp_buf *line)
{
    const char *data = (const char *)line->data;
    size_t left = line->size_bytes;
    while (left) {
        ssize_t n = write(log_fd, data, left);
        if (n > 0) {
            data += n;
            left -= (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else {
            atomic_fetch_add_explicit(&log_dropped, 1, memory_order_relaxed);
            return;
        }
    }
}

void sp_log_write(sp_log_level level, const char *message, const sp_log_field *fields, size_t field_count)
{
    if (level < __atomic_load_n(&log_least, __ATOMIC_RELAXED))
        return;
    int saved_errno = errno;
    bool terminal = log_is_terminal > 0;
    /* A pipe nobody reads must not stop the loop: look before writing. A line is at most PIPE_BUF, so POLLOUT on a
     * pipe means that it fits whole. */
    struct pollfd ready = { .fd = log_fd, .events = POLLOUT };
    if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT)) {
        atomic_fetch_add_explicit(&log_dropped, 1, memory_order_relaxed);
        errno = saved_errno;
        return;
    }
    sp_buf line;
    sp_buf_init(&line, SP_LIMIT_LOG_LINE_BYTES);
    if (terminal) {
        append_time(&line, true);
        sp_buf_printf(&line, " %-5s %s: %.*s", level_names[level], log_component, LOG_MESSAGE_BYTES, message);
    } else {
        sp_buf_append_text(&line, "{\"time\":\"");
        append_time(&line, false);
        sp_buf_printf(&line, "\",\"level\":\"%s\",\"component\":\"%s\",\"message\":", level_names[level], log_component);
        append_text(&line, message);
    }
    for (size_t i = 0; i < field_count; i++) {
        size_t before = line.size_bytes;
        append_field(&line, &fields[i], terminal);
        /* Leave room for the end, so that a cut line is still valid JSON. */
        if (line.failed || line.size_bytes > LOG_ROOM_BYTES) {
            line.size_bytes = before;
            line.failed = false;
            sp_buf_append_text(&line, terminal ? " ..." : ",\"cut\":true");
            break;
        }
    }
    sp_buf_append_text(&line, terminal ? "\n" : "}\n");
    write_line(&line);
    sp_buf_done(&line);
    errno = saved_errno;
}

void sp_log_error(const char *message, const char *request_id, const sp_error *err)
{
    char where[64];
    (void)snprintf(where, sizeof(where), "%s:%d", err->file, err->line);
    sp_log_field fields[8];
    size_t n = 0;
    if (request_id)
        fields[n++] = SP_LOG_TEXT("request_id", request_id);
    fields[n++] = SP_LOG_TEXT("status", sp_status_name(err->status));
    fields[n++] = SP_LOG_TEXT("error", err->message);
    if (err->code[0])
        fields[n++] = SP_LOG_TEXT("code", err->code);
    if (err->origin[0]) {
        fields[n++] = SP_LOG_TEXT("origin", err->origin);
        fields[n++] = SP_LOG_INT("origin_code", err->origin_code);
    }
    fields[n++] = SP_LOG_TEXT("at", where);
    sp_log_write(SP_LOG_ERROR, message, fields, n);
}

uint64_t sp_log_dropped_count(void)
{
    return atomic_load_explicit(&log_dropped, memory_order_relaxed);
}
