/* SPDX-License-Identifier: Apache-2.0
 * Durable jobs, the loop's side: each call becomes an operation of the store thread, its answer a reply. What the two
 * stores share (fields, bounds, errors as results) stands here too. */
#include "store/jobs_internal.h"

#include "base/clock.h"
#include "base/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Calls that wait for the store at once; an add holds its caller's body meanwhile. Beyond: SP_BUSY. */
#define QUEUE_WORKS 1024

/* An owner renews its claims this often; after three missed ones somebody else takes the job. */
#define RENEW_MS_DEFAULT 5000

struct sp_jobs {
    sp_store_thread *thread;
    jobs_store *store;
    const jobs_store_table *table;
    sp_jobs_config config;
    char owner[64];
    char data_dir[512];
    int64_t renew_ns;
    atomic_int depth;
};

const char *sp_job_state_name(sp_job_state state)
{
    static const char *const names[] = { "queued", "running", "done", "failed", "cancelled" };
    return (unsigned)state < SP_ARRAY_LEN(names) ? names[state] : "unknown";
}

/* --- fields ------------------------------------------------------------------------------------------------------ */

#define FIELD(field, field_kind) { #field, field_kind, offsetof(sp_job, field), sizeof(((sp_job *)NULL)->field) }
const jobs_field jobs_fields[JOBS_FIELDS] = {
    FIELD(id, JOBS_TEXT), FIELD(tenant, JOBS_TEXT), FIELD(tier, JOBS_TEXT), FIELD(task, JOBS_TEXT),
    FIELD(idempotency_key, JOBS_TEXT), FIELD(client_id, JOBS_TEXT), FIELD(metadata, JOBS_TEXT), FIELD(webhook, JOBS_TEXT),
    FIELD(output, JOBS_TEXT), FIELD(parameters, JOBS_TEXT), FIELD(url, JOBS_TEXT), FIELD(request_sha256, JOBS_SHA256),
    FIELD(priority, JOBS_INT), FIELD(local_only, JOBS_BOOL), FIELD(state, JOBS_INT), FIELD(tries, JOBS_INT),
    FIELD(fence, JOBS_INT64), FIELD(progress_percent, JOBS_INT), FIELD(created_unix_ms, JOBS_INT64),
    FIELD(started_unix_ms, JOBS_INT64), FIELD(finished_unix_ms, JOBS_INT64), FIELD(expires_unix_ms, JOBS_INT64),
    FIELD(webhook_pending, JOBS_BOOL), FIELD(webhook_tries, JOBS_INT), FIELD(webhook_at_unix_ms, JOBS_INT64),
};
_Static_assert(sizeof(sp_job_state) == sizeof(int), "state is stored as an int");

int64_t jobs_number(const sp_job *job, const jobs_field *field)
{
    const void *at = (const char *)job + field->offset;
    return field->kind == JOBS_INT ? *(const int *)at : field->kind == JOBS_BOOL ? *(const bool *)at : *(const int64_t *)at;
}

void jobs_set_number(sp_job *job, const jobs_field *field, int64_t value)
{
    void *at = (char *)job + field->offset;
    if (field->kind == JOBS_INT)
        *(int *)at = (int)value;
    else if (field->kind == JOBS_BOOL)
        *(bool *)at = value != 0;
    else
        *(int64_t *)at = value;
}

sp_job *jobs_found_add(jobs_op *op)
{
    sp_job *found = realloc(op->found, ((size_t)op->found_count + 1) * sizeof(*found));
    if (!found)
        return NULL;
    op->found = found;
    sp_job *job = &found[op->found_count++];
    *job = (sp_job){ 0 };
    return job;
}

sp_status jobs_bytes_copy(jobs_bytes *bytes, const void *data, size_t size_bytes, sp_error *reterr)
{
    uint8_t *copy = malloc(size_bytes + 1);
    if (!copy)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of a job", size_bytes);
    if (size_bytes)
        memcpy(copy, data, size_bytes);
    copy[size_bytes] = 0;
    free(bytes->data);
    *bytes = (jobs_bytes){ copy, size_bytes };
    return SP_OK;
}

sp_status jobs_bytes_append(jobs_bytes *bytes, const void *data, size_t size_bytes, sp_error *reterr)
{
    uint8_t *grown = realloc(bytes->data, bytes->size_bytes + size_bytes + 1);
    if (!grown)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of a job", bytes->size_bytes + size_bytes);
    if (size_bytes)
        memcpy(grown + bytes->size_bytes, data, size_bytes);
    bytes->data = grown;
    bytes->size_bytes += size_bytes;
    grown[bytes->size_bytes] = 0;
    return SP_OK;
}

int64_t jobs_unix_ms(void)
{
    return sp_clock_wall_ns() / SP_NS_PER_MS;
}

void jobs_error_json(const char *code, const char *why, char *ret_text, size_t size_bytes)
{
    sp_buf text;
    sp_buf_init(&text, size_bytes - 1);
    sp_buf_append_text(&text, "{\"error\":");
    sp_buf_append_json_text(&text, why);
    sp_buf_printf(&text, ",\"code\":\"%s\"}", code);
    if (sp_buf_ok(&text))
        (void)snprintf(ret_text, size_bytes, "%s", (const char *)text.data);
    else
        (void)snprintf(ret_text, size_bytes, "{\"error\":\"\",\"code\":\"%s\"}", code);
    sp_buf_done(&text);
}

/* --- open, close ------------------------------------------------------------------------------------------------- */

/* Tests shorten it; nobody else should need to. */
static int64_t renew_ns(void)
{
    const char *text = getenv("SPILLWAY_JOBS_RENEW_MS");
    long ms = text ? strtol(text, NULL, 10) : 0;
    return (ms > 0 && ms <= 60000 ? ms : RENEW_MS_DEFAULT) * SP_NS_PER_MS;
}

static sp_status group(void *context, sp_error *reterr)
{
    sp_jobs *jobs = context;
    return jobs->table->group(jobs->store, reterr);
}

static sp_status open_store(sp_jobs *jobs, sp_durability *ret_durability, sp_error *reterr)
{
    jobs_settings settings = { .config = &jobs->config, .data_dir = jobs->data_dir, .owner = jobs->owner,
                               .renew_ns = jobs->renew_ns, .depth = &jobs->depth };
    if (jobs->config.redis[0]) {
        jobs->table = &jobs_redis_table;
        return jobs_redis_open(&settings, &jobs->store, ret_durability, reterr);
    }
    jobs->table = &jobs_sqlite_table;
    *ret_durability = SP_DURABILITY_DISK;
    return jobs_sqlite_open(&settings, &jobs->store, reterr);
}

sp_status sp_jobs_open(sp_loop *loop, const sp_jobs_config *config, const char *data_dir, const char *owner, sp_jobs **ret_jobs,
                       sp_durability *ret_durability, sp_error *reterr)
{
    sp_durability durability = SP_DURABILITY_MEMORY;
    sp_jobs *jobs = calloc(1, sizeof(*jobs));
    if (!jobs)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the jobs' store");
    jobs->config = *config;
    jobs->renew_ns = renew_ns();
    (void)snprintf(jobs->owner, sizeof(jobs->owner), "%s", owner);
    (void)snprintf(jobs->data_dir, sizeof(jobs->data_dir), "%s", data_dir);
    sp_status s = open_store(jobs, &durability, reterr);
    if (!s)
        s = sp_store_thread_new(loop, "jobs", QUEUE_WORKS, jobs->table->group ? group : NULL, jobs, &jobs->thread, reterr);
    if (s) {
        sp_jobs_close(jobs);
        return s;
    }
    *ret_jobs = jobs;
    *ret_durability = durability;
    return SP_OK;
}

void sp_jobs_close(sp_jobs *jobs)
{
    if (!jobs)
        return;
    sp_store_thread_free(jobs->thread);
    if (jobs->store)
        jobs->table->close(jobs->store);
    free(jobs);
}

/* --- one call ---------------------------------------------------------------------------------------------------- */

static void run_op(sp_store_work *work)
{
    jobs_op *op = (jobs_op *)work;
    op->again = false;
    if (op->refused) /* on the loop's side already; answered in turn, like all others */
        work->status = SP_FAIL(&work->error, op->refused, "%s", op->why);
    else
        work->status = op->jobs->table->run(op->jobs->store, op, &work->error);
    if (!work->status)
        work->error = (sp_error){ 0 }; /* of something that was tried and got over */
    else if (!work->error.status)
        work->error.status = work->status; /* never an error without its status */
}

static void free_op(jobs_op *op)
{
    free(op->found);
    free(op->body_out.data);
    free(op->result_in.data);
    free(op->result_out.data);
    free(op);
}

static void done_op(sp_store_work *work)
{
    jobs_op *op = (jobs_op *)work;
    if (op->again && !work->status) { /* behind whoever came meanwhile */
        op->again = false;
        op->step++;
        sp_store_submit_or_refuse(op->jobs->thread, work);
        return;
    }
    /* A conflict may bring what is there instead: the other's job and result. */
    bool tells = work->status == SP_OK || work->status == SP_CONFLICT;
    sp_job_reply reply = {
        .status = work->status,
        .error = &work->error,
        .jobs = op->found,
        .count = tells ? op->found_count : 0,
        .body = work->status == SP_OK ? sp_view_make(op->body_out.data, op->body_out.size_bytes) : (sp_view){ 0 },
        .body_fd = -1,
        .result = tells ? sp_view_make(op->result_out.data, op->result_out.size_bytes) : (sp_view){ 0 },
        .cursor = op->next_cursor,
        .existed = op->existed,
        .next = op->next,
    };
    if (work->status == SP_OK)
        reply.body_fd = op->body_fd;
    else
        sp_fd_closep(&op->body_fd);
    op->reply(&reply, op->context);
    free_op(op);
}

/* The callback comes at once when there is not even memory for the operation. */
static jobs_op *new_op(sp_jobs *jobs, jobs_call call, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = calloc(1, sizeof(*op));
    if (!op) {
        sp_error err = { 0 };
        sp_status s = SP_FAIL(&err, SP_NOMEM, "no memory for an operation on jobs");
        sp_job_reply no = { .status = s, .error = &err, .body_fd = -1, .cursor = "" };
        reply(&no, context);
        return NULL;
    }
    op->work.run = run_op;
    op->work.done = done_op;
    op->jobs = jobs;
    op->call = call;
    op->reply = reply;
    op->context = context;
    op->body_fd = op->file.fd = -1;
    op->file.name = "";
    op->state = -1;
    return op;
}

void jobs_op_submit(jobs_op *op)
{
    sp_store_submit_or_refuse(op->jobs->thread, &op->work);
}

jobs_op *jobs_op_new(sp_jobs *jobs, jobs_call call, const char *tenant, const char *id, uint64_t fence, sp_job_reply_fn *reply,
                     void *context)
{
    jobs_op *op = new_op(jobs, call, reply, context);
    if (!op)
        return NULL;
    (void)snprintf(op->job.id, sizeof(op->job.id), "%s", id);
    (void)snprintf(op->job.tenant, sizeof(op->job.tenant), "%s", tenant ? tenant : "");
    op->any_tenant = !tenant;
    op->job.fence = fence;
    return op;
}

void sp_jobs_add(sp_jobs *jobs, const sp_job *job, sp_view body, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = new_op(jobs, JOBS_ADD, reply, context);
    if (!op)
        return;
    op->job = *job;
    op->body = body;
    jobs_op_submit(op);
}

void sp_jobs_get(sp_jobs *jobs, const char *tenant, const char *id, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_GET, tenant, id, 0, reply, context);
    if (op)
        jobs_op_submit(op);
}

void sp_jobs_list(sp_jobs *jobs, const char *tenant, int state, const char *task, const char *cursor, int limit,
                  sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_LIST, tenant, "", 0, reply, context);
    if (!op)
        return;
    (void)snprintf(op->job.task, sizeof(op->job.task), "%s", task ? task : "");
    (void)snprintf(op->cursor, sizeof(op->cursor), "%s", cursor ? cursor : "");
    op->state = state;
    op->limit = SP_CLAMP(limit, 1, SP_LIMIT_JOBS_LISTED);
    jobs_op_submit(op);
}

void sp_jobs_claim(sp_jobs *jobs, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = new_op(jobs, JOBS_CLAIM, reply, context);
    if (op)
        jobs_op_submit(op);
}

void sp_jobs_renew(sp_jobs *jobs, const char *id, uint64_t fence, int progress_percent, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_RENEW, NULL, id, fence, reply, context);
    if (!op)
        return;
    op->job.progress_percent = SP_CLAMP(progress_percent, 0, 100);
    jobs_op_submit(op);
}

void sp_jobs_finish(sp_jobs *jobs, const char *id, uint64_t fence, sp_job_state state, sp_view result, sp_job_reply_fn *reply,
                    void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_FINISH, NULL, id, fence, reply, context);
    if (!op)
        return;
    op->job.state = state;
    if (state != SP_JOB_DONE && state != SP_JOB_FAILED && state != SP_JOB_CANCELLED) {
        op->refused = SP_INVALID;
        (void)snprintf(op->why, sizeof(op->why), "a job finishes as done, failed or cancelled");
    } else if (result.size_bytes > SP_LIMIT_JOB_RESULT_BYTES) {
        op->refused = SP_TOO_LARGE;
        (void)snprintf(op->why, sizeof(op->why), "a job's result has %zu bytes, at most %u are kept", result.size_bytes,
                       SP_LIMIT_JOB_RESULT_BYTES);
    } else if (jobs_bytes_copy(&op->result_in, result.data, result.size_bytes, NULL)) {
        op->refused = SP_NOMEM;
        (void)snprintf(op->why, sizeof(op->why), "no memory for a job's result");
    }
    jobs_op_submit(op);
}

void sp_jobs_release(sp_jobs *jobs, const char *id, uint64_t fence, bool counts, const char *why, sp_job_reply_fn *reply,
                     void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_RELEASE, NULL, id, fence, reply, context);
    if (!op)
        return;
    op->counts = counts;
    (void)snprintf(op->why, sizeof(op->why), "%s", why ? why : "");
    jobs_op_submit(op);
}

void sp_jobs_delete(sp_jobs *jobs, const char *tenant, const char *id, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_DELETE, tenant, id, 0, reply, context);
    if (op)
        jobs_op_submit(op);
}

void sp_jobs_webhooks_due(sp_jobs *jobs, int limit, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = new_op(jobs, JOBS_WEBHOOKS_DUE, reply, context);
    if (!op)
        return;
    op->limit = SP_CLAMP(limit, 1, SP_LIMIT_JOBS_LISTED);
    jobs_op_submit(op);
}

void sp_jobs_webhook_done(sp_jobs *jobs, const char *id, bool delivered, int64_t next_unix_ms, sp_job_reply_fn *reply,
                          void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_WEBHOOK_DONE, NULL, id, 0, reply, context);
    if (!op)
        return;
    op->delivered = delivered;
    op->job.webhook_at_unix_ms = next_unix_ms;
    jobs_op_submit(op);
}

void sp_jobs_sweep(sp_jobs *jobs, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = new_op(jobs, JOBS_SWEEP, reply, context);
    if (op)
        jobs_op_submit(op);
}

const char *sp_jobs_data_dir(const sp_jobs *jobs)
{
    return jobs->data_dir;
}

bool sp_jobs_several(const sp_jobs *jobs)
{
    return jobs->config.redis[0] != 0;
}

int sp_jobs_queue_depth(const sp_jobs *jobs)
{
    return atomic_load((atomic_int *)&jobs->depth);
}

int sp_jobs_renew_ms(const sp_jobs *jobs)
{
    return (int)(jobs->renew_ns / SP_NS_PER_MS);
}
