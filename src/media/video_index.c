/* SPDX-License-Identifier: Apache-2.0
 * What a file holds, told from its packets and the first frame that can be decoded. */
#include "media/video_index.h"

#include "base/limits.h"
#include "media/video_decode.h"
#include "media/video_frame.h"
#include "media/video_packets.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <libavutil/mathematics.h>
#include <libavutil/pixdesc.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

/* The first frame must come within so many packets: the longest group of pictures that encoders write by default, several times
 * over. */
#define FIRST_FRAME_PACKETS 1024

/* Longest side: what the planes' operations take (kernels/plane.h). */
#define MAX_SIDE 16384

typedef struct indexer {
    sp_video_source source;
    sp_video_limits limits;
    sp_video_input input;
    sp_video_packets packets;
    sp_video_index head;
    uint64_t damaged_packets, late_start, lost_leading;
} indexer;

static void note(indexer *ix, const char *format, ...) SP_PRINTF(2, 3);
static void note(indexer *ix, const char *format, ...)
{
    if (ix->head.note_count == SP_LIMIT_VIDEO_NOTES)
        return;
    char *text = ix->head.notes[ix->head.note_count++];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(ix->head.notes[0]), format, arguments);
    va_end(arguments);
}

static sp_video_limits with_defaults(const sp_video_limits *limits)
{
    sp_video_limits full = limits ? *limits : (sp_video_limits){ 0 };
    full.max_bytes = full.max_bytes ? full.max_bytes : SP_LIMIT_VIDEO_BODY_BYTES;
    full.max_pixels = full.max_pixels ? SP_MIN(full.max_pixels, SP_LIMIT_VIDEO_PIXELS) : SP_LIMIT_VIDEO_PIXELS;
    full.max_frames = full.max_frames ? SP_MIN(full.max_frames, SP_LIMIT_VIDEO_FRAMES) : SP_LIMIT_VIDEO_FRAMES;
    full.max_duration_s = full.max_duration_s > 0 ? full.max_duration_s : SP_LIMIT_VIDEO_SECONDS;
    return full;
}

static sp_status hash_file(const sp_video_source *source, uint8_t *ret_sha256, sp_error *reterr)
{
    enum { BLOCK = 256 * 1024 };
    /* No configuration file: where this runs nothing can be opened. */
    (void)OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    uint8_t *block = malloc(BLOCK);
    bool good = hash && block && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1;
    sp_status s = good ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "out of memory for the file's hash");
    for (uint64_t at = 0; !s && at < source->size_bytes;) {
        size_t want = (size_t)SP_MIN((uint64_t)BLOCK, source->size_bytes - at);
        ssize_t got = pread(source->fd, block, want, (off_t)(source->offset_bytes + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            s = SP_FAIL_ERRNO(reterr, SP_INTERNAL, "the video file cannot be read");
        else if (got == 0)
            s = SP_FAIL(reterr, SP_INTERNAL, "the video file has %llu bytes, it was to have %llu", (unsigned long long)at,
                        (unsigned long long)source->size_bytes);
        else
            at += (uint64_t)got, good = EVP_DigestUpdate(hash, block, (size_t)got) == 1 && good;
    }
    if (!s && (!good || EVP_DigestFinal_ex(hash, ret_sha256, NULL) != 1))
        s = SP_FAIL(reterr, SP_INTERNAL, "SHA-256 does not work here");
    EVP_MD_CTX_free(hash);
    free(block);
    return s;
}

static sp_status check_packet_limits(const indexer *ix, sp_error *reterr)
{
    if (ix->packets.shown_count > ix->limits.max_frames)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "video_frames", "the video has more than %u frames; send a shorter one",
                            ix->limits.max_frames);
    /* Frames that are not shown are decoded too; no encoder hides more than it shows. */
    if (ix->packets.count > 4ull * ix->limits.max_frames + 4096)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "video_frames", "the video has more than %llu packets; send a shorter one",
                            4ull * ix->limits.max_frames + 4096);
    return SP_OK;
}

static sp_status read_packets(indexer *ix, sp_error *reterr)
{
    sp_video_scan scan;
    AVPacket *packet = av_packet_alloc();
    const AVPacket nothing = { .pts = AV_NOPTS_VALUE, .dts = AV_NOPTS_VALUE, .pos = -1 };
    sp_status s = sp_video_scan_init(&scan, ix->input.stream->codecpar, reterr);
    if (!s && !packet)
        s = SP_FAIL(reterr, SP_NOMEM, "out of memory");
    bool more = true;
    while (!s) {
        s = sp_video_input_read(&ix->input, packet, &more, reterr);
        if (s || !more)
            break;
        while (!s && ix->packets.count + 1 < ix->input.next_ordinal) /* empty ones, which the input skips */
            s = sp_video_packets_add(&ix->packets, &scan, &nothing, reterr);
        if (!s)
            s = sp_video_packets_add(&ix->packets, &scan, packet, reterr);
        ix->damaged_packets += (packet->flags & AV_PKT_FLAG_CORRUPT) != 0;
        av_packet_unref(packet);
        if (!s)
            s = check_packet_limits(ix, reterr);
    }
    av_packet_free(&packet);
    sp_video_scan_done(&scan);
    if (!s && !ix->packets.count)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "%.40s: not one frame is left of the video stream; send a whole file",
                         ix->input.format->iformat->name);
    return s;
}

static int64_t second_ticks(const indexer *ix)
{
    AVRational base = ix->input.stream->time_base;
    int64_t ticks = base.num > 0 && base.den > 0 ? base.den / base.num : 0;
    return SP_MAX(ticks, 1);
}

static sp_status order(indexer *ix, sp_error *reterr)
{
    sp_status s = sp_video_packets_order(&ix->packets, second_ticks(ix), ix->input.stream->codecpar->video_delay == 0, reterr);
    if (!s && !ix->packets.frame_count)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "%.40s: no packet of the video stream shows a frame; send a whole file",
                         ix->input.format->iformat->name);
    return s;
}

/* Decoding begins at the first key frame; a recording that was switched on later has pictures before it. */
static void find_begin(indexer *ix)
{
    uint64_t first = 0;
    while (first < ix->packets.count && !ix->packets.items[first].key)
        first++;
    if (first == ix->packets.count)
        first = 0;
    for (uint64_t i = 0; i < first; i++)
        ix->late_start += ix->packets.items[i].shown;
    ix->packets.first = first;
}

/* --- the first frame --- */

typedef struct first_look {
    bool got;
    int width, height, format;
    bool limited;
    uint64_t leading_end;     /* behind the last leading picture of the first key frame */
    bool came[SP_VIDEO_MAX_LEADING + 1];
} first_look;

/* The pictures behind the first key frame that are shown before it can be decoded only if they do not need what came before. */
static uint64_t leading_end(const sp_video_packets *packets)
{
    uint64_t end = packets->first + 1;
    uint32_t number = packets->items[packets->first].number;
    if (!packets->has_times || number == SP_VIDEO_HIDDEN || number == 0)
        return end;
    for (uint64_t i = end; i < SP_MIN(packets->count, packets->first + 1 + SP_VIDEO_MAX_LEADING); i++) {
        if (packets->items[i].number < number)
            end = i + 1;
    }
    return end;
}

static void look_at(first_look *look, const indexer *ix, const AVFrame *frame)
{
    if (!look->got) {
        look->got = true;
        look->width = frame->width;
        look->height = frame->height;
        look->format = frame->format;
        look->limited = sp_video_frame_limited(frame);
    }
    uint64_t behind = (uint64_t)frame->pts - ix->packets.first;
    if (frame->pts != AV_NOPTS_VALUE && behind < SP_ARRAY_LEN(look->came))
        look->came[behind] = true;
}

static sp_status take_frames(first_look *look, const indexer *ix, sp_video_decoder *decoder, AVFrame *frame, sp_error *reterr)
{
    int code = 0, errors = 0;
    bool got = true;
    sp_status s = SP_OK;
    while (!s && (got || code) && errors < 64) {
        s = sp_video_decoder_receive(decoder, frame, &got, &code, reterr);
        if (!s && got) {
            look_at(look, ix, frame);
            av_frame_unref(frame);
        }
        errors += code != 0;
    }
    return s;
}

static sp_status decode_begin(first_look *look, indexer *ix, sp_video_input *input, sp_video_decoder *decoder, AVPacket *packet,
                              AVFrame *frame, sp_error *reterr)
{
    bool leading = look->leading_end > ix->packets.first + 1, more = true;
    int code;
    for (unsigned fed = 0; fed < FIRST_FRAME_PACKETS;) {
        sp_status s = sp_video_input_read(input, packet, &more, reterr);
        if (s || !more)
            return s ? s : SP_OK;
        uint64_t ordinal = input->next_ordinal - 1;
        if (ordinal < ix->packets.first) {
            av_packet_unref(packet);
            continue;
        }
        packet->flags &= ~AV_PKT_FLAG_DISCARD; /* any frame will do */
        s = sp_video_decoder_send(decoder, packet, ordinal, &code, reterr);
        av_packet_unref(packet);
        if (!s)
            s = take_frames(look, ix, decoder, frame, reterr);
        fed++;
        if (s || (look->got && (!leading || ordinal + 1 >= look->leading_end)))
            return s;
    }
    return SP_OK;
}

static sp_status look_first(indexer *ix, first_look *look, sp_error *reterr)
{
    sp_video_input input;
    sp_video_decoder decoder = { 0 };
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    *look = (first_look){ .leading_end = leading_end(&ix->packets) };
    sp_status s = sp_video_input_open(&input, &ix->source, ix->limits.max_pixels, reterr);
    if (!s && (!packet || !frame))
        s = SP_FAIL(reterr, SP_NOMEM, "out of memory");
    bool leading = look->leading_end > ix->packets.first + 1;
    if (!s)
        s = sp_video_decoder_open(&decoder, &input, sp_view_make(NULL, 0), leading ? 16 : 0, 1, ix->limits.max_pixels, reterr);
    if (!s)
        s = decode_begin(look, ix, &input, &decoder, packet, frame, reterr);
    int code;
    if (!s)
        s = sp_video_decoder_send(&decoder, NULL, 0, &code, reterr);
    if (!s)
        s = take_frames(look, ix, &decoder, frame, reterr);
    sp_video_decoder_done(&decoder);
    sp_video_input_done(&input);
    av_packet_free(&packet);
    av_frame_free(&frame);
    return s;
}

static sp_status drop_leading(indexer *ix, const first_look *look, sp_error *reterr)
{
    uint64_t first = ix->packets.first;
    uint32_t number = ix->packets.items[first].number;
    for (uint64_t i = first + 1; i < look->leading_end; i++) {
        if (ix->packets.items[i].number < number && !look->came[i - first]) {
            ix->packets.items[i].shown = false;
            ix->lost_leading++;
        }
    }
    return ix->lost_leading ? order(ix, reterr) : SP_OK;
}

static sp_status set_geometry(indexer *ix, const first_look *look, sp_error *reterr)
{
    sp_video_index *head = &ix->head;
    const char *format = av_get_pix_fmt_name((enum AVPixelFormat)look->format);
    if (!look->got)
        return SP_FAIL_CODE(reterr, SP_INVALID, "corrupt", "%.40s, %.20s: not one of the first %d packets can be decoded; send a whole file",
                            ix->input.format->iformat->name, ix->input.codec->name, FIRST_FRAME_PACKETS);
    if (!sp_video_format_known(look->format))
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "pixel_format", "frames of the pixel format %.30s are not read; send YUV or RGB of 8 "
                            "to 16 bits", format ? format : "?");
    uint64_t pixels = (uint64_t)look->width * (uint64_t)look->height;
    if (pixels > ix->limits.max_pixels || look->width > MAX_SIDE || look->height > MAX_SIDE)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "video_pixels", "the video has %d x %d = %llu pixels a frame, the limit is %llu and %d a "
                            "side; send a smaller one", look->width, look->height, (unsigned long long)pixels,
                            (unsigned long long)ix->limits.max_pixels, MAX_SIDE);
    int rotation = 0;
    bool mirrored = false;
    size_t matrix_bytes = 0;
    const uint8_t *matrix = av_stream_get_side_data(ix->input.stream, AV_PKT_DATA_DISPLAYMATRIX, &matrix_bytes);
    if (matrix && matrix_bytes >= 9 * sizeof(int32_t)) {
        int32_t values[9];
        memcpy(values, matrix, sizeof(values));
        if (!sp_video_turn_read(values, &rotation, &mirrored))
            note(ix, "the display matrix is no multiple of 90 degrees: ignored");
    }
    bool turned = rotation == 90 || rotation == 270;
    head->coded_width = look->width;
    head->coded_height = look->height;
    head->width = turned ? look->height : look->width;
    head->height = turned ? look->width : look->height;
    head->rotation = rotation;
    head->mirrored = mirrored;
    head->limited_range = look->limited;
    (void)snprintf(head->pixel_format, sizeof(head->pixel_format), "%s", format ? format : "");
    return SP_OK;
}

/* --- the rest of the header --- */

static bool usable(AVRational r)
{
    return r.num > 0 && r.den > 0;
}

static sp_status set_times(indexer *ix, sp_error *reterr)
{
    sp_video_index *head = &ix->head;
    const sp_video_packets *packets = &ix->packets;
    const AVStream *stream = ix->input.stream;
    AVRational base = usable(stream->time_base) ? stream->time_base : (AVRational){ 1, 25 };
    AVRational rate = usable(stream->avg_frame_rate) ? stream->avg_frame_rate : stream->r_frame_rate;
    if (!packets->has_times)
        base = usable(rate) ? av_inv_q(rate) : (AVRational){ 1, 25 };
    double seconds = (double)packets->duration * base.num / base.den;
    if (seconds > ix->limits.max_duration_s)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "video_seconds", "the video lasts %.0f seconds, the limit is %.0f; send a shorter one", seconds,
                            ix->limits.max_duration_s);
    if (packets->has_times && packets->frame_count > 1) {
        /* libav's average is a round number, but it counts packets (fields are two a frame) and believes headers. Six hours of ticks:
         * no product overflows. */
        int64_t span = packets->pts[packets->frame_count - 1] - packets->pts[0];
        AVRational own;
        (void)av_reduce(&own.num, &own.den, (int64_t)(packets->frame_count - 1) * base.den, span * base.num, 1000000);
        double off = usable(own) && usable(rate) ? av_q2d(rate) / av_q2d(own) : 0;
        if (usable(own) && (off < 0.98 || off > 1.02))
            rate = own;
    }
    head->has_times = packets->has_times;
    head->time_base_num = base.num;
    head->time_base_den = base.den;
    head->rate_num = usable(rate) ? rate.num : 0;
    head->rate_den = usable(rate) ? rate.den : 1;
    head->variable_rate = packets->variable_rate;
    head->duration_pts = packets->duration;
    head->frame_count = packets->frame_count;
    return SP_OK;
}

static void set_notes(indexer *ix)
{
    const sp_video_packets *packets = &ix->packets;
    const AVStream *stream = ix->input.stream;
    if (stream->nb_frames > 0 && (uint64_t)stream->nb_frames > packets->count)
        note(ix, "the file ends early: %llu of %lld packets are there", (unsigned long long)packets->count, (long long)stream->nb_frames);
    if (ix->input.read_errors)
        note(ix, "the container is damaged: reading went wrong %u times", ix->input.read_errors);
    if (ix->input.limit_hit)
        note(ix, "the container leads in circles: given up after %llu packets", (unsigned long long)packets->count);
    if (ix->damaged_packets)
        note(ix, "%llu packets are cut or marked as damaged", (unsigned long long)ix->damaged_packets);
    if (ix->late_start)
        note(ix, "%llu pictures before the first key frame cannot be decoded: left out", (unsigned long long)ix->late_start);
    if (ix->lost_leading)
        note(ix, "%llu pictures that lead the first key frame cannot be decoded: left out", (unsigned long long)ix->lost_leading);
    if (packets->torn)
        note(ix, "the timestamps cannot be used: frames are counted as they are decoded");
    if (packets->joined || packets->filled || packets->moved)
        note(ix, "timestamps: %u times set back and joined, %u made up, %u doubles moved on by a tick", packets->joined, packets->filled,
             packets->moved);
}

/* --- the block --- */

/* Begins and ends at a multiple of 8: in the body of a request other things stand behind the index. */
static void append_table(sp_buf *block, uint64_t *ret_offset, const void *items, size_t size_bytes)
{
    static const uint8_t zeros[8];
    *ret_offset = block->size_bytes;
    sp_buf_append(block, items, size_bytes);
    sp_buf_append(block, zeros, SP_ALIGN_UP(block->size_bytes, (size_t)8) - block->size_bytes);
}

static sp_status write_block(indexer *ix, sp_buf *ret_block, sp_error *reterr)
{
    const sp_video_packets *packets = &ix->packets;
    sp_video_index *head = &ix->head;
    size_t room = packets->frame_count;
    sp_video_run *runs = calloc(room / SP_VIDEO_RUN_FRAMES + 1, sizeof(*runs));
    uint32_t *numbers = malloc(packets->count * sizeof(*numbers));
    sp_video_segment *segments = NULL;
    if (runs) {
        head->run_count = sp_video_packets_runs(packets, runs);
        segments = calloc(room / (SP_VIDEO_SEGMENT_FRAMES / 2) + head->run_count + 1, sizeof(*segments));
    }
    bool good = runs && numbers && segments;
    if (good) {
        head->segment_count = sp_video_runs_segments(runs, head->run_count, segments);
        head->packet_count = packets->count;
        for (uint64_t i = 0; i < packets->count; i++)
            numbers[i] = packets->items[i].number;
        sp_buf_clear(ret_block);
        _Static_assert(sizeof(*head) % 8 == 0, "tables begin at a multiple of 8");
        sp_buf_append(ret_block, head, sizeof(*head));
        append_table(ret_block, &head->runs_offset, runs, head->run_count * sizeof(*runs));
        append_table(ret_block, &head->segments_offset, segments, head->segment_count * sizeof(*segments));
        append_table(ret_block, &head->pts_offset, packets->pts, packets->frame_count * sizeof(*packets->pts));
        append_table(ret_block, &head->packets_offset, numbers, packets->count * sizeof(*numbers));
        head->index_bytes = (uint32_t)ret_block->size_bytes;
    }
    free(runs);
    free(segments);
    free(numbers);
    if (!good)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for the index");
    if (!sp_buf_ok(ret_block))
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "video_frames", "the index of the video is larger than %zu bytes; send a shorter one",
                            ret_block->limit_bytes);
    memcpy(ret_block->data, head, sizeof(*head));
    return SP_OK;
}

static sp_status build(indexer *ix, sp_buf *ret_block, sp_error *reterr)
{
    first_look look;
    sp_status s = sp_video_input_open(&ix->input, &ix->source, ix->limits.max_pixels, reterr);
    if (!s)
        s = read_packets(ix, reterr);
    if (s)
        return s;
    find_begin(ix);
    s = order(ix, reterr);
    if (!s)
        s = look_first(ix, &look, reterr);
    if (!s)
        s = set_geometry(ix, &look, reterr);
    if (!s)
        s = drop_leading(ix, &look, reterr);
    if (!s)
        s = set_times(ix, reterr);
    if (!s)
        s = hash_file(&ix->source, ix->head.sha256, reterr);
    if (s)
        return s;
    ix->head.abi = SP_VIDEO_INDEX_ABI;
    ix->head.file_bytes = ix->source.size_bytes;
    ix->head.stream = (uint32_t)ix->input.stream->index;
    (void)snprintf(ix->head.format, sizeof(ix->head.format), "%s", ix->input.format->iformat->name);
    (void)snprintf(ix->head.codec, sizeof(ix->head.codec), "%s", avcodec_get_name(ix->input.stream->codecpar->codec_id));
    set_notes(ix);
    return write_block(ix, ret_block, reterr);
}

sp_status sp_video_index_make(const sp_video_source *source, const sp_video_limits *limits, sp_buf *ret_block, sp_error *reterr)
{
    indexer ix = { .source = *source, .limits = with_defaults(limits) };
    if (source->size_bytes > ix.limits.max_bytes)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "video_bytes", "the video has %llu bytes, the limit is %llu; send a smaller one",
                            (unsigned long long)source->size_bytes, (unsigned long long)ix.limits.max_bytes);
    if (!source->size_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_format", "the file is empty; send a video");
    sp_status s = build(&ix, ret_block, reterr);
    sp_video_packets_done(&ix.packets);
    sp_video_input_done(&ix.input);
    return s;
}
