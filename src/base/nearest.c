/* SPDX-License-Identifier: Apache-2.0
 * See nearest.h. */
#include "base/nearest.h"

#include "base/attr.h"

#include <string.h>

#define WORD_MAX SP_NEAREST_WORD_BYTES

/* Optimal string alignment distance: Levenshtein plus swapped neighbours. */
static int edit_distance(const char *a, const char *b)
{
    size_t a_len = strlen(a), b_len = strlen(b);
    int rows[3][WORD_MAX + 1];

    if (a_len > WORD_MAX || b_len > WORD_MAX)
        return WORD_MAX;
    for (size_t j = 0; j <= b_len; j++)
        rows[0][j] = (int)j;
    for (size_t i = 1; i <= a_len; i++) {
        int *row = rows[i % 3], *above = rows[(i - 1) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= b_len; j++) {
            int cost = a[i - 1] != b[j - 1];
            row[j] = SP_MIN(SP_MIN(above[j] + 1, row[j - 1] + 1), above[j - 1] + cost);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = SP_MIN(row[j], above2[j - 2] + 1);
        }
    }
    return rows[a_len % 3][b_len];
}

const char *sp_nearest(const char *word, const char *const *names, int name_count)
{
    const char *best = NULL;
    int best_distance = WORD_MAX;

    for (int i = 0; i < name_count; i++) {
        int distance = edit_distance(word, names[i]);
        /* "port" means one of the options that end in it, however far away in edits. */
        if (strlen(word) >= 3 && strstr(names[i], word))
            distance = SP_MIN(distance, 2);
        if (distance < best_distance) {
            best_distance = distance;
            best = names[i];
        }
    }
    /* Of what was meant some letter is left, unless it is one letter for another. */
    return best_distance <= SP_MAX(2, (int)strlen(word) / 3) && best_distance < SP_MAX(2, (int)strlen(word)) ? best : NULL;
}
