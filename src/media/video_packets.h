/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: what the packets of a stream say without being decoded: which of them show a frame, where a decoder may
 * begin, in which order and when frames are shown, and from that runs and segments. A pure function of the packets. */
#ifndef SP_MEDIA_VIDEO_PACKETS_H
#define SP_MEDIA_VIDEO_PACKETS_H

#include "media/video.h"

#include <libavcodec/avcodec.h>

#define SP_VIDEO_HIDDEN UINT32_MAX

/* After a key frame's packet at most so many may still belong before it (its leading pictures and what lies between them). */
#define SP_VIDEO_MAX_LEADING 64

typedef struct sp_video_packet {
    int64_t pts, dts;   /* as read; AV_NOPTS_VALUE */
    int64_t time, decode_time; /* pts and dts on one clock; time: once it is known */
    int64_t duration, position;
    uint32_t number;    /* of its frame, SP_VIDEO_HIDDEN = none of its own */
    bool key, begin;    /* a key frame as the container says; a decoder may begin here */
    bool shown;
} sp_video_packet;

typedef struct sp_video_packets {
    sp_video_packet *items;
    uint64_t count, capacity;
    uint64_t shown_count;
    uint64_t first;     /* where decoding begins: what lies before cannot be decoded */
    /* Set by sp_video_packets_order: */
    bool has_times;
    uint32_t frame_count;
    int64_t *pts;       /* [frame_count], rising */
    int64_t duration;   /* from the first frame's begin to the last one's end, in ticks */
    bool variable_rate;
    uint32_t joined, filled, moved; /* clocks that were set back; timestamps made up; doubles moved on by a tick */
    bool torn;          /* timestamps that contradict the decoding order, or lack where they cannot be guessed */
} sp_video_packets;

void sp_video_packets_done(sp_video_packets *packets);

/* Appends; reads what is needed from the packet's first bytes. `field_parser` may be NULL. SP_NOMEM. */
typedef struct sp_video_scan {
    enum AVCodecID codec;
    int nal_length_bytes;   /* H.264 and HEVC: 0 = start codes */
    bool has_headers;       /* the stream's parameters travel apart from the packets */
    AVCodecContext *context;
    AVCodecParserContext *parser; /* H.264: tells fields from frames; NULL for others */
    int open_field;         /* a first field waits for its second one: its AV_PICTURE_STRUCTURE_*, 0 = none */
} sp_video_scan;

sp_status sp_video_scan_init(sp_video_scan *scan, const AVCodecParameters *parameters, sp_error *reterr);
void sp_video_scan_done(sp_video_scan *scan);
sp_status sp_video_packets_add(sp_video_packets *packets, sp_video_scan *scan, const AVPacket *packet, sp_error *reterr);

/* Decides times and numbers of the packets from `first` on; may be called again when `shown` or `first` has changed.
 * second_ticks: ticks of a second; no_reorder: frames are shown in decoding order. SP_NOMEM. */
sp_status sp_video_packets_order(sp_video_packets *packets, int64_t second_ticks, bool no_reorder, sp_error *reterr);

/* How many frames a decoder must be able to hold back to bring them into order. */
int sp_video_reorder(const uint32_t *numbers, uint64_t count);

/* Runs of the ordered packets; ret_runs has room for frame_count / SP_VIDEO_RUN_FRAMES + 1. Returns how many. */
uint32_t sp_video_packets_runs(const sp_video_packets *packets, sp_video_run *ret_runs);
/* Segments of the runs; the same room: frame_count / (SP_VIDEO_SEGMENT_FRAMES / 2) + run_count. Returns how many. */
uint32_t sp_video_runs_segments(const sp_video_run *runs, uint32_t run_count, sp_video_segment *ret_segments);

#endif
