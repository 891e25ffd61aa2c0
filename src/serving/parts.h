/* SPDX-License-Identifier: Apache-2.0
 * What the files of src/serving share; private to this room. serving.c owns struct sp_serving (models, versions, loads) and
 * keeps one sp_serving_parts in it for the other files: regions, settings, calls and their cache. Loop thread only. */
#ifndef SP_SERVING_PARTS_H
#define SP_SERVING_PARTS_H

#include "serving/serving.h"

typedef struct sp_serving_parts sp_serving_parts;

/* serving.c calls these from sp_serving_new and sp_serving_free (no call is open then). free: NULL is fine. */
sp_status sp_serving_parts_new(const sp_serving_config *config, sp_loop *loop, sp_house *house, sp_serving_parts **ret_parts,
                               sp_error *reterr);
void sp_serving_parts_free(sp_serving_parts *parts);

/* serving.c has them: */
sp_serving_parts *sp_serving_parts_of(const sp_serving *serving);
/* The loaded version with the house's number `id`, for the steps of an ensemble's answer; NULL = it is gone. */
sp_served *sp_serving_by_id(sp_serving *serving, uint32_t id);

/* stats.c: serving.c calls it once for a version that has just been loaded (name and version_text are set). */
void sp_served_stats_init(sp_served *served);

#endif
