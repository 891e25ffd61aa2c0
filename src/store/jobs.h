/* SPDX-License-Identifier: Apache-2.0
 * Durable jobs behind one interface: SQLite (WAL, synchronous=FULL, group commit; bodies as fsynced files) or Redis
 * Streams (body key before XADD, consumer groups, fencing). Calls are made on the loop's thread and answer there through
 * the callback; exactly one callback each. Execution is at least once, the result exactly once: the first finish with a
 * job's current fencing token wins.
 *
 *   queued -> running -> done | failed | cancelled          a claim that is not renewed goes back to queued */
#ifndef SP_STORE_JOBS_H
#define SP_STORE_JOBS_H

#include "base/loop.h"
#include "base/view.h"
#include "config/config.h"

#define SP_LIMIT_JOB_ID_BYTES 40
#define SP_LIMIT_JOB_METADATA_BYTES 4096
#define SP_LIMIT_JOB_RESULT_BYTES (1024u * 1024)
/* Bodies up to here lie in the database, longer ones in files of their own (SQLite). */
#define SP_LIMIT_JOB_INLINE_BYTES (64u * 1024)
/* Jobs of one list or of one look for due webhooks; an sp_job is 14 KB. */
#define SP_LIMIT_JOBS_LISTED 200
/* How often a job may be in the hands of a process that dies before it is given up (failed, code "owner_died"). Such a death
 * is not the job's fault, but one that brings servers down must not do so for ever. */
#define SP_LIMIT_JOB_OWNER_DEATHS 64

typedef struct sp_jobs sp_jobs;

typedef enum sp_job_state { SP_JOB_QUEUED, SP_JOB_RUNNING, SP_JOB_DONE, SP_JOB_FAILED, SP_JOB_CANCELLED } sp_job_state;
const char *sp_job_state_name(sp_job_state state); /* "queued", "running", "done", "failed", "cancelled" */

typedef struct sp_job {
    char id[SP_LIMIT_JOB_ID_BYTES]; /* sortable by time; made by the API */
    char tenant[48], tier[24], task[24];
    char idempotency_key[128]; /* "" = none; unique per tenant */
    char client_id[128];
    char metadata[SP_LIMIT_JOB_METADATA_BYTES + 1]; /* JSON text or "" */
    char webhook[1024];                             /* URL or "" */
    char output[2048];                              /* JSON of `output` or "" */
    char parameters[2048];                          /* JSON of the task's parameters: {"top_k":5,"model":"..."} */
    char url[2048];                                 /* the body lies there; "" = it was given */
    uint8_t request_sha256[32];                     /* of task, parameters and body: tells a reused idempotency key */
    int priority;                                   /* -10 .. 10, higher first */
    bool local_only;
    sp_job_state state;
    int tries;
    uint64_t fence; /* of the current claim */
    int progress_percent;
    int64_t created_unix_ms, started_unix_ms, finished_unix_ms, expires_unix_ms;
    bool webhook_pending; /* finished, and its webhook has not been delivered */
    int webhook_tries;
    int64_t webhook_at_unix_ms;
} sp_job;

typedef struct sp_job_reply {
    sp_status status;
    const sp_error *error;
    const sp_job *jobs; /* borrowed until the callback returns; get, claim: one; list: count */
    int count;
    sp_view body;       /* claim, body: of the one job, when it has one; parts_get, report_read: the bytes */
    int body_fd;        /* claim, body: a large body's file, the callback's to close; -1 = none */
    uint64_t next;      /* parts_get: `from` of the next look */
    sp_view result;     /* get, finish: JSON, when there is one */
    const char *cursor; /* list: where to go on; "" = the end */
    bool existed;       /* add: the idempotency key was known; jobs[0] is that job */
} sp_job_reply;
typedef void sp_job_reply_fn(const sp_job_reply *reply, void *context);

/* data_dir is made when it is missing. SP_UNAVAILABLE: another process holds this data_dir's SQLite (one process each;
 * share through Redis). *ret_durability = what a 202 may say. */
sp_status sp_jobs_open(sp_loop *loop, const sp_jobs_config *config, const char *data_dir, const char *owner, sp_jobs **ret_jobs,
                       sp_durability *ret_durability, sp_error *reterr);
void sp_jobs_close(sp_jobs *jobs); /* outstanding callbacks come before it returns */

/* Answers once job and body are durable. `body` is borrowed until then. SP_CONFLICT: the idempotency key was used for
 * another request. */
void sp_jobs_add(sp_jobs *jobs, const sp_job *job, sp_view body, sp_job_reply_fn *reply, void *context);
void sp_jobs_get(sp_jobs *jobs, const char *tenant, const char *id, sp_job_reply_fn *reply, void *context); /* tenant NULL = any */
/* Newest first. status < 0 = any. */
void sp_jobs_list(sp_jobs *jobs, const char *tenant, int state, const char *task, const char *cursor, int limit,
                  sp_job_reply_fn *reply, void *context);
/* The best queued one (priority, then age), now running and ours; count 0 = none. Ones whose owner has gone too. */
void sp_jobs_claim(sp_jobs *jobs, sp_job_reply_fn *reply, void *context);
/* To be called every sp_jobs_renew_ms: after three missed ones somebody else may claim the job.
 * SP_CONFLICT: the claim is no longer ours; stop working on it. */
void sp_jobs_renew(sp_jobs *jobs, const char *id, uint64_t fence, int progress_percent, sp_job_reply_fn *reply, void *context);
/* Result and state in one durable step; SP_CONFLICT: somebody else finished it (reply->result is theirs). */
void sp_jobs_finish(sp_jobs *jobs, const char *id, uint64_t fence, sp_job_state state, sp_view result, sp_job_reply_fn *reply,
                    void *context);
/* Back to the queue: not its fault (`counts` false), or try again later (`counts` true; after `tries`: failed, dead letter). */
void sp_jobs_release(sp_jobs *jobs, const char *id, uint64_t fence, bool counts, const char *why, sp_job_reply_fn *reply,
                     void *context);
/* Queued: cancelled at once. Running: marked; the owner's next renew says SP_CONFLICT. Finished: erased with body and
 * result. */
void sp_jobs_delete(sp_jobs *jobs, const char *tenant, const char *id, sp_job_reply_fn *reply, void *context);
/* Finished ones whose webhook is due; webhook_done marks one delivered or sets its next time. */
void sp_jobs_webhooks_due(sp_jobs *jobs, int limit, sp_job_reply_fn *reply, void *context);
void sp_jobs_webhook_done(sp_jobs *jobs, const char *id, bool delivered, int64_t next_unix_ms, sp_job_reply_fn *reply,
                          void *context);
/* Erases what has expired, bodies without a job, jobs without a body. */
void sp_jobs_sweep(sp_jobs *jobs, sp_job_reply_fn *reply, void *context);
int sp_jobs_renew_ms(const sp_jobs *jobs);

/* --- large ones (jobs_bulk.c): bodies from files, what is kept of a job that is half done, its report --- */

/* Bytes of a report that one read gives at most, and of one piece of whatever lies in Redis. */
#define SP_JOBS_PIECE_BYTES (256u * 1024)
/* Parts of one job. Beyond: SP_TOO_LARGE; what was not kept is computed again after a crash. */
#define SP_LIMIT_JOB_PARTS 4096

/* A body that lies on disk and is durable (store/upload.h). */
typedef struct sp_body_file {
    int fd;
    const char *name; /* in data_dir/bodies; "" = it has none */
    uint64_t size_bytes;
} sp_body_file;

/* As sp_jobs_add. SQLite renames the file (it needs a name), Redis gets a copy in pieces. Borrowed until the answer. */
void sp_jobs_add_file(sp_jobs *jobs, const sp_job *job, const sp_body_file *file, sp_job_reply_fn *reply, void *context);
/* The body of a job that is queued or running, whoever has it, as a claim gives it: one server helps another. */
void sp_jobs_body(sp_jobs *jobs, const char *id, sp_job_reply_fn *reply, void *context);

/* One more part of a running job: bytes (borrowed until the answer) that a later claim starts from. They go when the job
 * ends. `fence` 0: of somebody who helps and has no claim. SP_CONFLICT: the claim is not ours, or the job is not running. */
void sp_jobs_part_put(sp_jobs *jobs, const char *id, uint64_t fence, sp_view bytes, sp_job_reply_fn *reply, void *context);
/* The parts from the `from`-th on, in the order they came, one behind the other in reply->body. */
void sp_jobs_parts_get(sp_jobs *jobs, const char *id, uint64_t from, sp_job_reply_fn *reply, void *context);

/* What a job leaves besides its result: one file (an archive), there until the job is erased. Before finish, under the claim;
 * a second one replaces the first. `fd` is borrowed until the answer. */
void sp_jobs_report_put(sp_jobs *jobs, const char *id, uint64_t fence, int fd, uint64_t size_bytes, sp_job_reply_fn *reply,
                        void *context);
/* Bytes of it from `offset` on, at least one and at most SP_JOBS_PIECE_BYTES; none = the end. SP_NOT_FOUND: there is none. */
void sp_jobs_report_read(sp_jobs *jobs, const char *tenant, const char *id, uint64_t offset, sp_job_reply_fn *reply, void *context);

/* Several servers on one job (Redis; over SQLite there is nobody else: shared gives none, a chunk is always ours).
 * share: others may help with this one, until three renewals have been missed. shared: running ones that are shared. */
void sp_jobs_share(sp_jobs *jobs, const char *id, uint64_t fence, sp_job_reply_fn *reply, void *context);
void sp_jobs_shared(sp_jobs *jobs, int limit, sp_job_reply_fn *reply, void *context);
/* This chunk of it is ours for three renewals; again = renewed. SP_BUSY: somebody else's. SP_CONFLICT: it is not running. */
void sp_jobs_chunk_claim(sp_jobs *jobs, const char *id, uint32_t chunk, sp_job_reply_fn *reply, void *context);
const char *sp_jobs_data_dir(const sp_jobs *jobs);
bool sp_jobs_several(const sp_jobs *jobs); /* others may work on the same jobs */
int sp_jobs_queue_depth(const sp_jobs *jobs); /* queued, as last known */

#endif
