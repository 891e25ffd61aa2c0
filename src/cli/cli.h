/* SPDX-License-Identifier: Apache-2.0
 * The commands of the program, one file each, and what several of them share. */
#ifndef SP_CLI_CLI_H
#define SP_CLI_CLI_H

#include "base/status.h"
#include "cli/fetch/fetch.h"
#include "cli/options.h"

/* A command gets argv[0] = its own name and returns an sp_exit. */
typedef int sp_command_fn(int argc, char **argv);
sp_command_fn sp_command_serve, sp_command_analyze, sp_command_classify, sp_command_compare, sp_command_config, sp_command_detect,
    sp_command_doctor, sp_command_inspect, sp_command_models, sp_command_pull, sp_command_bench, sp_command_chaos, sp_command_cost,
    sp_command_token, sp_command_results, sp_command_version, sp_command_worker, sp_command_frames;

/* Where models are looked for: `given` if not NULL; else $SPILLWAY_MODELS; else var/models of the source tree that this
 * program was built in; else /var/lib/spillway/models. It need not exist. Static storage. */
const char *sp_model_repository_find(const char *given);

/* The directory of this program, or "". Static storage. */
const char *sp_program_directory(void);

/* The tree this program was built in ("/src/spillway" of /src/spillway/build/spillway), or "" when it is installed.
 * Static storage. */
const char *sp_source_tree_find(void);

/* Opens libspillway_fetch.so (once). SP_UNSUPPORTED: it or a library it needs is missing. */
sp_status sp_fetch_load(const sp_fetch_api **ret_api, sp_error *reterr);

/* "18.5 MB" (decimal, as download sizes are told). */
void sp_format_bytes(char *text, size_t text_bytes, uint64_t amount_bytes);

/* The whole file on the heap, at most SP_LIMIT_IMAGE_BODY_BYTES; "-" is stdin. SP_NOT_FOUND, SP_INVALID (code
 * "unreadable"), SP_TOO_LARGE (code "file_too_large"), SP_NOMEM. */
sp_status sp_read_picture(const char *path, uint8_t **ret_data, size_t *ret_size_bytes, sp_error *reterr);

/* The exit code that fits the status of a failed operation. */
int sp_exit_of(sp_status status);

/* "spillway COMMAND: message [origin]" on stderr; returns sp_exit_of(err->status). */
int sp_cli_fail_error(const char *command, const sp_error *err);

#endif
