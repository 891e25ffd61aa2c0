/* SPDX-License-Identifier: Apache-2.0
 * How spillway.json is read: what settings.c and detect_settings.c share. Private to this room. */
#ifndef SP_TASK_SETTINGS_H
#define SP_TASK_SETTINGS_H

#include "task/model.h"

#include <jansson.h>

typedef struct sp_settings_reader {
    sp_model *model;
    char *labels; /* file name out */
    size_t labels_size;
    sp_error *reterr;
    const char *prefix; /* "preprocess." inside that object */
} sp_settings_reader;

typedef struct sp_settings_rule {
    const char *key;
    sp_status (*read)(sp_settings_reader *r, const char *key, const json_t *value);
} sp_settings_rule;

/* SP_INVALID, code "model_settings": "<file>: <prefix><key> <what>". */
sp_status sp_settings_bad(sp_settings_reader *r, const char *key, const char *format, ...) SP_PRINTF(3, 4);
sp_status sp_settings_text(sp_settings_reader *r, const char *key, const json_t *value, char *dst, size_t size);
/* The index of the value among `words`, or an error that lists them. */
sp_status sp_settings_word(sp_settings_reader *r, const char *key, const json_t *value, const char *const *words, int count,
                           int *ret_index);
sp_status sp_settings_number(sp_settings_reader *r, const char *key, const json_t *value, bool zero_is_fine,
                             float *ret_number);
/* Every key of the object by its rule; one without a rule is an error. */
sp_status sp_settings_object(sp_settings_reader *r, const json_t *object, const sp_settings_rule *rules, size_t rule_count);

/* The object "detect" (detect_settings.c). */
sp_status sp_settings_detect(sp_settings_reader *r, const char *key, const json_t *value);

#endif
