/* SPDX-License-Identifier: Apache-2.0
 * Every key of spillway.yaml, as tables. Private to this room. */
#ifndef SP_CONFIG_KEYS_H
#define SP_CONFIG_KEYS_H

#include "config/schema.h"

extern const sp_schema sp_config_schema; /* of sp_config: the whole file */
extern const sp_schema sp_chain_schema;  /* keys_chain.c: sp_chain_config */
extern const sp_schema sp_remote_schema; /* keys_remote.c: sp_remote_config */
extern const sp_schema sp_secret_schema; /* keys_remote.c: sp_secret */
extern const sp_schema sp_token_schema;  /* keys_token.c: sp_token_config */
extern const sp_schema sp_tracing_schema; /* keys_tracing.c: sp_tracing_config */
extern const sp_schema sp_price_schema;  /* keys_chain.c: sp_price */
extern const sp_schema sp_rates_schema;  /* keys.c: of sp_config, the content of rates.yaml under the key `rates` */

/* Rows of the tables. `type` is the struct that the schema is of. */
#define SP_ROW(type, word, key_kind, member) .name = (word), .kind = (key_kind), .offset = offsetof(type, member)
#define SP_ROW_TEXT(type, word, member) { SP_ROW(type, word, SP_KEY_TEXT, member), .size = sizeof(((type *)0)->member) }
#define SP_ROW_NUMBER(type, word, key_kind, member, low, high)                                                         \
    { SP_ROW(type, word, key_kind, member), .least = (low), .most = (high) }
#define SP_ROW_MAP(type, word, member, of)                                                                             \
    { SP_ROW(type, word, SP_KEY_MAP, member), .size = sizeof(((type *)0)->member), .schema = (of) }

#define SP_NS_OF_S(seconds) ((int64_t)(seconds) * 1000000000)
#define SP_S_OF_DAYS(days) ((int64_t)(days) * 86400)

/* Rates of one file; the clouds' price lists that anybody copies whole are shorter. */
#define SP_LIMIT_RATES 256
/* Chains: one a task. */
#define SP_LIMIT_CHAINS 16
/* The nodes of the largest file, and their texts. */
#define SP_CONFIG_ARENA_BYTES (SP_LIMIT_CONFIG_NODES * (sizeof(sp_yaml_node) + 128) + 2 * SP_LIMIT_CONFIG_BYTES)
/* An enum that no key has set. */
#define SP_CONFIG_UNSET (-1)

/* The whole file, NUL behind it; the caller frees. NULL: *reterr says why (SP_NOT_FOUND, SP_INVALID when it is no file or
 * too large, SP_NOMEM). */
char *sp_config_read_file(const char *path, size_t *ret_bytes, sp_error *reterr);

/* What `rates:` needs beside the node: where a path that is not absolute begins. */
void sp_keys_set_base(const char *config_path); /* thread-local; NULL = the working directory */

#endif
