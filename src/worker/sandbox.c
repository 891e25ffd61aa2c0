/* SPDX-License-Identifier: Apache-2.0
 * no_new_privs, rlimits, Landlock and seccomp, in this order: each needs calls that the next one forbids. */
#include "worker/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Landlock's interface, declared here because the headers of Debian 12 end at its third version. Names and numbers are
 * the kernel's (Documentation/userspace-api/landlock.rst). */
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#endif
#ifndef __NR_landlock_restrict_self
#define __NR_landlock_restrict_self 446
#endif
#define LANDLOCK_VERSION_QUERY 1u

typedef struct landlock_attr {
    uint64_t handled_fs;
    uint64_t handled_net; /* from version 4 */
    uint64_t scoped;      /* from version 6 */
} landlock_attr;

const char *sp_sandbox_level_name(sp_sandbox_level level)
{
    return level == SP_SANDBOX_FULL ? "full" : level == SP_SANDBOX_PARTIAL ? "partial" : "none";
}

static void say(sp_sandbox_report *report, const char *text)
{
    size_t used = strlen(report->detail);
    (void)snprintf(report->detail + used, sizeof(report->detail) - used, "%s%s", used ? ", " : "", text);
}

/* Everything that a ruleset of this version can forbid, and no rule that allows any of it. Returns the version, or 0
 * with errno. */
static int enter_landlock(void)
{
    long version = syscall(__NR_landlock_create_ruleset, NULL, (size_t)0, LANDLOCK_VERSION_QUERY);
    if (version <= 0)
        return 0;
    static const uint64_t fs_of_version[] = { 0, 0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff };
    landlock_attr attr = {
        .handled_fs = fs_of_version[SP_MIN((size_t)version, SP_ARRAY_LEN(fs_of_version) - 1)],
        .handled_net = version >= 4 ? 3 : 0, /* bind, connect */
        .scoped = version >= 6 ? 3 : 0,      /* abstract sockets, signals */
    };
    size_t attr_bytes = version >= 6 ? sizeof(attr) : version >= 4 ? offsetof(landlock_attr, scoped)
                                                                   : offsetof(landlock_attr, handled_net);
    int ruleset = (int)syscall(__NR_landlock_create_ruleset, &attr, attr_bytes, 0u);
    if (ruleset < 0)
        return 0;
    long failed = syscall(__NR_landlock_restrict_self, ruleset, 0u);
    int saved = errno;
    (void)close(ruleset);
    errno = saved;
    return failed ? 0 : (int)version;
}

/* What decoding, the worker loop, glibc's malloc and its threads call once everything is open. */
static const int allowed_calls[] = {
    /* descriptors that are there */
    SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(close), SCMP_SYS(fstat),
    SCMP_SYS(lseek), SCMP_SYS(ftruncate), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom),
    /* memory; mmap and mprotect are below */
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(memfd_create),
    /* threads */
    SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
    SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(membarrier), SCMP_SYS(exit), SCMP_SYS(exit_group),
    /* signals */
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    /* time, randomness, numbers about the machine */
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time),
    SCMP_SYS(getrandom), SCMP_SYS(getrusage), SCMP_SYS(sysinfo), SCMP_SYS(getcpu),
};

#define CLONE_THREAD_FLAG 0x00010000u /* CLONE_THREAD: a thread of this process, not a child */

/* The calls whose arguments decide. Returns 0 or a negative errno. */
static int allow_by_argument(scmp_filter_ctx filter)
{
    uint64_t self = (uint64_t)getpid();
    int code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                                SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD_FLAG, CLONE_THREAD_FLAG));
    /* Its flags lie in memory where a filter cannot look; "not there" makes glibc use clone. */
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    /* Refused, but not with death: glibc opens files where nobody expects it to, like the kernel's setting of overcommit
     * when a thread's heap shrinks for the first time, and takes a refusal well. */
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(open), 0);
    /* Encoders of films would like to run behind the others. */
    static const int refused[] = { SCMP_SYS(getpriority), SCMP_SYS(setpriority), SCMP_SYS(sched_setscheduler),
                                   SCMP_SYS(sched_getscheduler), SCMP_SYS(sched_getparam), SCMP_SYS(sched_setaffinity) };
    for (size_t i = 0; !code && i < SP_ARRAY_LEN(refused); i++)
        code = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), refused[i], 0);
    /* glibc's fstat is newfstatat with an empty path. A filter sees the flag and not the path, so code gone bad could
     * still learn that a file exists; it cannot open it. */
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                                SCMP_A3(SCMP_CMP_MASKED_EQ, 0x1000 /* AT_EMPTY_PATH */, 0x1000));
    /* raise() and abort(): signals to ourselves only. */
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, self));
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, SCMP_A0(SCMP_CMP_EQ, self));
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, 3 /* F_GETFL */));
    /* Reading our own limits (pthread_create asks for the stack's), never setting them. */
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, SCMP_A0(SCMP_CMP_EQ, 0),
                                SCMP_A2(SCMP_CMP_EQ, 0));
    if (!code)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    return code;
}

/* 0, or a negative errno. */
static int enter_seccomp(void)
{
    /* A sanitizer's report opens files; there a refusal must not hide the report. */
    scmp_filter_ctx filter = seccomp_init(SANITIZED ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return -ENOMEM;
    int code = 0;
    for (size_t i = 0; !code && i < SP_ARRAY_LEN(allowed_calls); i++)
        code = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    if (!code)
        code = allow_by_argument(filter);
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* binary tree; older libraries keep their list */
    if (!code)
        code = seccomp_load(filter);
    seccomp_release(filter);
    return code;
}

static void enter_limits(void)
{
    struct rlimit none = { 0, 0 }, file = { SP_SANDBOX_FILE_BYTES, SP_SANDBOX_FILE_BYTES }, descriptors;
    /* Lowering one's own limits cannot fail but for a limit that is lower already, which is as good. */
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)setrlimit(RLIMIT_FSIZE, &file);
    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
        descriptors.rlim_max = SP_MIN(descriptors.rlim_max, (rlim_t)SP_SANDBOX_DESCRIPTORS);
        descriptors.rlim_cur = descriptors.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &descriptors);
    }
}

void sp_sandbox_limit_memory(uint64_t size_bytes)
{
    struct rlimit limit = { size_bytes, size_bytes };
    if (!SANITIZED) /* their shadow is terabytes of address space */
        (void)setrlimit(RLIMIT_AS, &limit); /* fails only where a lower one holds already */
}

static bool single_threaded(void)
{
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks)
        return false;
    int count = 0;
    for (struct dirent *entry = readdir(tasks); entry; entry = readdir(tasks))
        count += entry->d_name[0] != '.';
    (void)closedir(tasks);
    return count == 1;
}

sp_status sp_sandbox_enter(sp_sandbox_report *ret_report, sp_error *reterr)
{
    sp_sandbox_report report = { .level = SP_SANDBOX_FULL };
    char text[96];

    tzset(); /* the log may want local time, and the file cannot be opened later */
    bool alone = single_threaded();
    enter_limits();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "prctl(PR_SET_NO_NEW_PRIVS)");

    errno = 0;
    int version = enter_landlock();
    if (version > 0)
        (void)snprintf(text, sizeof(text), "landlock abi %d", version);
    else
        (void)snprintf(text, sizeof(text), "no landlock (%s)",
                       errno == ENOSYS ? "not in this kernel" : errno == EOPNOTSUPP ? "switched off at boot" : "refused");
    say(&report, text);

    int code = enter_seccomp();
    if (code == 0)
        say(&report, "seccomp");
    else {
        (void)snprintf(text, sizeof(text), "no seccomp (%s)", code == -ENOMEM ? "no memory" : "the kernel refused the filter");
        say(&report, text);
    }
    if (SANITIZED)
        say(&report, "loosened for a sanitizer");
    if (!alone)
        say(&report, "threads that run already are outside");

    if (version <= 0 && code)
        report.level = SP_SANDBOX_NONE;
    else if (version <= 0 || code || SANITIZED || !alone)
        report.level = SP_SANDBOX_PARTIAL;
    *ret_report = report;
    return SP_OK;
}
