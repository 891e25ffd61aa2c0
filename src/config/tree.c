/* SPDX-License-Identifier: Apache-2.0
 * See tree.h. */
#include "config/tree.h"

#include <string.h>
#include <yaml.h>

typedef struct builder {
    sp_arena *arena;
    sp_complainer *complainer;
    sp_yaml_node *root;
    sp_yaml_node *stack[SP_LIMIT_CONFIG_DEPTH];
    const char *keys[SP_LIMIT_CONFIG_DEPTH]; /* of the member that comes next; NULL = the key itself comes next */
    int key_lines[SP_LIMIT_CONFIG_DEPTH];
    int depth, node_count, documents;
} builder;

static sp_status complain_and_stop(builder *b, int line, const char *what, sp_error *reterr)
{
    sp_complain(b->complainer, line, "", "%s", what);
    return SP_FAIL(reterr, SP_INVALID, "%s", what);
}

static bool is_empty(const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;

    return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || !strcmp(text, "~") || !strcmp(text, "null") || !strcmp(text, "Null") || !strcmp(text, "NULL"));
}

/* The text of a scalar in the arena. What a terminal would obey instead of showing is refused here, once for all keys. */
static const char *scalar_text(builder *b, const yaml_event_t *event, int line)
{
    const char *text = (const char *)event->data.scalar.value;
    char *copy = sp_arena_get(b->arena, event->data.scalar.length + 1);

    if (!copy)
        return NULL;
    memcpy(copy, text, event->data.scalar.length);
    copy[event->data.scalar.length] = '\0';
    for (size_t i = 0; i < event->data.scalar.length; i++) {
        if ((unsigned char)copy[i] < ' ' || copy[i] == 0x7f) {
            if (copy[i] != '\n' || event->data.scalar.style == YAML_DOUBLE_QUOTED_SCALAR_STYLE)
                sp_complain(b->complainer, line, "", "a text holds the control character 0x%02x; remove it",
                            (unsigned)copy[i] & 0xffu);
            copy[i] = '\0';
            break;
        }
    }
    return copy;
}

static void link_in(builder *b, sp_yaml_node *node)
{
    if (!b->depth) {
        b->root = node;
        return;
    }
    sp_yaml_node *parent = b->stack[b->depth - 1];
    if (parent->kind == SP_YAML_MAP) {
        node->key = b->keys[b->depth - 1];
        node->key_line = b->key_lines[b->depth - 1];
        b->keys[b->depth - 1] = NULL;
    }
    if (parent->last)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    parent->count++;
}

static bool expects_key(const builder *b)
{
    return b->depth && b->stack[b->depth - 1]->kind == SP_YAML_MAP && !b->keys[b->depth - 1];
}

static sp_status add_node(builder *b, const yaml_event_t *event, sp_yaml_kind kind, sp_error *reterr)
{
    int line = (int)event->start_mark.line + 1;

    if (++b->node_count > SP_LIMIT_CONFIG_NODES)
        return complain_and_stop(b, line, "more than 65536 values; a configuration this large is refused", reterr);
    if (expects_key(b)) {
        if (kind != SP_YAML_SCALAR)
            return complain_and_stop(b, line, "a key must be a word, not a list or a map", reterr);
        b->keys[b->depth - 1] = scalar_text(b, event, line);
        b->key_lines[b->depth - 1] = line;
        return b->keys[b->depth - 1] ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration");
    }
    sp_yaml_node *node = sp_arena_get_zero(b->arena, sizeof(*node));
    if (!node)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration");
    node->kind = kind;
    node->line = line;
    node->text = "";
    if (kind == SP_YAML_SCALAR && event->type == YAML_SCALAR_EVENT) {
        node->text = scalar_text(b, event, line);
        node->empty = is_empty(event);
        if (!node->text)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration");
    } else if (kind == SP_YAML_SCALAR) {
        node->bad = true;
    }
    link_in(b, node);
    if (kind == SP_YAML_SCALAR)
        return SP_OK;
    if (b->depth == SP_LIMIT_CONFIG_DEPTH)
        return complain_and_stop(b, line, "nested deeper than 16; a configuration this deep is refused", reterr);
    b->keys[b->depth] = NULL;
    b->stack[b->depth++] = node;
    return SP_OK;
}

static sp_status take_event(builder *b, const yaml_event_t *event, sp_error *reterr)
{
    int line = (int)event->start_mark.line + 1;

    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++b->documents > 1)
            return complain_and_stop(
                b, line, "a second document begins here; a configuration is one document (remove the ---)", reterr);
        return SP_OK;
    case YAML_ALIAS_EVENT:
        sp_complain(b->complainer, line, "", "aliases (*%s) are not read; write the value out",
                    (const char *)event->data.alias.anchor);
        if (expects_key(b))
            return SP_FAIL(reterr, SP_INVALID, "an alias as a key");
        return add_node(b, event, SP_YAML_SCALAR, reterr);
    case YAML_SCALAR_EVENT:
        if (event->data.scalar.tag)
            sp_complain(b->complainer, line, "", "tags (%s) are not read; remove it",
                        (const char *)event->data.scalar.tag);
        return add_node(b, event, SP_YAML_SCALAR, reterr);
    case YAML_SEQUENCE_START_EVENT:
        return add_node(b, event, SP_YAML_LIST, reterr);
    case YAML_MAPPING_START_EVENT:
        return add_node(b, event, SP_YAML_MAP, reterr);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        b->depth--;
        return SP_OK;
    default:
        return SP_OK;
    }
}

static sp_status fail_parser(builder *b, const yaml_parser_t *parser, sp_error *reterr)
{
    char what[200];
    size_t line = parser->problem_mark.line + 1;

    if (parser->error == YAML_MEMORY_ERROR)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration");
    if (parser->error == YAML_READER_ERROR) { /* has an offset, no line */
        (void)snprintf(what, sizeof(what), "not UTF-8 text at byte %zu: %s", parser->problem_offset,
                       parser->problem ? parser->problem : "");
        line = 1;
    } else {
        (void)snprintf(what, sizeof(what), "not YAML: %s%s%s", parser->problem ? parser->problem : "cannot be read",
                       parser->context ? ", " : "", parser->context ? parser->context : "");
    }
    return complain_and_stop(b, (int)line, what, reterr);
}

sp_status sp_yaml_parse(const char *text, size_t text_bytes, sp_arena *arena, sp_complainer *complainer,
                        sp_yaml_node **ret_root, sp_error *reterr)
{
    builder b = { .arena = arena, .complainer = complainer };
    yaml_parser_t parser;
    sp_status status = SP_OK;
    bool more = true;

    *ret_root = NULL;
    if (text_bytes > SP_LIMIT_CONFIG_BYTES)
        return complain_and_stop(&b, 1, "larger than 1 MiB; a configuration this large is refused", reterr);
    if (!yaml_parser_initialize(&parser))
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, text_bytes);
    while (more && !status) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            status = fail_parser(&b, &parser, reterr);
            break;
        }
        status = take_event(&b, &event, reterr);
        more = event.type != YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    if (!status && b.root && b.root->kind == SP_YAML_SCALAR && b.root->empty)
        b.root = NULL; /* "---" and nothing */
    if (!status)
        *ret_root = b.root;
    return status;
}
