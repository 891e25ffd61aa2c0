/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: one run after the other decoded to numbered frames, with an account of what went wrong. */
#ifndef SP_MEDIA_VIDEO_RUN_H
#define SP_MEDIA_VIDEO_RUN_H

#include "media/video_decode.h"
#include "media/video_feed.h"

typedef struct sp_video_trouble {
    uint32_t error_count; /* packets refused */
    char reason[160];     /* the first thing that went wrong */
} sp_video_trouble;

/* Decodes a run from its key frame up to and including the next run's key frame and the leading pictures behind that. */
typedef struct sp_video_decoding {
    sp_video_feed feed;
    const sp_video_index *index;
    int threads, reorder;
    int device;                 /* of CUDA, to decode on; -1 = libavcodec alone */
    sp_nvdec_ring *ring;        /* the caller's; NULL = its frames come to the host */
    AVPacket *packet;

    bool running, draining, ended;
    bool alone;                 /* with one thread: this file is damaged somewhere */
    uint32_t run;
    uint64_t first_packet, feed_end; /* ordinals; end: behind the last */
    uint64_t last_shown;        /* the last packet fed that shows a frame */
    sp_video_decoder decoder;
    uint8_t *packets;           /* [feed_end - first_packet]: bits, what is known of each */
    uint32_t first_segment, segment_count;
    sp_video_trouble *troubles; /* of the run's segments */
    uint32_t counted;           /* without timestamps: frames that came so far */
    int64_t last_number;        /* that came out of this decoder, -1 = none */
    int64_t given;              /* frames up to here were given before the decoder was set up again */
    unsigned errors_in_a_row;
} sp_video_decoding;

sp_status sp_video_decoding_open(sp_video_decoding *decoding, const sp_video_source *source, const sp_video_index *index,
                                 const sp_video_options *options, sp_error *reterr);
void sp_video_decoding_done(sp_video_decoding *decoding); /* zeroed or half open is fine */

/* The next frames are those of `run`, from its first. */
sp_status sp_video_decoding_start(sp_video_decoding *decoding, uint32_t run, sp_error *reterr);

/* The run's next frame, numbers rising; the first frame of the next run is its last one. *ret_got false: the run is over. */
sp_status sp_video_decoding_next(sp_video_decoding *decoding, AVFrame *frame, uint32_t *ret_number, bool *ret_damaged, bool *ret_got,
                                 sp_error *reterr);

/* What went wrong so far in one of the run's segments. */
const sp_video_trouble *sp_video_decoding_trouble(const sp_video_decoding *decoding, uint32_t segment);

#endif
