/* SPDX-License-Identifier: Apache-2.0
 * The loader of the CUDA plug-in, each case in a process of its own (what was loaded stays): no plug-in, a file that is no
 * library, a library of something else, another build's ABI; and the real one, which says what is missing or opens. */
#include "kernels/cuda.h"

#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct answer {
    sp_status status;
    sp_error err;
} answer;

/* sp_cuda_load in a child with these variables (NULL: unset); with `ask`, count of what was loaded. */
static answer load(const char *library, const char *plugins, bool ask)
{
    answer got = { .status = SP_INTERNAL };
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        const sp_cuda_api *api = NULL;
        int count = 0;
        (void)(library ? setenv("SPILLWAY_CUDA_LIBRARY", library, 1) : unsetenv("SPILLWAY_CUDA_LIBRARY"));
        (void)(plugins ? setenv("SPILLWAY_PLUGINS", plugins, 1) : unsetenv("SPILLWAY_PLUGINS"));
        got.status = sp_cuda_load(&api, &got.err);
        if (!got.status && ask)
            got.status = api->count(&count, &got.err);
        _exit(write(ends[1], &got, sizeof(got)) != (ssize_t)sizeof(got));
    }
    (void)close(ends[1]);
    CHECK_INT(read(ends[0], &got, sizeof(got)), sizeof(got));
    (void)close(ends[0]);
    (void)waitpid(child, NULL, 0);
    return got;
}

static void check_refused(answer got, const char *code, const char *words)
{
    CHECK_INT(got.status, SP_UNSUPPORTED);
    CHECK_TEXT(got.err.code, code);
    if (!strstr(got.err.message, words))
        test_fail(__FILE__, __LINE__, "\"%s\" is not in \"%s\"", words, got.err.message);
}

TEST(without_the_plugin_the_reason_names_it)
{
    check_refused(load(NULL, "/nonexistent", false), "missing_plugin", "libspillway_cuda.so is in none of /nonexistent");
}

TEST(what_is_no_plugin_is_refused)
{
    check_refused(load("/nonexistent/x.so", NULL, false), "bad_plugin", "SPILLWAY_CUDA_LIBRARY: /nonexistent/x.so");
    check_refused(load(__FILE__, NULL, false), "bad_plugin", "SPILLWAY_CUDA_LIBRARY: ");
    check_refused(load("libm.so.6", NULL, false), "bad_plugin", "has no symbol sp_cuda_api_get");
    check_refused(load(getenv("TEST_OTHER_ABI"), NULL, false), "bad_plugin", "another ABI");
}

TEST(the_real_one_opens_and_says_what_is_missing)
{
    const char *real = getenv("TEST_REAL_LIBRARY");
    if (!real || !*real)
        SKIP("the CUDA plug-in is not built: %s", getenv("TEST_REAL_WHY_NOT"));
    answer got = load(real, NULL, true);
    if (got.status == SP_OK)
        return;
    CHECK_INT(got.status, SP_UNSUPPORTED);
    if (access("/dev/nvidia0", F_OK) != 0)
        CHECK(strcmp(got.err.code, "no_driver") == 0 || strcmp(got.err.code, "no_gpu") == 0);
    CHECK_INT(load(NULL, NULL, false).status, SP_OK); /* and it is found from the build tree */
}
