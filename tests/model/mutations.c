/* SPDX-License-Identifier: Apache-2.0
 * 1,000 generated mutations of real configurations: each is an error that names the file, or a configuration whose JSON reads
 * back to itself; none crashes. What is checked of each stands in tests/fuzz/fuzz_pbtxt.c. */
#include "test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUTATIONS 1000
#define SEEDS     16
#define ROOM      4096 /* beyond the seed */

typedef struct seed {
    uint8_t *data;
    size_t size;
} seed;

static int load_seeds(seed seeds[SEEDS])
{
    char path[1024];
    int count = 0;
    DIR *dir = opendir(SP_FUZZ_CORPUS);

    REQUIRE(dir);
    for (struct dirent *entry = readdir(dir); entry && count < SEEDS; entry = readdir(dir)) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", SP_FUZZ_CORPUS, entry->d_name);
        seeds[count].data = test_read_file(path, &seeds[count].size);
        REQUIRE(seeds[count].data && seeds[count].size);
        count++;
    }
    (void)closedir(dir);
    return count;
}

/* Where a random word of the text begins, and how long it is. */
static size_t word_at(const uint8_t *text, size_t size, size_t *ret_length)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789\"";
    size_t at = size ? test_random() % size : 0, end;

    while (at > 0 && strchr(letters, text[at - 1]) && text[at - 1])
        at--;
    for (end = at; end < size && text[end] && strchr(letters, text[end]); end++)
        ;
    *ret_length = end - at;
    return at;
}

static size_t replace(uint8_t *text, size_t size, size_t at, size_t length, const void *with, size_t with_length)
{
    memmove(text + at + with_length, text + at + length, size - at - length);
    memcpy(text + at, with, with_length);
    return size - length + with_length;
}

static size_t mutate(uint8_t *text, size_t size, const seed *other)
{
    static const char *const words[] = {
        "", "0", "-1", "99999999999999999999", "4294967296", "1e400", "nan", "TYPE_FP32", "TYPE_INVALID", "KIND_GPU", "true", "\"\"",
        "\"../../etc/passwd\"", "\"\\x00\"", "\"\\ud800\"", "'a' \"b\"", "{", "}", "[", "]", "<", ">", "{}", "[]", ":", "# ", "dims",
        "name", "input", "dynamic_batching", "ensemble_scheduling", "sequence_batching {}", "max_batch_size: 3", "\xff\xfe", "input_map",
    };
    size_t length, at = word_at(text, size, &length);
    const char *word = words[test_random() % (sizeof(words) / sizeof(*words))];

    switch (test_random() % 6) {
    case 0: /* another word */
        return replace(text, size, at, length, word, strlen(word));
    case 1: /* a letter more or less, as people mistype */
        return test_random() % 2 ? replace(text, size, at, length ? 1 : 0, "", 0) : replace(text, size, at, 0, "x", 1);
    case 2: /* a byte */
        text[at < size ? at : 0] = (uint8_t)test_random();
        return size;
    case 3: /* cut off */
        return size ? 1 + test_random() % size : 0;
    case 4: { /* a piece twice */
        size_t wanted = test_random() % 200, piece = SP_MIN(wanted, size - at);
        uint8_t copy[200];
        memcpy(copy, text + at, piece);
        return replace(text, size, at, 0, copy, piece);
    }
    default: { /* a piece of another configuration */
        size_t from = test_random() % other->size, wanted = test_random() % 300, piece = SP_MIN(wanted, other->size - from);
        return replace(text, size, at, 0, other->data + from, piece);
    }
    }
}

TEST(a_thousand_mutations_are_errors_or_configurations)
{
    seed seeds[SEEDS] = { { 0 } };
    int count = load_seeds(seeds);

    REQUIRE(count >= 6);
    for (int i = 0; i < count; i++)
        (void)LLVMFuzzerTestOneInput(seeds[i].data, seeds[i].size);
    for (int i = 0; i < MUTATIONS; i++) {
        const seed *from = &seeds[i % count];
        size_t size = from->size;
        uint8_t *text = malloc(size + ROOM), *exact;
        REQUIRE(text);
        memcpy(text, from->data, size);
        for (int k = test_random_between(1, 4); k > 0; k--)
            size = mutate(text, size, &seeds[test_random() % (unsigned)count]);
        exact = malloc(size ? size : 1); /* so that a byte read behind it is seen */
        REQUIRE(exact);
        memcpy(exact, text, size);
        (void)LLVMFuzzerTestOneInput(exact, size);
        free(exact);
        free(text);
    }
    for (int i = 0; i < count; i++)
        free(seeds[i].data);
}
