/* SPDX-License-Identifier: Apache-2.0
 * What the files of the hall share. For hall*.c alone. */
#ifndef SP_WORKER_HALL_INTERNAL_H
#define SP_WORKER_HALL_INTERNAL_H

#include "engine/bucket.h"
#include "engine/engine.h"
#include "model/card.h"
#include "policy/batcher.h"
#include "policy/sequence.h"
#include "task/detect.h"
#include "worker/batch_limit.h"
#include "worker/hall.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define SP_HALL_MODELS 1024    /* loaded versions: as many as a house knows */
#define SP_HALL_INSTANCES 15   /* of one model: no more places exist */
#define SP_HALL_RESOURCES 64   /* of the rate limiter, all models' */
#define SP_HALL_OPEN_NS (120 * SP_NS_PER_S) /* for a model that was put aside to be opened again */
#define SP_HALL_ALIGN 64       /* of buffers and of tensors in an answer */

typedef struct sp_hall_request sp_hall_request;
typedef struct sp_hall_step sp_hall_step;     /* hall_ensemble.h, these three */
typedef struct sp_hall_course sp_hall_course;
typedef struct sp_hall_ensemble sp_hall_ensemble;
typedef struct sp_hall_kept sp_hall_kept;     /* hall_sequence.c */
typedef struct sp_hall_detector sp_hall_detector; /* hall_detect.c */
typedef struct sp_hall_detect_cuda sp_hall_detect_cuda; /* hall_detect_cuda.c */

/* --- tensors -------------------------------------------------------------------------------------------------------- */

/* Packed elements somewhere; `dims` in the client's terms (with the batch dimension, where the model batches). */
typedef struct sp_hall_tensor {
    const uint8_t *data;
    uint64_t bytes;
    bool given;
    uint8_t dtype, rank;
    int64_t dims[SP_INFER_RANK];
} sp_hall_tensor;

/* A buffer that only grows. */
typedef struct sp_hall_buffer {
    uint8_t *data;
    size_t capacity;
} sp_hall_buffer;
uint8_t *sp_hall_buffer_room(sp_hall_buffer *buffer, size_t bytes); /* NULL: no memory. Old content is lost */

/* One run at a time: what it gathers into and what it leaves outputs in. */
typedef struct sp_hall_lane {
    sp_hall_buffer inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS]; /* by the engine's ports */
    sp_hall_buffer scratch; /* answers in the making */
} sp_hall_lane;

/* --- a request ------------------------------------------------------------------------------------------------------ */

typedef enum sp_hall_kind { SP_HALL_INFER, SP_HALL_LOAD, SP_HALL_UNLOAD, SP_HALL_CHORE } sp_hall_kind;

struct sp_hall_request {
    union { /* first: the queue hands it back */
        sp_batcher_item waiting;
        sp_sequence_item member; /* of a sequence; begins with the other */
    };
    char sequence_text[SP_SEQUENCE_TEXT_BYTES];
    sp_hall_kind kind;
    sp_work_item *item;
    sp_hall_model *model;
    int32_t rows;
    bool rows_dimension;     /* the model batches: the first dimension is rows */
    int input_count, wish_count;
    /* As the head says, checked against the model; offsets are checked against the body when it is in hand. */
    struct {
        uint64_t offset;
        bool in_output;
    } places[SP_INFER_PORTS];                /* by port of the configuration, as the next one */
    sp_hall_tensor inputs[SP_INFER_PORTS];
    sp_infer_wish wishes[SP_INFER_PORTS];
    int64_t queue_ns, input_ns;
    sp_hall_request *next, *previous;        /* jobs; or the model's order of arrival */
    bool ordered, done;
    bool detect;            /* its input is made of pixels, its answer is boxes (hall_detect.c) */
    sp_hall_step *step;     /* NULL: a lease's own; else it is a step of an ensemble's */
    sp_hall_course *course; /* its way through an ensemble */
    int in_hand;            /* of a lease: batches that have it, or a step of it */
};

/* --- a model -------------------------------------------------------------------------------------------------------- */

typedef enum sp_hall_state {
    SP_HALL_READY,   /* its session is open */
    SP_HALL_ASIDE,   /* put aside for memory: opened again by the next batch */
    SP_HALL_MOVING,  /* being opened or put aside: no batch of it may start */
} sp_hall_state;

typedef struct sp_hall_port {
    int config;   /* port of the configuration; -1 = the engine's alone (not given, not wanted) */
    int sequence; /* what hall_sequence.c has for it: a control, a state; -1 = nothing */
    uint8_t dtype;
} sp_hall_port;

struct sp_hall_model {
    uint32_t id;
    sp_load_spec *spec;
    const sp_model_config *config; /* spec's */
    bool identity;                 /* output i = input i: no engine */
    bool batches;                  /* max_batch_size > 0 */
    const sp_engine *engine;
    const char *engine_name, *provider; /* of the engine; an accelerator may stand in for the back end's */
    int instances;
    char *label_text[SP_INFER_PORTS];    /* by output of the configuration: the file, lines ended by NUL */
    const char **labels[SP_INFER_PORTS]; /* where each line begins */
    int label_counts[SP_INFER_PORTS];

    sp_hall_detector *detector; /* when it is described as one: made at its load */
    struct stat file; /* as it was when it was opened first, if file_known */
    bool file_known;
    uint64_t measured; /* bytes that it took when it was open last; 0 = it never was */

    /* While it is open: */
    sp_session *session;
    sp_hall_port inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS]; /* by the engine's port */
    int input_count, output_count;                                /* the engine's */
    int64_t bucket_most;    /* > 0: batches are filled up to the next bucket (engine/bucket.h), this at most */
    sp_hall_lane *lanes;                                          /* `instances` of them */

    /* Guarded by the hall's lock: */
    sp_hall_state state;
    bool leaving;        /* an UNLOAD has come: what waits is still served */
    bool yield;          /* its memory is wanted: no new batch until it was put aside */
    sp_hall_request *unload; /* the UNLOAD that waits for it */
    sp_batcher batcher;
    sp_sequencer *sequences; /* in place of the batcher, where the configuration has sequence_batching */
    int slots;               /* of an instance */
    sp_hall_kept *kept;      /* implicit state, by instance, slot and state; whoever runs the instance has it */
    sp_hall_ensemble *ensemble;
    bool bound;              /* its steps' models know that it holds them */
    int holders;             /* ensembles that have it as a step: it stays until they are gone */
    sp_hall_request *order_first, *order_last; /* preserve_ordering: all that came and is not given back */
    uint32_t lanes_busy; /* bits */
    int running;         /* batches */
    uint64_t bytes;      /* what it takes of the budget */
    int64_t used_ns;     /* when a batch of it began last */
    double turn;         /* virtual time: whoever has had the least is next */
    uint32_t weight;     /* the rate limiter's priority: 1 = full share, 2 = half ... */
    int resource_count;
    struct {
        int index;
        uint32_t count;
    } resources[4];
    atomic_bool unbound; /* its outputs are not what it declares: they are left to the engine */
    sp_batch_limit limit; /* requests of one run, after memory ran out; any thread */
    _Atomic uint64_t quick_shape; /* what its last lone run took: hall_next.c's is_quick */
    _Atomic int64_t slowest_ns; /* of its runs, an average that forgets: for the watchdog's budget */
    sp_hall_model *next_waiting, *previous_waiting; /* of those whose queue is not empty */
    bool listed;
    sp_hall_model *next_dead, *next_of_bucket;
    uint64_t pass; /* of sp_hall_next: has been asked */
};

/* What executors have in hand: batch.own. */
typedef struct sp_hall_batch {
    sp_hall_kind kind;
    sp_hall_model *model; /* of a LOAD: what became of it, NULL = it failed */
    int lane;
    bool reap;            /* no request: the model's end */
    bool open;            /* it is put aside and is opened first */
    sp_hall_request *requests[SP_LIMIT_BATCH];
    int count;
    struct sp_hall_chore *chore;
    bool in_use;
} sp_hall_batch;

struct sp_hall {
    sp_hall_settings settings;
    pthread_mutex_t lock;      /* guards the tables, models' states and the budget; inside the loop's queue lock */
    pthread_cond_t changed;    /* a model stopped running, or memory came free */
    pthread_mutex_t load_lock; /* one session is opened at a time: they share cores, and memory is measured around it */
    sp_hall_model *models[SP_HALL_MODELS]; /* by id % SP_HALL_MODELS, lists by next_of_bucket */
    int model_count;
    sp_hall_model *waiting_first, *waiting_last;
    sp_hall_model *dead; /* to be freed by a chore */
    sp_hall_request *jobs_first, *jobs_last;
    bool job_running;    /* LOADs and UNLOADs go one at a time */
    struct sp_hall_chore *chores_first, *chores_last; /* of ensembles */
    sp_hall_step *unused_steps;
    sp_hall_course *unused_courses;
    int unused_step_count;
    sp_hall_request *requests; /* SP_LIMIT_SLOTS; the slot is the place */
    sp_hall_batch batches[SP_LIMIT_EXECUTORS + 1];
    uint64_t used_bytes;
    uint64_t put_aside; /* so far */
    int64_t told_ns;    /* of it in the log */
    double turn; /* the least of those that wait: a newcomer begins there */
    int waiting, running; /* requests in queues; batches of them in hand */
    uint64_t passes;
    int resource_count;
    struct {
        char name[64];
        uint32_t capacity, used;
    } resources[SP_HALL_RESOURCES];
};

/* hall.c, under the lock */
sp_hall_model *sp_hall_find(const sp_hall *hall, uint32_t id);
/* When an UNLOAD has come and nothing waits or runs any more: whoever asks for the next batch is told to free it. */
void sp_hall_bury_if_over(sp_hall *hall, sp_hall_model *model);

/* hall_next.c, under the lock */
void sp_hall_list(sp_hall *hall, sp_hall_model *model);   /* something waits for it */
void sp_hall_unlist(sp_hall *hall, sp_hall_model *model); /* perhaps nothing does any more */
uint32_t sp_hall_waiting_for(const sp_hall_model *model);
void sp_hall_enter_resources(sp_hall *hall, sp_hall_model *model); /* its part in the rate limiter */
void sp_hall_take_resources(sp_hall *hall, const sp_hall_model *model, bool take);

/* hall.c: */
void sp_hall_remove_job(sp_hall *hall, sp_hall_request *request); /* a LOAD or UNLOAD that waits */

/* A checked request into its model's queue. A refusal is the status; then nothing of it waits. */
sp_status sp_hall_queue(sp_hall *hall, sp_hall_request *request, int64_t now_ns, sp_error *reterr);
void sp_hall_unqueue(sp_hall *hall, sp_hall_request *request); /* withdrawn; no part of it is in hand */
/* It has its status: it goes back now, or when those that came before it have gone. */
void sp_hall_give_back(sp_hall *hall, sp_hall_request *request, int64_t now_ns);

/* hall_sequence.c: controls, rows and state of sequences (policy/sequence.h). Under the lock: */
sp_status sp_hall_sequence_new(sp_hall_model *model, sp_error *reterr);
void sp_hall_sequence_free(sp_hall_model *model);
/* What the request says of its sequence. */
void sp_hall_sequence_read(sp_hall_request *request, const sp_infer_head *head);
/* The next batch of any instance that is free; 0 = none, *ret_due_ns says when to ask again. */
int sp_hall_sequence_next(sp_hall_model *model, int64_t now_ns, sp_hall_request **ret_requests, int *ret_lane,
                          int64_t *ret_due_ns);
/* By whoever runs the instance: the rows of a run of these requests, and which row is whose (ascending). */
int sp_hall_sequence_rows(const sp_hall_model *model, sp_hall_request *const *requests, int count);
int sp_hall_sequence_row(const sp_hall_model *model, const sp_hall_request *request, int index);
/* sp_hall_port.sequence of one of the engine's inputs or outputs. */
int sp_hall_sequence_port(const sp_model_config *config, const char *name);
int sp_hall_sequence_state(const sp_model_config *config, const char *name);
/* One of the engine's inputs that no client gives, for a run; and what a state's output becomes. */
sp_status sp_hall_sequence_input(sp_hall_model *model, int port, sp_hall_buffer *buffer, sp_hall_request *const *requests,
                                 int count, int rows, sp_engine_tensor *ret_tensor, sp_error *reterr);
sp_status sp_hall_sequence_output(sp_hall_model *model, int port, const sp_engine_tensor *output, sp_hall_request *const *requests,
                                  int count, int rows, sp_error *reterr);

/* hall_check.c: fills *request from the head. SP_INVALID says what does not fit; SP_UNSUPPORTED (code "not_loaded"). */
sp_status sp_hall_check(const sp_infer_head *head, const sp_hall_model *model, sp_hall_request *request, sp_error *reterr);
/* The tensors of a request that came from another step. */
sp_status sp_hall_check_inputs(const sp_hall_model *model, sp_hall_request *request, sp_error *reterr);
/* Its inputs' bytes, now that they are there. SP_INVALID: they are not where the head says. */
sp_status sp_hall_locate(sp_hall_request *request, sp_error *reterr);

/* hall_detect.c. At its load, while it is open: makes model->detector if it is described as one. */
void sp_hall_detector_open(const sp_hall *hall, sp_hall_model *model);
void sp_hall_detector_free(sp_hall_model *model);
/* Under the lock: what the request will be. SP_INVALID, code "no_detector". */
sp_status sp_hall_detect_check(const sp_hall_model *model, sp_hall_request *request, sp_error *reterr);
/* By whoever runs the instance, before and after the run; `place`: of the request among those of the batch. */
sp_status sp_hall_detect_prepare(sp_hall_model *model, int lane, int place, sp_hall_request *request, sp_error *reterr);
sp_status sp_hall_detect_answer(sp_hall_model *model, int lane, const sp_engine_tensor *outputs, int row,
                                sp_hall_request *request, sp_error *reterr);

/* hall_ports.c */
/* Elements of `dims`; false = it overflows or is negative. */
bool sp_hall_elements(const int64_t *dims, int rank, uint64_t *ret_count);
/* The shape that the engine takes (inputs) or that clients see (outputs), where the configuration reshapes: the n-th open
 * dimension of one is the n-th of the other. `batches`: the first dimension is rows and stays. False: it does not fit. */
bool sp_hall_shape_in(const sp_model_port *port, bool batches, const int64_t *dims, int rank, int64_t *ret_dims, int *ret_rank);
bool sp_hall_shape_out(const sp_model_port *port, bool batches, const int64_t *dims, int rank, int64_t *ret_dims, int *ret_rank);
/* What the engine's output will be for `rows` (ignored without batch dimension), when its declaration says it all. */
bool sp_hall_shape_known(const sp_engine_port *port, bool batches, int64_t rows, int64_t *ret_dims, int *ret_rank);

/* hall_load.c */
/* A model of `spec` (taken, also on failure), not open. */
sp_status sp_hall_model_new(const sp_hall *hall, sp_load_spec *spec, sp_hall_model **ret_model, sp_error *reterr);
void sp_hall_model_free(sp_hall_model *model);
/* Opens its session and measures it; no lock held. */
sp_status sp_hall_model_open(const sp_hall *hall, sp_hall_model *model, uint64_t *ret_bytes, sp_error *reterr);
void sp_hall_model_close(sp_hall_model *model);
sp_status sp_hall_model_warm(const sp_hall *hall, sp_hall_model *model, sp_error *reterr);
/* Each bucket of its batches, where it has some: part of its opening, since it runs them before it is measured. */
sp_status sp_hall_model_warm_buckets(sp_hall_model *model, sp_error *reterr);
uint64_t sp_hall_model_estimate(const sp_hall_model *model); /* bytes, before it is opened */
const char *sp_hall_label(const sp_hall_model *model, int output, uint64_t index); /* "" = none */

void sp_hall_describe(const sp_hall *hall, const sp_hall_model *model, sp_answer_loaded *loaded);

/* hall_run.c: every request of the batch gets its status. */
void sp_hall_run_batch(sp_hall *hall, sp_hall_model *model, int lane, int executor, sp_hall_request **requests, int count);

/* True: the device has run the batch, each item has its status; false: nothing of it was done. */
bool sp_hall_detect_on_device(const sp_hall *hall, sp_hall_model *model, int lane, int executor, sp_hall_request **requests, int count);
void sp_hall_detect_put(const sp_hall_model *model, sp_work_item *item, const sp_detect_box *boxes, int count);

/* hall_detect_cuda.c. NULL: this model, or this worker, has no such way. `decoder`: any lane's. */
sp_hall_detect_cuda *sp_hall_detect_cuda_new(const sp_hall *hall, const sp_hall_model *model, const sp_model *description,
                                             const sp_detect_decoder *decoder);
void sp_hall_detect_cuda_free(sp_hall_detect_cuda *cuda); /* NULL is fine */
bool sp_hall_detect_cuda_run(sp_hall_detect_cuda *cuda, const sp_hall *hall, sp_hall_model *model, sp_detect_decoder *decoder,
                             int lane, int executor, sp_hall_request **requests, int count);

void sp_hall_mxcsr_repair(void); /* hall_run.c: after an engine's run, on its thread */

/* hall_answer.c */
typedef struct sp_hall_writer {
    uint8_t *answer;
    size_t at;      /* where the next tensor goes */
    int count, expected;
} sp_hall_writer;
void sp_hall_writer_begin(sp_hall_writer *writer, sp_work_item *item, int outputs);
/* Room for a packed output whose size is known beforehand; NULL = it does not fit. Follow with sp_hall_writer_note. */
uint8_t *sp_hall_writer_room(sp_hall_writer *writer, size_t bytes);
/* One output of one request, packed elements `tensor`, in the form of `wish`. */
sp_status sp_hall_writer_put(sp_hall_writer *writer, const sp_hall_model *model, sp_hall_buffer *scratch,
                             const sp_infer_wish *wish, const sp_hall_tensor *tensor, sp_error *reterr);
void sp_hall_writer_note(sp_hall_writer *writer, const sp_infer_wish *wish, const sp_hall_tensor *tensor, size_t offset);

/* hall_memory.c: no lock held. */
/* Reserves, opens, measures, settles. */
sp_status sp_hall_open_here(sp_hall *hall, sp_hall_model *model, int64_t deadline_ns, sp_error *reterr);
/* Makes room for `bytes` by putting others aside, waiting for those that run until `deadline_ns`, and reserves it. SP_NOMEM. */
sp_status sp_hall_reserve(sp_hall *hall, sp_hall_model *model, uint64_t bytes, int64_t deadline_ns, sp_error *reterr);
void sp_hall_settle(sp_hall *hall, sp_hall_model *model, uint64_t bytes); /* what it turned out to take; 0 = nothing */

#endif
