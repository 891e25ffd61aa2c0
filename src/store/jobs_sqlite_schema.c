/* SPDX-License-Identifier: Apache-2.0
 * The SQLite jobs: tables, indexes, statements, opening and closing.
 *
 *   jobs     one row a job, the fields of sp_job and: body_kind, deaths, lease_ns
 *   bodies   inline bodies (longer ones are files), apart from the rows that are rewritten with each renewal
 *   results  likewise
 *
 *   jobs_key      (tenant, idempotency_key)            add: is it known?
 *   jobs_queue    (priority down, created, id)         claim: the best one; queued only
 *   jobs_lease    (lease_ns)                           claim: those whose owner has gone; running only
 *   jobs_tenant   (tenant, id)                         list, newest first (ids sort by time)
 *   jobs_expires  (expires_unix_ms)                    sweep
 *   jobs_webhook  (webhook_at_unix_ms)                 webhooks that are due; pending only */
#include "store/jobs_sqlite.h"

#include "store/directory.h"

#include <stdio.h>
#include <stdlib.h>

#define SCHEMA_VERSION 1

static const char indexes[] =
    "CREATE TABLE IF NOT EXISTS bodies(job INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS results(job INTEGER PRIMARY KEY, result BLOB NOT NULL);"
    "CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs(tenant, idempotency_key) WHERE idempotency_key <> '';"
    "CREATE INDEX IF NOT EXISTS jobs_queue ON jobs(priority DESC, created_unix_ms, id) WHERE state = 0;"
    "CREATE INDEX IF NOT EXISTS jobs_lease ON jobs(lease_ns) WHERE state = 1;"
    "CREATE INDEX IF NOT EXISTS jobs_tenant ON jobs(tenant, id);"
    "CREATE INDEX IF NOT EXISTS jobs_expires ON jobs(expires_unix_ms) WHERE expires_unix_ms > 0;"
    "CREATE INDEX IF NOT EXISTS jobs_webhook ON jobs(webhook_at_unix_ms) WHERE webhook_pending = 1;"
    "PRAGMA user_version = 1";

/* ?F = the fields' names, ?V = a parameter each. */
static const char *const statement_texts[JOBS_STATEMENTS] = {
    [JOBS_S_INSERT] = "INSERT INTO jobs(?F, body_kind) VALUES (?V, ?)",
    [JOBS_S_INSERT_BODY] = "INSERT INTO bodies(job, body) VALUES (?, ?)",
    [JOBS_S_BY_ID] = "SELECT ?F, row, body_kind, deaths FROM jobs WHERE id = ?",
    [JOBS_S_BY_KEY] = "SELECT ?F, row, body_kind, deaths FROM jobs WHERE tenant = ? AND idempotency_key = ?"
                      " AND idempotency_key <> ''",
    [JOBS_S_BODY] = "SELECT body FROM bodies WHERE job = ?",
    [JOBS_S_RESULT] = "SELECT result FROM results WHERE job = ?",
    [JOBS_S_PUT_RESULT] = "INSERT OR REPLACE INTO results(job, result) VALUES (?, ?)",
    [JOBS_S_NEXT] = "SELECT ?F, row, body_kind, deaths FROM jobs WHERE state = 0"
                    " ORDER BY priority DESC, created_unix_ms, id LIMIT 1",
    [JOBS_S_STALE] = "SELECT ?F, row, body_kind, deaths FROM jobs WHERE state = 1 AND lease_ns < ? LIMIT 1",
    [JOBS_S_START] = "UPDATE jobs SET state = 1, fence = fence + 1, tries = tries + 1, started_unix_ms = ?2, lease_ns = ?3,"
                     " progress_percent = 0 WHERE row = ?1",
    [JOBS_S_RENEW] = "UPDATE jobs SET progress_percent = ?2, lease_ns = ?3 WHERE row = ?1",
    [JOBS_S_REQUEUE] = "UPDATE jobs SET state = 0, tries = ?2, deaths = ?3, lease_ns = 0, progress_percent = 0 WHERE row = ?1",
    [JOBS_S_END] = "UPDATE jobs SET state = ?2, finished_unix_ms = ?3, expires_unix_ms = ?4, webhook_pending = ?5,"
                   " webhook_at_unix_ms = ?3, progress_percent = ?6, lease_ns = 0, body_kind = 0 WHERE row = ?1",
    [JOBS_S_DELETE] = "DELETE FROM jobs WHERE row = ?",
    [JOBS_S_DELETE_BODY] = "DELETE FROM bodies WHERE job = ?",
    [JOBS_S_DELETE_RESULT] = "DELETE FROM results WHERE job = ?",
    [JOBS_S_WEBHOOKS] = "SELECT ?F FROM jobs WHERE webhook_pending = 1 AND webhook_at_unix_ms <= ?"
                        " ORDER BY webhook_at_unix_ms LIMIT ?",
    [JOBS_S_WEBHOOK] = "UPDATE jobs SET webhook_pending = ?2, webhook_tries = ?3, webhook_at_unix_ms = ?4 WHERE id = ?1",
    [JOBS_S_WEBHOOKS_NOW] = "UPDATE jobs SET webhook_at_unix_ms = 0 WHERE webhook_pending = 1",
    [JOBS_S_EXPIRED] = "SELECT ?F, row, body_kind, deaths FROM jobs WHERE expires_unix_ms > 0 AND expires_unix_ms < ?"
                       " AND state <> 1 ORDER BY expires_unix_ms LIMIT 1",
    [JOBS_S_COUNT] = "SELECT count(*) FROM jobs WHERE state = 0",
};

static void append_fields(sp_buf *sql, bool values)
{
    for (int i = 0; i < JOBS_FIELDS; i++)
        sp_buf_printf(sql, "%s%s", i ? ", " : "", values ? "?" : jobs_fields[i].name);
}

/* Replaces ?F and ?V. */
static void append_statement(sp_buf *sql, const char *text)
{
    for (; *text; text++) {
        if (text[0] == '?' && (text[1] == 'F' || text[1] == 'V'))
            append_fields(sql, *++text == 'V');
        else
            sp_buf_append(sql, text, 1);
    }
}

static sp_status prepare(jobs_store *store, const char *text, sqlite3_stmt **ret_statement, sp_error *reterr)
{
    sp_buf sql;
    sp_buf_init(&sql, 8192);
    append_statement(&sql, text);
    sp_status s = sp_buf_ok(&sql) ? sp_sqlite_prepare(&store->db, (const char *)sql.data, ret_statement, reterr) :
                                    SP_FAIL(reterr, SP_NOMEM, "no memory for a statement");
    sp_buf_done(&sql);
    return s;
}

sp_status jobs_sqlite_prepare_list(jobs_store *store, const jobs_op *op, sqlite3_stmt **ret_statement, sp_error *reterr)
{
    char text[256];
    (void)snprintf(text, sizeof(text), "SELECT ?F FROM jobs WHERE 1%s%s%s%s ORDER BY id DESC LIMIT ?5",
                   op->any_tenant ? "" : " AND tenant = ?1", op->job.task[0] ? " AND task = ?2" : "",
                   op->state >= 0 ? " AND +state = ?3" : "", op->cursor[0] ? " AND id < ?4" : "");
    sp_status s = prepare(store, text, ret_statement, reterr);
    if (s)
        return s;
    /* Binding one that the text does not have is an error without effect. */
    (void)sqlite3_bind_text(*ret_statement, 1, op->job.tenant, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(*ret_statement, 2, op->job.task, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int(*ret_statement, 3, op->state);
    (void)sqlite3_bind_text(*ret_statement, 4, op->cursor, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int(*ret_statement, 5, op->limit + 1);
    return SP_OK;
}

static sp_status make_table(jobs_store *store, sp_error *reterr)
{
    sp_buf sql;
    sp_buf_init(&sql, 8192);
    sp_buf_append_text(&sql, "CREATE TABLE IF NOT EXISTS jobs(row INTEGER PRIMARY KEY");
    for (int i = 0; i < JOBS_FIELDS; i++) {
        const jobs_field *field = &jobs_fields[i];
        sp_buf_printf(&sql, ", %s %s NOT NULL%s", field->name,
                      field->kind == JOBS_TEXT ? "TEXT" : field->kind == JOBS_SHA256 ? "BLOB" : "INTEGER", i ? "" : " UNIQUE");
    }
    sp_buf_append_text(&sql, ", body_kind INTEGER NOT NULL, deaths INTEGER NOT NULL DEFAULT 0, lease_ns INTEGER NOT NULL DEFAULT 0)");
    sp_status s = sp_buf_ok(&sql) ? sp_sqlite_exec(&store->db, (const char *)sql.data, reterr) :
                                    SP_FAIL(reterr, SP_NOMEM, "no memory for the jobs' table");
    sp_buf_done(&sql);
    return s ? s : sp_sqlite_exec(&store->db, indexes, reterr);
}

static sp_status read_number(jobs_store *store, sqlite3_stmt *statement, int64_t *ret_value, sp_error *reterr)
{
    bool row = false;
    sp_status s = sp_sqlite_step(&store->db, statement, &row, reterr);
    *ret_value = !s && row ? sqlite3_column_int64(statement, 0) : 0;
    (void)sqlite3_reset(statement);
    return s;
}

static sp_status check_version(jobs_store *store, const char *path, sp_error *reterr)
{
    sqlite3_stmt *statement = NULL;
    int64_t version = 0;
    sp_status s = sp_sqlite_prepare(&store->db, "PRAGMA user_version", &statement, reterr);
    if (!s)
        s = read_number(store, statement, &version, reterr);
    (void)sqlite3_finalize(statement);
    if (!s && version > SCHEMA_VERSION)
        s = SP_FAIL(reterr, SP_UNSUPPORTED, "%.160s was written by a newer Spillway (format %d, this one knows %d)", path,
                    (int)version, SCHEMA_VERSION);
    return s;
}

/* A file is wanted when a job names it: bodies and parts by one that is not over, reports by any. */
static bool file_is_wanted(const char *name, void *context)
{
    jobs_store *store = context;
    sqlite3_stmt *statement = store->statements[JOBS_S_BY_ID];
    char id[SP_LIMIT_JOB_ID_BYTES];
    char kind = jobs_sqlite_file_kind(name, id);
    int state = 0;
    while (strcmp(jobs_fields[state].name, "state") != 0)
        state++;
    (void)sqlite3_bind_text(statement, 1, kind ? id : name, -1, SQLITE_TRANSIENT);
    bool row = false;
    if (sp_sqlite_step(&store->db, statement, &row, NULL))
        return true; /* not known: kept */
    bool wanted = row && (kind == 'r' || (kind == 'p' && sqlite3_column_int(statement, state) <= SP_JOB_RUNNING) ||
                          (!kind && sqlite3_column_int(statement, JOBS_FIELDS + 1) == JOBS_BODY_FILE));
    (void)sqlite3_reset(statement);
    return wanted;
}

static sp_status open_database(jobs_store *store, const char *data_dir, sp_error *reterr)
{
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/jobs.db", data_dir);
    sp_status s = sp_sqlite_open(&store->db, path, false, reterr);
    if (!s)
        s = check_version(store, path, reterr);
    if (!s)
        s = make_table(store, reterr);
    for (int i = 0; !s && i < JOBS_STATEMENTS; i++)
        s = prepare(store, statement_texts[i], &store->statements[i], reterr);
    return s;
}

sp_status jobs_sqlite_open(const jobs_settings *settings, jobs_store **ret_store, sp_error *reterr)
{
    jobs_store *store = calloc(1, sizeof(*store));
    if (!store)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the jobs' store");
    store->config = settings->config;
    store->renew_ns = settings->renew_ns;
    store->depth = settings->depth;
    store->lock_fd = store->bodies.dir_fd = -1;
    sp_status s = sp_store_directory_make(settings->data_dir, reterr);
    if (!s)
        s = sp_store_directory_lock(settings->data_dir, "jobs.lock", &store->lock_fd, reterr);
    if (!s)
        s = sp_bodies_open(&store->bodies, settings->data_dir, reterr);
    if (!s)
        s = open_database(store, settings->data_dir, reterr);
    if (!s)
        s = jobs_sqlite_recover(store, reterr);
    int64_t queued = 0;
    if (!s)
        s = read_number(store, store->statements[JOBS_S_COUNT], &queued, reterr);
    if (s) {
        jobs_sqlite_close(store);
        return s;
    }
    (void)sp_bodies_sweep(&store->bodies, file_is_wanted, store);
    atomic_store(store->depth, (int)queued);
    *ret_store = store;
    return SP_OK;
}

void jobs_sqlite_close(jobs_store *store)
{
    if (!store)
        return;
    for (int i = 0; i < JOBS_STATEMENTS; i++)
        (void)sqlite3_finalize(store->statements[i]);
    sp_sqlite_close(&store->db);
    sp_bodies_close(&store->bodies);
    sp_fd_closep(&store->lock_fd);
    free(store);
}
