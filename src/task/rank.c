/* SPDX-License-Identifier: Apache-2.0
 * The best few of a row of numbers. */
#include "task/rank.h"

#include "kernels/kernels.h"
#include "kernels/post_arith.h"

#include <math.h>
#include <string.h>

sp_output_meaning sp_rank_meaning(const float *values, uint32_t class_count)
{
    double sum = 0;
    bool negative = false;
    for (uint32_t i = 0; i < class_count; i++) {
        sum += (double)values[i];
        negative = negative || values[i] < 0;
    }
    return !negative && fabs(sum - 1) < 1e-2 ? SP_OUTPUT_PROBABILITIES : SP_OUTPUT_LOGITS;
}

float sp_rank_widen_f16(uint16_t half)
{
    return sp_f16_to_f32(half);
}

sp_status sp_rank_top(const char *model_name, const float *values, uint32_t class_count, sp_output_meaning meaning, int top_k,
                      float *probabilities, sp_class_score *ret_scores, int *ret_count, sp_error *reterr)
{
    int n = (int)class_count;
    for (int i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return SP_FAIL_CODE(reterr, SP_CORRUPT, "not_finite", "model %s gives no finite number for class %d",
                                model_name, i);
    if (meaning == SP_OUTPUT_PROBABILITIES)
        memcpy(probabilities, values, (size_t)n * sizeof(float));
    else
        sp_kernels.softmax_f32(probabilities, values, n);
    int32_t ids[SP_LIMIT_TOP_K];
    float best[SP_LIMIT_TOP_K];
    int k = SP_CLAMP(top_k, 1, SP_MIN(n, SP_LIMIT_TOP_K));
    /* Ranked by the model's own numbers: softmax keeps their order but may round two of them to one. */
    sp_kernels.topk_f32(ids, best, values, n, k);
    for (int i = 0; i < k; i++)
        ret_scores[i] = (sp_class_score){ (uint32_t)ids[i], probabilities[ids[i]] };
    *ret_count = k;
    return SP_OK;
}
