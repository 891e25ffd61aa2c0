/* SPDX-License-Identifier: Apache-2.0
 * The sandbox, from inside: a child process enters it and tries what a decoder taken over would try. */
#include "media/load.h"
#include "test.h"
#include "tiny.h"
#include "worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SURVIVED 42 /* the forbidden call worked */
#define REFUSED 43  /* it failed, with a permission error */
#define BROKEN 44   /* something that must work did not */
#define NO_SECCOMP 45

static const sp_media_api *media;

/* Runs `act` in a child inside the sandbox; returns wait()'s status. `act` returns true when it got what it wanted. */
static int inside(bool (*act)(void))
{
    sp_error err = { 0 };
    if (!media && sp_media_load(&media, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.message);
        return -1;
    }
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        sp_sandbox_report report;
        if (sp_sandbox_enter(&report, &err))
            _exit(BROKEN);
        if (report.level == SP_SANDBOX_NONE)
            _exit(NO_SECCOMP);
        errno = 0;
        bool worked = act();
        _exit(worked ? SURVIVED : errno == EPERM || errno == EACCES ? REFUSED : BROKEN);
    }
    int status = -1;
    (void)waitpid(child, &status, 0);
    return status;
}

#define CHECK_FORBIDDEN(act)                                                                                       \
    do {                                                                                                           \
        int status_ = inside(act);                                                                                 \
        if (WIFEXITED(status_) && WEXITSTATUS(status_) == NO_SECCOMP)                                              \
            SKIP("this kernel grants no sandbox");                                                                 \
        bool held_ = (WIFSIGNALED(status_) && WTERMSIG(status_) == SIGSYS) ||                                      \
                     (WIFEXITED(status_) && WEXITSTATUS(status_) == REFUSED);                                      \
        if (!held_)                                                                                                \
            test_fail(__FILE__, __LINE__, #act " was not held back: wait status %#x", (unsigned)status_);          \
    } while (0)

static bool open_file(void)
{
    return open("/etc/passwd", O_RDONLY) >= 0;
}
static bool open_relative(void)
{
    return syscall(SYS_openat, AT_FDCWD, ".", O_RDONLY | O_DIRECTORY) >= 0;
}
static bool make_file(void)
{
    return syscall(SYS_open, "/tmp/spillway_escape", O_CREAT | O_WRONLY, 0600) >= 0;
}
static bool remove_file(void)
{
    return unlink("/tmp/spillway_escape") == 0;
}
static bool open_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) >= 0;
}
static bool connect_out(void)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = { htonl(INADDR_LOOPBACK) } };
    return connect(0, (struct sockaddr *)&to, sizeof(to)) == 0;
}
static bool run_program(void)
{
    char *const words[] = { (char *)"/bin/true", NULL };
    return execv(words[0], words) == 0;
}
static bool make_process(void)
{
    return fork() >= 0;
}
static bool trace_parent(void)
{
    return ptrace(PTRACE_ATTACH, getppid(), NULL, NULL) == 0;
}
static bool kill_parent(void)
{
    return kill(getppid(), 0) == 0;
}
static bool map_code(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
}
static bool make_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page != MAP_FAILED && mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0;
}
static bool raise_limits(void)
{
    struct rlimit limit = { 0, 0 };
    return setrlimit(RLIMIT_CPU, &limit) == 0;
}

TEST(sandbox_holds_back_files)
{
    CHECK_FORBIDDEN(open_file);
    CHECK_FORBIDDEN(open_relative);
    CHECK_FORBIDDEN(make_file);
    CHECK_FORBIDDEN(remove_file);
}

TEST(sandbox_holds_back_the_network)
{
    CHECK_FORBIDDEN(open_socket);
    CHECK_FORBIDDEN(connect_out);
}

TEST(sandbox_holds_back_processes)
{
    CHECK_FORBIDDEN(run_program);
    CHECK_FORBIDDEN(make_process);
    CHECK_FORBIDDEN(trace_parent);
    CHECK_FORBIDDEN(kill_parent);
}

TEST(sandbox_holds_back_code_and_limits)
{
    CHECK_FORBIDDEN(map_code);
    CHECK_FORBIDDEN(make_code);
    CHECK_FORBIDDEN(raise_limits);
}

static bool decode_bytes(const void *data, size_t size_bytes)
{
    sp_view file = sp_view_make(data, size_bytes);
    sp_image_info info;
    sp_error err = { 0 };
    if (media->image_probe(file, NULL, &info, &err))
        return false;
    uint8_t *rgb = malloc(info.rgb_bytes);
    bool fine = rgb && !media->image_decode(file, NULL, &info, rgb, info.rgb_bytes, &err);
    free(rgb);
    return fine;
}

/* Allocations of every size class, on this thread's own arena, beside decoding. */
static void *decode_thread(void *argument)
{
    (void)argument;
    bool fine = true;
    for (int i = 0; i < 50; i++) {
        fine = fine && decode_bytes(tiny_jpeg, sizeof(tiny_jpeg)) && decode_bytes(tiny_png, sizeof(tiny_png));
        uint8_t *block = malloc((size_t)1 << (i % 25));
        uint8_t *grown = realloc(block, (size_t)3 << (i % 25));
        fine = fine && grown;
        free(grown);
    }
    return fine ? argument : NULL;
}

static bool work_as_usual(void)
{
    pthread_t threads[4];
    int token = 1;
    bool fine = true;
    for (size_t i = 0; i < SP_ARRAY_LEN(threads); i++) {
        int failed = pthread_create(&threads[i], NULL, decode_thread, &token);
        if (failed)
            return false;
    }
    for (size_t i = 0; i < SP_ARRAY_LEN(threads); i++) {
        void *result = NULL;
        fine = pthread_join(threads[i], &result) == 0 && result == &token && fine;
    }
    struct timespec now, nap = { 0, 1000 };
    struct tm tm;
    time_t seconds = time(NULL);
    fine = fine && clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0 && localtime_r(&seconds, &tm) &&
           nanosleep(&nap, NULL) == 0;
    /* A message that is too long for the stack of vsnprintf, and stderr. */
    (void)fprintf(stderr, "%.*s", 1, "");
    return fine;
}

static int output_fd = -1;

static bool grow_output(void)
{
    if (ftruncate(output_fd, 8 << 20))
        return false;
    uint8_t *memory = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, output_fd, 0);
    if (memory == MAP_FAILED)
        return false;
    memory[(8 << 20) - 1] = 7;
    return munmap(memory, 8 << 20) == 0 && close(output_fd) == 0;
}

static void check_works(const char *what, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SECCOMP)
        SKIP("this kernel grants no sandbox");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != SURVIVED)
        test_fail(__FILE__, __LINE__, "%s: wait status %#x", what, (unsigned)status);
}

TEST(sandbox_lets_decoding_work)
{
    check_works("decoding on threads", inside(work_as_usual));
}

TEST(sandbox_lets_an_output_grow)
{
    output_fd = memfd_create("output", MFD_CLOEXEC);
    REQUIRE(output_fd >= 0);
    check_works("growing an output", inside(grow_output));
    uint8_t last = 0;
    CHECK_INT(pread(output_fd, &last, 1, (8 << 20) - 1), 1);
    CHECK_INT(last, 7);
    (void)close(output_fd);
}

/* A heap of a thread's own that shrinks: glibc then reads /proc/sys/vm/overcommit_memory, once. */
static void *grow_and_shrink(void *argument)
{
    void *blocks[64];
    for (size_t i = 0; i < SP_ARRAY_LEN(blocks); i++) {
        blocks[i] = malloc(100000);
        if (blocks[i])
            memset(blocks[i], 1, 100000);
    }
    for (size_t i = SP_ARRAY_LEN(blocks); i-- > 0;)
        free(blocks[i]);
    return argument;
}

static bool heaps_shrink(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, grow_and_shrink, NULL) == 0 && pthread_join(thread, NULL) == 0;
}

TEST(sandbox_lets_heaps_shrink)
{
    check_works("a thread's heap that shrinks", inside(heaps_shrink));
}

static bool aborts(void)
{
    abort();
}

TEST(sandbox_leaves_deaths_their_signals)
{
    int status = inside(aborts);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* What the child says of its sandbox travels home through this. */
static int report_pipe[2];

TEST(sandbox_says_what_it_is)
{
    CHECK_TEXT(sp_sandbox_level_name(SP_SANDBOX_FULL), "full");
    CHECK_TEXT(sp_sandbox_level_name(SP_SANDBOX_PARTIAL), "partial");
    CHECK_TEXT(sp_sandbox_level_name(SP_SANDBOX_NONE), "none");

    REQUIRE(pipe(report_pipe) == 0);
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        sp_sandbox_report report;
        sp_error err = { 0 };
        if (sp_sandbox_enter(&report, &err))
            _exit(BROKEN);
        _exit(write(report_pipe[1], &report, sizeof(report)) == sizeof(report) ? SURVIVED : BROKEN);
    }
    int status = -1;
    (void)waitpid(child, &status, 0);
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == SURVIVED);
    sp_sandbox_report report = { 0 };
    REQUIRE(read(report_pipe[0], &report, sizeof(report)) == sizeof(report));
    (void)printf("# sandbox: %s (%s)\n", sp_sandbox_level_name(report.level), report.detail);
    CHECK(strstr(report.detail, "seccomp") != NULL && strstr(report.detail, "landlock") != NULL);
    CHECK(report.level == SP_SANDBOX_FULL || strstr(report.detail, "no ") || strstr(report.detail, "loosened"));
    (void)close(report_pipe[0]);
    (void)close(report_pipe[1]);
}
