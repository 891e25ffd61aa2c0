/* SPDX-License-Identifier: Apache-2.0
 * A progress line on stderr, for people: nothing is written unless stderr is a terminal. */
#ifndef SP_CLI_PROGRESS_H
#define SP_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum sp_progress_unit { SP_PROGRESS_BYTES, SP_PROGRESS_FILES, SP_PROGRESS_FRAMES } sp_progress_unit;

typedef struct sp_progress {
    const char *label; /* "resnet18"; borrowed */
    sp_progress_unit unit;
    bool active;       /* stderr is a terminal */
    bool drawn;
    int64_t start_ns, last_ns;
    uint64_t first, done; /* at the first and the last update */
    bool begun;
} sp_progress;

void sp_progress_begin(sp_progress *progress, const char *label, sp_progress_unit unit);
/* Redraws at most ten times a second: bar, amount, rate, time left. total 0 = unknown. */
void sp_progress_update(sp_progress *progress, uint64_t done, uint64_t total);
/* Wipes the line, so that what is printed next stands in its place. */
void sp_progress_end(sp_progress *progress);

#endif
