/* SPDX-License-Identifier: Apache-2.0
 * Videos that are nothing but numbers, for tests of what stands around the decoder: an index of any shape, and a program that acts
 * as `spillway frames` (fake_frames.c) whose frames are a function of their number.
 *
 * The "file" is text of words: lost=N and damaged=N (that frame), crash=N (SIGSEGV before that frame), kill=N (SIGKILL), spin=N (no end before that
 * frame), nonsense=N (a place that is not there), noise=N (hundreds of words
 * at random), open=STATUS (it cannot be read), each as often as one likes. */
#ifndef SP_TESTS_WORKER_FAKE_VIDEO_H
#define SP_TESTS_WORKER_FAKE_VIDEO_H

#include "media/video.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fake_shape {
    int32_t w, h;
    uint32_t frames, segment_frames, run_segments;
} fake_shape;

static inline sp_video_index *fake_index(const fake_shape *shape)
{
    uint32_t segments = (shape->frames + shape->segment_frames - 1) / shape->segment_frames;
    uint32_t runs = (segments + shape->run_segments - 1) / shape->run_segments;
    size_t runs_at = SP_ALIGN_UP(sizeof(sp_video_index), (size_t)8);
    size_t segments_at = SP_ALIGN_UP(runs_at + runs * sizeof(sp_video_run), (size_t)8);
    size_t pts_at = SP_ALIGN_UP(segments_at + segments * sizeof(sp_video_segment), (size_t)8);
    size_t bytes = pts_at + shape->frames * sizeof(int64_t);
    sp_video_index *index = calloc(1, bytes);
    if (!index)
        abort();
    index->abi = SP_VIDEO_INDEX_ABI;
    index->index_bytes = (uint32_t)bytes;
    memset(index->sha256, 7, sizeof(index->sha256)); /* never 0 */
    index->file_bytes = 1000;
    (void)snprintf(index->format, sizeof(index->format), "fake");
    (void)snprintf(index->codec, sizeof(index->codec), "fake");
    (void)snprintf(index->pixel_format, sizeof(index->pixel_format), "gray");
    index->width = index->coded_width = shape->w;
    index->height = index->coded_height = shape->h;
    index->has_times = 1;
    index->time_base_num = 1;
    index->time_base_den = 1000;
    index->rate_num = 25;
    index->rate_den = 1;
    index->duration_pts = shape->frames * 40;
    index->frame_count = shape->frames;
    index->run_count = runs;
    index->segment_count = segments;
    index->runs_offset = runs_at;
    index->segments_offset = segments_at;
    index->pts_offset = pts_at;
    sp_video_run *run = (sp_video_run *)(void *)((uint8_t *)index + runs_at);
    sp_video_segment *segment = (sp_video_segment *)(void *)((uint8_t *)index + segments_at);
    int64_t *pts = (int64_t *)(void *)((uint8_t *)index + pts_at);
    for (uint32_t i = 0; i < shape->frames; i++)
        pts[i] = (int64_t)i * 40;
    for (uint32_t i = 0; i < segments; i++) {
        segment[i].run = i / shape->run_segments;
        segment[i].first_frame = i * shape->segment_frames;
        segment[i].frame_count = SP_MIN(shape->segment_frames, shape->frames - segment[i].first_frame);
        sp_video_run *of = &run[segment[i].run];
        if (i % shape->run_segments == 0)
            *of = (sp_video_run){ .key_pts = segment[i].first_frame * 40, .first_packet = segment[i].first_frame,
                                  .first_frame = segment[i].first_frame };
        of->frame_count += segment[i].frame_count;
    }
    return index;
}

/* A bright square that wanders over a pattern, which is the film's own (the first byte of its digest). */
static inline void fake_frame(const sp_video_index *index, uint32_t number, uint8_t *dst, size_t stride_bytes)
{
    int left = (int)(number * 3) % SP_MAX(index->width - 12, 1), top = (int)(number * 2) % SP_MAX(index->height - 12, 1);
    for (int y = 0; y < index->height; y++) {
        for (int x = 0; x < index->width; x++) {
            bool inside = x >= left && x < left + 12 && y >= top && y < top + 12;
            dst[(size_t)y * stride_bytes + (size_t)x] = (uint8_t)(inside ? 200 + (x + y) % 32 : (x * 5 ^ y * 3) % 96 + (int)number % index->sha256[0]);
        }
    }
}

/* Does the file say `word`=`number`? */
static inline bool fake_says(const char *file, const char *word, uint32_t number)
{
    char text[48];
    (void)snprintf(text, sizeof(text), " %s=%u ", word, number);
    return strstr(file, text) != NULL;
}

#endif
