/* SPDX-License-Identifier: Apache-2.0
 * The job runner: claims queued jobs, sends them down their chain like any request (behind the interactive ones), puts
 * outputs where they belong, and finishes, fails or releases each. Webhooks of finished jobs are its second half
 * (webhooks.h). Loop thread only. It never holds the only copy of anything: a server that is killed loses claims, and
 * claims come back.
 *
 *   claim -> LOADING -> WORKING -> [SENDING] -> RECORDING -> FINISHING -> gone
 *                          `-> WAITING (back-off) -> RELEASING -> gone            claim lost anywhere -> gone */
#ifndef SP_JOBS_RUNNER_H
#define SP_JOBS_RUNNER_H

#include "jobs/document.h"

typedef struct sp_runner sp_runner;

typedef struct sp_runner_config {
    sp_loop *loop;
    sp_house *house;
    sp_jobs *jobs;
    sp_results *results; /* NULL = none */
    /* The configuration as it is now, asked at each use so that a reload counts; borrowed until the callback returns. */
    const sp_config *(*settings)(void *context);
    void *settings_context;
    /* detect: which loaded version of a served model; "" = the only one. NULL = there are none. */
    sp_status (*find_model)(void *context, const char *name, sp_served_model *ret_model, sp_error *reterr);
    /* The answer as JSON, the same that an interactive request gets. */
    void (*answer_write)(sp_buf *out, sp_task task, const char *request_id, const sp_answer *answer);
} sp_runner_config;

sp_status sp_runner_new(const sp_runner_config *config, sp_runner **ret_runner, sp_error *reterr);

/* A job was added: look now instead of at the next poll. */
void sp_runner_wake(sp_runner *runner);

/* The job was deleted: stop working on it, if it is here. True = it was. */
bool sp_runner_cancel(sp_runner *runner, const char *id);

/* Appends what is known of a video's analysis that runs here: ,"analysis":{"phase":"working","frames_done":12,...}. */
void sp_runner_analysis_write(const sp_runner *runner, const char *id, sp_buf *out);

/* What a job of task analyze may have as parameters. SP_INVALID: says what is wrong. */
sp_status sp_runner_analysis_check(const char *parameters, sp_error *reterr);

/* How far a job that runs in this process is; false = it does not. */
bool sp_runner_progress(const sp_runner *runner, const char *id, int *ret_percent);

/* It runs here, or did not long ago: this process has told what became of it. */
bool sp_runner_had(const sp_runner *runner, const char *id);

/* SIGTERM: claims nothing more. Those that run get `grace_ns` to finish, then they are released. */
void sp_runner_drain(sp_runner *runner, int64_t grace_ns);
int sp_runner_busy(const sp_runner *runner); /* jobs and webhooks in hand */

/* Cancels what is in the house, so that the house can be freed; claims go back. Then sp_jobs_close, then free. */
void sp_runner_stop(sp_runner *runner);
void sp_runner_free(sp_runner *runner);

#endif
