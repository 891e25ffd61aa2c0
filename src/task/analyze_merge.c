/* SPDX-License-Identifier: Apache-2.0
 * All segments of a video into one analysis: checked, put in order, then what goes over frames (scenes, tracks, key frames).
 * A pure function of index, parameters and the segments' bytes; the order in which they came does not matter. */
#include "task/analyze_internal.h"

#include <stdlib.h>

uint64_t sp_isqrt(uint64_t x)
{
    uint64_t root = 0;
    for (uint64_t bit = UINT64_C(1) << 62; bit; bit >>= 2) {
        if (x >= root + bit) {
            x -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return root;
}

static sp_status out_of_memory(sp_error *reterr)
{
    return SP_FAIL(reterr, SP_NOMEM, "no memory to merge the analysis of a video");
}

/* Where each segment lies in the caller's bytes. */
static sp_status find_segments(sp_analysis *a, sp_view segments, size_t *offsets, sp_error *reterr)
{
    size_t at = 0;
    for (uint32_t i = 0; i < a->index->segment_count; i++)
        offsets[i] = SIZE_MAX;
    while (at < segments.size_bytes) {
        uint64_t bytes = 0;
        sp_status s = sp_segment_check(sp_view_make(segments.data + at, segments.size_bytes - at), a->index, &a->params, &bytes,
                                       reterr);
        if (s)
            return s;
        uint32_t number = ((const sp_segment_head *)(const void *)(segments.data + at))->segment;
        if (offsets[number] != SIZE_MAX)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_segment", "segment %u of the analysis came twice", number);
        offsets[number] = at;
        at += (size_t)bytes;
    }
    for (uint32_t i = 0; i < a->index->segment_count; i++) {
        if (offsets[i] == SIZE_MAX)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_segment", "segment %u of %u of the analysis is missing", i,
                                a->index->segment_count);
    }
    return SP_OK;
}

/* Copies the segments in order and points at their records. */
static void place_segments(sp_analysis *a, sp_view segments, const size_t *offsets)
{
    size_t to = 0;
    for (uint32_t i = 0; i < a->index->segment_count; i++) {
        const sp_segment_head *head = (const sp_segment_head *)(const void *)(segments.data + offsets[i]);
        memcpy(a->bytes + to, head, (size_t)head->bytes);
        a->segments[i] = (const sp_segment_head *)(const void *)(a->bytes + to);
        const uint8_t *record = a->bytes + to + sizeof(*head);
        for (uint32_t k = 0; k < a->segments[i]->record_count; k++) {
            a->frames[a->frame_count++] = (const sp_frame_record *)(const void *)record;
            record += sp_record_bytes((const sp_frame_record *)(const void *)record);
        }
        to += (size_t)head->bytes;
    }
}

static sp_status gather(sp_analysis *a, sp_view segments, sp_error *reterr)
{
    size_t count = a->index->segment_count, frames = a->index->frame_count;
    size_t *offsets = calloc(count + 1, sizeof(*offsets));

    a->segments = calloc(count + 1, sizeof(*a->segments));
    a->frames = calloc(frames + 1, sizeof(*a->frames));
    a->verdicts = calloc(frames + 1, sizeof(*a->verdicts));
    a->bytes = malloc(segments.size_bytes + 8);
    sp_status s = offsets && a->segments && a->frames && a->verdicts && a->bytes ? find_segments(a, segments, offsets, reterr)
                                                                                 : out_of_memory(reterr);
    if (!s)
        place_segments(a, segments, offsets);
    free(offsets);
    return s;
}

sp_status sp_analysis_merge(const sp_video_index *index, const sp_analyze_params *params, sp_view segments,
                            sp_analysis **ret_analysis, sp_error *reterr)
{
    SP_CLEANUP(sp_analysis_freep) sp_analysis *a = calloc(1, sizeof(*a));

    SP_ASSERT((uintptr_t)segments.data % 8 == 0);
    if (!a)
        return out_of_memory(reterr);
    a->index = index;
    a->params = *params;
    sp_status s = gather(a, segments, reterr);
    if (!s)
        s = sp_analysis_find_scenes(a, reterr);
    if (!s)
        s = sp_analysis_find_tracks(a, reterr);
    if (s)
        return s;
    uint32_t *distances = calloc((size_t)a->frame_count + 1, sizeof(*distances));
    if (!distances)
        return out_of_memory(reterr);
    sp_analysis_choose_keys(a, distances);
    free(distances);
    *ret_analysis = SP_STEAL(a);
    return SP_OK;
}

void sp_analysis_free(sp_analysis *a)
{
    if (!a)
        return;
    free(a->bytes);
    free(a->segments);
    free(a->frames);
    free(a->verdicts);
    free(a->scenes);
    free(a->motion.tracks);
    free(a->defects.tracks);
    free(a);
}

uint32_t sp_analysis_frames(const sp_analysis *a)
{
    return a->frame_count;
}

uint32_t sp_analysis_key_frames(const sp_analysis *a, uint32_t ret_numbers[SP_LIMIT_KEY_FRAMES])
{
    for (uint32_t i = 0; i < a->key_count; i++)
        ret_numbers[i] = a->frames[a->keys[i]]->number;
    return a->key_count;
}

int64_t sp_analysis_time_us(const sp_analysis *a, uint32_t number)
{
    const sp_video_index *index = a->index;
    if (!index->has_times || index->time_base_den <= 0)
        return -1;
    const int64_t *pts = sp_video_index_pts(index);
    __int128 us = ((__int128)pts[number] - pts[0]) * index->time_base_num * 1000000 / index->time_base_den;
    return us > INT64_MAX ? INT64_MAX : us < 0 ? 0 : (int64_t)us;
}
