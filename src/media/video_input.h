/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: a video file opened by libavformat, one stream of it chosen, its packets in file order. Everything
 * that decides which bytes libav sees is here: reads are pread of one descriptor, containers and codecs are a fixed list,
 * nothing that a file names is opened.
 *
 * Two inputs on the same bytes give the same packets in the same order: an ordinal (how many of the stream's packets came
 * before) names a packet. */
#ifndef SP_MEDIA_VIDEO_INPUT_H
#define SP_MEDIA_VIDEO_INPUT_H

#include "media/video.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

typedef struct sp_video_input {
    sp_video_source source;
    uint64_t position;   /* of the next read, in the file */
    uint64_t read_bytes; /* all reads; bounds demuxers that go round in circles */
    uint64_t read_limit_bytes;
    bool io_failed, limit_hit;
    AVFormatContext *format;
    AVIOContext *io;
    AVStream *stream;
    const AVCodec *codec;
    uint64_t next_ordinal; /* of the packet that the next read gives */
    uint32_t read_errors;  /* places where the container could not be read on */
    bool restartable;      /* the container has an index, by which a key frame is found without reading all before it */
} sp_video_input;

/* Opens and chooses: default streams first, then most pixels, then the first; attached pictures are no video. Zeroed or not,
 * call sp_video_input_done in any case. The statuses of sp_video_api.index. */
sp_status sp_video_input_open(sp_video_input *input, const sp_video_source *source, uint64_t max_pixels, sp_error *reterr);
void sp_video_input_done(sp_video_input *input);

/* The next packet of the stream; packets without bytes are skipped but counted. *ret_more false: no more. SP_NOMEM. */
sp_status sp_video_input_read(sp_video_input *input, AVPacket *packet, bool *ret_more, sp_error *reterr);

/* Tries to stand at or before the run's key frame; the caller recognises its packet by position and pts. false: it stands
 * anywhere, open it anew. */
bool sp_video_input_seek(sp_video_input *input, const sp_video_run *run);

#endif
