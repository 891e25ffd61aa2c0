/* SPDX-License-Identifier: Apache-2.0
 * The heap gives out at every allocation in turn while a configuration is read: it is taken, or refused for want of
 * memory, and nothing is left behind. malloc and its kin are replaced in this program, libyaml's calls included. */
#include "config/config.h"
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Seen by libyaml too. */
#pragma GCC visibility push(default)

extern void *__libc_malloc(size_t size_bytes);
extern void *__libc_calloc(size_t count, size_t size_bytes);
extern void *__libc_realloc(void *old, size_t size_bytes);
extern void *__libc_memalign(size_t alignment, size_t size_bytes);
extern void __libc_free(void *old);

static long fail_at, calls, live; /* fail_at 0 = never; one thread */

static bool fails(void)
{
    calls++;
    if (!fail_at || calls != fail_at)
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size_bytes)
{
    void *got = fails() ? NULL : __libc_malloc(size_bytes);
    live += got != NULL;
    return got;
}

void *calloc(size_t count, size_t size_bytes)
{
    void *got = fails() ? NULL : __libc_calloc(count, size_bytes);
    live += got != NULL;
    return got;
}

void *realloc(void *old, size_t size_bytes)
{
    void *got = fails() ? NULL : __libc_realloc(old, size_bytes);
    live += got != NULL && !old;
    return got;
}

void *aligned_alloc(size_t alignment, size_t size_bytes)
{
    void *got = fails() ? NULL : __libc_memalign(alignment, size_bytes);
    live += got != NULL;
    return got;
}

void free(void *old)
{
    live -= old != NULL;
    __libc_free(old);
}
#pragma GCC visibility pop

/* One reading in which allocation `at` fails; false when there were fewer. */
static bool read_failing(const char *text, size_t text_bytes, long at, sp_status expected)
{
    sp_config *config = NULL;
    sp_complaints complaints;
    sp_error err = { 0 };
    long before = live;

    sp_complaints_init(&complaints);
    calls = 0;
    fail_at = at;
    sp_status status = sp_config_parse("f", text, text_bytes, &config, &complaints, &err);
    bool reached = calls >= at;
    fail_at = 0;
    if (status != expected && (!reached || status != SP_NOMEM))
        test_fail(__FILE__, __LINE__, "allocation %ld failed: status %d, %s", at, (int)status, err.message);
    CHECK((config != NULL) == (status == SP_OK));
    CHECK(status == SP_OK || err.message[0]);
    sp_config_unref(config);
    sp_complaints_done(&complaints);
    if (live != before)
        test_fail(__FILE__, __LINE__, "allocation %ld failed: %ld blocks were left", at, live - before);
    return reached;
}

static long read_all_failing(const char *text, sp_status expected)
{
    long at = 1;

    tzset(); /* the C library keeps what it reads here */
    while (read_failing(text, strlen(text), at, expected))
        at++;
    return at - 1;
}

TEST(a_good_file)
{
    CHECK(read_all_failing(
              "workers: [codec0, cuda0, cpu0, net0]\npreset: by-tier\n"
              "chains:\n  classify:\n    links: [{name: cuda0, when: [force_cpu, queue_depth > 3]}, cpu0]\n"
              "remotes: {hq: {kind: spillway, url: 'http://x', keys: [{env: A}]}}\n"
              "tokens:\n  - {name: a, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}\n"
              "rates: {cuda: {per_hour: 0.2}}\n",
              SP_OK) > 100);
}

TEST(a_bad_file)
{
    CHECK(read_all_failing("http_prot: 1\nchains:\n  classify: {links: [{name: cuda0, timeout: 5}]}\nrates: /nowhere\n",
                           SP_INVALID) > 50);
}
