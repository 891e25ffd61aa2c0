/* SPDX-License-Identifier: Apache-2.0
 * One packet in, one frame out. */
#include "media/libav.h"

#include <limits.h>

#include <libavutil/log.h>

sp_status sp_libav_init(sp_libav *av, enum AVCodecID id, const char *name, sp_error *reterr)
{
    *av = (sp_libav){ .name = name };
    av_log_set_level(AV_LOG_QUIET); /* its words about hostile files belong in no log; the status says it */
    const AVCodec *codec = avcodec_find_decoder(id);
    if (!codec)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_decoder", "%s: this libavcodec was built without its decoder", name);
    av->context = avcodec_alloc_context3(codec);
    av->packet = av_packet_alloc();
    av->frame = av_frame_alloc();
    if (!av->context || !av->packet || !av->frame)
        return SP_FAIL(reterr, SP_NOMEM, "%s: out of memory", name);
    av->context->thread_count = 1; /* executors are the threads */
    av->context->err_recognition = AV_EF_EXPLODE | AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER;
    int code = avcodec_open2(av->context, codec, NULL);
    if (code < 0)
        return SP_FAIL_FROM(reterr, SP_NOMEM, "libavcodec", code, "%s: the decoder does not open", name);
    return SP_OK;
}

void sp_libav_done(sp_libav *av)
{
    av_frame_free(&av->frame);
    av_packet_free(&av->packet);
    avcodec_free_context(&av->context);
}

uint8_t *sp_libav_packet(sp_libav *av, size_t size_bytes)
{
    av_packet_unref(av->packet);
    if (size_bytes > INT_MAX - AV_INPUT_BUFFER_PADDING_SIZE || av_new_packet(av->packet, (int)size_bytes) < 0)
        return NULL;
    return av->packet->data;
}

sp_status sp_libav_run(sp_libav *av, int width, int height, enum AVPixelFormat format, enum AVPixelFormat other,
                       size_t offset, sp_error *reterr)
{
    avcodec_flush_buffers(av->context);
    int code = avcodec_send_packet(av->context, av->packet);
    av_packet_unref(av->packet);
    if (code >= 0)
        code = avcodec_receive_frame(av->context, av->frame);
    if (code == AVERROR(ENOMEM))
        return SP_FAIL(reterr, SP_NOMEM, "%s: out of memory", av->name);
    if (code < 0) {
        char text[AV_ERROR_MAX_STRING_SIZE];
        (void)av_strerror(code, text, sizeof(text));
        return sp_error_set(reterr, SP_INVALID, "corrupt", "libavcodec", code, __FILE__, __LINE__,
                            "%s: the data from byte %zu on cannot be decoded: %s", av->name, offset, text);
    }
    const AVFrame *frame = av->frame;
    bool format_fits = frame->format == format || (other != AV_PIX_FMT_NONE && frame->format == other);
    if (frame->width != width || frame->height != height || !format_fits)
        return sp_error_set(reterr, SP_INVALID, "corrupt", "libavcodec", frame->format, __FILE__, __LINE__,
                            "%s: the data from byte %zu on decode to %d x %d of another kind than the header says", av->name,
                            offset, frame->width, frame->height);
    return SP_OK;
}
