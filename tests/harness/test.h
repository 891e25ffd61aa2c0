/* SPDX-License-Identifier: Apache-2.0
 * The C test harness: tests register themselves, results leave as TAP on stdout (tools/run_tests.py adds them up).
 *
 *   TEST(buf_stops_at_its_ceiling)
 *   {
 *       CHECK(x == 3);              // goes on after a failure
 *       REQUIRE(pointer != NULL);   // ends this test
 *       CHECK_INT(a, b);  CHECK_TEXT(a, b);  CHECK_BYTES(a, b, n);
 *       if (!have_asset) SKIP("SPILLWAY_ASSETS has no %s", name);
 *   }
 *
 * test_seed() is SPILLWAY_TEST_SEED or taken from the clock; it is printed with every failure. Arguments that are test
 * names (or their prefixes) run only those. */
#ifndef SP_TESTS_HARNESS_TEST_H
#define SP_TESTS_HARNESS_TEST_H

#include "base/attr.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#define TEST(name)                                                                          \
    static void test_##name(void);                                                          \
    static __attribute__((constructor)) void register_##name(void)                          \
    {                                                                                       \
        test_register(#name, __FILE__, test_##name);                                        \
    }                                                                                       \
    static void test_##name(void)

#define CHECK(expr) ((expr) ? (void)0 : test_fail(__FILE__, __LINE__, "%s", #expr))
#define REQUIRE(expr) ((expr) ? (void)0 : (test_fail(__FILE__, __LINE__, "%s", #expr), test_end()))
#define CHECK_INT(a, b) test_check_int(__FILE__, __LINE__, #a, (long long)(a), #b, (long long)(b))
#define CHECK_TEXT(a, b) test_check_text(__FILE__, __LINE__, #a, (a), #b, (b))
#define CHECK_BYTES(a, b, n) test_check_bytes(__FILE__, __LINE__, #a, (a), #b, (b), (n))
#define SKIP(...) (test_skip(__VA_ARGS__), test_end())

void test_register(const char *name, const char *file, void (*run)(void));
void test_fail(const char *file, int line, const char *format, ...) SP_PRINTF(3, 4);
void test_skip(const char *format, ...) SP_PRINTF(1, 2);
void test_end(void) SP_NORETURN;
void test_check_int(const char *file, int line, const char *a_text, long long a, const char *b_text, long long b);
void test_check_text(const char *file, int line, const char *a_text, const char *a, const char *b_text, const char *b);
void test_check_bytes(const char *file, int line, const char *a_text, const void *a, const char *b_text, const void *b,
                      size_t size_bytes);

uint64_t test_seed(void);
uint64_t test_random(void);                     /* splitmix64 from the seed */
int test_random_between(int low, int high);     /* both inclusive */

/* SPILLWAY_ASSETS (default ../shared/assets) + "/" + name, or NULL when the file is not there. Static storage. */
const char *test_asset(const char *name);
/* The whole file on the heap (caller frees), or NULL. */
void *test_read_file(const char *path, size_t *ret_size_bytes);

#endif
