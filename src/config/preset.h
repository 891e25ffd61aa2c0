/* SPDX-License-Identifier: Apache-2.0
 * What follows from a configuration once it is read: presets to chains, USE_GPU_PIPELINE, names that must fit across
 * sections. Private to this room. */
#ifndef SP_CONFIG_PRESET_H
#define SP_CONFIG_PRESET_H

#include "config/schema.h"

/* What can stand in a chain. */
typedef enum sp_link_role {
    SP_LINK_HELPER, /* codec, net: serve the others, answer nothing themselves */
    SP_LINK_CPU,
    SP_LINK_NOOP, /* answers no-ops only */
    SP_LINK_GPU   /* any other device */
} sp_link_role;
sp_link_role sp_link_role_of(const char *worker);

/* Tasks that a chain can be written for. Ends with NULL. */
extern const char *const sp_config_tasks[];
/* Can a remote of that kind answer the task? Served models: infer goes to KServe servers, which speak of tensors; detect
 * and analyze (of videos) stay here. A no-op says nothing of this machine when it is done elsewhere, but a Spillway would. */
bool sp_config_remote_serves(const sp_remote_config *remote, const char *task);
bool sp_config_noop_serves(const char *task); /* can a no-op worker? */

/* Makes the chain of `preset` for every task that has none. SP_NOMEM. */
sp_status sp_preset_expand(sp_config *config, sp_error *reterr);

/* use_gpu false: takes GPUs out of the workers and of each chain, and complains of one that is empty then. */
void sp_gpu_remove(sp_config *config, const sp_yaml_node *root, sp_complainer *complainer);

/* Links against workers and remotes, tasks, tokens. `root` is where lines are found; NULL = there was no file. */
void sp_config_check(const sp_config *config, const sp_yaml_node *root, sp_complainer *complainer);

#endif
