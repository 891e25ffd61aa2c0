/* SPDX-License-Identifier: Apache-2.0
 * /v1/jobs, /v1/results, /v1/costs: what the files of this API share. Private to this room. */
#ifndef SP_GATEWAY_JOBS_H
#define SP_GATEWAY_JOBS_H

#include "gateway/server.h"
#include "jobs/runner.h"
#include "store/worker.h"

#include <jansson.h>

/* Bodies of jobs that are being handed in, all together. They lie in our own memory until the store has them. Beyond:
 * SP_BUSY for the one that would pass it. */
#define GW_JOB_BODIES_BYTES (256u * 1024 * 1024)
/* Pages of a list. */
#define GW_PAGE_DEFAULT 50
#define GW_PAGE_MOST    200
/* What a client is told when a store is down. */
#define GW_STORE_RETRY_S 5
/* A store that could not be opened is tried again so often: the disk may have room again, the other server may be gone. */
#define GW_STORE_REOPEN_MS 5000
/* Running jobs and webhooks get this long after SIGTERM before they go back to the queue. */
#define GW_JOBS_DRAIN_MS 10000

/* A job with its result, and what stands around it. */
#define GW_JOB_JSON_BYTES (SP_LIMIT_JOB_RESULT_BYTES + 65536u)
/* `sync` waits this long, `wait` at most so long. */
#define GW_WAIT_DEFAULT_S 30
#define GW_WAIT_MOST_S 300

typedef struct gw_jobs {
    gw_server *server;
    sp_jobs *store;       /* NULL = could not be opened; `why` says why */
    sp_results *results;  /* likewise */
    sp_runner *runner;
    sp_durability durability;
    sp_store_thread *hasher; /* NULL until the first idempotency key */
    uint64_t body_bytes;  /* of submissions in hand */
    struct sp_uploads *uploads; /* NULL until the first video */
    char why[256], results_why[256];
    sp_timer reopen;
    struct gw_watch *watches; /* jobs_watch.c */
    int watch_count;
    sp_timer watch_timer;
} gw_jobs;

/* jobs_submit.c: one submission, from wherever its fields come. */
typedef struct gw_submission {
    sp_job job;
    json_t *parameters; /* an object */
    int64_t ttl_s;      /* 0 = the configuration's */
    int64_t wait_s;     /* the answer may come so late, with the job's end in it; 0 = at once */
    bool video;         /* task analyze: its parameters stand beside the fields */
} gw_submission;
sp_status gw_submission_init(gw_submission *submission, sp_error *reterr);
void gw_submission_done(gw_submission *submission);
/* One field as text (query, form, header). `where` leads the message: "form field". Unknown names are left alone. */
sp_status gw_submission_set(gw_submission *submission, const char *name, sp_view value, const char *where, sp_error *reterr);
/* A whole JSON body; unknown members are refused. */
sp_status gw_submission_parse(gw_submission *submission, sp_view json, sp_error *reterr);
/* After all fields: what contradicts itself or the configuration; fills id, times, parameters. `has_body` = a picture
 * came along. */
sp_status gw_submission_check(gw_submission *submission, const gw_server *server, const gw_access *access, bool has_body,
                              sp_error *reterr);
void gw_submission_prefer(gw_submission *submission, const char *prefer); /* the header: "wait=10" */

/* jobs_take.c */
void gw_jobs_begin(gw_conn *conn);
void gw_jobs_append(gw_conn *conn, const void *data, size_t size_bytes);
void gw_jobs_run(gw_conn *conn);

/* jobs_api.c */
bool gw_jobs_ready(gw_conn *conn, bool by_id); /* the store is there, {id} may be one; else refused */
void gw_jobs_none(gw_conn *conn);              /* 404, later than a handler's run */
/* The job as it is now: what runs here is known better than by the store. */
void gw_jobs_write(gw_jobs *jobs, const sp_job *stored, const sp_view *result, sp_buf *out);
void gw_jobs_get(gw_conn *conn);
void gw_jobs_list(gw_conn *conn);
void gw_jobs_delete(gw_conn *conn);
void gw_jobs_events(gw_conn *conn);

/* videos.c: what an analysis has left */
void gw_videos_report(gw_conn *conn);
void gw_videos_file(gw_conn *conn);

/* jobs_watch.c: somebody follows this job; it may end elsewhere. */
void gw_jobs_watch(gw_jobs *jobs, const sp_job *job);
void gw_jobs_watch_told(gw_jobs *jobs, const sp_job *job); /* its event has been emitted here */
void gw_jobs_watch_end(gw_jobs *jobs); /* the store has been closed */

/* results_api.c */
void gw_results_list(gw_conn *conn);
void gw_results_get(gw_conn *conn);
void gw_results_delete(gw_conn *conn);
void gw_costs(gw_conn *conn);
/* A plain request was answered; kept when results.all says so. */
void gw_results_take(gw_conn *conn, const sp_answer *answer, sp_view json);

/* jobs_house.c: stores and runner of this server. A store that cannot be opened costs its API, not the server. */
sp_status gw_jobs_open(gw_server *server, sp_error *reterr);
void gw_jobs_drain(gw_server *server);
int gw_jobs_busy(const gw_server *server);
void gw_jobs_close(gw_server *server); /* after the connections, before the house */

/* One call to a store on behalf of a connection that may be gone when the answer comes. */
typedef struct gw_call {
    gw_conn *conn; /* NULL = gone */
    gw_jobs *jobs;
    int64_t begun_unix_ms;
} gw_call;
gw_call *gw_call_begin(gw_conn *conn); /* NULL: it has been refused, no memory */
gw_conn *gw_call_end(gw_call *call);   /* in the callback; frees */
void gw_call_fail(gw_conn *conn, sp_status status, const sp_error *err); /* the store's error as the answer */
/* gw_call_end for a reply that has nothing to do but answer: NULL when nobody waits any more, or for the error that the
 * store replied with, which is the answer then. */
gw_conn *gw_call_reply(gw_call *call, sp_status status, const sp_error *err);
void gw_call_answer(gw_conn *conn, sp_buf *json); /* 200; takes the buffer */
void gw_cursor_write(sp_buf *json, const char *cursor); /* ,"cursor":... of a list; NULL and "" = the end */
const char *gw_tenant(const gw_conn *conn); /* whose things may be seen; NULL = everybody's (admin) */
sp_status gw_page_limit(const gw_conn *conn, int *ret_limit, sp_error *reterr); /* ?limit= */
bool gw_id_good(const char *id);

#endif
