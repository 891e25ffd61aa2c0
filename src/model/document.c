/* SPDX-License-Identifier: Apache-2.0
 * See document.h. */
#include "model/document.h"

#include "base/nearest.h"
#include "model/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- paths ------------------------------------------------------------------------------------------------------------ */

static size_t push(sp_document_path *path, const char *text)
{
    size_t before = path->length, room = sizeof(path->text) - 1 - before, length = SP_MIN(strlen(text), room);

    memcpy(path->text + before, text, length);
    path->length += length;
    path->text[path->length] = '\0';
    return before;
}

size_t sp_path_push(sp_document_path *path, const char *name)
{
    size_t before = path->length;
    if (before)
        (void)push(path, ".");
    (void)push(path, name);
    return before;
}

size_t sp_path_push_index(sp_document_path *path, size_t index)
{
    char text[24];
    (void)snprintf(text, sizeof(text), "[%zu]", index);
    return push(path, text);
}

void sp_path_pop(sp_document_path *path, size_t length)
{
    path->length = length;
    path->text[length] = '\0';
}

/* --- values ----------------------------------------------------------------------------------------------------------- */

static sp_status no_memory(sp_error *reterr)
{
    return SP_FAIL(reterr, SP_NOMEM, "out of memory");
}

static sp_status made(json_t *value, json_t **ret_value, sp_error *reterr)
{
    if (!value)
        return no_memory(reterr);
    *ret_value = value;
    return SP_OK;
}

sp_status sp_value_integer(const sp_field *field, int64_t number, json_t **ret_value, sp_error *reterr)
{
    int64_t least = field->kind == SP_FIELD_INT32 ? INT32_MIN : field->kind == SP_FIELD_INT64 ? INT64_MIN : 0;
    int64_t most = field->kind == SP_FIELD_INT32 ? INT32_MAX : field->kind == SP_FIELD_UINT32 ? UINT32_MAX : INT64_MAX;

    if (number < least || number > most)
        return SP_FAIL(reterr, SP_INVALID, "must be a whole number from %" PRId64 " to %" PRId64, least, most);
    return made(json_integer(number), ret_value, reterr);
}

sp_status sp_value_text(const sp_field *field, const char *text, size_t bytes, json_t **ret_value, sp_error *reterr)
{
    if (bytes >= field->most_bytes)
        return SP_FAIL(reterr, SP_INVALID, "must have less than %u bytes", (unsigned)field->most_bytes);
    if (memchr(text, '\0', bytes))
        return SP_FAIL(reterr, SP_INVALID, "must not hold a NUL byte");
    json_t *value = json_stringn(text, bytes);
    if (!value)
        return SP_FAIL(reterr, SP_INVALID, "must be UTF-8 text");
    *ret_value = value;
    return SP_OK;
}

sp_status sp_value_word(const sp_field *field, const char *word, json_t **ret_value, sp_error *reterr)
{
    if (sp_word_find(field, word) >= 0)
        return made(json_string(word), ret_value, reterr);
    const char *nearest = sp_nearest(word, field->words, sp_word_count(field));
    return SP_FAIL(reterr, SP_INVALID, "unknown value %.40s%s%s%s", word, nearest ? "; did you mean " : "",
                   nearest ? nearest : "", nearest ? "?" : "");
}

sp_status sp_value_word_number(const sp_field *field, int64_t number, json_t **ret_value, sp_error *reterr)
{
    if (number < 0 || number >= sp_word_count(field))
        return SP_FAIL(reterr, SP_INVALID, "no value has the number %" PRId64, number);
    return made(json_string(field->words[number]), ret_value, reterr);
}

sp_status sp_value_float(double number, json_t **ret_value, sp_error *reterr)
{
    if (!isfinite(number))
        return SP_FAIL(reterr, SP_INVALID, "must be a finite number");
    return made(json_real(number), ret_value, reterr);
}

/* Another field of the same choice that is there already. */
static const char *rival(const sp_message *message, const sp_field *field, const json_t *object)
{
    for (const sp_field *other = message->fields; field->choice && other->name; other++) {
        if (other != field && other->choice == field->choice && json_object_get(object, other->name))
            return other->name;
    }
    return NULL;
}

static sp_status put_entry(const sp_field *field, json_t *object, const char *key, json_t *value, sp_error *reterr)
{
    json_t *all = json_object_get(object, field->name);

    if (!all) {
        all = field->shape == SP_FIELD_LIST ? json_array() : json_object();
        if (!all || json_object_set_new(object, field->name, all)) {
            json_decref(value);
            return no_memory(reterr);
        }
    }
    size_t count = field->shape == SP_FIELD_LIST ? json_array_size(all) : json_object_size(all);
    if (value && count >= field->most && !(field->shape == SP_FIELD_MAP && json_object_get(all, key))) {
        json_decref(value);
        return SP_FAIL(reterr, SP_INVALID, "more than %u values", (unsigned)field->most);
    }
    if (!value)
        return SP_OK;
    int failed = field->shape == SP_FIELD_LIST ? json_array_append_new(all, value) : json_object_set_new(all, key, value);
    return failed ? no_memory(reterr) : SP_OK;
}

sp_status sp_value_put(const sp_message *message, const sp_field *field, json_t *object, const char *key, json_t *value,
                       sp_error *reterr)
{
    const char *other = rival(message, field, object);

    if (other) {
        json_decref(value);
        return SP_FAIL(reterr, SP_INVALID, "cannot be given together with %s", other);
    }
    if (field->shape != SP_FIELD_ONE)
        return put_entry(field, object, key, value, reterr);
    if (json_object_get(object, field->name)) {
        json_decref(value);
        return SP_FAIL(reterr, SP_INVALID, "given twice");
    }
    return json_object_set_new(object, field->name, value) ? no_memory(reterr) : SP_OK;
}

/* --- from JSON -------------------------------------------------------------------------------------------------------- */

typedef struct json_reader {
    const char *what;
    sp_document_path path;
    sp_error *reterr;
} json_reader;

static sp_status read_message(json_reader *r, const sp_message *message, const json_t *from, json_t **ret_object);

/* Puts where before what is in `err`. */
static sp_status located(json_reader *r, sp_status status, const sp_error *err)
{
    if (!status)
        return SP_OK;
    return SP_FAIL(r->reterr, status, "%s: %s%s%s", r->what, r->path.text, r->path.length ? ": " : "", err->message);
}

/* "maxBatchSize" is max_batch_size: protobuf's JSON takes either. */
static bool camel_equals(const char *camel, const char *snake)
{
    for (; *camel && *snake; camel++, snake++) {
        if (*snake == '_') {
            snake++;
            if (*snake < 'a' || *snake > 'z' || *camel != *snake - 'a' + 'A')
                return false;
        } else if (*camel != *snake) {
            return false;
        }
    }
    return !*camel && !*snake;
}

static const sp_field *field_of_key(const sp_message *message, const char *key)
{
    const sp_field *field = sp_field_find(message, key);

    for (const sp_field *f = message->fields; !field && f->name; f++) {
        if (camel_equals(key, f->name))
            field = f;
    }
    return field;
}

/* 64-bit numbers come as texts from protobuf's own printers. */
static bool whole_number(const json_t *from, int64_t *ret_number)
{
    char *end;

    if (json_is_integer(from)) {
        *ret_number = json_integer_value(from);
        return true;
    }
    if (json_is_real(from)) {
        double value = json_real_value(from);
        *ret_number = value >= -9.2e18 && value <= 9.2e18 ? (int64_t)value : 0;
        return (double)*ret_number == value;
    }
    const char *text = json_string_value(from);
    if (!text || !*text || *text == ' ')
        return false;
    errno = 0;
    *ret_number = strtoll(text, &end, 10);
    return !*end && !errno;
}

static sp_status read_value(json_reader *r, const sp_field *field, const json_t *from, json_t **ret_value)
{
    sp_error err = { 0 };
    int64_t number = 0;

    switch (field->kind) {
    case SP_FIELD_MESSAGE:
        if (!json_is_object(from))
            break;
        return read_message(r, field->message, from, ret_value);
    case SP_FIELD_BOOL:
        if (!json_is_boolean(from))
            break;
        return located(r, made(json_boolean(json_is_true(from)), ret_value, &err), &err);
    case SP_FIELD_TEXT:
        if (!json_is_string(from))
            break;
        return located(r, sp_value_text(field, json_string_value(from), json_string_length(from), ret_value, &err), &err);
    case SP_FIELD_FLOAT:
        if (!json_is_number(from))
            break;
        return located(r, sp_value_float(json_number_value(from), ret_value, &err), &err);
    case SP_FIELD_ENUM:
        if (json_is_string(from))
            return located(r, sp_value_word(field, json_string_value(from), ret_value, &err), &err);
        if (!whole_number(from, &number))
            break;
        return located(r, sp_value_word_number(field, number, ret_value, &err), &err);
    default:
        if (!whole_number(from, &number))
            break;
        return located(r, sp_value_integer(field, number, ret_value, &err), &err);
    }
    static const char *const expected[] = {
        [SP_FIELD_BOOL] = "true or false", [SP_FIELD_FLOAT] = "a number",   [SP_FIELD_TEXT] = "a text",
        [SP_FIELD_ENUM] = "one of its words", [SP_FIELD_MESSAGE] = "an object",
    };
    (void)SP_FAIL(&err, SP_INVALID, "must be %s", expected[field->kind] ? expected[field->kind] : "a whole number");
    return located(r, SP_INVALID, &err);
}

static sp_status read_one(json_reader *r, const sp_message *message, const sp_field *field, const char *key, const json_t *from,
                          json_t *object)
{
    json_t *value = NULL;
    sp_error err = { 0 };
    sp_status status = read_value(r, field, from, &value);

    if (status)
        return status;
    return located(r, sp_value_put(message, field, object, key, value, &err), &err);
}

static sp_status read_map(json_reader *r, const sp_message *message, const sp_field *field, const json_t *from, json_t *object)
{
    const char *key;
    json_t *value;
    sp_status status = SP_OK;

    json_object_foreach((json_t *)from, key, value) {
        size_t before = sp_path_push(&r->path, key);
        sp_error err = { 0 };
        char *end = NULL;
        bool number = *key >= '0' && *key <= '9' && (strtoull(key, &end, 10), !*end);
        if (strlen(key) >= field->most_bytes || (field->number_keys && !number))
            (void)SP_FAIL(&err, SP_INVALID, field->number_keys ? "the key must be a whole number" : "the key is too long");
        status = err.status ? located(r, err.status, &err) : read_one(r, message, field, key, value, object);
        sp_path_pop(&r->path, before);
        if (status)
            return status;
    }
    return SP_OK;
}

static sp_status read_field(json_reader *r, const sp_message *message, const sp_field *field, const json_t *from, json_t *object)
{
    sp_error err = { 0 };
    sp_status status = SP_OK;

    if (json_is_null(from))
        return SP_OK;
    if (field->shape == SP_FIELD_ONE)
        return read_one(r, message, field, NULL, from, object);
    bool list = field->shape == SP_FIELD_LIST;
    if (list ? !json_is_array(from) : !json_is_object(from)) {
        (void)SP_FAIL(&err, SP_INVALID, "must be %s", list ? "an array" : "an object");
        return located(r, SP_INVALID, &err);
    }
    status = located(r, sp_value_put(message, field, object, NULL, NULL, &err), &err);
    if (status || !list)
        return status ? status : read_map(r, message, field, from, object);
    for (size_t i = 0; !status && i < json_array_size(from); i++) {
        size_t before = sp_path_push_index(&r->path, i);
        status = read_one(r, message, field, NULL, json_array_get(from, i), object);
        sp_path_pop(&r->path, before);
    }
    return status;
}

static sp_status read_message(json_reader *r, const sp_message *message, const json_t *from, json_t **ret_object)
{
    SP_CLEANUP(sp_json_unrefp) json_t *object = json_object();
    const char *key;
    json_t *value;
    sp_status status = SP_OK;
    sp_error err = { 0 };

    if (!object)
        return located(r, no_memory(&err), &err);
    json_object_foreach((json_t *)from, key, value) {
        const sp_field *field = field_of_key(message, key);
        size_t before = sp_path_push(&r->path, key);
        if (!field) {
            const char *nearest = sp_field_nearest(message, key);
            status = SP_FAIL(&err, SP_INVALID, "unknown field%s%s%s", nearest ? "; did you mean " : "", nearest ? nearest : "",
                             nearest ? "?" : "");
            status = located(r, status, &err);
        } else {
            status = read_field(r, message, field, value, object);
        }
        sp_path_pop(&r->path, before);
        if (status)
            return status;
    }
    *ret_object = SP_STEAL(object);
    return SP_OK;
}

sp_status sp_document_of_object(const char *what, const json_t *object, json_t **ret_document, sp_error *reterr)
{
    json_reader reader = { .what = what, .reterr = reterr };

    if (!json_is_object(object))
        return SP_FAIL(reterr, SP_INVALID, "%s: must be an object", what);
    return read_message(&reader, &sp_schema_model_config, object, ret_document);
}

sp_status sp_document_of_json(const char *what, sp_view text, json_t **ret_document, sp_error *reterr)
{
    json_error_t where;

    if (text.size_bytes > SP_LIMIT_MODEL_CONFIG_BYTES)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s: larger than %u bytes", what, SP_LIMIT_MODEL_CONFIG_BYTES);
    SP_CLEANUP(sp_json_unrefp) json_t *root = json_loadb((const char *)text.data, text.size_bytes, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return SP_FAIL(reterr, SP_INVALID, "%s: no JSON: line %d, column %d: %.100s", what, where.line, where.column, where.text);
    return sp_document_of_object(what, root, ret_document, reterr);
}

/* --- kept fields, merging, printing ------------------------------------------------------------------------------------ */

/* The kept parts of one value of the field; *ret_found says whether there are any. NULL: memory. */
static json_t *kept_value(const sp_field *field, const json_t *value, bool *ret_found)
{
    bool ok = true;

    if (field->kept) {
        *ret_found = true;
        return json_deep_copy(value);
    }
    json_t *kept = field->kind == SP_FIELD_MESSAGE ? sp_document_kept(field->message, value, &ok) : NULL;
    *ret_found |= kept != NULL;
    return kept || !ok ? kept : json_object(); /* an empty one holds the place in a list */
}

static json_t *kept_field(const sp_field *field, const json_t *value, bool *ret_found)
{
    if (field->kept || field->shape == SP_FIELD_ONE)
        return kept_value(field, value, ret_found);
    bool list = field->shape == SP_FIELD_LIST;
    json_t *all = list ? json_array() : json_object();
    const char *key;
    json_t *entry;
    size_t index;

    if (list) {
        json_array_foreach((json_t *)value, index, entry)
            if (json_array_append_new(all, kept_value(field, entry, ret_found)))
                goto fail;
    } else {
        json_object_foreach((json_t *)value, key, entry)
            if (json_object_set_new(all, key, kept_value(field, entry, ret_found)))
                goto fail;
    }
    return all;
fail:
    json_decref(all);
    return NULL;
}

json_t *sp_document_kept(const sp_message *message, const json_t *document, bool *ret_ok)
{
    json_t *kept = NULL;

    *ret_ok = true;
    for (const sp_field *field = message->fields; field->name; field++) {
        const json_t *value = json_object_get(document, field->name);
        bool found = false;
        if (!value || (!field->kept && field->kind != SP_FIELD_MESSAGE))
            continue;
        json_t *part = kept_field(field, value, &found);
        if (part && !found) {
            json_decref(part);
            continue;
        }
        if (!kept)
            kept = json_object();
        if (!part || !kept || json_object_set_new(kept, field->name, part)) {
            if (part && !kept)
                json_decref(part);
            json_decref(kept);
            *ret_ok = false;
            return NULL;
        }
    }
    return kept;
}

bool sp_document_merge(json_t *into, const json_t *from)
{
    const char *key;
    json_t *value;
    size_t index;

    if (json_is_array(into) && json_is_array(from)) {
        json_array_foreach((json_t *)from, index, value) {
            json_t *own = json_array_get(into, index);
            if (own && !sp_document_merge(own, value))
                return false;
        }
        return true;
    }
    if (!json_is_object(into) || !json_is_object(from))
        return true; /* what is given stays */
    json_object_foreach((json_t *)from, key, value) {
        json_t *own = json_object_get(into, key);
        if (own ? !sp_document_merge(own, value) : json_object_set(into, key, value) != 0)
            return false;
    }
    return true;
}

static json_t *default_of(const sp_field *field)
{
    switch (field->kind) {
    case SP_FIELD_BOOL:
        return json_false();
    case SP_FIELD_TEXT:
        return json_string("");
    case SP_FIELD_FLOAT:
        return json_real(0);
    case SP_FIELD_ENUM:
        return json_string(field->words[0]);
    case SP_FIELD_MESSAGE:
        return NULL;
    default:
        return json_integer(0);
    }
}

static json_t *spread_value(const sp_field *field, const json_t *value)
{
    return field->kind == SP_FIELD_MESSAGE ? sp_document_spread(field->message, value) : json_incref((json_t *)value);
}

static json_t *spread_field(const sp_field *field, const json_t *value)
{
    const char *key;
    json_t *entry;
    size_t index;

    if (field->shape == SP_FIELD_ONE)
        return spread_value(field, value);
    if (field->shape == SP_FIELD_LIST) {
        json_t *list = json_array();
        json_array_foreach((json_t *)value, index, entry)
            if (json_array_append_new(list, spread_value(field, entry))) {
                json_decref(list);
                return NULL;
            }
        return list;
    }
    json_t *map = json_object();
    json_object_foreach((json_t *)value, key, entry)
        if (json_object_set_new(map, key, spread_value(field, entry))) {
            json_decref(map);
            return NULL;
        }
    return map;
}

json_t *sp_document_spread(const sp_message *message, const json_t *document)
{
    SP_CLEANUP(sp_json_unrefp) json_t *object = json_object();

    for (const sp_field *field = message->fields; object && field->name; field++) {
        const json_t *value = json_object_get(document, field->name);
        if (!value && field->shape == SP_FIELD_ONE && (field->choice || field->kind == SP_FIELD_MESSAGE))
            continue;
        json_t *part = value ? spread_field(field, value)
                       : field->shape == SP_FIELD_LIST ? json_array()
                       : field->shape == SP_FIELD_MAP  ? json_object()
                                                       : default_of(field);
        if (json_object_set_new(object, field->name, part)) /* refuses NULL */
            return NULL;
    }
    return SP_STEAL(object);
}
