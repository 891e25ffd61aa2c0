/* SPDX-License-Identifier: Apache-2.0
 * A request on its way through a *spread* ensemble: one whose models no single worker has. Each step gets a slot of its own and
 * goes through the chain like any request for its model, so it is tried again there, by itself: what earlier steps made is kept
 * until its last reader has it, and no step that is over runs again.
 *
 *   entry ──> steps whose inputs are there ──> ... ──> finish ──> answer
 *   (inputs)  a request of the house each              a request for the ensemble's own number: back end `identity` over its
 *                                                      outputs, which gives them the client's form (JSON, classes, labels)
 *
 * Ensembles that fit into one worker do not come here (worker/hall_ensemble.c). Private to src/serving; loop thread only, but
 * for copies of large tensors, which the store thread makes. */
#ifndef SP_SERVING_COURSE_H
#define SP_SERVING_COURSE_H

#include "serving/parts.h"

/* Requests in spread ensembles, and how many of them are on their way at once; the others wait. Each holds a slot for its inputs,
 * one on its way through a chain up to two more (the step that was, the step that is): a quarter of the slots twice over and
 * as many waiting ones leave a slot for whoever needs the next. Beyond: SP_BUSY. */
#define SP_LIMIT_COURSES (SP_LIMIT_SLOTS / 2)
#define SP_LIMIT_COURSES_AT_ONCE (SP_LIMIT_SLOTS / 4)

typedef struct sp_course sp_course;

/* `answer` as the house would give it, good until the callback returns; its tensors until the course is freed. */
typedef void sp_course_done_fn(const sp_answer *answer, void *context);

/* `entry`: an open request for the ensemble, whose head is checked and whose inputs lie in its body, or in its output when it
 * has ended unpacked. It stays open until the course is freed. `done` comes once, later, unless it is freed before. */
sp_status sp_course_begin(sp_serving *serving, sp_served *served, sp_request *entry, sp_course_done_fn *done, void *context,
                          sp_course **ret_course, sp_error *reterr);

/* Any time, also inside `done`. Withdraws what is under way and closes `entry`, both perhaps when a copy in hand is made. */
void sp_course_free(sp_course *course, sp_request *entry);

#endif
