/* SPDX-License-Identifier: Apache-2.0
 * Inside of the SQLite jobs: the store's struct and its statements. */
#ifndef SP_STORE_JOBS_SQLITE_H
#define SP_STORE_JOBS_SQLITE_H

#include "store/bodies.h"
#include "store/jobs_internal.h"
#include "store/sqlite.h"

enum { JOBS_BODY_NONE, JOBS_BODY_INLINE, JOBS_BODY_FILE }; /* the column body_kind */

typedef enum jobs_statement {
    JOBS_S_INSERT, JOBS_S_INSERT_BODY, JOBS_S_BY_ID, JOBS_S_BY_KEY, JOBS_S_BODY, JOBS_S_RESULT, JOBS_S_PUT_RESULT, JOBS_S_NEXT,
    JOBS_S_STALE, JOBS_S_START, JOBS_S_RENEW, JOBS_S_REQUEUE, JOBS_S_END, JOBS_S_DELETE, JOBS_S_DELETE_BODY,
    JOBS_S_DELETE_RESULT, JOBS_S_WEBHOOKS, JOBS_S_WEBHOOK, JOBS_S_WEBHOOKS_NOW, JOBS_S_EXPIRED, JOBS_S_COUNT, JOBS_STATEMENTS
} jobs_statement;

struct jobs_store {
    const sp_jobs_config *config;
    int64_t renew_ns;
    atomic_int *depth;
    int depth_change; /* of the open group */
    int lock_fd;
    sp_sqlite db;
    sqlite3_stmt *statements[JOBS_STATEMENTS];
    sp_bodies bodies;
};

/* What stands in the row besides sp_job. */
typedef struct jobs_row {
    int64_t row;
    bool body_in_file;
    int deaths;
} jobs_row;

/* The job op->job.id, of its tenant only unless any will do. SP_NOT_FOUND. */
sp_status jobs_sqlite_read_asked(jobs_store *store, jobs_op *op, sp_job **ret_job, jobs_row *ret_row, sp_error *reterr);
/* The same, still running under op's fence. SP_CONFLICT. */
sp_status jobs_sqlite_read_claimed(jobs_store *store, jobs_op *op, sp_job **ret_job, jobs_row *ret_row, sp_error *reterr);
/* The body of a job. SP_NOT_FOUND: its file is gone. */
sp_status jobs_sqlite_read_body(jobs_store *store, jobs_op *op, const sp_job *job, const jobs_row *extra, sp_error *reterr);

/* jobs_sqlite_bulk.c: parts and reports are files beside the bodies, ID_p0, ID_p1 ..., ID_r. */
sp_status jobs_sqlite_bulk(jobs_store *store, jobs_op *op, sp_error *reterr);
void jobs_sqlite_drop_parts(jobs_store *store, const char *id);
void jobs_sqlite_drop_report(jobs_store *store, const char *id);
/* "j1_p7" -> "j1" and 'p'; 0 = it is a body's. */
char jobs_sqlite_file_kind(const char *name, char ret_id[SP_LIMIT_JOB_ID_BYTES]);

void jobs_sqlite_close(jobs_store *store);
/* A list's statement depends on its filters; the caller finalises it. */
sp_status jobs_sqlite_prepare_list(jobs_store *store, const jobs_op *op, sqlite3_stmt **ret_statement, sp_error *reterr);
/* After a start: nobody else is working on anything. */
sp_status jobs_sqlite_recover(jobs_store *store, sp_error *reterr);

#endif
