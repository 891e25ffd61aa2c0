/* SPDX-License-Identifier: Apache-2.0
 * What lies in a model repository, for people to read: names, versions, settings. Opens no model file; whether one can
 * be loaded is for the workers to find out.
 *
 *   DIR/NAME/spillway.json, DIR/NAME/labels.txt, DIR/NAME/<number>/model.onnx */
#ifndef SP_CLI_REPOSITORY_H
#define SP_CLI_REPOSITORY_H

#include "base/status.h"

#include <jansson.h>
#include <stdio.h>

#define SP_LIMIT_LISTED_MODELS 256
#define SP_LIMIT_LISTED_VERSIONS 32

typedef struct sp_listed_model {
    char name[64];
    int versions[SP_LIMIT_LISTED_VERSIONS]; /* ascending; those that have a model.onnx */
    int version_count;
    char path[4096];     /* of the highest version's model.onnx; "" = there is none */
    uint64_t bytes;      /* its size */
    char task[32];       /* "" = spillway.json does not say */
    char precision[16];
    int label_count;     /* lines of the labels file; 0 = none */
    char problem[160];   /* why it cannot serve as it is; "" = nothing seen */
} sp_listed_model;

typedef struct sp_listing {
    sp_listed_model *models; /* by name */
    int count;
} sp_listing;

/* SP_NOT_FOUND: no such directory. Names that begin with '.' are passed over. Free with sp_listing_done. */
sp_status sp_listing_read(const char *directory, sp_listing *ret_list, sp_error *reterr);
void sp_listing_done(sp_listing *list);

/* For `models` and `doctor`, with the SHA-256 of each model's highest version (models.c). */
json_t *sp_listing_json(const sp_listing *list); /* a new array; the caller's */
void sp_listing_print(const sp_listing *list, FILE *out);

/* True when `name` can be a directory of the repository: letters, digits, '.', '_', '-', not beginning with '.' or '-',
 * at most 63 bytes. */
bool sp_model_name_ok(const char *name);

#endif
