/* SPDX-License-Identifier: Apache-2.0
 * YAML text to a small tree of nodes that know their lines, by libyaml's events. Private to this room.
 * Bounded: text, nodes and depth have limits, and aliases are refused, since a few of them can make a small file huge. */
#ifndef SP_CONFIG_TREE_H
#define SP_CONFIG_TREE_H

#include "base/arena.h"
#include "config/complain.h"

/* Largest configuration file. A thousand tokens and every chain written out are under 300 KiB. */
#define SP_LIMIT_CONFIG_BYTES (1024u * 1024)
/* Deepest nesting; chains.<task>.links[].breaker.window is 6 deep. */
#define SP_LIMIT_CONFIG_DEPTH 16
/* Scalars, maps and lists of one file: 1,024 tokens of 11 keys each are 24,000. */
#define SP_LIMIT_CONFIG_NODES 65536

typedef enum sp_yaml_kind { SP_YAML_SCALAR, SP_YAML_MAP, SP_YAML_LIST } sp_yaml_kind;

typedef struct sp_yaml_node {
    sp_yaml_kind kind;
    int line;         /* from 1; 0 = not from a file */
    const char *text; /* scalar; no NUL inside */
    bool empty;       /* a plain scalar without text, "~" or "null": nothing was written */
    bool bad;         /* an alias, which has been complained of */
    int count;        /* of members */
    const char *key;  /* as a member of a map; NULL in a list */
    int key_line;
    struct sp_yaml_node *first, *last, *next; /* members; the next member of its parent */
} sp_yaml_node;

/* *ret_root is NULL when the text holds no document. SP_INVALID: the text is not YAML or passes a limit, and one
 * complaint says where; SP_NOMEM. Nodes live as long as the arena. Aliases and tags make complaints of their own while the
 * parse goes on. */
sp_status sp_yaml_parse(const char *text, size_t text_bytes, sp_arena *arena, sp_complainer *complainer,
                        sp_yaml_node **ret_root, sp_error *reterr);

#endif
