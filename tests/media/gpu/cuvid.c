/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for libnvcuvid.so.1 as far as media/nvdec.c goes: behind its interface decodes libavcodec. It calls back
 * as the driver does: sequence, decode, display, from within the parsing of a packet. It insists on start codes for H.264 and
 * HEVC, and on surfaces being mapped one at a time.
 *
 * SPILLWAY_FAKE_NVDEC: words of
 *   none            its decoder takes no stream at all
 *   create          no decoder can be made
 *   decode@N        picture N (from 0, of the process) cannot be decoded
 *   conceal@N       picture N has errors that are hidden
 *   drop@N          picture N never comes, and nothing is said
 *   map@N           picture N cannot be mapped
 * SPILLWAY_FAKE_NVDEC_LOG: a file that gets a byte for each picture that was mapped. */
#include "media/nvdec_api.h"

#include <fcntl.h>
#include <libavcodec/avcodec.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALL __attribute__((visibility("default"))) nv_result
#define SURFACES 8

typedef struct surface {
    AVFrame *frame;
    int picture;
} surface;

struct nv_parser_opaque {
    nv_parser_settings settings;
    AVCodecContext *context;
    AVPacket *packet;
    AVFrame *frame;
    int width, height, next;
};

struct nv_decoder_opaque {
    nv_create settings;
    uint8_t *mapped;
};

static surface surfaces[SURFACES]; /* one decoder at a time decodes */
static int pictures;

static int word_number(const char *word)
{
    const char *words = getenv("SPILLWAY_FAKE_NVDEC"), *at = words ? strstr(words, word) : NULL;
    return at && at[strlen(word)] == '@' ? (int)strtol(at + strlen(word) + 1, NULL, 10) : -1;
}

static int has_word(const char *word)
{
    const char *words = getenv("SPILLWAY_FAKE_NVDEC");
    return words && strstr(words, word) != NULL;
}

static enum AVCodecID codec_of(int codec)
{
    return codec == NV_CODEC_H264   ? AV_CODEC_ID_H264
           : codec == NV_CODEC_HEVC ? AV_CODEC_ID_HEVC
           : codec == NV_CODEC_VP9  ? AV_CODEC_ID_VP9
           : codec == NV_CODEC_AV1  ? AV_CODEC_ID_AV1
                                    : AV_CODEC_ID_NONE;
}

CALL cuvidGetDecoderCaps(nv_caps *caps);
CALL cuvidGetDecoderCaps(nv_caps *caps)
{
    caps->supported = !has_word("none") && caps->chroma == NV_CHROMA_420 && !caps->bit_depth_minus_8;
    caps->output_formats = 1u << NV_SURFACE_NV12;
    caps->min_width = caps->min_height = 16;
    caps->max_width = caps->max_height = 4096;
    caps->max_macroblocks = 65536;
    return 0;
}

/* --- parser ---- */

CALL cuvidDestroyVideoParser(nv_parser parser);
CALL cuvidDestroyVideoParser(nv_parser parser)
{
    avcodec_free_context(&parser->context);
    av_packet_free(&parser->packet);
    av_frame_free(&parser->frame);
    free(parser);
    for (int i = 0; i < SURFACES; i++)
        av_frame_free(&surfaces[i].frame);
    return 0;
}

CALL cuvidCreateVideoParser(nv_parser *ret_parser, nv_parser_settings *settings);
CALL cuvidCreateVideoParser(nv_parser *ret_parser, nv_parser_settings *settings)
{
    const AVCodec *codec = avcodec_find_decoder(codec_of(settings->codec));
    if (!codec)
        return 100;
    nv_parser parser = calloc(1, sizeof(*parser));
    parser->settings = *settings;
    parser->context = avcodec_alloc_context3(codec);
    parser->context->thread_count = 1;
    parser->packet = av_packet_alloc();
    parser->frame = av_frame_alloc();
    *ret_parser = parser;
    return avcodec_open2(parser->context, codec, NULL) < 0;
}

static int tell_sequence(nv_parser parser)
{
    const AVFrame *frame = parser->frame;
    int chroma = frame->format == AV_PIX_FMT_YUV420P || frame->format == AV_PIX_FMT_YUVJ420P ? NV_CHROMA_420 : 2;
    nv_format format = { .codec = parser->settings.codec, .progressive = 1, .least_surfaces = 4, .chroma = chroma };
    format.coded_width = (unsigned)(frame->width + 15) / 16 * 16;
    format.coded_height = (unsigned)(frame->height + 15) / 16 * 16;
    format.display.right = frame->width;
    format.display.bottom = frame->height;
    parser->width = frame->width;
    parser->height = frame->height;
    return parser->settings.sequence(parser->settings.context, &format);
}

static int tell_picture(nv_parser parser)
{
    surface *s = &surfaces[parser->next];
    nv_picture picture = { .surface = parser->next };
    nv_display shown = { .surface = parser->next, .progressive = 1, .timestamp = parser->frame->pts };
    parser->next = (parser->next + 1) % SURFACES;
    s->picture = pictures++;
    if (s->picture == word_number("drop"))
        return 1;
    av_frame_free(&s->frame);
    s->frame = av_frame_clone(parser->frame);
    return parser->settings.decode(parser->settings.context, &picture) && parser->settings.display(parser->settings.context, &shown);
}

static int has_start_code(const nv_packet *packet)
{
    return packet->size_bytes > 4 && packet->data[0] == 0 && packet->data[1] == 0 && (packet->data[2] == 1 || packet->data[3] == 1);
}

CALL cuvidParseVideoData(nv_parser parser, nv_packet *packet);
CALL cuvidParseVideoData(nv_parser parser, nv_packet *packet)
{
    int end = (packet->flags & NV_PACKET_END_OF_STREAM) != 0;
    int starts = parser->settings.codec == NV_CODEC_H264 || parser->settings.codec == NV_CODEC_HEVC;
    if (!end && starts && !has_start_code(packet))
        return 1;
    if (!end && av_new_packet(parser->packet, (int)packet->size_bytes) == 0) {
        memcpy(parser->packet->data, packet->data, packet->size_bytes);
        parser->packet->pts = packet->timestamp;
    }
    int good = 1, code = avcodec_send_packet(parser->context, end ? NULL : parser->packet);
    av_packet_unref(parser->packet); /* what is damaged is passed over, as the driver does */
    while (good && (code >= 0 || code == AVERROR(EAGAIN) || end) && avcodec_receive_frame(parser->context, parser->frame) >= 0) {
        if (parser->frame->width != parser->width || parser->frame->height != parser->height)
            good = tell_sequence(parser);
        good = good && tell_picture(parser);
        av_frame_unref(parser->frame);
    }
    if (end && good)
        (void)parser->settings.display(parser->settings.context, NULL);
    return 0; /* callbacks that fail end the parsing, not the call */
}

/* --- decoder ---- */

CALL cuvidCreateDecoder(nv_decoder *ret_decoder, nv_create *settings);
CALL cuvidCreateDecoder(nv_decoder *ret_decoder, nv_create *settings)
{
    if (has_word("create") || settings->decode_surfaces < 4 || settings->target_width % 2 || settings->output_surfaces != 1)
        return 2;
    nv_decoder decoder = calloc(1, sizeof(*decoder));
    decoder->settings = *settings;
    *ret_decoder = decoder;
    return 0;
}

CALL cuvidDestroyDecoder(nv_decoder decoder);
CALL cuvidDestroyDecoder(nv_decoder decoder)
{
    int mapped = decoder->mapped != NULL;
    free(decoder->mapped);
    free(decoder);
    return mapped;
}

CALL cuvidDecodePicture(nv_decoder decoder, nv_picture *picture);
CALL cuvidDecodePicture(nv_decoder decoder, nv_picture *picture)
{
    return !decoder || surfaces[picture->surface].picture == word_number("decode");
}

CALL cuvidGetDecodeStatus(nv_decoder decoder, int index, nv_status *status);
CALL cuvidGetDecodeStatus(nv_decoder decoder, int index, nv_status *status)
{
    const surface *s = &surfaces[index];
    int bad = s->picture == word_number("conceal") || s->frame->decode_error_flags || (s->frame->flags & AV_FRAME_FLAG_CORRUPT);
    status->status = bad ? NV_STATUS_CONCEALED : 2;
    return !decoder;
}

static void note(void)
{
    const char *path = getenv("SPILLWAY_FAKE_NVDEC_LOG");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        (void)!write(fd, ".", 1);
        (void)close(fd);
    }
}

CALL cuvidMapVideoFrame64(nv_decoder decoder, int index, uint64_t *device, unsigned *pitch, nv_map *how);
CALL cuvidMapVideoFrame64(nv_decoder decoder, int index, uint64_t *device, unsigned *pitch, nv_map *how)
{
    const surface *s = &surfaces[index];
    size_t width = decoder->settings.target_width, height = decoder->settings.target_height;
    if (decoder->mapped || s->picture == word_number("map") || how->second_field != 1 || !s->frame)
        return 3;
    *pitch = (unsigned)((width + 255) / 256 * 256);
    decoder->mapped = malloc(*pitch * height * 3 / 2);
    for (size_t y = 0; y < height; y++)
        memcpy(decoder->mapped + y * *pitch, s->frame->data[0] + y * (size_t)s->frame->linesize[0], width);
    for (size_t y = 0; y < height / 2; y++) {
        for (size_t x = 0; x < width / 2; x++) {
            uint8_t *to = decoder->mapped + (height + y) * *pitch + 2 * x;
            to[0] = s->frame->data[1][y * (size_t)s->frame->linesize[1] + x];
            to[1] = s->frame->data[2][y * (size_t)s->frame->linesize[2] + x];
        }
    }
    *device = (uint64_t)(uintptr_t)decoder->mapped;
    note();
    return 0;
}

CALL cuvidUnmapVideoFrame64(nv_decoder decoder, uint64_t device);
CALL cuvidUnmapVideoFrame64(nv_decoder decoder, uint64_t device)
{
    if (device != (uint64_t)(uintptr_t)decoder->mapped)
        return 1;
    free(decoder->mapped);
    decoder->mapped = NULL;
    return 0;
}
