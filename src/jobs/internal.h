/* SPDX-License-Identifier: Apache-2.0
 * What runner.c, run.c and webhooks.c share. Private to this room. */
#ifndef SP_JOBS_INTERNAL_H
#define SP_JOBS_INTERNAL_H

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "jobs/outputs.h"
#include "jobs/runner.h"
#include "jobs/send.h"
#include "store/worker.h"

#include <sys/types.h>

/* Slots that jobs leave to interactive requests, however high jobs.concurrency is set. */
#define RUN_SLOTS_LEFT (SP_LIMIT_SLOTS / 2)
/* Jobs that failed for a passing reason and wait for their next try hold no slot; more of them than this are released
 * without waiting. */
#define RUN_WAITING_MAX 256
/* One try, unless the job's parameters.timeout_ms says otherwise: jobs wait behind interactive requests. */
#define RUN_TRY_MS 120000
/* Between two looks for work when nobody woke us: jobs of other servers, and those whose time has come. */
#define RUN_POLL_MS 1000
/* A store that is down is asked again after this. */
#define RUN_STORE_RETRY_MS 500
/* A body that the store keeps as a file is read in pieces, each one callback's worth. */
#define RUN_PIECE_BYTES (128u * 1024)
/* One PUT of an output, and how often it is tried before the whole job is. */
#define RUN_SEND_MS 60000
#define RUN_SEND_TRIES 4

struct sp_run_analysis;

typedef enum run_phase { RUN_LOADING, RUN_WORKING, RUN_SENDING, RUN_RECORDING, RUN_WAITING, RUN_FINISHING, RUN_RELEASING } run_phase;

/* One claimed job. Freed when it is gone and no callback of the store is owed to it any more. */
typedef struct sp_run {
    sp_runner *runner;
    struct sp_run *next;
    sp_job job;
    run_phase phase;
    int calls;    /* store callbacks that will still come */
    bool renewing;
    bool gone;    /* finished, released or lost: only `calls` keeps it */
    bool deleted; /* the user deleted it while it ran */
    sp_task task;
    sp_request *request;
    struct sp_run_analysis *analysis; /* of a video (run_analysis.h); else NULL */
    /* The body, when it is a file: */
    int body_fd;
    bool reading; /* `read` is on the store thread */
    struct run_read {
        sp_store_work work;
        struct sp_run *run;
        off_t offset;
        ssize_t got;
        uint8_t bytes[RUN_PIECE_BYTES];
    } *read;
    /* What came out: */
    sp_job_state outcome; /* DONE, FAILED */
    sp_buf answer;        /* of the task, as it goes to outputs and the result store */
    sp_buf result;        /* what the job's `result` or `error` will say */
    sp_result record;
    sp_outputs *outputs;
    int output_next, output_tries;
    sp_send send;
    bool counts; /* the release is its own fault */
    char why[200];
    sp_timer timer;
} sp_run;

typedef struct sp_webhooks sp_webhooks;

struct sp_runner {
    sp_runner_config config;
    sp_run *runs;
    int running, waiting; /* of runs: those that count against the concurrency, those in back-off */
    int claims_out;
    char recent[256][SP_LIMIT_JOB_ID_BYTES]; /* of the last claims, a ring */
    unsigned recent_next;
    bool draining, stopped, store_down;
    int64_t claim_after_ns; /* the house was full: not before */
    uint64_t random;
    sp_timer poll, renew, sweep, drain;
    sp_store_thread *reader; /* NULL until the first body that is a file */
    sp_webhooks *webhooks;
    struct sp_run_analysis *helped; /* other servers' videos */
    bool help_asked;
    uint64_t helped_fences[16]; /* claims whose videos were helped with, a ring: not twice with the same one */
    unsigned helped_next;
    sp_metric *gauge_running, *gauge_queued, *count[SP_JOB_CANCELLED + 1], *count_released, *count_lost;
};

uint64_t sp_runner_random(sp_runner *runner);
const sp_config *sp_runner_settings(const sp_runner *runner);

/* run.c: takes what was claimed and sees it through; ends in sp_run_gone. */
void sp_run_begin(sp_runner *runner, const sp_job_reply *claimed);
void sp_run_lost(sp_run *run);    /* the claim is somebody else's now, or the job was deleted */
void sp_run_give_up(sp_run *run); /* released, not its fault: we stop */
void sp_run_free(sp_run *run);
int sp_run_priority(const sp_job *job); /* of its requests in the house */
sp_status sp_run_reader(sp_runner *runner, sp_error *reterr); /* runner->reader is there */

/* runner.c */
void sp_run_gone(sp_run *run); /* out of the list; freed once its callbacks have come */
void sp_run_call(sp_run *run);
bool sp_run_called(sp_run *run); /* at the start of each store callback; false: it is freed, touch nothing */

/* webhooks.c */
sp_status sp_webhooks_new(sp_runner *runner, sp_webhooks **ret_webhooks, sp_error *reterr);
void sp_webhooks_wake(sp_webhooks *webhooks); /* a job with a webhook has finished */
int sp_webhooks_busy(const sp_webhooks *webhooks);
void sp_webhooks_stop(sp_webhooks *webhooks);
void sp_webhooks_free(sp_webhooks *webhooks);

#endif
