/* SPDX-License-Identifier: Apache-2.0
 * Spans as OTLP/HTTP's JSON (opentelemetry-proto, trace v1, its JSON mapping: lowerCamelCase names, ids in hexadecimal, 64-bit
 * integers as strings). Only writes text; who sends it is the gateway. */
#ifndef SP_TELEMETRY_OTLP_H
#define SP_TELEMETRY_OTLP_H

#include "base/buf.h"

/* The numbers of the specification. */
typedef enum sp_span_kind { SP_SPAN_INTERNAL = 1, SP_SPAN_SERVER = 2, SP_SPAN_CLIENT = 3 } sp_span_kind;
typedef enum sp_span_status { SP_SPAN_UNSET = 0, SP_SPAN_OK = 1, SP_SPAN_ERROR = 2 } sp_span_status;

typedef struct sp_span_field {
    const char *key;
    const char *text; /* NULL = `number` */
    int64_t number;
} sp_span_field;

typedef struct sp_span {
    const uint8_t *trace_id, *span_id, *parent_id; /* 16, 8, 8 bytes; parent_id NULL or all zero = none */
    const char *state;                             /* tracestate; NULL = none */
    const char *name;
    sp_span_kind kind;
    int64_t start_ns, end_ns; /* since 1970 */
    sp_span_status status;
    const char *message;      /* of an ERROR; NULL = none */
    const sp_span_field *fields; /* a text "" is left out */
    int field_count;
} sp_span;

/* What stands before the first and behind the last span of one export. */
void sp_otlp_begin(sp_buf *out, const char *service, const char *instance);
void sp_otlp_end(sp_buf *out);
/* One span; `first`: none stands before it. */
void sp_otlp_span(sp_buf *out, const sp_span *span, bool first);

#endif
