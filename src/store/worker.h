/* SPDX-License-Identifier: Apache-2.0
 * A store thread: work that may block (SQLite, Redis, MongoDB, files) is done there, in order, and its result comes back
 * on the loop's thread. The queue is bounded; what does not fit is refused at once (SP_BUSY). */
#ifndef SP_STORE_WORKER_H
#define SP_STORE_WORKER_H

#include "base/loop.h"

typedef struct sp_store_thread sp_store_thread;

/* One piece of work: the caller's storage, must live until `done`. Embed it first in a struct of your own. */
typedef struct sp_store_work {
    void (*run)(struct sp_store_work *work);  /* on the store thread */
    void (*done)(struct sp_store_work *work); /* on the loop's thread, always, exactly once */
    sp_status status;
    sp_error error;
    struct sp_store_work *next;
} sp_store_work;

/* `group` (may be NULL) is called on the store thread after a run of works and before their `done`s: commit here. When
 * it fails, the works of the group that were SP_OK get its status. */
sp_status sp_store_thread_new(sp_loop *loop, const char *name, int queue_limit, sp_status (*group)(void *context, sp_error *reterr),
                              void *context, sp_store_thread **ret_thread, sp_error *reterr);
/* Runs what is queued, joins, calls the remaining `done`s. */
void sp_store_thread_free(sp_store_thread *thread);
sp_status sp_store_submit(sp_store_thread *thread, sp_store_work *work, sp_error *reterr);
/* The same, but one that is refused comes back through `done` as well, in a later turn, with its status set: `run` was not
 * called. */
void sp_store_submit_or_refuse(sp_store_thread *thread, sp_store_work *work);
int sp_store_thread_depth(const sp_store_thread *thread);

#endif
