/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: one fresh decoder of libavcodec, which gives the same frames for the same packets always: in damaged
 * streams, in any process, with any number of threads that it is trusted with.
 *
 * Three things make it so. Frame memory is cleared before it is decoded into, because concealment shows what lay there before.
 * A decoder is never flushed and used again, because what it learnt would stay in it. And with more than one thread it watches
 * what the decoder says: as soon as that complains of anything, the caller must decode the run again with one thread
 * (sp_video_decoder_dirty), because concealment races with the threads that read the frame. The same goes for a GPU's decoder. */
#ifndef SP_MEDIA_VIDEO_DECODE_H
#define SP_MEDIA_VIDEO_DECODE_H

#include "media/nvdec.h"

#include <stdatomic.h>

typedef struct sp_video_watch {
    uint32_t magic;
    atomic_uint remarks; /* what libav would show a person by default, and graver: concealment is announced as information */
    atomic_uint errors;
} sp_video_watch;

typedef struct sp_video_decoder {
    AVCodecContext *context;
    sp_video_watch *watch; /* outlives the threads; the log callback writes it */
    unsigned seen_errors;
    bool failed;           /* a packet was refused since it was opened */
    sp_nvdec *nvdec;       /* a GPU's in place of all that */
} sp_video_decoder;

/* Once per process: libav's words go to the watches, not to stderr, and one allocation has a bound. Threads: any. */
void sp_video_libav_prepare(void);

/* Is libav's AVERROR(ENOMEM) a lack of memory, rather than a size that nothing may have? */
bool sp_video_out_of_memory(int code);

/* extradata: what replaces the stream's own (size 0 = that). reorder: how many frames may wait for their turn at least.
 * SP_NOMEM, SP_UNSUPPORTED. */
sp_status sp_video_decoder_open(sp_video_decoder *decoder, const sp_video_input *input, sp_view extradata, int reorder,
                                int threads, uint64_t max_pixels, sp_error *reterr);
/* On a GPU instead; as sp_nvdec_open. */
sp_status sp_video_decoder_open_gpu(sp_video_decoder *decoder, const sp_video_input *input, sp_view extradata, int device,
                                    sp_nvdec_ring *ring, bool limited, sp_error *reterr);
void sp_video_decoder_done(sp_video_decoder *decoder);

/* Gives it a packet (NULL: there are no more), which frames name by `ordinal` in their pts. *ret_code: 0 or libav's reason to
 * refuse it. All frames must have been taken out before. SP_NOMEM. */
sp_status sp_video_decoder_send(sp_video_decoder *decoder, AVPacket *packet, uint64_t ordinal, int *ret_code, sp_error *reterr);

/* *ret_got false: it wants another packet, or (after NULL) is at its end. *ret_code as above. */
sp_status sp_video_decoder_receive(sp_video_decoder *decoder, AVFrame *frame, bool *ret_got, int *ret_code, sp_error *reterr);

/* Did it complain of errors since the last time this was asked? Exact with one thread only. */
bool sp_video_decoder_complained(sp_video_decoder *decoder);
/* Several threads or a GPU, and something happened that they must not have a part in. */
bool sp_video_decoder_dirty(const sp_video_decoder *decoder);

#endif
