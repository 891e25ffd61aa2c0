/* SPDX-License-Identifier: Apache-2.0
 * What the files of the worker's loop share: the process as one struct, and the steps that each way of working (leader and
 * followers: worker.c; an asynchronous kind: worker_async.c; a kind with queues of its own: worker_queue.c) is made of.
 * For these files alone. */
#ifndef SP_WORKER_LOOP_H
#define SP_WORKER_LOOP_H

#include "base/spin.h"
#include "worker/maps.h"
#include "worker/worker.h"

#include <pthread.h>

typedef struct sp_executor {
    int index;
    int mark; /* which mark of the page it writes now */
    pthread_t thread;
    sp_work_item items[SP_LIMIT_BATCH];
    sp_submission submissions[SP_LIMIT_BATCH];
    sp_worker_batch batch; /* of a kind with queues */
} sp_executor;

typedef struct sp_async_item sp_async_item;
typedef struct sp_queue_item sp_queue_item;

/* A kind with queues has one thread more than places to run at, so that somebody always reads the ring. The leader's mark is
 * the page's last. */
#define SP_LEADER_MARK (SP_LIMIT_EXECUTORS - 1)
#define SP_QUEUE_PLACES (SP_LIMIT_EXECUTORS - 1)

typedef struct sp_worker_process {
    const sp_worker_config *config;
    const sp_worker_kind *kind;
    void *state;
    sp_maps maps;
    sp_worker_card card;  /* private copy; the one in shared memory is for the gateway */
    pthread_mutex_t lead; /* guards what follows and the receiving end of the control socket */
    uint32_t submission_head;
    sp_submission waiting[SP_LIMIT_SLOTS];
    int waiting_count;
    sp_spin spin;
    atomic_int busy;             /* executors with a batch in hand */
    pthread_mutex_t answer_lock; /* guards completion_tail (the ring has one producer) and maps.slots' descriptors */
    uint32_t completion_tail;
    atomic_bool ending; /* end_error is set: the next executor that is done ends the process */
    sp_error end_error;
    sp_executor executors[SP_LIMIT_EXECUTORS + 1];
    /* An asynchronous kind's, and its thread's: */
    sp_async_item *async_items; /* SP_LIMIT_SLOTS */
    sp_async_item *in_hand[SP_LIMIT_SLOTS];
    int in_hand_count;
    /* A kind's with queues: */
    pthread_mutex_t queue_lock;  /* guards the kind's queues and all below. Inside `lead`, outside `answer_lock` */
    sp_queue_item *queue_items;  /* SP_LIMIT_SLOTS; the slot is the place */
    sp_queue_item *finished;     /* to be given back when the kind's call is over */
    sp_queue_item **finished_end;
    uint32_t places, places_taken; /* bits of places_taken: who runs */
    int queued;                    /* leases that wait in the kind's queues */
    int64_t leader_due_ns;         /* the leader looks again by then; INT64_MAX = when the ring is rung */
    atomic_bool nudged;            /* the leader is to look again although the ring is empty */
} sp_worker_process;

extern sp_worker_process sp_process;

/* Progress of mark `index`: the stage; which slots are in hand, written before the first byte of them is looked at. */
void sp_process_stage(int index, sp_stage stage, int64_t budget_ns);
void sp_process_mark_item(int index, int place, const sp_submission *submission);
void sp_process_mark_count(int index, int count);

/* Under the lead. */
void sp_process_take_in(void); /* ring -> waiting */
bool sp_process_ring_is_empty(void);
void sp_process_receive(void); /* descriptors that were sent ahead of what waits */
void sp_process_answer_noops(sp_executor *self);
void sp_process_wait(int64_t wait_ns); /* for the ring, or a nudge; -1 = no bound */

/* Turns a submission into an item the kind can work on: what and where it is; then its bytes. A refusal is the item's status. */
void sp_process_init(sp_work_item *item, const sp_submission *submission);
void sp_process_prepare(sp_work_item *item);
sp_status sp_process_batch_fault(sp_work_item *item);
void sp_process_complete(sp_work_item *item, int64_t begun_ns);
void sp_process_wake_gateway(void);
void sp_process_end_if_asked(void);

/* The other ways of working: set-up, and what a thread does. */
sp_status sp_async_open(sp_error *reterr);
void *sp_async_main(void *executor);
void sp_async_finish(sp_work_item *item);
sp_status sp_queue_open(sp_error *reterr);
void *sp_queue_main(void *executor);
void sp_queue_finish(sp_work_item *item);
void sp_queue_wait(sp_work_item *item);

#endif
