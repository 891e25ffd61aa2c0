/* SPDX-License-Identifier: Apache-2.0
 * What `spillway analyze` tells people while it runs and at its end. */
#ifndef SP_CLI_ANALYZE_PRINT_H
#define SP_CLI_ANALYZE_PRINT_H

#include "cli/progress.h"
#include "jobs/analysis.h"

typedef struct sp_analyze_progress {
    sp_progress bar;
    bool silent;
    int64_t said_ns;     /* without a terminal: the last line */
    int64_t first_ns;
    uint32_t first_frames;
    bool begun, reporting;
} sp_analyze_progress;

void sp_analyze_progress_begin(sp_analyze_progress *progress, bool silent);
/* A bar on a terminal; else a line every ten seconds. */
void sp_analyze_progress_show(sp_analyze_progress *progress, const sp_analysis_run *run);
void sp_analyze_progress_end(sp_analyze_progress *progress);

/* mode, devices, chunks, "analysed N of N frames", time, cost. */
void sp_analyze_print(const sp_analysis_run *run, const char *output);

#endif
