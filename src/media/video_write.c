/* SPDX-License-Identifier: Apache-2.0
 * The report's pictures and films: PNG by libspng, MP4 by libavcodec's encoders. */
#include "media/video_index.h"

#include "base/limits.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <spng.h>

#include "media/video_decode.h"

sp_status sp_video_encode_png(const uint8_t *pixels, int width, int height, int grey, uint8_t **ret_file, size_t *ret_file_bytes,
                              sp_error *reterr)
{
    if (width < 1 || height < 1 || (uint64_t)width * (uint64_t)height > SP_LIMIT_IMAGE_PIXELS)
        return SP_FAIL(reterr, SP_INVALID, "a PNG of %d x %d pixels is not written", width, height);
    spng_ctx *png = spng_ctx_new(SPNG_CTX_ENCODER);
    if (!png)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a PNG");
    struct spng_ihdr header = {
        .width = (uint32_t)width, .height = (uint32_t)height, .bit_depth = 8,
        .color_type = (uint8_t)(grey ? SPNG_COLOR_TYPE_GRAYSCALE : SPNG_COLOR_TYPE_TRUECOLOR),
    };
    size_t size = (size_t)width * (size_t)height * (grey ? 1 : 3);
    uint8_t *file = NULL;
    int code = spng_set_option(png, SPNG_ENCODE_TO_BUFFER, 1);
    /* zlib's default level with all filters tried took 0.3 s for a 1080p picture, the most of a short film's report. */
    if (!code)
        code = spng_set_option(png, SPNG_IMG_COMPRESSION_LEVEL, 2);
    if (!code)
        code = spng_set_option(png, SPNG_FILTER_CHOICE, SPNG_FILTER_CHOICE_SUB);
    if (!code)
        code = spng_set_ihdr(png, &header);
    if (!code)
        code = spng_encode_image(png, pixels, size, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    if (!code)
        file = spng_get_png_buffer(png, ret_file_bytes, &code);
    spng_ctx_free(png);
    if (!file)
        return SP_FAIL_FROM(reterr, code == SPNG_EMEM ? SP_NOMEM : SP_INTERNAL, "libspng", code, "a PNG of %d x %d pixels cannot be written",
                            width, height);
    *ret_file = file;
    return SP_OK;
}

/* --- films --- */

#define WRITER_BUFFER_BYTES (64 * 1024)

struct sp_video_writer {
    int fd;
    uint64_t position;
    int io_errno;
    int width, height; /* of the pictures; the film's sides are even */
    AVFormatContext *format;
    AVIOContext *io;
    AVCodecContext *encoder;
    AVStream *stream;
    AVFrame *frame;
    AVPacket *packet;
    int64_t next_pts;
    bool begun;
};

static int write_io(void *opaque, uint8_t *data, int size)
{
    sp_video_writer *writer = opaque;
    for (int done = 0; done < size;) {
        ssize_t wrote = pwrite(writer->fd, data + done, (size_t)(size - done), (off_t)(writer->position + (uint64_t)done));
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            writer->io_errno = errno ? errno : ENOSPC;
            return AVERROR(writer->io_errno);
        }
        done += (int)wrote;
    }
    writer->position += (uint64_t)size;
    return size;
}

static int64_t seek_io(void *opaque, int64_t offset, int whence)
{
    sp_video_writer *writer = opaque;
    whence &= ~AVSEEK_FORCE;
    if (whence == SEEK_CUR)
        offset += (int64_t)writer->position;
    else if (whence != SEEK_SET)
        return AVERROR(ENOSYS);
    if (offset < 0)
        return AVERROR(EINVAL);
    writer->position = (uint64_t)offset;
    return offset;
}

static void writer_free(sp_video_writer *writer)
{
    if (!writer)
        return;
    av_packet_free(&writer->packet);
    av_frame_free(&writer->frame);
    avcodec_free_context(&writer->encoder);
    avformat_free_context(writer->format);
    if (writer->io)
        av_freep(&writer->io->buffer);
    avio_context_free(&writer->io);
    free(writer);
}
SP_DEFINE_CLEANUP(sp_video_writer, writer_free)

static sp_status open_encoder(sp_video_writer *writer, AVRational rate, sp_error *reterr)
{
    const AVCodec *codec = avcodec_find_encoder_by_name("libx264");
    if (!codec)
        codec = avcodec_find_encoder_by_name("mpeg4");
    if (!codec)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_encoder", "this libavcodec has no encoder of H.264 or MPEG-4");
    AVCodecContext *encoder = writer->encoder = avcodec_alloc_context3(codec);
    if (!encoder)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for an encoder");
    encoder->width = (writer->width + 1) & ~1;
    encoder->height = (writer->height + 1) & ~1;
    encoder->pix_fmt = AV_PIX_FMT_YUV420P;
    encoder->time_base = av_inv_q(rate);
    encoder->framerate = rate;
    encoder->gop_size = 48;
    encoder->thread_count = 1; /* the caller's other work is what the cores are for */
    encoder->color_range = AVCOL_RANGE_MPEG;
    encoder->colorspace = AVCOL_SPC_SMPTE170M;
    encoder->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (codec->id == AV_CODEC_ID_H264) {
        (void)av_opt_set(encoder->priv_data, "preset", "veryfast", 0);
        (void)av_opt_set(encoder->priv_data, "crf", "23", 0);
    } else {
        encoder->flags |= AV_CODEC_FLAG_QSCALE;
        encoder->global_quality = FF_QP2LAMBDA * 4;
    }
    int code = avcodec_open2(encoder, codec, NULL);
    if (code < 0)
        return SP_FAIL_FROM(reterr, SP_UNSUPPORTED, "libavcodec", code, "the encoder %s does not take %d x %d pixels at %d/%d a second",
                            codec->name, encoder->width, encoder->height, rate.num, rate.den);
    return SP_OK;
}

static sp_status open_file(sp_video_writer *writer, sp_error *reterr)
{
    uint8_t *buffer = av_malloc(WRITER_BUFFER_BYTES);
    writer->io = buffer ? avio_alloc_context(buffer, WRITER_BUFFER_BYTES, 1, writer, NULL, write_io, seek_io) : NULL;
    if (!writer->io) {
        av_free(buffer);
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a film");
    }
    int code = avformat_alloc_output_context2(&writer->format, NULL, "mp4", NULL);
    if (code < 0)
        return SP_FAIL_FROM(reterr, SP_UNSUPPORTED, "libavformat", code, "this libavformat writes no MP4");
    writer->format->pb = writer->io;
    writer->format->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT;
    writer->stream = avformat_new_stream(writer->format, NULL);
    if (!writer->stream || avcodec_parameters_from_context(writer->stream->codecpar, writer->encoder) < 0)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a film");
    writer->stream->time_base = writer->encoder->time_base;
    writer->stream->avg_frame_rate = writer->encoder->framerate;
    code = avformat_write_header(writer->format, NULL);
    if (code < 0)
        return SP_FAIL_FROM(reterr, SP_INTERNAL, "libavformat", code, "the film's header cannot be written");
    writer->begun = true;
    return SP_OK;
}

sp_status sp_video_writer_open(int fd, int width, int height, int rate_num, int rate_den, sp_video_writer **ret_writer,
                               sp_error *reterr)
{
    if (width < 1 || height < 1 || (uint64_t)width * (uint64_t)height > SP_LIMIT_VIDEO_PIXELS)
        return SP_FAIL(reterr, SP_INVALID, "a film of %d x %d pixels is not written", width, height);
    AVRational rate = rate_num > 0 && rate_den > 0 ? (AVRational){ rate_num, rate_den } : (AVRational){ 25, 1 };
    (void)av_reduce(&rate.num, &rate.den, rate.num, rate.den, 65535); /* MPEG-4's bound */
    if (rate.num < 1 || rate.den < 1)
        rate = (AVRational){ 25, 1 };
    sp_video_libav_prepare();
    SP_CLEANUP(writer_freep) sp_video_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a film");
    writer->fd = fd;
    writer->width = width;
    writer->height = height;
    sp_status s = open_encoder(writer, rate, reterr);
    if (!s)
        s = open_file(writer, reterr);
    if (s)
        return s;
    writer->frame = av_frame_alloc();
    writer->packet = av_packet_alloc();
    if (!writer->frame || !writer->packet)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a film");
    writer->frame->format = AV_PIX_FMT_YUV420P;
    writer->frame->width = writer->encoder->width;
    writer->frame->height = writer->encoder->height;
    writer->frame->color_range = AVCOL_RANGE_MPEG;
    if (av_frame_get_buffer(writer->frame, 0) < 0)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a film");
    *ret_writer = SP_STEAL(writer);
    return SP_OK;
}

/* Limited-range BT.601 in 16 binary places; the mean of four pixels for chroma. Sides that are odd repeat their last pixel. */
static void to_yuv420(const sp_video_writer *writer, const uint8_t *rgb)
{
    AVFrame *frame = writer->frame;
    int w = writer->width, h = writer->height;
    for (int y = 0; y < frame->height; y += 2) {
        for (int x = 0; x < frame->width; x += 2) {
            int sum[3] = { 0 };
            for (int k = 0; k < 4; k++) {
                int to_x = x + (k & 1), to_y = y + (k >> 1);
                const uint8_t *p = rgb + 3 * ((size_t)SP_MIN(to_y, h - 1) * (size_t)w + (size_t)SP_MIN(to_x, w - 1));
                frame->data[0][(ptrdiff_t)to_y * frame->linesize[0] + to_x] =
                    (uint8_t)((16829 * p[0] + 33039 * p[1] + 6416 * p[2] + 32768 + (16 << 16)) >> 16);
                for (int c = 0; c < 3; c++)
                    sum[c] += p[c];
            }
            ptrdiff_t at_u = (ptrdiff_t)(y / 2) * frame->linesize[1] + x / 2, at_v = (ptrdiff_t)(y / 2) * frame->linesize[2] + x / 2;
            frame->data[1][at_u] = (uint8_t)((-9714 * sum[0] - 19070 * sum[1] + 28784 * sum[2] + (2 << 16) + (128 << 18)) >> 18);
            frame->data[2][at_v] = (uint8_t)((28784 * sum[0] - 24103 * sum[1] - 4681 * sum[2] + (2 << 16) + (128 << 18)) >> 18);
        }
    }
}

static sp_status failed(const sp_video_writer *writer, int code, sp_error *reterr)
{
    if (writer->io_errno) {
        errno = writer->io_errno;
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "the film cannot be written");
    }
    return SP_FAIL_FROM(reterr, code == AVERROR(ENOMEM) ? SP_NOMEM : SP_INTERNAL, "libavcodec", code, "the film cannot be encoded");
}

static sp_status drain(sp_video_writer *writer, sp_error *reterr)
{
    for (;;) {
        int code = avcodec_receive_packet(writer->encoder, writer->packet);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF)
            return SP_OK;
        if (code < 0)
            return failed(writer, code, reterr);
        av_packet_rescale_ts(writer->packet, writer->encoder->time_base, writer->stream->time_base);
        writer->packet->stream_index = 0;
        code = av_interleaved_write_frame(writer->format, writer->packet);
        if (code < 0 || writer->io_errno)
            return failed(writer, code, reterr);
    }
}

sp_status sp_video_writer_add(sp_video_writer *writer, const uint8_t *rgb, sp_error *reterr)
{
    int code = av_frame_make_writable(writer->frame);
    if (code >= 0) {
        to_yuv420(writer, rgb);
        writer->frame->pts = writer->next_pts++;
        code = avcodec_send_frame(writer->encoder, writer->frame);
    }
    return code < 0 ? failed(writer, code, reterr) : drain(writer, reterr);
}

sp_status sp_video_writer_close(sp_video_writer *open_writer, sp_error *reterr)
{
    SP_CLEANUP(writer_freep) sp_video_writer *writer = open_writer;
    if (!writer || !writer->begun)
        return SP_OK;
    int code = avcodec_send_frame(writer->encoder, NULL);
    sp_status s = code < 0 && code != AVERROR_EOF ? failed(writer, code, reterr) : drain(writer, reterr);
    code = av_write_trailer(writer->format);
    if (!s && (code < 0 || writer->io_errno))
        s = failed(writer, code, reterr);
    return s;
}

const sp_video_api sp_video_calls = {
    .index = sp_video_index_make,
    .open = sp_video_open,
    .close = sp_video_close,
    .segment = sp_video_stand,
    .next = sp_video_next,
    .picture = sp_video_picture,
    .encode_png = sp_video_encode_png,
    .writer_open = sp_video_writer_open,
    .writer_add = sp_video_writer_add,
    .writer_close = sp_video_writer_close,
};
