/* SPDX-License-Identifier: Apache-2.0
 * The spool: one append-only file. */
#include "store/spool.h"

#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (64u * 1024)
#define LINE_BYTES (32u * 1024 * 1024) /* no line is longer: a document and its fields */

static sp_status fail(int e, const char *what, sp_error *reterr)
{
    bool full = e == ENOSPC || e == EDQUOT;
    return sp_error_set(reterr, SP_UNAVAILABLE, full ? "disk_full" : "", "spool", e, __FILE__, __LINE__, "cannot %s the spool: %s", what,
                        strerror(e));
}

/* Counts the lines; what stands behind the last newline was never acknowledged. */
static sp_status count_lines(sp_spool *spool, sp_error *reterr)
{
    char chunk[CHUNK_BYTES];
    int64_t at = 0, whole = 0;
    for (ssize_t n; (n = pread(spool->fd, chunk, sizeof(chunk), at)) != 0; at += n) {
        if (n < 0)
            return fail(errno, "read", reterr);
        for (ssize_t i = 0; i < n; i++) {
            if (chunk[i] == '\n') {
                spool->lines++;
                whole = at + i + 1;
            }
        }
    }
    spool->size_bytes = whole;
    return whole == at || ftruncate(spool->fd, whole) == 0 ? SP_OK : fail(errno, "mend", reterr);
}

sp_status sp_spool_open(sp_spool *spool, const char *path, sp_error *reterr)
{
    *spool = (sp_spool){ .fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) };
    if (spool->fd < 0)
        return fail(errno, "open", reterr);
    sp_status s = count_lines(spool, reterr);
    if (s)
        sp_spool_close(spool);
    return s;
}

void sp_spool_close(sp_spool *spool)
{
    sp_fd_closep(&spool->fd);
}

static int write_all(sp_spool *spool, sp_view text)
{
    for (size_t done = 0; done < text.size_bytes;) {
        if (SP_FAULT("store.write") != SP_FAULT_NONE)
            return ENOSPC;
        ssize_t n = pwrite(spool->fd, text.data + done, text.size_bytes - done, spool->size_bytes + (int64_t)done);
        if (n < 0 && errno != EINTR)
            return errno;
        done += n > 0 ? (size_t)n : 0;
    }
    if (SP_FAULT("store.write") != SP_FAULT_NONE)
        return ENOSPC;
    return fdatasync(spool->fd) == 0 ? 0 : errno;
}

sp_status sp_spool_append(sp_spool *spool, sp_view text, int64_t lines, sp_error *reterr)
{
    if (spool->size_bytes + (int64_t)text.size_bytes > SP_LIMIT_SPOOL_BYTES)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "spool_full", "the spool holds %lld bytes already",
                            (long long)spool->size_bytes);
    int e = write_all(spool, text);
    if (e) {
        /* If this fails too, the next append writes over it, or the next open finds whole lines: stored twice is once. */
        if (ftruncate(spool->fd, spool->size_bytes) != 0) { }
        return fail(e, "write", reterr);
    }
    spool->size_bytes += (int64_t)text.size_bytes;
    spool->lines += lines;
    return SP_OK;
}

/* Cuts the text after its last newline within `most_bytes`, or after its first newline at all; false = it has none. */
static bool cut_to_lines(sp_buf *text, size_t most_bytes)
{
    const uint8_t *end = memrchr(text->data, '\n', SP_MIN(most_bytes, text->size_bytes));
    if (!end)
        end = memchr(text->data, '\n', text->size_bytes);
    if (end)
        text->size_bytes = (size_t)(end - text->data) + 1;
    return end != NULL;
}

sp_status sp_spool_read(sp_spool *spool, size_t most_bytes, sp_buf *text, sp_error *reterr)
{
    char chunk[CHUNK_BYTES];
    int64_t at = spool->read_bytes;
    sp_buf_clear(text);
    while (at < spool->size_bytes && text->size_bytes < LINE_BYTES) {
        size_t want = (size_t)SP_MIN((int64_t)sizeof(chunk), spool->size_bytes - at);
        ssize_t n = pread(spool->fd, chunk, want, at);
        if (n <= 0)
            return fail(n < 0 ? errno : EIO, "read", reterr);
        sp_buf_append(text, chunk, (size_t)n);
        at += n;
        if (text->size_bytes >= most_bytes && memchr(text->data, '\n', text->size_bytes))
            break;
    }
    if (!sp_buf_ok(text))
        return SP_FAIL(reterr, SP_NOMEM, "no memory to read the spool");
    if (text->size_bytes && !cut_to_lines(text, most_bytes))
        return SP_FAIL(reterr, SP_CORRUPT, "the spool has a line of over %u bytes", LINE_BYTES);
    return SP_OK;
}

sp_status sp_spool_advance(sp_spool *spool, size_t size_bytes, int64_t lines, sp_error *reterr)
{
    spool->read_bytes += (int64_t)size_bytes;
    spool->lines -= lines;
    if (spool->read_bytes < spool->size_bytes)
        return SP_OK;
    spool->read_bytes = spool->size_bytes = spool->lines = 0;
    if (ftruncate(spool->fd, 0) != 0)
        return fail(errno, "empty", reterr); /* they would come again after a restart: the same ids, so no harm */
    return fdatasync(spool->fd) == 0 ? SP_OK : fail(errno, "sync", reterr);
}
