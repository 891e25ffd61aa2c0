/* SPDX-License-Identifier: Apache-2.0
 * Between jobs.c (the loop's side), and the two stores behind it. A call is one `jobs_op`: made on the loop's thread,
 * run on the store thread by the store's table, answered on the loop's thread. */
#ifndef SP_STORE_JOBS_INTERNAL_H
#define SP_STORE_JOBS_INTERNAL_H

#include "store/jobs.h"
#include "store/worker.h"

#include <stdatomic.h>

typedef enum jobs_call {
    JOBS_ADD, JOBS_GET, JOBS_LIST, JOBS_CLAIM, JOBS_RENEW, JOBS_FINISH, JOBS_RELEASE, JOBS_DELETE, JOBS_WEBHOOKS_DUE,
    JOBS_WEBHOOK_DONE, JOBS_SWEEP,
    /* jobs_*_bulk.c's */
    JOBS_BODY, JOBS_PART_PUT, JOBS_PARTS_GET, JOBS_REPORT_PUT, JOBS_REPORT_READ, JOBS_SHARE, JOBS_SHARED, JOBS_CHUNK_CLAIM
} jobs_call;

/* Bytes on the heap that go back with an answer. */
typedef struct jobs_bytes {
    uint8_t *data;
    size_t size_bytes;
} jobs_bytes;

typedef struct jobs_op {
    sp_store_work work; /* first */
    sp_jobs *jobs;
    jobs_call call;
    sp_job_reply_fn *reply;
    void *context;
    /* asked; what a call does not use is zero */
    sp_job job; /* add: all of it; others: id, and tenant, task as filters ("" = any), fence, state, progress_percent */
    bool any_tenant;
    int state;    /* list: -1 = any */
    int limit;
    sp_status refused; /* `why` says so; the store is not asked */
    bool counts;  /* release */
    bool delivered;
    char cursor[SP_LIMIT_JOB_ID_BYTES];
    char why[256];
    sp_view body;         /* add, part_put: the caller's, until the answer */
    jobs_bytes result_in; /* finish: a copy */
    sp_body_file file;    /* add, report_put: the caller's, until the answer; fd -1 = none */
    uint64_t from;        /* parts_get: first part; report_read: first byte; chunk_claim: the chunk */
    /* Long ones are done in steps, each one run on the store thread, so that nobody waits long behind them: */
    bool again;           /* run once more */
    uint64_t step;        /* how often it has */
    char key[160];        /* Redis: of the body that is being copied */
    /* answered */
    sp_job *found; /* heap, found_count of them */
    int found_count;
    jobs_bytes body_out, result_out;
    int body_fd;
    bool existed;
    uint64_t next;
    char next_cursor[SP_LIMIT_JOB_ID_BYTES];
} jobs_op;

/* Bytes that one step copies at most. */
#define JOBS_STEP_BYTES (16u * SP_JOBS_PIECE_BYTES)

typedef struct jobs_store jobs_store; /* each store's own */
typedef struct jobs_store_table {
    sp_status (*run)(jobs_store *store, jobs_op *op, sp_error *reterr);
    sp_status (*group)(jobs_store *store, sp_error *reterr); /* NULL = none */
    void (*close)(jobs_store *store);
} jobs_store_table;

typedef struct jobs_settings {
    const sp_jobs_config *config; /* a copy that lives as long as the store */
    const char *data_dir, *owner;
    int64_t renew_ns; /* how often an owner renews; three missed ones = gone */
    atomic_int *depth;
} jobs_settings;

sp_status jobs_sqlite_open(const jobs_settings *settings, jobs_store **ret_store, sp_error *reterr);
extern const jobs_store_table jobs_sqlite_table;
sp_status jobs_redis_open(const jobs_settings *settings, jobs_store **ret_store, sp_durability *ret_durability,
                          sp_error *reterr);
extern const jobs_store_table jobs_redis_table;

/* The fields of sp_job as both stores name them: columns, hash fields. */
typedef enum jobs_field_kind { JOBS_TEXT, JOBS_INT, JOBS_INT64, JOBS_BOOL, JOBS_SHA256 } jobs_field_kind;
typedef struct jobs_field {
    const char *name;
    jobs_field_kind kind;
    size_t offset, size_bytes;
} jobs_field;
#define JOBS_FIELDS 25
extern const jobs_field jobs_fields[JOBS_FIELDS];

static inline char *jobs_text(const sp_job *job, const jobs_field *field)
{
    return (char *)job + field->offset;
}
int64_t jobs_number(const sp_job *job, const jobs_field *field); /* any kind but TEXT and SHA256 */
void jobs_set_number(sp_job *job, const jobs_field *field, int64_t value);

/* One more answered job, zeroed; NULL = no memory. Good until the next call. */
sp_job *jobs_found_add(jobs_op *op);
sp_status jobs_bytes_copy(jobs_bytes *bytes, const void *data, size_t size_bytes, sp_error *reterr);
sp_status jobs_bytes_append(jobs_bytes *bytes, const void *data, size_t size_bytes, sp_error *reterr);
/* The whole range, or SP_UNAVAILABLE. */
sp_status jobs_read_at(int fd, uint64_t offset, void *dst, size_t size_bytes, sp_error *reterr);
int64_t jobs_unix_ms(void);

/* jobs.c: an operation that awaits its fields, and its way to the store. NULL: it has been answered, no memory. */
jobs_op *jobs_op_new(sp_jobs *jobs, jobs_call call, const char *tenant, const char *id, uint64_t fence, sp_job_reply_fn *reply,
                     void *context);
void jobs_op_submit(jobs_op *op);

/* {"error": why, "code": code} as the result of a job that the store itself ends. Truncated text stays JSON. */
void jobs_error_json(const char *code, const char *why, char *ret_text, size_t size_bytes);

#endif
