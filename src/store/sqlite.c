/* SPDX-License-Identifier: Apache-2.0
 * SQLite behind statuses. A full disk rolls a whole transaction back inside SQLite; that is noticed here (autocommit is
 * on again), so that no work of the group is told it succeeded. */
#include "store/sqlite.h"

#include "base/fault.h"

#include <stdio.h>

/* How long a statement waits for another process (`spillway results export` reads beside the server). */
#define BUSY_MS 2000

static sp_status status_of(int result)
{
    switch (result & 0xff) {
    case SQLITE_NOMEM:
        return SP_NOMEM;
    case SQLITE_CONSTRAINT:
        return SP_CONFLICT;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return SP_CORRUPT;
    case SQLITE_TOOBIG:
        return SP_TOO_LARGE;
    default:
        return result == SQLITE_IOERR_NOMEM ? SP_NOMEM : SP_UNAVAILABLE;
    }
}

static sp_status fail(sp_sqlite *store, int result, const char *what, sp_error *reterr)
{
    bool full = (result & 0xff) == SQLITE_FULL;
    return sp_error_set(reterr, status_of(result), full ? "disk_full" : "", "sqlite", result, __FILE__, __LINE__, "%s: %s%s", what,
                        sqlite3_errstr(result), full ? "; free some space under the data directory" : "");
}

/* What SQLite itself would have said. */
static int fault(void)
{
    switch (SP_FAULT("store.sqlite")) {
    case SP_FAULT_FAIL:
        return SQLITE_IOERR;
    case SP_FAULT_NOMEM:
        return SQLITE_NOMEM;
    default:
        return SQLITE_OK;
    }
}

static sp_status exec_raw(sp_sqlite *store, const char *sql, sp_error *reterr)
{
    int r = fault();
    if (!r)
        r = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    return r ? fail(store, r, sql, reterr) : SP_OK;
}

sp_status sp_sqlite_exec(sp_sqlite *store, const char *sql, sp_error *reterr)
{
    return exec_raw(store, sql, reterr);
}

sp_status sp_sqlite_open(sp_sqlite *store, const char *path, bool read_only, sp_error *reterr)
{
    *store = (sp_sqlite){ 0 };
    int flags = SQLITE_OPEN_NOMUTEX | (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    int r = sqlite3_open_v2(path, &store->db, flags, NULL);
    if (r) {
        sp_status s = sp_error_set(reterr, status_of(r), "", "sqlite", r, __FILE__, __LINE__, "cannot open %s: %s", path,
                                   store->db ? sqlite3_errmsg(store->db) : sqlite3_errstr(r));
        sp_sqlite_close(store);
        return s;
    }
    (void)sqlite3_extended_result_codes(store->db, 1);
    (void)sqlite3_busy_timeout(store->db, BUSY_MS);
    sp_status s = read_only ? SP_OK : exec_raw(store, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", reterr);
    if (!s)
        s = exec_raw(store, "PRAGMA temp_store=MEMORY", reterr);
    if (s)
        sp_sqlite_close(store);
    return s;
}

void sp_sqlite_close(sp_sqlite *store)
{
    if (store->db)
        (void)sqlite3_close(store->db);
    *store = (sp_sqlite){ 0 };
}

sp_status sp_sqlite_prepare(sp_sqlite *store, const char *sql, sqlite3_stmt **ret_statement, sp_error *reterr)
{
    int r = sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret_statement, NULL);
    if (r)
        return SP_FAIL_FROM(reterr, status_of(r), "sqlite", r, "%.160s: %s", sql, sqlite3_errmsg(store->db));
    return SP_OK;
}

/* After an error: is the group's transaction still there? */
static void look_for_loss(sp_sqlite *store, const sp_error *err)
{
    if (store->grouped && !store->lost && sqlite3_get_autocommit(store->db)) {
        store->lost = true;
        if (err)
            store->why = *err;
    }
}

sp_status sp_sqlite_step(sp_sqlite *store, sqlite3_stmt *statement, bool *ret_row, sp_error *reterr)
{
    int r = fault();
    if (!r)
        r = sqlite3_step(statement);
    if (ret_row)
        *ret_row = r == SQLITE_ROW;
    if (r == SQLITE_ROW)
        return SP_OK;
    (void)sqlite3_reset(statement); /* repeats the step's error */
    if (r == SQLITE_DONE)
        return SP_OK;
    sp_error err = { 0 };
    sp_status s = fail(store, r, "SQLite", &err);
    look_for_loss(store, &err);
    if (reterr)
        *reterr = err;
    return s;
}

sp_status sp_sqlite_begin(sp_sqlite *store, sp_error *reterr)
{
    if (store->lost) {
        if (reterr)
            *reterr = store->why;
        return store->why.status ? store->why.status : SP_UNAVAILABLE;
    }
    if (!store->grouped) {
        sp_status s = exec_raw(store, "BEGIN IMMEDIATE", reterr);
        if (s)
            return s;
        store->grouped = true;
    }
    return exec_raw(store, "SAVEPOINT work", reterr);
}

sp_status sp_sqlite_end(sp_sqlite *store, sp_status s, sp_error *reterr)
{
    sp_error err = { 0 };
    if (store->lost)
        return s ? s : SP_UNAVAILABLE;
    sp_status ended = exec_raw(store, s ? "ROLLBACK TO work; RELEASE work" : "RELEASE work", &err);
    if (!ended)
        return s;
    /* Not known what holds now: nothing of the group may. */
    store->lost = true;
    store->why = err;
    if (!s && reterr)
        *reterr = err;
    return s ? s : ended;
}

sp_status sp_sqlite_commit(sp_sqlite *store, sp_error *reterr)
{
    if (!store->grouped)
        return SP_OK;
    sp_error err = store->why;
    sp_status s = store->lost ? (err.status ? err.status : SP_UNAVAILABLE) : exec_raw(store, "COMMIT", &err);
    if (s && !sqlite3_get_autocommit(store->db))
        (void)sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL); /* the error is told already */
    store->grouped = store->lost = false;
    store->why = (sp_error){ 0 };
    if (s && reterr)
        *reterr = err;
    return s;
}

void sp_sqlite_column_text(sqlite3_stmt *statement, int column, char *ret_text, size_t size_bytes)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    (void)snprintf(ret_text, size_bytes, "%s", text ? (const char *)text : "");
}

sp_view sp_sqlite_column_bytes(sqlite3_stmt *statement, int column)
{
    const void *data = sqlite3_column_blob(statement, column);
    return sp_view_make(data, (size_t)sqlite3_column_bytes(statement, column));
}
