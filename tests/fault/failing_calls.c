/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into the server by tests/fault/test_failing_calls.py: makes the Nth call of one class fail, in the gateway
 * process only (workers are other processes with faults of their own). The test arms it through a small file that both
 * map, so one server lives through hundreds of failures.
 *
 *   class 1  malloc, calloc, realloc (NULL)            class 2  write, pwrite, writev, fsync, fdatasync, rename (ENOSPC)
 *   class 3  mmap, memfd_create, ftruncate (ENOMEM)    class 4  send, sendto, sendmsg (EIO) */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SHOWN __attribute__((visibility("default")))

typedef struct control {
    _Atomic int64_t class;     /* 0 = nothing fails */
    _Atomic int64_t countdown; /* 1 = the next call */
    _Atomic int64_t failed;    /* how many did */
} control;

enum { ALLOCATION = 1, WRITING, MAPPING, SENDING };

static control *page;

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        _exit(99);
    return found;
}

static int is_gateway(void)
{
    char line[4096] = { 0 };
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, sizeof(line) - 1) : -1;
    if (fd >= 0)
        close(fd);
    const char *second = n > 0 ? memchr(line, 0, (size_t)n) : NULL;
    return second && strcmp(second + 1, "serve") == 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SPILLWAY_FAILING_CALLS");
    int fd = path && is_gateway() ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *(*real_mmap)(void *, size_t, int, int, int, off_t) = next("mmap");
    void *memory = real_mmap(NULL, sizeof(control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory != MAP_FAILED)
        page = memory;
}

static int fails(int class)
{
    if (!page || atomic_load_explicit(&page->class, memory_order_relaxed) != class)
        return 0;
    if (atomic_fetch_sub(&page->countdown, 1) != 1)
        return 0;
    atomic_fetch_add(&page->failed, 1);
    return 1;
}

/* dlsym itself may allocate while it looks for calloc: glibc's own names need no look-up. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

SHOWN void *malloc(size_t size)
{
    if (fails(ALLOCATION)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_malloc(size);
}

SHOWN void *calloc(size_t count, size_t size)
{
    if (fails(ALLOCATION)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_calloc(count, size);
}

SHOWN void *realloc(void *memory, size_t size)
{
    if (fails(ALLOCATION)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(memory, size);
}

/* One line a call: the real one is looked up once. File offsets are 64 bits wide here, so these are pwrite64 and so on to
 * the linker. */
#define WRAP(result, name, class, error, parameters, arguments)  \
    SHOWN result name parameters                                 \
    {                                                            \
        static result(*real) parameters;                         \
        if (!real)                                               \
            real = (result(*) parameters)next(#name);            \
        if (fails(class)) {                                      \
            errno = error;                                       \
            return (result)-1;                                   \
        }                                                        \
        return real arguments;                                   \
    }

WRAP(ssize_t, write, WRITING, ENOSPC, (int fd, const void *data, size_t n), (fd, data, n))
WRAP(ssize_t, pwrite, WRITING, ENOSPC, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at))
WRAP(ssize_t, writev, WRITING, ENOSPC, (int fd, const struct iovec *parts, int n), (fd, parts, n))
WRAP(int, fsync, WRITING, ENOSPC, (int fd), (fd))
WRAP(int, fdatasync, WRITING, ENOSPC, (int fd), (fd))
WRAP(int, rename, WRITING, ENOSPC, (const char *from, const char *to), (from, to))
WRAP(void *, mmap, MAPPING, ENOMEM, (void *at, size_t n, int prot, int flags, int fd, off_t offset),
     (at, n, prot, flags, fd, offset))
WRAP(int, memfd_create, MAPPING, ENOMEM, (const char *name, unsigned flags), (name, flags))
WRAP(int, ftruncate, MAPPING, ENOMEM, (int fd, off_t n), (fd, n))
WRAP(ssize_t, send, SENDING, EIO, (int fd, const void *data, size_t n, int flags), (fd, data, n, flags))
WRAP(ssize_t, sendto, SENDING, EIO,
     (int fd, const void *data, size_t n, int flags, const struct sockaddr *to, socklen_t to_n), (fd, data, n, flags, to, to_n))
WRAP(ssize_t, sendmsg, SENDING, EIO, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
