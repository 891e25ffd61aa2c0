/* SPDX-License-Identifier: Apache-2.0
 * The C test harness and its main(). */
#include "test.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TESTS_MAX 1024

static struct {
    const char *name, *file;
    void (*run)(void);
} tests[TESTS_MAX];
static int test_count;

static jmp_buf leave_test;
static bool failed, skipped;
static char skip_reason[256];
static uint64_t seed, random_state;

void test_register(const char *name, const char *file, void (*run)(void))
{
    if (test_count == TESTS_MAX)
        abort();
    tests[test_count].name = name;
    tests[test_count].file = file;
    tests[test_count++].run = run;
}

void test_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    failed = true;
    printf("# %s:%d: (seed %llu) ", file, line, (unsigned long long)seed);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

void test_skip(const char *format, ...)
{
    va_list args;
    skipped = true;
    va_start(args, format);
    (void)vsnprintf(skip_reason, sizeof(skip_reason), format, args);
    va_end(args);
}

void test_end(void)
{
    longjmp(leave_test, 1);
}

void test_check_int(const char *file, int line, const char *a_text, long long a, const char *b_text, long long b)
{
    if (a != b)
        test_fail(file, line, "%s = %lld, but %s = %lld", a_text, a, b_text, b);
}

void test_check_text(const char *file, int line, const char *a_text, const char *a, const char *b_text, const char *b)
{
    if (!a || !b || strcmp(a, b) != 0)
        test_fail(file, line, "%s = \"%s\", but %s = \"%s\"", a_text, a ? a : "(null)", b_text, b ? b : "(null)");
}

void test_check_bytes(const char *file, int line, const char *a_text, const void *a, const char *b_text, const void *b,
                      size_t size_bytes)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < size_bytes; i++) {
        if (x[i] != y[i]) {
            test_fail(file, line, "%s and %s differ first at byte %zu of %zu: %u, %u", a_text, b_text, i, size_bytes, x[i],
                      y[i]);
            return;
        }
    }
}

uint64_t test_seed(void)
{
    return seed;
}

uint64_t test_random(void)
{
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

int test_random_between(int low, int high)
{
    return low + (int)(test_random() % (uint64_t)(high - low + 1));
}

const char *test_asset(const char *name)
{
    static char path[1024];
    const char *root = getenv("SPILLWAY_ASSETS");
    (void)snprintf(path, sizeof(path), "%s/%s", root && *root ? root : "../shared/assets", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

void *test_read_file(const char *path, size_t *ret_size_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    (void)fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *data = size >= 0 ? malloc((size_t)size + 1) : NULL;
    if (data && fread(data, 1, (size_t)size, file) != (size_t)size) {
        free(data);
        data = NULL;
    }
    (void)fclose(file);
    if (data) {
        data[size] = 0;
        *ret_size_bytes = (size_t)size;
    }
    return data;
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    }
    return argc < 2;
}

int main(int argc, char **argv)
{
    const char *given = getenv("SPILLWAY_TEST_SEED");
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec;
    setvbuf(stdout, NULL, _IOLBF, 0);
    static int number, failures; /* static: they must survive longjmp */
    for (volatile int i = 0; i < test_count; i++) {
        if (!wanted(tests[i].name, argc, argv))
            continue;
        failed = skipped = false;
        random_state = seed; /* each test alone repeats what it did among the others */
        if (setjmp(leave_test) == 0)
            tests[i].run();
        number++;
        failures += failed;
        if (skipped && !failed)
            printf("ok %d - %s # SKIP %s\n", number, tests[i].name, skip_reason);
        else
            printf("%s %d - %s\n", failed ? "not ok" : "ok", number, tests[i].name);
    }
    printf("1..%d\n", number);
    return failures ? 1 : 0;
}
