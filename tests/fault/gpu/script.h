/* SPDX-License-Identifier: Apache-2.0
 * What the fake libraries do is in the file that SPILLWAY_FAKE_GPU names, looked at in every call: words, one a line. */
#ifndef FAKE_GPU_SCRIPT_H
#define FAKE_GPU_SCRIPT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FAKE_API __attribute__((visibility("default")))

static int says(const char *word)
{
    char line[64];
    int found = 0;
    const char *path = getenv("SPILLWAY_FAKE_GPU");
    FILE *file = path ? fopen(path, "r") : NULL;
    while (file && !found && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = 0;
        found = strcmp(line, word) == 0;
    }
    if (file)
        (void)fclose(file);
    return found;
}

static inline void hang_if(const char *word)
{
    const struct timespec nap = { 0, 10000000 };
    while (says(word))
        (void)nanosleep(&nap, NULL);
}

#endif
