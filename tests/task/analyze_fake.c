/* SPDX-License-Identifier: Apache-2.0 */
#include "analyze_fake.h"

#include "test.h"

#include <stdio.h>
#include <stdlib.h>

sp_video_index *fake_index(uint32_t frames, uint32_t segment_frames)
{
    uint32_t segments = (frames + segment_frames - 1) / segment_frames;
    size_t runs_at = SP_ALIGN_UP(sizeof(sp_video_index), 8), segments_at = SP_ALIGN_UP(runs_at + sizeof(sp_video_run), 8);
    size_t pts_at = SP_ALIGN_UP(segments_at + segments * sizeof(sp_video_segment), 8), bytes = pts_at + 8 * (size_t)frames;
    sp_video_index *x = calloc(1, bytes);

    REQUIRE(x != NULL);
    *x = (sp_video_index){ .abi = SP_VIDEO_INDEX_ABI, .index_bytes = (uint32_t)bytes, .file_bytes = 123456, .format = "mov,mp4",
        .codec = "h264", .pixel_format = "yuv420p", .width = FAKE_W, .height = FAKE_H, .coded_width = FAKE_W,
        .coded_height = FAKE_H, .limited_range = 1, .has_times = 1, .time_base_num = 1, .time_base_den = 12800, .rate_num = 25,
        .rate_den = 1, .duration_pts = 512 * (int64_t)frames, .frame_count = frames, .run_count = 1, .segment_count = segments,
        .note_count = 1, .runs_offset = runs_at, .segments_offset = segments_at, .pts_offset = pts_at };
    for (int i = 0; i < 32; i++)
        x->sha256[i] = (uint8_t)(i * 7 + 1);
    (void)snprintf(x->notes[0], sizeof(x->notes[0]), "odd: <b>\"quoted\"</b> & cut");
    sp_video_run *run = (sp_video_run *)(void *)((uint8_t *)x + runs_at);
    *run = (sp_video_run){ .key_position = -1, .frame_count = frames };
    sp_video_segment *segment = (sp_video_segment *)(void *)((uint8_t *)x + segments_at);
    for (uint32_t i = 0; i < segments; i++)
        segment[i] = (sp_video_segment){ 0, i * segment_frames, SP_MIN(segment_frames, frames - i * segment_frames) };
    int64_t *pts = (int64_t *)(void *)((uint8_t *)x + pts_at);
    for (uint32_t i = 0; i < frames; i++)
        pts[i] = 512 * (int64_t)i;
    return x;
}

sp_frame_record fake_record(const sp_video_index *index, uint32_t number)
{
    sp_frame_record r;
    memset(&r, 0, sizeof(r));
    r.number = number;
    r.pts = sp_video_index_pts(index)[number];
    r.has_pair = number + 1 < index->frame_count;
    r.mean = 120000;
    r.deviation = 50000;
    r.sharpness = 500000;
    r.edges = 4000;
    return r;
}

sp_frame_region fake_region(int x0, int y0, int w, int h)
{
    return (sp_frame_region){ .x0 = (uint16_t)x0, .y0 = (uint16_t)y0, .x1 = (uint16_t)(x0 + w), .y1 = (uint16_t)(y0 + h),
        .area = (uint32_t)(w * h), .centre_x = (uint32_t)(256 * x0 + 128 * (w - 1)), .centre_y = (uint32_t)(256 * y0 + 128 * (h - 1)),
        .strength = 2048 };
}

static uint32_t below(uint32_t bound)
{
    return (uint32_t)(test_random() % ((uint64_t)bound + 1));
}

static uint32_t random_regions(sp_frame_region *regions)
{
    uint32_t count = below(20);
    for (uint32_t i = 0; i < SP_MIN(count, (uint32_t)SP_LIMIT_FRAME_REGIONS); i++) {
        int w = 1 + (int)below(39), h = 1 + (int)below(39);
        regions[i] = fake_region((int)below((uint32_t)(FAKE_W - w)), (int)below((uint32_t)(FAKE_H - h)), w, h);
        regions[i].area = 1 + below(regions[i].area - 1);
        regions[i].strength = below(60000);
    }
    return count;
}

sp_frame_record fake_random_record(const sp_video_index *index, uint32_t number)
{
    sp_frame_record r = fake_record(index, number);
    r.damaged = below(9) == 0;
    r.key = below(9) == 0;
    r.mean = below(255000);
    r.deviation = below(127000);
    r.dark = below(1000);
    r.bright = below(1000);
    r.sharpness = below(2000000);
    r.edges = below(FAKE_W * FAKE_H);
    r.defect_count = random_regions(r.defects);
    if (!r.has_pair)
        return r;
    r.cut = below(19) == 0;
    r.difference = below(255000);
    r.histogram_distance = below(1000);
    r.flow_x = (int32_t)below(100000) - 50000;
    r.flow_y = (int32_t)below(100000) - 50000;
    r.flow_mean = below(100000);
    r.flow_deviation = below(100000);
    r.flow_max = below(1 << 24);
    r.moving = below(FAKE_W * FAKE_H);
    r.mask_area = below(FAKE_W * FAKE_H);
    for (int i = 0; i < 8; i++)
        r.direction[i] = below(1000);
    r.motion_count = random_regions(r.motion);
    return r;
}

void fake_segment(sp_buf *out, const sp_video_index *index, const sp_analyze_params *params, const sp_frame_record *records,
                  uint32_t segment)
{
    const sp_video_segment *place = &sp_video_index_segments(index)[segment];
    sp_segment_write(out, index, params, segment, records + place->first_frame, place->frame_count, NULL);
}

sp_analysis *fake_analysis(const sp_video_index *index, const sp_analyze_params *params, const sp_frame_record *records)
{
    sp_buf bytes;
    sp_error err = { 0 };
    sp_analysis *a = NULL;
    sp_buf_init(&bytes, 1u << 28);
    for (uint32_t i = 0; i < index->segment_count; i++)
        fake_segment(&bytes, index, params, records, i);
    sp_status s = sp_analysis_merge(index, params, sp_buf_view(&bytes), &a, &err);
    sp_buf_done(&bytes);
    CHECK_TEXT(err.message, "");
    REQUIRE(s == SP_OK);
    return a;
}
