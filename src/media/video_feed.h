/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: a file's packets from any run on. It stands before a run by what it kept of the run before, by the
 * container's index, or by reading the file from its begin; which of them does not change a packet. */
#ifndef SP_MEDIA_VIDEO_FEED_H
#define SP_MEDIA_VIDEO_FEED_H

#include "media/video_input.h"
#include "media/video_packets.h"

typedef struct sp_video_queue {
    AVPacket *items[SP_VIDEO_MAX_LEADING + 4];
    uint64_t ordinals[SP_VIDEO_MAX_LEADING + 4];
    unsigned head, count;
} sp_video_queue;

typedef struct sp_video_feed {
    sp_video_source source;
    const sp_video_index *index; /* borrowed */
    sp_video_input input;
    bool input_open;
    bool no_seek;         /* the container's index has led astray once */
    sp_video_queue ahead; /* to be given before anything is read */
    sp_video_queue later; /* given already, but the next run begins with them */
    uint8_t *extradata;   /* the newest that came with a packet: parameters may change in the middle */
    size_t extradata_bytes;
    uint8_t *palette;     /* likewise; AVPALETTE_SIZE */
} sp_video_feed;

/* Opens the file. Zeroed or not, done in any case. As sp_video_api.open. */
sp_status sp_video_feed_open(sp_video_feed *feed, const sp_video_source *source, const sp_video_index *index, sp_error *reterr);
void sp_video_feed_done(sp_video_feed *feed);

/* The next packet is the run's key frame; extradata is what a decoder has to open with. SP_CORRUPT: the file has no such. */
sp_status sp_video_feed_stand(sp_video_feed *feed, uint32_t run, sp_error *reterr);

sp_status sp_video_feed_take(sp_video_feed *feed, AVPacket *packet, uint64_t *ret_ordinal, bool *ret_more, sp_error *reterr);
/* Gives the packet just taken back: it is the next one again. */
sp_status sp_video_feed_untake(sp_video_feed *feed, AVPacket *packet, uint64_t ordinal, sp_error *reterr);
/* Keeps a copy of a packet (of its reference) for the next run. */
sp_status sp_video_feed_keep(sp_video_feed *feed, const AVPacket *packet, uint64_t ordinal, sp_error *reterr);

#endif
