/* SPDX-License-Identifier: Apache-2.0
 * Which packet shows which frame, and when; then runs and segments. Frames are numbered by the order of their timestamps. Small
 * faults of the timestamps are mended by fixed rules; where they make no sense the frames are counted as they come out of one
 * decoder, and the whole file is one run. */
#include "media/video_packets.h"

#include <stdlib.h>

/* A decoder holds 16 frames at most (H.264 and HEVC), which may come in twice as many packets: a frame shown further than this
 * from where it is decoded has a false timestamp. */
#define MAX_SHIFT 32

typedef struct place {
    int64_t time;
    uint64_t ordinal;
} place;

static int by_time(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->time != y->time)
        return x->time < y->time ? -1 : 1;
    return x->ordinal < y->ordinal ? -1 : x->ordinal > y->ordinal;
}

/* A clock that is set back in the middle (streams glued together) goes on where it was. false: to no end of it. */
static bool join_clocks(sp_video_packets *packets, int64_t second_ticks)
{
    int64_t last = AV_NOPTS_VALUE, step = 1, offset = 0;
    packets->joined = 0;
    for (uint64_t i = packets->first; i < packets->count; i++) {
        sp_video_packet *item = &packets->items[i];
        if (item->dts != AV_NOPTS_VALUE) {
            int64_t now = item->dts + offset;
            if (last != AV_NOPTS_VALUE && now < last - second_ticks / 2) {
                offset += last + step - now;
                if (offset > INT64_C(1) << 60)
                    return false;
                now = last + step;
                packets->joined++;
            } else if (last != AV_NOPTS_VALUE && now > last) {
                step = SP_MIN(now - last, second_ticks);
            }
            last = now;
        }
        item->time = item->pts == AV_NOPTS_VALUE ? AV_NOPTS_VALUE : item->pts + offset;
        item->decode_time = item->dts == AV_NOPTS_VALUE ? AV_NOPTS_VALUE : item->dts + offset;
    }
    return true;
}

/* Missing times of frames that are shown as they are decoded: the decoding time, or a step on. false: cannot be told. */
static bool fill_times(sp_video_packets *packets, bool no_reorder)
{
    int64_t last = AV_NOPTS_VALUE, step = 0;
    packets->filled = 0;
    for (uint64_t i = packets->first; i < packets->count; i++) {
        sp_video_packet *item = &packets->items[i];
        if (!item->shown)
            continue;
        if (no_reorder && item->time == AV_NOPTS_VALUE)
            item->time = item->decode_time;
        if (item->time == AV_NOPTS_VALUE) {
            int64_t ahead = item->duration > 0 ? item->duration : step > 0 ? step : 1;
            if (!no_reorder || last == AV_NOPTS_VALUE)
                return false;
            item->time = last + ahead;
            packets->filled++;
        }
        if (no_reorder && last != AV_NOPTS_VALUE && item->time < last)
            return packets->filled == 0;
        if (last != AV_NOPTS_VALUE && item->time > last)
            step = item->time - last;
        last = item->time;
    }
    return packets->filled <= packets->shown_count / 2;
}

static bool times_in_range(const sp_video_packets *packets)
{
    const int64_t bound = INT64_C(1) << 60;
    for (uint64_t i = packets->first; i < packets->count; i++) {
        const sp_video_packet *item = &packets->items[i];
        if (item->pts != AV_NOPTS_VALUE && (item->pts > bound || item->pts < -bound))
            return false;
        if (item->dts != AV_NOPTS_VALUE && (item->dts > bound || item->dts < -bound))
            return false;
    }
    return true;
}

/* Numbers by time. false: the order contradicts decoding, or too many share a time. */
static bool rank(sp_video_packets *packets, place *places)
{
    uint64_t n = 0;
    for (uint64_t i = packets->first; i < packets->count; i++) {
        if (packets->items[i].shown)
            places[n] = (place){ packets->items[i].time, n }, n++;
    }
    qsort(places, n, sizeof(*places), by_time);
    packets->moved = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t shift = places[i].ordinal > i ? places[i].ordinal - i : i - places[i].ordinal;
        if (shift > MAX_SHIFT)
            return false;
        packets->pts[i] = places[i].time;
        if (i && packets->pts[i] <= packets->pts[i - 1]) {
            packets->pts[i] = packets->pts[i - 1] + 1;
            packets->moved++;
        }
    }
    if (packets->moved > n / 4 || (n && packets->pts[n - 1] - packets->pts[0] > INT64_C(1) << 60))
        return false;
    /* places[].ordinal is the rank in decoding order; turn it round into numbers. */
    for (uint64_t i = 0; i < n; i++)
        places[places[i].ordinal].time = (int64_t)i;
    uint64_t k = 0;
    for (uint64_t i = packets->first; i < packets->count; i++) {
        if (packets->items[i].shown)
            packets->items[i].number = (uint32_t)places[k++].time;
    }
    return true;
}

static void count_frames(sp_video_packets *packets)
{
    uint32_t n = 0;
    packets->filled = packets->moved = packets->joined = 0;
    for (uint64_t i = packets->first; i < packets->count; i++) {
        if (packets->items[i].shown) {
            packets->items[i].number = n;
            packets->pts[n] = n;
            n++;
        }
    }
    packets->duration = n;
    packets->variable_rate = false;
}

static void measure(sp_video_packets *packets)
{
    int64_t n = packets->frame_count, span = packets->pts[n - 1] - packets->pts[0];
    int64_t last = n > 1 ? (span + (n - 1) / 2) / (n - 1) : 1;
    for (uint64_t i = packets->first; i < packets->count; i++) {
        const sp_video_packet *item = &packets->items[i];
        if (item->number == n - 1 && item->duration > 0 && item->duration < INT64_C(1) << 32)
            last = item->duration;
    }
    packets->duration = span + last;
    packets->variable_rate = false;
    for (int64_t i = 1; i < n - 1 && !packets->variable_rate; i++) {
        /* The grid between the first and the last; a tick beside it is rounding. */
        int64_t even = packets->pts[0] + (int64_t)((__int128)span * i / (n - 1)), off = packets->pts[i] - even;
        packets->variable_rate = off < -1 || off > 2;
    }
}

sp_status sp_video_packets_order(sp_video_packets *packets, int64_t second_ticks, bool no_reorder, sp_error *reterr)
{
    uint64_t shown = 0;
    for (uint64_t i = 0; i < packets->count; i++) {
        packets->items[i].number = SP_VIDEO_HIDDEN;
        packets->items[i].shown &= i >= packets->first;
        shown += packets->items[i].shown;
    }
    packets->shown_count = shown;
    packets->frame_count = (uint32_t)shown; /* under the caller's limit */
    packets->torn = packets->has_times = false;
    free(packets->pts);
    packets->pts = malloc((shown ? shown : 1) * sizeof(*packets->pts));
    if (!packets->pts)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for the timestamps");
    if (!shown)
        return SP_OK;
    place *places = malloc(shown * sizeof(*places));
    if (!places)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for the timestamps");
    packets->has_times = times_in_range(packets) && join_clocks(packets, second_ticks) && fill_times(packets, no_reorder) &&
                         rank(packets, places);
    free(places);
    packets->torn = !packets->has_times;
    if (packets->has_times)
        measure(packets);
    else
        count_frames(packets);
    return SP_OK;
}

int sp_video_reorder(const uint32_t *numbers, uint64_t count)
{
    uint32_t recent[MAX_SHIFT];
    uint64_t n = 0;
    int most = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (numbers[i] == SP_VIDEO_HIDDEN)
            continue;
        int later = 0;
        for (uint64_t k = 0; k < SP_MIN(n, (uint64_t)MAX_SHIFT); k++)
            later += recent[k] > numbers[i];
        most = SP_MAX(most, later);
        recent[n++ % MAX_SHIFT] = numbers[i];
    }
    return SP_MIN(most, 16);
}

/* Whether everything decoded before `ordinal` is shown before it, and what is decoded behind it but shown before follows at
 * once. shown_before: frames decoded before it; highest: the highest number among them. */
static bool cuts(const sp_video_packets *packets, uint64_t ordinal, uint64_t shown_before, int64_t highest)
{
    uint32_t number = packets->items[ordinal].number;
    if (highest > (int64_t)number || number < shown_before)
        return false;
    uint64_t leading = number - shown_before, found = 0;
    uint64_t end = SP_MIN(ordinal + 1 + SP_VIDEO_MAX_LEADING, packets->count);
    for (uint64_t i = ordinal + 1; i < end && found < leading; i++)
        found += packets->items[i].number < number;
    return found == leading;
}

static sp_video_run run_at(const sp_video_packets *packets, uint64_t ordinal, uint32_t first_frame)
{
    const sp_video_packet *item = &packets->items[ordinal];
    return (sp_video_run){
        .key_pts = item->pts, .key_dts = item->dts, .key_position = item->position,
        .first_packet = ordinal, .first_frame = first_frame,
    };
}

uint32_t sp_video_packets_runs(const sp_video_packets *packets, sp_video_run *ret_runs)
{
    uint32_t count = 1;
    ret_runs[0] = run_at(packets, packets->first, 0);
    uint64_t shown_before = 0;
    int64_t highest = -1;
    for (uint64_t i = packets->first; i < packets->count && packets->has_times; i++) {
        const sp_video_packet *item = &packets->items[i];
        if (item->number == SP_VIDEO_HIDDEN)
            continue;
        if (item->begin && i > packets->first && item->number >= ret_runs[count - 1].first_frame + SP_VIDEO_RUN_FRAMES &&
            cuts(packets, i, shown_before, highest))
            ret_runs[count++] = run_at(packets, i, item->number);
        shown_before++;
        highest = SP_MAX(highest, (int64_t)item->number);
    }
    for (uint32_t i = 0; i < count; i++)
        ret_runs[i].frame_count = (i + 1 < count ? ret_runs[i + 1].first_frame : packets->frame_count) - ret_runs[i].first_frame;
    return count;
}

uint32_t sp_video_runs_segments(const sp_video_run *runs, uint32_t run_count, sp_video_segment *ret_segments)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < run_count; r++) {
        uint32_t at = runs[r].first_frame, left = runs[r].frame_count;
        do {
            uint32_t take = left >= SP_VIDEO_SEGMENT_FRAMES + SP_VIDEO_SEGMENT_FRAMES / 2 ? SP_VIDEO_SEGMENT_FRAMES : left;
            ret_segments[count++] = (sp_video_segment){ .run = r, .first_frame = at, .frame_count = take };
            at += take;
            left -= take;
        } while (left);
    }
    return count;
}
