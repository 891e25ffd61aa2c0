/* SPDX-License-Identifier: Apache-2.0
 * Lines on disk for a store that is down: appended and fsynced, read back in order, forgotten when all have been read. A
 * line that a dying process cut off is thrown away at the next open; one that was read and not yet forgotten comes again.
 * One thread at a time. Fault point `store.write`. */
#ifndef SP_STORE_SPOOL_H
#define SP_STORE_SPOOL_H

#include "base/buf.h"

/* About a quarter of a million answers; the disk belongs to others too. Beyond: SP_UNAVAILABLE, code "spool_full". */
#define SP_LIMIT_SPOOL_BYTES (256u * 1024 * 1024)

typedef struct sp_spool {
    int fd;
    int64_t size_bytes, read_bytes;
    int64_t lines; /* not yet read */
} sp_spool;

sp_status sp_spool_open(sp_spool *spool, const char *path, sp_error *reterr);
void sp_spool_close(sp_spool *spool);

/* `text`: whole lines, `lines` of them, each with its newline. Durable, or nothing of it is there. */
sp_status sp_spool_append(sp_spool *spool, sp_view text, int64_t lines, sp_error *reterr);

/* The next lines, whole ones, at most `most_bytes` unless the first alone is longer; SP_OK with nothing = the end. */
sp_status sp_spool_read(sp_spool *spool, size_t most_bytes, sp_buf *text, sp_error *reterr);
/* What was read has been dealt with. At the end the file becomes empty. */
sp_status sp_spool_advance(sp_spool *spool, size_t size_bytes, int64_t lines, sp_error *reterr);

#endif
