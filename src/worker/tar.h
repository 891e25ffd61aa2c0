/* SPDX-License-Identifier: Apache-2.0
 * Files one behind the other as a tar (POSIX ustar), written with pwrite. Times, owners and modes are always the same, so equal
 * files make equal archives. Regular files with short names alone. */
#ifndef SP_WORKER_TAR_H
#define SP_WORKER_TAR_H

#include "base/status.h"
#include "base/view.h"

typedef struct sp_tar {
    int fd; /* borrowed */
    uint64_t size_bytes, limit_bytes;
} sp_tar;

/* Names: up to 99 bytes, relative. SP_INVALID, SP_TOO_LARGE (past the limit), SP_NOMEM (no room to write). */
sp_status sp_tar_add(sp_tar *tar, const char *name, sp_view bytes, sp_error *reterr);
sp_status sp_tar_end(sp_tar *tar, sp_error *reterr);

#endif
