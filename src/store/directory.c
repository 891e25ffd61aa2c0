/* SPDX-License-Identifier: Apache-2.0
 * The data directory: made when it is missing, held by one process at a time. */
#include "store/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int sp_store_directory_sync(const char *path)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0 ? 0 : errno;
}

/* The name of what was made in `path` up to `end`, made durable: a job that is on disk in a directory that is not is lost. */
static int sync_above(const char *path, size_t end)
{
    char above[1024];
    while (end > 0 && path[end - 1] != '/')
        end--;
    (void)snprintf(above, sizeof(above), "%.*s", (int)end, path);
    return sp_store_directory_sync(end ? above : ".");
}

sp_status sp_store_directory_make(const char *path, sp_error *reterr)
{
    char part[1024];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(part) - 64)
        return SP_FAIL(reterr, SP_INVALID, "the data directory's name is %s", length ? "too long" : "empty");
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i])
            continue;
        (void)snprintf(part, sizeof(part), "%.*s", (int)i, path);
        int e = mkdir(part, 0700) == 0 ? sync_above(part, strlen(part)) : errno;
        if (e && e != EEXIST && e != EROFS && e != EACCES)
            return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "mkdir", e, "cannot make the data directory %s: %s", part,
                                strerror(e));
    }
    if (access(path, R_OK | W_OK | X_OK) != 0)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "access", errno,
                            "cannot write to the data directory %s: %s (--data-dir names another)", path, strerror(errno));
    return SP_OK;
}

/* Who holds it, for the message; "another process" when it did not say. */
static void read_holder(int fd, char *ret_text, size_t size_bytes)
{
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    (void)snprintf(ret_text, size_bytes, "%s%s", text[0] ? "process " : "another process", text);
}

sp_status sp_store_directory_lock(const char *data_dir, const char *name, int *ret_fd, sp_error *reterr)
{
    char path[1024], holder[64];
    (void)snprintf(path, sizeof(path), "%.*s/%s", (int)sizeof(path) - 64, data_dir, name);
    SP_CLEANUP(sp_fd_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "open", errno, "cannot open %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "flock", errno, "cannot lock %s: %s", path, strerror(errno));
        read_holder(fd, holder, sizeof(holder));
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "data_dir_in_use",
                            "%s uses the data directory %.120s; give this one its own (--data-dir), or share jobs through Redis",
                            holder, data_dir);
    }
    char pid[32];
    int length = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)length, 0) < 0) { /* only the message of another would miss it */ }
    *ret_fd = fd;
    fd = -1;
    return SP_OK;
}

sp_status sp_store_directory_file(const char *data_dir, char *ret_name, int *ret_fd, sp_error *reterr)
{
    char path[1024];
    sp_status s = sp_store_directory_make(data_dir, reterr);
    if (s)
        return s;
    (void)snprintf(path, sizeof(path), "%.900s/bodies", data_dir);
    if (mkdir(path, 0700) == 0)
        (void)sp_store_directory_sync(data_dir); /* what is renamed into it is synced there, once it matters */
    (void)snprintf(path, sizeof(path), "%.900s/bodies/.up-XXXXXX", data_dir);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return sp_error_set(reterr, errno == ENOMEM ? SP_NOMEM : SP_UNAVAILABLE,
                            errno == ENOSPC || errno == EDQUOT ? "disk_full" : "", "open", errno, __FILE__, __LINE__,
                            "cannot make a file under %.200s: %s", data_dir, strerror(errno));
    if (ret_name)
        (void)snprintf(ret_name, 64, "%s", strrchr(path, '/') + 1);
    else
        (void)unlink(path);
    *ret_fd = fd;
    return SP_OK;
}
