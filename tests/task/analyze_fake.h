/* SPDX-License-Identifier: Apache-2.0
 * A video that was never filmed: an index, and records to fill its segments with. */
#ifndef SP_TESTS_TASK_ANALYZE_FAKE_H
#define SP_TESTS_TASK_ANALYZE_FAKE_H

#include "task/analyze.h"

#define FAKE_W 320
#define FAKE_H 240

/* `frames` frames, 25 a second, in segments of `segment_frames`, one run. The caller frees it. */
sp_video_index *fake_index(uint32_t frames, uint32_t segment_frames);
/* A plain frame of that video: nothing in it, nothing moves. */
sp_frame_record fake_record(const sp_video_index *index, uint32_t number);
/* One full of random but possible values. */
sp_frame_record fake_random_record(const sp_video_index *index, uint32_t number);
/* Appends segment `segment` of `records` (of all frames of the video, by number). */
void fake_segment(sp_buf *out, const sp_video_index *index, const sp_analyze_params *params, const sp_frame_record *records,
                  uint32_t segment);
/* All of it, merged; aborts the test if that fails. */
sp_analysis *fake_analysis(const sp_video_index *index, const sp_analyze_params *params, const sp_frame_record *records);
sp_frame_region fake_region(int x0, int y0, int w, int h);

#endif
