/* SPDX-License-Identifier: Apache-2.0
 * The configuration file of `serve`: YAML with the same few keys as its options. What is not in the file is left out
 * here too (NULL or has_... false), so that the caller can put options above it and defaults below. */
#ifndef SP_CLI_CONFIG_H
#define SP_CLI_CONFIG_H

#include "base/status.h"

typedef struct sp_config_file {
    int64_t *http_port, *grpc_port, *metrics_port;
    char *bind;
    char *model_repository, *model;
    char **workers;
    uint32_t workers_count;
    bool *require_sandbox;
    int64_t *drain_delay; /* seconds */
    char *log_level;
    int64_t *spin_us;
    int64_t *link_timeout_ms;
} sp_config_file;

/* SP_INVALID: not YAML, an unknown key, a value of the wrong type or out of range; the message has the line.
 * *ret_file is NULL when the file says nothing.
 * SP_NOT_FOUND: no such file. Free with sp_config_file_free. */
sp_status sp_config_file_load(const char *path, sp_config_file **ret_file, sp_error *reterr);
void sp_config_file_free(sp_config_file *file); /* NULL is fine */

#endif
