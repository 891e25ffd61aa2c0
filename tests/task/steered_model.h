/* SPDX-License-Identifier: Apache-2.0
 * A repository with one model, "m", for the steered engine (fake/fake_engine.c): a classifier of 8 x 8 pixels with four labels.
 * Included once, by a test's file. */
#ifndef SP_TESTS_TASK_STEERED_MODEL_H
#define SP_TESTS_TASK_STEERED_MODEL_H

#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static char repository[64]; /* "" until it is made */

static void write_text(const char *name, const char *text)
{
    char path[160];
    (void)snprintf(path, sizeof(path), "%s/m/%s", repository, name);
    FILE *file = fopen(path, "we");
    REQUIRE(file != NULL);
    CHECK(fputs(text, file) >= 0);
    CHECK_INT(fclose(file), 0);
}

/* Once a program. `divisor`: of a pixel's value; beyond 255 no picture is one of the engine's tricks. */
static void make_repository(const char *filter, int divisor)
{
    char path[160], settings[256];
    if (*repository)
        return;
    (void)snprintf(repository, sizeof(repository), "/tmp/spillway-steered-XXXXXX");
    REQUIRE(mkdtemp(repository) != NULL);
    (void)snprintf(path, sizeof(path), "%s/m", repository);
    REQUIRE(mkdir(path, 0755) == 0);
    (void)snprintf(path, sizeof(path), "%s/m/1", repository);
    REQUIRE(mkdir(path, 0755) == 0);
    write_text("1/model.onnx", "the steered engine reads none of this");
    write_text("labels.txt", "ant\nbee\ncow\ndog\n");
    (void)snprintf(settings, sizeof(settings),
                   "{\"output_kind\":\"logits\",\"preprocess\":{\"filter\":\"%s\",\"fit\":\"stretch\",\"resize\":[8,8],\"crop\":[8,8],"
                   "\"divisor\":%d,\"mean\":[0,0,0],\"std\":[1,1,1]}}", filter, divisor);
    write_text("spillway.json", settings);
}

#endif
