/* SPDX-License-Identifier: Apache-2.0
 * A model's configuration between its texts and its struct: one JSON tree that holds only what was given, checked field by
 * field against schema.h (known names, types, bounds, nothing twice). Internal to this room.
 *
 *   config.pbtxt --text.c--> document --config_fill.c--> sp_model_config --config_write.c--> document --> JSON text
 *   JSON -----document.c-----^  */
#ifndef SP_MODEL_DOCUMENT_H
#define SP_MODEL_DOCUMENT_H

#include "base/status.h"
#include "base/view.h"
#include "model/schema.h"

#include <jansson.h>

static inline void sp_json_unrefp(json_t **json)
{
    json_decref(*json);
    *json = NULL;
}

/* Where we are, for messages: "input[1].dims". Cut when it is long. */
typedef struct sp_document_path {
    char text[160];
    size_t length;
} sp_document_path;
size_t sp_path_push(sp_document_path *path, const char *name); /* what to pop to */
size_t sp_path_push_index(sp_document_path *path, size_t index);
void sp_path_pop(sp_document_path *path, size_t length);

/* Both readers of values end here. SP_INVALID says what is wrong with the value, without where. */
sp_status sp_value_integer(const sp_field *field, int64_t number, json_t **ret_value, sp_error *reterr);
sp_status sp_value_text(const sp_field *field, const char *text, size_t bytes, json_t **ret_value, sp_error *reterr);
sp_status sp_value_word(const sp_field *field, const char *word, json_t **ret_value, sp_error *reterr);
sp_status sp_value_word_number(const sp_field *field, int64_t number, json_t **ret_value, sp_error *reterr);
sp_status sp_value_float(double number, json_t **ret_value, sp_error *reterr);
/* Puts one value of the field (for a map: under `key`) into the message's object; takes the value. SP_INVALID: twice, beside
 * another of its choice, too many. */
sp_status sp_value_put(const sp_message *message, const sp_field *field, json_t *object, const char *key, json_t *value,
                       sp_error *reterr);

/* Text and JSON to a document. Messages begin with "file:line: path: " and "what: path: ". */
sp_status sp_document_of_text(const char *file, sp_view text, json_t **ret_document, sp_error *reterr);
sp_status sp_document_of_json(const char *what, sp_view text, json_t **ret_document, sp_error *reterr);
sp_status sp_document_of_object(const char *what, const json_t *object, json_t **ret_document, sp_error *reterr);

/* Only the kept fields of it (schema.h), in the same places; NULL when there are none or memory is out (*ret_ok). */
json_t *sp_document_kept(const sp_message *message, const json_t *document, bool *ret_ok);
/* Adds what `from` has and `into` has not; lists by index. False: memory. */
bool sp_document_merge(json_t *into, const json_t *from);
/* A copy with every field in the schema's order: scalars that were not given as their defaults, lists and maps as empty
 * ones, as protobuf prints them with always_print_primitive_fields. NULL: memory. */
json_t *sp_document_spread(const sp_message *message, const json_t *document);

#endif
