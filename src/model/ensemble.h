/* SPDX-License-Identifier: Apache-2.0
 * An ensemble as numbers: its tensors, and which step takes and makes which. Made once from the names in the configurations;
 * also the place where the steps' models are held against the ensemble. Pure. */
#ifndef SP_MODEL_ENSEMBLE_H
#define SP_MODEL_ENSEMBLE_H

#include "model/config.h"

#define SP_LIMIT_ENSEMBLE_TENSORS 256

typedef enum sp_ensemble_kind {
    SP_STEP_MODEL,
    SP_STEP_PREPROCESS,  /* spillway/preprocess */
    SP_STEP_POSTPROCESS, /* spillway/postprocess */
} sp_ensemble_kind;

typedef struct sp_ensemble_link {
    uint16_t port;   /* of the step's model; of a built-in step 0, 1, ... in the order of the maps */
    uint16_t tensor; /* of the ensemble */
} sp_ensemble_link;

typedef struct sp_ensemble_planned {
    sp_ensemble_kind kind;
    int input_count, output_count;
    sp_ensemble_link inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS];
} sp_ensemble_planned;

typedef struct sp_ensemble_tensor {
    const char *name;     /* the configuration's */
    int producer;         /* step; -1 = the ensemble's own input */
    int input, output;    /* the ensemble's port; -1 = none */
    int consumers;        /* steps that take it */
    uint8_t dtype;        /* 0 = not known (built-in steps) */
    bool optional;        /* an input that the client may leave out */
} sp_ensemble_tensor;

typedef struct sp_ensemble_plan {
    int tensor_count, step_count;
    sp_ensemble_tensor tensors[SP_LIMIT_ENSEMBLE_TENSORS];
    sp_ensemble_planned steps[SP_LIMIT_ENSEMBLE_STEPS];
} sp_ensemble_plan;

/* `models`: the configuration of each step's model, NULL for a built-in step. Keeps pointers into `ensemble`. SP_INVALID, in
 * Triton's words: a port that does not exist, is not mapped or mapped twice, types, shapes or batch sizes that do not fit. */
sp_status sp_ensemble_plan_new(const sp_model_config *ensemble, const sp_model_config *const *models,
                               sp_ensemble_plan **ret_plan, sp_error *reterr);
void sp_ensemble_plan_free(sp_ensemble_plan *plan); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_ensemble_plan, sp_ensemble_plan_free)

/* The step that takes tensor `tensor` first, -1 = nobody. */
int sp_ensemble_consumer(const sp_ensemble_plan *plan, int tensor);

#endif
