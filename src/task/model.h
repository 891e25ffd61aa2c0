/* SPDX-License-Identifier: Apache-2.0
 * A model as it lies in the repository, in Triton's layout:
 *
 *   <repository>/<name>/<version>/model.onnx   versions are whole numbers; the highest is taken
 *   <repository>/<name>/spillway.json          what its tensors mean; without it defaults are taken from the ONNX shapes
 *   <repository>/<name>/labels.txt             line N is class N (the name is spillway.json's "labels")
 *
 * A classifier unless spillway.json's "task" says otherwise.
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

typedef enum sp_model_task { SP_MODEL_CLASSIFY = 0, SP_MODEL_DETECT } sp_model_task;

/* --- what a detector's outputs mean (detect.h) --- */
typedef enum sp_detect_head {
    SP_HEAD_UNKNOWN = 0,
    SP_HEAD_YOLOX,   /* [N, A, 5 + C]: offsets from a grid, exp of sizes, objectness, classes */
    SP_HEAD_YOLOV5,  /* [N, A, 5 + C]: centre and size in pixels of the input, objectness, classes */
    SP_HEAD_YOLOV8,  /* [N, 4 + C, A]: centre and size in pixels of the input, classes */
    SP_HEAD_SSD,     /* [N, A, 4] and [N, A, C]: see boxes, units, activation */
    SP_HEAD_NANODET, /* per stride [N, A, C] and [N, A, 4 * bins]: distances as distributions */
} sp_detect_head;

typedef enum sp_box_form {
    SP_BOXES_CORNERS, /* x0 y0 x1 y1 */
    SP_BOXES_CENTRE,  /* cx cy w h */
    SP_BOXES_OFFSETS, /* from the anchors: cx + v0 * x * w, w * exp(v1 * x) */
} sp_box_form;
typedef enum sp_score_form { SP_SCORES_PLAIN, SP_SCORES_SIGMOID, SP_SCORES_SOFTMAX } sp_score_form;
typedef enum sp_nms_kind { SP_NMS_CLASS, SP_NMS_AGNOSTIC, SP_NMS_NONE } sp_nms_kind;

#define SP_LIMIT_DETECT_LEVELS 8
#define SP_LIMIT_DETECT_ANCHORS 16 /* of one cell of one level */
#define SP_LIMIT_DETECT_BOXES 300  /* told for one picture; an answer's slot holds them with their labels */

typedef struct sp_detect_settings {
    sp_detect_head head;
    sp_nms_kind nms;
    float threshold, iou; /* what a request may change */
    int top_k;
    int level_count; /* strides; 0 = 8, 16, 32 */
    int strides[SP_LIMIT_DETECT_LEVELS];
    /* SSD: */
    char boxes_output[SP_LIMIT_TENSOR_NAME_BYTES], scores_output[SP_LIMIT_TENSOR_NAME_BYTES]; /* "" = by their shapes */
    sp_box_form boxes;
    sp_score_form activation;
    bool fractions; /* coordinates are fractions of the input, not pixels */
    int background; /* the class that stands for nothing; -1 = none */
    float variances[2];
    int anchor_counts[SP_LIMIT_DETECT_LEVELS];
    float anchors[SP_LIMIT_DETECT_LEVELS][SP_LIMIT_DETECT_ANCHORS][2]; /* w, h in pixels of the input */
} sp_detect_settings;

typedef struct sp_model {
    sp_model_task task;
    sp_detect_settings detect; /* of a detector */
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
 * model only checks. A detector's outputs are looked at by sp_detect_decoder_new. SP_INVALID: they disagree (message names file and key), or the model does not look like an image
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

/* Internal to this room: "<settings file>: <key>: <what>" as SP_INVALID; the number of the port of that name, or -1. */
sp_status sp_model_misfit(const sp_model *model, sp_error *reterr, const char *key, const char *format, ...) SP_PRINTF(4, 5);
int sp_model_find_port(const sp_engine_port *ports, int count, const char *name);

/* Of a detector, what the head's own training code does before its model, where spillway.json is silent
 * (detect_settings.c). sp_model_fit calls it. */
void sp_detect_defaults(sp_model *model);

/* Internal to this room: spillway.json's bytes into `model` (settings.c). */
sp_status sp_model_parse_settings(sp_model *model, const char *text, size_t size_bytes, char *labels,
                                  size_t labels_size, sp_error *reterr);
enum {
    SP_GIVEN_FILTER = 1,
    SP_GIVEN_FIT = 2,
    SP_GIVEN_RESIZE = 4,
    SP_GIVEN_CROP = 8,
    SP_GIVEN_DTYPE = 16,
    SP_GIVEN_SCALE = 32,
    SP_GIVEN_CHANNELS = 64,
    SP_GIVEN_PAD = 128
};

#endif
