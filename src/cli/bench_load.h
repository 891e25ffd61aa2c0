/* SPDX-License-Identifier: Apache-2.0
 * The load itself: one thread, one epoll, many kept-alive connections.
 *
 *   closed loop  each connection sends its next request when its last was answered (rate 0).
 *   open loop    requests are due at scheduled times whatever the server does; one that finds no free connection
 *                waits, and its latency counts from when it was due (no coordinated omission).
 *
 * What completes inside the window [warm-up's end, end] makes the throughput; requests still out at the end are waited
 * for and counted in latencies and errors, so that slow ones are not lost. */
#ifndef SP_CLI_BENCH_LOAD_H
#define SP_CLI_BENCH_LOAD_H

#include "base/status.h"
#include "base/view.h"
#include "cli/bench_hist.h"

#define SP_LOAD_CONNECTIONS 4096
#define SP_LOAD_SAMPLES 5 /* answers shown when they are not what was expected */

/* One of the requests that are sent in turn. */
typedef struct sp_load_shot {
    sp_view request;          /* as on the wire */
    const char *expect_label; /* NULL = any; else the answer's first "label" */
} sp_load_shot;

typedef enum sp_load_error {
    SP_LOAD_CONNECT,  /* refused, or not made in time */
    SP_LOAD_RESET,    /* the connection broke, or ended in the middle of an answer */
    SP_LOAD_CLOSED,   /* a fresh connection was closed without an answer */
    SP_LOAD_STALE,    /* a used one was: the server may have closed it before the request arrived */
    SP_LOAD_TIMEOUT,
    SP_LOAD_PROTOCOL, /* the answer is not HTTP */
    SP_LOAD_UNSENT,   /* open loop: due, but no connection came free before the end */
    SP_LOAD_ERROR_COUNT
} sp_load_error;
const char *sp_load_error_name(sp_load_error error);

typedef struct sp_load_params {
    const char *host, *port;
    const sp_load_shot *shots;
    int shot_count;
    int concurrency;         /* connections */
    double rate;             /* requests per second; 0 = closed loop */
    bool poisson;            /* open loop: exponential gaps, else equal ones */
    uint64_t seed;
    int64_t warmup_ns;
    int64_t duration_ns;     /* 0 = until request_limit */
    uint64_t request_limit;  /* 0 = until duration_ns */
    int64_t timeout_ns;      /* of one request, from when it was sent */
    bool head_request;       /* answers have no body */
    const char *expect_text; /* NULL = any; else a text that each answer must hold */
    bool resend_stale;       /* a request on a used connection that was closed before any answer is sent once more */
} sp_load_params;

typedef struct sp_load_sample {
    int status;
    char body[240];
} sp_load_sample;

typedef struct sp_load_result {
    sp_hist latency;   /* ns, of complete answers: from sent (closed) or due (open) */
    sp_hist lateness;  /* ns, open loop: how late a due request was sent, queueing for a connection included */
    uint64_t issued, answered, ok; /* requests sent; complete answers; 2xx with the expected content */
    uint64_t wrong;    /* 2xx, but not what was expected */
    uint64_t window_ok;
    int64_t window_ns;
    uint64_t status_counts[600];
    uint64_t errors[SP_LOAD_ERROR_COUNT];
    uint64_t connections, bytes_in, bytes_out;
    int sample_count;
    sp_load_sample samples[SP_LOAD_SAMPLES];
} sp_load_result;

/* Runs to its end, or until *stop becomes true (a signal handler may set it). SP_UNAVAILABLE: the host cannot be
 * resolved, or no connection could be made at all. */
sp_status sp_load_run(const sp_load_params *params, const volatile bool *stop, sp_load_result *ret_result,
                      sp_error *reterr);

#endif
