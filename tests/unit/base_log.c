/* SPDX-License-Identifier: Apache-2.0
 * base/log: every line is one JSON object, whatever is said; a pipe that nobody reads never stops the speaker.
 * The lines go through a pipe in place of stderr and are read back by a strict little reader. */
#include "base/log.h"
#include "base/limits.h"
#include "base/view.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char text[1 << 20];
static int pipe_fds[2], kept_stderr;

static void capture_begin(sp_log_level least)
{
    kept_stderr = dup(STDERR_FILENO);
    if (kept_stderr < 0 || pipe(pipe_fds) < 0)
        abort();
    (void)fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
    if (dup2(pipe_fds[1], STDERR_FILENO) < 0)
        abort();
    sp_log_open("test", least);
}

/* What was logged since capture_begin. */
static const char *capture_end(void)
{
    (void)dup2(kept_stderr, STDERR_FILENO);
    (void)close(kept_stderr);
    (void)close(pipe_fds[1]);
    sp_log_open("test", SP_LOG_ERROR);
    size_t size = 0;
    for (ssize_t n; size < sizeof(text) - 1 && (n = read(pipe_fds[0], text + size, sizeof(text) - 1 - size)) > 0;)
        size += (size_t)n;
    text[size] = 0;
    (void)close(pipe_fds[0]);
    return text;
}

/* Reads one JSON value of the kinds that log lines have; NULL when it is none. */
static const char *json_text_end(const char *s)
{
    if (*s++ != '"')
        return NULL;
    for (; *s && *s != '"'; s++) {
        if ((unsigned char)*s < 0x20)
            return NULL;
        if (*s == '\\' && !*++s)
            return NULL;
    }
    return *s == '"' ? s + 1 : NULL;
}

static const char *json_value_end(const char *s)
{
    static const char *const words[] = { "true", "false", "null" };
    if (*s == '"')
        return json_text_end(s);
    for (size_t i = 0; i < SP_ARRAY_LEN(words); i++) {
        if (strncmp(s, words[i], strlen(words[i])) == 0)
            return s + strlen(words[i]);
    }
    if (*s != '-' && (*s < '0' || *s > '9'))
        return NULL;
    char *end;
    (void)strtod(s, &end);
    return end > s ? end : NULL;
}

/* True when `s` starts with one flat object and a newline; *ret_next is what follows. */
static bool is_line(const char *s, const char **ret_next)
{
    if (*s++ != '{')
        return false;
    for (;;) {
        s = json_text_end(s);
        if (!s || *s++ != ':')
            return false;
        s = json_value_end(s);
        if (!s)
            return false;
        if (*s == '}')
            break;
        if (*s++ != ',')
            return false;
    }
    *ret_next = s + 2;
    return s[1] == '\n';
}

static int count_lines(const char *s)
{
    int count = 0;
    while (*s) {
        const char *next;
        if (!is_line(s, &next)) {
            test_fail(__FILE__, __LINE__, "no JSON line: %.200s", s);
            return -1;
        }
        if ((size_t)(next - s) > SP_LIMIT_LOG_LINE_BYTES)
            test_fail(__FILE__, __LINE__, "a line of %zu bytes", (size_t)(next - s));
        s = next;
        count++;
    }
    return count;
}

TEST(a_line_has_its_fields)
{
    capture_begin(SP_LOG_INFO);
    sp_log(SP_LOG_INFO, "worker ready", SP_LOG_TEXT("worker", "cpu0"), SP_LOG_INT("pid", -42), SP_LOG_REAL("load", 0.5));
    const char *s = capture_end();
    CHECK_INT(count_lines(s), 1);
    CHECK(strstr(s, "\"level\":\"info\",\"component\":\"test\",\"message\":\"worker ready\"") != NULL);
    CHECK(strstr(s, "\"worker\":\"cpu0\",\"pid\":-42,\"load\":0.5}") != NULL);
}

TEST(lines_below_the_level_are_not_written)
{
    capture_begin(SP_LOG_WARN);
    sp_log(SP_LOG_DEBUG, "no");
    sp_log(SP_LOG_INFO, "no");
    sp_log(SP_LOG_WARN, "yes");
    sp_log(SP_LOG_ERROR, "yes");
    CHECK_INT(count_lines(capture_end()), 2);
}

TEST(level_words)
{
    sp_log_level level = SP_LOG_DEBUG;
    CHECK(sp_log_level_parse("warn", &level) && level == SP_LOG_WARN);
    CHECK(!sp_log_level_parse("WARN", &level) && !sp_log_level_parse("", &level));
}

TEST(hostile_texts_stay_inside_their_quotes)
{
    capture_begin(SP_LOG_INFO);
    sp_log(SP_LOG_INFO, "a\"b\\\n\x01", SP_LOG_TEXT("k\"", "}\n{\xFF\xC3"), SP_LOG_TEXT("none", NULL));
    sp_log(SP_LOG_INFO, "numbers", SP_LOG_REAL("nan", NAN), SP_LOG_REAL("inf", INFINITY), SP_LOG_REAL("small", 1e-300),
           SP_LOG_INT("least", INT64_MIN));
    const char *s = capture_end();
    CHECK_INT(count_lines(s), 2);
    CHECK(strstr(s, "\"nan\":null,\"inf\":null") != NULL);
}

TEST(lines_of_any_length_stay_whole)
{
    static char big[6000];
    int sizes[] = { 100, 1000, 1800, 1960, 1990, 2000, 2010, 2020, 2030, 2040, 2048, 2060, 5999 };
    for (size_t k = 0; k < 2; k++) {
        memset(big, k ? '\x01' : 'x', sizeof(big) - 1); /* the second kind grows six times */
        for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
            char *tail = big + sizeof(big) - 1 - sizes[i];
            capture_begin(SP_LOG_INFO);
            sp_log(SP_LOG_INFO, tail, SP_LOG_INT("after", 1));
            sp_log(SP_LOG_INFO, "short", SP_LOG_TEXT("value", tail), SP_LOG_TEXT("value2", tail), SP_LOG_INT("after", 1));
            CHECK_INT(count_lines(capture_end()), 2);
        }
    }
    for (int n = 1700; n < 2100; n++) {
        char *tail = big + sizeof(big) - 1 - n;
        memset(big, 'y', sizeof(big) - 1);
        capture_begin(SP_LOG_INFO);
        sp_log(SP_LOG_INFO, "m", SP_LOG_TEXT("a", tail), SP_LOG_TEXT("b", "c"));
        REQUIRE(count_lines(capture_end()) == 1);
    }
}

TEST(many_fields_are_cut_and_say_so)
{
    sp_log_field fields[400];
    for (size_t i = 0; i < SP_ARRAY_LEN(fields); i++)
        fields[i] = SP_LOG_INT("number", i);
    capture_begin(SP_LOG_INFO);
    sp_log_write(SP_LOG_INFO, "many", fields, SP_ARRAY_LEN(fields));
    const char *s = capture_end();
    CHECK_INT(count_lines(s), 1);
    CHECK(strstr(s, ",\"cut\":true}\n") != NULL);
}

TEST(errors_show_status_origin_and_place)
{
    sp_error err = { 0 };
    (void)SP_FAIL_FROM(&err, SP_CORRUPT, "onnxruntime", 7, "bad model");
    capture_begin(SP_LOG_INFO);
    sp_log_error("load failed", "r-17", &err);
    const char *s = capture_end();
    CHECK_INT(count_lines(s), 1);
    CHECK(strstr(s, "\"request_id\":\"r-17\",\"status\":\"corrupt\",\"error\":\"bad model\"") != NULL);
    CHECK(strstr(s, "\"origin\":\"onnxruntime\",\"origin_code\":7") != NULL);
    CHECK(strstr(s, "base_log.c:") != NULL);
}

TEST(a_pipe_that_nobody_reads_drops_lines_and_counts_them)
{
    uint64_t before = sp_log_dropped_count();
    capture_begin(SP_LOG_INFO);
    alarm(20); /* a blocked write would hang for ever */
    for (int i = 0; i < 5000; i++)
        sp_log(SP_LOG_INFO, "into a full pipe", SP_LOG_INT("i", i));
    alarm(0);
    int kept = count_lines(capture_end());
    CHECK(kept > 100 && kept < 5000);
    CHECK_INT((int)(sp_log_dropped_count() - before) + kept, 5000);
}

TEST(writers_that_share_a_full_pipe_do_not_wait_for_each_other)
{
    capture_begin(SP_LOG_INFO);
    pid_t children[4];
    for (size_t i = 0; i < SP_ARRAY_LEN(children); i++) {
        children[i] = fork();
        if (children[i] == 0) {
            alarm(20);
            for (int k = 0; k < 2000; k++)
                sp_log(SP_LOG_INFO, "one of four", SP_LOG_INT("k", k));
            _exit(0);
        }
    }
    for (size_t i = 0; i < SP_ARRAY_LEN(children); i++) {
        int status = -1;
        (void)waitpid(children[i], &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(count_lines(capture_end()) > 100); /* and no line is mixed with another */
}

TEST(the_shared_description_stays_blocking)
{
    capture_begin(SP_LOG_INFO);
    int flags = fcntl(STDERR_FILENO, F_GETFL);
    (void)capture_end();
    CHECK(!(flags & O_NONBLOCK));
}

TEST(a_reader_that_is_gone_costs_only_the_line)
{
    (void)signal(SIGPIPE, SIG_IGN);
    capture_begin(SP_LOG_INFO);
    (void)close(pipe_fds[0]);
    pipe_fds[0] = -1;
    uint64_t before = sp_log_dropped_count();
    errno = 17;
    sp_log(SP_LOG_INFO, "into nothing");
    CHECK_INT(errno, 17);
    CHECK_INT(sp_log_dropped_count() - before, 1);
    (void)capture_end();
}
