/* SPDX-License-Identifier: Apache-2.0
 * Lines to a file or to stderr from a thread of its own: whoever writes one copies it into a bounded buffer and goes on. What
 * does not fit, because the disk or the reader of the pipe is slow, is dropped and counted. */
#ifndef SP_BASE_SINK_H
#define SP_BASE_SINK_H

#include "base/status.h"

typedef struct sp_sink sp_sink;

/* Lines that wait: at 300 bytes each, 1 MiB is what a busy server writes in 100 ms. */
#define SP_SINK_BYTES (1024u * 1024)

/* `path`: a file that is appended to, made when it is not there; "stderr" = this process' own. SP_INVALID: it cannot be opened;
 * SP_NOMEM. */
sp_status sp_sink_open(const char *path, sp_sink **ret_sink, sp_error *reterr);

/* One whole line with its newline. Never waits for the disk. Any thread. */
void sp_sink_write(sp_sink *sink, const void *line, size_t size_bytes);

/* The file is opened anew by its path before the next line (after it was moved away). Any thread. */
void sp_sink_reopen(sp_sink *sink);

/* Lines that were not written. */
uint64_t sp_sink_dropped_count(const sp_sink *sink);

/* Writes what waits, for a second at most, and frees. NULL is fine. */
void sp_sink_close(sp_sink *sink);

#endif
