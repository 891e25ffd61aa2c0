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
    JOBS_WEBHOOK_DONE, JOBS_SWEEP
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
    sp_view body;         /* add: the caller's, until the answer */
    jobs_bytes result_in; /* finish: a copy */
    /* answered */
    sp_job *found; /* heap, found_count of them */
    int found_count;
    jobs_bytes body_out, result_out;
    int body_fd;
    bool existed;
    char next_cursor[SP_LIMIT_JOB_ID_BYTES];
} jobs_op;

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
int64_t jobs_unix_ms(void);

/* {"error": why, "code": code} as the result of a job that the store itself ends. Truncated text stays JSON. */
void jobs_error_json(const char *code, const char *why, char *ret_text, size_t size_bytes);

#endif
