/* SPDX-License-Identifier: Apache-2.0
 * A job of task analyze on its way through analysis.h, and helping with one that another server has claimed. Private to this
 * room, but for what a job's parameters may be. */
#ifndef SP_JOBS_RUN_ANALYSIS_H
#define SP_JOBS_RUN_ANALYSIS_H

#include "jobs/analysis.h"
#include "jobs/internal.h"

/* How often a running analysis is looked at: its progress is told, chunks of others are asked for again. */
#define ANALYSIS_LOOK_MS 250
/* Over Redis: chunks that one server has claimed and not yet saved, so that others find some: two for each of its devices, and
 * one that comes next; at least this. */
#define ANALYSIS_CLAIMS 3
/* Other servers' videos that this one helps with at once. */
#define ANALYSIS_HELPED 2
/* A chunk that became ours and that the run then did not want (somebody else's result came first) is let go after this. */
#define ANALYSIS_UNWANTED_MS 2000

/* A job's `parameters`: what sp_analyze_params_set knows, and chunks and overlay. SP_INVALID says what is wrong. Those of every
 * task (timeout_ms, force_cpu, stream ...) are left alone. ret_settings may be NULL. */
sp_status sp_run_analysis_settings(const char *parameters, sp_analysis_settings *ret_settings, sp_error *reterr);

typedef enum chunk_claim_state { CLAIM_FREE, CLAIM_ASKED, CLAIM_GRANTED, CLAIM_OURS, CLAIM_SAVED } chunk_claim_state;
typedef struct chunk_claim {
    struct sp_run_analysis *of;
    struct chunk_claim *next;
    uint32_t first;
    chunk_claim_state state;
    int64_t since_ns; /* asked, granted, or renewed */
    bool renewing;
} chunk_claim;

/* One video that is being analysed here: a job of ours (`run`), or one that we help with. Freed when it is over and no callback is
 * owed to it any more. */
typedef struct sp_run_analysis {
    sp_runner *runner;
    struct sp_run_analysis *next; /* of runner->helped */
    sp_run *run;                  /* NULL: we help */
    sp_job job;
    sp_analysis_run *analysis;
    sp_request *fetch;
    sp_store_work work;           /* on the reader thread: a file to fetch into */
    int calls;                    /* callbacks that will still come */
    bool gone;
    int media_fd, report_fd;
    uint64_t media_bytes, report_bytes;
    uint64_t parts_seen;
    chunk_claim *claims;
    int64_t shared_ns;
    /* Progress: */
    int64_t first_ns; /* frames per second are counted from here on */
    uint32_t first_frames, told_frames;
    sp_analysis_phase told_phase;
    sp_timer look;
} sp_run_analysis;

/* For run.c: the job's body, when it is small; else run->body_fd or the job's url. */
sp_status sp_run_analysis_begin(sp_run *run, sp_view body, sp_error *reterr);
void sp_run_analysis_stop(sp_run *run); /* jobs of other tasks are fine */
/* ,"analysis":{"phase":...,"frames_done":...}; nothing while there is nothing to tell. */
void sp_run_analysis_write(const sp_run_analysis *a, sp_buf *out);

/* For runner.c. */
void sp_run_analysis_help(sp_runner *runner); /* there is nothing else to do: look for somebody to help */
void sp_run_analysis_help_end(sp_runner *runner, const char *id); /* NULL = with all */

/* analysis_parts.c: what analysis.h keeps, over the store. */
void sp_run_analysis_parts(sp_run_analysis *a, sp_analysis_parts *ret_parts);
void sp_run_analysis_claims_look(sp_run_analysis *a, int64_t now_ns); /* renews, lets go */
void sp_run_analysis_end(sp_run_analysis *a); /* gone; freed once its callbacks have come */
bool sp_run_analysis_called(sp_run_analysis *a); /* at the start of each callback; false: it is gone */

/* run.c */
void sp_run_answered(sp_run *run); /* run->answer and run->record hold what came out */
void sp_run_failed(sp_run *run, const sp_error *err, const sp_attempt *attempts, int attempt_count, int retry_after_s);

#endif
