/* SPDX-License-Identifier: Apache-2.0
 * classify: a picture in, its classes out. Pre-processing kernel, model, softmax, top-k; it knows no device and no
 * process, so a worker and an in-process command run the same code.
 *
 * A classifier has lanes: independent sets of buffers that run at once, one thread each. Per lane:
 *
 *   sp_classify_prepare (or memcpy into sp_classify_input) for items 0 .. n - 1
 *   sp_classify_run(n)
 *   sp_classify_answer for each item
 *
 * Everything is reserved and touched when it is opened; a request allocates nothing here. */
#ifndef SP_TASK_CLASSIFY_H
#define SP_TASK_CLASSIFY_H

#include "engine/engine.h"
#include "task/model.h"
#include "task/rank.h"

typedef struct sp_classifier sp_classifier;

typedef struct sp_classify_options {
    const char *provider; /* NULL = "cpu" */
    int device_index;
    int threads;   /* that compute one run */
    int lanes;     /* runs at once */
    int max_batch; /* items of one run that buffers are reserved for; cut to the model's own bound */
    bool spin;
} sp_classify_options;

/* One lane, one item, as many threads as the machine grants. */
sp_classify_options sp_classify_options_default(void);

/* Loads `model` (borrowed; fits it: sp_model_fit) and runs each lane once. As sp_session_open and sp_model_fit;
 * SP_CORRUPT: its first run gave numbers that are not finite. */
sp_status sp_classify_open(const sp_engine *engine, sp_model *model, const sp_classify_options *options,
                           sp_classifier **ret_classifier, sp_error *reterr);
void sp_classify_close(sp_classifier *classifier); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_classifier, sp_classify_close)

const sp_model *sp_classify_model(const sp_classifier *classifier);
sp_session *
sp_classify_session(sp_classifier *classifier); /* borrowed, with the classifier's lanes: for plain tensors */
int sp_classify_max_batch(const sp_classifier *classifier);
int sp_classify_lanes(const sp_classifier *classifier);
size_t sp_classify_tensor_bytes(const sp_classifier *classifier); /* of one item's input */

/* The place of item `index` (0 .. max_batch - 1) in the lane's input: tensor_bytes, until close. */
void *sp_classify_input(sp_classifier *classifier, int lane, int index);

/* RGB8 pixels (packed rows of w * 3 bytes) to item `index`'s input. As sp_prep_image. */
sp_status sp_classify_prepare(sp_classifier *classifier, int lane, int index, const uint8_t *rgb, int w, int h,
                              sp_error *reterr);

/* Runs items 0 .. count - 1. `input`: NULL = the lane's own places; else tensor_bytes * count elsewhere (only read; aligned
 * to its element), used in place. As sp_session_run. */
sp_status sp_classify_run(sp_classifier *classifier, int lane, const void *input, int count, sp_error *reterr);

/* The `top_k` (cut to the class count and SP_LIMIT_TOP_K) most probable classes of item `index` of the last run, best
 * first, equal ones by class id. SP_CORRUPT: the model's numbers are not finite. */
sp_status sp_classify_answer(sp_classifier *classifier, int lane, int index, int top_k, sp_class_score *ret_scores,
                             int *ret_count, sp_error *reterr);

/* The model's own numbers of item `index` of the last run, widened to f32: class_count of them, until the lane's next
 * call. For tests and for what builds on logits. */
const float *sp_classify_raw(sp_classifier *classifier, int lane, int index);

#endif
