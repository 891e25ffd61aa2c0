/* SPDX-License-Identifier: Apache-2.0
 * Two buffers: writers fill one under the lock while the thread empties the other without it. */
#include "base/sink.h"

#include "base/clock.h"
#include "base/view.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIPE_PIECE 4096   /* POLLOUT on a pipe means that so much goes without waiting */
#define CLOSE_NS SP_NS_PER_S

struct sp_sink {
    char *path; /* NULL = stderr */
    int fd;
    bool is_file; /* takes any piece at once */
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    char *filling;
    size_t used;
    int lines;
    bool sleeping, reopen, ending;
    int64_t end_ns;
    /* The thread's own: */
    char *writing;
    _Atomic uint64_t dropped;
};

static int open_path(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
}

static void look_at(sp_sink *sink)
{
    struct stat info;
    sink->is_file = fstat(sink->fd, &info) == 0 && S_ISREG(info.st_mode);
}

/* Until `size` bytes are out; false = not all of them. A full pipe is waited for, but not past the end of the process. */
static bool write_all(sp_sink *sink, const char *data, size_t size)
{
    while (size) {
        struct pollfd ready = { .fd = sink->fd, .events = POLLOUT };
        int polled = poll(&ready, 1, 200);
        if (polled < 0 && errno != EINTR)
            return false;
        if (polled <= 0) {
            (void)pthread_mutex_lock(&sink->lock);
            bool late = sink->ending && sp_clock_now_ns() > sink->end_ns;
            (void)pthread_mutex_unlock(&sink->lock);
            if (late)
                return false;
            continue;
        }
        ssize_t n = write(sink->fd, data, sink->is_file ? size : SP_MIN(size, (size_t)PIPE_PIECE));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

static int lines_in(const char *data, size_t size)
{
    int count = 0;
    for (size_t i = 0; i < size; i++)
        count += data[i] == '\n';
    return count;
}

static void *run(void *context)
{
    sp_sink *sink = context;
    (void)pthread_mutex_lock(&sink->lock);
    for (;;) {
        while (!sink->used && !sink->ending) {
            sink->sleeping = true;
            (void)pthread_cond_wait(&sink->wake, &sink->lock);
        }
        sink->sleeping = false;
        size_t size = sink->used;
        if (!size)
            break;
        char *full = sink->filling;
        sink->filling = sink->writing;
        sink->writing = full;
        sink->used = 0;
        bool reopen = sink->reopen;
        sink->reopen = false;
        (void)pthread_mutex_unlock(&sink->lock);
        int fd = reopen && sink->path ? open_path(sink->path) : -1;
        if (fd >= 0) {
            (void)close(sink->fd); /* all of it was written */
            sink->fd = fd;
            look_at(sink);
        }
        if (!write_all(sink, full, size))
            atomic_fetch_add(&sink->dropped, (uint64_t)lines_in(full, size));
        (void)pthread_mutex_lock(&sink->lock);
    }
    (void)pthread_mutex_unlock(&sink->lock);
    return NULL;
}

static void free_sink(sp_sink *sink)
{
    if (sink->fd >= 0)
        (void)close(sink->fd);
    free(sink->path);
    free(sink->filling);
    free(sink->writing);
    free(sink);
}

sp_status sp_sink_open(const char *path, sp_sink **ret_sink, sp_error *reterr)
{
    sp_sink *sink = calloc(1, sizeof(*sink));
    if (!sink)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a log");
    bool own = strcmp(path, "stderr") != 0;
    sink->path = own ? strdup(path) : NULL;
    sink->filling = malloc(SP_SINK_BYTES);
    sink->writing = malloc(SP_SINK_BYTES);
    sink->fd = own ? open_path(path) : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (sink->fd < 0) {
        sp_status s = SP_FAIL_ERRNO(reterr, SP_INVALID, "cannot write %s", path);
        free_sink(sink);
        return s;
    }
    look_at(sink);
    (void)pthread_mutex_init(&sink->lock, NULL); /* default attributes: neither can fail on Linux */
    (void)pthread_cond_init(&sink->wake, NULL);
    if ((own && !sink->path) || !sink->filling || !sink->writing || pthread_create(&sink->thread, NULL, run, sink)) {
        free_sink(sink);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the log %s", path);
    }
    *ret_sink = sink;
    return SP_OK;
}

void sp_sink_write(sp_sink *sink, const void *line, size_t size_bytes)
{
    (void)pthread_mutex_lock(&sink->lock);
    bool fits = size_bytes <= SP_SINK_BYTES - sink->used;
    if (fits) {
        memcpy(sink->filling + sink->used, line, size_bytes);
        sink->used += size_bytes;
    }
    bool asleep = sink->sleeping;
    sink->sleeping = false; /* it is woken once */
    (void)pthread_mutex_unlock(&sink->lock);
    if (asleep)
        (void)pthread_cond_signal(&sink->wake);
    if (!fits)
        atomic_fetch_add(&sink->dropped, 1);
}

void sp_sink_reopen(sp_sink *sink)
{
    (void)pthread_mutex_lock(&sink->lock);
    sink->reopen = true;
    (void)pthread_mutex_unlock(&sink->lock);
}

uint64_t sp_sink_dropped_count(const sp_sink *sink)
{
    return atomic_load(&((sp_sink *)(uintptr_t)sink)->dropped);
}

void sp_sink_close(sp_sink *sink)
{
    if (!sink)
        return;
    (void)pthread_mutex_lock(&sink->lock);
    sink->ending = true;
    sink->end_ns = sp_clock_now_ns() + CLOSE_NS;
    (void)pthread_mutex_unlock(&sink->lock);
    (void)pthread_cond_signal(&sink->wake);
    (void)pthread_join(sink->thread, NULL);
    (void)pthread_mutex_destroy(&sink->lock);
    (void)pthread_cond_destroy(&sink->wake);
    free_sink(sink);
}
