/* SPDX-License-Identifier: Apache-2.0
 * `spillway chaos`: faults on a schedule against a live server, while requests with known answers run. In four parts:
 * chaos_script.c reads the schedule, chaos_load.c sends and judges requests, chaos_faults.c makes the faults and watches the
 * workers come back, chaos.c is the command and its report. Client code only. */
#ifndef SP_CLI_CHAOS_H
#define SP_CLI_CHAOS_H

#include "cli/bench_hist.h"
#include "cli/bench_http.h"
#include "cli/seen.h"

#include <pthread.h>
#include <stdatomic.h>

/* --- the schedule ------------------------------------------------------------------------------------------------- */

/*   at 5s kill cpu0                  every 3s [from 1s] [until 60s] stop codec0 for 500ms
 *
 *   kill WORKER              SIGKILL                      stop WORKER [for TIME]   SIGSTOP, later SIGCONT
 *   signal NAME WORKER       SEGV, BUS, ABRT, ...         slow N for TIME          clients that stall within their request
 *   post URL                 a stand-in's switch          run COMMAND              by /bin/sh
 *   reload                   SIGHUP to the server
 * WORKER: a name of /healthz, or `any`; one that is not ready just then is skipped (`every`) or waited for (`at`). TIME: 500ms, 5s, 2m. '#' begins a comment. */
typedef enum sp_chaos_action {
    SP_CHAOS_SIGNAL, /* kill as well */
    SP_CHAOS_STOP,
    SP_CHAOS_SLOW,
    SP_CHAOS_POST,
    SP_CHAOS_RUN,
    SP_CHAOS_RELOAD,
} sp_chaos_action;

#define SP_CHAOS_STEPS 256
#define SP_CHAOS_SLOW_CLIENTS 256

typedef struct sp_chaos_step {
    int line;
    int64_t at_ns, every_ns; /* every 0 = once; at: the first time */
    int64_t until_ns;        /* INT64_MAX = to the end */
    sp_chaos_action action;
    int signal;
    char worker[32]; /* "any" */
    int64_t for_ns;  /* 0 = for good */
    int count;       /* slow clients */
    char target[512]; /* URL, command */
    char text[160];   /* the action as written */
    int64_t next_ns;  /* the run's: when it is due */
} sp_chaos_step;

typedef struct sp_chaos_script {
    sp_chaos_step steps[SP_CHAOS_STEPS];
    int count;
} sp_chaos_script;

/* SP_INVALID names file, line and word. `name` is for messages. */
sp_status sp_chaos_script_parse(const char *name, const char *text, sp_chaos_script *ret_script, sp_error *reterr);
int64_t sp_chaos_script_end_ns(const sp_chaos_script *script); /* of the last thing that happens once */
const char *sp_chaos_signal_name(int number); /* "KILL"; "?" */

/* --- a run -------------------------------------------------------------------------------------------------------- */

#define SP_CHAOS_FILES 64
#define SP_CHAOS_LINKS 32
#define SP_CHAOS_THREADS 256
#define SP_CHAOS_OPEN 64 /* faults that are being recovered from at once; more are skipped */
#define SP_CHAOS_NOOP_BYTES 1024
#define SP_CHAOS_SAMPLES 5

typedef struct sp_chaos_event { /* one fault that was made */
    const sp_chaos_step *step;
    char worker[32];
    int pid;
    int64_t at_ns;
    int64_t continue_ns; /* SIGCONT is due then; 0 = none */
    bool waits_for_worker;
    int64_t ready_ns;  /* the worker was ready again; 0 = not yet, or nothing to wait for */
    int64_t answer_ns; /* the first right answer to a request that was sent after the fault; 0 = not yet */
    bool unasked;      /* the load ended with it: no request was sent after it */
} sp_chaos_event;

typedef struct sp_chaos_shot {
    sp_buf request;
    sp_seen expected; /* from the clean pass */
    const char *file;
} sp_chaos_shot;

/* What the load saw; one for each thread, added up at the end. */
typedef struct sp_chaos_tally {
    uint64_t sent, right, shed, lost, wrong, simpler, noops;
    struct {
        char name[48];
        uint64_t answers;
    } links[SP_CHAOS_LINKS];
    int link_count;
    sp_hist latency;       /* of right answers */
    sp_hist fault_latency; /* of those sent while a fault was open */
    int64_t slowest_ns;    /* of the pictures */
    char slowest_way[320]; /* its attempts */
    char samples[SP_CHAOS_SAMPLES][256]; /* of what was lost or wrong */
    int sample_count;
} sp_chaos_tally;

typedef struct sp_chaos {
    /* What was asked for: */
    sp_bench_url url;
    const char *const *headers;
    int header_count;
    sp_chaos_script script;
    int concurrency, noop_percent;
    int64_t duration_ns, timeout_ns, settle_ns;
    uint64_t request_limit; /* 0 = none */
    double tolerance;
    uint64_t seed;
    sp_chaos_shot *shots;
    int shot_count;
    const volatile bool *stop; /* a signal handler's */
    /* The run: */
    int64_t start_ns;
    _Atomic bool ending;        /* no new requests */
    _Atomic uint64_t issued;
    _Atomic int64_t last_sent_ns; /* of all requests */
    _Atomic int unanswered;     /* open events whose answer_ns is 0: lets the load skip the lock */
    _Atomic int open_count;
    pthread_mutex_t lock;       /* guards `open` against the load's threads */
    sp_chaos_event open[SP_CHAOS_OPEN];
    sp_chaos_event *events;     /* closed ones */
    int event_count, event_capacity;
    uint64_t skipped;           /* faults whose worker was not there, or too many open */
    char problem[256];          /* why a fault could not be made, the first one */
} sp_chaos;

/* Asks each file once, with nothing going on; its answer is what later ones are held to. An error says which and why. */
sp_status sp_chaos_clean_pass(sp_chaos *chaos, sp_error *reterr);
/* Each file once more: right answers? */
sp_status sp_chaos_check_pass(sp_chaos *chaos, sp_error *reterr);
/* Requests until `ending` or the limit, on `concurrency` threads of its own; returns when the last has its answer. */
sp_status sp_chaos_load_run(sp_chaos *chaos, sp_chaos_tally *ret_sum, sp_error *reterr);

/* SP_DENIED: the server does not allow it. SP_UNAVAILABLE: no server. */
sp_status sp_chaos_permitted(sp_chaos *chaos, sp_error *reterr);
/* The schedule, on the calling thread, until its time is over or the load has ended; then lets everything go on that it
 * stopped and waits (settle_ns) until every worker is ready. */
sp_status sp_chaos_faults_run(sp_chaos *chaos, sp_error *reterr);

#endif
