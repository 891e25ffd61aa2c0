/* SPDX-License-Identifier: Apache-2.0
 * One HTTP call after the other over one kept connection, blocking, each within its time. For clients that look at every
 * answer (bench --links, chaos); the load generator proper is bench_load.c. */
#ifndef SP_CLI_CALL_H
#define SP_CLI_CALL_H

#include "cli/bench_http.h"

typedef struct sp_caller {
    const char *host, *port; /* borrowed */
    int fd;                  /* -1 = no connection */
    bool used;               /* it has brought an answer: the server may close it at any time */
    sp_bench_answer answer;
} sp_caller;

/* keep_limit: how much of an answer's body is kept. SP_NOMEM. One thread. */
sp_status sp_caller_init(sp_caller *caller, const char *host, const char *port, size_t keep_limit, sp_error *reterr);
void sp_caller_done(sp_caller *caller);

/* Sends the request as it stands and waits for the whole answer. A kept connection that turns out closed before any byte
 * of an answer came is made anew and the request sent again, once. *ret_body is borrowed until the next call.
 * SP_UNAVAILABLE: no connection. SP_TIMEOUT. SP_INTERNAL: the connection broke, or what came is no HTTP. */
sp_status sp_caller_call(sp_caller *caller, sp_view request, int64_t timeout_ns, int *ret_status, sp_view *ret_body,
                         sp_error *reterr);

#endif
