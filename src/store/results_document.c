/* SPDX-License-Identifier: Apache-2.0
 * Documents and cursors as text: what both stores of results have in common. Linked into the plug-in as well. */
#include "store/results_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define FIELD(field, field_kind) { #field, field_kind, offsetof(sp_result, field), sizeof(((sp_result *)NULL)->field) }
const results_field results_fields[RESULTS_FIELDS] = {
    FIELD(id, RESULTS_TEXT), FIELD(tenant, RESULTS_TEXT), FIELD(task, RESULTS_TEXT), FIELD(stream, RESULTS_TEXT),
    FIELD(provider, RESULTS_TEXT), FIELD(tier, RESULTS_TEXT), FIELD(client_id, RESULTS_TEXT), FIELD(fallback, RESULTS_BOOL),
    FIELD(unix_ms, RESULTS_INT64), FIELD(duration_ns, RESULTS_INT64), FIELD(device_ns, RESULTS_INT64),
    FIELD(microdollars, RESULTS_INT64), FIELD(text, RESULTS_TEXT), FIELD(cache_key, RESULTS_TEXT),
};

void results_write_json(sp_buf *json, const sp_result *result, sp_view document)
{
    for (int i = 0; i < RESULTS_FIELDS; i++) {
        const results_field *field = &results_fields[i];
        const char *at = (const char *)result + field->offset;
        sp_buf_printf(json, "%s\"%s\":", i ? "," : "{", field->name);
        if (field->kind == RESULTS_TEXT)
            sp_buf_append_json_text(json, at);
        else if (field->kind == RESULTS_BOOL)
            sp_buf_append_text(json, *(const bool *)at ? "true" : "false");
        else
            sp_buf_printf(json, "%" PRId64, *(const int64_t *)at);
    }
    sp_buf_append_text(json, ",\"document\":");
    if (document.size_bytes)
        sp_buf_append(json, document.data, document.size_bytes);
    else
        sp_buf_append_text(json, "null");
    sp_buf_append_text(json, "}");
}

void results_write_cursor(char *ret_cursor, int64_t unix_ms, const char *id)
{
    (void)snprintf(ret_cursor, RESULTS_CURSOR_BYTES, "%" PRId64 ":%s", unix_ms, id);
}

sp_status results_read_cursor(const char *cursor, results_ask *ask, sp_error *reterr)
{
    char *end = NULL;
    ask->before_unix_ms = 0;
    ask->before_id[0] = 0;
    if (!cursor || !*cursor)
        return SP_OK;
    ask->before_unix_ms = strtoll(cursor, &end, 10);
    if (end == cursor || *end != ':' || ask->before_unix_ms < 0 || strlen(end + 1) >= sizeof(ask->before_id))
        return SP_FAIL(reterr, SP_INVALID, "'%.60s' is no cursor; take the one that the page before brought", cursor);
    (void)snprintf(ask->before_id, sizeof(ask->before_id), "%s", end + 1);
    return SP_OK;
}

void results_write_cost(sp_buf *json, bool first, const char *task, const char *provider, const char *tier, const char *day,
                        int64_t requests, int64_t device_ns, int64_t microdollars)
{
    sp_buf_append_text(json, first ? "{\"task\":" : ",{\"task\":");
    sp_buf_append_json_text(json, task);
    sp_buf_append_text(json, ",\"provider\":");
    sp_buf_append_json_text(json, provider);
    sp_buf_append_text(json, ",\"tier\":");
    sp_buf_append_json_text(json, tier);
    sp_buf_append_text(json, ",\"day\":");
    sp_buf_append_json_text(json, day);
    sp_buf_printf(json,
                  ",\"requests\":%" PRId64 ",\"device_ns\":%" PRId64 ",\"microdollars\":%" PRId64
                  ",\"dollars\":%.6f}",
                  requests, device_ns, microdollars, (double)microdollars / 1e6);
}

static void copy(char *ret_text, size_t size_bytes, const char *text)
{
    (void)snprintf(ret_text, size_bytes, "%s", text ? text : "");
}

sp_status results_ask_of(const sp_result_filter *filter, results_ask *ret_ask, sp_error *reterr)
{
    *ret_ask = (results_ask){ .any_tenant = !filter->tenant || !*filter->tenant, .fallback = filter->fallback,
                              .from_unix_ms = filter->from_unix_ms, .to_unix_ms = filter->to_unix_ms,
                              .limit = SP_CLAMP(filter->limit, 1, RESULTS_ROWS) };
    copy(ret_ask->tenant, sizeof(ret_ask->tenant), filter->tenant);
    copy(ret_ask->task, sizeof(ret_ask->task), filter->task);
    copy(ret_ask->stream, sizeof(ret_ask->stream), filter->stream);
    copy(ret_ask->provider, sizeof(ret_ask->provider), filter->provider);
    copy(ret_ask->text, sizeof(ret_ask->text), filter->text);
    if (filter->text && strlen(filter->text) >= sizeof(ret_ask->text))
        return SP_FAIL(reterr, SP_INVALID, "a text to search for has at most %zu bytes", sizeof(ret_ask->text) - 1);
    return results_read_cursor(filter->cursor, ret_ask, reterr);
}
