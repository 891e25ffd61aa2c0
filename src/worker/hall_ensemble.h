/* SPDX-License-Identifier: Apache-2.0
 * Ensembles in the hall: what hall.c asks of hall_ensemble.c. For hall*.c alone; under the hall's lock unless said otherwise.
 *
 *   lease ── BEGIN ──> steps, each a request of its own in its model's queue ──> ... ──> FINISH ──> answer
 *
 * A step's request stands for the lease: it has a work item of its own, whose answer is a private region as large as a
 * lease's. So a step is run by the same code as any request, and what it answers lies where the next step reads it. */
#ifndef SP_WORKER_HALL_ENSEMBLE_H
#define SP_WORKER_HALL_ENSEMBLE_H

#include "model/ensemble.h"
#include "worker/hall_internal.h"

typedef struct sp_hall_builtin sp_hall_builtin;

/* What a loaded ensemble knows. */
struct sp_hall_ensemble {
    sp_ensemble_plan *plan;
    sp_hall_builtin *builtins[SP_LIMIT_ENSEMBLE_STEPS]; /* NULL: the step is a model's */
};

typedef enum sp_hall_chore_kind {
    SP_HALL_BEGIN,    /* the lease's bytes are found */
    SP_HALL_BUILT_IN, /* a step of our own is run */
    SP_HALL_FINISH,   /* tensors become the answer */
} sp_hall_chore_kind;

typedef struct sp_hall_chore {
    sp_hall_chore_kind kind;
    bool queued;
    sp_hall_course *course;
    sp_hall_step *step; /* BUILT_IN */
    struct sp_hall_chore *next;
} sp_hall_chore;

/* A step on its way. */
struct sp_hall_step {
    sp_hall_request request; /* first: a model's queue hands it back */
    sp_work_item item;       /* the request's; `answer` is its region */
    sp_hall_course *course;
    int number;
    sp_hall_chore chore;
    sp_hall_step *next; /* unused ones */
};

/* One request on its way through an ensemble. */
struct sp_hall_course {
    sp_hall_request *request; /* a lease's, or another ensemble's step */
    sp_hall_model *model;
    uint32_t begun, over; /* bits: steps */
    int pending;          /* begun and not over */
    sp_status status;
    sp_error error;
    sp_hall_tensor values[SP_LIMIT_ENSEMBLE_TENSORS]; /* by the plan's tensor */
    int readers[SP_LIMIT_ENSEMBLE_TENSORS];           /* steps that have not read it yet */
    sp_hall_step *steps[SP_LIMIT_ENSEMBLE_STEPS];
    sp_infer_step told[SP_LIMIT_ENSEMBLE_STEPS];
    int told_count;
    int64_t began_ns;
    sp_hall_chore chore;
    sp_hall_buffer scratch;
    sp_hall_course *next; /* unused ones */
};

/* Binds a loaded ensemble to the models of its steps, which stay here as long as it does. SP_CONFLICT: one is not loaded;
 * otherwise as sp_ensemble_plan_new. */
sp_status sp_hall_ensemble_bind(sp_hall *hall, sp_hall_model *model, sp_error *reterr);
void sp_hall_ensemble_unbind(sp_hall *hall, sp_hall_model *model); /* also what was bound in part */
void sp_hall_ensemble_free(sp_hall_model *model); /* no lock */

/* The request has been checked: its course begins with a chore. SP_NOMEM. */
sp_status sp_hall_course_begin(sp_hall *hall, sp_hall_request *request, int64_t now_ns, sp_error *reterr);
void sp_hall_course_abort(sp_hall *hall, sp_hall_request *request); /* nothing of it is in hand */
/* A step has its status: a model's batch is over, or its queue rejected it. */
void sp_hall_step_over(sp_hall *hall, sp_hall_step *step, int64_t now_ns);

void sp_hall_chore_run(sp_hall *hall, sp_hall_chore *chore); /* no lock */
void sp_hall_chore_over(sp_hall *hall, sp_hall_chore *chore, int64_t now_ns);

/* The lease that a request stands for. */
sp_hall_request *sp_hall_lease(sp_hall_request *request);
void sp_hall_courses_free(sp_hall *hall);

/* hall_builtin.c. Which ports and settings a built-in step has; `model`: the ensemble. SP_INVALID, SP_NOMEM. */
sp_status sp_hall_builtin_new(sp_hall *hall, const sp_hall_model *ensemble, const sp_ensemble_plan *plan, int step,
                              sp_hall_builtin **ret_builtin, sp_error *reterr);
void sp_hall_builtin_free(sp_hall_builtin *builtin); /* NULL is fine */
/* Inputs by port in request->inputs; the answer into its item. `lease`: whose decoded picture it may be. Any thread. */
sp_status sp_hall_builtin_run(sp_hall_builtin *builtin, sp_hall_request *request, const sp_work_item *lease, sp_error *reterr);

#endif
