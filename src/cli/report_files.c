/* SPDX-License-Identifier: Apache-2.0
 * See report_files.h. The command has a loop of its own and nobody to keep waiting, so files are read and written right here. */
#include "cli/report_files.h"

#include "base/clock.h"
#include "base/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEPT ".parts"
#define STAGING ".parts/new"
#define COPY_BYTES (256u * 1024)
/* Segments that are kept have less than 800 bytes a frame. */
#define PARTS_BYTES_MAX ((size_t)SP_LIMIT_VIDEO_FRAMES * 1024)
#define PART_BYTES_MAX (64u * 1024 * 1024)

typedef struct owed_reply {
    struct owed_reply *next;
    sp_parts_saved_fn *saved;
    sp_parts_loaded_fn *loaded;
    void *context;
    sp_error error;
    sp_buf bytes;
} owed_reply;

struct sp_report_dir {
    const char *path;
    int fd;
    sp_loop *loop;
    sp_timer timer;
    owed_reply *owed;
    const sp_analysis_run *run;
    sp_analyze_params params;
    char parts[96]; /* ".parts/FILE-PARAMS"; "" = not known yet */
};

/* --- the directory -------------------------------------------------------------------------------------------------- */

static sp_status make_path(const char *path, sp_error *reterr)
{
    char partial[4096];
    size_t length = strlen(path);
    if (length >= sizeof(partial))
        return SP_FAIL(reterr, SP_INVALID, "the name of the directory is too long");
    for (size_t i = 1; i <= length; i++) {
        if (path[i] && path[i] != '/')
            continue;
        (void)snprintf(partial, sizeof(partial), "%.*s", (int)i, path);
        if (mkdir(partial, 0755) && errno != EEXIST)
            return SP_FAIL_ERRNO(reterr, SP_INVALID, "cannot make the directory %s", partial);
    }
    return SP_OK;
}

static void reply_fire(sp_timer *timer, void *context)
{
    (void)timer;
    sp_report_dir_settle(context);
}

sp_status sp_report_dir_open(const char *path, sp_loop *loop, sp_report_dir **ret_dir, sp_error *reterr)
{
    sp_status s = make_path(path, reterr);
    if (s)
        return s;
    SP_CLEANUP(sp_report_dir_freep) sp_report_dir *dir = calloc(1, sizeof(*dir));
    if (!dir)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the report's directory");
    *dir = (sp_report_dir){ .path = path, .loop = loop, .fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
    dir->timer = (sp_timer){ .fire = reply_fire, .context = dir };
    if (dir->fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_INVALID, "cannot use %s as a directory", path);
    if (flock(dir->fd, LOCK_EX | LOCK_NB))
        return SP_FAIL(reterr, SP_CONFLICT, "another process is writing to %s; wait for it, or take another directory (-o)", path);
    if (mkdirat(dir->fd, KEPT, 0755) && errno != EEXIST)
        return SP_FAIL_ERRNO(reterr, SP_INVALID, "cannot write to %s", path);
    *ret_dir = SP_STEAL(dir);
    return SP_OK;
}

void sp_report_dir_free(sp_report_dir *dir)
{
    if (!dir)
        return;
    SP_ASSERT(!dir->owed);
    sp_loop_timer_clear(dir->loop, &dir->timer);
    if (dir->fd >= 0) {
        (void)unlinkat(dir->fd, KEPT, AT_REMOVEDIR); /* only when nothing is kept in it */
        (void)close(dir->fd);
    }
    free(dir);
}

int sp_report_dir_spool(const sp_report_dir *dir)
{
    int fd = openat(dir->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    fd = openat(dir->fd, KEPT "/spool", O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600); /* a file system without O_TMPFILE */
    if (fd >= 0)
        (void)unlinkat(dir->fd, KEPT "/spool", 0);
    return fd;
}

/* --- kept segments -------------------------------------------------------------------------------------------------- */

static void hex(const uint8_t *bytes, int count, char *ret_text)
{
    for (int i = 0; i < count; i++)
        (void)snprintf(ret_text + 2 * i, 3, "%02x", bytes[i]);
}

void sp_report_dir_set_run(sp_report_dir *dir, const sp_analysis_run *run, const sp_analyze_params *params)
{
    dir->run = run;
    dir->params = *params;
}

static bool name_parts(sp_report_dir *dir)
{
    const sp_video_index *index = sp_analysis_run_index(dir->run);
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char file[33], params[33];
    if (!index)
        return false;
    SHA256((const uint8_t *)&dir->params, sizeof(dir->params), digest);
    hex(index->sha256, 16, file);
    hex(digest, 16, params);
    (void)snprintf(dir->parts, sizeof(dir->parts), KEPT "/%s-%s", file, params);
    return true;
}

static bool read_all(int fd, uint8_t *bytes, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes;) {
        ssize_t n = pread(fd, bytes + at, size_bytes - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

static bool write_all(int fd, const uint8_t *bytes, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes;) {
        ssize_t n = write(fd, bytes + at, size_bytes - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

/* Are these whole segments of this video? */
static bool part_is_good(const sp_report_dir *dir, const uint8_t *bytes, size_t size_bytes)
{
    const sp_video_index *index = sp_analysis_run_index(dir->run);
    sp_error err = { 0 };
    uint64_t size = 0;
    for (size_t at = 0; at < size_bytes; at += size) {
        if (sp_segment_check(sp_view_make(bytes + at, size_bytes - at), index, &dir->params, &size, &err))
            return false;
    }
    return size_bytes > 0;
}

/* A file that is cut or damaged is as good as none: what it held is computed again. */
static void part_read(const sp_report_dir *dir, int parts_fd, const char *name, sp_buf *out)
{
    struct stat st;
    int fd = openat(parts_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    uint8_t *bytes = NULL;
    if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= PART_BYTES_MAX)
        bytes = malloc((size_t)st.st_size);
    if (bytes && read_all(fd, bytes, (size_t)st.st_size) && part_is_good(dir, bytes, (size_t)st.st_size))
        sp_buf_append(out, bytes, (size_t)st.st_size);
    free(bytes);
    if (fd >= 0)
        (void)close(fd);
}

static bool is_part(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && !strcmp(dot, ".part") && name[0] != '.';
}

static owed_reply *owe(sp_report_dir *dir)
{
    owed_reply *reply = calloc(1, sizeof(*reply)), **at = &dir->owed;
    SP_ASSERT(reply != NULL); /* a few hundred bytes; without them the run could never end */
    while (*at)
        at = &(*at)->next;
    *at = reply;
    SP_ASSERT(!sp_loop_timer_set(dir->loop, &dir->timer, sp_loop_now_ns(dir->loop), NULL));
    return reply;
}

void sp_report_dir_settle(sp_report_dir *dir)
{
    while (dir->owed) {
        owed_reply *reply = dir->owed;
        dir->owed = reply->next;
        if (reply->loaded)
            reply->loaded(sp_buf_view(&reply->bytes), reply->context);
        else
            reply->saved(reply->error.status, &reply->error, reply->context);
        sp_buf_done(&reply->bytes);
        free(reply);
    }
}

static void parts_load(void *context, sp_parts_loaded_fn *loaded, void *reply_context)
{
    sp_report_dir *dir = context;
    owed_reply *reply = owe(dir);
    reply->loaded = loaded;
    reply->context = reply_context;
    sp_buf_init(&reply->bytes, PARTS_BYTES_MAX);
    int fd = name_parts(dir) ? openat(dir->fd, dir->parts, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (is_part(entry->d_name))
            part_read(dir, dirfd(list), entry->d_name, &reply->bytes);
    }
    if (list)
        (void)closedir(list);
    else if (fd >= 0)
        (void)close(fd);
}

/* A file that appears whole: its name comes last. */
static sp_status write_whole(int dir_fd, const char *name, sp_view bytes, sp_error *reterr)
{
    char temporary[160];
    (void)snprintf(temporary, sizeof(temporary), "%s.tmp", name);
    int fd = openat(dir_fd, temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    bool written = fd >= 0 && write_all(fd, bytes.data, bytes.size_bytes);
    if (fd >= 0)
        written = close(fd) == 0 && written;
    if (written && !renameat(dir_fd, temporary, dir_fd, name))
        return SP_OK;
    sp_status s = SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot write %s", name);
    (void)unlinkat(dir_fd, temporary, 0);
    return s;
}

static void parts_save(void *context, uint32_t first_segment, sp_view segments, sp_parts_saved_fn *saved, void *reply_context)
{
    sp_report_dir *dir = context;
    owed_reply *reply = owe(dir);
    char name[128];
    reply->saved = saved;
    reply->context = reply_context;
    if (!*dir->parts && !name_parts(dir)) {
        (void)SP_FAIL(&reply->error, SP_INTERNAL, "the video is not known yet");
        return;
    }
    if (mkdirat(dir->fd, dir->parts, 0755) && errno != EEXIST) {
        (void)SP_FAIL_ERRNO(&reply->error, SP_INTERNAL, "cannot make %s/%s", dir->path, dir->parts);
        return;
    }
    (void)snprintf(name, sizeof(name), "%s/%06u.part", dir->parts, first_segment);
    (void)write_whole(dir->fd, name, segments, &reply->error);
}

sp_analysis_parts sp_report_dir_parts(sp_report_dir *dir)
{
    return (sp_analysis_parts){ .context = dir, .load = parts_load, .save = parts_save };
}

/* --- the report ------------------------------------------------------------------------------------------------------ */

/* Removes the files of a directory that is ours, and it. */
static void remove_directory(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
    if (!list) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(list));) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            (void)unlinkat(dirfd(list), entry->d_name, 0);
    }
    (void)closedir(list);
    (void)unlinkat(dir_fd, name, AT_REMOVEDIR);
}

static void forget_parts(sp_report_dir *dir)
{
    int fd = openat(dir->fd, KEPT, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (*entry->d_name != '.' && strspn(entry->d_name, "0123456789abcdef-") == strlen(entry->d_name))
            remove_directory(dirfd(list), entry->d_name);
    }
    if (list)
        (void)closedir(list);
    else if (fd >= 0)
        (void)close(fd);
}

#define TAR_BLOCK 512u

typedef struct tar_head {
    char name[100], mode[8], uid[8], gid[8], size[12], time[12], check[8], kind, link[100], magic[6], version[2], user[32], group[32],
        major[8], minor[8], prefix[155], rest[12];
} tar_head;
_Static_assert(sizeof(tar_head) == TAR_BLOCK, "a tar's head is one block");

static bool octal(const char *digits, size_t count, uint64_t *ret_number)
{
    uint64_t number = 0;
    size_t i = 0;
    for (; i < count && digits[i] >= '0' && digits[i] <= '7'; i++)
        number = number * 8 + (uint64_t)(digits[i] - '0');
    *ret_number = number;
    return i && (i == count || digits[i] == ' ' || !digits[i]);
}

/* A plain name, or one in a plain directory. Whoever wrote it is a worker that has read the video: nothing in it is trusted. */
static bool name_is_plain(const char *name)
{
    const char *slash = strchr(name, '/');
    size_t length = strlen(name);
    return length && length < 96 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-./") == length && *name != '.' && *name != '/' &&
           !strstr(name, "..") && (!slash || (!strchr(slash + 1, '/') && slash[1] && slash[1] != '.'));
}

static sp_status copy_out(int tar_fd, off_t at, uint64_t size_bytes, int dir_fd, const char *name, sp_error *reterr)
{
    static uint8_t bytes[COPY_BYTES];
    char *slash = strchr(name, '/');
    if (slash) {
        char directory[100];
        (void)snprintf(directory, sizeof(directory), "%.*s", (int)(slash - name), name);
        (void)mkdirat(dir_fd, directory, 0755);
    }
    int fd = openat(dir_fd, name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644);
    bool good = fd >= 0;
    while (good && size_bytes) {
        size_t want = (size_t)SP_MIN(size_bytes, (uint64_t)COPY_BYTES);
        ssize_t n = pread(tar_fd, bytes, want, at);
        good = n > 0 && write_all(fd, bytes, (size_t)n);
        at += n;
        size_bytes -= good ? (uint64_t)n : 0;
    }
    if (fd >= 0)
        good = close(fd) == 0 && good;
    return good ? SP_OK : SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot write %s", name);
}

static sp_status unpack(int tar_fd, uint64_t tar_bytes, int dir_fd, sp_error *reterr)
{
    bool report = false;
    for (uint64_t at = 0; at + TAR_BLOCK <= tar_bytes;) {
        tar_head head;
        uint64_t size = 0;
        char name[101] = "";
        if (pread(tar_fd, &head, sizeof(head), (off_t)at) != (ssize_t)sizeof(head))
            return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "reading the report");
        if (!head.name[0])
            break; /* its end */
        memcpy(name, head.name, sizeof(head.name));
        at += TAR_BLOCK;
        if (!octal(head.size, sizeof(head.size), &size) || size > tar_bytes - at || (head.kind && head.kind != '0') || !name_is_plain(name))
            return SP_FAIL(reterr, SP_CORRUPT, "the report that came back is none");
        sp_status s = copy_out(tar_fd, (off_t)at, size, dir_fd, name, reterr);
        if (s)
            return s;
        report |= !strcmp(name, "report.json");
        at += SP_ALIGN_UP(size, (uint64_t)TAR_BLOCK);
    }
    return report ? SP_OK : SP_FAIL(reterr, SP_CORRUPT, "the report that came back has no report.json");
}

/* Moves all but report.json and run.json out of the staging directory, then those two: whoever sees them sees all. */
static sp_status put_into_place(sp_report_dir *dir, int staging_fd, sp_error *reterr)
{
    SP_CLEANUP(sp_buf_done) sp_buf names = { 0 };
    sp_buf_init(&names, 64u * 1024);
    DIR *list = fdopendir(dup(staging_fd));
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (*entry->d_name != '.' && strcmp(entry->d_name, "report.json") && strcmp(entry->d_name, "run.json"))
            sp_buf_append(&names, entry->d_name, strlen(entry->d_name) + 1);
    }
    if (list)
        (void)closedir(list);
    sp_buf_append(&names, "report.json\0run.json", sizeof("report.json\0run.json"));
    if (!list || !sp_buf_ok(&names))
        return SP_FAIL(reterr, SP_INTERNAL, "the report has too many files");
    (void)unlinkat(dir->fd, "report.json", 0);
    (void)unlinkat(dir->fd, "overlay.mp4", 0);
    remove_directory(dir->fd, "key");
    for (size_t at = 0; at < names.size_bytes; at += strlen((const char *)names.data + at) + 1) {
        const char *name = (const char *)names.data + at;
        if (renameat(staging_fd, name, dir->fd, name))
            return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot put %s into %s", name, dir->path);
    }
    return SP_OK;
}

static void clear_staging(sp_report_dir *dir)
{
    remove_directory(dir->fd, STAGING "/key");
    remove_directory(dir->fd, STAGING);
}

sp_status sp_report_dir_finish(sp_report_dir *dir, int tar_fd, uint64_t tar_bytes, sp_view run_json, sp_error *reterr)
{
    clear_staging(dir); /* what a killed process left */
    int fd = -1;
    if (!mkdirat(dir->fd, STAGING, 0755) || errno == EEXIST)
        fd = openat(dir->fd, STAGING, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot make %s/%s", dir->path, STAGING);
    sp_status s = unpack(tar_fd, tar_bytes, fd, reterr);
    if (!s)
        s = write_whole(fd, "run.json", run_json, reterr);
    if (!s)
        s = put_into_place(dir, fd, reterr);
    (void)close(fd);
    clear_staging(dir);
    if (!s)
        forget_parts(dir);
    return s;
}
