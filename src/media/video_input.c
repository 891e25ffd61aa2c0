/* SPDX-License-Identifier: Apache-2.0
 * libavformat on a descriptor, shut off from the rest of the world. */
#include "media/video_input.h"

#include "base/limits.h"
#include "media/video_decode.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <libavutil/avstring.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>

#define IO_BUFFER_BYTES (64 * 1024)

/* libav looks at this much at most to tell the container and to learn the streams' parameters: its own default, enough for
 * transport streams with a key frame every few seconds. */
#define PROBE_BYTES (5 * 1024 * 1024)
#define FORMAT_PROBE_BYTES (1024 * 1024)

/* Streams of one file; a broadcast transport stream has some dozens. */
#define MAX_STREAMS 128

/* A demuxer that reads the file this often goes in circles: opening reads parts twice, everything else once. */
#define READ_ROUNDS 8
#define READ_SLACK_BYTES (256ull * 1024 * 1024)

/* After an error in the middle a demuxer may find its way again; so many in a row are the end. */
#define MAX_READ_ERRORS_IN_A_ROW 32

/* As libav names them. No playlists, no scripts, no lists of pictures, no devices. */
static const char *const containers[] = {
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "ogg", "ivf", "h264", "hevc", "m4v",
    "mpegvideo", "yuv4mpegpipe", "gif", "mjpeg", "obu",
};

/* Decoders that only read what is in the packet. The list also keeps libavformat from opening any other when it looks for
 * parameters, those of sound included. */
#define CODECS "h264,hevc,libdav1d,libaom-av1,vp8,vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v2,msmpeg4,h263,h263p,flv,vc1,wmv1,wmv2,wmv3," \
               "theora,mjpeg,gif,png,ffv1,huffyuv,ffvhuff,utvideo,prores,dnxhd,dvvideo,rawvideo,wrapped_avframe,qtrle,cinepak," \
               "msvideo1,msrle,svq1,svq3,vp6,vp6f,vp6a,flashsv,magicyuv,cfhd,rpza,zmbv"

static int io_read(void *opaque, uint8_t *dst, int size)
{
    sp_video_input *input = opaque;
    if (input->position >= input->source.size_bytes)
        return AVERROR_EOF;
    if (input->read_bytes > input->read_limit_bytes) {
        input->limit_hit = true;
        return AVERROR_EOF;
    }
    size_t want = (size_t)SP_MIN((uint64_t)size, input->source.size_bytes - input->position);
    ssize_t got;
    do
        got = pread(input->source.fd, dst, want, (off_t)(input->source.offset_bytes + input->position));
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        input->io_failed = true;
        return AVERROR(EIO);
    }
    if (got == 0)
        return AVERROR_EOF; /* shorter than it was said to be */
    input->position += (uint64_t)got;
    input->read_bytes += (uint64_t)got;
    return (int)got;
}

static int64_t io_seek(void *opaque, int64_t offset, int whence)
{
    sp_video_input *input = opaque;
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE)
        return (int64_t)input->source.size_bytes;
    int64_t base = whence == SEEK_CUR ? (int64_t)input->position : whence == SEEK_END ? (int64_t)input->source.size_bytes : 0;
    int64_t target;
    if ((whence != SEEK_SET && whence != SEEK_CUR && whence != SEEK_END) || __builtin_add_overflow(base, offset, &target) ||
        target < 0)
        return AVERROR(EINVAL);
    input->position = (uint64_t)target;
    /* Walking about costs a read of a buffer each time; so loops that only seek are bounded too. */
    input->read_bytes += 64;
    if (input->read_bytes > input->read_limit_bytes) {
        input->limit_hit = true;
        return AVERROR_EOF;
    }
    return target;
}

/* Some containers may name other files or addresses: none is ever opened. */
static int refuse_open(AVFormatContext *format, AVIOContext **ret_io, const char *url, int flags, AVDictionary **options)
{
    return AVERROR(EPERM);
}

static bool container_allowed(const AVInputFormat *format)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(containers); i++) {
        if (strcmp(format->name, containers[i]) == 0)
            return true;
    }
    return false;
}

static sp_status probe_container(sp_video_input *input, const AVInputFormat **ret_format, sp_error *reterr)
{
    const AVInputFormat *format = NULL;
    int code = av_probe_input_buffer2(input->io, &format, "", NULL, 0, FORMAT_PROBE_BYTES);
    if (input->io_failed)
        return SP_FAIL(reterr, SP_INTERNAL, "the video file cannot be read");
    if (sp_video_out_of_memory(code))
        return SP_FAIL(reterr, SP_NOMEM, "out of memory when the container was looked for");
    if (code < 0 || !format)
        return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_format", "the file is no video that we know; send MP4/MOV, Matroska/WebM, "
                            "AVI, MPEG-TS, MPEG-PS, FLV, Ogg, IVF, Y4M, GIF or a raw H.264, HEVC, MPEG or MJPEG stream");
    if (!container_allowed(format))
        return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_format", "the file looks like %.40s, which is not read here; send MP4/MOV, "
                            "Matroska/WebM, AVI, MPEG-TS, MPEG-PS, FLV, Ogg, IVF, Y4M, GIF or a raw stream", format->name);
    *ret_format = format;
    return SP_OK;
}

static sp_status open_container(sp_video_input *input, sp_error *reterr)
{
    uint8_t *buffer = av_malloc(IO_BUFFER_BYTES);
    input->io = buffer ? avio_alloc_context(buffer, IO_BUFFER_BYTES, 0, input, io_read, NULL, io_seek) : NULL;
    input->format = avformat_alloc_context();
    if (!input->io || !input->format) {
        if (!input->io)
            av_free(buffer);
        return SP_FAIL(reterr, SP_NOMEM, "out of memory");
    }
    const AVInputFormat *container = NULL;
    sp_status s = probe_container(input, &container, reterr);
    if (s)
        return s;

    AVFormatContext *format = input->format;
    format->pb = input->io;
    format->flags |= AVFMT_FLAG_CUSTOM_IO;
    format->io_open = refuse_open;
    format->probesize = PROBE_BYTES;
    format->max_streams = MAX_STREAMS;
    format->protocol_whitelist = av_strdup("");
    format->format_whitelist = av_strdup(container->name);
    format->codec_whitelist = av_strdup(CODECS);
    if (!format->protocol_whitelist || !format->format_whitelist || !format->codec_whitelist)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory");
    /* On failure it frees the context. */
    int code = avformat_open_input(&input->format, "", container, NULL);
    if (sp_video_out_of_memory(code))
        return SP_FAIL(reterr, SP_NOMEM, "%.40s: out of memory for its header", container->name);
    if (code < 0)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "%.40s: the header is damaged or cut off, no frame can be found; send a "
                            "whole file", container->name);
    input->restartable = strcmp(container->name, containers[0]) == 0 || strcmp(container->name, containers[1]) == 0;
    return SP_OK;
}

/* Parameters that the header lacks come from the first packets: libav decodes some of them, under our bounds. */
static sp_status find_parameters(sp_video_input *input, uint64_t max_pixels, sp_error *reterr)
{
    AVFormatContext *format = input->format;
    unsigned count = format->nb_streams;
    AVDictionary **options = count ? av_calloc(count, sizeof(*options)) : NULL;
    for (unsigned i = 0; options && i < count; i++) {
        (void)av_dict_set_int(&options[i], "max_pixels", (int64_t)max_pixels, 0);
        (void)av_dict_set_int(&options[i], "threads", 1, 0);
    }
    int code = avformat_find_stream_info(format, options);
    for (unsigned i = 0; options && i < count; i++)
        av_dict_free(&options[i]);
    av_free(options);
    if (sp_video_out_of_memory(code))
        return SP_FAIL(reterr, SP_NOMEM, "%.40s: out of memory for the first packets", format->iformat->name);
    return SP_OK; /* what is still missing shows when a frame is decoded */
}

static const AVCodec *decoder_of(const AVCodecParameters *parameters)
{
    void *cursor = NULL;
    for (const AVCodec *codec = av_codec_iterate(&cursor); codec; codec = av_codec_iterate(&cursor)) {
        if (av_codec_is_decoder(codec) && codec->id == parameters->codec_id &&
            av_match_list(codec->name, CODECS, ',') > 0)
            return codec;
    }
    return NULL;
}

static bool better(const AVStream *a, const AVStream *b)
{
    bool a_default = a->disposition & AV_DISPOSITION_DEFAULT, b_default = b->disposition & AV_DISPOSITION_DEFAULT;
    if (a_default != b_default)
        return a_default;
    return (int64_t)a->codecpar->width * a->codecpar->height > (int64_t)b->codecpar->width * b->codecpar->height;
}

static sp_status choose_stream(sp_video_input *input, uint64_t max_pixels, sp_error *reterr)
{
    AVFormatContext *format = input->format;
    bool pictures = false;
    const AVStream *unreadable = NULL;
    for (unsigned i = 0; i < format->nb_streams; i++) {
        AVStream *stream = format->streams[i];
        if (stream->codecpar->codec_type != AVMEDIA_TYPE_VIDEO)
            continue;
        if (stream->disposition & (AV_DISPOSITION_ATTACHED_PIC | AV_DISPOSITION_TIMED_THUMBNAILS)) {
            pictures = true;
            continue;
        }
        const AVCodec *codec = decoder_of(stream->codecpar);
        if (!codec)
            unreadable = stream;
        else if (!input->stream || better(stream, input->stream))
            input->stream = stream, input->codec = codec;
    }
    if (!input->stream && unreadable)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_decoder", "the video is coded as %.40s, for which there is no decoder here; send "
                            "H.264, HEVC, VP8, VP9, AV1 or MPEG", avcodec_get_name(unreadable->codecpar->codec_id));
    if (!input->stream)
        return SP_FAIL_CODE(reterr, SP_INVALID, "no_video", "%.40s: there is no video in the file%s; send one with moving pictures",
                            format->iformat->name, pictures ? ", only a cover picture" : "");
    for (unsigned i = 0; i < format->nb_streams; i++) {
        if (format->streams[i] != input->stream)
            format->streams[i]->discard = AVDISCARD_ALL;
    }
    const AVCodecParameters *parameters = input->stream->codecpar;
    uint64_t pixels = parameters->width > 0 && parameters->height > 0 ? (uint64_t)parameters->width * (uint64_t)parameters->height : 0;
    if (pixels > max_pixels)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "video_pixels", "the video has %d x %d = %llu pixels a frame, the limit is %llu; send a "
                            "smaller one", parameters->width, parameters->height, (unsigned long long)pixels,
                            (unsigned long long)max_pixels);
    return SP_OK;
}

sp_status sp_video_input_open(sp_video_input *input, const sp_video_source *source, uint64_t max_pixels, sp_error *reterr)
{
    *input = (sp_video_input){
        .source = *source,
        .read_limit_bytes = source->size_bytes * READ_ROUNDS + READ_SLACK_BYTES,
    };
    sp_video_libav_prepare();
    sp_status s = open_container(input, reterr);
    if (!s)
        s = find_parameters(input, max_pixels, reterr);
    if (!s)
        s = choose_stream(input, max_pixels, reterr);
    return s;
}

void sp_video_input_done(sp_video_input *input)
{
    avformat_close_input(&input->format);
    if (input->io)
        av_freep(&input->io->buffer);
    avio_context_free(&input->io);
    input->stream = NULL;
}

sp_status sp_video_input_read(sp_video_input *input, AVPacket *packet, bool *ret_more, sp_error *reterr)
{
    int errors = 0;
    *ret_more = false;
    for (;;) {
        int code = av_read_frame(input->format, packet);
        if (sp_video_out_of_memory(code))
            return SP_FAIL(reterr, SP_NOMEM, "out of memory for a packet");
        if (input->io_failed)
            return SP_FAIL(reterr, SP_INTERNAL, "the video file cannot be read");
        if (code == AVERROR_EOF || input->limit_hit)
            return SP_OK;
        if (code < 0) {
            input->read_errors++;
            if (++errors >= MAX_READ_ERRORS_IN_A_ROW)
                return SP_OK;
            continue;
        }
        errors = 0;
        if (packet->stream_index != input->stream->index) {
            av_packet_unref(packet);
            continue;
        }
        input->next_ordinal++;
        if (packet->size > 0) {
            *ret_more = true;
            return SP_OK;
        }
        av_packet_unref(packet);
    }
}

bool sp_video_input_seek(sp_video_input *input, const sp_video_run *run)
{
    int64_t time = run->key_dts != AV_NOPTS_VALUE ? run->key_dts : run->key_pts;
    if (!input->restartable || run->key_position < 0 || time == AV_NOPTS_VALUE)
        return false;
    input->read_bytes = 0; /* who goes back and forth by himself does not go in circles */
    return avformat_seek_file(input->format, input->stream->index, INT64_MIN, time, time, 0) >= 0;
}
