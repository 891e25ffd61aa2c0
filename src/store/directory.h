/* SPDX-License-Identifier: Apache-2.0
 * The data directory: made when it is missing, held by one process at a time. */
#ifndef SP_STORE_DIRECTORY_H
#define SP_STORE_DIRECTORY_H

#include "base/status.h"

/* Makes the directory and those above it. SP_UNAVAILABLE: it cannot be made or written to. */
sp_status sp_store_directory_make(const char *path, sp_error *reterr);
/* fsync of a directory: names made or removed in it are durable. 0, or an errno. */
int sp_store_directory_sync(const char *path);
/* A new file in data_dir/bodies (made when it is missing), for what is too large for memory. *ret_name (64 bytes): a name that
 * begins with a dot, or NULL = it has none and goes with its descriptor. SP_UNAVAILABLE, code "disk_full" when that is why. */
sp_status sp_store_directory_file(const char *data_dir, char *ret_name, int *ret_fd, sp_error *reterr);
/* Locks data_dir/NAME for this process; the descriptor holds it. SP_UNAVAILABLE, code "data_dir_in_use". */
sp_status sp_store_directory_lock(const char *data_dir, const char *name, int *ret_fd, sp_error *reterr);

#endif
