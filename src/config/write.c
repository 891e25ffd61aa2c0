/* SPDX-License-Identifier: Apache-2.0
 * Writing by schema; see schema.h. */
#include "config/schema.h"

#include "config/value.h"

#include <stdio.h>
#include <string.h>

void sp_writer_key(sp_writer *writer, const char *name)
{
    if (writer->dashed)
        sp_buf_printf(writer->out, "%*s- ", writer->indent - 2, "");
    else
        sp_buf_printf(writer->out, "%*s", writer->indent, "");
    writer->dashed = false;
    sp_buf_printf(writer->out, "%s:", name);
}

/* Plain where that reads back the same: the words and numbers that we write ourselves, names, paths and URLs. */
static bool plain(const char *text)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./$*";
    static const char inside[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+@$*%=";

    if (*text == '-' && text[1] >= '0' && text[1] <= '9')
        text++; /* a number below zero */
    if (!*text || !strchr(safe, *text) || *text == '*' || !strcmp(text, "null") || !strcmp(text, "Null") ||
        !strcmp(text, "NULL"))
        return false;
    for (const char *p = text; *p; p++) {
        bool url = *p == ':' && p[1] && p[1] != ' ';
        if (!strchr(inside, *p) && !url)
            return false;
    }
    return true;
}

static void append_scalar(sp_writer *writer, const char *text)
{
    if (plain(text)) {
        sp_buf_append_text(writer->out, text);
        return;
    }
    sp_buf_append_text(writer->out, "'");
    for (const char *p = text; *p; p++)
        sp_buf_append(writer->out, *p == '\'' ? "''" : p, *p == '\'' ? 2 : 1);
    sp_buf_append_text(writer->out, "'");
}

void sp_writer_scalar(sp_writer *writer, const char *text)
{
    sp_buf_append_text(writer->out, " ");
    append_scalar(writer, text);
    sp_buf_append_text(writer->out, "\n");
}

void sp_writer_item(sp_writer *writer, const char *text)
{
    sp_buf_printf(writer->out, "%*s- ", writer->indent, "");
    append_scalar(writer, text);
    sp_buf_append_text(writer->out, "\n");
}

/* "redis://user:***@host": what stands between the scheme's // and the last @ before the path. */
static void write_url(sp_writer *writer, const char *url)
{
    char hidden[600];
    const char *rest = strstr(url, "://");
    const char *authority = rest ? rest + 3 : url, *end = authority + strcspn(authority, "/?#"), *at = NULL;

    for (const char *p = authority; p < end; p++)
        at = *p == '@' ? p : at;
    const char *colon = at ? memchr(authority, ':', (size_t)(at - authority)) : NULL;
    if (!writer->hide || !colon) {
        sp_writer_scalar(writer, url);
        return;
    }
    (void)snprintf(hidden, sizeof(hidden), "%.*s***%s", (int)(colon + 1 - url), url, at);
    sp_writer_scalar(writer, hidden);
}

static void write_scalar(sp_writer *writer, const sp_key *key, const void *field)
{
    char text[SP_VALUE_TEXT_BYTES];

    switch (key->kind) {
    case SP_KEY_INT:
        (void)snprintf(text, sizeof(text), "%d", *(const int *)field);
        break;
    case SP_KEY_LONG:
        (void)snprintf(text, sizeof(text), "%lld", (long long)*(const int64_t *)field);
        break;
    case SP_KEY_BOOL:
        (void)snprintf(text, sizeof(text), "%s", *(const bool *)field ? "true" : "false");
        break;
    case SP_KEY_DOUBLE:
        sp_value_double_text(*(const double *)field, text);
        break;
    case SP_KEY_NS:
        sp_value_duration_text(*(const int64_t *)field, text);
        break;
    case SP_KEY_SECONDS:
        sp_value_duration_text(*(const int64_t *)field * 1000000000, text);
        break;
    case SP_KEY_BYTES:
        sp_value_size_text(*(const uint64_t *)field, text);
        break;
    case SP_KEY_MONEY:
        sp_value_money_text(*(const int64_t *)field, text);
        break;
    case SP_KEY_DATE:
        sp_value_date_text(*(const int64_t *)field, text);
        break;
    default:
        (void)snprintf(text, sizeof(text), "%s", key->words[*(const int *)field]);
        break;
    }
    sp_writer_key(writer, key->name);
    sp_writer_scalar(writer, text);
}

static void write_members(sp_writer *writer, const sp_key *key, const void *object)
{
    const char *field = (const char *)object + key->offset;
    int count = *(const int *)(const void *)((const char *)object + key->count_offset);
    const char *items = key->heap ? *(const char *const *)(const void *)field : field;
    bool named = key->kind == SP_KEY_NAMED;

    if (!count)
        return;
    sp_writer_key(writer, key->name);
    sp_buf_append_text(writer->out, "\n");
    for (int i = 0; i < count; i++) {
        const char *item = items + (size_t)i * key->size;
        writer->indent += 2;
        if (named) {
            sp_buf_printf(writer->out, "%*s", writer->indent, "");
            append_scalar(writer, item);
            sp_buf_append_text(writer->out, ":\n");
        }
        writer->indent += 2;
        writer->dashed = !named;
        sp_schema_write(writer, key->schema, item);
        writer->dashed = false;
        writer->indent -= 4;
    }
}

static bool is_zero(const void *data, size_t size_bytes)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < size_bytes; i++) {
        if (p[i])
            return false;
    }
    return true;
}

/* A map in which nothing is set is left out; what is written instead reads back to the same. */
static void write_map(sp_writer *writer, const sp_key *key, const void *field)
{
    if (is_zero(field, key->size))
        return;
    sp_writer_key(writer, key->name);
    sp_buf_append_text(writer->out, "\n");
    writer->indent += 2;
    sp_schema_write(writer, key->schema, field);
    writer->indent -= 2;
}

void sp_schema_write(sp_writer *writer, const sp_schema *schema, const void *object)
{
    for (int i = 0; i < schema->key_count; i++) {
        const sp_key *key = &schema->keys[i];
        const void *field = (const char *)object + key->offset;
        if (key->kind == SP_KEY_TEXT) {
            if (!*(const char *)field)
                continue;
            sp_writer_key(writer, key->name);
            if (key->secret)
                write_url(writer, field);
            else
                sp_writer_scalar(writer, field);
        } else if (key->kind == SP_KEY_MAP) {
            write_map(writer, key, field);
        } else if (key->kind == SP_KEY_LIST || key->kind == SP_KEY_NAMED) {
            write_members(writer, key, object);
        } else if (key->kind == SP_KEY_CUSTOM) {
            key->write(writer, key, object);
        } else if (key->kind == SP_KEY_DATE && !*(const int64_t *)field) {
            continue;
        } else {
            write_scalar(writer, key, field);
        }
    }
}
