/* SPDX-License-Identifier: Apache-2.0
 * The child process: takes leases from its ring, forms batches, runs them, answers into the slots.
 * What it can do is its *kind* (codec, device, ...), registered in the table of worker/kinds.c; the loop knows no task. */
#ifndef SP_WORKER_WORKER_H
#define SP_WORKER_WORKER_H

#include "base/status.h"
#include "base/view.h"
#include "worker/slot.h"

/* One request of a batch, as a kind sees it. */
typedef struct sp_work_item {
    const sp_slot_request *request; /* read-only memory; another process wrote it, its numbers are checked */
    const sp_submission *submission;
    sp_view body;   /* the payload (file), read-only */
    sp_view input;  /* output memfd's content left by an earlier link; empty if none */
    bool input_pinned; /* the kind's device copies from `input` on its own (sp_worker_kind.mapped) */
    uint8_t *answer; /* SP_LIMIT_ANSWER_BYTES; of INFER, INDEX and ANALYZE SP_ANSWER_STRIDE */
    /* The kind sets: */
    sp_status status;
    sp_error error;
    size_t answer_touched; /* bytes of `answer` that were written, if more than SP_ANSWER_KEEP_BYTES (an estimate from above) */
    sp_completion done; /* sizes and times; slot, lease, status, begun_ns are the loop's */
    void *own; /* an asynchronous kind's, while it has the item */
} sp_work_item;

typedef struct sp_worker_config {
    const char *name;             /* "codec0", "cpu0" */
    const char *kind;             /* "codec", "cpu" */
    const char *model_repository; /* directory, or NULL */
    const char *model;            /* name in it, or NULL = the kind's default */
    const char *plan;             /* measured plan of an earlier incarnation ("" = measure), opaque to the route */
    uint64_t model_memory_bytes;  /* of all served models; 0 = a share of the machine's */
    bool require_sandbox;
    bool refuse_cpu_nodes;        /* of a device's models: spillway_engine.h, host_nodes */
    bool nvjpeg;                  /* cuda: JPEG files of who asks for it are decoded on the device */
    const char *data_dir;         /* what is built for a device is kept below it; NULL = nowhere */
    bool again;                   /* it is tried again after it failed: the same failure is not logged again */
    int spin_us;                  /* look at the ring this long before sleeping; 0 = sleep at once */
} sp_worker_config;

/* A kind that waits for others rather than computing (net): one thread has all of its items in hand at once. All calls
 * come from that thread. */
typedef struct sp_worker_async {
    /* Begins. The item and what it points to stay until sp_worker_finish, which may be called in here already. */
    void (*start)(void *state, sp_work_item *item);
    /* Nobody wants it any more: drop it and finish it, with SP_CANCELLED. Called once an item. */
    void (*cancel)(void *state, sp_work_item *item);
    /* Moves all items on; waits for at most `wait_ns` (-1 = no bound) or until `wake_fd` is readable (it is not to be
     * read). A call that does not come back is how the watchdog knows a hung worker. */
    void (*drive)(void *state, int wake_fd, int64_t wait_ns);
    /* A snapshot of the configuration; the callee closes the descriptor. */
    void (*config)(void *state, uint32_t serial, int fd);
} sp_worker_async;

/* What a kind with queues of its own wants run now. */
typedef struct sp_worker_batch {
    int count;
    sp_work_item *items[SP_LIMIT_BATCH];
    void *own;         /* the kind's; NULL = nothing now. One without items is a chore */
    int64_t due_ns;    /* own NULL: when something will be due although no lease comes and no batch ends; INT64_MAX = never */
    int64_t budget_ns; /* before the watchdog asks, until the first sp_worker_stage; 0 = the default */
    bool more;         /* another executor may find something too */
    bool brief;        /* takes microseconds: the leader runs it without giving the lead away */
} sp_worker_batch;

/* A kind that keeps its leases in queues of its own (device): which ones run together, and when, is its business. All but
 * `run` are called under one lock, from any executor. An item stays where it is until sp_worker_finish, which only these
 * calls make, for items that they were given by `add`. */
typedef struct sp_worker_queue {
    int (*places)(const void *state); /* batches that may run at once, 1 .. SP_LIMIT_EXECUTORS - 1; constant after open */
    /* A lease has come. It is not marked yet: of the slot only request, submission and sp_worker_infer_head are to be looked
     * at. A refusal is a status and sp_worker_finish. */
    void (*add)(void *state, sp_work_item *item, int64_t now_ns);
    /* Withdrawn, or past its deadline, while it waited: to be forgotten. The loop answers it. */
    void (*remove)(void *state, sp_work_item *item);
    void (*next)(void *state, int executor, int64_t now_ns, sp_worker_batch *batch);
    /* Without the lock: sets the status of each. Those that have one already (their bytes never came) are not to be run. */
    void (*run)(void *state, int executor, sp_worker_batch *batch);
    /* After run: sp_worker_finish for each item that may go back, sooner or later. */
    void (*over)(void *state, int executor, sp_worker_batch *batch, int64_t now_ns);
    /* Optional: now and then while leases wait, also when no place is free and `next` is not asked: what has waited for too long
     * by the kind's own rules is refused. */
    void (*expire)(void *state, int64_t now_ns);
    /* Optional: leases in hand were withdrawn (sp_work_item_cancelled). Whoever can stop what runs only for such may do so;
     * again and again until they are given back. */
    void (*withdrawn)(void *state);
} sp_worker_queue;

/* An item that has been in a batch is not finished, and waits again for another one: it may be withdrawn meanwhile. Its bytes
 * stay mapped; a later batch may have it again, and several may at once. In `over` only. */
void sp_worker_wait(sp_work_item *item);

/* The item has its status; it goes back to the gateway when the kind's call is over, and is not to be touched again. */
void sp_worker_finish(sp_work_item *item);

/* The head of an INFER's or DETECT's slot, as the gateway wrote it: nothing in it is checked. */
const sp_infer_head *sp_worker_infer_head(const sp_work_item *item);

typedef struct sp_worker_kind {
    const char *name;
    const sp_worker_queue *queue; /* NULL: run and choose; else they are not used */
    const sp_worker_async *async; /* NULL: run(). Else run and choose are not used, and card.executors x SP_LIMIT_BATCH
                                   * must be room for card.window */
    /* Loads what is needed, before the first lease. Fills *card (executors, max_batch, window at least). */
    sp_status (*open)(const sp_worker_config *config, sp_worker_card *card, void **ret_state, sp_error *reterr);
    /* After open, before the first byte from outside is touched: drop privileges. NULL = none. */
    sp_status (*sandbox)(void *state, sp_worker_card *card, bool require, sp_error *reterr);
    /* Runs `count` items (1 .. card.max_batch) of one op; sets status of each. SP_OP_NOOP never comes here: the loop
     * answers it. `executor` < card.executors; one call at
     * a time per executor. Calls sp_worker_stage() as it goes. */
    void (*run)(void *state, int executor, sp_work_item *items, int count);
    /* How many of the waiting leases this executor should take now (1 .. max_batch), given how many wait and how many
     * executors are busy; *ret_wait_ns > 0 = would rather wait that long for more. NULL = one at a time. */
    int (*choose)(void *state, int waiting, int busy_executors, int64_t *ret_wait_ns);
    void (*close)(void *state);
    /* Optional, both or none: shared memory where earlier links leave inputs was mapped here (read-only, whole pages), and stays
     * for several requests; true: it is item.input_pinned's, and unmapped is told before it goes. Any thread. */
    bool (*mapped)(void *state, void *memory, size_t bytes);
    void (*unmapped)(void *state, void *memory);
} sp_worker_kind;

/* Publishes the stage the calling executor is in and how long it may take (0 = the default budget). */
void sp_worker_stage(int executor, sp_stage stage, int64_t budget_ns);

/* The slot's output memory, writable, at least `size_bytes` long: where a DECODE leaves pixels or a tensor. Grown and
 * mapped once and kept for the slot's next requests. Contents of an earlier request may still be there.
 * NULL with *reterr set: SP_NOMEM (memory, or more than one output may hold). The loop's; never unmap it. */
uint8_t *sp_worker_output(const sp_work_item *item, size_t size_bytes, sp_error *reterr);

/* The slot's output as a descriptor for pwrite, for a FETCH. Borrowed. SP_INTERNAL: it never came. */
sp_status sp_worker_output_fd(const sp_work_item *item, int *ret_fd, sp_error *reterr);

/* The media file that goes with the request (INDEX, ANALYZE, REPORT), for pread; *ret_size_bytes: how much of it counts.
 * Borrowed while the item is in hand. SP_INTERNAL: it never came. */
sp_status sp_worker_media(const sp_work_item *item, int *ret_fd, uint64_t *ret_size_bytes, sp_error *reterr);

/* ANALYZE: so many frames of it are done; any thread. */
void sp_worker_progress(const sp_work_item *item, uint32_t frames);

/* True when the gateway no longer wants this item; cheap, call between stages. */
bool sp_work_item_cancelled(const sp_work_item *item);

/* This incarnation's page: where a kind leaves samples and counters (the rings and marks are the loop's). */
sp_worker_page *sp_worker_page_now(void);

/* The process must end (a device that only a new process cures). After the batch in hand is answered it tells the
 * gateway why and exits; it takes no other. Any thread. */
void sp_worker_end_after_batch(const sp_error *why);

/* The table. NULL when there is no such kind. "cpu", "cuda", "tensorrt" and "sim" are the device kind. */
const sp_worker_kind *sp_worker_kind_find(const char *kind);

/* The process's main: descriptor 3 is the control socket. Returns the exit code. */
int sp_worker_main(const sp_worker_config *config);

#endif
