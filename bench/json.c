/* SPDX-License-Identifier: Apache-2.0
 * What a tensor as JSON costs: 3x224x224 floats, as numpy's tolist() and json.dumps write them, read into packed memory and
 * written back, beside jansson doing the same (a tree first, as a server built on a document library must).
 *
 *   bench-json [repeats]      -> a table; CPU time, best of the repeats */
#include "kserve/json.h"
#include "kserve/text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNT (3 * 224 * 224)
#define DTYPE_F32 1

static double cpu_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static float values[COUNT], back[COUNT];
static char *text, *written;
static size_t text_bytes, written_bytes, room_bytes = (size_t)COUNT * 32 + 2;

static bool read_ours(void)
{
    uint64_t used;
    sp_text at = { (uint8_t *)text, (uint8_t *)text, (uint8_t *)text + text_bytes };
    return !sp_data_read(&at, DTYPE_F32, COUNT, back, &used, NULL);
}

static bool read_jansson(void)
{
    json_t *tree = json_loadb(text, text_bytes, 0, NULL);
    if (!tree)
        return false;
    for (size_t i = 0; i < COUNT; i++)
        back[i] = (float)json_number_value(json_array_get(tree, i));
    json_decref(tree);
    return true;
}

static bool write_ours(void)
{
    written_bytes = sp_kserve_data_write(DTYPE_F32, values, sizeof(values), written, room_bytes);
    return true;
}

static bool write_jansson(void)
{
    json_t *tree = json_array();
    for (size_t i = 0; i < COUNT; i++)
        json_array_append_new(tree, json_real((double)values[i]));
    char *dumped = json_dumps(tree, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(tree);
    if (!dumped)
        return false;
    written_bytes = strlen(dumped);
    free(dumped);
    return true;
}

static void row(const char *name, bool (*call)(void), int repeats, const size_t *bytes, bool reads)
{
    double best = 1e9;
    for (int i = 0; i < repeats; i++) {
        double begin = cpu_s();
        bool good = call();
        double took = cpu_s() - begin;
        best = took < best ? took : best;
        if (!good || (reads && memcmp(back, values, sizeof(values)) != 0)) {
            printf("%s: wrong result\n", name);
            exit(1);
        }
        memset(back, 0, sizeof(back));
    }
    printf("| %-22s | %5.2f MB | %6.2f ms | %4.0f MB/s | %4.0f M values/s |\n", name, (double)*bytes / 1e6, best * 1e3,
           (double)*bytes / 1e6 / best, COUNT / 1e6 / best);
}

int main(int argc, char **argv)
{
    long repeats = argc > 1 ? strtol(argv[1], NULL, 10) : 20;
    text = malloc(room_bytes);
    written = malloc(room_bytes);
    if (!text || !written || repeats < 1 || repeats > 10000)
        return 2;
    uint64_t random = 1;
    text[text_bytes++] = '[';
    for (int i = 0; i < COUNT; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        values[i] = (float)((double)(random >> 11) / 9007199254740992.0 * 4 - 2); /* a normalised picture's range */
        text_bytes += (size_t)snprintf(text + text_bytes, room_bytes - text_bytes, "%s%.17g", i ? ", " : "", (double)values[i]);
    }
    text[text_bytes++] = ']';
    printf("| 3x224x224 FP32 | text | CPU time | | |\n|---|---|---|---|---|\n");
    row("read, Spillway", read_ours, (int)repeats, &text_bytes, true);
    row("read, jansson " JANSSON_VERSION, read_jansson, (int)repeats, &text_bytes, true);
    row("write, Spillway", write_ours, (int)repeats, &written_bytes, false);
    row("write, jansson " JANSSON_VERSION, write_jansson, (int)repeats, &written_bytes, false);
    free(text);
    free(written);
    return 0;
}
