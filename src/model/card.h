/* SPDX-License-Identifier: Apache-2.0
 * Looking into a model repository in Triton's layout without trusting what lies there:
 *
 *   <repository>/<model>/config.pbtxt           optional
 *   <repository>/<model>/<version>/model.onnx   versions are whole numbers
 *   <repository>/<model>/labels.txt ...         named by config.pbtxt's label_filename
 *
 * Whoever parses foreign files is a throw-away process: `spillway inspect` reads one model and prints its document; the
 * gateway reads the document. */
#ifndef SP_MODEL_CARD_H
#define SP_MODEL_CARD_H

#include "model/config.h"

typedef struct sp_card_version {
    int64_t number;
    char path[1024];  /* of the model file; "" for an ensemble */
    char digest[65];  /* sha256 of it, lower-case hex */
    uint64_t bytes;
} sp_card_version;

/* What a gateway knows of one model: effective configuration and the versions that its policy selects, highest first. */
typedef struct sp_model_card {
    char directory[1024];
    sp_model_config config; /* complete and checked */
    int version_count;
    sp_card_version versions[SP_LIMIT_SERVED_VERSIONS];
    int32_t label_counts[SP_INFER_PORTS]; /* per output; 0 = no labels */
} sp_model_card;
void sp_model_card_free(sp_model_card *card); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_model_card, sp_model_card_free)

/* Reads <repository>/<name>, opens the model file with its engine for the ports, completes and checks. `override` is the
 * JSON of a load request ("" = none). Runs foreign parsers: call it in a throw-away process only (`spillway inspect`).
 * SP_NOT_FOUND: no such directory, no version; SP_INVALID: config.pbtxt; SP_CORRUPT: the model file; SP_UNSUPPORTED: a
 * back end that is not served here. */
sp_status sp_model_inspect(const char *repository, const char *name, const char *override, sp_model_card **ret_card,
                           sp_error *reterr);

/* The document between the two processes: JSON, one object. */
void sp_model_card_write(const sp_model_card *card, sp_buf *out);
sp_status sp_model_card_read(sp_view json, sp_model_card **ret_card, sp_error *reterr);

/* Spawns `executable inspect ...`, waits at most `timeout_ms`, reads its document. Blocks: call it on a thread of its own. What
 * the process said when it failed becomes the error; when it died, that it did (SP_CORRUPT, code "crashed_inspect"). */
sp_status sp_model_inspect_apart(const char *executable, const char *repository, const char *name, const char *override,
                                 int timeout_ms, sp_model_card **ret_card, sp_error *reterr);
/* The same, given up soon after *stop has become true (SP_CANCELLED). */
sp_status sp_model_inspect_until(const char *executable, const char *repository, const char *name, const char *override,
                                 int timeout_ms, const _Atomic bool *stop, sp_model_card **ret_card, sp_error *reterr);

/* What a device worker needs to load one version: the body of a LOAD lease, as JSON. */
typedef struct sp_load_spec {
    uint32_t id; /* the house's number of this loaded version: leases name it (sp_infer_head.model) */
    int64_t version;
    char directory[1024], path[1024], digest[65];
    uint32_t step_models[SP_LIMIT_ENSEMBLE_STEPS]; /* ids of an ensemble's models, by step; 0 = built-in (spillway/...) */
    sp_model_config config;
} sp_load_spec;
void sp_load_spec_write(const sp_load_spec *spec, sp_buf *out);
sp_status sp_load_spec_read(sp_view json, sp_load_spec **ret_spec, sp_error *reterr);
void sp_load_spec_free(sp_load_spec *spec);
SP_DEFINE_CLEANUP(sp_load_spec, sp_load_spec_free)

#endif
