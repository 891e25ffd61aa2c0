/* SPDX-License-Identifier: Apache-2.0
 * From a classifier's own numbers to its answer: what they mean, softmax, the best few. Shared by the classifier that ran
 * the model here and by remotes that ran it elsewhere, so that both give the same answer. Pure; no allocation. */
#ifndef SP_TASK_RANK_H
#define SP_TASK_RANK_H

#include "task/model.h"

#define SP_LIMIT_TOP_K 100 /* what an answer's slot and a reader's patience hold with room to spare */

typedef struct sp_class_score {
    uint32_t class_id;
    float probability;
} sp_class_score;

/* When nobody said whether the model ends in a softmax, an answer of it does: a row of logits that is non-negative and
 * sums to one does not occur. */
sp_output_meaning sp_rank_meaning(const float *values, uint32_t class_count);

/* The `top_k` (cut to class_count and SP_LIMIT_TOP_K) most probable classes, best first, equal ones by class id.
 * `probabilities` is room for class_count numbers. sp_kernels_init() has been called. SP_CORRUPT, code "not_finite". */
sp_status sp_rank_top(const char *model_name, const float *values, uint32_t class_count, sp_output_meaning meaning, int top_k,
                      float *probabilities, sp_class_score *ret_scores, int *ret_count, sp_error *reterr);

/* IEEE 754 half to float; exact. */
float sp_rank_widen_f16(uint16_t half);

#endif
