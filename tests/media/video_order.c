/* SPDX-License-Identifier: Apache-2.0
 * Timestamps, frame numbers, runs and segments from packets written by hand; and the check of an index. */
#include "media/video_decode.h"
#include "media/video_packets.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

#define NONE AV_NOPTS_VALUE
#define SECOND 1000

typedef struct stream {
    sp_video_packets packets;
    sp_video_packet items[4096];
} stream;

static stream s;

static void begin(void)
{
    free(s.packets.pts);
    memset(&s, 0, sizeof(s));
    s.packets.items = s.items;
    s.packets.capacity = SP_ARRAY_LEN(s.items);
}

static void add(int64_t pts, int64_t dts, bool key)
{
    s.items[s.packets.count++] = (sp_video_packet){
        .pts = pts, .dts = dts, .position = (int64_t)s.packets.count * 100, .key = key, .begin = key, .shown = true,
    };
}

static void order(bool no_reorder)
{
    sp_error err = { 0 };
    CHECK(sp_video_packets_order(&s.packets, SECOND, no_reorder, &err) == SP_OK);
}

/* `count` frames at 40 ticks each as I P B B P B B ..., a key frame each `group` frames, closed. */
static void add_groups(int count, int group)
{
    for (int at = 0; at < count; at += group) {
        int size = SP_MIN(group, count - at);
        add(at * 40, (at - 1) * 40, true);
        for (int i = 1; i < size; i += 3) {
            int reference = SP_MIN(i + 2, size - 1);
            add((at + reference) * 40, (at + i - 1) * 40, false);
            for (int b = i; b < reference; b++)
                add((at + b) * 40, (at + b) * 40, false);
        }
    }
}

TEST(numbers_follow_the_timestamps)
{
    begin();
    add_groups(100, 50);
    order(false);
    CHECK(s.packets.has_times && s.packets.frame_count == 100 && !s.packets.variable_rate);
    CHECK(s.items[0].number == 0 && s.items[1].number == 3 && s.items[2].number == 1 && s.items[3].number == 2);
    CHECK(s.packets.pts[99] == 99 * 40 && s.packets.duration == 100 * 40);
    uint32_t numbers[100];
    for (int i = 0; i < 100; i++)
        numbers[i] = s.items[i].number;
    CHECK(sp_video_reorder(numbers, 100) == 1);
}

TEST(doubles_move_on_and_gaps_are_filled)
{
    begin();
    for (int i = 0; i < 20; i++)
        add(i == 7 ? 6 * 40 : i == 12 ? NONE : i * 40, NONE, i == 0);
    order(true);
    CHECK(s.packets.has_times && s.packets.moved == 1 && s.packets.filled == 1);
    CHECK(s.packets.pts[6] == 240 && s.packets.pts[7] == 241 && s.packets.pts[12] == 480 && s.packets.pts[13] == 520);
    /* The same with reordering: nobody knows where the twelfth belongs. */
    order(false);
    CHECK(!s.packets.has_times && s.packets.torn && s.packets.frame_count == 20 && s.packets.pts[19] == 19);
}

TEST(decoding_times_serve_where_frames_are_not_reordered)
{
    begin();
    for (int i = 0; i < 20; i++)
        add(NONE, 5 + i * 40, i == 0);
    order(true);
    CHECK(s.packets.has_times && s.packets.filled == 0 && s.packets.pts[0] == 5 && s.packets.pts[19] == 5 + 19 * 40);
}

TEST(a_clock_that_is_set_back_goes_on)
{
    begin();
    for (int i = 0; i < 50; i++)
        add(i * 40, i * 40, i == 0);
    for (int i = 0; i < 50; i++)
        add(i * 40, i * 40, i == 0);
    order(true);
    CHECK(s.packets.has_times && s.packets.joined == 1 && s.packets.pts[50] == 50 * 40 && s.packets.pts[99] == 99 * 40);
}

TEST(times_that_make_no_sense_are_not_used)
{
    begin();
    for (int i = 0; i < 200; i++) /* one is shown 100 frames too late */
        add(i == 20 ? 120 * 40 + 1 : i * 40, NONE, i % 50 == 0);
    order(false);
    CHECK(!s.packets.has_times && s.packets.torn);
    sp_video_run runs[8];
    CHECK(sp_video_packets_runs(&s.packets, runs) == 1 && runs[0].frame_count == 200);
    begin();
    for (int i = 0; i < 20; i++) /* far outside */
        add(i == 3 ? INT64_MAX - 5 : i * 40, i == 4 ? INT64_MIN + 5 : i * 40, i == 0);
    order(true);
    CHECK(!s.packets.has_times);
    begin();
    for (int i = 0; i < 20; i++) /* all at once */
        add(40, NONE, i == 0);
    order(true);
    CHECK(!s.packets.has_times);
}

TEST(hidden_packets_have_no_number)
{
    begin();
    for (int i = 0; i < 30; i++)
        add(i * 40, i * 40, i == 0);
    s.items[3].shown = s.items[29].shown = false;
    order(true);
    CHECK(s.packets.frame_count == 28 && s.items[3].number == SP_VIDEO_HIDDEN && s.items[4].number == 3);
    s.packets.first = 2; /* what lies before cannot be decoded */
    order(true);
    CHECK(s.packets.frame_count == 26 && s.items[0].number == SP_VIDEO_HIDDEN && s.items[2].number == 0);
    begin();
    order(true);
    CHECK(s.packets.frame_count == 0);
}

TEST(runs_begin_at_key_frames_that_cut)
{
    sp_video_run runs[64];
    begin();
    add_groups(300, 20);
    order(false);
    CHECK(sp_video_packets_runs(&s.packets, runs) == 5); /* 0, 60, 120, 180, 240: a key frame each 20, at least 48 on */
    CHECK(runs[1].first_frame == 60 && runs[4].first_frame == 240 && runs[4].frame_count == 60);
    CHECK(s.items[runs[1].first_packet].number == 60 && runs[1].key_position == (int64_t)(runs[1].first_packet + 1) * 100);
    /* A leading picture 65 packets behind its key frame: no cut there, the next key frame is. */
    begin();
    for (int i = 0; i < 200; i++)
        add(i * 40, NONE, i % 50 == 0);
    s.items[50 + 20].pts = 50 * 40 - 1; /* 20 behind: it leads */
    order(false);
    CHECK(sp_video_packets_runs(&s.packets, runs) == 4 && runs[1].first_frame == 51 && runs[1].first_packet == 50);
    /* A frame decoded before the key frame and shown after it: a decoder cannot begin there. */
    s.items[70].pts = 70 * 40;
    s.items[45].pts = 52 * 40 + 1;
    order(false);
    CHECK(s.packets.has_times && sp_video_packets_runs(&s.packets, runs) == 3 && runs[1].first_packet == 100);
}

TEST(segments_have_64_frames_and_no_small_rest)
{
    static const struct {
        uint32_t frames, segments, last;
    } cases[] = { { 1, 1, 1 }, { 48, 1, 48 }, { 64, 1, 64 }, { 65, 1, 65 }, { 95, 1, 95 }, { 96, 2, 32 }, { 128, 2, 64 }, { 159, 2, 95 },
                  { 160, 3, 32 }, { 6400, 100, 64 } };
    sp_video_segment segments[256];
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        sp_video_run runs[2] = { { .first_frame = 0, .frame_count = cases[i].frames },
                                 { .first_frame = cases[i].frames, .frame_count = 10 } };
        uint32_t count = sp_video_runs_segments(runs, 2, segments);
        CHECK(count == cases[i].segments + 1);
        CHECK(segments[count - 2].frame_count == cases[i].last && segments[count - 2].run == 0);
        CHECK(segments[count - 1].first_frame == cases[i].frames && segments[count - 1].run == 1);
    }
}

/* --- one packet --- */

static sp_video_packet scan_bytes(enum AVCodecID codec, const uint8_t *bytes, int size, int flags)
{
    sp_video_scan scan;
    sp_video_packets packets = { 0 };
    sp_error err = { 0 };
    sp_video_libav_prepare(); /* else libav's words go to stderr */
    AVCodecParameters *parameters = avcodec_parameters_alloc();
    AVPacket *packet = av_packet_alloc();
    parameters->codec_id = codec;
    CHECK(sp_video_scan_init(&scan, parameters, &err) == SP_OK);
    CHECK(av_new_packet(packet, size) == 0);
    memcpy(packet->data, bytes, (size_t)size);
    packet->flags = flags;
    CHECK(sp_video_packets_add(&packets, &scan, packet, &err) == SP_OK);
    sp_video_packet item = packets.items[0];
    sp_video_packets_done(&packets);
    sp_video_scan_done(&scan);
    av_packet_free(&packet);
    avcodec_parameters_free(&parameters);
    return item;
}
#define SCAN(codec, flags, ...) \
    scan_bytes(codec, (const uint8_t[]){ __VA_ARGS__ }, (int)sizeof((const uint8_t[]){ __VA_ARGS__ }), flags)

TEST(a_key_frame_is_one_by_its_bytes)
{
    const int key = AV_PKT_FLAG_KEY;
    /* H.264: parameters and IDR; the same without parameters; a recovery point of count 0, of count 1; a P slice said to be key. */
    CHECK(SCAN(AV_CODEC_ID_H264, key, 0, 0, 1, 0x67, 66, 0, 0, 0, 1, 0x65, 0x88).begin);
    CHECK(!SCAN(AV_CODEC_ID_H264, key, 0, 0, 1, 0x65, 0x88).begin);
    CHECK(SCAN(AV_CODEC_ID_H264, key, 0, 0, 1, 0x67, 66, 0, 0, 0, 1, 6, 6, 1, 0xc4, 0x80, 0, 0, 1, 0x41, 0x9a).begin);
    CHECK(!SCAN(AV_CODEC_ID_H264, key, 0, 0, 1, 0x67, 66, 0, 0, 0, 1, 6, 6, 1, 0x44, 0x80, 0, 0, 1, 0x41, 0x9a).begin);
    CHECK(!SCAN(AV_CODEC_ID_H264, key, 0, 0, 1, 0x67, 66, 0, 0, 0, 1, 0x41, 0x9a).begin);
    CHECK(!SCAN(AV_CODEC_ID_H264, 0, 0, 0, 1, 0x67, 66, 0, 0, 0, 1, 0x65, 0x88).begin);
    /* HEVC: parameters (33) with an IDR (19), with a trailing picture (1). */
    CHECK(SCAN(AV_CODEC_ID_HEVC, key, 0, 0, 1, 66, 1, 1, 0, 0, 1, 38, 1, 0xaf).begin);
    CHECK(!SCAN(AV_CODEC_ID_HEVC, key, 0, 0, 1, 66, 1, 1, 0, 0, 1, 2, 1, 0xaf).begin);
    /* VP8: bit 0 = not a key frame, bit 4 = shown. */
    sp_video_packet item = SCAN(AV_CODEC_ID_VP8, key, 0x10, 0, 0);
    CHECK(item.begin && item.shown);
    item = SCAN(AV_CODEC_ID_VP8, key, 0x01, 0, 0);
    CHECK(!item.begin && !item.shown);
    /* VP9: shown key frame; hidden; an existing one shown again; a hidden and a shown one in one packet. */
    item = SCAN(AV_CODEC_ID_VP9, key, 0x82, 0x49);
    CHECK(item.begin && item.shown);
    item = SCAN(AV_CODEC_ID_VP9, 0, 0x84, 0);
    CHECK(!item.begin && !item.shown);
    item = SCAN(AV_CODEC_ID_VP9, key, 0x88, 0);
    CHECK(!item.begin && item.shown);
    item = SCAN(AV_CODEC_ID_VP9, 0, 0x84, 0, 0x86, 0, 0xc1, 2, 2, 0xc1);
    CHECK(item.shown);
    /* An edit list hides it. */
    CHECK(!SCAN(AV_CODEC_ID_MJPEG, key | AV_PKT_FLAG_DISCARD, 0xff, 0xd8).shown);
}

/* --- the check --- */

TEST(an_index_is_believed_only_when_it_agrees_with_itself)
{
    sp_video_index head = {
        .abi = SP_VIDEO_INDEX_ABI, .width = 8, .height = 4, .coded_width = 8, .coded_height = 4, .time_base_num = 1, .time_base_den = 25,
        .rate_num = 25, .rate_den = 1, .frame_count = 3, .run_count = 2, .segment_count = 2, .has_times = 1, .duration_pts = 3,
        .packet_count = 4,
    };
    const sp_video_run runs[2] = { { .first_frame = 0, .frame_count = 2 }, { .first_packet = 2, .first_frame = 2, .frame_count = 1 } };
    const sp_video_segment segments[2] = { { 0, 0, 2 }, { 1, 2, 1 } };
    const int64_t pts[3] = { 0, 1, 2 };
    const uint32_t packets[4] = { 0, 1, 2, UINT32_MAX };
    head.runs_offset = sizeof(head);
    head.segments_offset = head.runs_offset + sizeof(runs);
    head.pts_offset = SP_ALIGN_UP(head.segments_offset + sizeof(segments), (uint64_t)8);
    head.packets_offset = head.pts_offset + sizeof(pts);
    head.index_bytes = (uint32_t)(head.packets_offset + sizeof(packets));
    uint8_t *whole = calloc(1, head.index_bytes);
    memcpy(whole, &head, sizeof(head));
    memcpy(whole + head.runs_offset, runs, sizeof(runs));
    memcpy(whole + head.segments_offset, segments, sizeof(segments));
    memcpy(whole + head.pts_offset, pts, sizeof(pts));
    memcpy(whole + head.packets_offset, packets, sizeof(packets));
    sp_error err = { 0 };
    CHECK(sp_video_index_check(sp_view_make(whole, head.index_bytes), &err) == SP_OK);
    CHECK(sp_video_index_check(sp_view_make(whole, head.index_bytes - 8), &err) == SP_INVALID && strcmp(err.code, "bad_index") == 0);
    CHECK(sp_video_index_check(sp_view_make(whole, 40), &err) == SP_INVALID);
    /* Any byte of the tables' places or of the tables set to 0xff: refused, or harmless (names, notes, hash). */
    int refused = 0;
    for (size_t i = 0; i < head.index_bytes; i++) {
        uint8_t kept = whole[i];
        whole[i] = 0xff;
        sp_status status = sp_video_index_check(sp_view_make(whole, head.index_bytes), &err);
        CHECK(status == SP_OK || status == SP_INVALID);
        refused += status != SP_OK;
        whole[i] = kept;
    }
    CHECK(refused > 150);
    free(whole);
}
