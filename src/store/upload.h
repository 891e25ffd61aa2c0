/* SPDX-License-Identifier: Apache-2.0
 * Large bodies on their way to disk: the loop copies what comes into a buffer of bounded size, a thread of its own writes and
 * hashes it. Who brings bytes faster than the disk takes them is told to pause, so memory stays bounded by the number of
 * uploads. What is finished is durable but for its name, and becomes a job's body without another copy (sp_jobs_add_file).
 * Loop thread only. Fault point `store.write`: each write and the fsync, as if the disk were full. */
#ifndef SP_STORE_UPLOAD_H
#define SP_STORE_UPLOAD_H

#include "base/loop.h"
#include "store/jobs.h"

/* Bytes of one buffer; each upload has two. */
#define SP_UPLOAD_BUFFER_BYTES (256u * 1024)
/* The most that is brought at once (libmicrohttpd's are at most 32 KiB). */
#define SP_UPLOAD_PIECE_BYTES (64u * 1024)

typedef struct sp_uploads sp_uploads;
typedef struct sp_upload sp_upload;

/* `named`: files get names in data_dir/bodies, by which a store of this process can take them (SQLite); else they have none. */
sp_status sp_uploads_open(sp_loop *loop, const char *data_dir, bool named, sp_uploads **ret_uploads, sp_error *reterr);
/* Waits for what is being written, and calls back. An upload whose file a store still works on may be freed after it; nothing
 * else may be done with it. */
void sp_uploads_close(sp_uploads *uploads);

/* `room` is called when there is room again after sp_upload_append said full. `size_bytes` 0 = unknown. SP_BUSY: too many, or
 * too many bytes (SP_LIMIT_UPLOADS_BYTES) are on their way already. */
sp_status sp_upload_new(sp_uploads *uploads, uint64_t size_bytes, void (*room)(void *context), void *context,
                        sp_upload **ret_upload, sp_error *reterr);
/* At most SP_UPLOAD_PIECE_BYTES. *ret_full: bring no more before `room`. Fails with what an earlier write failed with
 * (SP_UNAVAILABLE, code "disk_full"), SP_TOO_LARGE, SP_BUSY. */
sp_status sp_upload_append(sp_upload *upload, const void *data, size_t size_bytes, bool *ret_full, sp_error *reterr);
uint64_t sp_upload_bytes(const sp_upload *upload);

typedef void sp_upload_done_fn(sp_status status, const sp_error *err, void *context);
/* All of it is there: written, fsynced, hashed when `done` comes (later, once). */
void sp_upload_finish(sp_upload *upload, sp_upload_done_fn *done, void *context);
/* After done. The descriptor and name are borrowed from the upload. */
sp_body_file sp_upload_file(const sp_upload *upload, uint8_t ret_sha256[32]);
/* At any time; NULL is fine. No callback comes after it. The file goes too, unless it has another name by now. */
void sp_upload_free(sp_upload *upload);

/* Bytes on their way now. */
uint64_t sp_uploads_bytes(const sp_uploads *uploads);

#endif
