/* SPDX-License-Identifier: Apache-2.0
 * What Triton's ModelConfig message knows: every message and field, their types and our bounds, as tables. The text reader,
 * the JSON reader and the writer all go by them, so a field is known everywhere or nowhere.
 * Names and order are those of model_config.proto (triton-inference-server/common 83adf7c). */
#ifndef SP_MODEL_SCHEMA_H
#define SP_MODEL_SCHEMA_H

#include <stdbool.h>
#include <stdint.h>

typedef enum sp_field_kind {
    SP_FIELD_BOOL,
    SP_FIELD_INT32,
    SP_FIELD_INT64,
    SP_FIELD_UINT32,
    SP_FIELD_UINT64, /* up to INT64_MAX here */
    SP_FIELD_FLOAT,  /* and double */
    SP_FIELD_TEXT,
    SP_FIELD_ENUM,
    SP_FIELD_MESSAGE,
} sp_field_kind;

typedef enum sp_field_shape { SP_FIELD_ONE, SP_FIELD_LIST, SP_FIELD_MAP } sp_field_shape;

typedef struct sp_message sp_message;
typedef struct sp_field {
    const char *name;
    sp_field_kind kind;       /* of a map: of its values */
    sp_field_shape shape;
    bool kept;                /* known and shown, not acted on: lives in sp_model_config.kept */
    bool number_keys;         /* a map whose keys are uint64 */
    uint8_t choice;           /* fields of one message with the same number exclude each other; 0 = none */
    uint32_t most;            /* elements of a list or map */
    uint32_t most_bytes;      /* of a text or key, its NUL included */
    const sp_message *message;
    const char *const *words; /* of an enum: [number]; NULL ends it */
} sp_field;

struct sp_message {
    const char *name;
    const sp_field *fields; /* a NULL name ends them */
};

extern const sp_message sp_schema_model_config;

const sp_field *sp_field_find(const sp_message *message, const char *name);
/* The name that was probably meant, or NULL. */
const char *sp_field_nearest(const sp_message *message, const char *name);
/* Number of the word, -1 = none. */
int sp_word_find(const sp_field *field, const char *word);
int sp_word_count(const sp_field *field);

#endif
