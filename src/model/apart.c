/* SPDX-License-Identifier: Apache-2.0
 * `spillway inspect` as a child: foreign files are parsed in a process that may crash, hang or be killed without anybody
 * noticing but the one who asked. See card.h. */
#include "model/card.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_BYTES (8u * SP_LIMIT_MODEL_CONFIG_BYTES)

extern char **environ;

static sp_status spawn(const char *executable, char *const argv[], int *ret_fd, pid_t *ret_pid, sp_error *reterr)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC))
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "no pipe for `spillway inspect`");
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    int failed = posix_spawn_file_actions_init(&actions);
    if (!failed) {
        failed = posix_spawnattr_init(&attributes);
        if (!failed) {
            /* The gateway's threads block what its loop reads from a signalfd. */
            (void)posix_spawnattr_setsigmask(&attributes, &none);
            (void)posix_spawnattr_setsigdefault(&attributes, &all);
            (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
            failed = posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
            if (!failed)
                failed = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
            if (!failed)
                failed = posix_spawn(ret_pid, executable, &actions, &attributes, argv, environ);
            (void)posix_spawnattr_destroy(&attributes);
        }
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    (void)close(fds[1]);
    if (failed) {
        (void)close(fds[0]);
        errno = failed;
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot start %s", executable);
    }
    *ret_fd = fds[0];
    return SP_OK;
}

#define STOP_LOOK_MS 100 /* how often *stop is looked at */

/* Reads to the end or the deadline. False: late, or stopped. */
static bool read_answer(int fd, int64_t deadline_ns, const _Atomic bool *stop, sp_buf *out)
{
    char chunk[16 * 1024];

    for (;;) {
        int64_t left_ms = (deadline_ns - sp_clock_now_ns()) / SP_NS_PER_MS;
        struct pollfd watched = { .fd = fd, .events = POLLIN };
        if (left_ms <= 0 || (stop && *stop))
            return false;
        int ready = poll(&watched, 1, (int)SP_MIN(left_ms + 1, (int64_t)(stop ? STOP_LOOK_MS : 60000)));
        if (ready < 0 && errno != EINTR)
            return false;
        if (ready <= 0)
            continue;
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n == 0 || (n < 0 && errno != EINTR))
            return true;
        if (n > 0)
            sp_buf_append(out, chunk, (size_t)n); /* a failure is remembered */
    }
}

/* It has closed its output: it ends now, or is made to. */
static int reap(pid_t pid, bool late)
{
    int state = 0;

    for (int i = 0; !late && i < 200; i++) {
        if (waitpid(pid, &state, WNOHANG) == pid)
            return state;
        (void)poll(NULL, 0, 10);
    }
    (void)kill(pid, SIGKILL);
    while (waitpid(pid, &state, 0) < 0 && errno == EINTR)
        ;
    return state;
}

/* {"error": "...", "status": 1, "code": "..."} */
static sp_status told(sp_view answer, const char *name, sp_error *reterr)
{
    json_t *root = answer.size_bytes ? json_loadb((const char *)answer.data, answer.size_bytes, 0, NULL) : NULL;
    const char *message = json_string_value(json_object_get(root, "error")), *code = json_string_value(json_object_get(root, "code"));
    json_int_t number = json_integer_value(json_object_get(root, "status"));
    sp_status status;

    if (!message || number <= SP_OK || number >= SP_STATUS_COUNT)
        status = SP_FAIL_CODE(reterr, SP_CORRUPT, "crashed_inspect", "the process that looked into model '%s' said nothing of use", name);
    else
        status = SP_FAIL_CODE(reterr, (sp_status)number, code ? code : "", "%s", message);
    json_decref(root);
    return status;
}

sp_status sp_model_inspect_apart(const char *executable, const char *repository, const char *name, const char *override,
                                 int timeout_ms, sp_model_card **ret_card, sp_error *reterr)
{
    return sp_model_inspect_until(executable, repository, name, override, timeout_ms, NULL, ret_card, reterr);
}

sp_status sp_model_inspect_until(const char *executable, const char *repository, const char *name, const char *override,
                                 int timeout_ms, const _Atomic bool *stop, sp_model_card **ret_card, sp_error *reterr)
{
    char command[] = "spillway", word[] = "inspect", r[] = "--repository", m[] = "--model", c[] = "--config";
    char *argv[] = { command, word, r, (char *)repository, m, (char *)name, *override ? c : NULL, (char *)override, NULL };
    int64_t deadline_ns = sp_clock_now_ns() + timeout_ms * SP_NS_PER_MS;
    pid_t pid;
    int fd = -1;
    sp_buf answer;
    sp_status status = spawn(executable ? executable : "/proc/self/exe", argv, &fd, &pid, reterr);

    if (status)
        return status;
    sp_buf_init(&answer, ANSWER_BYTES);
    bool late = !read_answer(fd, deadline_ns, stop, &answer);
    (void)close(fd);
    int state = reap(pid, late);
    if (late && stop && *stop)
        status = SP_FAIL(reterr, SP_CANCELLED, "the server ends");
    else if (late)
        status = SP_FAIL_CODE(reterr, SP_TIMEOUT, "slow_inspect", "looking into model '%s' took longer than %d ms", name, timeout_ms);
    else if (WIFSIGNALED(state))
        status = SP_FAIL_CODE(reterr, SP_CORRUPT, "crashed_inspect", "the process that looked into model '%s' died of signal %d", name,
                              WTERMSIG(state));
    else if (!sp_buf_ok(&answer))
        status = SP_FAIL(reterr, SP_TOO_LARGE, "what is to say of model '%s' is too long", name);
    else if (WEXITSTATUS(state) != 0)
        status = told(sp_buf_view(&answer), name, reterr);
    else
        status = sp_model_card_read(sp_buf_view(&answer), ret_card, reterr);
    sp_buf_done(&answer);
    return status;
}
