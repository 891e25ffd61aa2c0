/* SPDX-License-Identifier: Apache-2.0
 * One interpreter process: started, spoken with, ended. */
#include "py.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PY_BUILD_INTERPRETER
#define PY_BUILD_INTERPRETER ""
#endif

#define FIRST_OF_CHILD 3 /* its descriptors: packets, our memory, its memory, life */
#define HIGH_FD 16       /* ours stay above them, so that dup2 in the child overwrites none */

extern char **environ;

static void close_fd(int *fd)
{
    if (*fd > 0)
        (void)close(*fd); /* nothing was written through it */
    *fd = 0;
}

static int raise_fd(int fd)
{
    if (fd < 0 || fd >= HIGH_FD)
        return fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);
    (void)close(fd);
    return high;
}

static void memory_done(py_memory *memory)
{
    if (memory->data)
        (void)munmap(memory->data, (size_t)memory->bytes);
    close_fd(&memory->fd);
    *memory = (py_memory){ 0 };
}

static bool memory_map(py_memory *memory, uint64_t bytes)
{
    void *fresh = memory->data ? mremap(memory->data, (size_t)memory->bytes, (size_t)bytes, MREMAP_MAYMOVE)
                               : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0);
    if (fresh == MAP_FAILED)
        return false;
    memory->data = fresh;
    memory->bytes = bytes;
    return true;
}

static bool memory_init(py_memory *memory, const char *name)
{
    memory->fd = raise_fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    return memory->fd >= 0 && ftruncate(memory->fd, 65536) == 0 &&
           fcntl(memory->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) == 0 && memory_map(memory, 65536);
}

/* host/spillway_python_host.py beside this plug-in. */
static bool host_path(char *path, size_t path_size)
{
    Dl_info self;
    if (!dladdr((void *)&close_fd, &self) || !self.dli_fname || !strchr(self.dli_fname, '/'))
        return false;
    int dir_length = (int)(strrchr(self.dli_fname, '/') - self.dli_fname);
    (void)snprintf(path, path_size, "%.*s/host/spillway_python_host.py", dir_length, self.dli_fname);
    return access(path, R_OK) == 0;
}

static int prepare_spawn(posix_spawn_file_actions_t *actions, posix_spawnattr_t *attr, const int fds[4])
{
    sigset_t none;
    (void)sigemptyset(&none);
    int failed = posix_spawnattr_setsigmask(attr, &none);
    failed = failed ? failed : posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK);
    failed = failed ? failed : posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    failed = failed ? failed : posix_spawn_file_actions_adddup2(actions, 2, 1); /* its prints go where our log goes */
    for (int i = 0; i < 4; i++)
        failed = failed ? failed : posix_spawn_file_actions_adddup2(actions, fds[i], FIRST_OF_CHILD + i);
    return failed;
}

/* In a tree that was set up the one of its virtual environment, which has numpy; elsewhere the system's. */
static const char *interpreter_path(void)
{
    const char *chosen = getenv("SPILLWAY_PYTHON");
    if (chosen && *chosen)
        return chosen;
    return *PY_BUILD_INTERPRETER && access(PY_BUILD_INTERPRETER, X_OK) == 0 ? PY_BUILD_INTERPRETER : "python3";
}

static sp_engine_status spawn(py_child *child, const int fds[4], sp_engine_error *reterr)
{
    char script[1024];
    const char *interpreter = interpreter_path();
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    if (!host_path(script, sizeof(script)))
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_UNSUPPORTED, "host/spillway_python_host.py is not beside the plug-in");
    char *const argv[] = { (char *)interpreter, script, NULL };
    if (posix_spawn_file_actions_init(&actions) != 0 || posix_spawnattr_init(&attr) != 0)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory to start a process"); /* never, in glibc */
    int failed = prepare_spawn(&actions, &attr, fds);
    if (!failed)
        failed = posix_spawnp(&child->pid, interpreter, &actions, &attr, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attr);
    if (!failed)
        return SP_ENGINE_OK;
    child->pid = 0;
    return plug_fail(reterr, PY_ORIGIN, failed == ENOMEM || failed == EAGAIN ? SP_ENGINE_NOMEM : SP_ENGINE_UNSUPPORTED,
                     "%.100s does not start: %s; SPILLWAY_PYTHON names an interpreter", interpreter, strerror(failed));
}

sp_engine_status py_child_start(py_child *child, sp_engine_error *reterr)
{
    int pair[2] = { -1, -1 }, life[2] = { -1, -1 };
    *child = (py_child){ 0 };
    bool ready = memory_init(&child->to, "spillway-python-to") && memory_init(&child->from, "spillway-python-from") &&
                 socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0 &&
                 socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, life) == 0;
    for (int i = 0; i < 2; i++) {
        pair[i] = raise_fd(pair[i]);
        life[i] = raise_fd(life[i]);
        ready = ready && pair[i] >= 0 && life[i] >= 0;
    }
    child->socket = pair[0] < 0 ? 0 : pair[0];
    child->life = life[0] < 0 ? 0 : life[0];
    const int fds[4] = { pair[1], child->to.fd, child->from.fd, life[1] };
    sp_engine_status s = ready ? spawn(child, fds, reterr)
                               : plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no descriptors for a process: %s",
                                           strerror(errno));
    for (int i = 1; i >= 0 && pair[1] > 0; i--)
        close_fd(i ? &pair[1] : &life[1]);
    if (!s) {
        child->pidfd = raise_fd((int)syscall(SYS_pidfd_open, child->pid, 0));
        if (child->pidfd < 0)
            s = plug_fail(reterr, PY_ORIGIN, SP_ENGINE_UNSUPPORTED, "no pidfd: %s", strerror(errno));
    }
    if (s)
        py_child_kill(child);
    return s;
}

void py_child_kill(py_child *child)
{
    if (child->pid > 0) {
        siginfo_t info;
        (void)kill(child->pid, SIGKILL); /* not reaped yet, so the number is its own */
        while (waitid(P_PID, (id_t)child->pid, &info, WEXITED) != 0 && errno == EINTR)
            continue;
    }
    close_fd(&child->pidfd);
    close_fd(&child->socket);
    close_fd(&child->life);
    memory_done(&child->to);
    memory_done(&child->from);
    child->pid = 0;
}

void py_child_end(py_child *child)
{
    const py_packet bye = { .kind = PY_BYE };
    struct pollfd ended = { .fd = child->pidfd, .events = POLLIN };
    if (child->pid > 0 && !py_child_send(child, &bye, NULL))
        while (poll(&ended, 1, PY_FINALIZE_MS) < 0 && errno == EINTR)
            continue;
    py_child_kill(child);
}

sp_engine_status py_child_room(py_child *child, uint64_t bytes, sp_engine_error *reterr)
{
    if (bytes <= child->to.bytes)
        return SP_ENGINE_OK;
    if (bytes > PY_MEMORY_BYTES)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_TOO_LARGE, "the inputs have %llu bytes; at most %llu are taken",
                         (unsigned long long)bytes, PY_MEMORY_BYTES);
    uint64_t rounded = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    if (ftruncate(child->to.fd, (off_t)rounded) != 0 || !memory_map(&child->to, rounded))
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for %llu bytes of inputs: %s",
                         (unsigned long long)bytes, strerror(errno));
    return SP_ENGINE_OK;
}

static size_t packet_bytes(uint32_t tensor_count)
{
    return offsetof(py_packet, tensors) + tensor_count * sizeof(py_tensor);
}

/* Waits for the end of a child that has closed its socket, which comes at once, and tells it in words. */
static sp_engine_status tell_death(py_child *child, sp_engine_error *reterr)
{
    siginfo_t info = { 0 };
    char how[64];
    struct pollfd ended = { .fd = child->pidfd, .events = POLLIN };
    (void)poll(&ended, 1, 1000);
    if (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || !info.si_pid)
        (void)snprintf(how, sizeof(how), "closed its socket");
    else if (info.si_code == CLD_EXITED)
        (void)snprintf(how, sizeof(how), "ended with exit code %d", info.si_status);
    else
        (void)snprintf(how, sizeof(how), "was killed by signal %d (%.30s)", info.si_status, strsignal(info.si_status));
    return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "the model's process %s", how);
}

sp_engine_status py_child_send(py_child *child, const py_packet *packet, sp_engine_error *reterr)
{
    size_t size = packet_bytes(packet->input_count + packet->output_count);
    ssize_t sent;
    do
        sent = send(child->socket, packet, size, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)size ? SP_ENGINE_OK : tell_death(child, reterr);
}

static bool inside(const py_memory *memory, uint64_t offset, uint64_t bytes)
{
    return bytes <= memory->bytes && offset <= memory->bytes - bytes;
}

/* What a child points at must lie in its memory, which may have grown. */
static bool packet_fits(py_child *child, const py_packet *packet, size_t size)
{
    struct stat info;
    if (size < packet_bytes(0) || packet->input_count > SP_ENGINE_MAX_PORTS ||
        packet->output_count > SP_ENGINE_MAX_PORTS || size != packet_bytes(packet->input_count + packet->output_count))
        return false;
    if (fstat(child->from.fd, &info) != 0 || (uint64_t)info.st_size > PY_MEMORY_BYTES)
        return false;
    if ((uint64_t)info.st_size > child->from.bytes && !memory_map(&child->from, (uint64_t)info.st_size))
        return false;
    bool fits = inside(&child->from, 0, packet->bytes);
    for (uint32_t i = 0; i < packet->input_count + packet->output_count && fits; i++) {
        const py_tensor *t = &packet->tensors[i];
        fits = inside(&child->from, t->offset, t->bytes) && t->rank >= SP_ENGINE_ABSENT && t->rank <= SP_ENGINE_MAX_RANK;
    }
    return fits;
}

static sp_engine_status tell_failure(const py_child *child, const py_packet *packet, sp_engine_error *reterr)
{
    static const sp_engine_status allowed[] = { SP_ENGINE_INVALID, SP_ENGINE_TOO_LARGE, SP_ENGINE_NOT_FOUND,
                                                SP_ENGINE_UNSUPPORTED, SP_ENGINE_NOMEM, SP_ENGINE_CORRUPT };
    sp_engine_status status = SP_ENGINE_INTERNAL;
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
        if ((sp_engine_status)packet->status == allowed[i])
            status = allowed[i];
    return plug_fail(reterr, PY_ORIGIN, status, "%.*s", (int)(packet->bytes < 240 ? packet->bytes : 240),
                     (const char *)child->from.data);
}

sp_engine_status py_child_receive(py_child *child, py_packet *ret_packet, sp_engine_error *reterr)
{
    /* The socket may stay open in a process that the model's code has forked; the pidfd tells the child's own end. */
    struct pollfd both[2] = { { .fd = child->socket, .events = POLLIN }, { .fd = child->pidfd, .events = POLLIN } };
    ssize_t got = -1;
    while (got < 0) {
        if (poll(both, 2, -1) < 0 && errno != EINTR)
            return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "poll: %s", strerror(errno));
        got = recv(child->socket, ret_packet, sizeof(*ret_packet), MSG_DONTWAIT);
        if (got < 0 && errno != EINTR && (errno != EAGAIN || both[1].revents))
            got = 0;
    }
    if (got == 0)
        return tell_death(child, reterr);
    if (!packet_fits(child, ret_packet, (size_t)got))
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "the model's process sent a packet that does not fit");
    return ret_packet->kind == PY_FAILED ? tell_failure(child, ret_packet, reterr) : SP_ENGINE_OK;
}

uint64_t py_child_resident(const py_child *child)
{
    char path[64];
    unsigned long long pages = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)child->pid);
    FILE *file = child->pid > 0 ? fopen(path, "re") : NULL;
    if (!file)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    (void)fclose(file); /* only read from */
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
