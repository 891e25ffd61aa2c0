/* SPDX-License-Identifier: Apache-2.0
 * Body files: write beside, fsync, rename, fsync the directory. */
#include "store/bodies.h"

#include "base/fault.h"
#include "store/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMES_BYTES (1024u * 1024) /* of one group: 256 works, each with one name or a sweep's erased ones */
static const char scratch[] = ".new"; /* one thread writes, so one name is enough */

/* Those of a process that was killed in mid-write. */
static void remove_unfinished(sp_bodies *bodies)
{
    int fd = openat(bodies->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        sp_fd_closep(&fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            (void)unlinkat(bodies->dir_fd, entry->d_name, 0);
    }
    (void)closedir(dir);
}

sp_status sp_bodies_open(sp_bodies *bodies, const char *data_dir, sp_error *reterr)
{
    char path[1024];
    *bodies = (sp_bodies){ .dir_fd = -1 };
    sp_buf_init(&bodies->fresh, NAMES_BYTES);
    sp_buf_init(&bodies->doomed, NAMES_BYTES);
    (void)snprintf(path, sizeof(path), "%s/bodies", data_dir);
    int e = mkdir(path, 0700) == 0 ? sp_store_directory_sync(data_dir) : errno;
    if (e && e != EEXIST)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "mkdir", e, "cannot make %s: %s", path, strerror(e));
    bodies->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (bodies->dir_fd < 0)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "open", errno, "cannot open %s: %s", path, strerror(errno));
    remove_unfinished(bodies);
    return SP_OK;
}

void sp_bodies_close(sp_bodies *bodies)
{
    sp_fd_closep(&bodies->dir_fd);
    sp_buf_done(&bodies->fresh);
    sp_buf_done(&bodies->doomed);
}

bool sp_body_name_is_safe(const char *name)
{
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
    return length > 0 && !name[length];
}

/* 0, or an errno. */
static int faulted(void)
{
    return SP_FAULT("store.write") != SP_FAULT_NONE ? ENOSPC : 0;
}

static int write_all(int fd, sp_view body)
{
    for (size_t done = 0; done < body.size_bytes;) {
        int e = faulted();
        ssize_t n = e ? -1 : write(fd, body.data + done, body.size_bytes - done);
        if (n < 0 && !e && errno == EINTR)
            continue;
        if (n < 0)
            return e ? e : errno;
        done += (size_t)n;
    }
    return 0;
}

static int sync_fd(int fd)
{
    int e = faulted();
    return e ? e : fsync(fd) == 0 ? 0 : errno;
}

static int write_file(sp_bodies *bodies, const char *name, sp_view body)
{
    int fd = openat(bodies->dir_fd, scratch, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    int e = write_all(fd, body);
    if (!e)
        e = sync_fd(fd);
    if (close(fd) != 0 && !e)
        e = errno;
    if (!e)
        e = faulted();
    if (!e && renameat(bodies->dir_fd, scratch, bodies->dir_fd, name) != 0)
        e = errno;
    if (e)
        (void)unlinkat(bodies->dir_fd, scratch, 0); /* what is left is truncated by the next one */
    return e;
}

static sp_status fail(int e, const char *what, sp_error *reterr)
{
    bool full = e == ENOSPC || e == EDQUOT;
    return sp_error_set(reterr, e == ENOMEM ? SP_NOMEM : SP_UNAVAILABLE, full ? "disk_full" : "", "write", e, __FILE__, __LINE__,
                        "cannot %s: %s%s", what, strerror(e), full ? "; free some space under the data directory" : "");
}

static sp_status note_fresh(sp_bodies *bodies, const char *name, sp_error *reterr)
{
    sp_buf_append(&bodies->fresh, name, strlen(name) + 1);
    return sp_buf_ok(&bodies->fresh) ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory to note a body file");
}

sp_status sp_bodies_write(sp_bodies *bodies, const char *name, sp_view body, sp_error *reterr)
{
    sp_status s = note_fresh(bodies, name, reterr); /* first: what is written must be known to be undone */
    if (s)
        return s;
    int e = write_file(bodies, name, body);
    if (e)
        return fail(e, "write a job's body to disk", reterr);
    bodies->dirty = true;
    return SP_OK;
}

static sp_status give_name(sp_bodies *bodies, const char *file, const char *name, sp_error *reterr)
{
    sp_status s = note_fresh(bodies, name, reterr);
    int e = s ? 0 : faulted();
    if (!s && !e && renameat(bodies->dir_fd, file, bodies->dir_fd, name) != 0)
        e = errno;
    if (e)
        s = fail(e, "name a job's file", reterr);
    bodies->dirty = bodies->dirty || !s;
    return s;
}

sp_status sp_bodies_adopt(sp_bodies *bodies, const char *file, const char *name, sp_error *reterr)
{
    return give_name(bodies, file, name, reterr);
}

static int grow_file(sp_bodies *bodies, const char *path, uint64_t offset_bytes, sp_view piece, bool last)
{
    int fd = openat(bodies->dir_fd, path, O_WRONLY | O_CREAT | O_CLOEXEC | (offset_bytes ? 0 : O_TRUNC), 0600);
    if (fd < 0)
        return errno;
    int e = lseek(fd, (off_t)offset_bytes, SEEK_SET) < 0 ? errno : write_all(fd, piece);
    if (!e && last)
        e = sync_fd(fd);
    if (close(fd) != 0 && !e)
        e = errno;
    return e;
}

sp_status sp_bodies_grow(sp_bodies *bodies, const char *name, uint64_t offset_bytes, sp_view piece, bool last, sp_error *reterr)
{
    char path[80];
    (void)snprintf(path, sizeof(path), ".put-%s", name);
    int e = grow_file(bodies, path, offset_bytes, piece, last);
    sp_status s = e ? fail(e, "write a job's report to disk", reterr) : SP_OK;
    if (!s && last)
        s = give_name(bodies, path, name, reterr);
    if (s)
        (void)unlinkat(bodies->dir_fd, path, 0);
    return s;
}

bool sp_bodies_there(const sp_bodies *bodies, const char *name)
{
    return faccessat(bodies->dir_fd, name, F_OK, 0) == 0;
}

sp_status sp_bodies_read(sp_bodies *bodies, const char *name, int *ret_fd, sp_error *reterr)
{
    int fd = openat(bodies->dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return SP_FAIL(reterr, SP_NOT_FOUND, "the body of job %s is gone", name);
    if (fd < 0)
        return fail(errno, "open a job's body", reterr);
    *ret_fd = fd;
    return SP_OK;
}

void sp_bodies_remove(sp_bodies *bodies, const char *name)
{
    sp_buf_append(&bodies->doomed, name, strlen(name) + 1); /* one that does not fit is an orphan: the next start sweeps it */
}

sp_status sp_bodies_sync(sp_bodies *bodies, sp_error *reterr)
{
    if (!bodies->dirty)
        return SP_OK;
    int e = sync_fd(bodies->dir_fd);
    if (e)
        return fail(e, "sync the directory of bodies", reterr);
    bodies->dirty = false;
    return SP_OK;
}

static void remove_from(sp_bodies *bodies, const sp_buf *names, size_t at)
{
    for (; at < names->size_bytes; at += strlen((const char *)names->data + at) + 1)
        (void)unlinkat(bodies->dir_fd, (const char *)names->data + at, 0); /* never written, or gone already */
}

sp_bodies_mark sp_bodies_mark_get(const sp_bodies *bodies)
{
    return (sp_bodies_mark){ bodies->fresh.size_bytes, bodies->doomed.size_bytes };
}

void sp_bodies_undo(sp_bodies *bodies, sp_bodies_mark mark)
{
    remove_from(bodies, &bodies->fresh, mark.fresh_bytes);
    bodies->fresh.size_bytes = mark.fresh_bytes;
    bodies->doomed.size_bytes = mark.doomed_bytes;
    bodies->fresh.failed = bodies->doomed.failed = false;
}

void sp_bodies_settle(sp_bodies *bodies, bool committed)
{
    remove_from(bodies, committed ? &bodies->doomed : &bodies->fresh, 0);
    sp_buf_clear(&bodies->doomed);
    sp_buf_clear(&bodies->fresh);
}

int sp_bodies_sweep(sp_bodies *bodies, bool (*wanted)(const char *name, void *context), void *context)
{
    int fd = openat(bodies->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), removed = 0;
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        sp_fd_closep(&fd);
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!sp_body_name_is_safe(entry->d_name) || wanted(entry->d_name, context))
            continue;
        removed += unlinkat(bodies->dir_fd, entry->d_name, 0) == 0;
    }
    (void)closedir(dir);
    return removed;
}
