/* SPDX-License-Identifier: Apache-2.0
 * A document as one line of the spool and back. */
#include "store/results_line.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

void results_line_write(sp_buf *text, const results_entry *entry)
{
    results_write_json(text, &entry->result, sp_view_make(entry->document, entry->document_bytes));
    sp_buf_append(text, "\n", 1);
}

static void read_field(const json_t *line, const results_field *field, sp_result *ret_result)
{
    const json_t *value = json_object_get(line, field->name);
    char *at = (char *)ret_result + field->offset;
    if (field->kind == RESULTS_TEXT)
        (void)snprintf(at, field->size_bytes, "%s", json_is_string(value) ? json_string_value(value) : "");
    else if (field->kind == RESULTS_BOOL)
        *(bool *)at = json_is_true(value);
    else
        *(int64_t *)at = json_integer_value(value);
}

results_entry *results_line_read(const char *line, size_t size_bytes)
{
    json_t *json = json_loadb(line, size_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    results_entry *entry = json ? calloc(1, sizeof(*entry)) : NULL;
    json_t *document = json_object_get(json, "document");
    if (entry) {
        for (int i = 0; i < RESULTS_FIELDS; i++)
            read_field(json, &results_fields[i], &entry->result);
        entry->document = document ? json_dumps(document, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
        entry->document_bytes = entry->document ? strlen(entry->document) : 0;
    }
    json_decref(json);
    return entry;
}
