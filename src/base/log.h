/* SPDX-License-Identifier: Apache-2.0
 * Structured log on stderr: one line per event, text on a terminal, JSON lines otherwise.
 * Only route, gateway, the worker loop and cli log; lower rooms return errors. A write never blocks the caller for
 * long: a full pipe drops the line and counts it (sp_log_dropped_count). */
#ifndef SP_BASE_LOG_H
#define SP_BASE_LOG_H

#include "base/status.h"

typedef enum sp_log_level { SP_LOG_DEBUG, SP_LOG_INFO, SP_LOG_WARN, SP_LOG_ERROR } sp_log_level;

/* One key and its value. Make them with SP_LOG_TEXT / SP_LOG_INT / SP_LOG_REAL. */
typedef struct sp_log_field {
    const char *key;
    enum { SP_LOG_KIND_TEXT, SP_LOG_KIND_INT, SP_LOG_KIND_REAL } kind;
    union {
        const char *text;
        int64_t integer;
        double real;
    };
} sp_log_field;

#define SP_LOG_TEXT(k, v) ((sp_log_field){ .key = (k), .kind = SP_LOG_KIND_TEXT, .text = (v) })
#define SP_LOG_INT(k, v) ((sp_log_field){ .key = (k), .kind = SP_LOG_KIND_INT, .integer = (int64_t)(v) })
#define SP_LOG_REAL(k, v) ((sp_log_field){ .key = (k), .kind = SP_LOG_KIND_REAL, .real = (v) })

/* sp_log(SP_LOG_INFO, "worker ready", SP_LOG_TEXT("worker", name), SP_LOG_INT("pid", pid)); */
#define sp_log(level, message, ...)                                                                 \
    sp_log_write((level), (message), (const sp_log_field[]){ { 0 }, ##__VA_ARGS__ } + 1,            \
                 SP_ARRAY_LEN(((const sp_log_field[]){ { 0 }, ##__VA_ARGS__ })) - 1)

/* The error of a failed call, with origin and file:line, and the request it concerned (NULL = none). */
void sp_log_error(const char *message, const char *request_id, const sp_error *err);

void sp_log_write(sp_log_level level, const char *message, const sp_log_field *fields, size_t field_count);

/* Process-wide; before the first thread. `component` ("gateway", "codec0") stands on each line and is not copied. */
void sp_log_open(const char *component, sp_log_level least);
void sp_log_set_level(sp_log_level least); /* any thread, any time */
/* "debug" | "info" | "warn" | "error"; false when it is none of them. */
bool sp_log_level_parse(const char *text, sp_log_level *ret_level);

uint64_t sp_log_dropped_count(void);

#endif
