/* SPDX-License-Identifier: Apache-2.0
 * Lines to a file, to a pipe that nobody reads, and to a file that is moved away. */
#include "base/sink.h"
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int count_lines(const char *path, const char *with)
{
    FILE *file = fopen(path, "re");
    char line[256];
    int count = 0;
    while (file && fgets(line, sizeof(line), file))
        count += strstr(line, with) != NULL && line[strlen(line) - 1] == '\n';
    if (file)
        (void)fclose(file);
    return count;
}

static void temporary(char path[64])
{
    (void)snprintf(path, 64, "/tmp/sink-test-XXXXXX");
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    (void)close(fd);
}

static void *write_many(void *context)
{
    sp_sink *sink = context;
    for (int i = 0; i < 5000; i++) {
        char line[64];
        int n = snprintf(line, sizeof(line), "{\"line\":%d}\n", i);
        sp_sink_write(sink, line, (size_t)n);
    }
    return NULL;
}

TEST(base_sink_every_line_is_whole_and_there)
{
    char path[64];
    sp_error err = { 0 };
    sp_sink *sink = NULL;
    pthread_t threads[3];
    temporary(path);
    REQUIRE(sp_sink_open(path, &sink, &err) == SP_OK);
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&threads[i], NULL, write_many, sink) == 0);
    for (int i = 0; i < 3; i++)
        (void)pthread_join(threads[i], NULL);
    uint64_t dropped = sp_sink_dropped_count(sink);
    sp_sink_close(sink);
    CHECK_INT(dropped, 0);
    CHECK_INT(count_lines(path, "{\"line\":"), 15000);
    (void)unlink(path);
}

TEST(base_sink_is_opened_anew)
{
    char path[64], moved[80];
    sp_error err = { 0 };
    sp_sink *sink = NULL;
    temporary(path);
    (void)snprintf(moved, sizeof(moved), "%s.1", path);
    REQUIRE(sp_sink_open(path, &sink, &err) == SP_OK);
    sp_sink_write(sink, "one\n", 4);
    for (int i = 0; i < 2000 && !count_lines(path, "one"); i++)
        (void)poll(NULL, 0, 1); /* until the thread has written it */
    REQUIRE(rename(path, moved) == 0);
    sp_sink_reopen(sink);
    sp_sink_write(sink, "two\n", 4);
    sp_sink_close(sink);
    CHECK_INT(count_lines(moved, "one"), 1);
    CHECK_INT(count_lines(path, "two"), 1);
    (void)unlink(path);
    (void)unlink(moved);
}

TEST(base_sink_drops_when_nobody_reads)
{
    int ends[2], kept = dup(STDERR_FILENO);
    sp_error err = { 0 };
    sp_sink *sink = NULL;
    static char line[1000];
    REQUIRE(pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    REQUIRE(sp_sink_open("stderr", &sink, &err) == SP_OK);
    memset(line, 'x', sizeof(line));
    line[sizeof(line) - 1] = '\n';
    for (int i = 0; i < 4000; i++)
        sp_sink_write(sink, line, sizeof(line)); /* 4 MB: more than pipe and buffers hold; none of them waits */
    CHECK(sp_sink_dropped_count(sink) > 500);
    sp_sink_close(sink);
    REQUIRE(dup2(kept, STDERR_FILENO) >= 0);
    (void)close(ends[0]);
    (void)close(ends[1]);
    (void)close(kept);
}

TEST(base_sink_says_what_cannot_be_written)
{
    sp_error err = { 0 };
    sp_sink *sink = NULL;
    CHECK_INT(sp_sink_open("/nowhere/at/all.log", &sink, &err), SP_INVALID);
    CHECK(strstr(err.message, "/nowhere/at/all.log") != NULL);
}
