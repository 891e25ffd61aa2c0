/* SPDX-License-Identifier: Apache-2.0
 * `spillway cost` for a video: what its analysis costs on each device, by frames and frames a second. */
#ifndef SP_CLI_COST_VIDEO_H
#define SP_CLI_COST_VIDEO_H

#include "config/config.h"

typedef struct sp_cost_video {
    const char *run;    /* run.json of `spillway analyze`, or the directory that has it; NULL = none */
    int64_t frames;     /* 0 = those of the run */
    const char *device; /* "l4=600,t4=250": frames a second; NULL = only what the run measured */
    const char *per_hour; /* of all of them, instead of their rates; NULL = none */
    bool json;
} sp_cost_video;

/* Prints; returns the exit code. */
int sp_cost_video_print(const sp_cost_video *words, const sp_config *config);

#endif
