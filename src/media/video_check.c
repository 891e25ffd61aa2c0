/* SPDX-License-Identifier: Apache-2.0
 * Is a block of bytes from another process an index? No libav here: a gateway may ask too. */
#include "base/limits.h"
#include "media/video.h"

#define BAD(...) SP_FAIL_CODE(reterr, SP_INVALID, "bad_index", "the index of a video is damaged: " __VA_ARGS__)

static bool text_ends(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

/* `count` items of `item_bytes` at `offset` lie behind the header and inside the block. */
static bool table_fits(const sp_video_index *index, uint64_t offset, uint64_t count, size_t item_bytes)
{
    uint64_t bytes;
    return offset % 8 == 0 && offset >= sizeof(*index) && !__builtin_mul_overflow(count, item_bytes, &bytes) &&
           offset <= index->index_bytes && bytes <= index->index_bytes - offset;
}

static sp_status check_header(const sp_video_index *index, size_t size_bytes, sp_error *reterr)
{
    if (index->abi != SP_VIDEO_INDEX_ABI)
        return BAD("version %u", index->abi);
    if (index->index_bytes != size_bytes)
        return BAD("it says %u bytes and has %zu", index->index_bytes, size_bytes);
    if (!text_ends(index->format, sizeof(index->format)) || !text_ends(index->codec, sizeof(index->codec)) ||
        !text_ends(index->pixel_format, sizeof(index->pixel_format)))
        return BAD("a name has no end");
    if (index->note_count > SP_LIMIT_VIDEO_NOTES)
        return BAD("%u notes", index->note_count);
    for (uint32_t i = 0; i < index->note_count; i++) {
        if (!text_ends(index->notes[i], sizeof(index->notes[i])))
            return BAD("a note has no end");
    }
    int32_t w = index->width, h = index->height;
    if (w < 1 || h < 1 || (uint64_t)w * (uint64_t)h > SP_LIMIT_VIDEO_PIXELS)
        return BAD("%d x %d pixels", w, h);
    bool turned = index->rotation == 90 || index->rotation == 270;
    if (!turned && index->rotation != 0 && index->rotation != 180)
        return BAD("rotation %d", index->rotation);
    if (index->coded_width != (turned ? h : w) || index->coded_height != (turned ? w : h))
        return BAD("stored as %d x %d, shown as %d x %d", index->coded_width, index->coded_height, w, h);
    if (index->mirrored > 1 || index->limited_range > 1 || index->has_times > 1 || index->variable_rate > 1)
        return BAD("a flag is no flag");
    if (index->time_base_num < 1 || index->time_base_den < 1 || index->rate_num < 0 || index->rate_den < 1)
        return BAD("time base %d/%d, rate %d/%d", index->time_base_num, index->time_base_den, index->rate_num, index->rate_den);
    if (index->frame_count < 1 || index->frame_count > SP_LIMIT_VIDEO_FRAMES || index->duration_pts < 0)
        return BAD("%u frames", index->frame_count);
    return SP_OK;
}

static sp_status check_runs(const sp_video_index *index, sp_error *reterr)
{
    const sp_video_run *runs = sp_video_index_runs(index);
    uint64_t at = 0, packet = 0;
    for (uint32_t i = 0; i < index->run_count; i++) {
        bool last = i + 1 == index->run_count;
        if (runs[i].first_frame != at || runs[i].frame_count < 1 || runs[i].frame_count > index->frame_count - at ||
            (i && runs[i].first_packet <= packet) || (index->packet_count && runs[i].first_packet >= index->packet_count))
            return BAD("run %u", i);
        at += runs[i].frame_count;
        packet = runs[i].first_packet;
        if (last && at != index->frame_count)
            return BAD("the runs have %llu of %u frames", (unsigned long long)at, index->frame_count);
    }
    return SP_OK;
}

static sp_status check_segments(const sp_video_index *index, sp_error *reterr)
{
    const sp_video_run *runs = sp_video_index_runs(index);
    const sp_video_segment *segments = sp_video_index_segments(index);
    uint64_t at = 0;
    uint32_t run = 0;
    for (uint32_t i = 0; i < index->segment_count; i++) {
        const sp_video_segment *segment = &segments[i];
        if (segment->run >= index->run_count || segment->run < run || segment->run > run + 1)
            return BAD("segment %u", i);
        run = segment->run;
        uint64_t run_end = (uint64_t)runs[run].first_frame + runs[run].frame_count;
        if (segment->first_frame != at || segment->frame_count < 1 || at < runs[run].first_frame ||
            segment->frame_count > run_end - SP_MIN(at, run_end))
            return BAD("segment %u", i);
        at += segment->frame_count;
    }
    if (at != index->frame_count)
        return BAD("the segments have %llu of %u frames", (unsigned long long)at, index->frame_count);
    return SP_OK;
}

sp_status sp_video_index_check(sp_view block, sp_error *reterr)
{
    const sp_video_index *index = (const sp_video_index *)(const void *)block.data;
    if (block.size_bytes < sizeof(*index) || (uintptr_t)block.data % 8)
        return BAD("%zu bytes", block.size_bytes);
    sp_status s = check_header(index, block.size_bytes, reterr);
    if (s)
        return s;
    if (!index->run_count || !index->segment_count || index->run_count > index->frame_count ||
        index->segment_count > index->frame_count || index->packet_count > UINT32_MAX)
        return BAD("%u runs, %u segments", index->run_count, index->segment_count);
    if (!table_fits(index, index->runs_offset, index->run_count, sizeof(sp_video_run)) ||
        !table_fits(index, index->segments_offset, index->segment_count, sizeof(sp_video_segment)) ||
        !table_fits(index, index->pts_offset, index->frame_count, sizeof(int64_t)) ||
        (index->packet_count && !table_fits(index, index->packets_offset, index->packet_count, sizeof(uint32_t))))
        return BAD("a table lies outside");
    const int64_t *pts = sp_video_index_pts(index);
    for (uint32_t i = 1; i < index->frame_count; i++) {
        if (pts[i] <= pts[i - 1])
            return BAD("the timestamps do not rise at frame %u", i);
    }
    const uint32_t *packets = sp_video_index_packets(index);
    for (uint64_t i = 0; i < index->packet_count; i++) {
        if (packets[i] != UINT32_MAX && packets[i] >= index->frame_count)
            return BAD("packet %llu shows frame %u", (unsigned long long)i, packets[i]);
    }
    s = check_runs(index, reterr);
    return s ? s : check_segments(index, reterr);
}
