/* SPDX-License-Identifier: Apache-2.0
 * A job as JSON: what the API, the webhooks and the job events say of one. Pure but for sp_job_emit. */
#ifndef SP_JOBS_DOCUMENT_H
#define SP_JOBS_DOCUMENT_H

#include "base/buf.h"
#include "route/house.h"
#include "store/jobs.h"
#include "store/results.h"

#define SP_TIME_TEXT_BYTES 32

/* The tasks that a job may have: noop, classify, detect, analyze. */
bool sp_job_task_parse(const char *text, sp_task *ret_task);

/* "2026-11-21T14:15:16.789Z" (RFC 3339, UTC). */
void sp_time_text(int64_t unix_ms, char ret_text[SP_TIME_TEXT_BYTES]);
int64_t sp_unix_ms(void);

/* {"id":..., "task":..., "status":..., ..., "result":..., "error":...}: the whole job. `result` is what finish was given:
 * JSON, shown as "result" of a job that is done and as "error" of one that failed; empty = null; NULL = left out (lists).
 * `event` (NULL = none) goes first, for webhooks. */
void sp_job_write(sp_buf *out, const sp_job *job, const sp_view *result, const char *event);

/* Emits job.queued, job.running, job.progress, job.done, job.failed, job.cancelled with topic job/ID and the job's
 * tenant. Metadata that does not fit an event is left out and "metadata_cut":true says so. */
void sp_job_emit(const sp_job *job, const char *kind);
/* `more`: further members, each with its comma in front: ",\"a\":1". */
void sp_job_emit_more(const sp_job *job, const char *kind, const char *more);

/* {"error":"...","code":"bad_image","status":"invalid","attempts":[...]}: what a failed job's error is. */
void sp_job_error_write(sp_buf *out, const sp_error *err, const sp_attempt *attempts, int attempt_count);

/* What the result store's columns say of an answer; id, tenant, task, tier, client_id and stream are the caller's. */
void sp_result_take_answer(sp_result *result, const sp_answer *answer);

#endif
