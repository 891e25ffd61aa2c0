/* SPDX-License-Identifier: Apache-2.0
 * What jobs and results share of SQLite: one connection of one store thread, WAL, synchronous=FULL, one transaction for a
 * group of works with a savepoint around each, statuses instead of result codes. Knows no table.
 *
 *   begin (first write of a group) - mark - statements - keep | undo - mark ... - commit (the group's end: one fsync)
 *
 * Fault point `store.sqlite`: each statement's step, each BEGIN, SAVEPOINT and COMMIT. */
#ifndef SP_STORE_SQLITE_H
#define SP_STORE_SQLITE_H

#include "base/status.h"
#include "base/view.h"

#include <sqlite3.h>

typedef struct sp_sqlite {
    sqlite3 *db;
    bool grouped; /* a group's transaction is open */
    bool lost;    /* it failed as a whole: commit says so */
    sp_error why;
} sp_sqlite;

/* Makes the file when it is missing (`read_only` false). SP_CORRUPT: it is no database; SP_UNAVAILABLE: the rest. */
sp_status sp_sqlite_open(sp_sqlite *store, const char *path, bool read_only, sp_error *reterr);
void sp_sqlite_close(sp_sqlite *store); /* statements are finalised before */

sp_status sp_sqlite_exec(sp_sqlite *store, const char *sql, sp_error *reterr);
sp_status sp_sqlite_prepare(sp_sqlite *store, const char *sql, sqlite3_stmt **ret_statement, sp_error *reterr);
/* One row or the end; the statement is reset at the end and after an error. ret_row may be NULL when none can come. */
sp_status sp_sqlite_step(sp_sqlite *store, sqlite3_stmt *statement, bool *ret_row, sp_error *reterr);

sp_status sp_sqlite_begin(sp_sqlite *store, sp_error *reterr); /* of the group, when it is not open yet; and a mark */
/* Ends the mark: `s` SP_OK keeps what was done since, any other undoes it. Returns `s`, or what went wrong with it. */
sp_status sp_sqlite_end(sp_sqlite *store, sp_status s, sp_error *reterr);
/* Ends the group; nothing open = SP_OK. An error means that nothing of the group holds. */
sp_status sp_sqlite_commit(sp_sqlite *store, sp_error *reterr);

/* The column's text into `ret_text`, cut to its size. */
void sp_sqlite_column_text(sqlite3_stmt *statement, int column, char *ret_text, size_t size_bytes);
sp_view sp_sqlite_column_bytes(sqlite3_stmt *statement, int column); /* until the next step */

#endif
