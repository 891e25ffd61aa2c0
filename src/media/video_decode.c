/* SPDX-License-Identifier: Apache-2.0
 * libavcodec, made a pure function of its packets. */
#include "media/video_decode.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include <libavutil/imgutils.h>
#include <libavutil/log.h>
#include <libavutil/mem.h>
#include <libavutil/pixdesc.h>

#define WATCH_MAGIC 0x73705677u

/* One allocation of libav: an 8K frame of three 16-bit planes has 204 MB; nothing else comes near. A header of some bytes can
 * ask for tables of gigabytes otherwise. */
#define MAX_ALLOCATION_BYTES (384u * 1024 * 1024)

/* What must still be had for libav's lack of memory to be its own: it also says so of sizes beyond the bound above, which are
 * damage. */
#define PROBE_BYTES (64u * 1024 * 1024)

/* A decoder with more threads than this holds more frames than the gain is worth. */
#define MAX_THREADS 8

static void hear(void *speaker, int level, const char *format, va_list arguments)
{
    if (!speaker || level > AV_LOG_INFO || *(const AVClass *const *)speaker != avcodec_get_class())
        return;
    /* Frame threads have copies of the context, and the copies have its opaque pointer. */
    sp_video_watch *watch = ((AVCodecContext *)speaker)->opaque;
    if (!watch || watch->magic != WATCH_MAGIC)
        return;
    (void)atomic_fetch_add_explicit(&watch->remarks, 1, memory_order_relaxed);
    /* H.264 marks its damaged frames, and calls much an error that is none where a group of pictures is open. */
    if (level <= AV_LOG_ERROR && ((AVCodecContext *)speaker)->codec_id != AV_CODEC_ID_H264)
        (void)atomic_fetch_add_explicit(&watch->errors, 1, memory_order_relaxed);
}

static void prepare(void)
{
    av_log_set_callback(hear);
    av_max_alloc(MAX_ALLOCATION_BYTES);
}

void sp_video_libav_prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, prepare);
}

/* Frame memory comes from a pool: what an earlier frame left there would show where a damaged one has holes. */
static int clean_buffer(AVCodecContext *context, AVFrame *frame, int flags)
{
    int code = avcodec_default_get_buffer2(context, frame, flags);
    for (size_t i = 0; code >= 0 && i < SP_ARRAY_LEN(frame->buf) && frame->buf[i]; i++)
        memset(frame->buf[i]->data, 0, frame->buf[i]->size);
    return code;
}

/* Frame threads where there are any. Slice threads only of codecs whose frames stand alone: with slice threads H.264 conceals
 * nothing and MPEG-2 conceals differently, and neither says so (found by damaged files). */
static int thread_kind(const AVCodec *codec)
{
    const AVCodecDescriptor *facts = avcodec_descriptor_get(codec->id);
    if (codec->capabilities & AV_CODEC_CAP_FRAME_THREADS)
        return FF_THREAD_FRAME;
    return facts && facts->props & AV_CODEC_PROP_INTRA_ONLY ? FF_THREAD_SLICE : 0;
}

bool sp_video_out_of_memory(int code)
{
    if (code != AVERROR(ENOMEM))
        return false;
    void *probe = malloc(PROBE_BYTES);
    free(probe);
    return probe == NULL;
}

static sp_status set_extradata(AVCodecContext *context, sp_view extradata, sp_error *reterr)
{
    uint8_t *copy = av_mallocz(extradata.size_bytes + AV_INPUT_BUFFER_PADDING_SIZE);
    if (!copy)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a decoder");
    memcpy(copy, extradata.data, extradata.size_bytes);
    av_freep(&context->extradata);
    context->extradata = copy;
    context->extradata_size = (int)extradata.size_bytes;
    return SP_OK;
}

sp_status sp_video_decoder_open(sp_video_decoder *decoder, const sp_video_input *input, sp_view extradata, int reorder,
                                int threads, uint64_t max_pixels, sp_error *reterr)
{
    *decoder = (sp_video_decoder){ 0 };
    decoder->watch = calloc(1, sizeof(*decoder->watch));
    AVCodecContext *context = decoder->context = avcodec_alloc_context3(input->codec);
    if (!decoder->watch || !context)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a decoder");
    decoder->watch->magic = WATCH_MAGIC;
    int code = avcodec_parameters_to_context(context, input->stream->codecpar);
    if (code < 0)
        return SP_FAIL_FROM(reterr, SP_NOMEM, "libavcodec", code, "the decoder's parameters cannot be set");
    if (extradata.size_bytes) {
        sp_status s = set_extradata(context, extradata, reterr);
        if (s)
            return s;
    }
    context->opaque = decoder->watch;
    context->get_buffer2 = clean_buffer;
    context->pkt_timebase = input->stream->time_base;
    context->has_b_frames = SP_MAX(context->has_b_frames, reorder);
    context->max_pixels = (int64_t)max_pixels;
    context->thread_type = thread_kind(input->codec);
    bool threaded = context->thread_type || input->codec->capabilities & AV_CODEC_CAP_OTHER_THREADS;
    context->thread_count = threaded ? SP_CLAMP(threads, 1, MAX_THREADS) : 1;
    context->flags |= AV_CODEC_FLAG_UNALIGNED; /* cropping to the pixel */
    code = avcodec_open2(context, input->codec, NULL);
    if (code == AVERROR(ENOMEM))
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a decoder of %.20s", input->codec->name);
    if (code < 0)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "the decoder of %.20s refuses the file's parameters: they are damaged, or of a "
                            "variant that it does not know", input->codec->name);
    return SP_OK;
}

sp_status sp_video_decoder_open_gpu(sp_video_decoder *decoder, const sp_video_input *input, sp_view extradata, int device,
                                    sp_nvdec_ring *ring, bool limited, sp_error *reterr)
{
    *decoder = (sp_video_decoder){ 0 };
    return sp_nvdec_open(input, extradata, device, ring, limited, &decoder->nvdec, reterr);
}

void sp_video_decoder_done(sp_video_decoder *decoder)
{
    sp_nvdec_close(SP_STEAL(decoder->nvdec));
    avcodec_free_context(&decoder->context);
    free(decoder->watch);
    decoder->watch = NULL;
}

sp_status sp_video_decoder_send(sp_video_decoder *decoder, AVPacket *packet, uint64_t ordinal, int *ret_code, sp_error *reterr)
{
    *ret_code = 0;
    if (decoder->nvdec)
        return sp_nvdec_send(decoder->nvdec, packet, ordinal, reterr);
    if (packet) {
        packet->pts = (int64_t)ordinal;
        packet->dts = AV_NOPTS_VALUE;
    }
    int code = avcodec_send_packet(decoder->context, packet);
    if (sp_video_out_of_memory(code))
        return SP_FAIL(reterr, SP_NOMEM, "out of memory while decoding");
    *ret_code = code < 0 && code != AVERROR_EOF ? code : 0;
    decoder->failed |= *ret_code != 0;
    return SP_OK;
}

sp_status sp_video_decoder_receive(sp_video_decoder *decoder, AVFrame *frame, bool *ret_got, int *ret_code, sp_error *reterr)
{
    *ret_code = 0;
    if (decoder->nvdec) {
        *ret_got = sp_nvdec_receive(decoder->nvdec, frame);
        return SP_OK;
    }
    int code = avcodec_receive_frame(decoder->context, frame);
    if (sp_video_out_of_memory(code))
        return SP_FAIL(reterr, SP_NOMEM, "out of memory while decoding");
    *ret_got = code >= 0;
    *ret_code = code < 0 && code != AVERROR(EAGAIN) && code != AVERROR_EOF ? code : 0;
    decoder->failed |= *ret_code != 0;
    return SP_OK;
}

bool sp_video_decoder_complained(sp_video_decoder *decoder)
{
    if (decoder->nvdec)
        return false;
    unsigned errors = atomic_load_explicit(&decoder->watch->errors, memory_order_relaxed);
    bool more = errors != decoder->seen_errors;
    decoder->seen_errors = errors;
    return more;
}

bool sp_video_decoder_dirty(const sp_video_decoder *decoder)
{
    if (decoder->nvdec)
        return sp_nvdec_failed(decoder->nvdec);
    return decoder->context->thread_count > 1 &&
           (decoder->failed || atomic_load_explicit(&decoder->watch->remarks, memory_order_relaxed) != 0);
}
