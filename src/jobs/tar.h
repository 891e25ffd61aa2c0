/* SPDX-License-Identifier: Apache-2.0
 * Reads what lies where in an archive (ustar) that a worker made: plain files with plain names. Nothing in it is trusted. */
#ifndef SP_JOBS_TAR_H
#define SP_JOBS_TAR_H

#include "base/status.h"

/* Files of one report. SP_CORRUPT beyond. */
#define SP_LIMIT_REPORT_FILES 256

typedef struct sp_tar_entry {
    char name[101]; /* letters, digits, . _ - and / between parts; nothing begins with a dot */
    uint64_t offset_bytes, size_bytes;
} sp_tar_entry;

/* The entry whose header lies at *at (0 at first), which then stands behind it; *ret_more false: there is none. SP_CORRUPT. Reads
 * `fd` by pread: 512 bytes a call. */
sp_status sp_tar_next(int fd, uint64_t size_bytes, uint64_t *at, sp_tar_entry *ret_entry, bool *ret_more, sp_error *reterr);

#endif
