/* SPDX-License-Identifier: Apache-2.0
 * ExportTraceServiceRequest, as JSON. */
#include "telemetry/otlp.h"

#include "base/trace.h"

static void put_text_field(sp_buf *out, const char *key, const char *value, bool first)
{
    sp_buf_append_text(out, first ? "{\"key\":" : ",{\"key\":");
    sp_buf_append_json_text(out, key);
    sp_buf_append_text(out, ",\"value\":{\"stringValue\":");
    sp_buf_append_json_text(out, value);
    sp_buf_append_text(out, "}}");
}

void sp_otlp_begin(sp_buf *out, const char *service, const char *instance)
{
    sp_buf_append_text(out, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
    put_text_field(out, "service.name", service, true);
    put_text_field(out, "service.version", SP_VERSION, false);
    put_text_field(out, "service.instance.id", instance, false);
    sp_buf_append_text(out, "]},\"scopeSpans\":[{\"scope\":{\"name\":\"spillway\",\"version\":");
    sp_buf_append_json_text(out, SP_VERSION);
    sp_buf_append_text(out, "},\"spans\":[");
}

void sp_otlp_end(sp_buf *out)
{
    sp_buf_append_text(out, "]}]}]}");
}

static bool is_set(const uint8_t *id)
{
    for (int i = 0; id && i < 8; i++)
        if (id[i])
            return true;
    return false;
}

static void put_fields(sp_buf *out, const sp_span *span)
{
    bool first = true;
    sp_buf_append_text(out, ",\"attributes\":[");
    for (int i = 0; i < span->field_count; i++) {
        const sp_span_field *field = &span->fields[i];
        if (field->text && !*field->text)
            continue;
        if (field->text) {
            put_text_field(out, field->key, field->text, first);
        } else {
            sp_buf_append_text(out, first ? "{\"key\":" : ",{\"key\":");
            sp_buf_append_json_text(out, field->key);
            sp_buf_printf(out, ",\"value\":{\"intValue\":\"%lld\"}}", (long long)field->number);
        }
        first = false;
    }
    sp_buf_append_text(out, "]");
}

void sp_otlp_span(sp_buf *out, const sp_span *span, bool first)
{
    char trace[33], id[17];
    sp_trace_hex(span->trace_id, 16, trace);
    sp_trace_hex(span->span_id, 8, id);
    sp_buf_printf(out, "%s{\"traceId\":\"%s\",\"spanId\":\"%s\"", first ? "" : ",", trace, id);
    if (is_set(span->parent_id)) {
        sp_trace_hex(span->parent_id, 8, id);
        sp_buf_printf(out, ",\"parentSpanId\":\"%s\"", id);
    }
    if (span->state && *span->state) {
        sp_buf_append_text(out, ",\"traceState\":");
        sp_buf_append_json_text(out, span->state);
    }
    sp_buf_append_text(out, ",\"name\":");
    sp_buf_append_json_text(out, span->name);
    sp_buf_printf(out, ",\"kind\":%d,\"startTimeUnixNano\":\"%lld\",\"endTimeUnixNano\":\"%lld\"", (int)span->kind,
                  (long long)span->start_ns, (long long)(span->end_ns > span->start_ns ? span->end_ns : span->start_ns));
    put_fields(out, span);
    sp_buf_printf(out, ",\"status\":{");
    if (span->status)
        sp_buf_printf(out, "\"code\":%d", (int)span->status);
    if (span->status == SP_SPAN_ERROR && span->message && *span->message) {
        sp_buf_append_text(out, ",\"message\":");
        sp_buf_append_json_text(out, span->message);
    }
    sp_buf_append_text(out, "}}");
}
