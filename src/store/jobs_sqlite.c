/* SPDX-License-Identifier: Apache-2.0
 * Durable jobs in data_dir/jobs.db: the calls. All runs on the store thread; a group of calls is one transaction with one
 * fsync, in this order: body files, their directory, the rows. The tables and statements are jobs_sqlite_schema.c's. */
#include "store/jobs_sqlite.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>

/* A webhook that was handed out is not handed out again for so long. */
#define WEBHOOK_LEASE_MS 60000
/* Rows erased by one sweep: a long one would keep all others waiting. */
#define SWEEP_ROWS 500

static sp_status run_step(jobs_store *store, jobs_statement which, bool *ret_row, sp_error *reterr)
{
    return sp_sqlite_step(&store->db, store->statements[which], ret_row, reterr);
}

/* Runs one that gives no rows. *ret_changes may be NULL. */
static sp_status run_change(jobs_store *store, jobs_statement which, int *ret_changes, sp_error *reterr)
{
    sp_status s = run_step(store, which, NULL, reterr);
    if (!s && ret_changes)
        *ret_changes = sqlite3_changes(store->db.db);
    return s;
}

static sqlite3_stmt *bind_id(jobs_store *store, jobs_statement which, const char *id)
{
    sqlite3_stmt *statement = store->statements[which];
    (void)sqlite3_bind_text(statement, 1, id, -1, SQLITE_STATIC);
    return statement;
}

static sp_status read_job(jobs_store *store, jobs_op *op, sqlite3_stmt *statement, sp_job **ret_job, jobs_row *ret_extra,
                          sp_error *reterr)
{
    sp_job *job = jobs_found_add(op);
    if (!job) {
        (void)sqlite3_reset(statement);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a job");
    }
    for (int i = 0; i < JOBS_FIELDS; i++) {
        const jobs_field *field = &jobs_fields[i];
        if (field->kind == JOBS_TEXT) {
            sp_sqlite_column_text(statement, i, jobs_text(job, field), field->size_bytes);
        } else if (field->kind == JOBS_SHA256) {
            sp_view sha = sp_sqlite_column_bytes(statement, i);
            if (sha.size_bytes == sizeof(job->request_sha256))
                memcpy(job->request_sha256, sha.data, sizeof(job->request_sha256));
        } else {
            jobs_set_number(job, field, sqlite3_column_int64(statement, i));
        }
    }
    if (ret_extra)
        *ret_extra = (jobs_row){ .row = sqlite3_column_int64(statement, JOBS_FIELDS),
                                  .body_in_file = sqlite3_column_int(statement, JOBS_FIELDS + 1) == JOBS_BODY_FILE,
                                  .deaths = sqlite3_column_int(statement, JOBS_FIELDS + 2) };
    if (ret_job)
        *ret_job = job;
    (void)store;
    return SP_OK;
}

/* The one row of a bound statement. SP_NOT_FOUND: there is none. */
static sp_status read_one(jobs_store *store, jobs_op *op, jobs_statement which, sp_job **ret_job, jobs_row *ret_extra,
                          sp_error *reterr)
{
    bool row = false;
    sp_status s = run_step(store, which, &row, reterr);
    if (s)
        return s;
    if (!row)
        return SP_FAIL(reterr, SP_NOT_FOUND, "there is no such job");
    s = read_job(store, op, store->statements[which], ret_job, ret_extra, reterr);
    (void)sqlite3_reset(store->statements[which]);
    return s;
}

sp_status jobs_sqlite_read_asked(jobs_store *store, jobs_op *op, sp_job **ret_job, jobs_row *ret_extra, sp_error *reterr)
{
    sp_job *job = NULL;
    (void)bind_id(store, JOBS_S_BY_ID, op->job.id);
    sp_status s = read_one(store, op, JOBS_S_BY_ID, &job, ret_extra, reterr);
    if (!s && !op->any_tenant && strcmp(job->tenant, op->job.tenant) != 0) {
        op->found_count = 0;
        s = SP_FAIL(reterr, SP_NOT_FOUND, "there is no such job"); /* nor may its existence be told */
    }
    if (ret_job)
        *ret_job = job;
    return s;
}

static sp_status read_result(jobs_store *store, jobs_op *op, int64_t row_id, sp_error *reterr)
{
    sqlite3_stmt *statement = store->statements[JOBS_S_RESULT];
    bool row = false;
    (void)sqlite3_bind_int64(statement, 1, row_id);
    sp_status s = run_step(store, JOBS_S_RESULT, &row, reterr);
    if (s || !row)
        return s;
    sp_view result = sp_sqlite_column_bytes(statement, 0);
    s = jobs_bytes_copy(&op->result_out, result.data, result.size_bytes, reterr);
    (void)sqlite3_reset(statement);
    return s;
}

static void depth_add(jobs_store *store, int amount)
{
    store->depth_change += amount;
}

/* --- add --------------------------------------------------------------------------------------------------------- */

/* A known idempotency key: *ret_known and the job, or SP_CONFLICT when it was another request. */
static sp_status look_up_key(jobs_store *store, jobs_op *op, bool *ret_known, sp_error *reterr)
{
    *ret_known = false;
    if (!op->job.idempotency_key[0])
        return SP_OK;
    sqlite3_stmt *statement = store->statements[JOBS_S_BY_KEY];
    (void)sqlite3_bind_text(statement, 1, op->job.tenant, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(statement, 2, op->job.idempotency_key, -1, SQLITE_STATIC);
    sp_job *job = NULL;
    jobs_row extra;
    sp_status s = read_one(store, op, JOBS_S_BY_KEY, &job, &extra, reterr);
    if (s)
        return s == SP_NOT_FOUND ? SP_OK : s;
    if (memcmp(job->request_sha256, op->job.request_sha256, sizeof(job->request_sha256)) != 0)
        return SP_FAIL_CODE(reterr, SP_CONFLICT, "idempotency_key_reused",
                            "the idempotency key belongs to job %s, which was another request", job->id);
    *ret_known = op->existed = true;
    return read_result(store, op, extra.row, reterr);
}

static sp_status insert_job(jobs_store *store, jobs_op *op, bool in_file, sp_error *reterr)
{
    sqlite3_stmt *statement = store->statements[JOBS_S_INSERT];
    for (int i = 0; i < JOBS_FIELDS; i++) {
        const jobs_field *field = &jobs_fields[i];
        if (field->kind == JOBS_TEXT)
            (void)sqlite3_bind_text(statement, i + 1, jobs_text(&op->job, field), -1, SQLITE_STATIC);
        else if (field->kind == JOBS_SHA256)
            (void)sqlite3_bind_blob(statement, i + 1, op->job.request_sha256, sizeof(op->job.request_sha256), SQLITE_STATIC);
        else
            (void)sqlite3_bind_int64(statement, i + 1, jobs_number(&op->job, field));
    }
    int kind = !op->body.size_bytes && !in_file ? JOBS_BODY_NONE : in_file ? JOBS_BODY_FILE : JOBS_BODY_INLINE;
    (void)sqlite3_bind_int(statement, JOBS_FIELDS + 1, kind);
    sp_error err = { 0 };
    sp_status s = run_change(store, JOBS_S_INSERT, NULL, &err);
    if (s == SP_CONFLICT)
        return SP_FAIL(reterr, SP_CONFLICT, "there is a job %s already", op->job.id);
    if (s && reterr)
        *reterr = err;
    if (s || kind != JOBS_BODY_INLINE)
        return s;
    statement = store->statements[JOBS_S_INSERT_BODY];
    (void)sqlite3_bind_int64(statement, 1, sqlite3_last_insert_rowid(store->db.db));
    (void)sqlite3_bind_blob64(statement, 2, op->body.data, op->body.size_bytes, SQLITE_STATIC);
    return run_change(store, JOBS_S_INSERT_BODY, NULL, reterr);
}

static sp_status run_add(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    bool known = false;
    if (!sp_body_name_is_safe(op->job.id))
        return SP_FAIL(reterr, SP_INVALID, "a job's id has letters, digits, - and _ only");
    sp_status s = look_up_key(store, op, &known, reterr);
    if (s || known)
        return s;
    op->job.state = SP_JOB_QUEUED;
    op->job.fence = 0;
    op->job.tries = 0;
    bool given = op->file.fd >= 0, in_file = given || op->body.size_bytes > SP_LIMIT_JOB_INLINE_BYTES;
    s = insert_job(store, op, in_file, reterr); /* first: a taken id must not overwrite the other's file */
    if (!s && given)
        s = sp_bodies_adopt(&store->bodies, op->file.name, op->job.id, reterr);
    else if (!s && in_file)
        s = sp_bodies_write(&store->bodies, op->job.id, op->body, reterr);
    if (s)
        return s;
    sp_job *job = jobs_found_add(op);
    if (!job)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a job");
    *job = op->job;
    depth_add(store, 1);
    return SP_OK;
}

/* --- looking ----------------------------------------------------------------------------------------------------- */

static sp_status run_get(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    jobs_row extra;
    sp_status s = jobs_sqlite_read_asked(store, op, NULL, &extra, reterr);
    return s ? s : read_result(store, op, extra.row, reterr);
}

static sp_status run_list(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sqlite3_stmt *statement = NULL;
    sp_status s = jobs_sqlite_prepare_list(store, op, &statement, reterr);
    bool row = !s;
    while (!s && (s = sp_sqlite_step(&store->db, statement, &row, reterr)) == SP_OK && row) {
        if (op->found_count == op->limit) { /* there is one more: the cursor is the last that fits */
            (void)snprintf(op->next_cursor, sizeof(op->next_cursor), "%s", op->found[op->limit - 1].id);
            break;
        }
        s = read_job(store, op, statement, NULL, NULL, reterr);
    }
    (void)sqlite3_finalize(statement);
    return s;
}

/* --- ending ------------------------------------------------------------------------------------------------------ */

/* The body is not needed again; the row, its file's name and its bytes go with it. */
static sp_status drop_body(jobs_store *store, int64_t row, const char *id, bool in_file, sp_error *reterr)
{
    if (in_file)
        sp_bodies_remove(&store->bodies, id);
    jobs_sqlite_drop_parts(store, id);
    (void)sqlite3_bind_int64(store->statements[JOBS_S_DELETE_BODY], 1, row);
    return run_change(store, JOBS_S_DELETE_BODY, NULL, reterr);
}

static sp_status put_result(jobs_store *store, int64_t row, const void *data, size_t size_bytes, sp_error *reterr)
{
    sqlite3_stmt *statement = store->statements[JOBS_S_PUT_RESULT];
    (void)sqlite3_bind_int64(statement, 1, row);
    (void)sqlite3_bind_blob64(statement, 2, data, size_bytes, SQLITE_STATIC);
    return run_change(store, JOBS_S_PUT_RESULT, NULL, reterr);
}

/* From any state to a final one. `job` is changed along. */
static sp_status end_job(jobs_store *store, sp_job *job, const jobs_row *extra, sp_job_state state, const void *result,
                         size_t result_bytes, sp_error *reterr)
{
    int64_t now = jobs_unix_ms();
    if (job->state == SP_JOB_QUEUED)
        depth_add(store, -1);
    job->state = state;
    job->finished_unix_ms = now;
    job->expires_unix_ms = now + store->config->ttl_s * 1000;
    job->webhook_pending = job->webhook[0] && state != SP_JOB_CANCELLED;
    job->webhook_at_unix_ms = now;
    if (state == SP_JOB_DONE)
        job->progress_percent = 100;
    sqlite3_stmt *statement = store->statements[JOBS_S_END];
    (void)sqlite3_bind_int64(statement, 1, extra->row);
    (void)sqlite3_bind_int(statement, 2, (int)state);
    (void)sqlite3_bind_int64(statement, 3, now);
    (void)sqlite3_bind_int64(statement, 4, job->expires_unix_ms);
    (void)sqlite3_bind_int(statement, 5, job->webhook_pending);
    (void)sqlite3_bind_int(statement, 6, job->progress_percent);
    sp_status s = run_change(store, JOBS_S_END, NULL, reterr);
    if (!s && result_bytes)
        s = put_result(store, extra->row, result, result_bytes, reterr);
    return s ? s : drop_body(store, extra->row, job->id, extra->body_in_file, reterr);
}

static sp_status end_with_error(jobs_store *store, sp_job *job, const jobs_row *extra, const char *code, const char *why,
                                sp_error *reterr)
{
    char text[512];
    jobs_error_json(code, why, text, sizeof(text));
    return end_job(store, job, extra, SP_JOB_FAILED, text, strlen(text), reterr);
}

sp_status jobs_sqlite_read_claimed(jobs_store *store, jobs_op *op, sp_job **ret_job, jobs_row *ret_extra, sp_error *reterr)
{
    op->any_tenant = true;
    sp_status s = jobs_sqlite_read_asked(store, op, ret_job, ret_extra, reterr);
    if (s == SP_NOT_FOUND)
        return SP_FAIL_CODE(reterr, SP_CONFLICT, "claim_lost", "job %s was erased", op->job.id);
    if (!s && ((*ret_job)->state != SP_JOB_RUNNING || (*ret_job)->fence != op->job.fence))
        return SP_FAIL_CODE(reterr, SP_CONFLICT, "claim_lost", "job %s is %s and no longer this claim's", op->job.id,
                            sp_job_state_name((*ret_job)->state));
    return s;
}

static sp_status run_finish(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    jobs_row extra = { 0 };
    sp_status s = jobs_sqlite_read_claimed(store, op, &job, &extra, reterr);
    if (s == SP_CONFLICT && job) {
        sp_status read = read_result(store, op, extra.row, NULL);
        bool ours = !read && job->fence == op->job.fence && job->state == op->job.state &&
                    op->result_out.size_bytes == op->result_in.size_bytes &&
                    (!op->result_in.size_bytes || !memcmp(op->result_out.data, op->result_in.data, op->result_in.size_bytes));
        return ours ? SP_OK : s; /* the same finish once more, after an answer that was lost */
    }
    if (s)
        return s;
    s = end_job(store, job, &extra, op->job.state, op->result_in.data, op->result_in.size_bytes, reterr);
    return s ? s : jobs_bytes_copy(&op->result_out, op->result_in.data, op->result_in.size_bytes, reterr);
}

static sp_status requeue(jobs_store *store, sp_job *job, const jobs_row *extra, bool died, bool counts, sp_error *reterr)
{
    job->state = SP_JOB_QUEUED;
    job->progress_percent = 0;
    if (!counts && job->tries > 0)
        job->tries--;
    sqlite3_stmt *statement = store->statements[JOBS_S_REQUEUE];
    (void)sqlite3_bind_int64(statement, 1, extra->row);
    (void)sqlite3_bind_int(statement, 2, job->tries);
    (void)sqlite3_bind_int(statement, 3, extra->deaths + died);
    depth_add(store, 1);
    return run_change(store, JOBS_S_REQUEUE, NULL, reterr);
}

static sp_status run_release(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    jobs_row extra;
    sp_status s = jobs_sqlite_read_claimed(store, op, &job, &extra, reterr);
    if (s)
        return s;
    if (op->counts && job->tries >= store->config->tries)
        return end_with_error(store, job, &extra, "tries_exhausted", op->why, reterr);
    return requeue(store, job, &extra, false, op->counts, reterr);
}

static sp_status erase(jobs_store *store, const sp_job *job, const jobs_row *extra, sp_error *reterr)
{
    sp_status s = drop_body(store, extra->row, job->id, extra->body_in_file, reterr);
    jobs_sqlite_drop_report(store, job->id);
    if (!s) {
        (void)sqlite3_bind_int64(store->statements[JOBS_S_DELETE_RESULT], 1, extra->row);
        s = run_change(store, JOBS_S_DELETE_RESULT, NULL, reterr);
    }
    if (!s) {
        (void)sqlite3_bind_int64(store->statements[JOBS_S_DELETE], 1, extra->row);
        s = run_change(store, JOBS_S_DELETE, NULL, reterr);
    }
    return s;
}

static sp_status run_delete(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    jobs_row extra;
    sp_status s = jobs_sqlite_read_asked(store, op, &job, &extra, reterr);
    if (s)
        return s;
    if (job->state == SP_JOB_QUEUED || job->state == SP_JOB_RUNNING)
        return end_job(store, job, &extra, SP_JOB_CANCELLED, NULL, 0, reterr);
    return erase(store, job, &extra, reterr);
}

/* --- claiming ---------------------------------------------------------------------------------------------------- */

/* Running jobs whose claim ended before `now_ns` go back, those of too many dead owners fail. */
static sp_status take_back(jobs_store *store, jobs_op *op, int64_t now_ns, sp_error *reterr)
{
    for (;;) {
        sp_job *job = NULL;
        jobs_row extra;
        (void)sqlite3_bind_int64(store->statements[JOBS_S_STALE], 1, now_ns);
        op->found_count = 0;
        sp_status s = read_one(store, op, JOBS_S_STALE, &job, &extra, reterr);
        if (s == SP_NOT_FOUND) {
            op->found_count = 0;
            return SP_OK;
        }
        if (!s && extra.deaths + 1 >= SP_LIMIT_JOB_OWNER_DEATHS)
            s = end_with_error(store, job, &extra, "owner_died", "the servers that worked on it died each time", reterr);
        else if (!s)
            s = requeue(store, job, &extra, true, false, reterr);
        if (s)
            return s;
    }
}

sp_status jobs_sqlite_read_body(jobs_store *store, jobs_op *op, const sp_job *job, const jobs_row *extra, sp_error *reterr)
{
    if (extra->body_in_file)
        return sp_bodies_read(&store->bodies, job->id, &op->body_fd, reterr);
    sqlite3_stmt *statement = store->statements[JOBS_S_BODY];
    bool row = false;
    (void)sqlite3_bind_int64(statement, 1, extra->row);
    sp_status s = run_step(store, JOBS_S_BODY, &row, reterr);
    if (s || !row)
        return s;
    sp_view body = sp_sqlite_column_bytes(statement, 0);
    s = jobs_bytes_copy(&op->body_out, body.data, body.size_bytes, reterr);
    (void)sqlite3_reset(statement);
    return s;
}

static sp_status start_job(jobs_store *store, sp_job *job, const jobs_row *extra, sp_error *reterr)
{
    job->state = SP_JOB_RUNNING;
    job->fence++;
    job->tries++;
    job->started_unix_ms = jobs_unix_ms();
    sqlite3_stmt *statement = store->statements[JOBS_S_START];
    (void)sqlite3_bind_int64(statement, 1, extra->row);
    (void)sqlite3_bind_int64(statement, 2, job->started_unix_ms);
    (void)sqlite3_bind_int64(statement, 3, sp_clock_now_ns() + 3 * store->renew_ns);
    depth_add(store, -1);
    return run_change(store, JOBS_S_START, NULL, reterr);
}

static sp_status run_claim(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_status s = take_back(store, op, sp_clock_now_ns(), reterr);
    while (!s) {
        sp_job *job = NULL;
        jobs_row extra;
        op->found_count = 0;
        s = read_one(store, op, JOBS_S_NEXT, &job, &extra, reterr);
        if (s == SP_NOT_FOUND) {
            op->found_count = 0;
            return SP_OK;
        }
        if (s)
            return s;
        s = jobs_sqlite_read_body(store, op, job, &extra, reterr);
        if (s != SP_NOT_FOUND)
            return s ? s : start_job(store, job, &extra, reterr);
        /* Somebody removed the file by hand. Nobody can do this job; the next one, please. */
        s = end_with_error(store, job, &extra, "body_lost", "the job's body is gone from the data directory", reterr);
    }
    return s;
}

static sp_status run_renew(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    jobs_row extra;
    sp_status s = jobs_sqlite_read_claimed(store, op, &job, &extra, reterr);
    if (s)
        return s;
    job->progress_percent = op->job.progress_percent;
    sqlite3_stmt *statement = store->statements[JOBS_S_RENEW];
    (void)sqlite3_bind_int64(statement, 1, extra.row);
    (void)sqlite3_bind_int(statement, 2, job->progress_percent);
    (void)sqlite3_bind_int64(statement, 3, sp_clock_now_ns() + 3 * store->renew_ns);
    return run_change(store, JOBS_S_RENEW, NULL, reterr);
}

/* --- webhooks, sweep --------------------------------------------------------------------------------------------- */

static sp_status set_webhook(jobs_store *store, const char *id, bool pending, int tries, int64_t at_unix_ms, sp_error *reterr)
{
    sqlite3_stmt *statement = bind_id(store, JOBS_S_WEBHOOK, id);
    (void)sqlite3_bind_int(statement, 2, pending);
    (void)sqlite3_bind_int(statement, 3, tries);
    (void)sqlite3_bind_int64(statement, 4, at_unix_ms);
    return run_change(store, JOBS_S_WEBHOOK, NULL, reterr);
}

static sp_status run_webhooks_due(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sqlite3_stmt *statement = store->statements[JOBS_S_WEBHOOKS];
    int64_t now = jobs_unix_ms();
    (void)sqlite3_bind_int64(statement, 1, now);
    (void)sqlite3_bind_int(statement, 2, op->limit);
    bool row = true;
    sp_status s = SP_OK;
    while (!s && (s = run_step(store, JOBS_S_WEBHOOKS, &row, reterr)) == SP_OK && row)
        s = read_job(store, op, statement, NULL, NULL, reterr);
    (void)sqlite3_reset(statement);
    for (int i = 0; !s && i < op->found_count; i++)
        s = set_webhook(store, op->found[i].id, true, op->found[i].webhook_tries, now + WEBHOOK_LEASE_MS, reterr);
    return s;
}

static sp_status run_webhook_done(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    op->any_tenant = true;
    sp_status s = jobs_sqlite_read_asked(store, op, &job, NULL, reterr);
    if (s)
        return s;
    job->webhook_pending = !op->delivered;
    job->webhook_tries++;
    job->webhook_at_unix_ms = op->job.webhook_at_unix_ms;
    /* next_unix_ms 0 = given up. */
    bool pending = !op->delivered && op->job.webhook_at_unix_ms > 0;
    return set_webhook(store, op->job.id, pending, job->webhook_tries, op->job.webhook_at_unix_ms, reterr);
}

/* Finished ones that are past their time go; queued ones fail, so that whoever waits for them is told. */
static sp_status run_sweep(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    int64_t now = jobs_unix_ms();
    for (int i = 0; i < SWEEP_ROWS; i++) {
        sp_job *job = NULL;
        jobs_row extra;
        op->found_count = 0;
        (void)sqlite3_bind_int64(store->statements[JOBS_S_EXPIRED], 1, now);
        sp_status s = read_one(store, op, JOBS_S_EXPIRED, &job, &extra, reterr);
        if (s == SP_NOT_FOUND)
            break;
        if (!s && job->state == SP_JOB_QUEUED)
            s = end_with_error(store, job, &extra, "expired", "the job's time to live ended before it was run", reterr);
        else if (!s)
            s = erase(store, job, &extra, reterr);
        if (s)
            return s;
    }
    op->found_count = 0;
    return SP_OK;
}

/* --- the table --------------------------------------------------------------------------------------------------- */

static sp_status run_call(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    switch (op->call) {
    case JOBS_ADD:
        return run_add(store, op, reterr);
    case JOBS_GET:
        return run_get(store, op, reterr);
    case JOBS_LIST:
        return run_list(store, op, reterr);
    case JOBS_CLAIM:
        return run_claim(store, op, reterr);
    case JOBS_RENEW:
        return run_renew(store, op, reterr);
    case JOBS_FINISH:
        return run_finish(store, op, reterr);
    case JOBS_RELEASE:
        return run_release(store, op, reterr);
    case JOBS_DELETE:
        return run_delete(store, op, reterr);
    case JOBS_WEBHOOKS_DUE:
        return run_webhooks_due(store, op, reterr);
    case JOBS_WEBHOOK_DONE:
        return run_webhook_done(store, op, reterr);
    case JOBS_SWEEP:
        return run_sweep(store, op, reterr);
    case JOBS_BODY:
    case JOBS_PART_PUT:
    case JOBS_PARTS_GET:
    case JOBS_REPORT_PUT:
    case JOBS_REPORT_READ:
    case JOBS_SHARE:
    case JOBS_SHARED:
    case JOBS_CHUNK_CLAIM:
        return jobs_sqlite_bulk(store, op, reterr);
    }
    return SP_FAIL(reterr, SP_INTERNAL, "unknown call %d on jobs", (int)op->call);
}

static bool only_looks(jobs_call call)
{
    return call == JOBS_GET || call == JOBS_LIST || call == JOBS_BODY || call == JOBS_PARTS_GET || call == JOBS_REPORT_READ ||
           call == JOBS_SHARED;
}

static sp_status run(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    if (only_looks(op->call))
        return run_call(store, op, reterr);
    sp_status s = sp_sqlite_begin(&store->db, reterr);
    if (s)
        return s;
    int depth_change = store->depth_change;
    sp_bodies_mark mark = sp_bodies_mark_get(&store->bodies);
    s = run_call(store, op, reterr);
    sp_status ended = sp_sqlite_end(&store->db, s, s ? NULL : reterr);
    if (ended) {
        store->depth_change = depth_change;
        sp_bodies_undo(&store->bodies, mark);
    }
    return ended;
}

static sp_status group(jobs_store *store, sp_error *reterr)
{
    sp_status s = sp_bodies_sync(&store->bodies, reterr);
    if (s)
        store->db.lost = store->db.grouped; /* no row may name what the directory does not hold */
    sp_error err = { 0 };
    sp_status committed = sp_sqlite_commit(&store->db, s ? &err : reterr);
    sp_bodies_settle(&store->bodies, !s && !committed);
    if (!s && !committed && store->depth_change)
        (void)atomic_fetch_add(store->depth, store->depth_change);
    store->depth_change = 0;
    return s ? s : committed;
}

static sp_status start_up_work(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_status s = take_back(store, op, INT64_MAX, reterr);
    if (!s)
        s = run_change(store, JOBS_S_WEBHOOKS_NOW, NULL, reterr);
    return s;
}

sp_status jobs_sqlite_recover(jobs_store *store, sp_error *reterr)
{
    jobs_op *op = calloc(1, sizeof(*op));
    if (!op)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to open the jobs");
    op->body_fd = -1;
    sp_status s = sp_sqlite_begin(&store->db, reterr);
    if (!s) {
        s = start_up_work(store, op, reterr);
        s = sp_sqlite_end(&store->db, s, s ? NULL : reterr);
    }
    sp_error err = { 0 };
    sp_status committed = group(store, s ? &err : reterr);
    free(op->found);
    free(op);
    return s ? s : committed;
}

const jobs_store_table jobs_sqlite_table = { .run = run, .group = group, .close = jobs_sqlite_close };
