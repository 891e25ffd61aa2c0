/* SPDX-License-Identifier: Apache-2.0
 * Parts and reports of the SQLite jobs: files of data_dir/bodies beside the body, durable like it (bodies.h). A part is numbered
 * by its coming; all of them go when the job ends, the report when it is erased. Nobody shares a data directory, so what
 * several servers would agree on is agreed on at once. */
#include "store/jobs_sqlite.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define NAME_BYTES (SP_LIMIT_JOB_ID_BYTES + 16)

static void part_name(char ret_name[NAME_BYTES], const char *id, uint64_t number)
{
    (void)snprintf(ret_name, NAME_BYTES, "%.39s_p%llu", id, (unsigned long long)number);
}

static void report_name(char ret_name[NAME_BYTES], const char *id)
{
    (void)snprintf(ret_name, NAME_BYTES, "%.39s_r", id);
}

char jobs_sqlite_file_kind(const char *name, char ret_id[SP_LIMIT_JOB_ID_BYTES])
{
    const char *at = strrchr(name, '_');
    bool part = at && at[1] == 'p' && at[2] && strspn(at + 2, "0123456789") == strlen(at + 2);
    bool report = at && strcmp(at, "_r") == 0;
    if ((!part && !report) || at - name >= SP_LIMIT_JOB_ID_BYTES)
        return 0;
    (void)snprintf(ret_id, SP_LIMIT_JOB_ID_BYTES, "%.*s", (int)(at - name), name);
    return at[1];
}

void jobs_sqlite_drop_parts(jobs_store *store, const char *id)
{
    char name[NAME_BYTES];
    for (uint64_t i = 0; i < SP_LIMIT_JOB_PARTS; i++) {
        part_name(name, id, i);
        if (!sp_bodies_there(&store->bodies, name))
            break;
        sp_bodies_remove(&store->bodies, name);
    }
}

void jobs_sqlite_drop_report(jobs_store *store, const char *id)
{
    char name[NAME_BYTES];
    report_name(name, id);
    if (sp_bodies_there(&store->bodies, name))
        sp_bodies_remove(&store->bodies, name);
}

static sp_status part_put(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    jobs_row extra;
    char name[NAME_BYTES];
    uint64_t number = 0;
    sp_status s = jobs_sqlite_read_claimed(store, op, &job, &extra, reterr);
    if (s)
        return s;
    do
        part_name(name, op->job.id, number++);
    while (number <= SP_LIMIT_JOB_PARTS && sp_bodies_there(&store->bodies, name));
    if (number > SP_LIMIT_JOB_PARTS)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "too_many_parts", "job %s has %u parts already", op->job.id, SP_LIMIT_JOB_PARTS);
    return sp_bodies_write(&store->bodies, name, op->body, reterr);
}

/* Appends the file to op->body_out. */
static sp_status read_whole(jobs_store *store, jobs_op *op, const char *name, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = -1;
    struct stat info;
    jobs_bytes *out = &op->body_out;
    sp_status s = sp_bodies_read(&store->bodies, name, &fd, reterr);
    if (!s && fstat(fd, &info) != 0)
        s = SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot read a job's file");
    if (s)
        return s;
    size_t size = (size_t)info.st_size;
    uint8_t *grown = realloc(out->data, out->size_bytes + size + 1);
    if (!grown)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of a job", size);
    out->data = grown;
    s = jobs_read_at(fd, 0, grown + out->size_bytes, size, reterr);
    if (!s)
        out->size_bytes += size;
    return s;
}

static sp_status parts_get(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    char name[NAME_BYTES];
    size_t before = op->body_out.size_bytes;
    sp_status s = SP_OK;
    while (!s && op->next < SP_LIMIT_JOB_PARTS && !op->again) {
        part_name(name, op->job.id, op->next);
        if (!sp_bodies_there(&store->bodies, name))
            break;
        s = read_whole(store, op, name, reterr);
        op->next++;
        op->again = op->body_out.size_bytes - before >= JOBS_STEP_BYTES;
    }
    return s;
}

static sp_status report_put(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    jobs_row extra;
    char name[NAME_BYTES];
    uint64_t at = op->step * JOBS_STEP_BYTES;
    size_t size = (size_t)SP_MIN(op->file.size_bytes - at, (uint64_t)JOBS_STEP_BYTES);
    bool last = at + size == op->file.size_bytes;
    op->found_count = 0;
    sp_status s = jobs_sqlite_read_claimed(store, op, &job, &extra, reterr);
    if (s)
        return s;
    uint8_t *piece = malloc(size + 1);
    if (!piece)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a job's report");
    s = jobs_read_at(op->file.fd, at, piece, size, reterr);
    report_name(name, op->job.id);
    if (!s)
        s = sp_bodies_grow(&store->bodies, name, at, sp_view_make(piece, size), last, reterr);
    free(piece);
    op->again = !s && !last;
    return s;
}

static sp_status report_read(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = -1;
    char name[NAME_BYTES];
    struct stat info;
    sp_status s = jobs_sqlite_read_asked(store, op, NULL, NULL, reterr);
    report_name(name, op->job.id);
    if (!s)
        s = sp_bodies_read(&store->bodies, name, &fd, NULL)
                ? SP_FAIL_CODE(reterr, SP_NOT_FOUND, "no_report", "job %s has left no report", op->job.id) : SP_OK;
    if (!s && fstat(fd, &info) != 0)
        s = SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot read a job's report");
    if (s || (uint64_t)info.st_size <= op->from)
        return s;
    size_t size = (size_t)SP_MIN((uint64_t)info.st_size - op->from, (uint64_t)SP_JOBS_PIECE_BYTES);
    op->body_out.data = malloc(size + 1);
    if (!op->body_out.data)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a job's report");
    op->body_out.size_bytes = size;
    return jobs_read_at(fd, op->from, op->body_out.data, size, reterr);
}

static sp_status body(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    sp_job *job = NULL;
    jobs_row extra;
    op->any_tenant = true;
    sp_status s = jobs_sqlite_read_asked(store, op, &job, &extra, reterr);
    return s ? s : jobs_sqlite_read_body(store, op, job, &extra, reterr);
}

sp_status jobs_sqlite_bulk(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    switch (op->call) {
    case JOBS_BODY:
        return body(store, op, reterr);
    case JOBS_PART_PUT:
        return part_put(store, op, reterr);
    case JOBS_PARTS_GET:
        return parts_get(store, op, reterr);
    case JOBS_REPORT_PUT:
        return report_put(store, op, reterr);
    case JOBS_REPORT_READ:
        return report_read(store, op, reterr);
    default:
        return SP_OK; /* share, shared, chunk_claim: there is nobody else */
    }
}
