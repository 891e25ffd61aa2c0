/* SPDX-License-Identifier: Apache-2.0
 * base/fault: what can be written in SPILLWAY_FAULTS, what is refused, when a point misbehaves. */
#include "base/fault.h"
#include "test.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef SP_FAULTS

static int hits(const char *point, int passes)
{
    int count = 0;
    for (int i = 0; i < passes; i++)
        count += SP_FAULT(point) != SP_FAULT_NONE;
    return count;
}

TEST(nothing_is_armed_by_nothing)
{
    CHECK_INT(sp_fault_arm(NULL, NULL), SP_OK);
    CHECK(!sp_fault_armed);
    CHECK_INT(sp_fault_arm("", NULL), SP_OK);
    CHECK(!sp_fault_armed);
    CHECK_INT(hits("engine.run", 100), 0);
}

TEST(a_point_is_found_by_its_whole_name)
{
    REQUIRE(sp_fault_arm("engine.run:fail,worker.batch:nomem", NULL) == SP_OK);
    CHECK_INT(SP_FAULT("engine.run"), SP_FAULT_FAIL);
    CHECK_INT(SP_FAULT("worker.batch"), SP_FAULT_NOMEM);
    CHECK_INT(SP_FAULT("engine.ru"), SP_FAULT_NONE);
    CHECK_INT(SP_FAULT("engine.runs"), SP_FAULT_NONE);
    CHECK_INT(sp_fault_arm(NULL, NULL), SP_OK);
    CHECK_INT(SP_FAULT("engine.run"), SP_FAULT_NONE);
}

TEST(n_is_one_pass_and_every_is_many)
{
    REQUIRE(sp_fault_arm("a:fail@n=3,b:fail@every=4", NULL) == SP_OK);
    for (int pass = 1; pass <= 20; pass++) {
        CHECK_INT(SP_FAULT("a") == SP_FAULT_FAIL, pass == 3);
        CHECK_INT(SP_FAULT("b") == SP_FAULT_FAIL, pass % 4 == 0);
    }
    CHECK_INT(sp_fault_arm(NULL, NULL), SP_OK);
}

TEST(p_is_a_probability_and_repeats_with_its_seed)
{
    REQUIRE(sp_fault_arm("a:fail@p=0.1", NULL) == SP_OK);
    int first = hits("a", 20000);
    CHECK(first > 1800 && first < 2200); /* seed 1 always: no chance in it */
    REQUIRE(sp_fault_arm("a:fail@p=0.1", NULL) == SP_OK);
    CHECK_INT(hits("a", 20000), first);
    REQUIRE(sp_fault_arm("a:fail@p=0,b:fail@p=1", NULL) == SP_OK);
    CHECK_INT(hits("a", 1000), 0);
    CHECK_INT(hits("b", 1000), 1000);
    CHECK_INT(sp_fault_arm(NULL, NULL), SP_OK);
}

TEST(a_body_prefix_selects_and_only_its_passes_count)
{
    REQUIRE(sp_fault_arm("codec.decode:fail@body-prefix=BOOM&n=2", NULL) == SP_OK);
    CHECK_INT(SP_FAULT_BODY("codec.decode", sp_view_of("BOOM 1")), SP_FAULT_NONE);
    CHECK_INT(SP_FAULT_BODY("codec.decode", sp_view_of("fine")), SP_FAULT_NONE);
    CHECK_INT(SP_FAULT_BODY("codec.decode", sp_view_of("BOO")), SP_FAULT_NONE);
    CHECK_INT(SP_FAULT("codec.decode"), SP_FAULT_NONE);
    CHECK_INT(SP_FAULT_BODY("codec.decode", sp_view_of("BOOM")), SP_FAULT_FAIL);
    CHECK_INT(SP_FAULT_BODY("codec.decode", sp_view_of("BOOM")), SP_FAULT_NONE);
    CHECK_INT(sp_fault_arm(NULL, NULL), SP_OK);
}

TEST(what_cannot_be_read_is_refused_and_arms_nothing)
{
    static const char *const bad[] = {
        "engine.run",           ":fail",          "engine.run:",         "engine.run:explode",
        "engine.run:fail=3",    "a:sleep",        "a:sleep=",            "a:sleep=soon",
        "a:sleep=-1",           "a:fail@",        "a:fail@x=1",          "a:fail@p=",
        "a:fail@p=2",           "a:fail@p=-0.1",  "a:fail@p=nan",        "a:fail@p=0.5x",
        "a:fail@n=",            "a:fail@n=0",     "a:fail@n=-1",         "a:fail@every=x",
        "a:fail@body-prefix=",  "ok:fail,broken", "a:fail@n=1&&&&p=7",
        "point.whose.name.is.much.too.long.to.be.one:fail",
        "a:fail@body-prefix=0123456789012345678901234567890123456789",
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        sp_error err = { 0 };
        if (strcmp(bad[i], "a:fail@") == 0) {
            /* No selector behind the @ selects every pass: harmless. */
            CHECK_INT(sp_fault_arm(bad[i], &err), SP_OK);
            continue;
        }
        if (sp_fault_arm(bad[i], &err) != SP_INVALID || sp_fault_armed || !err.message[0])
            test_fail(__FILE__, __LINE__, "\"%s\" was accepted", bad[i]);
    }
    CHECK_INT(sp_fault_arm(NULL, NULL), SP_OK);
}

TEST(there_is_a_bound_on_faults)
{
    char text[400] = "a:fail";
    for (int i = 0; i < 16; i++)
        strncat(text, ",a:fail", sizeof(text) - strlen(text) - 1); /* allowed: bounded by the size left */
    sp_error err = { 0 };
    CHECK_INT(sp_fault_arm(text, &err), SP_INVALID);
    CHECK_INT(sp_fault_arm(NULL, NULL), SP_OK);
}

/* How a child ends that meets `faults` once: the wait status. */
static int death_by(const char *faults)
{
    pid_t child = fork();
    if (child == 0) {
        if (sp_fault_arm(faults, NULL))
            _exit(99);
        (void)SP_FAULT("here");
        _exit(0);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, WUNTRACED) != child)
        return -1;
    if (WIFSTOPPED(status)) {
        int end;
        (void)kill(child, SIGKILL);
        (void)waitpid(child, &end, 0);
    }
    return status;
}

TEST(deaths_are_the_ones_named)
{
    int status = death_by("here:kill");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = death_by("here:segv");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    status = death_by("here:abort");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    status = death_by("here:exit");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    status = death_by("here:stop");
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    status = death_by("here:sleep=1");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    status = death_by("elsewhere:kill");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#else

TEST(a_build_without_faults_says_so)
{
    sp_error err = { 0 };
    CHECK_INT(sp_fault_arm("", &err), SP_OK);
    CHECK_INT(sp_fault_arm("a:fail", &err), SP_UNSUPPORTED);
    CHECK_INT(SP_FAULT("a"), SP_FAULT_NONE);
}

#endif
