/* SPDX-License-Identifier: Apache-2.0
 * The language in which keys.c says what may stand in a configuration, and the two who read it: one that fills structs
 * from a tree of YAML nodes and complains of everything at once, and one that writes structs back as YAML (config show,
 * and what net workers get). Private to this room. */
#ifndef SP_CONFIG_SCHEMA_H
#define SP_CONFIG_SCHEMA_H

#include "config/tree.h"

typedef struct sp_reader {
    sp_complainer *complainer;
    char path[160]; /* of the node in hand: "chains.classify.links[0]" */
    bool failed;    /* no memory */
} sp_reader;

typedef struct sp_writer {
    sp_buf *out;
    int indent;
    bool dashed; /* the next key stands behind a "- " that has been written */
    bool hide;   /* passwords inside URLs become *** */
} sp_writer;

typedef enum sp_key_kind {
    SP_KEY_TEXT,    /* char[size] */
    SP_KEY_INT,     /* int */
    SP_KEY_LONG,    /* int64_t */
    SP_KEY_BOOL,    /* bool */
    SP_KEY_DOUBLE,  /* double */
    SP_KEY_NS,      /* int64_t, a duration */
    SP_KEY_SECONDS, /* int64_t, a duration in whole seconds */
    SP_KEY_BYTES,   /* uint64_t */
    SP_KEY_MONEY,   /* int64_t, microdollars */
    SP_KEY_DATE,    /* int64_t, unix seconds */
    SP_KEY_WORD,    /* int (an enum), index in `words` */
    SP_KEY_MAP,     /* a struct of `schema` at offset */
    SP_KEY_LIST,    /* structs of `schema`, int count at count_offset */
    SP_KEY_NAMED,   /* the same as a map; a member's key goes into the struct's first field, char[name_bytes] */
    SP_KEY_CUSTOM
} sp_key_kind;

struct sp_schema;
typedef struct sp_key {
    const char *name;
    sp_key_kind kind;
    size_t offset, size; /* in the struct; of a text, or of one item */
    int64_t least, most; /* of numbers, in the units of the field; most items */
    bool required;
    bool heap;    /* LIST, NAMED: the field is a pointer, allocated for as many as there are; else an array */
    bool secret;  /* a URL that may hold a password */
    bool outside; /* the environment and the command line may set it */
    size_t count_offset, name_bytes;
    const char *const *words; /* ends with NULL */
    const struct sp_schema *schema;
    /* CUSTOM: of the whole struct, not of the field. */
    void (*read)(sp_reader *reader, const sp_yaml_node *node, void *object);
    void (*write)(sp_writer *writer, const struct sp_key *key, const void *object);
} sp_key;

typedef struct sp_schema {
    const char *what; /* "a link" */
    const sp_key *keys;
    int key_count;
    const char *shorthand;      /* the key that a plain scalar in place of the map stands for; NULL = none */
    void (*init)(void *object); /* sets what holds without being written, in zeroed memory; NULL = nothing */
    void (*check)(sp_reader *reader, const sp_yaml_node *node, void *object); /* of the keys together; may be NULL */
} sp_schema;

void sp_reader_complain(sp_reader *reader, const sp_yaml_node *node, const char *format, ...) SP_PRINTF(3, 4);
/* Extends the path by ".name" or "[index]"; returns what sp_reader_leave gets back. */
size_t sp_reader_enter(sp_reader *reader, const char *name);
size_t sp_reader_enter_index(sp_reader *reader, int index);
void sp_reader_leave(sp_reader *reader, size_t mark);

void sp_schema_read(sp_reader *reader, const sp_schema *schema, const sp_yaml_node *node, void *object);
void sp_key_read(sp_reader *reader, const sp_key *key, const sp_yaml_node *node, void *object);
const sp_key *sp_schema_find(const sp_schema *schema, const char *name);
const sp_yaml_node *sp_yaml_get(const sp_yaml_node *map, const char *name); /* NULL map or none: NULL */
/* Copies a scalar into char[size], or complains. */
void sp_reader_text(sp_reader *reader, const sp_yaml_node *node, char *ret_text, size_t size);

void sp_schema_write(sp_writer *writer, const sp_schema *schema, const void *object);
void sp_writer_key(sp_writer *writer, const char *name);    /* indentation and "name:" */
void sp_writer_scalar(sp_writer *writer, const char *text); /* " text\n", quoted where it must be */
void sp_writer_item(sp_writer *writer, const char *text);   /* "- text\n" */

#endif
