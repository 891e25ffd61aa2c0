/* SPDX-License-Identifier: Apache-2.0
 * Results in data_dir/results.db: a column for each field that is filtered or summed by, the answer's JSON as text.
 *
 *   primary key        (id, tenant)            get, erase, replace
 *   results_time       (unix_ms, id)           pages over all tenants, costs
 *   results_tenant     (tenant, unix_ms, id)   a tenant's pages and costs
 *   results_task       (task, unix_ms)         retention
 * Filters by stream, provider, fallback and text look at the rows that these leave, newest first, until a page is full. */
#include "store/results_internal.h"

#include "store/sqlite.h"

#include <stdio.h>
#include <stdlib.h>

#define SWEEP_ROWS 2000

struct results_store {
    sp_sqlite db;
    sqlite3_stmt *put;
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS results(id TEXT NOT NULL, tenant TEXT NOT NULL, task TEXT NOT NULL, stream TEXT NOT NULL,"
    " provider TEXT NOT NULL, tier TEXT NOT NULL, client_id TEXT NOT NULL, fallback INTEGER NOT NULL, unix_ms INTEGER NOT NULL,"
    " duration_ns INTEGER NOT NULL, device_ns INTEGER NOT NULL, microdollars INTEGER NOT NULL, text TEXT NOT NULL,"
    " cache_key TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY(id, tenant));"
    "CREATE INDEX IF NOT EXISTS results_time ON results(unix_ms, id);"
    "CREATE INDEX IF NOT EXISTS results_tenant ON results(tenant, unix_ms, id);"
    "CREATE INDEX IF NOT EXISTS results_task ON results(task, unix_ms);"
    "PRAGMA user_version = 1";

#define COLUMNS "id, tenant, task, stream, provider, tier, client_id, fallback, unix_ms, duration_ns, device_ns, " \
                "microdollars, text, cache_key"

static void close_store(results_store *store)
{
    if (!store)
        return;
    (void)sqlite3_finalize(store->put);
    sp_sqlite_close(&store->db);
    free(store);
}

static sp_status open_writable(results_store *store, const char *path, sp_error *reterr)
{
    sp_status s = sp_sqlite_open(&store->db, path, false, reterr);
    if (!s)
        s = sp_sqlite_exec(&store->db, schema, reterr);
    if (!s)
        s = sp_sqlite_prepare(&store->db, "INSERT OR REPLACE INTO results(" COLUMNS ", document)"
                              " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", &store->put, reterr);
    return s;
}

static sp_status open_store(const results_host *host, const sp_results_config *config, const char *data_dir, bool read_only,
                            results_store **ret_store, sp_error *reterr)
{
    char path[1024];
    (void)host;
    (void)config;
    (void)snprintf(path, sizeof(path), "%.*s/results.db", (int)sizeof(path) - 64, data_dir);
    results_store *store = calloc(1, sizeof(*store));
    if (!store)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the results' store");
    sp_status s = read_only ? sp_sqlite_open(&store->db, path, true, reterr) : open_writable(store, path, reterr);
    if (s) {
        close_store(store);
        return s;
    }
    *ret_store = store;
    return SP_OK;
}

static sp_status put_one(results_store *store, const results_entry *entry, sp_error *reterr)
{
    for (int i = 0; i < RESULTS_FIELDS; i++) {
        const results_field *field = &results_fields[i];
        const void *at = (const char *)&entry->result + field->offset;
        if (field->kind == RESULTS_TEXT)
            (void)sqlite3_bind_text(store->put, i + 1, at, -1, SQLITE_STATIC);
        else
            (void)sqlite3_bind_int64(store->put, i + 1, field->kind == RESULTS_BOOL ? *(const bool *)at : *(const int64_t *)at);
    }
    (void)sqlite3_bind_text64(store->put, RESULTS_FIELDS + 1, entry->document, entry->document_bytes, SQLITE_STATIC, SQLITE_UTF8);
    return sp_sqlite_step(&store->db, store->put, NULL, reterr);
}

static sp_status put(results_store *store, const results_entry *entries, sp_error *reterr)
{
    sp_status s = sp_sqlite_begin(&store->db, reterr);
    if (!s) {
        for (const results_entry *entry = entries; entry && !s; entry = entry->next)
            s = put_one(store, entry, reterr);
        s = sp_sqlite_end(&store->db, s, s ? NULL : reterr);
    }
    sp_error err = { 0 };
    sp_status committed = sp_sqlite_commit(&store->db, s ? &err : reterr);
    return s ? s : committed;
}

/* --- asking ------------------------------------------------------------------------------------------------------ */

static sp_status prepare_query(results_store *store, const results_ask *ask, sqlite3_stmt **ret_statement, sp_error *reterr)
{
    char sql[1024];
    (void)snprintf(sql, sizeof(sql), "SELECT " COLUMNS ", document FROM results WHERE 1%s%s%s%s%s%s%s%s%s"
                   " ORDER BY unix_ms DESC, id DESC LIMIT ?12",
                   ask->any_tenant ? "" : " AND tenant = ?1", ask->task[0] ? " AND +task = ?2" : "",
                   ask->stream[0] ? " AND stream = ?3" : "", ask->provider[0] ? " AND provider = ?4" : "",
                   ask->text[0] ? " AND text LIKE ?5 ESCAPE '\\'" : "", ask->fallback >= 0 ? " AND fallback = ?6" : "",
                   ask->from_unix_ms > 0 ? " AND unix_ms >= ?7" : "", ask->to_unix_ms > 0 ? " AND unix_ms < ?8" : "",
                   ask->before_id[0] ? " AND (unix_ms, id) < (?9, ?10)" : "");
    sp_status s = sp_sqlite_prepare(&store->db, sql, ret_statement, reterr);
    if (s)
        return s;
    char like[2 * sizeof(ask->text) + 3] = "%";
    size_t n = 1;
    for (const char *c = ask->text; *c; c++) {
        if (strchr("%_\\", *c))
            like[n++] = '\\';
        like[n++] = *c;
    }
    like[n++] = '%';
    sqlite3_stmt *statement = *ret_statement; /* binding what the text does not have is an error without effect */
    (void)sqlite3_bind_text(statement, 1, ask->tenant, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(statement, 2, ask->task, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(statement, 3, ask->stream, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(statement, 4, ask->provider, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(statement, 5, like, (int)n, SQLITE_TRANSIENT);
    (void)sqlite3_bind_int(statement, 6, ask->fallback);
    (void)sqlite3_bind_int64(statement, 7, ask->from_unix_ms);
    (void)sqlite3_bind_int64(statement, 8, ask->to_unix_ms);
    (void)sqlite3_bind_int64(statement, 9, ask->before_unix_ms);
    (void)sqlite3_bind_text(statement, 10, ask->before_id, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int(statement, 12, ask->limit + 1);
    return SP_OK;
}

static void write_row(sqlite3_stmt *statement, sp_buf *json, sp_result *ret_result)
{
    for (int i = 0; i < RESULTS_FIELDS; i++) {
        const results_field *field = &results_fields[i];
        char *at = (char *)ret_result + field->offset;
        if (field->kind == RESULTS_TEXT)
            sp_sqlite_column_text(statement, i, at, field->size_bytes);
        else if (field->kind == RESULTS_BOOL)
            *(bool *)at = sqlite3_column_int(statement, i) != 0;
        else
            *(int64_t *)at = sqlite3_column_int64(statement, i);
    }
    results_write_json(json, ret_result, sp_sqlite_column_bytes(statement, RESULTS_FIELDS));
}

static sp_status query(results_store *store, const results_ask *ask, results_page *page, sp_error *reterr)
{
    sqlite3_stmt *statement = NULL;
    sp_result last = { 0 };
    bool row = true;
    sp_status s = prepare_query(store, ask, &statement, reterr);
    sp_buf_append_text(&page->json, "[");
    while (!s && (s = sp_sqlite_step(&store->db, statement, &row, reterr)) == SP_OK && row) {
        if (page->count == ask->limit || (page->count && page->json.size_bytes > RESULTS_PAGE_BYTES)) {
            results_write_cursor(page->cursor, last.unix_ms, last.id);
            break;
        }
        if (page->count++)
            sp_buf_append_text(&page->json, ",");
        write_row(statement, &page->json, &last);
    }
    sp_buf_append_text(&page->json, "]");
    (void)sqlite3_finalize(statement);
    return s;
}

/* The row of an id; without a tenant the newest that has it. */
static sp_status find(results_store *store, const results_ask *ask, const char *id, const char *what, sqlite3_stmt **ret_statement,
                      sp_error *reterr)
{
    char sql[512];
    bool row = false;
    (void)snprintf(sql, sizeof(sql), "SELECT %s FROM results WHERE %s ORDER BY unix_ms DESC LIMIT 1", what,
                   ask->any_tenant ? "id = ?1" : "id = ?1 AND tenant = ?2");
    sp_status s = sp_sqlite_prepare(&store->db, sql, ret_statement, reterr);
    if (s)
        return s;
    (void)sqlite3_bind_text(*ret_statement, 1, id, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(*ret_statement, 2, ask->tenant, -1, SQLITE_STATIC);
    s = sp_sqlite_step(&store->db, *ret_statement, &row, reterr);
    return s || row ? s : SP_FAIL(reterr, SP_NOT_FOUND, "there is no such result");
}

static sp_status get(results_store *store, const results_ask *ask, const char *id, results_page *page, sp_error *reterr)
{
    sqlite3_stmt *statement = NULL;
    sp_result result = { 0 };
    sp_status s = find(store, ask, id, COLUMNS ", document", &statement, reterr);
    if (!s) {
        write_row(statement, &page->json, &result);
        page->count = 1;
    }
    (void)sqlite3_finalize(statement);
    return s;
}

static sp_status erase(results_store *store, const results_ask *ask, const char *id, results_page *page, sp_error *reterr)
{
    sqlite3_stmt *statement = NULL;
    sp_status s = find(store, ask, id, "rowid, cache_key", &statement, reterr);
    int64_t row = 0;
    if (!s) {
        row = sqlite3_column_int64(statement, 0);
        sp_sqlite_column_text(statement, 1, page->cache_key, sizeof(page->cache_key));
    }
    (void)sqlite3_finalize(statement);
    statement = NULL;
    if (!s)
        s = sp_sqlite_prepare(&store->db, "DELETE FROM results WHERE rowid = ?", &statement, reterr);
    if (!s) {
        (void)sqlite3_bind_int64(statement, 1, row);
        s = sp_sqlite_step(&store->db, statement, NULL, reterr);
    }
    (void)sqlite3_finalize(statement);
    page->count = !s;
    return s;
}

static sp_status costs(results_store *store, const results_ask *ask, results_page *page, sp_error *reterr)
{
    sqlite3_stmt *statement = NULL;
    char sql[512], text[4][64];
    bool row = true;
    (void)snprintf(sql, sizeof(sql), "SELECT task, provider, tier, date(unix_ms / 1000, 'unixepoch') AS day, count(*),"
                   " sum(device_ns), sum(microdollars) FROM results WHERE unix_ms >= ?1%s%s"
                   " GROUP BY day, task, provider, tier ORDER BY day, task, provider, tier LIMIT ?4",
                   ask->to_unix_ms > 0 ? " AND unix_ms < ?2" : "", ask->any_tenant ? "" : " AND tenant = ?3");
    sp_status s = sp_sqlite_prepare(&store->db, sql, &statement, reterr);
    if (!s) {
        (void)sqlite3_bind_int64(statement, 1, ask->from_unix_ms);
        (void)sqlite3_bind_int64(statement, 2, ask->to_unix_ms);
        (void)sqlite3_bind_text(statement, 3, ask->tenant, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int(statement, 4, RESULTS_COST_ROWS);
    }
    sp_buf_append_text(&page->json, "[");
    while (!s && (s = sp_sqlite_step(&store->db, statement, &row, reterr)) == SP_OK && row) {
        for (int i = 0; i < 4; i++)
            sp_sqlite_column_text(statement, i, text[i], sizeof(text[i]));
        results_write_cost(&page->json, page->count++ == 0, text[0], text[1], text[2], text[3], sqlite3_column_int64(statement, 4),
                           sqlite3_column_int64(statement, 5), sqlite3_column_int64(statement, 6));
    }
    sp_buf_append_text(&page->json, "]");
    (void)sqlite3_finalize(statement);
    return s;
}

static sp_status sweep(results_store *store, const char *task, int64_t before_unix_ms, sp_error *reterr)
{
    sqlite3_stmt *statement = NULL;
    sp_status s = sp_sqlite_prepare(&store->db, "DELETE FROM results WHERE rowid IN (SELECT rowid FROM results WHERE task = ?"
                                    " AND unix_ms < ? LIMIT ?)", &statement, reterr);
    if (!s) {
        (void)sqlite3_bind_text(statement, 1, task, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int64(statement, 2, before_unix_ms);
        (void)sqlite3_bind_int(statement, 3, SWEEP_ROWS);
        s = sp_sqlite_step(&store->db, statement, NULL, reterr);
    }
    (void)sqlite3_finalize(statement);
    return s;
}

const results_table results_sqlite_table = { .abi = RESULTS_ABI, .open = open_store, .close = close_store, .put = put, .query = query,
                                             .get = get, .erase = erase, .costs = costs, .sweep = sweep };
