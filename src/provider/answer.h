/* SPDX-License-Identifier: Apache-2.0
 * What a remote answered, whichever wire format it spoke: who did it over there, what was tried, and the classes. */
#ifndef SP_PROVIDER_ANSWER_H
#define SP_PROVIDER_ANSWER_H

#include "base/limits.h"
#include "base/status.h"
#include "base/view.h"
#include "task/rank.h"

#define SP_LIMIT_HOPS 4 /* Spillways in a row; a longer chain is a loop, or as slow as one */

typedef struct sp_provider_attempt {
    char link[32];
    sp_status status;
    char reason[96];
    int64_t duration_ns;
} sp_provider_attempt;

typedef struct sp_provider_class {
    uint32_t class_id;
    float probability;
    char label[SP_LIMIT_LABEL_BYTES]; /* "" = none */
} sp_provider_class;

typedef struct sp_provider_answer {
    char link[32], device[32], precision[16], model[64], version[16], engine[32];
    int attempt_count;
    sp_provider_attempt attempts[SP_LIMIT_ATTEMPTS];
    uint32_t batch_size;
    int64_t decode_ns, preprocess_ns, inference_ns, postprocess_ns; /* as told; 0 = not */
    int class_count;
    sp_provider_class classes[SP_LIMIT_TOP_K];
} sp_provider_answer;

#endif
