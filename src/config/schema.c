/* SPDX-License-Identifier: Apache-2.0
 * Reading by schema; see schema.h. */
#include "config/schema.h"

#include "base/nearest.h"
#include "config/value.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS_MAX 64 /* of one schema; sp_schema_read asserts it */

void sp_reader_complain(sp_reader *reader, const sp_yaml_node *node, const char *format, ...)
{
    char text[300];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    sp_complain(reader->complainer, node->line, reader->path, "%s", text);
}

size_t sp_reader_enter(sp_reader *reader, const char *name)
{
    size_t mark = strlen(reader->path);

    (void)snprintf(reader->path + mark, sizeof(reader->path) - mark, "%s%.64s", mark ? "." : "", name);
    return mark;
}

size_t sp_reader_enter_index(sp_reader *reader, int index)
{
    size_t mark = strlen(reader->path);

    (void)snprintf(reader->path + mark, sizeof(reader->path) - mark, "[%d]", index);
    return mark;
}

void sp_reader_leave(sp_reader *reader, size_t mark)
{
    reader->path[mark] = '\0';
}

const sp_key *sp_schema_find(const sp_schema *schema, const char *name)
{
    for (int i = 0; i < schema->key_count; i++) {
        if (!strcmp(schema->keys[i].name, name))
            return &schema->keys[i];
    }
    return NULL;
}

const sp_yaml_node *sp_yaml_get(const sp_yaml_node *map, const char *name)
{
    if (!map || map->kind != SP_YAML_MAP)
        return NULL;
    for (const sp_yaml_node *node = map->first; node; node = node->next) {
        if (!strcmp(node->key, name))
            return node;
    }
    return NULL;
}

static const char *kind_name(const sp_yaml_node *node)
{
    static const char *const names[] = { "a single value", "a map", "a list" };
    return node->empty ? "nothing" : names[node->kind];
}

void sp_reader_text(sp_reader *reader, const sp_yaml_node *node, char *ret_text, size_t size)
{
    size_t length = strlen(node->text);

    if (node->kind != SP_YAML_SCALAR || node->empty)
        sp_reader_complain(reader, node, "must be a text, not %s", kind_name(node));
    else if (length >= size)
        sp_reader_complain(reader, node, "longer than %zu bytes", size - 1);
    else if (!length)
        sp_reader_complain(reader, node, "is an empty text; leave the key out instead");
    else
        memcpy(ret_text, node->text, length + 1);
}

/* --- scalars ---------------------------------------------------------------------------------------------------- */

static bool in_range(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, int64_t value)
{
    if (value >= key->least && value <= key->most)
        return true;
    sp_reader_complain(reader, node, "must be from %lld to %lld, not %lld", (long long)key->least, (long long)key->most,
                       (long long)value);
    return false;
}

static void read_integer(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, void *field)
{
    int64_t value;

    if (!sp_value_int(node->text, &value))
        sp_reader_complain(reader, node, "must be a whole number, not '%.60s'", node->text);
    else if (in_range(reader, key, node, value)) {
        if (key->kind == SP_KEY_INT)
            *(int *)field = (int)value;
        else
            *(int64_t *)field = value;
    }
}

static void read_double(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, double *field)
{
    double value;

    if (!sp_value_double(node->text, &value))
        sp_reader_complain(reader, node, "must be a number, not '%.60s'", node->text);
    else if (value < (double)key->least || value > (double)key->most)
        sp_reader_complain(reader, node, "must be from %lld to %lld, not %.60s", (long long)key->least,
                           (long long)key->most, node->text);
    else
        *field = value;
}

static void read_duration(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, int64_t *field)
{
    int64_t scale = key->kind == SP_KEY_NS ? 1 : 1000000000, ns;
    char least[SP_VALUE_TEXT_BYTES], most[SP_VALUE_TEXT_BYTES];

    if (!sp_value_duration(node->text, 0, &ns)) {
        sp_reader_complain(reader, node, "must be a duration with its unit (500ms, 2s, 10m, 1h, 7d), not '%.60s'",
                           node->text);
        return;
    }
    if (ns / scale < key->least || ns / scale > key->most || ns % scale) {
        sp_value_duration_text(key->least * scale, least);
        sp_value_duration_text(key->most * scale, most);
        sp_reader_complain(reader, node, "must be from %s to %s%s, not %.60s", least, most,
                           scale > 1 ? " in whole seconds" : "", node->text);
        return;
    }
    *field = ns / scale;
}

static void read_bytes(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, uint64_t *field)
{
    uint64_t bytes;
    char least[SP_VALUE_TEXT_BYTES], most[SP_VALUE_TEXT_BYTES];

    if (!sp_value_size(node->text, &bytes)) {
        sp_reader_complain(reader, node, "must be a size (64KiB, 10MiB, 2GB), not '%.60s'", node->text);
        return;
    }
    if (bytes < (uint64_t)key->least || bytes > (uint64_t)key->most) {
        sp_value_size_text((uint64_t)key->least, least);
        sp_value_size_text((uint64_t)key->most, most);
        sp_reader_complain(reader, node, "must be from %s to %s, not %.60s", least, most, node->text);
        return;
    }
    *field = bytes;
}

static void read_word(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, int *field)
{
    char all[160] = "";
    int count = 0;

    for (; key->words[count]; count++) {
        if (!strcmp(node->text, key->words[count])) {
            *field = count;
            return;
        }
        size_t used = strlen(all);
        (void)snprintf(all + used, sizeof(all) - used, "%s%s", count ? ", " : "", key->words[count]);
    }
    sp_reader_complain(reader, node, "must be one of %s, not '%.60s'", all, node->text);
}

static void read_scalar(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, void *field)
{
    if (node->kind != SP_YAML_SCALAR || node->empty) {
        sp_reader_complain(reader, node, "must be a single value, not %s", kind_name(node));
        return;
    }
    switch (key->kind) {
    case SP_KEY_TEXT:
        sp_reader_text(reader, node, field, key->size);
        break;
    case SP_KEY_INT:
    case SP_KEY_LONG:
        read_integer(reader, key, node, field);
        break;
    case SP_KEY_BOOL:
        if (!sp_value_bool(node->text, field))
            sp_reader_complain(reader, node, "must be true or false, not '%.60s'", node->text);
        break;
    case SP_KEY_DOUBLE:
        read_double(reader, key, node, field);
        break;
    case SP_KEY_NS:
    case SP_KEY_SECONDS:
        read_duration(reader, key, node, field);
        break;
    case SP_KEY_BYTES:
        read_bytes(reader, key, node, field);
        break;
    case SP_KEY_MONEY:
        if (!sp_value_money(node->text, field))
            sp_reader_complain(reader, node, "must be dollars with at most six decimals (0.20), not '%.60s'",
                               node->text);
        break;
    case SP_KEY_DATE:
        if (!sp_value_date(node->text, field))
            sp_reader_complain(reader, node, "must be a date (2027-01-31 or 2027-01-31T12:00:00Z, UTC), not '%.60s'",
                               node->text);
        break;
    default:
        read_word(reader, key, node, field);
        break;
    }
}

/* --- lists and maps ---------------------------------------------------------------------------------------------- */

/* The memory for a list's items; NULL: a complaint was made, or there is none. */
static char *items_of(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, void *object)
{
    char *field = (char *)object + key->offset;

    if (node->count > key->most) {
        sp_reader_complain(reader, node, "has %d entries; at most %lld are read", node->count, (long long)key->most);
        return NULL;
    }
    if (!key->heap)
        return field;
    char *items = calloc((size_t)node->count, key->size);
    if (!items) {
        reader->failed = true;
        return NULL;
    }
    char **pointer = (char **)(void *)field;
    free(*pointer);
    return *pointer = items;
}

static void read_members(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, void *object)
{
    bool named = key->kind == SP_KEY_NAMED;
    int *count = (int *)(void *)((char *)object + key->count_offset);

    if (node->empty) {
        *count = 0;
        return;
    }
    if (node->kind != (named ? SP_YAML_MAP : SP_YAML_LIST)) {
        sp_reader_complain(reader, node, "must be %s, not %s",
                           named ? "a map of names" : "a list (one entry a line, each after -)", kind_name(node));
        return;
    }
    *count = 0;
    char *items = node->count ? items_of(reader, key, node, object) : NULL;
    if (!items)
        return;
    int index = 0;
    for (const sp_yaml_node *member = node->first; member; member = member->next, index++) {
        char *item = items + (size_t)index * key->size;
        size_t mark = named ? sp_reader_enter(reader, member->key) : sp_reader_enter_index(reader, index);
        memset(item, 0, key->size);
        if (named && (strlen(member->key) >= key->name_bytes || !*member->key))
            sp_complain(reader->complainer, member->key_line, reader->path, "a name must have 1 to %zu bytes",
                        key->name_bytes - 1);
        else if (named)
            memcpy(item, member->key, strlen(member->key) + 1);
        for (const sp_yaml_node *other = node->first; named && other != member; other = other->next) {
            if (!strcmp(other->key, member->key))
                sp_complain(reader->complainer, member->key_line, reader->path, "written twice, first in line %d",
                            other->key_line);
        }
        sp_schema_read(reader, key->schema, member, item);
        sp_reader_leave(reader, mark);
    }
    *count = node->count;
}

void sp_key_read(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, void *object)
{
    if (node->bad)
        return;
    switch (key->kind) {
    case SP_KEY_MAP:
        sp_schema_read(reader, key->schema, node, (char *)object + key->offset);
        break;
    case SP_KEY_LIST:
    case SP_KEY_NAMED:
        read_members(reader, key, node, object);
        break;
    case SP_KEY_CUSTOM:
        key->read(reader, node, object);
        break;
    default:
        read_scalar(reader, key, node, (char *)object + key->offset);
        break;
    }
}

static void complain_unknown(sp_reader *reader, const sp_schema *schema, const sp_yaml_node *node)
{
    const char *names[KEYS_MAX];
    char all[200] = "";

    for (int i = 0; i < schema->key_count; i++) {
        size_t used = strlen(all);
        names[i] = schema->keys[i].name;
        (void)snprintf(all + used, sizeof(all) - used, "%s%s", i ? ", " : "", names[i]);
    }
    const char *nearest = sp_nearest(node->key, names, schema->key_count);
    if (nearest)
        sp_complain(reader->complainer, node->key_line, reader->path, "unknown key; did you mean %s?", nearest);
    else if (strlen(all) < sizeof(all) - 1)
        sp_complain(reader->complainer, node->key_line, reader->path, "unknown key; here may stand: %s", all);
    else
        sp_complain(reader->complainer, node->key_line, reader->path,
                    "unknown key; deploy/spillway.yaml has all that there are");
}

static void read_map(sp_reader *reader, const sp_schema *schema, const sp_yaml_node *node, void *object)
{
    const sp_yaml_node *seen[KEYS_MAX] = { 0 };

    for (const sp_yaml_node *member = node->first; member; member = member->next) {
        const sp_key *key = sp_schema_find(schema, member->key);
        size_t mark = sp_reader_enter(reader, member->key);
        if (!key)
            complain_unknown(reader, schema, member);
        else if (seen[key - schema->keys])
            sp_complain(reader->complainer, member->key_line, reader->path, "written twice, first in line %d",
                        seen[key - schema->keys]->key_line);
        else
            sp_key_read(reader, key, member, object);
        if (key)
            seen[key - schema->keys] = member;
        sp_reader_leave(reader, mark);
    }
    for (int i = 0; i < schema->key_count; i++) {
        if (schema->keys[i].required && !seen[i])
            sp_reader_complain(reader, node, "%s is missing", schema->keys[i].name);
    }
}

void sp_schema_read(sp_reader *reader, const sp_schema *schema, const sp_yaml_node *node, void *object)
{
    SP_ASSERT(schema->key_count <= KEYS_MAX);
    int errors = reader->complainer->error_count;
    if (schema->init)
        schema->init(object);
    if (node->bad)
        return;
    if (node->kind == SP_YAML_SCALAR && !node->empty && schema->shorthand)
        sp_key_read(reader, sp_schema_find(schema, schema->shorthand), node, object);
    else if (node->kind == SP_YAML_MAP || node->empty)
        read_map(reader, schema, node, object);
    else
        sp_reader_complain(reader, node, "must be a map (%s: ...), not %s", schema->keys[0].name, kind_name(node));
    /* Of keys that could not be read nothing sensible can be said together. */
    if (schema->check && errors == reader->complainer->error_count)
        schema->check(reader, node, object);
}
