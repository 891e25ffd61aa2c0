/* SPDX-License-Identifier: Apache-2.0
 * Finished answers, kept for looking at: SQLite by default, MongoDB by URL, the same documents in both. An outage of the
 * store never fails a request: documents are spooled to data_dir/results-spool and written later. */
#ifndef SP_STORE_RESULTS_H
#define SP_STORE_RESULTS_H

#include "base/buf.h"
#include "base/loop.h"
#include "base/view.h"
#include "config/config.h"

typedef struct sp_results sp_results;

typedef struct sp_result {
    char id[48]; /* the job's id, or the request's */
    char tenant[48], task[24], stream[64], provider[32], tier[24], client_id[128];
    bool fallback;        /* some link before it failed */
    int64_t unix_ms;
    int64_t duration_ns, device_ns, microdollars;
    char text[1024];      /* what a text search finds: labels, transcript */
    char cache_key[65];   /* hex, "" = not cached; erased with the result */
} sp_result;

typedef struct sp_result_filter { /* "" and 0 = any; fallback < 0 = any */
    const char *tenant, *task, *stream, *provider, *text;
    int fallback;
    int64_t from_unix_ms, to_unix_ms;
    const char *cursor;
    int limit;
} sp_result_filter;

typedef struct sp_results_reply {
    sp_status status;
    const sp_error *error;
    sp_view json;       /* query: an array of documents; costs: an array of rows; get: one document */
    const char *cursor; /* query: "" = the end */
    int count;
    char cache_key[65]; /* erase: what to remove from the cache */
} sp_results_reply;
typedef void sp_results_reply_fn(const sp_results_reply *reply, void *context);

sp_status sp_results_open(sp_loop *loop, const sp_results_config *config, const char *data_dir, sp_results **ret_results,
                          sp_error *reterr);
void sp_results_close(sp_results *results); /* what is queued is written or spooled */

/* Fire and forget: durable or spooled. `document` is the answer's JSON. The same id of the same tenant replaces. */
void sp_results_put(sp_results *results, const sp_result *result, sp_view document);
void sp_results_query(sp_results *results, const sp_result_filter *filter, sp_results_reply_fn *reply, void *context);
void sp_results_get(sp_results *results, const char *tenant, const char *id, sp_results_reply_fn *reply, void *context);
void sp_results_erase(sp_results *results, const char *tenant, const char *id, sp_results_reply_fn *reply, void *context);
/* Sums by task, provider, tier and day. */
void sp_results_costs(sp_results *results, const char *tenant, int64_t from_unix_ms, int64_t to_unix_ms,
                      sp_results_reply_fn *reply, void *context);
void sp_results_sweep(sp_results *results); /* retention */
/* Page by page, on this thread, without opening the store for writing; beside a running server is fine. `filter->limit` is
 * the size of a page. `take` gets each page's array; false ends it. SP_NOT_FOUND: nothing was ever stored there. What lies
 * in the spool is not read. */
typedef bool sp_results_take_fn(sp_view json, void *context);
sp_status sp_results_read(const sp_results_config *config, const char *data_dir, const sp_result_filter *filter,
                          sp_results_take_fn *take, void *context, sp_error *reterr);
int64_t sp_results_spooled(const sp_results *results);

#endif
