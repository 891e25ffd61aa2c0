/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: one libavcodec decoder, fed packets that we put together ourselves. No libavformat (that is for
 * videos) and so no protocol, playlist or probing: the walks of gif.c, bmp.c and tiff.c have checked every header field, and what libav
 * is shown is a small regular file made of the checked fields and the raw data. */
#ifndef SP_MEDIA_LIBAV_H
#define SP_MEDIA_LIBAV_H

#include "base/status.h"

#include <libavcodec/avcodec.h>

typedef struct sp_libav {
    AVCodecContext *context;
    AVPacket *packet;
    AVFrame *frame;
    const char *name; /* of the format, for messages */
} sp_libav;

/* SP_NOMEM, or SP_UNSUPPORTED when this libavcodec was built without the decoder. Call sp_libav_done in any case. */
sp_status sp_libav_init(sp_libav *av, enum AVCodecID id, const char *name, sp_error *reterr);
void sp_libav_done(sp_libav *av);

/* Room for the next packet; NULL: out of memory. Valid until sp_libav_run. */
uint8_t *sp_libav_packet(sp_libav *av, size_t size_bytes);

/* Decodes the packet to av->frame, which must come out as width x height of `format` or (where it is not
 * AV_PIX_FMT_NONE) `other`. Valid until the next run. SP_INVALID, code "corrupt": libav refused the data that begin at
 * byte `offset` of the file; SP_NOMEM. */
sp_status sp_libav_run(sp_libav *av, int width, int height, enum AVPixelFormat format, enum AVPixelFormat other,
                       size_t offset, sp_error *reterr);

#endif
