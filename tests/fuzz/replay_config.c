/* SPDX-License-Identifier: Apache-2.0
 * The kept seeds of a fuzz target for text (config; SP_FUZZ_TARGET names another) as a plain test: each as it is, cut at
 * many lengths, and with bytes changed. A crash is the failure. */
#include "test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

#ifndef SP_FUZZ_TARGET
#define SP_FUZZ_TARGET "config"
#endif
#define CUTS 100
#define CHANGED 100

static void replay_file(const char *path)
{
    size_t size;
    uint8_t *data = test_read_file(path, &size);
    REQUIRE(data && size);
    uint8_t *changed = malloc(size);
    REQUIRE(changed);
    for (size_t i = 0; i <= CUTS; i++)
        (void)LLVMFuzzerTestOneInput(data, size * i / CUTS);
    for (int i = 0; i < CHANGED; i++) {
        memcpy(changed, data, size);
        for (int k = test_random_between(1, 4); k > 0; k--)
            changed[test_random() % size] = (uint8_t)" :-[]{}#'\"\n\t,&*!|>%@0a\xff"[test_random() % 24];
        (void)LLVMFuzzerTestOneInput(changed, size);
    }
    free(changed);
    free(data);
}

TEST(the_kept_seeds)
{
    char path[1024];
    int count = 0;
    DIR *dir = opendir(SP_FUZZ_CORPUS "/" SP_FUZZ_TARGET);

    REQUIRE(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s/%s", SP_FUZZ_CORPUS, SP_FUZZ_TARGET, entry->d_name);
        replay_file(path);
        count++;
    }
    (void)closedir(dir);
    CHECK(count >= 5);
}
