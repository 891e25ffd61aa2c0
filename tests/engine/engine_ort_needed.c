/* SPDX-License-Identifier: Apache-2.0
 * What a shared library asks for is read from its file, and nothing is opened for it; what is no such file asks for nothing. */
#include "engine/onnxruntime/ort.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char names[ORT_NEEDED_MAX][ORT_NEEDED_NAME];

TEST(this_program_asks_for_the_c_library)
{
    size_t count = ort_needed("/proc/self/exe", names);
    bool found = false;
    for (size_t i = 0; i < count; i++)
        found |= strncmp(names[i], "libc.so", 7) == 0;
    CHECK(found && count < ORT_NEEDED_MAX);
}

TEST(what_is_no_library_asks_for_nothing)
{
    CHECK_INT(ort_needed("/nonexistent", names), 0);
    CHECK_INT(ort_needed("/dev/null", names), 0);
    CHECK_INT(ort_needed("/etc/passwd", names), 0);
}

/* Cut anywhere, and damaged in its first 4 KiB: fewer names, or others that end; never more, never a fault. */
TEST(a_damaged_one_is_survived)
{
    static uint8_t whole[64 * 1024];
    FILE *self = fopen("/proc/self/exe", "rb");
    REQUIRE(self);
    size_t size = fread(whole, 1, sizeof(whole), self);
    (void)fclose(self);
    char path[] = "/tmp/spillway-needed-XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0 && size > 4096);
    for (int round = 0; round < 400; round++) {
        size_t part = round % 2 ? size : (size_t)test_random() % size, at = (size_t)test_random() % 1024;
        uint8_t was = whole[at];
        if (round % 2)
            whole[at] = (uint8_t)test_random();
        REQUIRE(ftruncate(fd, 0) == 0 && pwrite(fd, whole, part, 0) == (ssize_t)part);
        whole[at] = was;
        size_t count = ort_needed(path, names);
        CHECK(count <= ORT_NEEDED_MAX);
        for (size_t i = 0; i < count; i++)
            CHECK(memchr(names[i], '\0', ORT_NEEDED_NAME) != NULL);
    }
    (void)close(fd);
    (void)unlink(path);
}
