/* SPDX-License-Identifier: Apache-2.0
 * The kept seeds of the image fuzz targets as a plain test: each as it is, cut at every length, and with random bytes
 * changed (the seed of the randomness is printed with a failure, as always). A crash is the failure. */
#include "base/view.h"
#include "test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

#define CHANGED_PER_SEED 200

static void replay_file(const char *path)
{
    size_t size;
    uint8_t *data = test_read_file(path, &size);
    REQUIRE(data != NULL);
    (void)LLVMFuzzerTestOneInput(data, size);
    for (size_t cut = 0; cut < size; cut += size > 2000 ? 1 + size / 500 : 1)
        (void)LLVMFuzzerTestOneInput(data, cut);
    uint8_t *changed = malloc(size ? size : 1);
    for (int i = 0; size && i < CHANGED_PER_SEED; i++) {
        memcpy(changed, data, size);
        for (int k = test_random_between(1, 4); k > 0; k--)
            changed[test_random() % size] = (uint8_t)test_random();
        (void)LLVMFuzzerTestOneInput(changed, size);
    }
    free(changed);
    free(data);
}

static void replay_corpus(const char *name)
{
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/%s", SP_FUZZ_CORPUS, name);
    DIR *dir = opendir(path);
    if (!dir) {
        test_fail(__FILE__, __LINE__, "no seeds in %s", path);
        return;
    }
    int count = 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s/%s", SP_FUZZ_CORPUS, name, entry->d_name);
        replay_file(path);
        count++;
    }
    (void)closedir(dir);
    CHECK(count > 0);
}

TEST(replay_jpeg)
{
    replay_corpus("jpeg");
}
TEST(replay_png)
{
    replay_corpus("png");
}
TEST(replay_webp)
{
    replay_corpus("webp");
}
TEST(replay_gif)
{
    replay_corpus("gif");
}
TEST(replay_bmp)
{
    replay_corpus("bmp");
}
TEST(replay_tiff)
{
    replay_corpus("tiff");
}
