/* SPDX-License-Identifier: Apache-2.0
 * A model as it lies in the repository, in Triton's layout:
 *
 *   <repository>/<name>/<version>/model.onnx   versions are whole numbers; the highest is taken
 *   <repository>/<name>/spillway.json          what its tensors mean; without it defaults are taken from the ONNX shapes
 *   <repository>/<name>/labels.txt             line N is class N (the name is spillway.json's "labels")
 *
 * Reads the description, the labels and the digest; it is the engine that reads the model. models/README.md has the
 * table of keys for people. */
#ifndef SP_TASK_MODEL_H
#define SP_TASK_MODEL_H

#include "base/limits.h"
#include "base/status.h"
#include "kernels/prep.h"
#include "spillway_engine.h"

#define SP_LIMIT_MODEL_NAME_BYTES  64
#define SP_LIMIT_TENSOR_NAME_BYTES 128

typedef enum sp_output_meaning {
    SP_OUTPUT_UNKNOWN = 0, /* found out by the first run: non-negative and summing to one = probabilities */
    SP_OUTPUT_LOGITS,
    SP_OUTPUT_PROBABILITIES,
} sp_output_meaning;

typedef struct sp_model {
    char name[SP_LIMIT_MODEL_NAME_BYTES];
    char version[16];
    char precision[16];  /* as described; else from the type of the input: "fp32", "fp16" */
    char digest[65];     /* sha256 of model.onnx, lower-case hex */
    char *path;          /* of model.onnx */
    char *settings_path; /* of spillway.json, for messages; it need not exist */
    uint64_t size_bytes;
    char input[SP_LIMIT_TENSOR_NAME_BYTES];  /* "" = the only one */
    char output[SP_LIMIT_TENSOR_NAME_BYTES]; /* "" = the first one */
    sp_output_meaning meaning;
    int max_batch;     /* items that may run together: spillway.json's max_batch; 1 for a model whose answer depends on
                         * its neighbours; SP_LIMIT_BATCH otherwise */
    sp_prep_spec prep; /* complete after sp_model_fit */
    uint32_t given;    /* which parts of prep spillway.json gave (internal) */
    uint32_t class_count;          /* after sp_model_fit */
    int input_index, output_index; /* after sp_model_fit */
    /* Labels: label_count of them; text of label i begins at labels[i]. */
    uint32_t label_count;
    const char **labels;
    char *label_text;
} sp_model;

/* Finds `name` (NULL = the repository's only or alphabetically first model), reads its description and labels, hashes
 * the file. SP_NOT_FOUND: no such repository, model or version; SP_INVALID: a key or value of spillway.json, or the
 * labels (the message names file and key); SP_TOO_LARGE: a file beyond its limit; SP_NOMEM. */
sp_status sp_model_find(const char *repository, const char *name, sp_model **ret_model, sp_error *reterr);
/* Only the description and the labels, for whoever has the model run elsewhere: the model file need not be there, and what
 * comes of it (digest, version, class_count, prep) is not filled. As sp_model_find otherwise;
 * SP_NOT_FOUND: no such directory. */
sp_status sp_model_describe(const char *repository, const char *name, sp_model **ret_model, sp_error *reterr);
void sp_model_free(sp_model *model); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_model, sp_model_free)

/* Holds the description against what the loaded model says of itself, and fills what was not given. Again on a fitted
 * model only checks. SP_INVALID: they disagree (message names file and key), or the model does not look like an image
 * classifier and spillway.json does not say what it is. */
sp_status sp_model_fit(sp_model *model, const sp_engine_ports *ports, sp_error *reterr);

/* "" when the model has no label for it. Until sp_model_free. */
const char *sp_model_label(const sp_model *model, uint32_t class_id);

/* Names of the repository's models, sorted; at most SP_LIMIT_MODELS. Those without a version are left out.
 * SP_NOT_FOUND: no such directory. */
typedef struct sp_model_names {
    int count;
    char names[SP_LIMIT_MODELS][SP_LIMIT_MODEL_NAME_BYTES];
} sp_model_names;
sp_status sp_model_list(const char *repository, sp_model_names *ret_names, sp_error *reterr);

/* Internal to this room: spillway.json's bytes into `model` (settings.c). */
sp_status sp_model_parse_settings(sp_model *model, const char *text, size_t size_bytes, char *labels,
                                  size_t labels_size, sp_error *reterr);
enum {
    SP_GIVEN_FILTER = 1,
    SP_GIVEN_FIT = 2,
    SP_GIVEN_RESIZE = 4,
    SP_GIVEN_CROP = 8,
    SP_GIVEN_DTYPE = 16,
    SP_GIVEN_SCALE = 32
};

#endif
