/* SPDX-License-Identifier: Apache-2.0
 * What lies in the model repositories: directory walks and `spillway inspect`, both of which block, so they are done on a
 * store thread (registry.h says by whom). Private to this room. */
#ifndef SP_SERVING_REPOSITORY_H
#define SP_SERVING_REPOSITORY_H

#include "model/card.h"

/* Models in all repositories; beyond: left out and said in the log. */
#define SP_LIMIT_REPOSITORY_MODELS 1024
/* Files of one model's directory that its stamp looks at, and how deep. */
#define SP_LIMIT_MODEL_FILES 10000
#define SP_LIMIT_MODEL_DEPTH 6

typedef struct sp_found_model {
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    int repository;   /* index; of the first that has it */
    bool twice;       /* another repository has one of that name */
    uint64_t stamp;   /* of names, sizes and times of its files; changes when one of them does */
} sp_found_model;

typedef struct sp_repository_scan {
    int repository_count;
    const char *const *repositories;
    int count;
    bool cut; /* there were more */
    sp_found_model *models; /* sorted by name */
} sp_repository_scan;

/* A model is a directory with a config.pbtxt or a version's directory. SP_NOT_FOUND: a repository is not there. Blocks. */
sp_status sp_repository_scan_run(sp_repository_scan *scan, sp_error *reterr);
void sp_repository_scan_done(sp_repository_scan *scan);

/* Where `name` lies. SP_NOT_FOUND; SP_INVALID: in more than one. Blocks. */
sp_status sp_repository_locate(int repository_count, const char *const *repositories, const char *name, sp_found_model *ret_model,
                               sp_error *reterr);

#endif
