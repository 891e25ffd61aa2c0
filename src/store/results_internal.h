/* SPDX-License-Identifier: Apache-2.0
 * Between results.c (the loop's side, the spool) and the two stores behind it. MongoDB's is a plug-in
 * (libspillway_mongo.so), so this is an ABI with a number of its own.
 *
 * A document, in both stores and in all that they answer:
 *   {"id", "tenant", "task", "stream", "provider", "tier", "client_id", "fallback", "unix_ms", "duration_ns", "device_ns",
 *    "microdollars", "text", "cache_key", "document": the answer's own JSON} */
#ifndef SP_STORE_RESULTS_INTERNAL_H
#define SP_STORE_RESULTS_INTERNAL_H

#include "base/fault.h"
#include "store/results.h"

#define RESULTS_ABI 1
#define RESULTS_MONGO_FILE "libspillway_mongo.so"
#define RESULTS_MONGO_SYMBOL "sp_results_mongo_table"

/* One page's JSON ends when it has grown over this, so that a page of large documents is shorter, not refused. */
#define RESULTS_PAGE_BYTES (8u * 1024 * 1024)
#define RESULTS_JSON_BYTES (64u * 1024 * 1024)
#define RESULTS_ROWS 500 /* rows of one answer; costs: 4,000 */
#define RESULTS_COST_ROWS 4000
#define RESULTS_CURSOR_BYTES 80

typedef struct results_entry {
    sp_result result;
    char *document; /* on one line */
    size_t document_bytes;
    struct results_entry *next;
} results_entry;

/* A filter with its own memory. */
typedef struct results_ask {
    char tenant[48], task[24], stream[64], provider[32], text[256];
    bool any_tenant;
    int fallback;
    int64_t from_unix_ms, to_unix_ms; /* to: exclusive, 0 = none */
    int64_t before_unix_ms;           /* the cursor: documents after (before_unix_ms, before_id) in the order */
    char before_id[48];
    int limit;
} results_ask;

typedef struct results_page {
    sp_buf json;
    int count;
    char cursor[RESULTS_CURSOR_BYTES];
    char cache_key[65];
} results_page;

typedef struct results_store results_store; /* each store's own */

/* What the program lends a plug-in: its fault points live here. */
typedef struct results_host {
    sp_fault_action (*fault)(void); /* `store.mongo`, before each call of the driver */
} results_host;

/* All on the store thread. A put is whole or repeated: the same id replaces. */
typedef struct results_table {
    uint32_t abi;
    sp_status (*open)(const results_host *host, const sp_results_config *config, const char *data_dir, bool read_only,
                      results_store **ret_store, sp_error *reterr);
    void (*close)(results_store *store);
    sp_status (*put)(results_store *store, const results_entry *entries, sp_error *reterr); /* the list */
    sp_status (*query)(results_store *store, const results_ask *ask, results_page *page, sp_error *reterr);
    sp_status (*get)(results_store *store, const results_ask *ask, const char *id, results_page *page, sp_error *reterr);
    sp_status (*erase)(results_store *store, const results_ask *ask, const char *id, results_page *page, sp_error *reterr);
    sp_status (*costs)(results_store *store, const results_ask *ask, results_page *page, sp_error *reterr);
    sp_status (*sweep)(results_store *store, const char *task, int64_t before_unix_ms, sp_error *reterr);
} results_table;
extern const results_table results_sqlite_table;

/* The text fields of a document in their order, "" for those that have none. */
typedef struct results_field {
    const char *name;
    enum { RESULTS_TEXT, RESULTS_BOOL, RESULTS_INT64 } kind;
    size_t offset, size_bytes;
} results_field;
#define RESULTS_FIELDS 14
extern const results_field results_fields[RESULTS_FIELDS];

/* {"id":...,"document":DOCUMENT} */
void results_write_json(sp_buf *json, const sp_result *result, sp_view document);
/* "1700000000000:id" and back; a bad cursor is SP_INVALID. */
void results_write_cursor(char *ret_cursor, int64_t unix_ms, const char *id);
sp_status results_read_cursor(const char *cursor, results_ask *ask, sp_error *reterr);
/* One row of costs. */
void results_write_cost(sp_buf *json, bool first, const char *task, const char *provider, const char *tier, const char *day,
                        int64_t requests, int64_t device_ns, int64_t microdollars);

/* The store that `config` names, opened: SQLite under data_dir or the plug-in's. */
sp_status results_store_open(const sp_results_config *config, const char *data_dir, bool read_only,
                             const results_table **ret_table, results_store **ret_store, sp_error *reterr);
sp_status results_ask_of(const sp_result_filter *filter, results_ask *ret_ask, sp_error *reterr);

#endif
